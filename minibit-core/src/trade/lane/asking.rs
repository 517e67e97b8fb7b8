//! Which blocks to ask this lane's peer for, and which pieces to give back.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering::{AcqRel, Relaxed, Release};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Lane;
use crate::peer::{FAR, LANE_WORTH};
use crate::swarm::{LaneId, PickOrder, Picking, leave_to_others};
use crate::trade::link::{DRIPS, LaneStatus};
use crate::trade::lock;
use crate::types::{BlockSpan, PieceIndex, limits};
use crate::wire::{Message, RawBlock};

/// The first pieces are taken at random: to have anything to trade counts more than rarity.
const FIRST_PIECES: u32 = 4;
/// For so long a lane waits for what its seeder will deal out before it chooses for itself: as long as so many
/// pieces take on it, within these bounds. The seeder may believe that it has enough, for of what it was dealt
/// it was having some from others, and these may leave. On a busy machine an answer takes tens of milliseconds.
const GUIDE_PATIENCE_PIECES: u32 = 8;
const GUIDE_PATIENCE_MIN: Duration = Duration::from_millis(100);
const GUIDE_PATIENCE_MAX: Duration = Duration::from_secs(3);
/// A lane is not judged by what its link carries before it is so old, and so many round trips:
/// TCP starts slowly.
const LANE_YOUTH: Duration = Duration::from_millis(300);
/// See [`LANE_YOUTH`].
const LANE_YOUTH_TRIPS: u32 = 5;
/// A connection over which nothing has come is a fresh one for so long: if nobody else has anything to give,
/// nothing comes over it.
const FRESH_FOR: Duration = Duration::from_secs(10);
/// Who had a part in a wrong piece takes over nothing for so long.
const DOUBTED_FOR: Duration = Duration::from_secs(30);
/// Pieces in flight looked at for a take-over.
const TAKE_OVER_LOOK: usize = 256;
/// How much sooner a lane must have a piece here than its owner to take it over.
const TAKE_WAITING: u32 = 3;
/// The same for a piece of which some has come or will in any case, and is lost: the owner hears of it too late.
const TAKE_UNDER_WAY: u32 = 4;
/// The same for a piece of the shortest length, of which such a block is all: else sixty peers with such pieces and
/// 10 Mbit/s out received 1.6 % in vain.
const TAKE_SHORTEST_UNDER_WAY: u32 = 8;
/// What a lane without a known rate is thought to need for a piece at least; as long as others do, if that is longer.
const UNKNOWN_PIECE_TIME: Duration = Duration::from_millis(500);

/// Whether a piece is not to be claimed here: the end of an attempt has yet to be reported, and must not
/// meet a new one.
fn is_unfinished(unfinished: &Mutex<HashSet<PieceIndex>>, piece: PieceIndex) -> bool {
    lock(unfinished).contains(&piece)
}

/// What those of these lanes receive that have received anything and do not crawl, as one does on which a block takes for
/// longer than [`DRIPS`]: on average, by the last measure of each, in bytes per second.
fn usual_rate<'a>(lanes: impl Iterator<Item = &'a Arc<LaneStatus>>) -> Option<u64> {
    let crawl = u64::from(limits::BLOCK_LEN_MIN) / DRIPS.as_secs();
    let rates = lanes.map(|lane| lane.rate.load(Relaxed)).filter(|rate| *rate > crawl);
    let (count, sum) = rates.fold((0, 0u64), |(count, sum), rate| (count + 1, sum + rate));
    sum.checked_div(count)
}

impl<H> Lane<H> {
    fn may_ask(&self, now: Duration) -> bool {
        self.download.rests_until(now).is_none()
            && !self.share.is_paused()
            && self.unproven.is_empty()
            && lock(&self.link.suspect).is_none()
    }

    /// Whether nothing is asked of a peer that would answer, though it has what nobody fetches and we are free
    /// to ask for: never, after [`Self::ask`].
    pub fn is_starved(&self, now: Duration) -> bool {
        self.download.is_idle()
            && !self.held_back
            && self.may_ask(now)
            && !self.link.is_choked()
            && self.share.ledger.has_open_of(&self.link.holdings)
    }

    /// Asks for more, if the window has room and there is anything to be had.
    pub fn ask(&mut self, now: Duration) {
        self.leave_late();
        let surplus = self.download.take_surplus();
        self.cancel(&surplus);
        if self.link.is_choked() && !self.download.is_within_piece() {
            return;
        }
        if !self.download.wants_more() || !self.may_ask(now) || self.share.ledger.is_complete() {
            return;
        }
        if self.download.meter().rate() < 1.0 {
            self.download.guess_rate(self.link.rate_of_one(now));
        }
        let is_on_trial = self.share.is_on_trial(&self.link, now);
        self.download.set_on_trial(is_on_trial);
        let is_one_too_many = self.is_one_too_many(now);
        let waits = is_on_trial && !is_one_too_many && !self.share.takes_trial(&self.link, now);
        self.held_back = is_one_too_many || waits;
        if waits {
            self.let_peer_wait();
        }
        let mut claimed = Vec::new();
        let mut spans = match self.share.setup.picking {
            // It sends what it has begun, and no more.
            _ if self.link.is_choked() || self.held_back => {
                self.download.top_up(&self.share.geometry, now, || None)
            }
            Picking::RarestFirst if self.link.guiding.is_now() => {
                self.ask_as_suggested(now, &mut claimed)
            }
            Picking::RarestFirst if self.link.holdings.is_full() => {
                self.ask_seeder(now, &mut claimed)
            }
            Picking::RarestFirst if self.share.ledger.have_count() >= FIRST_PIECES => {
                self.claim(now, PickOrder::RarestFirst, &mut claimed)
            }
            Picking::RarestFirst | Picking::Random => {
                self.claim(now, PickOrder::Random, &mut claimed)
            }
            Picking::Sequential => self.claim(now, PickOrder::Sequential, &mut claimed),
        };
        if spans.is_empty()
            && !self.held_back
            && !self.link.is_choked()
            && self.download.is_idle()
            && let Some(piece) = self.take_over(now)
        {
            claimed.push(piece);
            let mut once = Some((piece, self.share.end_of_prefix(piece, &self.sender)));
            spans = self.download.top_up(&self.share.geometry, now, || once.take());
        }
        if !self.held_back {
            self.link.waits_for_us.store(false, Relaxed);
        }
        if !spans.is_empty() {
            self.link.was_asked.store(true, Relaxed);
            self.ask_for_pages(&claimed);
            self.say(Message::Request(spans.into_iter().map(RawBlock::from).collect()));
            self.publish_due(now);
        }
    }

    /// The peer is not asked for what it holds, for it is not its turn.
    fn let_peer_wait(&self) {
        if !self.link.is_busy() {
            self.link.waits_for_us.store(true, Relaxed);
        }
    }

    /// Whether the link's other lanes do, for it carries too little for this one. Far away a queue on a slow way
    /// looks like distance, and each lane more makes it longer. Nearby, if links that came since keep all cores busy.
    fn is_one_too_many(&self, now: Duration) -> bool {
        if self.is_first() || self.share.setup.lanes.is_some() {
            return false;
        }
        let round_trip = self.link.round_trip();
        let is_due = if round_trip < FAR {
            self.share.carrying(now) > self.share.setup.cores
        } else {
            now >= self.began + LANE_YOUTH.max(round_trip * LANE_YOUTH_TRIPS)
        };
        is_due && self.link.place_of(&self.status) as u64 > self.link.under_way(now) / LANE_WORTH
    }

    /// Fills the window with claims in this order.
    fn claim(
        &mut self,
        now: Duration,
        order: PickOrder,
        claimed: &mut Vec<PieceIndex>,
    ) -> Vec<BlockSpan> {
        let Self { share, link, sender, download, id, rng, unfinished, .. } = self;
        // They are not even claimed: whoever may have them would find them taken, and is not woken.
        let mut left_alone = share.left_alone(sender, now);
        let spans = download.top_up(&share.geometry, now, || {
            // Most often there is nothing, and the levels of rarity are many to look through.
            if !share.ledger.has_open_of(&link.holdings) {
                return None;
            }
            // What is begun first: room for beginnings is scarce, and nobody has any use for them. But
            // where a seeder is asked for what it alone has, only that.
            let begun = share.claim_begun(link, sender, |piece| {
                (order != PickOrder::FirstCopies || !share.ledger.is_out(piece.get()))
                    && !is_unfinished(unfinished, piece)
                    && share.ledger.claim_this(&link.holdings, *id, piece)
            });
            if let Some((piece, _)) = begun {
                claimed.push(piece);
                return begun;
            }
            let piece = loop {
                let piece = share.ledger.claim_but(&left_alone, &link.holdings, *id, order, rng);
                let Some(piece) = piece else {
                    if order == PickOrder::FirstCopies {
                        return None;
                    }
                    let earned = share.claim_earned(link, &left_alone, |piece| {
                        !is_unfinished(unfinished, *piece)
                            && share.ledger.claim_this(&link.holdings, *id, *piece)
                    })?;
                    claimed.push(earned);
                    return Some((earned, 0));
                };
                if share.may_begin(piece, sender, now) {
                    break piece;
                }
                // Its beginning has come into being since.
                left_alone.push(piece);
                share.put_back(piece, *id);
            };
            if is_unfinished(unfinished, piece) {
                // Nobody is woken: this lane would come upon it again, and so on.
                share.ledger.release(piece, *id);
                return None;
            }
            claimed.push(piece);
            Some((piece, share.end_of_prefix(piece, sender)))
        });
        self.held_back = spans.is_empty()
            && !left_alone.is_empty()
            && self.share.ledger.has_open_of(&self.link.holdings);
        if self.held_back {
            self.let_peer_wait();
        }
        spans
    }

    /// What a seeder deals out to us we fetch from it, and for a while nothing else: what it has
    /// not given us it has given to others. If what it gave is nothing that we want, we choose.
    fn ask_as_suggested(&mut self, now: Duration, claimed: &mut Vec<PieceIndex>) -> Vec<BlockSpan> {
        let Self { share, link, sender, download, id, unfinished, .. } = self;
        let (mut is_unwanted, mut for_later) = (false, BTreeSet::new());
        let spans = download.top_up(&share.geometry, now, || {
            loop {
                let piece = share.geometry.piece(link.next_suggested()?)?;
                let may_begin =
                    !is_unfinished(unfinished, piece) && share.may_begin(piece, sender, now);
                if may_begin && share.ledger.claim_this(&link.holdings, *id, piece) {
                    claimed.push(piece);
                    return Some((piece, share.end_of_prefix(piece, sender)));
                }
                if share.ledger.have(piece) {
                    continue;
                }
                // Whoever fetches it may be a liar, and the seeder gives it to nobody but us.
                if !may_begin || share.ledger.owner(piece).is_some() {
                    for_later.insert(piece);
                } else {
                    is_unwanted = true;
                }
            }
        });
        self.link.suggest_first(&for_later);
        let waited = now.saturating_sub(self.download.last_progress());
        if spans.is_empty() && is_unwanted {
            self.link.guiding.end();
            return self.ask_seeder(now, claimed);
        }
        // One of several lanes may have nothing to do for long where the others are served as they should be.
        let waited = waited.min(self.link.silent(now));
        self.held_back =
            spans.is_empty() && self.download.is_idle() && waited < self.guide_patience();
        if self.held_back {
            if !for_later.is_empty() {
                self.let_peer_wait();
            }
            // It may believe that we have enough: of what it dealt us we have some from others by now.
            let news = self.share.ledger.news_len();
            if self.link.news_due.fetch_max(news, AcqRel) < news {
                self.link.wake_first();
            }
        }
        if !spans.is_empty() || self.held_back || !self.download.is_idle() {
            return spans;
        }
        // Until something is dealt to us, or we would wait as long again after what fits our window.
        self.link.guiding.end();
        self.ask_seeder(now, claimed)
    }

    fn guide_patience(&self) -> Duration {
        let meter = self.download.meter();
        let piece_size = u64::from(self.share.geometry.piece_size().bytes());
        let Some(piece_time) = meter.time_for(piece_size) else { return GUIDE_PATIENCE_MAX };
        let time = piece_time + meter.round_trip().unwrap_or_default();
        (time * GUIDE_PATIENCE_PIECES).clamp(GUIDE_PATIENCE_MIN, GUIDE_PATIENCE_MAX)
    }

    /// A seeder is asked for first copies, and for the rest; one that has dealt out its first
    /// copy not while others serve us as well.
    fn ask_seeder(&mut self, now: Duration, claimed: &mut Vec<PieceIndex>) -> Vec<BlockSpan> {
        let spans = self.claim(now, PickOrder::FirstCopies, claimed);
        if !spans.is_empty() {
            return spans;
        }
        if self.link.guiding.was_once() {
            let from_others: u64 = {
                let links = self.share.links();
                let ledger = &self.share.ledger;
                // Who answers us and has something: what only others hold, who choke us, is to
                // be had from the seeder alone.
                let others = links.values().filter(|link| {
                    link.id != self.link.id
                        && !link.is_choked()
                        && ledger.has_open_of(&link.holdings)
                });
                others.map(|link| link.receiving_rate(now)).sum()
            };
            self.held_back = self.share.ledger.has_open()
                && leave_to_others(self.link.receiving_rate(now), from_others);
            if self.held_back {
                return spans;
            }
        }
        self.claim(now, PickOrder::RarestFirst, claimed)
    }

    /// The hashes of the claimed pieces are asked for ahead of the pieces themselves: the
    /// peer answers in order, so they are here when the piece is.
    fn ask_for_pages(&mut self, claimed: &[PieceIndex]) {
        let mut pages = Vec::new();
        for piece in claimed {
            for page in self.share.hashes.pages_needed(*piece) {
                if self.pages_asked.insert(page) {
                    pages.push(page);
                }
            }
        }
        if !pages.is_empty() {
            self.say(Message::RequestMetadata { manifest: false, pages });
        }
    }

    /// With nothing left to claim, an idle lane takes, of the pieces that it can have here clearly sooner than
    /// their owners, the one that would otherwise come latest. Before the endgame only
    /// from a lane that stalls or drips: what a peer cannot be asked for, others will be, and to take a
    /// piece that has begun to come throws away what has come.
    ///
    /// A peer that let us wait in vain takes over nothing: liars would take from those who send, again and again.
    /// One that had a part in a wrong piece takes over nothing either before its connection is
    /// [`DOUBTED_FOR`] old, and then only what drips: it may be the only one who sends.
    fn take_over(&mut self, now: Duration) -> Option<PieceIndex> {
        let is_in_doubt = self.share.is_in_doubt(&self.sender);
        if self.link.snubbed.load(Relaxed) || is_in_doubt && now < self.began + DOUBTED_FOR {
            return None;
        }
        let is_endgame = !self.share.ledger.has_open();
        let geometry = &self.share.geometry;
        let lanes = self.share.lanes();
        let mut latest: Option<(Duration, PieceIndex, LaneId)> = None;
        let theirs = self.share.ledger.in_flight_of(&self.link.holdings);
        for (piece, owner) in theirs.take(TAKE_OVER_LOOK) {
            if owner == self.id || is_unfinished(&self.unfinished, piece) {
                continue;
            }
            let Some(status) = lanes.get(&owner) else { continue };
            let len = geometry.piece_len(piece);
            let rest = status.expected_rest(piece, len, now);
            let hinders = status.stalls(now) || status.drips(piece, len, now);
            if !hinders && (!is_endgame || is_in_doubt) {
                continue;
            }
            let is_later = latest.is_none_or(|(longest, ..)| rest > longest);
            let others = || lanes.iter().filter(|(id, _)| **id != owner).map(|(_, lane)| lane);
            if is_later
                && self.has_clearly_sooner(piece, status, rest, || usual_rate(others()), now)
            {
                latest = Some((rest, piece, owner));
            }
        }
        let (_, piece, owner) = latest?;
        if !self.share.ledger.take_over(piece, owner, self.id) {
            return None;
        }
        let status = Arc::clone(lanes.get(&owner)?);
        drop(lanes);
        status.taken_over.store(true, Release);
        status.waker.wake_by_ref();
        Some(piece)
    }

    /// Whether this lane would have the piece here so much sooner than its owner, which needs as long as `rest`, that it is
    /// worth what comes twice for it. Where nothing is known of its rate that is thought to be the `usual` one of others, in bytes
    /// per second: one idle lane after another would begin anew what comes as fast as it would from them.
    fn has_clearly_sooner(
        &self,
        piece: PieceIndex,
        owner: &LaneStatus,
        rest: Duration,
        usual: impl Fn() -> Option<u64>,
        now: Duration,
    ) -> bool {
        let meter = self.download.meter();
        let is_fresh =
            meter.rate() < 1.0 && self.link.bytes_from() == 0 && now < self.began + FRESH_FOR;
        if owner.has_begun(piece) && is_fresh && !owner.stalls(now) {
            // Where connections are lost again and again there is always a fresh one, of which nothing
            // is known: one after another would begin the piece anew.
            return false;
        }
        // By no less than what it is judged by if it does not come ([`Download::overdue`]), or a short last piece
        // would go to and fro between two that are busy with others.
        let len = self.share.geometry.piece_len(piece).max(limits::BLOCK_LEN_MIN);
        let takes = |rate| Duration::from_micros(u64::from(len) * 1_000_000 / rate);
        let unknown = || usual().map_or(Duration::ZERO, takes).max(UNKNOWN_PIECE_TIME);
        let own = meter.time_for(len.into()).unwrap_or_else(unknown)
            + meter.round_trip().unwrap_or_default();
        let margin = match owner.is_under_way(piece, now) {
            false => TAKE_WAITING,
            true if len > limits::BLOCK_LEN_MIN => TAKE_UNDER_WAY,
            true => TAKE_SHORTEST_UNDER_WAY,
        };
        rest > own * margin
    }

    /// Whether this peer holds a piece that drips from another.
    pub(super) fn could_relieve(&self, now: Duration) -> bool {
        let theirs = self.share.ledger.in_flight_of(&self.link.holdings);
        let mut others =
            theirs.take(TAKE_OVER_LOOK).filter(|(_, owner)| *owner != self.id).peekable();
        if others.peek().is_none() {
            return false;
        }
        let lanes = self.share.lanes();
        others.any(|(piece, owner)| {
            let len = self.share.geometry.piece_len(piece);
            lanes.get(&owner).is_some_and(|lane| lane.drips(piece, len, now))
        })
    }

    /// Lets others know how long what is in flight here will take.
    pub fn publish_due(&mut self, now: Duration) {
        self.publish_busy();
        let due = self.download.expected_rest(now).map_or(0, |rest| (now + rest).as_micros());
        self.status.rate.store(self.download.meter().rate() as u64, Relaxed);
        self.status.due_us.store(due as u64, Relaxed);
        let begun = self.download.begun(&self.share.geometry);
        self.status.begun.store(begun.map_or(0, |(piece, _)| piece.get() + 1), Relaxed);
        let trip = self.download.meter().round_trip().unwrap_or_default();
        self.status.trip_us.store(trip.as_micros() as u64, Relaxed);
        let next = self.download.next_piece();
        self.status.next.store(next.map_or(0, |piece| piece.get() + 1), Relaxed);
        let left = match begun {
            Some((_, left)) => self.download.meter().time_for(left),
            None => Some(Duration::ZERO),
        };
        if let Some(left) = left {
            self.status.begun_due_us.store((now + left).as_micros() as u64, Relaxed);
        }
        // Not any bytes: a peer that says this and that while it delivers nothing is silent.
        let progress = self.download.last_progress().as_micros() as u64;
        self.status.progress_us.store(progress, Relaxed);
    }

    pub(super) fn publish_busy(&mut self) {
        let is_busy = !self.download.is_idle();
        if std::mem::replace(&mut self.looks_busy, is_busy) != is_busy {
            self.status.busy.store(is_busy, Relaxed);
        }
    }

    /// Parts with pieces, whatever the reason: the one way in which a lane gives them up. What has come of
    /// one stays for others. Returns the blocks that may be cancelled.
    pub(super) fn part_with(&mut self, pieces: &[PieceIndex]) -> Vec<RawBlock> {
        let mut cancelled = Vec::new();
        self.late.take_if(|late| pieces.contains(late));
        for piece in pieces {
            cancelled.extend(self.download.give_up(*piece).into_iter().map(RawBlock::from));
            let progress = self.progress.take_if(|progress| progress.piece() == *piece);
            let came = self.download.last_progress();
            let prefix = progress.and_then(|progress| progress.into_prefix(self.sender, came));
            self.share.leave(*piece, self.id, prefix);
        }
        if !pieces.is_empty() {
            self.parted.extend_from_slice(pieces);
            self.share.wake_all();
        }
        cancelled
    }

    /// Gives a piece back that is in the books of the shell alone, for its last block has come.
    pub fn give_back(&mut self, piece: PieceIndex) {
        self.part_with(&[piece]);
    }

    /// Parts with pieces, and the peer is told that it need not send them.
    pub fn cancel(&mut self, pieces: &[PieceIndex]) {
        let cancelled = self.part_with(pieces);
        if !cancelled.is_empty() {
            self.say(Message::Cancel(cancelled));
        }
    }
}
