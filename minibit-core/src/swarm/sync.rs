//! Where the swarm's atomics come from: `std`, or loom when the orderings are being checked.
//!
//! Invariant: no other file of this module imports an atomic.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
