//! When to spare a seeder: its uploads are what the whole swarm waits for at the start.
//!
//! A seeder that deals out its first copy ([`guide`](super::guide)) gives each leecher its part.
//! A leecher that has had its part leaves the seeder to those that need it, as long as the others
//! serve it at least as well. So with leechers that serve each other a seeder uploads little more
//! than one copy, and a swarm of slow uploaders still gets all that a fast seeder can give. Who
//! has merely finished is not spared: there are many of them, and nothing else for them to do.

/// Whether to leave to the others what they hold, instead of asking the seeder: both are
/// rates at which we receive, in bytes per second.
pub fn leave_to_others(from_seeder: u64, from_others: u64) -> bool {
    from_others > 0 && from_others >= from_seeder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seeder_is_spared_only_while_others_serve_as_well() {
        assert!(leave_to_others(100, 100));
        assert!(!leave_to_others(100, 99));
        assert!(!leave_to_others(0, 0), "somebody has to begin");
    }
}
