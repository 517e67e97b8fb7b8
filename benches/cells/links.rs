//! Many links: what peers cost that are there and have nothing to give.
//!
//! ```text
//! --size MIB       size of the file (default 4096)
//! --peers N,N,…    idle peers at each end (default 0,50,200)
//! --demo N,N,…     peers of a `demo` in which all trade (default 10,50,100; 16 MiB)
//! ```
//!
//! The idle peers are strangers ([`minibit_benches::stranger`]): linked to `share` before, and to `get` as
//! soon as its download is open, they hold half of the pieces, choke, want nothing, keep their links alive, and are told of
//! every piece that `get` verifies. They run on the same two cores, so what they cost
//! themselves is in the figures as well.

use std::net::SocketAddr;

use minibit_benches::ballast::Ballast;
use minibit_benches::minibit::{Minibit, Share, event};
use minibit_benches::process::Running;
use minibit_benches::stranger::{Crowd, Stranger};
use minibit_benches::{GIB, MIB, Outcome, make_source, remove, spread};
use minibit_core::types::PieceSet;

use crate::Bench;

const DEMO_SIZE: u64 = 16 << 20;

struct Run {
    rate: f64,
    cpu: f64,
    anon_sender: f64,
    anon_receiver: f64,
    heard: f64,
    came: f64,
    lost: f64,
}

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let runs: usize = bench.flags.get("runs", 5)?;
    let size = bench.flags.get::<u64>("size", 4096)? << 20;
    let counts: Vec<usize> = bench.flags.list("peers", "0,50,200")?;
    let demos: Vec<u64> = bench.flags.list("demo", "10,50,100")?;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    let (source, out) = (scratch.join("source.bin"), scratch.join("out"));
    make_source(&source, size)?;
    let mut results: Vec<Vec<Run>> = counts.iter().map(|_| Vec::new()).collect();
    for _ in 0..runs {
        for (results, count) in results.iter_mut().zip(&counts) {
            let with = minibit.with(&["--max-links", "500"]);
            results.push(transfer(&with, with.share(&source)?, &out, *count, size)?);
            remove(&out)?;
        }
    }
    println!(
        "| idle peers | MiB/s | CPU s/GiB, both ends | anon MiB, sender | receiver \
         | of them at the receiver | KiB told each | sender's links lost |\n\
         |---|---|---|---|---|---|---|---|"
    );
    for (results, count) in results.iter().zip(&counts) {
        let of = |value: &dyn Fn(&Run) -> f64| spread(results.iter().map(value));
        println!(
            "| {count} | {} | {} | {} | {} | {} | {} | {} |",
            of(&|run| run.rate),
            of(&|run| run.cpu),
            of(&|run| run.anon_sender),
            of(&|run| run.anon_receiver),
            of(&|run| run.came),
            of(&|run| run.heard),
            of(&|run| run.lost),
        );
    }
    println!("\n| peers of a demo, 16 MiB | s | MiB/s in all | messages each |\n|---|---|---|---|");
    make_source(&source, DEMO_SIZE)?;
    for peers in demos {
        let mut demo = minibit.command("demo");
        demo.arg(&source).args(["--peers", &peers.to_string(), "--dir"]).arg(&out);
        let demo = event(&Running::start(&mut demo)?.finish(&mut [])?, "demo")?;
        remove(&out)?;
        let seconds = demo["seconds"].as_f64().ok_or("no seconds")?;
        let rate = (DEMO_SIZE * (peers - 1)) as f64 / MIB / seconds;
        println!("| {peers} | {seconds:.2} | {rate:.0} | {} |", demo["messages_per_peer"]);
    }
    Ok(())
}

fn transfer(
    minibit: &Minibit,
    mut share: Share,
    out: &std::path::Path,
    count: usize,
    size: u64,
) -> Outcome<Run> {
    let ballast = Ballast::hold(size + size / 2)?;
    let (idle_at_sender, _) = crowd(share.ticket.peers()[0], &share, count, 1_000);
    let before = share.running.cpu();
    let mut get = minibit.get(&share.ticket, out)?;
    let (address, _) = get.opened()?;
    let (idle_at_receiver, came) = crowd(address, &share, count, 2_000);
    let got = get.finish(&mut [&mut share.running])?;
    drop(ballast);
    Ok(Run {
        rate: size as f64 / MIB / got.seconds,
        cpu: (got.cpu + share.running.cpu() - before) / (size as f64 / GIB),
        anon_sender: share.running.anon_peak() as f64 / 1024.0,
        anon_receiver: got.anon_kib as f64 / 1024.0,
        heard: idle_at_receiver.heard() as f64 / 1024.0 / came as f64,
        came: came as f64,
        // The receiver's are all gone: it has ended.
        lost: idle_at_sender.lost() as f64,
    })
}

/// That many strangers who hold every other piece, and how many of them came: whoever comes late
/// may find the receiver gone.
fn crowd(addr: SocketAddr, share: &Share, count: usize, first: u64) -> (Crowd, usize) {
    let geometry = share.manifest.geometry();
    let mut half = PieceSet::empty(geometry.piece_count());
    geometry.pieces().filter(|piece| piece.get() % 2 == 0).for_each(|piece| {
        half.insert(piece);
    });
    let strangers = (first..).take(count).map_while(|number| {
        let id = share.ticket.share();
        let mut stranger = Stranger::connect(addr, id, geometry.piece_count(), number).ok()?;
        stranger.hold(&half).ok()?;
        Some(stranger)
    });
    let strangers: Vec<_> = strangers.collect();
    let came = strangers.len();
    (Crowd::of(strangers), came)
}
