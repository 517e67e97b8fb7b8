//! What a tracker's decisions cost, by the size of the swarm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use minibit_core::tracker::{ConnId, Input, Mode, Registry, Rules};
use minibit_core::types::{PeerId, ShareId};
use minibit_core::wire::{Destination, Register};

const NOW: Duration = Duration::from_secs(1);

fn join(number: u32) -> Input {
    let id = PeerId::numbered(number.into());
    let register =
        Register { port: 4000, ..Register::new(id, ShareId([7; 32]), Destination::Tracker) };
    let remote = SocketAddr::new(Ipv4Addr::from(0x0a00_0000 + number).into(), 50_000);
    Input::Register { register, remote, local: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)) }
}

/// A peer joins a swarm of that size, is answered and announced, and leaves.
fn joins(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tracker_join");
    let modes = [("sampled", Rules::default().mode), ("mesh", Mode::Mesh)];
    for (name, mode) in modes {
        for peers in [10, 100, 1_000, 10_000] {
            let mut registry = Registry::new(Rules { mode, ..Rules::default() });
            let mut rng = fastrand::Rng::with_seed(1);
            let mut actions = Vec::new();
            for peer in 0..peers {
                actions.clear();
                registry.handle(NOW, ConnId(peer.into()), join(peer), &mut rng, &mut actions);
            }
            let newcomer = ConnId(u64::MAX);
            group.bench_function(BenchmarkId::new(name, peers), |bencher| {
                bencher.iter(|| {
                    actions.clear();
                    registry.handle(NOW, newcomer, join(peers), &mut rng, &mut actions);
                    registry.handle(NOW, newcomer, Input::Closed, &mut rng, &mut actions);
                    actions.len()
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, joins);
criterion_main!(benches);
