//! In: socket to pooled buffer, hashed there while in cache, to the file at its final offset.

use std::collections::HashSet;
use std::io::{self, IoSliceMut};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use bytes::{Buf, BufMut};
use tokio::sync::OwnedSemaphorePermit;

use super::{Lane, LaneEnd};
use crate::content::PieceHasher;
use crate::engine::buffers::PooledBuf;
use crate::engine::context::ShareContext;
use crate::peer::Arrival;
use crate::swarm::LaneId;
use crate::trade::{Link, Origin, lock};
use crate::types::{BlockSpan, PieceIndex};
use crate::wire::{BLOCK_HEAD_LEN, BlockHeader, FrameHead, WireError, parse_head, parse_message};

/// Reads of one turn before writing gets its turn.
const READS_A_TURN: usize = 4;
/// Bytes asked of the socket while waiting for a frame's head.
const HEAD_READ: usize = 4 * 1024;

/// A block whose head has come.
pub(super) struct Receiving {
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

    /// If the block belongs to one of these pieces, its bytes are not wanted any more.
    pub(super) fn discard_if_of(&mut self, pieces: &[PieceIndex]) -> bool {
        let of_them = |span: BlockSpan| pieces.contains(&span.piece());
        let discard = matches!(self.arrival, Arrival::Take { span } if of_them(span));
        if discard {
            self.arrival = Arrival::Discard;
        }
        discard
    }
}

/// What the disk has to do with the piece whose blocks are coming; what has come of it is in the lane's value.
pub(super) struct PieceProgress {
    pub(super) piece: PieceIndex,
    /// What is still to be written of it goes through the queue, so its end must too.
    queued: bool,
    /// Its last bytes, which are queued together with its end.
    last: Option<QueuedWrite>,
    /// One of its queued writes was not made, so this attempt must not end well, even if the
    /// piece has come back to this lane meanwhile.
    void: Arc<AtomicBool>,
}

/// Bytes for the file, and the place in the queue that they take.
struct QueuedWrite {
    span: BlockSpan,
    buf: PooledBuf,
    place: OwnedSemaphorePermit,
}

impl PieceProgress {
    /// Whatever of it is still in the queue of the disk does not count.
    pub(super) fn void(&self) {
        self.void.store(true, Relaxed);
    }
}

impl Lane {
    /// Reads what the socket has, up to a turn's worth; true if there was anything.
    pub(super) fn read(&mut self, now: Duration) -> Result<bool, LaneEnd> {
        let mut moved = false;
        for _ in 0..READS_A_TURN {
            self.parse(now)?;
            if self.needs_disk_place() || self.mind.hears_enough(now) {
                break;
            }
            match self.fill() {
                Ok(0) => return Err(LaneEnd::HungUp),
                Ok(got) => {
                    moved = true;
                    self.on_filled(got, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if moved {
            self.parse(now)?;
            self.link.heard(now);
            self.mind.publish_due(now);
        }
        Ok(moved)
    }

    /// Reads into the block's buffer, or while none is coming, for a frame's head. Behind the
    /// end of a block the next head is read in the same call.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        let Some(receiving) = &mut self.receiving else {
            self.inbound.reserve(HEAD_READ);
            // No more, however large the buffer has grown: payload is read where it belongs.
            return self.stream.try_read_buf(&mut (&mut self.inbound).limit(HEAD_READ));
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

    /// Bytes came from the socket. A slow block is progress with every byte of it, not only
    /// once it fills a buffer; and one that merely drips must be seen to.
    fn on_filled(&mut self, got: usize, now: Duration) {
        if let Some(Receiving { arrival: Arrival::Take { .. }, .. }) = self.receiving {
            self.mind.on_bytes(got as u32, now);
        }
    }

    /// Handles every frame that is complete, and starts on a block whose head is.
    pub(super) fn parse(&mut self, now: Duration) -> Result<(), LaneEnd> {
        loop {
            self.move_payload(now);
            let full = self.receiving.as_ref().is_some_and(|receiving| receiving.room() == 0);
            if full && self.take_disk_place(now) {
                self.take_chunk(now)?;
            }
            if self.receiving.is_some() {
                if full && self.needs_disk_place() || self.inbound.is_empty() {
                    break;
                }
                // A block larger than its buffer: more of it is here already.
                continue;
            }
            if self.mind.hears_enough(now) {
                break;
            }
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
                    self.on_frame(&whole, &body, now)?;
                }
            }
        }
        Ok(())
    }

    fn on_frame(&mut self, head: &FrameHead, body: &[u8], now: Duration) -> Result<(), LaneEnd> {
        match head {
            FrameHead::Metadata(header) => {
                self.decide(|mind| mind.on_metadata(header, body, now))?;
                for (piece, origin) in self.mind.take_proven() {
                    self.end_piece(piece, origin, None, Arc::default());
                }
            }
            _ => {
                self.mind.heard_control(body.len(), now);
                let message = parse_message(body).map_err(WireError::from)?;
                self.decide(|mind| mind.on_message(message, now))?;
            }
        }
        self.check_unsent()
    }

    pub(super) fn begin_block(
        &mut self,
        header: &BlockHeader,
        now: Duration,
    ) -> Result<(), LaneEnd> {
        let mut arrival = self.decide(|mind| mind.on_block(header, now))?;
        if let Arrival::Take { span } = arrival
            && !self.begin_piece(span)
        {
            arrival = Arrival::Discard;
        }
        let buf = self.context.node.buffers.take(header.len as usize);
        self.receiving = Some(Receiving { arrival, len: header.len, taken: 0, filled: 0, buf });
        Ok(())
    }

    /// Payload that was read with a head goes to the block's buffer, before the socket is asked
    /// for more of it.
    fn move_payload(&mut self, now: Duration) {
        let Some(receiving) = &mut self.receiving else { return };
        let here = self.inbound.len().min(receiving.room());
        if here == 0 {
            return;
        }
        let filled = receiving.filled;
        receiving.buf[filled..filled + here].copy_from_slice(&self.inbound[..here]);
        receiving.filled += here;
        self.inbound.advance(here);
        self.on_filled(here, now);
    }

    /// Makes sure that the piece of an arriving block has a hasher that is where the block
    /// starts; false if the piece is lost to this lane.
    pub(super) fn begin_piece(&mut self, span: BlockSpan) -> bool {
        let piece = span.piece();
        let geometry = &self.context.share.geometry;
        if !self.mind.begin_block(span, || PieceHasher::new(geometry, piece)) {
            // It has given the piece up.
            self.decide(|_| ());
            return false;
        }
        if span.offset() == 0 || self.progress.as_ref().is_none_or(|known| known.piece != piece) {
            let void = Arc::default();
            self.progress = Some(PieceProgress { piece, queued: false, last: None, void });
        }
        true
    }

    /// Whether a full buffer waits for a place in the queue of the disk. Only then: a place is
    /// never held while bytes are still to come, or a peer that drips could keep it.
    pub(super) fn needs_disk_place(&self) -> bool {
        let queued = self.progress.as_ref().is_some_and(|progress| progress.queued);
        let full = self.receiving.as_ref().is_some_and(|receiving| {
            receiving.room() == 0 && matches!(receiving.arrival, Arrival::Take { .. })
        });
        queued && full && self.place.is_none()
    }

    /// Takes the place that a full buffer needs, if it needs one; false if there is none. The
    /// disk may have become slow since the piece began, on another lane as well.
    fn take_disk_place(&mut self, now: Duration) -> bool {
        if let Some(progress) = &mut self.progress {
            progress.queued |= self.context.disk.must_queue(progress.piece, now);
        }
        if self.needs_disk_place() {
            self.place = self.context.disk.try_place();
        }
        !self.needs_disk_place()
    }

    /// The buffer is full or holds the end of the block.
    pub(super) fn take_chunk(&mut self, now: Duration) -> Result<(), LaneEnd> {
        let Some(mut receiving) = self.receiving.take() else { return Ok(()) };
        let len = receiving.filled as u32;
        let mut kept = true;
        if let Arrival::Take { span } = receiving.arrival {
            kept = self.take_bytes(span, &mut receiving)?;
        }
        if !kept {
            receiving.arrival = Arrival::Discard;
        }
        if receiving.arrival == Arrival::Discard {
            self.mind.on_waste(len);
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
    pub(super) fn take_bytes(
        &mut self,
        block: BlockSpan,
        receiving: &mut Receiving,
    ) -> Result<bool, LaneEnd> {
        let len = receiving.filled as u32;
        let piece = block.piece();
        self.mind.on_payload(len);
        let Some(hasher) = self.mind.take_in(piece, len) else { return Ok(false) };
        hasher.update(&receiving.buf[..receiving.filled]);
        let offset = block.offset() + receiving.taken;
        let geometry = &self.context.share.geometry;
        let Some(part) = geometry.block(piece.get().into(), offset.into(), len.into()) else {
            return Ok(false);
        };
        if self.progress.as_ref().is_some_and(|progress| progress.queued)
            && let Some(place) = self.place.take()
        {
            let fresh = self.context.node.buffers.take(receiving.buf.len());
            let buf = std::mem::replace(&mut receiving.buf, fresh);
            self.queue_write(QueuedWrite { span: part, buf, place });
            return Ok(true);
        }
        self.write_now(part, &receiving.buf[..receiving.filled])
    }

    /// The connection is gone: what has come of the block that was coming is as good as the blocks before it.
    pub(super) fn take_what_came_of_block(&mut self) {
        let queued = self.progress.as_ref().is_none_or(|progress| progress.queued);
        let Some(mut receiving) = self.receiving.take().filter(|_| !queued) else { return };
        if let Arrival::Take { span } = receiving.arrival
            && receiving.filled > 0
            && self.take_bytes(span, &mut receiving).is_err()
        {
            self.mind.keep_nothing();
        }
    }

    /// Writes on this thread, which is the fastest way while the disk keeps up.
    pub(super) fn write_now(&mut self, part: BlockSpan, bytes: &[u8]) -> Result<bool, LaneEnd> {
        let write = self.context.disk.begin_at_once(self.context.now());
        let outcome = {
            let ledger = &self.context.share.ledger;
            let Some(_lease) = ledger.begin_write(part.piece(), self.mind.id()) else {
                self.decide(|mind| mind.cancel(&[part.piece()]));
                return Ok(false);
            };
            self.context.store.write(part, bytes)
        };
        self.context.disk.wrote_at_once(&write, self.context.now());
        match outcome {
            Ok(()) => Ok(true),
            Err(error) => {
                self.context.disk_failed(error);
                self.mind.keep_nothing();
                self.decide(|mind| mind.cancel(&[part.piece()]));
                Ok(false)
            }
        }
    }

    /// Has bytes written by a thread that may wait. The last ones of a piece stay here until it is
    /// known whether it is right.
    fn queue_write(&mut self, write: QueuedWrite) {
        // It may come to nothing without a word to anybody who could go on from there.
        self.mind.keep_nothing();
        let Some(progress) = &mut self.progress else { return };
        let piece = write.span.piece();
        if write.span.end() >= self.context.share.geometry.piece_len(piece) {
            progress.last = Some(write);
            return;
        }
        let (context, id) = (Arc::clone(&self.context), self.mind.id());
        let void = Arc::clone(&progress.void);
        let QueuedWrite { span, buf, place } = write;
        self.context.disk.push(piece, place, move || context.write_queued(span, &buf, id, &void));
    }

    pub(super) fn end_block(&mut self, span: BlockSpan, now: Duration) -> Result<(), LaneEnd> {
        if !self.mind.on_block_done(span) {
            return Ok(());
        }
        let Some(progress) = self.progress.take().filter(|p| p.piece == span.piece()) else {
            return Ok(());
        };
        let PieceProgress { piece, last, void, .. } = progress;
        let Some((hasher, origin)) = self.mind.end_piece(piece) else { return Ok(()) };
        match self.context.share.hashes.expected(piece) {
            Some(expected) if expected == hasher.finish() => {
                self.end_piece(piece, origin, last, void);
                Ok(())
            }
            Some(_) => {
                self.decide(|mind| mind.on_wrong_piece(piece, &origin, now));
                Ok(())
            }
            None if last.is_some() => {
                // A place in the queue of the disk is not held for a peer that may never answer.
                self.decide(|mind| mind.give_back(piece));
                Ok(())
            }
            None => {
                let hash = hasher.finish();
                Ok(self.decide(|mind| mind.on_unproven_piece(piece, hash, origin, now))?)
            }
        }
    }

    /// The piece is right, and counts once it is on record. The record is a write as well, and waits as long.
    fn end_piece(
        &mut self,
        piece: PieceIndex,
        origin: Origin,
        last: Option<QueuedWrite>,
        void: Arc<AtomicBool>,
    ) {
        if let Some(QueuedWrite { span, buf, place }) = last {
            let end = self.end_in_queue(piece, origin, void);
            self.context.disk.push(piece, place, move || {
                end.context.write_queued(span, &buf, end.id, &end.void);
                drop(end);
            });
        } else if let Some(place) = self.place_for_end(piece) {
            let end = self.end_in_queue(piece, origin, void);
            self.context.disk.push(piece, place, move || drop(end));
        } else {
            let write = self.context.disk.begin_at_once(self.context.now());
            self.context.keep(&self.link, piece, self.mind.id(), &origin);
            self.context.disk.wrote_at_once(&write, self.context.now());
        }
    }

    /// A place for the record of a piece of which nothing is queued, if the disk has become slow since its last bytes were
    /// taken, maybe by them. If others have taken all places by then, there is none: that record is the last to be waited for.
    fn place_for_end(&self, piece: PieceIndex) -> Option<OwnedSemaphorePermit> {
        let disk = &self.context.disk;
        disk.must_queue(piece, self.context.now()).then(|| disk.try_place()).flatten()
    }

    fn end_in_queue(&self, piece: PieceIndex, origin: Origin, void: Arc<AtomicBool>) -> EndOfPiece {
        let (context, link) = (Arc::clone(&self.context), Arc::clone(&self.link));
        let (id, unfinished) = (self.mind.id(), self.mind.end_later(piece));
        EndOfPiece { context, link, piece, origin, id, unfinished, void }
    }
}

/// The end of a piece that was queued, however it comes about: it counts, or is free for others.
struct EndOfPiece {
    context: Arc<ShareContext>,
    link: Arc<Link>,
    piece: PieceIndex,
    origin: Origin,
    id: LaneId,
    unfinished: Arc<Mutex<HashSet<PieceIndex>>>,
    void: Arc<AtomicBool>,
}

impl Drop for EndOfPiece {
    fn drop(&mut self) {
        if self.void.load(Relaxed) {
            self.context.share.ledger.release(self.piece, self.id);
            self.context.share.wake_all();
        } else {
            self.context.keep(&self.link, self.piece, self.id, &self.origin);
        }
        lock(&self.unfinished).remove(&self.piece);
    }
}

impl ShareContext {
    /// Writes what was queued, on a thread that may wait. An attempt at a piece that has come to
    /// nothing since is void, and so is one whose bytes the disk refused.
    fn write_queued(&self, span: BlockSpan, buf: &PooledBuf, id: LaneId, void: &AtomicBool) {
        let ledger = &self.share.ledger;
        let Some(_lease) = ledger.begin_write(span.piece(), id) else {
            void.store(true, Relaxed);
            return;
        };
        let _guard = VoidOnPanic(void);
        if let Err(error) = self.store.write(span, &buf[..span.len() as usize]) {
            void.store(true, Relaxed);
            self.disk_failed(error);
            ledger.release(span.piece(), id);
        }
    }
}

/// A panic in a write must not leave a hole in a piece that counts.
struct VoidOnPanic<'a>(&'a AtomicBool);

impl Drop for VoidOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}
