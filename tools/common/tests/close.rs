//! Test of the error of a close. It is alone in its process, because no other test may open an fd
//! of the same number.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsRawFd;

use common::sink::{AnySink, Reader};
use common::{Output, with_sources};
use devmem::sink::{Memory, Sink};
use nix::unistd::{close, pipe};

#[test]
fn an_error_of_close_fails_the_stream() {
    let (_reader, fd) = pipe().unwrap();
    let number = fd.as_raw_fd();
    let mut sink = Reader::Cpu(Memory::new()).write(Output::new(fd, "a pipe"));
    assert!(matches!(sink, AnySink::Write(_)));
    close(number).unwrap();
    let error = sink.finish().unwrap_err();
    assert_eq!(
        with_sources(&error),
        "write payload: close a pipe: Bad file descriptor (os error 9)"
    );
    sink.finish().unwrap();
}
