//! A relay between a sharer and those who fetch from it, that reads along.
//!
//! It lets a given number of bytes from the sharer through and then holds everything back
//! until it is told to go on. So a test catches a transfer in its middle without waiting for
//! time to pass, and knows from the wire itself which pieces were asked for and delivered.

use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Instant;

use minibit_core::types::limits;
use minibit_core::wire::{FrameHead, FrameLimits, Message, parse_head, parse_message};

use super::common::DEADLINE;

/// Bytes taken from a socket at once.
const CHUNK: usize = 32 * 1024;

/// A relay. It ends when this value does.
pub(crate) struct Relay {
    addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// Blocks are passed on with a wrong bit.
    lies: bool,
    /// Every connection is lost after so many bytes from the sharer.
    cut_after: u64,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    /// Bytes from the sharer that may still pass.
    budget: u64,
    /// Run once, when the budget is used up.
    at_end: Option<Box<dyn FnOnce() + Send>>,
    closed: bool,
    requested: BTreeSet<u64>,
    delivered: BTreeSet<u64>,
    payload: u64,
    frames: HashMap<&'static str, u64>,
    sockets: Vec<TcpStream>,
}

impl Relay {
    /// Relays to `sharer`, and lets `budget` bytes from there pass.
    pub(crate) fn start(sharer: SocketAddr, budget: u64) -> Self {
        Self::with(sharer, budget, false, u64::MAX)
    }

    /// Relays everything, but changes a bit in every block.
    pub(crate) fn lying(sharer: SocketAddr) -> Self {
        Self::with(sharer, u64::MAX, true, u64::MAX)
    }

    /// Relays everything, but every connection is lost after so many bytes from the sharer.
    pub(crate) fn cutting(sharer: SocketAddr, after: u64) -> Self {
        Self::with(sharer, u64::MAX, false, after)
    }

    /// The same with a wrong bit in every block.
    pub(crate) fn lying_and_cutting(sharer: SocketAddr, after: u64) -> Self {
        Self::with(sharer, u64::MAX, true, after)
    }

    fn with(sharer: SocketAddr, budget: u64, lies: bool, cut_after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let state = Arc::new(State {
            lies,
            cut_after,
            inner: Mutex::new(Inner {
                budget,
                at_end: None,
                closed: false,
                requested: BTreeSet::new(),
                delivered: BTreeSet::new(),
                payload: 0,
                frames: HashMap::new(),
                sockets: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&state);
        thread::spawn(move || accepting.accept(&listener, sharer));
        Self { addr, state }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What is done, once, when the budget is used up.
    pub(crate) fn at_end(&self, act: impl FnOnce() + Send + 'static) {
        self.state.lock().at_end = Some(Box::new(act));
    }

    /// Waits until the budget is used up.
    #[track_caller]
    pub(crate) fn wait_for_end(&self) {
        let deadline = Instant::now() + DEADLINE;
        let mut inner = self.state.lock();
        while inner.budget > 0 {
            let (left, payload) =
                (deadline.saturating_duration_since(Instant::now()), inner.payload);
            if left.is_zero() {
                // Others need the lock to end.
                drop(inner);
                panic!("only {payload} bytes of blocks came");
            }
            inner = self.state.changed.wait_timeout(inner, left).expect("no panic").0;
        }
    }

    /// Lets everything pass from now on.
    pub(crate) fn open(&self) {
        self.state.lock().budget = u64::MAX;
        self.state.changed.notify_all();
    }

    /// Lets so many bytes more pass.
    pub(crate) fn allow(&self, bytes: u64) {
        let mut inner = self.state.lock();
        inner.budget = inner.budget.saturating_add(bytes);
        drop(inner);
        self.state.changed.notify_all();
    }

    /// Pieces that anybody has asked the sharer for.
    pub(crate) fn requested(&self) -> BTreeSet<u64> {
        self.state.lock().requested.clone()
    }

    /// Pieces of which every byte asked for on one connection has passed.
    pub(crate) fn delivered(&self) -> BTreeSet<u64> {
        self.state.lock().delivered.clone()
    }

    /// Connections that were made to the sharer.
    pub(crate) fn connections(&self) -> u64 {
        self.state.lock().sockets.len() as u64 / 2
    }

    /// Bytes of blocks that have passed.
    pub(crate) fn payload(&self) -> u64 {
        self.state.lock().payload
    }

    /// How many messages of that `tipo` have passed, either way.
    pub(crate) fn frames(&self, tipo: &str) -> u64 {
        self.state.lock().frames.get(tipo).copied().unwrap_or_default()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let mut inner = self.state.lock();
        inner.closed = true;
        for socket in inner.sockets.drain(..) {
            // It may be closed already.
            _ = socket.shutdown(Shutdown::Both);
        }
        drop(inner);
        self.state.changed.notify_all();
        // Wakes the listener, which then sees that it is over.
        _ = TcpStream::connect(self.addr);
    }
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic in a relay")
    }

    fn accept(self: Arc<Self>, listener: &TcpListener, sharer: SocketAddr) {
        for client in listener.incoming().map_while(Result::ok) {
            // A sharer that is gone: the client is turned away as it would be there.
            let Ok(server) = TcpStream::connect(sharer) else { continue };
            let copy = |socket: &TcpStream| socket.try_clone().expect("a descriptor");
            {
                let mut inner = self.lock();
                if inner.closed {
                    return;
                }
                inner.sockets.extend([copy(&client), copy(&server)]);
            }
            for socket in [&client, &server] {
                socket.set_nodelay(true).expect("a socket");
            }
            let (up, down) = (Arc::clone(&self), Arc::clone(&self));
            let (from_client, to_server) = (copy(&client), copy(&server));
            let asked = Arc::new(Mutex::new(HashMap::new()));
            let answered = Arc::clone(&asked);
            thread::spawn(move || up.relay(from_client, to_server, Way::Up, &asked));
            thread::spawn(move || down.relay(server, client, Way::Down, &answered));
        }
    }

    fn relay(&self, mut from: TcpStream, mut to: TcpStream, way: Way, asked: &Asked) {
        let (mut reader, mut liar) = (Reader::default(), Reader::default());
        let mut bytes = vec![0; CHUNK];
        let mut left = if way == Way::Down { self.cut_after } else { u64::MAX };
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            if self.lies && way == Way::Down {
                liar.spoil(&mut bytes[..count]);
            }
            let mut chunk = &bytes[..(count as u64).min(left) as usize];
            left -= chunk.len() as u64;
            while !chunk.is_empty() {
                let allowed = match way {
                    Way::Up => chunk.len(),
                    Way::Down => match self.take(chunk.len()) {
                        Some(allowed) => allowed,
                        None => return,
                    },
                };
                let (now, later) = chunk.split_at(allowed);
                // Before they pass: whoever gets them must not be ahead of what is known here.
                self.read_along(&mut reader, now, way, asked);
                if to.write_all(now).is_err() {
                    break;
                }
                self.act(way);
                chunk = later;
            }
            if left == 0 {
                // Nothing passes any more, either way.
                _ = to.shutdown(Shutdown::Both);
                break;
            }
        }
        // What has come so far still passes: only this direction ends.
        _ = to.shutdown(Shutdown::Write);
        _ = from.shutdown(Shutdown::Read);
    }

    /// Waits until some of `count` bytes may pass, and takes them from the budget.
    fn take(&self, count: usize) -> Option<usize> {
        let mut inner = self.lock();
        while inner.budget == 0 {
            if inner.closed {
                return None;
            }
            inner = self.changed.wait(inner).expect("no panic in a relay");
        }
        let allowed = inner.budget.min(count as u64);
        if inner.budget != u64::MAX {
            inner.budget -= allowed;
        }
        Some(allowed as usize)
    }

    fn act(&self, way: Way) {
        if way == Way::Up {
            return;
        }
        let mut inner = self.lock();
        if inner.budget == 0 {
            let act = inner.at_end.take();
            self.changed.notify_all();
            drop(inner);
            act.into_iter().for_each(|act| act());
        }
    }

    fn read_along(&self, reader: &mut Reader, bytes: &[u8], way: Way, asked: &Asked) {
        let mut inner = self.lock();
        reader.take(bytes, |seen| match seen {
            Seen::Message(message) => {
                *inner.frames.entry(message.tipo()).or_default() += 1;
                if let (Message::Request(blocks), Way::Up) = (message, way) {
                    let mut asked = asked.lock().expect("no panic in a relay");
                    for block in blocks {
                        inner.requested.insert(block.piece);
                        *asked.entry(block.piece).or_default() += block.len;
                    }
                }
            }
            Seen::Block => *inner.frames.entry("BLOCO").or_default() += 1,
            Seen::Payload { piece, len, .. } => {
                inner.payload += len;
                if way == Way::Down {
                    let mut asked = asked.lock().expect("no panic in a relay");
                    let left = asked.entry(piece).or_default();
                    *left = left.saturating_sub(len);
                    if *left == 0 {
                        inner.delivered.insert(piece);
                    }
                }
            }
        });
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From who fetches to the sharer.
    Up,
    Down,
}

/// Bytes of each piece that were asked for on a connection and have not passed.
type Asked = Mutex<HashMap<u64, u64>>;

enum Seen {
    Message(Message),
    Block,
    Payload {
        piece: u64,
        /// Where it begins in the bytes that were looked at, and how many bytes it has.
        at: usize,
        len: u64,
    },
}

/// Finds frames in a stream without keeping their payload.
#[derive(Default)]
struct Reader {
    /// The beginning of a frame, its JSON included.
    head: Vec<u8>,
    /// Payload still to come, and the piece it belongs to; none for metadata.
    rest: Option<(Option<u64>, usize)>,
}

impl Reader {
    /// Changes a bit in every run of a block's bytes.
    fn spoil(&mut self, bytes: &mut [u8]) {
        let mut places = Vec::new();
        self.take(bytes, |seen| {
            if let Seen::Payload { at, .. } = seen {
                places.push(at);
            }
        });
        for at in places {
            bytes[at] ^= 1;
        }
    }

    fn take(&mut self, all: &[u8], mut see: impl FnMut(Seen)) {
        let mut bytes = all;
        let limits = FrameLimits::established(limits::PIECES_MAX, limits::BLOCK_LEN_MAX);
        loop {
            if let Some((piece, left)) = &mut self.rest {
                let (now, later) = bytes.split_at(bytes.len().min(*left));
                if let (Some(piece), false) = (piece, now.is_empty()) {
                    let at = all.len() - bytes.len();
                    see(Seen::Payload { piece: *piece, at, len: now.len() as u64 });
                }
                *left -= now.len();
                bytes = later;
                if *left > 0 {
                    return;
                }
                self.rest = None;
            }
            let Some((first, later)) = bytes.split_first() else { return };
            self.head.push(*first);
            bytes = later;
            match parse_head(&self.head, &limits).expect("only whole frames are relayed") {
                None => {}
                Some((FrameHead::Control { len }, head)) if self.head.len() == head + len => {
                    // Neither side is told to say what the other does not know.
                    see(Seen::Message(parse_message(&self.head[head..]).expect("a message")));
                    self.head.clear();
                }
                Some((FrameHead::Control { .. }, _)) => {}
                Some((FrameHead::Block(header), _)) => {
                    see(Seen::Block);
                    self.rest = Some((Some(header.piece.into()), header.len as usize));
                    self.head.clear();
                }
                Some((FrameHead::Metadata(header), _)) => {
                    self.rest = Some((None, header.len as usize));
                    self.head.clear();
                }
            }
        }
    }
}
