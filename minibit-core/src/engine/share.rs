//! One share of a node: its manager task, and the handle that users hold.
//!
//! The manager owns the decisions that concern more than one link: whom to dial, whom to
//! answer, when peers hear the news, when it is done. It is never on the way of a block.
//!
//! Not here: sockets' bytes (`lane`), the rules themselves (`swarm`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::Instrument;

use super::context::ShareContext;
use super::dial::{self, DialError, Established};
use super::lane::{Lane, LaneEnd, LaneParts};
use super::quiet::{Line, Quiet};
use super::stats::{LinkStats, ShareStats};
use super::tracker_client::{Found, TrackerClient};
use crate::content::Manifest;
use crate::peer::Introduction;
use crate::store::{PartStore, StoreError};
use crate::swarm::{Choker, LaneId, LinkId, Neighbours, Refusal};
use crate::trade::{self, CloseReason, Link, NewLink, Origin, lock};
use crate::types::{PeerId, PieceIndex, ShareId};
use crate::wire::{Message, Penalty, Register, WireError};

/// How often a pause because of a full disk is tried again.
const DISK_RETRY: Duration = Duration::from_secs(2);
/// A disk that was full and has refused nothing for so long is one that has room again.
const DISK_CALM: Duration = Duration::from_secs(5);
/// Lines a second about links that come and go.
const LINK_LINES_MAX: u32 = 50;
/// How often what was received is brought to the disk for good.
const CHECKPOINT: Duration = Duration::from_secs(30);
/// How long peers and trackers are given to hear that we leave.
const GOODBYE: Duration = Duration::from_millis(300);
/// How long a slow disk is given to take what was received before we leave.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// What the manager is told.
pub(super) enum Event {
    /// Somebody connected and said what it wants.
    Accepted { stream: TcpStream, inbound: BytesMut, register: Register, addr: SocketAddr },
    /// We connected, and were answered.
    Established(Established),
    /// We could not connect, or were not welcome.
    DialFailed { addr: SocketAddr },
    /// We connected, and there is no place for us.
    NoRoom { addr: SocketAddr },
    /// A link is over.
    LinkEnded { link: LinkId, end: Option<LaneEnd> },
    /// A link that we made should have more lanes.
    LanesWanted(LinkId),
    /// The last wanted piece was verified.
    Complete,
    /// The disk is full.
    DiskFull(StoreError),
    /// The disk failed.
    Failed(StoreError),
    /// Leave, and say when it is done.
    Stop(oneshot::Sender<()>),
}

/// Where a share stands.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    Active,
    Done(PathBuf),
    Failed(Arc<StoreError>),
    Stopped,
}

impl ShareContext {
    /// A piece was fetched from this link, to its end, verified and written.
    pub(super) fn keep(&self, link: &Link, piece: PieceIndex, owner: LaneId, origin: &Origin) {
        let ledger = &self.share.ledger;
        // Under a lease, so that nobody takes the piece over between record and ledger.
        let Some(_lease) = ledger.begin_write(piece, owner) else { return };
        if let Err(error) = self.store.complete(piece) {
            ledger.release(piece, owner);
            self.disk_failed(error);
            return;
        }
        self.share.keep(link, piece, owner, origin);
    }

    /// Our disk refused. Nothing more is asked for until the manager has looked at it.
    pub(super) fn disk_failed(&self, error: StoreError) {
        if self.share.pause() {
            let full = error.is_disk_full();
            self.tell(if full { Event::DiskFull(error) } else { Event::Failed(error) });
        }
    }

    /// A source cannot be served. If it is not what was hashed any more, its pieces are no
    /// longer ours to offer; anything else (no descriptor left, a bad sector) may pass.
    pub(super) fn not_served(&self, piece: PieceIndex, error: &StoreError) {
        let gone = match error {
            StoreError::SourceChanged { .. } => true,
            StoreError::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            _ => false,
        };
        if !gone {
            tracing::warn!(%piece, error = with_causes(error), "could not serve");
            return;
        }
        if !self.share.withdraw(self.share.geometry.file_of(piece)) {
            return;
        }
        // Users are told by the warning.
        tracing::info!(%error, "withdrawn from the share");
        let left = if self.share.ledger.have_count() == 0 {
            "it is no longer shared, and nothing else is left of the share"
        } else {
            "it is no longer shared"
        };
        self.warn(format!(
            "{}; {left}; share it again for a ticket of what it is now",
            with_causes(error)
        ));
    }
}

/// An error and what led to it, on one line, as users are told of it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// A share that a node takes part in. Clones are handles to the same share.
#[derive(Clone)]
pub struct ShareHandle {
    pub(super) context: Arc<ShareContext>,
    pub(super) phase: watch::Receiver<Phase>,
}

impl std::fmt::Debug for ShareHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ShareHandle").field(&self.context.id).finish()
    }
}

/// Why a share could not be completed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CompleteError {
    /// Our disk failed.
    #[error("the disk failed")]
    Store(#[source] Arc<StoreError>),
    /// The share was stopped before it was complete.
    #[error("stopped before it was complete")]
    Stopped,
}

impl ShareHandle {
    /// Which share this is.
    pub fn id(&self) -> ShareId {
        self.context.id
    }

    /// What the share consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.context.manifest
    }

    /// A snapshot of its progress; cheap enough for every frame of a progress bar.
    pub fn stats(&self) -> ShareStats {
        ShareStats::of(&self.context)
    }

    /// Every link of the moment.
    pub fn links(&self) -> Vec<LinkStats> {
        self.context.share.links().values().map(|link| LinkStats::of(link)).collect()
    }

    /// Waits until every wanted byte is verified and in place under its final name, and
    /// returns that name. For a share that was complete from the start, at once.
    ///
    /// # Errors
    /// [`CompleteError`] if that will not happen any more.
    pub async fn completed(&self) -> Result<PathBuf, CompleteError> {
        let mut phase = self.phase.clone();
        loop {
            match phase.borrow_and_update().clone() {
                Phase::Done(path) => return Ok(path),
                Phase::Failed(error) => return Err(CompleteError::Store(error)),
                Phase::Stopped => return Err(CompleteError::Stopped),
                Phase::Active => {}
            }
            if phase.changed().await.is_err() {
                return Err(CompleteError::Stopped);
            }
        }
    }

    /// Leaves the swarm: peers and trackers are told, and what was received is brought to the
    /// disk, so that nothing is hashed again when the share is taken up later.
    pub async fn stop(&self) {
        let (done, stopped) = oneshot::channel();
        self.context.tell(Event::Stop(done));
        let _ = stopped.await;
    }

    pub(super) fn is_over(&self) -> bool {
        // The manager has gone.
        self.context.bells.events.is_closed()
    }
}

/// What a manager starts from.
pub(super) struct ManagerParts {
    pub(super) context: Arc<ShareContext>,
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    /// The download's own store, to be finished; `None` for a share of the user's files.
    pub(super) part: Option<Arc<PartStore>>,
    pub(super) choker: Choker,
    pub(super) neighbours: Neighbours,
    pub(super) trackers: Vec<TrackerClient>,
    pub(super) found: mpsc::Receiver<Found>,
    /// The link that the manifest came over.
    pub(super) first: Option<Established>,
    /// Where the files are, if the share is complete from the start.
    pub(super) done: Option<PathBuf>,
}

/// Starts the manager of a share.
pub(super) fn spawn(parts: ManagerParts) -> ShareHandle {
    let first = match &parts.done {
        Some(path) => Phase::Done(path.clone()),
        None => Phase::Active,
    };
    let (phase, watching) = watch::channel(first);
    let handle = ShareHandle { context: Arc::clone(&parts.context), phase: watching };
    let span = parts.context.node.span.clone();
    let now = parts.context.now();
    let rng = parts.context.node.rng();
    let mind = trade::Manager::new(
        Arc::clone(&parts.context.share),
        parts.choker,
        parts.neighbours,
        !parts.trackers.is_empty(),
        rng,
    );
    let mut manager = Manager {
        complete: parts.done.is_some(),
        context: parts.context,
        part: parts.part,
        mind,
        trackers: parts.trackers,
        phase,
        retry_at: None,
        calm_at: None,
        checkpoint_at: now + CHECKPOINT,
        dials: JoinSet::new(),
        links_told: Quiet::new(LINK_LINES_MAX),
    };
    // Before its address is dialled once more.
    if let Some(first) = parts.first {
        manager.on_established(first);
    }
    tokio::spawn(manager.run(parts.events, parts.found).instrument(span));
    handle
}

struct Manager {
    context: Arc<ShareContext>,
    part: Option<Arc<PartStore>>,
    /// What is decided.
    mind: trade::Manager,
    trackers: Vec<TrackerClient>,
    phase: watch::Sender<Phase>,
    complete: bool,
    retry_at: Option<Duration>,
    /// When the pause is over, unless the disk refuses again.
    calm_at: Option<Duration>,
    checkpoint_at: Duration,
    dials: JoinSet<()>,
    links_told: Quiet,
}

impl Manager {
    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Event>,
        mut found: mpsc::Receiver<Found>,
    ) {
        let context = Arc::clone(&self.context);
        if !self.complete && context.share.ledger.is_complete() {
            self.finish().await;
        }
        loop {
            let now = context.now();
            self.do_what_is_due(now);
            self.dial(now);
            let wake = context.node.clock.instant(self.next_wake(now));
            let mut stop = None;
            tokio::select! {
                event = events.recv() => match event {
                    Some(Event::Stop(done)) => stop = Some(Some(done)),
                    Some(event) => self.on_event(event).await,
                    None => stop = Some(None),
                },
                Some(found) = found.recv() => self.on_found(&found),
                () = context.bells.news.notified() => self.mind.schedule_news(context.now()),
                () = context.bells.slots_changed.notified() => {
                    self.mind.choose_slots(context.now());
                }
                () = tokio::time::sleep_until(wake) => {}
                Some(_) = self.dials.join_next() => {}
            }
            if let Some(done) = stop {
                self.leave().await;
                // Whoever waits for `done` may take the share up again at once.
                events.close();
                drop(done);
                return;
            }
        }
    }

    fn next_wake(&self, now: Duration) -> Duration {
        let timers = [self.retry_at, self.calm_at].into_iter().flatten().filter(|at| *at > now);
        timers.fold(self.mind.next_wake(now), Duration::min)
    }

    fn do_what_is_due(&mut self, now: Duration) {
        self.mind.do_what_is_due(now);
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
            self.calm_at = Some(now + DISK_CALM);
            self.context.share.resume();
        }
        if self.calm_at.is_some_and(|at| now >= at) {
            self.calm_at = None;
            *lock(&self.context.pause_reason) = None;
        }
        if now >= self.checkpoint_at {
            self.checkpoint_at = now + CHECKPOINT;
            self.checkpoint();
        }
    }

    async fn on_event(&mut self, event: Event) {
        match event {
            Event::Accepted { stream, inbound, register, addr } => {
                self.on_accepted(stream, inbound, &register, addr);
            }
            Event::Established(established) => self.on_established(established),
            Event::DialFailed { addr } => {
                self.mind.dial_failed(self.context.now(), addr);
            }
            Event::NoRoom { addr } => self.mind.found_no_room(self.context.now(), addr),
            Event::LinkEnded { link, end } => self.on_link_ended(link, end.as_ref()),
            Event::LanesWanted(link) => self.open_lanes(link),
            Event::Complete => self.finish().await,
            Event::DiskFull(error) => {
                // One pause, however often it is tried: its reason stays until there is room.
                if lock(&self.context.pause_reason).replace(with_causes(&error)).is_none() {
                    tracing::info!(%error, "paused: the disk is full");
                }
                self.calm_at = None;
                self.retry_at = Some(self.context.now() + DISK_RETRY);
            }
            Event::Failed(error) => {
                self.phase.send_replace(Phase::Failed(Arc::new(error)));
            }
            Event::Stop(_) => {}
        }
    }

    // ---- links ----

    fn introduction(&self) -> Introduction {
        Introduction {
            id: self.context.node.id,
            share: self.context.id,
            port: self.context.node.port,
            complete: self.context.share.ledger.holds_all(),
        }
    }

    fn on_found(&mut self, found: &Found) {
        self.mind.learn(self.context.now(), found.source, found.known());
    }

    fn dial(&mut self, now: Duration) {
        for addr in self.mind.dial(now) {
            let context = Arc::clone(&self.context);
            let introduction = self.introduction();
            let unchoked = self.mind.has_free_slot();
            let dialling = async move {
                match dial::dial(addr, &introduction, unchoked, None).await {
                    Ok(established) => context.tell(Event::Established(established)),
                    Err(error) => {
                        tracing::debug!(%addr, %error, "could not connect");
                        let is_full = matches!(error, DialError::Full);
                        let (no_room, failed) =
                            (Event::NoRoom { addr }, Event::DialFailed { addr });
                        context.tell(if is_full { no_room } else { failed });
                    }
                }
            };
            self.dials.spawn(dialling.in_current_span());
        }
    }

    fn on_accepted(
        &mut self,
        stream: TcpStream,
        inbound: BytesMut,
        register: &Register,
        addr: SocketAddr,
    ) {
        let introduction = self.introduction();
        let agreed = match introduction.check(register) {
            Ok(agreed) => agreed,
            Err(error) => {
                tracing::debug!(%addr, %error, "refused a peer");
                return;
            }
        };
        let (new, answer) = self.mind.accepted(&introduction, agreed, addr);
        let mut outbound = BytesMut::new();
        Message::Register(answer).encode(&mut outbound);
        self.add_link(new, stream, inbound, outbound);
    }

    fn on_established(&mut self, established: Established) {
        let Established { stream, inbound, agreed, addr, distance, told } = established;
        let new = self.mind.established(told, agreed, addr, distance);
        self.add_link(new, stream, inbound, BytesMut::new());
    }

    fn add_link(&mut self, new: NewLink, stream: TcpStream, inbound: BytesMut, outbound: BytesMut) {
        let context = Arc::clone(&self.context);
        // Our REGISTRO.
        context.share.counters.messages_sent.fetch_add(1, Relaxed);
        let addr = new.addr;
        let link = match self.mind.add_link(context.now(), new) {
            Ok(link) => link,
            Err(reason) => {
                tracing::debug!(%addr, %reason, "dropped a connection");
                if reason == Refusal::Full {
                    turn_away(&stream, context.node.id);
                }
                return;
            }
        };
        context.lost_contact.store(false, Relaxed);
        if self.may_tell() {
            tracing::info!(
                peer = %link.agreed.peer.short(), %addr, initiated = link.initiated, "linked"
            );
        }
        spawn_lane(LaneParts { context, link, stream, inbound, outbound, first: true });
    }

    fn on_link_ended(&mut self, id: LinkId, end: Option<&LaneEnd>) {
        let banned = match end {
            Some(LaneEnd::Violation(violation)) => violation.penalty() == Penalty::Ban,
            Some(LaneEnd::Wire(error)) => error.penalty() == Penalty::Ban,
            _ => false,
        };
        let Some(link) = self.mind.remove_link(self.context.now(), id, banned) else { return };
        let peer = link.agreed.peer.short();
        if !matches!(end, Some(LaneEnd::Left | LaneEnd::Closed)) {
            self.context.lost_contact.store(true, Relaxed);
        }
        let is_told = self.may_tell();
        match end {
            Some(end @ (LaneEnd::Violation(_) | LaneEnd::Wire(_))) => {
                // Users are told of a ban by the warning, and of no other end.
                let reason = with_causes(end);
                if is_told {
                    tracing::info!(%peer, addr = %link.addr, reason, banned, "link ended");
                }
                if banned {
                    let addr = link.addr;
                    self.context.warn(format!("peer {peer} at {addr} was banned: it {reason}"));
                }
            }
            Some(_) if !is_told => {}
            Some(end) => tracing::info!(%peer, reason = %end, "link ended"),
            None => tracing::error!(%peer, "link ended by a fault of ours"),
        }
    }

    /// Whether a line about a link that came or went is to be logged: strangers can make them come
    /// and go by the thousand.
    fn may_tell(&mut self) -> bool {
        let Line { is_told, left_out } = self.links_told.line(self.context.now());
        if left_out > 0 {
            tracing::info!(left_out, "links came and went too fast to tell of each");
        }
        is_told
    }

    /// Opens as many further lanes on a link of ours as it asked for.
    fn open_lanes(&mut self, id: LinkId) {
        let Some(link) = self.context.share.links().get(&id).cloned() else { return };
        for _ in link.lane_count.load(Relaxed)..link.lanes_wanted() {
            let (context, link) = (Arc::clone(&self.context), Arc::clone(&link));
            let introduction = self.introduction();
            let dialling = async move {
                match dial::dial_lane(link.addr, &introduction, link.key).await {
                    Ok(stream) => join_lane(&context, link, stream, BytesMut::new()),
                    Err(error) => tracing::debug!(%error, "could not open a lane"),
                }
            };
            self.dials.spawn(dialling.in_current_span());
        }
    }

    // ---- ends ----

    async fn finish(&mut self) {
        if self.complete {
            return;
        }
        let Some(part) = self.part.clone() else { return };
        let finished = tokio::task::spawn_blocking(move || part.finish()).await;
        let phase = match finished {
            Ok(Ok(path)) => {
                self.complete = true;
                Phase::Done(path)
            }
            // It is as it was, and finishing can be tried again.
            Ok(Err(error)) => Phase::Failed(Arc::new(error)),
            Err(_) => Phase::Stopped,
        };
        for tracker in &self.trackers {
            tracker.complete();
        }
        self.phase.send_replace(phase);
        self.mind.release_news();
        self.mind.choose_slots(self.context.now());
    }

    fn checkpoint(&self) {
        let Some(part) = self.part.clone().filter(|_| !self.complete) else { return };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = part.checkpoint() {
                tracing::warn!(%error, "checkpoint failed");
            }
        });
    }

    async fn leave(&mut self) {
        self.dials.abort_all();
        let links: Vec<Arc<Link>> = self.context.share.links().values().cloned().collect();
        for link in &links {
            link.close(CloseReason::Leaving);
        }
        let trackers = std::mem::take(&mut self.trackers);
        let told = async {
            for tracker in trackers {
                tracker.leave().await;
            }
            while links.iter().any(|link| link.lane_count.load(Acquire) > 0) {
                self.context.bells.lane_gone.notified().await;
            }
        };
        let _ = tokio::time::timeout(GOODBYE, told).await;
        let _ = tokio::time::timeout(LAST_WRITES, self.context.disk.drained()).await;
        if let Some(part) = self.part.clone().filter(|_| !self.complete) {
            let saved = tokio::task::spawn_blocking(move || part.checkpoint()).await;
            if let Ok(Err(error)) = saved {
                tracing::warn!(%error, "the last checkpoint failed");
            }
        }
        if !matches!(*self.phase.borrow(), Phase::Done(_) | Phase::Failed(_)) {
            self.phase.send_replace(Phase::Stopped);
        }
    }
}

/// Reports the end of a link however its first lane ends, a panic included.
struct EndReport {
    context: Arc<ShareContext>,
    link: LinkId,
    end: Option<LaneEnd>,
}

impl Drop for EndReport {
    fn drop(&mut self) {
        self.context.tell(Event::LinkEnded { link: self.link, end: self.end.take() });
    }
}

/// Tells a peer that there is no room for it, as far as its socket takes that at once. What it has
/// said is read first, for a connection that is closed over unread bytes takes the word along.
fn turn_away(stream: &TcpStream, id: PeerId) {
    const READS_MAX: usize = 4;
    let mut unread = [0; 1024];
    for _ in 0..READS_MAX {
        if !matches!(stream.try_read(&mut unread), Ok(1..)) {
            break;
        }
    }
    let mut out = BytesMut::new();
    Message::Goodbye { id, reason: Some(dial::FULL.to_owned()) }.encode(&mut out);
    // Whoever does not take it finds the connection closed.
    let _ = stream.try_write(&out);
}

fn spawn_lane(parts: LaneParts) {
    let link = Arc::clone(&parts.link);
    let mut report = parts.first.then(|| EndReport {
        context: Arc::clone(&parts.context),
        link: link.id,
        end: None,
    });
    let lane = Lane::new(parts);
    let running = async move {
        let end = lane.run().await;
        match &mut report {
            Some(report) => report.end = Some(end),
            // What a lane's peer did wrong, the link's peer did wrong.
            None => match end {
                LaneEnd::Violation(violation) => link.close(CloseReason::Violation(violation)),
                LaneEnd::Wire(WireError::Frame(error)) => {
                    link.close(CloseReason::Violation(error.into()));
                }
                LaneEnd::Wire(error) => {
                    let error = with_causes(&error);
                    tracing::info!(error, "a lane sent an unreadable frame");
                    link.close(CloseReason::Gone);
                }
                end => tracing::debug!(reason = %end, "lane ended"),
            },
        }
    };
    tokio::spawn(running.in_current_span());
}

/// Adds a connection to a link as a further lane, if the link may have one more.
pub(super) fn join_lane(
    context: &Arc<ShareContext>,
    link: Arc<Link>,
    stream: TcpStream,
    inbound: BytesMut,
) {
    if !link.add_lane() {
        return;
    }
    context.share.counters.connections.fetch_add(1, Relaxed);
    spawn_lane(LaneParts {
        context: Arc::clone(context),
        link,
        stream,
        inbound,
        outbound: BytesMut::new(),
        first: false,
    });
}
