//! The announcer's shell: one task for each tracker and share, for as long as the share is up.
//!
//! [`Announcer`] decides; the task connects, writes, reads and waits. What it finds goes to the
//! share's manager by a bounded queue; a manager that is behind holds the task up, not memory.
//!
//! A tracker may be reached at several addresses, and keeps one connection of each peer: it refuses the others, or each
//! replaces the one before. Whoever is told so while another client of the same share is registered leaves it at
//! that for as long as that one is.
//!
//! Invariants: nothing a tracker does or fails to do ends the task, only [`TrackerClient::leave`]
//! or dropping the client. What it says is read at an allowance ([`Chatter`]), over however many connections,
//! and whatever the number of trackers: it is one for a node.
//!
//! Not here: judging the addresses (`swarm::Neighbours` does, by their source).

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::Instrument;

use super::dial::in_words;
use super::frames::read_counted_frame;
use crate::content::escape;
use crate::peer::Chatter;
use crate::swarm::{KnownPeer, Source};
use crate::tracker::{Announcer, CloseReason, Step};
use crate::trade::lock;
use crate::types::limits;
use crate::wire::{Frame, FrameCodec, FrameLimits, Message, PeerAddr, Register, WireError};

/// How long a connection to a tracker may take to be made, or a message to be sent.
const SOCKET_MAX: Duration = Duration::from_secs(4);
/// After so long it is tried again at an address at which it knew us already: it may have been another tracker all the
/// same, where somebody else had our identity, and whoever does that shall not keep us off it for long.
const KNOWN_REST: Duration = Duration::from_secs(60);

/// Peers that a tracker has named.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Which tracker, and whether by list or push.
    pub(super) source: Source,
    /// The peers; ourselves may be among them.
    pub(super) peers: Vec<PeerAddr>,
}

impl Found {
    /// The same, as the address book takes it.
    pub(super) fn known(&self) -> impl Iterator<Item = KnownPeer> + '_ {
        self.peers.iter().map(|peer| KnownPeer { id: Some(peer.id), addr: peer.socket_addr() })
    }
}

/// A tracker, and what stands between it and us; seen by all who hold it.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) addr: SocketAddr,
    /// Since the last time that it answered.
    problem: Mutex<Option<String>>,
}

impl Tracked {
    /// Why it does not answer, if it does not.
    pub(super) fn problem(&self) -> Option<String> {
        lock(&self.problem).clone()
    }
}

/// How many of the clients of one share are registered with their trackers; they share it.
pub(super) type Registered = Arc<watch::Sender<usize>>;

/// One of them, for as long as this value lives.
struct Registration(Registered);

impl Registration {
    fn of(registered: &Registered) -> Self {
        registered.send_modify(|count| *count += 1);
        Self(Arc::clone(registered))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What all trackers of a node may say together.
#[derive(Debug)]
pub(super) struct Allowance {
    chatter: Mutex<Chatter>,
    start: Instant,
}

impl Default for Allowance {
    fn default() -> Self {
        let chatter = Mutex::new(Chatter::of_trackers(Duration::ZERO));
        Self { chatter, start: Instant::now() }
    }
}

impl Allowance {
    /// That of one tracker, besides.
    fn of_one(&self) -> Chatter {
        Chatter::of_tracker(self.start.elapsed())
    }

    fn heard(&self, own: &mut Chatter, bytes: usize) {
        own.heard_beside(&mut lock(&self.chatter), self.start.elapsed(), bytes);
    }

    /// Until when nothing more is to be heard of one, if that is so.
    fn rests_until(&self, own: &mut Chatter) -> Option<Instant> {
        let until = own.rests_beside(&mut lock(&self.chatter), self.start.elapsed());
        until.map(|until| self.start + until)
    }
}

/// A running announcer.
#[derive(Debug)]
pub(super) struct TrackerClient {
    tracked: Arc<Tracked>,
    complete: Arc<AtomicBool>,
    leave: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What stays the same from connection to connection.
struct Client {
    tracker: SocketAddr,
    tracked: Arc<Tracked>,
    register: Register,
    complete: Arc<AtomicBool>,
    found: mpsc::Sender<Found>,
    registered: Registered,
    /// The tracker knows us by another address of its.
    is_known: bool,
    allowance: Arc<Allowance>,
    /// What it may say beyond that.
    chatter: Chatter,
    rng: fastrand::Rng,
    start: Instant,
}

struct Connection {
    stream: TcpStream,
    inbound: BytesMut,
    codec: FrameCodec,
    unknown: u32,
    /// Once it has answered.
    registration: Option<Registration>,
}

/// Why a connection to a tracker ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{}", in_words(.0))]
    Unreachable(std::io::Error),
    #[error("the tracker takes too long")]
    TooSlow,
    #[error("the tracker does not answer")]
    Silent,
    #[error("the tracker closed the connection")]
    Closed,
    #[error("the tracker said goodbye: {}", escape(.reason))]
    Goodbye { reason: String },
    #[error("the tracker does not speak the protocol")]
    Wire(#[source] WireError),
    #[error("the tracker sent {tipo:?}, which is not for peers to hear")]
    Unexpected { tipo: &'static str },
    #[error("the share is gone")]
    NobodyListens,
}

impl Lost {
    /// Whether the tracker has a connection of ours already, or has got another.
    fn says_that_we_are_known(&self) -> bool {
        let Self::Goodbye { reason } = self else { return false };
        [CloseReason::IdTaken, CloseReason::Replaced]
            .iter()
            .any(|known| *reason == known.to_string())
    }
}

impl TrackerClient {
    /// Announces a peer by this REGISTRO to a tracker until it is told to leave. The clients of one share have
    /// `registered` in common, those of a node the `allowance`.
    pub(super) fn spawn(
        tracker: SocketAddr,
        register: Register,
        found: mpsc::Sender<Found>,
        registered: Registered,
        allowance: Arc<Allowance>,
        rng: fastrand::Rng,
    ) -> Self {
        let complete = Arc::new(AtomicBool::new(register.complete));
        let (leave, leaving) = watch::channel(false);
        let start = Instant::now();
        let tracked = Arc::new(Tracked { addr: tracker, problem: Mutex::default() });
        let client = Client {
            tracker,
            tracked: Arc::clone(&tracked),
            register,
            complete: Arc::clone(&complete),
            found,
            registered,
            is_known: false,
            chatter: allowance.of_one(),
            allowance,
            rng,
            start,
        };
        let task = tokio::spawn(client.run(leaving).in_current_span());
        Self { tracked, complete, leave, task }
    }

    /// What it announces to.
    pub(super) fn tracked(&self) -> &Arc<Tracked> {
        &self.tracked
    }

    /// From now on every announce says that we hold every piece.
    pub(super) fn complete(&self) {
        self.complete.store(true, Ordering::Relaxed);
    }

    /// Says goodbye to the tracker if it can be reached, and ends the task.
    pub(super) async fn leave(mut self) {
        self.leave.send_replace(true);
        // A task that panicked has nothing left to say.
        let _ = (&mut self.task).await;
    }
}

impl Drop for TrackerClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    async fn run(mut self, mut leaving: watch::Receiver<bool>) {
        let mut announcer = Announcer::new();
        let mut connection = None;
        loop {
            let outcome = tokio::select! {
                biased;
                _ = leaving.wait_for(|leave| *leave) => break,
                outcome = self.step(&mut announcer, &mut connection) => outcome,
            };
            match outcome {
                Ok(()) => {}
                Err(Lost::NobodyListens) => break,
                Err(lost) => {
                    let source = std::error::Error::source(&lost).map(tracing::field::display);
                    connection = None;
                    self.is_known = lost.says_that_we_are_known() && *self.registered.borrow() > 0;
                    let problem = (!self.is_known).then(|| lost.to_string());
                    *lock(&self.tracked.problem) = problem;
                    tracing::debug!(tracker = %self.tracker, %lost, source, "no tracker");
                    announcer.lost(self.start.elapsed(), &mut self.rng);
                }
            }
        }
        if let Some(mut connection) = connection {
            let goodbye = Message::Goodbye { id: self.register.id, reason: None };
            // It may be gone, and then nobody needs to be told.
            let _ = connection.send(&goodbye).await;
        }
    }

    /// Does what is next, or takes in what comes. It is dropped half-way only to leave; if that
    /// cuts a message short, the goodbye after it is garbage, and the tracker forgets us as well.
    async fn step(
        &mut self,
        announcer: &mut Announcer,
        connection: &mut Option<Connection>,
    ) -> Result<(), Lost> {
        if self.is_known {
            let mut registered = self.registered.subscribe();
            // Until no other is, or it is time to ask once more.
            let _ = timeout(KNOWN_REST, registered.wait_for(|count| *count == 0)).await;
            self.is_known = false;
        }
        match (announcer.step(self.start.elapsed(), &mut self.rng), connection) {
            (Step::Connect, connection) => {
                *connection = Some(self.connect().await?);
                announcer.registered(self.start.elapsed());
                Ok(())
            }
            (Step::Announce, Some(connection)) => {
                let complete = self.complete.load(Ordering::Relaxed);
                connection.send(&Message::Announce { id: self.register.id, complete }).await
            }
            (Step::Disconnect, _) => Err(Lost::Silent),
            (Step::Wait(until), Some(connection)) => {
                let until = self.start + until;
                if let Some(rests) = self.allowance.rests_until(&mut self.chatter) {
                    sleep_until(until.min(rests)).await;
                    return Ok(());
                }
                let (chatter, allowance) = (&mut self.chatter, &self.allowance);
                let message = tokio::select! {
                    message = connection.receive(|bytes| allowance.heard(chatter, bytes)) => message?,
                    () = sleep_until(until) => return Ok(()),
                };
                self.take_in(message, announcer, connection).await
            }
            (Step::Wait(until), None) => {
                sleep_until(self.start + until).await;
                Ok(())
            }
            (Step::Announce, None) => Err(Lost::Closed),
        }
    }

    async fn connect(&self) -> Result<Connection, Lost> {
        let stream = timeout(SOCKET_MAX, TcpStream::connect(self.tracker))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(Lost::Unreachable)?;
        let mut connection = Connection {
            stream,
            inbound: BytesMut::new(),
            codec: FrameCodec::new(FrameLimits::tracker_client()),
            unknown: 0,
            registration: None,
        };
        let complete = self.complete.load(Ordering::Relaxed);
        let register = Register { complete, ..self.register.clone() };
        connection.send(&Message::Register(register)).await?;
        Ok(connection)
    }

    async fn take_in(
        &self,
        message: Message,
        announcer: &mut Announcer,
        connection: &mut Connection,
    ) -> Result<(), Lost> {
        let (source, peers) = match message {
            Message::PeerList { peers, interval } => {
                *lock(&self.tracked.problem) = None;
                announcer.answered(interval);
                let registered = &self.registered;
                connection.registration.get_or_insert_with(|| Registration::of(registered));
                (Source::List(self.tracker), peers)
            }
            Message::NewPeer(peer) => (Source::Push(self.tracker), vec![peer]),
            Message::KeepAlive => return Ok(()),
            Message::Goodbye { reason, .. } => {
                return Err(Lost::Goodbye { reason: reason.unwrap_or_default() });
            }
            Message::Unknown if connection.unknown < limits::UNKNOWN_MESSAGES_MAX => {
                connection.unknown += 1;
                return Ok(());
            }
            other => return Err(Lost::Unexpected { tipo: other.tipo() }),
        };
        self.found.send(Found { source, peers }).await.map_err(|_| Lost::NobodyListens)
    }
}

impl Connection {
    async fn send(&mut self, message: &Message) -> Result<(), Lost> {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        timeout(SOCKET_MAX, self.stream.write_all_buf(&mut out))
            .await
            .map_err(|_| Lost::TooSlow)?
            .map_err(|error| Lost::Wire(error.into()))
    }

    async fn receive(&mut self, count: impl FnMut(usize)) -> Result<Message, Lost> {
        let Self { stream, inbound, codec, .. } = self;
        match read_counted_frame(stream, inbound, codec, count).await {
            Ok(Some(Frame::Control(message))) => Ok(message),
            // The limits let no other frames through.
            Ok(_) => Err(Lost::Closed),
            Err(error) => Err(Lost::Wire(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::read_frame;
    use super::super::tracker_server::TrackerServer;
    use super::super::tracker_server::testing::Listening;
    use super::*;
    use crate::tracker::{Mode, Rules};
    use crate::types::{PeerId, ShareId};
    use crate::wire::Destination;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    fn server() -> TrackerServer {
        TrackerServer::new(Rules { mode: Mode::Mesh, ..Rules::default() }, 1)
    }

    fn client(tracker: SocketAddr, peer: u64) -> (TrackerClient, mpsc::Receiver<Found>) {
        client_beside(Registered::default(), tracker, peer)
    }

    fn client_beside(
        registered: Registered,
        tracker: SocketAddr,
        peer: u64,
    ) -> (TrackerClient, mpsc::Receiver<Found>) {
        let (found_by, found) = mpsc::channel(16);
        let (id, share) = (PeerId::numbered(peer), ShareId([4; 32]));
        let register = Register::new(id, share, Destination::Tracker);
        let register = Register { port: 4000 + peer as u16, ..register };
        let rng = fastrand::Rng::with_seed(peer);
        let own = Arc::default();
        let client = TrackerClient::spawn(tracker, register, found_by, registered, own, rng);
        (client, found)
    }

    fn peer(number: u64) -> PeerAddr {
        let ip = std::net::Ipv4Addr::LOCALHOST.into();
        PeerAddr { id: PeerId::numbered(number), ip, port: 4000 + number as u16 }
    }

    /// Waits, without sleeping, until a tracker has a problem or has none.
    async fn until_problem(tracked: &Tracked, there: bool) -> Option<String> {
        let changed = async {
            while tracked.problem().is_some() != there {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), changed).await.expect("as it was");
        tracked.problem()
    }

    #[tokio::test]
    async fn what_stands_between_us_and_a_tracker_is_known_until_it_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        let (client, _found) = client(addr, 1);
        let problem = until_problem(client.tracked(), true).await.unwrap();
        assert!(problem.starts_with("refused"), "{problem}");
        let server = server();
        let _listening = Listening::start_at(&server, addr);
        until_problem(client.tracked(), false).await;
    }

    /// Waits, without sleeping, until as many peers are registered; a test that waits for what
    /// does not come fails.
    async fn until_registered(server: &TrackerServer, peers: usize) {
        let registered = async {
            while server.summary().peers != peers {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), registered).await.expect("another number of peers");
    }

    #[tokio::test]
    async fn what_the_tracker_lists_and_pushes_is_told_with_its_source() {
        let server = server();
        let listening = Listening::start(&server);
        let tracker = listening.addr;
        let (_first, mut first_found) = client(tracker, 1);
        let nobody = Found { source: Source::List(tracker), peers: Vec::new() };
        assert_eq!(first_found.recv().await, Some(nobody));
        let (_second, mut second_found) = client(tracker, 2);
        let listed = Found { source: Source::List(tracker), peers: vec![peer(1)] };
        assert_eq!(second_found.recv().await, Some(listed));
        let mut pushed = first_found.recv().await.unwrap();
        while pushed.source == Source::List(tracker) {
            pushed = first_found.recv().await.unwrap();
        }
        assert_eq!(pushed, Found { source: Source::Push(tracker), peers: vec![peer(2)] });
    }

    #[tokio::test]
    async fn the_list_is_whole_again_within_five_seconds_of_a_restart() {
        let (before, after) = (server(), server());
        let listening = Listening::start(&before);
        let tracker = listening.addr;
        let clients: Vec<_> = (1..=5).map(|peer| client(tracker, peer)).collect();
        until_registered(&before, 5).await;
        listening.kill().await;
        let restarted = Instant::now();
        let _listening = Listening::start_at(&after, tracker);
        until_registered(&after, 5).await;
        assert!(restarted.elapsed() < Duration::from_secs(5));
        drop(clients);
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_unlisted_and_so_is_one_that_is_dropped() {
        let server = server();
        let listening = Listening::start(&server);
        let (leaving, _found) = client(listening.addr, 1);
        let (dropped, _found) = client(listening.addr, 2);
        until_registered(&server, 2).await;
        leaving.leave().await;
        until_registered(&server, 1).await;
        drop(dropped);
        until_registered(&server, 0).await;
    }

    #[tokio::test]
    async fn announces_say_when_every_piece_is_held() {
        let server = server();
        let listening = Listening::start(&server);
        let (client, mut found) = client(listening.addr, 1);
        found.recv().await.unwrap();
        assert_eq!(server.summary().complete, 0);
        client.complete();
        // The answer to the first early announce.
        found.recv().await.unwrap();
        assert_eq!(server.summary().complete, 1);
    }

    #[tokio::test]
    async fn a_tracker_that_talks_garbage_is_dialled_again() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_client, mut found) = client(listener.local_addr().unwrap(), 1);
        for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &[0; 100], b""] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut register = [0; 64];
            stream.read_exact(&mut register).await.unwrap();
            stream.write_all(garbage).await.unwrap();
        }
        assert!(found.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_client_whose_share_is_gone_ends_by_itself() {
        let server = server();
        let listening = Listening::start(&server);
        let (_client, found) = client(listening.addr, 1);
        until_registered(&server, 1).await;
        drop(found);
        // It is told of the second, and has nobody to tell it to.
        let (_second, mut second_found) = self::client(listening.addr, 2);
        second_found.recv().await.unwrap();
        until_registered(&server, 1).await;
    }

    /// A tracker that knows a peer by another address says so to the next connection.
    async fn says_that_it_knows_us(listener: &TcpListener) {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut inbound = BytesMut::new();
        let mut codec = FrameCodec::new(FrameLimits::before_handshake());
        read_frame(&mut stream, &mut inbound, &mut codec).await.unwrap();
        let mut out = BytesMut::new();
        let reason = Some(CloseReason::IdTaken.to_string());
        Message::Goodbye { id: PeerId::numbered(0), reason }.encode(&mut out);
        stream.write_all(&out).await.unwrap();
    }

    /// Waits, without sleeping, until a client waits for the others to be gone.
    async fn until_it_rests(registered: &Registered) {
        // It looks at how many there are.
        let rests = async {
            while registered.receiver_count() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), rests).await.expect("it does not leave it at that");
    }

    #[tokio::test]
    async fn a_tracker_that_knows_us_by_another_address_is_left_alone_there_while_it_does() {
        let server = server();
        let listening = Listening::start(&server);
        let registered = Registered::default();
        let (_first, mut found) = client_beside(Arc::clone(&registered), listening.addr, 1);
        found.recv().await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (second, _found) =
            client_beside(Arc::clone(&registered), other.local_addr().unwrap(), 1);
        says_that_it_knows_us(&other).await;
        until_it_rests(&registered).await;
        assert_eq!((second.tracked().problem(), *registered.borrow()), (None, 1));
        listening.kill().await;
        timeout(Duration::from_secs(30), says_that_it_knows_us(&other)).await.expect("tried again");
        until_problem(second.tracked(), true).await;
    }

    #[tokio::test]
    async fn a_tracker_where_somebody_else_has_our_identity_is_asked_again_after_a_minute() {
        let registered = Registered::default();
        let _elsewhere = Registration::of(&registered);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tracker = listener.local_addr().unwrap();
        let (_client, _found) = client_beside(Arc::clone(&registered), tracker, 1);
        says_that_it_knows_us(&listener).await;
        until_it_rests(&registered).await;
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
        let again = timeout(Duration::from_secs(30), says_that_it_knows_us(&listener));
        again.await.expect("it stays away");
    }
}
