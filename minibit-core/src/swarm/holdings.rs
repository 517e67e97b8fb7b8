//! What one peer holds, as its link reports it and everybody else reads it.
//!
//! The link's connections change it, mostly the one that carries control messages; they and
//! the picker read it on any core without a lock. Nothing and everything need no bitmap: a
//! seeder costs a few words of memory, any other peer 1.016 bits for each piece.
//!
//! Invariant: `len` is the number of pieces held once all changes have landed, and each change
//! is counted once. So that this also holds while a peer starts, stops or changes the way of
//! being counted, changes of one peer's holdings take turns under a lock of that peer: no
//! other link and no reader ever meets it. A reader may see a change late, never a piece that
//! was not announced.
//! Not here: counting the holders of a piece (`ledger`), checking indices (`types`).

use std::sync::{OnceLock, PoisonError};

use super::bits::Bits;
use super::sync::{AtomicU8, AtomicU32, Mutex, MutexGuard, Ordering};
use crate::types::{PieceIndex, PieceSet};

/// How a [`Ledger`](super::Ledger) counts a peer at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Counted {
    /// Not at all.
    Not = 0,
    /// In the number of seeders.
    AsSeeder = 1,
    /// Piece by piece.
    ByPiece = 2,
}

/// The pieces one peer holds; see the module's header. A share's
/// [`Ledger`](super::Ledger) changes it.
///
/// In this order in memory: how many it holds is asked for most.
#[repr(C)]
pub struct Holdings {
    len: AtomicU32,
    pieces: u32,
    counted: AtomicU8,
    changing: Mutex<()>,
    /// Made with the first change that leaves it neither empty nor full.
    bits: OnceLock<Bits>,
}

impl Holdings {
    /// A peer that holds nothing yet of a share of `pieces` pieces.
    pub fn empty(pieces: u32) -> Self {
        Self::with_len(pieces, 0)
    }

    /// A peer that holds all of a share of `pieces` pieces.
    pub fn full(pieces: u32) -> Self {
        Self::with_len(pieces, pieces)
    }

    /// A peer that holds these pieces.
    pub fn from_set(set: &PieceSet) -> Self {
        let holdings = Self::with_len(set.capacity(), set.len());
        if !set.is_empty() && !set.is_full() {
            holdings.bits.get_or_init(|| Bits::from_words(set.words().to_vec()));
        }
        holdings
    }

    fn with_len(pieces: u32, len: u32) -> Self {
        Self {
            bits: OnceLock::new(),
            len: AtomicU32::new(len),
            pieces,
            counted: AtomicU8::new(Counted::Not as u8),
            changing: Mutex::new(()),
        }
    }

    /// How many pieces the share has.
    pub fn capacity(&self) -> u32 {
        self.pieces
    }

    /// How many pieces the peer holds.
    pub fn len(&self) -> u32 {
        self.len.load(Ordering::Acquire)
    }

    /// Whether the peer holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the peer holds every piece: it is a seeder.
    pub fn is_full(&self) -> bool {
        self.len() == self.pieces
    }

    /// Whether the peer holds this piece.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        match self.bits.get() {
            Some(bits) => bits.contains(piece.index()),
            None => self.is_full(),
        }
    }

    /// The pieces held, as a set.
    pub fn snapshot(&self, geometry: &crate::types::Geometry) -> PieceSet {
        let mut set = PieceSet::empty(self.pieces);
        geometry.pieces().filter(|piece| self.contains(*piece)).for_each(|piece| {
            set.insert(piece);
        });
        set
    }

    /// Waits for the turn to change it; see the module's header.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plain, for changes take turns.
    fn set_len(&self, len: u32) {
        self.len.store(len, Ordering::Release);
    }

    /// Makes an empty peer one that holds everything.
    pub(super) fn set_full(&self) {
        match self.bits.get() {
            None => self.set_len(self.pieces),
            Some(_) => {
                for (word, mask) in PieceSet::full(self.pieces).words().iter().enumerate() {
                    self.insert_word(word, *mask);
                }
            }
        }
    }

    /// Adds 64 neighbouring pieces by their mask; returns those that are new.
    pub(super) fn insert_word(&self, word: usize, mask: u64) -> u64 {
        if mask == 0 || (self.bits.get().is_none() && self.is_full()) {
            return 0;
        }
        let bits = self.bits.get_or_init(|| Bits::empty(self.pieces));
        let new = mask & !bits.insert(word, mask);
        self.set_len(self.len() + new.count_ones());
        new
    }

    /// Adds a piece; false if it was there.
    pub(super) fn insert(&self, piece: PieceIndex) -> bool {
        let (word, mask) = place(piece);
        self.insert_word(word, mask) != 0
    }

    /// Takes a piece out; false if it was not there.
    pub(super) fn remove(&self, piece: PieceIndex) -> bool {
        if self.bits.get().is_none() && !self.is_full() {
            return false;
        }
        let (word, mask) = place(piece);
        let bits = self
            .bits
            .get_or_init(|| Bits::from_words(PieceSet::full(self.pieces).words().to_vec()));
        let was = bits.remove(word, mask) & mask != 0;
        if was {
            self.set_len(self.len() - 1);
        }
        was
    }

    /// The bitmap; `None` if there is none because the peer holds nothing or everything.
    pub(super) fn bits(&self) -> Option<&Bits> {
        self.bits.get()
    }

    pub(super) fn counted(&self) -> Counted {
        match self.counted.load(Ordering::Acquire) {
            0 => Counted::Not,
            1 => Counted::AsSeeder,
            _ => Counted::ByPiece,
        }
    }

    /// Sets how the peer is counted.
    pub(super) fn set_counted(&self, counted: Counted) {
        self.counted.store(counted as u8, Ordering::Release);
    }
}

impl std::fmt::Debug for Holdings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Holdings({} of {})", self.len(), self.pieces)
    }
}

/// Word and bit of a piece.
pub(super) fn place(piece: PieceIndex) -> (usize, u64) {
    (piece.index() / 64, 1 << (piece.get() % 64))
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::super::share_of;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_seeder_and_an_empty_peer_have_no_bitmap_until_they_change() {
        let geometry = share_of(1000);
        let piece = geometry.piece(999).unwrap();
        let seeder = Holdings::from_set(&PieceSet::full(1000));
        assert!(seeder.is_full() && seeder.contains(piece) && !seeder.insert(piece));
        assert!(seeder.bits().is_none());
        assert!(seeder.remove(piece));
        assert!(!seeder.contains(piece) && seeder.len() == 999);
        assert!(seeder.insert(piece) && seeder.is_full());

        let fresh = Holdings::empty(1000);
        assert!(!fresh.contains(piece) && !fresh.remove(piece));
        assert!(fresh.bits().is_none());
        assert!(fresh.insert(piece) && fresh.contains(piece));
    }

    proptest! {
        #[test]
        fn holdings_answer_like_a_set(
            pieces in 1u32..200, full in any::<bool>(),
            changes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200),
        ) {
            let geometry = share_of(pieces);
            let mut set = if full { PieceSet::full(pieces) } else { PieceSet::empty(pieces) };
            let holdings = Holdings::from_set(&set);
            for (raw, put) in changes {
                let piece = geometry.piece(raw % pieces).unwrap();
                if put {
                    prop_assert_eq!(holdings.insert(piece), set.insert(piece));
                } else {
                    prop_assert_eq!(holdings.remove(piece), set.remove(piece));
                }
                prop_assert_eq!(holdings.len(), set.len());
                prop_assert_eq!(holdings.is_full(), set.is_full());
            }
            prop_assert_eq!(holdings.snapshot(&geometry), set);
        }
    }
}
