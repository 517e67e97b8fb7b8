//! The optimistic slots: who is tried, for how long, and how much those who only take may have in all.
//!
//! Not here: what makes a peer a giver or a taker (`peer`).

use std::time::Duration;

use fastrand::Rng;

use super::peer::{PeerState, Slot};
use super::{Choker, ROUND};
use crate::swarm::Standing;

/// Of all that we send, those who only take get one part in so many, by chance.
const CHANCE_PART: u64 = 20;
/// Ahead of that a seeder may try one stranger for each so many pieces of the share: who is honest shall not wait for its first
/// piece until a twentieth is enough for all who came before.
pub(super) const TRIALS_PART: u32 = 32;
/// How long an optimistic slot is kept.
const TRIAL: Duration = ROUND.saturating_mul(3);

/// What went to those who are gone, over their links.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gone {
    to_all: u64,
    /// Of that, to those who only took, or of whom a seeder did not come to know that they give.
    to_takers: u64,
}

impl Choker {
    /// Whether those who only take have nothing but their part of what we send, and have had it.
    fn leaves_out_takers(&self) -> bool {
        self.to_be_busy() == 0 && self.takers_had_their_part()
    }

    /// Over links that are gone too: else whoever leaves after each piece would have its part again and again.
    pub(super) fn takers_had_their_part(&self) -> bool {
        let Gone { to_all: mut all, to_takers: mut takers } = self.gone;
        for peer in &self.peers {
            all += peer.view.uploaded_to;
            if peer.standing < self.trusted_from {
                takers += peer.view.uploaded_to;
            }
        }
        takers * CHANCE_PART > all
    }

    /// Parts with those who were not seen in this decision.
    pub(super) fn part_with_gone(&mut self) {
        let decision = self.decisions;
        for peer in self.peers.extract_if(.., |peer| peer.seen_in != decision) {
            let taken = peer.view.uploaded_to;
            self.gone.to_all += taken;
            self.gone.to_takers += if peer.standing < self.trusted_from { taken } else { 0 };
            self.trials_ahead += u32::from(peer.had_nothing_ahead());
        }
    }

    /// Who was to be tried ahead of its part and took nothing until its slot was lost had none of what there is for strangers.
    pub(super) fn take_back_trials(&mut self) {
        let took_none =
            |peer: &&mut PeerState| peer.slot != Slot::Optimistic && peer.had_nothing_ahead();
        for peer in self.peers.iter_mut().filter(took_none) {
            peer.ahead_from = None;
            self.trials_ahead += 1;
        }
    }

    /// Whether it may have an optimistic slot, or there is none for it because it does not give and its part is gone.
    fn may_be_tried(&self, peer: &PeerState, leaves_out_takers: bool) -> bool {
        let has_one_ahead = || match peer.ahead_from {
            Some(_) => !peer.had_piece_ahead(self.piece_len),
            None => self.trusted_from == Standing::Giver && self.trials_ahead > 0,
        };
        peer.standing >= self.trusted_from
            || !leaves_out_takers
            || peer.standing == Standing::New && has_one_ahead()
    }

    /// A trial that has shown nothing ends at once if somebody waits who stands better, or if
    /// the link is busy without; and one ahead of its part when it has had its piece.
    pub(super) fn end_vain_trials(&mut self, now: Duration) {
        let leaves_out = self.leaves_out_takers();
        let waits = |peer: &&PeerState| peer.is_waiting(now) && peer.standing >= Standing::New;
        let waiting = self.peers.iter().filter(waits).count();
        let piece_len = self.piece_len;
        self.end_longest(now, if leaves_out { usize::MAX } else { waiting }, |peer| {
            peer.standing < Standing::New || leaves_out && peer.had_piece_ahead(piece_len)
        });
    }

    /// Ends the trials that have lasted, as far as others wait; returns the places of those that were
    /// tried.
    pub(super) fn end_trials(&mut self, now: Duration) -> Vec<usize> {
        let waiting = self.peers.iter().filter(|peer| peer.has_no_slot()).count();
        self.end_longest(now, waiting, |peer| now.saturating_sub(peer.since) >= TRIAL)
    }

    /// The same for those who are new to the swarm and have nothing that they could give: they do not wait for as long as a trial
    /// lasts that has shown what it could, for all may be in one at once. When a round begins, and the regular slots are given.
    pub(super) fn end_trials_for_newcomers(&mut self, now: Duration) -> Vec<usize> {
        let piece_len = self.piece_len;
        let leaves_out = self.leaves_out_takers();
        let waits = |peer: &&PeerState| {
            peer.is_waiting(now)
                && peer.is_newcomer(piece_len)
                && self.may_be_tried(peer, leaves_out)
        };
        // A slot that is free, now or once a piece is out, is for one of them.
        let free = self.slots().1.saturating_sub(self.tried().count());
        let waiting = self.peers.iter().filter(waits).count().saturating_sub(free);
        self.end_longest(now, waiting, |peer| {
            now.saturating_sub(peer.since) >= ROUND / 2 && !peer.is_newcomer(piece_len)
        })
    }

    /// Those who are being tried, and their places.
    fn tried(&self) -> impl Iterator<Item = (usize, &PeerState)> {
        self.peers.iter().enumerate().filter(|(_, peer)| peer.slot == Slot::Optimistic)
    }

    /// Ends so many of the trials that are over, at most, the longest first; returns the places of those who were tried.
    fn end_longest(
        &mut self,
        now: Duration,
        most: usize,
        is_over: impl Fn(&PeerState) -> bool,
    ) -> Vec<usize> {
        let mut over: Vec<_> =
            self.tried().filter(|(_, peer)| is_over(peer)).map(|(at, _)| at).collect();
        over.sort_by_key(|at| self.peers[*at].since);
        over.truncate(most);
        over.iter().for_each(|at| self.peers[*at].put(now, Slot::None));
        over
    }

    /// Gives free optimistic slots to some that have none: first to those who had no chance yet,
    /// then to those that we owe most or that owe us least. To those who only take, while others
    /// keep the link busy, no more than their part.
    pub(super) fn fill_optimistic(&mut self, now: Duration, tried: &[usize], rng: &mut Rng) {
        let used = self.taken(Slot::Optimistic);
        let mut free = self.slots().1.saturating_sub(used);
        if free == 0 {
            return;
        }
        let leaves_out = self.leaves_out_takers();
        let mut waiting: Vec<_> = (self.peers.iter().enumerate())
            .filter(|(_, peer)| peer.has_no_slot() && self.may_be_tried(peer, leaves_out))
            .map(|(at, peer)| {
                let comes_last = now < peer.benched_until || tried.contains(&at);
                let known = peer.standing != Standing::New;
                let standing = std::cmp::Reverse(peer.standing);
                // Who is new to the swarm must not wait; others have shown by now whether they answer.
                let comes_first = peer.is_newcomer(self.piece_len);
                let promise = std::cmp::Reverse((comes_first, peer.promise()));
                let owes = peer.view.taken() as i64 - peer.view.given() as i64;
                let owes = match peer.standing {
                    Standing::Taker => -i64::from(peer.view.held),
                    _ => owes.div_euclid(self.piece_len as i64),
                };
                // Who is far behind lacks what it could give, so it is for us to begin.
                let is_hopeful = peer.view.answers_us && peer.is_untried(self.piece_len);
                let held = if is_hopeful { peer.view.held } else { 0 };
                (comes_last, known, standing, promise, owes, held, rng.u32(..), at)
            })
            .collect();
        waiting.sort_unstable();
        for (.., at) in waiting {
            if free == 0 {
                break;
            }
            if self.is_surplus(&self.peers[at]) && !std::mem::take(&mut self.may_try_silent) {
                continue;
            }
            let peer = &mut self.peers[at];
            if leaves_out && peer.standing < self.trusted_from && peer.ahead_from.is_none() {
                if self.trials_ahead == 0 {
                    continue;
                }
                self.trials_ahead -= 1;
                peer.ahead_from = Some(peer.view.uploaded_to);
            }
            peer.put(now, Slot::Optimistic);
            free -= 1;
        }
    }
}
