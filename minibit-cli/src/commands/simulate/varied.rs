//! A made-up swarm in the words of the flags, so that it is described as any other is.

use minibit_core::sim::{self, Role, Scenario};
use minibit_core::swarm::{self, ChokePolicy};

use crate::cli::{Hostile, Network, Picking, Policy, Rules, Simulate};
use crate::swarm_values::{Rate, RateRange, Slots};
use crate::values::Start;

/// The flags that come nearest to the scenario; some of its faults have none.
pub(super) fn flags_for(scenario: &Scenario, given: &Simulate) -> Simulate {
    Simulate {
        peers: scenario.leechers,
        seeders: Some(scenario.seeders),
        pieces: scenario.pieces,
        piece_size: scenario.piece_size,
        start: match scenario.start {
            sim::Start::Empty => Start::Seed,
            sim::Start::Random(part) => Start::Random { part },
            sim::Start::RoundRobin => Start::RoundRobin,
        },
        joining: scenario.joining,
        leave_when_done: scenario.leave_when_done,
        seeders_leave: scenario.seeders_leave_after,
        network: Network {
            upload: RateRange(scenario.upload),
            download: scenario.download.map(RateRange),
            seeder_upload: Some(Rate(scenario.seeder_upload)),
            latency: scenario.latency,
            slow_peers: 0,
            churn: scenario.faults.churn,
        },
        rules: Rules {
            policy: match scenario.policy {
                ChokePolicy::Rarity => Policy::Rarity,
                ChokePolicy::Seeder => Policy::Seeder,
                _ => Policy::Contribution,
            },
            picking: match scenario.picking {
                swarm::Picking::RarestFirst => Picking::Rarest,
                swarm::Picking::Random => Picking::Random,
                swarm::Picking::Sequential => Picking::Sequential,
            },
            slots: Slots(scenario.slots),
        },
        hostile: hostile(scenario),
        seed: scenario.seed,
        ..given.clone()
    }
}

fn hostile(scenario: &Scenario) -> Hostile {
    let part = |wanted: Role| {
        scenario.hostile.iter().filter(|(role, _)| *role == wanted).map(|(_, part)| part).sum()
    };
    Hostile {
        free_riders: part(Role::FreeRider),
        large_view: part(Role::LargeView),
        corrupt: part(Role::Corrupt),
        liars: part(Role::Liar),
        drippers: part(Role::Drip),
        flooders: part(Role::Flooder),
    }
}
