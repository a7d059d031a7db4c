//! Tests of the CPU's work against loops over single bytes, and against zlib's sum.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::BatchError;

const SOURCE: usize = 20_000;
const DESTINATION: usize = 30_000;

fn bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), len)
}

/// Strategy of pieces of the source region, mostly shorter than the unit in which they are read,
/// some longer.
fn pieces() -> impl Strategy<Value = Vec<(u64, u32)>> {
    let len = prop_oneof![4 => 1..300u32, 1 => 3000..9000u32];
    let piece = (any::<Index>(), len);
    let piece = piece.prop_map(|(at, len)| (at.index(SOURCE - len as usize + 1) as u64, len));
    prop::collection::vec(piece, 0..12)
}

/// Batch of pieces that follow each other in the stream, from `at` on.
fn consecutive_batch(pieces: &[(u64, u32)], at: u64) -> Batch {
    let mut batch = Batch::with_capacity(pieces.len());
    pieces.iter().fold(at, |at, (source, len)| {
        batch.push(*source, *len, at);
        at + u64::from(*len)
    });
    batch
}

/// Bytes of a piece in the source region.
fn bytes_of<'a>(source: &'a [u8], piece: &Descriptor) -> &'a [u8] {
    let start = piece.source as usize;
    &source[start..start + piece.len as usize]
}

/// A malformed batch is refused and changes no byte of the destination.
#[test]
fn a_malformed_batch_changes_nothing() {
    let mut host = Host::of_bytes(vec![7; 16], 16).unwrap();
    let wrong: [&[(u64, u32, u64)]; 4] = [
        &[(0, 4, 0), (0, 0, 4)],
        &[(0, 4, 0), (13, 4, 4)],
        &[(0, 4, 0), (0, 4, 13)],
        &[(0, 4, 0), (0, 4, 3)],
    ];
    for pieces in wrong {
        let mut batch = Batch::default();
        for (source, len, destination) in pieces {
            batch.push(*source, *len, *destination);
        }
        let error = host.gather(&batch).unwrap_err();
        assert!(matches!(error, DeviceError::Batch(_)), "{error}");
        assert!(!error.is_lost());
        assert_eq!(host.destination(), [0; 16]);
        let error = host.crc32(&batch).unwrap_err();
        assert!(matches!(error, DeviceError::Batch(_)), "{error}");
    }
    let error = host.validate(&consecutive_batch(&[(13, 4)], 0), &Pattern::default());
    assert!(matches!(
        error,
        Err(DeviceError::Batch(BatchError::Source { .. }))
    ));
}

#[test]
fn nothing_outside_the_destination_is_read_or_written() {
    let mut host = Host::of_bytes(Vec::new(), 16).unwrap();
    host.write(12, &[1, 2, 3, 4]).unwrap();
    let mut out = [0; 4];
    host.read(12, &mut out).unwrap();
    assert_eq!(out, [1, 2, 3, 4]);
    host.read(16, &mut []).unwrap();
    for offset in [13, 16, 17, u64::MAX] {
        let read = host.read(offset, &mut out).unwrap_err();
        let written = host.write(offset, &out).unwrap_err();
        for error in [read, written] {
            let DeviceError::Memory(dmabuf::Error::OutOfBounds { size, .. }) = error else {
                panic!("{error}");
            };
            assert_eq!(size, 16);
        }
    }
    let mut none = Host::of_bytes(vec![1], 0).unwrap();
    assert_eq!((none.destination_len(), none.source_len()), (0, 1));
    assert!(none.destination().is_empty());
    assert!(none.gather(&consecutive_batch(&[(0, 1)], 0)).is_err());
    let error = Host::of_bytes(Vec::new(), u64::MAX).unwrap_err();
    assert_eq!(error.to_string(), "destination in host memory");
}

#[test]
fn of_two_pieces_at_one_position_the_first_is_reported() {
    let pattern = Pattern::new(7).unwrap();
    let mut host = Host::of_bytes(vec![0x11, 0x22], 0).unwrap();
    let mut batch = Batch::default();
    batch.push(0, 2, 100);
    batch.push(1, 1, 100);
    batch.push(0, 1, 101);
    let found = host.validate(&batch, &pattern).unwrap();
    assert_eq!(found, Some(Mismatch::new(100, pattern.byte(100), 0x11)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn gathered_as_byte_by_byte(
        source in bytes(SOURCE),
        pieces in pieces(),
        gaps in prop::collection::vec(0..50u64, 12),
        turn in any::<Index>(),
    ) {
        // Positions in order with gaps, then rotated.
        let mut placed = Vec::new();
        let mut at = 0;
        for ((source, len), gap) in pieces.iter().zip(gaps) {
            at += gap;
            if at + u64::from(*len) > DESTINATION as u64 {
                break;
            }
            placed.push((*source, *len, at));
            at += u64::from(*len);
        }
        if !placed.is_empty() {
            let turn = turn.index(placed.len());
            placed.rotate_left(turn);
        }
        let mut batch = Batch::default();
        let mut expected = vec![0; DESTINATION];
        for (from, len, to) in placed {
            batch.push(from, len, to);
            for i in 0..len as usize {
                expected[to as usize + i] = source[from as usize + i];
            }
        }
        let mut host = Host::of_bytes(source, DESTINATION as u64).unwrap();
        host.gather(&batch).unwrap();
        prop_assert_eq!(host.destination(), &expected);
    }

    #[test]
    fn summed_up_as_zlib(source in bytes(SOURCE), pieces in pieces(), at in 0..u64::MAX / 2) {
        let batch = consecutive_batch(&pieces, at);
        let whole = batch.descriptors().iter().map(|piece| bytes_of(&source, piece));
        let expected = crc32fast::hash(&whole.collect::<Vec<_>>().concat());
        let mut host = Host::of_bytes(source, 0).unwrap();
        prop_assert_eq!(host.crc32(&batch).unwrap(), expected);
    }

    #[test]
    fn validated_as_byte_by_byte(
        pieces in pieces(),
        start in 0..u64::MAX / 2,
        period in 1..300usize,
        wrong in prop::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        apart in any::<bool>(),
    ) {
        // The pattern at the positions of the pieces; later pieces may overwrite earlier ones.
        let pattern = Pattern::new(period).unwrap();
        let batch = if apart {
            consecutive_batch(&pieces, start)
        } else {
            let mut batch = Batch::default();
            for (from, len) in &pieces {
                batch.push(*from, *len, start + from);
            }
            batch
        };
        let mut source = vec![0; SOURCE];
        for piece in batch.descriptors() {
            let from = piece.source as usize;
            pattern.fill(piece.destination, &mut source[from..from + piece.len as usize]);
        }
        for (index, byte) in wrong {
            *index.get_mut(&mut source) = byte;
        }
        let mut expected: Option<Mismatch> = None;
        for piece in batch.descriptors() {
            for (i, byte) in bytes_of(&source, piece).iter().enumerate() {
                let offset = piece.destination + i as u64;
                let right = pattern.byte(offset);
                if *byte != right && expected.is_none_or(|first| offset < first.offset) {
                    expected = Some(Mismatch::new(offset, right, *byte));
                }
            }
        }
        let mut host = Host::of_bytes(source, 0).unwrap();
        prop_assert_eq!(host.validate(&batch, &pattern).unwrap(), expected);
    }
}
