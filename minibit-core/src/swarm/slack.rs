//! Whether our way out has room: it carries far less than it did of late.
//!
//! A peer that asks for everything and reads nothing fills its socket in a millisecond and has a slot
//! for as long as it is left to it. Nothing is gained by leaving others without: what keeps the link then
//! is those who are answered, not the link. How much it can carry is what it has carried in a second, of
//! late; that the kernels of a few peers took their first hundred kilobytes makes it no more than a slow
//! link has.
//! Not here: how many slots that makes (`slots`).

use std::time::Duration;

/// How long is looked at, at least: blocks take half a second, and are counted when they are out.
const WINDOW: Duration = Duration::from_secs(1);
/// Less than one part in so many of what was carried leaves room for as many again, and more than rates of
/// a link that is full differ from one second to the next.
const PART: u64 = 8;
/// What was carried counts half after so long, a round: who was near may have gone, and the way to others
/// be slower.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// If those who are answered take nothing at all for so long there is room on any link. The kernel of a
/// peer comes back with each 32 KiB: with five of them, all at once, that is after two seconds where 0.65
/// megabits a second go out.
const NOTHING_TAKEN: Duration = Duration::from_secs(2);

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
    /// So many bytes have been sent to all peers, ever, and the last of them that are answered took some
    /// or came to be answered at `taken_at`. True if there is room to spare: at the end of a window only, so
    /// that what follows has one to show.
    pub(super) fn note(&mut self, now: Duration, sent: u64, taken_at: Duration) -> bool {
        let (began, before) = *self.began.get_or_insert((now, sent));
        let span = now.saturating_sub(began);
        if span < WINDOW {
            return false;
        }
        self.began = Some((now, sent));
        let forgotten = 0.5f64.powf(span.as_secs_f64() / HALF_LIFE.as_secs_f64());
        self.last = (sent.saturating_sub(before) as f64 / span.as_secs_f64()) as u64;
        self.carried = self.last.max((self.carried as f64 * forgotten) as u64);
        self.last < self.carried / PART || now >= taken_at + NOTHING_TAKEN
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
        slack.note(Duration::ZERO, 0, Duration::ZERO);
        ends.map(|(now, sent)| slack.note(now, sent, now)).collect()
    }

    #[test]
    fn a_link_that_carries_as_much_as_before_has_no_room_and_one_that_carries_nothing_has() {
        assert_eq!(windows(&[800, 700, 150, 70, 0, 800]), [false, false, false, true, true, false]);
    }

    #[test]
    fn a_link_of_a_megabit_that_filled_five_kernels_first_has_no_room() {
        assert_eq!(windows(&[5 * 150_000, 125_000, 110_000]), [false; 3]);
    }

    #[test]
    fn there_is_room_on_a_link_that_nobody_has_taken_anything_of_for_two_seconds() {
        let mut slack = Slack::default();
        let room = (0..4).map(|second| slack.note(WINDOW * second, 0, Duration::ZERO));
        assert_eq!(room.collect::<Vec<_>>(), [false, false, true, true]);
    }

    #[test]
    fn what_was_carried_long_ago_is_forgotten() {
        let mut slack = Slack::default();
        slack.note(Duration::ZERO, 0, Duration::ZERO);
        assert!(!slack.note(WINDOW, 1_000_000, WINDOW));
        let later = WINDOW + HALF_LIFE * 4;
        slack.note(later, 1_000_000, later);
        assert!(!slack.note(later + WINDOW, 1_050_000, later), "a twentieth, of what counts for a sixteenth");
    }
}
