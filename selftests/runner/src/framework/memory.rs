//! The memory that a case receives into. A case about several kinds of memory runs once for each:
//! this module gives its receivers' options, and memory for the case itself.

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};
use memory::{AnyMemory, Choice, DEFAULT_LEN, passed};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::Skip;
use crate::tool::sh;

/// DRM device with dumb buffers, which a kernel module makes where no hardware has one.
const DRM_NODE: &str = "/dev/dri/card0";
const DRM_MODULE: &str = "vgem";

/// Kind of device memory that receivers of a case use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The tools' default.
    Udmabuf,
    /// The system heap.
    Heap,
    /// A dmabuf of the system heap, by an fd that is open when the receiver starts.
    Fd,
    /// A udmabuf that the case passes over a Unix socket.
    Socket,
    /// A dumb buffer of a DRM device.
    Drm,
}

impl Kind {
    /// Name of the kind, as in the names of cases that run once for each kind.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Udmabuf => "udmabuf",
            Kind::Heap => "heap",
            Kind::Fd => "fd",
            Kind::Socket => "socket",
            Kind::Drm => "drm",
        }
    }
}

/// Kind of memory that this process's case runs with.
static CHOSEN: OnceLock<Kind> = OnceLock::new();

/// The dmabuf whose fd the next receiver is to inherit.
static LENT: Mutex<Option<AnyMemory>> = Mutex::new(None);

/// Sets the kind of memory of this process's case.
pub fn choose(kind: Kind) {
    let _once = CHOSEN.set(kind);
}

fn chosen() -> Kind {
    CHOSEN.get().copied().unwrap_or(Kind::Udmabuf)
}

/// Returns the receiver's `--memory` option; skips the case if an fd, which is one dmabuf, would
/// have to be one for each queue.
pub(crate) fn of_receiver(size: Option<&str>, dmabuf_per_queue: bool) -> Result<String> {
    if chosen() == Kind::Fd && dmabuf_per_queue {
        return Err(Skip("an fd is one dmabuf".into()).into());
    }
    option(size.map_or(Ok(DEFAULT_LEN), parse_size)?)
}

/// Appends the `--memory` option to a command line of `devmem-tcp recv`.
pub fn recv_line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let size = words.find(|word| *word == "--size").and(words.next());
    let memory = of_receiver(size, line.contains("--dmabuf-per-queue"))?;
    Ok(format!("{line} {memory}"))
}

/// Parses a size such as `16M`.
fn parse_size(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "K" => 10,
        "M" => 20,
        _ => anyhow::bail!("{text:?} has no unit, K or M"),
    };
    Ok(number.parse::<u64>()? << unit)
}

/// Returns options that make a udmabuf of pieces of at least 64 KiB; other kinds of memory have
/// pieces that can't be chosen.
pub fn pages_of_64_kib() -> Result<&'static str> {
    match chosen() {
        Kind::Udmabuf => Ok("--pages 2M"),
        Kind::Drm => Err(Skip(format!("{DRM_MODULE}'s memory is in pages of 4 KiB")).into()),
        _ => Ok(""),
    }
}

/// Returns the `--memory` option for a receiver's `len` bytes; empty for the default kind.
pub fn option(len: u64) -> Result<String> {
    Ok(match chosen() {
        Kind::Udmabuf => String::new(),
        _ => format!("--memory {}", make_choice(len)?),
    })
}

/// Allocates memory of `len` bytes for this process.
pub fn make(len: u64) -> Result<AnyMemory> {
    Ok(AnyMemory::make(&make_choice(len)?, Some(len), None)?)
}

fn make_choice(len: u64) -> Result<Choice> {
    Ok(match chosen() {
        Kind::Udmabuf => Choice::Udmabuf,
        Kind::Heap => heap()?,
        Kind::Fd => lend_fd(AnyMemory::make(&heap()?, Some(len), None)?)?,
        Kind::Socket => pass_over_socket(len)?,
        Kind::Drm => {
            drm_device()?;
            format!("drm:{DRM_NODE}").parse()?
        }
    })
}

fn heap() -> Result<Choice> {
    Ok("heap:system".parse()?)
}

/// Lets the programs that this process starts inherit the dmabuf's fd, until the next one replaces
/// it.
fn lend_fd(memory: AnyMemory) -> Result<Choice> {
    fcntl(memory.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).context("FD_CLOEXEC")?;
    let number = memory.as_fd().as_raw_fd();
    *LENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
    Ok(format!("fd:{number}").parse()?)
}

/// Starts a helper that passes new memory of `len` bytes to each process that connects to its
/// socket.
fn pass_over_socket(len: u64) -> Result<Choice> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = format!("/tmp/memory.{}.{number}", std::process::id());
    let listener = UnixListener::bind(&path).with_context(|| path.clone())?;
    // It ends with the case's process.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let passed = AnyMemory::make(&Choice::Udmabuf, Some(len), None)
                .map_err(anyhow::Error::from)
                .and_then(|memory| Ok(passed::pass(&stream?, &memory)?));
            if let Err(error) = passed {
                eprintln!("passing memory: {error:#}");
            }
        }
    });
    Ok(format!("socket:{path}").parse()?)
}

fn drm_device() -> Result<()> {
    if !Path::new(DRM_NODE).exists() {
        if let Err(error) = sh(&format!("modprobe {DRM_MODULE}")) {
            return Err(Skip(format!("{error:#}").replace('\n', " ")).into());
        }
    }
    ensure!(Path::new(DRM_NODE).exists(), "no {DRM_NODE}");
    Ok(())
}
