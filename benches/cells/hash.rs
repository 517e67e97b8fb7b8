//! Getting ready: `share` until its ticket is out, and `verify`, beside b3sum with a thread for
//! each core. `--size MIB` (default 2048).
//!
//! The file is in memory. `share` and `verify` are whole processes, as b3sum is; the third is `share` of the
//! same unchanged file, which takes its hashes from the cache.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use minibit_benches::process::Running;
use minibit_benches::{Outcome, installed, make_source, spread, warm};

use crate::Bench;

/// What has changed more recently gets no entry in the cache.
const SETTLED: Duration = Duration::from_millis(2500);

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let runs: usize = bench.flags.get("runs", 7)?;
    let size = bench.flags.get::<u64>("size", 2048)? << 20;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    let b3sum = installed(&["b3sum"], "--version");
    let source = scratch.join("source.bin");
    make_source(&source, size)?;
    warm(&source)?;
    thread::sleep(SETTLED);
    // Leaves an entry in the cache for the runs that use it.
    let share = minibit.share(&source)?;
    let ticket = share.ticket.to_string();
    share.stop()?;
    let anew = minibit.with(&["--no-cache"]);
    let mut columns: [Vec<f64>; 5] = Default::default();
    for _ in 0..runs {
        let hashed = match b3sum {
            Some(program) => time(|| finish(Command::new(program).arg(&source)))?,
            None => f64::NAN,
        };
        let shared = time(|| anew.share(&source)?.stop().map(drop))?;
        let verified =
            time(|| finish(minibit.command("verify").arg(&source).args(["--ticket", &ticket])))?;
        let again = time(|| minibit.share(&source)?.stop().map(drop))?;
        let figures = [hashed, shared, verified, again, shared / hashed];
        columns.iter_mut().zip(figures).for_each(|(column, figure)| column.push(figure));
    }
    let verify = spread(columns[2].iter().zip(&columns[0]).map(|(ours, theirs)| ours / theirs));
    println!("| {} MiB, {runs} runs | s | of b3sum's time |\n|---|---|---|", size >> 20);
    println!("| b3sum | {} | |", spread(columns[0].clone()));
    println!(
        "| `share`, ticket out and stopped again | {} | {} |",
        spread(columns[1].clone()),
        spread(columns[4].clone())
    );
    println!("| `verify` | {} | {verify} |", spread(columns[2].clone()));
    println!("| `share` of the unchanged file again | {} | |", spread(columns[3].clone()));
    Ok(())
}

fn finish(command: &mut Command) -> Outcome<()> {
    Running::start(command)?.finish(&mut []).map(drop)
}

fn time(work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}
