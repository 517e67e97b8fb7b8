//! What happens when: events in the order of their time, and of their making where that is equal.
//!
//! Times are nanoseconds of virtual time. Most events lie within the next seconds, so they wait
//! in a ring of buckets, each sorted when its turn comes; what lies further off waits by stretches
//! of a second, each dealt to the ring when its turn comes.

use std::collections::BTreeMap;

/// Nanoseconds that one bucket of the ring holds: about a millisecond, in which a large swarm has a hundred events, enough
/// to fetch ahead for ([`Queue::soonest`]).
const BUCKET_NS: u64 = 1 << 20;
/// Buckets of the ring: together a little over four seconds.
const BUCKETS: usize = 4096;
/// Buckets of a stretch: fewer than the ring has, so that there is room for all of one.
const STRETCH: u64 = 1024;

/// Something that happens to a lane, a member or the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The oldest item on its way to this end of a connection arrives, and what was sent with it.
    Deliver { pipe: u32, end: u8 },
    /// Something may have left this member's uplink.
    Uplink { member: u32, generation: u32 },
    /// A lane looks at its deadlines.
    LaneTimer { lane: u32, generation: u32 },
    /// A member looks at its deadlines.
    MemberTimer { member: u32 },
    /// A member's dealings with the tracker.
    Announce { member: u32, life: u32 },
    /// Letter number so and so to or from the tracker arrives.
    Letter { number: u32 },
    /// A member joins.
    Join { member: u32 },
    /// A member vanishes.
    Crash { member: u32, life: u32 },
    /// Somebody is to vanish.
    Churn,
    /// A connection is to break.
    BreakLink,
    /// The network splits in two, or heals.
    Partition { on: bool },
    /// Time to look at the swarm for the report.
    Sample,
}

type Entry = (u64, u64, Event);

/// The events to come.
#[derive(Debug)]
pub(super) struct Queue {
    /// Number of the bucket whose turn it is, counted from the beginning of time.
    turn: u64,
    /// The bucket whose turn it is, the next event last.
    current: Vec<Entry>,
    ring: Vec<Vec<Entry>>,
    in_ring: usize,
    /// What lies beyond the ring, by the number of its stretch.
    far: BTreeMap<u64, Vec<Entry>>,
    made: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            turn: 0,
            current: Vec::new(),
            ring: vec![Vec::new(); BUCKETS],
            in_ring: 0,
            far: BTreeMap::new(),
            made: 0,
        }
    }

    /// Adds an event. One that lies in the past happens next.
    pub(super) fn push(&mut self, at: u64, event: Event) {
        self.made += 1;
        let entry = (at, self.made, event);
        let bucket = at / BUCKET_NS;
        if bucket <= self.turn {
            let place = self.current.partition_point(|other| *other > entry);
            self.current.insert(place, entry);
        } else if bucket < self.turn + BUCKETS as u64 {
            self.put_in_ring(entry);
        } else {
            self.far.entry(bucket / STRETCH).or_default().push(entry);
        }
    }

    fn put_in_ring(&mut self, entry: Entry) {
        let bucket = entry.0 / BUCKET_NS;
        self.ring[(bucket % BUCKETS as u64) as usize].push(entry);
        self.in_ring += 1;
    }

    /// The next event and its time.
    pub(super) fn pop(&mut self) -> Option<(u64, Event)> {
        while self.current.is_empty() {
            self.advance()?;
        }
        self.current.pop().map(|(at, _, event)| (at, event))
    }

    /// The next events, as far as they are in order already.
    pub(super) fn soonest(&self) -> impl Iterator<Item = Event> + Clone + '_ {
        self.current.iter().rev().map(|(.., event)| *event)
    }

    /// All events to come, in no order.
    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = Event> + '_ {
        let waiting = self.ring.iter().chain(self.far.values()).flatten();
        self.current.iter().chain(waiting).map(|(.., event)| *event)
    }

    /// Goes to the next bucket that may have events; `None` if there are none at all.
    fn advance(&mut self) -> Option<()> {
        let first_far = self.far.keys().next().map(|stretch| stretch * STRETCH);
        self.turn = if self.in_ring > 0 { self.turn + 1 } else { first_far? };
        if first_far == Some(self.turn) {
            let stretch = self.far.pop_first().map(|(_, entries)| entries);
            stretch.into_iter().flatten().for_each(|entry| self.put_in_ring(entry));
        }
        let slot = &mut self.ring[(self.turn % BUCKETS as u64) as usize];
        self.in_ring -= slot.len();
        std::mem::swap(slot, &mut self.current);
        self.current.sort_unstable_by(|a, b| b.cmp(a));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn events_come_in_the_order_of_their_times_and_then_of_their_making(
            delays in prop::collection::vec((0u64..20_000_000_000, 0u8..4), 1..200),
        ) {
            let mut queue = Queue::new();
            let mut plain: Vec<(u64, u32)> = Vec::new();
            let mut now = 0;
            for (number, (delay, pops)) in delays.into_iter().enumerate() {
                queue.push(now + delay, Event::Letter { number: number as u32 });
                plain.push((now + delay, number as u32));
                for _ in 0..pops {
                    plain.sort_unstable();
                    let Some((at, event)) = queue.pop() else { break };
                    prop_assert_eq!((at, event), {
                        let (at, number) = plain.remove(0);
                        (at, Event::Letter { number })
                    });
                    now = at;
                }
            }
        }
    }
}
