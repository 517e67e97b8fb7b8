//! One connection of a link, as a task: the only place where payload meets a socket.
//!
//! ```text
//! in:   socket -> pooled buffer -> hash while in cache -> file at its final offset
//! out:  file -> socket, by the kernel
//! ```
//!
//! One task for both directions, so a lane's state needs no lock. It works in turns: heed what
//! others have changed, ask for more, write what the socket takes, read what it has. When a
//! turn moves nothing it sleeps until the socket, a wake-up or the next deadline.
//!
//! Invariant: whatever way the task ends, every piece it had claimed goes back (see `Drop`).
//! ```text
//! telling    what the peer must hear       asking     which blocks to ask for
//! receiving  socket to file                sending    file to socket
//! messages   control messages
//! ```
//!
//! Not here: rules (`peer`), choices (`swarm`), who may connect (`share`).

mod asking;
mod messages;
mod receiving;
mod sending;
mod telling;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use self::receiving::{PieceProgress, Receiving};
use self::sending::{MetadataReply, Sending};
use super::context::{CloseReason, LaneStatus, Link, ShareContext, lock};
use super::share::Event;
use crate::peer::{Download, Session, Upload, Violation, lanes_wanted};
use crate::store::StoreError;
use crate::swarm::LaneId;
use crate::types::{PageId, PieceIndex};
use crate::wire::{FrameLimits, Message, WireError};

/// Turns before the task lets others on its core run.
const TURNS_BEFORE_YIELD: u32 = 4;
/// How often an idle lane looks for work to take over.
const IDLE_LOOK: Duration = Duration::from_millis(200);
/// How often a lane that leaves its seeder to others looks whether they still serve.
const HELD_BACK_LOOK: Duration = Duration::from_millis(20);
/// Longest sleep: a bound for whatever wake-up was not thought of.
const NAP_MAX: Duration = Duration::from_secs(5);

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum LaneEnd {
    /// The peer closed the connection, or said goodbye.
    #[error("the peer left")]
    Left,
    /// We closed it.
    #[error("closed")]
    Closed,
    /// Silence for too long.
    #[error("the peer fell silent")]
    Silent,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// Bytes that are no frame or message.
    #[error("unreadable frame")]
    Wire(#[from] WireError),
    /// A rule was broken.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Our own disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// State that only the first lane of a link has.
struct Control {
    session: Session,
    told_choking: bool,
    told_times_choked: u32,
    told_interested: bool,
    told_news: u32,
    told_withdrawn: usize,
}

/// What a lane starts from.
pub(super) struct LaneParts {
    pub(super) context: Arc<ShareContext>,
    pub(super) link: Arc<Link>,
    pub(super) stream: TcpStream,
    /// Bytes that were read behind the handshake.
    pub(super) inbound: BytesMut,
    /// Bytes to send first: our answer to the handshake.
    pub(super) outbound: BytesMut,
    /// Whether this is the link's first lane, which carries its control.
    pub(super) first: bool,
}

pub(super) struct Lane {
    context: Arc<ShareContext>,
    link: Arc<Link>,
    id: LaneId,
    status: Arc<LaneStatus>,
    stream: TcpStream,
    control: Option<Control>,
    limits: FrameLimits,
    download: Download,
    upload: Upload,
    inbound: BytesMut,
    receiving: Option<Receiving>,
    progress: Option<PieceProgress>,
    outbound: BytesMut,
    sending: Option<Sending>,
    metadata: VecDeque<MetadataReply>,
    /// The next blocks are being read from the disk until this is true.
    warming: Option<Arc<AtomicBool>>,
    /// How many blocks at the head of the upload queue it was started for.
    warmed: usize,
    pages_asked: HashSet<PageId>,
    chokes_seen: u32,
    times_choked_seen: u32,
    /// Pieces received whole whose end waits in the queue of the disk.
    unfinished: Arc<Mutex<HashSet<PieceIndex>>>,
    /// There is something to ask this seeder for, and it is left to others for now.
    held_back: bool,
    slow_until: Duration,
    permit: Option<OwnedSemaphorePermit>,
    timer: Pin<Box<Sleep>>,
    rng: fastrand::Rng,
}

impl Lane {
    pub(super) fn new(parts: LaneParts) -> Self {
        let LaneParts { context, link, stream, inbound, outbound, first } = parts;
        let now = context.now();
        let id = context.ledger.new_lane();
        let status = Arc::new(LaneStatus::default());
        context.lanes().insert(id, Arc::clone(&status));
        lock(&link.lane_wakes).push(Arc::clone(&status));
        let geometry = Arc::clone(&context.geometry);
        let agreed = &link.agreed;
        let control = first.then(|| Control {
            session: Session::new(geometry, agreed.peer, agreed.complete, now),
            told_choking: !link.told_unchoked,
            told_times_choked: 0,
            told_interested: !link.told_complete,
            told_news: 0,
            told_withdrawn: 0,
        });
        let _ = stream.set_nodelay(true);
        let mut download = Download::new(agreed.block_len, now);
        if let Some(distance) = link.distance {
            download.guess_round_trip(distance);
        }
        Self {
            limits: FrameLimits::established(context.geometry.piece_count(), agreed.block_len),
            download,
            upload: Upload::default(),
            receiving: None,
            progress: None,
            sending: None,
            metadata: VecDeque::new(),
            warming: None,
            warmed: 0,
            pages_asked: HashSet::new(),
            held_back: false,
            chokes_seen: link.chokes.load(Relaxed),
            times_choked_seen: link.times_choked.load(Relaxed),
            unfinished: Arc::default(),
            slow_until: Duration::ZERO,
            permit: None,
            timer: Box::pin(tokio::time::sleep_until(context.node.clock.instant(now + NAP_MAX))),
            rng: context.node.rng(),
            context,
            link,
            id,
            status,
            stream,
            control,
            inbound,
            outbound,
        }
    }

    /// Works until the lane ends.
    pub(super) async fn run(mut self) -> LaneEnd {
        self.introduce();
        let mut turns = 0;
        loop {
            match self.turn() {
                Ok(true) => {
                    turns += 1;
                    if turns % TURNS_BEFORE_YIELD == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Ok(false) => {
                    if let Err(end) = self.wait().await {
                        return end;
                    }
                }
                Err(end) => return end,
            }
        }
    }

    /// One turn; true if anything moved.
    fn turn(&mut self) -> Result<bool, LaneEnd> {
        let now = self.context.now();
        self.heed(now)?;
        self.ask(now);
        self.check_unsent()?;
        // Read also where writing fails: what the peer sent before it left still counts.
        let wrote = self.write(now);
        let read = self.read(now)?;
        let wrote = wrote?;
        self.check_time(now)?;
        Ok(wrote || read)
    }

    // ---- time ----

    fn check_time(&mut self, now: Duration) -> Result<(), LaneEnd> {
        if self.download.deadline().is_some_and(|deadline| now >= deadline)
            && !self.needs_disk_place()
        {
            self.link.snubbed.store(true, Relaxed);
            let pieces = self.download.pieces();
            self.cancel(&pieces);
            self.download.set_back(now);
        }
        self.follow_distance();
        let waits = self.needs_disk_place();
        let Some(control) = &mut self.control else { return Ok(()) };
        let heard = Duration::from_micros(self.link.last_heard_us.load(Relaxed));
        // While we do not read, silence is ours.
        control.session.heard(if waits { now } else { heard });
        if control.session.is_dead(now) {
            return Err(LaneEnd::Silent);
        }
        if control.session.keep_alive_due(now) {
            control.session.spoke(now);
            self.say(&Message::KeepAlive);
        }
        Ok(())
    }

    /// Publishes the distance, and on the first lane asks for as many lanes as it calls for.
    fn follow_distance(&mut self) {
        let round_trip = self.download.meter().round_trip();
        if let Some(round_trip) = round_trip {
            self.link.round_trip_us.store(round_trip.as_micros() as u64, Relaxed);
        }
        if self.control.is_none()
            || self.context.ledger.is_complete()
            || self.link.choked.load(Relaxed)
        {
            return;
        }
        let left = self.context.bytes_left.load(Relaxed);
        let wanted = self
            .context
            .node
            .lanes
            .unwrap_or_else(|| lanes_wanted(round_trip, self.context.node.cores, left))
            .min(self.link.agreed.lanes_max);
        if wanted <= self.link.lanes_asked.load(Relaxed) {
            return;
        }
        self.link.lanes_asked.store(wanted, Relaxed);
        if self.link.initiated {
            self.context.tell(Event::LanesWanted(self.link.id));
        } else {
            self.say(&Message::Lanes(wanted));
        }
    }

    fn next_deadline(&self, now: Duration) -> Duration {
        let mut next = now + NAP_MAX;
        if let Some(deadline) = self.download.deadline() {
            next = next.min(deadline);
        }
        if let Some(control) = &self.control {
            next = next.min(control.session.next_check());
            if let Some(suspicion) = lock(&self.link.suspect).as_ref() {
                next = next.min(suspicion.judged_at);
            }
        }
        if let Some(rested) = self.download.rests_until(now) {
            next = next.min(rested);
        }
        let may_take_over = self.download.is_idle()
            && !self.link.choked.load(Relaxed)
            && !self.context.ledger.is_complete()
            && self.context.ledger.wants_any(&self.link.holdings);
        if may_take_over {
            next = next.min(now + if self.held_back { HELD_BACK_LOOK } else { IDLE_LOOK });
        }
        next
    }

    /// Sleeps until something can move.
    async fn wait(&mut self) -> Result<(), LaneEnd> {
        let now = self.context.now();
        let wants_disk = self.needs_disk_place();
        let interest = match (!wants_disk, self.has_output()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        let deadline = self.context.node.clock.instant(self.next_deadline(now));
        if self.timer.is_elapsed() || deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        let Self { stream, status, timer, context, permit, .. } = self;
        tokio::select! {
            ready = stream.ready(interest.unwrap_or(Interest::ERROR)), if interest.is_some() => {
                ready?;
            }
            () = status.wake.notified() => {}
            () = timer.as_mut() => {}
            place = context.disk.permit(), if wants_disk => *permit = place,
        }
        Ok(())
    }
}

impl Drop for Lane {
    /// Gives back whatever the lane had, however it ended.
    fn drop(&mut self) {
        self.context.lanes().remove(&self.id);
        lock(&self.link.lane_wakes).retain(|status| !Arc::ptr_eq(status, &self.status));
        self.link.lane_count.fetch_sub(1, Release);
        self.context.lane_gone.notify_one();
        let mut pieces = self.download.pieces();
        // The piece whose last block is coming is in the books of neither.
        pieces.extend(self.progress.take().map(|progress| progress.piece));
        self.part_with(&pieces);
        if self.control.is_some() {
            self.link.close(CloseReason::Gone);
        }
    }
}
