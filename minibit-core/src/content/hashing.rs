//! Hashes of pieces, and how they merge into a file's plain BLAKE3 hash.
//!
//! BLAKE3 is a tree. A piece is a power of two of bytes and starts at a multiple of its own
//! size, so it is exactly one subtree of its file, and that subtree's chaining value can be
//! computed from the piece alone. Merging the chaining values gives what `b3sum` prints.
//! A file of one piece has no subtree below its root: there the piece's hash is the root.
//!
//! Invariant: `merge_pieces` of what [`PieceHasher`] says of all pieces of a file is
//! `blake3::hash` of that file.
//! Not here: knowing which hash is right (`book`).

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::types::{Digest, Geometry, PieceIndex};

/// Hashes one piece as its bytes arrive, in order, without allocating.
#[derive(Clone, Debug)]
pub struct PieceHasher {
    hasher: blake3::Hasher,
    /// Bytes of the piece that are still to come.
    left: u32,
    /// Whether the piece is all of its file.
    is_root: bool,
}

impl PieceHasher {
    /// Begins the hash of a piece of that share.
    pub fn new(geometry: &Geometry, piece: PieceIndex) -> Self {
        let (file, start) = geometry.locate(piece);
        let mut hasher = blake3::Hasher::new();
        let is_root = geometry.span(file).pieces == 1;
        if !is_root {
            hasher.set_input_offset(start);
        }
        Self { hasher, left: geometry.piece_len(piece), is_root }
    }

    /// Takes the piece's next bytes.
    ///
    /// # Panics
    /// If they go beyond the end of the piece. Blocks of one piece cannot, each taken once.
    pub fn update(&mut self, bytes: &[u8]) {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        assert!(len <= self.left, "{len} bytes where the piece has only {} left", self.left);
        self.left -= len;
        self.hasher.update(bytes);
    }

    /// Bytes of the piece that are still to come; 0 once all were taken.
    pub fn remaining(&self) -> u32 {
        self.left
    }

    /// The hash of the bytes taken. Before all were taken, it matches no piece.
    pub fn finish(&self) -> Digest {
        if self.is_root {
            Digest(*self.hasher.finalize().as_bytes())
        } else if self.hasher.count() == 0 {
            // No subtree is empty, and the library panics at one.
            empty_root()
        } else {
            Digest(self.hasher.finalize_non_root())
        }
    }
}

/// The root of a file without bytes.
pub fn empty_root() -> Digest {
    Digest(*blake3::hash(&[]).as_bytes())
}

/// The root of a file, from the hashes of all its pieces in order.
///
/// None for no piece at all is [`empty_root`]; of one piece the hash is the root.
pub fn merge_pieces(pieces: &[Digest]) -> Digest {
    match pieces {
        [] => empty_root(),
        [only] => *only,
        _ => {
            let (left, right) = children(pieces);
            Digest(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
        }
    }
}

/// The chaining value of the subtree over these, which is not a whole file.
pub(super) fn merge_subtree(pieces: &[Digest]) -> Digest {
    match pieces {
        [] => empty_root(),
        [only] => *only,
        _ => {
            let (left, right) = children(pieces);
            Digest(merge_subtrees_non_root(&left, &right, Mode::Hash))
        }
    }
}

/// The two children of the node over at least two pieces: the left one is the largest whole
/// subtree that leaves something for the right one.
fn children(pieces: &[Digest]) -> ([u8; 32], [u8; 32]) {
    let (left, right) = pieces.split_at(pieces.len().next_power_of_two() / 2);
    (merge_subtree(left).0, merge_subtree(right).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PieceSize;
    use proptest::prelude::*;

    const PIECE: usize = 16 * 1024;

    fn some_bytes(len: usize, seed: u64) -> Vec<u8> {
        let mut rng = fastrand::Rng::with_seed(seed);
        std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
    }

    /// The hashes of the pieces of a file, given in updates of `step` bytes.
    fn piece_hashes(bytes: &[u8], step: usize) -> Vec<Digest> {
        let size = PieceSize::new(PIECE as u32).unwrap();
        // An odd file before it: offsets count from the file's start, not the share's.
        let geometry = Geometry::new(size, [5, bytes.len() as u64]).unwrap();
        let file = geometry.file(1).unwrap();
        let hash = |(piece, bytes): (PieceIndex, &[u8])| {
            let mut hasher = PieceHasher::new(&geometry, piece);
            bytes.chunks(step).for_each(|block| hasher.update(block));
            assert_eq!(hasher.remaining(), 0);
            hasher.finish()
        };
        geometry.pieces_of(file).zip(bytes.chunks(PIECE)).map(hash).collect()
    }

    fn plain(bytes: &[u8]) -> Digest {
        Digest(*blake3::hash(bytes).as_bytes())
    }

    #[test]
    fn merged_piece_hashes_are_the_plain_hash_at_every_boundary() {
        let mut lengths = vec![0, 1, 1023, 1024, 1025, 2048, 4095, 4097];
        for pieces in 1..=9 {
            lengths.extend([pieces * PIECE - 1, pieces * PIECE, pieces * PIECE + 1]);
            lengths.extend([pieces * PIECE + 1024, pieces * PIECE + 1025]);
        }
        let bytes = some_bytes(10 * PIECE, 1);
        for len in lengths {
            let bytes = &bytes[..len];
            assert_eq!(merge_pieces(&piece_hashes(bytes, PIECE)), plain(bytes), "{len} bytes");
        }
    }

    #[test]
    fn the_hash_of_an_only_piece_is_the_root_and_of_a_first_piece_is_not() {
        let bytes = some_bytes(2 * PIECE, 2);
        assert_eq!(piece_hashes(&bytes[..PIECE], PIECE), [plain(&bytes[..PIECE])]);
        assert_ne!(piece_hashes(&bytes, PIECE)[0], plain(&bytes[..PIECE]));
    }

    #[test]
    fn equal_bytes_at_another_place_have_another_hash() {
        let hashes = piece_hashes(&vec![7; 3 * PIECE], PIECE);
        assert_ne!(hashes[0], hashes[1]);
        assert_ne!(hashes[1], hashes[2]);
    }

    #[test]
    fn a_piece_without_all_its_bytes_matches_nothing() {
        let geometry =
            Geometry::new(PieceSize::new(PIECE as u32).unwrap(), [2 * PIECE as u64]).unwrap();
        let bytes = some_bytes(2 * PIECE, 3);
        let right = piece_hashes(&bytes, PIECE);
        let mut hasher = PieceHasher::new(&geometry, geometry.piece(1).unwrap());
        assert!(!right.contains(&hasher.finish()));
        hasher.update(&bytes[PIECE..2 * PIECE - 1]);
        assert_eq!(hasher.remaining(), 1);
        assert!(!right.contains(&hasher.finish()));
        hasher.update(&bytes[2 * PIECE - 1..]);
        assert_eq!(hasher.finish(), right[1]);
    }

    #[test]
    #[should_panic(expected = "only 0 left")]
    fn bytes_beyond_the_piece_are_a_bug_that_is_noticed() {
        let geometry = Geometry::new(PieceSize::new(PIECE as u32).unwrap(), [1]).unwrap();
        let mut hasher = PieceHasher::new(&geometry, geometry.piece(0).unwrap());
        hasher.update(&[0]);
        hasher.update(&[0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn merged_piece_hashes_are_the_plain_hash(
            len in 0..9 * PIECE, step in 1..PIECE, seed: u64,
        ) {
            let bytes = some_bytes(len, seed);
            prop_assert_eq!(merge_pieces(&piece_hashes(&bytes, step)), plain(&bytes));
        }

        #[test]
        fn whole_subtrees_may_be_merged_first(count in 1usize..200, level in 0u32..7) {
            let pieces: Vec<Digest> =
                (0..count).map(|number| plain(&number.to_le_bytes())).collect();
            let subtrees: Vec<Digest> =
                pieces.chunks(1 << level).map(merge_subtree).collect();
            prop_assume!(subtrees.len() > 1);
            prop_assert_eq!(merge_pieces(&subtrees), merge_pieces(&pieces));
        }
    }
}
