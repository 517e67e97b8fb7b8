//! The least that a verified transfer can be, by threads of this process.
//!
//! For each receiver two connections, each of which carries half of the file: `sendfile` at one
//! end; at the other read, hash and positioned write of 256 KiB, inline, a hash for each 1 MiB.
//! No requests, no choice of pieces, no journal. Of all the data paths that were tried on such a
//! machine it is the fastest, and so the measure of ours.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::thread;

use minibit_benches::Outcome;

const CHUNK: usize = 256 * 1024;
const PIECE: u64 = 1 << 20;

/// Moves the file to every target. A target that is there is written over as it is.
pub(crate) fn transfer(source: &Path, targets: &[PathBuf], size: u64) -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let middle = size / 2 / PIECE * PIECE;
    thread::scope(|scope| {
        let mut work = Vec::new();
        for target in targets {
            File::options().create(true).truncate(false).write(true).open(target)?;
            for (from, to) in [(0, middle), (middle, size)] {
                work.push(scope.spawn(move || receive(addr, target, from, to)));
                let (stream, _) = listener.accept()?;
                work.push(scope.spawn(move || send(&stream, source, from, to)));
            }
        }
        for one in work {
            one.join().map_err(|_| "a thread of the pipeline panicked")??;
        }
        Ok(())
    })
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

fn receive(addr: SocketAddr, target: &Path, from: u64, to: u64) -> Outcome<()> {
    let mut stream = TcpStream::connect(addr)?;
    let file = File::options().write(true).open(target)?;
    let mut buf = vec![0; CHUNK];
    let mut hasher = blake3::Hasher::new();
    let mut at = from;
    while at < to {
        let len = CHUNK.min((to - at) as usize);
        stream.read_exact(&mut buf[..len])?;
        hasher.update(&buf[..len]);
        at += len as u64;
        if at.is_multiple_of(PIECE) {
            std::hint::black_box(hasher.finalize());
            hasher.reset();
        }
        file.write_all_at(&buf[..len], at - len as u64)?;
    }
    Ok(())
}
