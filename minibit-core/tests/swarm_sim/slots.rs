//! Who is answered, and what giving is worth.

use std::time::Duration;

use minibit_core::sim::{Faults, Rates, Role, Scenario, World, run};
use minibit_core::swarm::{ROUND, Slots};
use minibit_core::types::PieceSize;

use super::mean_rate;

/// Where there is something to choose: few slots, and a share that takes many rounds.
fn swarm(seed: u64) -> Scenario {
    Scenario {
        leechers: 30,
        pieces: 400,
        piece_size: PieceSize::new(64 * 1024).expect("a size"),
        upload: Rates::Same(125_000.0),
        seeder_upload: 250_000.0,
        slots: Slots::Fixed { regular: 4, optimistic: 1 },
        seed,
        ..Scenario::default()
    }
}

#[test]
fn a_newcomer_has_its_first_piece_within_two_rounds() {
    // A crowd that has little left to want of anybody, and then one more every few seconds.
    let joining = Duration::from_secs(300);
    let scenario = Scenario { joining, ..swarm(1) };
    let (seeders, leechers) = (scenario.seeders, scenario.leechers);
    let mut world = World::new(scenario);
    for number in 0..leechers {
        let joined = joining.mul_f64(f64::from(number + 1) / f64::from(leechers));
        while world.now() < joined + 2 * ROUND && world.step() {}
        let has = world.report().members[(seeders + number) as usize].has;
        assert!(has > 0.0, "peer {number} has nothing {:?} after it joined", 2 * ROUND);
    }
}

#[test]
fn who_can_send_more_gets_more() {
    for seed in 1..=3 {
        let upload = Rates::Between(40_000.0, 400_000.0);
        let report = run(Scenario { upload, ..swarm(seed) });
        let agreement = report.give_and_take().expect("rates differ");
        assert!(agreement >= 0.5, "{agreement} with seed {seed}");
    }
}

#[test]
fn who_only_takes_is_not_as_new_by_coming_anew() {
    // So often connections break that each of its own lasts a few seconds.
    let faults = Faults { broken_links: 1200.0, ..Faults::default() };
    for seed in 1..=2 {
        let hostile = vec![(Role::FreeRider, 0.4)];
        let report = run(Scenario { faults, hostile, seeder_upload: 125_000.0, ..swarm(seed) });
        let takes = mean_rate(&report, Role::FreeRider) / mean_rate(&report, Role::Leecher);
        assert!(takes <= 0.5, "{takes} of the honest rate with seed {seed}");
    }
}
