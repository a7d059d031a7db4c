//! What is told meanwhile, where it is taken at once: who reads none of it, as a pager that waits or
//! a terminal that is stopped, does not hold the receiver up.

use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Whether it takes at least `PIPE_BUF` bytes now.
fn takes(fd: impl AsFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// Writes to standard error, if it takes it at once.
pub fn to_stderr(text: &str) {
    let mut err = io::stderr().lock();
    if takes(&err) {
        // Nobody is left to read it if that is closed.
        let _closed = err.write_all(text.as_bytes());
    }
}

/// Writes to standard output, if it takes it at once.
pub fn to_stdout(text: &str) {
    let mut out = io::stdout().lock();
    if takes(&out) {
        let _closed = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
