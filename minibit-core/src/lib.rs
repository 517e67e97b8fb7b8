//! MiniBit's protocol, swarm and data path.
//!
//! Data flows one way, and the modules stand in that order:
//!
//! ```text
//! socket -> wire -> peer -> swarm -> trade -> (actions) -> engine -> store -> file
//! ```
//!
//! Everything up to `trade` is values: events, time and randomness go in, actions come out.
//! Only [`engine`] touches sockets, threads and the clock. See `ARCHITECTURE.md`.

pub mod types;

// Bytes to messages and back; no socket.
pub mod wire;

// Bytes to true or false; no file.
pub mod content;

// Who is in the swarm: the rules of both ends of an announce, as values.
pub mod tracker;

// One link: messages to facts.
pub mod peer;

// Many links: facts to decisions.
pub mod swarm;

// What one share does with its peers, decided in full.
#[cfg(not(loom))]
pub mod trade;

// A whole swarm of such peers in virtual time.
#[cfg(not(loom))]
pub mod sim;

// Pieces in files.
pub mod store;

// The shell: the only tokio, the only clock. Sockets cannot be model-checked.
#[cfg(not(loom))]
pub mod engine;
