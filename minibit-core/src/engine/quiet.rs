//! How much of what strangers cause is told, line by line: they must not fill a disk with our log.
//!
//! Not here: what is told.

use std::time::Duration;

/// Lines of one kind are counted by the second.
const SECOND: Duration = Duration::from_secs(1);

/// Lets so many lines through in each second, and counts the others.
#[derive(Debug)]
pub(super) struct Quiet {
    lines_max: u32,
    since: Option<Duration>,
    lines: u32,
    left_out: u64,
}

/// Whether a line is to be told, and how many were left out before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) is_told: bool,
    /// Lines of the seconds before, to be told of once.
    pub(super) left_out: u64,
}

impl Quiet {
    /// So many lines a second.
    pub(super) fn new(lines_max: u32) -> Self {
        Self { lines_max, since: None, lines: 0, left_out: 0 }
    }

    /// There is a line to tell.
    pub(super) fn line(&mut self, now: Duration) -> Line {
        let mut left_out = 0;
        if self.since.is_none_or(|since| now.saturating_sub(since) >= SECOND) {
            self.since = Some(now);
            self.lines = 0;
            left_out = std::mem::take(&mut self.left_out);
        }
        let is_told = self.lines < self.lines_max;
        self.lines += u32::from(is_told);
        self.left_out += u64::from(!is_told);
        Line { is_told, left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_lines_a_second_are_told_and_the_number_of_the_others_later() {
        let mut quiet = Quiet::new(2);
        let at = Duration::from_millis;
        let told = |line: Line| line.is_told;
        let lines: Vec<_> = (0..5).map(|n| told(quiet.line(at(n)))).collect();
        assert_eq!(lines, [true, true, false, false, false]);
        assert_eq!(quiet.line(at(1000)), Line { is_told: true, left_out: 3 });
        assert_eq!(quiet.line(at(1001)), Line { is_told: true, left_out: 0 });
    }
}
