//! What came of a simulated swarm.

use std::time::Duration;

use super::member::at;
use super::scenario::{Role, Scenario};
use super::world::World;
use crate::swarm::MovesByRound;

/// The swarm at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment {
    /// Virtual time.
    pub at: Duration,
    /// Of all that honest leechers want, the part that they have.
    pub progress: f64,
    /// Honest leechers that are done.
    pub done: u32,
    /// Copies of a piece among the leechers: of the rarest one, in the mean, of the commonest.
    pub availability: (u32, f64, u32),
}

/// What one peer did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MemberReport {
    /// How it behaved.
    pub role: Role,
    /// What it could send, in bytes per second.
    pub upload_rate: f64,
    /// From joining to its last piece.
    pub took: Option<Duration>,
    /// When it had its last piece.
    pub completed: Option<Duration>,
    /// From joining to its first piece.
    pub first_piece: Option<Duration>,
    /// Whether some honest peer has banned it.
    pub banned: bool,
    /// Part of the pieces it has, from 0 to 1.
    pub has: f64,
    /// Payload bytes sent.
    pub uploaded: u64,
    /// Payload bytes received and kept.
    pub downloaded: u64,
    /// Payload bytes received and thrown away.
    pub wasted: u64,
    /// Messages sent, blocks counted.
    pub messages: u64,
    /// Pieces that came wrong.
    pub refused: u64,
    /// Rounds of its choker by how many slots it moved in them from one peer to another.
    pub moves: MovesByRound,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// What was simulated.
    pub scenario: Scenario,
    /// Whether every honest leecher has everything.
    pub finished: bool,
    /// Virtual time at the end.
    pub ended: Duration,
    /// Seeders first.
    pub members: Vec<MemberReport>,
    /// The swarm over time.
    pub timeline: Vec<Moment>,
    /// The honest leechers of no swarm could have been done sooner.
    pub lower_bound: Duration,
    /// What the seeders had sent, over the share's length, when the last piece was with some
    /// honest leecher.
    pub first_copy: Option<f64>,
    /// How many events there were.
    pub events: u64,
    /// The same scenario gives the same.
    pub events_hash: u64,
}

/// What slow peers cost, in seconds: how much later something is than in the same swarm without them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SlowCost {
    /// The end, for which the slow peers count as well.
    pub later: f64,
    /// The last of the other peers.
    pub others_later: f64,
    /// The bound for all ways out together ([`Scenario::all_ways_out`]): so much the end must be later whatever
    /// the rules, where that bound is what a swarm comes near to, because less can be sent.
    pub unsent: f64,
}

/// Moments of a run; fewer and fewer as it grows long.
#[derive(Clone, Debug)]
pub(super) struct Timeline {
    moments: Vec<Moment>,
    gap: u64,
}

/// Moments kept at most.
const MOMENTS_MAX: usize = 400;

impl Default for Timeline {
    fn default() -> Self {
        Self { moments: Vec::new(), gap: 100_000_000 }
    }
}

impl Timeline {
    /// Nanoseconds until the next look.
    pub(super) fn next_gap(&self) -> u64 {
        self.gap
    }

    pub(super) fn add(&mut self, moment: Moment) {
        if self.moments.len() >= MOMENTS_MAX {
            let mut number = 0;
            self.moments.retain(|_| {
                number += 1;
                number % 2 == 1
            });
            self.gap *= 2;
        }
        self.moments.push(moment);
    }

    pub(super) fn look(world: &World) -> Moment {
        let (mut have, mut want, mut done) = (0u64, 0u64, 0);
        for member in world.members.iter().filter(|member| member.role == Role::Leecher) {
            have += u64::from(member.verified.len());
            want += u64::from(member.verified.capacity());
            done += u32::from(member.completed.is_some());
        }
        let counts = &world.copies;
        let sum: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        Moment {
            at: world.now(),
            progress: have as f64 / want.max(1) as f64,
            done,
            availability: (
                counts.iter().copied().min().unwrap_or(0),
                sum as f64 / counts.len().max(1) as f64,
                counts.iter().copied().max().unwrap_or(0),
            ),
        }
    }
}

impl Report {
    pub(super) fn of(world: &World) -> Self {
        let members = world.members.iter().map(|member| {
            let sums = member.sums();
            let since = member.joined.unwrap_or(0);
            MemberReport {
                role: member.role,
                upload_rate: member.upload_rate,
                took: member.completed.map(|completed| at(completed.saturating_sub(since))),
                completed: member.completed.map(at),
                first_piece: member.first_piece.map(|first| at(first.saturating_sub(since))),
                banned: member.banned,
                has: f64::from(member.verified.len()) / f64::from(member.verified.capacity()),
                uploaded: sums.uploaded,
                downloaded: sums.downloaded,
                wasted: sums.wasted,
                messages: sums.messages,
                refused: sums.refused,
                moves: sums.moves,
            }
        });
        let mut timeline = world.timeline.clone();
        timeline.add(Timeline::look(world));
        Self {
            finished: world.wanting == 0,
            ended: world.now(),
            members: members.collect(),
            timeline: timeline.moments,
            lower_bound: world.scenario.lower_bound(),
            first_copy: world.first_copy.map(|sent| sent as f64 / world.scenario.share_len()),
            events: world.events,
            events_hash: world.hash(),
            scenario: world.scenario.clone(),
        }
    }

    /// Those of one role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &MemberReport> {
        self.members.iter().filter(move |member| member.role == role)
    }

    /// When honest leechers were done, ascending.
    pub fn completions(&self) -> Vec<Duration> {
        let mut times: Vec<_> =
            self.of_role(Role::Leecher).filter_map(|member| member.completed).collect();
        times.sort_unstable();
        times
    }

    /// How long honest leechers waited for their first piece, ascending; those that have none yet
    /// are left out.
    pub fn first_pieces(&self) -> Vec<Duration> {
        let mut waits: Vec<_> =
            self.of_role(Role::Leecher).filter_map(|member| member.first_piece).collect();
        waits.sort_unstable();
        waits
    }

    /// How many honest peers were banned by another honest peer.
    pub fn honest_banned(&self) -> usize {
        self.members.iter().filter(|member| member.role.is_honest() && member.banned).count()
    }

    /// What the least and the most served honest leechers got, over the mean of all; `None` if
    /// nobody got anything.
    pub fn shares(&self) -> Option<(f64, f64)> {
        let mut got: Vec<u64> = self.of_role(Role::Leecher).map(|m| m.downloaded).collect();
        got.sort_unstable();
        let mean = got.iter().sum::<u64>() as f64 / got.len().max(1) as f64;
        let (least, most) = (*got.first()?, *got.last()?);
        (mean > 0.0).then(|| (least as f64 / mean, most as f64 / mean))
    }

    /// Parts of the pieces that honest leechers have, ascending, from 0 to 1.
    pub fn verified_parts(&self) -> Vec<f64> {
        let mut parts: Vec<f64> = self.of_role(Role::Leecher).map(|member| member.has).collect();
        parts.sort_by(f64::total_cmp);
        parts
    }

    /// What slow peers cost here, beside the same swarm without them; `None` if either did not finish.
    pub fn slow_cost(&self, without: &Self) -> Option<SlowCost> {
        let slow = self.scenario.slow.map_or(0, |(count, _)| count as usize);
        let both = [self, without];
        let [later, others_later] = [0, slow].map(|left_out| {
            let ends = both.map(|report| report.last_but(left_out));
            Some(ends[0]? - ends[1]?)
        });
        let [with, all] = both.map(|report| report.scenario.all_ways_out().as_secs_f64());
        Some(SlowCost { later: later?, others_later: others_later?, unsent: with - all })
    }

    /// When the last honest leecher was done, in seconds, not counting so many of the last in number.
    fn last_but(&self, left_out: usize) -> Option<f64> {
        let counted = self.of_role(Role::Leecher).count().saturating_sub(left_out);
        let ends = self.of_role(Role::Leecher).take(counted).filter_map(|member| member.completed);
        self.finished.then(|| ends.map(|end| end.as_secs_f64()).fold(0.0, f64::max))
    }

    /// When the last honest leecher was done, over the lower bound.
    pub fn over_bound(&self) -> Option<f64> {
        let last = self.completions().last().copied().filter(|_| self.finished)?;
        Some(last.as_secs_f64() / self.lower_bound.as_secs_f64())
    }

    /// What the seeders sent, over the share's length.
    pub fn seeder_copies(&self) -> f64 {
        let sent: u64 = self.of_role(Role::Seeder).map(|member| member.uploaded).sum();
        sent as f64 / self.scenario.share_len()
    }

    /// Messages sent by each peer in the mean, blocks counted.
    pub fn messages_per_peer(&self) -> f64 {
        let sum: u64 = self.members.iter().map(|member| member.messages).sum();
        sum as f64 / self.members.len().max(1) as f64
    }

    /// How many regular slots an honest peer moved from one peer to another in a round: less than half
    /// of the rounds had more than the first, and none more than the second. `None` without a round.
    pub fn slot_moves(&self) -> Option<(usize, usize)> {
        let honest = || self.members.iter().filter(|member| member.role.is_honest());
        let rounds = |moved: usize| honest().map(|m| u64::from(m.moves[moved])).sum::<u64>();
        let most = (0..MovesByRound::default().len()).rev().find(|moved| rounds(*moved) > 0)?;
        let all: u64 = (0..=most).map(rounds).sum();
        let up_to = |moved: usize| (0..=moved).map(rounds).sum::<u64>();
        let median = (0..=most).find(|moved| 2 * up_to(*moved) >= all)?;
        Some((median, most))
    }

    /// Of all payload that came, the part that was thrown away.
    pub fn waste(&self) -> f64 {
        let wasted: u64 = self.of_role(Role::Leecher).map(|member| member.wasted).sum();
        let kept: u64 = self.of_role(Role::Leecher).map(|member| member.downloaded).sum();
        wasted as f64 / (wasted + kept).max(1) as f64
    }

    /// How evenly honest leechers were served: Jain's index of the rates at which they got what
    /// they got, 1 when all are alike.
    pub fn fairness(&self) -> f64 {
        let rates: Vec<f64> = self.of_role(Role::Leecher).map(|m| self.rate(m)).collect();
        let (sum, squares) = rates
            .iter()
            .fold((0.0, 0.0), |(sum, squares), rate| (sum + rate, squares + rate * rate));
        if squares == 0.0 { 1.0 } else { sum * sum / (rates.len() as f64 * squares) }
    }

    /// The rate at which a peer got what it has, in bytes per second.
    pub fn rate(&self, member: &MemberReport) -> f64 {
        member.downloaded as f64 / member.took.unwrap_or(self.ended).as_secs_f64().max(1e-9)
    }

    /// How well the order of honest leechers by what they can send agrees with their order by
    /// the rate they got (Spearman's rank correlation); `None` if all can send the same.
    pub fn give_and_take(&self) -> Option<f64> {
        let pairs: Vec<(f64, f64)> =
            self.of_role(Role::Leecher).map(|m| (m.upload_rate, self.rate(m))).collect();
        spearman(&pairs)
    }
}

fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    let first = ranks(&pairs.iter().map(|pair| pair.0).collect::<Vec<_>>());
    let second = ranks(&pairs.iter().map(|pair| pair.1).collect::<Vec<_>>());
    let mean = (pairs.len() as f64 + 1.0) / 2.0;
    let (mut both, mut ours, mut theirs) = (0.0, 0.0, 0.0);
    for (a, b) in first.iter().zip(&second) {
        both += (a - mean) * (b - mean);
        ours += (a - mean).powi(2);
        theirs += (b - mean).powi(2);
    }
    (ours > 0.0 && theirs > 0.0).then(|| both / (ours * theirs).sqrt())
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut from = 0;
    while from < order.len() {
        let alike = order[from..].iter().take_while(|at| values[**at] == values[order[from]]);
        let count = alike.count();
        for at in &order[from..from + count] {
            ranks[*at] = from as f64 + (count as f64 + 1.0) / 2.0;
        }
        from += count;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rank_correlation_is_one_for_the_same_order_and_none_without_an_order() {
        let rising: Vec<(f64, f64)> = (0..9).map(|n| (f64::from(n), f64::from(n * n))).collect();
        assert!((spearman(&rising).unwrap_or(0.0) - 1.0).abs() < 1e-9);
        let falling: Vec<(f64, f64)> = rising.iter().map(|(a, b)| (*a, -b)).collect();
        assert!((spearman(&falling).unwrap_or(0.0) + 1.0).abs() < 1e-9);
        assert_eq!(spearman(&[(1.0, 2.0), (1.0, 3.0)]), None);
    }

    fn done_after(seconds: u64) -> MemberReport {
        MemberReport {
            role: Role::Leecher,
            upload_rate: 0.0,
            took: None,
            completed: Some(Duration::from_secs(seconds)),
            first_piece: None,
            banned: false,
            has: 1.0,
            uploaded: 0,
            downloaded: 0,
            wasted: 0,
            messages: 0,
            refused: 0,
            moves: MovesByRound::default(),
        }
    }

    /// Three peers and a seeder, each of which sends the share in 100 s, but for the last peers, if they are slow.
    fn report(slow: Option<(u32, f64)>, ends: [u64; 3]) -> Report {
        let usual = Scenario::default();
        let upload = crate::sim::Rates::Same(usual.share_len() / 100.0);
        let seeder_upload = usual.share_len() / 100.0;
        Report {
            scenario: Scenario { leechers: 3, upload, seeder_upload, slow, ..usual },
            finished: true,
            ended: Duration::ZERO,
            members: ends.map(done_after).to_vec(),
            timeline: Vec::new(),
            lower_bound: Duration::ZERO,
            first_copy: None,
            events: 0,
            events_hash: 0,
        }
    }

    #[test]
    fn what_slow_peers_cost_is_told_apart_by_who_waits_and_by_what_can_no_longer_be_sent() {
        let without = report(None, [110, 130, 120]);
        let with = report(Some((1, 0.0)), [140, 135, 170]);
        let cost = with.slow_cost(&without).expect("both finish");
        assert!((cost.later - 40.0).abs() < 1e-6, "170 s, 130 s without");
        assert!((cost.others_later - 10.0).abs() < 1e-6, "140 s, 130 s without");
        // Three copies, by four in 75 s and by three in 100 s.
        assert!((cost.unsent - 25.0).abs() < 1e-6, "{cost:?}");
        let unfinished = Report { finished: false, ..with };
        assert_eq!(unfinished.slow_cost(&without), None);
    }
}
