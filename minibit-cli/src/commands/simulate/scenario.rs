//! From flags to a scenario: what needs more than one flag to be checked.

use std::time::Duration;

use minibit_core::sim::{self, Faults, Role, Scenario};
use minibit_core::swarm;
use minibit_core::types::limits;

use crate::cli::{Hostile, Picking, Simulate};
use crate::commands::node;
use crate::exit::Failure;
use crate::values::Start;

/// Pieces of all peers together, at most: each peer keeps books on each piece.
const BOOKED_MAX: u64 = 64 << 20;
/// No swarm is simulated that needs longer than this even in theory: clocks count nanoseconds.
const BOUND_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// The part of their rate at which slow peers send.
const SLOW_PART: f64 = 0.01;
/// A message that takes longer than this is lost, not late.
const LATENCY_MAX: Duration = Duration::from_secs(10);

/// The scenario that the flags describe.
///
/// # Errors
/// A usage failure, if they contradict each other or ask for too much.
pub(super) fn of(flags: &Simulate) -> Result<Scenario, Failure> {
    let booked = u64::from(flags.peers) * u64::from(flags.pieces);
    if booked > BOOKED_MAX {
        let error = format!(
            "{} peers with {} pieces each are more than can be kept in memory",
            flags.peers, flags.pieces
        );
        let most = BOOKED_MAX / u64::from(flags.peers);
        return Err(Failure::usage(error)
            .hint(format!("with so many peers, --pieces can be {most} (use larger pieces)")));
    }
    let share_len = u64::from(flags.pieces) * u64::from(flags.piece_size.bytes());
    if share_len > limits::SHARE_LEN_MAX {
        return Err(Failure::usage("a share has at most 16 TiB")
            .hint("make --pieces or --piece-size smaller"));
    }
    if flags.network.latency > LATENCY_MAX {
        return Err(Failure::usage("--latency is at most 10 s"));
    }
    if flags.joining > BOUND_MAX {
        return Err(Failure::usage("--joining is at most 365 days"));
    }
    let network = &flags.network;
    let best = network.upload.highest();
    let scenario = Scenario {
        leechers: flags.peers,
        seeders: seeders(flags)?,
        hostile: hostile(flags)?,
        pieces: flags.pieces,
        piece_size: flags.piece_size,
        upload: network.upload.0,
        download: network.download.map(|range| range.0),
        seeder_upload: network.seeder_upload.map_or(best, |rate| rate.0),
        latency: network.latency,
        start: match flags.start {
            Start::Seed => sim::Start::Empty,
            Start::Random { part } => sim::Start::Random(part),
            Start::RoundRobin => sim::Start::RoundRobin,
        },
        joining: flags.joining,
        leave_when_done: flags.leave_when_done,
        seeders_leave_after: flags.seeders_leave,
        slow: slow(flags)?,
        faults: Faults { churn: network.churn, ..Faults::default() },
        picking: match flags.rules.picking {
            Picking::Rarest => swarm::Picking::RarestFirst,
            Picking::Random => swarm::Picking::Random,
            Picking::Sequential => swarm::Picking::Sequential,
        },
        policy: node::policy(flags.rules.policy),
        slots: flags.rules.slots.0,
        seed: flags.seed,
        ..Scenario::default()
    };
    let bound = scenario.lower_bound();
    if bound > BOUND_MAX {
        return Err(Failure::usage("no swarm can be done with that within a year")
            .hint("make the share smaller or the rates higher"));
    }
    // Only a net under the watch for swarms that have stopped.
    let time_max = bound * 100 + flags.joining + 2 * Scenario::default().time_max;
    let time_max = flags.stop_after.unwrap_or(time_max);
    Ok(Scenario { time_max, ..scenario })
}

fn seeders(flags: &Simulate) -> Result<u32, Failure> {
    match (flags.start, flags.seeders) {
        (Start::RoundRobin, Some(1..)) => Err(Failure::usage(
            "with --start round-robin the pieces are dealt out and nobody holds them all",
        )
        .hint("leave --seeders out, or choose another --start")),
        (Start::RoundRobin, _) => Ok(0),
        (_, Some(0)) => Err(Failure::usage("without a seeder nobody holds every piece")
            .hint("give at least 1 to --seeders, or choose --start round-robin")),
        (_, given) => Ok(given.unwrap_or(1)),
    }
}

fn slow(flags: &Simulate) -> Result<Option<(u32, f64)>, Failure> {
    let count = flags.network.slow_peers;
    if count >= flags.peers {
        return Err(Failure::usage("with --slow-peers nobody is left who is not slow")
            .hint("make --slow-peers smaller, or --upload for all of them"));
    }
    Ok((count > 0).then_some((count, SLOW_PART)))
}

fn hostile(flags: &Simulate) -> Result<Vec<(Role, f64)>, Failure> {
    let Hostile { free_riders, large_view, corrupt, liars, drippers, flooders } = flags.hostile;
    let parts = [
        (Role::FreeRider, free_riders),
        (Role::LargeView, large_view),
        (Role::Corrupt, corrupt),
        (Role::Liar, liars),
        (Role::Drip, drippers),
        (Role::Flooder, flooders),
    ];
    let all: f64 = parts.iter().map(|(_, part)| part).sum();
    // The last peer is the first to be honest.
    if all >= (f64::from(flags.peers) - 0.5) / f64::from(flags.peers) {
        return Err(Failure::usage("no honest peer is left to wait for")
            .hint("make --free-riders and the other parts smaller, or --peers larger"));
    }
    if flags.start == Start::RoundRobin && all > flooders {
        return Err(Failure::usage(
            "with --start round-robin, what was dealt to peers that give nothing is lost",
        )
        .hint("leave the hostile peers out, or choose another --start"));
    }
    Ok(parts.into_iter().filter(|(_, part)| *part > 0.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use minibit_core::sim::Rates;
    use minibit_core::swarm::{ChokePolicy, Slots};

    fn scenario(args: &[&str]) -> Result<Scenario, Failure> {
        let cli = Cli::parse_from(["minibit", "simulate"].iter().chain(args));
        let Command::Simulate(flags) = cli.command else { panic!("another command") };
        of(&flags)
    }

    #[test]
    fn without_flags_it_is_the_usual_swarm() {
        let usual = Scenario::default();
        let made = scenario(&[]).unwrap();
        assert_eq!(Scenario { time_max: usual.time_max, ..made }, usual);
    }

    #[test]
    fn every_flag_has_its_effect() {
        let args = "--peers 7 --seeders 2 --pieces 30 --piece-size 1M --start random:10% \
            --joining 1m --leave-when-done --seeders-leave 1.5 --upload 1Mbit-10Mbit \
            --download 20Mbit --seeder-upload 5Mbit --latency 50ms --churn 3% --policy rarity \
            --picking sequential --slots 4+1 --free-riders 10% --large-view 9% --corrupt 11% --liars 12% \
            --drippers 13% --flooders 14% --slow-peers 2 --stop-after 1h --seed 9";
        let made = scenario(&args.split_whitespace().collect::<Vec<_>>()).unwrap();
        let usual = Scenario::default();
        let wanted = Scenario {
            leechers: 7,
            seeders: 2,
            hostile: vec![
                (Role::FreeRider, 0.10),
                (Role::LargeView, 0.09),
                (Role::Corrupt, 0.11),
                (Role::Liar, 0.12),
                (Role::Drip, 0.13),
                (Role::Flooder, 0.14),
            ],
            pieces: 30,
            piece_size: made.piece_size,
            upload: Rates::Between(125e3, 1.25e6),
            download: Some(Rates::Same(2.5e6)),
            seeder_upload: 625e3,
            latency: Duration::from_millis(50),
            start: sim::Start::Random(0.1),
            joining: Duration::from_secs(60),
            leave_when_done: true,
            seeders_leave_after: Some(1.5),
            slow: Some((2, 0.01)),
            faults: Faults { churn: 0.03, ..Faults::default() },
            picking: swarm::Picking::Sequential,
            policy: ChokePolicy::Rarity,
            slots: Slots::Fixed { regular: 4, optimistic: 1 },
            seed: 9,
            time_max: Duration::from_secs(3600),
            ..usual
        };
        assert_eq!(made.piece_size.bytes(), 1 << 20);
        assert_eq!(made, wanted);
    }

    #[test]
    fn a_seeder_sends_as_much_as_the_best_peer() {
        assert_eq!(scenario(&["--upload", "1Mbit-8Mbit"]).unwrap().seeder_upload, 1e6);
    }

    #[test]
    fn what_cannot_be_simulated_is_refused_with_a_hint() {
        for args in [
            &["--seeders", "0"][..],
            &["--start", "round-robin", "--seeders", "1"],
            &["--start", "round-robin", "--free-riders", "10%"],
            &["--free-riders", "60%", "--liars", "40%"],
            &["--peers", "2", "--corrupt", "80%"],
            &["--peers", "2", "--slow-peers", "2"],
            &["--peers", "20000", "--pieces", "1000000"],
            &["--pieces", "1048576", "--piece-size", "16M", "--upload", "1KiB"],
        ] {
            let failure = scenario(args).expect_err("it cannot be");
            assert_eq!(failure.exit(), crate::exit::Exit::Usage, "{args:?}");
            assert!(failure.advice().is_some(), "{args:?}");
        }
        assert_eq!(scenario(&["--start", "round-robin"]).unwrap().seeders, 0);
        assert!(scenario(&["--peers", "2", "--corrupt", "50%"]).is_ok());
        assert!(scenario(&["--latency", "11s"]).is_err());
    }
}
