//! Tests of what one simulated `recvmsg` returns: its segments, their order, and where their tokens
//! go.

use super::*;
use crate::buffer::ProtocolError;
use crate::cmsg::DmabufCmsg;
use crate::cmsg::Message::{self, Dmabuf, Linear};
use crate::recycler::Thresholds;
use proptest::prelude::*;

const STREAM: StreamTag = StreamTag(7);

fn frag(token: u32, frag_offset: u64, frag_size: u32) -> Message {
    Dmabuf(DmabufCmsg {
        frag_offset,
        frag_size,
        frag_token: token,
        dmabuf_id: 3,
    })
}

fn size(message: &Message) -> usize {
    match message {
        Dmabuf(frag) => frag.frag_size as usize,
        Linear(len) => *len as usize,
        Message::Queued(_) | Message::Error(_) | Message::Unknown(_) => 0,
    }
}

/// Parses `messages` as those of one `recvmsg`; returns the totals, and a recycler that issued the
/// tokens.
fn receive(buffer: &mut RecvBuffer, iov: &[u8], messages: &[Message]) -> (Totals, Recycler) {
    let bytes = messages.iter().map(size).sum();
    let filled = buffer.fill(bytes, iov, messages);
    let totals = buffer.parse(filled).unwrap();
    let mut recycler = Recycler::new(Thresholds::default());
    recycler.issued(totals.frags, totals.frag_bytes);
    (totals, recycler)
}

#[test]
fn segments_come_in_stream_order() {
    let mut buffer = RecvBuffer::with_capacity(256, 8);
    let messages = [
        Linear(2),
        frag(0, 4096, 100),
        frag(1, 0, 50),
        Linear(3),
        frag(2, 8, 1),
    ];
    let (totals, mut recycler) = receive(&mut buffer, b"abcde", &messages);
    assert_eq!(
        (totals.bytes, totals.frag_bytes, totals.linear_bytes),
        (156, 151, 5)
    );
    let mut received = Received::new(&buffer, totals, 1000, STREAM, &mut recycler);
    assert_eq!(received.len(), 5);
    assert_eq!(received.stream_offset(), 1000);
    assert_eq!(received.next(), Some(Segment::Inline(b"ab")));
    let Some(Segment::Frag(first)) = received.next() else {
        panic!()
    };
    assert_eq!(
        (first.offset, first.len, first.dmabuf),
        (4096, 100, DmabufId(3))
    );
    received.give_back(first.token);
    let Some(Segment::Frag(_dropped)) = received.next() else {
        panic!()
    };
    assert_eq!(received.next(), Some(Segment::Inline(b"cde")));
    drop(received);
    // One given back, one dropped by its holder, one never taken out.
    assert_eq!(recycler.held(), 2);
    assert_eq!(recycler.stats().issued, 3);
}

#[test]
fn bytes_without_a_devmem_message_are_unsteered() {
    let mut buffer = RecvBuffer::with_capacity(64, 8);
    let filled = buffer.fill(5, b"hello", &[]);
    let totals = buffer.parse(filled).unwrap();
    let mut recycler = Recycler::new(Thresholds::default());
    let mut received = Received::new(&buffer, totals, 0, STREAM, &mut recycler);
    assert_eq!(received.unsteered(), 5);
    assert_eq!(received.next(), Some(Segment::Inline(b"hello")));
    assert_eq!(received.next(), None);
}

#[test]
fn unknown_messages_are_reported() {
    let mut buffer = RecvBuffer::with_capacity(64, 8);
    let unknown = Unknown {
        level: libc::SOL_SOCKET,
        kind: libc::SCM_TIMESTAMPNS,
        len: 16,
    };
    let messages = [frag(0, 0, 9), Message::Unknown(unknown), Message::Queued(0)];
    let (totals, mut recycler) = receive(&mut buffer, b"", &messages);
    assert_eq!(totals.unknown_cmsgs, 1);
    let received = Received::new(&buffer, totals, 0, STREAM, &mut recycler);
    assert_eq!(received.unknown(), [unknown]);
    assert!(received.is_drained());
}

#[test]
fn a_wrong_sum_of_bytes_is_an_error_and_loses_no_token() {
    let mut buffer = RecvBuffer::with_capacity(64, 8);
    let filled = buffer.fill(10, b"", &[frag(4, 0, 5), frag(5, 0, 6)]);
    let error = buffer.parse(filled).unwrap_err();
    assert_eq!(
        error,
        ProtocolError::Sum {
            returned: 10,
            described: 11
        }
    );
    let mut recycler = Recycler::new(Thresholds::default());
    give_back_all(buffer.parsed().1, STREAM, &mut recycler);
    assert_eq!(recycler.held(), 2);
}

#[test]
#[should_panic(expected = "another stream")]
fn a_token_of_another_stream_is_refused() {
    let mut buffer = RecvBuffer::with_capacity(64, 8);
    let (totals, mut recycler) = receive(&mut buffer, b"", &[frag(0, 0, 9)]);
    let mut received = Received::new(&buffer, totals, 0, STREAM, &mut recycler);
    let Some(Segment::Frag(mut frag)) = received.next() else {
        panic!()
    };
    frag.token.stream = StreamTag(8);
    received.give_back(frag.token);
}

proptest! {
    #[test]
    fn arbitrary_control_bytes_never_panic(
        bytes in 0..3000usize,
        messages in prop::collection::vec((any::<bool>(), 0..500u32), 0..8),
        flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut buffer = RecvBuffer::with_capacity(1024, 8);
        let messages: Vec<_> = messages
            .iter()
            .map(|(linear, len)| if *linear { Linear(*len) } else { frag(1, 0, *len) })
            .collect();
        let filled = buffer.fill(bytes, b"", &messages);
        if let Some((at, value)) = flip {
            let control = crate::sys::bytes_mut(buffer.parts_mut(crate::RecvLimit::NONE).1);
            control[at.index(control.len())] = value;
        }
        let mut recycler = Recycler::new(Thresholds::default());
        if let Ok(totals) = buffer.parse(filled) {
            let received = Received::new(&buffer, totals, 0, STREAM, &mut recycler);
            let sum: usize = received
                .map(|segment| match segment {
                    Segment::Inline(bytes) => bytes.len(),
                    Segment::Frag(frag) => frag.len as usize,
                })
                .sum();
            prop_assert_eq!(sum, bytes);
        }
    }
}
