//! One connection of a link, as a task: the only place where payload meets a socket.
//!
//! ```text
//! in:   socket -> pooled buffer -> hash while in cache -> file at its final offset
//! out:  file -> socket, by the kernel
//! ```
//!
//! One task for both directions, so a lane's state needs no lock. It works in turns: let the
//! lane's own value (`trade::Lane`) look around and ask for more, write what the socket takes,
//! read what it has. When a turn moves nothing it sleeps until the socket, a wake-up or the next
//! deadline.
//!
//! ```text
//! receiving  socket to file                sending    file to socket
//! ```
//!
//! Invariant: what the value has decided is carried out before anything else is done with it
//! (see `decide`).
//! Not here: decisions (`trade`), who may connect (`share`).

mod receiving;
mod sending;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::time::Sleep;

use self::receiving::{PieceProgress, Receiving};
use self::sending::{MetadataReply, Sending};
use super::context::ShareContext;
use super::{dial, local};
use crate::peer::Violation;
use crate::store::StoreError;
use crate::trade::{self, CloseReason, Link};
use crate::types::limits;
use crate::wire::{FrameLimits, Message, WireError};

/// Turns before the task lets others on its core run.
const TURNS_BEFORE_YIELD: u32 = 4;
/// How often a lane that waits for the disk looks at its deadlines.
const HELD_UP_LOOK: Duration = Duration::from_millis(100);
/// Longest sleep before the first look at the deadlines.
const FIRST_NAP: Duration = Duration::from_secs(5);
/// Turns of reading after a peer has left: more than a socket holds.
const LAST_READS: usize = 64;

/// Why a lane ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum LaneEnd {
    /// The peer said goodbye.
    #[error("the peer left")]
    Left,
    /// The peer closed the connection without a word.
    #[error("the peer hung up")]
    HungUp,
    /// We closed it.
    #[error("closed")]
    Closed,
    /// It was of no use for long, and another peer has its place.
    #[error("it was idle, and another took its place")]
    Displaced,
    /// Silence for too long.
    #[error("the peer fell silent")]
    Silent,
    /// The connection broke.
    #[error("the connection broke")]
    Io(#[from] io::Error),
    /// Bytes that are no frame or message.
    #[error("sent what cannot be read")]
    Wire(#[from] WireError),
    /// A rule was broken.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Our own disk failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<trade::LaneEnd> for LaneEnd {
    fn from(end: trade::LaneEnd) -> Self {
        match end {
            trade::LaneEnd::Left => Self::Left,
            trade::LaneEnd::Silent => Self::Silent,
            trade::LaneEnd::Violation(violation) => Self::Violation(violation),
        }
    }
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

/// What wakes the task: it sleeps on it, everybody else has its waker.
#[derive(Default)]
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

pub(super) struct Lane {
    context: Arc<ShareContext>,
    link: Arc<Link>,
    /// What is decided; through [`Lane::decide`] only, where it may decide anything.
    mind: trade::Lane,
    bell: Arc<Bell>,
    stream: TcpStream,
    limits: FrameLimits,
    inbound: BytesMut,
    receiving: Option<Receiving>,
    progress: Option<PieceProgress>,
    outbound: BytesMut,
    sending: Option<Sending>,
    /// What of a metadata item is still to be sent.
    metadata: Option<MetadataReply>,
    /// The next blocks are being read from the disk until this is true.
    warming: Option<Arc<AtomicBool>>,
    /// How many blocks at the head of the upload queue it was started for.
    warmed: usize,
    /// In the queue of the disk, for the buffer that is full.
    place: Option<OwnedSemaphorePermit>,
    timer: Pin<Box<Sleep>>,
}

impl Lane {
    pub(super) fn new(parts: LaneParts) -> Self {
        let LaneParts { context, link, stream, inbound, outbound, first } = parts;
        let now = context.now();
        let bell = Arc::new(Bell::default());
        let mind = trade::Lane::new(
            Arc::clone(&context.share),
            Arc::clone(&link),
            first,
            now,
            Waker::from(Arc::clone(&bell)),
            context.node.rng(),
        );
        // Small requests must not wait for more to go with them.
        let _ = stream.set_nodelay(true);
        // Nothing queues up between two processes of one machine.
        if !local::stays_here(&stream) {
            keep_little_unsent(&stream);
        }
        let first_look = context.node.clock.instant(now + FIRST_NAP);
        Self {
            limits: FrameLimits::established(
                context.share.geometry.piece_count(),
                link.agreed.block_len,
            ),
            mind,
            bell,
            receiving: None,
            progress: None,
            sending: None,
            metadata: None,
            warming: None,
            warmed: 0,
            place: None,
            timer: Box::pin(tokio::time::sleep_until(first_look)),
            context,
            link,
            stream,
            inbound,
            outbound,
        }
    }

    /// Lets the value decide, and does at once what follows for bytes and messages.
    fn decide<T>(&mut self, decision: impl FnOnce(&mut trade::Lane) -> T) -> T {
        let outcome = decision(&mut self.mind);
        let parted = self.mind.take_parted();
        if !parted.is_empty() {
            if let Some(progress) = self.progress.take_if(|known| parted.contains(&known.piece)) {
                progress.void();
            }
            if let Some(receiving) = &mut self.receiving
                && receiving.discard_if_of(&parted)
            {
                self.place = None;
            }
        }
        if self.mind.has_messages() {
            let mut count = 0;
            for message in self.mind.take_messages() {
                message.encode(&mut self.outbound);
                count += 1;
            }
            self.context.share.counters.messages_sent.fetch_add(count, Relaxed);
        }
        outcome
    }

    /// Works until the lane ends. What has come by then is for others to go on with.
    pub(super) async fn run(mut self) -> LaneEnd {
        let end = self.work().await;
        if matches!(end, LaneEnd::Violation(_) | LaneEnd::Wire(_)) {
            self.mind.keep_nothing();
        } else {
            self.take_what_came_of_block();
        }
        end
    }

    async fn work(&mut self) -> LaneEnd {
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
        if let Some(reason) = self.link.closing().cloned() {
            if reason == CloseReason::Gone {
                self.read_what_is_here(now)?;
            }
            return Err(self.close(reason));
        }
        self.decide(|mind| {
            mind.heed(now)?;
            mind.ask(now);
            Ok::<(), trade::LaneEnd>(())
        })?;
        self.check_unsent()?;
        // Read also where writing fails: what the peer sent before it left still counts.
        let wrote = self.write(now);
        let read = self.read(now)?;
        let wrote = wrote?;
        // Nor is it the peer's silence if we read no more for now.
        let waits = self.needs_disk_place() || self.mind.hears_enough(now);
        self.decide(|mind| mind.check_time(now, waits))?;
        Ok(wrote || read)
    }

    /// The peer has left; what it had sent on this lane by then still counts.
    fn read_what_is_here(&mut self, now: Duration) -> Result<(), LaneEnd> {
        for _ in 0..LAST_READS {
            if !self.read(now)? {
                break;
            }
        }
        Ok(())
    }

    /// Says goodbye, as far as the socket takes it at once.
    fn close(&mut self, reason: CloseReason) -> LaneEnd {
        let words = match &reason {
            CloseReason::Leaving => Some(None),
            CloseReason::Displaced => Some(Some(dial::FULL.to_owned())),
            _ => None,
        };
        if let Some(words) = words.filter(|_| self.mind.is_first() && self.sending.is_none()) {
            let goodbye = Message::Goodbye { id: self.context.node.id, reason: words };
            self.decide(|mind| mind.say(goodbye));
            let _ = self.stream.try_write(&self.outbound);
        }
        match reason {
            CloseReason::Violation(violation) => LaneEnd::Violation(violation),
            CloseReason::Displaced => LaneEnd::Displaced,
            CloseReason::Leaving | CloseReason::Gone => LaneEnd::Closed,
        }
    }

    /// A peer that asks and never reads must not grow our memory.
    fn check_unsent(&self) -> Result<(), LaneEnd> {
        if self.outbound.len() > limits::UNSENT_MAX {
            return Err(Violation::MetadataFlood.into());
        }
        Ok(())
    }

    /// Sleeps until something can move.
    async fn wait(&mut self) -> Result<(), LaneEnd> {
        let now = self.context.now();
        let wants_disk = self.needs_disk_place();
        let reads = !wants_disk && !self.mind.hears_enough(now);
        let interest = match (reads, self.has_output()) {
            (true, true) => Some(Interest::READABLE | Interest::WRITABLE),
            (true, false) => Some(Interest::READABLE),
            (false, true) => Some(Interest::WRITABLE),
            (false, false) => None,
        };
        let due = self.mind.next_deadline(now);
        // What is overdue while our disk holds us up is not looked at before it does not.
        let due = if wants_disk { due.max(now + HELD_UP_LOOK) } else { due };
        let deadline = self.context.node.clock.instant(due);
        if self.timer.is_elapsed() || deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
        let Self { stream, bell, timer, context, place, .. } = self;
        tokio::select! {
            ready = stream.ready(interest.unwrap_or(Interest::ERROR)), if interest.is_some() => {
                ready?;
            }
            () = bell.0.notified() => {}
            () = timer.as_mut() => {}
            free = context.disk.place(), if wants_disk => *place = free,
        }
        Ok(())
    }
}

impl Drop for Lane {
    /// What is still in the queue of the disk has nobody any more who ends its piece.
    fn drop(&mut self) {
        if let Some(progress) = self.progress.take() {
            progress.void();
        }
    }
}

/// The kernel takes no more while so much of what it was given has yet to leave for the first time.
/// What it has taken can be neither cancelled nor overtaken, and looks sent.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn keep_little_unsent(stream: &TcpStream) {
    // Half a millisecond of a gigabit, in which we come back with more. Twenty processes on slow
    // links were nearer to what a swarm could do with it than with 256 KiB.
    const UNSENT_MAX: u32 = 64 * 1024;
    // Without it all works, with longer queues.
    let _ = socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT_MAX);
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn keep_little_unsent(_stream: &TcpStream) {}
