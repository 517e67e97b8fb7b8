//! What one share does with its peers, decided in full: the conduct of lanes, links and slots.
//!
//! ```text
//! share     what all lanes of a share have in common        (atomics and short locks)
//! link      one link, as its lanes and the manager see it   (atomics)
//! manager   whom to dial, link, answer, tell                (a value)
//! busy      for how long anything was being sent          (atomics)
//! prefixes  what has come of pieces that nobody fetches     (a value)
//! lane      one connection                                  (a value)
//!   telling   what the peer must hear      asking    which blocks to ask it for
//!   hearing   what its messages bring      judging   what its bytes bring
//! ```
//!
//! `peer` knows what a message means and `swarm` what would be wise; here both are put together
//! to what a peer of the swarm does. Two shells carry it out: `engine` over sockets and files in
//! real time, `sim` over a model of a network in virtual time. So a rule exists once, and what
//! is shown in a simulated swarm is shown of what ships.
//!
//! Invariants: time and randomness are arguments; whoever is to act is woken through a
//! [`Waker`](std::task::Waker) or told through [`Signals`]; nothing here waits, but for short
//! locks.
//! Not here: bytes, sockets, files, the clock; what a message means (`peer`); the rules for
//! pieces, slots and neighbours themselves (`swarm`).

mod busy;
mod lane;
mod link;
mod manager;
mod prefixes;
mod share;
mod strangers;
#[cfg(test)]
mod testing;

pub use lane::{Lane, LaneEnd, MetadataWanted};
pub use link::{CloseReason, LaneStatus, Link, Wakers};
pub use manager::{Manager, NewLink, Told};
pub use prefixes::Origin;
pub use share::{Counters, Setup, Share, Signals};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks; a panic in another task does not make the data unusable here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
