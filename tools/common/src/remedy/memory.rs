//! Remedies for memory to receive into.

use std::io;
use std::path::Path;

use memory::heap::Name;
use memory::{BadLen, Error, drm, heap, passed};
use nix::unistd::geteuid;

use super::{of_cuda, of_udmabuf};

/// Returns a one-line remedy for device memory that can't be had; `None` if none is known.
pub fn of_memory(error: &Error) -> Option<String> {
    match error {
        Error::Udmabuf(error) => of_udmabuf(error),
        Error::Heap(error) => of_heap(error),
        Error::Drm(error) => of_drm(error),
        Error::Cuda(error) => of_cuda(error).map(str::to_owned),
        Error::Passed(error) => of_passed(error),
        Error::Pages { .. } => Some("leave out the kind of pages".to_owned()),
        _ => None,
    }
}

/// Returns a one-line remedy for an invalid length of memory; `None` if none is known.
pub fn of_len(error: &BadLen) -> Option<String> {
    match error {
        BadLen::Empty => Some("ask for at least one page".to_owned()),
        BadLen::Unaligned { len, page } => {
            let up = len.checked_next_multiple_of(*page)?;
            Some(format!("take {up} bytes"))
        }
        _ => None,
    }
}

/// Returns a one-line remedy for an error of a dmabuf heap; `None` if none is known.
fn of_heap(error: &heap::Error) -> Option<String> {
    match error {
        heap::Error::Len { source, .. } => of_len(source),
        heap::Error::Open { heap, source } => heap_remedy(heap, source),
        heap::Error::Available { available, .. } => {
            let most = available.advice(1) >> 20;
            Some(format!("ask for {most} MiB or less"))
        }
        heap::Error::Allocate { source, .. } => match source.raw_os_error()? {
            libc::ENOMEM => Some("ask for less memory, or take another heap".to_owned()),
            libc::ENOTTY => Some("that node is not a heap".to_owned()),
            _ => None,
        },
        _ => None,
    }
}

fn heap_remedy(heap: &Name, source: &io::Error) -> Option<String> {
    match source.raw_os_error()? {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Some(match &heap::names()[..] {
            [] => "no heap is here: boot a kernel with CONFIG_DMABUF_HEAPS and a heap; in a \
                   container, pass /dev/dma_heap into it"
                .to_owned(),
            names => format!("take one that is there: {}", join(names)),
        }),
        libc::EACCES | libc::EPERM => Some(format!(
            "run as root, or: chown {} {}",
            geteuid(),
            heap.node().display()
        )),
        _ => None,
    }
}

/// Joins the names of memory as they are written on a command line.
fn join(names: &[Name]) -> String {
    let words = names.iter().map(|name| format!("heap:{name}"));
    words.collect::<Vec<_>>().join(", ")
}

/// Returns a one-line remedy for an error of a DRM device's memory; `None` if none is known.
fn of_drm(error: &drm::Error) -> Option<String> {
    match error {
        drm::Error::Len { source, .. } => of_len(source),
        drm::Error::TooLarge { .. } => Some("ask for less than 4 GiB".to_owned()),
        drm::Error::Open { node, source } => drm_remedy(node, source),
        drm::Error::Render { primary, .. } => Some(match primary {
            Some(primary) => {
                format!("take the device's primary node: drm:{}", primary.display())
            }
            None => "take the device's primary node, /dev/dri/cardN".to_owned(),
        }),
        drm::Error::NoDumb { .. } => {
            Some("take another device, or memory of another kind".to_owned())
        }
        drm::Error::Create { source, .. } => match source.raw_os_error()? {
            libc::ENOMEM | libc::ENOSPC => Some("ask for less memory".to_owned()),
            libc::ENOTTY => Some("that node is no DRM device's: see /dev/dri".to_owned()),
            _ => None,
        },
        drm::Error::Export { source, .. } => {
            let cannot = matches!(
                source.raw_os_error()?,
                libc::ENOSYS | libc::EOPNOTSUPP | libc::ENODEV
            );
            cannot.then(|| "the driver exports no dmabufs: take another device".to_owned())
        }
        _ => None,
    }
}

fn drm_remedy(node: &Path, source: &io::Error) -> Option<String> {
    match source.raw_os_error()? {
        libc::ENOENT | libc::ENODEV | libc::ENXIO => Some(match &drm::primary_nodes()[..] {
            [] => "no DRM device is here: load a driver (for a try, without a GPU: modprobe \
                   vgem); in a container, pass /dev/dri into it"
                .to_owned(),
            nodes => {
                let words = nodes.iter().map(|node| format!("drm:{}", node.display()));
                let words = words.collect::<Vec<_>>().join(", ");
                format!("take one that is there: {words}")
            }
        }),
        libc::EACCES | libc::EPERM => Some(format!(
            "run as root, or as a member of the group that {} belongs to (video)",
            node.display()
        )),
        _ => None,
    }
}

/// Returns a one-line remedy for memory that another process was to pass; `None` if none is known.
pub fn of_passed(error: &passed::Error) -> Option<String> {
    match error {
        passed::Error::Inherit { fd, source } => match source.raw_os_error()? {
            libc::EBADF => Some(format!(
                "whoever starts this process opens fd {fd} and leaves it open across exec \
                 (no FD_CLOEXEC)"
            )),
            libc::EMFILE => Some("raise the limit: ulimit -n".to_owned()),
            _ => None,
        },
        passed::Error::NotDmabuf { .. } | passed::Error::PassedOther { .. } => Some(
            "pass the fd that the exporter gave: a heap's, a udmabuf's (not its memfd), a \
             GPU's (not its device node)"
                .to_owned(),
        ),
        passed::Error::Connect { source, .. } => connect_remedy(source),
        passed::Error::Receive { source, .. } => {
            let late = matches!(source.raw_os_error(), Some(libc::EAGAIN));
            late.then(|| {
                format!(
                    "the helper has {:?} to send the fd (SCM_RIGHTS)",
                    passed::SEND_TIMEOUT
                )
            })
        }
        passed::Error::Count { .. } => {
            Some("the helper sends one fd to each that connects (SCM_RIGHTS)".to_owned())
        }
        passed::Error::TooSmall { len, .. } => {
            Some(format!("pass a larger one, or ask for {len} bytes at most"))
        }
        _ => None,
    }
}

fn connect_remedy(source: &io::Error) -> Option<String> {
    let remedy = match source.raw_os_error()? {
        libc::ENOENT | libc::ECONNREFUSED => {
            "start the helper first: it listens on a Unix stream socket and sends one fd to each \
             that connects (SCM_RIGHTS)"
        }
        libc::EPROTOTYPE => "the helper is to listen on a stream socket (SOCK_STREAM)",
        libc::EACCES | libc::EPERM => "to connect takes the right to write to the socket's file",
        libc::ENOTSOCK => "that file is not a socket",
        _ => return None,
    };
    Some(remedy.to_owned())
}
