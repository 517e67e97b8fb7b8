//! The same swarm again goes the same way, event by event.

use minibit_core::sim::{Scenario, run};

/// Some of the swarms, with and without faults.
const SEEDS: [u64; 4] = [3, 14, 15, 92];

#[test]
fn the_same_scenario_gives_the_same_events_and_the_same_report() {
    for seed in SEEDS {
        let (one, other) = (run(Scenario::varied(seed)), run(Scenario::varied(seed)));
        assert_eq!(one.events_hash, other.events_hash, "seed {seed}");
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn another_seed_gives_other_events() {
    for seed in SEEDS {
        let scenario = Scenario::varied(seed);
        let other = Scenario { seed: seed + 1, ..scenario.clone() };
        assert_ne!(run(scenario).events_hash, run(other).events_hash, "seed {seed}");
    }
}
