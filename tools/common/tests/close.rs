//! The error of a close. Alone in its process: no other test may open an fd of the same number.
#![allow(clippy::unwrap_used)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use common::sink::{AnySink, Reader};
use common::{Output, with_sources};
use devmem::sink::{Memory, Sink};

#[test]
fn counts_at_the_end_of_the_stream() {
    let (_reader, writer) = io::pipe().unwrap();
    let fd = OwnedFd::from(writer);
    let number = fd.as_raw_fd();
    let mut sink = Reader::Cpu(Memory::new()).write(Output::new(fd, "a pipe"));
    assert!(matches!(sink, AnySink::Write(_)));
    nix::unistd::close(number).unwrap();
    let error = sink.finish().unwrap_err();
    assert_eq!(
        with_sources(&error),
        "write payload: close a pipe: Bad file descriptor (os error 9)"
    );
    sink.finish().unwrap();
}
