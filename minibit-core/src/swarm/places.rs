//! Whose place a newcomer may have when there are as many links as there may be.
//!
//! A link costs its holder a few bytes every five seconds, so places that were only ever kept by
//! those who have them could be held for ever by somebody who does nothing with them. A link is of
//! use while anything goes over it, while its peer has something for us, and while the peer waits
//! for a slot that it has yet to be offered. One that has been of no use for long gives way to a
//! newcomer, the one that was so for longest first. One that never was of any use, and was offered a slot,
//! gives way after seconds.
//!
//! In an honest swarm that is nearly nobody: who waits for its turn is never sent away, however
//! long the queue, and who had its turn and took something is of use. So those who come do not push
//! each other out in a circle.
//! Not here: how many places there are (`neighbours`), who was offered a slot (`choker`).

use std::time::Duration;

use super::LinkId;

/// For so long a link may carry nothing and promise nothing, and keeps its place.
const USELESS: Duration = Duration::from_secs(20);
/// The same for one over which nothing has gone yet. Whoever comes for something asks for it a round trip
/// after it is answered: this is as long as a stranger may take to say who it is.
const NEVER_OF_USE: Duration = Duration::from_secs(5);
/// The same for one whose peer says that it has something for us: it may be slow to answer us, but
/// saying so costs nothing.
const PROMISING: Duration = Duration::from_secs(120);

/// What is looked at of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupant {
    /// Which one.
    pub id: LinkId,
    /// When payload last went over it, either way; when it was made, if none ever did.
    pub moved_at: Duration,
    /// Payload has gone over it, one way or the other.
    pub was_of_use: bool,
    /// Its peer says that it holds something that we want, and has not let us down with it.
    pub has_for_us: bool,
    /// Its peer wants something of us and waits for a slot, or has one and has yet to show what it
    /// does with it.
    pub waits: bool,
}

impl Occupant {
    fn gives_way(&self, now: Duration) -> bool {
        let patience = match self {
            Self { has_for_us: true, .. } => PROMISING,
            Self { was_of_use: true, .. } => USELESS,
            _ => NEVER_OF_USE,
        };
        !self.waits && now.saturating_sub(self.moved_at) >= patience
    }
}

/// Those who give way to a newcomer, whoever was of no use for longest first.
pub fn giving_way(now: Duration, occupants: impl IntoIterator<Item = Occupant>) -> Vec<LinkId> {
    let useless = occupants.into_iter().filter(|occupant| occupant.gives_way(now));
    let mut useless: Vec<_> = useless.map(|occupant| (occupant.moved_at, occupant.id)).collect();
    useless.sort_unstable();
    useless.into_iter().map(|(_, id)| id).collect()
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn idle_for(id: u32, idle: Duration) -> Occupant {
        let moved_at = NOW - idle;
        Occupant { id: LinkId(id), moved_at, was_of_use: true, has_for_us: false, waits: false }
    }

    #[test]
    fn who_was_of_no_use_for_longest_gives_way_first() {
        let idle = [30, 5, 90, 20].map(Duration::from_secs);
        let occupants = (1..).zip(idle).map(|(id, idle)| idle_for(id, idle));
        assert_eq!(giving_way(NOW, occupants), [LinkId(3), LinkId(1), LinkId(4)]);
    }

    #[test]
    fn who_never_was_of_use_gives_way_after_seconds_but_not_as_soon_as_it_has_come() {
        let never = |idle| Occupant { was_of_use: false, ..idle_for(1, idle) };
        assert_eq!(giving_way(NOW, [never(NEVER_OF_USE)]), [LinkId(1)]);
        assert_eq!(giving_way(NOW, [never(NEVER_OF_USE - Duration::from_millis(1))]), []);
        assert_eq!(giving_way(NOW, [idle_for(1, NEVER_OF_USE)]), []);
    }

    #[test]
    fn who_waits_for_its_turn_never_gives_way() {
        let waiting = Occupant { waits: true, ..idle_for(1, NOW) };
        assert_eq!(giving_way(NOW, [waiting]), []);
    }

    #[test]
    fn who_has_something_for_us_is_waited_for_longer_but_not_for_ever() {
        let promising = |idle| Occupant { has_for_us: true, ..idle_for(1, idle) };
        assert_eq!(giving_way(NOW, [promising(PROMISING - Duration::from_secs(1))]), []);
        assert_eq!(giving_way(NOW, [promising(PROMISING)]), [LinkId(1)]);
    }
}
