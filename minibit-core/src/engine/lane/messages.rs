//! Control messages: to the value that understands them, and what follows from it.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};

use super::sending::MetadataReply;
use super::{Lane, LaneEnd};
use crate::content::PageError;
use crate::engine::share::Event;
use crate::peer::{Fact, Violation};
use crate::types::{PageId, PieceIndex, limits};
use crate::wire::{Message, MetadataHeader, MetadataItem, RawBlock, RefuseReason};

/// Metadata requests that may wait on one lane.
const METADATA_QUEUE_MAX: usize = 1024;

impl Lane {
    pub(super) fn on_message(&mut self, message: Message) -> Result<(), LaneEnd> {
        match message {
            Message::Request(blocks) => self.on_request(&blocks),
            Message::Cancel(blocks) => {
                self.check_inside(&blocks)?;
                self.upload.on_cancel(&blocks);
                Ok(())
            }
            Message::Refuse { blocks, reason } => {
                self.check_inside(&blocks)?;
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

    pub(super) fn on_request(&mut self, blocks: &[RawBlock]) -> Result<(), LaneEnd> {
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

    /// Blocks that no piece of the share contains are no mistake of timing.
    fn check_inside(&self, blocks: &[RawBlock]) -> Result<(), Violation> {
        let geometry = &self.context.geometry;
        let inside = |raw: &RawBlock| geometry.block(raw.piece, raw.offset, raw.len).is_some();
        if blocks.iter().all(inside) { Ok(()) } else { Err(Violation::OutsideShare) }
    }

    /// A peer that asks and never reads must not grow our memory.
    pub(super) fn check_unsent(&self) -> Result<(), LaneEnd> {
        if self.outbound.len() > limits::UNSENT_MAX {
            return Err(Violation::MetadataFlood.into());
        }
        Ok(())
    }

    pub(super) fn on_refused(&mut self, blocks: &[RawBlock], reason: RefuseReason) {
        let pieces = self.download.on_refused(blocks);
        if reason == RefuseReason::NotHeld {
            for piece in &pieces {
                self.context.ledger.lose(&self.link.holdings, *piece);
            }
        } else if !pieces.is_empty() {
            self.download.set_back(self.context.now());
        }
        self.part_with(&pieces);
    }

    /// There may be something to ask for; and whoever has it all makes room for others.
    fn on_more_held(&self) {
        self.link.wake();
        if self.link.holdings.is_full() {
            self.context.slots_changed.notify_one();
        }
    }

    pub(super) fn on_fact(&mut self, fact: Fact) -> Result<(), LaneEnd> {
        match fact {
            Fact::Nothing => {}
            Fact::Holds(set) => {
                self.context.ledger.gain_all(&self.link.holdings, &set);
                self.on_more_held();
            }
            Fact::Gained(runs) => {
                let fresh = runs.into_iter().flatten().filter(|n| self.learn(*n)).count();
                if let Some(control) = &mut self.control {
                    control.session.on_news_applied(fresh as u32)?;
                }
                if fresh > 0 {
                    self.on_more_held();
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
                if self.link.interested.swap(interested, Relaxed) != interested {
                    self.context.slots_changed.notify_one();
                }
            }
            Fact::WantsLanes(lanes) => {
                // Only ever more of them, so that asking again and again costs nothing.
                if lanes > self.link.lanes_asked.fetch_max(lanes, Relaxed) && self.link.initiated {
                    self.context.tell(Event::LanesWanted(self.link.id));
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
    pub(super) fn learn(&self, number: u32) -> bool {
        let Some(piece) = self.context.geometry.piece(number) else { return false };
        self.context.ledger.gain(&self.link.holdings, piece)
    }

    pub(super) fn on_metadata_request(
        &mut self,
        manifest: bool,
        pages: &[PageId],
    ) -> Result<(), LaneEnd> {
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
    pub(super) fn on_metadata(
        &mut self,
        header: &MetadataHeader,
        body: &[u8],
    ) -> Result<(), LaneEnd> {
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
    pub(super) fn on_page_not_held(&mut self, page: PageId) {
        let context = Arc::clone(&self.context);
        let unproven = |piece: &PieceIndex| context.hashes.pages_needed(*piece).any(|p| p == page);
        let pieces: Vec<PieceIndex> = self.download.pieces().into_iter().filter(unproven).collect();
        for piece in &pieces {
            context.ledger.lose(&self.link.holdings, *piece);
        }
        self.part_with(&pieces);
    }
}
