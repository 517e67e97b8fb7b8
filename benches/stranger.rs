//! A peer of our own making, to see from outside what links cost.
//!
//! It shakes hands, says what it holds, keeps its link alive and hears what it is told, as
//! `docs/protocol.md` has it. It never unchokes anybody and asks for nothing, so no payload
//! goes over its link: what such a peer costs is the link itself.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use minibit_core::peer::Introduction;
use minibit_core::types::{PeerId, PieceSet, ShareId};
use minibit_core::wire::{Frame, FrameCodec, FrameLimits, Holdings, Message};
use tokio_util::codec::Decoder;

use crate::Outcome;

/// A peer that has sent nothing for 5 s says that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(4);
/// How often the crowd's sockets are emptied.
const TURN: Duration = Duration::from_millis(20);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// One link to a peer.
#[derive(Debug)]
pub struct Stranger {
    stream: TcpStream,
    inbound: BytesMut,
    codec: FrameCodec,
    id: PeerId,
}

impl Stranger {
    /// Connects to a peer and shakes hands, as peer `number` that does not hold everything.
    ///
    /// # Errors
    /// The peer does not want us.
    pub fn connect(addr: SocketAddr, share: ShareId, pieces: u32, number: u64) -> Outcome<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let id = PeerId::numbered(number);
        let codec = FrameCodec::new(FrameLimits::before_handshake());
        let mut this = Self { stream, inbound: BytesMut::new(), codec, id };
        let introduction = Introduction { id, share, port: 0, complete: false };
        this.say(&Message::Register(introduction.register(false)))?;
        let Message::Register(theirs) = this.hear()? else {
            return Err("something came before REGISTRO".into());
        };
        let agreed = introduction.check(&theirs)?;
        this.codec.set_limits(FrameLimits::established(pieces, agreed.block_len));
        Ok(this)
    }

    /// Says something.
    ///
    /// # Errors
    /// The link is gone.
    pub fn say(&mut self, message: &Message) -> Outcome<()> {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        Ok(self.stream.write_all(&out)?)
    }

    /// Says what we hold, and that we want nothing: who only seems to want something would take
    /// a place among those that the peer answers.
    ///
    /// # Errors
    /// The link is gone.
    pub fn hold(&mut self, pieces: &PieceSet) -> Outcome<()> {
        let holdings = Holdings::Bitmap(pieces.to_wire());
        self.say(&Message::Have { id: self.id, holdings })?;
        self.say(&Message::NotInterested)
    }

    /// The next message.
    ///
    /// # Errors
    /// The link is gone, or what comes is no message.
    pub fn hear(&mut self) -> Outcome<Message> {
        let mut chunk = [0; 16 * 1024];
        loop {
            if let Some(frame) = self.codec.decode(&mut self.inbound)? {
                match frame {
                    Frame::Control(message) => return Ok(message),
                    Frame::Block { .. } | Frame::Metadata { .. } => continue,
                }
            }
            let got = self.stream.read(&mut chunk)?;
            if got == 0 {
                return Err("the peer has left".into());
            }
            self.inbound.extend_from_slice(&chunk[..got]);
        }
    }

    /// Waits until the peer has said all that it holds.
    ///
    /// # Errors
    /// As [`Self::hear`].
    pub fn hear_bitmap(&mut self) -> Outcome<()> {
        while !matches!(self.hear()?, Message::Have { holdings: Holdings::Bitmap(_), .. }) {}
        Ok(())
    }
}

/// Strangers that stay: one thread keeps their links alive and throws away what they are told,
/// so that they cost this machine as little as may be.
#[derive(Debug)]
pub struct Crowd {
    over: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// From now on they stay by themselves.
    pub fn of(strangers: Vec<Stranger>) -> Self {
        let (over, heard, lost) = <(Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>)>::default();
        let (its_over, its_heard, its_lost) = (over.clone(), heard.clone(), lost.clone());
        let thread = thread::spawn(move || stay(strangers, &its_over, &its_heard, &its_lost));
        Self { over, heard, lost, thread: Some(thread) }
    }

    /// Bytes that came for all of them.
    pub fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// Links that the peer has ended.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn stay(mut strangers: Vec<Stranger>, over: &AtomicBool, heard: &AtomicU64, lost: &AtomicU64) {
    let mut chunk = vec![0; 64 * 1024];
    let mut spoke = Instant::now();
    for stranger in &strangers {
        let _ = stranger.stream.set_nonblocking(true);
    }
    while !over.load(Relaxed) {
        let speaks = spoke.elapsed() > KEEP_ALIVE;
        strangers.retain_mut(|stranger| {
            let here = loop {
                match stranger.stream.read(&mut chunk) {
                    Ok(0) => break false,
                    Ok(got) => heard.fetch_add(got as u64, Relaxed),
                    Err(error) => break error.kind() == ErrorKind::WouldBlock,
                };
            };
            let here = here && (!speaks || stranger.say(&Message::KeepAlive).is_ok());
            lost.fetch_add(u64::from(!here), Relaxed);
            here
        });
        if speaks {
            spoke = Instant::now();
        }
        thread::sleep(TURN);
    }
}
