//! Where pieces wait when the disk is slower than the network.
//!
//! On a fast disk a lane writes what it received at once, while it is in cache; nothing is
//! faster. A write that stalls would stall every other lane on the same core, so once the disk
//! is found to be slow (`holdup`) lanes leave their writes to threads that may wait. A write takes a place
//! for as long as it waits or is made. A lane without a place stops reading its socket, and the peer's
//! window closes: back-pressure reaches the sender and memory stays bounded.
//!
//! Each piece has a line of its own, worked off by one thread; different pieces are written at the
//! same time. What costs on a slow disk is mostly waiting, and one line for all would wait
//! for one write after the other where lanes that write by themselves do so side by side.
//!
//! Invariant: the work on one piece is done in the order in which it was queued, so the end of a piece
//! comes after its writes, and a write left over from an earlier attempt at it before those of the next.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::holdup::{self, Began, HoldUp};
use crate::trade::lock;
use crate::types::PieceIndex;

/// Writes that may wait or be under way: with blocks of 256 KiB, 4 MiB.
const PLACES: usize = 16;

/// A write that waits, with the place that it takes.
struct Job {
    work: Box<dyn FnOnce() + Send>,
    place: OwnedSemaphorePermit,
}

/// A write that a network task makes by itself.
pub(super) struct AtOnce {
    started: Duration,
    began: Began,
}

/// What waits, by piece. A piece is in here for as long as a thread is at it.
type Lines = Mutex<HashMap<PieceIndex, VecDeque<Job>>>;

/// The queue of one share.
pub(super) struct DiskQueue {
    places: Arc<Semaphore>,
    lines: Arc<Lines>,
    deepest: AtomicUsize,
    hold_up: HoldUp,
}

impl DiskQueue {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(PLACES)),
            lines: Arc::default(),
            deepest: AtomicUsize::new(0),
            hold_up: HoldUp::default(),
        }
    }

    /// A place in the queue, if there is one now.
    pub(super) fn try_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Waits for a place in the queue.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// Whether what comes next of this piece is to be written through the queue: while the disk is
    /// slow, and while anything of the piece is queued, because it must not come after ours.
    pub(super) fn must_queue(&self, piece: PieceIndex, now: Duration) -> bool {
        // A line is gone before its last place is free.
        let any_queued = self.taken() > 0;
        self.hold_up.is_slow(now) || any_queued && lock(&self.lines).contains_key(&piece)
    }

    /// A network task is about to write by itself.
    pub(super) fn begin_at_once(&self, now: Duration) -> AtOnce {
        holdup::before_write();
        AtOnce { started: now, began: self.hold_up.begin() }
    }

    /// It has, which tells whether the disk keeps up. To be told by the thread that began.
    pub(super) fn wrote_at_once(&self, write: &AtOnce, now: Duration) {
        let took = now.saturating_sub(write.started);
        let Some(slept) = holdup::slept(took) else { return };
        if self.hold_up.wrote(write.began, took, slept, now) {
            let (taken, most, places) = (self.taken(), self.deepest(), PLACES);
            tracing::info!(?slept, taken, most, places, "the disk is slow: writes wait in a queue");
        }
    }

    /// Waits until nothing is in the queue.
    pub(super) async fn drained(&self) {
        let _all = self.places.acquire_many(PLACES as u32).await;
    }

    /// How many writes may wait.
    pub(super) fn places() -> usize {
        PLACES
    }

    /// How many writes wait.
    fn taken(&self) -> usize {
        PLACES - self.places.available_permits()
    }

    /// Most writes that ever waited at once.
    pub(super) fn deepest(&self) -> usize {
        self.deepest.load(Relaxed)
    }

    /// Has something of a piece done on a thread that may wait, after all that is queued of it.
    pub(super) fn push(
        &self,
        piece: PieceIndex,
        place: OwnedSemaphorePermit,
        work: impl FnOnce() + Send + 'static,
    ) {
        self.deepest.fetch_max(self.taken(), Relaxed);
        let job = Job { work: Box::new(work), place };
        match lock(&self.lines).entry(piece) {
            Entry::Occupied(mut line) => line.get_mut().push_back(job),
            Entry::Vacant(line) => {
                line.insert(VecDeque::new());
                let lines = Arc::clone(&self.lines);
                tokio::task::spawn_blocking(move || work_off(&lines, piece, job));
            }
        }
    }
}

/// Works off the line of a piece, and takes it away.
fn work_off(lines: &Lines, piece: PieceIndex, first: Job) {
    let mut next = Some(first);
    while let Some(Job { work, place }) = next {
        // A panic ends this job, not the line: what comes after it would wait for ever.
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            tracing::error!(piece = piece.get(), "a write panicked");
        }
        next = next_in_line(lines, piece);
        // Only now: see `must_queue`.
        drop(place);
    }
}

fn next_in_line(lines: &Lines, piece: PieceIndex) -> Option<Job> {
    let mut lines = lock(lines);
    let next = lines.get_mut(&piece).and_then(VecDeque::pop_front);
    if next.is_none() {
        lines.remove(&piece);
    }
    next
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc as channel;
    use std::thread::{self, ThreadId};

    use bytes::Bytes;
    use tempfile::TempDir;
    use tokio::sync::mpsc;

    use super::*;
    use crate::content::{HashBook, Manifest};
    use crate::engine::context::{NodeContext, ShareContext, ShareParts};
    use crate::engine::share::{self, ManagerParts, ShareHandle};
    use crate::engine::{Node, NodeConfig, ShareStats};
    use crate::store::{
        PartOptions, PartStore, PieceStore, PrepareOptions, Served, StoreError, prepare,
    };
    use crate::swarm::{Caps, ChokePolicy, Choker, KnownPeer, Neighbours, Slots, Source};
    use crate::types::{BlockSpan, Geometry, PeerId, PieceSet, PieceSize};

    fn pieces() -> (PieceIndex, PieceIndex) {
        let geometry = Geometry::new(PieceSize::new(16384).unwrap(), [100_000]).unwrap();
        (geometry.piece(0).unwrap(), geometry.piece(1).unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_piece_is_written_in_order_and_no_other_waits_for_it() {
        let queue = DiskQueue::new();
        let (piece, other) = pieces();
        let (go, stop) = channel::channel::<()>();
        let (tell, told) = mpsc::unbounded_channel();
        let say = |word: &'static str| {
            let tell = tell.clone();
            move || tell.send(word).unwrap()
        };
        let first = say("first");
        queue.push(piece, queue.try_place().unwrap(), move || {
            stop.recv().unwrap();
            first();
        });
        queue.push(piece, queue.try_place().unwrap(), say("second"));
        queue.push(other, queue.try_place().unwrap(), say("other"));
        let mut told = told;
        assert_eq!(told.recv().await, Some("other"), "while the first one is stuck");
        assert!(queue.must_queue(piece, Duration::ZERO), "or it would come before what waits");
        go.send(()).unwrap();
        assert_eq!(told.recv().await, Some("first"));
        assert_eq!(told.recv().await, Some("second"));
        queue.drained().await;
        assert!(!queue.must_queue(piece, Duration::ZERO));
        assert_eq!(queue.deepest(), 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_write_that_panics_does_not_keep_those_behind_it_from_being_made() {
        let queue = DiskQueue::new();
        let (piece, _) = pieces();
        let (tell, mut told) = mpsc::unbounded_channel();
        queue.push(piece, queue.try_place().unwrap(), || panic!("as a test has it"));
        queue.push(piece, queue.try_place().unwrap(), move || tell.send(()).unwrap());
        let in_time = tokio::time::timeout(Duration::from_secs(10), told.recv());
        assert_eq!(in_time.await, Ok(Some(())));
        queue.drained().await;
        assert!(!queue.must_queue(piece, Duration::ZERO));
    }

    #[tokio::test]
    async fn there_are_so_many_places_and_no_more() {
        let queue = DiskQueue::new();
        let all: Vec<_> = (0..PLACES).map(|_| queue.try_place().unwrap()).collect();
        assert!(queue.try_place().is_none());
        drop(all);
        assert!(queue.place().await.is_some());
    }

    /// A disk on which every write takes its time.
    struct SlowStore {
        disk: Arc<PartStore>,
        network: ThreadId,
        on_network_thread: AtomicUsize,
        under_way: AtomicUsize,
        most_under_way: AtomicUsize,
        /// So many writes by other threads panic.
        panics: AtomicUsize,
    }

    const PATIENCE: Duration = Duration::from_secs(20);
    const COST: Duration = Duration::from_millis(12);

    impl PieceStore for SlowStore {
        fn write(&self, span: BlockSpan, bytes: &[u8]) -> Result<(), StoreError> {
            if thread::current().id() == self.network {
                self.on_network_thread.fetch_add(1, Relaxed);
            }
            let under_way = self.under_way.fetch_add(1, Relaxed) + 1;
            self.most_under_way.fetch_max(under_way, Relaxed);
            thread::sleep(COST);
            self.under_way.fetch_sub(1, Relaxed);
            let may_panic = thread::current().id() != self.network;
            let one_less = |left: usize| left.checked_sub(1);
            let panics = may_panic && self.panics.fetch_update(Relaxed, Relaxed, one_less).is_ok();
            assert!(!panics, "a fault in the store, made for this test");
            self.disk.write(span, bytes)
        }

        fn complete(&self, piece: PieceIndex) -> Result<(), StoreError> {
            self.disk.complete(piece)
        }

        fn read(&self, span: BlockSpan, buf: &mut [u8]) -> Result<(), StoreError> {
            self.disk.read(span, buf)
        }

        fn serve(&self, piece: PieceIndex) -> Result<Served, StoreError> {
            self.disk.serve(piece)
        }
    }

    async fn seed(source: &Path) -> (Node, Manifest, SocketAddr) {
        let never = AtomicBool::new(false);
        let prepared =
            prepare(&[source.to_owned()], &PrepareOptions::default(), &|_| {}, &never).unwrap();
        let manifest = prepared.manifest.clone();
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
        let node = Node::start(NodeConfig { listen, ..NodeConfig::default() }).await.unwrap();
        node.share(prepared, &[]).await.unwrap();
        let addr = node.local_addrs()[0];
        (node, manifest, addr)
    }

    /// Fetches a share from `addr` as `Node::get` does, into a store of the test's.
    fn fetch(
        manifest: Manifest,
        addr: SocketAddr,
        part: Arc<PartStore>,
        store: Arc<dyn PieceStore>,
    ) -> ShareHandle {
        let id = PeerId::random(&mut fastrand::Rng::with_seed(7));
        let node = Arc::new(NodeContext::new(id, 1, None, 7));
        let geometry = manifest.geometry().as_ref();
        let (pieces, piece_len) = (geometry.piece_count(), geometry.piece_size().bytes());
        let parts = ShareParts {
            manifest_bytes: Bytes::from(manifest.encode()),
            hashes: HashBook::new(&manifest),
            manifest,
            store,
            have: PieceSet::empty(pieces),
            wanted: PieceSet::full(pieces),
        };
        let (tell, events) = mpsc::unbounded_channel();
        let context = Arc::new(ShareContext::new(node, parts, Vec::new(), tell));
        let mut neighbours = Neighbours::new(id, Caps::default().for_share(pieces));
        neighbours.learn(context.now(), Source::Ticket, [KnownPeer { id: None, addr }]);
        let (_, found) = mpsc::channel(1);
        share::spawn(ManagerParts {
            context,
            events,
            part: Some(part),
            choker: Choker::new(ChokePolicy::default(), Slots::default(), piece_len, 1),
            neighbours,
            trackers: Vec::new(),
            found,
            first: None,
            done: None,
        })
    }

    /// Fetches two million bytes onto a disk on which every write is slow and some panic.
    async fn fetched_to_slow_disk(panics: usize) -> (Arc<SlowStore>, ShareStats, usize) {
        let dir = TempDir::new().unwrap();
        let source = dir.path().join("film.mp4");
        let mut bytes = vec![0; 2_000_000];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        std::fs::write(&source, &bytes).unwrap();
        let (sender, manifest, addr) = seed(&source).await;
        let out = dir.path().join("out");
        let (part, _) = PartStore::open(&out, &manifest, &[true], PartOptions::default()).unwrap();
        let part = Arc::new(part);
        let slow = Arc::new(SlowStore {
            disk: Arc::clone(&part),
            network: tokio::spawn(async { thread::current().id() }).await.unwrap(),
            on_network_thread: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            panics: AtomicUsize::new(panics),
        });
        let pieces = manifest.geometry().piece_count() as usize;
        let handle = fetch(manifest, addr, part, Arc::clone(&slow) as Arc<dyn PieceStore>);
        let path = tokio::time::timeout(PATIENCE, handle.completed()).await.unwrap().unwrap();
        assert!(std::fs::read(path).unwrap() == bytes);
        let stats = handle.stats();
        handle.stop().await;
        sender.shutdown().await;
        (slow, stats, pieces)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_write_that_panics_leaves_no_hole_and_the_piece_comes_again() {
        let (slow, stats, _) = fetched_to_slow_disk(3).await;
        assert_eq!(slow.panics.load(Relaxed), 0, "all of them happened");
        assert!(stats.bytes_downloaded > 2_000_000, "what was lost came again");
    }

    /// There is one network thread, so writes that it makes never overlap.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_slow_disk_is_left_to_other_threads_and_these_write_side_by_side() {
        let (slow, stats, pieces) = fetched_to_slow_disk(0).await;

        let on_network_thread = slow.on_network_thread.load(Relaxed);
        assert!(on_network_thread >= 1, "nobody knew before that the disk is slow");
        assert!(on_network_thread < pieces / 5, "{on_network_thread} of {pieces} pieces");
        let most_under_way = slow.most_under_way.load(Relaxed);
        // One of them by the network thread, so at least two through the queue.
        assert!((3..=PLACES + 1).contains(&most_under_way), "{most_under_way} at once");
        assert!((2..=PLACES).contains(&stats.disk_queue_peak), "{} waited", stats.disk_queue_peak);
        assert_eq!((stats.disk_queue_places, stats.bytes_wasted), (PLACES, 0));
    }
}
