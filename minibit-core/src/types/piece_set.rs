//! A set of pieces as a bitmap, and its form on the wire.
//!
//! On the wire bit 7 of byte 0 is piece 0; the bits after the last piece must be zero.
//! Not here: counting holders (`swarm::ledger`), which needs atomics.

use super::{Geometry, PieceIndex};

/// Which pieces of one share somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    /// Bit `n % 64` of word `n / 64` is piece `n`.
    words: Box<[u64]>,
    pieces: u32,
    len: u32,
}

/// A bitmap that does not fit its share: its sender is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PieceSetError {
    /// Not one bit for every piece, rounded up to whole bytes.
    #[error("bitmap of {got} bytes where the share's pieces need {want}")]
    Length {
        /// Bytes received.
        got: usize,
        /// Bytes that this share's bitmaps have.
        want: usize,
    },
    /// A bit after the last piece is set.
    #[error("bitmap claims pieces after the last one")]
    SpareBits,
}

impl PieceSet {
    /// No piece of a share of `pieces` pieces.
    pub fn empty(pieces: u32) -> Self {
        Self { words: vec![0; pieces.div_ceil(64) as usize].into(), pieces, len: 0 }
    }

    /// Every piece of a share of `pieces` pieces.
    pub fn full(pieces: u32) -> Self {
        let mut set = Self::empty(pieces);
        set.words.fill(u64::MAX);
        if let (Some(last), rest @ 1..) = (set.words.last_mut(), pieces % 64) {
            *last = (1 << rest) - 1;
        }
        set.len = pieces;
        set
    }

    /// How many pieces are in the set.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether no piece is in the set.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every piece of the share is in the set.
    pub fn is_full(&self) -> bool {
        self.len == self.pieces
    }

    /// How many pieces the share has.
    pub fn capacity(&self) -> u32 {
        self.pieces
    }

    /// Whether the piece is in the set.
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.words[piece.index() / 64] & (1 << (piece.get() % 64)) != 0
    }

    /// Puts a piece in; false if it was there.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        // Not `self.len += u32::from(new); new`: where the caller branches on the answer, compilers
        // from 1.95 on lose that addition (rust-lang/rust#158206).
        if self.contains(piece) {
            return false;
        }
        self.words[piece.index() / 64] |= 1 << (piece.get() % 64);
        self.len += 1;
        true
    }

    /// Takes a piece out; false if it was not there.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        // As in `insert`.
        if !self.contains(piece) {
            return false;
        }
        self.words[piece.index() / 64] &= !(1 << (piece.get() % 64));
        self.len -= 1;
        true
    }

    /// The bitmap's 64-bit words; bit `n % 64` of word `n / 64` is piece `n`.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The numbers of the pieces in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    at as u32 * 64 + bit
                })
            })
        })
    }

    /// The set as runs `(first, count)`, ascending.
    pub fn runs(&self) -> Vec<(u32, u32)> {
        runs_of(self.iter())
    }

    /// Bytes of a bitmap on the wire for that many pieces.
    pub fn wire_len(pieces: u32) -> usize {
        pieces.div_ceil(8) as usize
    }

    /// The bitmap as it goes on the wire.
    pub fn to_wire(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            self.words.iter().flat_map(|word| word.to_le_bytes()).map(u8::reverse_bits).collect();
        bytes.truncate(Self::wire_len(self.pieces));
        bytes
    }

    /// Reads a bitmap from the wire.
    ///
    /// # Errors
    /// [`PieceSetError`] if it does not fit the share.
    pub fn from_wire(bytes: &[u8], geometry: &Geometry) -> Result<Self, PieceSetError> {
        let pieces = geometry.piece_count();
        let want = Self::wire_len(pieces);
        if bytes.len() != want {
            return Err(PieceSetError::Length { got: bytes.len(), want });
        }
        let mut set = Self::empty(pieces);
        for (word, chunk) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut raw = [0; 8];
            for (to, from) in raw.iter_mut().zip(chunk) {
                *to = from.reverse_bits();
            }
            *word = u64::from_le_bytes(raw);
        }
        let rest = pieces % 64;
        if rest != 0 && set.words.last().is_some_and(|last| last >> rest != 0) {
            return Err(PieceSetError::SpareBits);
        }
        set.len = set.words.iter().map(|word| word.count_ones()).sum();
        Ok(set)
    }
}

/// Ascending numbers as runs `(first, count)`.
fn runs_of(numbers: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((first, count)) if *first + *count == number => *count += 1,
            _ => runs.push((number, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::PieceSize;
    use super::*;
    use proptest::prelude::*;

    fn geometry(pieces: u32) -> Geometry {
        let size = PieceSize::new(16384).unwrap();
        Geometry::new(size, [u64::from(pieces) * 16384]).unwrap()
    }

    #[test]
    fn piece_zero_is_the_first_bit_on_the_wire() {
        let geometry = geometry(10);
        let mut set = PieceSet::empty(10);
        set.insert(geometry.piece(0).unwrap());
        set.insert(geometry.piece(9).unwrap());
        assert_eq!(set.to_wire(), [0b1000_0000, 0b0100_0000]);
        assert_eq!(set.runs(), [(0, 1), (9, 1)]);
    }

    #[test]
    fn a_bitmap_of_another_length_or_with_spare_bits_is_refused() {
        let geometry = geometry(10);
        assert!(matches!(
            PieceSet::from_wire(&[0], &geometry),
            Err(PieceSetError::Length { got: 1, want: 2 })
        ));
        assert!(PieceSet::from_wire(&[0; 3], &geometry).is_err());
        assert_eq!(
            PieceSet::from_wire(&[0, 0b0010_0000], &geometry),
            Err(PieceSetError::SpareBits)
        );
    }

    proptest! {
        #[test]
        fn a_set_is_full_with_its_last_new_piece_and_not_before(
            pieces in 1u32..300, seed in any::<u64>(),
        ) {
            let geometry = geometry(pieces);
            let mut order: Vec<u32> = (0..pieces).chain(0..pieces / 2).collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut order);
            let mut set = PieceSet::empty(pieces);
            let mut seen = std::collections::BTreeSet::new();
            for number in order {
                let last = seen.insert(number) && seen.len() as u32 == pieces;
                // In one expression, which a compiler was wrong about: see `insert`.
                let full = set.insert(geometry.piece(number).unwrap()) && set.is_full();
                prop_assert_eq!(full, last);
            }
        }

        #[test]
        fn a_set_reads_back_from_the_wire(
            pieces in 1u32..300, picks in prop::collection::vec(any::<u32>(), 0..100),
        ) {
            let geometry = geometry(pieces);
            let mut set = PieceSet::empty(pieces);
            for pick in picks {
                set.insert(geometry.piece(pick % pieces).unwrap());
            }
            prop_assert_eq!(&PieceSet::from_wire(&set.to_wire(), &geometry).unwrap(), &set);
            prop_assert_eq!(set.iter().count() as u32, set.len());
            prop_assert_eq!(set.runs().iter().map(|run| run.1).sum::<u32>(), set.len());
            let full = PieceSet::full(pieces);
            prop_assert!(full.is_full());
            prop_assert_eq!(PieceSet::from_wire(&full.to_wire(), &geometry).unwrap(), full);
        }
    }
}
