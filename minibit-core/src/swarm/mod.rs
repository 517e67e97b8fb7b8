//! Many links: what the whole swarm holds, and what we do about it.
//!
//! ```text
//! holdings    what one peer holds            (atomic, shared by that link's connections)
//! ledger      state and rarity of each piece (atomic, shared by every connection)
//!   cell        one piece in one word
//!   bits        a bitmap that can be searched fast while it changes
//!   news        the pieces we came to hold, in order
//!   picker      which pieces to ask a peer for
//!   relief      when to spare a seeder
//! guide       what a seeder has each peer fetch  (a value)
//! choker      whom we answer                 (a value: time and randomness come in)
//!   slots       how many at a time
//!   slack       whether the link has room for more
//!   standing    what a peer has shown of whether it gives
//!   past        what passed with peers that were here before
//! neighbours  whom we link to                (a value: time and randomness come in)
//!   caps        how many of them
//!   dialling    whom to dial, and when
//!   book        the addresses we know
//!   bans        whom we refuse
//!   places      who makes room for others
//!   waiting     who has it
//! ```
//!
//! Invariant: nothing here waits. Links on any core report and claim through atomics, so no
//! link can hold up another.
//! Not here: sockets, files, the clock. All atomics come from `sync`, so that loom can stand
//! in for them.

mod bans;
mod bits;
mod book;
mod cell;
mod choker;
mod guide;
mod holdings;
mod ledger;
mod neighbours;
mod news;
mod past;
mod picker;
mod places;
mod relief;
mod slack;
mod slots;
mod standing;
mod sync;
mod waiting;

#[cfg(loom)]
#[cfg(test)]
mod loom_models;

// For `engine`, which is not there under loom.
pub use book::{KnownPeer, Source};
#[cfg(not(loom))]
pub(crate) use book::{PER_IP_MAX, block_of, may_name};
pub use cell::LaneId;
pub(crate) use choker::TAKER_PART;
pub use choker::{ChokePolicy, Choker, LinkId, MovesByRound, PeerView, ROUND, Sent, Slots};
pub use guide::Guide;
pub use holdings::Holdings;
pub use ledger::{Ledger, WriteLease};
pub use neighbours::{Caps, Direction, Ending, Greeting, Neighbours, Refusal, Verdict};
pub use past::{Past, Pasts, Recent};
pub use picker::{PickOrder, Picking};
pub use places::{Occupant, giving_way};
pub use relief::leave_to_others;
pub use standing::Standing;
pub use waiting::knock_again_after;

/// A share of that many pieces.
#[cfg(test)]
fn share_of(pieces: u32) -> std::sync::Arc<crate::types::Geometry> {
    use crate::types::{Geometry, PieceSize};
    let size = PieceSize::new(16384).expect("a valid size");
    std::sync::Arc::new(Geometry::new(size, [u64::from(pieces) * 16384]).expect("a valid share"))
}
