//! What the bytes bring that come over this lane: blocks that were asked for, pieces that prove
//! right or wrong.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Lane, LaneEnd};
use crate::peer::{Arrival, Violation};
use crate::trade::link::{CloseReason, Suspicion};
use crate::trade::lock;
use crate::types::{BlockSpan, PieceIndex};
use crate::wire::BlockHeader;

/// How long wrong bytes may be explained by a withdrawal that is on its way.
const WITHDRAWAL_GRACE: Duration = Duration::from_secs(1);
/// Wrong pieces of one peer that its withdrawals may explain: files edited under its hands.
const FORGIVEN_MAX: u32 = 8;

impl Lane {
    /// The head of a block has come.
    ///
    /// # Errors
    /// As [`Download::on_block`](crate::peer::Download::on_block).
    pub fn on_block(&mut self, header: &BlockHeader, now: Duration) -> Result<Arrival, Violation> {
        self.download.on_block(header, &self.share.geometry, now)
    }

    /// Bytes came of a block that was asked for. A slow block is progress with every byte of
    /// it; and one that merely drips must be seen to.
    pub fn on_bytes(&mut self, bytes: u32, now: Duration) {
        self.download.on_bytes(bytes, now);
        self.link.gave(now);
    }

    /// So many bytes of a block that was asked for are here to be kept.
    pub fn on_payload(&self, bytes: u32) {
        self.share.counters.downloaded.fetch_add(u64::from(bytes), Relaxed);
        self.share.note_delivery(&self.link);
    }

    /// So many bytes came that nobody needs.
    pub fn on_waste(&self, bytes: u32) {
        self.share.counters.wasted.fetch_add(u64::from(bytes), Relaxed);
    }

    /// A block that was asked for is all here; true if its piece is, too.
    pub fn on_block_done(&mut self, span: BlockSpan) -> bool {
        self.download.on_block_done(span);
        span.end() >= self.share.geometry.piece_len(span.piece())
    }

    /// The end of this piece will be reported later; until then it is not claimed again here.
    /// Whoever reports it takes it out of the set.
    pub fn end_later(&self, piece: PieceIndex) -> Arc<Mutex<HashSet<PieceIndex>>> {
        lock(&self.unfinished).insert(piece);
        Arc::clone(&self.unfinished)
    }

    /// Every byte of the piece came from this peer, and they are wrong.
    pub fn on_wrong_piece(&mut self, piece: PieceIndex, now: Duration) {
        self.share.counters.pieces_refused.fetch_add(1, Relaxed);
        let mut pieces = self.download.pieces();
        pieces.push(piece);
        self.part_with(&pieces);
        let judged_at = now + WITHDRAWAL_GRACE;
        lock(&self.link.suspect).get_or_insert(Suspicion { piece, judged_at });
        self.link.wake();
    }

    /// The piece is here and its proof, which was asked for ahead of it, is not: the peer holds
    /// no such page, or answers out of order.
    pub fn on_unproven_piece(&mut self, piece: PieceIndex) -> LaneEnd {
        self.part_with(&[piece]);
        Violation::WrongHashes.into()
    }

    /// Wrong bytes are forgiven if the peer withdraws the piece in time, but not for ever.
    pub(super) fn judge_suspicion(&mut self, now: Duration) -> Result<(), LaneEnd> {
        if self.control.is_none() {
            return Ok(());
        }
        let mut suspect = lock(&self.link.suspect);
        let Some(suspicion) = suspect.as_ref() else { return Ok(()) };
        if !self.link.holdings.contains(suspicion.piece) {
            if self.link.forgiven.fetch_add(1, Relaxed) < FORGIVEN_MAX {
                *suspect = None;
                self.link.wake();
                return Ok(());
            }
        } else if now < suspicion.judged_at {
            return Ok(());
        }
        let violation = Violation::WrongBytes { piece: suspicion.piece.get() };
        drop(suspect);
        self.link.close(CloseReason::Violation(violation.clone()));
        Err(violation.into())
    }
}
