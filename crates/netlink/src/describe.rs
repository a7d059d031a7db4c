//! Log lines that describe requests and answers.
//!
//! Each request is one `tracing` event at level `DEBUG` with target `netlink`: `bind-rx eth1 queue
//! 3: ifindex 5, queues [id 3, type rx], fd 7 -> id 2`. Nothing is formatted where that target is
//! disabled.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use tracing::{Level, debug, enabled};

use crate::message::Message;
use crate::{Attr, Attrs, Request, Result};

/// Greatest number of attributes of an answer that a log line describes; the rest is counted.
const MAX_DESCRIBED: usize = 16;

/// Name of an attribute, and the format of its payload, for log lines.
#[derive(Debug, Clone, Copy)]
pub struct AttrSpec {
    kind: u16,
    name: &'static str,
    format: Format,
}

#[derive(Debug, Clone, Copy)]
enum Format {
    /// An unsigned number, as wide as the attribute's payload.
    Number,
    /// A signed number of 4 bytes.
    Signed,
    /// A number of an enumeration, with the names of its values from 0.
    Choice(&'static [&'static str]),
    Text,
    Flag,
    /// An IPv4, IPv6 or Ethernet address: the length of the payload tells which.
    Address,
    /// Opaque bytes, of which only the number is printed.
    Bytes,
    /// Nested attributes behind a fixed header of this many bytes.
    Nest(usize, &'static [AttrSpec]),
}

impl AttrSpec {
    /// Attribute that is an unsigned number in host byte order, of 1, 2, 4 or 8 bytes.
    pub const fn number(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Format::Number)
    }

    /// Attribute that is a signed number of 4 bytes.
    pub const fn signed(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Format::Signed)
    }

    /// Attribute that is a number of an enumeration, whose values from 0 have these names.
    pub const fn choice(kind: u16, name: &'static str, names: &'static [&'static str]) -> Self {
        Self::new(kind, name, Format::Choice(names))
    }

    /// Attribute that is a string.
    pub const fn text(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Format::Text)
    }

    /// Attribute without payload, which is a flag (`NLA_FLAG`).
    pub const fn flag(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Format::Flag)
    }

    /// Attribute that is an IPv4, IPv6 or Ethernet address.
    pub const fn address(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Format::Address)
    }

    /// Attribute of opaque bytes, of which only the number is printed.
    pub const fn bytes(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Format::Bytes)
    }

    /// Attribute with nested attributes, which have formats of their own.
    pub const fn nest(kind: u16, name: &'static str, attrs: &'static [Self]) -> Self {
        Self::new(kind, name, Format::Nest(0, attrs))
    }

    /// Attribute with nested attributes behind a fixed header of `header` bytes.
    pub const fn message(
        kind: u16,
        name: &'static str,
        header: usize,
        attrs: &'static [Self],
    ) -> Self {
        Self::new(kind, name, Format::Nest(header, attrs))
    }

    const fn new(kind: u16, name: &'static str, format: Format) -> Self {
        Self { kind, name, format }
    }
}

/// Format of the requests and answers of one netlink operation, for log lines.
#[derive(Debug, Clone, Copy)]
pub struct MessageSpec {
    /// Length of the fixed header before the attributes, in bytes.
    pub header: usize,
    /// Formats of the attributes.
    pub attrs: &'static [AttrSpec],
}

/// Finds the format of an operation by the message type and the first byte behind the message's
/// header, which in generic netlink is the command.
pub type FindMessageSpec = fn(kind: u16, first: u8) -> MessageSpec;

/// Whether log events of this crate are recorded.
fn is_enabled() -> bool {
    enabled!(target: "netlink", Level::DEBUG)
}

/// Number of answers that a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// One answer or one acknowledgement.
    One,
    /// All entries of a dump, and its end.
    All,
}

/// Logs a netlink request and its outcome.
pub(crate) fn log(
    message_spec: Option<FindMessageSpec>,
    expected: Expected,
    request: &Request,
    answers: &Result<Vec<Message>>,
) {
    if is_enabled() {
        debug!(target: "netlink", "{}", describe(message_spec, expected, request, answers));
    }
}

/// Describes a netlink request and its outcome: `bind-rx eth1: ifindex 5, fd 7 -> id 2`.
fn describe(
    message_spec: Option<FindMessageSpec>,
    expected: Expected,
    request: &Request,
    answers: &Result<Vec<Message>>,
) -> String {
    let body = request.body();
    let first = body.first().copied().unwrap_or_default();
    let spec = message_spec.map(|find| find(request.kind, first));
    let mut text = match request.op {
        // A look-up by name has no operation: its errors begin with the name.
        "" => "look-up".to_owned(),
        op => op.to_owned(),
    };
    if !request.object.is_empty() {
        let _ = write!(text, " {}", request.object);
    }
    let attrs = spec
        .map(|spec| describe_message(body, spec, usize::MAX))
        .unwrap_or_default();
    if !attrs.is_empty() {
        let _ = write!(text, ": {attrs}");
    }
    text += " -> ";
    match (answers, spec) {
        (Err(error), _) => {
            // The error names operation and object itself.
            let said = error.to_string();
            let head = format!("{} {}: ", request.op, request.object);
            text += said.strip_prefix(head.trim_start()).unwrap_or(&said);
        }
        (Ok(answers), _) if expected == Expected::All => {
            let _ = write!(text, "{} listed", answers.len());
        }
        (Ok(answers), spec) => match (answers.first(), spec) {
            (Some(answer), Some(spec)) => {
                text += &describe_message(answer.payload(), spec, MAX_DESCRIBED);
            }
            (Some(_), None) => text += "an answer",
            (None, _) => text += "ok",
        },
    }
    text
}

/// Describes the attributes behind a message's fixed header.
fn describe_message(bytes: &[u8], spec: MessageSpec, at_most: usize) -> String {
    let attrs = bytes
        .get(spec.header.next_multiple_of(4)..)
        .unwrap_or_default();
    describe_attrs(Attrs::new(attrs), spec.attrs, at_most)
}

fn describe_attrs(attrs: Attrs<'_>, specs: &[AttrSpec], at_most: usize) -> String {
    let mut parts = Vec::new();
    let mut more = 0;
    for attr in attrs {
        let Ok(attr) = attr else {
            parts.push("malformed attributes".to_owned());
            break;
        };
        let spec = specs.iter().find(|spec| spec.kind == attr.kind());
        match spec {
            Some(spec) if parts.len() < at_most => parts.push(describe_attr(&attr, *spec)),
            None if at_most == usize::MAX => {
                parts.push(format!(
                    "attribute {} ({} bytes)",
                    attr.kind(),
                    attr.bytes().len()
                ));
            }
            _ => more += 1,
        }
    }
    if more > 0 {
        parts.push(format!("and {more} more"));
    }
    parts.join(", ")
}

fn describe_attr(attr: &Attr<'_>, spec: AttrSpec) -> String {
    let name = spec.name;
    let value = match spec.format {
        Format::Number => number(attr).map(|number| number.to_string()),
        Format::Signed => attr.i32().ok().map(|number| number.to_string()),
        Format::Choice(names) => number(attr).map(|number| {
            let chosen = usize::try_from(number).ok().and_then(|at| names.get(at));
            chosen.map_or_else(|| number.to_string(), |name| (*name).to_owned())
        }),
        Format::Text => attr.str().ok().map(str::to_owned),
        Format::Flag => return name.to_owned(),
        Format::Address => address(attr.bytes()),
        Format::Nest(header, attrs) => {
            let spec = MessageSpec { header, attrs };
            Some(format!(
                "[{}]",
                describe_message(attr.bytes(), spec, usize::MAX)
            ))
        }
        Format::Bytes => None,
    };
    match value {
        Some(value) => format!("{name} {value}"),
        None => format!("{name} ({} bytes)", attr.bytes().len()),
    }
}

fn number(attr: &Attr<'_>) -> Option<u64> {
    match attr.bytes().len() {
        1 => attr.u8().ok().map(u64::from),
        2 => attr.u16().ok().map(u64::from),
        _ => attr.uint().ok(),
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(bytes) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(bytes).to_string());
    }
    if let Ok(bytes) = <[u8; 16]>::try_from(bytes) {
        return Some(Ipv6Addr::from(bytes).to_string());
    }
    let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    (bytes.len() == 6).then(|| hex.join(":"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    const QUEUE: &[AttrSpec] = &[
        AttrSpec::number(1, "id"),
        AttrSpec::choice(3, "type", &["rx", "tx"]),
    ];
    const BIND: &[AttrSpec] = &[
        AttrSpec::number(1, "ifindex"),
        AttrSpec::nest(2, "queues", QUEUE),
        AttrSpec::number(3, "fd"),
        AttrSpec::flag(9, "flag"),
        AttrSpec::address(10, "to"),
    ];

    fn bind_rx_spec(_: u16, _: u8) -> MessageSpec {
        MessageSpec {
            header: 4,
            attrs: BIND,
        }
    }

    fn request() -> Request {
        let mut request = Request::new(20, &[13, 1, 0, 0], "bind-rx", "eth1");
        request.attrs().u32(1, 5).nest(2, |queue| {
            queue.u32(1, 3).u32(3, 0);
        });
        request
            .attrs()
            .put(3, &7_i32.to_ne_bytes())
            .put(8, &[1, 2, 3]);
        request.attrs().flag(9);
        request.attrs().put(10, &[192, 0, 2, 1]);
        request
    }

    #[test]
    fn a_request_is_described() {
        let said = describe(
            Some(bind_rx_spec),
            Expected::One,
            &request(),
            &Ok(Vec::new()),
        );
        assert_eq!(
            said,
            "bind-rx eth1: ifindex 5, queues [id 3, type rx], fd 7, attribute 8 (3 bytes), flag, \
             to 192.0.2.1 -> ok"
        );
    }

    #[test]
    fn the_entries_of_a_list_are_counted() {
        let request = Request::new(20, &[10, 1, 0, 0], "queue-get", "");
        let said = describe(Some(bind_rx_spec), Expected::All, &request, &Ok(Vec::new()));
        assert_eq!(said, "queue-get -> 0 listed");
    }

    #[test]
    fn a_refusal_is_described_once() {
        let refused = Err(Error::from_errno("bind-rx", "eth1", libc::EBUSY));
        let said = describe(None, Expected::One, &request(), &refused);
        assert_eq!(said, "bind-rx eth1 -> device or resource busy (EBUSY)");
    }

    #[test]
    fn a_request_without_an_operation_is_a_look_up() {
        let request = Request::new(18, &[0; 16], "", "eth9");
        let refused = Err(Error::from_errno("", "eth9", libc::ENODEV));
        let said = describe(None, Expected::One, &request, &refused);
        assert_eq!(said, "look-up eth9 -> no such device (ENODEV)");
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_are_described(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = describe_attrs(Attrs::new(&bytes), BIND, 3);
        }
    }
}
