//! Buffers made by the kernel's `/dev/udmabuf` through the `udmabuf` crate.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use dmabuf::{Access, Dmabuf, DmabufFd, Protection};
use udmabuf::{Error, HugePage, Udmabuf};

use framework::println_line;
use framework::sysctl;

const MIB: u64 = 1 << 20;

case!(bytes_survive);
/// Writes a udmabuf through one mapping, and reads the bytes through a mapping of another fd after
/// the first fd was closed.
fn bytes_survive() -> Result<()> {
    let memory = Udmabuf::builder(MIB).build()?;
    ensure!(memory.len() == MIB, "{} bytes", memory.len());
    let writer = memory.map(Protection::ReadWrite)?;
    let mut access = writer.begin_access(Access::Write)?;
    access.copy_from(12_345, b"device memory")?;
    access.end()?;
    let clone: OwnedFd = memory.as_fd().try_clone_to_owned()?;
    drop(memory);
    let reader = DmabufFd::new(clone)?.map(Protection::Read)?;
    let access = reader.begin_access(Access::Read)?;
    ensure!(access.equals(12_345, b"device memory")?, "other bytes");
    ensure!(access.equals(0, &[0; 4096])?, "not zeros before");
    ensure!(!access.equals(12_345, b"device memorx")?, "anything equals");
    access.end()?;
    Ok(())
}

case!(over_the_limit);
/// Builds a udmabuf one page over the size limit. The error must name the limit, and its remedy
/// must help.
fn over_the_limit() -> Result<()> {
    let limited = sysctl::set_parameter("udmabuf", "size_limit_mb", "8")?;
    Udmabuf::builder(8 * MIB).build().context("at the limit")?;
    let remedy = match Udmabuf::builder(8 * MIB + 4096).build() {
        Err(error @ Error::TooLarge { limit_mb: 8, .. }) => {
            common::remedy::of_udmabuf(&error).context("no remedy")?
        }
        other => bail!("{other:?}"),
    };
    println_line(&remedy);
    ensure!(
        remedy.ends_with("echo 9 > /sys/module/udmabuf/parameters/size_limit_mb"),
        "{remedy}"
    );
    drop(limited);
    let _raised = sysctl::set_parameter("udmabuf", "size_limit_mb", "9")?;
    Udmabuf::builder(8 * MIB + 4096).build()?;
    Ok(())
}

case!(hugepages);
/// Builds a udmabuf of reserved hugepages. It must succeed if there are enough; else the error must
/// say that hugepages lack.
fn hugepages() -> Result<()> {
    let build = || Udmabuf::builder(4 * MIB).hugepages(HugePage::Mb2).build();
    let lack = || match build() {
        Err(error @ Error::Memory { .. }) => {
            let remedy = common::remedy::of_udmabuf(&error).context("no remedy")?;
            println_line(&format!("{error}: {remedy}"));
            ensure!(remedy.contains("hugepages"), "{remedy}");
            Ok(())
        }
        other => bail!("{other:?}"),
    };
    let reserved = sysctl::set("vm.nr_hugepages", "2")?;
    let memory = build()?;
    ensure!(memory.len() == 4 * MIB, "{} bytes", memory.len());
    let mapping = memory.map(Protection::ReadWrite)?;
    let mut access = mapping.begin_access(Access::ReadWrite)?;
    access.copy_from(4 * MIB - 3, b"end")?;
    ensure!(access.equals(4 * MIB - 3, b"end")?, "other bytes");
    access.end()?;
    // Both are in use now.
    lack()?;
    drop((mapping, memory, reserved));
    lack()
}
