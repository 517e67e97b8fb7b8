//! The peer's end: when to connect to the tracker, announce, give up and try again.
//!
//! A value: time and randomness are arguments, and [`Announcer::step`] says what is next.
//!
//! Invariants: a tracker that comes back is found within 5 s ([`BACK_OFF_MAX`] and the time it
//! takes to connect); a tracker that has died without a word is given up within
//! [`ANSWER_MAX`] of the next announce; however a tracker behaves, it is not dialled more than
//! about twice a second.
//!
//! Not here: the peers that were found.

use std::time::Duration;

/// Wait before the first attempt after a connection was lost.
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait between attempts.
const BACK_OFF_MAX: Duration = Duration::from_secs(4);
/// Announces this long after registering: a swarm that has just started fills in seconds.
const EARLY_ANNOUNCES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// How long the tracker may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bounds on the interval that a tracker asks for: it can neither make us a flood nor mute.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
const INTERVAL_MAX: Duration = Duration::from_secs(600);
/// Until a tracker has said what interval it wants.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(30);

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Connect and send REGISTRO; then call [`Announcer::registered`] or [`Announcer::lost`].
    Connect,
    /// Send ANUNCIO; the caller is taken to have done it.
    Announce,
    /// Close the connection, the tracker has not answered; then call [`Announcer::lost`].
    Disconnect,
    /// Nothing until this time, unless something happens on the connection.
    Wait(Duration),
}

/// One peer's dealings with one tracker for one share.
#[derive(Debug)]
pub struct Announcer {
    state: State,
    interval: Duration,
    /// Wait before the next attempt, if the connection is lost now.
    back_off: Duration,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// No connection; the next attempt at this time.
    Away { retry: Duration },
    /// The caller is connecting.
    Connecting,
    /// Registered.
    There {
        since: Duration,
        /// The next announce.
        announce: Duration,
        /// How many of the early announces have been made.
        early: usize,
        /// When the tracker must have answered, if it owes an answer.
        answer_by: Option<Duration>,
    },
}

impl Announcer {
    /// Wants to connect at once.
    pub fn new() -> Self {
        Self {
            state: State::Away { retry: Duration::ZERO },
            interval: INTERVAL_DEFAULT,
            back_off: BACK_OFF_MIN,
        }
    }

    /// What to do now. Call again after doing it, and whenever something has happened.
    pub fn step(&mut self, now: Duration, rng: &mut fastrand::Rng) -> Step {
        match &mut self.state {
            State::Away { retry } if *retry > now => Step::Wait(*retry),
            State::Away { .. } => {
                self.state = State::Connecting;
                Step::Connect
            }
            State::Connecting => Step::Wait(Duration::MAX),
            State::There { answer_by: Some(answer_by), .. } if *answer_by <= now => {
                Step::Disconnect
            }
            State::There { since, announce, early, answer_by } => {
                if *announce > now {
                    return Step::Wait(answer_by.map_or(*announce, |by| by.min(*announce)));
                }
                *early += 1;
                *announce = match EARLY_ANNOUNCES.get(*early) {
                    Some(after) => *since + *after,
                    None => now + jittered(self.interval, rng),
                };
                answer_by.get_or_insert(now + ANSWER_MAX);
                Step::Announce
            }
        }
    }

    /// The connection stands and REGISTRO is sent.
    pub fn registered(&mut self, now: Duration) {
        self.state = State::There {
            since: now,
            announce: now + EARLY_ANNOUNCES[0],
            early: 0,
            answer_by: Some(now + ANSWER_MAX),
        };
    }

    /// LISTA_PEERS came, with the interval in seconds that the tracker asks for.
    pub fn answered(&mut self, interval: u32) {
        let asked = Duration::from_secs(interval.into());
        self.interval = asked.clamp(INTERVAL_MIN, INTERVAL_MAX);
        if let State::There { answer_by, .. } = &mut self.state {
            *answer_by = None;
        }
    }

    /// The connection could not be made, or has ended.
    pub fn lost(&mut self, now: Duration, rng: &mut fastrand::Rng) {
        if let State::There { since, .. } = self.state
            && now.saturating_sub(since) >= BACK_OFF_MAX
        {
            // It was a real one. A tracker that always hangs up at once does not get here.
            self.back_off = BACK_OFF_MIN;
        }
        self.state = State::Away { retry: now + jittered(self.back_off, rng) };
        self.back_off = (self.back_off * 2).min(BACK_OFF_MAX);
    }
}

impl Default for Announcer {
    fn default() -> Self {
        Self::new()
    }
}

/// Between three quarters of a time and all of it, so that a swarm that lost its tracker in one
/// moment does not come back in one moment.
fn jittered(time: Duration, rng: &mut fastrand::Rng) -> Duration {
    time.mul_f64(0.75 + 0.25 * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rng() -> fastrand::Rng {
        fastrand::Rng::with_seed(3)
    }

    fn secs(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Registered at `now`, the tracker has answered.
    fn there(now: Duration) -> Announcer {
        let mut announcer = Announcer::new();
        assert_eq!(announcer.step(now, &mut rng()), Step::Connect);
        announcer.registered(now);
        announcer.answered(30);
        announcer
    }

    #[test]
    fn it_announces_after_1_2_and_4_seconds_and_then_at_the_interval() {
        let start = secs(100.0);
        let mut announcer = there(start);
        let mut times = Vec::new();
        let mut now = start;
        while times.len() < 5 {
            match announcer.step(now, &mut rng()) {
                Step::Announce => {
                    times.push((now - start).as_secs_f64());
                    announcer.answered(30);
                }
                Step::Wait(until) => now = until,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(times[..3], [1.0, 2.0, 4.0]);
        for pair in times[2..].windows(2) {
            assert!((22.5..=30.0).contains(&(pair[1] - pair[0])), "{times:?}");
        }
    }

    #[test]
    fn while_it_connects_there_is_nothing_else_to_do() {
        let mut announcer = Announcer::new();
        assert_eq!(announcer.step(secs(0.0), &mut rng()), Step::Connect);
        assert_eq!(announcer.step(secs(1.0), &mut rng()), Step::Wait(Duration::MAX));
    }

    #[test]
    fn it_backs_off_for_half_a_second_then_twice_as_long_each_time_up_to_four() {
        let (mut announcer, mut rng) = (Announcer::new(), rng());
        let mut now = secs(10.0);
        for wait in [0.5, 1.0, 2.0, 4.0, 4.0, 4.0] {
            assert_eq!(announcer.step(now, &mut rng), Step::Connect);
            announcer.lost(now, &mut rng);
            let Step::Wait(until) = announcer.step(now, &mut rng) else { panic!("no wait") };
            let waited = (until - now).as_secs_f64();
            assert!((wait * 0.75..=wait).contains(&waited), "{waited} for {wait}");
            now = until;
        }
    }

    #[test]
    fn after_a_real_connection_it_starts_from_half_a_second_again() {
        let mut announcer = there(secs(0.0));
        let lost = secs(0.0) + BACK_OFF_MAX;
        announcer.lost(lost, &mut rng());
        announcer.registered(lost);
        announcer.lost(lost + BACK_OFF_MAX, &mut rng());
        let Step::Wait(until) = announcer.step(lost + BACK_OFF_MAX, &mut rng()) else {
            panic!("no wait")
        };
        assert!(until - (lost + BACK_OFF_MAX) <= BACK_OFF_MIN);
    }

    #[test]
    fn a_tracker_that_hangs_up_at_once_is_dialled_ever_more_rarely() {
        let (mut announcer, mut rng) = (Announcer::new(), rng());
        let (mut now, mut dials) = (secs(0.0), 0);
        while now < secs(60.0) {
            match announcer.step(now, &mut rng) {
                Step::Connect => {
                    dials += 1;
                    announcer.registered(now);
                    announcer.answered(30);
                    announcer.lost(now, &mut rng);
                }
                Step::Wait(until) => now = until,
                other => panic!("{other:?}"),
            }
        }
        assert!((15..=24).contains(&dials), "{dials} dials in a minute");
    }

    #[test]
    fn a_tracker_that_does_not_answer_is_given_up() {
        let mut announcer = Announcer::new();
        announcer.step(secs(0.0), &mut rng());
        announcer.registered(secs(0.0));
        assert_eq!(announcer.step(ANSWER_MAX, &mut rng()), Step::Disconnect);

        let mut announcer = there(secs(0.0));
        assert_eq!(announcer.step(secs(1.0), &mut rng()), Step::Announce);
        // More announces while it owes an answer do not give it more time.
        assert_eq!(announcer.step(secs(2.0), &mut rng()), Step::Announce);
        assert_eq!(announcer.step(secs(11.0), &mut rng()), Step::Disconnect);
        announcer.lost(secs(11.0), &mut rng());
        assert!(matches!(announcer.step(secs(11.0), &mut rng()), Step::Wait(_)));
    }

    #[test]
    fn a_tracker_can_ask_for_neither_a_flood_nor_silence() {
        for (asked, least, most) in [(0, 3.75, 5.0), (u32::MAX, 450.0, 600.0)] {
            let mut announcer = there(secs(0.0));
            announcer.answered(asked);
            let mut now = secs(4.0);
            for _ in 0..3 {
                assert_eq!(announcer.step(now, &mut rng()), Step::Announce);
                announcer.answered(asked);
            }
            let Step::Wait(until) = announcer.step(now, &mut rng()) else { panic!("no wait") };
            now = until - now;
            assert!((least..=most).contains(&now.as_secs_f64()), "{now:?}");
        }
    }

    proptest! {
        /// Whatever happens when, every wait ends later than now: the shell cannot spin.
        #[test]
        fn it_never_waits_for_the_past(
            seed: u64, events in prop::collection::vec((0u8..4, 0u64..5_000), 1..60),
        ) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut announcer = Announcer::new();
            let mut now = Duration::ZERO;
            for (event, millis) in events {
                now += Duration::from_millis(millis);
                match event {
                    0 => announcer.registered(now),
                    1 => announcer.answered(millis as u32),
                    2 => announcer.lost(now, &mut rng),
                    _ => {}
                }
                let mut steps = 0;
                loop {
                    steps += 1;
                    prop_assert!(steps < 10, "no end of steps at one time");
                    match announcer.step(now, &mut rng) {
                        Step::Wait(until) => break prop_assert!(until > now),
                        Step::Disconnect => announcer.lost(now, &mut rng),
                        Step::Connect | Step::Announce => {}
                    }
                }
            }
        }
    }
}
