//! How many peers are answered at a time: the number of regular slots, where it follows the link.
//!
//! Few slots pass a piece on soon, and so does everybody who gets one: on a slow way out the time
//! a piece takes is what a whole swarm waits for. Many slots keep a fast way out full and nobody
//! waiting. What a way out carries is not known, so it is tried.
//!
//! The rules, looked at only while somebody waits:
//! - Those who are answered get half a second's worth of a piece each, or more: so many slots
//!   hurt nobody, and there are more at once (see [`Auto::look`]), but not while some are left empty for want
//!   of anybody who should have them: that is why the others are fast. Between rounds what a receiver sends is measured by the time in
//!   which it sent anything: who is sent the same by others asks for little, and yet keeps its slot from those who wait.
//! - If all who may give and want something, but for those on trial, would get a piece a second each, there are slots for all of them: the few
//!   who are left out have nothing in time that others want, and are given less for it, until nobody gives to them.
//! - None of this is for the sake of those who only take, where those who may give fill the slots of the classic setting:
//!   then there are never more, and after a round no more than these want, or wanted in it. More would be for takers, who would have what the
//!   others lack (see `Choker::givers`).
//! - Slots of those who take nothing do not count: there is one more for each, and four where most take
//!   nothing, for then the link has room. Else those who ask and do not read would keep out everybody
//!   else, for as long as it takes to try them all in turn.
//! - They need over a second and a half for a piece: half the slots are tried. If the link then
//!   carries clearly less, it was the receivers who could take no more: the slots are given back,
//!   and more are tried.
//! - Between the two a quarter more are tried. If the link does not then carry more for it, they
//!   are given back, and nothing is tried for a minute.
//! - Less than a piece in a round to all of them together: what was begun is sent to its end, so that fewer slots would
//!   carry as much as before for rounds, and look right. So more are tried. If they carry clearly more it was the receivers
//!   who could take no more: more are tried, and no fewer while as much is carried. Else there are as few as may be,
//!   and nothing is tried for as long as [`HOLD_PIECES`] pieces take. If not even [`TELLING_BYTES`] went out, that tells
//!   nothing: as few as may be.
//! - Less than a piece a second to all of them together: what a piece takes to the next peer is what
//!   the swarm waits for, so there may be fewer slots than the classic setting has. Less than a piece in half
//!   a minute: there may be one, for whoever fetches a piece may be gone before it is out.
//!
//! Invariant: never fewer than [`SLOWEST_FLOOR`], nor than [`SLOW_FLOOR`] and [`FLOOR`] above those rates, nor more
//! than [`CAP`].
//! Not here: who gets the slots (`choker`).

use std::time::Duration;

/// Slots to begin with, and at least where a piece a second and more goes out: those of the classic
/// setting.
pub(super) const FLOOR: usize = 4;
/// At least where less goes out.
const SLOW_FLOOR: usize = 2;
/// At least where less than a piece in [`SLOWEST_SECONDS`] goes out.
const SLOWEST_FLOOR: usize = 1;
/// See [`SLOWEST_FLOOR`].
const SLOWEST_SECONDS: u64 = 30;
/// At most.
pub(super) const CAP: usize = 128;
/// At pieces a second for each of those who are answered, more slots hurt nobody.
const PLENTY: u64 = 2;
/// Below two pieces in so many seconds for each of them, there may be too many.
const THIN_SECONDS: u64 = 3;
/// Where less than a piece goes out in so many seconds, a round, fewer slots show only later what they carry.
const LONG_SECONDS: u64 = 10;
/// So many bytes in a round tell something, some tens of the smallest blocks, though no piece of it was out. Where
/// less goes out a slot too many costs more: links may not last for as long as pieces take.
const TELLING_BYTES: u64 = 1024 * 1024;
/// A way out that was used for less of the time is taken to have been used for one part in so many: what
/// goes out in a moment tells little.
const IDLE_PART: u32 = 4;
/// Between two looks for whether there is plenty; twice as long after each that finds none.
const LOOK: Duration = Duration::from_millis(250);
const LOOK_MAX: Duration = Duration::from_secs(8);
/// There are looks sooner, after so long and then after twice as long each time: if by then each of those who are
/// answered has had so many pieces, and so many bytes, more than what waits in the buffers of a connection, that
/// way out is fast.
const EARLY_LOOK: Duration = Duration::from_millis(25);
const EARLY_PIECES: u64 = 4;
const EARLY_BYTES: u64 = 1 << 20;
/// Where most take nothing there are so many slots more for each of them.
const EACH_OF_MOST: usize = 4;
/// After slots were tried in vain, nothing is tried for so long.
const HOLD: Duration = Duration::from_secs(60);
/// The same where pieces are long: one that was begun in a slot too many is sent to its end.
const HOLD_PIECES: u64 = 8;

/// See the module's header.
#[derive(Clone, Debug)]
pub(super) struct Auto {
    regular: usize,
    piece_len: u64,
    trial: Option<Trial>,
    /// What long pieces were sent with in a second, if it took more slots to carry as much; else 0.
    proven: u64,
    hold_until: Duration,
    looked: Option<Looked>,
    /// How many were answered then, and what had been sent by then to whoever was ever here.
    answered: u64,
    sent_to_all: u64,
    look_gap: Duration,
    /// How long after the last look there is an early one.
    early_gap: Duration,
    /// Beyond `regular`, for those who take nothing.
    extra: usize,
}

/// A round in which somebody waited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Bytes a second that went out to all together.
    pub(super) total: u64,
    /// Those who were sent anything.
    pub(super) takers: u64,
    /// Those who are answered by now and take what they are sent.
    pub(super) answered: u64,
    /// So many slots are enough, for all others would be for those who only take; `None` if there is no such number.
    pub(super) enough: Option<usize>,
}

/// What is seen between two rounds, while somebody waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// Bytes that were sent to all peers so far.
    pub(super) sent: u64,
    /// In how much of the time anything was being sent.
    pub(super) busy: Duration,
    /// Those who are answered and take what they are sent.
    pub(super) answered: u64,
    /// Those who may give and want something, but for those who were sent something and have shown nothing yet.
    pub(super) hopeful: usize,
}

/// When there was a look last, and what it saw.
#[derive(Clone, Copy, Debug)]
struct Looked {
    at: Duration,
    sent: u64,
    busy: Duration,
}

/// Slots, those who took anything, and bytes per second before a change whose effect is not known yet.
#[derive(Clone, Copy, Debug)]
struct Trial {
    slots: usize,
    takers: u64,
    total: u64,
}

impl Auto {
    /// For a share of pieces of so many bytes.
    pub(super) fn new(piece_len: u32) -> Self {
        Self {
            regular: FLOOR,
            piece_len: piece_len.max(1).into(),
            trial: None,
            proven: 0,
            hold_until: Duration::ZERO,
            looked: None,
            answered: 0,
            sent_to_all: 0,
            look_gap: LOOK,
            early_gap: EARLY_LOOK,
            extra: 0,
        }
    }

    pub(super) fn regular(&self) -> usize {
        (self.regular + self.extra).min(CAP)
    }

    fn is_plenty(&self, total: u64, answered: u64) -> bool {
        total >= PLENTY * self.piece_len * answered
    }

    fn is_thin(&self, total: u64, answered: u64) -> bool {
        THIN_SECONDS * total < 2 * self.piece_len * answered
    }

    fn is_fast(&self, span: Duration, sent: u64, answered: u64) -> bool {
        let plenty = EARLY_BYTES.max(EARLY_PIECES * self.piece_len);
        span >= self.early_gap && sent >= answered * plenty
    }

    /// Between rounds, while somebody waits: on a fast link nobody shall wait for the next one.
    /// True if there are more slots now.
    pub(super) fn look(&mut self, now: Duration, look: Look) -> bool {
        let Look { sent, busy, answered, .. } = look;
        let seen = Looked { at: now, sent, busy };
        let last = *self.looked.get_or_insert(seen);
        let span = now.saturating_sub(last.at);
        let sent = sent.saturating_sub(last.sent);
        if span < self.look_gap && !self.is_fast(span, sent, answered) {
            self.put_off_early_look(span);
            return false;
        }
        self.early_gap = EARLY_LOOK;
        self.looked = Some(seen);
        // Who asks for little, for others send it the same, is no reason to answer fewer.
        let busy = busy.saturating_sub(last.busy).clamp(span / IDLE_PART, span);
        let slots = self.slots_for(look, per_second(sent, busy));
        if answered < self.regular as u64 || slots <= self.regular {
            self.look_gap = (self.look_gap * 2).min(LOOK_MAX);
            return false;
        }
        self.look_gap = LOOK;
        self.regular = slots;
        self.trial = None;
        true
    }

    /// How many slots a way out is good for that carries so many bytes a second while anything is being sent.
    fn slots_for(&self, look: Look, rate: u64) -> usize {
        let all = look.hopeful.min(CAP);
        if self.is_plenty(rate, look.answered) {
            (self.regular * 2).min(CAP)
        } else if rate >= self.piece_len * all as u64 {
            all
        } else {
            0
        }
    }

    /// Somebody waits, and of those who are answered so many take nothing. Fewer than before make a
    /// difference only when a round is `due`, for until then nobody has to go.
    pub(super) fn some_are_deaf(&mut self, due: bool, deaf: usize, answered: usize) {
        let each = if 4 * deaf >= 3 * answered { EACH_OF_MOST } else { 1 };
        let before = if due { 0 } else { self.extra };
        self.extra = before.max(deaf * each);
    }

    /// Nobody waits: the next look begins anew. If that is so when a round is `due`, there are no slots any more for
    /// those who took nothing; if they still do not, who waits then gets them back.
    pub(super) fn nobody_waits(&mut self, due: bool) {
        if due {
            self.extra = 0;
        }
        self.put_off_looks();
    }

    /// There is no reason to look until somebody waits for whom there should be more slots.
    pub(super) fn put_off_looks(&mut self) {
        self.looked = None;
        self.look_gap = LOOK;
        self.early_gap = EARLY_LOOK;
    }

    /// Whether it is time to look: also early, if by what was sent so far to whoever was ever here that would not be
    /// in vain.
    pub(super) fn is_look_due(&mut self, now: Duration, sent_to_all: u64) -> bool {
        let Some(last) = self.looked.filter(|_| self.regular < CAP) else { return false };
        let span = now.saturating_sub(last.at);
        let sent = sent_to_all.saturating_sub(self.sent_to_all);
        if span >= self.look_gap || self.is_fast(span, sent, self.answered) {
            return true;
        }
        self.put_off_early_look(span);
        false
    }

    /// The early look after so long would be in vain: the next comes after twice as long, or more if that is over too.
    fn put_off_early_look(&mut self, span: Duration) {
        while span >= self.early_gap {
            self.early_gap *= 2;
        }
    }

    /// There was a look: so many had been answered, and so much sent to whoever was ever here.
    pub(super) fn note_look(&mut self, now: Duration, answered: u64, sent_to_all: u64) {
        self.answered = answered;
        if self.looked.is_some_and(|last| last.at == now) {
            self.sent_to_all = sent_to_all;
        }
    }

    /// When to look next, if there is a reason to.
    pub(super) fn next_look(&self) -> Option<Duration> {
        let gap = self.look_gap.min(self.early_gap);
        self.looked.filter(|_| self.regular < CAP).map(|last| last.at + gap)
    }

    /// After a round in which somebody waited.
    pub(super) fn adapt(&mut self, now: Duration, round: Round) {
        let floor = self.floor(round.total);
        self.regular = self.regular.max(floor);
        if round.total < self.proven - self.proven / 8 {
            self.proven = 0;
        }
        let is_long = round.total * LONG_SECONDS < self.piece_len;
        if is_long {
            self.adapt_to_long(now, round, floor);
        } else {
            self.adapt_to_rate(now, round, floor);
        }
        let enough = round.enough.map_or(CAP, |enough| enough.max(FLOOR));
        if self.regular > enough {
            // With fewer less is carried.
            self.proven = self.proven * enough as u64 / self.regular as u64;
            self.regular = enough;
            self.trial = None;
            if !is_long {
                // Or those who take slowly had half of them each third round.
                self.hold_until = now + HOLD;
            }
        }
    }

    fn adapt_to_rate(&mut self, now: Duration, round: Round, floor: usize) {
        let Round { total, answered, .. } = round;
        if let Some(trial) = self.trial.take() {
            if self.regular < trial.slots && total < trial.total - trial.total / 8 {
                self.regular = trial.slots;
                self.try_more(Round { total: trial.total, ..round }, floor);
                return;
            }
            let more = (self.regular.saturating_sub(trial.slots)) as u64;
            let wanted = trial.total + trial.total * more / (2 * trial.slots as u64);
            if more > 0 && total >= wanted {
                self.try_more(round, floor);
                return;
            }
            if more > 0 {
                self.regular = trial.slots;
                self.hold_until = now + HOLD;
                return;
            }
        }
        if round.enough.is_none() && self.is_plenty(total, answered) {
            self.regular = self.more().min(CAP);
        } else if now >= self.hold_until {
            let tries_fewer =
                self.is_thin(total, answered) && self.regular > floor && self.proven == 0;
            if tries_fewer {
                self.try_slots(self.regular / 2, round, floor);
            } else {
                self.try_more(round, floor);
            }
        }
    }

    /// The same where less than a piece goes out in a round.
    fn adapt_to_long(&mut self, now: Duration, round: Round, floor: usize) {
        let total = round.total;
        let trial = self.trial.take();
        if total * LONG_SECONDS < TELLING_BYTES {
            self.regular = (self.regular / 2).max(floor);
            return;
        }
        let tried = trial.filter(|trial| self.regular > trial.slots);
        let carries_more = tried.is_some_and(|trial| {
            let more = (self.regular - trial.slots) as u64;
            total >= trial.total + trial.total * more / (2 * trial.takers.max(1))
        });
        if carries_more {
            self.proven = total;
        }
        let may_try = now >= self.hold_until && (tried.is_none() || carries_more);
        // With as many as may be nothing is to be tried, and what they are of use for is judged anew.
        if may_try && self.regular < CAP {
            return self.try_more(round, floor);
        }
        if tried.is_some() {
            let pieces = Duration::from_secs(HOLD_PIECES * self.piece_len / total.max(1));
            self.hold_until = now + HOLD.max(pieces);
        }
        let slots = tried.map_or(self.regular, |trial| trial.slots);
        self.regular = if self.proven > 0 { slots } else { slots / 2 }.max(floor);
    }

    /// Fewest slots where so many bytes go out in a second.
    fn floor(&self, total: u64) -> usize {
        if total * SLOWEST_SECONDS < self.piece_len {
            SLOWEST_FLOOR
        } else if total < self.piece_len {
            SLOW_FLOOR
        } else {
            FLOOR
        }
    }

    /// A quarter more, one at least.
    fn more(&self) -> usize {
        self.regular + (self.regular / 4).max(1)
    }

    fn try_more(&mut self, round: Round, floor: usize) {
        if round.enough.is_none() {
            self.try_slots(self.more(), round, floor);
        }
    }

    fn try_slots(&mut self, slots: usize, round: Round, floor: usize) {
        let slots = slots.clamp(floor, CAP);
        if slots != self.regular {
            let Round { takers, total, .. } = round;
            self.trial = Some(Trial { slots: self.regular, takers, total });
            self.regular = slots;
        }
    }
}

/// A rate from bytes and a time.
pub(super) fn per_second(bytes: u64, span: Duration) -> u64 {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / millis
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u32 = 256 * 1024;
    const ROUND_AT: Duration = Duration::from_secs(10);

    fn shown(total: u64, answered: u64, takers: u64) -> Round {
        Round { total, takers, answered, enough: None }
    }

    /// A look at a way out that was full until then.
    fn full(now: Duration, sent: u64, answered: u64) -> Look {
        Look { sent, busy: now, answered, hopeful: 0 }
    }

    #[test]
    fn slots_for_those_who_take_nothing_are_gone_when_nobody_waits_any_more() {
        let mut auto = Auto::new(PIECE);
        auto.some_are_deaf(true, 20, 20);
        auto.nobody_waits(false);
        assert_eq!(auto.regular(), FLOOR + 80, "until the next round");
        auto.nobody_waits(true);
        assert_eq!(auto.regular(), FLOOR);
    }

    #[test]
    fn there_are_as_many_slots_as_those_who_may_give_want_whoever_else_waits_and_no_more() {
        let piece = u64::from(PIECE);
        // So that there is plenty, so that slow receivers leave room, and so that less than a piece goes out in a round.
        for (piece_len, each) in [(PIECE, 20 * piece), (PIECE, 100 << 10), (64 * PIECE, 125_000)] {
            for (givers, before) in [(4, FLOOR), (6, FLOOR), (6, 40), (11, FLOOR), (11, 12)] {
                let mut auto = Auto { regular: before, ..Auto::new(piece_len) };
                let slots = (1..=80).map(|number| {
                    let (regular, answered) = (auto.regular, auto.regular as u64);
                    let is_enough = givers <= regular && regular >= FLOOR;
                    let enough = is_enough.then_some(givers);
                    let total = each * answered;
                    auto.adapt(
                        ROUND_AT * number,
                        Round { enough, ..shown(total, answered, answered) },
                    );
                    auto.regular
                });
                let slots: Vec<usize> = slots.skip(40).collect();
                let what = format!("{givers} of {before} at {each}: {slots:?}");
                // Now and then fewer are tried, and one trial more when these are found too few.
                assert!(slots.iter().filter(|slots| **slots == givers).count() >= 30, "{what}");
                assert!(slots.iter().all(|slots| *slots <= givers + givers / 4), "{what}");
            }
        }
    }

    #[test]
    fn who_asks_for_little_shows_not_how_much_the_link_carries() {
        let piece = u64::from(PIECE);
        // Six pieces a second to five: no plenty, if that is all that goes out.
        let second = Duration::from_secs(1);
        let slots = |busy: Duration| {
            let mut auto = Auto::new(PIECE);
            auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
            auto.look(second, Look { busy, ..full(second, 6 * piece, 5) });
            auto.regular()
        };
        assert_eq!(slots(second), FLOOR);
        assert_eq!(slots(second / 2), 2 * FLOOR, "it carries twelve");
        assert_eq!(slots(Duration::ZERO), 2 * FLOOR, "what no time was seen for");
        // One piece in what may have been a moment is no more than four in a second.
        let mut auto = Auto::new(PIECE);
        auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
        auto.look(second, Look { busy: Duration::ZERO, ..full(second, piece, 5) });
        assert_eq!(auto.regular(), FLOOR);
    }

    #[test]
    fn all_who_may_give_are_answered_if_that_is_a_piece_a_second_for_each() {
        let piece = u64::from(PIECE);
        let second = Duration::from_secs(1);
        for (pieces, slots) in [(15, 15), (14, 10)] {
            let mut auto = Auto { regular: 10, ..Auto::new(PIECE) };
            auto.look(Duration::ZERO, full(Duration::ZERO, 0, 10));
            let look = Look { hopeful: 15, ..full(second, pieces * piece, 10) };
            assert_eq!((auto.look(second, look), auto.regular()), (slots > 10, slots));
        }
    }

    #[test]
    fn what_was_tried_is_forgotten_where_slots_go_because_there_are_enough() {
        let mut auto = Auto { regular: 40, ..Auto::new(PIECE) };
        let enough = Some(10);
        auto.adapt(ROUND_AT, Round { enough, ..shown(40 << 10, 40, 40) });
        assert_eq!(auto.regular(), 10);
        auto.adapt(ROUND_AT * 2, shown(30 << 10, 10, 10));
        assert!(auto.regular() <= 12, "{}", auto.regular());
    }

    #[test]
    fn a_link_too_slow_to_tell_anything_by_keeps_to_the_fewest_slots() {
        let mut auto = Auto::new(PIECE);
        let rounds = [0, 1638, 0, 3276, 0, 1638].into_iter().enumerate();
        let slots = rounds.map(|(round, total)| {
            auto.adapt(Duration::from_secs(10 * round as u64), shown(total, 5, 5));
            auto.regular()
        });
        assert_eq!(slots.collect::<Vec<_>>(), [2, 1, 1, 1, 1, 1]);
    }

    /// Slots after each round in which somebody waits, if `rate` of the slots is what all get.
    fn rounds(count: usize, rate: impl Fn(u64) -> u64) -> Vec<usize> {
        let mut auto = Auto::new(PIECE);
        (1..=count)
            .map(|round| {
                let answered = auto.regular as u64 + 1;
                auto.adapt(
                    Duration::from_secs(10 * round as u64),
                    shown(rate(answered), answered, answered),
                );
                auto.regular
            })
            .collect()
    }

    #[test]
    fn a_slow_way_out_has_the_classic_four_and_now_and_then_tries_five() {
        assert_eq!(rounds(12, |_| 1 << 20), [5, 4, 4, 4, 4, 4, 4, 5, 4, 4, 4, 4]);
    }

    #[test]
    fn a_way_out_that_takes_seconds_for_a_piece_has_two_until_it_is_faster() {
        let slow = u64::from(PIECE) / 2;
        assert_eq!(rounds(9, |_| slow), [2, 3, 2, 2, 2, 2, 2, 2, 3]);
        let mut auto = Auto::new(PIECE);
        auto.adapt(ROUND_AT, shown(slow, 5, 5));
        assert_eq!(auto.regular, SLOW_FLOOR);
        auto.adapt(2 * ROUND_AT, shown(4 * slow, 3, 3));
        assert!(auto.regular >= FLOOR, "{}", auto.regular);
    }

    #[test]
    fn a_way_out_that_takes_half_a_minute_for_a_piece_has_one_and_a_faster_one_two() {
        assert_eq!(rounds(4, |_| u64::from(PIECE) / 31), [2, 1, 1, 1]);
        assert_eq!(rounds(4, |_| u64::from(PIECE) / 29), [2, 2, 2, 2]);
    }

    #[test]
    fn receivers_slower_than_a_slow_way_out_do_not_leave_it_idle() {
        // Each takes 20 KiB/s, whatever the number, and the way out 200 KiB/s.
        let slots = rounds(20, |answered| (answered * (20 << 10)).min(200 << 10));
        // Now and then half of them are tried, for a round.
        let full = slots[5..].iter().filter(|slots| **slots >= 8).count();
        assert!(full >= 13, "{slots:?}");
    }

    /// A way out that sends pieces of 16 MiB, each begun one to its end.
    struct LongPieces {
        auto: Auto,
        round: u32,
        /// What is left of those that were begun.
        begun: Vec<u64>,
    }

    impl LongPieces {
        const PIECE: u64 = 16 << 20;

        fn new() -> Self {
            Self { auto: Auto::new(16 << 20), round: 0, begun: Vec::new() }
        }

        /// Slots after each of so many rounds, where each receiver takes at most `each` bytes in a second and all
        /// together at most `all`.
        fn rounds(&mut self, count: u32, each: u64, all: u64) -> Vec<usize> {
            let seconds = ROUND_AT.as_secs();
            let round = |_| {
                let answered = self.auto.regular + 1;
                let begun = self.begun.len().max(answered);
                self.begun.resize(begun, Self::PIECE);
                let takers = begun as u64;
                let rate = each.min(all / takers);
                self.begun.iter_mut().for_each(|left| *left = left.saturating_sub(rate * seconds));
                self.begun.retain(|left| *left > 0);
                self.round += 1;
                self.auto
                    .adapt(ROUND_AT * self.round, shown(rate * takers, answered as u64, takers));
                self.auto.regular
            };
            (0..count).map(round).collect()
        }
    }

    #[test]
    fn receivers_that_take_minutes_for_a_piece_do_not_leave_a_fast_way_out_idle() {
        let (each, slow, fast) = (125_000, 300_000, 125_000_000);
        let slots = LongPieces::new().rounds(20, each, fast);
        assert!(slots[19] >= 40, "{slots:?}");
        // Nor where one slot was right before, for the way out was slow.
        let mut swarm = LongPieces::new();
        assert_eq!(swarm.rounds(10, each, slow)[9], SLOWEST_FLOOR);
        let slots = swarm.rounds(80, each, fast);
        assert!(slots[79] >= 40, "{slots:?}");
    }

    #[test]
    fn a_way_out_that_slows_down_does_not_keep_all_the_slots_there_may_be() {
        let (each, fast, slow) = (30_000, 125_000_000, 500_000);
        let mut swarm = LongPieces::new();
        let slots = swarm.rounds(60, each, fast);
        assert_eq!(slots.last(), Some(&CAP), "{slots:?}");
        let slots = swarm.rounds(60, fast, slow);
        assert!(slots[59] < CAP / 2, "{slots:?}");
    }

    #[test]
    fn who_is_sent_the_rest_of_a_piece_counts_when_more_slots_are_judged() {
        let mut auto = LongPieces::new().auto;
        auto.regular = 2;
        auto.adapt(ROUND_AT, shown(500_000, 3, 10));
        assert_eq!(auto.regular, 3);
        // One in ten more, which is more than half of what an eleventh takes.
        auto.adapt(2 * ROUND_AT, shown(530_000, 4, 11));
        assert_eq!(auto.regular, 4);
    }

    #[test]
    fn slots_that_long_pieces_were_proven_to_take_are_kept_until_far_less_is_carried() {
        let mut auto = LongPieces::new().auto;
        (auto.regular, auto.proven) = (40, 1_000_000);
        let mut now = Duration::ZERO;
        let mut least_of_20 = |total| {
            let slots = (0..20).map(|_| {
                now += ROUND_AT;
                auto.adapt(now, shown(total, auto.regular as u64 + 1, auto.regular as u64 + 1));
                auto.regular
            });
            slots.min()
        };
        assert_eq!(least_of_20(900_000), Some(40));
        assert_eq!(least_of_20(800_000), Some(SLOW_FLOOR));
    }

    #[test]
    fn a_slow_way_out_tries_a_second_slot_no_more_often_than_pieces_take() {
        // A piece takes 37 s.
        let rate = LongPieces::PIECE / 37;
        let slots = LongPieces::new().rounds(120, rate, rate);
        let tried = slots[5..].iter().filter(|slots| **slots > SLOWEST_FLOOR).count();
        assert!((2..=5).contains(&tried), "{tried} of 115 rounds: {slots:?}");
    }

    #[test]
    fn a_fast_way_out_gets_more_with_each_round() {
        assert_eq!(rounds(5, |_| 1 << 30), [5, 6, 7, 8, 10]);
    }

    #[test]
    fn on_a_fast_way_out_nobody_waits_for_a_round() {
        let mut auto = Auto::new(PIECE);
        assert!(!auto.look(Duration::ZERO, full(Duration::ZERO, 0, 9)));
        let mut sent = 0;
        for (number, slots) in [8, 16, 32, 64, 128].into_iter().enumerate() {
            let looks = number as u32 + 1;
            let answered = auto.regular as u64 + 1;
            sent += answered << 19;
            assert!(
                !auto.look(LOOK * looks - LOOK / 2, full(LOOK * looks - LOOK / 2, sent, answered)),
                "too soon"
            );
            assert!(auto.look(LOOK * looks, full(LOOK * looks, sent, answered)));
            assert_eq!(auto.regular, slots);
        }
        assert!(!auto.look(LOOK * 9, full(LOOK * 9, 9 << 30, 9)));
    }

    #[test]
    fn on_a_very_fast_way_out_nobody_waits_for_a_quarter_of_a_second() {
        let mut auto = Auto::new(PIECE);
        auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
        assert_eq!(auto.next_look(), Some(EARLY_LOOK));
        assert!(!auto.look(
            EARLY_LOOK - Duration::from_millis(1),
            full(EARLY_LOOK - Duration::from_millis(1), 5 << 20, 5)
        ));
        assert!(auto.look(EARLY_LOOK, full(EARLY_LOOK, 5 << 20, 5)));
        // What connections hold in their buffers tells nothing.
        assert!(!auto.look(2 * EARLY_LOOK, full(2 * EARLY_LOOK, (14 << 20) - 1, 9)));
        assert_eq!(auto.next_look(), Some(3 * EARLY_LOOK));
        assert!(auto.look(3 * EARLY_LOOK, full(3 * EARLY_LOOK, 14 << 20, 9)));
    }

    #[test]
    fn an_early_look_that_could_find_nothing_is_left_out_and_the_next_comes_later() {
        let before = 1 << 30;
        let mut auto = Auto::new(PIECE);
        auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
        auto.note_look(Duration::ZERO, 5, before);
        assert!(!auto.is_look_due(EARLY_LOOK, before + (5 << 20) - 1));
        assert_eq!(auto.next_look(), Some(2 * EARLY_LOOK));
        assert!(auto.is_look_due(2 * EARLY_LOOK, before + (5 << 20)));
        assert!(auto.is_look_due(LOOK, before), "the usual one is not left out");
    }

    #[test]
    fn where_some_are_left_empty_there_are_no_more_however_fast_the_others_are() {
        let mut auto = Auto::new(PIECE);
        auto.look(Duration::ZERO, full(Duration::ZERO, 0, 3));
        assert!(!auto.look(LOOK, full(LOOK, 1 << 30, 3)));
        assert_eq!(auto.regular, FLOOR);
    }

    #[test]
    fn who_waits_after_a_while_in_which_nobody_did_has_an_early_look_at_once() {
        let mut auto = Auto::new(PIECE);
        auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
        // In vain, so that the next would come later.
        assert!(!auto.look(EARLY_LOOK, full(EARLY_LOOK, 0, 5)));
        assert_eq!(auto.next_look(), Some(2 * EARLY_LOOK));
        auto.nobody_waits(false);
        let again = Duration::from_secs(60);
        assert!(!auto.look(again, full(again, 0, 5)));
        assert_eq!(auto.next_look(), Some(again + EARLY_LOOK));
        assert!(auto.look(again + EARLY_LOOK, full(again + EARLY_LOOK, 5 << 20, 5)));
    }

    #[test]
    fn slow_receivers_do_not_cost_the_others_their_slots() {
        // Each takes 100 KiB/s, whatever the number.
        let slots = rounds(20, |answered| answered * (100 << 10));
        assert_eq!(slots[..5], [5, 6, 7, 8, 10]);
        assert_eq!(slots[17], CAP, "{slots:?}");
    }

    #[test]
    fn slots_follow_the_length_of_pieces() {
        let after_a_while = |piece_len: u32| {
            let mut auto = Auto::new(piece_len);
            for round in 1..=20 {
                let answered = auto.regular as u64 + 1;
                auto.adapt(Duration::from_secs(10 * round), shown(20 << 20, answered, answered));
            }
            auto.regular
        };
        assert!(after_a_while(16 << 20) <= 5, "a piece of 16 MiB takes long");
        assert_eq!(after_a_while(16 << 10), CAP, "one of 16 KiB does not");
    }
}
