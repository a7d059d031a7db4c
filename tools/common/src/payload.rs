//! Payload input and output by files and standard streams.

use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd;

use crate::stdio;
use crate::sys;

/// Destination of payload, unbuffered, so that it is there when a write returns.
#[derive(Debug)]
pub struct Output {
    /// File descriptor of the output; `None` after the close.
    fd: Option<OwnedFd>,
    name: String,
}

impl Output {
    /// Creates an output of an open file, pipe or socket. Errors call it `name`.
    pub fn new(fd: impl Into<OwnedFd>, name: impl Into<String>) -> Self {
        Self {
            fd: Some(fd.into()),
            name: name.into(),
        }
    }

    /// Opens standard output.
    ///
    /// # Errors
    /// Where the stream is closed.
    pub fn stdout() -> io::Result<Self> {
        let name = "standard output";
        let fd = duplicate(1, io::stdout().as_fd()).map_err(at("open", name))?;
        Ok(Self::new(fd, name))
    }

    /// Creates or truncates a file.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn create(path: &str) -> io::Result<Self> {
        let file = File::create(path).map_err(at("create", path))?;
        Ok(Self::new(file, path))
    }

    /// Closes the output, once. Some file systems report only then that they had no room, or lost
    /// the server.
    ///
    /// # Errors
    /// Those of `close`.
    pub fn close(&mut self) -> io::Result<()> {
        let closed = self.fd.take().map_or(Ok(()), unistd::close);
        closed
            .map_err(io::Error::from)
            .map_err(at("close", &self.name))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let fd = self.fd.as_ref().ok_or(io::Error::from(Errno::EBADF));
        let written = fd.and_then(|fd| stdio::write_all(fd.as_fd(), bytes));
        written.map_err(at("write", &self.name))?;
        Ok(bytes.len())
    }

    /// Does nothing, because nothing is buffered.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Source of payload: standard input.
#[derive(Debug)]
pub struct Input(OwnedFd);

impl Input {
    /// Opens standard input.
    ///
    /// # Errors
    /// Where the stream is closed.
    pub fn stdin() -> io::Result<Self> {
        let fd = duplicate(0, io::stdin().as_fd());
        Ok(Self(fd.map_err(at("open", "standard input"))?))
    }
}

impl Read for Input {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        stdio::read(self.0.as_fd(), into).map_err(at("read", "standard input"))
    }
}

fn duplicate(number: i32, fd: impl AsFd) -> io::Result<OwnedFd> {
    if sys::was_closed(number) {
        return Err(Errno::EBADF.into());
    }
    fd.as_fd().try_clone_to_owned()
}

/// Error that puts operation and object in front of the kernel's words.
#[derive(Debug)]
struct ErrorAt {
    text: String,
    source: io::Error,
}

impl fmt::Display for ErrorAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ErrorAt {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

fn at(operation: &str, object: &str) -> impl FnOnce(io::Error) -> io::Error {
    let text = format!("{operation} {object}");
    |source| io::Error::new(source.kind(), ErrorAt { text, source })
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::unistd::pipe;

    use super::*;
    use crate::with_sources;

    #[test]
    fn a_write_is_there_at_once_without_a_newline() {
        let (reader, writer) = pipe().unwrap();
        let mut reader = File::from(reader);
        let mut output = Output::new(writer, "a pipe");
        output.write_all(b"10 bytes: ").unwrap();
        let mut got = [0; 10];
        reader.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"10 bytes: ");
        output.close().unwrap();
        assert_eq!(reader.read(&mut got).unwrap(), 0, "still open");
        output.close().unwrap();
    }

    #[test]
    fn a_nonblocking_fd_is_waited_for() {
        let (reader, writer) = pipe().unwrap();
        for end in [reader.as_fd(), writer.as_fd()] {
            fcntl(end, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        }
        let sent: Vec<u8> = (0..1_000_003).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        let writing = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            Output::new(writer, "a pipe").write_all(&sent).unwrap();
        });
        let mut got = Vec::new();
        Input(reader).read_to_end(&mut got).unwrap();
        assert!(got == expected, "{} bytes", got.len());
        writing.join().unwrap();
    }

    #[test]
    fn an_fd_that_is_not_for_writing_is_an_error() {
        let null = File::open("/dev/null").unwrap();
        let error = Output::new(null, "/dev/null").write_all(b"x").unwrap_err();
        assert_eq!(
            with_sources(&error),
            "write /dev/null: Bad file descriptor (os error 9)"
        );
        let error = Output::create("/dev/full").unwrap().write_all(b"x");
        assert!(
            with_sources(&error.unwrap_err()).ends_with("No space left on device (os error 28)")
        );
        let error = Output::create("/nowhere/file").unwrap_err();
        assert!(with_sources(&error).starts_with("create /nowhere/file: No such file"));
    }
}
