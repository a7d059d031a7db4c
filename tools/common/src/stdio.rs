//! Standard streams by their file descriptors, without the standard library's buffers.
//!
//! 1. A call that returns has written its text, also a line without its end.
//! 2. Errors are returned: the standard library's streams ignore `EBADF`.
//! 3. A stream that is set to `O_NONBLOCK`, as a shell or a parent may leave it, is waited for.
//! 4. Text of one call is not mixed with that of another, whichever thread it comes from.
//! 5. Control characters are [shown](crate::text) as text, unless text is printed raw.
//! 6. [Posting](Stream::post) never waits: a thread of the stream writes the text.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd;

use crate::sys;
use crate::text::shown;

/// Number of posted bytes that may wait to be written.
const PENDING: usize = 1 << 16;

/// Standard output or standard error.
#[derive(Debug)]
pub struct Stream {
    number: i32,
    name: &'static str,
    state: Mutex<StreamState>,
    changed: Condvar,
}

/// State of a stream, under its lock.
#[derive(Debug)]
struct StreamState {
    /// Whether a thread is writing to the stream.
    writing: bool,
    /// Text that was posted, for the stream's thread to write.
    posted: String,
    /// Whether the stream's thread was started.
    threaded: bool,
    /// Number of log lines that were dropped for lack of room.
    lost: u64,
}

static STDOUT: Stream = Stream::new(1, "standard output");
static STDERR: Stream = Stream::new(2, "standard error");

/// Standard output.
pub fn stdout() -> &'static Stream {
    &STDOUT
}

/// Standard error.
pub fn stderr() -> &'static Stream {
    &STDERR
}

/// Prints a line of a program on standard error. Errors are ignored, because they can't be reported
/// anywhere else.
pub fn say(program: &str, text: impl fmt::Display) {
    let _unread = STDERR.print(&format!("{program}: {text}\n"));
}

/// Posts a line of a program on standard error, without waiting: a receiver must not be held up by
/// a slow reader.
pub fn tell(program: &str, text: impl fmt::Display) {
    STDERR.post(&format!("{program}: {text}\n"));
}

impl Stream {
    const fn new(number: i32, name: &'static str) -> Self {
        Self {
            number,
            name,
            state: Mutex::new(StreamState {
                writing: false,
                posted: String::new(),
                threaded: false,
                lost: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Writes text after all that was posted, and waits until it is written. Control characters in
    /// it are [shown] as text.
    ///
    /// # Errors
    /// Those of `write`; `EBADF` for a stream that was closed when the program was started.
    pub fn print(&self, text: &str) -> io::Result<()> {
        self.print_raw(&shown(text))
    }

    /// Writes text like [`Stream::print`], but with its control characters: text for a program, or
    /// the program's own.
    ///
    /// # Errors
    /// As for [`Stream::print`].
    pub fn print_raw(&self, text: &str) -> io::Result<()> {
        let waits = |state: &mut StreamState| state.writing || !state.posted.is_empty();
        let state = self.changed.wait_while(self.lock(), waits);
        state.unwrap_or_else(PoisonError::into_inner).writing = true;
        let written = self.write(text);
        self.lock().writing = false;
        self.changed.notify_all();
        written
    }

    /// Leaves text to the stream's thread. Returns false if the text was dropped, because too much
    /// is waiting. Control characters in it are [shown] as text.
    pub fn post(&'static self, text: &str) -> bool {
        self.post_raw(&shown(text))
    }

    /// Leaves text to the stream's thread like [`Stream::post`], but with its control characters:
    /// text for a program, or that moves a terminal's cursor.
    pub fn post_raw(&'static self, text: &str) -> bool {
        let mut state = self.lock();
        // A text that is longer than the limit is accepted while nothing else waits.
        let full = !state.posted.is_empty() && state.posted.len() + text.len() > PENDING;
        if full || !self.threaded(&mut state) {
            return false;
        }
        state.posted += text;
        self.changed.notify_all();
        true
    }

    /// Whether all text has been written.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        !state.writing && state.posted.is_empty()
    }

    /// Waits until all posted text has been written, for `limit` at most.
    pub fn settle(&self, limit: Duration) {
        let waits = |state: &mut StreamState| state.writing || !state.posted.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, waits);
        drop(waited);
    }

    /// Starts the thread if it is not running. It ends with the process.
    fn threaded(&'static self, state: &mut StreamState) -> bool {
        if !state.threaded {
            let thread = thread::Builder::new().name(self.name.to_owned());
            state.threaded = thread.spawn(|| self.write_posted()).is_ok();
        }
        state.threaded
    }

    fn write_posted(&self) {
        let waits = |state: &mut StreamState| state.writing || state.posted.is_empty();
        loop {
            let state = self.changed.wait_while(self.lock(), waits);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            let mut text = std::mem::take(&mut state.posted);
            let lost = std::mem::take(&mut state.lost);
            if lost > 0 {
                text += &format!("{lost} more lines were lost: they were not read in time\n");
            }
            state.writing = true;
            drop(state);
            // Errors of posted text are ignored; important text is printed instead.
            let _unread = self.write(&text);
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    fn write(&self, text: &str) -> io::Result<()> {
        if sys::was_closed(self.number) {
            return Err(Errno::EBADF.into());
        }
        let bytes = text.as_bytes();
        match self.number {
            1 => write_all(io::stdout().as_fd(), bytes),
            _ => write_all(io::stderr().as_fd(), bytes),
        }
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writer of log lines on standard error: like [`Stream::print`], but posted once anything was
/// posted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl io::Write for Log {
    /// Writes or posts a log line, and never fails: the log formatter would report the failure on
    /// the very stream that failed.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        if !STDERR.lock().threaded {
            let _unread = STDERR.print(&text);
        } else if !STDERR.post(&text) {
            STDERR.lock().lost += 1;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all bytes, and waits if the fd is non-blocking.
pub(crate) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match unistd::write(fd, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(errno) => again(fd, PollFlags::POLLOUT, errno)?,
        }
    }
    Ok(())
}

/// Reads, and waits if the fd is non-blocking.
pub(crate) fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match unistd::read(fd, into) {
            Ok(read) => return Ok(read),
            Err(errno) => again(fd, PollFlags::POLLIN, errno)?,
        }
    }
}

/// Waits until the fd is ready if the error is EAGAIN; returns any error but EAGAIN and EINTR.
fn again(fd: BorrowedFd<'_>, for_what: PollFlags, errno: Errno) -> io::Result<()> {
    match errno {
        Errno::EINTR => Ok(()),
        Errno::EAGAIN => match poll(&mut [PollFd::new(fd, for_what)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        },
        errno => Err(errno.into()),
    }
}
