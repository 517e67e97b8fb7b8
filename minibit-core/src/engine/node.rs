//! A node: one identity, its listening sockets, and the shares it takes part in.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::bootstrap::{self, BootstrapError, Bootstrapped};
use super::context::{NodeContext, ShareContext, ShareParts};
use super::dial::Established;
use super::local::{self, Replaced};
use super::share::{self, ManagerParts, ShareHandle};
use super::tracker_client::{Found, Registered, TrackerClient};
use super::tracker_server::TrackerServer;
use super::{listener, resume};
use crate::content::{Manifest, Ticket};
use crate::peer::Introduction;
use crate::store::{PartStore, PieceStore, PreparedShare, Present, StoreError};
use crate::swarm::{Caps, ChokePolicy, Choker, KnownPeer, Neighbours, Slots, Source};
use crate::tracker::{Rules, Summary};
use crate::trade::lock;
use crate::types::{PeerId, PieceSet, ShareId};
use crate::wire::{Destination, Register};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Lists of peers that trackers may have sent and nobody has looked at.
const FOUND_QUEUE: usize = 64;

/// How a node behaves.
#[derive(Debug, Clone, Default)]
pub struct NodeConfig {
    /// Where to listen. The first one's port is the one that others are told. Empty: one port
    /// of the system's choice on every address, IPv6 and IPv4.
    pub listen: Vec<SocketAddr>,
    /// Its identity; random if not given.
    pub peer_id: Option<PeerId>,
    /// How many peers are answered at a time.
    pub slots: Slots,
    /// Which peers are answered first.
    pub policy: ChokePolicy,
    /// How many links each share has.
    pub links: Caps,
    /// Lanes of each link; by distance and cores if not given.
    pub lanes: Option<u8>,
    /// Seed of every random choice; from the system if not given.
    pub seed: Option<u64>,
    /// Also be a tracker, by these rules.
    pub tracker: Option<Rules>,
}

/// Why a node could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The address is taken, not ours, or not allowed.
    #[error("could not listen on {addr}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// The node takes part in this share already.
    #[error("this share is here already")]
    Duplicate,
}

/// Why a download did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// No manifest could be had.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// The target could not be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The selection names no file.
    #[error("no file of this share was selected; it has {has}")]
    NothingSelected {
        /// Its first files, ready to be printed.
        has: String,
    },
    /// See [`NodeError::Duplicate`].
    #[error("this share is here already")]
    Duplicate,
    /// Our own tasks were stopped meanwhile.
    #[error("stopped")]
    Stopped,
}

/// Says of each file in the manifest's order whether it is wanted.
pub type Selection = Box<dyn Fn(&Manifest) -> Vec<bool> + Send + Sync>;

/// Told how many bytes of what is already here were hashed, and how many are to be.
pub type Checking = Box<dyn Fn(u64, u64) + Send + Sync>;

/// How a download is made.
pub struct GetOptions {
    /// Directory into which the share is put; made if missing.
    pub dir: PathBuf,
    /// Which files; `None` for all.
    pub select: Option<Selection>,
    /// See [`PartOptions::force`](crate::store::PartOptions::force).
    pub force: bool,
    /// How long to try to reach somebody.
    pub patience: Duration,
    /// Pieces copied in before the swarm starts (the first blocks of `demo`).
    pub first_pieces: Option<FirstPieces>,
    /// Told, from any thread and before the download is open, how far the check of what is already here has come.
    pub checking: Option<Checking>,
}

/// Where a peer's first pieces come from, instead of the swarm.
pub struct FirstPieces {
    /// Which.
    pub pieces: Box<dyn Fn(&Manifest) -> PieceSet + Send + Sync>,
    /// A store that holds them.
    pub from: Arc<dyn PieceStore>,
}

/// One peer. Dropping it stops listening; its shares go on until they are stopped.
#[derive(Debug)]
pub struct Node {
    inner: Arc<NodeInner>,
    addrs: Vec<SocketAddr>,
    listeners: Vec<JoinHandle<()>>,
}

pub(super) struct NodeInner {
    context: Arc<NodeContext>,
    config: NodeConfig,
    tracker: Option<TrackerServer>,
    shares: Mutex<HashMap<ShareId, ShareHandle>>,
    /// Downloads that trackers know of already and that cannot be served yet.
    opening: Mutex<HashSet<ShareId>>,
    opening_ended: watch::Sender<()>,
}

impl std::fmt::Debug for NodeInner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeInner").field("id", &self.context.id).finish_non_exhaustive()
    }
}

impl NodeInner {
    pub(super) fn share_of(&self, id: &ShareId) -> Option<ShareHandle> {
        lock(&self.shares).get(id).cloned()
    }

    /// The share of that id. One that is being opened is waited for: peers hear of us as soon
    /// as we ask a tracker for them, and whoever comes at once shall not find the door shut.
    pub(super) async fn share_when_open(&self, id: &ShareId) -> Option<ShareHandle> {
        let mut ended = self.opening_ended.subscribe();
        while lock(&self.opening).contains(id) {
            ended.changed().await.ok()?;
        }
        self.share_of(id)
    }

    pub(super) async fn serve_tracker(
        &self,
        stream: TcpStream,
        inbound: BytesMut,
        register: Register,
        addr: SocketAddr,
    ) {
        if let Some(tracker) = &self.tracker {
            tracker.serve(stream, inbound, register, addr).await;
        }
    }
}

/// A download that is being opened, for as long as this value lives.
struct Opening<'a> {
    node: &'a NodeInner,
    share: ShareId,
}

impl<'a> Opening<'a> {
    /// `None` if it is being opened already.
    fn of(node: &'a NodeInner, share: ShareId) -> Option<Self> {
        lock(&node.opening).insert(share).then_some(Self { node, share })
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        lock(&self.node.opening).remove(&self.share);
        self.node.opening_ended.send_replace(());
    }
}

/// A node that has its ports and answers nobody yet: whoever connects waits until it starts.
#[derive(Debug)]
pub struct Bound {
    config: NodeConfig,
    sockets: Vec<(TcpListener, Replaced)>,
}

impl Bound {
    /// Where it listens, with the ports it was given.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|(socket, _)| socket.local_addr().ok()).collect()
    }

    /// The node, which answers from now on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> Node {
        let addrs = self.local_addrs();
        let Self { config, sockets } = self;
        let port = addrs.first().map_or(0, SocketAddr::port);
        let seed = config.seed.unwrap_or_else(|| fastrand::u64(..));
        let id =
            config.peer_id.unwrap_or_else(|| PeerId::random(&mut fastrand::Rng::with_seed(seed)));
        let context = Arc::new(NodeContext::new(id, port, config.lanes, seed));
        let tracker = config.tracker.map(|rules| TrackerServer::new(rules, seed));
        let inner = Arc::new(NodeInner {
            context,
            config,
            tracker,
            shares: Mutex::default(),
            opening: Mutex::default(),
            opening_ended: watch::Sender::new(()),
        });
        let listeners = sockets
            .into_iter()
            .map(|(socket, replaced)| {
                let accepting = listener::run(socket, replaced, Arc::clone(&inner));
                tokio::spawn(accepting.instrument(inner.context.span.clone()))
            })
            .collect();
        Node { inner, addrs, listeners }
    }
}

impl Node {
    /// Starts listening.
    ///
    /// # Errors
    /// [`NodeError::Listen`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        Self::bind(config).map(Bound::start)
    }

    /// Takes the ports of a node that is started later: before work that would be in vain without them.
    ///
    /// # Errors
    /// [`NodeError::Listen`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn bind(config: NodeConfig) -> Result<Bound, NodeError> {
        let sockets = bind_all(&config.listen)?;
        Ok(Bound { config, sockets })
    }

    /// Its identity.
    pub fn id(&self) -> PeerId {
        self.inner.context.id
    }

    /// Where it listens, with the ports the system chose.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// How much this node keeps as a tracker; `None` if it is none.
    pub fn tracker_summary(&self) -> Option<Summary> {
        self.inner.tracker.as_ref().map(TrackerServer::summary)
    }

    /// Every share it takes part in.
    pub fn shares(&self) -> Vec<ShareHandle> {
        lock(&self.inner.shares).values().cloned().collect()
    }

    /// Offers a prepared share, and announces it to the trackers. A node that is a tracker
    /// itself announces it there, too.
    ///
    /// # Errors
    /// [`NodeError::Duplicate`].
    pub async fn share(
        &self,
        prepared: PreparedShare,
        trackers: &[SocketAddr],
    ) -> Result<ShareHandle, NodeError> {
        let PreparedShare { manifest, hashes, store, .. } = prepared;
        let pieces = PieceSet::full(manifest.geometry().piece_count());
        let opened = Opened::finished(manifest, Present { pieces, hashes, store }, PathBuf::new());
        let share = opened.parts.manifest.share_id();
        let mut trackers = trackers.to_vec();
        trackers.extend(self.own_tracker());
        let (clients, found) = self.trackers(share, &trackers, true);
        self.open(opened, clients, found, None).map_err(|()| NodeError::Duplicate)
    }

    /// Starts (or takes up again) a download: fetches the manifest from whoever the ticket
    /// leads to and opens the target. The transfer then goes on by itself; see
    /// [`ShareHandle::completed`].
    ///
    /// # Errors
    /// [`GetError`].
    pub async fn get(&self, ticket: &Ticket, options: GetOptions) -> Result<ShareHandle, GetError> {
        self.fetch(ticket, options).instrument(self.inner.context.span.clone()).await
    }

    /// Fetches the manifest alone: what a download would get.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub async fn look_up(
        &self,
        ticket: &Ticket,
        patience: Duration,
    ) -> Result<Manifest, BootstrapError> {
        let meeting = self.meet(ticket, patience).instrument(self.inner.context.span.clone());
        Ok(meeting.await?.bootstrapped.manifest)
    }

    /// Asks whoever the ticket leads to for the manifest.
    async fn meet(&self, ticket: &Ticket, patience: Duration) -> Result<Met, BootstrapError> {
        let introduction = Introduction {
            id: self.id(),
            share: ticket.share(),
            port: self.inner.context.port,
            complete: false,
        };
        let (clients, mut found) = self.trackers(ticket.share(), ticket.trackers(), false);
        let at_once = self.inner.config.links.dials_max;
        let (peers, rng) = (ticket.peers(), self.inner.context.rng());
        let meeting = bootstrap::fetch(&introduction, peers, &mut found, patience, at_once, rng);
        let bootstrapped = meeting.await.map_err(|error| with_trackers(error, &clients))?;
        Ok(Met { bootstrapped, clients, found })
    }

    async fn fetch(&self, ticket: &Ticket, options: GetOptions) -> Result<ShareHandle, GetError> {
        // A share that was stopped holds its target for as long as somebody has it.
        lock(&self.inner.shares).retain(|_, share| !share.is_over());
        if self.inner.share_of(&ticket.share()).is_some() {
            return Err(GetError::Duplicate);
        }
        let _opening = Opening::of(&self.inner, ticket.share()).ok_or(GetError::Duplicate)?;
        let Met { mut bootstrapped, clients, found } = self.meet(ticket, options.patience).await?;
        let refuted = std::mem::take(&mut bootstrapped.refuted);
        let heard = std::mem::take(&mut bootstrapped.heard);
        let (opened, link) = resume::open_download(bootstrapped, options).await?;
        let first = FirstLink { link, peers: ticket.peers().to_vec(), refuted, heard };
        self.open(opened, clients, found, Some(first)).map_err(|()| GetError::Duplicate)
    }

    /// Leaves every swarm and stops listening.
    pub async fn shutdown(self) {
        for share in self.shares() {
            share.stop().await;
        }
    }

    /// How this node's own tracker is reached from here.
    fn own_tracker(&self) -> Option<SocketAddr> {
        self.inner.tracker.as_ref()?;
        let addr = *self.addrs.first()?;
        let ip = match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        Some(SocketAddr::new(ip, addr.port()))
    }

    fn trackers(
        &self,
        share: ShareId,
        addrs: &[SocketAddr],
        complete: bool,
    ) -> (Vec<TrackerClient>, mpsc::Receiver<Found>) {
        let (found_by, found) = mpsc::channel(FOUND_QUEUE);
        let registered = Registered::default();
        let context = &self.inner.context;
        let _logged_as = context.span.enter();
        let register = Register::new(context.id, share, Destination::Tracker);
        let register = Register { port: context.port, complete, ..register };
        let clients = addrs.iter().map(|addr| {
            let (found_by, registered) = (found_by.clone(), Arc::clone(&registered));
            let (register, allowance) = (register.clone(), Arc::clone(&context.trackers));
            TrackerClient::spawn(*addr, register, found_by, registered, allowance, context.rng())
        });
        (clients.collect(), found)
    }

    fn open(
        &self,
        opened: Opened,
        trackers: Vec<TrackerClient>,
        found: mpsc::Receiver<Found>,
        first: Option<FirstLink>,
    ) -> Result<ShareHandle, ()> {
        let mut shares = lock(&self.inner.shares);
        let id = opened.parts.manifest.share_id();
        if shares.get(&id).is_some_and(|share| !share.is_over()) {
            return Err(());
        }
        let config = &self.inner.config;
        let (tell, events) = mpsc::unbounded_channel();
        let node = Arc::clone(&self.inner.context);
        let tracked = trackers.iter().map(|client| Arc::clone(client.tracked())).collect();
        let context = Arc::new(ShareContext::new(node, opened.parts, tracked, tell));
        let links = config.links.for_share(context.share.geometry.piece_count());
        let pieces = context.share.geometry.piece_count();
        let piece_len = context.share.geometry.piece_size().bytes();
        let mut neighbours = Neighbours::new(self.id(), links);
        let mut established = None;
        if let Some(first) = first {
            let known = first.peers.iter().map(|addr| KnownPeer { id: None, addr: *addr });
            neighbours.learn(context.now(), Source::Ticket, known);
            for (peer, addr) in first.refuted {
                neighbours.ban_peer(peer, addr);
                context.warn(format!(
                    "peer {} at {addr} was banned: it sent another share's manifest",
                    peer.short()
                ));
            }
            for found in &first.heard {
                neighbours.learn(context.now(), found.source, found.known());
            }
            established = first.link;
        }
        let handle = share::spawn(ManagerParts {
            context,
            events,
            part: opened.part,
            choker: Choker::new(config.policy, config.slots, piece_len, pieces),
            neighbours,
            trackers,
            found,
            first: established,
            done: opened.done,
        });
        shares.insert(id, handle.clone());
        Ok(handle)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        for listener in &self.listeners {
            listener.abort();
        }
    }
}

/// A share whose store is open.
pub(super) struct Opened {
    pub(super) parts: ShareParts,
    pub(super) part: Option<Arc<PartStore>>,
    pub(super) done: Option<PathBuf>,
}

impl Opened {
    /// A share of which everything that is wanted is at `path` already.
    pub(super) fn finished(manifest: Manifest, here: Present, path: PathBuf) -> Self {
        let Present { pieces, hashes, store } = here;
        let parts = ShareParts {
            manifest_bytes: Bytes::from(manifest.encode()),
            manifest,
            hashes,
            store: Arc::new(store),
            have: pieces.clone(),
            wanted: pieces,
        };
        Self { parts, part: None, done: Some(path) }
    }
}

/// The manifest is here, and trackers know of us.
struct Met {
    bootstrapped: Bootstrapped,
    clients: Vec<TrackerClient>,
    found: mpsc::Receiver<Found>,
}

struct FirstLink {
    link: Option<Established>,
    peers: Vec<SocketAddr>,
    /// Whom trackers have named by now.
    heard: Vec<Found>,
    /// Who lied about the manifest.
    refuted: Vec<(PeerId, SocketAddr)>,
}

/// The same failure, with what kept the trackers from helping.
fn with_trackers(mut error: BootstrapError, clients: &[TrackerClient]) -> BootstrapError {
    if let BootstrapError::Unreachable { tried, .. } = &mut error {
        for tracked in clients.iter().map(TrackerClient::tracked) {
            if let Some(problem) = tracked.problem() {
                tried.tracker(tracked.addr, &problem);
            }
        }
    }
    error
}

fn bind_all(listen: &[SocketAddr]) -> Result<Vec<(TcpListener, Replaced)>, NodeError> {
    if !listen.is_empty() {
        return listen.iter().map(|addr| bind(*addr)).collect();
    }
    // Both families by one socket; without IPv6 in the system, IPv4 alone.
    let any6 = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
    let any4 = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0);
    bind(any6).or_else(|_| bind(any4)).map(|socket| vec![socket])
}

fn bind(addr: SocketAddr) -> Result<(TcpListener, Replaced), NodeError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(!addr.ip().is_unspecified())?;
        }
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let replaced = local::begin(&socket);
        socket.listen(BACKLOG)?;
        Ok((TcpListener::from_std(socket.into())?, replaced))
    };
    open().map_err(|source| NodeError::Listen { addr, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Message, PeerAddr};
    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    /// A tracker that says the same as fast as it can, as long as the client stays.
    async fn flood(listener: TcpListener, message: Vec<u8>) {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            while stream.write_all(&message).await.is_ok() {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn trackers_that_flood_a_node_are_read_at_one_allowance_whatever_share_they_are_asked_about()
     {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let node = Node::start(NodeConfig { listen: vec![here], ..NodeConfig::default() });
        let node = node.await.unwrap();
        let mut out = BytesMut::new();
        let peer = PeerAddr { id: PeerId::numbered(2), ip: here.ip(), port: 4000 };
        Message::NewPeer(peer).encode(&mut out);
        let (mut asked, mut floods) = (Vec::new(), Vec::new());
        for share in 0..2 {
            let listener = TcpListener::bind(here).await.unwrap();
            let tracker = listener.local_addr().unwrap();
            asked.push(node.trackers(ShareId([share; 32]), &[tracker], false));
            floods.push(tokio::spawn(flood(listener, out.to_vec())));
        }
        let (start, mut heard, mut in_vain) = (Instant::now(), 0, 0);
        // Time passes here alone, and only when nothing comes.
        while heard < 2 * 1024 * 1024 {
            in_vain += 1;
            for (_, found) in &mut asked {
                while found.try_recv().is_ok() {
                    (heard, in_vain) = (heard + out.len(), 0);
                }
            }
            if in_vain == 1000 {
                in_vain = 0;
                tokio::time::advance(Duration::from_millis(100)).await;
            }
            tokio::task::yield_now().await;
        }
        // A MiB and twice 128 KiB at once, and 72 KiB a second.
        assert!(start.elapsed() >= Duration::from_secs(10), "{:?}", start.elapsed());
        floods.iter().for_each(JoinHandle::abort);
    }
}
