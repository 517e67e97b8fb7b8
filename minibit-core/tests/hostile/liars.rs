//! Holders that lie, refuse, stall and drip, and the downloads that must come through anyway.
//!
//! In each test the liar is the first to give the manifest, so it is linked before anyone
//! honest, and the first pieces are asked of it.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use minibit_core::content::Ticket;
use minibit_core::engine::{Node, NodeConfig, ShareHandle};
use minibit_core::swarm::Caps;
use minibit_core::types::{PageId, PeerId, limits};
use minibit_core::wire::{
    Frame, Holdings, Message, MetadataHeader, RawBlock, RefuseReason, Register, Run,
};
use tokio::time::Instant;

use super::holder::{Answer, Holder, OnRegister, Script, help};
use super::scripted::{Peer, block_frame, frame, metadata_frame, raw, register};
use super::world::{Content, PIECE, World, addr, config, names_as_banned, node, until};

const LIAR: u64 = 666;
const HONEST: u64 = 7;

fn liar() -> PeerId {
    PeerId::numbered(LIAR)
}

fn honest() -> PeerId {
    PeerId::numbered(HONEST)
}

/// A block frame with one byte changed.
fn corrupt(content: &Content, block: RawBlock) -> Answer {
    let mut bytes = content.block(block).to_vec();
    bytes[0] ^= 1;
    Answer::Bytes(block_frame(block.piece as u32, block.offset as u32, &bytes))
}

fn refuse(block: RawBlock, reason: RefuseReason) -> Answer {
    Answer::Bytes(frame(&Message::Refuse { blocks: vec![block], reason }))
}

/// Whether a peer that is banned gets no second link, whoever connects.
async fn stays_out(node: &Node, world: &World, id: PeerId) {
    assert!(Peer::join(addr(node), register(&world.content, id)).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_among_honest_seeders_is_found_out_and_the_file_is_right() {
    let world = World::with_pieces_of(1 << 16, 40);
    let lied = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lied);
    let script = Script::on_block(liar(), move |content, block| {
        if block.piece % 3 == 0 {
            counted.fetch_add(1, Relaxed);
            return corrupt(content, block);
        }
        Answer::Right
    });
    let holder = Holder::start(&world.content, script).await;
    let (seeder, receiver) = (node().await, node().await);
    let ticket = world.ticket(&[holder.addr, addr(&seeder)]);
    let share = world.start(&receiver, &ticket).await;
    let _seeding = seeder.share(world.prepared(), &[]).await.unwrap();
    world.check(&share).await;
    assert!(lied.load(Relaxed) > 0);
    until("the liar is banned", || names_as_banned(&share, liar())).await;
    assert!(share.stats().pieces_refused > 0);
    stays_out(&receiver, &world, liar()).await;
    let links = holder.seen.links.load(Relaxed);
    assert!(links <= 2, "dialled again after the ban: {links}");
    receiver.shutdown().await;
    seeder.shutdown().await;
}

/// The share that the liar's process and its parent have in common.
const LIARS_WORLD: u64 = 1 << 32;

/// The liar of the next test, in a process of its own, if the environment asks for it.
#[tokio::test]
async fn liar_process() {
    if env::var_os("MINIBIT_TEST_LIAR").is_none() {
        return;
    }
    let world = World::seeded(LIARS_WORLD, PIECE, 24);
    let script = Script::on_block(liar(), |content, block| match block.piece % 2 {
        0 => corrupt(content, block),
        _ => Answer::Right,
    });
    let holder = Holder::start(&world.content, script).await;
    println!("liar at {}", holder.addr);
    // Until the parent kills it.
    std::future::pending::<()>().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_liar_in_a_process_of_its_own_is_banned_and_the_file_is_right() {
    let world = World::seeded(LIARS_WORLD, PIECE, 24);
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "liars::liar_process", "--nocapture"])
        .env("MINIBIT_TEST_LIAR", "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let at = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("liar at ")?.1.parse().unwrap()));
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[at.unwrap()])).await;
    until("the liar is banned", || names_as_banned(&share, liar())).await;
    let helper = help(&world.content, addr(&receiver), honest());
    world.check(&share).await;
    child.kill().unwrap();
    child.wait().unwrap();
    helper.abort();
    receiver.shutdown().await;
}

/// A download from a liar alone until it is banned; then somebody honest comes.
async fn banned_then_finished(script: Script) {
    let world = World::with_pieces_of(2 * PIECE, 12);
    let id = script.id;
    let holder = Holder::start(&world.content, script).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    until("the liar is banned", || names_as_banned(&share, id)).await;
    stays_out(&receiver, &world, id).await;
    finished_with_help(&world, &receiver, &share).await;
    receiver.shutdown().await;
}

async fn finished_with_help(world: &World, receiver: &Node, share: &ShareHandle) {
    let helper = help(&world.content, addr(receiver), honest());
    world.check(share).await;
    helper.abort();
}

/// Joins under this name, sends a wrong piece of what it is asked for, and leaves; how many pieces were asked
/// for.
async fn lies_once(receiver: &Node, share: &ShareHandle, world: &World, name: u64) -> usize {
    let id = PeerId::numbered(name);
    let holds_all = Register { complete: true, unchoked: true, ..register(&world.content, id) };
    let mut peer = Peer::join(addr(receiver), holds_all).await.expect("there is room");
    let asked = peer.wire.find(|frame| match frame {
        Frame::Control(Message::Request(blocks)) => Some(blocks.clone()),
        _ => None,
    });
    let asked = asked.await.expect("something is wanted");
    let before = share.stats().bytes_downloaded;
    // The last piece is a shorter one.
    let wrong = vec![7; asked[0].len as usize];
    peer.wire.write(&block_frame(asked[0].piece as u32, 0, &wrong)).await;
    until("it has come", || share.stats().bytes_downloaded > before).await;
    drop(peer);
    until("it is gone", || share.links().iter().all(|link| link.peer != id)).await;
    asked.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_new_where_others_sent_nothing_right_are_asked_for_one_piece_each() {
    let world = World::new(200);
    let holder = Holder::start(&world.content, Script::with_nothing(liar())).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    let mut asked = Vec::new();
    for name in 1000..1012 {
        asked.push(lies_once(&receiver, &share, &world, name).await);
    }
    assert!(asked[..4].iter().all(|pieces| *pieces > 1), "{asked:?}");
    assert_eq!(asked[4..], [1; 8]);
    // Of an honest one of that machine more is to be had.
    finished_with_help(&world, &receiver, &share).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_shorter_than_asked_is_banned() {
    banned_then_finished(Script::on_block(liar(), |content, block| {
        let short = &content.block(block)[1..];
        Answer::Bytes(block_frame(block.piece as u32, block.offset as u32, short))
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_longer_than_asked_is_banned() {
    // Asked for 16 KiB at a time, it sends whole pieces.
    let script = Script {
        register: Box::new(|register| register.block_max = PIECE),
        ..Script::on_block(liar(), |content, block| {
            let whole = content.block(RawBlock { len: block.len * 2, ..raw(0, 0, block.len) });
            Answer::Bytes(block_frame(block.piece as u32, block.offset as u32, &whole))
        })
    };
    banned_then_finished(script).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_out_of_order_are_banned() {
    banned_then_finished(Script::on_block(liar(), |content, block| {
        // The next piece's block in this one's place.
        let other = RawBlock { piece: (block.piece + 1) % 8, ..block };
        let bytes = content.block(other);
        Answer::Bytes(block_frame(other.piece as u32, other.offset as u32, &bytes))
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_that_the_root_refutes_are_banned_and_fetched_elsewhere() {
    let wrong = |page, len: usize| {
        let header = MetadataHeader::page(page, len as u32);
        Answer::Bytes(metadata_frame(header, &vec![7; len]))
    };
    for shorter in [0, 32] {
        let script = Script {
            page: Box::new(move |content, page| {
                wrong(page, content.hashes.page(page).unwrap().len() - shorter)
            }),
            ..Script::honest(liar())
        };
        banned_then_finished(script).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_without_the_hashes_that_prove_them_are_banned() {
    let script = Script { page: Box::new(|_, _| Answer::Silence), ..Script::honest(liar()) };
    banned_then_finished(script).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_claims_pieces_and_has_no_hashes_of_them_is_asked_for_a_few_and_banned() {
    let absent = Script {
        page: Box::new(|_, page| Answer::Bytes(metadata_frame(MetadataHeader::page(page, 0), &[]))),
        ..Script::honest(liar())
    };
    let world = World::new(200);
    let holder = Holder::start(&world.content, absent).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    until("the liar is banned", || names_as_banned(&share, liar())).await;
    let asked = holder.seen.blocks.load(Relaxed);
    assert!(asked < 50, "{asked} of 200 blocks");
    finished_with_help(&world, &receiver, &share).await;
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hashes_that_come_behind_their_piece_are_waited_for() {
    // They come with the block after, or at the end of the share.
    let late = Script {
        page: Box::new(|_, _| Answer::Silence),
        ..Script::on_block(honest(), |content, block| {
            static SENT: AtomicUsize = AtomicUsize::new(0);
            let page = PageId { file: 0, level: 0, page: 0 };
            let hashes = content.hashes.page(page).unwrap();
            let block = block_frame(block.piece as u32, block.offset as u32, &content.block(block));
            let header = MetadataHeader::page(page, hashes.len() as u32);
            match SENT.fetch_add(1, Relaxed) {
                2 => Answer::Bytes([block, metadata_frame(header, &hashes)].concat().into()),
                _ => Answer::Bytes(block),
            }
        })
    };
    let world = World::new(12);
    let holder = Holder::start(&world.content, late).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    world.check(&share).await;
    assert!(!names_as_banned(&share, honest()));
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_nobody_asked_for_is_never_written() {
    let world = World::new(12);
    // Ahead of each of the first blocks a wrong one for a piece that is not asked for.
    let strays = AtomicUsize::new(0);
    let last = u64::from(world.content.pieces()) - 1;
    let script = Script::on_block(liar(), move |content, block| {
        let right = block_frame(block.piece as u32, block.offset as u32, &content.block(block));
        if block.piece == last
            || strays.fetch_add(1, Relaxed) >= limits::UNASKED_BLOCKS_MAX as usize
        {
            return Answer::Right;
        }
        // Beyond what its length can be asked for: inside the share, but never asked.
        let stray = block_frame(last as u32, 1, &[0xee; 100]);
        Answer::Bytes([&stray[..], &right[..]].concat().into())
    });
    let holder = Holder::start(&world.content, script).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    world.check(&share).await;
    assert!(share.stats().bytes_wasted >= 100);
    assert!(!names_as_banned(&share, liar()));
    receiver.shutdown().await;
}

/// A liar that holds pieces up, with an honest helper beside it: how long it takes.
async fn finishes_beside(script: Script) -> (World, Node, ShareHandle, Duration) {
    let world = World::new(40);
    let holder = Holder::start(&world.content, script).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    until("the liar was asked", || holder.seen.blocks.load(Relaxed) > 0).await;
    let started = Instant::now();
    finished_with_help(&world, &receiver, &share).await;
    (world, receiver, share, started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pieces_asked_of_a_peer_that_never_answers_are_taken_over() {
    let script = Script::on_block(liar(), |_, _| Answer::Silence);
    let (_world, receiver, _share, took) = finishes_beside(script).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    receiver.shutdown().await;
}

/// Holds everything, gives the first MiB at once, and `then` does what this says.
fn fast_at_first(number: u64, then: impl Fn(RawBlock) -> Answer + Send + Sync + 'static) -> Script {
    let left = AtomicUsize::new(1 << 20);
    Script::on_block(PeerId::numbered(100 + number), move |_, block| {
        let less = |left: usize| left.checked_sub(block.len as usize);
        match left.fetch_update(Relaxed, Relaxed, less) {
            Ok(_) => Answer::Right,
            Err(_) => then(block),
        }
    })
}

/// So many bytes a millisecond.
fn at_rate(block: RawBlock, rate: u64) -> Answer {
    Answer::RightAfter(Duration::from_micros(1000 * block.len / rate))
}

/// One that is steady beside twelve that were faster, once.
async fn finishes_beside_what_was_fast(then: fn(RawBlock) -> Answer) {
    let world = World::with_pieces_of(1 << 18, 96);
    let steady = Script::on_block(honest(), |_, block| at_rate(block, 4000));
    let mut holders = vec![Holder::start(&world.content, steady).await];
    for number in 0..12 {
        holders.push(Holder::start(&world.content, fast_at_first(number, then)).await);
    }
    let receiver = node().await;
    let addrs: Vec<_> = holders.iter().map(|holder| holder.addr).collect();
    let share = world.start(&receiver, &world.ticket(&addrs)).await;
    world.check(&share).await;
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_fall_silent_do_not_hand_the_last_pieces_round() {
    finishes_beside_what_was_fast(|_| Answer::Silence).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_slow_down_do_not_hand_the_last_pieces_round() {
    finishes_beside_what_was_fast(|block| at_rate(block, 200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_pieces_of_a_peer_that_drips_are_taken_over() {
    let served = AtomicUsize::new(0);
    let script = Script::on_block(liar(), move |_, _| match served.fetch_add(1, Relaxed) {
        0..3 => Answer::Right,
        _ => Answer::Drip,
    });
    let (_world, receiver, share, took) = finishes_beside(script).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let stats = share.stats();
    assert!(stats.bytes_wasted < 64 * 1024, "{stats:?}");
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_pieces_not_held_cost_a_refusal_each() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let script = Script::on_block(liar(), move |_, block| {
        counted.fetch_add(1, Relaxed);
        refuse(block, RefuseReason::NotHeld)
    });
    let (world, receiver, share, took) = finishes_beside(script).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert!(asked.load(Relaxed) <= world.content.pieces() as usize);
    assert!(!names_as_banned(&share, liar()));
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_refuses_everything_is_not_asked_in_a_circle() {
    for reason in [RefuseReason::Choked, RefuseReason::TooMany] {
        let world = World::new(40);
        let script = Script::on_block(liar(), move |_, block| refuse(block, reason));
        let holder = Holder::start(&world.content, script).await;
        let receiver = node().await;
        let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
        until("the liar was asked", || holder.seen.blocks.load(Relaxed) > 0).await;
        // Long enough for thousands of rounds on loopback.
        let other = World::new(12);
        for _ in 0..3 {
            let (seeder, _seeding) = other.seeder().await;
            other.honest_get(addr(&seeder)).await;
            seeder.shutdown().await;
        }
        let asked = holder.seen.blocks.load(Relaxed);
        assert!(asked < 2000, "asked {asked} times, {reason:?}");
        finished_with_help(&world, &receiver, &share).await;
        receiver.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_not_excused_by_withdrawals_for_ever() {
    let world = World::new(40);
    let lies = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&lies);
    // It holds what it withdrew again, sends a wrong block, and "my file has changed".
    let script = Script::on_block(liar(), move |content, block| {
        let Answer::Bytes(lie) = corrupt(content, block) else { return Answer::Silence };
        let lied = counted.fetch_add(1, Relaxed) > 0;
        let whole = vec![Run { first: 0, count: content.pieces().into() }];
        let again = Message::Have { id: liar(), holdings: Holdings::News(whole) };
        let again = if lied { frame(&again) } else { Bytes::new() };
        let withdraw = frame(&Message::Withdraw(vec![Run { first: block.piece, count: 1 }]));
        Answer::Bytes([again, lie, withdraw].concat().into())
    });
    let holder = Holder::start(&world.content, script).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    until("the liar is banned", || names_as_banned(&share, liar())).await;
    assert!(share.stats().pieces_refused < 64, "{:?}", share.stats());
    finished_with_help(&world, &receiver, &share).await;
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_is_not_the_tickets_is_asked_of_the_next_peer_and_its_sender_banned() {
    let mut other = World::new(5).content.manifest.encode();
    other[40] ^= 1;
    let manifest = |bytes: Vec<u8>| {
        let header = MetadataHeader::manifest(bytes.len() as u32);
        Answer::Bytes(metadata_frame(header, &bytes))
    };
    let huge = MetadataHeader::manifest(u32::MAX);
    let lies: Vec<Box<dyn Fn() -> Answer + Send + Sync>> = vec![
        Box::new(move || manifest(other.clone())),
        Box::new(move || manifest(vec![0; 100])),
        Box::new(move || Answer::Bytes(metadata_frame(huge, &[0; 100]))),
        Box::new(|| Answer::Bytes(metadata_frame(MetadataHeader::manifest(0), &[]))),
        Box::new(|| Answer::Bytes(Bytes::from_static(&[0xff; 100]))),
        Box::new(|| Answer::Silence),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let world = World::new(12);
        let script = Script { manifest: Box::new(move |_| lie()), ..Script::honest(liar()) };
        let holder = Holder::start(&world.content, script).await;
        let (seeder, receiver) = (node().await, node().await);
        let ticket = world.ticket(&[holder.addr, addr(&seeder)]);
        let starting = world.start(&receiver, &ticket);
        let lied = async {
            until("the liar was asked", || holder.seen.manifests.load(Relaxed) > 0).await;
            seeder.share(world.prepared(), &[]).await.unwrap()
        };
        let (share, _seeding) = tokio::join!(starting, lied);
        world.check(&share).await;
        if number < 2 {
            stays_out(&receiver, &world, liar()).await;
        }
        receiver.shutdown().await;
        seeder.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_gives_no_key_for_lanes_is_a_peer_all_the_same() {
    let world = World::new(12);
    let script = Script { register: Box::new(|mine| mine.key = None), ..Script::honest(honest()) };
    let holder = Holder::start(&world.content, script).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    world.check(&share).await;
    receiver.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_nobody_can_link_with_leave_no_dial_behind() {
    // One dial at a time: if a failed one were never settled, the honest peer would not be met.
    let world = World::new(12);
    let links = Caps { dials_max: 1, ..Caps::default() };
    let receiver = Node::start(NodeConfig { links, ..config() }).await.unwrap();
    let giver = Script::on_block(PeerId::numbered(1), |_, _| Answer::Silence);
    let giver = Holder::start(&world.content, giver).await;
    let ours = receiver.id();
    let spoils: Vec<Box<OnRegister>> = vec![
        Box::new(move |mine| mine.id = ours),
        Box::new(|mine| mine.version = 9),
        Box::new(|mine| mine.lanes_max = 0),
        Box::new(|mine| mine.block_max = 1),
    ];
    let mut odd = Vec::new();
    for (number, register) in spoils.into_iter().enumerate() {
        let script = Script { register, ..Script::honest(PeerId::numbered(10 + number as u64)) };
        odd.push(Holder::start(&world.content, script).await);
    }
    let seeder = node().await;
    let addrs: Vec<_> =
        [giver.addr].into_iter().chain(odd.iter().map(|o| o.addr)).chain([addr(&seeder)]).collect();
    let ticket: Ticket = world.ticket(&addrs);
    let share = world.start(&receiver, &ticket).await;
    let _seeding = seeder.share(world.prepared(), &[]).await.unwrap();
    world.check(&share).await;
    receiver.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sole_holder_that_delivers_nothing_is_no_source_for_long() {
    let world = World::new(12);
    let holder = Script::on_block(liar(), |_, _| Answer::Silence);
    let holder = Holder::start(&world.content, holder).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket(&[holder.addr])).await;
    until("it was asked", || holder.seen.blocks.load(Relaxed) > 0).await;
    assert_eq!(share.stats().sources, 1);
    until("it counts no more", || share.stats().sources == 0).await;
    assert_eq!(share.stats().links, 1, "it may still come to deliver");
    receiver.shutdown().await;
}
