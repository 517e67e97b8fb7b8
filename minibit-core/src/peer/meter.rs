//! How fast a lane is, how far its peer, and what follows for windows and lane counts.

use std::time::Duration;

use crate::types::limits;

/// Least time between two samples of the rate; shorter ones measure the scheduler.
const SAMPLE: Duration = Duration::from_millis(5);
/// Bytes in flight that a lane starts with, and never goes under unless that is more than it receives in
/// [`WINDOW_SPAN`]; in whole blocks and so many as keep it busy ([`Download::top_up`](super::Download::top_up)) it may be more.
pub(super) const WINDOW_MIN: u64 = limits::BLOCK_LEN_MAX as u64;
/// A slow lane has no more in flight than comes in so long, or than twice what its distance takes. What waits in its queue
/// nobody else fetches: of sixty peers with 10 Mbit/s out and pieces of 16 KiB each had most of what it missed waiting with
/// somebody slow, and was done a tenth later.
const WINDOW_SPAN: Duration = Duration::from_secs(1);
/// Bytes in flight to begin with when the peer is far: growing by doubling takes round trips.
const WINDOW_START_FAR: u64 = 2 * 1024 * 1024;
/// From here on a peer is far. A busy processor makes answers late as well: of ten processes on two
/// cores most answered within 3 to 16 ms.
pub(crate) const FAR: Duration = Duration::from_millis(20);
/// Bytes under way on a link that are worth a lane more: far from what one connection can have.
pub(crate) const LANE_WORTH: u64 = 256 * 1024;
/// Bytes in flight that one lane never exceeds: a gigabit over 130 ms. More distance takes
/// more lanes, because the kernel's send buffer bounds each of them first.
const WINDOW_MAX: u64 = 16 * 1024 * 1024;
/// Time added to the round trip in the window: wake-ups and batching at both ends.
const HANDLING: Duration = Duration::from_millis(1);

/// Throughput and round trip of one lane, learnt from the blocks that arrive.
#[derive(Debug, Clone)]
pub struct RateMeter {
    bytes_per_s: f64,
    sample_started: Duration,
    sample_bytes: u64,
    /// When the last of them arrived.
    arrived: Duration,
    round_trip: Option<Duration>,
    /// What to take for the round trip until there is a sample.
    guess: Option<Duration>,
}

impl RateMeter {
    /// A meter that knows nothing yet.
    pub fn new(now: Duration) -> Self {
        Self {
            bytes_per_s: 0.0,
            sample_started: now,
            sample_bytes: 0,
            arrived: now,
            round_trip: None,
            guess: None,
        }
    }

    /// The lane goes from idle to waiting: time without requests does not count. What came before it
    /// does, or a lane that is asked for a piece now and then would never be known.
    pub fn resume(&mut self, now: Duration) {
        self.sample_started += now.saturating_sub(self.arrived.max(self.sample_started));
    }

    /// That many payload bytes arrived.
    pub fn arrived(&mut self, bytes: u32, now: Duration) {
        self.sample_bytes += u64::from(bytes);
        self.arrived = now;
        let took = now.saturating_sub(self.sample_started);
        if took < SAMPLE {
            return;
        }
        let sample = self.sample_bytes as f64 / took.as_secs_f64();
        // Long samples outweigh the past; a burst of short ones is smoothed.
        let weight = (took.as_secs_f64() / 0.1).clamp(0.2, 0.8);
        self.bytes_per_s = if self.bytes_per_s == 0.0 {
            sample
        } else {
            self.bytes_per_s * (1.0 - weight) + sample * weight
        };
        self.sample_started = now;
        self.sample_bytes = 0;
    }

    /// So many bytes should have come by now, and have not: whatever the rate was, it is less. Nothing is
    /// learnt of a lane whose rate is unknown, nor before the first of them could be here.
    ///
    /// What came in a burst of 5 ms before the wait says nothing of now: counted in, it would keep a lane
    /// fast that has been silent ever since, and two such lanes would hand a piece to and fro for ever.
    pub fn overdue(&mut self, bytes: u32, now: Duration) {
        let waited = now.saturating_sub(self.sample_started);
        let took = waited.saturating_sub(self.round_trip().unwrap_or_default());
        if took < SAMPLE {
            return;
        }
        self.bytes_per_s = self.bytes_per_s.min(f64::from(bytes) / took.as_secs_f64());
    }

    /// The first answer to a request on an idle lane took this long.
    pub fn round_trip_sample(&mut self, sample: Duration) {
        self.round_trip = Some(match self.round_trip {
            Some(known) if known < sample => known + (sample - known) / 16,
            _ => sample,
        });
    }

    /// Something else took this long to be answered. Forgotten with the first sample, for requests
    /// wait for others to be answered.
    pub fn guess_round_trip(&mut self, guess: Duration) {
        self.guess = Some(guess);
    }

    /// Bytes per second, 0 while unknown.
    pub fn rate(&self) -> f64 {
        self.bytes_per_s
    }

    /// Bytes per second that the lane carries at least, by what has come so far: known as soon as a
    /// block is here, where [`Self::rate`] takes a sample.
    pub fn rate_at_least(&self) -> f64 {
        let took = self.arrived.saturating_sub(self.sample_started).max(SAMPLE);
        self.sample_bytes as f64 / took.as_secs_f64()
    }

    /// Round trip of a request, while unknown `None`.
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip.or(self.guess)
    }

    /// Bytes to keep in flight: twice bandwidth times delay, so that the lane never runs dry
    /// while a request is on its way, and growth by doubling while the window is the limit.
    pub fn window(&self) -> u64 {
        if self.bytes_per_s == 0.0 && self.round_trip().is_some_and(|distance| distance >= FAR) {
            return WINDOW_START_FAR;
        }
        let span = self.round_trip().unwrap_or_default() + HANDLING;
        let wanted = 2.0 * self.bytes_per_s * span.as_secs_f64();
        let least = match self.bytes_per_s {
            0.0 => WINDOW_MIN,
            known => WINDOW_MIN.min((known * WINDOW_SPAN.as_secs_f64()) as u64),
        };
        (wanted as u64).clamp(least, WINDOW_MAX)
    }

    /// So few bytes in flight are a reason to ask for more. A slow lane's window is short of what distance there may be that was
    /// not there when it was measured, for others may fill a queue on the way.
    pub fn refill_at(&self) -> u64 {
        match self.window() {
            short if short < WINDOW_MIN => short / 4 * 3,
            window => window / 2,
        }
    }

    /// How long `bytes` more should take at the current rate; `None` while it is unknown.
    pub fn time_for(&self, bytes: u64) -> Option<Duration> {
        (self.bytes_per_s >= 1.0)
            .then(|| Duration::from_secs_f64((bytes as f64 / self.bytes_per_s).min(1e6)))
    }
}

/// How many lanes a link should have.
///
/// One while there is little to move. Else one for each core, up to two: hashing bounds a
/// lane on a fast network, and more than two gained nothing on two cores. Where more links are `carrying` than
/// there are cores, they keep these busy by themselves, and one lane each is cheaper. More with distance,
/// since one connection carries no more than its send buffer (4 MiB by default) a round trip: all at once
/// where the peer is far, for each of them starts slowly, else as bytes `under_way` call for them.
pub fn lanes_wanted(
    round_trip: Option<Duration>,
    cores: usize,
    carrying: usize,
    under_way: u64,
    bytes_left: u64,
) -> u8 {
    const WORTH_A_LANE: u64 = 8 * 1024 * 1024;
    const LANES_FAR: u8 = 8;
    if bytes_left < WORTH_A_LANE {
        return 1;
    }
    let near = if carrying > cores { 1 } else { cores.clamp(1, 2) as u8 };
    let far = match round_trip {
        Some(distance) if distance >= FAR => LANES_FAR,
        _ => (1 + under_way / LANE_WORTH).min(u64::from(LANES_FAR)) as u8,
    };
    let worth = (bytes_left / WORTH_A_LANE).clamp(1, u64::from(limits::LANES_MAX)) as u8;
    far.max(near).min(worth + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    /// Feeds a steady rate for two seconds, in blocks.
    fn steady(bytes_per_s: u64, round_trip: Duration) -> RateMeter {
        let mut meter = RateMeter::new(Duration::ZERO);
        meter.round_trip_sample(round_trip);
        let block = 65_536;
        for number in 1..=(2 * bytes_per_s / block) {
            let now = Duration::from_secs_f64((number * block) as f64 / bytes_per_s as f64);
            meter.arrived(block as u32, now);
        }
        meter
    }

    #[test]
    fn the_window_holds_twice_bandwidth_times_delay() {
        let meter = steady(100 * MIB, Duration::from_millis(20));
        let want = 2.0 * 100.0 * 0.021;
        let got = meter.window() as f64 / MIB as f64;
        assert!((got / want - 1.0).abs() < 0.1, "{got} MiB, wanted about {want}");
    }

    #[test]
    fn time_between_requests_does_not_make_a_lane_slow_and_what_came_before_counts() {
        let mut meter = RateMeter::new(Duration::ZERO);
        for second in 1..=3 {
            let asked = Duration::from_secs(second);
            meter.resume(asked);
            meter.arrived(20_000, asked + Duration::from_millis(2));
        }
        let rate = meter.rate();
        assert!((rate - 1e7).abs() < 1e5, "{rate}, and 10 MB/s while it was waited for");
    }

    #[test]
    fn a_lane_that_was_fast_and_owes_a_block_for_a_second_is_fast_no_more() {
        let mut meter = steady(100 * MIB, Duration::from_millis(1));
        let asked = Duration::from_secs(10);
        meter.resume(asked);
        meter.overdue(65_536, asked + Duration::from_millis(1001));
        assert!(meter.rate() <= 65_536.0, "{}", meter.rate());
        let mut unknown = RateMeter::new(Duration::ZERO);
        unknown.overdue(65_536, Duration::from_secs(1));
        assert_eq!(unknown.rate(), 0.0);
    }

    #[test]
    fn a_burst_that_was_too_short_for_a_sample_does_not_keep_a_silent_lane_fast() {
        let mut meter = steady(100 * MIB, Duration::from_millis(1));
        let burst = Duration::from_secs(3);
        meter.resume(burst);
        meter.arrived(500_000, burst + Duration::from_millis(2));
        let asked = Duration::from_secs(10);
        meter.resume(asked);
        meter.overdue(65_536, asked + Duration::from_millis(201));
        assert!(meter.rate() <= 5.0 * 65_536.0, "{}", meter.rate());
    }

    #[test]
    fn what_cannot_be_here_yet_is_not_overdue() {
        let mut meter = steady(100 * MIB, Duration::from_millis(150));
        let (rate, asked) = (meter.rate(), Duration::from_secs(10));
        meter.resume(asked);
        meter.overdue(65_536, asked + Duration::from_millis(150));
        assert_eq!(meter.rate(), rate);
    }

    #[test]
    fn a_guess_of_the_distance_gives_way_to_the_first_sample() {
        let mut meter = RateMeter::new(Duration::ZERO);
        meter.guess_round_trip(Duration::from_micros(50));
        assert_eq!(meter.round_trip(), Some(Duration::from_micros(50)));
        meter.round_trip_sample(Duration::from_millis(100));
        assert_eq!(meter.round_trip(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_far_peer_is_asked_for_more_from_the_start() {
        let mut meter = RateMeter::new(Duration::ZERO);
        meter.round_trip_sample(Duration::from_millis(50));
        assert_eq!(meter.window(), WINDOW_START_FAR);
    }

    #[test]
    fn the_window_never_leaves_its_bounds() {
        assert_eq!(RateMeter::new(Duration::ZERO).window(), WINDOW_MIN);
        assert_eq!(steady(1000 * MIB, Duration::from_millis(500)).window(), WINDOW_MAX);
        assert_eq!(steady(MIB, Duration::from_millis(1)).window(), WINDOW_MIN);
    }

    #[test]
    fn a_slow_lane_has_no_more_in_flight_than_comes_in_a_second_unless_it_is_far() {
        let window = |distance| steady(65_536, Duration::from_millis(distance)).window() / 1024;
        assert_eq!([window(1), window(400)], [64, 64]);
        assert_eq!(window(999), 2 * 64);
        let refill_at = |rate| steady(rate, Duration::from_millis(1)).refill_at() / 1024;
        assert_eq!([refill_at(65_536), refill_at(MIB)], [48, 128]);
    }

    #[test]
    fn the_round_trip_follows_the_smallest_sample_and_forgets_slowly() {
        let mut meter = RateMeter::new(Duration::ZERO);
        meter.round_trip_sample(Duration::from_millis(160));
        meter.round_trip_sample(Duration::from_millis(20));
        assert_eq!(meter.round_trip(), Some(Duration::from_millis(20)));
        meter.round_trip_sample(Duration::from_millis(180));
        assert_eq!(meter.round_trip(), Some(Duration::from_millis(30)));
    }

    #[test]
    fn lanes_follow_cores_links_distance_and_what_is_left() {
        let far = Some(Duration::from_millis(20));
        assert_eq!(lanes_wanted(None, 2, 1, 0, MIB), 1);
        assert_eq!(lanes_wanted(None, 8, 1, 0, 1024 * MIB), 2);
        assert_eq!(lanes_wanted(None, 1, 1, 0, 1024 * MIB), 1);
        assert_eq!(lanes_wanted(None, 2, 2, 0, 1024 * MIB), 2);
        assert_eq!(lanes_wanted(None, 2, 3, 0, 1024 * MIB), 1);
        assert_eq!(lanes_wanted(None, 2, 3, MIB, 1024 * MIB), 5);
        assert_eq!(lanes_wanted(far, 2, 3, 0, 1024 * MIB), 8);
        assert_eq!(lanes_wanted(far, 2, 1, 0, 16 * MIB), 3);
    }
}
