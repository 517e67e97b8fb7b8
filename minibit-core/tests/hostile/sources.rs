//! Files that change while they are shared, and swarms whose members all start again.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use minibit_core::content::Ticket;
use minibit_core::engine::{GetError, Node, ShareHandle};
use minibit_core::store::StoreError;
use minibit_core::types::PeerId;
use minibit_core::wire::{Frame, Message, RefuseReason};

use tokio::task::yield_now;
use tokio::time::timeout;

use super::holder::help;
use super::scripted::{Peer, raw, register};
use super::world::{PATIENCE, PIECE, World, addr, into, node, until};

/// Changes one byte in the middle; the length stays.
fn edit(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    file.write_all_at(b"edited", middle).unwrap();
}

fn truncate(path: &Path) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(100).unwrap();
}

/// Puts another file of the same length in its place.
fn replace(path: &Path) {
    let other = path.with_extension("other");
    fs::write(&other, vec![7; fs::metadata(path).unwrap().len() as usize]).unwrap();
    fs::rename(other, path).unwrap();
}

type Change = (&'static str, fn(&Path));

const CHANGES: [Change; 3] = [("edited", edit), ("truncated", truncate), ("replaced", replace)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_source_is_withdrawn_and_refused_by_name_and_the_node_lives() {
    for (what, change) in CHANGES {
        let world = World::new(12);
        let (node, share) = world.seeder().await;
        let id = PeerId::numbered(2);
        let mut peer = Peer::join(addr(&node), register(&world.content, id)).await.unwrap();
        change(&world.source);
        let block = raw(3, 0, u64::from(PIECE));
        peer.wire.say(&Message::Request(vec![block])).await;
        let (mut withdrawn, mut refused) = (0, false);
        while withdrawn < 12 || !refused {
            match peer.wire.next().await.expect("the link stays") {
                Frame::Control(Message::Withdraw(runs)) => {
                    withdrawn += runs.iter().map(|run| run.count).sum::<u64>();
                }
                Frame::Control(Message::Refuse { blocks, reason: RefuseReason::NotHeld }) => {
                    assert_eq!(blocks, [block], "{what}");
                    refused = true;
                }
                Frame::Block { .. } => panic!("a block of a file that was {what}"),
                _ => {}
            }
        }
        let warnings = share.stats().warnings;
        assert!(warnings.iter().any(|line| line.contains("film.mp4")), "{what}: {warnings:?}");
        assert!(peer.wire.is_alive().await, "{what}");
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seeder_whose_file_changes_under_a_transfer_is_not_banned_for_it() {
    for (what, change) in CHANGES {
        let world = World::with_pieces_of(1 << 18, 96);
        let (seeder, _sharing) = world.seeder().await;
        let receiver = node().await;
        let share = world.start(&receiver, &world.ticket(&[addr(&seeder)])).await;
        until("the first pieces are here", || share.stats().pieces_have > 0).await;
        change(&world.source);
        let helper = help(&world.content, addr(&receiver), PeerId::numbered(7));
        world.check(&share).await;
        let warnings = share.stats().warnings;
        assert!(warnings.is_empty(), "{what}: {warnings:?}");
        helper.abort();
        receiver.shutdown().await;
        seeder.shutdown().await;
    }
}

/// Starts a download where an earlier one was stopped. Its last tasks may still be ending: in
/// the same process, unlike after its death, they hold the target until they have.
async fn taken_up(node: &Node, ticket: &Ticket, dir: &Path) -> ShareHandle {
    let taken = async {
        loop {
            match node.get(ticket, into(dir)).await {
                Err(GetError::Store(StoreError::InUse { .. })) => yield_now().await,
                other => return other.unwrap(),
            }
        }
    };
    timeout(PATIENCE, taken).await.expect("the target is free again")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_was_stopped_is_taken_up_again_by_the_same_node() {
    let world = World::new(12);
    let (seeder, _sharing) = world.seeder().await;
    let (receiver, dir) = (node().await, world.out());
    let ticket = world.ticket(&[addr(&seeder)]);
    for _ in 0..3 {
        let share = taken_up(&receiver, &ticket, &dir).await;
        world.check(&share).await;
        share.stop().await;
    }
    receiver.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_swarm_whose_peers_all_start_again_at_once_goes_on_and_finishes() {
    let world = World::with_pieces_of(1 << 16, 256);
    let dirs = [world.out(), world.out(), world.out()];
    let mut kept = 0;
    for round in 0..2 {
        let (seeder, sharing) = world.seeder().await;
        let ticket = world.ticket(&[addr(&seeder)]);
        let mut receivers = Vec::new();
        for dir in &dirs {
            let node = node().await;
            let share = taken_up(&node, &ticket, dir).await;
            receivers.push((node, share));
        }
        if round == 0 {
            until("everybody has something", || {
                receivers.iter().all(|(_, share)| share.stats().pieces_have > 0)
            })
            .await;
            let stopped = async {
                seeder.shutdown().await;
                for (node, share) in receivers.drain(..).rev() {
                    drop(share);
                    node.shutdown().await;
                }
            };
            timeout(PATIENCE, stopped).await.expect("everybody leaves");
            continue;
        }
        for (_, share) in &receivers {
            kept += share.stats().bytes_resumed;
            world.check(share).await;
        }
        assert!(kept > 0, "nothing was kept: {:?}", sharing.stats());
    }
}
