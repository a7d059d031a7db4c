//! Standard streams by their file descriptors, without the standard library's buffers.
//!
//! 1. What is written has been written when the call returns, also a line without its end.
//! 2. An error is an error: `EBADF` is none to the standard library's streams.
//! 3. Streams that are set to `O_NONBLOCK`, as a shell or a parent may leave them, are waited for.
//! 4. Text of one call is not mixed with that of another, whichever thread it comes from.
//! 5. What a terminal would act on is [shown](crate::text) as text, unless it is printed raw.
//! 6. Who [posts](Stream::post) never waits: a thread of the stream's writes it out.

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

/// Posted bytes that may wait for a reader.
const PENDING: usize = 1 << 16;

/// A standard stream to write to.
#[derive(Debug)]
pub struct Stream {
    number: i32,
    name: &'static str,
    turn: Mutex<Turn>,
    changed: Condvar,
}

/// Whose turn it is to write.
#[derive(Debug)]
struct Turn {
    /// A write is under way.
    taken: bool,
    /// Posted, for the stream's thread to write.
    posted: String,
    /// The thread is there.
    threaded: bool,
    /// Lines of the log for which there was no room.
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

/// Prints a line of a program on standard error. Errors are ignored: there is no other place to report them.
pub fn say(program: &str, text: impl fmt::Display) {
    let _unread = STDERR.print(&format!("{program}: {text}\n"));
}

/// The same, left to the stream's thread: from within a receiver, which no reader may hold up.
pub fn tell(program: &str, text: impl fmt::Display) {
    STDERR.post(&format!("{program}: {text}\n"));
}

impl Stream {
    const fn new(number: i32, name: &'static str) -> Self {
        Self {
            number,
            name,
            turn: Mutex::new(Turn {
                taken: false,
                posted: String::new(),
                threaded: false,
                lost: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Writes text after all that was posted, and waits until the stream has taken it. Control
    /// characters in it are [shown] as text.
    ///
    /// # Errors
    /// Of `write`; `EBADF` for a stream that was closed when the program was started.
    pub fn print(&self, text: &str) -> io::Result<()> {
        self.print_raw(&shown(text))
    }

    /// The same of text that is for a program, or is none but our own.
    ///
    /// # Errors
    /// As for [`Stream::print`].
    pub fn print_raw(&self, text: &str) -> io::Result<()> {
        let waits = |turn: &mut Turn| turn.taken || !turn.posted.is_empty();
        let turn = self.changed.wait_while(self.lock(), waits);
        turn.unwrap_or_else(PoisonError::into_inner).taken = true;
        let written = self.write(text);
        self.lock().taken = false;
        self.changed.notify_all();
        written
    }

    /// Leaves text to the stream's thread. False if so much waits already that the text was dropped.
    /// Control characters in it are [shown] as text.
    pub fn post(&'static self, text: &str) -> bool {
        self.post_raw(&shown(text))
    }

    /// The same of text that is for a program, or moves a terminal's cursor.
    pub fn post_raw(&'static self, text: &str) -> bool {
        let mut turn = self.lock();
        // What is longer than that on its own goes where nothing waits.
        let full = !turn.posted.is_empty() && turn.posted.len() + text.len() > PENDING;
        if full || !self.threaded(&mut turn) {
            return false;
        }
        turn.posted += text;
        self.changed.notify_all();
        true
    }

    /// Whether all that was posted and printed has been written.
    pub fn is_idle(&self) -> bool {
        let turn = self.lock();
        !turn.taken && turn.posted.is_empty()
    }

    /// Waits until all has been written, at most so long.
    pub fn settle(&self, limit: Duration) {
        let waits = |turn: &mut Turn| turn.taken || !turn.posted.is_empty();
        let waited = self.changed.wait_timeout_while(self.lock(), limit, waits);
        drop(waited);
    }

    /// Starts the thread if it isn't there. It ends with the process.
    fn threaded(&'static self, turn: &mut Turn) -> bool {
        if !turn.threaded {
            let thread = thread::Builder::new().name(self.name.to_owned());
            turn.threaded = thread.spawn(|| self.write_posted()).is_ok();
        }
        turn.threaded
    }

    fn write_posted(&self) {
        let waits = |turn: &mut Turn| turn.taken || turn.posted.is_empty();
        loop {
            let turn = self.changed.wait_while(self.lock(), waits);
            let mut turn = turn.unwrap_or_else(PoisonError::into_inner);
            let mut text = std::mem::take(&mut turn.posted);
            let lost = std::mem::take(&mut turn.lost);
            if lost > 0 {
                text += &format!("{lost} more lines were lost: they were not read in time\n");
            }
            turn.taken = true;
            drop(turn);
            // Errors of posted text are ignored; text that must arrive is printed.
            let _unread = self.write(&text);
            self.lock().taken = false;
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

    fn lock(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines of a log on standard error: as [`Stream::print`], but posted once anything was.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log;

impl io::Write for Log {
    /// Never fails: who formats the log complains of that on the very stream that failed.
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

/// Writes all of it, and waits where the fd would not.
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

/// Reads, and waits where the fd would not.
pub(crate) fn read(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match unistd::read(fd, into) {
            Ok(read) => return Ok(read),
            Err(errno) => again(fd, PollFlags::POLLIN, errno)?,
        }
    }
}

/// Waits for the fd if that is what an error asks for.
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
