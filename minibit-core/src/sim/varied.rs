//! A swarm for every number: small, and different in all that a scenario can say, so that many of
//! them meet what nobody thought of.
//!
//! Not here: what must hold of all of them (`check`, and the tests).

use std::time::Duration;

use fastrand::Rng;

use super::scenario::{Faults, Rates, Role, Scenario, Start};
use crate::swarm::{ChokePolicy, Picking, Slots};
use crate::types::PieceSize;

/// Deliveries of blocks in one swarm, about: what keeps a case within a second in a debug build.
const DELIVERIES_MAX: u32 = 1500;
/// Bytes of the largest block.
const BLOCK_LEN: u32 = 256 * 1024;

/// The swarm of that number.
pub(super) fn varied(seed: u64) -> Scenario {
    // Neighbouring seeds are to have nothing in common.
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let start = start(&mut rng);
    let leechers = rng.u32(2..=30);
    let piece_size = PieceSize::new(16_384 << rng.u32(0..=6)).expect("a piece's size");
    let blocks = piece_size.bytes().div_ceil(BLOCK_LEN);
    let pieces = rng.u32(1..=200).min((DELIVERIES_MAX / leechers / blocks).max(1));
    let scenario = Scenario {
        leechers,
        pieces,
        piece_size,
        start,
        seeders: if start == Start::RoundRobin { 0 } else { rng.u32(1..=3) },
        hostile: hostile(&mut rng, start),
        upload: rates(&mut rng),
        download: rng.bool().then(|| rates(&mut rng)),
        seeder_upload: rate(&mut rng),
        latency: Duration::from_micros(rng.u64(100..300_000)),
        jitter: rng.f64(),
        joining: Duration::from_secs(if rng.bool() { 0 } else { rng.u64(1..60) }),
        leave_when_done: rng.u8(..).is_multiple_of(4),
        seeders_leave_after: (rng.u8(..).is_multiple_of(4)).then(|| 1.0 + 2.0 * rng.f64()),
        slow: (rng.u8(..).is_multiple_of(4)).then(|| (rng.u32(1..=2), 0.05)),
        picking: [Picking::RarestFirst, Picking::RarestFirst, Picking::Random, Picking::Sequential]
            [rng.usize(..4)],
        policy: [ChokePolicy::Contribution, ChokePolicy::Rarity][rng.usize(..2)],
        slots: [
            Slots::Auto,
            Slots::Fixed { regular: 4, optimistic: 1 },
            Slots::Fixed { regular: 1, optimistic: 1 },
        ][rng.usize(..3)],
        seed,
        ..Scenario::default()
    };
    let usual = scenario.lower_bound();
    let faults = faults(&mut rng, usual);
    // Whatever goes wrong: a swarm that takes so long has stopped.
    let time_max = usual * 50 + Duration::from_secs(3600);
    Scenario { faults, time_max, ..scenario }
}

fn start(rng: &mut Rng) -> Start {
    match rng.u8(..4) {
        0 => Start::Random(rng.f64()),
        1 => Start::RoundRobin,
        _ => Start::Empty,
    }
}

/// Bytes per second, as many in each doubling.
fn rate(rng: &mut Rng) -> f64 {
    65_536.0 * 2f64.powf(rng.f64() * 7.0)
}

fn rates(rng: &mut Rng) -> Rates {
    let rate = rate(rng);
    if rng.bool() { Rates::Same(rate) } else { Rates::Between(rate, 10.0 * rate) }
}

fn hostile(rng: &mut Rng, start: Start) -> Vec<(Role, f64)> {
    // What was dealt to a peer that passes nothing on is not in the swarm.
    let roles: &[Role] = match start {
        Start::RoundRobin => &[Role::Flooder],
        _ => &[Role::FreeRider, Role::Corrupt, Role::Liar, Role::Drip, Role::Flooder],
    };
    if rng.bool() {
        return Vec::new();
    }
    let mut parts = Vec::new();
    let mut rest = 0.5;
    for _ in 0..rng.u32(1..=2) {
        let part = rest * rng.f64();
        rest -= part;
        parts.push((roles[rng.usize(..roles.len())], part));
    }
    parts
}

/// What goes wrong, in a time in which the swarm would usually be done.
fn faults(rng: &mut Rng, usual: Duration) -> Faults {
    let mut faults = Faults::default();
    if rng.bool() {
        return faults;
    }
    if rng.bool() {
        faults.churn = rng.f64();
    }
    if rng.bool() {
        faults.broken_links = 60.0 * rng.f64();
    }
    if rng.bool() {
        let from = usual.mul_f64(rng.f64());
        // Short ones, and some that outlast every patience.
        let long = if rng.bool() { 10.0 } else { 600.0 };
        faults.partition = Some((from, from + Duration::from_secs_f64(long * rng.f64())));
    }
    faults
}
