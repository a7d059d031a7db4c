//! Tests of sinks with bytes that a socket receives in host memory, in segments of any length.
//! Sinks read frags as the same [`Part`]s, but frags need a kernel that makes them.

use std::io::Write as _;
use std::net::{TcpListener, TcpStream};

use proptest::prelude::*;

use super::{Checksum, Gather, Memory, Sink, SinkError, Validate, Write};
use crate::pattern::Pattern;
use crate::{DevmemStream, RecvBuffer};

/// Sends `pieces` over the loopback, receives at most `iov` bytes a call, and hands all bytes to
/// `sink`.
fn feed_sink<S: Sink>(pieces: &[Vec<u8>], iov: usize, mut sink: S) -> Result<S, SinkError> {
    feed_borrowed_sink(pieces, iov, &mut sink)?;
    Ok(sink)
}

fn feed_borrowed_sink<S: Sink>(
    pieces: &[Vec<u8>],
    iov: usize,
    sink: &mut S,
) -> Result<(), SinkError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    for piece in pieces {
        peer.write_all(piece).unwrap();
    }
    drop(peer);
    let mut stream = DevmemStream::new(socket);
    let mut buffer = RecvBuffer::with_capacity(iov, 1);
    loop {
        let mut received = stream.recv(&mut buffer).unwrap();
        if received.is_end() {
            return sink.finish();
        }
        sink.consume(&mut received)?;
    }
}

/// CRC-32 computed bit by bit, as the standard has it: the polynomial reversed, ones before and
/// after.
fn bitwise_crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc: u32, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}

#[test]
fn the_checksum_is_the_standard_crc32() {
    let sum =
        |bytes: &[u8]| feed_sink(&[bytes.to_vec()], 64, Checksum::new(Memory::new())).unwrap();
    assert_eq!(sum(b"123456789").crc32(), 0xcbf4_3926, "the check value");
    assert_eq!(bitwise_crc32(b"123456789"), 0xcbf4_3926);
    assert_eq!((sum(b"").crc32(), sum(b"").bytes()), (0, 0));
}

#[test]
fn a_stream_longer_than_its_region_is_refused() {
    let gather = || Gather::with_capacity(8, Memory::new());
    let exact = feed_sink(&[b"12345678".to_vec()], 3, gather()).unwrap();
    assert_eq!(exact.into_bytes(), b"12345678");
    let error = feed_sink(&[b"123456789".to_vec()], 3, gather()).unwrap_err();
    assert!(matches!(error, SinkError::Full { capacity: 8 }), "{error}");
    assert_eq!(
        error.to_string(),
        "the stream is longer than the 8 bytes that there is room for"
    );
}

#[test]
fn a_given_region_is_filled_from_its_beginning() {
    let mut region = [0xff; 6];
    let filled = {
        let gather = Gather::new(&mut region[..], Memory::new());
        let gather = feed_sink(&[b"abc".to_vec()], 2, gather).unwrap();
        assert_eq!(gather.bytes(), b"abc");
        gather.into_inner().1
    };
    assert_eq!((filled, &region), (3, b"abc\xff\xff\xff"));
}

/// The count of right bytes ends at the first wrong byte, not at its piece, whatever bytes follow.
#[test]
fn the_count_of_right_bytes_ends_at_the_wrong_byte() {
    let pattern = Pattern::new(7).unwrap();
    let mut whole = vec![0; 20_000];
    pattern.fill(0, &mut whole);
    whole[12_345] ^= 0x40;
    let mut validate = Validate::new(pattern, Memory::new());
    let error = feed_borrowed_sink(&[whole], 6000, &mut validate).unwrap_err();
    assert!(matches!(error, SinkError::Mismatch(found) if found.offset == 12_345));
    assert_eq!(validate.validated(), 12_345);
    let mut more = vec![0; 100];
    Pattern::new(7).unwrap().fill(12_000, &mut more);
    feed_borrowed_sink(&[more], 100, &mut validate).unwrap();
    assert_eq!(validate.validated(), 12_345);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn each_sink_takes_the_stream_whole_and_in_order(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..6),
        iov in 1..6000usize,
    ) {
        let whole = pieces.concat();
        let checksum = feed_sink(&pieces, iov, Checksum::new(Memory::new())).unwrap();
        prop_assert_eq!((checksum.crc32(), checksum.bytes()), (bitwise_crc32(&whole), whole.len() as u64));
        let gather = Gather::with_capacity(whole.len(), Memory::new());
        prop_assert_eq!(&feed_sink(&pieces, iov, gather).unwrap().into_bytes(), &whole);
        let write = feed_sink(&pieces, iov, Write::new(Vec::new(), Memory::new())).unwrap();
        prop_assert_eq!(&write.into_inner(), &whole);
    }

    #[test]
    fn a_pattern_validates_in_any_cut(len in 0..20_000usize, iov in 1..6000usize) {
        let pattern = Pattern::default();
        let mut whole = vec![0; len];
        pattern.fill(0, &mut whole);
        let validate = feed_sink(&[whole], iov, Validate::new(pattern, Memory::new())).unwrap();
        prop_assert_eq!(validate.validated(), len as u64);
    }
}
