//! One connection of a scripted peer: it says what it is told to, well-formed or not.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minibit_core::types::{PeerId, limits};
use minibit_core::wire::{
    BlockHeader, Destination, Frame, FrameCodec, FrameLimits, Holdings, LaneKey, Message,
    MetadataHeader, RawBlock, Register, Run,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::codec::Decoder;

use super::world::{Content, PATIENCE};

/// Time in which a node must have closed a connection it will not have. Under the fifteen
/// seconds after which any silent link is closed.
const CLOSING: Duration = Duration::from_secs(10);

/// A whole control frame.
pub(crate) fn frame(message: &Message) -> Bytes {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    out.freeze()
}

/// A control frame with any text as its body.
pub(crate) fn text(body: &str) -> Bytes {
    let mut out = BytesMut::new();
    out.extend_from_slice(&(body.len() as u32 + 1).to_be_bytes());
    out.extend_from_slice(&[0]);
    out.extend_from_slice(body.as_bytes());
    out.freeze()
}

/// A whole BLOCO frame of these bytes.
pub(crate) fn block_frame(piece: u32, offset: u32, bytes: &[u8]) -> Bytes {
    let header = BlockHeader { piece, offset, len: bytes.len() as u32 };
    [&header.encode_frame_head()[..], bytes].concat().into()
}

/// A whole METADADOS frame.
pub(crate) fn metadata_frame(mut header: MetadataHeader, bytes: &[u8]) -> Bytes {
    header.len = bytes.len() as u32;
    [&header.encode_frame_head()[..], bytes].concat().into()
}

pub(crate) fn raw(piece: u64, offset: u64, len: u64) -> RawBlock {
    RawBlock { piece, offset, len }
}

pub(crate) fn news(id: PeerId, first: u64, count: u64) -> Message {
    Message::Have { id, holdings: Holdings::News(vec![Run { first, count }]) }
}

pub(crate) fn bitmap(id: PeerId, bytes: Vec<u8>) -> Message {
    Message::Have { id, holdings: Holdings::Bitmap(bytes) }
}

/// A REGISTRO as an honest peer that does not listen would send it.
pub(crate) fn register(content: &Content, id: PeerId) -> Register {
    Register {
        block_max: limits::BLOCK_LEN_MAX,
        lanes_max: limits::LANES_MAX,
        ..Register::new(id, content.share(), Destination::Peer)
    }
}

pub(crate) struct Wire {
    stream: TcpStream,
    inbound: BytesMut,
    codec: FrameCodec,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        let limits = FrameLimits::established(limits::PIECES_MAX, limits::BLOCK_LEN_MAX);
        Self { stream, inbound: BytesMut::new(), codec: FrameCodec::new(limits) }
    }

    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::new(timeout(PATIENCE, TcpStream::connect(addr)).await.unwrap().unwrap())
    }

    /// Writes; false if the other side is gone.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        let wrote = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        wrote.expect("the other side takes what comes or closes").is_ok()
    }

    pub(crate) async fn say(&mut self, message: &Message) -> bool {
        self.write(&frame(message)).await
    }

    /// Writes as much as goes out without waiting for long; returns how much that was.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.try_write(bytes)
    }

    /// The next frame; `None` once the other side has closed.
    pub(crate) async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.codec.decode(&mut self.inbound).expect("a node's frames") {
                return Some(frame);
            }
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.inbound)).await;
            match read.expect("the node says something or closes") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The first thing that `pick` picks; what comes before is passed over. `None` once the
    /// other side has closed.
    pub(crate) async fn find<T>(&mut self, mut pick: impl FnMut(&Frame) -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = pick(&self.next().await?) {
                return Some(found);
            }
        }
    }

    /// Waits until the other side has closed: sooner than it would for silence alone.
    pub(crate) async fn ended(&mut self) {
        let closed = async { while self.next().await.is_some() {} };
        timeout(CLOSING, closed).await.expect("the node closes");
    }

    /// Reads and throws away until the other side closes, however long that takes.
    pub(crate) async fn ended_by_them(&mut self) {
        let mut sink = [0; 1024];
        while matches!(self.stream.read(&mut sink).await, Ok(1..)) {}
    }

    /// Whether the link still works: a request for the manifest is answered.
    pub(crate) async fn is_alive(&mut self) -> bool {
        self.say(&Message::RequestMetadata { manifest: true, pages: vec![] }).await
            && self.find(|f| matches!(f, Frame::Metadata { .. }).then_some(())).await.is_some()
    }

    /// The other side's REGISTRO; `None` if it closes instead.
    pub(crate) async fn registered(&mut self) -> Option<Register> {
        match self.next().await? {
            Frame::Control(Message::Register(register)) => Some(register),
            other => panic!("not a REGISTRO: {other:?}"),
        }
    }
}

/// A peer that has shaken hands.
pub(crate) struct Peer {
    pub(crate) wire: Wire,
    /// What the node said of itself.
    pub(crate) theirs: Register,
}

impl Peer {
    /// Connects and introduces itself; `None` if it is refused.
    pub(crate) async fn join(addr: SocketAddr, register: Register) -> Option<Self> {
        let mut wire = Wire::connect(addr).await;
        wire.say(&Message::Register(register)).await;
        let theirs = wire.registered().await?;
        Some(Self { wire, theirs })
    }

    pub(crate) fn key(&self) -> LaneKey {
        self.theirs.key.unwrap()
    }
}

/// Joins a link with a further lane.
pub(crate) async fn lane(node: SocketAddr, peer: &Peer, register: &Register) -> Wire {
    let mut wire = Wire::connect(node).await;
    let register = Register { lane: register.lane.or(Some(peer.key())), ..register.clone() };
    wire.say(&Message::Register(register)).await;
    wire
}
