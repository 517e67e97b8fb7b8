//! What proving costs: piece hashes, roots, pages of hashes, manifests.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use minibit_core::content::{FileEntry, HashBook, Manifest, PieceHasher, merge_pieces};
use minibit_core::types::{Digest, Geometry, PageId, PieceSize};

/// Bytes of one update: the largest block.
const BLOCK: usize = 256 * 1024;

/// A digest that differs for each number; that it is no real hash changes no cost.
fn digest(number: usize) -> Digest {
    let mut bytes = [0xa5; 32];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    Digest(bytes)
}

fn size(bytes: u32) -> PieceSize {
    PieceSize::new(bytes).expect("a valid piece size")
}

fn share(files: Vec<FileEntry>) -> Manifest {
    Manifest::new("bench".to_owned(), false, size(16384), files).expect("a valid manifest")
}

fn piece_hashing(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("piece_hash");
    for piece_len in [16 * 1024, 1024 * 1024, 16 * 1024 * 1024] {
        let geometry = Geometry::new(size(piece_len), [u64::from(piece_len) * 2]);
        let geometry = geometry.expect("two pieces");
        let piece = geometry.piece(1).expect("the second piece");
        // One block, hot, as it is right after it came from a socket.
        let block = vec![0x5a; BLOCK.min(piece_len as usize)];
        group.throughput(Throughput::Bytes(piece_len.into()));
        group.bench_function(BenchmarkId::from_parameter(piece_len), |bencher| {
            bencher.iter(|| {
                let mut hasher = PieceHasher::new(&geometry, piece);
                while hasher.remaining() > 0 {
                    hasher.update(black_box(&block));
                }
                hasher.finish()
            });
        });
    }
    group.finish();
}

fn roots_and_pages(criterion: &mut Criterion) {
    let hashes: Vec<Digest> = (0..1_000_000).map(digest).collect();
    let mut group = criterion.benchmark_group("hash_tree");
    group.sample_size(20);
    group.throughput(Throughput::Elements(hashes.len() as u64));
    group.bench_function("root_of_1M_pieces", |bencher| {
        bencher.iter(|| merge_pieces(black_box(&hashes)));
    });

    let file = FileEntry {
        path: vec!["whole".to_owned()],
        len: hashes.len() as u64 * 16384,
        root: merge_pieces(&hashes),
    };
    let manifest = share(vec![file]);
    let geometry = manifest.geometry();
    let full = HashBook::new(&manifest);
    full.insert_file(geometry.file(0).expect("the file"), hashes.clone()).expect("its hashes");

    let ids = [PageId { file: 0, level: 1, page: 0 }, PageId { file: 0, level: 0, page: 7 }];
    let pages = ids.map(|id| full.page(id).expect("a known page"));
    group.throughput(Throughput::Elements(ids.len() as u64));
    group.bench_function("accept_both_pages_of_a_piece", |bencher| {
        bencher.iter_batched(
            || HashBook::new(&manifest),
            |book| {
                for (id, page) in ids.iter().zip(&pages) {
                    book.accept_page(*id, page).expect("a right page");
                }
                book
            },
            criterion::BatchSize::SmallInput,
        );
    });

    let mut number = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("expected_hash_of_a_piece", |bencher| {
        bencher.iter(|| {
            number = (number + 7919) % geometry.piece_count();
            geometry.piece(number).and_then(|piece| full.expected(piece))
        });
    });
    group.finish();
}

fn manifests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("manifest_decode");
    group.sample_size(20);
    for (label, folder) in [("ascii", "album"), ("unicode", "álbum ✨")] {
        let file = |number: usize| FileEntry {
            path: vec![
                folder.to_owned(),
                format!("{}", number / 100),
                format!("Track {number}.mp4"),
            ],
            len: 1_000_000,
            root: digest(number),
        };
        let encoded = share((0..10_000).map(file).collect()).encode();
        group.throughput(Throughput::Elements(10_000));
        group.bench_function(BenchmarkId::new("10k_files", label), |bencher| {
            bencher.iter(|| Manifest::decode(black_box(&encoded)).expect("a valid manifest"));
        });
    }
    group.finish();
}

criterion_group!(benches, piece_hashing, roots_and_pages, manifests);
criterion_main!(benches);
