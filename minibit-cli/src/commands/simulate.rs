//! `simulate`: a swarm in virtual time, and what came of it in figures and pictures.
//!
//! The swarm itself is `minibit_core::sim`; here are flags, the watch over a run, and what people
//! and programs are shown. A run ends when every honest peer has everything, or when for long
//! none of them has got anything: what is missing then is with nobody who gives it.

mod panels;
mod plot;
mod scenario;
mod varied;
mod words;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use minibit_core::sim::{Report, Role, Scenario, World};
use minibit_core::swarm::ROUND;

use super::{Session, failures, work};
use crate::cli::Simulate;
use crate::exit::{Exit, Failure};
use crate::output::json::Event;
use crate::output::progress::{Standing, Work};
use crate::output::simulated::{self, Got, Joined, Shares, Simulated, Slow};
use crate::output::units::{Count, Time};

/// Steps between two looks at the clock and at whether to stop.
const STEPS: u32 = 4096;
/// Real time between two reports of progress: each looks at every piece of every peer.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs the command.
pub(super) async fn run(flags: &Simulate, session: &Session) -> Result<(), Failure> {
    let (flags, scenario) = match flags.varied {
        Some(number) => {
            let scenario = Scenario::varied(number);
            (&varied::flags_for(&scenario, flags), scenario)
        }
        None => (flags, scenario::of(flags)?),
    };
    let output = &session.output;
    for line in words::of(flags, &scenario) {
        output.say(line);
    }
    // Before anything is simulated: it may not be allowed there.
    let plot = flags.plot.as_deref().map(Plot::open).transpose()?;
    let mut first = None;
    let mut runs = Vec::new();
    let mut unserved = None;
    for number in 0..flags.runs {
        let scenario =
            Scenario { seed: scenario.seed.wrapping_add(number.into()), ..scenario.clone() };
        let checked = flags.varied.is_some();
        let Ended { report, real, unserved: of_this } =
            simulate(scenario.clone(), checked, session).await?;
        unserved = unserved.or(of_this);
        let mut run = simulated(flags, &report, real);
        if flags.network.slow_peers > 0 {
            let without = Scenario { slow: None, ..scenario };
            let without = simulate(without, checked, session).await?;
            run.slow = slow(&report, &without.report);
        }
        output.event(&Event::Simulated(Box::new(run.clone())));
        runs.push(run);
        first.get_or_insert(report);
    }
    output.result(simulated::table(&runs));
    if let (Some(mut plot), Some(report)) = (plot, first) {
        plot.draw(flags, &report)?;
        output.say(format_args!("drawn in {}", plot.path.display()));
    }
    match runs.iter().find(|run| !run.finished && flags.stop_after.is_none()) {
        Some(run) if flags.varied.is_none() || unserved > Some(0) => {
            Err(unfinished(run, unserved.unwrap_or(0)))
        }
        // What left with those who were done, or crashed, no rule can bring back.
        Some(run) => {
            let left = run.honest_peers - run.honest_peers_done;
            output.say(format_args!(
                "every rule held; {left} of {} honest peers lack what is with nobody honest who is there",
                run.honest_peers
            ));
            Ok(())
        }
        None => Ok(()),
    }
}

/// A swarm that has come to its end.
struct Ended {
    report: Report,
    real: Duration,
    /// How many honest peers lack what honest peers hold who are there, if not all are done.
    unserved: Option<usize>,
}

/// Simulates one swarm on a thread of its own.
async fn simulate(scenario: Scenario, checked: bool, session: &Session) -> Result<Ended, Failure> {
    let outcome = work::watched(Work::Simulating, session, move |progress, stop| {
        let started = Instant::now();
        let world = World::new(scenario);
        let mut world = if checked { world.checked() } else { world };
        let report = watch(&mut world, progress, stop)?;
        let unserved = (!report.finished).then(|| world.unserved().len());
        let ended = Ended { report, real: started.elapsed(), unserved };
        Some((ended, world.broken().map(str::to_owned)))
    });
    match outcome.await?.ok_or_else(failures::interrupted)? {
        (ended, None) => Ok(ended),
        (_, Some(broken)) => Err(Failure::new(Exit::Failed, broken)),
    }
}

/// Steps through a swarm to its end, or until something does not hold that must; `None` if it was
/// interrupted.
fn watch(world: &mut World, progress: &dyn Fn(Standing), stop: &AtomicBool) -> Option<Report> {
    let mut looked = Instant::now();
    loop {
        for _ in 0..STEPS {
            if world.is_done() || world.broken().is_some() || !world.step() {
                return Some(world.report());
            }
        }
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        if looked.elapsed() < LOOK_EVERY {
            continue;
        }
        let report = world.report();
        progress(Standing {
            bytes: done_bytes(&report),
            bytes_total: wanted_bytes(&report),
            ..Standing::default()
        });
        looked = Instant::now();
    }
}

fn wanted_bytes(report: &Report) -> u64 {
    report.of_role(Role::Leecher).count() as u64 * report.scenario.share_len() as u64
}

fn done_bytes(report: &Report) -> u64 {
    let parts: f64 = report.of_role(Role::Leecher).map(|member| member.has).sum();
    (parts * report.scenario.share_len()) as u64
}

/// The figures of one run.
fn simulated(flags: &Simulate, report: &Report, real: Duration) -> Simulated {
    let scenario = &report.scenario;
    let honest = report.of_role(Role::Leecher).count();
    let done: Vec<f64> = report.completions().iter().map(Duration::as_secs_f64).collect();
    // Of all honest peers: those that are not done come last.
    let median = done.get((honest.max(1) - 1) / 2).copied();
    Simulated {
        seed: scenario.seed,
        peers: scenario.leechers.into(),
        seeders: scenario.seeders.into(),
        bytes: scenario.share_len() as u64,
        pieces: scenario.pieces.into(),
        piece_size: scenario.piece_size.bytes().into(),
        start: flags.start.to_string(),
        picking: simulated::name_of(&flags.rules.picking),
        policy: simulated::name_of(&flags.rules.policy),
        slots: flags.rules.slots.to_string(),
        finished: report.finished,
        honest_peers: honest as u64,
        honest_peers_done: done.len() as u64,
        first_seconds: done.first().copied(),
        median_seconds: median,
        last_seconds: done.last().copied().filter(|_| report.finished),
        lower_bound_seconds: report.lower_bound.as_secs_f64(),
        over_bound: report.over_bound(),
        simulated_seconds: report.ended.as_secs_f64(),
        seeder_copies: (scenario.seeders > 0).then(|| report.seeder_copies()),
        first_copy: report.first_copy.filter(|_| scenario.seeders > 0),
        messages_per_peer: report.messages_per_peer(),
        waste: report.waste(),
        pieces_refused: report.of_role(Role::Leecher).map(|member| member.refused).sum(),
        slot_moves_median: report.slot_moves().map(|(median, _)| median as f64),
        slot_moves_most: report.slot_moves().map(|(_, most)| most as f64),
        fairness: report.fairness(),
        give_and_take: report.give_and_take(),
        honest_rate: mean_rate(report, &[Role::Leecher]).unwrap_or(0.0),
        free_rider_rate: mean_rate(report, &[Role::FreeRider, Role::LargeView]),
        honest_peers_banned: report.honest_banned() as u64,
        hostile: !scenario.hostile.is_empty(),
        joined: (!flags.joining.is_zero()).then(|| joined(report)),
        got: flags.stop_after.and_then(|_| got(report)),
        slow: None,
        real_seconds: real.as_secs_f64(),
        events: report.events,
        events_hash: format!("{:016x}", report.events_hash),
    }
}

/// How long those who joined waited for their first piece.
fn joined(report: &Report) -> Joined {
    let waits = report.first_pieces();
    let rounds = |wait: &Duration| wait.as_secs_f64() / ROUND.as_secs_f64();
    let all = report.of_role(Role::Leecher).count();
    Joined {
        first_piece_median_rounds: waits.get((all.max(1) - 1) / 2).map(rounds),
        first_piece_last_rounds: waits.last().filter(|_| waits.len() == all).map(rounds),
    }
}

/// What slow peers cost, beside the same swarm without them; `None` if either did not finish.
fn slow(with: &Report, without: &Report) -> Option<Slow> {
    let cost = with.slow_cost(without)?;
    let scenario = &without.scenario;
    let rates = without.of_role(Role::Leecher).map(|member| member.upload_rate);
    let rate = rates.sum::<f64>() / without.of_role(Role::Leecher).count().max(1) as f64;
    Some(Slow {
        last_without_slow_seconds: without.completions().last()?.as_secs_f64(),
        slow_delay_seconds: cost.later,
        slow_delay_of_others_seconds: cost.others_later,
        slow_unsent_seconds: cost.unsent,
        piece_seconds: f64::from(scenario.piece_size.bytes()) / rate,
    })
}

/// How far the honest peers are; `None` if there are none.
fn got(report: &Report) -> Option<Got> {
    let parts = report.verified_parts();
    let least = *parts.first()?;
    let shares = report.shares().map(Shares::from);
    Some(Got { median_verified: parts[(parts.len() - 1) / 2], least_verified: least, shares })
}

/// Bytes per second at which the members of some roles got what they got, on average.
fn mean_rate(report: &Report, roles: &[Role]) -> Option<f64> {
    let members = roles.iter().flat_map(|role| report.of_role(*role));
    let rates: Vec<f64> = members.map(|member| report.rate(member)).collect();
    (!rates.is_empty()).then(|| rates.iter().sum::<f64>() / rates.len() as f64)
}

#[derive(Debug, thiserror::Error)]
#[error("could not draw {}", path.display())]
struct PlotError {
    path: std::path::PathBuf,
    source: std::io::Error,
}

/// Where a picture goes.
struct Plot<'a> {
    path: &'a Path,
    file: File,
}

impl<'a> Plot<'a> {
    /// What is there stays until there is a picture.
    fn open(path: &'a Path) -> Result<Self, Failure> {
        let file = File::options().create(true).write(true).truncate(false).open(path);
        Ok(Self { path, file: file.map_err(|source| Self::failed(path, source))? })
    }

    fn failed(path: &Path, source: std::io::Error) -> Failure {
        Failure::new(Exit::Disk, PlotError { path: path.to_owned(), source })
    }

    fn draw(&mut self, flags: &Simulate, report: &Report) -> Result<(), Failure> {
        let mut title = words::of(flags, &report.scenario);
        title.push(outcome(flags, report));
        let picture = plot::svg(&title, report);
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(picture.as_bytes()));
        written.map_err(|source| Self::failed(self.path, source))
    }
}

/// What came of a swarm, in a line.
fn outcome(flags: &Simulate, report: &Report) -> String {
    let ended = Time(report.ended);
    if let Some(over) = report.over_bound() {
        return format!("last done after {ended}, {over:.2} of the bound");
    }
    let done = format!(
        "with {} of {} done",
        report.completions().len(),
        Count(report.of_role(Role::Leecher).count() as u64, "honest peer")
    );
    let is_stopped = flags.stop_after.is_some_and(|time| report.ended >= time);
    match got(report).filter(|_| is_stopped) {
        Some(got) => format!(
            "stopped after {ended} {done}; the median has {} %, the last {} %",
            (got.median_verified * 100.0).floor(),
            (got.least_verified * 100.0).floor()
        ),
        None => format!("ended after {ended} {done}"),
    }
}

fn unfinished(run: &Simulated, unserved: usize) -> Failure {
    let left = run.honest_peers - run.honest_peers_done;
    let error = format!(
        "with seed {}, {left} of {} honest peers never got everything",
        run.seed, run.honest_peers
    );
    Failure::new(Exit::Failed, error).hint(if unserved > 0 {
        format!(
            "{unserved} of them lack what honest peers hold who are still there; if time has not just \
             run out, that is a fault of the rules: please report it"
        )
    } else {
        "what they miss is with nobody honest who is still there; \
         see --seeders-leave, --leave-when-done and the hostile peers"
            .to_owned()
    })
}
