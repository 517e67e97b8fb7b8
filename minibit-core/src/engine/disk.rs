//! Where pieces wait when the disk is slower than the network.
//!
//! On a fast disk a lane writes what it received at once, while it is in cache; nothing is
//! faster. A write that stalls would stall every other lane on the same core, so once the disk
//! is found to be slow (`holdup`) lanes hand their next pieces to one writing thread, through a
//! queue bounded by permits. A lane without a permit stops reading its socket, and the peer's window closes:
//! back-pressure reaches the sender and memory stays bounded.
//!
//! Invariant: a piece's end is handled after all of its writes, since the queue is one line.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::buffers::PooledBuf;
use super::holdup::HoldUp;
use crate::store::PieceStore;
use crate::types::BlockSpan;

/// Buffers that may wait: with blocks of 256 KiB, 4 MiB.
const DEPTH: usize = 16;

/// What is done with the bytes of a block.
type Write = Box<dyn FnOnce(&dyn PieceStore, BlockSpan, &[u8]) + Send>;

/// Something to be done on the writing thread, in order.
pub(super) enum Job {
    /// Bytes for the file, and what to do if that fails or is no longer wanted.
    Write {
        span: BlockSpan,
        buf: PooledBuf,
        /// Runs around the write: takes the lease, and reports an error.
        write: Write,
        permit: OwnedSemaphorePermit,
    },
    /// All writes of a piece were queued before this.
    Finish(Box<dyn FnOnce() + Send>),
}

/// The queue of one share. Its thread starts with the first slow write.
pub(super) struct DiskQueue {
    store: Arc<dyn PieceStore>,
    permits: Arc<Semaphore>,
    jobs: OnceLock<mpsc::UnboundedSender<Job>>,
    deepest: AtomicUsize,
    hold_up: HoldUp,
}

impl DiskQueue {
    pub(super) fn new(store: Arc<dyn PieceStore>) -> Self {
        Self {
            store,
            permits: Arc::new(Semaphore::new(DEPTH)),
            jobs: OnceLock::new(),
            deepest: AtomicUsize::new(0),
            hold_up: HoldUp::default(),
        }
    }

    /// A place in the queue, if there is one now.
    pub(super) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Waits for a place in the queue.
    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }

    /// Whether a piece that begins now is to be written through the queue: while the disk is slow,
    /// and while anything is queued, because a write left over from an earlier attempt at the piece
    /// must not come after ours.
    pub(super) fn must_queue(&self, now: Duration) -> bool {
        self.permits.available_permits() < DEPTH || self.hold_up.is_slow(now)
    }

    /// A network task has written by itself: see [`HoldUp::wrote`].
    pub(super) fn wrote_at_once(&self, took: Duration, busy: Duration, now: Duration) {
        let was_slow = self.hold_up.is_slow(now);
        if self.hold_up.wrote(took, busy, now) && !was_slow {
            let places = DEPTH;
            tracing::info!(?took, places, "the disk is slow: pieces wait in a queue");
        }
    }

    /// Waits until all that is in the queue now has been done.
    pub(super) async fn drained(&self) {
        let Some(jobs) = self.jobs.get() else { return };
        let (done, drained) = oneshot::channel();
        let told = jobs.send(Job::Finish(Box::new(move || {
            let _ = done.send(());
        })));
        if told.is_ok() {
            let _ = drained.await;
        }
    }

    /// How many buffers may wait.
    pub(super) fn places() -> usize {
        DEPTH
    }

    /// Most buffers that ever waited at once.
    pub(super) fn deepest(&self) -> usize {
        self.deepest.load(Relaxed)
    }

    /// Queues a job. Bounded: a write carries a permit, and there is one end for each piece.
    pub(super) fn push(&self, job: Job) {
        self.deepest.fetch_max(DEPTH - self.permits.available_permits(), Relaxed);
        let jobs = self.jobs.get_or_init(|| spawn_writer(Arc::clone(&self.store)));
        // The thread ends only after this sender is dropped.
        let _ = jobs.send(job);
    }
}

fn spawn_writer(store: Arc<dyn PieceStore>) -> mpsc::UnboundedSender<Job> {
    let (jobs, mut queue) = mpsc::unbounded_channel();
    tokio::task::spawn_blocking(move || {
        while let Some(job) = queue.blocking_recv() {
            match job {
                Job::Write { span, buf, write, permit } => {
                    write(&*store, span, &buf[..span.len() as usize]);
                    drop(buf);
                    drop(permit);
                }
                Job::Finish(finish) => finish(),
            }
        }
    });
    jobs
}
