//! Whole swarms of real processes over real loopback sockets: what a user can rely on.
//!
//! Every test has a directory of its own, listens on ports of the system's choice, waits for
//! what it needs to see (a line, an event, an end) and never for time to pass, and ends every
//! process it started. How each row of the mission is covered stands in `docs/mission.md`.

mod common;
mod journal;
mod relay;
#[cfg(target_os = "linux")]
mod slow_disk;
#[cfg(target_os = "linux")]
mod terminal;

mod demo;
#[cfg(target_os = "linux")]
mod disks;
mod exits;
mod mission;
mod names;
#[cfg(target_os = "linux")]
mod progress;
mod resume;
#[cfg(target_os = "linux")]
mod screen;
mod settings;
mod simulate;
mod swarm;
mod tracker;
mod transfer;
