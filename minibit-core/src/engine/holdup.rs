//! Whether the disk holds network tasks up, judged by the writes that these make themselves.
//!
//! A write into the page cache takes some tens of microseconds. One that takes milliseconds has met
//! the disk, or its thread had to wait for a core, or for the lock of the file while its holder
//! waited for one. On a busy machine that happens all the time, and moving writes to another thread
//! then only adds to the load. What tells the two apart is how much of the work they are: behind a
//! slow disk nearly all of a task's time goes into long writes, while a core is as often lost in the
//! middle of any other work, and writes are up to half of it. So long writes run up a debt, three
//! quarters of the time that tasks are at work pay it off, and the disk is slow once the debt is too
//! large.
//!
//! Not here: what follows from it (`disk`, `lane`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// From here on a write, of data or of a piece's record, is a long one.
const LONG: Duration = Duration::from_millis(8);
/// The disk is slow from this debt on: at once after one stall as long as this.
const DEBT_MAX: Duration = Duration::from_millis(250);
/// How long it counts as slow before it is tried again. The debt stays meanwhile, so that one long
/// write more is enough.
const SLOW_FOR: Duration = Duration::from_secs(3);

/// The judgement on the disk of one share, by all lanes together. It is about no invariant: two lanes
/// that reckon at the same time may lose a write of one.
#[derive(Debug, Default)]
pub(super) struct HoldUp {
    debt_us: AtomicU64,
    slow_until_us: AtomicU64,
}

impl HoldUp {
    /// A network task has written. `took` is the time of the write, `busy` that of all work since
    /// the task woke up or last told us, the write included. True if the disk is found to be slow
    /// by this.
    pub(super) fn wrote(&self, took: Duration, busy: Duration, now: Duration) -> bool {
        let owed = Duration::from_micros(self.debt_us.load(Relaxed));
        let long = took > LONG;
        if owed.is_zero() && !long {
            return false;
        }
        let paid_off = owed.saturating_sub(busy * 3 / 4);
        let owes = if long { paid_off + took } else { paid_off };
        self.debt_us.store(owes.min(DEBT_MAX).as_micros() as u64, Relaxed);
        let slow = long && owes >= DEBT_MAX;
        if slow {
            self.slow_until_us.store((now + SLOW_FOR).as_micros() as u64, Relaxed);
        }
        slow
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

    /// Writes of these durations in a row, with as much other work as one quick write takes.
    fn writes(judge: &HoldUp, durations: impl IntoIterator<Item = Duration>) -> Option<usize> {
        durations.into_iter().position(|took| judge.wrote(took, took + QUICK, Duration::ZERO))
    }

    #[test]
    fn a_disk_that_is_slow_with_every_write_is_found_out_soon() {
        let found = writes(&HoldUp::default(), [12 * MS; 100]);
        assert!(found.is_some_and(|at| at < 100), "{found:?}");
    }

    #[test]
    fn one_long_stall_is_enough() {
        assert_eq!(writes(&HoldUp::default(), [QUICK, DEBT_MAX]), Some(1));
    }

    #[test]
    fn a_busy_machine_is_no_slow_disk() {
        let judge = HoldUp::default();
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..1_000_000 {
            // Every 3 ms of work the core is lost for up to 40 ms, every other time in a write.
            let lost = rng.u32(0..=40) * MS;
            let took = if rng.bool() { lost } else { QUICK };
            assert!(!judge.wrote(took, lost + 3 * MS, Duration::ZERO));
        }
    }

    #[test]
    fn a_disk_that_was_slow_is_tried_again_and_judged_at_once() {
        let judge = HoldUp::default();
        assert!(!judge.is_slow(Duration::ZERO));
        assert!(judge.wrote(DEBT_MAX, DEBT_MAX, 200 * MS));
        assert!(judge.is_slow(200 * MS));
        let later = 200 * MS + SLOW_FOR;
        assert!(!judge.is_slow(later));
        assert!(judge.wrote(9 * MS, 9 * MS, later), "it still is");
        assert!(judge.is_slow(later));
    }

    #[test]
    fn good_work_pays_the_debt_off() {
        let judge = HoldUp::default();
        assert_eq!(writes(&judge, [DEBT_MAX - MS]), None);
        assert_eq!(writes(&judge, [QUICK; 4000]), None);
        assert_eq!(writes(&judge, [DEBT_MAX - MS]), None, "as if it were the first");
    }
}
