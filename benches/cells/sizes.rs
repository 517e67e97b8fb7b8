//! Memory of both ends, whatever the size of the file.
//!
//! `--mib N,N,…` (default 64,2048,20480). The source is sparse, the copy is not: the largest needs
//! as much room on the disk. Where a copy is larger than memory the disk sets the pace.

use std::fs::File;

use minibit_benches::{MIB, Outcome, remove};

use crate::Bench;

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let sizes: Vec<u64> = bench.flags.list("mib", "64,2048,20480")?;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    println!("| MiB | anon MiB, sender | receiver | MiB/s |\n|---|---|---|---|");
    for size in sizes {
        let (source, out) = (scratch.join("source.bin"), scratch.join("out"));
        File::create(&source)?.set_len(size << 20)?;
        let mut share = minibit.share(&source)?;
        let got = minibit.get(&share.ticket, &out)?.finish(&mut [&mut share.running])?;
        println!(
            "| {size} | {:.1} | {:.1} | {:.0} |",
            share.running.anon_peak() as f64 / 1024.0,
            got.anon_kib as f64 / 1024.0,
            (size << 20) as f64 / MIB / got.seconds,
        );
        remove(&out)?;
    }
    Ok(())
}
