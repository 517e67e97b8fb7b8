//! What the rules are for, in numbers: near the bound, little sent twice, little for who only
//! takes, the same for equals, and nobody held up by one slow peer.

use std::time::Duration;

use minibit_core::sim::{Rates, Report, Role, Scenario, SlowCost, run};
use minibit_core::swarm::Picking;
use minibit_core::types::PieceSize;

use super::{last, mean_rate};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=3;

/// Sixty peers and a seeder that send 10 Mbit/s each, and 100 MiB.
fn swarm(seed: u64) -> Scenario {
    let time_max = Duration::from_secs(3600);
    Scenario { leechers: 60, pieces: 400, seed, time_max, ..Scenario::default() }
}

/// The mean over some swarms.
fn mean(of: impl Fn(u64) -> f64) -> f64 {
    let count = SEEDS.count() as f64;
    SEEDS.map(of).sum::<f64>() / count
}

fn seconds(report: &Report) -> f64 {
    last(report).as_secs_f64()
}

#[test]
fn equal_peers_finish_near_the_bound_with_little_sent_twice_and_nearly_nothing_in_vain() {
    for seed in SEEDS {
        let report = run(swarm(seed));
        let over = report.over_bound().expect("it finishes");
        assert!(over <= 1.15, "{over} of the bound with seed {seed}");
        let copies = report.first_copy.expect("a copy is out");
        assert!(copies <= 1.1, "{copies} copies with seed {seed}");
        assert!(report.waste() <= 0.01, "{} in vain with seed {seed}", report.waste());
    }
}

#[test]
fn a_small_share_in_pieces_of_a_block_is_everywhere_soon_with_one_byte_in_a_hundred_in_vain() {
    let piece_size = PieceSize::new(16 * 1024).expect("a size");
    let small = |seed| run(Scenario { pieces: 1024, piece_size, ..swarm(seed) });
    let reports: Vec<Report> = SEEDS.map(small).collect();
    let mean_of = |of: fn(&Report) -> f64| mean(|seed| of(&reports[seed as usize - 1]));
    let over = mean_of(|report| report.over_bound().expect("it finishes"));
    assert!(over <= 1.25, "{over} of the bound");
    let wasted = mean_of(Report::waste);
    assert!(wasted <= 0.01, "{wasted} in vain");
}

#[test]
fn peers_whose_rates_differ_tenfold_finish_within_1_3_of_the_bound() {
    for seed in SEEDS {
        let upload = Rates::Between(375e3, 3.75e6);
        let report = run(Scenario { upload, seeder_upload: 3.75e6, ..swarm(seed) });
        let over = report.over_bound().expect("it finishes");
        assert!(over <= 1.3, "{over} of the bound with seed {seed}");
        assert!(report.waste() <= 0.01, "{} in vain with seed {seed}", report.waste());
    }
}

/// How many times as long the honest take with two free riders in five of that kind as alone.
#[track_caller]
fn slower_with(riders: Role, swarm: impl Fn(u64) -> Scenario) -> f64 {
    mean(|seed| {
        let with = Scenario { hostile: vec![(riders, 0.4)], ..swarm(seed) };
        let alone = run(Scenario { leechers: with.leechers * 3 / 5, ..swarm(seed) });
        let report = run(with);
        let (took, honest) = (mean_rate(&report, riders), mean_rate(&report, Role::Leecher));
        assert!(took <= honest / 2.0, "{took} beside {honest} with seed {seed}");
        seconds(&report) / seconds(&alone)
    })
}

#[test]
fn with_two_free_riders_in_five_the_honest_take_a_tenth_longer_at_most_and_get_twice_as_much() {
    for riders in [Role::FreeRider, Role::LargeView] {
        let long = |seed| Scenario { leechers: 40, pieces: 800, ..swarm(seed) };
        let slower = slower_with(riders, long);
        assert!(slower <= 1.1, "{slower} of the time that they take alone, {riders:?}");
    }
}

/// A swarm in which a piece takes seconds.
fn slow(leechers: u32, pieces: u32, bytes_per_s: f64, seed: u64) -> Scenario {
    let upload = Rates::Same(bytes_per_s);
    Scenario { leechers, pieces, upload, seeder_upload: bytes_per_s, ..swarm(seed) }
}

#[test]
fn so_it_is_where_a_piece_takes_seconds_and_just_so_in_a_small_swarm_with_five_of_them_to_each() {
    for riders in [Role::FreeRider, Role::LargeView] {
        // In the mean of ten seeds the second takes 1.09 and 1.10 of the time; three of them differ by 0.02 from that.
        for (leechers, pieces, most) in [(30, 120, 1.1), (30, 60, 1.13), (60, 120, 1.1)] {
            let slower = slower_with(riders, |seed| slow(leechers, pieces, 125e3, seed));
            assert!(slower <= most, "{slower} of the time alone, {leechers}, {pieces}, {riders:?}");
        }
    }
}

#[test]
fn the_last_piece_of_a_slow_swarm_does_not_go_from_one_to_another_who_begin_it_anew() {
    let later = mean(|seed| {
        let hostile = vec![(Role::LargeView, 0.4)];
        let report = run(Scenario { hostile, ..slow(40, 60, 62.5e3, seed) });
        let last = seconds(&report);
        let done = report.completions();
        last / done[done.len() / 2].as_secs_f64()
    });
    assert!(later <= 1.06, "the last are done after {later} of the median");
}

#[test]
fn where_pieces_take_a_hundredth_of_a_second_there_are_not_more_slots_for_the_sake_of_free_riders()
{
    let fast = |seed| Scenario {
        leechers: 30,
        pieces: 1000,
        piece_size: PieceSize::new(16 * 1024).expect("a size"),
        ..swarm(seed)
    };
    for riders in [Role::FreeRider, Role::LargeView] {
        let slower = slower_with(riders, fast);
        assert!(slower <= 1.2, "{slower} of the time that they take alone, {riders:?}");
    }
}

#[test]
fn free_riders_who_are_more_than_a_peer_wants_links_and_first_with_everybody_do_not_keep_the_honest_apart()
 {
    let half = |seed| Scenario {
        leechers: 100,
        pieces: 200,
        hostile: vec![(Role::LargeView, 0.5)],
        ..swarm(seed)
    };
    let slower = mean(|seed| {
        let report = run(half(seed));
        let honest = mean_rate(&report, Role::Leecher);
        let took = mean_rate(&report, Role::LargeView);
        assert!(took <= honest / 3.0, "{took} beside {honest} with seed {seed}");
        let alone = run(Scenario { leechers: 50, hostile: Vec::new(), ..half(seed) });
        seconds(&report) / seconds(&alone)
    });
    assert!(slower <= 1.25, "{slower} of the time that they take alone");
}

#[test]
fn a_seeder_soon_knows_free_riders_in_a_swarm_that_is_over_in_seconds() {
    for riders in [Role::FreeRider, Role::LargeView] {
        let copies = mean(|seed| {
            let report = run(Scenario {
                pieces: 120,
                upload: Rates::Same(2.5e6),
                seeder_upload: 2.5e6,
                hostile: vec![(riders, 0.4)],
                ..swarm(seed)
            });
            last(&report);
            report.first_copy.expect("a copy is out")
        });
        assert!(copies <= 1.2, "{copies} copies until one is out, {riders:?}");
    }
}

#[test]
fn equal_peers_have_equal_shares_after_half_an_hour() {
    let rate = 125e3;
    let report = run(Scenario {
        leechers: 30,
        pieces: 4000,
        upload: Rates::Same(rate),
        seeder_upload: rate,
        time_max: Duration::from_secs(1800),
        ..swarm(1)
    });
    let shares: Vec<f64> =
        report.of_role(Role::Leecher).map(|member| member.downloaded as f64).collect();
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!(mean > 0.9 * rate * 1800.0, "{mean} each: somebody waits");
    for share in &shares {
        assert!((share / mean - 1.0).abs() <= 0.05, "{share} instead of {mean}: {shares:?}");
    }
}

#[test]
fn one_peer_at_a_hundredth_of_the_rate_holds_nobody_up() {
    // What a piece takes over a whole way out; from one peer to the next, with the classic five slots, it
    // takes five times as long.
    let alone = f64::from(swarm(1).piece_size.bytes()) / 1.25e6;
    let costs: Vec<SlowCost> = SEEDS
        .map(|seed| {
            let report = run(Scenario { slow: Some((1, 0.01)), ..swarm(seed) });
            report.slow_cost(&run(swarm(seed))).expect("both finish")
        })
        .collect();
    let mean = |of: fn(&SlowCost) -> f64| costs.iter().map(of).sum::<f64>() / costs.len() as f64;
    let later = mean(|cost| cost.later);
    assert!(later <= 2.0 * 5.0 * alone, "{later} s later, a piece takes {alone} s: {costs:?}");
    // All of that is for what can no longer be sent, whatever the rules.
    let rest = mean(|cost| cost.later - cost.unsent);
    assert!(rest <= 2.0 * alone, "{rest} s later, a piece takes {alone} s: {costs:?}");
}

#[test]
fn a_swarm_whose_only_seeder_leaves_after_its_first_copy_has_every_piece() {
    for seed in SEEDS {
        last(&run(Scenario {
            seeders_leave_after: Some(1.1),
            picking: Picking::RarestFirst,
            ..swarm(seed)
        }));
    }
}
