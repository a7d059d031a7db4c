//! Where tensors lie: slots of one region, used in turn.

use std::collections::BTreeMap;

use crate::frame::Header;

/// Number and size of the tensors, which are all alike.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    /// Number of tensors to receive.
    pub(crate) tensors: u32,
    /// Length of each tensor in bytes.
    pub(crate) bytes: u64,
    /// Number of tensors that are in the region at a time.
    pub(crate) slots: u32,
}

/// Why a part's header is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    NoSuchTensor,
    Empty,
    Outside,
    Twice,
}

impl Refused {
    /// Description of the refusal, in words.
    pub(crate) fn description(self) -> &'static str {
        match self {
            Refused::NoSuchTensor => "there is no such tensor",
            Refused::Empty => "it has no bytes",
            Refused::Outside => "it leaves the tensor",
            Refused::Twice => "bytes of it were announced before",
        }
    }
}

/// Slots of the region for tensors, and the tensors' parts that were announced.
#[derive(Debug)]
pub(crate) struct Ring {
    shape: Shape,
    /// Number of the tensor that each slot is for at present.
    holds: Vec<u64>,
    tensors: Vec<Tensor>,
}

#[derive(Debug, Clone, Default)]
struct Tensor {
    /// Parts of the tensor that were announced: the offset of each part's end, by that of its
    /// beginning.
    parts: BTreeMap<u64, u64>,
    /// Number of bytes of the tensor that are in place.
    there: u64,
}

impl Ring {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            shape,
            holds: (0..u64::from(shape.slots)).collect(),
            tensors: vec![Tensor::default(); shape.tensors as usize],
        }
    }

    /// Checks the header of a part that a peer announces, and remembers the part: no byte of a
    /// tensor comes twice.
    pub(crate) fn expect(&mut self, header: &Header) -> Result<(), Refused> {
        let tensor = self.tensors.get_mut(header.tensor as usize);
        let tensor = tensor.ok_or(Refused::NoSuchTensor)?;
        if header.len == 0 {
            return Err(Refused::Empty);
        }
        let end = header.offset.checked_add(header.len);
        let end = end.filter(|end| *end <= self.shape.bytes);
        let end = end.ok_or(Refused::Outside)?;
        // Parts don't overlap each other, so the last that begins before the end is the one to ask.
        let before = tensor.parts.range(..end).next_back();
        if before.is_some_and(|(_, before)| *before > header.offset) {
            return Err(Refused::Twice);
        }
        tensor.parts.insert(header.offset, end);
        Ok(())
    }

    /// Offset in the region of a tensor's first byte, once the tensor's slot is free for it.
    pub(crate) fn region_offset(&self, tensor: u32) -> Option<u64> {
        let slot = self.slot(tensor);
        let free = self.holds[slot as usize] == u64::from(tensor);
        free.then_some(u64::from(slot) * self.shape.bytes)
    }

    /// Number of the slot of a tensor.
    pub(crate) fn slot(&self, tensor: u32) -> u32 {
        tensor % self.shape.slots
    }

    /// Counts `bytes` bytes of an announced part as in place.
    pub(crate) fn mark_received(&mut self, tensor: u32, bytes: u64) {
        self.tensors[tensor as usize].there += bytes;
    }

    /// Number of a tensor that is complete, and still in its slot; `None` if there is none.
    pub(crate) fn complete_tensor(&self) -> Option<u32> {
        let held = self
            .holds
            .iter()
            .filter_map(|held| u32::try_from(*held).ok());
        held.filter(|held| self.there(*held) == Some(self.shape.bytes))
            .min()
    }

    /// Frees the slot of a tensor that has been used, for the next tensor of that slot.
    pub(crate) fn used(&mut self, tensor: u32) {
        let slot = self.slot(tensor);
        self.holds[slot as usize] = u64::from(tensor) + u64::from(self.shape.slots);
    }

    /// Tensors that are not complete, with the number of their bytes that are in place.
    pub(crate) fn incomplete_tensors(&self) -> impl Iterator<Item = (usize, u64)> {
        let tensors = self.tensors.iter().map(|tensor| tensor.there).enumerate();
        tensors.filter(|(_, there)| *there < self.shape.bytes)
    }

    fn there(&self, tensor: u32) -> Option<u64> {
        Some(self.tensors.get(tensor as usize)?.there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHAPE: Shape = Shape {
        tensors: 5,
        bytes: 64,
        slots: 2,
    };

    fn header(tensor: u32, offset: u64, len: u64) -> Header {
        Header {
            tensor,
            offset,
            len,
        }
    }

    #[test]
    fn a_slot_is_used_in_turn() {
        let mut ring = Ring::new(SHAPE);
        assert_eq!(
            [0, 1, 2, 3].map(|tensor| ring.region_offset(tensor)),
            [Some(0), Some(64), None, None]
        );
        ring.expect(&header(1, 0, 64)).unwrap();
        ring.mark_received(1, 63);
        assert_eq!(ring.complete_tensor(), None);
        ring.mark_received(1, 1);
        assert_eq!(ring.complete_tensor(), Some(1));
        ring.used(1);
        assert_eq!(ring.complete_tensor(), None);
        assert_eq!(
            [0, 1, 2, 3].map(|tensor| ring.region_offset(tensor)),
            [Some(0), None, None, Some(64)]
        );
        assert_eq!(ring.expect(&header(1, 0, 1)), Err(Refused::Twice));
        assert_eq!(
            ring.incomplete_tensors().collect::<Vec<_>>(),
            [(0, 0), (2, 0), (3, 0), (4, 0)]
        );
    }

    #[test]
    fn impossible_headers_are_refused() {
        let mut ring = Ring::new(SHAPE);
        for (tensor, offset, len, why) in [
            (5, 0, 1, Refused::NoSuchTensor),
            (u32::MAX, 0, 1, Refused::NoSuchTensor),
            (0, 0, 0, Refused::Empty),
            (0, 0, 65, Refused::Outside),
            (0, 64, 1, Refused::Outside),
            (0, u64::MAX, 1, Refused::Outside),
            (0, 1, u64::MAX, Refused::Outside),
        ] {
            assert_eq!(ring.expect(&header(tensor, offset, len)), Err(why));
        }
        assert_eq!(ring.expect(&header(0, 0, 64)), Ok(()));
    }

    proptest! {
        #[test]
        fn no_byte_is_expected_twice(parts in prop::collection::vec((0..70u64, 0..20u64), 0..20)) {
            let mut ring = Ring::new(SHAPE);
            let mut seen = [false; 64];
            for (offset, len) in parts {
                let bytes = seen.get_mut(offset as usize..(offset + len) as usize);
                let good = bytes.filter(|bytes| !bytes.is_empty() && !bytes.contains(&true));
                let expected = ring.expect(&header(3, offset, len)).is_ok();
                prop_assert_eq!(expected, good.is_some());
                if let Some(bytes) = good {
                    bytes.fill(true);
                }
            }
        }
    }
}
