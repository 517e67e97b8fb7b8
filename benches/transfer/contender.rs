//! Who takes part, and how one run of each is timed and weighed.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use minibit_benches::ballast::Ballast;
use minibit_benches::minibit::{Minibit, begin_again};
use minibit_benches::process::{Running, own_cpu};
use minibit_benches::{Outcome, Scratch, remove};

use crate::bare;
use crate::rivals::Rival;

/// What is moved, and where.
pub(crate) struct Setup {
    pub(crate) size: u64,
    pub(crate) receivers: usize,
    /// Bytes of memory that are held ready before each run.
    pub(crate) ballast: u64,
    pub(crate) minibit: Minibit,
    pub(crate) source: PathBuf,
    pub(crate) scratch: Scratch,
}

impl Setup {
    pub(crate) fn bytes_moved(&self) -> f64 {
        self.size as f64 * self.receivers as f64
    }

    /// Where receiver `n` puts its copy. Every contender uses the source's own name there.
    pub(crate) fn out(&self, n: usize) -> PathBuf {
        self.scratch.join(format!("out-{n}"))
    }

    fn copies(&self) -> Vec<PathBuf> {
        (0..self.receivers).map(|n| self.out(n).join("source.bin")).collect()
    }
}

/// What one contender did in one round. What it does not tell is not a number.
#[derive(Clone, Copy)]
pub(crate) struct Figures {
    pub(crate) seconds: f64,
    /// Of both ends, in seconds.
    pub(crate) cpu: f64,
    pub(crate) cpu_sender: f64,
    /// Peaks of anonymous memory in KiB.
    pub(crate) anon_sender: f64,
    pub(crate) anon_receiver: f64,
    /// Bytes that the first holder sent, over the file's size.
    pub(crate) seeder_copies: f64,
    /// Sent by all peers.
    pub(crate) messages: f64,
}

impl Figures {
    /// What every contender can tell.
    fn of(seconds: f64, cpu: f64) -> Self {
        let unknown = f64::NAN;
        Self {
            seconds,
            cpu,
            cpu_sender: unknown,
            anon_sender: unknown,
            anon_receiver: unknown,
            seeder_copies: unknown,
            messages: unknown,
        }
    }
}

/// One that takes part in every round.
pub(crate) struct Contender {
    pub(crate) name: &'static str,
    kind: Kind,
}

enum Kind {
    Cp,
    Pipeline { reused: bool },
    Minibit { with: Minibit, reused: bool },
    Rival(Rival),
}

const NAMES: [&str; 10] = [
    "cp",
    "pipeline",
    "pipeline-reused",
    "nginx",
    "libtorrent",
    "rqbit",
    "aria2",
    "minibit",
    "minibit-reused",
    "minibit-one-lane",
];

impl Contender {
    /// All of them.
    pub(crate) fn names() -> String {
        NAMES.join(",")
    }

    /// Makes sure that it can run.
    pub(crate) fn prepare(name: &str, setup: &Setup) -> Outcome<Self> {
        let known = NAMES.iter().find(|known| **known == name);
        let name = *known.ok_or_else(|| format!("known are {}", Self::names()))?;
        let minibit = |reused, flags: &[&str]| {
            let with = setup.minibit.with(flags);
            Kind::Minibit { with, reused }
        };
        let kind = match name {
            "cp" => Kind::Cp,
            "pipeline" => Kind::Pipeline { reused: false },
            "pipeline-reused" => Kind::Pipeline { reused: true },
            "minibit" => minibit(false, &[]),
            "minibit-reused" => minibit(true, &[]),
            "minibit-one-lane" => minibit(false, &["--lanes", "1"]),
            rival => Kind::Rival(Rival::prepare(rival, setup)?),
        };
        Ok(Self { name, kind })
    }

    /// Runs it once, and checks what came of it.
    pub(crate) fn run(&mut self, setup: &Setup) -> Outcome<Figures> {
        let reused = match self.kind {
            Kind::Pipeline { reused } | Kind::Minibit { reused, .. } => reused,
            Kind::Cp | Kind::Rival(_) => false,
        };
        for n in 0..setup.receivers {
            remove(&setup.out(n))?;
            fs::create_dir_all(setup.out(n))?;
        }
        if reused {
            setup.copies().iter().try_for_each(|copy| fill(copy, setup.size))?;
        }
        // What others have left to write back would count against this one.
        rustix::fs::syncfs(File::open(setup.scratch.path())?)?;
        let ballast = Ballast::hold(setup.ballast)?;
        let figures = match &self.kind {
            Kind::Cp => copy(setup),
            Kind::Pipeline { .. } => pipeline(setup),
            Kind::Minibit { with, reused } => minibit(setup, with, *reused),
            Kind::Rival(rival) => rival.run(setup),
        }?;
        drop(ballast);
        for copy in setup.copies() {
            check(&setup.source, &copy)?;
        }
        Ok(figures)
    }
}

/// Times the receivers. They are started by `start`, and have done when `wait` says so.
pub(crate) fn race(
    setup: &Setup,
    sender: &mut Running,
    start: impl Fn(usize) -> Outcome<Running>,
    wait: impl Fn(&mut Running, &mut [&mut Running]) -> Outcome<()>,
) -> Outcome<(Figures, Vec<Running>)> {
    let (sender_before, ended_before) = (sender.cpu(), own_cpu().1);
    let started = Instant::now();
    let mut receivers = (0..setup.receivers).map(start).collect::<Outcome<Vec<_>>>()?;
    for n in 0..receivers.len() {
        let (before, rest) = receivers.split_at_mut(n);
        let (one, after) = rest.split_first_mut().ok_or("nobody to wait for")?;
        let mut beside: Vec<&mut Running> = before.iter_mut().chain(after).collect();
        beside.push(sender);
        wait(one, &mut beside)?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu_sender = sender.cpu() - sender_before;
    let living: f64 = receivers.iter().map(Running::cpu).sum();
    let peak = receivers.iter().map(Running::anon_peak).max().unwrap_or(0);
    let figures = Figures {
        cpu_sender,
        anon_sender: sender.anon_peak() as f64,
        anon_receiver: peak as f64,
        ..Figures::of(seconds, cpu_sender + living + own_cpu().1 - ended_before)
    };
    Ok((figures, receivers))
}

fn copy(setup: &Setup) -> Outcome<Figures> {
    let before = own_cpu().1;
    let started = Instant::now();
    for target in setup.copies() {
        if !Command::new("cp").arg(&setup.source).arg(target).status()?.success() {
            return Err("cp failed".into());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    Ok(Figures::of(seconds, own_cpu().1 - before))
}

fn pipeline(setup: &Setup) -> Outcome<Figures> {
    let before = own_cpu().0;
    let started = Instant::now();
    bare::transfer(&setup.source, &setup.copies(), setup.size)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Figures::of(seconds, own_cpu().0 - before))
}

fn minibit(setup: &Setup, with: &Minibit, reused: bool) -> Outcome<Figures> {
    let mut share = with.share(&setup.source)?;
    if reused {
        (0..setup.receivers).try_for_each(|n| begin_again(&share.manifest, &setup.out(n)))?;
    }
    let ticket = share.ticket.clone();
    let start = |n| Ok(with.get(&ticket, &setup.out(n))?.running);
    let done = |one: &mut Running, beside: &mut [&mut Running]| one.finish(beside).map(drop);
    let (mut figures, _) = race(setup, &mut share.running, start, done)?;
    let (uploaded, messages) = share.stop()?;
    figures.seeder_copies = uploaded as f64 / setup.size as f64;
    figures.messages = messages.map_or(f64::NAN, |count| count as f64);
    Ok(figures)
}

/// Fills a file with bytes that are not the source's.
fn fill(path: &Path, size: u64) -> Outcome<()> {
    let filled = io::copy(&mut io::repeat(0x5a).take(size), &mut File::create(path)?)?;
    assert_eq!(filled, size, "all of it was written");
    Ok(())
}

/// Whether a copy is one.
fn check(source: &Path, copy: &Path) -> Outcome<()> {
    let (mut one, mut other) = (File::open(source)?, File::open(copy)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let got = one.read(&mut left)?;
        other.read_exact(&mut right[..got])?;
        if left[..got] != right[..got] {
            return Err(format!("{} is no copy", copy.display()).into());
        }
        if got == 0 {
            return Ok(());
        }
    }
}
