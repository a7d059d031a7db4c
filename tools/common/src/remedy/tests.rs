use std::io::Error as IoError;
use std::path::Path;

use ::memory::{drm, heap, passed};
use ::udmabuf::HugePage;

use super::*;

fn errno(errno: i32) -> IoError {
    IoError::from_raw_os_error(errno)
}

#[track_caller]
fn names(remedy: Option<impl Into<String>>, word: &str) {
    let remedy = remedy.expect("no remedy").into();
    assert!(remedy.contains(word), "{remedy}");
}

#[test]
fn a_udmabuf() {
    use ::udmabuf::Error;
    let open = |code| {
        of_udmabuf(&Error::Open {
            source: errno(code),
        })
    };
    names(open(libc::ENOENT), "modprobe udmabuf");
    names(open(libc::EACCES), "group kvm");
    let memory = |hugepages| {
        let source = errno(libc::ENOMEM);
        let len = 1 << 30;
        of_udmabuf(&Error::Memory {
            len,
            hugepages,
            source,
        })
    };
    names(memory(HugePage::None), "ask for less memory");
    assert!(memory(HugePage::Mb2).is_some());
    let (len, page) = (1 << 20, 2 << 20);
    names(
        of_udmabuf(&Error::Unaligned { len, page }),
        "take 2097152 bytes",
    );
}

#[test]
fn a_heap() {
    let open = |code| {
        let heap = "no-such-heap".parse().unwrap();
        of_memory(
            &heap::Error::Open {
                heap,
                source: errno(code),
            }
            .into(),
        )
    };
    names(open(libc::ENOENT), "heap");
    names(open(libc::EACCES), "chown");
    assert_eq!(open(libc::EIO), None);
    let heap = "no-such-heap".parse().unwrap();
    let error = heap::Heap::allocate(&heap, 4097).unwrap_err();
    names(of_memory(&error.into()), "take 8192 bytes");
}

#[test]
fn a_drm_device() {
    let create = |node: &str| drm::Dumb::create(Path::new(node), 4096).unwrap_err();
    names(of_memory(&create("/dev/null").into()), "no DRM device's");
    let remedy = of_memory(&create("/dev/dri/no-such-card").into()).unwrap();
    assert!(
        remedy.contains("there") || remedy.contains("vgem"),
        "{remedy}"
    );
}

#[test]
fn passed_memory() {
    names(
        of_passed(&passed::inherited(1 << 20).unwrap_err()),
        "FD_CLOEXEC",
    );
    let socket = passed::SocketName::new("/nowhere/at/all").unwrap();
    names(
        of_passed(&passed::received(&socket).unwrap_err()),
        "start the helper",
    );
    let source = errno(libc::EAGAIN);
    names(
        of_passed(&passed::Error::Receive { socket, source }),
        "the helper has 10s",
    );
}

#[test]
fn a_port_in_use() {
    use ::devmem::listen::{SocketOptions, listen};
    let first = listen("127.0.0.1:0".parse().unwrap(), &SocketOptions::default()).unwrap();
    let taken = first.local_addr().unwrap();
    let error = listen(taken, &SocketOptions::default()).unwrap_err();
    names(
        of_socket(&error, ""),
        &format!("there: ss -ltnp | grep :{}", taken.port()),
    );
    names(
        of_socket(&error, "ip netns exec box "),
        &format!("ip netns exec box ss -ltnp | grep :{}", taken.port()),
    );
}

/// Checks the remedies for a CUDA library that is missing, or is another library.
#[test]
fn a_gpu_without_a_driver() {
    let load = |name: &str| ::cuda::Driver::load_from(name).unwrap_err();
    names(of_cuda(&load("libno-such-driver.so.1")), "install");
    names(of_cuda(&load("libm.so.6")), "515");
}

#[test]
fn a_gpu_whose_driver_refused() {
    for (code, word) in [
        (2, "nvidia-smi"),
        (221, "ptxjit"),
        (802, "fabricmanager"),
        (804, "cuda-compat"),
        (999, "nvidia-open"),
    ] {
        let error = ::cuda::Error::Driver {
            operation: "cuInit".into(),
            source: ::cuda::DriverError::new(code, "CUDA_ERROR_X".into(), "went wrong".into()),
        };
        names(of_cuda(&error), word);
    }
}
