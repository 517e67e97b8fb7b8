//! How a share's bytes are cut: files into pieces, pieces into blocks.
//!
//! Every file starts on a piece boundary, so no piece holds bytes of two files; the last
//! piece of a file may be short, and an empty file has no piece at all. Pieces are numbered
//! from 0 through all files in the manifest's order.
//!
//! Invariant: a [`PieceIndex`] or [`BlockSpan`] is only made by a [`Geometry`], and is valid
//! for that one. Mixing two shares' indices is a bug of ours, never a peer's power.

use super::limits;

/// Number of a piece, proven to be inside the share it was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number as an index into a table of all pieces.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for PieceIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Number of a file in the manifest's order, proven to be inside its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileIndex(u32);

impl FileIndex {
    /// The number itself.
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number as an index into a table of all files.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A part of one piece, the unit of transfer: never empty, never longer than a block,
/// never beyond the piece's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockSpan {
    piece: PieceIndex,
    offset: u32,
    len: u32,
}

impl BlockSpan {
    /// The piece it lies in.
    pub fn piece(self) -> PieceIndex {
        self.piece
    }

    /// First byte, counted from the start of the piece.
    pub fn offset(self) -> u32 {
        self.offset
    }

    /// Length in bytes: 1 to [`limits::BLOCK_LEN_MAX`].
    // A span is never empty, so an `is_empty` would be a lie waiting for a caller.
    #[expect(clippy::len_without_is_empty, reason = "never empty by construction")]
    pub fn len(self) -> u32 {
        self.len
    }

    /// First byte after it, counted from the start of the piece.
    pub fn end(self) -> u32 {
        self.offset + self.len
    }
}

/// Length of a full piece: a power of two between [`limits::PIECE_LEN_MIN`] and
/// [`limits::PIECE_LEN_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceSize(u32);

impl PieceSize {
    /// Checks a length in bytes.
    ///
    /// # Errors
    /// [`GeometryError::PieceSize`] if it is not a power of two within the limits.
    pub fn new(bytes: u32) -> Result<Self, GeometryError> {
        let in_range = (limits::PIECE_LEN_MIN..=limits::PIECE_LEN_MAX).contains(&bytes);
        if in_range && bytes.is_power_of_two() {
            Ok(Self(bytes))
        } else {
            Err(GeometryError::PieceSize { bytes: u64::from(bytes) })
        }
    }

    /// The size for a share of `total` bytes: the smallest with at most about 2,000 full
    /// pieces, so that a share has 1,000 to 8,000 of them once it is larger than 16 MiB.
    pub fn for_total(total: u64) -> Self {
        const PIECES_AIM: u64 = 2048;
        let wanted = total.div_ceil(PIECES_AIM).next_power_of_two();
        let clamped =
            wanted.clamp(u64::from(limits::PIECE_LEN_MIN), u64::from(limits::PIECE_LEN_MAX));
        Self(u32::try_from(clamped).unwrap_or(limits::PIECE_LEN_MAX))
    }

    /// The length in bytes.
    pub fn bytes(self) -> u32 {
        self.0
    }
}

/// Where one file lies in the numbering of pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSpan {
    /// Number of its first piece (of the next file's, if it is empty).
    pub first_piece: u32,
    /// How many pieces it has; 0 for an empty file.
    pub pieces: u32,
    /// Its length in bytes.
    pub len: u64,
}

/// Lengths that cannot be a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GeometryError {
    /// Not a power of two, or outside the limits.
    #[error("piece size {bytes} is not a power of two from 16 KiB to 16 MiB")]
    PieceSize {
        /// What was asked for.
        bytes: u64,
    },
    /// A share without files.
    #[error("a share needs at least one file")]
    NoFiles,
    /// Over [`limits::FILES_MAX`].
    #[error("{files} files are more than the {} a share may have", limits::FILES_MAX)]
    TooManyFiles {
        /// How many there were.
        files: usize,
    },
    /// Over [`limits::PIECES_MAX`].
    #[error("more than {} pieces; a larger piece size is needed", limits::PIECES_MAX)]
    TooManyPieces,
    /// The lengths overflow or go over [`limits::SHARE_LEN_MAX`].
    #[error("more than 16 TiB in one share")]
    TooLong,
}

/// The cut of one share, made once from its manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Geometry {
    piece_size: PieceSize,
    files: Box<[FileSpan]>,
    pieces: u32,
    total: u64,
}

impl Geometry {
    /// Cuts files of these lengths (in bytes, in the manifest's order) into pieces.
    ///
    /// # Errors
    /// Any [`GeometryError`] but `PieceSize`.
    pub fn new(
        piece_size: PieceSize,
        lengths: impl IntoIterator<Item = u64>,
    ) -> Result<Self, GeometryError> {
        let mut files = Vec::new();
        let mut next_piece = 0u64;
        let mut total = 0u64;
        for len in lengths {
            if files.len() == limits::FILES_MAX {
                return Err(GeometryError::TooManyFiles { files: files.len() + 1 });
            }
            total = total
                .checked_add(len)
                .filter(|sum| *sum <= limits::SHARE_LEN_MAX)
                .ok_or(GeometryError::TooLong)?;
            let pieces = len.div_ceil(u64::from(piece_size.0));
            let end = next_piece + pieces;
            if end > u64::from(limits::PIECES_MAX) {
                return Err(GeometryError::TooManyPieces);
            }
            // Both fit: they are at most PIECES_MAX, which is a u32.
            files.push(FileSpan { first_piece: next_piece as u32, pieces: pieces as u32, len });
            next_piece = end;
        }
        if files.is_empty() {
            return Err(GeometryError::NoFiles);
        }
        Ok(Self { piece_size, files: files.into(), pieces: next_piece as u32, total })
    }

    /// Length of a full piece.
    pub fn piece_size(&self) -> PieceSize {
        self.piece_size
    }

    /// How many pieces the share has; 0 if all its files are empty.
    pub fn piece_count(&self) -> u32 {
        self.pieces
    }

    /// Bytes of all files together.
    pub fn total_len(&self) -> u64 {
        self.total
    }

    /// The files, in the manifest's order.
    pub fn files(&self) -> &[FileSpan] {
        &self.files
    }

    /// The file of that number.
    pub fn file(&self, number: u32) -> Option<FileIndex> {
        ((number as usize) < self.files.len()).then_some(FileIndex(number))
    }

    /// Where a file lies.
    pub fn span(&self, file: FileIndex) -> FileSpan {
        self.files[file.index()]
    }

    /// The piece of that number, if the share has it. The only way to a [`PieceIndex`].
    pub fn piece(&self, number: u32) -> Option<PieceIndex> {
        (number < self.pieces).then_some(PieceIndex(number))
    }

    /// All pieces in order.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = PieceIndex> + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// The pieces of one file, in order.
    pub fn pieces_of(&self, file: FileIndex) -> impl ExactSizeIterator<Item = PieceIndex> + use<> {
        let span = self.span(file);
        (span.first_piece..span.first_piece + span.pieces).map(PieceIndex)
    }

    /// The file a piece belongs to.
    pub fn file_of(&self, piece: PieceIndex) -> FileIndex {
        // Empty files share their first piece's number with the file after them; the last
        // file that starts at or before the piece is the one that holds it.
        let after = self.files.partition_point(|span| span.first_piece <= piece.0);
        let mut number = after - 1;
        while self.files[number].pieces == 0 {
            number -= 1;
        }
        FileIndex(number as u32)
    }

    /// The file of a piece, and the piece's first byte counted from the file's start.
    pub fn locate(&self, piece: PieceIndex) -> (FileIndex, u64) {
        let file = self.file_of(piece);
        let within = piece.0 - self.span(file).first_piece;
        (file, u64::from(within) * u64::from(self.piece_size.0))
    }

    /// Length of a piece in bytes: the piece size, or less for the last piece of a file.
    pub fn piece_len(&self, piece: PieceIndex) -> u32 {
        let (file, start) = self.locate(piece);
        let left = self.span(file).len - start;
        u32::try_from(left).unwrap_or(u32::MAX).min(self.piece_size.0)
    }

    /// The part of a piece that raw numbers name, if it is a valid block. Takes the numbers
    /// as wide as the wire has them, so that none is narrowed before it is checked.
    pub fn block(&self, piece: u64, offset: u64, len: u64) -> Option<BlockSpan> {
        let piece = self.piece(u32::try_from(piece).ok()?)?;
        let offset = u32::try_from(offset).ok()?;
        let len = u32::try_from(len).ok()?;
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.piece_len(piece));
        (fits && len > 0 && len <= limits::BLOCK_LEN_MAX).then_some(BlockSpan {
            piece,
            offset,
            len,
        })
    }

    /// The numbers of `count` pieces from `first` on, if there is at least one and the share
    /// has them all. [`Self::piece`] turns each into a [`PieceIndex`].
    pub fn run(&self, first: u64, count: u64) -> Option<std::ops::Range<u32>> {
        let end = first.checked_add(count)?;
        if count == 0 || end > u64::from(self.pieces) {
            return None;
        }
        // Both are at most the piece count, which is a u32.
        Some(first as u32..end as u32)
    }

    /// The blocks of a piece in order, each of `block_len` bytes but the last.
    ///
    /// # Panics
    /// If `block_len` is 0 or over [`limits::BLOCK_LEN_MAX`]: it is ours or was negotiated.
    pub fn blocks(
        &self,
        piece: PieceIndex,
        block_len: u32,
    ) -> impl ExactSizeIterator<Item = BlockSpan> + use<> {
        assert!((1..=limits::BLOCK_LEN_MAX).contains(&block_len), "block length {block_len}");
        let piece_len = self.piece_len(piece);
        (0..piece_len.div_ceil(block_len)).map(move |number| {
            let offset = number * block_len;
            BlockSpan { piece, offset, len: block_len.min(piece_len - offset) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(lengths: &[u64]) -> Geometry {
        Geometry::new(PieceSize::new(16384).unwrap(), lengths.iter().copied()).unwrap()
    }

    #[test]
    fn every_file_starts_on_a_piece_boundary_and_empty_files_have_no_piece() {
        let geometry = cut(&[0, 1, 0, 16384, 16385, 0]);
        let firsts: Vec<_> =
            geometry.files().iter().map(|span| (span.first_piece, span.pieces)).collect();
        assert_eq!(firsts, [(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (4, 0)]);
        assert_eq!(geometry.piece_count(), 4);
        let lens: Vec<_> = geometry.pieces().map(|piece| geometry.piece_len(piece)).collect();
        assert_eq!(lens, [1, 16384, 16384, 1]);
        let files: Vec<_> = geometry.pieces().map(|piece| geometry.file_of(piece).get()).collect();
        assert_eq!(files, [1, 3, 4, 4]);
    }

    #[test]
    fn a_share_of_empty_files_has_no_pieces_and_a_share_of_no_files_is_refused() {
        assert_eq!(cut(&[0, 0]).piece_count(), 0);
        let size = PieceSize::new(16384).unwrap();
        assert_eq!(Geometry::new(size, []), Err(GeometryError::NoFiles));
    }

    #[test]
    fn sums_that_overflow_and_too_many_pieces_are_refused() {
        let size = PieceSize::new(16384).unwrap();
        assert_eq!(Geometry::new(size, [u64::MAX, 2]), Err(GeometryError::TooLong));
        assert_eq!(Geometry::new(size, [limits::SHARE_LEN_MAX]), Err(GeometryError::TooManyPieces));
    }

    #[test]
    fn piece_sizes_outside_the_rule_are_refused() {
        for bytes in [0, 1, 16383, 16385, 8192, 32 * 1024 * 1024, u32::MAX] {
            assert!(PieceSize::new(bytes).is_err(), "{bytes}");
        }
    }

    #[test]
    fn the_chosen_size_gives_a_few_thousand_pieces_and_never_leaves_the_limits() {
        for (total, pieces) in [(0, 0), (3 << 20, 192), (700 << 20, 1400), (40 << 30, 2560)] {
            let size = PieceSize::for_total(total);
            assert_eq!(total.div_ceil(u64::from(size.bytes())), pieces, "{total}");
        }
        assert_eq!(PieceSize::for_total(limits::SHARE_LEN_MAX).bytes(), limits::PIECE_LEN_MAX);
    }

    #[test]
    fn a_block_beyond_its_piece_or_empty_or_too_long_is_no_block() {
        let geometry = cut(&[20_000]);
        assert!(geometry.block(1, 0, 3616).is_some());
        for (piece, offset, len) in [
            (2, 0, 1),
            (1, 0, 3617),
            (1, 3616, 1),
            (0, 0, 0),
            (0, u64::from(u32::MAX), 2),
            (0, 0, 16385),
            (u64::from(u32::MAX), 0, 1),
            (u64::MAX, u64::MAX, u64::MAX),
            // Every one of these is valid when cut to its low 32 bits.
            (1 << 32, 0, 1),
            ((1 << 53) + 1, 0, 1),
            (0, 1 << 32, 1),
            (0, 0, (1 << 32) + 1),
        ] {
            assert!(geometry.block(piece, offset, len).is_none(), "{piece} {offset} {len}");
        }
    }

    #[test]
    fn a_run_that_is_empty_or_leaves_the_share_is_no_run() {
        let geometry = cut(&[3 * 16384]);
        assert_eq!(geometry.run(0, 3), Some(0..3));
        assert_eq!(geometry.run(2, 1), Some(2..3));
        for (first, count) in
            [(0, 0), (0, 4), (3, 1), (1 << 32, 1), ((1 << 53) + 1, 1), (1, u64::MAX), (u64::MAX, 1)]
        {
            assert_eq!(geometry.run(first, count), None, "{first} {count}");
        }
    }

    proptest! {
        #[test]
        fn pieces_and_blocks_tile_every_file_exactly(
            lengths in prop::collection::vec(0u64..200_000, 1..20),
            block_len in 1u32..=40_000,
        ) {
            let geometry = cut(&lengths);
            for (number, len) in lengths.iter().enumerate() {
                let file = geometry.file(number as u32).unwrap();
                let mut at = 0u64;
                for piece in geometry.pieces_of(file) {
                    prop_assert_eq!(geometry.locate(piece), (file, at));
                    let mut offset = 0;
                    for block in geometry.blocks(piece, block_len) {
                        prop_assert_eq!(block.offset(), offset);
                        prop_assert!(block.len() >= 1 && block.len() <= block_len);
                        offset = block.end();
                    }
                    prop_assert_eq!(offset, geometry.piece_len(piece));
                    at += u64::from(offset);
                }
                prop_assert_eq!(at, *len);
            }
            prop_assert_eq!(geometry.total_len(), lengths.iter().sum::<u64>());
        }
    }
}
