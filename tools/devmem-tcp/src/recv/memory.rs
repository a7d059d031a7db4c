//! Memory that a receiver binds: dmabufs made by `--memory`, `--size` and `--pages`.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use ::memory::{AnyMemory, Choice};
use anyhow::{Context, Error, Result};
use dmabuf::Dmabuf;
use udmabuf::HugePage;

use crate::args::{Pages, Size};
use crate::privilege;
use crate::remedy::Hint;
use crate::room;

/// Number of niovs that a connection needs for a first window of small segments. The NIC's rings
/// need as many again.
const NIOVS_EACH: u64 = 16;

#[derive(clap::Args)]
pub(super) struct MemoryArgs {
    /// What is received into: udmabuf, heap:NAME, drm:/dev/dri/cardN, cuda:N, cuda:N:pcie,
    /// fd:N, or socket:PATH to connect to and be passed an fd
    #[arg(long, value_name = "MEMORY", default_value_t)]
    pub(super) memory: Choice,
    /// Size of the dmabuf, in K, M or G of powers of 1,024 [default: 64M]; of one that is passed (fd,
    /// socket), what it must have at least: all of it is used
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,
    /// Pages that a udmabuf is made of
    #[arg(long, value_enum, default_value_t = Pages::Auto)]
    pages: Pages,
}

impl MemoryArgs {
    /// Makes `count` dmabufs, and warns if they are small for this number of connections.
    pub(super) fn make(&self, count: usize, connections: u32, niov: u64) -> Result<Vec<AnyMemory>> {
        if count > 1 && matches!(self.memory, Choice::Fd(_)) {
            return Err(Hint::new(
                format!(
                    "recv --memory {}: one dmabuf, of {count} needed",
                    self.memory
                ),
                "leave --dmabuf-per-queue away, or have them passed: --memory socket:PATH",
            )
            .into());
        }
        let (len, pages) = (self.size.map(|size| size.0), self.pages.choice());
        let flags = |size: Size| format!("--size {}", size.flag());
        room::check(&self.memory, len, count, pages, "recv", flags)?;
        let memory = (0..count).map(|_| self.make_one(len, pages));
        let memory = memory.collect::<Result<Vec<_>>>()?;
        if !distinct(&memory)? {
            return Err(Hint::new(
                format!(
                    "recv --memory {}: the same dmabuf was passed twice",
                    self.memory
                ),
                "have the helper pass another each time, or leave --dmabuf-per-queue away",
            )
            .into());
        }
        self.warn_of_a_small_pool(&memory, connections, niov);
        Ok(memory)
    }

    fn make_one(&self, len: Option<u64>, pages: Option<HugePage>) -> Result<AnyMemory> {
        let made = AnyMemory::make(&self.memory, len, pages);
        made.map_err(|error| {
            let error = Error::from(error);
            let denied = error
                .chain()
                .filter_map(|cause| cause.downcast_ref::<io::Error>());
            let denied = denied
                .into_iter()
                .any(|it| it.kind() == ErrorKind::PermissionDenied);
            match denied && !privilege::is_root() && !privilege::has_net_admin() {
                true => Hint::new(
                    format!("{error:#}"),
                    format!(
                        "to receive takes root, or access to that memory and CAP_NET_ADMIN: {}",
                        privilege::with_sudo()
                    ),
                )
                .into(),
                false => error,
            }
        })
    }

    /// Warns if the memory is small for the connections, which would show only as slow connections.
    fn warn_of_a_small_pool(&self, memory: &[AnyMemory], connections: u32, niov: u64) {
        let pool = pool(memory);
        let connections = u64::from(connections);
        let wanted = connections.saturating_mul(2 * NIOVS_EACH * niov);
        if pool < wanted {
            let size = Size(wanted.next_power_of_two());
            tracing::warn!(
                "{} of memory are few for {connections} connections and the NIC's rings: {} niovs; the \
                 connections will wait for one another. {}",
                Size(pool),
                pool / niov,
                self.enlarge(size),
            );
        }
    }

    /// Remedy text for memory that is too small, with the size that is needed.
    fn enlarge(&self, size: Size) -> String {
        match self.memory.is_passed() {
            true => format!("Pass a larger one, of {} or more", size.flag()),
            false => format!("Give it more: --size {}", size.flag()),
        }
    }

    /// Remedy text for memory that is too small, where the needed size is not known.
    pub(super) fn larger(&self) -> &'static str {
        match self.memory.is_passed() {
            true => "pass a larger dmabuf",
            false => "--size for a larger dmabuf",
        }
    }

    /// Describes the memory: the size of one dmabuf and, unless it is a udmabuf, its source.
    pub(super) fn describe<'a>(&self, mut memory: impl Iterator<Item = &'a AnyMemory>) -> String {
        let size = Size(memory.next().map_or(0, Dmabuf::len));
        match &self.memory {
            Choice::Udmabuf => size.to_string(),
            other => format!("{size} of {other}"),
        }
    }
}

/// Size in bytes of the smallest dmabuf, which all connections may have to share: all may come
/// through its queue.
fn pool(memory: &[AnyMemory]) -> u64 {
    memory.iter().map(Dmabuf::len).min().unwrap_or(0)
}

/// Whether all dmabufs are different: two bindings of one would hand out each other's niovs. A
/// dmabuf is identified by its inode (`dma_buf_getfile`).
fn distinct(memory: &[AnyMemory]) -> Result<bool> {
    let inode = |memory: &AnyMemory| {
        let file = File::from(memory.as_fd().try_clone_to_owned()?);
        let metadata = file.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    };
    let inodes: std::io::Result<HashSet<_>> = memory.iter().map(inode).collect();
    Ok(inodes.context("telling dmabufs apart")?.len() == memory.len())
}
