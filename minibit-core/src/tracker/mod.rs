//! Who is in the swarm: the rules of both ends of an announce, as values.
//!
//! A peer keeps one connection to the tracker for each share. It registers, is told of some
//! peers at once, is told of newcomers as they come, and announces itself now and then, which
//! brings it fresh peers and tells the tracker that it lives. The tracker keeps nothing that
//! its peers do not tell it again within seconds of a restart.
//!
//! ```text
//! registry.rs   the tracker's end: who is listed, who is told of whom, who is dropped
//! crowd.rs      the peers of a share, and samples that no one address can fill
//! sample.rs     fair samples without a walk over everybody
//! announcer.rs  the peer's end: when to connect, announce, give up and try again
//! ```
//!
//! Invariant: nobody is ever told of itself, and no registration or list is unbounded.
//!
//! Not here: sockets and the clock (`engine` has the shells); whom a peer then dials (`swarm`).

mod announcer;
mod crowd;
mod registry;
mod sample;

pub use announcer::{Announcer, Step};
pub use registry::{Action, CloseReason, ConnId, Input, Mode, Registry, Rules, Summary};
