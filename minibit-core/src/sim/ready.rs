//! Who has been woken: lanes and members that are to look around before time goes on.
//!
//! The conduct of a share wakes through `Waker` and `Signals`, as it does threads and tasks of
//! the engine; here they put numbers on a list. Atomics only because those interfaces ask for them:
//! there is one thread. So nothing here is locked, nor read and written in one step: either would
//! have the processor wait until all that it reads for other wake-ups has come from memory.

use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Wake;

use crate::swarm::LinkId;
use crate::trade::Signals;

/// Who is to look around.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    Lane(u32),
    Member(u32),
}

/// The list, first come first served. In parts that stay where they are while it grows.
#[derive(Debug)]
pub(super) struct ReadyList {
    parts: [OnceLock<Box<Part>>; PARTS],
    len: AtomicUsize,
}

/// Entries in one part of the list.
const PART: usize = 4096;
/// Parts at most. Nobody is on the list twice, so that is for many millions of lanes.
const PARTS: usize = 4096;

type Part = [AtomicU64; PART];

impl Default for ReadyList {
    fn default() -> Self {
        Self { parts: [const { OnceLock::new() }; PARTS], len: AtomicUsize::new(0) }
    }
}

impl ReadyList {
    const MEMBER: u64 = 1 << 32;

    fn push(&self, ready: Ready) {
        let at = self.len.load(Relaxed);
        let part =
            self.parts[at / PART].get_or_init(|| Box::new([const { AtomicU64::new(0) }; PART]));
        let entry = match ready {
            Ready::Lane(lane) => lane.into(),
            Ready::Member(member) => Self::MEMBER | u64::from(member),
        };
        part[at % PART].store(entry, Relaxed);
        self.len.store(at + 1, Relaxed);
    }

    /// Moves all there are to `to`.
    pub(super) fn take(&self, to: &mut Vec<Ready>) {
        let len = self.len.load(Relaxed);
        let entries = self.parts.iter().filter_map(OnceLock::get).flat_map(|part| part.iter());
        to.extend(entries.take(len).map(|entry| {
            let entry = entry.load(Relaxed);
            if entry & Self::MEMBER == 0 {
                Ready::Lane(entry as u32)
            } else {
                Ready::Member(entry as u32)
            }
        }));
        self.len.store(0, Relaxed);
    }
}

/// Wakes one lane.
#[derive(Debug)]
pub(super) struct LaneBell {
    lane: u32,
    rung: AtomicU8,
    list: Arc<ReadyList>,
}

impl LaneBell {
    const FOR_NEWS: u8 = 1;
    const FOR_ALL: u8 = 2;

    pub(super) fn new(lane: u32, list: Arc<ReadyList>) -> Self {
        Self { lane, rung: AtomicU8::new(0), list }
    }

    /// The lane is to look around.
    pub(super) fn ring(&self) {
        self.ring_for(Self::FOR_ALL);
    }

    fn ring_for(&self, what: u8) {
        let rung = self.rung.load(Relaxed);
        self.rung.store(rung | what, Relaxed);
        if rung == 0 {
            self.list.push(Ready::Lane(self.lane));
        }
    }

    /// Whether the lane is on the list.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Relaxed) != 0
    }

    /// Whether the lane is on the list only to tell news.
    pub(super) fn is_for_news(&self) -> bool {
        self.rung.load(Relaxed) == Self::FOR_NEWS
    }

    /// The lane's turn comes now.
    pub(super) fn heard(&self) {
        self.rung.store(0, Relaxed);
    }
}

/// Wakes a lane to tell news.
impl Wake for LaneBell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring_for(Self::FOR_NEWS);
    }
}

/// Wakes a lane to look around. A step further than the bell, for it is rung less often.
#[derive(Debug)]
pub(super) struct LookAround(pub(super) Arc<LaneBell>);

impl Wake for LookAround {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.ring();
    }
}

/// What a member's lanes have told it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told(u8);

impl Told {
    const NEWS: u8 = 1;
    const SLOTS: u8 = 2;
    const COMPLETE: u8 = 4;

    pub(super) fn news(self) -> bool {
        self.0 & Self::NEWS != 0
    }

    pub(super) fn slots(self) -> bool {
        self.0 & Self::SLOTS != 0
    }

    pub(super) fn complete(self) -> bool {
        self.0 & Self::COMPLETE != 0
    }
}

/// Hears what the lanes of one member have to tell.
#[derive(Debug)]
pub(super) struct MemberBell {
    member: u32,
    told: AtomicU8,
    list: Arc<ReadyList>,
}

impl MemberBell {
    pub(super) fn new(member: u32, list: Arc<ReadyList>) -> Self {
        Self { member, told: AtomicU8::new(0), list }
    }

    fn tell(&self, what: u8) {
        let told = self.told.load(Relaxed);
        self.told.store(told | what, Relaxed);
        if told == 0 {
            self.list.push(Ready::Member(self.member));
        }
    }

    pub(super) fn take(&self) -> Told {
        let told = self.told.load(Relaxed);
        self.told.store(0, Relaxed);
        Told(told)
    }
}

impl Signals for Arc<MemberBell> {
    fn news(&self) {
        self.tell(Told::NEWS);
    }

    fn slots_changed(&self) {
        self.tell(Told::SLOTS);
    }

    fn lanes_wanted(&self, _: LinkId) {}

    fn complete(&self) {
        self.tell(Told::COMPLETE);
    }

    fn lane_gone(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_woken_comes_once_in_order_and_looks_around_if_anything_asks_for_that() {
        let list = Arc::new(ReadyList::default());
        let count = 2 * PART as u32 + 3;
        let bells: Vec<Arc<LaneBell>> =
            (0..count).map(|lane| Arc::new(LaneBell::new(lane, Arc::clone(&list)))).collect();
        for _ in 0..2 {
            bells.iter().for_each(Wake::wake_by_ref);
            bells[7].ring();
            bells[7].wake_by_ref();
            let member = Arc::new(MemberBell::new(5, Arc::clone(&list)));
            member.news();
            member.complete();
            let mut woken = Vec::new();
            list.take(&mut woken);
            let lanes = woken.iter().map_while(|ready| match ready {
                Ready::Lane(lane) => Some(*lane),
                Ready::Member(_) => None,
            });
            assert!(lanes.eq(0..count));
            assert!(matches!(woken[count as usize..], [Ready::Member(5)]));
            assert!(bells.iter().all(|bell| bell.is_for_news() == (bell.lane != 7)));
            bells.iter().for_each(|bell| bell.heard());
            list.take(&mut woken);
            assert_eq!(woken.len(), count as usize + 1, "nobody is left");
        }
    }
}
