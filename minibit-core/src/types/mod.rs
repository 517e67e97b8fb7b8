//! The words of the field as checked types: pieces, blocks, identities, bitmaps.
//!
//! A raw number from a stranger becomes one of these once, at the border, and is then
//! trusted everywhere: only a [`Geometry`] can make a [`PieceIndex`] or a [`BlockSpan`], so
//! an index out of range cannot travel any further than the module that parsed it.
//!
//! Not here: bytes on a wire, files, hashing. This module imports nothing of ours.

mod geometry;
mod identity;
pub mod limits;
mod page_id;
mod piece_set;

pub use geometry::{
    BlockSpan, FileIndex, FileSpan, Geometry, GeometryError, PieceIndex, PieceSize,
};
pub use identity::{Digest, PeerId, ShareId};
pub use page_id::PageId;
pub use piece_set::{PieceSet, PieceSetError};
