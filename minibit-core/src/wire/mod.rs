//! Bytes to messages and back, exactly as `docs/protocol.md` says.
//!
//! ```text
//! frame.rs    head of a frame: length, kind, header; every cap, before a byte is reserved
//! header.rs   the two binary headers, by bincode; the only use of it on the wire
//! json.rs     strict reading of JSON text: no recursion, bounded depth, no surprise
//! message.rs  the control messages as types
//! parse.rs    JSON to message       encode.rs  message to frame
//! codec.rs    all of it as a `tokio_util` codec, for connections that are not hot
//! ```
//!
//! Invariant: whatever bytes come, the answer is a value or a typed error; nothing here panics,
//! recurses without bound, or reserves memory that a length field merely promised.
//!
//! Not here: sockets, and what a message means. A piece number that is well-formed but outside
//! the share passes; `peer` checks it against the share's geometry and knows whom to ban.

mod codec;
mod encode;
mod frame;
mod header;
mod json;
mod message;
mod parse;

pub use codec::{Frame, FrameCodec, WireError};
pub use frame::{FrameError, FrameHead, FrameKind, FrameLimits, HEAD_LEN_MAX, parse_head};
pub use header::{BLOCK_HEAD_LEN, BlockHeader, METADATA_HEAD_LEN, MetadataHeader, MetadataItem};
pub use message::{
    Destination, Holdings, LaneKey, Message, PROTOCOL_VERSION, PeerAddr, RawBlock, RefuseReason,
    Register, Run,
};
pub use parse::{FieldFault, MessageError, parse_message};

/// What the sender of an unacceptable frame has earned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Penalty {
    /// The connection ends; the peer may come back.
    Close,
    /// The link ends and the peer is not talked to again for this share.
    Ban,
}
