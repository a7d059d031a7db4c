//! The bytes of a dmabuf as a ring: filled, sent and set free in one order.

use std::ops::Range;

/// Ring over a dmabuf's bytes, with three marks that follow each other: bytes filled, bytes sent,
/// bytes free again. All are counts of bytes since the beginning.
///
/// ```
/// # use devmem::send::Ring;
/// let mut ring = Ring::new(8192);
/// assert_eq!(ring.room(6000), 0..6000);
/// ring.filled(6000);
/// assert_eq!(ring.unsent(4096), 0..4096);
/// ring.sent(4096);
/// assert_eq!(ring.room(6000), 6000..8192);
/// ring.freed(4096);
/// ring.filled(2192);
/// assert_eq!(ring.room(6000), 0..4096);
/// ```
#[derive(Debug, Clone)]
pub struct Ring {
    len: u64,
    filled: u64,
    sent: u64,
    freed: u64,
}

impl Ring {
    /// Makes the ring of a dmabuf of `len` bytes, all of them free.
    ///
    /// # Panics
    /// If `len` is 0, which no dmabuf's is.
    pub fn new(len: u64) -> Self {
        assert!(len > 0, "a ring of no bytes");
        Self {
            len,
            filled: 0,
            sent: 0,
            freed: 0,
        }
    }

    /// Range of the next free bytes, at most `max`, as far as they are contiguous; empty if no byte
    /// is free.
    pub fn room(&self, max: u64) -> Range<u64> {
        self.contiguous(
            self.filled,
            (self.len - (self.filled - self.freed)).min(max),
        )
    }

    /// Marks the next `bytes` bytes of [`room`](Self::room) as filled.
    ///
    /// # Panics
    /// If there was no room for them.
    pub fn filled(&mut self, bytes: u64) {
        assert!(bytes <= self.len - (self.filled - self.freed), "overfilled");
        self.filled += bytes;
    }

    /// Range of the next bytes to send, at most `max`, as far as they are contiguous; empty if all
    /// are sent.
    pub fn unsent(&self, max: u64) -> Range<u64> {
        self.contiguous(self.sent, (self.filled - self.sent).min(max))
    }

    /// Marks the next `bytes` bytes of [`unsent`](Self::unsent) as taken by the socket.
    ///
    /// # Panics
    /// If they were not filled.
    pub fn sent(&mut self, bytes: u64) {
        assert!(
            bytes <= self.filled - self.sent,
            "sent what was never filled"
        );
        self.sent += bytes;
    }

    /// Marks the oldest `bytes` bytes that were sent as free: the kernel reads them no more.
    ///
    /// # Panics
    /// If they were not sent.
    pub fn freed(&mut self, bytes: u64) {
        assert!(bytes <= self.sent - self.freed, "freed what was never sent");
        self.freed += bytes;
    }

    fn contiguous(&self, from: u64, len: u64) -> Range<u64> {
        let start = from % self.len;
        start..start + len.min(self.len - start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every filled byte is sent once, in order, and is not overwritten before it is free.
        #[test]
        fn every_byte_is_sent_once_and_in_order(
            len in 1..64u64,
            steps in prop::collection::vec((0..3u8, 0..80u64), 0..300),
        ) {
            let mut ring = Ring::new(len);
            let mut memory = vec![None; len as usize];
            let (mut next, mut sent, mut freed) = (0u64, 0u64, 0u64);
            for (step, max) in steps {
                match step {
                    0 => {
                        let room = ring.room(max);
                        prop_assert!(room.end <= len && room.end - room.start <= max);
                        for byte in &mut memory[room.start as usize..room.end as usize] {
                            prop_assert_eq!(byte.replace(next), None);
                            next += 1;
                        }
                        ring.filled(room.end - room.start);
                    }
                    1 => {
                        let unsent = ring.unsent(max);
                        prop_assert!(unsent.end <= len && unsent.end - unsent.start <= max);
                        for byte in &memory[unsent.start as usize..unsent.end as usize] {
                            prop_assert_eq!(*byte, Some(sent));
                            sent += 1;
                        }
                        ring.sent(unsent.end - unsent.start);
                    }
                    _ => {
                        let bytes = max.min(sent - freed);
                        for at in freed..freed + bytes {
                            prop_assert_eq!(memory[(at % len) as usize].take(), Some(at));
                        }
                        freed += bytes;
                        ring.freed(bytes);
                    }
                }
            }
        }
    }
}
