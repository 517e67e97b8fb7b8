//! Connecting to a peer: TCP, REGISTRO, and what the two agree on.
//!
//! Not here: whom to dial and when (`swarm::neighbours`), what follows the handshake (`lane`).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::frames::read_frame;
use super::local;
use crate::content::escape;
use crate::peer::{Agreed, HandshakeError, Introduction};
use crate::trade::Told;
use crate::wire::{Frame, FrameCodec, FrameLimits, LaneKey, Message, Register, WireError};

/// From the first SYN to the other side's REGISTRO.
pub(super) const HANDSHAKE_TIME: Duration = Duration::from_secs(5);

/// Of that, for the connection alone: whoever does not answer at all is told from who accepts and is
/// silent.
const CONNECT_TIME: Duration = Duration::from_millis(4500);
/// What a node that has no room for a link says when it closes (DESLIGAMENTO).
pub(super) const FULL: &str = "full";

/// Why no link came to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum DialError {
    #[error("{}", in_words(.0))]
    Connect(io::Error),
    #[error("no answer within {} s", HANDSHAKE_TIME.as_secs())]
    Timeout,
    #[error("the connection was closed during the handshake")]
    Closed,
    #[error("it is full")]
    Full,
    #[error("it said goodbye: {}", escape(.0))]
    Goodbye(String),
    #[error("unreadable answer")]
    Wire(#[source] WireError),
    #[error("answered something else than REGISTRO")]
    NotRegister,
    #[error("the other side {0}")]
    Refused(#[from] HandshakeError),
}

/// What the system's answer to a connection means for whoever wants one.
pub(super) fn in_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused: nobody listens there now".to_owned(),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            "no route: is this machine online?".to_owned()
        }
        io::ErrorKind::TimedOut => "timed out: a firewall, or it is off".to_owned(),
        _ => format!("no connection: {error}"),
    }
}

async fn connect(addr: SocketAddr) -> Result<TcpStream, DialError> {
    let connected = timeout(CONNECT_TIME, local::connect(addr)).await;
    connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(DialError::Connect)
}

impl From<WireError> for DialError {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Io(_) => Self::Closed,
            error => Self::Wire(error),
        }
    }
}

/// A connection whose two ends know each other.
#[derive(Debug)]
pub(super) struct Established {
    pub(super) stream: TcpStream,
    /// What was read behind the handshake.
    pub(super) inbound: BytesMut,
    pub(super) agreed: Agreed,
    pub(super) addr: SocketAddr,
    /// How long the answer to our REGISTRO took: a round trip to the peer itself, where whatever relays
    /// the connection would have answered the connect.
    pub(super) distance: Duration,
    /// What our REGISTRO said.
    pub(super) told: Told,
}

/// Connects to a peer and introduces ourselves. What is to be said `next` goes out with that: to wait
/// for the answer first would cost a round trip.
pub(super) async fn dial(
    addr: SocketAddr,
    introduction: &Introduction,
    unchoked: bool,
    next: Option<&Message>,
) -> Result<Established, DialError> {
    let work = async {
        let mut stream = connect(addr).await?;
        let register = introduction.register(unchoked);
        let told = Told::by(&register);
        send_register(&mut stream, register, next).await?;
        let introduced = Instant::now();
        let mut inbound = BytesMut::new();
        let theirs = read_register(&mut stream, &mut inbound).await?;
        let distance = introduced.elapsed();
        let agreed = introduction.check(&theirs)?;
        Ok(Established { stream, inbound, agreed, addr, distance, told })
    };
    timeout(HANDSHAKE_TIME, work).await.unwrap_or(Err(DialError::Timeout))
}

/// Opens a further lane of a link by its key. Nothing is answered.
pub(super) async fn dial_lane(
    addr: SocketAddr,
    introduction: &Introduction,
    key: LaneKey,
) -> Result<TcpStream, DialError> {
    let work = async {
        let mut stream = connect(addr).await?;
        let mut register = introduction.register(false);
        register.lane = Some(key);
        send_register(&mut stream, register, None).await?;
        Ok(stream)
    };
    timeout(HANDSHAKE_TIME, work).await.unwrap_or(Err(DialError::Timeout))
}

async fn send_register(
    stream: &mut TcpStream,
    register: Register,
    next: Option<&Message>,
) -> Result<(), DialError> {
    let _ = stream.set_nodelay(true);
    let mut out = BytesMut::new();
    Message::Register(register).encode(&mut out);
    next.into_iter().for_each(|message| message.encode(&mut out));
    stream.write_all(&out).await.map_err(|_| DialError::Closed)
}

/// Reads the first frame of a connection, which must be a REGISTRO. What follows it stays in
/// `inbound`.
pub(super) async fn read_register(
    stream: &mut TcpStream,
    inbound: &mut BytesMut,
) -> Result<Register, DialError> {
    let mut codec = FrameCodec::new(FrameLimits::before_handshake());
    match read_frame(stream, inbound, &mut codec).await? {
        Some(Frame::Control(Message::Register(register))) => Ok(register),
        Some(Frame::Control(Message::Goodbye { reason, .. })) => Err(left(reason)),
        Some(_) => Err(DialError::NotRegister),
        None => Err(DialError::Closed),
    }
}

fn left(reason: Option<String>) -> DialError {
    match reason {
        Some(reason) if reason == FULL => DialError::Full,
        Some(reason) => DialError::Goodbye(reason),
        None => DialError::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_answer_is_told_in_words_that_help() {
        let words = |kind: io::ErrorKind| DialError::Connect(kind.into()).to_string();
        assert!(words(io::ErrorKind::ConnectionRefused).starts_with("refused: "));
        assert!(words(io::ErrorKind::HostUnreachable).starts_with("no route: "));
        assert!(words(io::ErrorKind::TimedOut).starts_with("timed out: "));
        let other = DialError::Connect(io::Error::other("too many open files")).to_string();
        assert_eq!(other, "no connection: too many open files");
    }
}
