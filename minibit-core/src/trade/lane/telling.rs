//! What the peer must hear: what we hold, whether we answer, what changed; and what we must
//! heed that others have changed.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::Duration;

use super::{Control, IDLE_SLOT_MAX, IDLE_SLOT_MIN, IDLE_SLOT_PIECES, Lane, LaneEnd};
use crate::trade::lock;
use crate::types::PieceIndex;
use crate::wire::{Holdings, Message, RefuseReason, Run};

/// Who was asked so long ago and has never sent anything lets us down.
const NEVER_SENT_AFTER: Duration = Duration::from_secs(1);

impl<H> Lane<H> {
    /// The first thing after the handshake: what we hold.
    pub(super) fn introduce(&mut self) {
        let Some(control) = &mut self.control else { return };
        // In this order: what lands between the two is told twice, never missed.
        control.told_news = self.share.ledger.news_len();
        control.told_withdrawn = lock(&self.share.withdrawn).len();
        let held = self.share.ledger.snapshot();
        if held.is_empty() || (held.is_full() && self.link.told_complete) {
            return;
        }
        let holdings = Holdings::Bitmap(held.to_wire());
        self.say(Message::Have { id: self.share.setup.me, holdings });
    }

    /// Takes in what others have changed: chokes, take-overs, news, suspicions. Whether the link
    /// is closing is for the shell to look at first.
    ///
    /// # Errors
    /// If the peer is judged to have sent wrong bytes.
    pub fn heed(&mut self, now: Duration) -> Result<(), LaneEnd> {
        let chokes = self.link.chokes.load(Acquire);
        if chokes != self.chokes_seen {
            self.chokes_seen = chokes;
            let pieces = self.download.pieces_not_begun();
            self.part_with(&pieces);
        }
        if self.status.taken_over.swap(false, AcqRel) {
            self.yield_taken_pieces(now);
        }
        // Read first: whoever is cut off was choked before.
        let cut_off = self.link.times_cut_off.load(Acquire);
        let choked = self.link.times_choked.load(Acquire);
        if choked != self.times_choked_seen {
            self.times_choked_seen = choked;
            self.upload.on_choking();
        }
        if cut_off != self.times_cut_off_seen {
            self.times_cut_off_seen = cut_off;
            self.cut_off();
        }
        // Whoever is choked forgets what it was dealt; and whoever hears that it may ask before it is dealt
        // anything chooses for itself.
        self.tell_choke();
        self.guide(now);
        self.tell_peer();
        self.judge_suspicion(now)
    }

    /// The peer does not get the rest of a piece that was begun, and is told so: it counts on it.
    fn cut_off(&mut self) {
        let blocks = self.upload.on_cut_off();
        if !blocks.is_empty() {
            self.say(Message::Refuse { blocks, reason: RefuseReason::Choked });
        }
        self.set_amid_piece(false);
    }

    /// Pieces that another lane has taken over are cancelled here.
    fn yield_taken_pieces(&mut self, now: Duration) {
        let mut taken = self.download.pieces();
        taken.retain(|piece| self.share.ledger.owner(*piece) != Some(self.id));
        let has_sent = self.link.bytes_from() > 0 || self.download.meter().rate() >= 1.0;
        let silent = now.saturating_sub(self.download.last_progress());
        if !taken.is_empty() && !has_sent && silent >= NEVER_SENT_AFTER {
            // It has never sent anything, and must not take over in turn: several of that kind
            // would hand a piece round for ever.
            self.share.note_let_down(&self.link);
        }
        self.download.overdue(now);
        self.cancel(&taken);
        let mut unproven = self.unproven_pieces();
        unproven.retain(|piece| self.share.ledger.owner(*piece) != Some(self.id));
        self.forget_unproven(&unproven);
    }

    /// With several peers to serve, a seeder says which pieces this one is to fetch from it; with
    /// one left, or nothing to deal out, that it may choose.
    pub(super) fn guide(&mut self, now: Duration) {
        let Self { control: Some(control), share, link, messages, .. } = self else { return };
        let Some(guide) = &share.guide else { return };
        control.deals_again = None;
        if link.is_choking() || !link.interested.load(Relaxed) || link.holdings.is_full() {
            return;
        }
        let alone = share.serves_one_alone();
        let ledger = &share.ledger;
        let dealt = (!alone)
            .then(|| lock(guide).deal(now, link.id, |piece| ledger.is_out(piece)))
            .flatten();
        match dealt {
            Some(pieces) if !pieces.is_empty() => {
                control.guides = true;
                let pieces = pieces.into_iter().filter_map(|number| share.geometry.piece(number));
                messages.push(Message::Suggest(runs_of(pieces)));
            }
            Some(_) => control.deals_again = lock(guide).look_again(now, link.id),
            // What it was given it may fetch or leave.
            None if std::mem::take(&mut control.guides) => {
                messages.push(Message::Suggest(Vec::new()));
            }
            None => {}
        }
    }

    /// A slot that we cannot use is another's: while a peer answers us and has nothing for us, it
    /// hears that we want nothing, and when it has something again, that we do. In the endgame
    /// we keep what slots we have, for there may be something to take over, and before it those of
    /// peers that hold what drips from others.
    pub(super) fn review_interest(&mut self, now: Duration) {
        let Some(Control { told_interested, idle_since, .. }) = &mut self.control else { return };
        if self.share.ledger.is_complete() {
            // Or the lane would look for ever whether the time has come.
            *idle_since = None;
            return;
        }
        // What the peer may serve is looked at last: it is the most work, and most are choking.
        if *told_interested && (self.link.is_choked() || self.link.is_busy()) {
            *idle_since = None;
            return;
        }
        let (may_serve, idle_slot) = (self.may_serve(now), self.idle_slot());
        let Self { control: Some(control), link, messages, .. } = self else { return };
        if !control.told_interested {
            if may_serve {
                control.told_interested = true;
                link.declined.store(false, Relaxed);
                messages.push(Message::Interested);
            }
        } else if may_serve {
            control.idle_since = None;
        } else if now >= *control.idle_since.get_or_insert(now) + idle_slot {
            control.idle_since = None;
            control.told_interested = false;
            link.declined.store(true, Relaxed);
            messages.push(Message::NotInterested);
        }
    }

    /// For how long the peer may answer us and have nothing for us.
    pub(super) fn idle_slot(&self) -> Duration {
        let pieces = IDLE_SLOT_PIECES * u64::from(self.share.geometry.piece_size().bytes());
        let time = self.download.meter().time_for(pieces).unwrap_or_default();
        time.clamp(IDLE_SLOT_MIN, IDLE_SLOT_MAX)
    }

    /// Whether there is something that we would ask this peer for, or may come to ask it for.
    fn may_serve(&self, now: Duration) -> bool {
        let ledger = &self.share.ledger;
        !ledger.has_open()
            || ledger.has_open_of(&self.link.holdings)
            || self.is_first() && self.could_relieve(now)
    }

    /// Tells the peer what changed on our side: choke state, news, withdrawals.
    pub fn tell_peer(&mut self) {
        self.tell_news();
        self.tell_choke();
        let Self { control: Some(control), share, link, messages, .. } = self else { return };
        // That we hold everything shows by our news; that we want no more does not.
        let ledger = &share.ledger;
        if control.told_interested && ledger.is_complete() && !ledger.holds_all() {
            control.told_interested = false;
            link.declined.store(true, Relaxed);
            messages.push(Message::NotInterested);
        }
        let withdrawn = lock(&share.withdrawn);
        if control.told_withdrawn < withdrawn.len() {
            let new = withdrawn[control.told_withdrawn..].iter().copied();
            messages.push(Message::Withdraw(runs_of(new)));
            control.told_withdrawn = withdrawn.len();
        }
        drop(withdrawn);
        // After the news, if that need not wait: it tells what may be asked for.
        let choking = link.choking.load(Relaxed);
        if !link.holdings.is_full() && choking != control.told_choking {
            control.told_choking = choking;
            messages.push(if choking { Message::Choke } else { Message::Unchoke });
        }
    }

    /// Tells the peer that it was choked, also if we answer again by now: what was asked before is void. Who holds
    /// everything asks for nothing, so it need not know.
    fn tell_choke(&mut self) {
        let Self { control: Some(control), link, messages, .. } = self else { return };
        let times = link.times_choked.load(Acquire);
        if !link.holdings.is_full() && times != control.told_times_choked {
            control.told_times_choked = times;
            control.told_choking = true;
            messages.push(Message::Choke);
        }
    }

    /// Tells the peer what we came to hold. While a block goes out that waits: the peer would hear it behind the block,
    /// and so hears at once of all that has come by then. Nothing else waits, for what is said of chokes and of
    /// what is dealt has its order.
    pub(super) fn tell_news(&mut self) {
        let Self { control: Some(control), share, link, messages, is_sending: false, .. } = self
        else {
            return;
        };
        let ledger = &share.ledger;
        let may_deal = link.may_deal();
        let released = share.released(link);
        if control.told_news < released {
            let count = (released - control.told_news) as usize;
            let news = ledger.news(control.told_news).take(count);
            // What was withdrawn meanwhile the peer has heard already.
            let news = news.filter(|piece| ledger.have(*piece));
            control.told_news = released;
            // A peer that holds a piece has no use for the news that we do, too. But that we
            // hold all it must hear: else it keeps a slot for us.
            let runs = if ledger.holds_all() {
                vec![Run { first: 0, count: share.geometry.piece_count().into() }]
            } else {
                // But whoever came with everything learns from it who passes on what it sent.
                runs_of(news.filter(|piece| may_deal || !link.holdings.contains(*piece)))
            };
            if !runs.is_empty() {
                let holdings = Holdings::News(runs);
                messages.push(Message::Have { id: share.setup.me, holdings });
            }
        }
    }
}

/// Pieces in any order as runs for the wire.
fn runs_of(pieces: impl Iterator<Item = PieceIndex>) -> Vec<Run> {
    let alone = pieces.map(|piece| Run { first: piece.get().into(), count: 1 });
    let mut runs: Vec<Run> = alone.collect();
    runs.sort_unstable_by_key(|run| run.first);
    runs.dedup_by(|next, run| {
        let follows = run.first + run.count == next.first;
        run.count += u64::from(follows);
        follows
    });
    runs
}
