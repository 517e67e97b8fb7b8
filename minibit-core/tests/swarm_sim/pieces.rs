//! Which pieces are fetched when, and what that order is good for.

use std::time::Duration;

use minibit_core::sim::{Rates, Report, Scenario, Start, run};
use minibit_core::swarm::Picking;
use minibit_core::types::PieceSize;

/// Thirty peers and a seeder with 1 Mbit/s each, and a share of 120 pieces that takes many rounds.
fn swarm(seed: u64) -> Scenario {
    Scenario {
        leechers: 30,
        pieces: 120,
        piece_size: PieceSize::new(256 * 1024).expect("a size"),
        upload: Rates::Same(125_000.0),
        seeder_upload: 125_000.0,
        seed,
        ..Scenario::default()
    }
}

/// The same, whose only seeder leaves after so many copies.
fn left_alone(seed: u64, copies: f64, picking: Picking) -> Report {
    let time_max = Duration::from_secs(900);
    run(Scenario { seeders_leave_after: Some(copies), picking, time_max, ..swarm(seed) })
}

#[test]
fn random_and_sequential_picking_lose_pieces_when_the_only_seeder_leaves_after_its_first_copies() {
    for picking in [Picking::Random, Picking::Sequential] {
        let finished = (1..=3).filter(|seed| left_alone(*seed, 1.1, picking).finished).count();
        assert_eq!(finished, 0, "{picking:?}");
    }
}

/// How even the copies of the pieces were from a fifth to four fifths of the way, in the mean of
/// three swarms: copies of the rarest piece over those of a piece in the mean.
fn evenness(picking: Picking) -> f64 {
    // Without a seeder, which would deal its pieces out: all choices are the receivers' own.
    let swarm = |seed| Scenario { picking, seeders: 0, start: Start::RoundRobin, ..swarm(seed) };
    let of = |report: &Report| {
        let middle = report.timeline.iter().filter(|moment| (0.2..0.8).contains(&moment.progress));
        let parts: Vec<f64> =
            middle.map(|m| f64::from(m.availability.0) / m.availability.1).collect();
        parts.iter().sum::<f64>() / parts.len() as f64
    };
    (1..=3).map(|seed| of(&run(swarm(seed)))).sum::<f64>() / 3.0
}

#[test]
fn rarest_first_keeps_copies_more_even_than_random_and_sequential_picking() {
    let (rarest, random, sequential) =
        (evenness(Picking::RarestFirst), evenness(Picking::Random), evenness(Picking::Sequential));
    // By clearly more than what chance does.
    assert!(rarest > 1.05 * random, "{rarest} {random}");
    assert!(random > 1.05 * sequential, "{random} {sequential}");
}
