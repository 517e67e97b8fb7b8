//! Whether the disk holds network tasks up, judged by the writes that these make themselves.
//!
//! A write into the page cache takes some tens of microseconds. One that takes milliseconds has met
//! the disk, or its thread lost the core. The clock does not tell these apart, but the system counts for each
//! thread how long it ran and how long it was ready to: the rest of the time it slept. To look there at both
//! ends of each write would cost a twentieth of what writing does. So a thread looks before a write if it has not
//! looked for a while (`before_write`), and again only after a long one (`slept`): what it was awake for
//! between the two is then at most that while more than what it was awake for in the write. Every
//! write in which a thread slept long is found by this, and none in which it did not.
//!
//! One is enough, and the next ones go elsewhere for a multiple of the time that it took. Then network tasks try
//! again. If the disk is found to be slow once more before they had as much time of peace as it was left alone for,
//! it is left alone for twice as long, and so on: the share of a task's time that a slow disk can take away
//! goes towards nothing, whether all its writes are slow or a few of them.
//!
//! Two lanes that write to one file also sleep on its lock, while the one that has it runs or lost its core. That is not the
//! disk's doing, so what others were awake for in their writes meanwhile is taken off what a thread slept in its own
//! ([`Began`]). The lock's owner has counted by the time that the next one has written, but for rare cases, and these cost
//! little: to leave writes to threads that may wait costs some work and no time.
//!
//! Not here: what follows from it (`disk`, `lane`).

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Who sleeps for so long in a write, of data or of a piece's record, is held up: a hundred times what one into the
/// page cache takes.
const LONG: Duration = Duration::from_millis(8);
/// For how many times as long as it took a long write keeps others away. However the slow writes of a
/// disk are spread, a task is held up for a ninth of its time at most, and mostly far less.
const TIMES: u32 = 8;
/// Longest that the disk is left alone.
const SLOW_FOR_MAX: Duration = Duration::from_secs(4);

/// A write that took as long is looked at. Less than [`LONG`], for the sake of those who have a lock that another waits
/// long for; but others' quick writes, which are many where many lanes write, must not excuse the disk.
const LOOK_FROM: Duration = Duration::from_millis(4);

/// How old what a thread knows of itself may be when it begins to write. To look takes about a microsecond, so
/// this costs a thousandth of a thread that writes all the time, and leaves a long write's sleep in doubt by an eighth.
const LOOK_EVERY: Duration = Duration::from_millis(1);

thread_local! {
    static THIS_THREAD: RefCell<ThisThread> = RefCell::new(ThisThread::new());
}

/// The calling thread is about to write.
pub(super) fn before_write() {
    THIS_THREAD.with_borrow_mut(|thread| {
        if thread.seen.is_none_or(|seen| seen.at.elapsed() > LOOK_EVERY) {
            thread.seen = thread.look();
        }
    });
}

/// How much of what began with or just before [`before_write`], and `took` so long until now, the thread has slept: so
/// much at least, and at most [`LOOK_EVERY`] more. Where nobody counts, all of it. Nothing if it was too short to look.
pub(super) fn slept(took: Duration) -> Option<Duration> {
    (took >= LOOK_FROM).then(|| {
        THIS_THREAD.with_borrow_mut(|thread| {
            let before = thread.seen;
            thread.seen = thread.look();
            let awake =
                before.zip(thread.seen).map(|(from, to)| to.awake.saturating_sub(from.awake));
            took.saturating_sub(awake.unwrap_or_default())
        })
    })
}

/// What the system counts for a thread, kept open: to open it anew takes five times as long as to look.
struct ThisThread {
    /// Nothing where the system does not tell (Linux does).
    counts: Option<File>,
    seen: Option<Seen>,
}

/// How long the thread had run or had been ready to, since it began, at some time.
#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    awake: Duration,
}

impl ThisThread {
    fn new() -> Self {
        Self { counts: File::open("/proc/thread-self/schedstat").ok(), seen: None }
    }

    fn look(&self) -> Option<Seen> {
        // First, or it would seem to be younger than it is.
        let at = Instant::now();
        // Nanoseconds that it ran, as of the last tick; nanoseconds that it waited for a core; how often.
        let mut counts = [0; 64];
        let len = self.counts.as_ref()?.read_at(&mut counts, 0).ok()?;
        let waited = str::from_utf8(&counts[..len]).ok()?.split(' ').nth(1)?.parse().ok()?;
        let ran = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok()?;
        Some(Seen { at, awake: ran + Duration::from_nanos(waited) })
    }
}

/// The judgement on the disk of one share, by all lanes together. It is about no invariant: of two lanes
/// that reckon at the same time one may not be heard.
#[derive(Debug, Default)]
pub(super) struct HoldUp {
    slow_until_us: AtomicU64,
    /// How long it was left alone the last time.
    slow_for_us: AtomicU64,
    /// For how long threads were awake in all writes together that were looked at.
    awake_us: AtomicU64,
}

/// A write that a network task makes: for how long threads had been awake in others, as [`HoldUp`] counts it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Began {
    awake_us: u64,
}

impl HoldUp {
    /// A network task is about to write.
    pub(super) fn begin(&self) -> Began {
        Began { awake_us: self.awake_us.load(Relaxed) }
    }

    /// It has, which `took` so long, and `slept` for some of it. True if the disk is found to be slow by this.
    pub(super) fn wrote(
        &self,
        began: Began,
        took: Duration,
        slept: Duration,
        now: Duration,
    ) -> bool {
        let awake_us = (took - slept).as_micros() as u64;
        let others_us = self.awake_us.fetch_add(awake_us, Relaxed) - began.awake_us;
        let held = slept.saturating_sub(Duration::from_micros(others_us));
        let is_held_up = held >= LONG;
        if is_held_up {
            self.leave_alone(held, now);
        }
        is_held_up
    }

    /// The disk has held a network task up.
    fn leave_alone(&self, held: Duration, now: Duration) {
        let last = Duration::from_micros(self.slow_for_us.load(Relaxed));
        let until = Duration::from_micros(self.slow_until_us.load(Relaxed));
        let again = if now < until {
            // Several lanes may have met it in the same moment; that is no second time.
            last
        } else if now < until + last {
            last * 2
        } else {
            Duration::ZERO
        };
        let slow_for = (held * TIMES).max(again).min(SLOW_FOR_MAX);
        self.slow_for_us.store(slow_for.as_micros() as u64, Relaxed);
        self.slow_until_us.store((now + slow_for).as_micros() as u64, Relaxed);
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
    const HOUR: Duration = Duration::from_secs(3600);
    const QUICK: Duration = Duration::from_micros(60);

    /// One sleeps in a write while nobody else writes.
    fn sleeps(judge: &HoldUp, slept: Duration, now: Duration) -> bool {
        judge.wrote(judge.begin(), slept, slept, now)
    }

    #[test]
    fn one_long_write_sends_the_next_ones_elsewhere() {
        let judge = HoldUp::default();
        assert!(!sleeps(&judge, LONG - QUICK, 9 * MS) && !judge.is_slow(9 * MS));
        assert!(sleeps(&judge, 12 * MS, 13 * MS));
        assert!(judge.is_slow(13 * MS) && judge.is_slow(13 * MS + 12 * MS * TIMES - QUICK));
        assert!(!judge.is_slow(13 * MS + 12 * MS * TIMES), "then it is tried again");
    }

    /// How much of what is done a thread finds that it has slept, and how long it took. The first look is as
    /// old as it may be.
    fn found(work: impl FnOnce()) -> (Duration, Duration) {
        before_write();
        let started = Instant::now();
        before_write();
        work();
        let took = started.elapsed();
        (slept(took).unwrap_or_default(), took)
    }

    fn spin(time: Duration) {
        let started = Instant::now();
        while started.elapsed() < time {
            std::hint::spin_loop();
        }
    }

    /// The system's own count. Whatever else the machine does, a thread that never sleeps is not found to have, and
    /// one that does is found to have slept all of what it asked for, but for what its first look may be too old.
    #[test]
    fn a_thread_that_works_does_not_sleep_and_one_that_sleeps_does() {
        if ThisThread::new().look().is_none() {
            return;
        }
        let (worked, _) = found(|| spin(60 * MS));
        assert!(worked < LONG, "{worked:?}");
        let (rested, took) = found(|| std::thread::sleep(20 * MS));
        assert!(rested + LOOK_EVERY >= 20 * MS && rested <= took, "{rested:?} of {took:?}");
        let (both, _) = found(|| {
            spin(40 * MS);
            std::thread::sleep(20 * MS);
        });
        assert!(both + LOOK_EVERY >= 20 * MS && both < 40 * MS, "{both:?}");
    }

    #[test]
    fn a_thread_does_not_look_again_before_it_has_to() {
        let at = || THIS_THREAD.with_borrow(|thread| thread.seen.map(|seen| seen.at));
        before_write();
        let Some(first) = at() else { return };
        spin(first.elapsed() + LOOK_EVERY);
        before_write();
        let second = at().expect("as just now");
        assert!(second > first, "what is old is of no use");
        before_write();
        let third = at().expect("as just now");
        assert!(third == second || third > second + LOOK_EVERY);
    }

    /// Plays a minute of writes of which every `one_in` takes 12 ms, and tells for how long a task is held up.
    fn held_up_in_a_minute(one_in: u32) -> Duration {
        let judge = HoldUp::default();
        let (mut now, mut held, mut writes) = (Duration::ZERO, Duration::ZERO, 0);
        while now < 60 * 1000 * MS {
            if judge.is_slow(now) {
                now += MS;
                continue;
            }
            writes += 1;
            let took = if writes % one_in == 0 { 12 * MS } else { QUICK };
            now += took;
            held += if took > QUICK { took } else { Duration::ZERO };
            sleeps(&judge, took, now);
        }
        held
    }

    #[test]
    fn a_disk_that_stays_slow_takes_less_and_less_of_the_time_of_network_tasks() {
        for one_in in [1, 2, 16, 40, 1000] {
            let held = held_up_in_a_minute(one_in);
            assert!(held < 60 * 12 * MS, "one in {one_in}, of a minute: {held:?}");
        }
    }

    #[test]
    fn however_rare_slow_writes_are_they_take_a_ninth_of_the_time_at_most() {
        for one_in in (0..20).map(|power| 1 << power) {
            let held = held_up_in_a_minute(one_in);
            assert!(held < 60 * 1000 * MS / 9, "one in {one_in}, of a minute: {held:?}");
        }
    }

    #[test]
    fn a_disk_is_never_left_alone_for_longer_than_the_bound() {
        let judge = HoldUp::default();
        sleeps(&judge, HOUR, MS);
        assert!(!judge.is_slow(MS + SLOW_FOR_MAX));
    }

    #[test]
    fn a_disk_is_cleared_when_it_was_quick_for_as_long_as_it_was_left_alone() {
        let judge = HoldUp::default();
        let first = 12 * MS * TIMES;
        sleeps(&judge, 12 * MS, Duration::ZERO);
        sleeps(&judge, 12 * MS, 2 * first - QUICK);
        let second = 2 * first - QUICK + 2 * first;
        assert!(judge.is_slow(second - QUICK), "long again, so twice as long");
        assert!(!judge.is_slow(second));
        sleeps(&judge, 12 * MS, second + 2 * first);
        assert!(!judge.is_slow(second + 3 * first), "as if it were the first");
    }

    #[test]
    fn whoever_waits_for_another_that_has_the_lock_of_the_file_has_not_met_the_disk() {
        let judge = HoldUp::default();
        let (owner, waiting) = (judge.begin(), judge.begin());
        assert!(!judge.wrote(owner, 30 * MS, 2 * MS, 30 * MS), "it had no core");
        assert!(!judge.wrote(waiting, 30 * MS, 29 * MS, 30 * MS), "and so no lock");
        assert!(sleeps(&judge, 30 * MS, 60 * MS), "that is over");
        let (owner, waiting) = (judge.begin(), judge.begin());
        assert!(judge.wrote(owner, 30 * MS, 28 * MS, 90 * MS), "the disk");
        assert!(judge.wrote(waiting, 30 * MS, 29 * MS, 90 * MS), "and again");
    }

    #[test]
    fn several_lanes_that_meet_the_same_stall_count_once() {
        let judge = HoldUp::default();
        sleeps(&judge, 12 * MS, Duration::ZERO);
        sleeps(&judge, 12 * MS, MS);
        assert!(!judge.is_slow(MS + 12 * MS * TIMES));
    }
}
