//! One connection of a link, as a value: what to say, what to ask for, what to send.
//!
//! The shell tells it what came and what time it is, and carries out what it then finds:
//! messages to send ([`Lane::take_messages`]), pieces whose bytes no longer count
//! ([`Lane::take_parted`]), blocks and metadata to send, a deadline. A lane looks around with
//! [`Lane::heed`] and [`Lane::ask`] whenever it is woken.
//!
//! Invariant: every piece it has claimed goes back when it is dropped, with what has come of it.
//! Not here: bytes.

mod asking;
mod hearing;
mod judging;
mod telling;

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::{Arc, Mutex};
use std::task::Waker;
use std::time::Duration;

use self::judging::Unproven;
use super::link::{CloseReason, LaneStatus, Link};
use super::lock;
use super::prefixes::{Origin, Progress, Sender};
use super::share::Share;
use crate::content::PieceHasher;
use crate::peer::{Chatter, Download, Session, Upload, Violation, lanes_wanted};
use crate::swarm::LaneId;
use crate::types::{BlockSpan, PageId, PieceIndex};
use crate::wire::{Message, RefuseReason};

/// How often an idle lane looks for work to take over.
const IDLE_LOOK: Duration = Duration::from_millis(200);
/// How often a lane that leaves its seeder to others looks whether they still serve.
const HELD_BACK_LOOK: Duration = Duration::from_millis(20);
/// For so long a peer may answer us and have nothing for us before we give its slot back.
const IDLE_SLOT: Duration = Duration::from_millis(150);
/// Longest that a lane may be left alone: a bound for whatever wake-up was not thought of.
const NAP_MAX: Duration = Duration::from_secs(5);

/// Why a lane is to end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaneEnd {
    /// The peer said goodbye.
    #[error("the peer left")]
    Left,
    /// Silence for too long.
    #[error("the peer fell silent")]
    Silent,
    /// A rule was broken.
    #[error(transparent)]
    Violation(#[from] Violation),
}

/// Metadata that the peer has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataWanted {
    /// The manifest.
    Manifest,
    /// A page of piece hashes.
    Page(PageId),
}

/// State that only the first lane of a link has.
#[derive(Debug)]
struct Control {
    session: Session,
    told_choking: bool,
    told_times_choked: u32,
    told_interested: bool,
    /// Since when the peer has answered us and had nothing for us.
    idle_since: Option<Duration>,
    told_news: u32,
    told_withdrawn: usize,
    /// We have dealt out pieces to this peer, and not let it choose since.
    guides: bool,
    /// When it is to be dealt to again though nothing has happened.
    deals_again: Option<Duration>,
}

/// One connection; see the module's header. `H` is what the shell knows of the bytes of a piece that
/// have come so far.
#[derive(Debug)]
pub struct Lane<H = PieceHasher> {
    share: Arc<Share<H>>,
    link: Arc<Link>,
    /// Its peer, as the sender of what comes.
    sender: Sender,
    id: LaneId,
    status: Arc<LaneStatus>,
    control: Option<Control>,
    download: Download,
    /// The piece that is coming.
    progress: Option<Progress<H>>,
    upload: Upload,
    chatter: Chatter,
    /// A piece has begun to be sent, and there is more of it to come.
    amid_piece: bool,
    /// A block was taken off the queue and is not out.
    is_sending: bool,
    metadata: VecDeque<MetadataWanted>,
    pages_asked: HashSet<PageId>,
    chokes_seen: u32,
    times_choked_seen: u32,
    /// Pieces received whole whose end the shell has yet to report.
    unfinished: Arc<Mutex<HashSet<PieceIndex>>>,
    /// Pieces that are here without their proof, and those whose proof has come since.
    unproven: Vec<Unproven>,
    proven: Vec<(PieceIndex, Origin)>,
    /// There is something to ask for, and it is left to others for now.
    held_back: bool,
    began: Duration,
    messages: Vec<Message>,
    parted: Vec<PieceIndex>,
    rng: fastrand::Rng,
}

impl<H> Lane<H> {
    /// A lane of `link`; the `first` one carries its control. It is woken through `waker`.
    pub fn new(
        share: Arc<Share<H>>,
        link: Arc<Link>,
        first: bool,
        now: Duration,
        waker: Waker,
        rng: fastrand::Rng,
    ) -> Self {
        let id = share.ledger.new_lane();
        if first {
            let _ = link.first.set(waker.clone());
        }
        let status = Arc::new(LaneStatus::new(waker));
        share.lanes().insert(id, Arc::clone(&status));
        lock(&link.lanes).push(Arc::clone(&status));
        let agreed = &link.agreed;
        let control = first.then(|| Control {
            session: Session::new(Arc::clone(&share.geometry), agreed.peer, agreed.complete, now),
            told_choking: !link.told_unchoked,
            told_times_choked: 0,
            told_interested: !link.told_complete,
            idle_since: None,
            told_news: 0,
            told_withdrawn: 0,
            guides: false,
            deals_again: None,
        });
        let mut download = Download::new(agreed.block_len, now);
        if let Some(distance) = link.known_distance() {
            download.guess_round_trip(distance);
        }
        let mut lane = Self {
            sender: Sender::of(&link),
            download,
            progress: None,
            upload: Upload::default(),
            chatter: Chatter::new(now),
            amid_piece: false,
            is_sending: false,
            metadata: VecDeque::new(),
            pages_asked: HashSet::new(),
            chokes_seen: link.chokes.load(Relaxed),
            times_choked_seen: link.times_choked.load(Relaxed),
            unfinished: Arc::default(),
            unproven: Vec::new(),
            proven: Vec::new(),
            held_back: false,
            began: now,
            messages: Vec::new(),
            parted: Vec::new(),
            rng,
            share,
            link,
            id,
            status,
            control,
        };
        lane.introduce();
        lane
    }

    /// The share it belongs to.
    pub fn share(&self) -> &Arc<Share<H>> {
        &self.share
    }

    /// The link it belongs to.
    pub fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// Its name in the ledger.
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// Whether it is the first lane of its link.
    pub fn is_first(&self) -> bool {
        self.control.is_some()
    }

    /// What it has asked for.
    pub fn download(&self) -> &Download {
        &self.download
    }

    /// What its peer has asked for.
    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    // ---- what the shell carries out ----

    /// Has the shell say something that only it can know of.
    pub fn say(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// What is to be said, in order.
    pub fn take_messages(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.messages)
    }

    /// Whether there is anything to be said.
    pub fn has_messages(&self) -> bool {
        !self.messages.is_empty()
    }

    /// Pieces that are no longer fetched here: what was hashed of them counts no more, and what
    /// is still coming is to be thrown away. The same piece may come back to this lane after
    /// others have written into it, and then has to begin anew.
    pub fn take_parted(&mut self) -> Vec<PieceIndex> {
        std::mem::take(&mut self.parted)
    }

    /// The next metadata to send.
    pub fn take_metadata(&mut self) -> Option<MetadataWanted> {
        self.metadata.pop_front()
    }

    /// Whether metadata is to be sent.
    pub fn has_metadata(&self) -> bool {
        !self.metadata.is_empty()
    }

    /// The next block to send, taken off the queue.
    pub fn take_block(&mut self, now: Duration) -> Option<BlockSpan> {
        let begins_anew = self.upload.next_begins_anew().is_some();
        let span = self.upload.take_next()?;
        if begins_anew {
            lock(&self.link.repeats).on_sending(span, &self.share.geometry);
        }
        if begins_anew {
            self.share.note_begun(now, self.link.id, span.piece());
        }
        self.set_amid_piece(true);
        self.set_sending(true);
        self.refuse_repeats(now);
        Some(span)
    }

    /// A block that was taken cannot be sent after all.
    pub fn not_held(&mut self, span: BlockSpan) {
        self.set_sending(false);
        self.say(Message::Refuse { blocks: vec![span.into()], reason: RefuseReason::NotHeld });
    }

    /// The connection has taken so many bytes of the block that was taken off the queue last.
    pub fn on_taken(&self, bytes: usize, now: Duration) {
        self.link.took(now);
        self.share.counters.handed_over.fetch_add(bytes as u64, Relaxed);
    }

    /// A block went out. What there is to say about it is to be said before the next one goes.
    pub fn on_block_sent(&mut self, span: BlockSpan, now: Duration) {
        self.set_sending(false);
        self.chatter.sent(span.len());
        let counters = &self.share.counters;
        counters.blocks_sent.fetch_add(1, Relaxed);
        counters.messages_sent.fetch_add(1, Relaxed);
        counters.uploaded.fetch_add(u64::from(span.len()), Relaxed);
        self.link.uploaded_bytes.fetch_add(u64::from(span.len()), Relaxed);
        if span.end() < self.share.geometry.piece_len(span.piece()) {
            return;
        }
        self.set_amid_piece(false);
        if self.link.is_choking() {
            // Only now is its slot free.
            self.share.signals.slots_changed();
        }
        if self.share.note_sent(now, self.link.id, span.piece()) {
            if self.is_first() {
                self.guide(now);
            } else {
                self.link.wake_first();
            }
        }
    }

    fn set_amid_piece(&mut self, amid_piece: bool) {
        if std::mem::replace(&mut self.amid_piece, amid_piece) == amid_piece {
            return;
        }
        if amid_piece {
            self.link.lanes_amid_piece.fetch_add(1, Relaxed);
        } else {
            self.link.lanes_amid_piece.fetch_sub(1, Relaxed);
        }
    }

    fn set_sending(&mut self, sending: bool) {
        if std::mem::replace(&mut self.is_sending, sending) == sending {
            return;
        }
        if sending {
            self.link.lanes_sending.fetch_add(1, Relaxed);
        } else {
            self.link.lanes_sending.fetch_sub(1, Relaxed);
        }
    }

    /// Something was sent.
    pub fn spoke(&mut self, now: Duration) {
        if let Some(control) = &mut self.control {
            control.session.spoke(now);
        }
    }

    /// A control message of so many bytes has come; told before it is understood.
    pub fn heard_control(&mut self, bytes: usize, now: Duration) {
        self.chatter.heard(now, bytes);
    }

    /// Whether the peer has said so much that nothing more is to be read for now.
    pub fn hears_enough(&self, now: Duration) -> bool {
        self.chatter.rests_until(now).is_some()
    }

    // ---- time ----

    /// Notices deadlines and silence. While `we_hold_up` the peer, because our own disk is
    /// behind, neither is its fault.
    ///
    /// # Errors
    /// [`LaneEnd::Silent`] once the peer must be gone.
    pub fn check_time(&mut self, now: Duration, we_hold_up: bool) -> Result<(), LaneEnd> {
        if self.download.deadline().is_some_and(|deadline| now >= deadline) && !we_hold_up {
            self.share.note_let_down(&self.link);
            let pieces = self.download.pieces();
            self.download.overdue(now);
            self.cancel(&pieces);
            self.download.set_back(now);
        }
        if we_hold_up {
            self.await_proofs_from(now);
        } else if self.proof_due().is_some_and(|due| now >= due) {
            return Err(Violation::NoHashes.into());
        }
        self.follow_distance(now);
        self.review_interest(now);
        let Some(control) = &mut self.control else { return Ok(()) };
        let heard = Duration::from_micros(self.link.last_heard_us.load(Relaxed));
        // While we do not read, silence is ours.
        control.session.heard(if we_hold_up { now } else { heard });
        if control.session.is_dead(now) {
            return Err(LaneEnd::Silent);
        }
        if control.session.keep_alive_due(now) {
            control.session.spoke(now);
            self.say(Message::KeepAlive);
        }
        Ok(())
    }

    /// Publishes the distance, and on the first lane asks for as many lanes as it calls for. Who was
    /// dialled leaves that to the peer, which knows the distance better, unless it wants nothing itself.
    fn follow_distance(&mut self, now: Duration) {
        // A request waits for others to be answered, so the shorter of what is known tells most.
        let met = self.download.meter().round_trip();
        let round_trip = self.link.distance.into_iter().chain(met).min();
        if let Some(round_trip) = round_trip {
            self.link.round_trip_us.store(round_trip.as_micros() as u64, Relaxed);
        }
        let share = &self.share;
        let is_mine = self.link.initiated || self.link.holdings.is_full();
        if self.control.is_none() || !is_mine || share.ledger.is_complete() || self.link.is_choked()
        {
            return;
        }
        let by_need = || {
            let under_way = self.link.under_way(now);
            let (cores, carrying) = (share.setup.cores, share.carrying(now));
            lanes_wanted(round_trip, cores, carrying, under_way, share.bytes_left())
        };
        let wanted = share.setup.lanes.unwrap_or_else(by_need).min(self.link.agreed.lanes_max);
        if wanted <= self.link.lanes_asked.load(Relaxed) {
            return;
        }
        self.link.lanes_asked.store(wanted, Relaxed);
        if self.link.initiated {
            share.signals.lanes_wanted(self.link.id);
        } else {
            self.say(Message::Lanes(wanted));
        }
    }

    /// When to look around at the latest, if nothing happens before.
    pub fn next_deadline(&self, now: Duration) -> Duration {
        let mut next = now + NAP_MAX;
        if let Some(deadline) = self.download.deadline() {
            next = next.min(deadline);
        }
        if let Some(control) = &self.control {
            next = next.min(control.session.next_check());
            if let Some(since) = control.idle_since {
                next = next.min(since + IDLE_SLOT);
            }
            if let Some(again) = control.deals_again {
                next = next.min(again);
            }
            if let Some(suspicion) = lock(&self.link.suspect).as_ref() {
                next = next.min(suspicion.judged_at);
            }
        }
        if let Some(due) = self.proof_due() {
            next = next.min(due);
        }
        let rests = [self.download.rests_until(now), self.chatter.rests_until(now)];
        next = rests.into_iter().flatten().fold(next, Duration::min);
        let may_take_over = self.download.is_idle()
            && !self.link.is_choked()
            && !self.share.ledger.is_complete()
            && self.share.ledger.wants_any(&self.link.holdings);
        if may_take_over {
            next = next.min(now + if self.held_back { HELD_BACK_LOOK } else { IDLE_LOOK });
        }
        next
    }
}

impl<H> Drop for Lane<H> {
    /// Gives back whatever the lane had, however it ended, and leaves to others what came of it, unless
    /// the peer broke a rule.
    fn drop(&mut self) {
        self.share.lanes().remove(&self.id);
        lock(&self.link.lanes).retain(|status| !Arc::ptr_eq(status, &self.status));
        self.set_amid_piece(false);
        self.set_sending(false);
        self.link.lane_count.fetch_sub(1, Release);
        self.share.signals.lane_gone();
        let mut pieces = self.download.pieces();
        pieces.extend(self.unproven_pieces());
        pieces.extend(std::mem::take(&mut self.proven).into_iter().map(|(piece, _)| piece));
        // One whose last block is coming may be in no other book.
        let coming = self.progress.as_ref().map(Progress::piece);
        pieces.extend(coming.filter(|piece| !pieces.contains(piece)));
        if matches!(self.link.closing(), Some(CloseReason::Violation(_))) {
            self.keep_nothing();
        }
        self.part_with(&pieces);
        if self.control.is_some() {
            self.link.close(CloseReason::Gone);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Setting;
    use super::*;
    use std::num::NonZeroU32;

    use crate::swarm::{Caps, Holdings, Slots};
    use crate::types::PieceSet;
    use crate::wire::{BlockHeader, RawBlock};

    /// A link to a seeder that has dialled us: nothing tells how far it is.
    fn link() -> (Arc<Share>, Arc<Link>) {
        let (share, mut links) = links(1);
        (share, links.remove(0))
    }

    /// So many of them.
    fn links(count: u64) -> (Arc<Share>, Vec<Arc<Link>>) {
        let mut setting = Setting::new(false, Caps::default(), Slots::default());
        let join = |number| setting.join(Duration::ZERO, number, true).unwrap();
        let links = (2..2 + count).map(join).collect();
        (setting.share, links)
    }

    /// A lane of the seeder's link that has yet to report the end of all pieces but number 9.
    fn lane_with_unfinished(share: &Arc<Share>, link: &Arc<Link>) -> Lane {
        let (share, link) = (Arc::clone(share), Arc::clone(link));
        link.choked.store(false, Relaxed);
        let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
        let lane = Lane::new(share, link, false, Duration::ZERO, waker, rng);
        let pieces = (0..64).filter(|number| *number != 9);
        let pieces = pieces.filter_map(|number| lane.share.geometry.piece(number));
        lock(&lane.unfinished).extend(pieces);
        lane
    }

    #[test]
    fn a_piece_whose_end_has_yet_to_be_reported_is_not_fetched_anew_though_its_seeder_deals_it() {
        let (share, link) = link();
        let mut lane = lane_with_unfinished(&share, &link);
        lock(&link.suggested).push_back(7..10);
        link.guiding.begin();
        lane.ask(Duration::ZERO);
        assert_eq!(lane.download().pieces(), [share.geometry.piece(9).unwrap()]);
    }

    #[test]
    fn a_piece_whose_end_has_yet_to_be_reported_is_not_taken_over() {
        let (share, link) = link();
        let stalled = lane_with_unfinished(&share, &link);
        for number in 0..64 {
            let piece = share.geometry.piece(number).unwrap();
            assert!(share.ledger.claim_this(&link.holdings, stalled.id(), piece));
        }
        let mut lane = lane_with_unfinished(&share, &link);
        lane.ask(Duration::from_secs(20));
        assert_eq!(lane.download().pieces(), [share.geometry.piece(9).unwrap()]);
    }

    /// A lane of a link to a seeder that deals its pieces out, and has dealt us nothing for now.
    fn guided_lane() -> Lane {
        let (share, link) = link();
        link.choked.store(false, Relaxed);
        link.guiding.begin();
        let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
        Lane::new(share, link, true, Duration::ZERO, waker, rng)
    }

    #[test]
    fn who_waits_for_what_a_seeder_deals_tells_it_at_once_what_has_come_from_others() {
        let mut lane = guided_lane();
        let (share, link) = (Arc::clone(&lane.share), Arc::clone(&lane.link));
        let (piece, others) = (share.geometry.piece(3).unwrap(), LaneId::new(NonZeroU32::MAX));
        assert!(share.ledger.claim_this(&link.holdings, others, piece));
        share.keep(&link, piece, others, &Origin::Alone);
        let told = |lane: &mut Lane| {
            lane.heed(Duration::ZERO).unwrap();
            lane.take_messages().iter().any(|message| matches!(message, Message::Have { .. }))
        };
        assert!(!told(&mut lane), "news wait for others to go with them");
        lane.ask(Duration::ZERO);
        assert!(told(&mut lane));
        lane.ask(Duration::ZERO);
        assert!(!told(&mut lane), "once");
    }

    #[test]
    fn who_was_dealt_what_others_have_sent_by_now_does_not_choose_freely_for_it() {
        let mut lane = guided_lane();
        let (share, link) = (Arc::clone(&lane.share), Arc::clone(&lane.link));
        let others = LaneId::new(NonZeroU32::MAX);
        for number in 3..5 {
            let piece = share.geometry.piece(number).unwrap();
            assert!(share.ledger.claim_this(&link.holdings, others, piece));
        }
        share.keep(&link, share.geometry.piece(3).unwrap(), others, &Origin::Alone);
        lock(&link.suggested).extend([3..5, 3..5]);
        lane.ask(Duration::ZERO);
        assert!(lane.download.is_idle() && link.guiding.is_now());
        assert_eq!(lock(&link.suggested).len(), 1, "once, however often it was said");
        // But who was to send the other was banned: the seeder has given it to nobody but us.
        share.ledger.release(share.geometry.piece(4).unwrap(), others);
        lane.ask(Duration::ZERO);
        assert_eq!(lane.download().pieces(), [share.geometry.piece(4).unwrap()]);
    }

    #[test]
    fn who_is_dealt_nothing_chooses_after_the_time_of_some_pieces_and_three_seconds_if_that_is_unknown()
     {
        let chooses_after = |bytes_per_s: u32| {
            let mut lane = guided_lane();
            lane.download.on_bytes(bytes_per_s, Duration::from_secs(1));
            let waits = (1..400).map(|step| Duration::from_millis(10) * step);
            waits.into_iter().find(|wait| {
                let now = Duration::from_secs(1) + *wait;
                lane.link.heard(now - *wait);
                lane.ask(now);
                !lane.download.is_idle()
            })
        };
        // Pieces of 16 KiB.
        assert_eq!(chooses_after(0), Some(Duration::from_secs(3)));
        assert_eq!(chooses_after(16_384), Some(Duration::from_secs(3)));
        assert_eq!(chooses_after(8 * 16_384), Some(Duration::from_secs(1)));
        assert_eq!(chooses_after(100 << 20), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_seeder_gives_nobody_else_what_a_peer_has_asked_it_for() {
        let mut setting = Setting::new(true, Caps::default(), Slots::default());
        let links: Vec<Arc<Link>> =
            (2..4).map(|number| setting.join(Duration::ZERO, number, false).unwrap()).collect();
        let mut lanes: Vec<Lane> = links
            .iter()
            .map(|link| {
                link.interested.store(true, Relaxed);
                let (share, link) = (Arc::clone(&setting.share), Arc::clone(link));
                let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
                Lane::new(share, link, true, Duration::ZERO, waker, rng)
            })
            .collect();
        let dealt = |lane: &mut Lane, now| -> Vec<u64> {
            lane.guide(now);
            let messages = lane.take_messages().into_iter();
            let runs = messages.filter_map(|message| match message {
                Message::Suggest(runs) => Some(runs),
                _ => None,
            });
            runs.flatten().flat_map(|run| run.first..run.first + run.count).collect()
        };
        let blocks = |pieces: &[u64]| -> Vec<RawBlock> {
            let block = |piece: &u64| RawBlock { piece: *piece, offset: 0, len: 16_384 };
            pieces.iter().map(block).collect()
        };
        let mut now = Duration::ZERO;
        let slow = dealt(&mut lanes[0], now);
        lanes[0].on_message(Message::Request(blocks(&slow)), now).unwrap();
        let mut quick = Vec::new();
        for _ in 0..100 {
            now += Duration::from_micros(100);
            let pieces = dealt(&mut lanes[1], now);
            lanes[1].on_message(Message::Request(blocks(&pieces)), now).unwrap();
            while let Some(span) = lanes[1].take_block(now) {
                lanes[1].on_block_sent(span, now);
            }
            quick.extend(pieces);
        }
        assert!(!slow.is_empty() && quick.len() + slow.len() == 64, "{slow:?} {quick:?}");
    }

    #[test]
    fn who_is_dealt_nothing_waits_once_and_not_again_after_each_piece() {
        let mut lane = guided_lane();
        let now = Duration::from_secs(3);
        lane.ask(now);
        let chosen = lane.download().pieces();
        assert!(!chosen.is_empty());
        lane.part_with(&chosen);
        lane.ask(now);
        assert!(!lane.download().is_idle(), "not three seconds later");
    }

    /// A lane of a link that answers, which has asked for something; and the block that comes first.
    fn asking(share: &Arc<Share>, link: &Arc<Link>) -> (Lane, BlockSpan) {
        let (share, link) = (Arc::clone(share), Arc::clone(link));
        link.choked.store(false, Relaxed);
        let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
        let mut lane = Lane::new(share, link, false, Duration::ZERO, waker, rng);
        lane.ask(Duration::ZERO);
        let asked = lane.take_messages().into_iter().find_map(|message| match message {
            Message::Request(blocks) => Some(blocks[0]),
            _ => None,
        });
        let first = asked.expect("it asks");
        let span = lane.share.geometry.block(first.piece, first.offset, first.len);
        (lane, span.expect("a block of the share"))
    }

    fn new_hasher() -> PieceHasher {
        let (share, _) = link();
        PieceHasher::new(&share.geometry, share.geometry.piece(0).unwrap())
    }

    /// So many bytes of the block come.
    fn comes(lane: &mut Lane, span: BlockSpan, len: u32) {
        assert!(lane.begin_block(span, new_hasher));
        assert!(lane.take_in(span.piece(), len).is_some());
    }

    #[test]
    fn what_came_before_a_connection_was_lost_is_not_asked_for_again() {
        let (share, links) = links(3);
        let (mut lost, span) = asking(&share, &links[0]);
        comes(&mut lost, span, 5000);
        drop(lost);
        let (mut next, rest) = asking(&share, &links[1]);
        assert_eq!((rest.piece(), rest.offset()), (span.piece(), 5000));
        assert!(!share.ledger.have(rest.piece()), "a part is never held");
        // And so on.
        comes(&mut next, rest, 6000);
        next.part_with(&[rest.piece()]);
        let (mut last, rest) = asking(&share, &links[2]);
        assert_eq!((rest.piece(), rest.offset(), rest.end()), (span.piece(), 11_000, 16_384));
        comes(&mut last, rest, rest.len());
        let (_, origin) = last.end_piece(rest.piece()).unwrap();
        assert_eq!(origin.own(16_384), 5384);
    }

    #[test]
    fn who_has_lost_a_piece_to_another_leaves_nothing_of_it_behind() {
        let (share, links) = links(2);
        let (mut lost, span) = asking(&share, &links[0]);
        comes(&mut lost, span, 5000);
        let taker = share.ledger.new_lane();
        assert!(share.ledger.take_over(span.piece(), lost.id(), taker));
        drop(lost);
        // The taker has written from the beginning on.
        assert!(share.ledger.release(span.piece(), taker));
        let sender = Sender::of(&links[1]);
        assert_eq!(share.end_of_prefix(span.piece(), &sender), 0);
    }

    #[test]
    fn nothing_is_kept_of_what_a_peer_sent_that_broke_a_rule() {
        let (share, links) = links(2);
        let (mut lost, span) = asking(&share, &links[0]);
        comes(&mut lost, span, 5000);
        links[0].close(CloseReason::Violation(Violation::OutsideShare));
        drop(lost);
        assert_eq!(share.end_of_prefix(span.piece(), &Sender::of(&links[0])), 0);
    }

    #[test]
    fn a_piece_whose_beginning_is_gone_by_the_time_its_rest_comes_is_given_up() {
        let (share, links) = links(2);
        let (mut lost, span) = asking(&share, &links[0]);
        comes(&mut lost, span, 5000);
        drop(lost);
        let (mut next, rest) = asking(&share, &links[1]);
        share.forget_prefixes_of(&links[0]);
        assert!(!next.begin_block(rest, new_hasher));
        assert_eq!(next.take_parted(), [rest.piece()]);
        assert_eq!(share.ledger.owner(rest.piece()), None);
    }

    /// A piece of which the first link has sent the beginning and the second the rest turns out wrong.
    fn spoil(share: &Arc<Share>, first: &Arc<Link>, second: &Arc<Link>) -> PieceIndex {
        let (mut lost, span) = asking(share, first);
        comes(&mut lost, span, 5000);
        drop(lost);
        let (mut next, rest) = asking(share, second);
        comes(&mut next, rest, rest.len());
        let (_, origin) = next.end_piece(rest.piece()).unwrap();
        next.on_wrong_piece(rest.piece(), &origin, Duration::ZERO);
        rest.piece()
    }

    #[test]
    fn wrong_bytes_from_several_links_are_nobodys_and_end_none_of_them() {
        let (share, links) = links(2);
        let piece = spoil(&share, &links[0], &links[1]);
        assert!(links.iter().all(|link| lock(&link.suspect).is_none()));
        // Whoever is next fetches all of it.
        assert_eq!(share.end_of_prefix(piece, &Sender::of(&links[0])), 0);
        assert_eq!(share.ledger.owner(piece), None);
        assert!(!share.ledger.have(piece));
    }

    /// A lane to a seeder that is in doubt, and the piece that an honest peer began, left, and is waited for with.
    fn doubted_lane() -> (Lane, PieceIndex) {
        let (share, links) = links(3);
        spoil(&share, &links[0], &links[1]);
        let (mut lost, span) = asking(&share, &links[2]);
        comes(&mut lost, span, 5000);
        drop(lost);
        let link = Arc::clone(&links[0]);
        let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(3));
        (Lane::new(share, link, true, Duration::ZERO, waker, rng), span.piece())
    }

    #[test]
    fn what_a_seeder_in_doubt_dealt_and_may_not_begin_yet_is_fetched_as_soon_as_it_may() {
        let (mut lane, begun) = doubted_lane();
        let other = lane.share.geometry.piece((begun.get() + 1) % 64).unwrap();
        for piece in [begun, other] {
            lock(&lane.link.suggested).push_back(piece.get()..piece.get() + 1);
        }
        lane.link.guiding.begin();
        lane.ask(Duration::ZERO);
        assert_eq!(lane.download().pieces(), [other]);
        lane.ask(Duration::from_secs(30));
        assert_eq!(lane.download().pieces(), [other, begun]);
    }

    #[test]
    fn a_lane_that_found_something_is_not_held_back_by_what_it_may_not_begin() {
        let (mut lane, begun) = doubted_lane();
        // Of all others there are copies, so that what may not be begun is the only first copy to be had.
        let mut out = PieceSet::full(64);
        out.remove(begun);
        lane.share.ledger.add_holder(&Holdings::from_set(&out));
        lane.ask(Duration::ZERO);
        assert!(!lane.download().is_idle() && !lane.held_back);
    }

    #[test]
    fn a_lane_that_finds_only_what_it_may_not_begin_is_held_back_and_leaves_it_open() {
        let (mut lane, begun) = doubted_lane();
        let (share, link) = (Arc::clone(&lane.share), Arc::clone(&lane.link));
        all_but(&share, &link, begun);
        lane.ask(Duration::ZERO);
        assert!(lane.download().is_idle() && lane.held_back);
        assert_eq!(share.ledger.owner(begun), None);
    }

    /// All pieces but this one are here already.
    fn all_but(share: &Share, link: &Link, kept: PieceIndex) {
        for number in (0..64).filter(|number| *number != kept.get()) {
            let piece = share.geometry.piece(number).unwrap();
            if let Some(owner) = share.ledger.owner(piece) {
                share.ledger.release(piece, owner);
            }
            let other = share.ledger.new_lane();
            assert!(share.ledger.claim_this(&link.holdings, other, piece));
            share.ledger.verified(piece, other);
        }
    }

    /// When the last piece, which drips from the first of the links, is taken over by the second,
    /// over which nothing has come; `None` if not within an hour.
    fn taken_from_who_drips(share: &Arc<Share>, links: &[Arc<Link>]) -> Option<Duration> {
        let (mut dripper, span) = asking(share, &links[0]);
        all_but(share, &links[0], span.piece());
        let (piece, offset, len) = (span.piece().get(), span.offset(), span.len());
        dripper.on_block(&BlockHeader { piece, offset, len }, Duration::ZERO).unwrap();
        comes(&mut dripper, span, 1);
        links[1].choked.store(false, Relaxed);
        let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(2));
        let (share, link) = (Arc::clone(share), Arc::clone(&links[1]));
        let mut other: Lane = Lane::new(share, link, true, Duration::ZERO, waker, rng);
        (1..7200).map(|half| Duration::from_millis(500) * half).find(|now| {
            dripper.on_bytes(1, *now);
            dripper.on_payload(1);
            dripper.publish_due(*now);
            links.iter().take(2).for_each(|link| link.heard(*now));
            dripper.check_time(*now, false).unwrap();
            other.check_time(*now, false).unwrap();
            other.heed(*now).unwrap();
            dripper.heed(*now).unwrap();
            dripper.ask(*now);
            other.ask(*now);
            !other.download().is_idle()
        })
    }

    #[test]
    fn the_last_piece_does_not_stay_with_who_drips_because_nobody_else_had_anything_to_send() {
        let (share, links) = links(2);
        assert_eq!(taken_from_who_drips(&share, &links), Some(Duration::from_secs(10)));
    }

    #[test]
    fn the_last_piece_does_not_stay_with_who_drips_because_a_liar_spoilt_one_of_the_others() {
        let (share, links) = links(3);
        spoil(&share, &links[2], &links[1]);
        assert_eq!(taken_from_who_drips(&share, &links), Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_further_lane_nearby_asks_for_nothing_while_more_links_than_cores_carry_what_counts() {
        let (share, links) = links(3);
        let lane = |link: &Arc<Link>, first, rate| {
            link.choked.store(false, Relaxed);
            let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
            let (share, link) = (Arc::clone(&share), Arc::clone(link));
            let lane = Lane::new(share, link, first, Duration::ZERO, waker, rng);
            lane.status.rate.store(rate, Relaxed);
            lane
        };
        let firsts: Vec<Lane> = links.iter().map(|link| lane(link, true, 1_000_000)).collect();
        let mut further = lane(&links[0], false, 0);
        let mut asks = |now: Duration, rate_of_third| {
            firsts.iter().for_each(|lane| {
                lane.status.progress_us.store(now.as_micros() as u64, Relaxed);
            });
            firsts[2].status.rate.store(rate_of_third, Relaxed);
            further.ask(now);
            !further.download().is_idle()
        };
        assert!(
            !asks(Duration::from_millis(100), 125_000),
            "three links carry, there are two cores"
        );
        assert!(asks(Duration::from_millis(200), 124_000), "one that crawls is none of them");
    }

    #[test]
    fn a_lane_whose_peer_floods_it_with_control_messages_reads_no_more_until_it_has_made_up_for_it()
    {
        let (share, link) = link();
        let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
        let mut lane = Lane::new(share, link, true, Duration::ZERO, waker, rng);
        let mut heard = 0;
        while !lane.hears_enough(Duration::ZERO) {
            lane.heard_control(64 * 1024, Duration::ZERO);
            heard += 64 * 1024;
            assert!(heard <= 16 << 20, "without limit");
        }
        // One message of 64 KiB was too much, which is what it may say in a second.
        let made_up = Duration::from_secs(1);
        assert!(lane.next_deadline(Duration::ZERO) <= made_up, "woken when it may read again");
        assert!(lane.hears_enough(made_up - Duration::from_millis(1)));
        assert!(!lane.hears_enough(made_up));
    }

    #[test]
    fn a_further_lane_begins_with_the_distance_that_another_has_met() {
        let (share, link) = link();
        let lane = |first| {
            let (share, link) = (Arc::clone(&share), Arc::clone(&link));
            Lane::new(
                share,
                link,
                first,
                Duration::ZERO,
                Waker::noop().clone(),
                fastrand::Rng::new(),
            )
        };
        let first = lane(true);
        assert_eq!(first.download().meter().round_trip(), None);
        let far = Duration::from_millis(100);
        link.round_trip_us.store(far.as_micros() as u64, Relaxed);
        let further = lane(false);
        assert_eq!(further.download().meter().round_trip(), Some(far));
        assert!(further.download().meter().window() > first.download().meter().window());
    }
}
