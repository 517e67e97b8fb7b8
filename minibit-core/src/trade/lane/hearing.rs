//! What the peer's messages bring: to the value that understands them, and what follows.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::Duration;

use super::{Lane, LaneEnd, MetadataWanted};
use crate::content::PageError;
use crate::peer::{Fact, Violation};
use crate::trade::lock;
use crate::types::{PageId, PieceIndex};
use crate::wire::{Message, MetadataHeader, MetadataItem, RawBlock, RefuseReason};

/// Metadata requests that may wait on one lane.
const METADATA_QUEUE_MAX: usize = 1024;

/// After so many refusals and not a block in between a peer has let us down: half a minute, for the
/// pauses between them double.
const REFUSALS_MAX: u32 = 8;

impl<H> Lane<H> {
    /// A control message has come.
    ///
    /// # Errors
    /// [`LaneEnd`] if the peer leaves, or must not send this.
    pub fn on_message(&mut self, message: Message, now: Duration) -> Result<(), LaneEnd> {
        match message {
            Message::Request(blocks) => self.on_request(&blocks, now),
            Message::Cancel(blocks) => {
                self.check_inside(&blocks)?;
                self.upload.on_cancel(&blocks);
                self.refuse_repeats(now);
                Ok(())
            }
            Message::Refuse { blocks, reason } => {
                self.check_inside(&blocks)?;
                self.on_refused(&blocks, reason, now);
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
                self.on_fact(fact, now)
            }
        }
    }

    fn on_request(&mut self, blocks: &[RawBlock], now: Duration) -> Result<(), LaneEnd> {
        let share = &self.share;
        let refusals = self.upload.on_request(
            blocks,
            &share.geometry,
            self.link.agreed.block_len,
            self.link.is_choking(),
            |piece| share.ledger.have(piece),
        )?;
        self.messages.extend(refusals);
        share.note_asked(self.link.id, blocks);
        self.refuse_repeats(now);
        Ok(())
    }

    /// What would be sent next, and was sent too often, is refused: here, before the block behind it
    /// goes, for answers come in the order of the requests.
    pub(super) fn refuse_repeats(&mut self, now: Duration) {
        let Self { share, link, upload, .. } = self;
        let mut refused = Vec::new();
        while let Some(span) = upload.next_begins_anew()
            && !lock(&link.repeats).allows(span, &share.geometry, now)
        {
            refused.extend(upload.skip().map(RawBlock::from));
        }
        if !refused.is_empty() {
            let reason = RefuseReason::TooMany;
            self.say(Message::Refuse { blocks: refused, reason });
        }
    }

    /// Blocks that no piece of the share contains are no mistake of timing.
    fn check_inside(&self, blocks: &[RawBlock]) -> Result<(), Violation> {
        let geometry = &self.share.geometry;
        let inside = |raw: &RawBlock| geometry.block(raw.piece, raw.offset, raw.len).is_some();
        if blocks.iter().all(inside) { Ok(()) } else { Err(Violation::OutsideShare) }
    }

    fn on_refused(&mut self, blocks: &[RawBlock], reason: RefuseReason, now: Duration) {
        let pieces = self.download.on_refused(blocks, reason);
        if reason == RefuseReason::NotHeld {
            for piece in &pieces {
                self.share.ledger.lose(&self.link.holdings, *piece);
            }
        } else if !pieces.is_empty() {
            self.download.set_back_by_refusal(now);
            if self.download.setbacks() >= REFUSALS_MAX {
                // It says that it answers, and does not.
                self.share.note_let_down(&self.link);
            }
        }
        if reason == RefuseReason::Choked {
            self.keep_nothing_refused(&pieces);
        }
        self.part_with(&pieces);
    }

    /// There may be something to ask for; and whoever has it all makes room for others.
    fn on_more_held(&self) {
        // Whoever has asked for enough finds it when that has come.
        let has_enough = self.link.lane_count.load(Relaxed) == 1 && !self.download.wants_more();
        if !has_enough && !self.link.is_choked() || self.link.declined.load(Relaxed) {
            self.link.wake();
        }
        if self.link.holdings.is_full() {
            self.share.note_interest(&self.link);
        }
    }

    fn on_fact(&mut self, fact: Fact, now: Duration) -> Result<(), LaneEnd> {
        match fact {
            Fact::Nothing => {}
            Fact::Holds(set) => {
                self.share.ledger.gain_all(&self.link.holdings, &set);
                self.on_more_held();
            }
            Fact::Gained(runs) => {
                let fresh = runs.into_iter().flatten().filter(|n| self.learn(*n, now)).count();
                if let Some(control) = &mut self.control {
                    control.session.on_news_applied(fresh as u32)?;
                }
                if fresh > 0 {
                    self.on_more_held();
                }
            }
            Fact::Withdrew(runs) => {
                let pieces =
                    runs.into_iter().flatten().filter_map(|n| self.share.geometry.piece(n));
                let ledger = &self.share.ledger;
                let missed = pieces
                    .filter(|piece| {
                        ledger.lose(&self.link.holdings, *piece) && !ledger.have(*piece)
                    })
                    .count();
                self.share.counters.pieces_withdrawn.fetch_add(missed as u64, Relaxed);
            }
            Fact::Suggested(runs) => {
                if runs.is_empty() {
                    lock(&self.link.suggested).clear();
                    self.link.guiding.end();
                } else {
                    lock(&self.link.suggested).extend(runs);
                    self.link.guiding.begin();
                }
                self.link.wake();
            }
            Fact::ChokedUs => {
                // What it would have had us fetch it gives to others now.
                lock(&self.link.suggested).clear();
                self.link.choked.store(true, Relaxed);
                self.link.waits_for_us.store(false, Relaxed);
                self.link.chokes.fetch_add(1, Release);
                self.link.wake();
            }
            Fact::UnchokedUs => {
                self.link.choked.store(false, Relaxed);
                self.link.wake();
            }
            Fact::Interested(interested) => {
                if self.link.interested.swap(interested, Relaxed) != interested {
                    self.share.note_interest(&self.link);
                }
            }
            Fact::WantsLanes(lanes) => {
                // Only ever more of them, so that asking again and again costs nothing.
                if lanes > self.link.lanes_asked.fetch_max(lanes, Relaxed) && self.link.initiated {
                    self.share.signals.lanes_wanted(self.link.id);
                }
            }
            Fact::Left(reason) => {
                tracing::debug!(reason = reason.as_deref().map(tracing::field::debug), "left");
                return Err(LaneEnd::Left);
            }
        }
        Ok(())
    }

    /// The peer holds a piece; true if that is new.
    fn learn(&self, number: u32, now: Duration) -> bool {
        let Some(piece) = self.share.geometry.piece(number) else { return false };
        let new = self.share.ledger.gain(&self.link.holdings, piece);
        if new {
            self.share.note_held(now, self.link.id, number);
        }
        new
    }

    fn on_metadata_request(&mut self, manifest: bool, pages: &[PageId]) -> Result<(), LaneEnd> {
        if self.metadata.len() + pages.len() + usize::from(manifest) > METADATA_QUEUE_MAX {
            return Err(Violation::MetadataFlood.into());
        }
        self.metadata.extend(manifest.then_some(MetadataWanted::Manifest));
        self.metadata.extend(pages.iter().copied().map(MetadataWanted::Page));
        Ok(())
    }

    /// Hashes that were asked for. A page is at most 32 KiB, so it comes in one chunk.
    ///
    /// # Errors
    /// If they were not asked for, or are refuted.
    pub fn on_metadata(
        &mut self,
        header: &MetadataHeader,
        body: &[u8],
        now: Duration,
    ) -> Result<(), LaneEnd> {
        let page = header.page_id();
        if header.item != MetadataItem::HashPage || !self.pages_asked.remove(&page) {
            return Err(Violation::UnaskedHashes.into());
        }
        if header.total == 0 {
            return self.on_page_not_held(page);
        }
        match self.share.hashes.accept_page(page, body) {
            Ok(()) | Err(PageError::Unproven(_)) => {}
            Err(_) => return Err(Violation::WrongHashes.into()),
        }
        self.judge_unproven(now);
        Ok(())
    }

    /// Who holds a piece holds the pages that prove it. One that claims pieces and has no proof of
    /// them would else be asked for one after another, to the last.
    fn on_page_not_held(&mut self, page: PageId) -> Result<(), LaneEnd> {
        let share = Arc::clone(&self.share);
        let unproven = |piece: &PieceIndex| share.hashes.pages_needed(*piece).any(|p| p == page);
        let asked = self.download.pieces().into_iter().chain(self.unproven_pieces());
        let pieces: Vec<PieceIndex> = asked.filter(unproven).collect();
        // What it has withdrawn meanwhile it need not prove.
        if pieces.iter().any(|piece| self.link.holdings.contains(*piece)) {
            return Err(Violation::PageWithheld.into());
        }
        self.forget_unproven(&pieces);
        self.part_with(&pieces);
        Ok(())
    }
}
