//! For how long anything was being sent to anybody at all.
//!
//! What a way out carries shows only while it is used: whoever is asked for little sends little, however much it could.
//! Not here: what follows of that for slots (`swarm::slots`).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Lanes that send, and the time in which any did. A sum: what a lane that is gone sent last is not in it.
#[derive(Debug, Default)]
pub(super) struct Busy {
    sending: AtomicU32,
    /// Up to when the sum is made up.
    until_us: AtomicU64,
    sum_us: AtomicU64,
}

impl Busy {
    /// A lane begins to send.
    pub(super) fn begin(&self, now: Duration) {
        self.make_up(now);
        self.sending.fetch_add(1, Relaxed);
    }

    /// A lane sends nothing any more.
    pub(super) fn end(&self, now: Duration) {
        self.make_up(now);
        self.sending.fetch_sub(1, Relaxed);
    }

    /// The same where no time is known, or nothing was sent after all.
    pub(super) fn end_unseen(&self) {
        self.sending.fetch_sub(1, Relaxed);
    }

    /// In how much of the time up to now anything was being sent.
    pub(super) fn sum(&self, now: Duration) -> Duration {
        self.make_up(now);
        Duration::from_micros(self.sum_us.load(Relaxed))
    }

    /// Whoever comes first counts a stretch, so that none counts twice and the sum never shrinks.
    fn make_up(&self, now: Duration) {
        let now_us = now.as_micros() as u64;
        // Looked at first: who begins to send between the two would have all of an idle stretch count.
        let anybody_sent = self.sending.load(Relaxed) > 0;
        let since_us = self.until_us.fetch_max(now_us, Relaxed);
        if anybody_sent {
            self.sum_us.fetch_add(now_us.saturating_sub(since_us), Relaxed);
        }
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
        busy.begin(at(200));
        busy.end(at(205));
        busy.end_unseen();
        assert_eq!(busy.sum(at(300)), at(35), "but no more is lost than that");
    }
}
