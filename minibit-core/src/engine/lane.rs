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
//! Not here: rules (`peer`), choices (`swarm`), who may connect (`share`).

use std::collections::{HashSet, VecDeque};
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;

use super::buffers::PooledBuf;
use super::context::{CloseReason, LaneStatus, Link, ShareContext, Suspicion, lock};
use super::disk::Job;
use super::share::Event;
use crate::content::{PageError, PieceHasher};
use crate::peer::{Arrival, Download, Fact, Session, Upload, Violation, lanes_wanted};
use crate::store::{PieceStore, Served, StoreError};
use crate::swarm::{LaneId, PickOrder};
use crate::types::{BlockSpan, PageId, PieceIndex, limits};
use crate::wire::{
    BLOCK_HEAD_LEN, BlockHeader, FrameHead, FrameLimits, Holdings as HoldingsMessage, Message,
    MetadataHeader, MetadataItem, RawBlock, Run, WireError, parse_head, parse_message,
};

/// Reads of one turn before others get theirs.
const READS_A_TURN: usize = 4;
/// Turns before the task lets others on its core run.
const TURNS_BEFORE_YIELD: u32 = 4;
/// Bytes asked of the socket while waiting for a frame's head.
const HEAD_READ: usize = 4 * 1024;
/// A write that took longer than this met the disk, not the page cache.
const SLOW_WRITE: Duration = Duration::from_millis(8);
/// How long a lane goes on using the queue after a slow write.
const SLOW_FOR: Duration = Duration::from_secs(3);
/// How often an idle lane looks for work to take over.
const IDLE_LOOK: Duration = Duration::from_millis(200);
/// Longest sleep: a bound for whatever wake-up was not thought of.
const NAP_MAX: Duration = Duration::from_secs(5);
/// How long wrong bytes may be explained by a withdrawal that is on its way.
const WITHDRAWAL_GRACE: Duration = Duration::from_secs(1);
/// Metadata requests that may wait on one lane.
const METADATA_QUEUE_MAX: usize = 1024;
/// Pieces in flight looked at for a take-over.
const TAKE_OVER_LOOK: usize = 256;
/// What a lane without a known rate is thought to need for a piece.
const UNKNOWN_PIECE_TIME: Duration = Duration::from_millis(500);

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
    told_news: u32,
    told_withdrawn: usize,
}

/// A block whose head has come.
struct Receiving {
    arrival: Arrival,
    /// Bytes in the block.
    len: u32,
    /// Bytes of it that were taken out of the buffer already.
    taken: u32,
    /// Bytes in the buffer.
    filled: usize,
    buf: PooledBuf,
}

impl Receiving {
    /// Bytes that the buffer can still hold of this block.
    fn room(&self) -> usize {
        let rest = (self.len - self.taken) as usize;
        rest.min(self.buf.len()) - self.filled
    }
}

/// The piece whose blocks are coming.
struct PieceProgress {
    piece: PieceIndex,
    hasher: PieceHasher,
    /// Its writes go through the queue, so its end must too.
    queued: bool,
}

/// A block on its way out.
struct Sending {
    span: BlockSpan,
    served: Served,
    head: [u8; BLOCK_HEAD_LEN],
    /// Bytes of head and payload that the socket has taken.
    sent: usize,
}

/// Metadata on its way out, in chunks.
struct MetadataReply {
    header: MetadataHeader,
    bytes: Bytes,
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
    pages_asked: HashSet<PageId>,
    chokes_seen: u32,
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
        link.lane_count.fetch_add(1, Relaxed);
        let geometry = Arc::clone(&context.geometry);
        let agreed = &link.agreed;
        let control = first.then(|| Control {
            session: Session::new(geometry, agreed.peer, agreed.complete, now),
            told_choking: link.choking.load(Relaxed),
            told_news: 0,
            told_withdrawn: 0,
        });
        let _ = stream.set_nodelay(true);
        Self {
            limits: FrameLimits::established(context.geometry.piece_count(), agreed.block_len),
            download: Download::new(agreed.block_len, now),
            upload: Upload::default(),
            receiving: None,
            progress: None,
            sending: None,
            metadata: VecDeque::new(),
            pages_asked: HashSet::new(),
            chokes_seen: link.chokes.load(Relaxed),
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
        let wrote = self.write(now)?;
        let read = self.read(now)?;
        self.check_time(now)?;
        Ok(wrote || read)
    }

    // ---- what others have changed ----

    /// The first thing after the handshake: what we hold.
    fn introduce(&mut self) {
        let Some(control) = &mut self.control else { return };
        // In this order: what lands between the two is told twice, never missed.
        control.told_news = self.context.ledger.news_len();
        control.told_withdrawn = lock(&self.context.withdrawn).len();
        let held = self.context.ledger.snapshot();
        if held.is_empty() || (held.is_full() && self.told_complete()) {
            return;
        }
        let holdings = HoldingsMessage::Bitmap(held.to_wire());
        self.say(&Message::Have { id: self.context.node.id, holdings });
    }

    /// Whether our REGISTRO said that we hold everything.
    fn told_complete(&self) -> bool {
        self.link.told_complete
    }

    fn heed(&mut self, now: Duration) -> Result<(), LaneEnd> {
        if let Some(reason) = self.link.closing.get() {
            let reason = reason.clone();
            return Err(self.close(reason));
        }
        let chokes = self.link.chokes.load(Acquire);
        if chokes != self.chokes_seen {
            self.chokes_seen = chokes;
            let pieces = self.download.give_up_all();
            self.give_back(&pieces);
        }
        if self.status.taken_over.swap(false, AcqRel) {
            self.yield_taken_pieces();
        }
        if self.link.choking.load(Relaxed) {
            self.upload.on_choking();
        }
        self.tell_peer();
        self.judge_suspicion(now)
    }

    /// Says goodbye, as far as the socket takes it at once.
    fn close(&mut self, reason: CloseReason) -> LaneEnd {
        if reason == CloseReason::Leaving && self.control.is_some() && self.sending.is_none() {
            let goodbye = Message::Goodbye { id: self.context.node.id, reason: None };
            self.say(&goodbye);
            let _ = self.stream.try_write(&self.outbound);
        }
        match reason {
            CloseReason::Violation(violation) => LaneEnd::Violation(violation),
            CloseReason::Leaving | CloseReason::Gone => LaneEnd::Closed,
        }
    }

    /// Pieces that another lane has taken over are cancelled here.
    fn yield_taken_pieces(&mut self) {
        let mut cancelled: Vec<RawBlock> = Vec::new();
        for piece in self.download.pieces() {
            if !(self.context.ledger.owner(piece) == Some(self.id)) {
                cancelled.extend(self.download.give_up(piece).into_iter().map(RawBlock::from));
            }
        }
        if !cancelled.is_empty() {
            self.say(&Message::Cancel(cancelled));
        }
    }

    /// Tells the peer what changed on our side: choke state, news, withdrawals.
    fn tell_peer(&mut self) {
        let Some(control) = &mut self.control else { return };
        let mut messages = Vec::new();
        let choking = self.link.choking.load(Relaxed);
        if choking != control.told_choking {
            control.told_choking = choking;
            messages.push(if choking { Message::Choke } else { Message::Unchoke });
        }
        let released = self.context.news_released.load(Acquire);
        if control.told_news < released {
            let count = (released - control.told_news) as usize;
            let news = self.context.ledger.news(control.told_news).take(count);
            control.told_news = released;
            // A peer that holds a piece has no use for the news that we do, too.
            let runs = runs_of(news.filter(|piece| !self.link.holdings.contains(*piece)));
            if !runs.is_empty() {
                let holdings = HoldingsMessage::News(runs);
                messages.push(Message::Have { id: self.context.node.id, holdings });
            }
        }
        let withdrawn = lock(&self.context.withdrawn);
        if control.told_withdrawn < withdrawn.len() {
            let new = withdrawn[control.told_withdrawn..].iter().copied();
            messages.push(Message::Withdraw(runs_of(new)));
            control.told_withdrawn = withdrawn.len();
        }
        drop(withdrawn);
        for message in &messages {
            self.say(message);
        }
    }

    /// Wrong bytes are forgiven once, if the peer withdraws the piece in time.
    fn judge_suspicion(&mut self, now: Duration) -> Result<(), LaneEnd> {
        if self.control.is_none() {
            return Ok(());
        }
        let mut suspect = lock(&self.link.suspect);
        let Some(suspicion) = suspect.as_ref() else { return Ok(()) };
        if !self.link.holdings.contains(suspicion.piece) {
            *suspect = None;
            return Ok(());
        }
        if now < suspicion.judged_at {
            return Ok(());
        }
        let violation = Violation::WrongBytes { piece: suspicion.piece.get() };
        drop(suspect);
        self.link.close(CloseReason::Violation(violation.clone()));
        Err(violation.into())
    }

    // ---- asking ----

    fn may_ask(&self) -> bool {
        !self.link.choked.load(Relaxed)
            && !self.context.paused.load(Relaxed)
            && lock(&self.link.suspect).is_none()
    }

    fn ask(&mut self, now: Duration) {
        if !self.download.wants_more() || !self.may_ask() || self.context.ledger.is_complete() {
            return;
        }
        let Self { context, link, download, id, rng, .. } = self;
        let mut claimed = Vec::new();
        let mut spans = download.top_up(&context.geometry, now, || {
            let piece = context.ledger.claim(&link.holdings, *id, PickOrder::RarestFirst, rng);
            claimed.extend(piece);
            piece
        });
        if spans.is_empty() && self.download.is_idle() {
            if let Some(piece) = self.take_over(now) {
                claimed.push(piece);
                let mut once = Some(piece);
                spans = self.download.top_up(&self.context.geometry, now, || once.take());
            }
        }
        if !spans.is_empty() {
            self.ask_for_pages(&claimed);
            self.say(&Message::Request(spans.into_iter().map(RawBlock::from).collect()));
            self.publish_due(now);
        }
    }

    /// The hashes of the claimed pieces are asked for ahead of the pieces themselves: the
    /// peer answers in order, so they are here when the piece is.
    fn ask_for_pages(&mut self, claimed: &[PieceIndex]) {
        let mut pages = Vec::new();
        for piece in claimed {
            for page in self.context.hashes.pages_needed(*piece) {
                if self.pages_asked.insert(page) {
                    pages.push(page);
                }
            }
        }
        if !pages.is_empty() {
            self.say(&Message::RequestMetadata { manifest: false, pages });
        }
    }

    /// With nothing left to claim, an idle lane takes the piece that would otherwise come
    /// latest, if it can have it here clearly sooner than its owner.
    fn take_over(&mut self, now: Duration) -> Option<PieceIndex> {
        let lanes = self.context.lanes();
        let mut latest: Option<(Duration, PieceIndex, LaneId)> = None;
        for (piece, owner) in self.context.ledger.in_flight().take(TAKE_OVER_LOOK) {
            if owner == self.id || !self.link.holdings.contains(piece) {
                continue;
            }
            let Some(status) = lanes.get(&owner) else { continue };
            let rest = status.expected_rest(now);
            if latest.is_none_or(|(longest, ..)| rest > longest) {
                latest = Some((rest, piece, owner));
            }
        }
        let (rest, piece, owner) = latest?;
        let own = self
            .download
            .meter()
            .time_for(u64::from(self.context.geometry.piece_len(piece)))
            .unwrap_or(UNKNOWN_PIECE_TIME)
            + self.download.meter().round_trip().unwrap_or_default();
        if rest <= own * 2 || !self.context.ledger.take_over(piece, owner, self.id) {
            return None;
        }
        let status = Arc::clone(lanes.get(&owner)?);
        drop(lanes);
        status.taken_over.store(true, Release);
        status.wake.notify_one();
        Some(piece)
    }

    fn publish_due(&self, now: Duration) {
        let due = self.download.expected_rest(now).map_or(0, |rest| (now + rest).as_micros());
        self.status.due_us.store(due as u64, Relaxed);
        self.status.progress_us.store(now.as_micros() as u64, Relaxed);
    }

    /// Pieces this lane does not fetch any more.
    fn give_back(&mut self, pieces: &[PieceIndex]) {
        for piece in pieces {
            self.context.ledger.release(*piece, self.id);
        }
        if !pieces.is_empty() {
            self.context.wake_all();
        }
    }

    // ---- writing ----

    fn say(&mut self, message: &Message) {
        message.encode(&mut self.outbound);
        self.context.counters.messages_sent.fetch_add(1, Relaxed);
    }

    fn has_output(&self) -> bool {
        !self.outbound.is_empty()
            || self.sending.is_some()
            || !self.metadata.is_empty()
            || !self.upload.is_empty()
    }

    /// Writes what the socket takes; true if it took anything.
    fn write(&mut self, now: Duration) -> Result<bool, LaneEnd> {
        let mut moved = false;
        let mut blocks = 0;
        loop {
            // A block that is half out must be finished before anything else is.
            let mid_block = self.sending.as_ref().is_some_and(|sending| sending.sent > 0);
            let taken = if !mid_block && !self.outbound.is_empty() {
                self.write_control()
            } else if self.sending.is_some() {
                self.write_block()
            } else if self.next_output() {
                continue;
            } else {
                break;
            };
            match taken {
                Ok(block_ended) => {
                    moved = true;
                    blocks += usize::from(block_ended);
                }
                Err(LaneEnd::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(end) => return Err(end),
            }
            if blocks == READS_A_TURN {
                break;
            }
        }
        if moved && let Some(control) = &mut self.control {
            control.session.spoke(now);
        }
        Ok(moved)
    }

    fn write_control(&mut self) -> Result<bool, LaneEnd> {
        let taken = self.stream.try_write(&self.outbound)?;
        self.outbound.advance(taken);
        Ok(false)
    }

    /// Sends some of the current block; true if that was the end of it.
    fn write_block(&mut self) -> Result<bool, LaneEnd> {
        let Some(sending) = &mut self.sending else { return Ok(false) };
        let total = BLOCK_HEAD_LEN + sending.span.len() as usize;
        let head = &sending.head[sending.sent.min(BLOCK_HEAD_LEN)..];
        let done = sending.sent.saturating_sub(BLOCK_HEAD_LEN);
        let at = sending.served.offset + u64::from(sending.span.offset()) + done as u64;
        let rest = sending.span.len() as usize - done;
        let stream = &self.stream;
        let taken = stream.try_io(Interest::WRITABLE, || {
            sending.served.file.send(stream.as_fd(), head, at, rest)
        })?;
        sending.sent += taken;
        if sending.sent < total {
            return Ok(false);
        }
        let span = sending.span;
        self.sending = None;
        self.on_block_sent(span);
        Ok(true)
    }

    fn on_block_sent(&mut self, span: BlockSpan) {
        let counters = &self.context.counters;
        counters.blocks_sent.fetch_add(1, Relaxed);
        counters.messages_sent.fetch_add(1, Relaxed);
        counters.uploaded.fetch_add(u64::from(span.len()), Relaxed);
        self.link.uploaded_bytes.fetch_add(u64::from(span.len()), Relaxed);
        // If the file was edited while the kernel read it, the peer must hear so right
        // behind the bytes.
        if self.upload.is_empty() {
            let _ = self.serve(span.piece());
        }
    }

    /// Puts the next thing to send in place; false if there is nothing.
    fn next_output(&mut self) -> bool {
        if let Some(reply) = self.metadata.pop_front() {
            self.put_metadata(reply);
            return true;
        }
        let Some(span) = self.upload.next() else { return false };
        match self.serve(span.piece()) {
            Some(served) => {
                let head = BlockHeader::of(span).encode_frame_head();
                self.sending = Some(Sending { span, served, head, sent: 0 });
            }
            None => {
                let reason = crate::wire::RefuseReason::NotHeld;
                self.say(&Message::Refuse { blocks: vec![span.into()], reason });
            }
        }
        true
    }

    /// Where a piece is to be sent from. A changed source is withdrawn, not served.
    fn serve(&mut self, piece: PieceIndex) -> Option<Served> {
        match self.context.store.serve(piece) {
            Ok(served) => Some(served),
            Err(error) => {
                self.context.withdraw_file_of(piece, &error);
                self.tell_peer();
                None
            }
        }
    }

    fn put_metadata(&mut self, mut reply: MetadataReply) {
        let chunk = reply.bytes.len().min(limits::METADATA_CHUNK_MAX as usize);
        let bytes = reply.bytes.split_to(chunk);
        reply.header.len = chunk as u32;
        self.outbound.extend_from_slice(&reply.header.encode_frame_head());
        self.outbound.extend_from_slice(&bytes);
        self.context.counters.messages_sent.fetch_add(1, Relaxed);
        if !reply.bytes.is_empty() {
            reply.header.offset += chunk as u32;
            self.metadata.push_front(reply);
        }
    }

    // ---- reading ----

    /// Reads what the socket has, up to a turn's worth; true if there was anything.
    fn read(&mut self, now: Duration) -> Result<bool, LaneEnd> {
        let mut moved = false;
        for _ in 0..READS_A_TURN {
            self.parse(now)?;
            if self.waits_for_disk() {
                break;
            }
            match self.fill() {
                Ok(0) => return Err(LaneEnd::Left),
                Ok(_) => moved = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if self.receiving.as_ref().is_some_and(|receiving| receiving.room() == 0) {
                self.take_chunk(now)?;
            }
        }
        if moved {
            self.parse(now)?;
            self.link.last_heard_us.store(now.as_micros() as u64, Relaxed);
            self.publish_due(now);
        }
        Ok(moved)
    }

    /// Reads into the block's buffer, or while none is coming, for a frame's head. Behind the
    /// end of a block the next head is read in the same call.
    fn fill(&mut self) -> io::Result<usize> {
        let Some(receiving) = &mut self.receiving else {
            self.inbound.reserve(HEAD_READ);
            return self.stream.try_read_buf(&mut self.inbound);
        };
        let room = receiving.room();
        let mut behind = [0; BLOCK_HEAD_LEN];
        let ends_block =
            receiving.taken as usize + receiving.filled + room == receiving.len as usize;
        let behind_len = if ends_block { behind.len() } else { 0 };
        let filled = receiving.filled;
        let mut slices = [
            IoSliceMut::new(&mut receiving.buf[filled..filled + room]),
            IoSliceMut::new(&mut behind[..behind_len]),
        ];
        let got = self.stream.try_read_vectored(&mut slices)?;
        receiving.filled += got.min(room);
        self.inbound.extend_from_slice(&behind[..got.saturating_sub(room)]);
        Ok(got)
    }

    /// Handles every frame that is complete, and starts on a block whose head is.
    fn parse(&mut self, now: Duration) -> Result<(), LaneEnd> {
        while self.receiving.is_none() {
            let Some((head, head_len)) =
                parse_head(&self.inbound, &self.limits).map_err(WireError::from)?
            else {
                break;
            };
            match head {
                FrameHead::Block(header) => {
                    self.inbound.advance(head_len);
                    self.begin_block(&header, now)?;
                }
                whole => {
                    let body_len = whole.body_len();
                    if self.inbound.len() < head_len + body_len {
                        break;
                    }
                    self.inbound.advance(head_len);
                    let body = self.inbound.split_to(body_len);
                    self.on_frame(&whole, &body)?;
                }
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, head: &FrameHead, body: &[u8]) -> Result<(), LaneEnd> {
        match head {
            FrameHead::Metadata(header) => self.on_metadata(header, body),
            _ => {
                let message = parse_message(body).map_err(WireError::from)?;
                self.on_message(message)
            }
        }
    }

    fn begin_block(&mut self, header: &BlockHeader, now: Duration) -> Result<(), LaneEnd> {
        let mut arrival = self.download.on_block(header, &self.context.geometry, now)?;
        if let Arrival::Take { span } = arrival
            && !self.begin_piece(span, now)
        {
            arrival = Arrival::Discard;
        }
        let mut buf = self.context.node.buffers.take(header.len as usize);
        let here = self.inbound.len().min(header.len as usize).min(buf.len());
        buf[..here].copy_from_slice(&self.inbound[..here]);
        self.inbound.advance(here);
        let receiving = Receiving { arrival, len: header.len, taken: 0, filled: here, buf };
        let full = receiving.room() == 0;
        self.receiving = Some(receiving);
        if full {
            self.take_chunk(now)?;
        }
        Ok(())
    }

    /// Makes sure that the piece of an arriving block has a hasher that is where the block
    /// starts; false if the piece is lost to this lane.
    fn begin_piece(&mut self, span: BlockSpan, now: Duration) -> bool {
        if span.offset() == 0 {
            self.progress = Some(PieceProgress {
                piece: span.piece(),
                hasher: PieceHasher::new(&self.context.geometry, span.piece()),
                queued: now < self.slow_until,
            });
        }
        self.progress.as_ref().is_some_and(|progress| progress.piece == span.piece())
    }

    /// Whether the next bytes need a place in the queue of the disk and there is none.
    fn waits_for_disk(&mut self) -> bool {
        let queued = self.progress.as_ref().is_some_and(|progress| progress.queued);
        let takes = self
            .receiving
            .as_ref()
            .is_some_and(|receiving| matches!(receiving.arrival, Arrival::Take { .. }));
        if !queued || !takes || self.permit.is_some() {
            return false;
        }
        self.permit = self.context.disk.try_permit();
        self.permit.is_none()
    }

    /// The buffer is full or holds the end of the block.
    fn take_chunk(&mut self, now: Duration) -> Result<(), LaneEnd> {
        let Some(mut receiving) = self.receiving.take() else { return Ok(()) };
        let len = receiving.filled as u32;
        let mut kept = true;
        if let Arrival::Take { span } = receiving.arrival {
            kept = self.take_bytes(span, &mut receiving, now)?;
        }
        if !kept {
            receiving.arrival = Arrival::Discard;
        }
        if receiving.arrival == Arrival::Discard {
            self.context.counters.wasted.fetch_add(u64::from(len), Relaxed);
        }
        receiving.taken += len;
        receiving.filled = 0;
        if receiving.taken < receiving.len {
            self.receiving = Some(receiving);
            return Ok(());
        }
        let arrival = receiving.arrival;
        drop(receiving);
        match arrival {
            Arrival::Take { span } => self.end_block(span, now),
            Arrival::Discard => Ok(()),
        }
    }

    /// Hashes and writes the bytes in the buffer; false if the piece is lost to this lane.
    fn take_bytes(
        &mut self,
        block: BlockSpan,
        receiving: &mut Receiving,
        now: Duration,
    ) -> Result<bool, LaneEnd> {
        let len = receiving.filled as u32;
        let piece = block.piece();
        self.download.on_bytes(len, now);
        self.context.counters.downloaded.fetch_add(u64::from(len), Relaxed);
        self.link.snubbed.store(false, Relaxed);
        let Some(progress) = self.progress.as_mut().filter(|progress| progress.piece == piece)
        else {
            return Ok(false);
        };
        progress.hasher.update(&receiving.buf[..receiving.filled]);
        let offset = block.offset() + receiving.taken;
        let Some(part) = self.context.geometry.block(piece.get().into(), offset.into(), len.into())
        else {
            return Ok(false);
        };
        if progress.queued
            && let Some(permit) = self.permit.take()
        {
            let fresh = self.context.node.buffers.take(receiving.buf.len());
            let buf = std::mem::replace(&mut receiving.buf, fresh);
            self.queue_write(part, buf, permit);
            return Ok(true);
        }
        self.write_now(part, &receiving.buf[..receiving.filled])
    }

    /// Writes on this thread, which is the fastest way while the disk keeps up.
    fn write_now(&mut self, part: BlockSpan, bytes: &[u8]) -> Result<bool, LaneEnd> {
        let started = self.context.now();
        let outcome = {
            let Some(_lease) = self.context.ledger.begin_write(part.piece(), self.id) else {
                self.lose(part.piece());
                return Ok(false);
            };
            self.context.store.write(part, bytes)
        };
        let ended = self.context.now();
        if ended - started > SLOW_WRITE {
            self.slow_until = ended + SLOW_FOR;
        }
        match outcome {
            Ok(()) => Ok(true),
            Err(error) => {
                self.context.disk_failed(error);
                self.lose(part.piece());
                Ok(false)
            }
        }
    }

    fn queue_write(&mut self, part: BlockSpan, buf: PooledBuf, permit: OwnedSemaphorePermit) {
        let context = Arc::clone(&self.context);
        let id = self.id;
        let write = Box::new(move |store: &dyn PieceStore, span: BlockSpan, bytes: &[u8]| {
            // Once the lease is refused the piece's end is void too: `verified` checks again.
            if let Some(_lease) = context.ledger.begin_write(span.piece(), id)
                && let Err(error) = store.write(span, bytes)
            {
                context.disk_failed(error);
                context.ledger.release(span.piece(), id);
            }
        });
        self.context.disk.push(Job::Write { span: part, buf, write, permit });
    }

    /// The piece goes back, and the rest of it is not wanted here.
    fn lose(&mut self, piece: PieceIndex) {
        self.progress = None;
        let cancelled = self.download.give_up(piece);
        self.context.ledger.release(piece, self.id);
        if !cancelled.is_empty() {
            self.say(&Message::Cancel(cancelled.into_iter().map(RawBlock::from).collect()));
        }
    }

    fn end_block(&mut self, span: BlockSpan, now: Duration) -> Result<(), LaneEnd> {
        self.download.on_block_done(span);
        if span.end() < self.context.geometry.piece_len(span.piece()) {
            return Ok(());
        }
        let Some(progress) = self.progress.take().filter(|p| p.piece == span.piece()) else {
            return Ok(());
        };
        let piece = progress.piece;
        match self.context.hashes.expected(piece) {
            Some(expected) if expected == progress.hasher.finish() => {
                if progress.queued {
                    let (context, link, id) =
                        (Arc::clone(&self.context), Arc::clone(&self.link), self.id);
                    self.context.disk.push(Job::Finish(Box::new(move || {
                        context.keep(&link, piece, id);
                    })));
                } else {
                    self.context.keep(&self.link, piece, self.id);
                }
                Ok(())
            }
            Some(_) => {
                self.context.counters.pieces_refused.fetch_add(1, Relaxed);
                self.suspect(piece, now);
                Ok(())
            }
            // Its proof was asked for ahead of it and did not come: the peer holds no such
            // page, or answers out of order.
            None => Err(Violation::WrongHashes.into()),
        }
    }

    /// Every byte of the piece came from this peer, and they are wrong.
    fn suspect(&mut self, piece: PieceIndex, now: Duration) {
        let mut pieces = self.download.give_up_all();
        pieces.push(piece);
        self.give_back(&pieces);
        let judged_at = now + WITHDRAWAL_GRACE;
        lock(&self.link.suspect).get_or_insert(Suspicion { piece, judged_at });
        self.link.wake();
    }

    // ---- messages ----

    fn on_message(&mut self, message: Message) -> Result<(), LaneEnd> {
        match message {
            Message::Request(blocks) => self.on_request(&blocks),
            Message::Cancel(blocks) => {
                self.upload.on_cancel(&blocks);
                Ok(())
            }
            Message::Refuse { blocks, reason } => {
                self.on_refused(&blocks, reason);
                Ok(())
            }
            Message::RequestMetadata { manifest, pages } => {
                self.on_metadata_request(manifest, &pages)
            }
            other => {
                let Some(control) = &mut self.control else {
                    return Err(Violation::OutOfPlace { what: other.tipo() }.into());
                };
                let fact = control.session.on_message(other)?;
                self.on_fact(fact)
            }
        }
    }

    fn on_request(&mut self, blocks: &[RawBlock]) -> Result<(), LaneEnd> {
        let context = &self.context;
        let choking = self.link.choking.load(Relaxed);
        let refusals = self.upload.on_request(
            blocks,
            &context.geometry,
            self.link.agreed.block_len,
            choking,
            |piece| context.ledger.have(piece),
        )?;
        for refusal in &refusals {
            self.say(refusal);
        }
        self.check_unsent()
    }

    /// A peer that asks and never reads must not grow our memory.
    fn check_unsent(&self) -> Result<(), LaneEnd> {
        if self.outbound.len() > limits::UNSENT_MAX {
            return Err(Violation::MetadataFlood.into());
        }
        Ok(())
    }

    fn on_refused(&mut self, blocks: &[RawBlock], reason: crate::wire::RefuseReason) {
        let pieces = self.download.on_refused(blocks);
        if reason == crate::wire::RefuseReason::NotHeld {
            for piece in &pieces {
                self.context.ledger.lose(&self.link.holdings, *piece);
            }
        }
        self.progress = self.progress.take().filter(|p| !pieces.contains(&p.piece));
        self.give_back(&pieces);
    }

    fn on_fact(&mut self, fact: Fact) -> Result<(), LaneEnd> {
        match fact {
            Fact::Nothing => {}
            Fact::Holds(set) => {
                for number in set.iter() {
                    self.learn(number);
                }
                self.link.wake();
            }
            Fact::Gained(runs) => {
                let fresh = runs.into_iter().flatten().filter(|n| self.learn(*n)).count();
                if let Some(control) = &mut self.control {
                    control.session.on_news_applied(fresh as u32)?;
                }
                if fresh > 0 {
                    self.link.wake();
                }
            }
            Fact::Withdrew(runs) => {
                for piece in
                    runs.into_iter().flatten().filter_map(|n| self.context.geometry.piece(n))
                {
                    self.context.ledger.lose(&self.link.holdings, piece);
                }
            }
            Fact::ChokedUs => {
                self.link.choked.store(true, Relaxed);
                self.link.chokes.fetch_add(1, Release);
                self.link.wake();
            }
            Fact::UnchokedUs => {
                self.link.choked.store(false, Relaxed);
                self.link.wake();
            }
            Fact::Interested(interested) => {
                self.link.interested.store(interested, Relaxed);
                self.context.slots_changed.notify_one();
            }
            Fact::WantsLanes(lanes) => self.link.lanes_asked.store(lanes, Relaxed),
            Fact::Left(reason) => {
                tracing::debug!(reason = reason.as_deref().map(tracing::field::debug), "left");
                return Err(LaneEnd::Left);
            }
        }
        Ok(())
    }

    /// The peer holds a piece; true if that is new.
    fn learn(&self, number: u32) -> bool {
        let Some(piece) = self.context.geometry.piece(number) else { return false };
        self.context.ledger.gain(&self.link.holdings, piece)
    }

    fn on_metadata_request(&mut self, manifest: bool, pages: &[PageId]) -> Result<(), LaneEnd> {
        if self.metadata.len() + pages.len() + usize::from(manifest) > METADATA_QUEUE_MAX {
            return Err(Violation::MetadataFlood.into());
        }
        if manifest {
            let bytes = self.context.manifest_bytes.clone();
            self.metadata.push_back(MetadataReply {
                header: MetadataHeader::manifest(bytes.len() as u32),
                bytes,
            });
        }
        for page in pages {
            let bytes = self.context.hashes.page(*page).unwrap_or_default();
            self.metadata.push_back(MetadataReply {
                header: MetadataHeader::page(*page, bytes.len() as u32),
                bytes,
            });
        }
        Ok(())
    }

    /// Hashes that were asked for. A page is at most 32 KiB, so it comes in one chunk.
    fn on_metadata(&mut self, header: &MetadataHeader, body: &[u8]) -> Result<(), LaneEnd> {
        let page = header.page_id();
        if header.item != MetadataItem::HashPage || !self.pages_asked.remove(&page) {
            return Err(Violation::WrongHashes.into());
        }
        if header.total == 0 {
            self.on_page_not_held(page);
            return Ok(());
        }
        match self.context.hashes.accept_page(page, body) {
            Ok(()) => Ok(()),
            Err(PageError::Unproven(_)) => Ok(()),
            Err(_) => Err(Violation::WrongHashes.into()),
        }
    }

    /// Who does not hold a page cannot prove the pieces under it: they are as good as not held.
    fn on_page_not_held(&mut self, page: PageId) {
        let context = Arc::clone(&self.context);
        let unproven = |piece: &PieceIndex| context.hashes.pages_needed(*piece).any(|p| p == page);
        let pieces: Vec<PieceIndex> = self.download.pieces().into_iter().filter(unproven).collect();
        for piece in &pieces {
            self.download.give_up(*piece);
            context.ledger.lose(&self.link.holdings, *piece);
        }
        self.give_back(&pieces);
    }

    // ---- time ----

    fn check_time(&mut self, now: Duration) -> Result<(), LaneEnd> {
        if self.download.deadline().is_some_and(|deadline| now >= deadline)
            && !self.waits_for_disk()
        {
            self.link.snubbed.store(true, Relaxed);
            let cancelled: Vec<RawBlock> = self
                .download
                .pieces()
                .into_iter()
                .flat_map(|piece| {
                    self.context.ledger.release(piece, self.id);
                    self.download.give_up(piece)
                })
                .map(RawBlock::from)
                .collect();
            self.say(&Message::Cancel(cancelled));
            self.context.wake_all();
        }
        self.follow_distance();
        let waits = self.waits_for_disk();
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
        let may_take_over = self.download.is_idle()
            && !self.link.choked.load(Relaxed)
            && !self.context.ledger.is_complete()
            && self.context.ledger.wants_any(&self.link.holdings);
        if may_take_over {
            next = next.min(now + IDLE_LOOK);
        }
        next
    }

    /// Sleeps until something can move.
    async fn wait(&mut self) -> Result<(), LaneEnd> {
        let now = self.context.now();
        let wants_disk = self.waits_for_disk();
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
        let mut pieces = self.download.give_up_all();
        // The piece whose last block is coming is in the books of neither.
        pieces.extend(self.progress.take().map(|progress| progress.piece));
        self.give_back(&pieces);
        if self.control.is_some() {
            self.link.close(CloseReason::Gone);
        }
    }
}

/// Pieces in any order as runs for the wire.
fn runs_of(pieces: impl Iterator<Item = PieceIndex>) -> Vec<Run> {
    let mut numbers: Vec<u64> = pieces.map(|piece| u64::from(piece.get())).collect();
    numbers.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.first + run.count == number => run.count += 1,
            _ => runs.push(Run { first: number, count: 1 }),
        }
    }
    runs
}
