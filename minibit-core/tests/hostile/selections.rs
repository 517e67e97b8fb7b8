//! Downloads of some of a share's files.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use minibit_core::engine::{GetOptions, Node, ShareHandle};
use minibit_core::types::PeerId;
use minibit_core::wire::{Frame, Message};
use tokio::time::timeout;

use super::holder::{Answer, Holder, Script};
use super::scripted::{Peer, register};
use super::world::{PATIENCE, PIECE, World, addr, into, node, until};

/// Pieces of the two files: of the first alone more are fetched than the second has.
const A: u32 = 40;
const B: u32 = 6;
const FETCHED_OF_A: u32 = 20;

/// Starts a download of one of the two files.
async fn get(world: &World, node: &Node, from: &Holder, dir: &Path, name: &str) -> ShareHandle {
    let name = name.to_owned();
    let options = GetOptions {
        select: Some(Box::new(move |manifest| {
            manifest.files().iter().map(|file| *file.path == [name.clone()]).collect()
        })),
        ..into(dir)
    };
    let ticket = world.ticket(&[from.addr]);
    timeout(PATIENCE, node.get(&ticket, options)).await.unwrap().unwrap()
}

/// A holder that sends so many pieces and then says nothing more.
async fn stalls(world: &World) -> Holder {
    let served = AtomicUsize::new(0);
    let script = Script::on_block(PeerId::numbered(1), move |_, _| {
        match served.fetch_add(1, Relaxed) < FETCHED_OF_A as usize {
            true => Answer::Right,
            false => Answer::Silence,
        }
    });
    Holder::start(&world.content, script).await
}

/// The bytes and pieces of a share, none of which may be over its total at any time.
fn sane(share: &ShareHandle) -> (u64, u32) {
    let stats = share.stats();
    assert!(stats.bytes_have <= stats.bytes_total, "{stats:?}");
    assert!(stats.pieces_have <= stats.pieces_total, "{stats:?}");
    assert!(stats.bytes_resumed <= stats.bytes_have, "{stats:?}");
    (stats.bytes_have, stats.pieces_have)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_selection_in_the_same_directory_counts_its_own_bytes_alone() {
    let world = World::folder(A, B);
    let stalls = stalls(&world).await;
    let serves = Holder::start(&world.content, Script::honest(PeerId::numbered(2))).await;
    let (dir, receiver) = (world.out(), node().await);

    let first = get(&world, &receiver, &stalls, &dir, "a").await;
    until("half of the first file is here", || sane(&first).1 == FETCHED_OF_A).await;
    let stats = first.stats();
    assert_eq!((stats.pieces_total, stats.bytes_total), (A, u64::from(A * PIECE)));
    first.stop().await;
    drop(first);

    let second = get(&world, &receiver, &serves, &dir, "b").await;
    assert_eq!(second.stats().bytes_resumed, 0, "nothing of this file was here");
    let total = (u64::from(B * PIECE), B);
    until("the second file is here", || sane(&second) == total).await;
    let path = timeout(PATIENCE, second.completed()).await.unwrap().unwrap();
    let stats = second.stats();
    assert_eq!((stats.bytes_have, stats.bytes_total), (total.0, total.0));
    assert_eq!((stats.pieces_fetched, stats.pieces_total), (u64::from(B), B));
    let original = &world.content.bytes[(A * PIECE) as usize..];
    assert!(fs::read(path.join("b")).unwrap() == original, "the bytes differ");
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_selection_taken_up_again_starts_from_what_is_there() {
    let world = World::folder(A, B);
    let stalls = stalls(&world).await;
    let (dir, receiver) = (world.out(), node().await);
    let first = get(&world, &receiver, &stalls, &dir, "a").await;
    until("half of the first file is here", || sane(&first).1 == FETCHED_OF_A).await;
    first.stop().await;
    drop(first);
    // Another selection in between, which nobody serves.
    let second = get(&world, &receiver, &stalls, &dir, "b").await;
    assert_eq!(sane(&second), (0, 0));
    second.stop().await;
    drop(second);

    let serves = Holder::start(&world.content, Script::honest(PeerId::numbered(2))).await;
    let third = get(&world, &receiver, &serves, &dir, "a").await;
    assert_eq!(third.stats().bytes_resumed, u64::from(FETCHED_OF_A * PIECE));
    let total = (u64::from(A * PIECE), A);
    until("the first file is here", || sane(&third) == total).await;
    let path = timeout(PATIENCE, third.completed()).await.unwrap().unwrap();
    assert_eq!(third.stats().pieces_fetched, u64::from(A - FETCHED_OF_A));
    let original = &world.content.bytes[..(A * PIECE) as usize];
    assert!(fs::read(path.join("a")).unwrap() == original, "the bytes differ");
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_hear_once_that_a_finished_selection_wants_no_more() {
    let world = World::folder(A, B);
    let holder = Holder::start(&world.content, Script::honest(PeerId::numbered(1))).await;
    let receiver = node().await;
    let share = get(&world, &receiver, &holder, &world.out(), "b").await;
    let bystander = register(&world.content, PeerId::numbered(2));
    let mut bystander = Peer::join(addr(&receiver), bystander).await.unwrap();
    let told =
        |frame: &Frame| matches!(frame, Frame::Control(Message::NotInterested)).then_some(());
    bystander.wire.find(told).await.expect("the link stays");
    let (bytes, _) = sane(&share);
    assert_eq!(bytes, u64::from(B * PIECE), "told before it was true");
    timeout(PATIENCE, share.completed()).await.unwrap().unwrap();
    until("the seeder hears it", || holder.seen.not_interested.load(Relaxed) == 1).await;
    // Said once: what answers this comes behind whatever else there was to say.
    bystander.wire.say(&Message::RequestMetadata { manifest: true, pages: vec![] }).await;
    let next = |frame: &Frame| match frame {
        Frame::Control(Message::NotInterested) => Some(false),
        Frame::Metadata { .. } => Some(true),
        _ => None,
    };
    assert_eq!(bystander.wire.find(next).await, Some(true), "said twice");
    receiver.shutdown().await;
}
