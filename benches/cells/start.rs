//! Start-up: what a transfer costs that is too small to have a throughput.
//!
//! `--runs N` (default 21). The `get` is timed from before its process is made until its parent
//! knows that it is gone; `demo` by its own clock, from the start of the swarm until the slowest of its
//! ten peers has verified its copy.

use minibit_benches::minibit::event;
use minibit_benches::process::Running;
use minibit_benches::{Outcome, make_source, remove, spread};

use crate::Bench;

const SIZE: u64 = 1 << 20;

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let runs: usize = bench.flags.get("runs", 21)?;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    let (source, out) = (scratch.join("source.bin"), scratch.join("out"));
    make_source(&source, SIZE)?;
    let share = minibit.share(&source)?;
    let (mut gets, mut demos) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        gets.push(1e3 * minibit.get(&share.ticket, &out)?.finish(&mut [])?.seconds);
        remove(&out)?;
        let mut demo = minibit.command("demo");
        demo.arg(&source).args(["--piece-size", "16K", "--dir"]).arg(&out);
        let lines = Running::start(&mut demo)?.finish(&mut [])?;
        let seconds = event(&lines, "demo")?["seconds"].as_f64();
        demos.push(1e3 * seconds.ok_or("no seconds")?);
        remove(&out)?;
    }
    println!("| {runs} runs | ms |\n|---|---|");
    println!("| `get` of 1 MiB, process start to exit | {} |", spread(gets));
    println!("| `demo` of 1 MiB in pieces of 16 KiB, slowest of ten peers | {} |", spread(demos));
    Ok(())
}
