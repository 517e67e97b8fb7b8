//! A share of a million pieces: a sparse file, in pieces of 16 KiB.
//!
//! ```text
//! --pieces N       pieces of 16 KiB (default 1048576, as many as a share may have)
//! --peers N        peers whose bitmaps each end takes in (default 100)
//! ```
//!
//! A `get` is stopped after some seconds and started again, so that it has a bitmap to tell. Then
//! strangers with half of the pieces link to it and to `share`: how long until a link has exchanged
//! bitmaps, and what each adds to anonymous memory. What a pick and a piece of news cost is
//! the bench `rarity`.

use std::fs::File;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use minibit_benches::minibit::Share;
use minibit_benches::process::{Running, anon_kib};
use minibit_benches::stranger::{Crowd, Stranger};
use minibit_benches::{Outcome, spread};
use minibit_core::types::PieceSet;

use crate::Bench;

const PIECE: u64 = 16 * 1024;
/// How long the first `get` runs.
const FIRST_RUN: Duration = Duration::from_secs(2);

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let pieces: u64 = bench.flags.get("pieces", 1 << 20)?;
    let peers: u64 = bench.flags.get("peers", 100)?;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    let source = scratch.join("source.bin");
    File::create(&source)?.set_len(pieces * PIECE)?;
    let started = Instant::now();
    let share = minibit.with(&["--piece-size", "16K", "--max-links", "1000"]).share(&source)?;
    println!("| {pieces} pieces | |\n|---|---|");
    println!("| `share` until its ticket | {:.2} s |", started.elapsed().as_secs_f64());
    println!("| its anonymous memory, without a link | {} |", memory(&share.running));

    let get = minibit.with(&["--max-links", "1000"]);
    let (mut first, started) = (get.get(&share.ticket, &scratch.join("out"))?, Instant::now());
    first.opened()?;
    let opened = started.elapsed().as_secs_f64() * 1e3;
    println!("| `get` from start to open download, first | {opened:.0} ms |");
    thread::sleep(FIRST_RUN);
    first.running.stop()?;
    let (mut again, started) = (get.get(&share.ticket, &scratch.join("out"))?, Instant::now());
    let (addr, resumed) = again.opened()?;
    let reopened = started.elapsed().as_secs_f64() * 1e3;
    println!("| pieces it had after {} s | {} |", FIRST_RUN.as_secs(), resumed / PIECE);
    println!("| from start to open download, again | {reopened:.0} ms |");
    link("`get`", &again.running, addr, &share, peers, true)?;
    link("`share`", &share.running, share.ticket.peers()[0], &share, peers, false)?;
    again.running.stop()?;
    Ok(())
}

/// Links strangers to a process, and tells what that took.
fn link(
    name: &str,
    process: &Running,
    addr: SocketAddr,
    share: &Share,
    peers: u64,
    tells: bool,
) -> Outcome<()> {
    let geometry = share.manifest.geometry();
    let pieces = geometry.piece_count();
    let mut half = PieceSet::empty(pieces);
    geometry.pieces().filter(|piece| piece.get() % 2 == 0).for_each(|piece| {
        half.insert(piece);
    });
    let before = anon_kib(process.id());
    let (mut strangers, mut times) = (Vec::new(), Vec::new());
    for number in 1..=peers {
        let started = Instant::now();
        let mut stranger = Stranger::connect(addr, share.ticket.share(), pieces, number)?;
        stranger.hold(&half)?;
        // A seeder says that it is one, and then there is no bitmap to tell.
        if tells {
            stranger.hear_bitmap()?;
        }
        times.push(1e3 * started.elapsed().as_secs_f64());
        strangers.push(stranger);
    }
    let crowd = Crowd::of(strangers);
    thread::sleep(Duration::from_secs(1));
    let after = anon_kib(process.id());
    let each = after.saturating_sub(before) as f64 * 1024.0 / peers as f64 / f64::from(pieces);
    let what = if tells { "both bitmaps" } else { "our bitmap" };
    println!("| {name}: a link and {what}, ms | {} |", spread(times));
    println!("| {name}: anonymous memory with {peers} links | {} |", memory(process));
    println!("| {name}: bytes for each piece and peer | {each:.3} |");
    println!("| {name}: links lost | {} |", crowd.lost());
    Ok(())
}

fn memory(process: &Running) -> String {
    format!("{:.1} MiB", anon_kib(process.id()) as f64 / 1024.0)
}
