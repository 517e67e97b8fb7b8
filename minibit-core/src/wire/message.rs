//! The control messages as types. `docs/protocol.md` says what each one means and when it
//! may come; the names here are the field's, the `tipo` on the wire stands beside each.
//!
//! Invariant: a message is well-formed, not plausible. Its numbers are as wide as the wire has
//! them and are checked against a share by `peer`.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use data_encoding::HEXLOWER;

use crate::types::{PageId, PeerId, ShareId, limits};

/// The version of the protocol that this code speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// A control message.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// REGISTRO: who I am and what I want; first on every connection.
    Register(Register),
    /// LISTA_PEERS: the tracker's answer to REGISTRO and ANUNCIO.
    PeerList {
        /// Some peers of the share, never the asker.
        peers: Vec<PeerAddr>,
        /// Seconds until the next ANUNCIO is due.
        interval: u32,
    },
    /// NOVO_PEER: the tracker tells of a peer that has just come.
    NewPeer(PeerAddr),
    /// ANUNCIO: to the tracker, I am still here.
    Announce {
        /// Who announces.
        id: PeerId,
        /// Whether it holds every piece.
        complete: bool,
    },
    /// ESTOQUE: what I hold, or what I have come to hold.
    Have {
        /// Who says so.
        id: PeerId,
        /// The pieces.
        holdings: Holdings,
    },
    /// RETIRADA: pieces I no longer hold.
    Withdraw(Vec<Run>),
    /// SUGESTAO: of what I hold, fetch these pieces from me first, for nobody else has them; none:
    /// choose freely.
    Suggest(Vec<Run>),
    /// INTERESSE: I want pieces that you hold.
    Interested,
    /// DESINTERESSE: I want nothing of yours.
    NotInterested,
    /// BLOQUEIO: I will not answer your requests.
    Choke,
    /// DESBLOQUEIO: I will answer your requests.
    Unchoke,
    /// PEDIDO: send me these blocks, in this order.
    Request(Vec<RawBlock>),
    /// CANCELA: I no longer need these blocks.
    Cancel(Vec<RawBlock>),
    /// NEGADO: I will not send these blocks.
    Refuse {
        /// The blocks, as they were asked for.
        blocks: Vec<RawBlock>,
        /// Why.
        reason: RefuseReason,
    },
    /// PEDIDO_METADADOS: send me the manifest, pages of hashes, or both.
    RequestMetadata {
        /// Whether the manifest is wanted.
        manifest: bool,
        /// The pages wanted.
        pages: Vec<PageId>,
    },
    /// FAIXAS: please open connections until the link has this many.
    Lanes(u8),
    /// VIVO: nothing to say, but I am here.
    KeepAlive,
    /// DESLIGAMENTO: I leave.
    Goodbye {
        /// Who leaves.
        id: PeerId,
        /// Why, in words for a human; a stranger chose them. At most
        /// [`limits::REASON_TEXT_MAX`] bytes; encoding cuts what is longer.
        reason: Option<String>,
    },
    /// Any other `tipo`: a later version's. Its receiver counts and ignores it.
    Unknown,
}

impl Message {
    /// The `tipo` on the wire; empty for [`Message::Unknown`].
    pub fn tipo(&self) -> &'static str {
        match self {
            Self::Register(_) => "REGISTRO",
            Self::PeerList { .. } => "LISTA_PEERS",
            Self::NewPeer(_) => "NOVO_PEER",
            Self::Announce { .. } => "ANUNCIO",
            Self::Have { .. } => "ESTOQUE",
            Self::Withdraw(_) => "RETIRADA",
            Self::Suggest(_) => "SUGESTAO",
            Self::Interested => "INTERESSE",
            Self::NotInterested => "DESINTERESSE",
            Self::Choke => "BLOQUEIO",
            Self::Unchoke => "DESBLOQUEIO",
            Self::Request(_) => "PEDIDO",
            Self::Cancel(_) => "CANCELA",
            Self::Refuse { .. } => "NEGADO",
            Self::RequestMetadata { .. } => "PEDIDO_METADADOS",
            Self::Lanes(_) => "FAIXAS",
            Self::KeepAlive => "VIVO",
            Self::Goodbye { .. } => "DESLIGAMENTO",
            Self::Unknown => "",
        }
    }
}

/// REGISTRO: the handshake of every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// Who speaks.
    pub id: PeerId,
    /// The protocol version it speaks.
    pub version: u32,
    /// The share this connection is about.
    pub share: ShareId,
    /// What the connection is for.
    pub destination: Destination,
    /// Where the speaker listens for peers; 0 if it does not.
    pub port: u16,
    /// The longest block it will handle, in bytes.
    pub block_max: u32,
    /// The most connections it will have on this link.
    pub lanes_max: u8,
    /// Whether it holds every piece; no ESTOQUE follows then.
    pub complete: bool,
    /// Whether the other side is unchoked from the start.
    pub unchoked: bool,
    /// Set on a further connection of a link: the link's key.
    pub lane: Option<LaneKey>,
    /// Set in an answer: the key with which further connections may join.
    pub key: Option<LaneKey>,
}

impl Register {
    /// A registration of this version with every optional field at the value that an absent
    /// field stands for: does not listen, the smallest block, one connection, not complete,
    /// choked.
    pub fn new(id: PeerId, share: ShareId, destination: Destination) -> Self {
        Self {
            id,
            version: PROTOCOL_VERSION,
            share,
            destination,
            port: 0,
            block_max: limits::PIECE_LEN_MIN,
            lanes_max: 1,
            complete: false,
            unchoked: false,
            lane: None,
            key: None,
        }
    }
}

/// What a connection is for (`destino`). Both may live behind one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// "peer": to trade pieces.
    Peer,
    /// "tracker": to be listed and to learn of others.
    Tracker,
}

impl Destination {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Tracker => "tracker",
        }
    }
}

/// The secret of one link, with which further connections join it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaneKey(pub [u8; 16]);

impl LaneKey {
    /// A fresh random key.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u128(..).to_be_bytes())
    }

    pub(super) fn from_hex(text: &str) -> Option<Self> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

/// Shows nothing: who reads the key in a log could join the link.
impl fmt::Debug for LaneKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LaneKey(…)")
    }
}

/// A peer as a tracker tells of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddr {
    /// Who it says it is.
    pub id: PeerId,
    /// Where it is.
    pub ip: IpAddr,
    /// Where it listens.
    pub port: u16,
}

impl PeerAddr {
    /// Where to connect to.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// The pieces of an ESTOQUE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holdings {
    /// `mapa`: everything held, one bit for every piece (see `PieceSet::from_wire`).
    Bitmap(Vec<u8>),
    /// `estoque`: pieces newly held.
    News(Vec<Run>),
}

/// `[first,count]`: consecutive pieces. Raw numbers; `Geometry::run` checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Run {
    /// Number of the first piece.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// `[piece,offset,len]`: a block. Raw numbers; `Geometry::block` checks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawBlock {
    /// Number of the piece.
    pub piece: u64,
    /// First byte, counted from the start of the piece.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

impl From<crate::types::BlockSpan> for RawBlock {
    fn from(span: crate::types::BlockSpan) -> Self {
        Self {
            piece: span.piece().get().into(),
            offset: span.offset().into(),
            len: span.len().into(),
        }
    }
}

/// Why blocks are not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefuseReason {
    /// "bloqueado": the asker is choked.
    Choked,
    /// "ausente": not held.
    NotHeld,
    /// "cheio": over [`limits::REQUESTS_IN_FLIGHT_MAX`] in flight.
    TooMany,
}

impl RefuseReason {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Choked => "bloqueado",
            Self::NotHeld => "ausente",
            Self::TooMany => "cheio",
        }
    }
}
