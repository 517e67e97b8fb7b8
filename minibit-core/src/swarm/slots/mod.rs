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
mod tests;
