//! Disks: a source that has to be read from one, and an output that is slower than the network.
//!
//! ```text
//! --size MIB       size of the file for the cold source (default 1024)
//! --slow MIB       size of the file for the slow output (default 128)
//! --rate MIB       what the slow disk writes in a second (default 24)
//! ```
//!
//! Cold: the file's pages are dropped before each run, of `cp` as of `share`, which has started
//! before. Slow: a file system in memory, mounted so that every write waits for its disk (a loop device), and
//! a control group that bounds what the receiver may write to it; needs root, and is left out without. While it
//! fetches, strangers link to the receiver and time the answer to their REGISTRO: a network task that
//! waits for the disk would keep them waiting as well. The lanes' queue is bounded at 16 blocks of
//! 256 KiB, which is what its memory may show.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{io, thread};

use minibit_benches::minibit::Minibit;
use minibit_benches::stranger::Stranger;
use minibit_benches::{MIB, Outcome, Scratch, make_source, remove, spread};
use rustix::fs::{Advice, fadvise};

use crate::Bench;

/// Between two strangers.
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn measure(mut bench: Bench) -> Outcome<()> {
    let runs: usize = bench.flags.get("runs", 3)?;
    let size = bench.flags.get::<u64>("size", 1024)? << 20;
    let slow = bench.flags.get::<u64>("slow", 128)? << 20;
    let rate = bench.flags.get::<u64>("rate", 24)? << 20;
    let Bench { minibit, scratch, flags } = bench;
    flags.end()?;
    cold_source(&minibit, &scratch, size, runs)?;
    match SlowDisk::new(&scratch, slow * 2, rate) {
        Ok(disk) => slow_output(&minibit, &scratch, &disk, slow),
        Err(why) => {
            println!("\nwithout a slow disk: {why}");
            Ok(())
        }
    }
}

fn cold_source(minibit: &Minibit, scratch: &Scratch, size: u64, runs: usize) -> Outcome<()> {
    let (source, out) = (scratch.join("source.bin"), scratch.join("out"));
    make_source(&source, size)?;
    let mut share = minibit.share(&source)?;
    let (mut copies, mut gets, mut anon) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs {
        forget(&source)?;
        let started = Instant::now();
        let status = Command::new("cp").arg(&source).arg(&out).status()?;
        copies.push(size as f64 / MIB / started.elapsed().as_secs_f64());
        if !status.success() {
            return Err("cp failed".into());
        }
        remove(&out)?;
        forget(&source)?;
        let got = minibit.get(&share.ticket, &out)?.finish(&mut [&mut share.running])?;
        gets.push(size as f64 / MIB / got.seconds);
        anon.push(share.running.anon_peak() as f64 / 1024.0);
        remove(&out)?;
    }
    let ratios = spread(gets.iter().zip(&copies).map(|(get, copy)| get / copy));
    println!("| cold source, {} MiB, {runs} runs | |\n|---|---|", size >> 20);
    println!("| `cp`, MiB/s | {} |", spread(copies));
    println!("| minibit, MiB/s | {} |", spread(gets));
    println!("| minibit : cp | {ratios} |");
    println!("| anon MiB, sender | {} |", spread(anon));
    Ok(())
}

/// Drops a file's pages from memory.
fn forget(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

fn slow_output(minibit: &Minibit, scratch: &Scratch, disk: &SlowDisk, size: u64) -> Outcome<()> {
    let source = scratch.join("slow.bin");
    make_source(&source, size)?;
    let share = minibit.share(&source)?;
    let mut get = minibit.get(&share.ticket, &disk.mount.join("out"))?;
    disk.confine(get.running.id())?;
    let (addr, _) = get.opened()?;
    let (id, pieces) = (share.ticket.share(), share.manifest.geometry().piece_count());
    let answers = thread::spawn(move || {
        let mut times = Vec::new();
        // Ends when nobody answers any more: the receiver has done and is gone.
        for number in 1.. {
            let started = Instant::now();
            let Ok(_stranger) = Stranger::connect(addr, id, pieces, number) else { break };
            times.push(1e3 * started.elapsed().as_secs_f64());
            thread::sleep(PAUSE);
        }
        times
    });
    let got = get.finish(&mut [])?;
    let answers = answers.join().map_err(|_| "the strangers panicked")?;
    println!("\n| slow output, {} MiB | |\n|---|---|", size >> 20);
    println!("| MiB/s | {:.1} |", size as f64 / MIB / got.seconds);
    println!("| strangers answered | {} |", answers.len());
    println!("| answer to a REGISTRO, ms | {} |", spread(answers));
    println!("| anon MiB, receiver | {:.1} |", got.anon_kib as f64 / 1024.0);
    let peak = got.done["disk_queue_peak"].as_u64();
    let peak = peak.map_or_else(|| "not told".to_owned(), |blocks| blocks.to_string());
    println!("| most blocks that waited for the disk | {peak} |");
    Ok(())
}

/// A file system in memory that writes slowly, for as long as this value lives.
struct SlowDisk {
    mount: PathBuf,
    device: String,
    group: PathBuf,
}

impl SlowDisk {
    fn new(scratch: &Scratch, size: u64, rate: u64) -> Outcome<Self> {
        let image = PathBuf::from(format!("/dev/shm/minibit-bench-{}.img", std::process::id()));
        File::create(&image)?.set_len(size)?;
        let set_up = Self::set_up(scratch, &image, rate);
        // The device keeps what it needs of it.
        fs::remove_file(&image)?;
        set_up
    }

    fn set_up(scratch: &Scratch, image: &Path, rate: u64) -> Outcome<Self> {
        run(Command::new("mkfs.ext4").arg("-q").arg(image))?;
        let device = run(Command::new("losetup").args(["-f", "--show"]).arg(image))?;
        let mount = scratch.join("slow");
        let group = PathBuf::from("/sys/fs/cgroup/blkio/minibit-bench");
        let disk = Self { mount, device, group };
        fs::create_dir_all(&disk.mount)?;
        let sync = ["-o", "sync", &disk.device];
        run(Command::new("mount").args(sync).arg(&disk.mount))?;
        fs::create_dir_all(&disk.group)?;
        let numbers = run(Command::new("lsblk").args(["-dno", "MAJ:MIN", &disk.device]))?;
        let limit = format!("{} {rate}", numbers.trim());
        fs::write(disk.group.join("blkio.throttle.write_bps_device"), limit)?;
        Ok(disk)
    }

    /// From now on this process writes no faster.
    fn confine(&self, pid: u32) -> Outcome<()> {
        Ok(fs::write(self.group.join("cgroup.procs"), pid.to_string())?)
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg(&self.mount));
        let _ = run(Command::new("losetup").args(["-d", &self.device]));
        let _ = fs::remove_dir(&self.group);
    }
}

/// What a command prints.
fn run(command: &mut Command) -> Outcome<String> {
    let run = command.output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if run.status.success() {
        Ok(text(&run.stdout))
    } else {
        let program = command.get_program().to_string_lossy().into_owned();
        Err(format!("{program}: {}", text(&run.stderr)).into())
    }
}
