//! Measures whole transfers between real processes: throughput, CPU, memory, messages.
//!
//! ```text
//! cargo build --release && cargo run --release -p minibit-benches --bin transfer -- [OPTIONS]
//!   --size MIB         size of the file (default 2048)
//!   --receivers N      receivers at once (default 1)
//!   --runs N           rounds; each runs every contender once (default 5)
//!   --lanes N          lanes of each link (default: as minibit chooses)
//!   --dir DIR          where files are made (default: a new directory in the temporary one)
//!   --minibit PATH     the binary (default: beside this program)
//! ```
//!
//! Contenders of a round, in this order, so that drift of the machine hits all alike:
//! `cp` (the file into a fresh one), `pipeline` (two connections, threads that read, hash and
//! write inline, nothing else), `minibit`. Before each the
//! target is removed. Ratios are taken within a round; the table gives median and min–max.
//!
//! CPU is user and system time of both ends, in ticks of the kernel (10 ms); memory is the
//! peak of `RssAnon` as sampled every 10 ms. Linux only.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use minibit_benches::{anon_kib, make_source};

const MIB: f64 = 1024.0 * 1024.0;
const CHUNK: usize = 256 * 1024;
const TICKS_PER_SECOND: f64 = 100.0;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

struct Options {
    size: u64,
    receivers: usize,
    runs: usize,
    lanes: Option<String>,
    dir: PathBuf,
    minibit: PathBuf,
}

/// What one contender did in one round.
#[derive(Clone, Copy, Default)]
struct Figures {
    seconds: f64,
    cpu_sender: f64,
    cpu_receivers: f64,
    anon_sender_kib: u64,
    anon_receiver_kib: u64,
    /// Bytes that the first holder sent, over the file's size.
    seeder_copies: f64,
}

fn main() -> Outcome<()> {
    let options = Options::parse()?;
    fs::create_dir_all(&options.dir)?;
    let source = options.dir.join("source.bin");
    make_source(&source, options.size)?;
    let mut rounds: Vec<[Figures; 3]> = Vec::new();
    for round in 1..=options.runs {
        let figures =
            [copy(&options, &source)?, pipeline(&options, &source)?, minibit(&options, &source)?];
        eprintln!(
            "round {round}: cp {:.2} s, pipeline {:.2} s, minibit {:.2} s",
            figures[0].seconds, figures[1].seconds, figures[2].seconds
        );
        rounds.push(figures);
    }
    print_table(&options, &rounds);
    fs::remove_dir_all(&options.dir)?;
    Ok(())
}

impl Options {
    fn parse() -> Outcome<Self> {
        let mut options = Self {
            size: 2048 << 20,
            receivers: 1,
            runs: 5,
            lanes: None,
            dir: std::env::temp_dir().join(format!("minibit-transfer-{}", std::process::id())),
            minibit: std::env::current_exe()?.with_file_name("minibit"),
        };
        let mut args = std::env::args().skip(1);
        while let Some(flag) = args.next() {
            let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--size" => options.size = value.parse::<u64>()? << 20,
                "--receivers" => options.receivers = value.parse()?,
                "--runs" => options.runs = value.parse()?,
                "--lanes" => options.lanes = Some(value),
                "--dir" => options.dir = value.into(),
                "--minibit" => options.minibit = value.into(),
                other => return Err(format!("unknown option {other}").into()),
            }
        }
        Ok(options)
    }

    fn bytes_moved(&self) -> f64 {
        self.size as f64 * self.receivers as f64
    }
}

/// `cp` of the file into a fresh one, as often as there are receivers.
fn copy(options: &Options, source: &Path) -> Outcome<Figures> {
    let target = options.dir.join("copy.bin");
    let before = children_cpu()?;
    let started = Instant::now();
    for _ in 0..options.receivers {
        let _ = fs::remove_file(&target);
        let status = Command::new("cp").arg(source).arg(&target).status()?;
        if !status.success() {
            return Err("cp failed".into());
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let cpu_receivers = children_cpu()? - before;
    fs::remove_file(&target)?;
    Ok(Figures { seconds, cpu_receivers, ..Figures::default() })
}

/// The bare data path by threads of this process: for each receiver two connections, each of
/// which carries half of the file, hashed by 1 MiB pieces as it comes and written in place.
fn pipeline(options: &Options, source: &Path) -> Outcome<Figures> {
    let before = own_cpu()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let halves = [(0, options.size / 2), (options.size / 2, options.size)];
    let targets: Vec<PathBuf> =
        (0..options.receivers).map(|n| options.dir.join(format!("pipeline-{n}.bin"))).collect();
    let started = Instant::now();
    thread::scope(|scope| -> Outcome<()> {
        let mut work = Vec::new();
        for target in &targets {
            File::create(target)?;
            for (from, to) in halves {
                work.push(scope.spawn(move || receive(addr, target, from, to)));
                let (stream, _) = listener.accept()?;
                work.push(scope.spawn(move || send(&stream, source, from, to)));
            }
        }
        for one in work {
            one.join().map_err(|_| "a thread of the pipeline panicked")??;
        }
        Ok(())
    })?;
    let seconds = started.elapsed().as_secs_f64();
    for target in &targets {
        fs::remove_file(target)?;
    }
    Ok(Figures { seconds, cpu_receivers: own_cpu()? - before, ..Figures::default() })
}

fn send(stream: &TcpStream, source: &Path, from: u64, to: u64) -> Outcome<()> {
    let file = File::open(source)?;
    let mut at = from;
    while at < to {
        let rest = (to - at) as usize;
        rustix::fs::sendfile(stream, &file, Some(&mut at), rest)?;
    }
    Ok(())
}

fn receive(addr: std::net::SocketAddr, target: &Path, from: u64, to: u64) -> Outcome<()> {
    let mut stream = TcpStream::connect(addr)?;
    let file = File::options().write(true).open(target)?;
    let mut buf = vec![0; CHUNK];
    let mut hasher = blake3::Hasher::new();
    let mut at = from;
    while at < to {
        let len = CHUNK.min((to - at) as usize);
        stream.read_exact(&mut buf[..len])?;
        hasher.update(&buf[..len]);
        if (at + len as u64).is_multiple_of(1 << 20) {
            std::hint::black_box(hasher.finalize());
            hasher.reset();
        }
        file.write_all_at(&buf[..len], at)?;
        at += len as u64;
    }
    Ok(())
}

fn minibit(options: &Options, source: &Path) -> Outcome<Figures> {
    let mut sender = Running::start(options, &["share", "--listen", "127.0.0.1:0"], source)?;
    let ticket = sender.first_line()?;
    let sender_before = cpu_of(sender.child.id())?;
    let before = children_cpu()?;
    let started = Instant::now();
    let outs: Vec<PathBuf> =
        (0..options.receivers).map(|n| options.dir.join(format!("out-{n}"))).collect();
    let mut receivers = Vec::new();
    for out in &outs {
        let out = out.to_str().ok_or("path")?;
        let args = ["get", "--json", "--listen", "127.0.0.1:0", "--dir", out];
        receivers.push(Running::start(options, &args, Path::new(&ticket))?);
    }
    let mut figures = Figures::default();
    let mut uploaded = 0;
    for receiver in &mut receivers {
        let (peak, sender_peak) = receiver.watch(sender.child.id())?;
        figures.anon_receiver_kib = figures.anon_receiver_kib.max(peak);
        figures.anon_sender_kib = figures.anon_sender_kib.max(sender_peak);
    }
    figures.seconds = started.elapsed().as_secs_f64();
    for receiver in &mut receivers {
        uploaded += receiver.uploaded()?;
    }
    figures.seeder_copies = (options.bytes_moved() - uploaded as f64) / options.size as f64;
    figures.cpu_receivers = children_cpu()? - before;
    figures.cpu_sender = cpu_of(sender.child.id())? - sender_before;
    sender.stop()?;
    for out in &outs {
        fs::remove_dir_all(out)?;
    }
    Ok(figures)
}

/// A `minibit` process that ends with this value.
struct Running {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(options: &Options, args: &[&str], last: &Path) -> Outcome<Self> {
        let mut command = Command::new(&options.minibit);
        command.arg("--quiet").args(args);
        if let Some(lanes) = &options.lanes {
            command.args(["--lanes", lanes]);
        }
        let mut child = command.arg(last).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().ok_or("no stdout")?);
        Ok(Self { child, output })
    }

    fn first_line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if line.is_empty() {
            Err("minibit share gave no ticket".into())
        } else {
            Ok(line.trim().into())
        }
    }

    /// Waits for the end, and samples the memory of this process and of another meanwhile.
    fn watch(&mut self, other: u32) -> Outcome<(u64, u64)> {
        let (mut own_peak, mut other_peak) = (0, 0);
        loop {
            own_peak = own_peak.max(anon_kib(self.child.id()));
            other_peak = other_peak.max(anon_kib(other));
            if let Some(status) = self.child.try_wait()? {
                return if status.success() {
                    Ok((own_peak, other_peak))
                } else {
                    Err("minibit get failed".into())
                };
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Bytes that a finished `get` sent on, from its `done` event.
    fn uploaded(&mut self) -> Outcome<u64> {
        let mut text = String::new();
        self.output.read_to_string(&mut text)?;
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            if event["event"] == "done" {
                return event["uploaded"].as_u64().ok_or_else(|| "no uploaded".into());
            }
        }
        Err("minibit get told no end".into())
    }

    fn stop(&mut self) -> Outcome<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fields of `/proc/PID/stat` from the third on.
fn stat_fields(pid: &str) -> Outcome<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = text.rsplit_once(')').ok_or("stat")?;
    Ok(fields.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect())
}

/// CPU seconds of a running process (fields utime and stime).
fn cpu_of(pid: u32) -> Outcome<f64> {
    let fields = stat_fields(&pid.to_string())?;
    Ok((fields[11] + fields[12]) as f64 / TICKS_PER_SECOND)
}

/// CPU seconds of this process itself.
fn own_cpu() -> Outcome<f64> {
    cpu_of(std::process::id())
}

/// CPU seconds of the children that were waited for (fields cutime and cstime).
fn children_cpu() -> Outcome<f64> {
    let fields = stat_fields("self")?;
    Ok((fields[13] + fields[14]) as f64 / TICKS_PER_SECOND)
}

fn print_table(options: &Options, rounds: &[[Figures; 3]]) {
    let gib = options.bytes_moved() / MIB / 1024.0;
    println!(
        "\n{:.0} MiB to {} receiver(s), {} rounds: median (min-max)\n",
        options.size as f64 / MIB,
        options.receivers,
        rounds.len()
    );
    println!("| | MiB/s | CPU s/GiB, both ends |\n|---|---|---|");
    for (column, name) in ["cp", "pipeline", "minibit"].iter().enumerate() {
        let of = |value: &dyn Fn(&Figures) -> f64| {
            spread(rounds.iter().map(|round| value(&round[column])).collect())
        };
        println!(
            "| {name} | {} | {} |",
            of(&|f| options.bytes_moved() / MIB / f.seconds),
            of(&|f| (f.cpu_sender + f.cpu_receivers) / gib),
        );
    }
    let ratio = |other: usize| {
        spread(rounds.iter().map(|round| round[other].seconds / round[2].seconds).collect())
    };
    let last = |value: &dyn Fn(&Figures) -> f64| {
        spread(rounds.iter().map(|round| value(&round[2])).collect())
    };
    println!("\nminibit : cp       {}", ratio(0));
    println!("minibit : pipeline {}", ratio(1));
    println!("sender CPU s/GiB   {}", last(&|f| f.cpu_sender / gib));
    println!("receiver CPU s/GiB {}", last(&|f| f.cpu_receivers / gib));
    println!("sender anon MiB    {}", last(&|f| f.anon_sender_kib as f64 / 1024.0));
    println!("receiver anon MiB  {}", last(&|f| f.anon_receiver_kib as f64 / 1024.0));
    println!("seeder's copies    {}", last(&|f| f.seeder_copies));
}

fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let (Some(first), Some(last)) = (values.first(), values.last()) else { return "-".into() };
    format!("{:.2} ({first:.2}-{last:.2})", values[values.len() / 2])
}
