//! Buffers made by the kernel's own `/dev/udmabuf`. Without the device each test says that it was
//! skipped.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};

use dmabuf::{Access, Dmabuf, DmabufFd, Protection};
use udmabuf::{Error, HugePage, Udmabuf};

/// Is the device there? Says so if not.
fn device(test: &str) -> bool {
    let open = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/udmabuf");
    if let Err(error) = &open {
        eprintln!("SKIP {test}: /dev/udmabuf: {error}");
    }
    open.is_ok()
}

#[test]
fn bytes_survive_in_a_buffer() {
    if !device("bytes_survive_in_a_buffer") {
        return;
    }
    let memory = Udmabuf::builder(1 << 20).build().unwrap();
    assert_eq!(memory.len(), 1 << 20);
    let writer = memory.map(Protection::ReadWrite).unwrap();
    let mut access = writer.begin_access(Access::Write).unwrap();
    access.copy_from(12_345, b"device memory").unwrap();
    access.end().unwrap();

    // Another fd on the same buffer, a mapping of its own, and the first fd gone.
    let clone: OwnedFd = memory.as_fd().try_clone_to_owned().unwrap();
    drop(memory);
    let reader = DmabufFd::new(clone).unwrap().map(Protection::Read).unwrap();
    let access = reader.begin_access(Access::Read).unwrap();
    assert!(access.equals(12_345, b"device memory").unwrap());
    assert!(access.equals(0, &[0; 4096]).unwrap());
    access.end().unwrap();
    drop(reader.begin_access(Access::Read).unwrap());
}

#[test]
fn a_buffer_over_the_limit_is_refused_with_the_limit() {
    if !device("a_buffer_over_the_limit_is_refused_with_the_limit") {
        return;
    }
    let limit = fs::read_to_string("/sys/module/udmabuf/parameters/size_limit_mb").unwrap();
    let limit: u64 = limit.trim().parse().unwrap();
    if limit > 1 << 20 {
        eprintln!("SKIP a_buffer_over_the_limit_is_refused_with_the_limit: no limit here");
        return;
    }
    let error = Udmabuf::builder((limit + 1) << 20).build().unwrap_err();
    assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
    assert!(error.remedy().unwrap().contains("size_limit_mb"));
}

#[test]
fn hugepages_are_taken_or_their_lack_is_named() {
    if !device("hugepages_are_taken_or_their_lack_is_named") {
        return;
    }
    match Udmabuf::builder(4 << 20).hugepages(HugePage::Mb2).build() {
        Ok(memory) => {
            assert_eq!(memory.len(), 4 << 20);
            let mapping = memory.map(Protection::ReadWrite).unwrap();
            let mut access = mapping.begin_access(Access::ReadWrite).unwrap();
            access.copy_from((4 << 20) - 3, b"end").unwrap();
            assert!(access.equals((4 << 20) - 3, b"end").unwrap());
            access.end().unwrap();
        }
        Err(error) => {
            eprintln!(
                "{error}: {:?}; {:?}",
                std::error::Error::source(&error),
                error.remedy()
            );
            assert!(matches!(error, Error::Memory { .. }), "{error:?}");
            assert!(error.remedy().unwrap().contains("hugepages"));
        }
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
