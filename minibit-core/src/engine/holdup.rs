//! Whether the disk holds network tasks up, judged by the writes that these make themselves.
//!
//! A write into the page cache takes some tens of microseconds. One that takes milliseconds has met
//! the disk, or its thread lost the core. The clock does not tell these apart, but the system counts for each
//! thread how long it ran and how long it was ready to: the rest of the time it slept (`ThreadTime`). To look there costs as much as a
//! small write, so it is done only for some writes after one that was long by the clock. One in which the thread
//! slept long is enough, and the next ones go elsewhere for a multiple of that time.
//!
//! Then one is tried again. If that is long as well, the disk is left alone for twice as long as before, and so
//! on: the share of a task's time that a slow disk can take away goes towards nothing. A quick one means
//! that the disk keeps up, and all begins anew.
//!
//! Two lanes that write to one file also sleep on its lock, and one of them may have it while it is without a core. That
//! passes for the disk; it is rare, and to leave writes to threads that may wait costs some work and no time.
//!
//! Not here: what follows from it (`disk`, `lane`).

use std::fs;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// From here on a write, of data or of a piece's record, is a long one: a hundred times what one
/// into the page cache takes.
const LONG: Duration = Duration::from_millis(8);
/// For how many times as long as it took a long write keeps others away. With every write long, a
/// task would be held up for a ninth of its time if it stayed at this.
const TIMES: u32 = 8;
/// Longest that the disk is left alone.
const SLOW_FOR_MAX: Duration = Duration::from_secs(4);

/// In so many writes after a long one it is looked at what their threads do meanwhile. To look takes some ten
/// microseconds, so all of this costs a few percent of the time that the long one took.
const WATCHED: u32 = 16;

/// How long the calling thread has run or was ready to, since it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThreadTime(Duration);

impl ThreadTime {
    /// Nothing where the system does not tell (Linux does).
    pub(super) fn now() -> Option<Self> {
        // Nanoseconds that it ran, as of the last tick; nanoseconds that it waited for a core; how often.
        let counts = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        let waited = counts.split(' ').nth(1)?.parse().ok()?;
        let ran = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok()?;
        Some(Self(ran + Duration::from_nanos(waited)))
    }

    /// How much of what `took` so long until now the thread slept since `self`.
    pub(super) fn slept(self, took: Duration) -> Duration {
        let awake = Self::now().map_or(Duration::ZERO, |now| now.0.saturating_sub(self.0));
        took.saturating_sub(awake)
    }
}

/// The judgement on the disk of one share, by all lanes together. It is about no invariant: of two lanes
/// that reckon at the same time one may not be heard.
#[derive(Debug, Default)]
pub(super) struct HoldUp {
    slow_until_us: AtomicU64,
    /// How long it is left alone, until a write is quick again; then zero.
    slow_for_us: AtomicU64,
    still_watched: AtomicU32,
}

impl HoldUp {
    /// Whether it matters for how much of its next write a thread sleeps.
    pub(super) fn watches_next(&self) -> bool {
        let left = self.still_watched.load(Relaxed);
        if left > 0 {
            self.still_watched.store(left - 1, Relaxed);
        }
        left > 0
    }

    /// A network task has written, and it `took` so long, asleep for some of it if anybody looked. True if the disk
    /// is found to be slow by this.
    pub(super) fn wrote(&self, took: Duration, slept: Option<Duration>, now: Duration) -> bool {
        let last = Duration::from_micros(self.slow_for_us.load(Relaxed));
        if took < LONG {
            if !last.is_zero() && !self.is_slow(now) {
                self.slow_for_us.store(0, Relaxed);
            }
            return false;
        }
        self.still_watched.store(WATCHED, Relaxed);
        let Some(held) = slept.filter(|slept| *slept >= LONG) else { return false };
        // Several lanes may have met it in the same moment; that is no second time.
        let again = if self.is_slow(now) { last } else { last * 2 };
        let slow_for = (held * TIMES).max(again).min(SLOW_FOR_MAX);
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
    use std::time::Instant;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const QUICK: Duration = Duration::from_micros(60);

    #[test]
    fn one_long_write_sends_the_next_ones_elsewhere() {
        let judge = HoldUp::default();
        assert!(!judge.wrote(QUICK, None, MS) && !judge.is_slow(MS));
        assert!(judge.wrote(12 * MS, Some(12 * MS), 13 * MS));
        assert!(judge.is_slow(13 * MS) && judge.is_slow(13 * MS + 12 * MS * TIMES - QUICK));
        assert!(!judge.is_slow(13 * MS + 12 * MS * TIMES), "then it is tried again");
    }

    #[test]
    fn a_thread_without_a_core_says_nothing_about_the_disk() {
        let judge = HoldUp::default();
        assert!(!judge.watches_next(), "nothing was long");
        assert!(!judge.wrote(12 * MS, None, MS), "nobody looked why");
        for n in 1..=WATCHED {
            assert!(judge.watches_next(), "the one number {n} after it");
        }
        assert!(!judge.watches_next());
        assert!(!judge.wrote(30 * MS, Some(LONG - QUICK), 50 * MS) && !judge.is_slow(50 * MS));
        assert!(judge.watches_next() && judge.wrote(30 * MS, Some(LONG), 90 * MS));
        assert!(judge.is_slow(90 * MS + LONG * TIMES - QUICK), "by what it slept");
        assert!(!judge.is_slow(90 * MS + LONG * TIMES));
    }

    /// The system's own count, against work and sleep of lengths that no machine confuses.
    #[test]
    fn a_thread_that_works_does_not_sleep_and_one_that_sleeps_does() {
        let Some(before) = ThreadTime::now() else { return };
        let started = Instant::now();
        let mut n = 1_u64;
        while started.elapsed() < 60 * MS {
            n = std::hint::black_box(n.wrapping_mul(3));
        }
        let worked = before.slept(started.elapsed());
        let (before, started) = (ThreadTime::now().expect("as just now"), Instant::now());
        std::thread::sleep(60 * MS);
        let slept = before.slept(started.elapsed());
        assert!(worked < 30 * MS && slept > 30 * MS, "{worked:?} and {slept:?}");
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
                judge.wrote(12 * MS, Some(12 * MS), now);
            }
        }
        assert!(held < 60 * 12 * MS, "of a minute: {held:?}");
    }

    #[test]
    fn a_disk_is_never_left_alone_for_longer_than_the_bound() {
        let judge = HoldUp::default();
        judge.wrote(HOUR, Some(HOUR), MS);
        assert!(!judge.is_slow(MS + SLOW_FOR_MAX));
    }

    #[test]
    fn a_quick_write_after_the_wait_clears_the_disk_and_one_from_before_it_does_not() {
        let judge = HoldUp::default();
        let first = 12 * MS * TIMES;
        judge.wrote(12 * MS, Some(12 * MS), Duration::ZERO);
        // It was under way on another lane.
        judge.wrote(QUICK, None, MS);
        assert!(judge.is_slow(MS));
        judge.wrote(12 * MS, Some(12 * MS), first);
        assert!(judge.is_slow(3 * first - MS), "long again, so twice as long");
        judge.wrote(QUICK, None, 3 * first);
        judge.wrote(12 * MS, Some(12 * MS), 3 * first);
        assert!(!judge.is_slow(4 * first), "as if it were the first");
    }

    #[test]
    fn several_lanes_that_meet_the_same_stall_count_once() {
        let judge = HoldUp::default();
        judge.wrote(12 * MS, Some(12 * MS), Duration::ZERO);
        judge.wrote(12 * MS, Some(12 * MS), MS);
        assert!(!judge.is_slow(MS + 12 * MS * TIMES));
    }
}
