//! Kinds of memory, as they are written on a command line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use cuda::Mapping;

use crate::heap;
use crate::passed::SocketName;

/// Origin of memory, as it is written on a command line: `udmabuf`, `heap:NAME`, `drm:/dev/dri/…`,
/// `cuda`, `cuda:N`, `cuda:N:pcie`, `fd:N`, `socket:PATH`.
///
/// [`FromStr`] parses it and [`Display`](fmt::Display) writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Choice {
    /// Memory of this machine, by `/dev/udmabuf`.
    #[default]
    Udmabuf,
    /// Memory of the dma-heap with this name in `/dev/dma_heap`.
    Heap(heap::Name),
    /// Dumb buffer of the DRM device with this node in `/dev/dri`.
    Drm(PathBuf),
    /// Memory of the GPU with this number, as the CUDA driver counts GPUs, and the NIC's path to
    /// it.
    Cuda(u32, Mapping),
    /// Dmabuf that this process inherited, as the fd of this number.
    Fd(u32),
    /// Dmabuf that a helper passes over this Unix socket, on which the helper listens.
    Socket(SocketName),
}

impl Choice {
    /// Whether the memory is passed by another process, and so has a length already.
    pub fn is_passed(&self) -> bool {
        matches!(self, Choice::Fd(_) | Choice::Socket(_))
    }
}

/// Error of parsing a [`Choice`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseChoiceError {
    /// The text does not begin with a kind of memory.
    #[error(
        "{0:?} is none of udmabuf, heap:NAME, drm:/dev/dri/…, cuda, cuda:N, cuda:N:pcie, fd:N, \
         socket:PATH"
    )]
    Kind(String),
    /// The text after the kind of memory is not a number, or too large a number.
    #[error("{0:?} is not the number of {1}")]
    Number(String, &'static str),
    /// The text after `heap:` can't be the name of a heap.
    #[error(transparent)]
    Heap(#[from] heap::NameError),
    /// The text after `drm:` can't be the path of a DRM device's node.
    #[error("{0:?} is not the path of a node, as /dev/dri/card0")]
    Node(String),
    /// The text after `socket:` can't be the name of a Unix socket.
    #[error("{0:?} names no Unix socket: a path of 1 to 107 bytes, or @ and an abstract name")]
    Socket(String),
}

impl FromStr for Choice {
    type Err = ParseChoiceError;

    fn from_str(text: &str) -> Result<Self, ParseChoiceError> {
        match (text, text.split_once(':')) {
            ("udmabuf", _) => Ok(Choice::Udmabuf),
            ("cuda", _) => Ok(Choice::Cuda(0, Mapping::Default)),
            (_, Some(("cuda", gpu))) => {
                let (gpu, mapping) = match gpu.strip_suffix(":pcie") {
                    Some(gpu) => (gpu, Mapping::Pcie),
                    None => (gpu, Mapping::Default),
                };
                Ok(Choice::Cuda(
                    parse_decimal(gpu, u32::MAX, "a GPU")?,
                    mapping,
                ))
            }
            (_, Some(("fd", fd))) => parse_decimal(fd, i32::MAX as u32, "an fd").map(Choice::Fd),
            (_, Some(("heap", name))) => Ok(Choice::Heap(name.parse()?)),
            (_, Some(("drm", node))) => match Path::new(node) {
                path if path.is_absolute() && !node.contains('\0') => Ok(Choice::Drm(path.into())),
                _ => Err(ParseChoiceError::Node(node.to_owned())),
            },
            (_, Some(("socket", name))) => match SocketName::new(name) {
                Some(name) => Ok(Choice::Socket(name)),
                None => Err(ParseChoiceError::Socket(name.to_owned())),
            },
            _ => Err(ParseChoiceError::Kind(text.to_owned())),
        }
    }
}

/// Parses a number of decimal digits only: `u32::from_str` accepts a sign, too.
fn parse_decimal(text: &str, most: u32, of: &'static str) -> Result<u32, ParseChoiceError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|&n| digits && n <= most);
    number.ok_or_else(|| ParseChoiceError::Number(text.to_owned(), of))
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Udmabuf => f.write_str("udmabuf"),
            Choice::Heap(name) => write!(f, "heap:{name}"),
            Choice::Drm(node) => write!(f, "drm:{}", node.display()),
            Choice::Cuda(gpu, Mapping::Pcie) => write!(f, "cuda:{gpu}:pcie"),
            Choice::Cuda(gpu, _) => write!(f, "cuda:{gpu}"),
            Choice::Fd(fd) => write!(f, "fd:{fd}"),
            Choice::Socket(name) => write!(f, "socket:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        text.parse::<Choice>().unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_memory_is_parsed() {
        let is = |text: &str, choice| assert_eq!(text.parse(), Ok(choice));
        is("udmabuf", Choice::Udmabuf);
        is("heap:system", Choice::Heap("system".parse().unwrap()));
        is("drm:/dev/dri/card0", Choice::Drm("/dev/dri/card0".into()));
        is("cuda", Choice::Cuda(0, Mapping::Default));
        is("cuda:3", Choice::Cuda(3, Mapping::Default));
        is("cuda:3:pcie", Choice::Cuda(3, Mapping::Pcie));
        is("fd:0", Choice::Fd(0));
        is("fd:2147483647", Choice::Fd(i32::MAX as u32));
        let socket = |name| Choice::Socket(SocketName::new(name).unwrap());
        is("socket:/run/memory", socket("/run/memory"));
        is("socket:a:b", socket("a:b"));
        is("socket:@abstract", socket("@abstract"));
        assert_eq!(Choice::default(), Choice::Udmabuf);
    }

    #[test]
    fn wrong_choices_are_errors() {
        for text in ["", "heap", "UDMABUF", "udmabuf:", "fd", "gpu:0", " cuda"] {
            assert!(error(text).contains("is none of udmabuf, heap:NAME"));
        }
        for text in ["fd:", "fd:-1", "fd:+3", "fd:2147483648", "fd:3x", "fd: 3"] {
            assert!(error(text).ends_with("is not the number of an fd"));
        }
        for text in [
            "cuda:",
            "cuda:+1",
            "cuda:4294967296",
            "cuda:0x1",
            "cuda:pcie",
            "cuda::pcie",
            "cuda:0:",
            "cuda:0:PCIE",
            "cuda:0:pcie:pcie",
        ] {
            assert!(error(text).ends_with("is not the number of a GPU"));
        }
        for text in ["heap:", "heap:.", "heap:..", "heap:a/b", "heap:../udmabuf"] {
            assert!(error(text).contains("is not the name of a heap"));
        }
        for text in ["drm:", "drm:card0", "drm:dri/card0", "drm:/dev/\0"] {
            assert!(error(text).contains("is not the path of a node"));
        }
        let long = format!("socket:/{}", "x".repeat(107));
        for text in ["socket:", "socket:@", "socket:a\0b", &long] {
            assert!(error(text).contains("names no Unix socket"));
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in any::<String>()) {
            let _any: Result<Choice, _> = text.parse();
        }

        #[test]
        fn a_parsed_choice_round_trips(
            kind in prop::sample::select(vec!["heap:", "drm:/", "cuda:", "fd:", "socket:"]),
            rest in "[0-9]{1,5}(:pcie)?|[ -~]{0,20}|\\PC{0,12}",
        ) {
            if let Ok(choice) = format!("{kind}{rest}").parse::<Choice>() {
                let again = choice.to_string().parse();
                prop_assert_eq!(again, Ok(choice));
            }
        }

        #[test]
        fn the_name_of_a_heap_is_that_of_a_file(name in any::<String>()) {
            if let Ok(Choice::Heap(name)) = format!("heap:{name}").parse::<Choice>() {
                let node = name.node();
                prop_assert_eq!(node.parent(), Some(Path::new("/dev/dma_heap")));
                prop_assert!(node.file_name().is_some_and(|file| file == name.as_str()));
            }
        }
    }
}
