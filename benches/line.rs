//! A path with a length and a rate, as a TCP proxy: no root, no kernel setting.
//!
//! All connections share its rate; each chunk leaves half a round trip after its turn on the
//! line. A connection has at most as much under way as the 4 MiB that a Linux sender keeps
//! unacknowledged by default, so what real connections cannot do over distance these cannot
//! either.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What a Linux sender keeps unacknowledged by default; half of it is on its way to the peer.
const UNDER_WAY_MAX: usize = 2 << 20;
const CHUNK: usize = 64 << 10;

/// The path between the two: when its two directions are free again.
#[derive(Debug)]
pub struct Line {
    one_way: Duration,
    bytes_per_s: f64,
    free_at: [Mutex<Instant>; 2],
}

impl Line {
    /// Starts a proxy to `target`, for as long as the program runs; returns where to connect
    /// instead.
    ///
    /// # Errors
    /// No port is to be had.
    pub fn open(target: SocketAddr, rtt: Duration, bytes_per_s: f64) -> io::Result<SocketAddr> {
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
