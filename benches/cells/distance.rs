//! Distance: how much of a far line is filled, and with how much memory.
//!
//! ```text
//! --size MIB       size of the file (default 512)
//! --gbit RATE      rate of the line in Gbit/s, each way (default 1)
//! --rtt MS,MS,…    round trips in milliseconds (default 1,20,100)
//! --lanes N,N,…    lanes to try, 0 for as many as minibit chooses (default 0)
//! ```
//!
//! The line is a proxy of our own ([`minibit_benches::line`]). Timed from the start of `get` to its
//! end, so finding the share and the first round trips count.

use std::time::Duration;

use minibit_benches::line::Line;
use minibit_benches::{MIB, Outcome, make_source, remove};
use minibit_core::content::Ticket;

use crate::Bench;

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let size = bench.flags.get::<u64>("size", 512)? << 20;
    let path = bench.flags.get("gbit", 1.0)? * 1e9 / 8.0;
    let rtts: Vec<u64> = bench.flags.list("rtt", "1,20,100")?;
    let lanes: Vec<u8> = bench.flags.list("lanes", "0")?;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    let source = scratch.join("source.bin");
    make_source(&source, size)?;
    let mut share = minibit.share(&source)?;
    println!("| round trip | lanes | MiB/s | of the line | anon MiB, receiver | sender |");
    println!("|---|---|---|---|---|---|");
    for rtt in rtts {
        for lanes in &lanes {
            let line = Line::open(share.ticket.peers()[0], Duration::from_millis(rtt), path)?;
            let away = Ticket::new(share.ticket.share(), vec![], vec![line])?;
            let out = scratch.join("out");
            let wanted = lanes.to_string();
            let (with, told) = match lanes {
                0 => (minibit.clone(), "its own"),
                _ => (minibit.with(&["--lanes", &wanted]), wanted.as_str()),
            };
            let got = with.get(&away, &out)?.finish(&mut [&mut share.running])?;
            remove(&out)?;
            let rate = size as f64 / got.seconds;
            println!(
                "| {rtt} ms | {told} | {:.1} | {:.0} % | {:.1} | {:.1} |",
                rate / MIB,
                100.0 * rate / path,
                got.anon_kib as f64 / 1024.0,
                share.running.anon_peak() as f64 / 1024.0,
            );
        }
    }
    Ok(())
}
