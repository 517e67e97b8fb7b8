//! What the tasks of a node share: the clock, the state of a share, of a link, of a lane.
//!
//! What a block touches is atomic, belongs to one lane, or is a short lock of that lane's link.
//! The maps of links and lanes are locked when those come and go, when pieces are given back,
//! and while a lane that has nothing to ask for looks around; never across an await.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU32, AtomicU64,
    Ordering::{AcqRel, Relaxed},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::buffers::BufferPool;
use super::disk::DiskQueue;
use super::share::Event;
use crate::content::{HashBook, Manifest};
use crate::peer::{Agreed, Violation};
use crate::store::PieceStore;
use crate::swarm::{Holdings, LaneId, Ledger, LinkId};
use crate::types::{Geometry, PeerId, PieceIndex, PieceSet, ShareId};
use crate::wire::LaneKey;

/// The one clock: time since the node started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    started: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { started: Instant::now() }
    }

    pub(super) fn now(self) -> Duration {
        self.started.elapsed()
    }

    /// The runtime's instant of a time of ours, for its timers.
    pub(super) fn instant(self, at: Duration) -> Instant {
        self.started + at
    }
}

/// What every task of a node may use.
#[derive(Debug)]
pub(super) struct NodeContext {
    pub(super) id: PeerId,
    /// Port that peers reach us at.
    pub(super) port: u16,
    pub(super) clock: Clock,
    pub(super) buffers: BufferPool,
    /// How many cores hashing may use.
    pub(super) cores: usize,
    /// Lanes of each link, when the user fixed them.
    pub(super) lanes: Option<u8>,
    pub(super) seed: u64,
    /// Around all that this node's tasks log; the field `peer` is its short id.
    pub(super) span: tracing::Span,
    next_number: AtomicU64,
}

impl NodeContext {
    pub(super) fn new(id: PeerId, port: u16, lanes: Option<u8>, seed: u64) -> Self {
        Self {
            id,
            port,
            clock: Clock::start(),
            buffers: BufferPool::default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            lanes,
            seed,
            span: tracing::info_span!("node", peer = %id.short()),
            next_number: AtomicU64::new(1),
        }
    }

    /// A number used once in this node: for links, lanes and generators.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number.fetch_add(1, Relaxed)
    }

    /// A generator of its own for a task.
    pub(super) fn rng(&self) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed ^ self.next_number().wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

/// Sums over all links of a share, since it was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) downloaded: AtomicU64,
    pub(super) uploaded: AtomicU64,
    pub(super) wasted: AtomicU64,
    pub(super) messages_sent: AtomicU64,
    pub(super) blocks_sent: AtomicU64,
    pub(super) connections: AtomicU64,
    pub(super) pieces_fetched: AtomicU64,
    pub(super) pieces_refused: AtomicU64,
}

/// One share, as all its lanes see it.
pub(super) struct ShareContext {
    pub(super) node: Arc<NodeContext>,
    pub(super) id: ShareId,
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Bytes,
    pub(super) geometry: Arc<Geometry>,
    pub(super) hashes: HashBook,
    pub(super) ledger: Ledger,
    pub(super) store: Arc<dyn PieceStore>,
    pub(super) disk: DiskQueue,
    pub(super) counters: Counters,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// Raised when a piece was verified and nobody has been told; the manager batches.
    pub(super) news_pending: AtomicBool,
    pub(super) news_wanted: Notify,
    /// The news log up to here may be told to peers.
    pub(super) news_released: AtomicU32,
    /// Pieces whose source changed, in order; links tell their peers from where they are.
    pub(super) withdrawn: Mutex<Vec<PieceIndex>>,
    /// While set nothing is asked for: the disk is full.
    pub(super) paused: AtomicBool,
    pub(super) pause_reason: Mutex<Option<String>>,
    pub(super) warnings: Mutex<Vec<String>>,
    /// A peer's interest changed: there may be a slot to give or to free.
    pub(super) slots_changed: Notify,
    /// A lane has ended.
    pub(super) lane_gone: Notify,
    /// Of the selected files, still to be verified.
    pub(super) bytes_left: AtomicU64,
    /// What was here before anything was fetched.
    pub(super) bytes_resumed: u64,
    pub(super) bytes_wanted: u64,
    pub(super) pieces_wanted: u32,
    pub(super) opened: Duration,
    /// When the last wanted piece was verified, in microseconds of the node's clock.
    pub(super) completed_us: AtomicU64,
    lanes: Mutex<HashMap<LaneId, Arc<LaneStatus>>>,
    links: Mutex<HashMap<LinkId, Arc<Link>>>,
}

impl std::fmt::Debug for ShareContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShareContext").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Parts from which a share's context is made.
pub(super) struct ShareParts {
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Bytes,
    pub(super) hashes: HashBook,
    pub(super) store: Arc<dyn PieceStore>,
    /// What is held already.
    pub(super) have: PieceSet,
    /// What shall be held in the end. Of an earlier, other selection more may be held.
    pub(super) wanted: PieceSet,
}

impl ShareContext {
    pub(super) fn new(
        node: Arc<NodeContext>,
        parts: ShareParts,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let geometry = Arc::clone(parts.manifest.geometry());
        let bytes_in = |set: &PieceSet| -> u64 {
            set.iter()
                .filter_map(|number| geometry.piece(number))
                .map(|piece| u64::from(geometry.piece_len(piece)))
                .sum()
        };
        let bytes_wanted = bytes_in(&parts.wanted);
        let mut still_wanted = parts.wanted.clone();
        for piece in parts.have.iter().filter_map(|number| geometry.piece(number)) {
            still_wanted.remove(piece);
        }
        let bytes_left = bytes_in(&still_wanted);
        Self {
            id: parts.manifest.share_id(),
            disk: DiskQueue::new(Arc::clone(&parts.store)),
            ledger: Ledger::new(Arc::clone(&geometry), &parts.have, &parts.wanted),
            opened: node.clock.now(),
            bytes_left: AtomicU64::new(bytes_left),
            bytes_resumed: bytes_wanted - bytes_left,
            bytes_wanted,
            pieces_wanted: parts.wanted.len(),
            completed_us: AtomicU64::new(0),
            pause_reason: Mutex::default(),
            warnings: Mutex::default(),
            slots_changed: Notify::new(),
            lane_gone: Notify::new(),
            node,
            geometry,
            manifest: parts.manifest,
            manifest_bytes: parts.manifest_bytes,
            hashes: parts.hashes,
            store: parts.store,
            counters: Counters::default(),
            events,
            news_pending: AtomicBool::new(false),
            news_wanted: Notify::new(),
            news_released: AtomicU32::new(0),
            withdrawn: Mutex::new(Vec::new()),
            paused: AtomicBool::new(false),
            lanes: Mutex::default(),
            links: Mutex::default(),
        }
    }

    /// Tells the manager. It outlives every link, so a failure means that the share is gone
    /// and nobody needs to know any more.
    pub(super) fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }

    pub(super) fn now(&self) -> Duration {
        self.node.clock.now()
    }

    pub(super) fn lanes(&self) -> MutexGuard<'_, HashMap<LaneId, Arc<LaneStatus>>> {
        lock(&self.lanes)
    }

    pub(super) fn links(&self) -> MutexGuard<'_, HashMap<LinkId, Arc<Link>>> {
        lock(&self.links)
    }

    /// Something that the user should know. Beyond a bound the oldest say enough.
    pub(super) fn warn(&self, warning: String) {
        const WARNINGS_MAX: usize = 256;
        let mut warnings = lock(&self.warnings);
        if warnings.len() < WARNINGS_MAX {
            warnings.push(warning);
        }
    }

    /// There is work again: pieces were given back, or a pause ended.
    pub(super) fn wake_all(&self) {
        for lane in self.lanes().values() {
            lane.wake.notify_one();
        }
    }

    /// A piece was verified: peers shall hear of it, batched with what comes right after.
    pub(super) fn news(&self) {
        if !self.news_pending.swap(true, AcqRel) {
            self.news_wanted.notify_one();
        }
    }
}

/// Locks; a panic in another task does not make the data unusable here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What others may know of a lane.
#[derive(Debug, Default)]
pub(super) struct LaneStatus {
    pub(super) wake: Notify,
    /// When all it has in flight should be here, in microseconds of the node's clock;
    /// 0 = nothing known.
    pub(super) due_us: AtomicU64,
    /// When the last bytes came, in microseconds of the node's clock.
    pub(super) progress_us: AtomicU64,
    /// Bytes per second that it receives, by its last measure.
    pub(super) rate: AtomicU64,
    /// Another lane has taken a piece of this one.
    pub(super) taken_over: AtomicBool,
}

impl LaneStatus {
    /// How long until what the lane has in flight is here: by its rate, and no sooner than
    /// it has already been without progress.
    pub(super) fn expected_rest(&self, now: Duration) -> Duration {
        let micros = |cell: &AtomicU64| Duration::from_micros(cell.load(Relaxed));
        let silent = now.saturating_sub(micros(&self.progress_us));
        micros(&self.due_us).saturating_sub(now).max(silent)
    }
}

/// Why a link is closed from our side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// The peer broke a rule.
    Violation(Violation),
    /// We leave; peers are told.
    Leaving,
    /// The first lane is gone, or the link is not wanted any more.
    Gone,
}

/// One link, as all its lanes and the manager see it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) agreed: Agreed,
    /// The address that the connection came from or went to.
    pub(super) addr: SocketAddr,
    /// Whether we made the first connection (and so make the lanes).
    pub(super) initiated: bool,
    /// The round trip as the first connection met it, if we made it.
    pub(super) distance: Option<Duration>,
    /// Whether our REGISTRO said that we hold every piece.
    pub(super) told_complete: bool,
    /// Whether our REGISTRO said that we answer requests.
    pub(super) told_unchoked: bool,
    /// The key by which lanes join.
    pub(super) key: LaneKey,
    pub(super) joined: Duration,
    pub(super) holdings: Holdings,
    /// We do not answer its requests.
    pub(super) choking: AtomicBool,
    /// How often we have choked it: what it had asked for each time is void.
    pub(super) times_choked: AtomicU32,
    /// It does not answer ours.
    pub(super) choked: AtomicBool,
    /// Counts its chokes: lanes compare it with what they have seen.
    pub(super) chokes: AtomicU32,
    pub(super) interested: AtomicBool,
    /// It let requests run into their deadline and has not delivered since.
    pub(super) snubbed: AtomicBool,
    /// It sent wrong bytes; until it is judged nothing is asked of it.
    pub(super) suspect: Mutex<Option<Suspicion>>,
    /// How often wrong bytes of its were explained by a withdrawal.
    pub(super) forgiven: AtomicU32,
    pub(super) verified_bytes: AtomicU64,
    pub(super) uploaded_bytes: AtomicU64,
    /// When bytes last came, on any lane, in microseconds of the node's clock.
    pub(super) last_heard_us: AtomicU64,
    pub(super) lane_count: AtomicU8,
    pub(super) lanes_asked: AtomicU8,
    pub(super) round_trip_us: AtomicU64,
    pub(super) closing: OnceLock<CloseReason>,
    pub(super) lane_wakes: Mutex<Vec<Arc<LaneStatus>>>,
}

/// Wrong bytes came from a peer: either it lies, or its file has changed and its withdrawal
/// is on the way.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    pub(super) piece: PieceIndex,
    pub(super) judged_at: Duration,
}

impl Link {
    /// Wakes every lane of the link.
    pub(super) fn wake(&self) {
        for lane in lock(&self.lane_wakes).iter() {
            lane.wake.notify_one();
        }
    }

    /// Bytes per second that come over this link; lanes without progress of late not counted.
    pub(super) fn receiving_rate(&self, now: Duration) -> u64 {
        const OF_LATE: Duration = Duration::from_secs(1);
        let since = now.saturating_sub(OF_LATE).as_micros() as u64;
        let lanes = lock(&self.lane_wakes);
        let active = lanes.iter().filter(|lane| lane.progress_us.load(Relaxed) >= since);
        active.map(|lane| lane.rate.load(Relaxed)).sum()
    }

    /// Wakes the first lane, which has news to tell.
    pub(super) fn wake_first(&self) {
        if let Some(first) = lock(&self.lane_wakes).first() {
            first.wake.notify_one();
        }
    }

    /// Ends the link; the first reason counts.
    pub(super) fn close(&self, reason: CloseReason) {
        let _ = self.closing.set(reason);
        self.wake();
    }
}
