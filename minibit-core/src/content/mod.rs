//! What a share is: its manifest, its names, its hashes, its ticket.
//!
//! Bytes go in, true or false (or a checked value) comes out. Whatever a stranger sent is
//! proven here before the rest of the program sees it: a [`Manifest`] that exists has legal
//! names and a valid cut into pieces, and a hash that a [`HashBook`] answers with has been
//! proven against the manifest's roots.
//!
//! Not here: files on disk (`store`), how the bytes travel (`wire`).

mod book;
mod hashing;
mod manifest;
mod names;
mod ticket;

pub use book::{HashBook, PageError};
pub use hashing::{PieceHasher, empty_root, merge_pieces};
pub use manifest::{FileEntry, Manifest, ManifestError};
pub use names::{Collision, NameError, check_collisions, check_component, check_path, escape};
pub use ticket::{Ticket, TicketError};
