//! Small files: where the cost of a file, not of a byte, decides.
//!
//! `--files N` (default 10000), each of 4 KiB, in folders of a hundred; and a mixed folder, 2000
//! files from 1 byte to 64 MiB, most of them small. Beside `get`: `tar` straight into a TCP socket and
//! `tar` out of it, which verifies nothing. Every copy stays until the end, because ext4 is slow to use inodes
//! again that were freed within the last seconds, and whoever comes second would pay for that.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use minibit_benches::ballast::Ballast;
use minibit_benches::process::own_cpu;
use minibit_benches::{MIB, Outcome, make_source, spread};

use crate::Bench;

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let runs: usize = bench.flags.get("runs", 5)?;
    let files: u64 = bench.flags.get("files", 10_000)?;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    println!(
        "| | MiB | tar over TCP, s | CPU s | minibit, s | CPU s, both ends | anon MiB, receiver \
         | minibit : tar, throughput |\n|---|---|---|---|---|---|---|---|"
    );
    for (name, sizes) in [("small", vec![4096; files as usize]), ("mixed", mixed())] {
        let folder = scratch.join(name);
        for (number, size) in sizes.iter().enumerate() {
            let inner = folder.join(format!("{:03}", number / 100));
            fs::create_dir_all(&inner)?;
            make_source(&inner.join(format!("{number:05}")), *size)?;
        }
        let mut share = minibit.share(&folder)?;
        let mut rounds = Vec::new();
        let size: u64 = sizes.iter().sum();
        for round in 0..runs {
            // For both copies.
            let ballast = Ballast::hold(3 * size)?;
            let tar = tar(&folder, &scratch.join(format!("{name}-tar-{round}")))?;
            let before = share.running.cpu();
            let get = minibit.get(&share.ticket, &scratch.join(format!("{name}-get-{round}")))?;
            let got = get.finish(&mut [&mut share.running])?;
            drop(ballast);
            rounds.push((tar, got, share.running.cpu() - before));
        }
        println!(
            "| {} files, {name} | {:.0} | {} | {} | {} | {} | {} | {} |",
            sizes.len(),
            size as f64 / MIB,
            spread(rounds.iter().map(|(tar, ..)| tar.0)),
            spread(rounds.iter().map(|(tar, ..)| tar.1)),
            spread(rounds.iter().map(|(_, got, _)| got.seconds)),
            spread(rounds.iter().map(|(_, got, sender)| got.cpu + sender)),
            spread(rounds.iter().map(|(_, got, _)| got.anon_kib as f64 / 1024.0)),
            spread(rounds.iter().map(|(tar, got, _)| tar.0 / got.seconds)),
        );
    }
    Ok(())
}

/// Lengths of a folder as people have them: for each large file many small ones.
fn mixed() -> Vec<u64> {
    let length = |number: u64| match number % 1000 {
        0 => 64 << 20,
        1..10 => 4 << 20,
        10..100 => 128 * 1024 + number,
        _ => 1 + (number * 7919) % 16_384,
    };
    (0..2000).map(length).collect()
}

/// Seconds and CPU seconds of a folder's way through tar, TCP and tar.
fn tar(folder: &Path, out: &Path) -> Outcome<(f64, f64)> {
    fs::create_dir_all(out)?;
    let before = own_cpu().1;
    let started = Instant::now();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    let mut packing = Command::new("tar")
        .args(["-cf", "-", "-C"])
        .arg(folder)
        .arg(".")
        .stdout(Stdio::from(OwnedFd::from(near)))
        .spawn()?;
    let mut unpacking = Command::new("tar")
        .args(["-xf", "-", "-C"])
        .arg(out)
        .stdin(Stdio::from(OwnedFd::from(far)))
        .spawn()?;
    if !(packing.wait()?.success() && unpacking.wait()?.success()) {
        return Err("tar failed".into());
    }
    Ok((started.elapsed().as_secs_f64(), own_cpu().1 - before))
}
