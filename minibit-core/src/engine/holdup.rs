//! Whether the disk holds network tasks up, judged by the writes that these make themselves.
//!
//! A write into the page cache takes some tens of microseconds. One that takes milliseconds has met
//! the disk, or its thread lost the core, or the lock of the file was held by one that did. Neither the
//! clock nor the system's count of a thread's switches tells these apart, and they need not be: to
//! leave writes to threads that may wait costs a busy machine some work and no time. So one long write
//! is enough, and the next ones go elsewhere for a multiple of the time that it took.
//!
//! Then one is tried again. If that is long as well, the disk is left alone for twice as long as before, and so
//! on: the share of a task's time that a slow disk can take away goes towards nothing. A quick one means
//! that the disk keeps up, and all begins anew.
//!
//! Not here: what follows from it (`disk`, `lane`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// From here on a write, of data or of a piece's record, is a long one: a hundred times what one
/// into the page cache takes, and more than a thread waits for its core where there are two for each core.
const LONG: Duration = Duration::from_millis(8);
/// For how many times as long as it took a long write keeps others away. With every write long, a
/// task would be held up for a ninth of its time if it stayed at this.
const TIMES: u32 = 8;
/// Longest that the disk is left alone.
const SLOW_FOR_MAX: Duration = Duration::from_secs(4);

/// The judgement on the disk of one share, by all lanes together. It is about no invariant: of two lanes
/// that reckon at the same time one may not be heard.
#[derive(Debug, Default)]
pub(super) struct HoldUp {
    slow_until_us: AtomicU64,
    /// How long it is left alone, until a write is quick again; then zero.
    slow_for_us: AtomicU64,
}

impl HoldUp {
    /// A network task has written, and it `took` so long. True if the disk is found to be slow by
    /// this.
    pub(super) fn wrote(&self, took: Duration, now: Duration) -> bool {
        let last = Duration::from_micros(self.slow_for_us.load(Relaxed));
        if took < LONG {
            if !last.is_zero() && !self.is_slow(now) {
                self.slow_for_us.store(0, Relaxed);
            }
            return false;
        }
        // Several lanes may have met it in the same moment; that is no second time.
        let again = if self.is_slow(now) { last } else { last * 2 };
        let slow_for = (took * TIMES).max(again).min(SLOW_FOR_MAX);
        self.slow_for_us.store(slow_for.as_micros() as u64, Relaxed);
        self.slow_until_us.store((now + slow_for).as_micros() as u64, Relaxed);
        true
    }

    /// Whether network tasks should leave writing to others.
    pub(super) fn is_slow(&self, now: Duration) -> bool {
        now < Duration::from_micros(self.slow_until_us.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const QUICK: Duration = Duration::from_micros(60);

    #[test]
    fn one_long_write_sends_the_next_ones_elsewhere() {
        let judge = HoldUp::default();
        assert!(!judge.wrote(QUICK, MS) && !judge.is_slow(MS));
        assert!(judge.wrote(12 * MS, 13 * MS));
        assert!(judge.is_slow(13 * MS) && judge.is_slow(13 * MS + 12 * MS * TIMES - QUICK));
        assert!(!judge.is_slow(13 * MS + 12 * MS * TIMES), "then it is tried again");
    }

    #[test]
    fn a_disk_that_stays_slow_takes_less_and_less_of_the_time_of_network_tasks() {
        let judge = HoldUp::default();
        let (mut now, mut held) = (Duration::ZERO, Duration::ZERO);
        while now < 60 * 1000 * MS {
            if judge.is_slow(now) {
                now += MS;
            } else {
                now += 12 * MS;
                held += 12 * MS;
                judge.wrote(12 * MS, now);
            }
        }
        assert!(held < 60 * 12 * MS, "of a minute: {held:?}");
    }

    #[test]
    fn a_disk_is_never_left_alone_for_longer_than_the_bound() {
        let judge = HoldUp::default();
        judge.wrote(3600 * 1000 * MS, MS);
        assert!(!judge.is_slow(MS + SLOW_FOR_MAX));
    }

    #[test]
    fn a_quick_write_after_the_wait_clears_the_disk_and_one_from_before_it_does_not() {
        let judge = HoldUp::default();
        let first = 12 * MS * TIMES;
        judge.wrote(12 * MS, Duration::ZERO);
        // It was under way on another lane.
        judge.wrote(QUICK, MS);
        assert!(judge.is_slow(MS));
        judge.wrote(12 * MS, first);
        assert!(judge.is_slow(3 * first - MS), "long again, so twice as long");
        judge.wrote(QUICK, 3 * first);
        judge.wrote(12 * MS, 3 * first);
        assert!(!judge.is_slow(4 * first), "as if it were the first");
    }

    #[test]
    fn several_lanes_that_meet_the_same_stall_count_once() {
        let judge = HoldUp::default();
        judge.wrote(12 * MS, Duration::ZERO);
        judge.wrote(12 * MS, MS);
        assert!(!judge.is_slow(MS + 12 * MS * TIMES));
    }
}
