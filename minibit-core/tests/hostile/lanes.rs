//! Pieces that a lane gives up in the middle of a block, and that come back to it.
//!
//! Meanwhile another lane has written wrong bytes into them. Whatever of the old attempt still
//! arrives must not end the new one: its hash is right, and the file is not.

use minibit_core::engine::{Node, ShareHandle};
use minibit_core::types::PeerId;
use minibit_core::wire::{Frame, Message, RawBlock, RefuseReason, Register, Run};

use super::holder::{Holder, Script, help};
use super::scripted::{Peer, Wire, block_frame, lane, register};
use super::world::{Content, World, addr, node, until};

const BLOCK: u32 = 16 * 1024;
/// Blocks of the one piece.
const BLOCKS: u64 = 64;

/// A download of one piece that nobody serves yet.
struct Target {
    world: World,
    receiver: Node,
    share: ShareHandle,
    /// It gave the manifest.
    _giver: Holder,
}

impl Target {
    async fn new() -> Self {
        let world = World::with_pieces_of(BLOCK * BLOCKS as u32, 1);
        let giver = Script::with_nothing(PeerId::numbered(1));
        let giver = Holder::start(&world.content, giver).await;
        let receiver = node().await;
        let share = world.start(&receiver, &world.ticket(&[giver.addr])).await;
        Self { world, receiver, share, _giver: giver }
    }

    fn seeder(&self, number: u64) -> Register {
        Register {
            complete: true,
            unchoked: true,
            block_max: BLOCK,
            ..register(&self.world.content, PeerId::numbered(number))
        }
    }

    /// Waits until at least that many blocks have been received whole.
    async fn has_received(&self, blocks: u64) {
        let bytes = blocks * u64::from(BLOCK);
        until("the blocks are here", || self.share.stats().bytes_downloaded >= bytes).await;
    }

    /// Somebody else is asked for the piece, spoils it, and has nothing more of it.
    async fn is_spoilt_by_a_stranger(&self) -> Peer {
        let mut stranger = Peer::join(addr(&self.receiver), self.seeder(3)).await.unwrap();
        let blocks = asked(&mut stranger.wire).await;
        stranger.wire.say(&Message::Withdraw(vec![Run { first: 0, count: 1 }])).await;
        spoil(&mut stranger.wire, &self.world.content, &blocks, RefuseReason::NotHeld).await;
        stranger
    }

    /// The piece has come back to its first owner, from which the rest of the old block comes
    /// now. That must not count; then an honest peer finishes the download.
    async fn begins_anew(self, mut owner: Owner, rest: &[u8]) {
        owner.asked().await;
        assert!(owner.wire().write(rest).await);
        assert!(owner.wire().is_alive().await, "what it sent was asked for once");
        let stats = self.share.stats();
        assert_eq!((stats.pieces_have, stats.bytes_have), (0, 0), "on record with wrong bytes");
        drop(owner);
        let helper = help(&self.world.content, addr(&self.receiver), PeerId::numbered(7));
        self.world.check(&self.share).await;
        helper.abort();
        self.receiver.shutdown().await;
    }
}

/// The blocks of the next PEDIDO.
async fn asked(wire: &mut Wire) -> Vec<RawBlock> {
    let request = |frame: &Frame| match frame {
        Frame::Control(Message::Request(blocks)) => Some(blocks.clone()),
        _ => None,
    };
    wire.find(request).await.expect("the link stays")
}

async fn refuse(wire: &mut Wire, blocks: Vec<RawBlock>, reason: RefuseReason) {
    wire.say(&Message::Refuse { blocks, reason }).await;
}

fn right(content: &Content, block: RawBlock) -> Vec<u8> {
    block_frame(block.piece as u32, block.offset as u32, &content.block(block)).to_vec()
}

/// Sends a wrong block, where the node begins or goes on, and refuses the others. Returns once that has been understood.
async fn spoil(wire: &mut Wire, content: &Content, blocks: &[RawBlock], reason: RefuseReason) {
    let wrong: Vec<u8> = content.block(blocks[0]).iter().map(|byte| !byte).collect();
    wire.write(&block_frame(0, blocks[0].offset as u32, &wrong)).await;
    if blocks.len() > 1 {
        refuse(wire, blocks[1..].to_vec(), reason).await;
    }
    assert!(wire.is_alive().await);
}

/// The peer that is asked for the piece first, on the last of its connections.
struct Owner {
    first: Peer,
    second: Option<Wire>,
}

impl Owner {
    async fn with_one_lane(target: &Target) -> Self {
        let first = Peer::join(addr(&target.receiver), target.seeder(2)).await.unwrap();
        Self { first, second: None }
    }

    async fn with_two_lanes(target: &Target) -> Self {
        let mut owner = Self::with_one_lane(target).await;
        let at = addr(&target.receiver);
        owner.second = Some(lane(at, &owner.first, &target.seeder(2)).await);
        owner
    }

    /// Where the piece is asked for.
    fn wire(&mut self) -> &mut Wire {
        self.second.as_mut().unwrap_or(&mut self.first.wire)
    }

    /// The next PEDIDO there. With two lanes the first refuses what it is asked for, and is
    /// left alone for a while.
    async fn asked(&mut self) -> Vec<RawBlock> {
        let first = &mut self.first.wire;
        let Some(second) = &mut self.second else { return asked(first).await };
        loop {
            tokio::select! {
                blocks = asked(second) => return blocks,
                blocks = asked(first) => refuse(first, blocks, RefuseReason::TooMany).await,
            }
        }
    }

    /// Sends the piece up to its last blocks, and returns these.
    async fn send_all_but(&mut self, last: u64, content: &Content) -> Vec<RawBlock> {
        let kept_from = (BLOCKS - last) * u64::from(BLOCK);
        let mut kept = Vec::new();
        while kept.len() < last as usize {
            for block in self.asked().await {
                if block.offset >= kept_from {
                    kept.push(block);
                } else {
                    assert!(self.wire().write(&right(content, block)).await);
                }
            }
        }
        kept
    }

    /// Sends the piece but for the second half of its last block, and returns that half. The
    /// node is in the middle of the block then.
    async fn send_all_but_half_a_block(&mut self, target: &Target) -> Vec<u8> {
        let content = &target.world.content;
        let last = self.send_all_but(2, content).await;
        target.has_received(BLOCKS - 2).await;
        // In one piece, so that with the end of the last but one the last has begun.
        let mut bytes = [right(content, last[0]), right(content, last[1])].concat();
        let rest = bytes.split_off(bytes.len() - BLOCK as usize / 2);
        assert!(self.wire().write(&bytes).await);
        target.has_received(BLOCKS - 1).await;
        rest
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_choked_in_the_middle_of_a_block_begins_anew_when_it_comes_back() {
    let target = Target::new().await;
    let mut owner = Owner::with_two_lanes(&target).await;
    let rest = owner.send_all_but_half_a_block(&target).await;
    owner.first.wire.say(&Message::Choke).await;
    let _stranger = target.is_spoilt_by_a_stranger().await;
    target.has_received(BLOCKS).await;
    owner.first.wire.say(&Message::Unchoke).await;
    target.begins_anew(owner, &rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_taken_over_in_the_middle_of_a_block_begins_anew_when_it_comes_back() {
    let target = Target::new().await;
    let mut owner = Owner::with_two_lanes(&target).await;
    let rest = owner.send_all_but_half_a_block(&target).await;
    // For want of progress the other lane of the same link tries it.
    let first = &mut owner.first.wire;
    let blocks = asked(first).await;
    spoil(first, &target.world.content, &blocks, RefuseReason::TooMany).await;
    target.begins_anew(owner, &rest).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_given_up_for_silence_in_the_middle_of_a_block_begins_anew_when_it_comes_back() {
    let target = Target::new().await;
    let mut owner = Owner::with_one_lane(&target).await;
    let rest = owner.send_all_but_half_a_block(&target).await;
    let cancelled =
        |frame: &Frame| matches!(frame, Frame::Control(Message::Cancel(_))).then_some(());
    owner.wire().find(cancelled).await.expect("the link stays");
    let _stranger = target.is_spoilt_by_a_stranger().await;
    target.begins_anew(owner, &rest).await;
}

/// On one thread, so that the node sees nothing of what is done between two waits.
#[tokio::test]
async fn what_came_on_a_lane_before_its_peer_was_seen_to_leave_still_counts() {
    let target = Target::new().await;
    let content = &target.world.content;
    let mut owner = Owner::with_two_lanes(&target).await;
    let last = owner.send_all_but(2, content).await;
    target.has_received(BLOCKS - 2).await;
    let bytes = [right(content, last[0]), right(content, last[1])].concat();
    // The end of the link is what the node hears first of the two.
    let Owner { first, second } = owner;
    drop(first);
    let second = second.unwrap();
    assert_eq!(second.try_write(&bytes).unwrap(), bytes.len());
    target.world.check(&target.share).await;
    target.receiver.shutdown().await;
}
