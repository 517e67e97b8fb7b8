//! The pieces we came to hold, in the order in which we did: what is to be announced.
//!
//! A writer takes the first free slot by a compare-and-swap that also publishes it, so a
//! reader never meets a hole or a half-written entry, and no writer waits for another.
//!
//! Invariant: every slot below the length is filled and never changes again. The length may
//! lag behind the last filled slot for the moment between two steps of a writer.
//! Not here: pieces that were held from the start.

use super::sync::{AtomicU32, Ordering};

pub(super) struct News {
    /// Number of a piece plus one; 0 = free.
    slots: Box<[AtomicU32]>,
    len: AtomicU32,
}

impl News {
    pub(super) fn new(capacity: u32) -> Self {
        Self { slots: (0..capacity).map(|_| AtomicU32::new(0)).collect(), len: AtomicU32::new(0) }
    }

    pub(super) fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    /// Appends a piece. Each piece comes at most once, so there is always room.
    pub(super) fn push(&self, piece: u32) {
        let mut at = self.len();
        while let Some(slot) = self.slots.get(at as usize) {
            let taken =
                slot.compare_exchange(0, piece + 1, Ordering::AcqRel, Ordering::Acquire).is_ok();
            at += 1;
            // Also for somebody else's slot: its writer may be slow to say so.
            self.len.fetch_max(at, Ordering::AcqRel);
            if taken {
                return;
            }
        }
        debug_assert!(false, "piece {piece} was held twice");
    }

    /// The entries from number `from` on, as far as they go now.
    pub(super) fn since(&self, from: u32) -> impl Iterator<Item = u32> + '_ {
        (from..self.len())
            .map(|at| self.slots[at as usize].load(Ordering::Acquire))
            .map(|entry| entry - 1)
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_come_back_in_order_from_any_point_on() {
        let news = News::new(3);
        assert_eq!((news.len(), news.since(0).count()), (0, 0));
        [2, 0, 1].into_iter().for_each(|piece| news.push(piece));
        assert_eq!(news.since(0).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(news.since(2).collect::<Vec<_>>(), [1]);
        assert_eq!(news.since(3).count() + news.since(9).count(), 0);
    }
}
