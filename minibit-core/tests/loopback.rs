//! Whole transfers between nodes over real sockets and real files.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use minibit_core::content::Ticket;
use minibit_core::engine::{GetError, GetOptions, Node, NodeConfig, ShareHandle};
use minibit_core::store::{PrepareOptions, StoreError, prepare};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that do not repeat, from a seed.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

async fn node() -> Node {
    let listen = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    Node::start(NodeConfig { listen, ..NodeConfig::default() }).await.unwrap()
}

async fn share(node: &Node, path: &Path) -> (ShareHandle, Ticket) {
    let never = AtomicBool::new(false);
    let prepared =
        prepare(&[path.to_owned()], &PrepareOptions::default(), &|_| {}, &never).unwrap();
    let handle = node.share(prepared, &[]).await.unwrap();
    let ticket = Ticket::new(handle.id(), vec![], node.local_addrs().to_vec()).unwrap();
    (handle, ticket)
}

fn into(dir: &Path) -> GetOptions {
    GetOptions {
        dir: dir.to_owned(),
        select: None,
        force: false,
        patience: PATIENCE,
        first_pieces: None,
        checking: None,
    }
}

async fn get(node: &Node, ticket: &Ticket, dir: &Path) -> (ShareHandle, PathBuf) {
    let handle = node.get(ticket, into(dir)).await.unwrap();
    let path = tokio::time::timeout(PATIENCE, handle.completed()).await.unwrap().unwrap();
    (handle, path)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_arrives_whole_under_its_final_name() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("film.mp4");
    let bytes = noise(5_000_001, 1);
    std::fs::write(&source, &bytes).unwrap();
    let (sender, receiver) = (node().await, node().await);
    let (_shared, ticket) = share(&sender, &source).await;
    let (handle, path) = get(&receiver, &ticket, &dir.path().join("out")).await;
    assert_eq!(path, dir.path().join("out/film.mp4"));
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(handle.stats().bytes_wasted, 0);
    receiver.shutdown().await;
    sender.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn getting_a_finished_share_again_fetches_nothing_and_an_edited_one_is_not_overwritten() {
    let dir = TempDir::new().unwrap();
    let source = dir.path().join("film.mp4");
    std::fs::write(&source, noise(700_000, 2)).unwrap();
    let (sender, first, again) = (node().await, node().await, node().await);
    let (_shared, ticket) = share(&sender, &source).await;
    let out = dir.path().join("out");
    let (_, path) = get(&first, &ticket, &out).await;
    let (handle, same) = get(&again, &ticket, &out).await;
    assert_eq!((same, handle.stats().bytes_downloaded), (path.clone(), 0));
    let edited = noise(700_000, 3);
    std::fs::write(&path, &edited).unwrap();
    let refused = node().await.get(&ticket, into(&out)).await.unwrap_err();
    assert!(matches!(refused, GetError::Store(StoreError::TargetExists { .. })), "{refused}");
    assert!(std::fs::read(&path).unwrap() == edited);
}
