//! What passed between us and peers whose links are over: a peer shall not be as new by coming anew.
//!
//! Identities cost nothing, and anybody may borrow another's. What an attacker cannot change as
//! cheaply is the address that it connects from. So an account is kept for an identity *at an
//! address*, and an identity that nobody knows is not taken for new where another has only taken: it
//! may be one of several behind one router, so it is not taken for the other either, but for one
//! whose chance is running. What it gives makes it a giver, like everybody else.
//!
//! Invariant: at most [`PASTS_MAX`] accounts; what was noted longest ago is forgotten first. Only who was
//! sent a piece's worth is noted: of less nothing could have come, and to flush the memory costs as many links to which
//! we gave a slot.
//! Not here: what a standing is worth (`choker`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::book::block_of;
use crate::types::PeerId;

/// Accounts that are kept.
const PASTS_MAX: usize = 1024;

/// What passed over earlier links with a peer, and what became of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Bytes it sent us in pieces that proved right.
    pub given: u64,
    /// Bytes we sent it.
    pub taken: u64,
    /// Pieces of ours that it passed on.
    pub passed_on: u32,
    /// Pieces of ours that it had time to pass on and did not.
    pub kept: u32,
    /// Others have only taken at its address.
    pub is_suspect: bool,
}

impl Past {
    /// Whether more was sent to it than nothing, and nothing has come of it.
    fn only_took(&self) -> bool {
        self.taken > 0 && self.passed_on == 0 && self.given < self.taken / 10
    }

    /// Whether it cannot be called new.
    pub(super) fn is_on_trial(&self) -> bool {
        self.is_suspect || self.taken > 0
    }
}

/// A map of the entries that were put into it last.
#[derive(Clone, Debug)]
pub struct Recent<K, V> {
    entries: BTreeMap<K, (u64, V)>,
    order: BTreeMap<u64, K>,
    next: u64,
    room: usize,
}

impl<K: Copy + Ord, V> Recent<K, V> {
    /// Room for so many.
    pub fn new(room: usize) -> Self {
        Self { entries: BTreeMap::new(), order: BTreeMap::new(), next: 0, room }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What there is for a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    /// Puts an entry in, as the newest; the oldest makes room.
    pub fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        if self.entries.len() >= self.room
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.entries.remove(&oldest);
        }
        self.order.insert(self.next, key);
        self.entries.insert(key, (self.next, value));
        self.next += 1;
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let (number, value) = self.entries.remove(key)?;
        self.order.remove(&number);
        Some(value)
    }

    fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }
}

/// The accounts; see the module's header.
#[derive(Clone, Debug)]
pub struct Pasts {
    accounts: Recent<(IpAddr, PeerId), Past>,
    piece_len: u64,
}

impl Pasts {
    /// No accounts yet, of a share with pieces of `piece_len` bytes.
    pub fn new(piece_len: u64) -> Self {
        Self { accounts: Recent::new(PASTS_MAX), piece_len }
    }

    /// A link is over; `past` is all that passed, over this link and those before.
    pub fn note(&mut self, peer: PeerId, from: IpAddr, past: Past) {
        if past.taken >= self.piece_len {
            self.accounts.insert((block_of(from), peer), past);
        }
    }

    /// What passed with a peer that comes now.
    pub fn of(&self, peer: PeerId, from: IpAddr) -> Past {
        let block = block_of(from);
        if let Some(past) = self.accounts.get(&(block, peer)) {
            return *past;
        }
        // Of one machine's peers each is its own.
        let only_took =
            |(key, past): (&(IpAddr, PeerId), &Past)| key.0 == block && past.only_took();
        let is_suspect = !block.is_loopback() && self.accounts.iter().any(only_took);
        Past { is_suspect, ..Past::default() }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Past = Past { given: 0, taken: 100, passed_on: 0, kept: 0, is_suspect: false };

    fn id(number: u64) -> PeerId {
        PeerId::numbered(number)
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn who_comes_back_has_the_account_it_left_with_and_nobody_elsewhere_has_it() {
        let mut pasts = Pasts::new(100);
        pasts.note(id(1), ip(1), TOOK);
        assert_eq!(pasts.of(id(1), ip(1)), TOOK);
        assert_eq!(pasts.of(id(1), ip(2)), Past::default(), "anybody may borrow an identity");
        assert_eq!(pasts.of(id(2), ip(2)), Past::default());
    }

    #[test]
    fn a_new_identity_is_not_new_where_another_has_only_taken() {
        let mut pasts = Pasts::new(100);
        pasts.note(id(1), ip(1), TOOK);
        pasts.note(id(1), ip(2), Past { given: 50, ..TOOK });
        pasts.note(id(1), ip(3), Past { passed_on: 1, ..TOOK });
        pasts.note(id(1), [127, 0, 0, 1].into(), TOOK);
        let suspects = [ip(1), ip(2), ip(3), [127, 0, 0, 1].into()]
            .map(|from| pasts.of(id(2), from).is_suspect);
        assert_eq!(suspects, [true, false, false, false]);
    }

    #[test]
    fn what_was_noted_longest_ago_is_forgotten_first() {
        let mut recent = Recent::new(3);
        [1, 2, 3, 1, 4].into_iter().for_each(|key| recent.insert(key, key * 10));
        let left: Vec<_> = recent.iter().map(|(key, _)| *key).collect();
        assert_eq!(left, [1, 3, 4]);
        assert_eq!(recent.remove(&3), Some(30));
        recent.insert(5, 50);
        assert_eq!((recent.get(&1), recent.order.len()), (Some(&10), 3));
    }

    #[test]
    fn who_was_sent_less_than_a_piece_is_not_worth_remembering() {
        let mut pasts = Pasts::new(100);
        pasts.note(id(1), ip(1), TOOK);
        for number in 2..10_000 {
            pasts.note(id(number), ip(2), Past { taken: 99, ..TOOK });
        }
        assert_eq!(pasts.of(id(1), ip(1)), TOOK);
        assert_eq!(pasts.of(id(2), ip(2)), Past::default());
    }
}
