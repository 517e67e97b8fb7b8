//! What deciding costs: claims and news at a million pieces and 500 peers, peers that come and
//! go, two threads at one ledger, a round of the choker.
//!
//! The swarm: 500 peers of which peer n holds each piece with a chance of about n / 500, at
//! random, so that availability spreads around 250 and the rarest pieces are far from it.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use fastrand::Rng;
use minibit_core::swarm::{
    ChokePolicy, Choker, Holdings, Ledger, LinkId, Past, PeerView, PickOrder, ROUND, Slots,
};
use minibit_core::types::{Geometry, PieceIndex, PieceSet, PieceSize};

const PIECES: u32 = 1 << 20;
const PEERS: u32 = 500;

fn geometry() -> Arc<Geometry> {
    let size = PieceSize::new(16384).expect("a valid size");
    Arc::new(Geometry::new(size, [u64::from(PIECES) * 16384]).expect("a valid share"))
}

/// About `of_256` in 256 pieces, at random.
fn some(geometry: &Geometry, of_256: u8, rng: &mut Rng) -> PieceSet {
    let mut set = PieceSet::empty(PIECES);
    geometry.pieces().filter(|_| rng.u8(..) < of_256).for_each(|piece| {
        set.insert(piece);
    });
    set
}

/// `count` pieces, at random.
fn few(geometry: &Geometry, count: usize, rng: &mut Rng) -> PieceSet {
    let mut set = PieceSet::empty(PIECES);
    (0..count).filter_map(|_| geometry.piece(rng.u32(..PIECES))).for_each(|piece| {
        set.insert(piece);
    });
    set
}

/// The ledger with its 500 peers.
fn swarm() -> (Ledger, Vec<Holdings>) {
    let (geometry, mut rng) = (geometry(), Rng::with_seed(1));
    let ledger =
        Ledger::new(Arc::clone(&geometry), &PieceSet::empty(PIECES), &PieceSet::full(PIECES));
    let peers: Vec<_> = (0..PEERS)
        .map(|number| Holdings::from_set(&some(&geometry, (number * 256 / PEERS) as u8, &mut rng)))
        .collect();
    peers.iter().for_each(|peer| ledger.add_holder(peer));
    (ledger, peers)
}

/// Time of `rounds` batches of claims; giving the pieces back is not counted.
fn claims(ledger: &Ledger, holder: &Holdings, batch: usize, rounds: u64, seed: u64) -> Duration {
    let (lane, mut rng) = (ledger.new_lane(), Rng::with_seed(seed));
    let (mut out, mut spent) = (Vec::with_capacity(batch), Duration::ZERO);
    for _ in 0..rounds {
        let start = Instant::now();
        ledger.claim_many(holder, lane, PickOrder::RarestFirst, batch, &mut rng, &mut out);
        spent += start.elapsed();
        out.drain(..).for_each(|piece| {
            ledger.release(piece, lane);
        });
    }
    spent
}

fn claiming(criterion: &mut Criterion, ledger: &Ledger, peers: &[Holdings]) {
    let (geometry, mut rng) = (ledger.geometry(), Rng::with_seed(2));
    let sparse = Holdings::from_set(&few(geometry, 1000, &mut rng));
    let tiny = Holdings::from_set(&few(geometry, 16, &mut rng));
    [&sparse, &tiny].iter().for_each(|peer| ledger.add_holder(peer));
    let full = Holdings::full(PIECES);
    let mut group = criterion.benchmark_group("claim");
    for (name, holder) in [
        ("seeder", &full),
        ("dense_50%", &peers[PEERS as usize / 2]),
        ("sparse_1000", &sparse),
        ("tiny_16", &tiny),
    ] {
        for batch in [1, 16] {
            group.throughput(Throughput::Elements(batch as u64));
            group.bench_function(BenchmarkId::new(name, batch), |bencher| {
                bencher.iter_custom(|rounds| claims(ledger, holder, batch, rounds, 3));
            });
        }
    }
    group.finish();
    [&sparse, &tiny].iter().for_each(|peer| ledger.remove_holder(peer));
}

fn contending(criterion: &mut Criterion, ledger: &Ledger) {
    let full = Holdings::full(PIECES);
    let mut group = criterion.benchmark_group("claim_two_threads");
    group.throughput(Throughput::Elements(16));
    group.bench_function("seeder/16", |bencher| {
        bencher.iter_custom(|rounds| {
            std::thread::scope(|scope| {
                let full = &full;
                let other = scope.spawn(move || claims(ledger, full, 16, rounds, 4));
                let mine = claims(ledger, full, 16, rounds, 5);
                mine.max(other.join().expect("no panic"))
            })
        });
    });
    group.finish();
}

fn news(criterion: &mut Criterion, ledger: &Ledger) {
    let mut rng = Rng::with_seed(6);
    let peer = Holdings::empty(PIECES);
    ledger.add_holder(&peer);
    let pieces: Vec<PieceIndex> = (0..65_536u32)
        .filter_map(|number| ledger.geometry().piece(number * 16 + rng.u32(..16)))
        .collect();
    let mut order = pieces.clone();
    rng.shuffle(&mut order);
    let mut group = criterion.benchmark_group("news");
    group.throughput(Throughput::Elements(2 * order.len() as u64));
    for (name, pieces) in [("gain_lose_in_order", &pieces), ("gain_lose_anywhere", &order)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                pieces.iter().for_each(|piece| {
                    black_box(ledger.gain(&peer, *piece));
                });
                pieces.iter().for_each(|piece| {
                    black_box(ledger.lose(&peer, *piece));
                });
            });
        });
    }
    group.finish();
    ledger.remove_holder(&peer);
}

fn coming_and_going(criterion: &mut Criterion, ledger: &Ledger, peers: &[Holdings]) {
    let mut group = criterion.benchmark_group("peer");
    group.sample_size(10);
    let dense = &peers[PEERS as usize / 2];
    group.throughput(Throughput::Elements(2 * u64::from(dense.len())));
    group.bench_function("leave_join_dense_50%", |bencher| {
        bencher.iter(|| {
            ledger.remove_holder(dense);
            ledger.add_holder(dense);
        });
    });
    let seeder = Holdings::full(PIECES);
    group.throughput(Throughput::Elements(1));
    group.bench_function("join_leave_seeder", |bencher| {
        bencher.iter(|| {
            ledger.add_holder(&seeder);
            ledger.remove_holder(&seeder);
        });
    });
    group.finish();
}

fn rarity(criterion: &mut Criterion) {
    let (ledger, peers) = swarm();
    claiming(criterion, &ledger, &peers);
    contending(criterion, &ledger);
    news(criterion, &ledger);
    coming_and_going(criterion, &ledger, &peers);
}

fn choking(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choker_500");
    for (name, slots) in
        [("classic", Slots::Fixed { regular: 4, optimistic: 1 }), ("auto", Slots::Auto)]
    {
        let (mut choker, mut rng) =
            (Choker::new(ChokePolicy::Contribution, slots, 256 * 1024, 1000), Rng::with_seed(7));
        let mut now = Duration::from_secs(1);
        let mut views: Vec<_> = (0..PEERS)
            .map(|number| PeerView {
                id: LinkId(number),
                interested: number % 8 != 0,
                verified_from: 0,
                uploaded_to: 0,
                rare_pieces: 0,
                took_at: now,
                snubbed: false,
                answers_us: false,
                has_sent: false,
                distance: None,
                past: Past::default(),
                passes_on: None,
                amid_piece: false,
                in_hand: false,
                held: 0,
            })
            .collect();
        group.bench_function(BenchmarkId::new(name, "round"), |bencher| {
            bencher.iter(|| {
                now += ROUND;
                views.iter_mut().for_each(|view| {
                    view.verified_from += rng.u64(..1 << 20);
                    view.uploaded_to += 1 << 20;
                });
                black_box(choker.tick(now, false, views.iter().copied(), &mut rng))
            });
        });
        group.bench_function(BenchmarkId::new(name, "event"), |bencher| {
            bencher.iter(|| black_box(choker.tick(now, false, views.iter().copied(), &mut rng)));
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20);
    targets = rarity, choking
}
criterion_main!(benches);
