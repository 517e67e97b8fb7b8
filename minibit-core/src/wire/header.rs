//! The binary headers of BLOCO and METADADOS frames.
//!
//! They are bincode 2 "fixed int, little endian", which for flat integers is each field's
//! little-endian bytes in order. bincode is unmaintained and pinned; it stays behind the
//! golden bytes of this module's tests, so that a compatible crate can take its place.
//!
//! Not here: whether a number is inside the share, or a frame inside its cap.

use bincode::config::{Configuration, Fixint, LittleEndian};

use crate::types::{BlockSpan, PageId};

use super::frame::{KIND_BLOCK, KIND_METADATA, PREFIX_LEN};

const CONFIG: Configuration<LittleEndian, Fixint> =
    bincode::config::standard().with_little_endian().with_fixed_int_encoding();

/// Bytes of the BLOCO header.
pub(super) const BLOCK_HEADER_LEN: usize = 12;
/// Bytes of the METADADOS header.
pub(super) const METADATA_HEADER_LEN: usize = 22;
/// Bytes of a BLOCO frame before its payload: length, kind and header.
pub const BLOCK_HEAD_LEN: usize = PREFIX_LEN + BLOCK_HEADER_LEN;
/// Bytes of a METADADOS frame before its payload: length, kind and header.
pub const METADATA_HEAD_LEN: usize = PREFIX_LEN + METADATA_HEADER_LEN;

/// Header of a BLOCO frame: which bytes follow. Raw numbers, not yet checked against a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub struct BlockHeader {
    /// Number of the piece.
    pub piece: u32,
    /// First byte, counted from the start of the piece.
    pub offset: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

/// What a METADADOS frame carries a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MetadataItem {
    /// The share's manifest.
    Manifest,
    /// A page of hashes.
    HashPage,
}

/// Header of a METADADOS frame. Raw numbers, not yet checked against a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetadataHeader {
    /// What the item is.
    pub item: MetadataItem,
    /// Level of a hash page; 0 for a manifest.
    pub level: u8,
    /// File of a hash page; 0 for a manifest.
    pub file: u32,
    /// Number of a hash page in its level; 0 for a manifest.
    pub page: u32,
    /// First byte of this chunk within the item.
    pub offset: u32,
    /// Bytes of the whole item; 0 says that the sender does not have it.
    pub total: u32,
    /// Bytes of payload that follow.
    pub len: u32,
}

/// [`MetadataHeader`] as it lies on the wire; bincode would give an enum four bytes.
#[derive(bincode::Encode, bincode::Decode)]
struct RawMetadata {
    item: u8,
    level: u8,
    file: u32,
    page: u32,
    offset: u32,
    total: u32,
    len: u32,
}

impl BlockHeader {
    /// The header of a block.
    pub fn of(span: BlockSpan) -> Self {
        Self { piece: span.piece().get(), offset: span.offset(), len: span.len() }
    }

    /// Everything of a BLOCO frame but its payload of [`Self::len`] bytes.
    pub fn encode_frame_head(&self) -> [u8; BLOCK_HEAD_LEN] {
        frame_head(KIND_BLOCK, self, self.len)
    }

    pub(super) fn decode(bytes: &[u8; BLOCK_HEADER_LEN]) -> Self {
        decode(bytes)
    }
}

impl MetadataHeader {
    /// The head of a manifest's first chunk; the sender sets `len`, and `offset` of later ones.
    pub fn manifest(total: u32) -> Self {
        let page = PageId { file: 0, level: 0, page: 0 };
        Self { item: MetadataItem::Manifest, ..Self::page(page, total) }
    }

    /// The same of a hash page; a `total` of 0 says that it is not held.
    pub fn page(id: PageId, total: u32) -> Self {
        let PageId { file, level, page } = id;
        Self { item: MetadataItem::HashPage, level, file, page, offset: 0, total, len: 0 }
    }

    /// Which page this is a chunk of.
    pub fn page_id(&self) -> PageId {
        PageId { file: self.file, level: self.level, page: self.page }
    }

    /// Everything of a METADADOS frame but its payload of [`Self::len`] bytes.
    pub fn encode_frame_head(&self) -> [u8; METADATA_HEAD_LEN] {
        let item = match self.item {
            MetadataItem::Manifest => 0,
            MetadataItem::HashPage => 1,
        };
        let Self { level, file, page, offset, total, len, .. } = *self;
        let raw = RawMetadata { item, level, file, page, offset, total, len };
        frame_head(KIND_METADATA, &raw, len)
    }

    /// The header, or the item number that this version does not know.
    pub(super) fn decode(bytes: &[u8; METADATA_HEADER_LEN]) -> Result<Self, u8> {
        let RawMetadata { item, level, file, page, offset, total, len } = decode(bytes);
        let item = match item {
            0 => MetadataItem::Manifest,
            1 => MetadataItem::HashPage,
            other => return Err(other),
        };
        Ok(Self { item, level, file, page, offset, total, len })
    }
}

/// Length prefix, kind byte and header in one array of `N` bytes, for `len` bytes of payload.
fn frame_head<const N: usize>(kind: u8, header: &impl bincode::Encode, len: u32) -> [u8; N] {
    let mut head = [0; N];
    // A length that would wrap is over every cap by far; saturating keeps it refused.
    let length = ((N - PREFIX_LEN + 1) as u32).saturating_add(len);
    head[..4].copy_from_slice(&length.to_be_bytes());
    head[4] = kind;
    let written = bincode::encode_into_slice(header, &mut head[PREFIX_LEN..], CONFIG);
    debug_assert!(matches!(written, Ok(n) if n == N - PREFIX_LEN), "header of another size");
    head
}

/// Reads a header of flat integers from exactly its bytes.
#[expect(
    clippy::expect_used,
    reason = "flat integers of exactly N bytes; every bit pattern is a value"
)]
fn decode<T: bincode::Decode<()>, const N: usize>(bytes: &[u8; N]) -> T {
    bincode::decode_from_slice(bytes, CONFIG).expect("a flat header of full length").0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK: BlockHeader = BlockHeader { piece: 0x0102_0304, offset: 0x0004_0000, len: 3 };
    const METADATA: MetadataHeader = MetadataHeader {
        item: MetadataItem::HashPage,
        level: 1,
        file: 2,
        page: 3,
        offset: 0x0001_0000,
        total: 0x0001_0005,
        len: 5,
    };

    #[test]
    fn a_block_head_is_these_bytes() {
        assert_eq!(BLOCK.encode_frame_head(), [0, 0, 0, 16, 1, 4, 3, 2, 1, 0, 0, 4, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn a_metadata_head_is_these_bytes() {
        assert_eq!(
            METADATA.encode_frame_head(),
            [0, 0, 0, 28, 2, 1, 1, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0, 5, 0, 1, 0, 5, 0, 0, 0]
        );
    }

    #[test]
    fn an_unknown_item_is_named() {
        let mut bytes = [0; METADATA_HEADER_LEN];
        bytes[0] = 7;
        assert_eq!(MetadataHeader::decode(&bytes), Err(7));
    }

    #[test]
    fn a_head_whose_length_would_wrap_is_refused_by_every_cap() {
        let head = BlockHeader { piece: 0, offset: 0, len: u32::MAX }.encode_frame_head();
        assert_eq!(head[..4], [0xff; 4]);
    }

    proptest! {
        #[test]
        fn every_bit_pattern_is_a_header_that_encodes_back(
            block in any::<[u8; BLOCK_HEADER_LEN]>(),
            mut metadata in any::<[u8; METADATA_HEADER_LEN]>(),
        ) {
            prop_assert_eq!(&BlockHeader::decode(&block).encode_frame_head()[PREFIX_LEN..], block);
            metadata[0] %= 2;
            let header = MetadataHeader::decode(&metadata).unwrap();
            prop_assert_eq!(&header.encode_frame_head()[PREFIX_LEN..], metadata);
        }
    }
}
