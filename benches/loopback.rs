//! Whole verified transfers between two nodes of one process, over loopback.
//!
//! For the parts' cost in context; what users see is measured by `transfer`, with processes.

use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use minibit_core::content::Ticket;
use minibit_core::engine::{GetOptions, Node, NodeConfig, ShareHandle};
use minibit_core::store::{PrepareOptions, prepare};
use tempfile::TempDir;
use tokio::runtime::Runtime;

async fn node(lanes: Option<u8>) -> Node {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    Node::start(NodeConfig { listen, lanes, ..NodeConfig::default() }).await.expect("loopback")
}

/// A file of that size, shared by a node.
struct Shared {
    _files: TempDir,
    _node: Node,
    _share: ShareHandle,
    ticket: Ticket,
}

impl Shared {
    fn new(runtime: &Runtime, len: usize) -> Self {
        let files = TempDir::new().expect("temporary directory");
        let path = files.path().join("film");
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        fs::write(&path, bytes).expect("sample");
        let never = AtomicBool::new(false);
        let prepared =
            prepare(&[path], &PrepareOptions::default(), &|_| {}, &never).expect("hashing");
        runtime.block_on(async {
            let node = node(None).await;
            let share = node.share(prepared, &[]).await.expect("a new share");
            let ticket = Ticket::new(share.id(), vec![], node.local_addrs().to_vec());
            Self { _files: files, _node: node, _share: share, ticket: ticket.expect("address") }
        })
    }
}

async fn fetch(ticket: &Ticket, to: &TempDir, lanes: Option<u8>) {
    let receiver = node(lanes).await;
    let options = GetOptions {
        dir: to.path().to_owned(),
        select: None,
        force: false,
        patience: Duration::from_secs(10),
        first_pieces: None,
        checking: None,
    };
    let share = receiver.get(ticket, options).await.expect("manifest");
    share.completed().await.expect("every byte");
    receiver.shutdown().await;
}

fn transfers(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("runtime");
    let mut group = criterion.benchmark_group("loopback");
    group.sample_size(10);
    for (name, len, lanes) in [
        ("1 MiB", 1 << 20, None),
        ("64 MiB", 64 << 20, None),
        ("64 MiB, one lane", 64 << 20, Some(1)),
    ] {
        let shared = Shared::new(&runtime, len);
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || TempDir::new().expect("temporary directory"),
                |to| runtime.block_on(fetch(&shared.ticket, to, lanes)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, transfers);
criterion_main!(benches);
