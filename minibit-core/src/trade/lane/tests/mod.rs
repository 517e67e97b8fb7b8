//! The conduct of one lane, a rule at a time; what a lane must do is in the modules.
//!
//! ```text
//! asking     what it asks for                    dealt      what a seeder deals out, on both sides
//! waiting    when it gives up what is to come    late       what comes though it was given up
//! left       what it leaves behind               judging    pieces that prove right or wrong
//! telling    what it says, and when it listens   slots      who keeps one
//! ```
//!
//! Not here: the rules by themselves, which have their tests where they are (`peer`, `swarm`).

mod asking;
mod dealt;
mod judging;
mod late;
mod left;
mod slots;
mod telling;
mod waiting;

use std::task::Waker;

use super::super::testing::Setting;
use super::*;
use crate::swarm::{Caps, Holdings, Slots};
use crate::wire::{BlockHeader, RawBlock};

/// A link to a seeder that has dialled us: nothing tells how far it is.
fn link() -> (Arc<Share>, Arc<Link>) {
    let (share, mut links) = links(1);
    (share, links.remove(0))
}

/// So many of them.
fn links(count: u64) -> (Arc<Share>, Vec<Arc<Link>>) {
    let mut setting = Setting::new(false, Caps::default(), Slots::default());
    let join = |number| setting.join(Duration::ZERO, number, true).unwrap();
    let links = (2..2 + count).map(join).collect();
    (setting.share, links)
}

fn first_lane(share: &Arc<Share>, link: &Arc<Link>) -> Lane {
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(3));
    link.choked.store(false, Relaxed);
    Lane::new(Arc::clone(share), Arc::clone(link), true, Duration::ZERO, waker, rng)
}

/// A lane of a link that answers, which has asked for something; and the block that comes first.
fn asking(share: &Arc<Share>, link: &Arc<Link>) -> (Lane, BlockSpan) {
    let (share, link) = (Arc::clone(share), Arc::clone(link));
    link.choked.store(false, Relaxed);
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    let mut lane = Lane::new(share, link, false, Duration::ZERO, waker, rng);
    lane.ask(Duration::ZERO);
    let asked = lane.take_messages().into_iter().find_map(|message| match message {
        Message::Request(blocks) => Some(blocks[0]),
        _ => None,
    });
    let first = asked.expect("it asks");
    let span = lane.share.geometry.block(first.piece, first.offset, first.len);
    (lane, span.expect("a block of the share"))
}

fn new_hasher() -> PieceHasher {
    let (share, _) = link();
    PieceHasher::new(&share.geometry, share.geometry.piece(0).unwrap())
}

/// So many bytes of the block come.
fn comes(lane: &mut Lane, span: BlockSpan, len: u32) {
    assert!(lane.begin_block(span, new_hasher));
    assert!(lane.take_in(span.piece(), len).is_some());
}

/// All pieces but this one are here already.
fn all_but(share: &Share, link: &Link, kept: PieceIndex) {
    let is_missing = |piece: &PieceIndex| *piece != kept && !share.ledger.have(*piece);
    for piece in share.geometry.pieces().filter(is_missing) {
        if let Some(owner) = share.ledger.owner(piece) {
            share.ledger.release(piece, owner);
        }
        let other = share.ledger.new_lane();
        assert!(share.ledger.claim_this(&link.holdings, other, piece));
        share.ledger.verified(piece, other);
    }
}

/// A piece of which the first link has sent the beginning and the second the rest turns out wrong.
fn spoil(share: &Arc<Share>, first: &Arc<Link>, second: &Arc<Link>) -> PieceIndex {
    let (mut lost, span) = asking(share, first);
    comes(&mut lost, span, 5000);
    drop(lost);
    let (mut next, rest) = asking(share, second);
    comes(&mut next, rest, rest.len());
    let (_, origin) = next.end_piece(rest.piece()).unwrap();
    next.on_wrong_piece(rest.piece(), &origin, Duration::ZERO);
    rest.piece()
}
