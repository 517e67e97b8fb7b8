//! Networks that split, connections that break, peers that crash and come back, and joiners.

use std::time::Duration;

use minibit_core::sim::{Faults, Rates, Report, Role, Scenario, Start};
use minibit_core::swarm::Caps;
use minibit_core::types::PieceSize;

use super::{checked, last};

fn swarm() -> Scenario {
    Scenario {
        leechers: 16,
        pieces: 60,
        piece_size: PieceSize::new(64 * 1024).expect("a size"),
        upload: Rates::Same(250_000.0),
        seeder_upload: 250_000.0,
        ..Scenario::default()
    }
}

fn with(faults: Faults) -> Report {
    checked(Scenario { faults, ..swarm() })
}

#[test]
fn a_network_that_was_split_for_a_short_or_a_long_time_heals() {
    let without = last(&checked(swarm()));
    for long in [10, 60, 600].map(Duration::from_secs) {
        let from = Duration::from_secs(5);
        let report = with(Faults { partition: Some((from, from + long)), ..Faults::default() });
        // What it would have taken, the split itself, and until all know each other again.
        let again = Duration::from_secs(120);
        assert!(last(&report) <= without + long + again, "{long:?}: {:?}", last(&report));
    }
}

#[test]
fn peers_that_crash_and_connections_that_break_do_not_keep_a_swarm_from_finishing() {
    last(&with(Faults { churn: 1.0, ..Faults::default() }));
    last(&with(Faults { broken_links: 120.0, ..Faults::default() }));
}

#[test]
fn pieces_that_take_far_longer_than_connections_last_arrive_and_hardly_anything_comes_twice() {
    // What one peer of one swarm receives is chance: of sixty swarms eight have one that receives over 1.25 copies.
    let mut most: Vec<f64> = (1..=9).map(most_copies_where_links_break).collect();
    most.sort_by(f64::total_cmp);
    assert!(most[4] <= 1.25 && most[8] <= 2.0, "{most:?} copies came");
}

/// What came, in copies of the share, to whom most came.
fn most_copies_where_links_break(seed: u64) -> f64 {
    let report = checked(Scenario {
        seed,
        leechers: 6,
        pieces: 8,
        piece_size: PieceSize::new(1024 * 1024).expect("a size"),
        upload: Rates::Same(62_500.0),
        seeder_upload: 62_500.0,
        // Each of some twenty connections every ten seconds; a piece takes 17 s at least.
        faults: Faults { broken_links: 120.0, ..Faults::default() },
        ..Scenario::default()
    });
    last(&report);
    let came =
        report.of_role(Role::Leecher).map(|member| (member.downloaded + member.wasted) as f64);
    came.fold(0.0, f64::max) / report.scenario.share_len()
}

#[test]
fn messages_that_take_up_to_twice_as_long_as_others_hardly_delay_a_swarm() {
    let latency = Duration::from_millis(100);
    let even = last(&checked(Scenario { latency, jitter: 0.0, ..swarm() }));
    let uneven = last(&checked(Scenario { latency, jitter: 1.0, ..swarm() }));
    assert!(uneven <= even.mul_f64(1.25), "{uneven:?} instead of {even:?}");
}

#[test]
fn who_joins_late_finishes_soon_after_joining() {
    let joining = Duration::from_secs(120);
    let report = checked(Scenario { joining, ..swarm() });
    let alone = report.scenario.lower_bound();
    // All others have it by then: it takes what a swarm takes that begins, at the most.
    assert!(last(&report) <= joining + 2 * alone, "{:?}", last(&report));
}

#[test]
fn pieces_that_were_dealt_out_come_together_without_a_seeder() {
    let report = checked(Scenario { seeders: 0, start: Start::RoundRobin, ..swarm() });
    last(&report);
}

#[test]
fn honest_peers_do_not_push_each_other_out_where_places_are_few() {
    // Forty peers with eight places each: all are taken, and there is always somebody who asks.
    let caps = Caps {
        links_max: 8,
        links_aim: 7,
        links_made: 2,
        links_min: 4,
        links_first: 4,
        dials_max: 2,
    };
    let crowd = Scenario { leechers: 40, pieces: 200, ..swarm() };
    let (roomy, tight) = (checked(crowd.clone()), checked(Scenario { caps, ..crowd }));
    assert!(last(&tight) <= last(&roomy).mul_f64(1.3), "{:?}, {:?}", last(&tight), last(&roomy));
}
