//! Identifiers, each of a type of its own, so that an ifindex can't be taken for a queue id.

use std::fmt;
use std::net::IpAddr;
use std::num::ParseIntError;
use std::str::FromStr;

use netlink::{Attr, ParseError};
use serde::{Deserialize, Serialize, Serializer};

/// Defines an identifier type around a number of the kernel.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident($number:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($number);

        impl $name {
            /// Creates the identifier from the number that the kernel uses.
            pub const fn new(id: $number) -> Self {
                Self(id)
            }

            /// Number that the kernel uses for the identifier.
            pub const fn get(self) -> $number {
                self.0
            }
        }

        impl From<$number> for $name {
            fn from(id: $number) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseIntError;

            fn from_str(text: &str) -> Result<Self, ParseIntError> {
                text.parse().map(Self)
            }
        }
    };
}

id!(
    /// Number of a network device in its network namespace. A move to another namespace may change
    /// it.
    Ifindex(u32)
);
id!(
    /// Number of a queue of a device, counted from 0 for each [`QueueType`].
    QueueId(u32)
);
id!(
    /// Number that the kernel gave to a bound dmabuf. Control messages name it.
    DmabufId(u32)
);
id!(
    /// Number of a NAPI instance, unique over all network namespaces.
    NapiId(u32)
);
id!(
    /// Number of a page pool, unique over all network namespaces.
    PagePoolId(u32)
);
id!(
    /// Number of an additional RSS context of a device, from 1.
    RssContextId(u32)
);
id!(
    /// Id of a network namespace as another namespace numbers it, from 0.
    NsId(i32)
);

/// Formats queue numbers with ranges, sorted and without duplicates: `0-14,20`.
pub fn queue_list(queues: &[QueueId]) -> String {
    let mut numbers: Vec<u32> = queues.iter().map(|queue| queue.get()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let runs = numbers.chunk_by(|one, next| one.checked_add(1) == Some(*next));
    let words = runs.filter_map(|run| match run {
        [] => None,
        [one] => Some(one.to_string()),
        [first, second] => Some(format!("{first},{second}")),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    words.collect::<Vec<_>>().join(",")
}

/// Direction of a queue (`enum netdev_queue_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// Queue for received packets.
    Rx,
    /// Queue for packets to send.
    Tx,
}

impl QueueType {
    pub(crate) fn raw(self) -> u32 {
        match self {
            Self::Rx => 0,
            Self::Tx => 1,
        }
    }

    pub(crate) fn parse(attr: &Attr<'_>) -> Result<Self, ParseError> {
        match attr.u32()? {
            0 => Ok(Self::Rx),
            1 => Ok(Self::Tx),
            other => Err(attr.unexpected(other)),
        }
    }
}

impl fmt::Display for QueueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rx => "rx",
            Self::Tx => "tx",
        })
    }
}

/// Error of text that can't be parsed as an address or a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidText {
    text: String,
    wanted: &'static str,
}

impl InvalidText {
    fn new(text: &str, wanted: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            wanted,
        }
    }
}

impl fmt::Display for InvalidText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is not {}", self.text, self.wanted)
    }
}

impl std::error::Error for InvalidText {}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddr {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let wanted = || InvalidText::new(text, "an Ethernet address");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| (1..=2).contains(&part.len()));
            // Otherwise a sign would be parsed as a digit.
            let part = part.filter(|part| part.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let part = part.and_then(|part| u8::from_str_radix(part, 16).ok());
            *byte = part.ok_or_else(wanted)?;
        }
        if parts.next().is_some() {
            Err(wanted())
        } else {
            Ok(Self(bytes))
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An IP address and the length of its network prefix: `10.0.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// IP address; bits behind the prefix may be set.
    pub addr: IpAddr,
    /// Length of the prefix in bits: up to 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// Prefix of a single address: `10.0.0.1/32`.
    pub fn host(addr: IpAddr) -> Self {
        Self {
            addr,
            len: Self::bits(addr),
        }
    }

    fn bits(addr: IpAddr) -> u8 {
        if addr.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.addr, self.len)
    }
}

impl FromStr for Prefix {
    type Err = InvalidText;

    /// Parses `ADDRESS/LENGTH`. Without a length it is a single address, as for `ip address add`.
    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let wanted = || InvalidText::new(text, "an address such as 10.0.0.1/24");
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr = addr.parse().map_err(|_| wanted())?;
        let prefix = match len {
            None => Self::host(addr),
            Some(len) => Self {
                addr,
                len: len.parse().map_err(|_| wanted())?,
            },
        };
        if prefix.len <= Self::bits(addr) {
            Ok(prefix)
        } else {
            Err(wanted())
        }
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_queues_are_ranges() {
        let list = |ids: &[u32]| {
            let ids: Vec<QueueId> = ids.iter().copied().map(QueueId::new).collect();
            queue_list(&ids)
        };
        assert_eq!(list(&[]), "");
        assert_eq!(list(&[3]), "3");
        assert_eq!(list(&[4, 3, 3]), "3,4");
        assert_eq!(list(&[0, 1, 2, 3, 0, 20, u32::MAX]), "0-3,20,4294967295");
    }
}
