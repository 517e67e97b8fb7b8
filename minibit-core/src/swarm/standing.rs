//! What a peer has shown so far of whether it gives.
//!
//! Nobody is told who gives; it shows. A receiver sees what comes back to it, a seeder, to which
//! nothing can come back, whether what it sent comes to be with others. Either tries those it
//! does not know with little, and leaves its way out to those that have shown that they give.
//! Not here: what follows for slots (`choker`), how a seeder comes to know (`guide`).

/// How a peer stands with us, the better the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// It had its chance and gives hardly anything.
    Taker,
    /// It was sent something, and what comes of it is not known yet.
    OnTrial,
    /// It has had no chance to show anything, at least not of late.
    New,
    /// It gives.
    Giver,
}
