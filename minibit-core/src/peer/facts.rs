//! What a link reports about its peer, and how a peer may break the rules.

use std::ops::Range;

use crate::types::{PieceSet, PieceSetError};
use crate::wire::{FrameError, Penalty};

/// Something a peer told us, checked against the share.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fact {
    /// Nothing that anyone needs to know.
    Nothing,
    /// All that it holds, told once after the handshake.
    Holds(PieceSet),
    /// It newly holds these pieces (numbers, inside the share).
    Gained(Vec<Range<u32>>),
    /// It no longer holds these pieces (numbers, inside the share).
    Withdrew(Vec<Range<u32>>),
    /// It would have us fetch these pieces from it (numbers, inside the share); none: any.
    Suggested(Vec<Range<u32>>),
    /// It will not answer requests until further notice; those not yet answered are void.
    ChokedUs,
    /// It will answer requests.
    UnchokedUs,
    /// Whether it wants anything from us.
    Interested(bool),
    /// It asks us, who opened the link, for so many lanes in all.
    WantsLanes(u8),
    /// It leaves, with the reason it gave.
    Left(Option<String>),
}

/// A rule of the protocol that the peer broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A piece, run or block outside the share.
    #[error("named a piece or block outside the share")]
    OutsideShare,
    /// A bitmap that does not fit the share.
    #[error("sent a bad bitmap")]
    Bitmap(#[from] PieceSetError),
    /// A frame that no message or block of this link can be.
    #[error("sent a bad frame: {0}")]
    Frame(#[from] FrameError),
    /// A second bitmap, or one after news.
    #[error("sent a bitmap out of turn")]
    BitmapOutOfTurn,
    /// REGISTRO again, or a message that only trackers exchange.
    #[error("sent {what} on an established link")]
    OutOfPlace {
        /// The message's `tipo`.
        what: &'static str,
    },
    /// A message of the link's control on a lane, or of another link's identity.
    #[error("spoke for another peer")]
    WrongIdentity,
    /// Too many messages nobody understands.
    #[error("sent too many unknown messages")]
    TooManyUnknown,
    /// Too much news that told nothing new.
    #[error("repeated the same news too often")]
    StaleNews,
    /// BLOCO frames that were not asked for, again and again.
    #[error("sent blocks that were not asked for")]
    UnaskedBlocks,
    /// A block whose length is not the one asked for, or out of order.
    #[error("sent a block other than the one asked for")]
    WrongBlock,
    /// More metadata requests than anyone needs.
    #[error("asked for too much metadata at once")]
    MetadataFlood,
    /// A proof (hash page) that is refuted by the root.
    #[error("sent hashes that do not belong to the share")]
    WrongHashes,
    /// A hash page or manifest that was not asked for.
    #[error("sent hashes that were not asked for")]
    UnaskedHashes,
    /// A piece came, and the hashes that prove it did not, though asked for.
    #[error("sent a piece and not the hashes that prove it")]
    NoHashes,
    /// A page of hashes that it says it does not hold, though it holds a piece under it.
    #[error("claims pieces and says that it has no hashes of them")]
    PageWithheld,
    /// A piece whose bytes are wrong, every one of them from this peer.
    #[error("sent wrong bytes for piece {piece}")]
    WrongBytes {
        /// Number of the piece.
        piece: u32,
    },
}

impl Violation {
    /// What the protocol says happens to the peer.
    pub fn penalty(&self) -> Penalty {
        match self {
            Self::Frame(error) => error.penalty(),
            Self::OutsideShare
            | Self::Bitmap(_)
            | Self::UnaskedBlocks
            | Self::WrongBlock
            | Self::WrongHashes
            | Self::UnaskedHashes
            | Self::NoHashes
            | Self::PageWithheld
            | Self::WrongBytes { .. } => Penalty::Ban,
            Self::BitmapOutOfTurn
            | Self::OutOfPlace { .. }
            | Self::WrongIdentity
            | Self::TooManyUnknown
            | Self::StaleNews
            | Self::MetadataFlood => Penalty::Close,
        }
    }
}
