//! Measures a transfer over distance: a delay line between two real processes.
//!
//! ```text
//! cargo build --release && cargo run --release -p minibit-benches --bin distance -- [OPTIONS]
//!   --size MIB         size of the file (default 512)
//!   --gbit RATE        rate of the path in Gbit/s, each way (default 1)
//!   --rtt MS,MS,…      round trips in milliseconds (default 1,20,100)
//!   --minibit PATH     the binary (default: beside this program)
//! ```
//!
//! The line is a TCP proxy. All connections share its rate; each chunk leaves half a round trip
//! after its turn on the line. A connection has at most as much under way as the 4 MiB that a
//! Linux sender keeps unacknowledged by default, so what real connections cannot do over
//! distance these cannot either. No root, no kernel setting. Prints the share of the path that
//! was filled, from the start of `get` to its end, and the peak of its anonymous memory.

use std::error::Error;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use minibit_benches::{anon_kib, make_source};
use minibit_core::content::Ticket;

const MIB: f64 = 1024.0 * 1024.0;
/// What a Linux sender keeps unacknowledged by default; half of it is on its way to the peer.
const UNDER_WAY_MAX: usize = 2 << 20;
const CHUNK: usize = 64 << 10;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

fn main() -> Outcome<()> {
    let mut size = 512 << 20;
    let mut gbit = 1.0;
    let mut rtts = vec![1, 20, 100];
    let mut minibit = std::env::current_exe()?.with_file_name("minibit");
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--size" => size = value.parse::<u64>()? << 20,
            "--gbit" => gbit = value.parse()?,
            "--rtt" => rtts = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--minibit" => minibit = value.into(),
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    let dir = std::env::temp_dir().join(format!("minibit-distance-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let source = dir.join("source.bin");
    make_source(&source, size)?;
    let mut sender = Ended(
        Command::new(&minibit)
            .args(["--quiet", "share", "--listen", "127.0.0.1:0"])
            .arg(&source)
            .stdout(Stdio::piped())
            .spawn()?,
    );
    let mut ticket = String::new();
    let stdout = sender.0.stdout.take().ok_or("no stdout")?;
    BufReader::new(stdout).read_line(&mut ticket)?;
    let ticket: Ticket = ticket.trim().parse()?;
    println!("| round trip | MiB/s | of the path | anon MiB |\n|---|---|---|---|");
    for rtt in rtts {
        let line = Line::open(ticket.peers()[0], Duration::from_millis(rtt), gbit * 1e9 / 8.0)?;
        let away = Ticket::new(ticket.share(), vec![], vec![line])?;
        let out = dir.join(format!("out-{rtt}"));
        let (seconds, anon) = fetch(&minibit, &away, &out)?;
        fs::remove_dir_all(&out)?;
        let rate = size as f64 / seconds;
        println!(
            "| {rtt} ms | {:.1} | {:.0} % | {:.1} |",
            rate / MIB,
            100.0 * rate / (gbit * 1e9 / 8.0),
            anon as f64 / 1024.0
        );
    }
    drop(sender);
    fs::remove_dir_all(&dir)?;
    Ok(())
}

fn fetch(minibit: &PathBuf, ticket: &Ticket, out: &PathBuf) -> Outcome<(f64, u64)> {
    let started = Instant::now();
    let mut receiver = Ended(
        Command::new(minibit)
            .args(["--quiet", "get", "--listen", "127.0.0.1:0", "--dir"])
            .arg(out)
            .arg(ticket.to_string())
            .stdout(Stdio::null())
            .spawn()?,
    );
    let mut peak = 0;
    loop {
        peak = peak.max(anon_kib(receiver.0.id()));
        if let Some(status) = receiver.0.try_wait()? {
            let seconds = started.elapsed().as_secs_f64();
            return if status.success() { Ok((seconds, peak)) } else { Err("get failed".into()) };
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A child that ends with this value.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The path between the two: when its two directions are free again.
struct Line {
    one_way: Duration,
    bytes_per_s: f64,
    free_at: [Mutex<Instant>; 2],
}

impl Line {
    /// Starts a proxy to `target`; returns where to connect instead.
    fn open(target: SocketAddr, rtt: Duration, bytes_per_s: f64) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let now = Instant::now();
        let line = Arc::new(Self {
            one_way: rtt / 2,
            bytes_per_s,
            free_at: [Mutex::new(now), Mutex::new(now)],
        });
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(target) else { continue };
                // Sockets without delay of their own, so that the line's is the only one.
                let _ = (near.set_nodelay(true), far.set_nodelay(true));
                let pairs = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
                for (way, pair) in pairs.into_iter().enumerate() {
                    if let (Ok(from), Ok(to)) = pair {
                        pump(&line, way, from, to);
                    }
                }
            }
        });
        Ok(addr)
    }

    /// When a chunk that is ready now has arrived at the other end.
    fn arrival(&self, way: usize, len: usize) -> Instant {
        let mut free = self.free_at[way].lock().unwrap_or_else(PoisonError::into_inner);
        let start = (*free).max(Instant::now());
        *free = start + Duration::from_secs_f64(len as f64 / self.bytes_per_s);
        *free + self.one_way
    }
}

/// Bytes under way on one connection, bounded.
#[derive(Default)]
struct UnderWay {
    bytes: Mutex<usize>,
    less: Condvar,
}

/// Carries one direction of one connection until it ends.
fn pump(line: &Arc<Line>, way: usize, from: TcpStream, to: TcpStream) {
    let (chunks, arriving) = channel();
    let under_way = Arc::new(UnderWay::default());
    let (line, entering) = (Arc::clone(line), Arc::clone(&under_way));
    thread::spawn(move || enter(&line, way, from, &chunks, &entering));
    thread::spawn(move || leave(to, &arriving, &under_way));
}

fn enter(
    line: &Line,
    way: usize,
    mut from: TcpStream,
    chunks: &Sender<(Instant, Vec<u8>)>,
    under_way: &UnderWay,
) {
    let mut buf = vec![0; CHUNK];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        let mut bytes = under_way.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        while *bytes + len > UNDER_WAY_MAX {
            bytes = under_way.less.wait(bytes).unwrap_or_else(PoisonError::into_inner);
        }
        *bytes += len;
        drop(bytes);
        if chunks.send((line.arrival(way, len), buf[..len].to_vec())).is_err() {
            return;
        }
    }
}

fn leave(mut to: TcpStream, arriving: &Receiver<(Instant, Vec<u8>)>, under_way: &UnderWay) {
    while let Ok((at, chunk)) = arriving.recv() {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        let written = to.write_all(&chunk);
        *under_way.bytes.lock().unwrap_or_else(PoisonError::into_inner) -= chunk.len();
        under_way.less.notify_one();
        if written.is_err() {
            return;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
