//! For how long anything was being sent to anybody at all.
//!
//! What a way out carries shows only while it is used: whoever is asked for little sends little, however much it could.
//! Not here: what follows of that for slots (`swarm::slots`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Lanes that send, and the time in which any did. A sum: where one lane ends in the moment in which another begins, a
/// little may be lost.
#[derive(Debug, Default)]
pub(super) struct Busy {
    sending: AtomicU32,
    since_us: AtomicU64,
    sum_us: AtomicU64,
}

impl Busy {
    /// A lane begins to send.
    pub(super) fn begin(&self, now: Duration) {
        if self.sending.fetch_add(1, Relaxed) == 0 {
            self.since_us.store(now.as_micros() as u64, Relaxed);
        }
    }

    /// A lane sends nothing any more.
    pub(super) fn end(&self, now: Duration) {
        if self.sending.fetch_sub(1, Relaxed) == 1 {
            self.sum_us.fetch_add(self.going_us(now), Relaxed);
        }
    }

    /// The same of a lane that is gone, which knows of no time.
    pub(super) fn end_unseen(&self) {
        self.sending.fetch_sub(1, Relaxed);
    }

    /// In how much of the time up to now anything was being sent.
    pub(super) fn sum(&self, now: Duration) -> Duration {
        let going = if self.sending.load(Relaxed) > 0 { self.going_us(now) } else { 0 };
        Duration::from_micros(self.sum_us.load(Relaxed) + going)
    }

    fn going_us(&self, now: Duration) -> u64 {
        (now.as_micros() as u64).saturating_sub(self.since_us.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn time_in_which_two_lanes_send_counts_once_and_time_in_which_none_does_not_at_all() {
        let busy = Busy::default();
        busy.begin(at(10));
        busy.begin(at(20));
        assert_eq!(busy.sum(at(25)), at(15));
        busy.end(at(30));
        busy.end(at(40));
        assert_eq!(busy.sum(at(100)), at(30));
        busy.begin(at(100));
        busy.end_unseen();
        assert_eq!(busy.sum(at(200)), at(30), "what a lane that is gone sent last is not known");
        busy.begin(at(200));
        assert_eq!(busy.sum(at(205)), at(35));
    }
}
