//! The rules of the swarm, shown of small swarms in virtual time.
//!
//! ```text
//! varied    swarms of every kind, made up from a number       replay    the same again is the same
//! pieces    which pieces are fetched when
//! slots     who is answered, and what giving is worth
//! hostile   peers that keep to no rule                        network   what breaks and heals
//! aims      what all of it is for, in numbers
//! ```
//!
//! The conduct is the one that ships (see `minibit_core::sim`); here are only the swarms and what
//! must come of them. Bounds are those of the swarm's aims, not of what was measured.

mod aims;
mod hostile;
mod network;
mod pieces;
mod replay;
mod slots;
mod varied;

use std::time::Duration;

use minibit_core::sim::{Report, Role, Scenario, World};

/// Simulates with every invariant checked after every step.
#[track_caller]
fn checked(scenario: Scenario) -> Report {
    let mut world = World::new(scenario).checked();
    while !world.is_done() && world.step() {
        assert_eq!(world.broken(), None, "{:?}", world.report().scenario);
    }
    world.report()
}

/// When the last honest leecher was done.
#[track_caller]
fn last(report: &Report) -> Duration {
    assert!(report.finished, "{}", described(report));
    *report.completions().last().expect("there is a leecher")
}

/// The mean rate at which the members of a role got what they got, in bytes per second.
fn mean_rate(report: &Report, role: Role) -> f64 {
    let rates: Vec<f64> = report.of_role(role).map(|member| report.rate(member)).collect();
    rates.iter().sum::<f64>() / rates.len() as f64
}

/// What a reader of a failed test needs to know.
fn described(report: &Report) -> String {
    let members: Vec<String> = report
        .members
        .iter()
        .enumerate()
        .map(|(number, m)| {
            format!(
                "  {number:3} {:?}: has {:.3}, done {:?}, up {}, down {}, wasted {}, refused {}",
                m.role, m.has, m.completed, m.uploaded, m.downloaded, m.wasted, m.refused
            )
        })
        .collect();
    format!(
        "finished {}, ended {:?}, bound {:?}, availability {:?}\n{:#?}\n{}",
        report.finished,
        report.ended,
        report.lower_bound,
        report.timeline.last().map(|moment| moment.availability),
        report.scenario,
        members.join("\n")
    )
}
