//! The regular slots: in which order peers come for them, and who loses one for whom.
//!
//! Invariant: in a round no more slots than [`MOVES_MAX`] are taken from peers that have done nothing
//! to lose theirs.
//! Not here: the slots of those who are tried (`trials`), and why one falls free (the module above).

use std::time::Duration;

use fastrand::Rng;

use super::peer::{PeerState, Slot};
use super::{ChokePolicy, Choker, PeerView};
use crate::swarm::Standing;

/// Half of the regular slots keep a link busy, but no fewer than so many.
const BUSY_MIN: usize = 2;
/// Whoever holds less than this much of what others hold, who give as well, is far behind.
const BEHIND_PERCENT: u64 = 75;
/// Slots that are moved in a round at most.
const MOVES_MAX: usize = 1;

impl Choker {
    /// Those that may hold a regular slot, the best first.
    pub(super) fn rank(&self, now: Duration, policy: ChokePolicy, rng: &mut Rng) -> Vec<Ranked> {
        let laggard = self.laggard(now, policy);
        let mut ranking: Vec<_> = (self.peers.iter().enumerate())
            .filter(|(_, peer)| may_hold_regular(policy, &peer.view))
            .map(|(at, peer)| {
                let ranked = Ranked {
                    key: 0,
                    benched: now < peer.benched_until,
                    standing: peer.standing,
                    is_laggard: laggard == Some(at),
                    score: peer.score(now, policy),
                    regular: peer.slot == Slot::Regular,
                    at,
                };
                ranked.with_key(rng.u32(..))
            })
            .collect();
        ranking.sort_unstable_by_key(|ranked| std::cmp::Reverse(ranked.key));
        ranking
    }

    /// Who is far behind the others who give, and had less of us than these on average, comes first: with nothing that anybody
    /// lacks it can give nothing, and gets less and less for it. What a peer says that it holds is its own affair, and so is
    /// how slowly it reads, so that is one turn in two at most: of several, whose turn is longest ago.
    fn laggard(&self, now: Duration, policy: ChokePolicy) -> Option<usize> {
        if policy != ChokePolicy::Seeder || self.laggard_had_turn {
            return None;
        }
        let (mut count, mut held, mut had) = (0, 0, 0);
        for giver in self.peers.iter().filter(|peer| peer.standing == Standing::Giver) {
            count += 1;
            held += u64::from(giver.view.held);
            had += giver.view.taken();
        }
        let is_behind = |peer: &PeerState| {
            peer.standing == Standing::Giver
                && u64::from(peer.view.held) * count * 100 < held * BEHIND_PERCENT
                && peer.view.taken() * count < had
        };
        let waiting = self.peers.iter().enumerate().filter(|(_, peer)| peer.is_waiting(now));
        let laggards = waiting.filter(|(_, peer)| is_behind(peer));
        laggards.min_by_key(|(_, peer)| peer.since).map(|(at, _)| at)
    }

    /// Who stands worse has a regular slot only as long as nobody is there for it who stands better: a
    /// peer that wants what has just come does not wait for a round while its gifts go to others.
    /// Those on trial count, too: they come before others of their standing that wait, and if only the
    /// latter counted, the slot taken for one would be filled with another.
    pub(super) fn make_way(&mut self, now: Duration, ranking: &mut [Ranked]) {
        let regular = ranking.iter().filter(|ranked| ranked.regular).count();
        let mut free = self.slots().0.saturating_sub(regular);
        let mut worst_from = ranking.len();
        for better in 0..ranking.len() {
            if ranking[better].regular || ranking[better].benched {
                continue;
            }
            if free > 0 {
                free -= 1;
                continue;
            }
            // The better one is ranked before all others that have none, and gets the slot once
            // it is free.
            let Some(worse) = ranking[..worst_from].iter().rposition(|ranked| ranked.regular)
            else {
                return;
            };
            let stands_better = ranking[better].standing > ranking[worse].standing;
            if !stands_better || !self.take_from(now, &mut ranking[worse]) {
                return;
            }
            worst_from = worse;
        }
    }

    /// How many more than those who do not only take it needs to keep the link busy. A slot that
    /// is left empty makes the others larger.
    pub(super) fn to_be_busy(&self) -> usize {
        let trusted = self
            .peers
            .iter()
            .filter(|peer| peer.slot == Slot::Regular && peer.standing >= self.trusted_from)
            .filter(|peer| !self.is_surplus(peer));
        (self.slots().0 / 2).max(BUSY_MIN).saturating_sub(trusted.count())
    }

    /// Those who only take have only so many regular slots as it needs to keep the link busy.
    pub(super) fn leave_out_takers(&mut self, now: Duration, ranking: &mut Vec<Ranked>) {
        let mut room = self.to_be_busy();
        let is_busy = room == 0;
        ranking.retain_mut(|ranked| {
            let is_surplus = self.is_surplus(&self.peers[ranked.at]);
            let stands_well = ranked.standing >= self.trusted_from
                || ranked.standing == Standing::New && !is_busy;
            if stands_well && !is_surplus {
                return true;
            }
            if room > 0 {
                room -= 1;
                return true;
            }
            if is_surplus {
                self.give_up_regular(now, ranked);
            }
            ranked.regular && !self.take_from(now, ranked)
        });
    }

    /// Drops surplus regular slots, then gives some to better peers: the calm part of a round.
    pub(super) fn swap_regular(
        &mut self,
        now: Duration,
        policy: ChokePolicy,
        ranking: &mut [Ranked],
    ) {
        let (slots, _) = self.slots();
        let mut worst_first: Vec<_> =
            (0..ranking.len()).rev().filter(|at| ranking[*at].regular).collect();
        let surplus = worst_first.len().saturating_sub(slots);
        for at in worst_first.drain(..surplus) {
            self.peers[ranking[at].at].put(now, Slot::None);
            ranking[at].regular = false;
        }
        let free = slots - worst_first.len();
        let candidates: Vec<_> =
            (0..ranking.len()).filter(|at| !ranking[*at].regular).skip(free).collect();
        if let (Some(worse), Some(better)) = (worst_first.first(), candidates.first())
            && deserves(policy, &ranking[*better], &ranking[*worse])
        {
            self.take_from(now, &mut ranking[*worse]);
        }
    }

    /// Gives free regular slots to the best ranked that have none.
    pub(super) fn fill_regular(&mut self, now: Duration, ranking: &[Ranked]) {
        let (slots, _) = self.slots();
        let used = self.taken(Slot::Regular);
        let without = ranking.iter().filter(|ranked| !ranked.regular);
        for ranked in without.take(slots.saturating_sub(used)) {
            self.peers[ranked.at].put(now, Slot::Regular);
            self.laggard_had_turn = ranked.is_laggard;
        }
    }

    /// Takes a regular slot from a peer that would have kept it, for others' sake; false if no more
    /// may be moved in this round. Who has shown nothing for what it was sent can always lose it.
    fn take_from(&mut self, now: Duration, holder: &mut Ranked) -> bool {
        if holder.standing >= Standing::New {
            if self.moved >= MOVES_MAX {
                return false;
            }
            self.moved += 1;
        }
        self.give_up_regular(now, holder);
        true
    }

    fn give_up_regular(&mut self, now: Duration, holder: &mut Ranked) {
        if std::mem::take(&mut holder.regular) {
            self.peers[holder.at].put(now, Slot::None);
        }
    }
}

/// A candidate for a regular slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked {
    /// The greater, the sooner it comes.
    key: u128,
    benched: bool,
    standing: Standing,
    is_laggard: bool,
    score: u64,
    regular: bool,
    /// Its place among the peers.
    at: usize,
}

impl Ranked {
    /// Among equals those that have a slot keep it; the rest is chance. In one number, the first to
    /// be looked at on top, and made once: candidates are compared far more often than anything else is done here.
    fn with_key(mut self, tie: u32) -> Self {
        let by_standing = u128::from(!self.benched) << 8 | self.standing as u128;
        let by_standing = by_standing << 1 | u128::from(self.is_laggard);
        let by_score = by_standing << 64 | u128::from(self.score);
        self.key = by_score << 33 | u128::from(self.regular) << 32 | u128::from(tie);
        self
    }
}

pub(super) fn may_hold_regular(policy: ChokePolicy, view: &PeerView) -> bool {
    view.interested && (policy == ChokePolicy::Seeder || !view.snubbed)
}

/// The lowest rank by turns of a peer that waits.
const WAITS: u64 = 1 << 63;

/// Rank by turns: those who wait above those who are answered, each by how long.
pub(super) fn turn_score(now: Duration, peer: &PeerState) -> u64 {
    let millis = u64::try_from(now.saturating_sub(peer.since).as_millis()).unwrap_or(u64::MAX);
    let millis = millis.min(WAITS - 1);
    if peer.slot == Slot::None { WAITS + millis } else { WAITS - 1 - millis }
}

/// Whether `better` may take the slot of `worse` in a round.
fn deserves(policy: ChokePolicy, better: &Ranked, worse: &Ranked) -> bool {
    if better.benched || better.standing < worse.standing {
        return false;
    }
    match policy {
        // Whoever waits comes before whoever had a turn.
        ChokePolicy::Seeder => better.score >= WAITS,
        ChokePolicy::Contribution | ChokePolicy::Rarity => better.score > worse.score,
    }
}
