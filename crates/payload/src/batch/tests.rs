//! Tests of a batch's checks against bytes that are counted one by one.

use proptest::prelude::*;

use super::*;

fn batch(pieces: &[(u64, u32, u64)]) -> Batch {
    let mut batch = Batch::default();
    for (source, len, destination) in pieces {
        batch.push(*source, *len, *destination);
    }
    batch
}

#[test]
fn a_descriptor_is_laid_out_as_the_kernels_have_it() {
    assert_eq!((size_of::<Descriptor>(), align_of::<Descriptor>()), (24, 8));
    let offsets = [
        std::mem::offset_of!(Descriptor, source),
        std::mem::offset_of!(Descriptor, destination),
        std::mem::offset_of!(Descriptor, len),
        std::mem::offset_of!(Descriptor, reserved),
    ];
    assert_eq!(offsets, [0, 8, 16, 20]);
}

#[test]
fn each_check_names_the_piece() {
    let good = batch(&[(0, 4, 0), (4, 4, 4)]);
    assert_eq!(good.check_gather(8, 8), Ok(()));
    assert_eq!(good.check_crc32(8), Ok(()));
    assert_eq!((good.bytes(), good.longest(), good.len()), (8, 4, 2));
    let empty = batch(&[(0, 4, 0), (4, 0, 4)]);
    for checked in [
        empty.check_gather(8, 8),
        empty.check_validate(8),
        empty.check_crc32(8),
    ] {
        assert_eq!(checked, Err(BatchError::Empty { piece: 1 }));
    }
    let source = |at| BatchError::Source {
        piece: 1,
        at,
        len: 4,
        size: 7,
    };
    assert_eq!(good.check_gather(7, 8), Err(source(4)));
    let far = batch(&[(0, 4, 0), (u64::MAX - 3, 4, 4)]);
    assert_eq!(far.check_validate(7), Err(source(u64::MAX - 3)));
    let destination = |at, size| BatchError::Destination {
        piece: 1,
        at,
        len: 4,
        size,
    };
    assert_eq!(good.check_gather(8, 7), Err(destination(4, 7)));
    let far = batch(&[(0, 4, 0), (4, 4, u64::MAX - 3)]);
    let last = u64::MAX - 3;
    assert_eq!(far.check_gather(8, 8), Err(destination(last, 8)));
    assert_eq!(far.check_validate(8), Err(destination(last, u64::MAX)));
    let overlap = batch(&[(0, 4, 8), (0, 4, 3), (0, 4, 0)]);
    let (first, second) = (2, 1);
    let error = BatchError::Overlap { first, second };
    assert_eq!(overlap.check_gather(8, 12), Err(error));
    assert_eq!(
        error.to_string(),
        "pieces 2 and 1 overlap in the destination"
    );
    assert_eq!(overlap.check_validate(8), Ok(()));
    assert_eq!(overlap.check_crc32(8), Err(BatchError::Gap { piece: 1 }));
    assert_eq!(Batch::default().check_gather(0, 0), Ok(()));
    assert_eq!(Batch::default().check_crc32(0), Ok(()));
}

#[test]
fn a_cleared_batch_can_be_used_again() {
    let mut used = batch(&[(0, 4, 0)]);
    used.clear();
    assert!(used.is_empty());
    assert_eq!((used.bytes(), used.longest()), (0, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn overlap_is_a_byte_written_twice(
        pieces in prop::collection::vec((0..60u64, 1..12u32), 0..8),
    ) {
        let pieces: Vec<_> = pieces.iter().map(|(at, len)| (0, *len, *at)).collect();
        let batch = batch(&pieces);
        let range = |piece: usize| {
            let (_, len, at) = pieces[piece];
            at..at + u64::from(len)
        };
        let both = |a, b| range(a).any(|byte| range(b).contains(&byte));
        let any = (0..pieces.len()).any(|a| (0..a).any(|b| both(a, b)));
        match batch.check_gather(12, 72) {
            Ok(()) => prop_assert!(!any),
            Err(BatchError::Overlap { first, second }) => {
                prop_assert!(first != second && both(first, second));
                prop_assert!(range(first).start <= range(second).start);
            }
            Err(error) => prop_assert!(false, "{error}"),
        }
    }
}
