//! Requests and answers in words, for those who want to see what is asked of the kernel.
//!
//! Each goes to `tracing` as one event at level `DEBUG` with target `netlink`: `bind-rx eth1 queue
//! 3: ifindex 5, queues [id 3, type rx], fd 7 -> id 2`. Where nobody listens to them, none is put
//! into words.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use tracing::{Level, debug, enabled};

use crate::message::Message;
use crate::{Attr, Attrs, Request, Result};

/// Attributes of an answer that are told; the rest is counted.
const TOLD: usize = 16;

/// An attribute's name, and how its payload reads.
#[derive(Debug, Clone, Copy)]
pub struct Word {
    kind: u16,
    name: &'static str,
    form: Form,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    /// A number, of as many bytes as there are.
    Number,
    /// A number with a sign.
    Signed,
    /// A number whose meanings have names, from 0.
    Choice(&'static [&'static str]),
    Text,
    Flag,
    /// An address of IP, or of Ethernet, by its length.
    Address,
    /// Too much to be told: its length.
    Bytes,
    /// Behind a fixed header of so many bytes.
    Nest(usize, &'static [Word]),
}

impl Word {
    /// An unsigned number in host byte order, of 1, 2, 4 or 8 bytes.
    pub const fn number(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Form::Number)
    }

    /// A signed number of 4 bytes.
    pub const fn signed(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Form::Signed)
    }

    /// A number of an enumeration, whose names are those from 0 on.
    pub const fn choice(kind: u16, name: &'static str, names: &'static [&'static str]) -> Self {
        Self::new(kind, name, Form::Choice(names))
    }

    /// A string.
    pub const fn text(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Form::Text)
    }

    /// An attribute that says something by being there.
    pub const fn flag(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Form::Flag)
    }

    /// An address, of IPv4, IPv6 or Ethernet.
    pub const fn address(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Form::Address)
    }

    /// Bytes of which only the number is told.
    pub const fn bytes(kind: u16, name: &'static str) -> Self {
        Self::new(kind, name, Form::Bytes)
    }

    /// Nested attributes, with words of their own.
    pub const fn nest(kind: u16, name: &'static str, words: &'static [Self]) -> Self {
        Self::new(kind, name, Form::Nest(0, words))
    }

    /// As [`Word::nest`], behind a fixed header of so many bytes.
    pub const fn message(
        kind: u16,
        name: &'static str,
        header: usize,
        words: &'static [Self],
    ) -> Self {
        Self::new(kind, name, Form::Nest(header, words))
    }

    const fn new(kind: u16, name: &'static str, form: Form) -> Self {
        Self { kind, name, form }
    }
}

/// How the messages of one operation read, both ways.
#[derive(Debug, Clone, Copy)]
pub struct Phrase {
    /// Length of the fixed header before the attributes, in bytes.
    pub header: usize,
    /// The attributes.
    pub words: &'static [Word],
}

/// Finds an operation's phrase by the message type and the first byte behind the message's header,
/// which in generic netlink is the command.
pub type Vocabulary = fn(kind: u16, first: u8) -> Phrase;

/// Whether somebody listens.
pub(crate) fn wanted() -> bool {
    enabled!(target: "netlink", Level::DEBUG)
}

/// What of an answer is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// One answer, or an acknowledgement.
    One,
    /// All of a kind.
    All,
}

/// Tells a request and what came of it.
pub(crate) fn tell(
    vocabulary: Option<Vocabulary>,
    asked: Asked,
    request: &Request,
    answers: &Result<Vec<Message>>,
) {
    if wanted() {
        debug!(target: "netlink", "{}", line(vocabulary, asked, request, answers));
    }
}

/// `bind-rx eth1: ifindex 5, fd 7 -> id 2`.
pub(crate) fn line(
    vocabulary: Option<Vocabulary>,
    asked: Asked,
    request: &Request,
    answers: &Result<Vec<Message>>,
) -> String {
    let body = request.body();
    let first = body.first().copied().unwrap_or_default();
    let phrase = vocabulary.map(|find| find(request.kind, first));
    let mut text = match request.op {
        // Errors of a look-up by name begin with the name.
        "" => "look-up".to_owned(),
        op => op.to_owned(),
    };
    if !request.object.is_empty() {
        let _ = write!(text, " {}", request.object);
    }
    let words = phrase
        .map(|phrase| all(body, phrase, usize::MAX))
        .unwrap_or_default();
    if !words.is_empty() {
        let _ = write!(text, ": {words}");
    }
    text += " -> ";
    match (answers, phrase) {
        (Err(error), _) => {
            // The error names operation and object itself.
            let said = error.to_string();
            let head = format!("{} {}: ", request.op, request.object);
            text += said.strip_prefix(head.trim_start()).unwrap_or(&said);
        }
        (Ok(answers), _) if asked == Asked::All => {
            let _ = write!(text, "{} listed", answers.len());
        }
        (Ok(answers), phrase) => match (answers.first(), phrase) {
            (Some(answer), Some(phrase)) => text += &all(answer.payload(), phrase, TOLD),
            (Some(_), None) => text += "an answer",
            (None, _) => text += "ok",
        },
    }
    text
}

/// What stands behind a fixed header.
fn all(bytes: &[u8], phrase: Phrase, at_most: usize) -> String {
    let attrs = bytes
        .get(phrase.header.next_multiple_of(4)..)
        .unwrap_or_default();
    told(Attrs::new(attrs), phrase.words, at_most)
}

fn told(attrs: Attrs<'_>, words: &[Word], at_most: usize) -> String {
    let mut parts = Vec::new();
    let mut more = 0;
    for attr in attrs {
        let Ok(attr) = attr else {
            parts.push("what can't be parsed".to_owned());
            break;
        };
        let word = words.iter().find(|word| word.kind == attr.kind());
        match word {
            Some(word) if parts.len() < at_most => parts.push(one(&attr, *word)),
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

fn one(attr: &Attr<'_>, word: Word) -> String {
    let name = word.name;
    let value = match word.form {
        Form::Number => number(attr).map(|number| number.to_string()),
        Form::Signed => attr.i32().ok().map(|number| number.to_string()),
        Form::Choice(names) => number(attr).map(|number| {
            let chosen = usize::try_from(number).ok().and_then(|at| names.get(at));
            chosen.map_or_else(|| number.to_string(), |name| (*name).to_owned())
        }),
        Form::Text => attr.str().ok().map(str::to_owned),
        Form::Flag => return name.to_owned(),
        Form::Address => address(attr.bytes()),
        Form::Nest(header, words) => {
            let phrase = Phrase { header, words };
            Some(format!("[{}]", all(attr.bytes(), phrase, usize::MAX)))
        }
        Form::Bytes => None,
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

    const QUEUE: &[Word] = &[
        Word::number(1, "id"),
        Word::choice(3, "type", &["rx", "tx"]),
    ];
    const BIND: &[Word] = &[
        Word::number(1, "ifindex"),
        Word::nest(2, "queues", QUEUE),
        Word::number(3, "fd"),
        Word::flag(9, "flag"),
        Word::address(10, "to"),
    ];

    fn bind(_: u16, _: u8) -> Phrase {
        Phrase {
            header: 4,
            words: BIND,
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
    fn a_request_reads_as_a_sentence() {
        let said = line(Some(bind), Asked::One, &request(), &Ok(Vec::new()));
        assert_eq!(
            said,
            "bind-rx eth1: ifindex 5, queues [id 3, type rx], fd 7, attribute 8 (3 bytes), flag, \
             to 192.0.2.1 -> ok"
        );
    }

    #[test]
    fn a_list_is_counted() {
        let request = Request::new(20, &[10, 1, 0, 0], "queue-get", "");
        let said = line(Some(bind), Asked::All, &request, &Ok(Vec::new()));
        assert_eq!(said, "queue-get -> 0 listed");
    }

    #[test]
    fn a_refusal_is_told_in_the_kernels_words_once() {
        let refused = Err(Error::from_errno("bind-rx", "eth1", libc::EBUSY));
        let said = line(None, Asked::One, &request(), &refused);
        assert_eq!(said, "bind-rx eth1 -> device or resource busy (EBUSY)");
    }

    #[test]
    fn a_request_without_an_operation_is_a_look_up() {
        let request = Request::new(18, &[0; 16], "", "eth9");
        let refused = Err(Error::from_errno("", "eth9", libc::ENODEV));
        let said = line(None, Asked::One, &request, &refused);
        assert_eq!(said, "look-up eth9 -> no such device (ENODEV)");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = told(Attrs::new(&bytes), BIND, 3);
        }
    }
}
