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
/// And a seeder may try one stranger besides for each so many pieces of the share: who is honest shall not wait for its first
/// piece until a twentieth is enough for all who came before.
pub(super) const TRIALS_PART: u32 = 32;
/// How long an optimistic slot is kept.
const TRIAL: Duration = ROUND.saturating_mul(3);

impl Choker {
    /// Whether those who only take have had their part of what we send.
    pub(super) fn takers_had_their_part(&self) -> bool {
        let (mut all, mut takers) = (0, 0);
        for peer in &self.peers {
            // Over this link: what went to them long ago nobody misses today.
            all += peer.view.uploaded_to;
            if peer.standing < self.trusted_from {
                takers += peer.view.uploaded_to;
            }
        }
        takers * CHANCE_PART > all
    }

    /// A trial that has shown nothing ends at once if somebody waits who stands better, or if
    /// the link is busy without.
    pub(super) fn end_vain_trials(&mut self, now: Duration) {
        let left_out = self.to_be_busy() == 0 && self.takers_had_their_part();
        let waits = |peer: &&PeerState| peer.is_waiting(now) && peer.standing >= Standing::New;
        let waiting = self.peers.iter().filter(waits).count();
        let is_vain =
            |peer: &&mut PeerState| peer.slot == Slot::Optimistic && peer.standing < Standing::New;
        let ended = if left_out { usize::MAX } else { waiting };
        for peer in self.peers.iter_mut().filter(is_vain).take(ended) {
            peer.put(now, Slot::None);
        }
    }

    /// Who is new to the swarm and has nothing that it could give does not wait for as long as a trial lasts that has shown what it
    /// could: all may be in one at once. When a round begins.
    pub(super) fn end_trials_for_newcomers(&mut self, now: Duration) {
        let is_newcomer = |peer: &PeerState| peer.standing == Standing::New && peer.view.held == 0;
        let waits = |peer: &&PeerState| peer.is_waiting(now) && is_newcomer(peer);
        // A slot that is free once a piece is out is for one of them.
        let to_come = self.peers.iter().filter(|peer| peer.leaving == Slot::Optimistic).count();
        let waiting = self.peers.iter().filter(waits).count().saturating_sub(to_come);
        let is_over = |peer: &&mut PeerState| {
            let lasted = now.saturating_sub(peer.since) >= ROUND / 2;
            peer.slot == Slot::Optimistic && lasted && !is_newcomer(peer)
        };
        for peer in self.peers.iter_mut().filter(is_over).take(waiting) {
            peer.put(now, Slot::None);
        }
    }

    /// Ends the trials that have lasted, as far as others wait; returns the places of those that were
    /// tried.
    pub(super) fn end_trials(&mut self, now: Duration) -> Vec<usize> {
        let waiting = self.peers.iter().filter(|peer| peer.has_no_slot()).count();
        let lasted = self.peers.iter_mut().enumerate().filter(|(_, peer)| {
            peer.slot == Slot::Optimistic && now.saturating_sub(peer.since) >= TRIAL
        });
        let ended = lasted.take(waiting).map(|(at, peer)| {
            peer.put(now, Slot::None);
            at
        });
        ended.collect()
    }

    /// Gives free optimistic slots to some that have none: first to those who had no chance yet,
    /// then to those that we owe most or that owe us least. To those who only take, while others
    /// keep the link busy, no more than their part.
    pub(super) fn fill_optimistic(&mut self, now: Duration, tried: &[usize], rng: &mut Rng) {
        let used = self.taken(Slot::Optimistic);
        let free = self.slots().1.saturating_sub(used);
        if free == 0 {
            return;
        }
        let left_out = self.to_be_busy() == 0 && self.takers_had_their_part();
        let besides = if self.trusted_from == Standing::Giver { self.trials_besides } else { 0 };
        let may_be_tried = |peer: &PeerState| {
            peer.standing >= self.trusted_from
                || !left_out
                || besides > 0 && peer.standing == Standing::New
        };
        let mut waiting: Vec<_> = (self.peers.iter().enumerate())
            .filter(|(_, peer)| peer.has_no_slot() && may_be_tried(peer))
            .map(|(at, peer)| {
                let comes_last = now < peer.benched_until || tried.contains(&at);
                let known = peer.standing != Standing::New;
                let standing = std::cmp::Reverse(peer.standing);
                // Who is new to the swarm must not wait; others have shown by now whether they answer.
                let comes_first = peer.standing == Standing::New && peer.view.held == 0;
                let promise = std::cmp::Reverse((comes_first, peer.promise()));
                let owes = peer.view.taken() as i64 - peer.view.given() as i64;
                let owes = match peer.standing {
                    Standing::Taker => -i64::from(peer.view.held),
                    _ => owes.div_euclid(self.piece_len as i64),
                };
                (comes_last, known, standing, promise, owes, rng.u32(..), at)
            })
            .collect();
        waiting.sort_unstable();
        for (.., at) in waiting.into_iter().take(free) {
            self.peers[at].put(now, Slot::Optimistic);
            if left_out && self.peers[at].standing < self.trusted_from {
                self.trials_besides = self.trials_besides.saturating_sub(1);
            }
        }
    }
}
