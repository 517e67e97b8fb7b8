//! The head of a frame: how long it is, what it is, and whether it may come now.
//!
//! ```text
//! length u32 BE | kind u8 | body: length-1 bytes
//! ```
//!
//! Invariant: a frame over its cap is refused from its first five bytes (its first four, if no
//! kind could be that long), before anything is reserved for it.
//!
//! Not here: reading from a socket, or the JSON of a control frame.

use crate::types::limits;

use super::Penalty;
use super::header::{
    BLOCK_HEAD_LEN, BLOCK_HEADER_LEN, BlockHeader, METADATA_HEAD_LEN, METADATA_HEADER_LEN,
    MetadataHeader,
};

/// Bytes of the length field.
const LENGTH_LEN: usize = 4;
/// Bytes of the length field and the kind.
pub(super) const PREFIX_LEN: usize = LENGTH_LEN + 1;
/// Bytes of the longest head that [`parse_head`] may ask for.
pub const HEAD_LEN_MAX: usize = METADATA_HEAD_LEN;

pub(super) const KIND_CONTROL: u8 = 0;
pub(super) const KIND_BLOCK: u8 = 1;
pub(super) const KIND_METADATA: u8 = 2;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// Kind 0: one JSON object.
    Control,
    /// Kind 1: BLOCO.
    Block,
    /// Kind 2: METADADOS.
    Metadata,
}

impl std::fmt::Display for FrameKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Control => "control",
            Self::Block => "BLOCO",
            Self::Metadata => "METADADOS",
        })
    }
}

/// How many bytes a whole frame of each kind may have in the connection's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLimits {
    control: usize,
    /// None: BLOCO and METADADOS may not come yet.
    binary: Option<BinaryLimits>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BinaryLimits {
    block: usize,
    metadata: usize,
}

impl FrameLimits {
    /// Until REGISTRO is accepted: control frames only, and short ones.
    pub fn before_handshake() -> Self {
        Self { control: limits::FRAME_BEFORE_HANDSHAKE_MAX, binary: None }
    }

    /// On a link to a peer of a share of `piece_count` pieces with the negotiated block length.
    /// While the manifest is not here yet, `piece_count` is [`limits::PIECES_MAX`].
    pub fn established(piece_count: u32, block_len: u32) -> Self {
        let bitmap = piece_count.div_ceil(8) as usize;
        Self {
            control: limits::CONTROL_FRAME_MAX.max(1024 + bitmap.div_ceil(3) * 4),
            binary: Some(BinaryLimits {
                block: BLOCK_HEAD_LEN + block_len as usize,
                metadata: METADATA_HEAD_LEN + limits::METADATA_CHUNK_MAX as usize,
            }),
        }
    }

    /// What a tracker takes from a registered peer: it has nothing long to say.
    pub fn tracker_server() -> Self {
        Self::before_handshake()
    }

    /// What a peer takes from its tracker: a LISTA_PEERS of [`limits::PEER_LIST_MAX`] peers.
    pub fn tracker_client() -> Self {
        // The longest entry, with a whole IPv6 address and a comma, has 103 bytes.
        Self { control: 1024 + limits::PEER_LIST_MAX * 104, binary: None }
    }

    /// The longest frame of any kind.
    fn any(&self) -> usize {
        let binary = self.binary.map_or(0, |limits| limits.block.max(limits.metadata));
        self.control.max(binary)
    }

    fn of(&self, kind: FrameKind) -> Result<usize, FrameError> {
        match (kind, self.binary) {
            (FrameKind::Control, _) => Ok(self.control),
            (FrameKind::Block, Some(limits)) => Ok(limits.block),
            (FrameKind::Metadata, Some(limits)) => Ok(limits.metadata),
            (_, None) => Err(FrameError::TooEarly { kind }),
        }
    }
}

/// What the head of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameHead {
    /// A JSON object of `len` bytes follows.
    Control {
        /// Bytes of JSON.
        len: usize,
    },
    /// A block follows, [`BlockHeader::len`] bytes.
    Block(BlockHeader),
    /// A chunk of metadata follows, [`MetadataHeader::len`] bytes.
    Metadata(MetadataHeader),
}

impl FrameHead {
    /// Bytes that follow the head: JSON or payload. Never over what the limits allow.
    pub fn body_len(&self) -> usize {
        match self {
            Self::Control { len } => *len,
            Self::Block(header) => header.len as usize,
            Self::Metadata(header) => header.len as usize,
        }
    }
}

/// A frame that is refused; its sender does not speak this protocol, or lies about lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is 0: not even a kind.
    #[error("frame of length 0")]
    Empty,
    /// Longer than its kind may be now.
    #[error("{} frame of {len} bytes where {max} are allowed", kind_name(*.kind))]
    TooLong {
        /// The kind; `None` if it had not come yet and no kind at all could be that long.
        kind: Option<FrameKind>,
        /// Bytes of the whole frame, as its length field promises.
        len: u64,
        /// Bytes that are allowed.
        max: usize,
    },
    /// Too short for the header of its kind.
    #[error("{kind} frame of {len} bytes, too short for its header")]
    TooShort {
        /// The kind.
        kind: FrameKind,
        /// Bytes of the whole frame.
        len: usize,
    },
    /// A kind byte that this version does not have.
    #[error("frame of unknown kind {kind}")]
    UnknownKind {
        /// The byte.
        kind: u8,
    },
    /// Raw bytes on a connection that may carry control frames only.
    #[error("{kind} frame where only control frames may come")]
    TooEarly {
        /// The kind.
        kind: FrameKind,
    },
    /// The header's payload length is not what the frame has left.
    #[error("{kind} header promises {header} bytes in a frame that has {frame}")]
    LengthsDiffer {
        /// The kind.
        kind: FrameKind,
        /// Payload bytes by the header.
        header: u32,
        /// Payload bytes by the frame's length.
        frame: usize,
    },
    /// A METADADOS item that this version does not have.
    #[error("METADADOS of unknown item {item}")]
    UnknownItem {
        /// The byte.
        item: u8,
    },
    /// The stream ended inside a frame.
    #[error("stream ended inside a frame, after {got} of its bytes")]
    Truncated {
        /// Bytes of the frame that came.
        got: usize,
    },
}

impl FrameError {
    /// What the sender has earned: a block longer than the negotiated length is nothing an
    /// honest peer of any version sends.
    pub fn penalty(&self) -> Penalty {
        match self {
            Self::TooLong { kind: Some(FrameKind::Block), .. } => Penalty::Ban,
            _ => Penalty::Close,
        }
    }
}

fn kind_name(kind: Option<FrameKind>) -> &'static str {
    match kind {
        Some(FrameKind::Control) => "control",
        Some(FrameKind::Block) => "BLOCO",
        Some(FrameKind::Metadata) => "METADADOS",
        None => "a",
    }
}

/// Reads the head of the frame at the start of `buf`: the head and how many bytes it takes
/// (5 for control, [`BLOCK_HEAD_LEN`] for BLOCO, [`METADATA_HEAD_LEN`] for METADADOS), or
/// `None` while more bytes are needed. The [`FrameHead::body_len`] bytes after it are its body.
///
/// # Errors
/// [`FrameError`], as early as the bytes allow.
pub fn parse_head(
    buf: &[u8],
    limits: &FrameLimits,
) -> Result<Option<(FrameHead, usize)>, FrameError> {
    let Some((length, rest)) = buf.split_first_chunk::<LENGTH_LEN>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length);
    if length == 0 {
        return Err(FrameError::Empty);
    }
    let whole = LENGTH_LEN as u64 + u64::from(length);
    let Some((kind, rest)) = rest.split_first() else {
        check_len(None, whole, limits.any())?;
        return Ok(None);
    };
    let kind = match *kind {
        KIND_CONTROL => FrameKind::Control,
        KIND_BLOCK => FrameKind::Block,
        KIND_METADATA => FrameKind::Metadata,
        kind => return Err(FrameError::UnknownKind { kind }),
    };
    let whole = check_len(Some(kind), whole, limits.of(kind)?)?;
    let head = match kind {
        FrameKind::Control => Some((FrameHead::Control { len: whole - PREFIX_LEN }, PREFIX_LEN)),
        FrameKind::Block => block_head(rest, whole)?,
        FrameKind::Metadata => metadata_head(rest, whole)?,
    };
    Ok(head)
}

/// The length as a `usize`, if it is at most `max`.
fn check_len(kind: Option<FrameKind>, len: u64, max: usize) -> Result<usize, FrameError> {
    match usize::try_from(len) {
        Ok(whole) if whole <= max => Ok(whole),
        _ => Err(FrameError::TooLong { kind, len, max }),
    }
}

fn block_head(rest: &[u8], whole: usize) -> Result<Option<(FrameHead, usize)>, FrameError> {
    let kind = FrameKind::Block;
    let Some(payload) = whole.checked_sub(BLOCK_HEAD_LEN) else {
        return Err(FrameError::TooShort { kind, len: whole });
    };
    let Some(bytes) = rest.first_chunk::<BLOCK_HEADER_LEN>() else { return Ok(None) };
    let header = BlockHeader::decode(bytes);
    check_lengths(kind, header.len, payload)?;
    Ok(Some((FrameHead::Block(header), BLOCK_HEAD_LEN)))
}

fn metadata_head(rest: &[u8], whole: usize) -> Result<Option<(FrameHead, usize)>, FrameError> {
    let kind = FrameKind::Metadata;
    let Some(payload) = whole.checked_sub(METADATA_HEAD_LEN) else {
        return Err(FrameError::TooShort { kind, len: whole });
    };
    let Some(bytes) = rest.first_chunk::<METADATA_HEADER_LEN>() else { return Ok(None) };
    let header = MetadataHeader::decode(bytes).map_err(|item| FrameError::UnknownItem { item })?;
    check_lengths(kind, header.len, payload)?;
    Ok(Some((FrameHead::Metadata(header), METADATA_HEAD_LEN)))
}

fn check_lengths(kind: FrameKind, header: u32, frame: usize) -> Result<(), FrameError> {
    if header as usize == frame {
        Ok(())
    } else {
        Err(FrameError::LengthsDiffer { kind, header, frame })
    }
}

#[cfg(test)]
mod tests {
    use super::super::MetadataItem;
    use super::*;
    use proptest::prelude::*;

    fn established() -> FrameLimits {
        FrameLimits::established(100, 16 * 1024)
    }

    fn head(length: u32, kind: u8) -> Vec<u8> {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.push(kind);
        bytes
    }

    #[test]
    fn a_length_of_zero_is_refused_in_every_state() {
        for limits in [FrameLimits::before_handshake(), established()] {
            assert_eq!(parse_head(&[0; 4], &limits), Err(FrameError::Empty));
        }
    }

    #[test]
    fn a_huge_length_is_refused_before_its_kind_has_come() {
        let error = parse_head(&[0xff; 4], &established()).unwrap_err();
        assert!(matches!(error, FrameError::TooLong { kind: None, len: 0x1_0000_0003, .. }));
    }

    #[test]
    fn each_kind_is_allowed_up_to_its_cap_and_not_one_byte_more() {
        let (control, block, metadata) =
            (64 * 1024, 17 + 16 * 1024, 27 + limits::METADATA_CHUNK_MAX);
        for (kind, cap) in [(0u8, control), (1, block), (2, metadata)] {
            assert!(parse_head(&head(cap - 4, kind), &established()).is_ok(), "{kind}");
            let error = parse_head(&head(cap - 3, kind), &established()).unwrap_err();
            assert!(matches!(error, FrameError::TooLong { .. }), "{kind}: {error}");
        }
        let stranger = FrameLimits::before_handshake();
        assert!(parse_head(&head(4092, 0), &stranger).is_ok());
        assert!(parse_head(&head(4093, 0), &stranger).is_err());
    }

    #[test]
    fn a_large_share_may_send_a_bitmap_larger_than_a_control_frame() {
        let limits = FrameLimits::established(limits::PIECES_MAX, 16 * 1024);
        let cap = 1024 + (limits::PIECES_MAX / 8).div_ceil(3) * 4;
        assert!(parse_head(&head(cap - 4, 0), &limits).is_ok());
        assert!(parse_head(&head(cap - 3, 0), &limits).is_err());
    }

    #[test]
    fn raw_bytes_may_not_come_before_the_handshake() {
        for (kind, name) in [(1, FrameKind::Block), (2, FrameKind::Metadata)] {
            assert_eq!(
                parse_head(&head(100, kind), &FrameLimits::before_handshake()),
                Err(FrameError::TooEarly { kind: name })
            );
        }
    }

    #[test]
    fn an_unknown_kind_or_item_is_refused() {
        assert_eq!(
            parse_head(&head(100, 3), &established()),
            Err(FrameError::UnknownKind { kind: 3 })
        );
        let mut bytes = head(23, 2);
        bytes.extend([9; 22]);
        assert_eq!(parse_head(&bytes, &established()), Err(FrameError::UnknownItem { item: 9 }));
    }

    #[test]
    fn a_frame_too_short_for_its_header_is_refused_without_waiting_for_it() {
        for (kind, length) in [(1, 12), (2, 22)] {
            let error = parse_head(&head(length, kind), &established()).unwrap_err();
            assert!(matches!(error, FrameError::TooShort { .. }), "{error}");
        }
    }

    #[test]
    fn a_header_that_disagrees_with_the_frame_is_refused() {
        let mut bytes = BlockHeader { piece: 0, offset: 0, len: 5 }.encode_frame_head();
        bytes[3] += 1;
        assert_eq!(
            parse_head(&bytes, &established()),
            Err(FrameError::LengthsDiffer { kind: FrameKind::Block, header: 5, frame: 6 })
        );
    }

    #[test]
    fn other_protocols_are_refused_from_their_first_bytes() {
        for hello in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01", &[0; 65536]] {
            for limits in [FrameLimits::before_handshake(), established()] {
                for end in 4..hello.len().min(40) {
                    assert!(parse_head(&hello[..end], &limits).is_err());
                }
            }
        }
    }

    #[test]
    fn only_a_block_over_its_cap_earns_a_ban() {
        for length in [14 + 16 * 1024, u32::MAX] {
            let block = parse_head(&head(length, 1), &established()).unwrap_err();
            assert_eq!(block.penalty(), Penalty::Ban);
        }
        let control = parse_head(&head(65533, 0), &established()).unwrap_err();
        assert_eq!(control.penalty(), Penalty::Close);
    }

    proptest! {
        #[test]
        fn a_head_split_anywhere_waits_for_the_rest_and_then_reads_back(
            piece: u32, offset: u32, len in 0u32..=16 * 1024, level: u8, file: u32, page: u32,
        ) {
            let block = BlockHeader { piece, offset, len };
            let item = MetadataItem::HashPage;
            let metadata = MetadataHeader { item, level, file, page, offset, total: piece, len };
            let control = head(len + 1, 0);
            let heads = [
                (control, FrameHead::Control { len: len as usize }),
                (block.encode_frame_head().to_vec(), FrameHead::Block(block)),
                (metadata.encode_frame_head().to_vec(), FrameHead::Metadata(metadata)),
            ];
            for (bytes, head) in heads {
                for cut in 0..bytes.len() {
                    prop_assert_eq!(parse_head(&bytes[..cut], &established()), Ok(None));
                }
                prop_assert_eq!(
                    parse_head(&bytes, &established()),
                    Ok(Some((head, bytes.len())))
                );
                prop_assert_eq!(head.body_len(), len as usize);
            }
        }

        #[test]
        fn no_bytes_whatever_make_a_body_longer_than_the_caps(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            if let Ok(Some((head, taken))) = parse_head(&bytes, &established()) {
                prop_assert!(taken <= HEAD_LEN_MAX && taken <= bytes.len());
                prop_assert!(head.body_len() <= 64 * 1024);
            }
        }
    }
}
