//! Network namespaces and the software NIC's module, by system calls: starting a command for each step
//! takes most of a second in an emulated guest.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Directory of the named network namespaces (`ip-netns(8)`).
const NAMED: &str = "/run/netns";

/// Directory in memory for the programs that cases start again and again.
const STAGE: &str = "/tmp/stage";

const NONE: Option<&Path> = None;

/// Copies the runner, the programs beside it, the NIC module and the fake GPU driver to memory:
/// starting a program from a directory that the host shares takes twice as long.
pub fn stage() -> Result<PathBuf> {
    let program = std::env::current_exe().context("own path")?;
    let (Some(from), Some(name)) = (program.parent(), program.file_name()) else {
        return Ok(program);
    };
    if from.starts_with(STAGE) {
        return Ok(program);
    }
    let bin = Path::new(STAGE).join("bin");
    fs::create_dir_all(&bin).context(STAGE)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            copy(&entry.path(), &bin)?;
        }
    }
    if let Some(above) = from.parent() {
        copy(&above.join("swnic.ko"), Path::new(STAGE))?;
        let fake = Path::new(STAGE).join("fake");
        fs::create_dir_all(&fake)?;
        for file in ["devmem-tcp", "collective", "libcuda.so.1"] {
            copy(&above.join("fake").join(file), &fake)?;
        }
    }
    Ok(bin.join(name))
}

/// Copies a file into a directory, if the file exists.
fn copy(from: &Path, folder: &Path) -> Result<()> {
    let Some(name) = from.file_name().filter(|_| from.exists()) else {
        return Ok(());
    };
    let copied = fs::copy(from, folder.join(name));
    copied.with_context(|| format!("copying {}", from.display()))?;
    Ok(())
}

/// Makes a named network namespace: `ip netns add NAME`.
pub fn add_namespace(name: &str) -> Result<()> {
    share_names().context(NAMED)?;
    let path = Path::new(NAMED).join(name);
    File::create_new(&path).with_context(|| format!("{}", path.display()))?;
    // In a thread of its own, which alone changes its namespace, and ends.
    let made = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let own = Path::new("/proc/thread-self/ns/net");
        mount(Some(own), &path, NONE, MsFlags::MS_BIND, NONE)
    });
    let made = made.join().map_err(|_| anyhow!("the thread panicked"))?;
    made.with_context(|| format!("namespace {name}"))
}

/// Makes `/run/netns` a shared mount, so that an unmount reaches the mount namespaces of `ip netns
/// exec`, and no namespace lives on there.
fn share_names() -> Result<()> {
    fs::create_dir_all(NAMED)?;
    let share = MsFlags::MS_SHARED | MsFlags::MS_REC;
    match mount(NONE, NAMED, NONE, share, NONE) {
        // Not a mount yet.
        Err(Errno::EINVAL) => {}
        other => return Ok(other?),
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(NAMED), NAMED, NONE, bind, NONE)?;
    Ok(mount(NONE, NAMED, NONE, share, NONE)?)
}

/// Deletes a named network namespace, if it exists: `ip netns delete NAME`.
pub fn delete_namespace(name: &str) -> Result<()> {
    let path: PathBuf = Path::new(NAMED).join(name);
    if !path.exists() {
        return Ok(());
    }
    match umount2(&path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(Errno::EINVAL) => {} // EINVAL: made, but not mounted
        Err(errno) => return Err(errno).with_context(|| format!("namespace {name}")),
    }
    Ok(fs::remove_file(&path)?)
}

/// Loads a kernel module: `insmod PATH PARAMETERS`.
pub fn load(path: &Path, parameters: &str) -> Result<()> {
    let file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let parameters = std::ffi::CString::new(parameters)?;
    let loaded = finit_module(file, &parameters, ModuleInitFlags::empty());
    loaded.with_context(|| format!("insmod {}", path.display()))
}

/// Unloads the software NIC: `rmmod swnic`.
pub fn unload() -> Result<()> {
    delete_module(c"swnic", DeleteModuleFlags::O_NONBLOCK).context("rmmod swnic")
}
