//! How much a peer may say on one lane, and a tracker in all: control messages cost whoever hears them work,
//! and nothing whoever sends them again and again.
//!
//! What is said is measured by what the lane sends: a request of a dozen bytes asks for thousands. Beyond
//! that there is an allowance for news, and much for a beginning. A lane whose peer says more does not read
//! for as long as the allowance takes to make up for it: the peer's own socket holds it up, nobody is
//! punished, and an honest one that had much to say is heard a moment later.
//! Not here: what is said too often to make sense (`session`).

use std::time::Duration;

/// Bytes of control messages a second that need no reason. News of a piece is a dozen bytes, so that is
/// over 5,000 pieces in a second; and two hundred peers together keep no core busy with it.
const ALLOWED: u64 = 64 * 1024;
/// So many bytes may come at once: what an honest peer may have to say of a million pieces, each a run of
/// its own, and more than waits in sockets.
const ALLOWED_AT_ONCE: u64 = 8 * 1024 * 1024;
/// The same for a tracker: ten lists as long as they may be. What it says makes more work than what peers say, for
/// each address is compared with thousands.
const OF_TRACKER_AT_ONCE: u64 = 1024 * 1024;
/// One byte of requests for so many that are sent: blocks are 4 KiB at least, and their names 40 bytes at
/// most.
const SENT_PART: u64 = 64;

/// The account of one lane, or tracker.
#[derive(Clone, Copy, Debug)]
pub struct Chatter {
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
        Self::with(ALLOWED_AT_ONCE, now)
    }

    /// That of a tracker which has said nothing yet.
    pub fn of_tracker(now: Duration) -> Self {
        Self::with(OF_TRACKER_AT_ONCE, now)
    }

    fn with(at_once: u64, now: Duration) -> Self {
        Self { at_once, left: at_once, debt: 0, at: now }
    }

    /// A control message of so many bytes has come.
    pub fn heard(&mut self, now: Duration, bytes: usize) {
        let span = now.saturating_sub(self.at).min(Duration::from_secs(3600));
        self.at = self.at.max(now);
        self.allow((span.as_secs_f64() * ALLOWED as f64) as u64);
        let bytes = bytes as u64;
        self.debt += bytes.saturating_sub(self.left);
        self.left = self.left.saturating_sub(bytes);
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
        let until = self.at + Duration::from_secs_f64(self.debt as f64 / ALLOWED as f64);
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

    #[test]
    fn whoever_is_sent_what_it_asks_for_is_never_held_up() {
        // A frame full of requests for blocks of 4 KiB, which is some 2,000.
        let sent = 2_000 * 4096;
        assert_eq!(heard_in(Duration::from_secs(5), sent), 5_000 * FRAME as u64);
    }
}
