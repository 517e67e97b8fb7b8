//! One peer as the choker sees it: which slot it has, what it gave and took, how it stands by that.
//!
//! Not here: what follows of it beside others (`regular`, `trials`).

use std::time::Duration;

use super::regular::turn_score;
use super::{BENCHED, ChokePolicy, IDLE, PeerView, ROUND};
use crate::swarm::Standing;

/// A peer that was sent a piece, and after so long has given back less than one part in so many,
/// only takes.
pub(super) const TAKER_AFTER: Duration = Duration::from_secs(1);
/// The same of a peer that was sent so many pieces by then, for on a fast link a second is many more: after so long, or so
/// many round trips if these take longer. To answer takes one, and its first bytes another.
pub(super) const TAKER_SOON_AFTER: Duration = Duration::from_millis(80);
const TAKER_SOON_TRIPS: u32 = 2;
/// At least if it is not known how far it is, or if something has come of it: its first piece may not be all here.
pub(super) const TAKER_SOON_AFTER_SOME: Duration = Duration::from_millis(250);
const TAKER_SOON_PIECES: u64 = 3;
pub(crate) const TAKER_PART: u64 = 10;
/// For so long the rest of a piece may hold up a slot after a choke: who fetches it byte by byte
/// shall not keep others out. Or for [`LEAVING_PIECES`] times as long as a piece took in a slot of late, if that is longer
/// and no longer than [`LEAVING_MOST`]: what is sent besides would make all that goes out slower, and with that more of it.
pub(super) const LEAVING_MAX: Duration = ROUND.saturating_mul(3);
/// See [`LEAVING_MAX`].
const LEAVING_PIECES: u64 = 2;
/// See [`LEAVING_MAX`].
pub(super) const LEAVING_MOST: Duration = ROUND.saturating_mul(12);

/// For how long the rest of a piece of so many bytes may hold up a slot, where in a round of that length so many bytes
/// went out to so many.
pub(super) fn leaving_max(piece_len: u64, round: Duration, sent: u64, takers: usize) -> Duration {
    let pieces = LEAVING_PIECES * takers as u64 * piece_len;
    let takes = round.as_secs_f64() * pieces as f64 / sent.max(1) as f64;
    Duration::from_secs_f64(takes.min(LEAVING_MOST.as_secs_f64())).max(LEAVING_MAX)
}

/// See [`TAKER_SOON_AFTER`].
fn soon_after(view: &PeerView) -> Duration {
    let trips = view.distance.unwrap_or_default() * TAKER_SOON_TRIPS;
    let least = match view.distance {
        Some(_) if !view.has_sent => TAKER_SOON_AFTER,
        _ => TAKER_SOON_AFTER_SOME,
    };
    trips.clamp(least, TAKER_AFTER)
}

/// Which slot a peer has, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// Choked; waiting, if it is interested.
    None,
    Regular,
    Optimistic,
}

/// What speaks for a peer that has had no chance yet, the more the later. The first step towards us is
/// to answer us; who only takes never does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Promise {
    /// It holds something and does not answer us.
    Nothing,
    /// It has nothing that it could give.
    Empty,
    /// It answers us.
    Answers,
}

#[derive(Clone, Debug)]
pub(super) struct PeerState {
    /// What was seen of it last.
    pub(super) view: PeerView,
    pub(super) slot: Slot,
    /// When `slot` (or, of one without, the wait for one) began.
    pub(super) since: Duration,
    /// It was answered before the decision that is being made.
    pub(super) was_answered: bool,
    /// It was known before that decision to take only.
    only_took: bool,
    /// Choked with a piece under way, which still takes the place of this slot.
    pub(super) leaving: Slot,
    left_at: Duration,
    /// `verified_from` at the last three rounds, the oldest first.
    pub(super) verified_marks: [u64; 3],
    /// `uploaded_to` at the last round.
    pub(super) uploaded_mark: u64,
    /// When it was first seen to have taken anything.
    taking_since: Option<Duration>,
    pub(super) standing: Standing,
    /// Until then it comes after all others, for it did not use its slot.
    pub(super) benched_until: Duration,
    /// When it last lost a slot for that, if it has taken nothing since.
    pub(super) let_pass_at: Option<Duration>,
    /// Until then it is told of as one that takes nothing, though it has no slot: it took nothing of a piece that
    /// was to be sent to its end after a choke.
    stuck_until: Duration,
    /// `uploaded_to` when it was given a trial ahead of the part of those who only take, which is for a piece; `None` again if it
    /// took nothing.
    pub(super) ahead_from: Option<u64>,
    /// The decision in which it was last seen.
    pub(super) seen_in: u32,
}

impl PeerState {
    pub(super) fn new(now: Duration, view: PeerView) -> Self {
        Self {
            view,
            slot: Slot::None,
            since: now,
            was_answered: false,
            only_took: false,
            leaving: Slot::None,
            left_at: Duration::ZERO,
            verified_marks: [view.verified_from; 3],
            uploaded_mark: view.uploaded_to,
            taking_since: None,
            standing: Standing::New,
            benched_until: Duration::ZERO,
            let_pass_at: None,
            stuck_until: Duration::ZERO,
            ahead_from: None,
            seen_in: 0,
        }
    }

    /// Since when it has taken nothing, though it might have if it is answered.
    pub(super) fn might_take_from(&self) -> Duration {
        self.view.took_at.max(self.since)
    }

    /// Whether it has taken nothing for long, though it might have if it is answered.
    pub(super) fn is_idle(&self, now: Duration) -> bool {
        now >= self.might_take_from() + IDLE
    }

    /// Whether it is choked, and has of late held up the slot that it had with a piece of which it took nothing.
    pub(super) fn is_stuck(&self, now: Duration) -> bool {
        !self.is_answered() && self.view.in_hand && now < self.stuck_until
    }

    /// Whether what is being sent to it goes out.
    pub(super) fn takes(&self, now: Duration) -> bool {
        let has_place = self.is_answered() || self.leaving != Slot::None;
        has_place && self.view.in_hand && self.view.uploaded_to > 0 && !self.is_idle(now)
    }

    /// It made no use of a slot.
    pub(super) fn let_slot_pass(&mut self, now: Duration) {
        self.benched_until = now + BENCHED;
        self.let_pass_at = Some(now);
    }

    /// Learns how the peer is by now.
    pub(super) fn note(&mut self, now: Duration, due: bool, leaving_max: Duration, view: PeerView) {
        self.was_answered = self.is_answered();
        self.only_took = self.standing == Standing::Taker;
        self.let_pass_at = self.let_pass_at.filter(|at| view.took_at <= *at);
        if view.interested && !self.view.interested {
            self.since = now;
        }
        if self.leaving != Slot::None && view.in_hand && !view.amid_piece {
            // Its connection has taken nothing of that piece for too long.
            self.let_slot_pass(now);
            self.stuck_until = now + ROUND;
        }
        if !view.amid_piece || now.saturating_sub(self.left_at) >= leaving_max {
            self.leaving = Slot::None;
        }
        if view.uploaded_to > 0 {
            self.taking_since.get_or_insert(now);
        }
        if due {
            let [_, older, old] = self.verified_marks;
            self.verified_marks = [older, old, view.verified_from];
        }
        self.view = view;
    }

    /// Sets how it stands.
    pub(super) fn judge(&mut self, now: Duration, piece_len: u64, policy: ChokePolicy) {
        self.standing = self.view.passes_on.unwrap_or_else(|| match policy {
            ChokePolicy::Contribution | ChokePolicy::Seeder => {
                self.standing_by_trade(now, piece_len, policy)
            }
            ChokePolicy::Rarity => Standing::New,
        });
        if !self.is_sent_rest() {
            self.leaving = Slot::None;
        }
    }

    /// Whether it is sent the rest of a piece when it is choked, so that it can pass that on. Who only takes will not; but
    /// of a seeder's pieces, which it deals out, what it has begun to send may be the only copy.
    fn is_sent_rest(&self) -> bool {
        self.standing != Standing::Taker || self.view.passes_on.is_some()
    }

    /// Whether by the last decision it gets nothing more, not even the rest of a piece, and before that it might have.
    pub(super) fn is_cut_off(&self) -> bool {
        let might_get_some = self.was_answered || !self.only_took;
        might_get_some && !self.is_answered() && !self.is_sent_rest()
    }

    pub(super) fn put(&mut self, now: Duration, slot: Slot) {
        self.left_at = now;
        let is_leaving = slot == Slot::None && self.view.amid_piece && self.is_sent_rest();
        self.leaving = if is_leaving { self.slot } else { Slot::None };
        // From optimistic to regular it goes on being answered: its turn is not new.
        if (self.slot == Slot::None) != (slot == Slot::None) {
            self.since = now;
        }
        self.slot = slot;
    }

    pub(super) fn is_answered(&self) -> bool {
        self.slot != Slot::None
    }

    /// Whether it has a slot that it may lose before the next round for somebody who stands better.
    pub(super) fn may_give_way(&self) -> bool {
        match self.slot {
            Slot::None => false,
            Slot::Regular => self.standing < Standing::Giver,
            Slot::Optimistic => self.standing < Standing::New,
        }
    }

    /// Whether it had no chance yet to show anything: it was not sent a piece.
    pub(super) fn is_untried(&self, piece_len: u64) -> bool {
        self.standing == Standing::New && self.view.taken() < piece_len
    }

    /// The same, and it has nothing that it could give: it is new to the swarm, for all that is known.
    pub(super) fn is_newcomer(&self, piece_len: u64) -> bool {
        self.is_untried(piece_len) && self.view.held == 0
    }

    /// Whether it was given a trial ahead of its part, has taken nothing since, and nothing is on its way to it.
    pub(super) fn had_nothing_ahead(&self) -> bool {
        let gets_some = self.view.amid_piece || self.view.in_hand;
        self.ahead_from == Some(self.view.uploaded_to) && !gets_some
    }

    /// Whether it was given one, and has had what that is for.
    pub(super) fn had_piece_ahead(&self, piece_len: u64) -> bool {
        self.ahead_from.is_some_and(|from| self.view.uploaded_to >= from + piece_len)
    }

    /// Whether it gives, or may come to. A seeder that deals pieces out cannot know before it has seen what becomes of
    /// them; a receiver has reason to doubt who holds something and does not answer it.
    pub(super) fn may_give(&self) -> bool {
        let is_promising = self.view.passes_on.is_some() || self.promise() != Promise::Nothing;
        match self.standing {
            Standing::Giver => true,
            Standing::New => is_promising,
            Standing::OnTrial => self.view.passes_on.is_some(),
            Standing::Taker => false,
        }
    }

    /// Whether it has had no chance yet, has never given anything, holds something and does not answer us: it has enough
    /// others, or only takes.
    pub(super) fn is_silent(&self) -> bool {
        let never_gave = self.view.given() == 0;
        self.standing == Standing::New && never_gave && self.promise() == Promise::Nothing
    }

    /// Whether it wants something and has no slot.
    pub(super) fn has_no_slot(&self) -> bool {
        self.view.interested && self.slot == Slot::None
    }

    /// The same, and it has not given one away of late by not using it.
    pub(super) fn is_waiting(&self, now: Duration) -> bool {
        self.has_no_slot() && now >= self.benched_until
    }

    /// By what it is ranked among those that stand alike, the best highest.
    pub(super) fn score(&self, now: Duration, policy: ChokePolicy) -> u64 {
        match policy {
            ChokePolicy::Contribution if self.standing == Standing::Taker => self.view.held.into(),
            ChokePolicy::Contribution if self.standing == Standing::New => self.promise() as u64,
            ChokePolicy::Contribution => {
                self.view.verified_from.saturating_sub(self.verified_marks[0])
            }
            ChokePolicy::Rarity => u64::from(self.view.rare_pieces),
            ChokePolicy::Seeder => turn_score(now, self),
        }
    }

    /// What speaks for it while it has had no chance to give us anything.
    pub(super) fn promise(&self) -> Promise {
        if self.view.answers_us {
            Promise::Answers
        } else if self.view.held == 0 {
            Promise::Empty
        } else {
            Promise::Nothing
        }
    }

    /// How it stands by what it gave us. Only what it gave of late makes it a giver, as long as
    /// we want anything ourselves.
    fn standing_by_trade(&self, now: Duration, piece_len: u64, policy: ChokePolicy) -> Standing {
        let view = &self.view;
        let counts_from = if policy == ChokePolicy::Seeder { 0 } else { self.verified_marks[0] };
        let was_sent_many = view.taken() >= TAKER_SOON_PIECES * piece_len;
        let after = if was_sent_many { soon_after(view) } else { TAKER_AFTER };
        let has_had_time = view.past.taken >= piece_len
            || self.taking_since.is_some_and(|since| now.saturating_sub(since) >= after);
        let had_its_chance = view.taken() >= piece_len && has_had_time;
        let given = if policy == ChokePolicy::Seeder { view.given() } else { view.verified_from };
        if had_its_chance && view.given() < view.taken() / TAKER_PART {
            Standing::Taker
        } else if given > counts_from {
            Standing::Giver
        } else if view.past.is_suspect {
            Standing::OnTrial
        } else {
            Standing::New
        }
    }
}
