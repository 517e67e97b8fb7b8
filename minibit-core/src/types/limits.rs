//! Every cap of the protocol in one place, each with its reason.
//!
//! A cap is checked before memory is reserved for what it bounds.

/// Bytes in the largest block, and so in the payload of a BLOCO frame. 256 KiB is the largest
/// buffer that still sits in a core's second-level cache while it is hashed and written.
pub const BLOCK_LEN_MAX: u32 = 256 * 1024;
/// Bytes of the shortest longest block that a peer may name, and what is asked for on slow lanes.
pub const BLOCK_LEN_MIN: u32 = 16 * 1024;
/// Bytes in the smallest piece; also the smallest block that may be negotiated.
pub const PIECE_LEN_MIN: u32 = 16 * 1024;
/// Bytes in the largest piece: what one wrong byte can cost.
pub const PIECE_LEN_MAX: u32 = 16 * 1024 * 1024;
/// Pieces in one share.
pub const PIECES_MAX: u32 = 1 << 20;
/// Files in one share.
pub const FILES_MAX: usize = 100_000;
/// Bytes in one share.
pub const SHARE_LEN_MAX: u64 = 16 << 40;
/// Bytes of an encoded manifest.
pub const MANIFEST_LEN_MAX: usize = 32 * 1024 * 1024;
/// Bytes of a ticket's text.
pub const TICKET_LEN_MAX: usize = 4 * 1024;
/// Addresses in one ticket.
pub const TICKET_ADDRS_MAX: usize = 16;
/// Bytes of one component of a path in a share.
pub const NAME_COMPONENT_MAX: usize = 255;
/// Bytes of a whole path in a share.
pub const PATH_LEN_MAX: usize = 1024;
/// Components of a path in a share.
pub const PATH_DEPTH_MAX: usize = 32;

/// Bytes of any frame before REGISTRO has been accepted: a stranger gets no more.
pub const FRAME_BEFORE_HANDSHAKE_MAX: usize = 4 * 1024;
/// Bytes of a control frame afterwards, unless its bitmap or peer list needs more.
pub const CONTROL_FRAME_MAX: usize = 64 * 1024;
/// Raw bytes of metadata (manifest or hashes) in one METADADOS frame.
pub const METADATA_CHUNK_MAX: u32 = 64 * 1024;
/// Nesting of a JSON control message.
pub const JSON_DEPTH_MAX: usize = 8;
/// Bytes of the words with which a peer says why it leaves: one line in a log.
pub const REASON_TEXT_MAX: usize = 256;
/// Blocks that one peer may have asked for and not yet received.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 256;
/// Bytes of the shortest block that is sent, but for one that ends its piece: each costs a look, a
/// header and a read, whatever its length.
pub const REQUEST_LEN_MIN: u32 = 4 * 1024;
/// Control and metadata bytes that may wait for one connection's socket.
pub const UNSENT_MAX: usize = 1024 * 1024;
/// Peers in one LISTA_PEERS.
pub const PEER_LIST_MAX: usize = 1_000;
/// Shares that a tracker lists at once.
pub const TRACKER_SHARES_MAX: usize = 10_000;
/// Peers of one share that a tracker lists at once.
pub const TRACKER_PEERS_MAX: usize = 50_000;
/// Peers of one share from one address (one /64 network of IPv6), as far as it is not the
/// tracker's own machine: what one machine can invent.
pub const TRACKER_PEERS_PER_ADDR_MAX: usize = 256;
/// Announces that a peer may make at once; after that one a second.
pub const ANNOUNCE_BURST: u32 = 16;
/// Announce intervals of silence after which a tracker gives a connection up.
pub const SILENT_INTERVALS_MAX: u32 = 3;
/// Messages that may wait for one peer's connection to a tracker.
pub const TRACKER_UNSENT_MAX: usize = 1024;
/// Connections ("lanes") of one link.
pub const LANES_MAX: u8 = 16;
/// Piece hashes in one page of the hash tree: 32 KiB of hashes.
pub const HASH_PAGE_LEN: u32 = 1024;

/// Handshakes pending from one address, and in all.
pub const PENDING_PER_ADDR_MAX: usize = 8;
/// See [`PENDING_PER_ADDR_MAX`].
pub const PENDING_MAX: usize = 256;
/// Messages of an unknown `tipo` before the link is closed.
pub const UNKNOWN_MESSAGES_MAX: u32 = 100;
/// News messages that tell nothing new before the link is closed.
pub const STALE_NEWS_MAX: u32 = 256;
/// BLOCO frames nobody asked for before their sender is banned.
pub const UNASKED_BLOCKS_MAX: u32 = 16;
