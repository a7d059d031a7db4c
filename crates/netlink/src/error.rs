//! The error of all requests: the operation, the object, and the kernel's own words.

use std::fmt;
use std::io;

use nix::errno::Errno;

use crate::extack::Verdict;
use crate::{ExtAck, ParseError};

/// Result of a netlink request, with its [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Error of a failed netlink request: `bind-rx nk0 queue 1: tcp-data-split is disabled (EINVAL)`.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    op: &'static str,
    object: String,
    kind: ErrorKind,
}

#[derive(Debug)]
enum ErrorKind {
    Refused { errno: i32, ext_ack: ExtAck },
    Malformed(ParseError),
    Interrupted,
    Invalid(String),
}

impl Error {
    fn new(op: &'static str, object: impl Into<String>, kind: ErrorKind) -> Self {
        Self(Box::new(Inner {
            op,
            object: object.into(),
            kind,
        }))
    }

    /// Error of an operation that failed with a positive error number.
    pub fn from_errno(op: &'static str, object: impl Into<String>, errno: i32) -> Self {
        Self::new(
            op,
            object,
            ErrorKind::Refused {
                errno,
                ext_ack: ExtAck::default(),
            },
        )
    }

    /// Error of an operation that failed in a system call. An error without a number keeps its
    /// text.
    pub fn from_io(op: &'static str, object: impl Into<String>, error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => Self::from_errno(op, object, errno),
            None => Self::invalid(op, object, error.to_string()),
        }
    }

    /// Error of a request that was not sent because it makes no sense.
    pub fn invalid(op: &'static str, object: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(op, object, ErrorKind::Invalid(why.into()))
    }

    /// Error of an answer that could not be parsed.
    pub fn malformed(op: &'static str, object: impl Into<String>, source: ParseError) -> Self {
        Self::new(op, object, ErrorKind::Malformed(source))
    }

    /// Error of a netlink dump whose list changed each time it was read.
    pub(crate) fn interrupted(op: &'static str, object: impl Into<String>) -> Self {
        Self::new(op, object, ErrorKind::Interrupted)
    }

    /// Error of a request that the kernel refused.
    pub(crate) fn refused(op: &'static str, object: impl Into<String>, verdict: Verdict) -> Self {
        let Verdict { errno, ext_ack } = verdict;
        Self::new(op, object, ErrorKind::Refused { errno, ext_ack })
    }

    /// Replaces the object that the error names, where the caller knows a better name.
    #[must_use]
    pub fn about(mut self, object: impl Into<String>) -> Self {
        self.0.object = object.into();
        self
    }

    /// Operation that failed, named as in the family's specification: `bind-rx`.
    pub fn op(&self) -> &str {
        self.0.op
    }

    /// Object of the operation: `nk0 queue 1`.
    pub fn object(&self) -> &str {
        &self.0.object
    }

    /// Error number, positive; `None` where the kernel gave none.
    pub fn raw_os_error(&self) -> Option<i32> {
        match &self.0.kind {
            ErrorKind::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Text of the kernel's extended acknowledgement, where there is one.
    pub fn message(&self) -> Option<&str> {
        self.ext_ack().and_then(ExtAck::message)
    }

    /// Extended acknowledgement of the kernel, if there is one.
    pub fn ext_ack(&self) -> Option<&ExtAck> {
        match &self.0.kind {
            ErrorKind::Refused { ext_ack, .. } => Some(ext_ack),
            _ => None,
        }
    }

    /// Whether the netlink socket's buffer overflowed, so that messages were lost (`ENOBUFS`).
    #[doc(alias = "ENOBUFS")]
    pub fn is_overrun(&self) -> bool {
        self.raw_os_error() == Some(libc::ENOBUFS)
    }
}

impl fmt::Display for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [self.op, self.object.as_str()] {
            match part {
                "" => {}
                _ if part == self.op && !self.object.is_empty() => write!(f, "{part} ")?,
                _ => f.write_str(part)?,
            }
        }
        f.write_str(": ")?;
        match &self.kind {
            ErrorKind::Refused { errno, ext_ack } => write_refusal(f, *errno, ext_ack),
            ErrorKind::Malformed(_) => f.write_str("the kernel's answer can't be parsed"),
            ErrorKind::Interrupted => f.write_str("what is listed keeps changing"),
            ErrorKind::Invalid(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Inner {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ErrorKind::Malformed(source) => Some(source),
            _ => None,
        }
    }
}

/// Writes the kernel's text of a refusal, or the meaning of the error number, then the number's
/// name.
fn write_refusal(f: &mut fmt::Formatter<'_>, errno: i32, ext_ack: &ExtAck) -> fmt::Result {
    match (ext_ack.message(), ext_ack.missing()) {
        (Some(message), _) => f.write_str(message)?,
        (None, Some(kind)) => write!(f, "attribute {kind} is missing")?,
        (None, None) => f.write_str(&errno_meaning(errno))?,
    }
    match (errno, Errno::from_raw(errno)) {
        (ENOTSUPP, _) => f.write_str(" (ENOTSUPP)"),
        (_, Errno::UnknownErrno) => write!(f, " (errno {errno})"),
        (_, known) => write!(f, " ({known:?})"),
    }
}

/// `ENOTSUPP`, which is in no user header although many drivers return it.
const ENOTSUPP: i32 = 524;

/// Meaning of an error number, as a part of a line: "no such device".
fn errno_meaning(errno: i32) -> String {
    let errno = if errno == ENOTSUPP {
        libc::EOPNOTSUPP
    } else {
        errno
    };
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}
