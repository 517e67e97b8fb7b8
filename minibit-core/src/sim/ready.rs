//! Who has been woken: lanes and members that are to look around before time goes on.
//!
//! The conduct of a share wakes through `Waker` and `Signals`, as it does threads and tasks of
//! the engine; here they put numbers on a list. Atomics and a lock only because those interfaces
//! ask for them: there is one thread.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::Wake;

use crate::swarm::LinkId;
use crate::trade::{Signals, lock};

/// Who is to look around.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    Lane(u32),
    Member(u32),
}

/// The list, first come first served.
#[derive(Debug, Default)]
pub(super) struct ReadyList(Mutex<Vec<Ready>>);

impl ReadyList {
    fn push(&self, ready: Ready) {
        lock(&self.0).push(ready);
    }

    /// Puts all there are in place of `old`, which is to be empty.
    pub(super) fn take(&self, old: &mut Vec<Ready>) {
        std::mem::swap(&mut *lock(&self.0), old);
    }
}

/// Wakes one lane.
#[derive(Debug)]
pub(super) struct LaneBell {
    lane: u32,
    rung: AtomicBool,
    list: Arc<ReadyList>,
}

impl LaneBell {
    pub(super) fn new(lane: u32, list: Arc<ReadyList>) -> Self {
        Self { lane, rung: AtomicBool::new(false), list }
    }

    pub(super) fn ring(&self) {
        if !self.rung.swap(true, Relaxed) {
            self.list.push(Ready::Lane(self.lane));
        }
    }

    /// Whether the lane is on the list.
    pub(super) fn is_rung(&self) -> bool {
        self.rung.load(Relaxed)
    }

    /// The lane looks around now.
    pub(super) fn heard(&self) {
        self.rung.store(false, Relaxed);
    }
}

impl Wake for LaneBell {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
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
        if self.told.fetch_or(what, Relaxed) == 0 {
            self.list.push(Ready::Member(self.member));
        }
    }

    pub(super) fn take(&self) -> Told {
        Told(self.told.swap(0, Relaxed))
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
