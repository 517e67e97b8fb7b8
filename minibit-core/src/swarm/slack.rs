//! Whether our way out has room: it carries far less than it did of late.
//!
//! A peer that asks for everything and reads nothing fills its socket in a millisecond and has a slot
//! for as long as it is left to it; now and then the kernel finds room for a little more. Nothing is gained
//! by leaving others without: what keeps the link then is those who are answered, not the link. How much it can carry is what it has carried in a second, of
//! late; that the kernels of a few peers took their first hundred kilobytes makes it no more than a slow
//! link has.
//! Not here: how many slots that makes (`slots`).

use std::time::Duration;

/// How long is looked at, at least. A kernel comes back for more with each 32 KiB: for five peers at a time,
/// at worst all at once, that is within two seconds where 0.65 megabits a second go out.
const WINDOW: Duration = Duration::from_secs(2);
/// Less than one part in so many of what was carried leaves room for as many again, and more than rates of
/// a link that is full differ from one second to the next.
const PART: u64 = 8;
/// What was carried counts half after so long, a round: who was near may have gone, and the way to others
/// be slower.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// See the module's header.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slack {
    /// When the window began, and what had been sent by then.
    began: Option<(Duration, u64)>,
    /// Bytes a second, at best, and of the last window.
    carried: u64,
    last: u64,
}

impl Slack {
    /// So many bytes have been handed to all connections, ever. True if a window has ended with room to spare.
    pub(super) fn note(&mut self, now: Duration, sent: u64) -> bool {
        let (began, before) = *self.began.get_or_insert((now, sent));
        let span = now.saturating_sub(began);
        if span < WINDOW {
            return false;
        }
        self.began = Some((now, sent));
        let forgotten = 0.5f64.powf(span.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.last = (sent.saturating_sub(before) as f64 / span.as_secs_f64()) as u64;
        self.carried = self.last.max((self.carried as f64 * forgotten) as u64);
        self.has_room()
    }

    /// Whether the last window ended with room to spare.
    pub(super) fn has_room(&self) -> bool {
        self.last < self.carried / PART
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of these bytes each: whether there was room at their ends.
    fn windows(bytes: &[u64]) -> Vec<bool> {
        let (mut slack, mut sent) = (Slack::default(), 0);
        let ends = (1..).zip(bytes).map(|(number, bytes)| {
            sent += bytes;
            (WINDOW * number, sent)
        });
        slack.note(Duration::ZERO, 0);
        ends.map(|(now, sent)| slack.note(now, sent)).collect()
    }

    #[test]
    fn a_link_that_carries_as_much_as_before_has_no_room_and_one_that_carries_nothing_has() {
        assert_eq!(windows(&[800, 700, 150, 40, 0, 800]), [false, false, false, true, true, false]);
    }

    #[test]
    fn a_link_of_a_megabit_that_filled_five_kernels_first_has_no_room() {
        assert_eq!(windows(&[5 * 150_000, 5 * 32_768, 5 * 32_768]), [false; 3]);
    }

    #[test]
    fn what_was_carried_long_ago_is_forgotten() {
        let mut slack = Slack::default();
        slack.note(Duration::ZERO, 0);
        assert!(!slack.note(WINDOW, 1_000_000));
        let later = WINDOW + HALF_LIFE * 4;
        slack.note(later, 1_000_000);
        assert!(
            !slack.note(later + WINDOW, 1_050_000),
            "a twentieth, of what counts for a sixteenth"
        );
    }
}
