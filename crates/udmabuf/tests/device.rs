//! Tests of `/dev/udmabuf` that hold on any machine. The selftests test the buffers, where the
//! device is sure to exist.

use std::fs;
use std::os::fd::OwnedFd;

use dmabuf::{Dmabuf, DmabufFd};
use udmabuf::{Error, Udmabuf};

/// A udmabuf is made where `/dev/udmabuf` can be opened, or the error names the device.
#[test]
fn a_buffer_where_the_device_can_be_opened() {
    let device = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/udmabuf");
    match (Udmabuf::builder(4096).build(), device) {
        (Ok(memory), Ok(_)) => assert_eq!(memory.len(), 4096),
        (Err(Error::Open { source }), Err(why)) => {
            assert_eq!(source.raw_os_error(), why.raw_os_error());
            assert_eq!(Error::Open { source }.to_string(), "open /dev/udmabuf");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_no_dmabuf() {
    let file: OwnedFd = fs::File::open("/proc/self/exe").unwrap().into();
    assert!(matches!(
        DmabufFd::new(file),
        Err(dmabuf::Error::NotDmabuf { .. })
    ));
}
