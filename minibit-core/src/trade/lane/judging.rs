//! What the bytes bring that come over this lane: blocks that were asked for, or had been given up and come all the
//! same, pieces that prove right or wrong.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Lane, LaneEnd};
use crate::peer::{Arrival, Violation};
use crate::trade::link::{CloseReason, Suspicion};
use crate::trade::lock;
use crate::trade::prefixes::{Origin, Progress};
use crate::types::{BlockSpan, Digest, PieceIndex};
use crate::wire::{BlockHeader, Message, RawBlock};

/// How long wrong bytes may be explained by a withdrawal that is on its way.
const WITHDRAWAL_GRACE: Duration = Duration::from_secs(1);
/// How long the proof of a piece may come after it.
const PROOF_TIME: Duration = Duration::from_secs(5);
/// Pieces of one lane that may wait for their proof: what was asked for before it showed that it
/// was late.
const UNPROVEN_MAX: usize = 256;
/// Wrong pieces of one peer that its withdrawals may explain: files edited under its hands.
const FORGIVEN_MAX: u32 = 8;

/// A piece that is here without its proof.
#[derive(Debug)]
pub(super) struct Unproven {
    piece: PieceIndex,
    hash: Digest,
    origin: Origin,
    since: Duration,
}

impl<H> Lane<H> {
    /// The head of a block has come.
    ///
    /// # Errors
    /// As [`Download::on_block`](crate::peer::Download::on_block).
    pub fn on_block(&mut self, header: &BlockHeader, now: Duration) -> Result<Arrival, Violation> {
        if self.late.is_some_and(|late| late.get() != header.piece) {
            self.leave_late();
        }
        if let Some(span) = self.download.given_up(header, &self.share.geometry)
            && self.claim_late(span)
        {
            self.download.take_up(span, now);
            return Ok(Arrival::Take { span });
        }
        self.download.on_block(header, &self.share.geometry, now)
    }

    /// Whether a block that was given up and comes all the same is of use: nobody fetches its piece, and what is
    /// here of that ends where the block begins. What was asked for once and is thrown away would have to be sent
    /// again, and a peer need not send much again.
    ///
    /// The piece is claimed for this block alone, for those behind it may have been cancelled in time: it is left
    /// ([`Self::leave_late`]) unless they begin to come by the lane's next turn, and what is here of it goes on from
    /// there, with them or with others.
    fn claim_late(&mut self, span: BlockSpan) -> bool {
        let piece = span.piece();
        if let Some(progress) = &self.progress {
            let goes_on = progress.piece() == piece && progress.end() == span.offset();
            let is_ours =
                self.late == Some(piece) && self.share.ledger.owner(piece) == Some(self.id);
            return goes_on && is_ours;
        }
        // Of a stranger no part is taken: if it is wrong, whoever goes on with it would fetch the rest in vain.
        let is_whole = span.offset() == 0 && span.end() == self.share.geometry.piece_len(piece);
        let is_free = (is_whole || self.link.bytes_from() > 0)
            && !self.share.is_paused()
            && self.unproven.is_empty()
            && lock(&self.link.suspect).is_none()
            && !lock(&self.unfinished).contains(&piece)
            // The shell has yet to hear that it was given up, and would throw away what comes now as well.
            && !self.parted.contains(&piece)
            && self.share.ends_at(piece, &self.sender) == Some(span.offset());
        let ledger = &self.share.ledger;
        let is_ours = is_free
            && (ledger.owner(piece) == Some(self.id)
                || ledger.claim_this(&self.link.holdings, self.id, piece));
        if is_ours {
            self.late = Some(piece);
            // If it was asked for again meanwhile, behind other pieces, it comes sooner than that.
            let again = self.download.give_up(piece);
            if !again.is_empty() {
                self.say(Message::Cancel(again.into_iter().map(RawBlock::from).collect()));
            }
        }
        is_ours
    }

    /// Of the piece of which a block came late nothing more comes: others may go on with it.
    pub(super) fn leave_late(&mut self) {
        let Some(piece) = self.late else { return };
        if !self.download.pieces().contains(&piece) {
            self.part_with(&[piece]);
        }
    }

    /// The bytes of a block that is to be taken begin to come. False if they are of no use here, for not
    /// all that comes before them is: then the piece is given up. `new` is what the shell knows of a
    /// piece of which nothing is here.
    pub fn begin_block(&mut self, span: BlockSpan, new: impl FnOnce() -> H) -> bool {
        let (piece, at) = (span.piece(), span.offset());
        let goes_on = |known: &Progress<H>| known.piece() == piece && known.end() == at;
        if at > 0 && self.progress.as_ref().is_some_and(goes_on) {
            return true;
        }
        self.progress = match self.share.take_prefix(piece, self.id, at) {
            Ok(Some(prefix)) => Some(Progress::on(piece, prefix, &self.sender)),
            Ok(None) => Some(Progress::new(piece, new(), self.download.last_progress())),
            Err(()) => None,
        };
        let begun = self.progress.is_some();
        if !begun {
            self.cancel(&[piece]);
        }
        begun
    }

    /// So many bytes more of a piece are here: what the shell knows of those before them, to be brought
    /// up to date. `None` if the piece is lost to this lane.
    pub fn take_in(&mut self, piece: PieceIndex, len: u32) -> Option<&mut H> {
        let progress = self.progress.as_mut().filter(|progress| progress.piece() == piece)?;
        Some(progress.take_in(len))
    }

    /// What has come of the piece that is coming is not all in the file, or not to be trusted: if it
    /// comes to nothing here, others begin anew.
    pub fn keep_nothing(&mut self) {
        if let Some(progress) = &mut self.progress {
            progress.keep_nothing();
        }
    }

    /// The peer chokes us, and will not send the rest of these pieces. What has come of one over this link alone is left to nobody: who
    /// sends wrong bytes would have others go on with them, and bear no blame.
    pub(super) fn keep_nothing_refused(&mut self, pieces: &[PieceIndex]) {
        let is_its_own = |progress: &Progress<H>| {
            pieces.contains(&progress.piece()) && progress.is_of_this_link()
        };
        if self.progress.as_ref().is_some_and(is_its_own) {
            self.keep_nothing();
        }
    }

    /// All bytes of a piece are here: what the shell knows of them, and where they came from.
    pub fn end_piece(&mut self, piece: PieceIndex) -> Option<(H, Origin)> {
        let progress = self.progress.take_if(|progress| progress.piece() == piece)?;
        Some(progress.into_whole(self.sender))
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
        let is_whole = span.end() >= self.share.geometry.piece_len(span.piece());
        if self.late == Some(span.piece()) {
            self.download.end_rest();
            if is_whole {
                self.late = None;
            }
        }
        is_whole
    }

    /// The end of this piece will be reported later; until then it is not claimed again here.
    /// Whoever reports it takes it out of the set.
    pub fn end_later(&self, piece: PieceIndex) -> Arc<Mutex<HashSet<PieceIndex>>> {
        lock(&self.unfinished).insert(piece);
        Arc::clone(&self.unfinished)
    }

    /// The bytes of the piece are wrong. If every one of them came from this peer, it has sent them.
    pub fn on_wrong_piece(&mut self, piece: PieceIndex, origin: &Origin, now: Duration) {
        self.share.counters.pieces_refused.fetch_add(1, Relaxed);
        if let Origin::Mixed(mixed) = origin {
            self.share.note_spoilt(mixed);
            self.part_with(&[piece]);
            return;
        }
        let mut pieces = self.download.pieces();
        pieces.push(piece);
        self.part_with(&pieces);
        let judged_at = now + WITHDRAWAL_GRACE;
        lock(&self.link.suspect).get_or_insert(Suspicion { piece, judged_at });
        self.link.wake();
    }

    /// The piece is here and hashes to this, and its proof, which was asked for ahead of it, is
    /// not: the peer answers out of order, or not at all. It is waited for, and nothing more asked
    /// of the peer until it is here.
    ///
    /// # Errors
    /// If no answer is to come.
    pub fn on_unproven_piece(
        &mut self,
        piece: PieceIndex,
        hash: Digest,
        origin: Origin,
        now: Duration,
    ) -> Result<(), LaneEnd> {
        let is_awaited =
            self.share.hashes.pages_needed(piece).any(|p| self.pages_asked.contains(&p));
        if !is_awaited || self.unproven.len() >= UNPROVEN_MAX {
            self.part_with(&[piece]);
            return Err(Violation::NoHashes.into());
        }
        self.unproven.push(Unproven { piece, hash, origin, since: now });
        Ok(())
    }

    /// A page has come: pieces that waited for it are right, or wrong.
    pub(super) fn judge_unproven(&mut self, now: Duration) {
        let hashes = Arc::clone(&self.share.hashes);
        for unproven in std::mem::take(&mut self.unproven) {
            match hashes.expected(unproven.piece) {
                None => self.unproven.push(unproven),
                Some(expected) if expected == unproven.hash => {
                    self.proven.push((unproven.piece, unproven.origin));
                }
                Some(_) => self.on_wrong_piece(unproven.piece, &unproven.origin, now),
            }
        }
    }

    /// Pieces that waited for their proof and are right by it: to be kept.
    pub fn take_proven(&mut self) -> Vec<(PieceIndex, Origin)> {
        std::mem::take(&mut self.proven)
    }

    pub(super) fn unproven_pieces(&self) -> Vec<PieceIndex> {
        self.unproven.iter().map(|unproven| unproven.piece).collect()
    }

    pub(super) fn forget_unproven(&mut self, pieces: &[PieceIndex]) {
        self.unproven.retain(|unproven| !pieces.contains(&unproven.piece));
    }

    /// What came while we did not read may be here, and only not have been looked at.
    pub(super) fn await_proofs_from(&mut self, now: Duration) {
        for unproven in &mut self.unproven {
            unproven.since = now;
        }
    }

    /// When the proof of a piece that is here must be here as well.
    pub(super) fn proof_due(&self) -> Option<Duration> {
        self.unproven.iter().map(|unproven| unproven.since + PROOF_TIME).min()
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
