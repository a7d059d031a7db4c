//! Kinds of memory that the tools can use or not, and which process holds the memory during a run
//! and after.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use ::memory::{AnyMemory, passed};
use anyhow::{Context, Result, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::Signal;

use crate::cases::tools::tool_errors::complains;
use framework::command_line::Sender;
use framework::doctor::Report;
use framework::nic_state;
use framework::peers::free_deferred;
use framework::receiver::bound_queues;
use framework::testbed::{self, NIC, NIC_ADDRESS, PEER, SENDER};
use framework::tool::{Running, command, finish, sh, until};
use framework::transfer::devmem_tcp;
use framework::{Skip, println_line};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

fn tool(line: &str) -> Command {
    command(None, &devmem_tcp(), line)
}

/// The command of `devmem-tcp recv` with the given `--memory`.
fn recv(memory: &str) -> Command {
    tool(&format!(
        "recv -f {NIC} -l {NIC_ADDRESS}:5000 --memory {memory}"
    ))
}

/// Allocates a dmabuf of `len` bytes from the system heap.
fn allocate_from_heap(len: u64) -> Result<AnyMemory> {
    Ok(AnyMemory::make(&"heap:system".parse()?, Some(len), None)?)
}

/// Clears `FD_CLOEXEC`, so that programs started by this process inherit the fd. Returns the fd's
/// number.
fn clear_cloexec(fd: impl AsFd) -> Result<i32> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).context("FD_CLOEXEC")?;
    Ok(fd.as_fd().as_raw_fd())
}

case!(words_that_choose_none);
fn words_that_choose_none() -> Result<()> {
    for word in [
        "gpu",
        "heap",
        "heap:",
        "heap:..",
        "heap:../udmabuf",
        "heap:a/b",
        "drm:card0",
        "cuda:x",
        "cuda:-1",
        "cuda:pcie",
        "fd:",
        "fd:-1",
        "fd:+3",
        "fd:99999999999",
        "socket:",
        "socket:@",
    ] {
        let line = format!("recv -f lo -l 127.0.0.1:5000 --memory {word}");
        let complaint = finish(tool(&line))?.refused(2)?;
        println_line(complaint.lines().next().unwrap_or_default());
        ensure!(complaint.contains("--memory"), "{complaint}");
    }
    for line in ["send 127.0.0.1:5000 --dev lo --dmabuf", "doctor lo"] {
        let line = format!("{line} --memory heap:a/b");
        let complaint = finish(tool(&line))?.refused(2)?;
        ensure!(complaint.contains("--memory"), "{complaint}");
    }
    finish(tool("send 127.0.0.1:5000 --memory heap:system"))?
        .refused(2)
        .map(drop)
}

case!(heaps_that_give_none);
fn heaps_that_give_none() -> Result<()> {
    testbed::wire()?;
    complains(
        recv("heap:nowhere"),
        &["/dev/dma_heap/nowhere", "heap:system"],
    )?;
    complains(
        recv("heap:system --size 5000"),
        &["heap:system", "page", "8192"],
    )?;
    complains(recv("heap:system --size 0"), &["heap:system", "0 bytes"])?;
    complains(
        recv("heap:system --size 900G"),
        &["heap:system", "available"],
    )?;
    complains(
        recv("heap:system --pages 2M"),
        &["heap:system", "udmabuf only"],
    )?;
    let mut hidden = Command::new("unshare");
    let line = format!(
        "mount -t tmpfs none /dev && exec {} recv -f {NIC} -l {NIC_ADDRESS}:5000 --memory heap:system",
        devmem_tcp().display()
    );
    hidden.args(["--mount", "sh", "-c", &line]);
    complains(hidden, &["/dev/dma_heap/system", "no heap is here"])?;
    nic_state::check_untouched()
}

case!(fds_that_are_none);
fn fds_that_are_none() -> Result<()> {
    testbed::wire()?;
    complains(
        recv("fd:987"),
        &["fd:987", "Bad file descriptor", "FD_CLOEXEC"],
    )?;
    let null = File::open("/dev/null")?;
    let number = clear_cloexec(&null)?;
    complains(
        recv(&format!("fd:{number}")),
        &["not a dmabuf, but /dev/null"],
    )?;
    let name = c"what-a-udmabuf-is-made-of";
    let memfd = nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::empty())?;
    let number = clear_cloexec(&memfd)?;
    complains(
        recv(&format!("fd:{number}")),
        &["not a dmabuf", "memfd:", "not its memfd"],
    )?;
    let small = allocate_from_heap(MIB)?;
    let number = clear_cloexec(&small)?;
    complains(
        recv(&format!("fd:{number} --size 2M")),
        &["1048576 bytes", "2097152 are wanted"],
    )?;
    let line = format!("fd:{number} --dmabuf-per-queue --queue 2 --queue 3");
    complains(recv(&line), &["one dmabuf, of 2 needed", "socket:PATH"])?;
    nic_state::check_untouched()
}

/// Starts a helper that serves each connection to a Unix socket until the case ends. Returns the
/// `--memory` option for the socket.
fn start_helper(
    name: &str,
    serve: impl Fn(UnixStream) -> Result<()> + Send + 'static,
) -> Result<String> {
    let path = format!("/tmp/{name}.{}", std::process::id());
    let listener = UnixListener::bind(&path)?;
    thread::spawn(move || {
        for stream in listener.incoming() {
            if let Err(error) = stream.map_err(Into::into).and_then(&serve) {
                eprintln!("helper: {error:#}");
            }
        }
    });
    Ok(format!("socket:{path}"))
}

case!(helpers_that_pass_none);
fn helpers_that_pass_none() -> Result<()> {
    testbed::wire()?;
    complains(
        recv("socket:/tmp/nowhere"),
        &["/tmp/nowhere", "start the helper first"],
    )?;
    complains(
        recv("socket:@nowhere"),
        &["@nowhere", "start the helper first"],
    )?;
    complains(
        recv("socket:/dev/null"),
        &["/dev/null", "start the helper first"],
    )?;
    let _datagrams = UnixDatagram::bind("/tmp/datagrams")?;
    complains(recv("socket:/tmp/datagrams"), &["SOCK_STREAM"])?;
    let goes = start_helper("goes", |_| Ok(()))?;
    complains(recv(&goes), &["0 fds were passed", "SCM_RIGHTS"])?;
    let other = start_helper("other", |stream| {
        Ok(passed::pass(&stream, File::open("/dev/zero")?)?)
    })?;
    complains(recv(&other), &["not a dmabuf, but /dev/zero"])?;
    let small = start_helper("small", |stream| {
        Ok(passed::pass(&stream, allocate_from_heap(MIB)?)?)
    })?;
    complains(recv(&format!("{small} --size 2M")), &["2097152 are wanted"])?;
    let memory = allocate_from_heap(MIB)?;
    let same = start_helper("same", move |stream| Ok(passed::pass(&stream, &memory)?))?;
    let line = format!("{same} --dmabuf-per-queue --queue 2 --queue 3");
    complains(recv(&line), &["the same dmabuf was passed twice"])?;
    nic_state::check_untouched()
}

/// Returns the DRM device of the kernel module `vgem`, which needs no hardware; skips the case
/// where the kernel lacks the module.
fn drm_card() -> Result<&'static str> {
    let card = "/dev/dri/card0";
    if !Path::new(card).exists() {
        if let Err(error) = sh("modprobe vgem") {
            return Err(Skip(format!("{error:#}").replace('\n', " ")).into());
        }
    }
    Ok(card)
}

case!(drm_devices_that_give_none, on drm);
fn drm_devices_that_give_none() -> Result<()> {
    let card = drm_card()?;
    testbed::wire()?;
    let names =
        fs::read_dir("/dev/dri")?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let render = names.into_iter().find(|name| name.starts_with("renderD"));
    let render = render.context("no render node")?;
    complains(
        recv(&format!("drm:/dev/dri/{render}")),
        &[&render, "render node", &format!("drm:{card}")],
    )?;
    complains(
        recv("drm:/dev/dri/card77"),
        &["card77", &format!("drm:{card}")],
    )?;
    complains(
        recv("drm:/dev/null"),
        &["DRM_IOCTL_MODE_CREATE_DUMB", "/dev/null"],
    )?;
    complains(recv(&format!("drm:{card} --size 5000")), &["page", "8192"])?;
    complains(recv(&format!("drm:{card} --size 4G")), &["4 GiB"])?;
    nic_state::check_untouched()
}

/// Returns a `--memory` option for each kind of memory that this machine has, of `len` bytes.
fn memory_options(len: u64) -> Result<Vec<String>> {
    let mib = len / MIB;
    let mut all = vec![
        format!("udmabuf --size {mib}M"),
        format!("heap:system --size {mib}M"),
        start_helper("passes", move |stream| {
            Ok(passed::pass(&stream, allocate_from_heap(len)?)?)
        })?,
    ];
    match drm_card() {
        Ok(card) => all.push(format!("drm:{card} --size {mib}M")),
        Err(error) => println_line(&format!("without DRM: {error:#}")),
    }
    Ok(all)
}

/// Reads the total size in bytes of all dmabufs on this machine.
fn dmabuf_bytes() -> Result<u64> {
    let text = fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo").context("bufinfo")?;
    let total = text.lines().find(|line| line.contains(" objects, "));
    let bytes = total.and_then(|line| line.split_whitespace().nth(3));
    Ok(bytes
        .with_context(|| format!("no total in {text}"))?
        .parse()?)
}

/// Starts a receiver with the given `--memory`, and waits until its queue is bound.
fn start_bound_receiver(memory: &str) -> Result<Running> {
    let running = Running::start(recv(memory))?;
    until("a binding", SOON, || Ok(bound_queues()? == 1))?;
    Ok(running)
}

/// Waits until no dmabuf and no binding is left.
fn wait_until_freed() -> Result<()> {
    until("memory to be free", SOON, || {
        free_deferred()?;
        Ok(dmabuf_bytes()? == 0 && bound_queues()? == 0)
    })
}

case!(freed_at_the_end, on drm_too);
/// Ends receivers normally, by SIGTERM and by SIGKILL, with each kind of memory. The memory must be
/// freed each time.
fn freed_at_the_end() -> Result<()> {
    testbed::wire()?;
    wait_until_freed()?;
    for memory in memory_options(16 * MIB)? {
        for signal in [None, Some(Signal::SIGTERM), Some(Signal::SIGKILL)] {
            let receiver = start_bound_receiver(&memory)?;
            let bytes = dmabuf_bytes()?;
            ensure!(bytes == 16 * MIB, "{memory}: {bytes} bytes of dmabufs");
            match signal {
                None => Sender::to(testbed::at(5000)).bytes("1M").run()?,
                Some(signal) => receiver.signal(signal)?,
            }
            receiver.end_within(SOON)?;
            wait_until_freed().with_context(|| memory.clone())?;
        }
        println_line(&memory);
    }
    Ok(())
}

/// Lists the open fds of a process: the number, what it is, and whether programs that the process
/// starts inherit it.
fn open_fds(pid: u32) -> Result<Vec<(String, String, bool)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let number = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        // It may be closed meanwhile.
        let (Ok(what), Ok(info)) = (
            fs::read_link(&path),
            fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")),
        ) else {
            continue;
        };
        let what = what.to_string_lossy().into_owned();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = u32::from_str_radix(flags.context("no flags")?.trim(), 8)?;
        all.push((number, what, flags & 0o2_000_000 == 0));
    }
    Ok(all)
}

case!(not_for_other_programs, on drm_too);
/// Runs receivers with each kind of memory. They must close the device that the memory came from,
/// and neither the guardian nor another program may inherit the memory.
fn not_for_other_programs() -> Result<()> {
    testbed::wire()?;
    let lent = allocate_from_heap(16 * MIB)?;
    let mut all = memory_options(16 * MIB)?;
    let inherited = format!("fd:{}", lent.as_fd().as_raw_fd());
    all.push(inherited.clone());
    for memory in all {
        if memory == inherited {
            clear_cloexec(&lent)?;
        }
        let receiver = start_bound_receiver(&memory)?;
        let open = open_fds(receiver.id())?;
        let is_dmabuf = |what: &str| what.starts_with("/dmabuf");
        let dmabufs = open.iter().filter(|(_, what, _)| is_dmabuf(what)).count();
        ensure!(dmabufs > 0, "{memory}: no dmabuf is open: {open:?}");
        for (number, what, inherited) in &open {
            let device = what.starts_with("/dev/dri") || what.starts_with("/dev/dma_heap");
            ensure!(!device, "{memory}: {what} is still open");
            ensure!(
                !(is_dmabuf(what) && *inherited),
                "{memory}: fd {number} is inherited"
            );
        }
        let guardian = open_fds(nic_state::guardian()?.unsigned_abs())?;
        let has = guardian.iter().any(|(_, what, _)| is_dmabuf(what));
        ensure!(!has, "{memory}: the guardian has memory: {guardian:?}");
        receiver.signal(Signal::SIGTERM)?;
        receiver.end_within(SOON)?;
        until("the queue to be free", SOON, || Ok(bound_queues()? == 0))?;
    }
    Ok(())
}

case!(sent_from_each_kind, on drm_too);
/// Sends from memory of each kind. The receiver must get the right bytes, and the kernel must not
/// have copied any.
fn sent_from_each_kind() -> Result<()> {
    testbed::wire()?;
    for memory in memory_options(4 * MIB)? {
        let (memory, size) = memory
            .split_once(" --size ")
            .unwrap_or((memory.as_str(), "4M"));
        let to = format!("{NIC_ADDRESS}:5000");
        let receiver = Running::start(tool(&format!("recv -f {NIC} -l {to} --validate 251")))?;
        let line = format!(
            "send {to} --wait 20 --bytes 3M --pattern 251 --dev {SENDER} --dmabuf={size} --memory {memory}"
        );
        let said = finish(command(Some(PEER), &devmem_tcp(), &line))?.good(&line)?;
        println_line(said.trim_end());
        ensure!(said.contains(" 0 copied"), "{said}");
        receiver.end_within(SOON)?.good("recv")?;
    }
    let line = format!("send {NIC_ADDRESS}:5000 --dev {NIC} --dmabuf --memory cuda");
    complains(tool(&line), &["cuda:0", "the CPU"])?;
    let line = format!("send {NIC_ADDRESS}:5000 --dev {NIC} --dmabuf --memory heap:nowhere");
    complains(tool(&line), &["/dev/dma_heap/nowhere", "heap:system"])
}

case!(doctor_asks_for_it);
/// Runs `doctor` with different `--memory` options. It must check the memory asked for, and say
/// which memory there is.
fn doctor_asks_for_it() -> Result<()> {
    testbed::wire()?;
    let report = Report::of(&format!("{NIC} --memory heap:system"))?;
    ensure!(report.failed().is_empty(), "{}", report.complaints());
    ensure!(report.status("memory.chosen") == "ok", "not connected to");
    let heaps = report.check("memory.heaps").context("no memory.heaps")?;
    ensure!(heaps["found"] == "system", "{heaps}");
    ensure!(
        report.check("udmabuf.device").is_none(),
        "asked for udmabuf"
    );
    let lent = allocate_from_heap(MIB)?;
    let fd = clear_cloexec(&lent)?;
    let helper = format!("/tmp/offers.{}", std::process::id());
    let _listener = UnixListener::bind(&helper)?;
    for (memory, status, words) in [
        ("heap:nowhere".to_owned(), "fail", "/dev/dma_heap/nowhere"),
        (
            "heap:system --pages 2M".to_owned(),
            "fail",
            "for udmabuf only",
        ),
        (
            "heap:system --size 5000".to_owned(),
            "fail",
            "not a multiple",
        ),
        ("udmabuf --size 0".to_owned(), "fail", "0 bytes"),
        (format!("fd:{fd}"), "ok", "large enough"),
        (format!("fd:{fd} --size 4M"), "fail", "4194304 are wanted"),
        (
            "socket:/tmp/nowhere".to_owned(),
            "fail",
            "connect to Unix socket",
        ),
        (format!("socket:{helper}"), "ok", "not connected to"),
        (
            "drm:/dev/null".to_owned(),
            "fail",
            "DRM_IOCTL_MODE_CREATE_DUMB",
        ),
    ] {
        let report = Report::of(&format!("{NIC} --memory {memory}"))?;
        let check = report.check("memory.chosen").context("no memory.chosen")?;
        println_line(&check.to_string());
        ensure!(
            report.status("memory.chosen") == status,
            "{memory}: {check}"
        );
        let found = check["found"].as_str().unwrap_or_default();
        ensure!(found.contains(words), "{memory}: {found}");
        ensure!(
            (report.code == Some(0)) == (status == "ok"),
            "{:?}",
            report.code
        );
    }
    Ok(())
}
