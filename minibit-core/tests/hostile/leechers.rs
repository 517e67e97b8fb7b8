//! Peers that connect to a node and misbehave.

use std::env;
use std::io;
use std::process::Command;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use minibit_core::engine::{GetOptions, Node, NodeConfig, ShareHandle};
use minibit_core::swarm::{Caps, Slots};
use minibit_core::types::{PageId, PeerId, ShareId, limits};
use minibit_core::wire::{
    Frame, LaneKey, Message, MetadataHeader, RawBlock, RefuseReason, Register, Run,
};
use tokio::time::{Instant, timeout};

use super::scripted::{
    Peer, Wire, bitmap, block_frame, frame, lane, metadata_frame, news, raw, register, text,
};
use super::world::{Content, PATIENCE, PIECE, World, addr, config, into, names_as_banned, until};

/// What must become of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Stays,
    Closed,
    Banned,
}

/// What a peer says after its REGISTRO, and what must follow.
struct Row {
    what: &'static str,
    register: fn(&mut Register),
    says: Vec<Bytes>,
    then: Then,
}

fn row(what: &'static str, says: Vec<Bytes>, then: Then) -> Row {
    Row { what, register: |_| {}, says, then }
}

fn request(blocks: Vec<RawBlock>) -> Bytes {
    frame(&Message::Request(blocks))
}

fn repeated(bytes: &Bytes, times: u32) -> Bytes {
    let mut all = BytesMut::new();
    (0..times).for_each(|_| all.extend_from_slice(bytes));
    all.freeze()
}

/// The rows of the table of bad input that need a share or a link's history.
fn rows(content: &Content, id: PeerId) -> Vec<Row> {
    use Then::{Banned, Closed, Stays};
    let pieces = u64::from(content.pieces());
    let piece = u64::from(PIECE);
    let have = |first, count| frame(&news(id, first, count));
    let map = |bytes: &[u8]| frame(&bitmap(id, bytes.to_vec()));
    let withdraw = |first| frame(&Message::Withdraw(vec![Run { first, count: 1 }]));
    let unasked = block_frame(0, 0, &vec![7; PIECE as usize]);
    let page = PageId { file: 0, level: 0, page: 0 };
    let whole = request(vec![raw(0, 0, piece)]);
    let mut rows = vec![
        row("REGISTRO twice", vec![frame(&register(content, id).into_message())], Closed),
        row("a tracker's message", vec![frame(&Message::Announce { id, complete: true })], Closed),
        row("news of piece = count", vec![have(pieces, 1)], Banned),
        row("news of piece u32::MAX", vec![have(u64::from(u32::MAX), 1)], Banned),
        row("news of piece 2^53 + 1", vec![have((1 << 53) + 1, 1)], Banned),
        row("news beyond the end", vec![have(pieces - 1, 2)], Banned),
        row("a run of no pieces", vec![have(0, 0)], Banned),
        row("withdrawal of piece = count", vec![withdraw(pieces)], Banned),
        row("news in another's name", vec![frame(&news(PeerId::numbered(9), 0, 1))], Closed),
        row("a goodbye in another's name", vec![goodbye(PeerId::numbered(9))], Closed),
        row("its own goodbye", vec![goodbye(id)], Closed),
        row("a bitmap too short", vec![map(&[0])], Banned),
        row("a bitmap too long", vec![map(&[0, 0, 0])], Banned),
        row("a bitmap with spare bits", vec![map(&[0, 0x01])], Banned),
        row("two bitmaps", vec![map(&[0x80, 0]), map(&[0x80, 0])], Closed),
        row("a bitmap after news", vec![have(0, 1), map(&[0x80, 0])], Closed),
        row("the same news 200 times", vec![repeated(&have(0, 1), 200)], Stays),
        row("the same news 1,000 times", vec![repeated(&have(0, 1), 1000)], Closed),
        row("100 unknown messages", vec![repeated(&text(r#"{"tipo":"DANÇA"}"#), 100)], Stays),
        row("101 unknown messages", vec![repeated(&text(r#"{"tipo":"DANÇA"}"#), 101)], Closed),
        row("JSON that breaks off", vec![text(r#"{"tipo":"#)], Closed),
        row("piece -1", vec![text(r#"{"tipo":"PEDIDO","blocos":[[-1,0,1]]}"#)], Closed),
        row("piece \"7\"", vec![text(r#"{"tipo":"PEDIDO","blocos":[["7",0,1]]}"#)], Closed),
        row("a request of length 0", vec![request(vec![raw(0, 0, 0)])], Banned),
        row("a request beyond its piece", vec![request(vec![raw(0, 1, piece)])], Banned),
        row("a request of piece = count", vec![request(vec![raw(pieces, 0, 1)])], Banned),
        row("a request of piece 2^53 + 1", vec![request(vec![raw((1 << 53) + 1, 0, 1)])], Banned),
        row(
            "one bad block among good ones",
            vec![request(vec![raw(0, 0, 1), raw(0, 0, 0)])],
            Banned,
        ),
        row("a cancel of nothing", vec![frame(&Message::Cancel(vec![raw(0, 0, piece)]))], Stays),
        row("a cancel outside", vec![frame(&Message::Cancel(vec![raw(pieces, 0, 1)]))], Banned),
        row("a refusal outside", vec![frame(&refuse(raw(0, 0, 0)))], Banned),
        row("a refusal of nothing", vec![frame(&refuse(raw(0, 0, piece)))], Stays),
        row("16 blocks nobody asked for", vec![repeated(&unasked, 16)], Stays),
        row("17 blocks nobody asked for", vec![repeated(&unasked, 17)], Banned),
        row("a block outside the share", vec![block_frame(pieces as u32, 0, &[0; 8])], Banned),
        row(
            "hashes nobody asked for",
            vec![metadata_frame(MetadataHeader::page(page, 32), &[0; 32])],
            Banned,
        ),
        row(
            "a page that does not exist",
            vec![frame(&pages(PageId { file: 7, level: 0, page: 9 }, 1))],
            Stays,
        ),
        row("1,025 pages at once", vec![frame(&pages(page, 1025))], Closed),
        row("a frame of length 0", vec![Bytes::from_static(&[0; 5])], Closed),
        row("a frame of 4 GiB", vec![Bytes::from_static(&[0xff; 9])], Closed),
        row("a frame of unknown kind", vec![Bytes::from_static(&[0, 0, 0, 2, 9, 9])], Closed),
        row("a request in two halves", vec![whole.slice(..3), whole.slice(3..)], Stays),
    ];
    rows.push(Row {
        what: "a bitmap after `completo`",
        register: |register| register.complete = true,
        says: vec![map(&[0xff, 0xf0])],
        then: Closed,
    });
    rows
}

fn goodbye(id: PeerId) -> Bytes {
    frame(&Message::Goodbye { id, reason: Some("\u{1b}[2J".into()) })
}

fn refuse(block: RawBlock) -> Message {
    Message::Refuse { blocks: vec![block], reason: RefuseReason::NotHeld }
}

fn pages(page: PageId, count: usize) -> Message {
    Message::RequestMetadata { manifest: false, pages: vec![page; count] }
}

trait IntoMessage {
    fn into_message(self) -> Message;
}

impl IntoMessage for Register {
    fn into_message(self) -> Message {
        Message::Register(self)
    }
}

async fn node_with(slots: Slots) -> Node {
    Node::start(NodeConfig { slots, ..config() }).await.unwrap()
}

async fn nobody_is_linked(share: &ShareHandle) {
    until("all links are gone", || share.stats().links == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_rule_broken_costs_the_one_who_broke_it_and_nobody_else() {
    let world = World::new(12);
    let content = &world.content;
    let (node, share) = world.seeder().await;
    let at = addr(&node);
    let count = rows(content, PeerId::numbered(1)).len();
    for number in 0..count {
        let id = PeerId::numbered(1000 + number as u64);
        let row = rows(content, id).swap_remove(number);
        let mut mine = register(content, id);
        (row.register)(&mut mine);
        let mut peer = Peer::join(at, mine.clone()).await.expect(row.what);
        for bytes in &row.says {
            if !peer.wire.write(bytes).await {
                break;
            }
        }
        if row.then == Then::Stays {
            assert!(peer.wire.is_alive().await, "{} ends the link", row.what);
        } else {
            peer.wire.ended().await;
        }
        drop(peer);
        nobody_is_linked(&share).await;
        let again = Peer::join(at, mine).await;
        assert_eq!(again.is_none(), row.then == Then::Banned, "{}: back again", row.what);
        assert_eq!(names_as_banned(&share, id), row.then == Then::Banned, "{}", row.what);
        drop(again);
        nobody_is_linked(&share).await;
        if number % 8 == 0 {
            world.honest_get(at).await;
        }
    }
    world.honest_get(at).await;
    nobody_is_linked(&share).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_do_not_introduce_themselves_are_closed_without_an_answer() {
    let world = World::new(12);
    let content = &world.content;
    let (node, share) = world.seeder().await;
    let id = PeerId::numbered(2);
    let whole = register(content, id);
    let spoilt = |spoil: fn(&mut Register)| {
        let mut register = whole.clone();
        spoil(&mut register);
        register.into_message()
    };
    let ours = Register { id: node.id(), ..whole.clone() };
    let cases: Vec<(&str, Bytes)> = vec![
        ("HTTP", Bytes::from_static(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")),
        (
            "a TLS hello",
            Bytes::from_static(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaa"),
        ),
        ("64 KiB of zeros", vec![0; 64 * 1024].into()),
        ("64 KiB of ones", vec![0xff; 64 * 1024].into()),
        ("a keep-alive", frame(&Message::KeepAlive)),
        ("a request", request(vec![raw(0, 0, 1)])),
        ("a block", block_frame(0, 0, &[0; 100])),
        ("unknown", text(r#"{"tipo":"DANÇA"}"#)),
        ("4 KiB and a byte", text(&format!("{{\"tipo\":\"{}\"}}", "A".repeat(4090)))),
        ("another share", frame(&spoilt(|register| register.share = ShareId([7; 32])))),
        ("another version", frame(&spoilt(|register| register.version = 2))),
        ("a block length of 100,000", frame(&spoilt(|register| register.block_max = 100_000))),
        ("no lanes", frame(&spoilt(|register| register.lanes_max = 0))),
        ("our own identity", frame(&ours.into_message())),
        ("a lane of no link", frame(&spoilt(|register| register.lane = Some(LaneKey([1; 16]))))),
    ];
    for (what, bytes) in cases {
        let mut wire = Wire::connect(addr(&node)).await;
        wire.write(&bytes).await;
        let started = Instant::now();
        assert!(wire.next().await.is_none(), "{what} was answered");
        assert!(started.elapsed() < Duration::from_secs(4), "{what} was closed by time alone");
    }
    assert_eq!(share.stats().connections, 0);
    assert!(Peer::join(addr(&node), whole).await.is_some(), "no penalty for what came before");
    world.honest_get(addr(&node)).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_256_are_refused_by_name_and_the_others_are_answered() {
    // Blocks of 64 KiB, so that the socket cannot take 256 of them at once.
    let world = World::with_pieces_of(1 << 16, 258);
    let (node, _share) = world.seeder().await;
    let mine = register(&world.content, PeerId::numbered(2));
    let mut peer = Peer::join(addr(&node), mine).await.unwrap();
    let blocks: Vec<_> = (0..257).map(|n| raw(n, 0, 1 << 16)).collect();
    peer.wire.say(&Message::Request(blocks.clone())).await;
    let (mut refused, mut sent) = (0, 0);
    while refused + sent < blocks.len() {
        match peer.wire.next().await.expect("the link stays") {
            Frame::Control(Message::Refuse { blocks, reason: RefuseReason::TooMany }) => {
                assert_eq!(blocks, [raw(256, 0, 1 << 16)]);
                refused += blocks.len();
            }
            Frame::Block { header, payload } => {
                let asked = blocks[sent];
                assert_eq!(u64::from(header.piece), asked.piece);
                assert!(payload == world.content.block(asked));
                sent += 1;
            }
            _ => {}
        }
    }
    assert_eq!((refused, sent), (1, 256));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_choked_peer_gets_a_clear_refusal_and_not_a_byte_until_it_is_unchoked() {
    let world = World::new(12);
    let node = node_with(Slots::Fixed { regular: 1, optimistic: 0 }).await;
    let share = node.share(world.prepared(), &[]).await.unwrap();
    let join = |number| Peer::join(addr(&node), register(&world.content, PeerId::numbered(number)));
    let first = join(1).await.unwrap();
    let mut second = join(2).await.unwrap();
    assert!(first.theirs.unchoked && !second.theirs.unchoked);
    let block = raw(3, 0, u64::from(PIECE));
    second.wire.say(&Message::Request(vec![block])).await;
    let answer = second.wire.find(|frame| Some(frame.clone())).await.unwrap();
    let refusal = Message::Refuse { blocks: vec![block], reason: RefuseReason::Choked };
    assert!(matches!(answer, Frame::Control(message) if message == refusal));
    assert_eq!(share.stats().blocks_sent, 0);
    drop(first);
    let unchoked = |frame: &Frame| {
        assert!(!matches!(frame, Frame::Block { .. }), "a block while choked");
        matches!(frame, Frame::Control(Message::Unchoke)).then_some(())
    };
    second.wire.find(unchoked).await.expect("the free slot goes to who waits");
    second.wire.say(&Message::Request(vec![block])).await;
    let bytes = second
        .wire
        .find(|frame| match frame {
            Frame::Block { payload, .. } => Some(payload.clone()),
            _ => None,
        })
        .await;
    assert!(bytes.unwrap() == world.content.block(block));
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_silent_connections_keep_no_honest_peer_out() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(Wire::connect(addr(&node)).await);
    }
    world.honest_get(addr(&node)).await;
    // The oldest give way long before their five seconds are over.
    for wire in silent.iter_mut().take(100) {
        wire.ended().await;
    }
    drop(silent);
    world.honest_get(addr(&node)).await;
    nobody_is_linked(&share).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_drips_ends_after_five_seconds_and_holds_nobody_up() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let whole = frame(&register(&world.content, PeerId::numbered(2)).into_message());
    let mut slow = Wire::connect(addr(&node)).await;
    slow.write(&whole[..whole.len() / 2]).await;
    let started = Instant::now();
    world.honest_get(addr(&node)).await;
    assert!(started.elapsed() < Duration::from_secs(4));
    slow.ended().await;
    assert!(started.elapsed() < Duration::from_secs(8));
    nobody_is_linked(&share).await;
    node.shutdown().await;
}

#[test]
fn asking_for_everything_and_reading_nothing_costs_the_node_no_memory() {
    // In a process of its own, where no other test's memory counts.
    let test = "leechers::everything_is_asked_for_and_nothing_read";
    let status = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .status();
    assert!(status.unwrap().success());
}

/// Set in the environment of a process that runs the next test and no other.
const ALONE: &str = "MINIBIT_TEST_ALONE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_is_asked_for_and_nothing_read() {
    if env::var_os(ALONE).is_none() {
        return;
    }
    const PEERS: u64 = 16;
    let world = World::with_pieces_of(1 << 18, 16);
    let (node, share) = world.seeder().await;
    let before = anonymous_memory();
    let mut peers = Vec::new();
    for number in 0..PEERS {
        let mine = register(&world.content, PeerId::numbered(number));
        let mut peer = Peer::join(addr(&node), mine).await.unwrap();
        let blocks: Vec<_> = (0..256).map(|n| raw(n % 15, 0, 1 << 18)).collect();
        peer.wire.say(&Message::Request(blocks)).await;
        peers.push(peer);
    }
    // An honest peer is served meanwhile; the others' sockets are full by then.
    world.honest_get(addr(&node)).await;
    let asked = (PEERS * 256) << 18;
    assert!(share.stats().bytes_uploaded < asked / 2, "the kernel took it all: no test");
    let grown = anonymous_memory().saturating_sub(before);
    assert!(grown < 48 << 20, "{grown} bytes for {asked} asked and not read");
    until("the honest one is gone", || share.stats().links as u64 == PEERS).await;
    drop(peers);
    nobody_is_linked(&share).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_of_those_who_read_nothing_are_not_kept_from_others() {
    // There are five slots to begin with, and each of these would hold one for two seconds.
    const PEERS: usize = 90;
    // No kernel takes a whole piece.
    let world = World::with_pieces_of(1 << 23, 2);
    let (node, share) = world.seeder().await;
    let mut deaf = Vec::new();
    for number in 0..PEERS {
        let mine = register(&world.content, PeerId::numbered(number as u64));
        let mut peer = Peer::join(addr(&node), mine).await.unwrap();
        let blocks: Vec<_> = (0..32).map(|block| raw(0, block << 18, 1 << 18)).collect();
        peer.wire.say(&Message::Request(blocks)).await;
        deaf.push(peer);
    }
    until("all of them are here", || share.links().len() == PEERS).await;
    world.honest_get(addr(&node)).await;
    drop(deaf);
    node.shutdown().await;
}

/// Bytes of anonymous memory of this process.
fn anonymous_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().split(' ').next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_never_read_end_the_link() {
    let world = World::new(12);
    let node = node_with(Slots::Fixed { regular: 0, optimistic: 0 }).await;
    let share = node.share(world.prepared(), &[]).await.unwrap();
    let mine = register(&world.content, PeerId::numbered(2));
    let peer = Peer::join(addr(&node), mine).await.unwrap();
    let flood = request(vec![raw(0, 0, 1); 4000]);
    let mut from = 0;
    let flooding = async {
        loop {
            match peer.wire.try_write(&flood[from..]) {
                Ok(taken) => from = (from + taken) % flood.len(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err(_) => return,
            }
        }
    };
    timeout(PATIENCE, flooding).await.expect("the node closes");
    nobody_is_linked(&share).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_connections_that_claim_one_identity_the_first_stays() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let mine = register(&world.content, PeerId::numbered(2));
    let mut first = Peer::join(addr(&node), mine.clone()).await.unwrap();
    assert!(Peer::join(addr(&node), mine.clone()).await.is_none());
    assert!(first.wire.is_alive().await);
    assert_eq!(share.stats().links, 1);
    drop(first);
    nobody_is_linked(&share).await;
    assert!(Peer::join(addr(&node), mine).await.is_some(), "its place is free again");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_needs_the_links_key_and_its_identity() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let mine = register(&world.content, PeerId::numbered(2));
    let mut peer = Peer::join(addr(&node), mine.clone()).await.unwrap();
    let other_id = register(&world.content, PeerId::numbered(3));
    let wrong_key = Register { lane: Some(LaneKey([1; 16])), ..mine.clone() };
    for stranger in [other_id, wrong_key] {
        assert!(lane(addr(&node), &peer, &stranger).await.next().await.is_none());
    }
    let mut second = lane(addr(&node), &peer, &mine).await;
    assert!(second.is_alive().await, "a right one is answered");
    assert!(peer.wire.is_alive().await);
    assert_eq!(share.links()[0].lanes, 2);
    drop(second);
    until("the lane is gone", || share.links()[0].lanes == 1).await;
    assert!(peer.wire.is_alive().await, "a lane that ends does not end its link");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_on_a_lane_is_done_by_the_links_peer() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let pieces = u64::from(world.content.pieces());
    let over = vec![0; limits::BLOCK_LEN_MAX as usize + 1];
    let cases = [
        ("control", frame(&Message::Interested), Then::Closed),
        ("garbage", Bytes::from_static(&[0xff; 64]), Then::Closed),
        ("a request outside", request(vec![raw(pieces, 0, 1)]), Then::Banned),
        ("a block over its cap", block_frame(0, 0, &over), Then::Banned),
    ];
    for (number, (what, bytes, then)) in (50..).zip(cases) {
        let mine = register(&world.content, PeerId::numbered(number));
        let mut peer = Peer::join(addr(&node), mine.clone()).await.unwrap();
        let mut second = lane(addr(&node), &peer, &mine).await;
        second.write(&bytes).await;
        second.ended().await;
        peer.wire.ended().await;
        nobody_is_linked(&share).await;
        let again = Peer::join(addr(&node), mine).await;
        assert_eq!(again.is_none(), then == Then::Banned, "{what}");
        drop(again);
        nobody_is_linked(&share).await;
    }
    world.honest_get(addr(&node)).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_has_no_more_lanes_than_were_agreed() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let mine = Register { lanes_max: 3, ..register(&world.content, PeerId::numbered(2)) };
    let mut peer = Peer::join(addr(&node), mine.clone()).await.unwrap();
    let mut lanes = Vec::new();
    for _ in 1..3 {
        let mut wire = lane(addr(&node), &peer, &mine).await;
        assert!(wire.is_alive().await);
        lanes.push(wire);
    }
    assert!(lane(addr(&node), &peer, &mine).await.next().await.is_none(), "a fourth");
    assert!(peer.wire.is_alive().await);
    assert_eq!(share.links()[0].lanes, 3);
    drop(peer);
    for mut wire in lanes {
        wire.ended().await;
    }
    nobody_is_linked(&share).await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn news_that_names_the_share_over_and_over_in_one_message_is_not_worked_through() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let pieces = u64::from(world.content.pieces());
    for (number, lie) in [
        |runs| Message::Have {
            id: PeerId::numbered(60),
            holdings: minibit_core::wire::Holdings::News(runs),
        },
        |runs| Message::Withdraw(runs),
    ]
    .into_iter()
    .enumerate()
    {
        let mine = register(&world.content, PeerId::numbered(60 + number as u64));
        let mut peer = Peer::join(addr(&node), mine).await.unwrap();
        let runs = vec![Run { first: 0, count: pieces }; 5000];
        peer.wire.write(&repeated(&frame(&lie(runs)), 3)).await;
        peer.wire.ended().await;
        nobody_is_linked(&share).await;
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_node_says_so() {
    let world = World::new(4);
    let links = Caps { links_max: 2, ..Caps::default() };
    let node = Node::start(NodeConfig { links, ..config() }).await.unwrap();
    let _share = node.share(world.prepared(), &[]).await.unwrap();
    let mut neighbours = Vec::new();
    for number in 1..=2 {
        let mine = register(&world.content, PeerId::numbered(number));
        neighbours.push(Peer::join(addr(&node), mine).await.unwrap());
    }
    let mut late = Wire::connect(addr(&node)).await;
    late.say(&register(&world.content, PeerId::numbered(3)).into_message()).await;
    let answer = late.next().await;
    let full = Message::Goodbye { id: node.id(), reason: Some("full".into()) };
    assert_eq!(answer, Some(Frame::Control(full)));
    let options = GetOptions { patience: Duration::from_secs(1), ..into(&world.out()) };
    let ticket = world.ticket(&[addr(&node)]);
    let failed = super::world::node().await.get(&ticket, options).await.unwrap_err();
    assert!(failed.to_string().contains("it is full"), "{failed}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_banned_for_an_unreadable_frame_is_told_of_with_what_was_wrong() {
    let world = World::new(4);
    let (node, share) = world.seeder().await;
    let id = PeerId::numbered(1);
    let mut peer = Peer::join(addr(&node), register(&world.content, id)).await.unwrap();
    let too_long = limits::BLOCK_LEN_MAX + 1;
    let mut head = (13 + too_long).to_be_bytes().to_vec();
    head.push(1);
    head.extend([0, 0, too_long].iter().flat_map(|number: &u32| number.to_le_bytes()));
    peer.wire.write(&head).await;
    until("it is banned", || names_as_banned(&share, id)).await;
    let warnings = share.stats().warnings;
    let reason = "was banned: it sent what cannot be read: refused a frame: ";
    assert!(warnings.iter().any(|line| line.contains(reason)), "{warnings:?}");
    node.shutdown().await;
}
