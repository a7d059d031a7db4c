//! Detection of standard streams that were closed when the program was started.
//!
//! The standard library opens `/dev/null` in their place before `main` (`sanitize_standard_fds`),
//! so that text written there is lost without an error. Only before that can it be detected.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicU8, Ordering};

/// Bit mask of the standard streams (fds 0 to 2) that were closed when the program was started.
static CLOSED: AtomicU8 = AtomicU8::new(0);

/// Records which standard streams are closed. Called by the dynamic loader, or by
/// `__libc_start_main` of a static program, before `main`.
extern "C" fn look() {
    for fd in 0..3 {
        // SAFETY: F_GETFD takes no pointer, and any number in the place of an fd: EBADF if it is none.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags == -1 {
            CLOSED.fetch_or(1 << fd, Ordering::Relaxed);
        }
    }
}

/// Entry in the list of functions to call before `main`.
// SAFETY: `.init_array` is an array of pointers to functions of C's calling convention, called one
// after the other with (argc, argv, envp), which a function without parameters may ignore there.
// `look` needs nothing that the standard library sets up before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether a standard stream was closed when the program was started.
pub(crate) fn was_closed(fd: i32) -> bool {
    CLOSED.load(Ordering::Relaxed) & (1 << fd) != 0
}
