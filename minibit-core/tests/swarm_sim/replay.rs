//! The same swarm again goes the same way, event by event.

use minibit_core::sim::{Scenario, run};

/// Some of the swarms, with and without faults.
const SEEDS: [u64; 5] = [3, 14, 15, 17, 92];

#[test]
fn the_same_scenario_gives_the_same_events_and_the_same_report() {
    for seed in SEEDS {
        let (one, other) = (run(Scenario::varied(seed)), run(Scenario::varied(seed)));
        assert_eq!(one.events_hash, other.events_hash, "seed {seed}");
        assert_eq!(one, other, "seed {seed}");
    }
}

#[test]
fn a_swarm_in_which_nothing_comes_any_more_ends_by_its_own_time() {
    for seed in [14, 17] {
        let report = run(Scenario::varied(seed));
        assert!(!report.finished && report.ended < report.scenario.time_max, "seed {seed}");
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
