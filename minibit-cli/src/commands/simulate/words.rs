//! What is simulated, in words: above the table and in the title of the picture.

use minibit_core::sim::Scenario;

use crate::cli::{Hostile, Simulate};
use crate::output::simulated::name_of;
use crate::output::units::{Bytes, Count, Time};
use crate::swarm_values::{Rate, RateRange};

/// Two lines, and a third if anything is out of the ordinary.
pub(super) fn of(flags: &Simulate, scenario: &Scenario) -> Vec<String> {
    let mut lines = vec![swarm(flags, scenario), conditions(flags, scenario)];
    let oddities = oddities(flags, scenario);
    if !oddities.is_empty() {
        lines.push(oddities.join("; "));
    }
    lines
}

/// `100 peers, 1 seeder; 250.0 MiB in 1000 pieces of 256.0 KiB; start seed`
fn swarm(flags: &Simulate, scenario: &Scenario) -> String {
    format!(
        "{}, {}; {} in {} of {}; start {}",
        Count(scenario.leechers.into(), "peer"),
        Count(scenario.seeders.into(), "seeder"),
        Bytes(scenario.share_len() as u64),
        Count(scenario.pieces.into(), "piece"),
        Bytes(scenario.piece_size.bytes().into()),
        flags.start,
    )
}

/// `each sends 10 Mbit/s, a seeder 10 Mbit/s, 20 ms apart; rarest first, ...`
fn conditions(flags: &Simulate, scenario: &Scenario) -> String {
    let receives = scenario
        .download
        .map_or(String::new(), |rates| format!(" and receives {}", RateRange(rates)));
    let seeder = if scenario.seeders > 0 {
        format!(", a seeder {}", Rate(scenario.seeder_upload))
    } else {
        String::new()
    };
    format!(
        "each sends {}{receives}{seeder}, {} apart; picking {}, policy {}, slots {}, seed {}",
        RateRange(scenario.upload),
        Time(scenario.latency),
        name_of(&flags.rules.picking),
        name_of(&flags.rules.policy),
        flags.rules.slots,
        flags.seed,
    )
}

/// What goes wrong, and who comes, leaves or keeps to no rule.
fn oddities(flags: &Simulate, scenario: &Scenario) -> Vec<String> {
    let mut said = Vec::new();
    if !flags.joining.is_zero() {
        said.push(format!("joining over {}", Time(flags.joining)));
    }
    if flags.leave_when_done {
        said.push("who is done leaves".to_owned());
    }
    if let Some(copies) = flags.seeders_leave {
        said.push(format!("seeders leave after {copies} copies"));
    }
    if let Some(time) = flags.stop_after {
        said.push(format!("to be stopped after {}", Time(time)));
    }
    let Hostile { free_riders, large_view, corrupt, liars, drippers, flooders } = flags.hostile;
    for (part, who) in [
        (flags.network.churn, "crash each minute"),
        (free_riders, "free riders"),
        (large_view, "large-view free riders"),
        (corrupt, "send wrong bytes"),
        (liars, "liars"),
        (drippers, "drip"),
        (flooders, "flood"),
    ] {
        if part > 0.0 {
            said.push(format!("{}% {who}", rounded(part * 100.0)));
        }
    }
    if let Some((count, part)) = scenario.slow {
        said.push(format!("the last {count} send at {}% of their rate", rounded(part * 100.0)));
    }
    if scenario.faults.broken_links > 0.0 {
        said.push(format!(
            "{} connections break each minute",
            rounded(scenario.faults.broken_links)
        ));
    }
    if let Some((from, to)) = scenario.faults.partition {
        said.push(format!("the network is split from {} to {}", Time(from), Time(to)));
    }
    said
}

/// With two digits after the point at most.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::commands::simulate::{scenario, varied};
    use clap::Parser;
    use std::time::Duration;

    fn words(args: &[&str]) -> Vec<String> {
        let cli = Cli::parse_from(["minibit", "simulate"].iter().chain(args));
        let Command::Simulate(flags) = cli.command else { panic!("another command") };
        of(&flags, &scenario::of(&flags).unwrap())
    }

    #[test]
    fn a_made_up_swarm_is_described_as_any_other_and_so_are_its_faults() {
        let cli = Cli::parse_from(["minibit", "simulate", "--varied", "19"]);
        let Command::Simulate(given) = cli.command else { panic!("another command") };
        let mut scenario = Scenario::varied(19);
        scenario.faults.partition = Some((Duration::from_secs(5), Duration::from_secs(65)));
        let said = of(&varied::flags_for(&scenario, &given), &scenario);
        assert!(said[0].starts_with(&format!("{} peers", scenario.leechers)), "{said:?}");
        assert!(said[2].contains("38.11% liars"), "{said:?}");
        assert!(said[2].ends_with("the network is split from 5.00 s to 1:05"), "{said:?}");
    }

    #[test]
    fn an_ordinary_swarm_takes_two_lines() {
        let usual = words(&[]);
        assert_eq!(
            usual[0],
            "100 peers, 1 seeder; 250.0 MiB in 1000 pieces of 256.0 KiB; start seed"
        );
        assert!(usual[1].starts_with("each sends 10 Mbit/s, a seeder 10 Mbit/s, 20 ms apart"));
        assert_eq!(usual.len(), 2);
    }

    #[test]
    fn what_is_out_of_the_ordinary_has_a_line_of_its_own() {
        let args =
            ["--joining", "2m", "--churn", "7%", "--leave-when-done", "--free-riders", "40%"];
        let odd = words(&args);
        assert_eq!(
            odd[2],
            "joining over 2:00; who is done leaves; 7% crash each minute; 40% free riders"
        );
        let fast = words(&["--start", "round-robin", "--download", "1Mbit-2Mbit"]);
        assert!(fast[1].contains("10 Mbit/s and receives 1 Mbit/s to 2 Mbit/s, 20 ms"), "{fast:?}");
    }
}
