//! Rules that a transfer survives without: a node that forgot them would still bring every byte.
//!
//! The other sides are honest here. They see from outside that the node asks for the rarest
//! piece first, answers those whom its policy says, dials whom a tracker pushes, says goodbye,
//! and parts with the silent. Seconds pass at once ([`pass`]): nobody waits for a round.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use minibit_core::content::Ticket;
use minibit_core::engine::{FirstPieces, GetOptions, Node, NodeConfig, ShareHandle};
use minibit_core::swarm::{ChokePolicy, ROUND, Slots};
use minibit_core::types::{PeerId, PieceIndex, PieceSet};
use minibit_core::wire::{Frame, Message, MetadataHeader, PeerAddr, RawBlock, Register};
use tokio::net::TcpListener;
use tokio::time::{Instant, advance, pause, resume, timeout};

use super::holder::{Holder, Script};
use super::scripted::{Peer, Wire, bitmap, block_frame, metadata_frame, news, register};
use super::world::{Content, PATIENCE, PIECE, World, addr, config, into, loopback, node, until};

/// One slot, and no chance in who has it.
const ONE_SLOT: Slots = Slots::Fixed { regular: 1, optimistic: 0 };

/// Lets so much time pass at once, for the node and the test alike.
async fn pass(time: Duration) {
    pause();
    advance(time).await;
    resume();
}

/// Holds everything and answers nobody: it gives the manifest, and is in nobody's way.
async fn giver(world: &World) -> Holder {
    let register = |mine: &mut Register| mine.unchoked = false;
    let script = Script { register: Box::new(register), ..Script::honest(PeerId::numbered(99)) };
    Holder::start(&world.content, script).await
}

/// A neighbour of the node.
struct Neighbour {
    id: PeerId,
    wire: Wire,
    content: Arc<Content>,
    /// What the node's REGISTRO promised.
    unchoked: bool,
}

impl Neighbour {
    /// A peer with these pieces, which are known once this returns. It answers only if `gives`.
    async fn join(world: &World, node: &Node, number: u64, pieces: &[u32], gives: bool) -> Self {
        let mut held = PieceSet::empty(world.content.pieces());
        for piece in pieces {
            held.insert(piece_of(world, *piece));
        }
        let complete = held.is_full();
        let id = PeerId::numbered(number);
        let mine = Register { complete, unchoked: gives, ..register(&world.content, id) };
        let Peer { mut wire, theirs } = Peer::join(addr(node), mine).await.unwrap();
        if !complete && !held.is_empty() {
            wire.say(&bitmap(id, held.to_wire())).await;
        }
        let content = Arc::clone(&world.content);
        let unchoked = theirs.unchoked;
        let mut joined = Self { id, wire, content, unchoked };
        if !gives {
            // Its first answer comes after it has read all that was sent before.
            assert!(joined.wire.is_alive().await);
        }
        joined
    }

    async fn say(&mut self, message: Message) {
        assert!(self.wire.say(&message).await);
    }

    /// Fetches a block of a piece that the node has; false if the node chokes it instead.
    async fn takes(&mut self, piece: u32) -> bool {
        let block = RawBlock { piece: piece.into(), offset: 0, len: PIECE.into() };
        self.say(Message::Request(vec![block])).await;
        let answer = self.wire.find(|frame| match frame {
            Frame::Block { .. } => Some(true),
            Frame::Control(Message::Choke) => Some(false),
            _ => None,
        });
        answer.await.expect("the link stays")
    }

    /// Serves what it is asked for until the node says something that `pick` picks. `None`
    /// once the node has closed.
    async fn serve<T>(&mut self, mut pick: impl FnMut(&Message) -> Option<T>) -> Option<T> {
        let serving = async {
            loop {
                let Frame::Control(message) = self.wire.next().await? else { continue };
                match &message {
                    Message::Request(blocks) => self.give(blocks).await,
                    Message::RequestMetadata { pages, .. } => {
                        for page in pages {
                            let bytes = self.content.hashes.page(*page).unwrap();
                            let header = MetadataHeader::page(*page, bytes.len() as u32);
                            self.wire.write(&metadata_frame(header, &bytes)).await;
                        }
                    }
                    _ => {}
                }
                if let Some(picked) = pick(&message) {
                    return Some(picked);
                }
            }
        };
        timeout(PATIENCE, serving).await.expect("the node never says it")
    }

    async fn give(&mut self, blocks: &[RawBlock]) {
        for block in blocks {
            let bytes = self.content.block(*block);
            let frame = block_frame(block.piece as u32, block.offset as u32, &bytes);
            self.wire.write(&frame).await;
        }
    }

    /// Serves until so many pieces are on record as fetched.
    async fn give_until(&mut self, share: &ShareHandle, pieces: u64) {
        tokio::select! {
            end = self.serve(|_| None::<()>) => panic!("the link ended: {end:?}"),
            () = until("they are here", || share.stats().pieces_fetched >= pieces) => {}
        }
    }

    /// Waits for one message; without a word of its kind the test fails.
    async fn hears(&mut self, wanted: Message) {
        let heard = self.serve(|message| (*message == wanted).then_some(())).await;
        assert!(heard.is_some(), "closed, and never said {wanted:?}");
    }
}

fn piece_of(world: &World, piece: u32) -> PieceIndex {
    world.content.geometry().piece(piece).unwrap()
}

/// A node with one slot and this policy that downloads, and of which nobody has a slot yet.
async fn downloader(world: &World, policy: ChokePolicy) -> (Node, ShareHandle, Holder) {
    downloader_with(world, policy, &[]).await
}

/// The same, and it begins with these pieces.
async fn downloader_with(
    world: &World,
    policy: ChokePolicy,
    here: &[u32],
) -> (Node, ShareHandle, Holder) {
    let giver = giver(world).await;
    let node = Node::start(NodeConfig { slots: ONE_SLOT, policy, ..config() }).await.unwrap();
    let options =
        GetOptions { first_pieces: Some(first_pieces(world, here)), ..into(&world.out()) };
    let share = node.get(&world.ticket(&[giver.addr]), options).await.unwrap();
    (node, share, giver)
}

fn first_pieces(world: &World, here: &[u32]) -> FirstPieces {
    let have: Vec<_> = here.iter().map(|piece| piece_of(world, *piece)).collect();
    let pieces = move |manifest: &minibit_core::content::Manifest| {
        let mut set = PieceSet::empty(manifest.geometry().piece_count());
        have.iter().for_each(|piece| assert!(set.insert(*piece)));
        set
    };
    FirstPieces { pieces: Box::new(pieces), from: Arc::new(world.prepared().store) }
}

// ---- rarest first ----

/// Pieces 0..4 are here already; so the first ones at random are over.
const HERE: [u32; 4] = [0, 1, 2, 3];

/// In which order a node asks one peer for what it has, while two others have some of it and
/// answer nobody. `first` holds everything from piece 4 on, and maybe the rest.
async fn asked_in_order(first: &[u32], second: &[u32], third: &[u32]) -> Vec<u64> {
    let world = World::new(40);
    let (giver, receiver) = (giver(&world).await, node().await);
    let first_pieces = Some(first_pieces(&world, &HERE));
    let options = GetOptions { first_pieces, ..into(&world.out()) };
    let share = receiver.get(&world.ticket(&[giver.addr]), options).await.unwrap();
    assert_eq!(share.stats().pieces_have, HERE.len() as u32);

    let mut asked = Neighbour::join(&world, &receiver, 1, first, false).await;
    let _second = Neighbour::join(&world, &receiver, 2, second, false).await;
    let _third = Neighbour::join(&world, &receiver, 3, third, false).await;
    asked.say(Message::Unchoke).await;
    let mut order = Vec::new();
    while order.len() < 36 {
        let request = |message: &Message| match message {
            Message::Request(blocks) => Some(blocks.clone()),
            _ => None,
        };
        let blocks = asked.serve(request).await.expect("the link stays");
        order.extend(blocks.iter().map(|block| block.piece));
    }
    world.check(&share).await;
    receiver.shutdown().await;
    order
}

/// Pieces 4..40 in three steps: from 28 on one holder, from 16 on two, before that three.
async fn asked_by_rarity(first: Vec<u32>) {
    let (second, third): (Vec<_>, Vec<_>) = ((4..28).collect(), (4..16).collect());
    let order = asked_in_order(&first, &second, &third).await;
    let holders = |piece: &u64| match piece {
        28.. => 1,
        16..28 => 2,
        _ => 3,
    };
    let rarity: Vec<_> = order.iter().map(holders).collect();
    assert!(rarity.is_sorted(), "asked for {order:?}");
}

#[tokio::test]
async fn a_peer_is_asked_first_for_what_only_it_holds_and_last_for_what_all_hold() {
    asked_by_rarity((4..40).collect()).await;
}

#[tokio::test]
async fn a_seeder_is_asked_first_for_what_no_other_peer_holds() {
    asked_by_rarity((0..40).collect()).await;
}

// ---- whom to answer ----

#[tokio::test]
async fn the_slot_moves_in_a_round_to_the_peer_that_gives() {
    let world = World::new(20);
    let (node, share, _giver) = downloader(&world, ChokePolicy::Contribution).await;
    // It holds more and is here first, and gives nothing.
    let held: Vec<_> = (0..12).collect();
    let mut takes = Neighbour::join(&world, &node, 1, &held, false).await;
    let mut gives = Neighbour::join(&world, &node, 2, &[16, 17, 18], true).await;
    assert!(takes.unchoked && !gives.unchoked);
    gives.give_until(&share, 3).await;
    pass(ROUND).await;
    gives.hears(Message::Unchoke).await;
    takes.hears(Message::Choke).await;
    node.shutdown().await;
}

#[tokio::test]
async fn by_rarity_the_slot_moves_to_who_holds_what_is_missing_whoever_gave() {
    let world = World::new(20);
    let (node, share, _giver) = downloader(&world, ChokePolicy::Rarity).await;
    let mut gave = Neighbour::join(&world, &node, 1, &[0, 1, 2], true).await;
    gave.give_until(&share, 3).await;
    let mut rare = Neighbour::join(&world, &node, 2, &[16, 17, 18], false).await;
    assert!(gave.unchoked && !rare.unchoked);
    pass(ROUND).await;
    rare.hears(Message::Unchoke).await;
    gave.hears(Message::Choke).await;
    node.shutdown().await;
}

#[tokio::test]
async fn a_peer_that_owes_every_block_it_was_asked_for_loses_its_slot() {
    let world = World::new(20);
    let here = [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15];
    let (node, share, _giver) = downloader_with(&world, ChokePolicy::Contribution, &here).await;
    let mut owes = Neighbour::join(&world, &node, 1, &[4, 5, 6], true).await;
    // It has given, so it is not one that only takes: of those the slot would move at once.
    owes.give_until(&share, 3).await;
    owes.say(news(owes.id, 7, 1)).await;
    let asked = |frame: &Frame| matches!(frame, Frame::Control(Message::Request(_))).then_some(());
    owes.wire.find(asked).await.expect("it is asked");
    let mut waits = Neighbour::join(&world, &node, 2, &[16, 17, 18], false).await;
    assert!(owes.unchoked && !waits.unchoked);
    // It uses its slot all the time, and not for the same again: it is not for that that the slot
    // moves.
    let mut seconds = 0;
    while seconds < here.len() && owes.takes(here[seconds]).await {
        pass(Duration::from_secs(1)).await;
        seconds += 1;
    }
    assert!((3..here.len()).contains(&seconds), "after {seconds} s");
    waits.hears(Message::Unchoke).await;
    node.shutdown().await;
}

#[tokio::test]
async fn a_slot_that_is_not_used_goes_to_one_that_waits() {
    let world = World::new(12);
    let node = Node::start(NodeConfig { slots: ONE_SLOT, ..config() }).await.unwrap();
    let _share = node.share(world.prepared(), &[]).await.unwrap();
    let mut idle = Neighbour::join(&world, &node, 1, &[], false).await;
    let mut waits = Neighbour::join(&world, &node, 2, &[], false).await;
    assert!(idle.unchoked && !waits.unchoked);
    pass(Duration::from_secs(3)).await;
    waits.hears(Message::Unchoke).await;
    idle.hears(Message::Choke).await;
    node.shutdown().await;
}

#[tokio::test]
async fn a_node_that_has_it_all_answers_everybody_in_turn() {
    let world = World::new(12);
    let node = Node::start(NodeConfig { slots: ONE_SLOT, ..config() }).await.unwrap();
    let _share = node.share(world.prepared(), &[]).await.unwrap();
    let mut first = Neighbour::join(&world, &node, 1, &[], false).await;
    let mut second = Neighbour::join(&world, &node, 2, &[], false).await;
    assert!(first.unchoked && !second.unchoked);
    for _ in 0..3 {
        pass(ROUND).await;
        second.hears(Message::Unchoke).await;
        first.hears(Message::Choke).await;
        for neighbour in [&mut first, &mut second] {
            neighbour.say(Message::KeepAlive).await;
            assert!(neighbour.wire.is_alive().await);
        }
        std::mem::swap(&mut first, &mut second);
    }
    node.shutdown().await;
}

#[tokio::test]
async fn who_wants_nothing_more_makes_room_at_once() {
    let world = World::new(12);
    for full in [false, true] {
        let node = Node::start(NodeConfig { slots: ONE_SLOT, ..config() }).await.unwrap();
        let _share = node.share(world.prepared(), &[]).await.unwrap();
        let mut first = Neighbour::join(&world, &node, 1, &[], false).await;
        let mut second = Neighbour::join(&world, &node, 2, &[], false).await;
        assert!(first.unchoked && !second.unchoked);
        let whole = news(first.id, 0, world.content.pieces().into());
        first.say(if full { whole } else { Message::NotInterested }).await;
        let heard = timeout(ROUND / 2, second.hears(Message::Unchoke)).await;
        heard.expect("not only in the next round");
        node.shutdown().await;
    }
}

// ---- trackers, goodbyes, silence ----

/// A tracker's side of one registration.
struct Registered {
    wire: Wire,
    by: PeerId,
}

impl Registered {
    async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut wire = Wire::new(stream);
        let by = wire.registered().await.unwrap().id;
        wire.say(&Message::PeerList { peers: vec![], interval: 300 }).await;
        Self { wire, by }
    }

    async fn hears_goodbye(mut self) {
        let by = self.by;
        let goodbye = move |frame: &Frame| is_goodbye(frame, by).then_some(());
        let heard = timeout(PATIENCE, self.wire.find(goodbye)).await.unwrap();
        assert!(heard.is_some(), "left without a word");
    }
}

fn is_goodbye(frame: &Frame, by: PeerId) -> bool {
    matches!(frame, Frame::Control(Message::Goodbye { id, .. }) if *id == by)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

#[tokio::test]
async fn a_peer_that_a_tracker_pushes_to_a_running_download_is_dialled() {
    let world = World::new(12);
    let (seeder, _sharing) = world.seeder().await;
    let (giver, receiver) = (giver(&world).await, node().await);
    let (listener, at) = listener().await;
    let ticket = Ticket::new(world.content.share(), vec![at], vec![giver.addr]).unwrap();
    let (share, mut tracker) =
        tokio::join!(world.start(&receiver, &ticket), Registered::accept(&listener));
    let there = addr(&seeder);
    let pushed = PeerAddr { id: seeder.id(), ip: there.ip(), port: there.port() };
    tracker.wire.say(&Message::NewPeer(pushed)).await;
    world.check(&share).await;
    receiver.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test]
async fn who_leaves_says_goodbye_to_its_neighbours_and_its_tracker() {
    let world = World::new(12);
    for whole_node in [false, true] {
        let (listener, at) = listener().await;
        let node = node().await;
        let id = node.id();
        let share = node.share(world.prepared(), &[at]).await.unwrap();
        let tracker = Registered::accept(&listener).await;
        let mut neighbour = Neighbour::join(&world, &node, 1, &[], false).await;
        if whole_node {
            node.shutdown().await;
        } else {
            share.stop().await;
        }
        let goodbye = move |frame: &Frame| is_goodbye(frame, id).then_some(());
        let heard = timeout(PATIENCE, neighbour.wire.find(goodbye)).await.unwrap();
        assert!(heard.is_some(), "left without a word");
        tracker.hears_goodbye().await;
    }
}

#[tokio::test]
async fn a_peer_silent_for_fifteen_seconds_is_parted_with_and_not_before() {
    let world = World::new(12);
    let (node, share) = world.seeder().await;
    let mut mute = Neighbour::join(&world, &node, 1, &[], false).await;
    pass(Duration::from_secs(13)).await;
    mute.hears(Message::KeepAlive).await;
    assert_eq!(share.stats().links, 1);
    pass(Duration::from_secs(3)).await;
    mute.wire.ended().await;
    until("it is a link no more", || share.stats().links == 0).await;
    node.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_tried_again_each_second_by_a_member_of_the_swarm_that_has_nothing_else() {
    let world = World::new(4);
    let of_no_use = Holder::start(&world.content, Script::with_nothing(PeerId::numbered(2))).await;
    let full = TcpListener::bind(loopback()).await.unwrap();
    let node = node().await;
    let ticket = world.ticket(&[of_no_use.addr, full.local_addr().unwrap()]);
    let _share = world.start(&node, &ticket).await;
    let mut dialled = Vec::new();
    for _ in 0..12 {
        let (stream, _) = timeout(PATIENCE, full.accept()).await.expect("it gives up").unwrap();
        dialled.push(Instant::now());
        let mut wire = Wire::new(stream);
        wire.registered().await.unwrap();
        let reason = Some("full".into());
        wire.say(&Message::Goodbye { id: PeerId::numbered(1), reason }).await;
        wire.ended().await;
    }
    // At first it does not know that the other has nothing for it.
    let gaps: Vec<_> = dialled.windows(2).map(|pair| pair[1] - pair[0]).skip(4).collect();
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(2)), "{gaps:?}");
    node.shutdown().await;
}
