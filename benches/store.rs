//! What the disk side of a transfer costs: writing blocks, serving them, putting on record.
//!
//! Files are warm in the page cache: what is measured is our own path and the kernel's copy,
//! not a disk.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use minibit_core::content::{FileEntry, Manifest};
use minibit_core::store::{
    PartOptions, PartStore, PieceStore, PrepareOptions, SendMethod, Served, prepare,
};
use minibit_core::types::{Digest, PieceSize};

const BLOCK: u32 = 256 * 1024;
const FILE: u64 = 64 * 1024 * 1024;

/// A share of one file; nothing here looks at its root.
fn manifest(len: u64, piece_len: u32) -> Manifest {
    let size = PieceSize::new(piece_len).expect("a valid piece size");
    let file = FileEntry { path: vec!["film".to_owned()], len, root: Digest([1; 32]) };
    Manifest::new("film".to_owned(), true, size, vec![file]).expect("a valid manifest")
}

fn open(dir: &Path, manifest: &Manifest) -> PartStore {
    let opened = PartStore::open(dir, manifest, &[true], PartOptions::default());
    opened.expect("a place for a download").0
}

fn write(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let manifest = manifest(FILE, 1024 * 1024);
    let store = open(dir.path(), &manifest);
    let bytes = vec![0x5a; BLOCK as usize];
    let fill = || {
        for piece in manifest.geometry().pieces() {
            for block in manifest.geometry().blocks(piece, BLOCK) {
                store.write(block, &bytes).expect("written");
            }
        }
    };
    fill();
    let mut group = criterion.benchmark_group("store_write");
    group.throughput(Throughput::Bytes(FILE));
    group.sample_size(20);
    group.bench_function("cached_256KiB_blocks", |bencher| bencher.iter(fill));
    group.finish();
}

/// Sends a file piece by piece the way a lane does, to somebody who only drains.
fn send_all(socket: &TcpStream, pieces: &[Served], piece_len: usize) {
    let head = [0; 17];
    for piece in pieces {
        let mut done = 0;
        while done < head.len() + piece_len {
            let rest = head.get(done..).unwrap_or_default();
            let sent = done.saturating_sub(head.len());
            let offset = piece.offset + sent as u64;
            match piece.file.send(socket.as_fd(), rest, offset, piece_len - sent) {
                Ok(taken) => done += taken,
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A connection whose other end drains it on a thread of its own.
fn drained() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let socket = TcpStream::connect(listener.local_addr().expect("its address"));
    let socket = socket.expect("a connection");
    socket.set_nonblocking(true).expect("non-blocking");
    let (mut other, _) = listener.accept().expect("the other end");
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1024 * 1024];
        while other.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    socket
}

fn serve(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("film");
    std::fs::write(&path, vec![0x5a; FILE as usize]).expect("a file");
    let mut group = criterion.benchmark_group("store_serve");
    group.throughput(Throughput::Bytes(FILE));
    group.sample_size(20);
    for (name, method) in [
        #[cfg(target_os = "linux")]
        ("sendfile", SendMethod::Sendfile),
        ("mapped", SendMethod::Mapped),
    ] {
        // One block of the largest kind a frame.
        let piece_size = PieceSize::new(BLOCK).ok();
        let options = PrepareOptions { piece_size, ..PrepareOptions::default() };
        let share =
            prepare(std::slice::from_ref(&path), &options, &|_| {}, &AtomicBool::new(false))
                .expect("a share");
        let store = share.store.with_method(method);
        let geometry = share.manifest.geometry();
        let piece_len = geometry.piece_size().bytes() as usize;
        let socket = drained();
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let serve = |piece| store.serve(piece).expect("served");
                let pieces: Vec<Served> = geometry.pieces().map(serve).collect();
                send_all(&socket, &pieces, piece_len);
            });
        });
    }
    group.finish();
}

fn journal(criterion: &mut Criterion) {
    const PIECES: u32 = 10_000;
    let manifest = manifest(u64::from(PIECES) * 16384, 16384);
    let mut group = criterion.benchmark_group("store_journal");
    group.throughput(Throughput::Elements(u64::from(PIECES)));
    group.sample_size(20);
    group.bench_function("complete", |bencher| {
        bencher.iter_batched(
            || {
                let dir = tempfile::tempdir().expect("a directory");
                (open(dir.path(), &manifest), dir)
            },
            |(store, dir)| {
                for piece in manifest.geometry().pieces() {
                    store.complete(piece).expect("on record");
                }
                (store, dir)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Ten thousand files of 4 KiB, from opening to the final rename, without syncs.
fn small_files(criterion: &mut Criterion) {
    const FILES: usize = 10_000;
    let size = PieceSize::new(16384).expect("a valid piece size");
    let file = |number: usize| FileEntry {
        path: vec![format!("{:02}", number % 100), format!("{number:05}")],
        len: 4096,
        root: Digest([1; 32]),
    };
    let files = (0..FILES).map(file).collect();
    let manifest = Manifest::new("many".to_owned(), false, size, files).expect("a manifest");
    let selection = vec![true; FILES];
    let bytes = [0x5a; 4096];
    let mut group = criterion.benchmark_group("store_small_files");
    group.throughput(Throughput::Elements(FILES as u64));
    group.sample_size(10);
    group.bench_function("write_10000", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let dir = tempfile::tempdir().expect("a directory");
                let options = PartOptions { sync: false, ..PartOptions::default() };
                let start = Instant::now();
                let opened = PartStore::open(dir.path(), &manifest, &selection, options);
                let store = opened.expect("a place for a download").0;
                for piece in manifest.geometry().pieces() {
                    for block in manifest.geometry().blocks(piece, BLOCK) {
                        store.write(block, &bytes).expect("written");
                    }
                    store.complete(piece).expect("on record");
                }
                store.finish().expect("in place");
                spent += start.elapsed();
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, write, serve, journal, small_files);
criterion_main!(benches);
