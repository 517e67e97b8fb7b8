//! What changed elsewhere and this lane's peer must hear, or this lane must follow.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use super::{Lane, LaneEnd};
use crate::engine::context::{CloseReason, lock};
use crate::peer::Violation;
use crate::types::PieceIndex;
use crate::wire::{Holdings, Message, Run};

/// Wrong pieces of one peer that its withdrawals may explain: files edited under its hands.
const FORGIVEN_MAX: u32 = 8;

/// Turns of reading after a peer has left: more than a socket holds.
const LAST_READS: usize = 64;

impl Lane {
    /// The first thing after the handshake: what we hold.
    pub(super) fn introduce(&mut self) {
        let Some(control) = &mut self.control else { return };
        // In this order: what lands between the two is told twice, never missed.
        control.told_news = self.context.ledger.news_len();
        control.told_withdrawn = lock(&self.context.withdrawn).len();
        let held = self.context.ledger.snapshot();
        if held.is_empty() || (held.is_full() && self.told_complete()) {
            return;
        }
        let holdings = Holdings::Bitmap(held.to_wire());
        self.say(&Message::Have { id: self.context.node.id, holdings });
    }

    /// Whether our REGISTRO said that we hold everything.
    pub(super) fn told_complete(&self) -> bool {
        self.link.told_complete
    }

    pub(super) fn heed(&mut self, now: Duration) -> Result<(), LaneEnd> {
        if let Some(reason) = self.link.closing.get() {
            let reason = reason.clone();
            if reason == CloseReason::Gone {
                self.read_what_is_here(now)?;
            }
            return Err(self.close(reason));
        }
        let chokes = self.link.chokes.load(Acquire);
        if chokes != self.chokes_seen {
            self.chokes_seen = chokes;
            let pieces = self.download.pieces();
            self.part_with(&pieces);
        }
        if self.status.taken_over.swap(false, AcqRel) {
            self.yield_taken_pieces();
        }
        let choked = self.link.times_choked.load(Acquire);
        if choked != self.times_choked_seen {
            self.times_choked_seen = choked;
            self.upload.on_choking();
        }
        self.tell_peer();
        self.judge_suspicion(now)
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
    pub(super) fn close(&mut self, reason: CloseReason) -> LaneEnd {
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
    pub(super) fn yield_taken_pieces(&mut self) {
        let mut taken = self.download.pieces();
        taken.retain(|piece| self.context.ledger.owner(*piece) != Some(self.id));
        self.cancel(&taken);
    }

    /// Tells the peer what changed on our side: choke state, news, withdrawals.
    pub(super) fn tell_peer(&mut self) {
        let Some(control) = &mut self.control else { return };
        let mut messages = Vec::new();
        // Who holds everything asks for nothing, so it need not know.
        if !self.link.holdings.is_full() {
            let times = self.link.times_choked.load(Acquire);
            if times != control.told_times_choked {
                // Also if we answer again by now: what was asked before is void.
                control.told_times_choked = times;
                control.told_choking = true;
                messages.push(Message::Choke);
            }
            let choking = self.link.choking.load(Relaxed);
            if choking != control.told_choking {
                control.told_choking = choking;
                messages.push(if choking { Message::Choke } else { Message::Unchoke });
            }
        }
        // That we hold everything shows by our news; that we want no more does not.
        let ledger = &self.context.ledger;
        if control.told_interested && ledger.is_complete() && !ledger.holds_all() {
            control.told_interested = false;
            messages.push(Message::NotInterested);
        }
        let released = self.context.news_released.load(Acquire);
        if control.told_news < released {
            let count = (released - control.told_news) as usize;
            let news = self.context.ledger.news(control.told_news).take(count);
            control.told_news = released;
            // A peer that holds a piece has no use for the news that we do, too.
            let runs = runs_of(news.filter(|piece| !self.link.holdings.contains(*piece)));
            if !runs.is_empty() {
                let holdings = Holdings::News(runs);
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
