//! A swarm in virtual time: the shipping conduct of peers and of the tracker, over a model of a
//! network.
//!
//! ```text
//! scenario   what is simulated (varied: many)    report     what came of it
//! world      carries out what everybody decides, event by event
//!   lanes      the shell of a lane                 mail       dealings with the tracker
//!   faults     what goes wrong                     check      what must hold after every step
//! member     one peer                            ready      who has been woken
//! queue      what happens when                   uplink, pipe    rates, distance and order
//!                                                transit    what is on its way
//! ```
//!
//! No rule of the swarm is written here: [`trade`](crate::trade), [`tracker`](crate::tracker) and
//! what they are made of decide, exactly as they do behind the engine's sockets. What is
//! modelled: each peer's way out, shared equally by the blocks being sent; its way in; the time
//! that a message takes; the order of what goes over one connection, in which messages wait
//! behind the block that is being sent; connections that break, peers that crash, a network that
//! splits. What is not: packets, their loss, the bytes of control messages (so nobody says more than
//! he may: [`Chatter`](crate::peer::Chatter)), disks, hashing, the manifest's first transfer; a link has one lane.
//!
//! The same scenario, seed included, gives the same events ([`Report::events_hash`]).
//! Not here: what users see of it (`minibit simulate`).

mod check;
mod faults;
mod lanes;
mod mail;
mod member;
mod pipe;
mod queue;
mod ready;
mod report;
mod scenario;
mod transit;
mod uplink;
mod varied;
mod world;

pub use report::{MemberReport, Moment, Report, SlowCost};
pub use scenario::{Faults, Rates, Role, Scenario, Start};
pub use world::{World, run};
