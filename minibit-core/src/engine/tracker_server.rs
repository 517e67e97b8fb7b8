//! The tracker's shell: connections of [`Registry`], which decides everything.
//!
//! Each connection is one task that reads, writes and keeps its own deadline. The registry is
//! behind one mutex, held for the time of one decision and never across an await.
//!
//! Invariants: a connection that reads too slowly loses its place, and nobody waits for it: what
//! is unsent for it is bounded in messages ([`limits::TRACKER_UNSENT_MAX`]) and in time
//! ([`SEND_MAX`]). When a task ends, however it ends, its peer is unlisted.
//!
//! Not here: accepting connections, and the time and number of handshakes.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::frames::read_frame;
use crate::tracker::{Action, CloseReason, ConnId, Input, Registry, Rules, Summary};
use crate::types::{PeerId, limits};
use crate::wire::{Frame, FrameCodec, FrameLimits, Message, Register};

/// How long one write may take.
const SEND_MAX: Duration = Duration::from_secs(10);
/// Messages that are written together, and bytes after which a write is made anyway.
const BATCH_MESSAGES: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;
/// Who says goodbye when a tracker does: it is not a peer and has no identity.
const TRACKER_ID: PeerId = PeerId([0; 16]);

/// A tracker for any number of shares; clones are the same tracker.
#[derive(Clone, Debug)]
pub(crate) struct TrackerServer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    registry: Registry,
    rng: fastrand::Rng,
    next_conn: u64,
    queues: HashMap<ConnId, mpsc::Sender<Outgoing>>,
}

#[derive(Debug)]
enum Outgoing {
    Message(Message),
    Close(CloseReason),
}

/// A connection's place in the registry, given up when dropped.
struct Place<'a> {
    server: &'a TrackerServer,
    conn: ConnId,
}

/// The connection is to end, for a reason that has been seen to.
struct Over;

impl TrackerServer {
    /// A tracker that knows nobody. `seed` decides its samples.
    pub(crate) fn new(rules: Rules, seed: u64) -> Self {
        let state = State {
            registry: Registry::new(rules),
            rng: fastrand::Rng::with_seed(seed),
            next_conn: 0,
            queues: HashMap::new(),
        };
        Self { shared: Arc::new(Shared { start: Instant::now(), state: Mutex::new(state) }) }
    }

    /// How much it keeps.
    pub(crate) fn summary(&self) -> Summary {
        self.state().registry.summary()
    }

    /// Serves a connection that opened with this REGISTRO until it ends. `inbound` is what has
    /// been read beyond it, `remote` where the peer connects from.
    pub(crate) async fn serve(
        &self,
        stream: TcpStream,
        mut inbound: BytesMut,
        register: Register,
        remote: SocketAddr,
    ) {
        let local = stream.local_addr().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |addr| addr.ip());
        let id = register.id;
        let (place, mut queue) = self.open();
        let conn = place.conn;
        self.handle(conn, Input::Register { register, remote, local });
        let (mut read, mut write) = stream.into_split();
        let mut codec = FrameCodec::new(FrameLimits::tracker_server());
        let mut batch = Vec::new();
        loop {
            let deadline = self.deadline(conn);
            let over = tokio::select! {
                // What is queued goes out before more is taken in, so that a peer that only
                // asks is held up by its own answers.
                biased;
                _ = queue.recv_many(&mut batch, BATCH_MESSAGES) => {
                    send(&mut write, &mut batch, remote).await
                }
                frame = read_frame(&mut read, &mut inbound, &mut codec) => match frame {
                    Ok(Some(Frame::Control(message))) => {
                        self.handle(conn, Input::Message(message));
                        Ok(())
                    }
                    Ok(_) => Err(Over),
                    Err(error) => {
                        tracing::debug!(%remote, peer = %id.short(), %error, "bad frame for the tracker");
                        Err(Over)
                    }
                },
                () = tokio::time::sleep_until(deadline) => {
                    self.handle(conn, Input::Deadline);
                    Ok(())
                }
            };
            if over.is_err() {
                break;
            }
        }
        drop(place);
        // The peer may be gone already.
        let _ = write.shutdown().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug of ours; the other connections go on.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> (Place<'_>, mpsc::Receiver<Outgoing>) {
        let (queue, outgoing) = mpsc::channel(limits::TRACKER_UNSENT_MAX);
        let mut state = self.state();
        let conn = ConnId(state.next_conn);
        state.next_conn += 1;
        state.queues.insert(conn, queue);
        (Place { server: self, conn }, outgoing)
    }

    /// When the connection is to be looked at. One that has no place any more ends by its queue.
    fn deadline(&self, conn: ConnId) -> Instant {
        const FAR: Duration = Duration::from_secs(3600);
        let deadline = self.state().registry.deadline(conn);
        deadline.map_or_else(|| Instant::now() + FAR, |after| self.shared.start + after)
    }

    fn handle(&self, conn: ConnId, input: Input) {
        let now = self.shared.start.elapsed();
        self.state().handle(now, conn, input);
    }
}

impl State {
    fn handle(&mut self, now: Duration, conn: ConnId, input: Input) {
        let mut actions = Vec::new();
        self.registry.handle(now, conn, input, &mut self.rng, &mut actions);
        for action in actions {
            match action {
                Action::Send { conn, message } => self.send(now, conn, message),
                Action::Close { conn, reason } => {
                    if let Some(queue) = self.queues.remove(&conn) {
                        // If it is full, the goodbye is the first thing to go.
                        let _ = queue.try_send(Outgoing::Close(reason));
                    }
                }
            }
        }
    }

    /// Queues a message; a connection whose queue is full has lost its place.
    fn send(&mut self, now: Duration, conn: ConnId, message: Message) {
        let Some(queue) = self.queues.get(&conn) else { return };
        if queue.try_send(Outgoing::Message(message)).is_err() {
            self.queues.remove(&conn);
            self.registry.handle(now, conn, Input::Closed, &mut self.rng, &mut Vec::new());
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.server.state().queues.remove(&self.conn);
        self.server.handle(self.conn, Input::Closed);
    }
}

/// Writes what was queued; an empty batch says that the connection has lost its place.
async fn send(
    write: &mut OwnedWriteHalf,
    batch: &mut Vec<Outgoing>,
    remote: SocketAddr,
) -> Result<(), Over> {
    if batch.is_empty() {
        tracing::debug!(%remote, "dropped by the tracker: reads too slowly");
        return Err(Over);
    }
    let mut out = BytesMut::new();
    let mut over = Ok(());
    for outgoing in batch.drain(..) {
        match outgoing {
            Outgoing::Message(message) => message.encode(&mut out),
            Outgoing::Close(reason) => {
                tracing::debug!(%remote, %reason, "the tracker closes");
                let reason = Some(reason.to_string());
                Message::Goodbye { id: TRACKER_ID, reason }.encode(&mut out);
                over = Err(Over);
            }
        }
        if out.len() >= BATCH_BYTES {
            write_all(write, &mut out).await?;
        }
    }
    write_all(write, &mut out).await?;
    over
}

async fn write_all(write: &mut OwnedWriteHalf, out: &mut BytesMut) -> Result<(), Over> {
    match tokio::time::timeout(SEND_MAX, write.write_all_buf(out)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Over),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::frames::read_frame;
    use super::*;
    use tokio::net::TcpSocket;
    use tokio::task::{JoinHandle, JoinSet};

    /// A listener that hands every connection to a tracker after its REGISTRO, as the node's
    /// does. Dropping it ends the listener and all its connections, as a killed process does.
    pub(in super::super) struct Listening {
        pub(in super::super) addr: SocketAddr,
        task: JoinHandle<()>,
    }

    impl Drop for Listening {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    impl Listening {
        pub(in super::super) fn start(server: &TrackerServer) -> Self {
            Self::start_at(server, "127.0.0.1:0".parse().unwrap())
        }

        pub(in super::super) fn start_at(server: &TrackerServer, addr: SocketAddr) -> Self {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            // Small, so that a test can fill it; the connections inherit it.
            socket.set_send_buffer_size(4096).unwrap();
            socket.bind(addr).unwrap();
            let listener = socket.listen(64).unwrap();
            let addr = listener.local_addr().unwrap();
            let server = server.clone();
            let task = tokio::spawn(async move {
                let mut connections = JoinSet::new();
                loop {
                    let (stream, remote) = listener.accept().await.unwrap();
                    connections.spawn(accepted(server.clone(), stream, remote));
                }
            });
            Self { addr, task }
        }

        /// Ends it, and returns once its port is free again.
        pub(in super::super) async fn kill(mut self) {
            self.task.abort();
            assert!((&mut self.task).await.unwrap_err().is_cancelled());
        }
    }

    async fn accepted(server: TrackerServer, mut stream: TcpStream, remote: SocketAddr) {
        let mut inbound = BytesMut::new();
        let mut codec = FrameCodec::new(FrameLimits::before_handshake());
        let frame = read_frame(&mut stream, &mut inbound, &mut codec).await;
        if let Ok(Some(Frame::Control(Message::Register(register)))) = frame {
            server.serve(stream, inbound, register, remote).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::Listening;
    use super::*;
    use crate::tracker::Mode;
    use crate::types::ShareId;
    use crate::wire::{Destination, PeerAddr};
    use std::collections::BTreeSet;
    use tokio::net::TcpSocket;

    const SHARE: ShareId = ShareId([3; 32]);

    struct Client {
        stream: TcpStream,
        inbound: BytesMut,
    }

    impl Client {
        async fn join(addr: SocketAddr, peer: u64) -> Self {
            Self::join_by(TcpStream::connect(addr).await.unwrap(), peer).await
        }

        async fn join_by(stream: TcpStream, peer: u64) -> Self {
            let mut client = Self { stream, inbound: BytesMut::new() };
            client.send(&Message::Register(register(peer))).await;
            client
        }

        async fn send(&mut self, message: &Message) {
            let mut out = BytesMut::new();
            message.encode(&mut out);
            self.stream.write_all(&out).await.unwrap();
        }

        /// The next message; `None` once the tracker has closed.
        async fn receive(&mut self) -> Option<Message> {
            let mut codec = FrameCodec::new(FrameLimits::tracker_client());
            match read_frame(&mut self.stream, &mut self.inbound, &mut codec).await {
                Ok(Some(Frame::Control(message))) => Some(message),
                Ok(None) => None,
                // We may have sent what the tracker never read.
                Err(crate::wire::WireError::Io(_)) => None,
                other => panic!("{other:?}"),
            }
        }

        /// The numbers of the peers in the list that must come next.
        async fn list(&mut self) -> BTreeSet<u64> {
            match self.receive().await {
                Some(Message::PeerList { peers, .. }) => {
                    peers.iter().map(|peer| peer.id.short().parse().unwrap()).collect()
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn register(peer: u64) -> Register {
        let id = PeerId::numbered(peer);
        Register { port: 4000, ..Register::new(id, SHARE, Destination::Tracker) }
    }

    fn server() -> TrackerServer {
        TrackerServer::new(Rules { mode: Mode::Mesh, ..Rules::default() }, 1)
    }

    #[tokio::test]
    async fn a_joiner_gets_a_list_and_those_who_are_there_hear_of_it() {
        let listening = Listening::start(&server());
        let mut first = Client::join(listening.addr, 1).await;
        assert_eq!(first.list().await, BTreeSet::new());
        let mut second = Client::join(listening.addr, 2).await;
        assert_eq!(second.list().await, BTreeSet::from([1]));
        let ip = listening.addr.ip();
        let newcomer = PeerAddr { id: PeerId::numbered(2), ip, port: 4000 };
        assert_eq!(first.receive().await, Some(Message::NewPeer(newcomer)));
        first.send(&Message::Announce { id: PeerId::numbered(1), complete: true }).await;
        assert_eq!(first.list().await, BTreeSet::from([2]));
    }

    #[tokio::test]
    async fn a_peer_that_leaves_or_breaks_off_is_listed_no_more() {
        let server = server();
        let listening = Listening::start(&server);
        let mut polite = Client::join(listening.addr, 1).await;
        polite.list().await;
        let mut rude = Client::join(listening.addr, 2).await;
        rude.list().await;
        polite.send(&Message::Goodbye { id: PeerId::numbered(1), reason: None }).await;
        while polite.receive().await.is_some() {}
        // The tracker closes the broken-off connection at its own time; ours ends after that,
        // because the same id from the same address replaces it at the latest.
        drop(rude);
        let mut third = Client::join(listening.addr, 2).await;
        assert_eq!(third.list().await, BTreeSet::new());
        assert_eq!(server.summary().peers, 1);
    }

    #[tokio::test]
    async fn garbage_ends_its_connection_and_no_other() {
        let server = server();
        let listening = Listening::start(&server);
        let mut good = Client::join(listening.addr, 1).await;
        good.list().await;
        let block = crate::wire::BlockHeader { piece: 0, offset: 0, len: 9 }.encode_frame_head();
        for garbage in
            [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 65536], &[0xff; 100], &block, b"\0\0\0\x02\0{"]
        {
            let mut bad = Client::join(listening.addr, 2).await;
            bad.list().await;
            good.receive().await;
            // The tracker may hang up while we are still talking.
            let _ = bad.stream.write_all(garbage).await;
            assert_eq!(bad.receive().await, None);
        }
        good.send(&Message::Announce { id: PeerId::numbered(1), complete: false }).await;
        assert_eq!(good.list().await, BTreeSet::new(), "the bad ones are gone");
    }

    #[tokio::test]
    async fn a_refused_peer_is_told_why() {
        let listening = Listening::start(&server());
        let mut client = Client::join(listening.addr, 1).await;
        client.list().await;
        client.send(&Message::Interested).await;
        let Some(Message::Goodbye { reason: Some(reason), .. }) = client.receive().await else {
            panic!("no goodbye")
        };
        assert_eq!(reason, CloseReason::Unexpected.to_string());
        assert_eq!(client.receive().await, None);
    }

    #[tokio::test]
    async fn a_silent_connection_is_closed_at_its_deadline() {
        let interval = Duration::from_millis(20);
        let server = TrackerServer::new(Rules { mode: Mode::Mesh, interval }, 1);
        let listening = Listening::start(&server);
        let joined = Instant::now();
        let mut client = Client::join(listening.addr, 1).await;
        client.list().await;
        assert!(matches!(client.receive().await, Some(Message::Goodbye { .. })));
        assert!(joined.elapsed() >= 3 * interval);
        assert_eq!(server.summary().peers, 0);
    }

    #[tokio::test]
    async fn a_connection_that_never_reads_loses_its_place_and_nobody_waits_for_it() {
        let server = server();
        let listening = Listening::start(&server);
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stalled = Client::join_by(socket.connect(listening.addr).await.unwrap(), 1).await;
        let mut reader = Client::join(listening.addr, 2).await;
        reader.list().await;
        // Peers come and go; each is one more message that the stalled one does not read. The
        // kernel's buffers take some megabytes of them, then the queue fills.
        let mut peer = 2;
        while server.summary().peers > 1 {
            peer += 1;
            assert!(peer < 1_000_000, "the stalled connection keeps its place");
            let conn = ConnId(u64::MAX - peer);
            let remote = listening.addr;
            let input = Input::Register { register: register(peer), remote, local: remote.ip() };
            server.handle(conn, input);
            server.handle(conn, Input::Closed);
            // The reader has read all before the next one comes.
            if server.summary().peers > 1 {
                let pushed = reader.receive().await;
                assert!(matches!(pushed, Some(Message::NewPeer(_))), "{pushed:?}");
            }
        }
        reader.receive().await;
        reader.send(&Message::Announce { id: PeerId::numbered(2), complete: false }).await;
        assert_eq!(reader.list().await, BTreeSet::new());
        drop(stalled);
    }
}
