//! The shell: sockets, timers, threads and the clock, around the values of the other modules.
//!
//! ```text
//! node       one identity, its listening sockets, its shares
//!   listener   connections from strangers: one frame, then to whom it names
//!   bootstrap  a ticket to a manifest       resume   what a download has already
//!     addresses  whom to try for it
//!   share      one share: its manager task and the user's handle
//!     dial       connecting and REGISTRO
//!     lane       one connection: payload between socket and file
//!       buffers    receive buffers           disk    where pieces wait for a slow disk
//!                                          holdup  whether it is slow
//!   tracker_server, tracker_client           the shells of `tracker`
//! local      connections within one machine
//! frames     whole frames from connections that are not hot
//! quiet      how many lines of a kind are logged each second
//! context    what these tasks share          stats   what users see of it
//! ```
//!
//! Invariant: what is to be done is decided by values elsewhere (`trade` above all); this module
//! carries it out. From when a disk counts as slow is the one threshold that lives here, since
//! it is about no peer. Nothing that may wait for a disk runs on a network task, except
//! writes that the page cache takes at once (see `disk`).

mod addresses;
mod bootstrap;
mod buffers;
mod context;
mod dial;
mod disk;
mod frames;
mod holdup;
mod lane;
mod listener;
mod local;
mod node;
mod quiet;
mod resume;
mod share;
mod stats;
mod tracker_client;
mod tracker_server;

pub use bootstrap::{BootstrapError, Tried};
pub use node::{
    Bound, Checking, FirstPieces, GetError, GetOptions, Node, NodeConfig, NodeError, Selection,
};
pub use share::{CompleteError, ShareHandle};
pub use stats::{LinkStats, ShareStats, TrackerStats};
