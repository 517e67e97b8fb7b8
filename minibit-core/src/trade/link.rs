//! One link, as all its lanes and the manager see it.
//!
//! Not here: what a single lane knows (`lane`), who may be linked (`swarm::Neighbours`).

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Waker;
use std::time::Duration;

use super::lock;
use crate::peer::{Agreed, BLOCK_TIME, Repeats, Violation};
use crate::swarm::{Holdings, LinkId, Past};
use crate::types::PieceIndex;
use crate::wire::LaneKey;

/// Without progress for so long a lane stalls.
const STALLED: Duration = Duration::from_secs(1);

/// What takes so long drips: more than any slot of a working way out makes of a piece.
pub(super) const DRIPS: Duration = Duration::from_secs(30);

/// What wakes a lane. A shell that does not tell the two apart gives one [`Waker`] for both.
#[derive(Debug, Clone)]
pub struct Wakers {
    /// It is to look around.
    pub all: Waker,
    /// There is news to tell, and nothing else has changed: [`Lane::tell_peer`](super::Lane::tell_peer)
    /// will do. Most wake-ups of a large swarm are of this kind, and a simulated one does no more then; in the engine,
    /// which has sockets to look at, a lane always takes a whole turn.
    pub news: Waker,
}

impl From<Waker> for Wakers {
    fn from(waker: Waker) -> Self {
        Self { news: waker.clone(), all: waker }
    }
}

pub(super) fn micros(cell: &AtomicU64) -> Duration {
    Duration::from_micros(cell.load(Relaxed))
}

/// What others may know of a lane.
#[derive(Debug)]
pub struct LaneStatus {
    /// Makes the lane look around.
    pub(super) waker: Waker,
    /// It has asked for something that has not come.
    pub(super) busy: AtomicBool,
    /// When all it has in flight should be here, in microseconds of the shell's clock;
    /// 0 = nothing known.
    pub(super) due_us: AtomicU64,
    /// Number of the piece that has begun to come, plus one; 0 = none.
    pub(super) begun: AtomicU32,
    /// When that piece should be here, in microseconds of the shell's clock.
    pub(super) begun_due_us: AtomicU64,
    /// Its round trip in microseconds; 0 while unknown.
    pub(super) trip_us: AtomicU64,
    /// Number of the piece that comes after it, plus one; 0 = none.
    pub(super) next: AtomicU32,
    /// When the last bytes came, in microseconds of the shell's clock.
    pub(super) progress_us: AtomicU64,
    /// Bytes per second that it receives, by its last measure.
    pub(super) rate: AtomicU64,
    /// Another lane has taken a piece of this one.
    pub(super) taken_over: AtomicBool,
}

impl LaneStatus {
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            waker,
            busy: AtomicBool::new(false),
            due_us: AtomicU64::new(0),
            begun: AtomicU32::new(0),
            begun_due_us: AtomicU64::new(0),
            trip_us: AtomicU64::new(0),
            next: AtomicU32::new(0),
            progress_us: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            taken_over: AtomicBool::new(false),
        }
    }

    /// How long until a piece of `len` bytes that the lane has in flight is here: by its rate, and no sooner
    /// than it has already been without progress. What has begun to come comes first, then what is next, and all else
    /// is judged by the last of it.
    pub(super) fn expected_rest(&self, piece: PieceIndex, len: u32, now: Duration) -> Duration {
        let all = micros(&self.due_us).saturating_sub(now);
        let rest = if self.has_begun(piece) {
            self.begun_rest(now)
        } else if self.comes_next(piece) {
            let rate = self.rate.load(Relaxed).max(1);
            let takes = Duration::from_micros(u64::from(len) * 1_000_000 / rate);
            (self.begun_rest(now) + takes).min(all)
        } else {
            all
        };
        rest.max(self.silent(now))
    }

    fn begun_rest(&self, now: Duration) -> Duration {
        micros(&self.begun_due_us).saturating_sub(now)
    }

    /// Whether the piece is next after what has begun.
    fn comes_next(&self, piece: PieceIndex) -> bool {
        self.next.load(Relaxed) == piece.get() + 1
    }

    /// Whether it is too late to call the piece off: it has begun to come, or will before the peer has read
    /// so. That takes a round trip, and as long as a block takes that we may be sending the other way, behind which it waits.
    pub(super) fn is_under_way(&self, piece: PieceIndex, now: Duration) -> bool {
        let is_soon = || self.begun_rest(now) <= micros(&self.trip_us) + BLOCK_TIME;
        !self.stalls(now) && (self.has_begun(piece) || self.comes_next(piece) && is_soon())
    }

    /// Whether the piece has begun to come.
    pub(super) fn has_begun(&self, piece: PieceIndex) -> bool {
        self.begun.load(Relaxed) == piece.get() + 1
    }

    /// Whether it has been without progress for longer than any working lane is.
    pub(super) fn stalls(&self, now: Duration) -> bool {
        self.silent(now) >= STALLED
    }

    /// Whether the piece will take so long that whoever else has it should be kept to have it from.
    pub(super) fn drips(&self, piece: PieceIndex, len: u32, now: Duration) -> bool {
        self.expected_rest(piece, len, now) >= DRIPS
    }

    fn silent(&self, now: Duration) -> Duration {
        now.saturating_sub(micros(&self.progress_us))
    }
}

/// Why a link is closed from our side.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer broke a rule.
    Violation(Violation),
    /// We leave; peers are told.
    Leaving,
    /// Another peer has its place, for nothing came of it; the peer is told.
    Displaced,
    /// The first lane is gone, or the link is not wanted any more.
    Gone,
}

/// Wrong bytes came from a peer: either it lies, or its file has changed and its withdrawal
/// is on the way.
#[derive(Debug, Clone)]
pub(super) struct Suspicion {
    pub(super) piece: PieceIndex,
    pub(super) judged_at: Duration,
}

/// Whether a peer deals its pieces out to us.
#[derive(Debug, Default)]
pub(super) struct Guiding(AtomicU8);

impl Guiding {
    const NOW: u8 = 1;
    const ONCE: u8 = 2;

    /// It does.
    pub(super) fn is_now(&self) -> bool {
        self.0.load(Relaxed) == Self::NOW
    }

    /// It does, or has done so: it wants to know what becomes of its pieces.
    pub(super) fn was_ever(&self) -> bool {
        self.0.load(Relaxed) != 0
    }

    /// It has done so, and lets us choose by now.
    pub(super) fn was_once(&self) -> bool {
        self.0.load(Relaxed) == Self::ONCE
    }

    pub(super) fn begin(&self) {
        self.0.store(Self::NOW, Relaxed);
    }

    pub(super) fn end(&self) {
        self.0.store(Self::ONCE, Relaxed);
    }
}

/// One link; see the module's header.
///
/// In this order in memory: what is looked at again and again, for every link of a share in turn (whom
/// to answer, whom to tell news), is in one line of the processor's cache, and what comes next to it in
/// the one after.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Link {
    pub(super) verified_bytes: AtomicU64,
    pub(super) uploaded_bytes: AtomicU64,
    /// When it last took payload of ours, in microseconds of the shell's clock.
    pub(super) took_us: AtomicU64,
    /// When bytes last came, on any lane, in microseconds of the shell's clock.
    pub(super) last_heard_us: AtomicU64,
    pub(super) round_trip_us: AtomicU64,
    /// How often we have choked it: what it had asked for each time is void.
    pub(super) times_choked: AtomicU32,
    /// Counts its chokes: lanes compare it with what they have seen.
    pub(super) chokes: AtomicU32,
    /// We do not answer its requests.
    pub(super) choking: AtomicBool,
    /// It does not answer ours.
    pub(super) choked: AtomicBool,
    pub(super) interested: AtomicBool,
    /// We have said that we want nothing of it.
    pub(super) declined: AtomicBool,
    /// It let requests run into their deadline, or refused all of many, and has not delivered since.
    pub(super) snubbed: AtomicBool,
    pub(super) guiding: Guiding,
    /// It had everything when it came, as in `agreed`, which is further off.
    pub(super) came_complete: bool,
    /// So many of our news it is to hear at once, for we wait for what it will deal us.
    pub(super) news_due: AtomicU32,
    /// Lanes that there are, the first included.
    pub lane_count: AtomicU8,
    pub(super) lanes_asked: AtomicU8,
    /// Lanes on which a piece has begun to be sent to the peer, and there is more of it to come.
    pub(super) lanes_amid_piece: AtomicU8,
    /// Lanes on which a block waits for the connection to take it.
    pub(super) lanes_sending: AtomicU8,
    /// Its name, never used again.
    pub id: LinkId,
    /// What passed over earlier links with this peer.
    pub(super) past: Past,
    /// The pieces that the peer holds.
    pub holdings: Holdings,
    /// When payload that was asked for last came, in microseconds of the shell's clock.
    pub(super) gave_us: AtomicU64,
    /// What wakes the first lane.
    pub(super) first: OnceLock<Wakers>,
    pub(super) lanes: Mutex<Vec<Arc<LaneStatus>>>,
    /// It sent wrong bytes; until it is judged nothing is asked of it.
    pub(super) suspect: Mutex<Option<Suspicion>>,
    pub(super) closing: OnceLock<CloseReason>,
    /// What both ends agreed on.
    pub agreed: Agreed,
    /// It deals out its pieces, and these it would have us fetch from it.
    pub(super) suggested: Mutex<VecDeque<Range<u32>>>,
    /// What was sent to it, and how much of it again.
    pub(super) repeats: Mutex<Repeats>,
    /// Its peer has sent a whole right piece alone, be it over earlier links, since it last threw away what others
    /// had begun.
    pub(super) has_earned: AtomicBool,
    /// The peer would answer us and has what we lack, and we do not ask it for it: it has to wait for its turn, or to
    /// leave it to others.
    pub(super) waits_for_us: AtomicBool,
    /// It was asked for something.
    pub(super) was_asked: AtomicBool,
    /// How often wrong bytes of its were explained by a withdrawal.
    pub(super) forgiven: AtomicU32,
    /// The address that the connection came from or went to.
    pub addr: SocketAddr,
    /// Whether we made the first connection (and so make the lanes).
    pub initiated: bool,
    /// The key by which lanes join.
    pub key: LaneKey,
    /// How long the answer to our REGISTRO took, if we made the first connection.
    pub(super) distance: Option<Duration>,
    /// Whether our REGISTRO said that we hold every piece.
    pub(super) told_complete: bool,
    /// Whether our REGISTRO said that we answer requests.
    pub(super) told_unchoked: bool,
    /// When it was made.
    pub(super) made: Duration,
    /// When its peer, on trial, was asked for a piece last, in microseconds of the shell's clock; since when it has
    /// waited, if it never was.
    pub(super) tried_us: AtomicU64,
    /// How often we have cut it off: it does not get the rest of a piece either.
    pub(super) times_cut_off: AtomicU32,
    /// When a piece last began to be sent to it, in microseconds of the shell's clock.
    pub(super) begun_us: AtomicU64,
}

#[cfg(not(loom))]
const _: () = {
    use std::mem::offset_of;
    assert!(offset_of!(Link, id) == 64, "what is looked at again and again fills one line");
    assert!(offset_of!(Link, holdings) + 16 <= 128, "and how many pieces it holds is in the next");
};

impl Link {
    /// Reads a little of what is looked at for news; see [`Lane::glance`](super::Lane::glance).
    pub fn glance(&self) -> u64 {
        u64::from(self.is_choked()) ^ u64::from(self.holdings.len())
    }

    /// The same for the rest of what a turn of its lanes looks at.
    pub fn glance_at_rest(&self) -> u64 {
        u64::from(self.closing().is_some() ^ self.first.get().is_some())
            ^ u64::from(self.suspect.is_poisoned() ^ self.lanes.is_poisoned())
            ^ u64::from(self.suggested.is_poisoned())
            ^ self.gave_us.load(Relaxed)
            ^ u64::from(self.agreed.lanes_max)
            ^ u64::from(self.initiated)
    }

    /// Wakes every lane of the link.
    pub fn wake(&self) {
        for lane in lock(&self.lanes).iter() {
            lane.waker.wake_by_ref();
        }
    }

    /// Wakes the first lane.
    pub(super) fn wake_first(&self) {
        if let Some(first) = self.first.get() {
            first.all.wake_by_ref();
        }
    }

    /// Wakes the first lane, which has news to tell.
    pub(super) fn wake_for_news(&self) {
        if let Some(first) = self.first.get() {
            first.news.wake_by_ref();
        }
    }

    /// The next piece that the peer would have us fetch from it.
    pub(super) fn next_suggested(&self) -> Option<u32> {
        let mut suggested = lock(&self.suggested);
        let first = suggested.front_mut()?;
        let next = first.next();
        if ExactSizeIterator::len(first) == 0 {
            suggested.pop_front();
        }
        next
    }

    /// Pieces that were suggested and cannot be fetched yet come next again, each once.
    pub(super) fn suggest_first(&self, pieces: &BTreeSet<PieceIndex>) {
        let mut suggested = lock(&self.suggested);
        for piece in pieces.iter().rev() {
            suggested.push_front(piece.get()..piece.get() + 1);
        }
    }

    /// How many of its lanes are older than this one.
    pub(super) fn place_of(&self, lane: &Arc<LaneStatus>) -> usize {
        lock(&self.lanes).iter().take_while(|other| !Arc::ptr_eq(other, lane)).count()
    }

    /// Bytes per second that come over this link; lanes without progress of late not counted.
    pub(super) fn receiving_rate(&self, now: Duration) -> u64 {
        const OF_LATE: Duration = Duration::from_secs(1);
        let since = now.saturating_sub(OF_LATE).as_micros() as u64;
        let lanes = lock(&self.lanes);
        let active = lanes.iter().filter(|lane| lane.progress_us.load(Relaxed) >= since);
        active.map(|lane| lane.rate.load(Relaxed)).sum()
    }

    /// Bytes that are under way to us at a time: what comes over it in a round trip.
    pub(super) fn under_way(&self, now: Duration) -> u64 {
        (self.receiving_rate(now) as f64 * self.round_trip().as_secs_f64()) as u64
    }

    /// What one more lane may be taken to receive: as much as each of those that do, on average.
    pub(super) fn rate_of_one(&self, now: Duration) -> u64 {
        let lanes = lock(&self.lanes).len().max(1) as u64;
        self.receiving_rate(now) / lanes
    }

    /// For how long no payload has come on any lane.
    pub(super) fn silent(&self, now: Duration) -> Duration {
        let lanes = lock(&self.lanes);
        lanes.iter().map(|lane| lane.silent(now)).min().unwrap_or(now)
    }

    /// Whether the peer answers us and may be asked, and what was asked of it has been coming.
    pub(super) fn could_send(&self, now: Duration) -> bool {
        let lanes = lock(&self.lanes);
        let is_asked = lanes.iter().any(|lane| lane.busy.load(Relaxed));
        let comes = lanes.iter().any(|lane| !lane.stalls(now));
        let may_be_asked = !self.is_choked() && !self.waits_for_us.load(Relaxed);
        may_be_asked && !self.lets_us_down() && (comes || !is_asked)
    }

    /// Ends the link; the first reason counts.
    pub fn close(&self, reason: CloseReason) {
        let _ = self.closing.set(reason);
        self.wake();
    }

    /// Why the link is to end, once it is.
    pub fn closing(&self) -> Option<&CloseReason> {
        self.closing.get()
    }

    /// Whether it wants something of us.
    pub(super) fn is_audience(&self) -> bool {
        self.interested.load(Relaxed) & !self.holdings.is_full()
    }

    /// Whether we do not answer its requests.
    pub fn is_choking(&self) -> bool {
        self.choking.load(Relaxed)
    }

    /// Whether it does not answer ours.
    pub fn is_choked(&self) -> bool {
        self.choked.load(Relaxed)
    }

    /// Whether any of its lanes has asked for something that has not come.
    pub(super) fn is_busy(&self) -> bool {
        lock(&self.lanes).iter().any(|lane| lane.busy.load(Relaxed))
    }

    /// Whether a piece is being sent to it that is not all out, and it began, or some of it went, not long ago.
    pub(super) fn is_amid_piece(&self, now: Duration) -> bool {
        const OF_LATE: Duration = Duration::from_secs(2);
        let goes = || micros(&self.took_us).max(micros(&self.begun_us)) + OF_LATE > now;
        self.lanes_amid_piece.load(Relaxed) > 0 && goes()
    }

    /// Whether either side answers the other.
    pub(super) fn is_trading(&self) -> bool {
        !self.is_choking() || !self.is_choked()
    }

    /// Whether it deals pieces out, or may: it had everything when it came. It wants to know what becomes of them, and who
    /// passes them on, from whoever comes to hold them.
    pub(super) fn may_deal(&self) -> bool {
        self.came_complete || self.guiding.was_ever()
    }

    /// Whether it hears our news soon.
    pub(super) fn hears_soon(&self) -> bool {
        self.is_trading() || self.may_deal()
    }

    /// Whether it let us down, by silence or by one refusal after another, and has delivered nothing
    /// since.
    pub fn lets_us_down(&self) -> bool {
        self.snubbed.load(Relaxed)
    }

    /// Bytes of verified pieces from it.
    pub fn bytes_from(&self) -> u64 {
        self.verified_bytes.load(Relaxed)
    }

    /// Payload bytes sent to it.
    pub fn bytes_to(&self) -> u64 {
        self.uploaded_bytes.load(Relaxed)
    }

    /// Round trip of a request; zero while unknown.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_us.load(Relaxed))
    }

    /// What a further lane may take for its round trip until it has met it: what another has met, or
    /// what the answer to our REGISTRO took.
    pub(super) fn known_distance(&self) -> Option<Duration> {
        let met = self.round_trip();
        if met.is_zero() { self.distance } else { Some(met) }
    }

    /// How many lanes the peers want.
    pub fn lanes_wanted(&self) -> u8 {
        self.lanes_asked.load(Relaxed).min(self.agreed.lanes_max)
    }

    /// Takes a place for one lane more; false if the link has as many as it may, or ends.
    pub fn add_lane(&self) -> bool {
        use std::sync::atomic::Ordering::{AcqRel, Acquire};
        let one_more = |lanes: u8| (lanes < self.agreed.lanes_max).then_some(lanes + 1);
        self.closing.get().is_none()
            && self.lane_count.fetch_update(AcqRel, Acquire, one_more).is_ok()
    }

    /// The peer's connection took some payload.
    pub fn took(&self, now: Duration) {
        self.took_us.store(now.as_micros() as u64, Relaxed);
    }

    /// A piece begins to be sent to the peer.
    pub(super) fn begins_piece(&self, now: Duration) {
        self.begun_us.store(now.as_micros() as u64, Relaxed);
    }

    /// Payload that was asked for came.
    pub(super) fn gave(&self, now: Duration) {
        self.gave_us.store(now.as_micros() as u64, Relaxed);
    }

    /// When payload that was asked for last came; when it was made, if none ever did.
    pub(super) fn gave_at(&self) -> Duration {
        micros(&self.gave_us)
    }

    /// For how long no payload that was asked for has come; `None` if none ever did.
    pub fn silent_since_it_gave(&self, now: Duration) -> Option<Duration> {
        (self.gave_at() > self.made).then(|| now.saturating_sub(self.gave_at()))
    }

    /// When payload last went over it, either way; when it was made, if none ever did.
    pub(super) fn moved_at(&self) -> Duration {
        micros(&self.took_us).max(self.gave_at())
    }

    /// When bytes last came, on any lane.
    pub(super) fn heard_at(&self) -> Duration {
        micros(&self.last_heard_us)
    }

    /// Bytes came from the peer.
    pub fn heard(&self, now: Duration) {
        self.last_heard_us.store(now.as_micros() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Setting;
    use super::*;
    use crate::swarm::{Caps, Slots};

    #[test]
    fn of_what_a_lane_has_in_flight_the_next_comes_after_what_has_begun_and_the_others_at_the_end()
    {
        let setting = Setting::new(false, Caps::default(), Slots::default());
        let geometry = &setting.share.geometry;
        let [begun, next, later] = [5, 7, 3].map(|number| geometry.piece(number).unwrap());
        let status = LaneStatus::new(Waker::noop().clone());
        status.begun.store(6, Relaxed);
        status.begun_due_us.store(2_000_000, Relaxed);
        status.next.store(8, Relaxed);
        status.rate.store(16_384, Relaxed);
        let rests = |due: u64, now: u64| {
            status.due_us.store(due * 1_000_000, Relaxed);
            status.progress_us.store(now * 1_000_000, Relaxed);
            let now = Duration::from_secs(now);
            [begun, next, later].map(|piece| status.expected_rest(piece, 16_384, now).as_secs())
        };
        assert_eq!(rests(10, 0), [2, 3, 10]);
        assert_eq!(rests(10, 1), [1, 2, 9]);
        assert_eq!(rests(2, 0), [2, 2, 2], "none comes after the last");
        let under_way = |trip: u64, now: u64| {
            status.trip_us.store(trip * 1000, Relaxed);
            status.progress_us.store(now * 1000, Relaxed);
            let now = Duration::from_millis(now);
            [begun, next, later].map(|piece| status.is_under_way(piece, now))
        };
        assert_eq!(under_way(20, 1_000), [true, false, false]);
        assert_eq!(under_way(20, 1_480), [true, true, false], "a block may be on its way out");
        assert_eq!(under_way(600, 1_000), [true, true, false], "it is far");
        status.progress_us.store(0, Relaxed);
        let stalled = Duration::from_millis(1_480);
        assert!(!status.is_under_way(begun, stalled), "nothing comes");
    }
}
