//! How much a peer may say on one lane, and trackers in all: control messages cost whoever hears them work,
//! and nothing whoever sends them again and again.
//!
//! What is said is measured by what the lane sends: a request of a dozen bytes asks for thousands. Beyond
//! that there is an allowance for news, and much for a beginning. A lane whose peer says more does not read
//! for as long as the allowance takes to make up for it: the peer's own socket holds it up, nobody is
//! punished, and an honest one that had much to say is heard a moment later.
//!
//! Trackers have one allowance for all of a node, for a ticket names sixteen. Each has a little besides, enough for a list
//! now and then: those that flood us, who take what there is for all, do not keep us from hearing the others.
//! Not here: what is said too often to make sense (`session`).

use std::time::Duration;

/// Bytes of control messages a second that need no reason. News of a piece is a dozen bytes, so that is
/// over 5,000 pieces in a second; and two hundred peers together keep no core busy with it.
const ALLOWED: u64 = 64 * 1024;
/// So many bytes may come at once: what an honest peer may have to say of a million pieces, each a run of
/// its own, and more than waits in sockets.
const ALLOWED_AT_ONCE: u64 = 8 * 1024 * 1024;
/// The same for all trackers of a node: ten lists as long as they may be. What they say makes more work than what peers
/// say, for each address is compared with thousands.
const OF_TRACKERS_AT_ONCE: u64 = 1024 * 1024;
/// Each tracker's own, besides: a list as long as it may be, of a thousand peers, and the same again each half a minute.
const OF_EACH_TRACKER_AT_ONCE: u64 = 128 * 1024;
/// See [`OF_EACH_TRACKER_AT_ONCE`].
const OF_EACH_TRACKER: u64 = 4 * 1024;
/// One byte of requests for so many that are sent: blocks are 4 KiB at least, and their names 40 bytes at
/// most.
const SENT_PART: u64 = 64;

/// The account of one lane, of a tracker, or of all trackers.
#[derive(Clone, Copy, Debug)]
pub struct Chatter {
    /// Bytes that are allowed a second.
    allowed: u64,
    /// So much may be left at most.
    at_once: u64,
    /// What may still be said, and what was too much.
    left: u64,
    debt: u64,
    at: Duration,
}

impl Chatter {
    /// A lane's, on which nothing was said yet.
    pub fn new(now: Duration) -> Self {
        Self::with(ALLOWED, ALLOWED_AT_ONCE, now)
    }

    /// That of a tracker which has said nothing yet: its own.
    pub fn of_tracker(now: Duration) -> Self {
        Self::with(OF_EACH_TRACKER, OF_EACH_TRACKER_AT_ONCE, now)
    }

    /// That of all trackers of a node together.
    pub fn of_trackers(now: Duration) -> Self {
        Self::with(ALLOWED, OF_TRACKERS_AT_ONCE, now)
    }

    fn with(allowed: u64, at_once: u64, now: Duration) -> Self {
        Self { allowed, at_once, left: at_once, debt: 0, at: now }
    }

    /// A control message of so many bytes has come.
    pub fn heard(&mut self, now: Duration, bytes: usize) {
        self.catch_up(now);
        self.charge(bytes as u64);
    }

    /// A tracker has said so many bytes. What its own allowance does not reach for is of the `common` one.
    pub fn heard_beside(&mut self, common: &mut Self, now: Duration, bytes: usize) {
        self.heard(now, bytes);
        self.settle(common, now);
    }

    /// Until when nothing more is to be heard of a tracker, if that is so.
    pub fn rests_beside(&mut self, common: &mut Self, now: Duration) -> Option<Duration> {
        self.settle(common, now);
        let own = self.rests_until(now)?;
        Some(common.rests_until(now).map_or(own, |free| free.min(own)))
    }

    /// What was too much is a debt of all, if they have none.
    fn settle(&mut self, common: &mut Self, now: Duration) {
        common.catch_up(now);
        if common.debt == 0 {
            common.charge(std::mem::take(&mut self.debt));
        }
    }

    fn charge(&mut self, bytes: u64) {
        self.debt += bytes.saturating_sub(self.left);
        self.left = self.left.saturating_sub(bytes);
    }

    fn catch_up(&mut self, now: Duration) {
        let span = now.saturating_sub(self.at).min(Duration::from_secs(3600));
        let allowed = (span.as_secs_f64() * self.allowed as f64) as u64;
        // What is worth less than a byte is not lost.
        let worth = Duration::from_secs_f64(allowed as f64 / self.allowed as f64);
        self.at = self.at.max(now.saturating_sub(span.saturating_sub(worth)));
        self.allow(allowed);
    }

    /// So many bytes of payload went to the peer.
    pub fn sent(&mut self, bytes: u32) {
        self.allow(u64::from(bytes) / SENT_PART);
    }

    fn allow(&mut self, bytes: u64) {
        let paid = bytes.min(self.debt);
        self.debt -= paid;
        self.left = (self.left + (bytes - paid)).min(self.at_once);
    }

    /// Until when nothing more is to be heard, if that is so.
    pub fn rests_until(&self, now: Duration) -> Option<Duration> {
        if self.debt == 0 {
            return None;
        }
        let until = self.at + Duration::from_secs_f64(self.debt as f64 / self.allowed as f64);
        (now < until).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: usize = 64 * 1024;

    /// Bytes that are heard within so long of a peer that says whatever it may, by a lane that sends so
    /// many bytes for each of its messages.
    fn heard_in(span: Duration, sent: u32) -> u64 {
        let (mut chatter, mut now, mut heard) = (Chatter::new(Duration::ZERO), Duration::ZERO, 0);
        while now < span {
            chatter.heard(now, FRAME);
            chatter.sent(sent);
            heard += FRAME as u64;
            now = chatter.rests_until(now).unwrap_or(now + Duration::from_millis(1));
        }
        heard
    }

    #[test]
    fn a_flood_is_heard_at_the_allowance_and_no_faster() {
        let minute = heard_in(Duration::from_secs(60), 0);
        let allowed = ALLOWED_AT_ONCE + 60 * ALLOWED;
        assert!(minute.abs_diff(allowed) <= 2 * FRAME as u64, "{minute} of {allowed}");
    }

    /// Bytes that are heard of each of so many trackers in so long, all of which say whatever they may.
    fn heard_of_trackers(count: usize, span: Duration) -> Vec<u64> {
        let mut common = Chatter::of_trackers(Duration::ZERO);
        let mut trackers = vec![(Chatter::of_tracker(Duration::ZERO), 0); count];
        for millis in 0..span.as_millis() as u64 {
            let now = Duration::from_millis(millis);
            for (own, heard) in &mut trackers {
                while own.rests_beside(&mut common, now).is_none() {
                    own.heard_beside(&mut common, now, FRAME);
                    *heard += FRAME as u64;
                }
            }
        }
        trackers.into_iter().map(|(_, heard)| heard).collect()
    }

    #[test]
    fn trackers_are_heard_at_one_allowance_for_all_and_a_little_for_each() {
        for count in [1, 15] {
            let all: u64 = heard_of_trackers(count, Duration::from_secs(60)).iter().sum();
            let each = OF_EACH_TRACKER_AT_ONCE + 60 * OF_EACH_TRACKER + 2 * FRAME as u64;
            let most = OF_TRACKERS_AT_ONCE + 60 * ALLOWED + count as u64 * each;
            let least = OF_TRACKERS_AT_ONCE + 59 * ALLOWED;
            assert!((least..=most).contains(&all), "{all} of {count}, at most {most}");
        }
    }

    #[test]
    fn a_tracker_that_says_little_is_heard_at_once_whatever_others_say() {
        let mut common = Chatter::of_trackers(Duration::ZERO);
        let mut own = Chatter::of_tracker(Duration::ZERO);
        for half_minute in 0..20 {
            let now = Duration::from_secs(30 * half_minute);
            common.heard(now, 100 << 20);
            own.heard_beside(&mut common, now, 100 * 1024);
            assert_eq!(own.rests_beside(&mut common, now), None);
        }
    }

    #[test]
    fn time_counts_however_often_a_tracker_is_looked_after_in_it() {
        let mut own = Chatter::of_tracker(Duration::ZERO);
        own.heard(Duration::ZERO, (OF_EACH_TRACKER_AT_ONCE + OF_EACH_TRACKER) as usize);
        let rests = |micros| {
            let now = Duration::from_micros(micros);
            own.heard(now, 0);
            own.rests_until(now).is_some()
        };
        let rested = (0..2_000_000).step_by(100).map(rests).filter(|rests| *rests).count();
        assert!((9_990..10_010).contains(&rested), "a second, and not {rested} times 100 us");
    }

    #[test]
    fn whoever_is_sent_what_it_asks_for_is_never_held_up() {
        // A frame full of requests for blocks of 4 KiB, which is some 2,000.
        let sent = 2_000 * 4096;
        assert_eq!(heard_in(Duration::from_secs(5), sent), 5_000 * FRAME as u64);
    }
}
