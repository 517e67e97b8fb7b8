//! What is simulated: who takes part, over what network, under which rules, with which faults.

use std::time::Duration;

use crate::swarm::{Caps, ChokePolicy, Picking, Slots};
use crate::types::PieceSize;

/// Rates of peers, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rates {
    /// Everybody has the same.
    Same(f64),
    /// From the first to the second, as many peers in each doubling of the rate.
    Between(f64, f64),
}

impl Rates {
    /// The rate of peer `number` of `count`: spread evenly, in no order that means anything.
    pub(super) fn of(self, number: u32, count: u32) -> f64 {
        match self {
            Self::Same(rate) => rate,
            Self::Between(low, high) => {
                // Steps of the golden ratio fill the range evenly whatever the count.
                let place = if count <= 1 {
                    0.5
                } else {
                    (f64::from(number) * 0.618_033_988_749_894_9).fract()
                };
                low * (high / low).powf(place)
            }
        }
    }
}

/// What leechers hold when they join.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// Nothing: seeders have it all.
    Empty,
    /// A random part of the pieces, another for each, from 0 to 1.
    Random(f64),
    /// Piece `p` is with leecher `p mod N` alone; there are no seeders.
    RoundRobin,
}

/// How a peer behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Holds everything from the start, and stays.
    Seeder,
    /// An honest peer that begins with little.
    Leecher,
    /// Takes and never gives: it answers nobody.
    FreeRider,
    /// The same, and links at once to everybody that it hears of: the more neighbours, the more
    /// of them try it.
    LargeView,
    /// Sends wrong bytes in every block.
    Corrupt,
    /// Says that it holds everything, answers everybody, and never sends a block.
    Liar,
    /// Sends at a thousandth of its rate.
    Drip,
    /// Asks for far more than it may, again and again.
    Flooder,
}

impl Role {
    /// Whether it keeps to the rules and gives what it can.
    pub fn is_honest(self) -> bool {
        matches!(self, Self::Seeder | Self::Leecher)
    }
}

/// Faults of the network and of peers.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Faults {
    /// Of all leechers that are not done, the part that crashes in each minute. They come back
    /// after ten seconds with what was verified.
    pub churn: f64,
    /// Connections that break in each minute.
    pub broken_links: f64,
    /// The network splits into two halves from the first time to the second.
    pub partition: Option<(Duration, Duration)>,
}

/// A swarm to be simulated.
#[derive(Clone, Debug, PartialEq)]
pub struct Scenario {
    /// Leechers, the hostile ones among them.
    pub leechers: u32,
    /// Peers that hold everything from the start.
    pub seeders: u32,
    /// Parts of the leechers, from 0 to 1, that behave otherwise than honestly.
    pub hostile: Vec<(Role, f64)>,
    /// Pieces of the share.
    pub pieces: u32,
    /// Bytes of a piece.
    pub piece_size: PieceSize,
    /// What each leecher can send.
    pub upload: Rates,
    /// What each leecher can receive; `None`: no bound.
    pub download: Option<Rates>,
    /// What each seeder can send.
    pub seeder_upload: f64,
    /// One way between two peers, on average.
    pub latency: Duration,
    /// By how much the ways of messages differ, from 0 to 1 of the latency. On one connection
    /// they stay in order.
    pub jitter: f64,
    /// What leechers hold when they join.
    pub start: Start,
    /// Leechers join one by one over this time.
    pub joining: Duration,
    /// Whether a leecher leaves as soon as it is done.
    pub leave_when_done: bool,
    /// Seeders leave once they have sent this many times the share's length.
    pub seeders_leave_after: Option<f64>,
    /// Of each leecher so many are slow: the part, and of which part of their rate.
    pub slow: Option<(u32, f64)>,
    /// What goes wrong.
    pub faults: Faults,
    /// In which order pieces are fetched.
    pub picking: Picking,
    /// How slots are given.
    pub policy: ChokePolicy,
    /// How many slots there are.
    pub slots: Slots,
    /// How many links each peer has.
    pub caps: Caps,
    /// Gives every random choice.
    pub seed: u64,
    /// When to give up.
    pub time_max: Duration,
}

impl Default for Scenario {
    /// A hundred leechers and a seeder with 10 Mbit/s each, 250 MiB, 20 ms apart.
    fn default() -> Self {
        Self {
            leechers: 100,
            seeders: 1,
            hostile: Vec::new(),
            pieces: 1000,
            piece_size: PieceSize::new(256 * 1024).unwrap_or_else(|_| PieceSize::for_total(0)),
            upload: Rates::Same(1.25e6),
            download: None,
            seeder_upload: 1.25e6,
            latency: Duration::from_millis(20),
            jitter: 0.1,
            start: Start::Empty,
            joining: Duration::ZERO,
            leave_when_done: false,
            seeders_leave_after: None,
            slow: None,
            faults: Faults::default(),
            picking: Picking::default(),
            policy: ChokePolicy::default(),
            slots: Slots::default(),
            caps: Caps::default(),
            seed: 1,
            time_max: Duration::from_secs(24 * 3600),
        }
    }
}

impl Scenario {
    /// The small swarm of that number, different from others in all that a scenario can say,
    /// faults and hostile members included.
    pub fn varied(seed: u64) -> Self {
        super::varied::varied(seed)
    }

    /// Bytes of the share.
    pub fn share_len(&self) -> f64 {
        f64::from(self.pieces) * f64::from(self.piece_size.bytes())
    }

    /// The role of leecher `number`.
    pub(super) fn role_of(&self, number: u32) -> Role {
        let mut place = (f64::from(number) + 0.5) / f64::from(self.leechers.max(1));
        for (role, part) in &self.hostile {
            if place < *part {
                return *role;
            }
            place -= part;
        }
        Role::Leecher
    }

    /// What leecher `number` can send, in bytes per second.
    pub fn upload_of(&self, number: u32) -> f64 {
        let rate = self.upload.of(number, self.leechers);
        match (self.role_of(number), self.slow) {
            (Role::Drip, _) => rate / 1000.0,
            (Role::FreeRider | Role::LargeView | Role::Liar, _) => 0.0,
            (_, Some((count, part))) if number >= self.leechers - count.min(self.leechers) => {
                rate * part
            }
            _ => rate,
        }
    }

    /// What leecher `number` can receive, in bytes per second.
    pub(super) fn download_of(&self, number: u32) -> f64 {
        self.download.map_or(f64::INFINITY, |rates| rates.of(number, self.leechers))
    }

    /// The honest leechers of no swarm can be done sooner than this, whatever its rules: the
    /// seeders must send the share once, the slowest way in of an honest leecher must take it,
    /// and all ways out together must carry a copy for each honest leecher (Mundinger, Weber and
    /// Weiss, 2008).
    ///
    /// Who is hostile need not get anything, so its copies are not counted, or what it takes
    /// would make the others' time look good. What it may send rightly is: a swarm that makes use
    /// of it can be done sooner.
    pub fn lower_bound(&self) -> Duration {
        let share = self.share_len();
        let seeders = f64::from(self.seeders) * self.seeder_upload;
        let slowest = self.honest().map(|n| self.download_of(n)).fold(f64::INFINITY, f64::min);
        let once = if self.start == Start::Empty { share / seeders } else { 0.0 };
        let taken = Duration::from_secs_f64(once.max(share * self.missing() / slowest));
        taken.max(self.all_ways_out())
    }

    /// The third of those bounds alone: how long all ways out together need for a copy for each honest
    /// leecher.
    pub fn all_ways_out(&self) -> Duration {
        let seeders = f64::from(self.seeders) * self.seeder_upload;
        let giving = |number: &u32| self.role_of(*number) != Role::Corrupt;
        let uploads: f64 = (0..self.leechers).filter(giving).map(|n| self.upload_of(n)).sum();
        let copies = self.honest().count() as f64 * self.missing();
        Duration::from_secs_f64(copies * self.share_len() / (seeders + uploads))
    }

    fn honest(&self) -> impl Iterator<Item = u32> {
        (0..self.leechers).filter(|number| self.role_of(*number).is_honest())
    }

    /// The part of the share that a leecher lacks when it joins.
    fn missing(&self) -> f64 {
        match self.start {
            Start::Empty => 1.0,
            Start::Random(part) => 1.0 - part,
            Start::RoundRobin => 1.0 - 1.0 / f64::from(self.leechers.max(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(role: Role, part: f64) -> f64 {
        let hostile = vec![(role, part)];
        Scenario { hostile, ..Scenario::default() }.lower_bound().as_secs_f64()
    }

    #[test]
    fn the_bound_is_for_the_honest_and_the_ways_out_of_all_who_send_what_is_right() {
        let usual = Scenario::default();
        let copy = usual.share_len() / usual.seeder_upload;
        let close = |one: f64, other: f64| (one - other).abs() < 1e-6;
        assert!(close(bound(Role::Leecher, 0.0), copy), "a copy for each of 100, from 101");
        // Sixty copies, and sixty peers and a seeder to send them.
        assert!(close(bound(Role::FreeRider, 0.4), copy));
        let slow_seeder = |hostile| {
            let seeder_upload = usual.seeder_upload / 2.0;
            let seeders = 4;
            let upload = Rates::Same(usual.seeder_upload / 10.0);
            let slow = Scenario { hostile, seeder_upload, seeders, upload, ..Scenario::default() };
            slow.lower_bound().as_secs_f64() / copy
        };
        assert!(close(slow_seeder(Vec::new()), 100.0 / 12.0));
        for takes in [Role::FreeRider, Role::LargeView, Role::Liar, Role::Corrupt] {
            assert!(close(slow_seeder(vec![(takes, 0.4)]), 60.0 / 8.0), "{takes:?}");
        }
        assert!(close(slow_seeder(vec![(Role::Flooder, 0.4)]), 60.0 / 12.0));
    }

    #[test]
    fn a_slow_way_in_of_a_hostile_peer_is_no_bound_for_the_others() {
        let download = Some(Rates::Between(1e3, 1e6));
        let all = Scenario { download, leechers: 4, ..Scenario::default() };
        let slowest = (0..4).min_by(|a, b| all.download_of(*a).total_cmp(&all.download_of(*b)));
        assert_eq!(slowest, Some(0), "the first is the hostile one below");
        let one = Scenario { hostile: vec![(Role::Flooder, 0.25)], ..all.clone() };
        assert!(one.lower_bound() < all.lower_bound());
    }
}
