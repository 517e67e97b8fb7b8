//! What the tasks of a node share: the clock, and of each share what its lanes and its manager
//! need beside its conduct (`trade::Share`).

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed},
};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::buffers::BufferPool;
use super::disk::DiskQueue;
use super::share::Event;
use super::tracker_client::{Allowance, Tracked};
use crate::content::{HashBook, Manifest};
use crate::store::PieceStore;
use crate::swarm::{LinkId, Picking};
use crate::trade::{self, lock};
use crate::types::{PeerId, PieceSet, ShareId};

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
    /// What trackers may say to all shares together.
    pub(super) trackers: Arc<Allowance>,
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
            trackers: Arc::default(),
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

/// What lanes have to tell the manager at once, and those who wait for it to end.
pub(super) struct Bells {
    clock: Clock,
    pub(super) events: mpsc::UnboundedSender<Event>,
    /// A piece was verified and nobody has been told; the manager batches.
    pub(super) news: Notify,
    /// A peer's interest changed: there may be a slot to give or to free.
    pub(super) slots_changed: Notify,
    /// A lane has ended.
    pub(super) lane_gone: Notify,
    /// When the last wanted piece was verified, in microseconds of the node's clock.
    pub(super) completed_us: AtomicU64,
}

impl Bells {
    /// Tells the manager. It outlives every link, so a failure means that the share is gone
    /// and nobody needs to know any more.
    fn tell(&self, event: Event) {
        let _ = self.events.send(event);
    }
}

impl trade::Signals for Arc<Bells> {
    fn news(&self) {
        self.news.notify_one();
    }

    fn slots_changed(&self) {
        self.slots_changed.notify_one();
    }

    fn lanes_wanted(&self, link: LinkId) {
        self.tell(Event::LanesWanted(link));
    }

    fn complete(&self) {
        self.completed_us.store(self.clock.now().as_micros() as u64, Relaxed);
        self.tell(Event::Complete);
    }

    fn lane_gone(&self) {
        self.lane_gone.notify_one();
    }
}

/// One share, as all its tasks see it.
pub(super) struct ShareContext {
    pub(super) node: Arc<NodeContext>,
    pub(super) id: ShareId,
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Bytes,
    pub(super) share: Arc<trade::Share>,
    pub(super) store: Arc<dyn PieceStore>,
    pub(super) disk: DiskQueue,
    pub(super) bells: Arc<Bells>,
    pub(super) pause_reason: Mutex<Option<String>>,
    pub(super) warnings: Mutex<Vec<String>>,
    pub(super) trackers: Vec<Arc<Tracked>>,
    /// A link ended without a goodbye, and none was made since.
    pub(super) lost_contact: AtomicBool,
    /// What was here before anything was fetched.
    pub(super) bytes_resumed: u64,
    pub(super) bytes_wanted: u64,
    pub(super) pieces_wanted: u32,
    pub(super) opened: Duration,
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
        trackers: Vec<Arc<Tracked>>,
        events: mpsc::UnboundedSender<Event>,
    ) -> Self {
        let bells = Arc::new(Bells {
            clock: node.clock,
            events,
            news: Notify::new(),
            slots_changed: Notify::new(),
            lane_gone: Notify::new(),
            completed_us: AtomicU64::new(0),
        });
        let setup = trade::Setup {
            me: node.id,
            cores: node.cores,
            lanes: node.lanes,
            picking: Picking::default(),
        };
        let geometry = parts.manifest.geometry();
        let share = trade::Share::new(
            setup,
            Arc::clone(geometry),
            Arc::new(parts.hashes),
            &parts.have,
            &parts.wanted,
            Box::new(Arc::clone(&bells)),
        );
        let wanted = parts.wanted.iter().filter_map(|number| geometry.piece(number));
        let bytes_wanted = wanted.map(|piece| u64::from(geometry.piece_len(piece))).sum();
        Self {
            id: parts.manifest.share_id(),
            disk: DiskQueue::new(),
            opened: node.clock.now(),
            bytes_resumed: bytes_wanted - share.bytes_left(),
            bytes_wanted,
            pieces_wanted: parts.wanted.len(),
            pause_reason: Mutex::default(),
            warnings: Mutex::default(),
            trackers,
            lost_contact: AtomicBool::new(false),
            node,
            manifest: parts.manifest,
            manifest_bytes: parts.manifest_bytes,
            share: Arc::new(share),
            store: parts.store,
            bells,
        }
    }

    /// Tells the manager.
    pub(super) fn tell(&self, event: Event) {
        self.bells.tell(event);
    }

    pub(super) fn now(&self) -> Duration {
        self.node.clock.now()
    }

    /// When the last wanted piece was verified, if that is so.
    pub(super) fn completed_at(&self) -> Option<Duration> {
        let micros = self.bells.completed_us.load(Acquire);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// Something that the user should know. Beyond a bound the oldest say enough.
    pub(super) fn warn(&self, warning: String) {
        const WARNINGS_MAX: usize = 256;
        let mut warnings = lock(&self.warnings);
        if warnings.len() < WARNINGS_MAX {
            warnings.push(warning);
        }
    }
}
