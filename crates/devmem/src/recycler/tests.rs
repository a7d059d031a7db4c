//! The recycler against a model of the kernel's side.

use super::*;
use crate::cmsg::DmabufCmsg;
use crate::token::StreamTag;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Model of the kernel's side of `SO_DEVMEM_DONTNEED` (`sock_devmem_dontneed`), with the xarray of
/// a socket as a set.
#[derive(Default)]
struct Kernel {
    held_by_user: BTreeSet<u32>,
    free: BTreeSet<u32>,
    next: u32,
    calls: u32,
    refuse: Option<i32>,
}

impl Kernel {
    /// Issues a token, the lowest free id, as `__xa_alloc` does.
    fn issue(&mut self) -> u32 {
        let id = self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        self.held_by_user.insert(id);
        id
    }
}

impl DontNeed for Kernel {
    fn dontneed(&mut self, ranges: &[TokenRange]) -> io::Result<u32> {
        if let Some(errno) = self.refuse {
            return Err(io::Error::from_raw_os_error(errno));
        }
        self.calls += 1;
        if ranges.len() > MAX_RANGES {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let ids = ranges
            .iter()
            .flat_map(|range| range.start..range.start + range.count);
        let known = ids
            .take(MAX_FRAGS as usize)
            .filter(|id| self.held_by_user.remove(id));
        Ok(known.count() as u32)
    }
}

fn token(id: u32) -> Token {
    let cmsg = DmabufCmsg {
        frag_offset: 0,
        frag_size: 4096,
        frag_token: id,
        dmabuf_id: 1,
    };
    Token::new(&cmsg, StreamTag(0))
}

fn recycler_holding(ids: impl IntoIterator<Item = u32>) -> (Recycler, Kernel) {
    let (mut recycler, mut kernel) = (Recycler::new(Thresholds::default()), Kernel::default());
    for id in ids {
        kernel.held_by_user.insert(id);
        recycler.issued(1, 4096);
        recycler.push(token(id));
    }
    (recycler, kernel)
}

#[test]
fn consecutive_tokens_are_one_range_in_either_order() {
    for ids in [(0..1000).collect::<Vec<_>>(), (0..1000).rev().collect()] {
        let (mut recycler, mut kernel) = recycler_holding(ids);
        recycler.flush(&mut kernel).unwrap();
        let stats = recycler.stats();
        assert_eq!((stats.calls, stats.ranges, stats.freed), (1, 1, 1000));
        assert_eq!((stats.outstanding(), recycler.held()), (0, 0));
    }
}

/// Consecutive tokens are one range as they come, not only when they go: a batch takes no room for
/// each token.
#[test]
fn consecutive_tokens_are_one_range_as_they_come() {
    let (recycler, _) = recycler_holding(0..1000);
    assert_eq!(recycler.ranges.len(), 1);
}

/// Each call of a long transfer gives back a full batch of tokens, if the receiver flushes when a
/// flush is due.
#[test]
fn a_call_gives_a_full_batch_back() {
    const FRAGS: u64 = 10_000;
    let (mut recycler, mut kernel) = recycler_holding([]);
    for _ in 0..FRAGS {
        recycler.issued(1, 4096);
        recycler.push(token(kernel.issue()));
        if recycler.is_due() {
            recycler.flush(&mut kernel).unwrap();
        }
    }
    recycler.flush(&mut kernel).unwrap();
    let (stats, batch) = (recycler.stats(), Thresholds::default().frags);
    assert_eq!(stats.freed, FRAGS);
    assert_eq!(stats.calls, FRAGS.div_ceil(batch.into()));
    assert_eq!(stats.ranges, stats.calls);
}

#[test]
fn the_limits_of_a_call_are_kept() {
    let (mut recycler, mut kernel) = recycler_holding(0..2500);
    recycler.flush(&mut kernel).unwrap();
    assert_eq!(recycler.stats().calls, 3, "1024 frags a call");
    let (mut recycler, mut kernel) = recycler_holding((0..300).map(|id| id * 2));
    recycler.flush(&mut kernel).unwrap();
    assert_eq!(recycler.stats().calls, 3, "128 ranges a call");
    assert_eq!(recycler.stats().outstanding(), 0);
}

#[test]
fn what_the_kernel_does_not_free_stays_outstanding() {
    let (mut recycler, mut kernel) = recycler_holding(0..10);
    kernel.held_by_user.remove(&4);
    let error = recycler.flush(&mut kernel).unwrap_err();
    assert!(
        matches!(
            error,
            RecycleError::Unequal {
                asked: 10,
                freed: 9
            }
        ),
        "{error}"
    );
    assert_eq!((recycler.stats().outstanding(), recycler.held()), (1, 0));
    recycler.flush(&mut kernel).unwrap();
    assert_eq!(kernel.calls, 1, "not asked for twice");
}

#[test]
fn refused_tokens_are_held_and_given_back_later() {
    let (mut recycler, mut kernel) = recycler_holding(0..10);
    kernel.refuse = Some(libc::ENOMEM);
    let error = recycler.flush(&mut kernel).unwrap_err();
    assert!(
        matches!(
            error,
            RecycleError::Refused {
                asked: 10,
                ranges: 1,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!((recycler.stats().outstanding(), recycler.held()), (10, 10));
    kernel.refuse = None;
    recycler.flush(&mut kernel).unwrap();
    assert_eq!((recycler.stats().outstanding(), recycler.held()), (0, 0));
}

#[test]
fn the_thresholds_count_frags_and_bytes() {
    let due_after = |thresholds| {
        let mut recycler = Recycler::new(thresholds);
        (0..).find(|id| {
            recycler.push(token(*id));
            recycler.is_due()
        })
    };
    assert_eq!(
        due_after(Thresholds {
            frags: 5,
            bytes: u64::MAX
        }),
        Some(4)
    );
    assert_eq!(
        due_after(Thresholds {
            frags: u32::MAX,
            bytes: 8192
        }),
        Some(1)
    );
    assert_eq!(Thresholds::for_pool(64 << 12, 1 << 12).frags, 8);
}

proptest! {
    /// Every token goes back once, within the kernel's limits, whatever the order in which frags
    /// come and go.
    #[test]
    fn every_token_goes_back(
        steps in prop::collection::vec((0..400usize, any::<prop::sample::Index>()), 1..40),
    ) {
        let (mut recycler, mut kernel) = recycler_holding([]);
        let mut user = Vec::new();
        for (count, at) in steps {
            for _ in 0..count {
                recycler.issued(1, 4096);
                user.push(kernel.issue());
            }
            let split = at.index(user.len() + 1);
            user.drain(split..).for_each(|id| recycler.push(token(id)));
            user.reverse();
            if recycler.is_due() {
                recycler.flush(&mut kernel).unwrap();
            }
            prop_assert_eq!(
                recycler.stats().outstanding(),
                user.len() as u64 + u64::from(recycler.held())
            );
        }
        user.drain(..).for_each(|id| recycler.push(token(id)));
        recycler.flush(&mut kernel).unwrap();
        prop_assert_eq!(recycler.stats().outstanding(), 0);
        prop_assert!(kernel.held_by_user.is_empty());
        prop_assert_eq!(recycler.stats().asked, recycler.stats().freed);
    }
}
