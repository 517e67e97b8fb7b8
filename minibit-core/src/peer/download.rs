//! What one lane has asked its peer for, and what may arrive on it.
//!
//! Blocks arrive in the order they were asked for, and the blocks of a piece follow each
//! other on one lane, so a piece is hashed as it comes and never assembled in memory. A piece
//! in flight belongs to one lane of one peer; of one that was begun elsewhere only the rest is asked
//! for.
//!
//! Invariant: [`Arrival::Take`] is only answered for the oldest block asked for and not yet
//! received, cancelled or given up, which one that was given up becomes again if it is taken up
//! ([`Download::take_up`]); anything else is thrown away or is a violation.
//! Not here: the bytes and their hash (`content`), which piece to take next (`swarm`), what came of a piece
//! before, and who is to blame if it is wrong (`trade`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::facts::Violation;
use super::meter::{RateMeter, WINDOW_MIN};
use crate::types::{BlockSpan, Geometry, PieceIndex, limits};
use crate::wire::{BlockHeader, RawBlock, RefuseReason};

/// A lane whose peer sends nothing for this long, though asked, is given up; or for
/// [`PATIENCE`] times what it should have taken, if that is longer.
const STALL_MIN: Duration = Duration::from_secs(3);
/// Never wait longer than this for the next byte.
const STALL_MAX: Duration = Duration::from_secs(30);
/// See [`STALL_MIN`].
const PATIENCE: u32 = 8;
/// After a setback (a deadline missed, a request refused) the lane asks for nothing for this
/// long, so that others can have the pieces; doubled with each more, up to [`REST_MAX`].
const REST_MIN: Duration = Duration::from_millis(250);
/// See [`REST_MIN`].
const REST_MAX: Duration = Duration::from_secs(8);
/// The same for a lane on which nothing has ever come: a few peers of that kind would else take
/// turns with the last piece for ever.
const REST_MAX_NEVER: Duration = Duration::from_secs(512);

/// A lane that waits on for what is overdue looks so often whether others could send it by now.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Nor does it wait on after it has waited for so long: others may come that could send it.
const WAIT_ON_MAX: Duration = Duration::from_secs(10);

/// Nothing else can be said on a connection while a block comes, so none should take longer; and
/// what is thrown away when a piece is given up is about a block.
pub(crate) const BLOCK_TIME: Duration = Duration::from_millis(500);

/// Blocks in flight at least: with one or two, half a window is a coarse thing, and a lane over
/// 20 ms carried three quarters of what it could.
const BLOCKS_MIN: u64 = 4;
/// Blocks in flight at least where one takes so much longer than a round trip
/// ([`SLOW_LANE`] times) that the next request is there in time whatever happens. More would
/// only keep pieces from those who could have them here sooner.
const BLOCKS_MIN_SLOW: u64 = 2;
/// See [`BLOCKS_MIN_SLOW`].
const SLOW_LANE: u32 = 4;

/// Blocks given up that may still come, at most; older ones will not any more. Most never do, for a
/// choke drops them without a word, so while a slow piece is sent to its end many of them gather.
const FORGIVEN_MAX: usize = 16 * limits::REQUESTS_IN_FLIGHT_MAX;

/// See [`Download::take_surplus`].
const SURPLUS: Duration = Duration::from_secs(2);

/// What to do with a BLOCO whose header has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The next bytes of a piece that is ours to fetch.
    Take {
        /// Which bytes.
        span: BlockSpan,
    },
    /// Bytes no longer needed, or never asked for: read them and throw them away.
    Discard,
}

/// The receiving half of a lane.
#[derive(Debug)]
pub struct Download {
    block_len: u32,
    asked: VecDeque<BlockSpan>,
    in_flight: u64,
    /// Blocks given up that the peer may already have sent.
    forgiven: VecDeque<BlockSpan>,
    /// The piece whose later blocks are still to be asked for, and from which offset.
    asking: Option<(PieceIndex, u32)>,
    /// The piece of which a block came last.
    begun: Option<PieceIndex>,
    meter: RateMeter,
    /// See [`Self::guess_rate`].
    likely_rate: f64,
    /// When the lane was last idle and asked: the next header gives a round trip.
    asked_when_idle: Option<Duration>,
    last_progress: Duration,
    /// See [`Self::wait_on`].
    looks_again: Option<Duration>,
    /// Something was asked for while the lane's rate was unknown.
    asked_unknowing: bool,
    unasked: u32,
    /// Setbacks since a block last came.
    setbacks: u32,
    rests_until: Duration,
    /// See [`Self::set_on_trial`].
    is_on_trial: bool,
}

impl Download {
    /// A lane with nothing asked for. `block_len` is what the handshake agreed on, in bytes.
    pub fn new(block_len: u32, now: Duration) -> Self {
        Self {
            block_len,
            asked: VecDeque::new(),
            in_flight: 0,
            forgiven: VecDeque::new(),
            asking: None,
            begun: None,
            meter: RateMeter::new(now),
            likely_rate: 0.0,
            asked_when_idle: None,
            last_progress: now,
            looks_again: None,
            asked_unknowing: false,
            unasked: 0,
            setbacks: 0,
            rests_until: Duration::ZERO,
            is_on_trial: false,
        }
    }

    /// The peer let us down. For a while nothing is to be asked of it on this lane.
    pub fn set_back(&mut self, now: Duration) {
        let rest_max = if self.meter.rate() < 1.0 { REST_MAX_NEVER } else { REST_MAX };
        self.rest(now, rest_max);
    }

    /// The peer will not send what was asked for. It says so, which holds up nothing for longer than
    /// a round trip: it is asked again soon, even if nothing has ever come of it.
    pub fn set_back_by_refusal(&mut self, now: Duration) {
        self.rest(now, REST_MAX);
    }

    /// The deadline is missed, and what was asked for is kept all the same, for nobody else could send it: over a
    /// connection that stands still nothing is lost, and who gives up what is under way has to ask for it again.
    /// Until something comes no more is asked for. False once it has waited for ten seconds.
    pub fn wait_on(&mut self, now: Duration) -> bool {
        let waits = now < self.last_progress + WAIT_ON_MAX;
        self.looks_again = waits.then(|| now + LOOK_AGAIN);
        waits
    }

    /// Others will have sooner what was asked for, or nothing of it came in time. Without it a lane that was
    /// fast and is not any more would take from others what they take back, for ever.
    pub fn overdue(&mut self, now: Duration) {
        if let Some(first) = self.asked.front() {
            // The last bytes of a file may be a few, and to owe them says little.
            self.meter.overdue(first.len().max(limits::BLOCK_LEN_MIN), now);
        }
    }

    fn rest(&mut self, now: Duration, rest_max: Duration) {
        self.rests_until = now + (REST_MIN * (1 << self.setbacks.min(11))).min(rest_max);
        self.setbacks += 1;
    }

    /// Setbacks in a row, since a block last came.
    pub fn setbacks(&self) -> u32 {
        self.setbacks
    }

    /// Until when nothing is to be asked for; `None` if there is no reason not to.
    pub fn rests_until(&self, now: Duration) -> Option<Duration> {
        (now < self.rests_until).then_some(self.rests_until)
    }

    /// The distance as others met it, before the first block has come.
    pub fn guess_round_trip(&mut self, distance: Duration) {
        self.meter.guess_round_trip(distance);
    }

    /// What the lane may be taken to carry, in bytes per second, until its own rate is known.
    pub fn guess_rate(&mut self, rate: u64) {
        self.likely_rate = rate as f64;
    }

    /// Whether so little is in flight that it is time to ask for more: not with each block, so that
    /// requests travel in batches.
    pub fn wants_more(&self) -> bool {
        let few = self.asked.len() as u64 <= self.blocks_min() / 2;
        self.looks_again.is_none()
            && (few || self.in_flight <= self.meter.refill_at())
            && self.asked.len() <= limits::REQUESTS_IN_FLIGHT_MAX / 2
    }

    /// How long a block to ask for: what comes within half a second, as a power of two; the
    /// shortest while nothing is known of the lane's rate.
    fn next_block_len(&self) -> u32 {
        let known = self.meter.rate();
        let likely = || self.likely_rate.max(self.meter.rate_at_least());
        let rate = if known < 1.0 { likely() } else { known };
        if rate < 1.0 {
            return self.block_len.min(limits::BLOCK_LEN_MIN);
        }
        let mut len = self.block_len;
        while len / 2 >= limits::BLOCK_LEN_MIN && f64::from(len) > rate * BLOCK_TIME.as_secs_f64() {
            len /= 2;
        }
        len
    }

    fn blocks_min(&self) -> u64 {
        let block_time = self.meter.time_for(u64::from(self.next_block_len()));
        let round_trip = self.meter.round_trip().unwrap_or_default();
        match block_time {
            Some(time) if time < round_trip * SLOW_LANE => BLOCKS_MIN,
            None if round_trip.is_zero() => BLOCKS_MIN,
            _ => BLOCKS_MIN_SLOW,
        }
    }

    /// Whether no more than one piece is to be in flight.
    pub fn set_on_trial(&mut self, is_on_trial: bool) {
        self.is_on_trial = is_on_trial;
    }

    /// Fills the window. `claim` gives the next piece that is ours to fetch from this peer, and from
    /// which of its bytes on, or `None`. Returns the blocks to ask for, in order.
    pub fn top_up(
        &mut self,
        geometry: &Geometry,
        now: Duration,
        mut claim: impl FnMut() -> Option<(PieceIndex, u32)>,
    ) -> Vec<BlockSpan> {
        let window = self.meter.window();
        let was_idle = self.asked.is_empty();
        // Judged by a full block of a full piece; the last of a file may be shorter.
        let block_len = self.next_block_len();
        let next_len = u64::from(block_len.min(geometry.piece_size().bytes()));
        let window = window.max(next_len * self.blocks_min());
        let mut may_claim = !self.is_on_trial || was_idle;
        let mut claim = || {
            let claimed = may_claim.then(&mut claim).flatten();
            may_claim &= !self.is_on_trial;
            claimed
        };
        let mut new = Vec::new();
        while self.asked.len() < limits::REQUESTS_IN_FLIGHT_MAX {
            if self.in_flight + next_len > window && !self.asked.is_empty() {
                break;
            }
            let Some((piece, offset)) = self.asking.take().or_else(&mut claim) else { break };
            let piece_len = geometry.piece_len(piece);
            let len = block_len.min(piece_len.saturating_sub(offset));
            let Some(span) =
                geometry.block(u64::from(piece.get()), u64::from(offset), u64::from(len))
            else {
                break;
            };
            if span.end() < piece_len {
                self.asking = Some((piece, span.end()));
            }
            self.in_flight += u64::from(span.len());
            self.asked.push_back(span);
            new.push(span);
        }
        self.asked_unknowing |= self.meter.rate() < 1.0 && !new.is_empty();
        if was_idle && !new.is_empty() {
            self.asked_when_idle = Some(now);
            self.last_progress = now;
            self.meter.resume(now);
        }
        new
    }

    /// Whether the lane has shown how fast it is, and what was asked for before has yet to be judged by that.
    pub fn may_have_surplus(&self) -> bool {
        self.asked_unknowing && self.meter.rate() >= 1.0
    }

    /// Pieces asked for before it showed how slow the lane is, none of which has come: they take
    /// longer than two seconds, and others might have them sooner. Once, when it has shown it: what is
    /// asked for after that is asked for knowingly.
    pub fn take_surplus(&mut self) -> Vec<PieceIndex> {
        if !self.may_have_surplus() {
            return Vec::new();
        }
        self.asked_unknowing = false;
        // The first sample may be of the first few kilobytes, which waited for a round trip, and is no reason to throw away more.
        let keep = self.meter.window().max(WINDOW_MIN);
        if self.in_flight <= 2 * keep || self.meter.time_for(self.in_flight) < Some(SURPLUS) {
            return Vec::new();
        }
        let mut sum = 0;
        let mut surplus: Vec<PieceIndex> = Vec::new();
        let mut of_piece = None;
        for span in &self.asked {
            // A piece that is partly within is kept whole.
            let is_kept = sum < keep && surplus.is_empty();
            sum += u64::from(span.len());
            let begins = of_piece.replace(span.piece()) != Some(span.piece());
            if !is_kept && begins && self.begun != Some(span.piece()) {
                surplus.push(span.piece());
            }
        }
        surplus
    }

    /// A BLOCO header arrived.
    ///
    /// # Errors
    /// [`Violation::OutsideShare`] if it is no block of the share, [`Violation::WrongBlock`] if
    /// it starts where a block that was asked for starts but has another length;
    /// [`Violation::UnaskedBlocks`] once too many came that nobody asked for, or out of their turn.
    pub fn on_block(
        &mut self,
        header: &BlockHeader,
        geometry: &Geometry,
        now: Duration,
    ) -> Result<Arrival, Violation> {
        let span = geometry
            .block(u64::from(header.piece), u64::from(header.offset), u64::from(header.len))
            .ok_or(Violation::OutsideShare)?;
        if self.asked.front() == Some(&span) {
            if let Some(asked) = self.asked_when_idle.take() {
                self.meter.round_trip_sample(now.saturating_sub(asked));
            }
            self.begun = Some(span.piece());
            return Ok(Arrival::Take { span });
        }
        if let Some(at) = self.forgiven.iter().position(|known| *known == span) {
            self.forgiven.remove(at);
            return Ok(Arrival::Discard);
        }
        let same_start =
            |known: &BlockSpan| known.piece() == span.piece() && known.offset() == span.offset();
        // Out of its turn it may be because a refusal was taken for that of an older request, which had been
        // cancelled in time: it is no crime, but what is before it will not come.
        let is_early = self.asked.contains(&span);
        if !is_early && self.asked.iter().chain(&self.forgiven).any(same_start) {
            return Err(Violation::WrongBlock);
        }
        self.unasked += 1;
        if self.unasked > limits::UNASKED_BLOCKS_MAX {
            return Err(Violation::UnaskedBlocks);
        }
        Ok(Arrival::Discard)
    }

    /// The block that this header is of, if it is one that was given up. Not if it is the next that is to come all
    /// the same: it was asked for again, and this is the answer, for most of what is given up is dropped without a word.
    pub fn given_up(&self, header: &BlockHeader, geometry: &Geometry) -> Option<BlockSpan> {
        if self.forgiven.is_empty() {
            return None;
        }
        let span = geometry.block(header.piece.into(), header.offset.into(), header.len.into())?;
        let is_next = self.asked.front() == Some(&span);
        (!is_next && self.forgiven.contains(&span)).then_some(span)
    }

    /// A block that was given up comes all the same, before what is asked for, and is to be taken.
    pub fn take_up(&mut self, span: BlockSpan, now: Duration) {
        if let Some(at) = self.forgiven.iter().position(|known| *known == span) {
            self.forgiven.remove(at);
        }
        if self.asked.is_empty() {
            // It is waited for from now on; how long it was on its way is known already.
            self.last_progress = now;
            self.meter.resume(now);
        }
        // What is asked for waits for it, so how long that takes says nothing of the distance.
        self.asked_when_idle = None;
        self.begun = Some(span.piece());
        self.in_flight += u64::from(span.len());
        self.asked.push_front(span);
    }

    /// Whoever let us wait has sent something all the same, and may be asked again at once.
    pub fn end_rest(&mut self) {
        self.rests_until = Duration::ZERO;
    }

    /// Some bytes of the current block arrived.
    pub fn on_bytes(&mut self, bytes: u32, now: Duration) {
        self.meter.arrived(bytes, now);
        self.last_progress = now;
        self.looks_again = None;
    }

    /// The current block is all here. Its piece may have been given up since its header came;
    /// then there is nothing left to settle.
    pub fn on_block_done(&mut self, span: BlockSpan) {
        if self.asked.front() == Some(&span) {
            self.asked.pop_front();
            self.in_flight -= u64::from(span.len());
            self.setbacks = 0;
        } else {
            self.forgiven.retain(|known| *known != span);
        }
    }

    /// The peer will not send these. Returns the pieces that this lane gives up for it.
    ///
    /// A block may have been asked for twice, given up in between. If the peer choked us, the
    /// refusal is for the older one, for answers come in the order of the requests. Else it is for
    /// the older one, or the older one was cancelled in time, which nobody answers, and it is for the
    /// newer one: then that one is given up, and may come all the same.
    pub fn on_refused(&mut self, blocks: &[RawBlock], reason: RefuseReason) -> Vec<PieceIndex> {
        // Each list is gone through once, for each may be of thousands.
        let mut refused: HashMap<RawBlock, usize> = HashMap::new();
        blocks.iter().for_each(|block| *refused.entry(*block).or_default() += 1);
        let older: HashSet<RawBlock> = match reason {
            RefuseReason::Choked => self.forgiven.iter().map(|span| (*span).into()).collect(),
            _ => HashSet::new(),
        };
        let is_refused = |span: &&BlockSpan| {
            let block = RawBlock::from(**span);
            refused.contains_key(&block) && !older.contains(&block)
        };
        let mut pieces: Vec<PieceIndex> =
            self.asked.iter().filter(is_refused).map(|span| span.piece()).collect();
        pieces.dedup();
        for piece in &pieces {
            self.give_up(*piece);
        }
        // What was refused does not come, once for each time.
        self.forgiven.retain(|span| match refused.get_mut(&RawBlock::from(*span)) {
            Some(times @ 1..) => {
                *times -= 1;
                false
            }
            _ => true,
        });
        pieces
    }

    /// This lane no longer fetches the piece. Returns the blocks to cancel.
    pub fn give_up(&mut self, piece: PieceIndex) -> Vec<BlockSpan> {
        // If it comes back to this lane it begins anew.
        self.begun.take_if(|begun| *begun == piece);
        if self.asking.is_some_and(|(asking, _)| asking == piece) {
            self.asking = None;
        }
        let (gone, kept): (VecDeque<_>, VecDeque<_>) =
            self.asked.drain(..).partition(|span| span.piece() == piece);
        self.asked = kept;
        self.in_flight -= gone.iter().map(|span| u64::from(span.len())).sum::<u64>();
        self.forgiven.extend(&gone);
        let excess = self.forgiven.len().saturating_sub(FORGIVEN_MAX);
        self.forgiven.drain(..excess);
        if self.asked.is_empty() {
            self.asked_when_idle = None;
            self.looks_again = None;
        }
        gone.into()
    }

    /// The pieces this lane is fetching, in the order they will come.
    pub fn pieces(&self) -> Vec<PieceIndex> {
        let mut pieces: Vec<PieceIndex> = Vec::new();
        for span in &self.asked {
            if pieces.last() != Some(&span.piece()) {
                pieces.push(span.piece());
            }
        }
        // A piece claimed but with no block asked for does not exist, but for one of which blocks come late: the first
        // block is asked for when it is claimed. One whose later blocks are still to be asked for is
        // the last in the queue, or all its asked blocks have come.
        if let Some((piece, _)) = self.asking
            && pieces.last() != Some(&piece)
        {
            pieces.push(piece);
        }
        pieces
    }

    /// The pieces that a peer which chokes us will not send: all but one that it has begun,
    /// which it sends to its end or refuses.
    pub fn pieces_not_begun(&self) -> Vec<PieceIndex> {
        let mut pieces = self.pieces();
        pieces.retain(|piece| self.begun != Some(*piece));
        pieces
    }

    /// The piece that has begun to come, and how many bytes of it are still to come.
    pub fn begun(&self, geometry: &Geometry) -> Option<(PieceIndex, u64)> {
        let piece = self.begun?;
        let of_it = self.asked.iter().filter(|span| span.piece() == piece);
        let asked: u64 = of_it.map(|span| u64::from(span.len())).sum();
        let rest = match self.asking {
            Some((asking, from)) if asking == piece => geometry.piece_len(piece) - from,
            _ => 0,
        };
        let left = asked + u64::from(rest);
        (left > 0).then_some((piece, left))
    }

    /// The piece that comes after what has begun, and has not.
    pub fn next_piece(&self) -> Option<PieceIndex> {
        self.asked.iter().map(|span| span.piece()).find(|piece| Some(*piece) != self.begun)
    }

    /// Whether nothing is asked for.
    pub fn is_idle(&self) -> bool {
        self.asked.is_empty() && self.asking.is_none()
    }

    /// Whether of a piece that was begun to be asked for there is more to ask for.
    pub fn is_within_piece(&self) -> bool {
        self.asking.is_some()
    }

    /// Bytes asked for and not yet received.
    pub fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// When bytes that were asked for last came, or the lane began to wait for them.
    pub fn last_progress(&self) -> Duration {
        self.last_progress
    }

    /// Speed and distance of this lane.
    pub fn meter(&self) -> &RateMeter {
        &self.meter
    }

    /// When the peer has to have sent something; `None` while nothing is asked for. Follows
    /// the lane's own rate: eight times what the blocks in flight should take. If it is missed and the lane
    /// waits on, when it looks again.
    pub fn deadline(&self) -> Option<Duration> {
        let first = self.asked.front()?;
        if self.looks_again.is_some() {
            return self.looks_again;
        }
        let expected = self.meter.time_for(u64::from(first.len())).unwrap_or_default()
            + self.meter.round_trip().unwrap_or_default();
        Some(self.last_progress + (expected * PATIENCE).clamp(STALL_MIN, STALL_MAX))
    }

    /// How long until everything asked for should be here, judged at `now`: by the rate, but
    /// never sooner than the lane has already been without progress. `None` while unknown.
    pub fn expected_rest(&self, now: Duration) -> Option<Duration> {
        let silent = now.saturating_sub(self.last_progress);
        self.meter.time_for(self.in_flight).map(|rest| rest.max(silent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PieceSize;

    const BLOCK: u32 = 16384;

    fn geometry() -> Geometry {
        let size = PieceSize::new(2 * BLOCK).unwrap();
        Geometry::new(size, [200 * 2 * u64::from(BLOCK)]).unwrap()
    }

    /// All of a piece.
    fn whole(piece: PieceIndex) -> (PieceIndex, u32) {
        (piece, 0)
    }

    /// A lane that has asked for the first window, claiming pieces 0, 1, 2, …
    fn asked(geometry: &Geometry) -> (Download, Vec<BlockSpan>) {
        let mut lane = Download::new(BLOCK, Duration::ZERO);
        let mut pieces = geometry.pieces();
        let spans = lane.top_up(geometry, Duration::ZERO, || pieces.next().map(whole));
        (lane, spans)
    }

    fn header(span: BlockSpan) -> BlockHeader {
        BlockHeader { piece: span.piece().get(), offset: span.offset(), len: span.len() }
    }

    fn take(lane: &mut Download, span: BlockSpan, now: Duration) {
        let arrival = lane.on_block(&header(span), &geometry(), now).unwrap();
        assert_eq!(arrival, Arrival::Take { span });
        lane.on_bytes(span.len(), now);
        lane.on_block_done(span);
    }

    #[test]
    fn a_window_of_blocks_is_asked_for_piece_by_piece_in_order() {
        let geometry = geometry();
        let (lane, spans) = asked(&geometry);
        assert_eq!(spans.len(), 16, "256 KiB of 16 KiB blocks");
        let expected: Vec<_> =
            geometry.pieces().flat_map(|piece| geometry.blocks(piece, BLOCK)).take(16).collect();
        assert_eq!(spans, expected);
        assert_eq!(lane.in_flight(), 16 * u64::from(BLOCK));
        assert!(!lane.wants_more());
    }

    #[test]
    fn a_lane_asks_for_blocks_that_come_within_half_a_second() {
        let size = PieceSize::new(limits::BLOCK_LEN_MAX).unwrap();
        let geometry = Geometry::new(size, [200 * u64::from(limits::BLOCK_LEN_MAX)]).unwrap();
        let longest = |bytes_per_s: u32| {
            let mut lane = Download::new(limits::BLOCK_LEN_MAX, Duration::ZERO);
            lane.meter.arrived(bytes_per_s, Duration::from_secs(1));
            let mut pieces = geometry.pieces();
            let spans = lane.top_up(&geometry, Duration::from_secs(1), || pieces.next().map(whole));
            spans.iter().map(|span| span.len()).max()
        };
        assert_eq!(longest(0), Some(limits::BLOCK_LEN_MIN), "unknown");
        assert_eq!(longest(100), Some(limits::BLOCK_LEN_MIN));
        assert_eq!(longest(131_072), Some(65_536));
        assert_eq!(longest(1 << 30), Some(limits::BLOCK_LEN_MAX));
    }

    #[test]
    fn once_a_block_has_come_quickly_long_ones_are_asked_for_before_there_is_a_sample() {
        let size = PieceSize::new(limits::BLOCK_LEN_MAX).unwrap();
        let geometry = Geometry::new(size, [200 * u64::from(limits::BLOCK_LEN_MAX)]).unwrap();
        let mut lane = Download::new(limits::BLOCK_LEN_MAX, Duration::ZERO);
        let mut pieces = geometry.pieces();
        lane.top_up(&geometry, Duration::ZERO, || pieces.next().map(whole));
        lane.on_bytes(limits::BLOCK_LEN_MIN, Duration::from_millis(1));
        assert!(lane.meter.rate() < 1.0, "one millisecond is no sample");
        assert_eq!(lane.next_block_len(), limits::BLOCK_LEN_MAX);
    }

    #[test]
    fn what_was_asked_for_before_a_lane_showed_how_slow_it_is_is_surplus() {
        let size = PieceSize::new(limits::BLOCK_LEN_MAX).unwrap();
        let geometry = Geometry::new(size, [200 * u64::from(limits::BLOCK_LEN_MAX)]).unwrap();
        let lane_at = |bytes_per_s: u32| {
            let mut lane = Download::new(limits::BLOCK_LEN_MAX, Duration::ZERO);
            lane.guess_round_trip(Duration::from_millis(40));
            let mut pieces = geometry.pieces();
            lane.top_up(&geometry, Duration::ZERO, || pieces.next().map(whole));
            assert_eq!(lane.pieces().len(), 8, "two megabytes, for it is far");
            assert!(!lane.may_have_surplus(), "nothing has come");
            lane.meter.arrived(bytes_per_s, Duration::from_secs(1));
            lane
        };
        let numbers = |pieces: Vec<PieceIndex>| -> Vec<u32> {
            pieces.into_iter().map(PieceIndex::get).collect()
        };
        let mut slow = lane_at(125_000);
        assert!(slow.may_have_surplus());
        assert_eq!(numbers(slow.take_surplus()), [1, 2, 3, 4, 5, 6, 7]);
        assert!(!slow.may_have_surplus());
        assert_eq!(slow.take_surplus(), [], "once");
        assert_eq!(numbers(lane_at(10_000_000).take_surplus()), [] as [u32; 0]);
    }

    #[test]
    fn pieces_smaller_than_a_block_are_asked_for_by_the_window_too() {
        let geometry = geometry();
        let mut lane = Download::new(limits::BLOCK_LEN_MAX, Duration::ZERO);
        // Fast enough for the longest blocks.
        lane.meter.arrived(1 << 20, Duration::from_secs(1));
        let mut pieces = geometry.pieces();
        let spans = lane.top_up(&geometry, Duration::from_secs(1), || pieces.next().map(whole));
        assert_eq!(spans.len(), 8, "256 KiB of 32 KiB pieces");
    }

    #[test]
    fn a_choke_leaves_the_piece_that_has_begun_to_come() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        assert_eq!(lane.pieces_not_begun(), lane.pieces());
        take(&mut lane, spans[0], Duration::ZERO);
        assert_eq!(lane.pieces_not_begun(), lane.pieces()[1..]);
        take(&mut lane, spans[1], Duration::ZERO);
        assert_eq!(lane.pieces_not_begun(), lane.pieces(), "the first is all here");
    }

    #[test]
    fn a_refusal_that_comes_late_is_for_the_older_of_two_requests() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let first = spans[0].piece();
        // Choked: given up; unchoked: asked for again.
        lane.pieces().into_iter().for_each(|piece| drop(lane.give_up(piece)));
        let mut again = Some(first);
        lane.top_up(&geometry, Duration::ZERO, || again.take().map(whole));
        let refused: Vec<_> = spans.iter().map(|span| RawBlock::from(*span)).collect();
        assert!(
            lane.on_refused(&refused, RefuseReason::Choked).is_empty(),
            "that was for what was asked before"
        );
        take(&mut lane, spans[0], Duration::ZERO);
        assert_eq!(lane.on_refused(&refused[1..2], RefuseReason::Choked), [first]);
    }

    #[test]
    fn a_piece_that_was_given_up_and_comes_back_has_not_begun() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        take(&mut lane, spans[0], Duration::ZERO);
        let piece = spans[0].piece();
        lane.give_up(piece);
        let mut again = Some(piece);
        while lane.wants_more() {
            lane.top_up(&geometry, Duration::ZERO, || again.take().map(whole));
            let Some(next) = lane.asked.front().copied() else { break };
            if next.piece() == piece {
                break;
            }
            take(&mut lane, next, Duration::ZERO);
        }
        assert!(lane.pieces_not_begun().contains(&piece) || !lane.pieces().contains(&piece));
    }

    #[test]
    fn more_is_asked_for_only_when_half_the_window_has_come() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let mut blocks_before_refill = 0;
        for span in &spans {
            if lane.wants_more() {
                break;
            }
            take(&mut lane, *span, Duration::from_millis(1));
            blocks_before_refill += 1;
        }
        assert_eq!(blocks_before_refill, 8);
    }

    #[test]
    fn blocks_not_asked_for_are_thrown_away_and_then_banned() {
        let geometry = geometry();
        let (mut lane, _) = asked(&geometry);
        let stranger = BlockHeader { piece: 150, offset: 0, len: BLOCK };
        for _ in 0..limits::UNASKED_BLOCKS_MAX {
            assert_eq!(lane.on_block(&stranger, &geometry, Duration::ZERO), Ok(Arrival::Discard));
        }
        assert_eq!(
            lane.on_block(&stranger, &geometry, Duration::ZERO),
            Err(Violation::UnaskedBlocks)
        );
    }

    #[test]
    fn a_refusal_taken_for_that_of_a_request_cancelled_in_time_does_not_cost_the_peer_its_link() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let (piece, now) = (spans[0].piece(), Duration::ZERO);
        lane.give_up(piece);
        // It comes back to this lane, behind what was asked for before.
        let mut again = Some(whole(piece));
        lane.top_up(&geometry, now, || again.take());
        // The peer heard of the cancellation in time, and chokes us before it comes to the second request.
        let refused: Vec<RawBlock> = spans[..2].iter().map(|span| (*span).into()).collect();
        assert_eq!(lane.on_refused(&refused, RefuseReason::Choked), []);
        let (mut later, next) = (geometry.pieces().skip(100), spans[2..].to_vec());
        next.into_iter().for_each(|span| take(&mut lane, span, now));
        let spans = lane.top_up(&geometry, now, || later.next().map(whole));
        assert_eq!(lane.on_block(&header(spans[0]), &geometry, now), Ok(Arrival::Discard));
    }

    #[test]
    fn a_block_of_another_length_or_outside_the_share_is_banned() {
        let geometry = geometry();
        let (mut lane, _) = asked(&geometry);
        for (piece, offset, len, reason) in [
            (0, 0, BLOCK - 1, Violation::WrongBlock),
            (0, 0, BLOCK + 1, Violation::WrongBlock),
            (200, 0, 1, Violation::OutsideShare),
            (0, 0, 0, Violation::OutsideShare),
        ] {
            let header = BlockHeader { piece, offset, len };
            assert_eq!(lane.on_block(&header, &geometry, Duration::ZERO), Err(reason));
        }
    }

    #[test]
    fn a_block_after_our_cancel_is_thrown_away_without_penalty() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let cancelled = lane.give_up(spans[0].piece());
        assert_eq!(cancelled, &spans[..2]);
        for _ in 0..2 * limits::UNASKED_BLOCKS_MAX {
            let (mut lane, spans) = asked(&geometry);
            lane.give_up(spans[0].piece());
            let verdict = lane.on_block(&header(spans[0]), &geometry, Duration::ZERO);
            assert_eq!(verdict, Ok(Arrival::Discard));
        }
        take(&mut lane, spans[2], Duration::ZERO);
    }

    #[test]
    fn a_piece_given_up_in_the_middle_of_a_block_leaves_the_books_balanced() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let verdict = lane.on_block(&header(spans[0]), &geometry, Duration::ZERO);
        assert_eq!(verdict, Ok(Arrival::Take { span: spans[0] }));
        lane.give_up(spans[0].piece());
        lane.on_block_done(spans[0]);
        assert_eq!(lane.in_flight(), 14 * u64::from(BLOCK));
        take(&mut lane, spans[2], Duration::ZERO);
    }

    #[test]
    fn a_refusal_after_a_cancellation_is_for_either_of_two_requests() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let first = spans[0].piece();
        // Cancelled, and asked for again: the first request may have been dropped without a word.
        lane.pieces().into_iter().for_each(|piece| drop(lane.give_up(piece)));
        let mut again = [first, spans[2].piece()].into_iter();
        lane.top_up(&geometry, Duration::ZERO, || again.next().map(whole));
        let refused = [RawBlock::from(spans[0])];
        assert_eq!(lane.on_refused(&refused, RefuseReason::TooMany), [first]);
        assert_eq!(lane.pieces(), [spans[2].piece()], "it is not waited for");
        // If the refusal was for the older request, the newer one is answered.
        let verdict = lane.on_block(&header(spans[0]), &geometry, Duration::ZERO);
        assert_eq!(verdict, Ok(Arrival::Discard));
        take(&mut lane, spans[2], Duration::ZERO);
    }

    #[test]
    fn a_block_given_up_is_known_when_it_comes_after_much_else_was_given_up() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        lane.give_up(spans[0].piece());
        for _ in 0..20 {
            lane.pieces().into_iter().for_each(|piece| drop(lane.give_up(piece)));
            let mut others = (100..200).map(|number| geometry.piece(number).unwrap());
            lane.top_up(&geometry, Duration::ZERO, || others.next().map(whole));
        }
        // More than may be unasked for.
        let late = (0..2).filter(|at| {
            let verdict = lane.on_block(&header(spans[*at]), &geometry, Duration::ZERO);
            assert_eq!(verdict, Ok(Arrival::Discard));
            lane.unasked == 0
        });
        assert_eq!(late.count(), 2);
    }

    #[test]
    fn who_merely_refuses_is_asked_again_within_seconds_though_it_has_never_sent_anything() {
        let now = Duration::from_secs(1);
        let mut lane = Download::new(BLOCK, now);
        (0..20).for_each(|_| lane.set_back_by_refusal(now));
        assert_eq!(lane.rests_until(now), Some(now + REST_MAX));
    }

    #[test]
    fn a_peer_that_lets_us_down_is_asked_less_and_less_often_until_it_delivers() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let now = Duration::from_secs(1);
        let rests = |lane: &mut Download| -> Vec<u128> {
            let rest = |lane: &mut Download| {
                lane.set_back(now);
                (lane.rests_until(now).unwrap() - now).as_millis()
            };
            (0..7).map(|_| rest(lane)).collect()
        };
        assert_eq!(rests(&mut lane), [250, 500, 1000, 2000, 4000, 8000, 16000]);
        assert_eq!(lane.rests_until(now + REST_MAX_NEVER), None);
        take(&mut lane, spans[0], now);
        assert_eq!(rests(&mut lane), [250, 500, 1000, 2000, 4000, 8000, 8000]);
    }

    #[test]
    fn a_refusal_gives_the_whole_piece_back() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        let pieces = lane.on_refused(&[RawBlock::from(spans[3])], RefuseReason::NotHeld);
        assert_eq!(pieces, [spans[3].piece()]);
        assert!(!lane.pieces().contains(&spans[3].piece()));
    }

    #[test]
    fn choking_gives_everything_back() {
        let geometry = geometry();
        let (mut lane, _) = asked(&geometry);
        let pieces = lane.pieces();
        assert_eq!(pieces.len(), 8);
        for piece in pieces {
            lane.give_up(piece);
        }
        assert!(lane.is_idle());
        assert_eq!((lane.in_flight(), lane.deadline()), (0, None));
    }

    #[test]
    fn the_deadline_follows_the_lanes_own_rate() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        assert_eq!(lane.deadline(), Some(STALL_MIN));
        // 16 KiB a second: the next block is due in a second, eight times that is allowed.
        take(&mut lane, spans[0], Duration::from_secs(1));
        let deadline = lane.deadline().unwrap().as_secs();
        assert!((9..=18).contains(&deadline), "{deadline}");
    }

    #[test]
    fn a_silent_lane_is_expected_to_take_at_least_as_long_again() {
        let geometry = geometry();
        let (mut lane, spans) = asked(&geometry);
        take(&mut lane, spans[0], Duration::from_millis(10));
        let soon = lane.expected_rest(Duration::from_millis(20)).unwrap();
        assert!(soon < Duration::from_secs(1));
        let later = lane.expected_rest(Duration::from_secs(60)).unwrap();
        assert!(later >= Duration::from_secs(59));
    }
}
