//! The memory that a case receives into. A case that is about several kinds of memory runs once for
//! each: it asks here for the options of its receivers and for memory of its own.

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

/// A device with dumb buffers, and the module that makes it where there is no such hardware.
const DRM_NODE: &str = "/dev/dri/card0";
const DRM_MODULE: &str = "vgem";

/// A kind of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// What the tools take if nothing is said.
    Udmabuf,
    /// The system heap.
    Heap,
    /// An fd, open when the receiver starts; it is the system heap's.
    Fd,
    /// Passed by the runner over a Unix socket; it is a udmabuf.
    Socket,
    /// A dumb buffer.
    Drm,
}

impl Kind {
    /// Behind the names of cases that run once for each.
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

/// That of this process's case.
static CHOSEN: OnceLock<Kind> = OnceLock::new();

/// What is open for the receiver that is started next.
static LENT: Mutex<Option<AnyMemory>> = Mutex::new(None);

/// Chooses it for the case that this process runs.
pub fn choose(kind: Kind) {
    let _once = CHOSEN.set(kind);
}

fn chosen() -> Kind {
    CHOSEN.get().copied().unwrap_or(Kind::Udmabuf)
}

/// `--memory` for a receiver with memory of this size, or a dmabuf of it for each queue.
pub(crate) fn of_receiver(size: Option<&str>, dmabuf_per_queue: bool) -> Result<String> {
    if chosen() == Kind::Fd && dmabuf_per_queue {
        return Err(Skip("an fd is one dmabuf".into()).into());
    }
    option(size.map_or(Ok(DEFAULT_LEN), bytes)?)
}

/// A command line of `devmem-tcp recv`, with the memory.
pub fn recv_line(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let size = words.find(|word| *word == "--size").and(words.next());
    let memory = of_receiver(size, line.contains("--dmabuf-per-queue"))?;
    Ok(format!("{line} {memory}"))
}

/// `16M` and the like.
fn bytes(text: &str) -> Result<u64> {
    let (number, unit) = text.split_at(text.len() - 1);
    let unit = match unit {
        "K" => 10,
        "M" => 20,
        _ => anyhow::bail!("{text:?} has no unit, K or M"),
    };
    Ok(number.parse::<u64>()? << unit)
}

/// What a line of `devmem-tcp recv` says so that its memory is in pieces of 64 KiB at least: that of
/// other kinds has the pieces that it has.
pub fn pages_of_64_kib() -> Result<&'static str> {
    match chosen() {
        Kind::Udmabuf => Ok("--pages 2M"),
        Kind::Drm => Err(Skip(format!("{DRM_MODULE}'s memory is in pages of 4 KiB")).into()),
        _ => Ok(""),
    }
}

/// `--memory` for a receiver that is started next and takes so many bytes; nothing for what it
/// takes anyway.
pub fn option(len: u64) -> Result<String> {
    Ok(match chosen() {
        Kind::Udmabuf => String::new(),
        _ => format!("--memory {}", choice(len)?),
    })
}

/// So many bytes for this process itself.
pub fn make(len: u64) -> Result<AnyMemory> {
    Ok(AnyMemory::make(&choice(len)?, Some(len), None)?)
}

fn choice(len: u64) -> Result<Choice> {
    Ok(match chosen() {
        Kind::Udmabuf => Choice::Udmabuf,
        Kind::Heap => heap()?,
        Kind::Fd => lend(AnyMemory::make(&heap()?, Some(len), None)?)?,
        Kind::Socket => pass(len)?,
        Kind::Drm => {
            drm_device()?;
            format!("drm:{DRM_NODE}").parse()?
        }
    })
}

fn heap() -> Result<Choice> {
    Ok("heap:system".parse()?)
}

/// Leaves it open in the processes that this one starts, until the next is lent.
fn lend(memory: AnyMemory) -> Result<Choice> {
    fcntl(memory.as_fd(), FcntlArg::F_SETFD(FdFlag::empty())).context("FD_CLOEXEC")?;
    let number = memory.as_fd().as_raw_fd();
    *LENT.lock().unwrap_or_else(PoisonError::into_inner) = Some(memory);
    Ok(format!("fd:{number}").parse()?)
}

/// Passes memory of so many bytes, another one each time, to who connects.
fn pass(len: u64) -> Result<Choice> {
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
