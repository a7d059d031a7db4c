//! Tests without a kernel: what is written reads back, what is malformed is an error, and no bytes
//! make a parser panic.

use netlink_packet_core::{Emitable, NetlinkHeader};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::message::{Message, Messages};
use crate::socket::pass_answers;
use crate::{Attr, Attrs, Error, ParseError, Request, Result, Socket, Writer};

const SEQ: u32 = 7;
const PORT: u32 = 4242;
const ERROR: u16 = 2;
const DONE: u16 = 3;
const CAPPED: u16 = 0x100;
const ACK_TLVS: u16 = 0x200;
const BIND_RX: u16 = 30;

/// Builds a message with the kernel's framing.
fn message(kind: u16, flags: u16, (seq, port): (u32, u32), payload: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.length = u32::try_from(16 + payload.len()).unwrap();
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = seq;
    header.port_number = port;
    let mut bytes = vec![0; 16];
    header.emit(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn ours(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    message(kind, flags, (SEQ, PORT), payload)
}

fn request() -> Request {
    let mut request = Request::new(BIND_RX, &[13, 1, 0, 0], "bind-rx", "nk0 queue 1");
    request.attrs().u32(1, 5).u32(3, 9);
    request
}

/// Builds the payload of an acknowledgement: error number, request's header, echo, attributes.
fn ack(errno: i32, echo: &[u8], attrs: &Writer) -> Vec<u8> {
    let header = message(BIND_RX, 5, (SEQ, PORT), echo);
    [&errno.to_ne_bytes()[..], &header[..16], echo, attrs.bytes()].concat()
}

fn split_is_off() -> Writer {
    let mut attrs = Writer::new();
    attrs.str(1, "tcp-data-split is disabled").u32(2, 20);
    attrs
}

/// Messages of a datagram that `sort` passed on, and whether it found the answer's end.
fn pass_answers_of(datagram: &[u8]) -> Result<(Vec<Message>, bool)> {
    let mut messages = Vec::new();
    let end = pass_answers(datagram, &request(), (SEQ, PORT), &mut |message| {
        messages.push(message);
    })?;
    Ok((messages, end))
}

fn refusal(datagram: &[u8]) -> Error {
    pass_answers_of(datagram).unwrap_err()
}

#[test]
fn a_refusal_has_its_text_with_cap_ack() {
    let payload = ack(-libc::EINVAL, &[], &split_is_off());
    let error = refusal(&ours(ERROR, CAPPED | ACK_TLVS, &payload));
    assert_eq!(
        error.to_string(),
        "bind-rx nk0 queue 1: tcp-data-split is disabled (EINVAL)"
    );
    assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    assert_eq!(error.message(), Some("tcp-data-split is disabled"));
    assert_eq!(error.ext_ack().unwrap().offset(), Some(20));
}

#[test]
fn a_refusal_has_its_text_without_cap_ack() {
    let payload = ack(-libc::EINVAL, &[0xee; 24], &split_is_off());
    let error = refusal(&ours(ERROR, ACK_TLVS, &payload));
    assert_eq!(error.message(), Some("tcp-data-split is disabled"));
}

#[test]
fn a_refusal_without_text_has_the_meaning_of_its_number() {
    let silent = |errno: i32| refusal(&ours(ERROR, CAPPED, &ack(-errno, &[], &Writer::new())));
    assert_eq!(
        silent(libc::EBUSY).to_string(),
        "bind-rx nk0 queue 1: device or resource busy (EBUSY)"
    );
    assert_eq!(
        silent(524).to_string(),
        "bind-rx nk0 queue 1: operation not supported (ENOTSUPP)"
    );
    assert!(silent(libc::ENOBUFS).is_overrun());
    // Bytes behind the request's header are attributes only if the flag says so.
    let payload = ack(-libc::EINVAL, &[], &split_is_off());
    assert_eq!(refusal(&ours(ERROR, CAPPED, &payload)).message(), None);
}

#[test]
fn a_missing_attribute_is_named_by_its_number() {
    let mut attrs = Writer::new();
    attrs.u32(5, 2).nest(4, |policy| {
        policy.put(5, &7_u64.to_ne_bytes());
    });
    let error = refusal(&ours(
        ERROR,
        CAPPED | ACK_TLVS,
        &ack(-libc::EINVAL, &[], &attrs),
    ));
    assert_eq!(
        error.to_string(),
        "bind-rx nk0 queue 1: attribute 2 is missing (EINVAL)"
    );
    let ext_ack = error.ext_ack().unwrap();
    assert_eq!((ext_ack.missing(), ext_ack.missing_in()), (Some(2), None));
    assert_eq!(ext_ack.policy().unwrap().max, Some(7));
}

#[test]
fn a_dump_fails_at_its_end() {
    let mut payload = (-libc::ENODEV).to_ne_bytes().to_vec();
    let mut attrs = Writer::new();
    attrs.str(1, "it went away");
    payload.extend_from_slice(attrs.bytes());
    let part = ours(BIND_RX, 2, &[13, 1, 0, 0]);
    let error = refusal(&[part, ours(DONE, 2 | ACK_TLVS, &payload)].concat());
    assert_eq!(
        error.to_string(),
        "bind-rx nk0 queue 1: it went away (ENODEV)"
    );

    // The flag may be set although the attributes did not fit.
    let error = refusal(&ours(DONE, 2 | ACK_TLVS, &(-libc::ENODEV).to_ne_bytes()));
    assert_eq!(
        (error.message(), error.raw_os_error()),
        (None, Some(libc::ENODEV))
    );

    let (messages, end) = pass_answers_of(&ours(DONE, 2, &0_i32.to_ne_bytes())).unwrap();
    assert!(end && messages.len() == 1);
}

#[test]
fn damaged_acknowledgements_are_errors() {
    for payload in [
        &[][..],
        &[0xea, 0xff, 0xff][..],
        &[0xea, 0xff, 0xff, 0xff, 1][..],
    ] {
        let error = refusal(&ours(ERROR, 0, payload));
        assert_eq!(error.raw_os_error(), None, "{payload:?}");
        assert!(std::error::Error::source(&error).is_some());
    }
    let mut attrs = Writer::new();
    attrs.put(2, &[1, 2]);
    let error = refusal(&ours(
        ERROR,
        CAPPED | ACK_TLVS,
        &ack(-libc::EINVAL, &[], &attrs),
    ));
    assert!(
        error
            .to_string()
            .ends_with("the kernel's answer can't be parsed")
    );
}

#[test]
fn only_answers_to_this_request_count() {
    let answer = [13, 1, 0, 0];
    let datagram = [
        message(BIND_RX, 0, (SEQ - 1, PORT), &answer),
        message(BIND_RX, 0, (SEQ, PORT + 1), &answer),
        message(
            ERROR,
            CAPPED,
            (SEQ - 1, PORT),
            &ack(-libc::EPERM, &[], &Writer::new()),
        ),
        ours(BIND_RX, 0, &answer),
    ];
    let (messages, end) = pass_answers_of(&datagram.concat()).unwrap();
    assert_eq!((messages.len(), end), (1, false));
    assert_eq!(messages[0].generic().unwrap().0, 13);

    let done = ours(ERROR, CAPPED, &ack(0, &[], &Writer::new()));
    let late = ours(BIND_RX, 0, &answer);
    let (messages, end) = pass_answers_of(&[done, late].concat()).unwrap();
    assert!(
        end && messages.len() == 1,
        "nothing is taken behind the acknowledgement"
    );
}

#[test]
fn a_request_that_is_too_long_is_never_sent() {
    let mut request = request();
    request.attrs().nest(2, |nest| {
        nest.put(1, &vec![0; 65_532]);
    });
    let error = request.encode(0, 1, 1).unwrap_err();
    assert!(error.to_string().contains("too long"));
}

#[test]
fn a_request_is_framed_and_padded() {
    let mut request = Request::new(BIND_RX, &[1, 2, 3, 4], "op", "object").flags(0x400);
    request.attrs().u8(1, 9).nest(2, |nest| {
        nest.str(1, "abcd").flag(2);
    });
    let bytes = request.encode(5, SEQ, PORT).unwrap();
    let body = [1, 2, 3, 4, 5, 0, 1, 0, 9, 0, 0, 0, 20, 0, 2, 128];
    let nest = [9, 0, 1, 0, b'a', b'b', b'c', b'd', 0, 0, 0, 0, 4, 0, 2, 0];
    assert_eq!(
        bytes,
        message(BIND_RX, 0x405, (SEQ, PORT), &[body, nest].concat())
    );
}

#[test]
fn attributes_have_the_size_of_their_type() {
    let mut writer = Writer::new();
    writer
        .put(1, &[1, 2, 3])
        .put(2, b"no end")
        .put(3, &[0xff, 0])
        .uint(4, 1 << 33);
    let attrs: Vec<Attr<'_>> = Attrs::new(writer.bytes())
        .map(|attr| attr.unwrap())
        .collect();
    assert_eq!(
        attrs[0].u32(),
        Err(ParseError::Size {
            kind: 1,
            want: 4,
            got: 3
        })
    );
    assert_eq!(
        attrs[0].uint(),
        Err(ParseError::Size {
            kind: 1,
            want: 8,
            got: 3
        })
    );
    assert_eq!(attrs[1].str(), Err(ParseError::Text { kind: 2 }));
    assert_eq!(attrs[2].str(), Err(ParseError::Text { kind: 3 }));
    assert_eq!(attrs[3].uint(), Ok(1 << 33));
}

#[test]
fn wrong_lengths_are_errors() {
    let first = |bytes: &[u8]| Attrs::new(bytes).next().unwrap().map(|attr| attr.kind());
    assert_eq!(first(&[4, 0]), Err(ParseError::Header { left: 2 }));
    assert_eq!(
        first(&[3, 0, 1, 0]),
        Err(ParseError::Length {
            kind: 1,
            len: 3,
            left: 4
        })
    );
    assert_eq!(
        first(&[8, 0, 1, 0, 0]),
        Err(ParseError::Length {
            kind: 1,
            len: 8,
            left: 5
        })
    );
    assert_eq!(
        first(&[5, 0, 1, 128, 0]),
        Ok(1),
        "the last padding may be missing"
    );
    let mut whole = ours(BIND_RX, 0, &[1, 2, 3, 4]);
    whole.truncate(18);
    assert!(Messages(&whole).next().unwrap().is_err());
    assert!(Messages(&whole[..15]).next().unwrap().is_err());
}

/// Requests that need no privilege are answered by the running kernel.
#[test]
fn the_running_kernel_answers() {
    let mut socket = match Socket::generic() {
        Ok(socket) => socket,
        Err(error) => {
            eprintln!("SKIP: no generic netlink here: {error}");
            return;
        }
    };
    let family = socket.family("nlctrl").unwrap();
    assert_eq!(family.id(), 16);
    assert!(family.group("notify").is_ok() && family.group("nonsense").is_err());
    let error = socket.family("nonsense").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    // CTRL_CMD_GETFAMILY as a dump: at least nlctrl itself.
    let all = socket.dump(&family.request(3, "getfamily", "")).unwrap();
    assert!(all.iter().all(|message| message.kind() == 16) && !all.is_empty());
}

proptest! {
    #[test]
    fn written_attributes_are_read_back(
        list in vec((0_u16..0x3fff, vec(any::<u8>(), 0..40)), 0..10),
        nest in 0_u16..0x3fff,
    ) {
        let mut writer = Writer::new();
        writer.nest(nest, |inner| {
            for (kind, payload) in &list {
                inner.put(*kind, payload);
            }
        });
        let mut outer = Attrs::new(writer.bytes());
        let attr = outer.next().unwrap().unwrap();
        prop_assert_eq!(attr.kind(), nest);
        prop_assert!(outer.next().is_none());
        let read: std::result::Result<Vec<_>, _> = attr.nested().collect();
        let read: Vec<_> =
            read.unwrap().iter().map(|attr| (attr.kind(), attr.bytes().to_vec())).collect();
        prop_assert_eq!(read, list);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..200)) {
        for attr in Attrs::new(&bytes).flatten() {
            let _ = (attr.u8(), attr.u16(), attr.u32(), attr.i32(), attr.u64());
            let _ = (attr.uint(), attr.str(), attr.nested().count());
        }
        for message in Messages(&bytes).flatten() {
            let _ = (message.generic(), message.split(16));
        }
        let _ = pass_answers_of(&bytes);
    }

    /// Any bytes of an acknowledgement are parsed or are an error, without a panic.
    #[test]
    fn no_acknowledgement_makes_the_parser_panic(
        kind in ERROR..=DONE,
        flags in any::<u16>(),
        payload in vec(any::<u8>(), 0..64),
    ) {
        let _ = pass_answers_of(&ours(kind, flags, &payload));
    }
}
