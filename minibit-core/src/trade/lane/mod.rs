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
use std::time::Duration;

use self::judging::Unproven;
use super::link::{CloseReason, LaneStatus, Link, Wakers};
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
/// For as long as so many pieces take from it a peer may answer us and have nothing for us before we give its slot back, but no
/// less and no more than this: it has something again with the next piece that it gets, and slots that go to and fro have
/// everybody decide anew.
const IDLE_SLOT_PIECES: u64 = 8;
const IDLE_SLOT_MIN: Duration = Duration::from_millis(150);
const IDLE_SLOT_MAX: Duration = Duration::from_millis(1500);
/// Longest that a lane may be left alone: a bound for whatever wake-up was not thought of.
const NAP_MAX: Duration = Duration::from_secs(5);

/// A connection over which nothing at all has come for so long stands still.
const STANDS_STILL: Duration = Duration::from_secs(1);

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
///
/// In this order in memory: what is looked at to tell news or to hear some, which is most of what happens in a
/// large swarm, is together, in the first third.
#[derive(Debug)]
#[repr(C)]
pub struct Lane<H = PieceHasher> {
    share: Arc<Share<H>>,
    link: Arc<Link>,
    messages: Vec<Message>,
    parted: Vec<PieceIndex>,
    control: Option<Control>,
    upload: Upload,
    /// Its peer, as the sender of what comes.
    sender: Sender,
    id: LaneId,
    status: Arc<LaneStatus>,
    download: Download,
    /// The piece that is coming.
    progress: Option<Progress<H>>,
    /// It was given up, and is claimed for a block of it that came all the same.
    late: Option<PieceIndex>,
    chatter: Chatter,
    /// A piece has begun to be sent, and there is more of it to come.
    amid_piece: bool,
    /// A block was taken off the queue and is not out.
    is_sending: bool,
    /// What others know of whether anything is asked for: it lies elsewhere in memory, and is most often as it was.
    looks_busy: bool,
    metadata: VecDeque<MetadataWanted>,
    pages_asked: HashSet<PageId>,
    chokes_seen: u32,
    times_choked_seen: u32,
    times_cut_off_seen: u32,
    /// Pieces received whole whose end the shell has yet to report.
    unfinished: Arc<Mutex<HashSet<PieceIndex>>>,
    /// Pieces that are here without their proof, and those whose proof has come since.
    unproven: Vec<Unproven>,
    proven: Vec<(PieceIndex, Origin)>,
    /// There is something to ask for, and it is left to others for now.
    held_back: bool,
    began: Duration,
    rng: fastrand::Rng,
}

impl<H> Lane<H> {
    /// A lane of `link`; the `first` one carries its control. It is woken through `wakers`.
    pub fn new(
        share: Arc<Share<H>>,
        link: Arc<Link>,
        first: bool,
        now: Duration,
        wakers: impl Into<Wakers>,
        rng: fastrand::Rng,
    ) -> Self {
        let id = share.ledger.new_lane();
        let wakers = wakers.into();
        let status = Arc::new(LaneStatus::new(wakers.all.clone()));
        if first {
            let _ = link.first.set(wakers);
        }
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
            late: None,
            upload: Upload::default(),
            chatter: Chatter::new(now),
            amid_piece: false,
            is_sending: false,
            looks_busy: false,
            metadata: VecDeque::new(),
            pages_asked: HashSet::new(),
            chokes_seen: link.chokes.load(Relaxed),
            times_choked_seen: link.times_choked.load(Relaxed),
            times_cut_off_seen: link.times_cut_off.load(Relaxed),
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

    /// Reads a little of what is looked at to tell news or to hear some. Whoever has many lanes take their turns,
    /// as a simulated swarm does, calls it for the next of them, for memory answers many such reads in the time
    /// that it takes for one; what is read means nothing.
    pub fn glance(&self) -> u64 {
        let control = self.control.as_ref().map_or(0, |control| {
            u64::from(control.told_news) ^ u64::from(control.session.next_check().subsec_nanos())
        });
        let lens = self.messages.len() ^ self.parted.len() ^ usize::from(self.upload.is_empty());
        control ^ lens as u64
    }

    /// The same for the rest of what a turn looks at.
    pub fn glance_at_rest(&self) -> u64 {
        let download = &self.download;
        let since = self.control.as_ref().map(|control| [control.idle_since, control.deals_again]);
        let since = since.iter().flatten().flatten().count();
        (self.metadata.len() ^ self.unproven.len() ^ since) as u64
            ^ u64::from(self.held_back ^ download.is_within_piece())
            ^ u64::from(self.chatter.rests_until(self.began).is_some())
            ^ download.in_flight()
            ^ download.meter().rate() as u64
            ^ u64::from(download.last_progress().subsec_nanos())
            ^ u64::from(download.rests_until(self.began).is_some())
            ^ u64::from(self.progress.is_some())
    }

    /// The same of what others know of it, which is a step further in memory.
    pub fn glance_at_status(&self) -> u64 {
        u64::from(self.status.taken_over.load(Relaxed))
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
            self.link.begins_piece(now);
            self.share.note_begun(now, self.link.id, span.piece());
        }
        self.set_amid_piece(true);
        self.begin_sending(now);
        self.refuse_repeats(now);
        Some(span)
    }

    /// A block that was taken cannot be sent after all.
    pub fn not_held(&mut self, span: BlockSpan) {
        self.leave_off_sending();
        self.say(Message::Refuse { blocks: vec![span.into()], reason: RefuseReason::NotHeld });
        self.tell_news();
    }

    /// The connection has taken so many bytes of the block that was taken off the queue last.
    pub fn on_taken(&self, bytes: usize, now: Duration) {
        self.link.took(now);
        self.share.counters.handed_over.fetch_add(bytes as u64, Relaxed);
    }

    /// A block went out. What there is to say about it is to be said before the next one goes.
    pub fn on_block_sent(&mut self, span: BlockSpan, now: Duration) {
        self.end_sending(now);
        self.chatter.sent(span.len());
        let counters = &self.share.counters;
        counters.blocks_sent.fetch_add(1, Relaxed);
        counters.messages_sent.fetch_add(1, Relaxed);
        counters.uploaded.fetch_add(u64::from(span.len()), Relaxed);
        self.link.uploaded_bytes.fetch_add(u64::from(span.len()), Relaxed);
        if span.end() == self.share.geometry.piece_len(span.piece()) {
            self.on_piece_sent(span.piece(), now);
        }
        self.tell_news();
    }

    fn on_piece_sent(&mut self, piece: PieceIndex, now: Duration) {
        self.set_amid_piece(false);
        if self.link.is_choking() {
            // Only now is its slot free.
            self.share.signals.slots_changed();
        }
        if self.share.note_sent(now, self.link.id, piece) {
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

    fn begin_sending(&mut self, now: Duration) {
        if !std::mem::replace(&mut self.is_sending, true) {
            self.link.lanes_sending.fetch_add(1, Relaxed);
            self.share.busy.begin(now);
        }
    }

    fn end_sending(&mut self, now: Duration) {
        if self.note_sends_nothing() {
            self.share.busy.end(now);
        }
    }

    /// The same where nothing was sent of a block after all, or no more than is lost.
    fn leave_off_sending(&mut self) {
        if self.note_sends_nothing() {
            self.share.busy.end_unseen();
        }
    }

    /// True if it sent something until now.
    fn note_sends_nothing(&mut self) -> bool {
        let was_sending = std::mem::replace(&mut self.is_sending, false);
        if was_sending {
            self.link.lanes_sending.fetch_sub(1, Relaxed);
        }
        was_sending
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
            self.on_deadline_missed(now);
        }
        if we_hold_up {
            self.await_proofs_from(now);
        } else if self.proof_due().is_some_and(|due| now >= due) {
            return Err(Violation::NoHashes.into());
        }
        self.follow_distance(now);
        // Else it looked busy for ever after the last block, or a choke that made void what it had asked for.
        self.publish_busy();
        self.review_interest(now);
        let Some(control) = &mut self.control else { return Ok(()) };
        // While we do not read, silence is ours.
        control.session.heard(if we_hold_up { now } else { self.link.heard_at() });
        if control.session.is_dead(now) {
            return Err(LaneEnd::Silent);
        }
        if control.session.keep_alive_due(now) {
            control.session.spoke(now);
            self.say(Message::KeepAlive);
        }
        Ok(())
    }

    /// What others could send is theirs to fetch. All else waits on while the connection stands still, if it is
    /// more than a piece: to ask for it anew would bring it no sooner, and a peer need not send over and over what is
    /// on its way, but for a piece ([`Repeats`](crate::peer::Repeats)). A peer that says other things meanwhile does
    /// not send what it was asked for.
    fn on_deadline_missed(&mut self, now: Duration) {
        self.share.note_let_down(&self.link);
        let pieces = self.download.pieces();
        let for_others = self.for_others(&pieces, now);
        let stands_still = now >= self.link.heard_at() + STANDS_STILL;
        let others_leave = pieces.len() - for_others.len();
        if stands_still && others_leave > 1 && self.download.wait_on(now) {
            self.cancel(&for_others);
            return;
        }
        self.download.overdue(now);
        self.cancel(&pieces);
        self.download.set_back(now);
    }

    /// Those of the pieces that another peer could send.
    fn for_others(&self, pieces: &[PieceIndex], now: Duration) -> Vec<PieceIndex> {
        let links = self.share.links();
        let is_other = |link: &&Arc<Link>| link.id != self.link.id && link.could_send(now);
        let others: Vec<&Arc<Link>> = links.values().filter(is_other).collect();
        let could_send = |piece| others.iter().any(|link| link.holdings.contains(piece));
        pieces.iter().copied().filter(|piece| could_send(*piece)).collect()
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

    /// Whether a block that has come in the middle of its piece leaves anything to see to at once: more to ask for, or
    /// something to give back. What is learnt of the distance may wait. Whoever takes a turn of the lane after each
    /// block need not ask.
    pub fn has_to_look(&self) -> bool {
        self.download.wants_more() || self.download.may_have_surplus() || self.late.is_some()
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
                next = next.min(since + self.idle_slot());
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
        self.leave_off_sending();
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
mod tests;
