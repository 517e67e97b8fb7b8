//! Progress while bytes move: a bar on a terminal, a line every few seconds elsewhere,
//! events with `--json`.
//!
//! The rate is over the last few seconds, so that it follows what the network does now, and
//! counts only bytes that came in this run: a resumed transfer does not start at gigabytes
//! per second. Percent are rounded down: 100 % means done.
//!
//! Time comes in as an argument; this module has no clock.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::json::Event;
use super::units::{Bytes, Countdown, percent};
use super::{Output, Style};

/// How often a caller should call [`Progress::update`]. Anything rarer than the bar's own
/// needs is dropped here, not there.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const LINES_EVERY: Duration = Duration::from_secs(5);
/// Between two progress events.
const EVENTS_EVERY: Duration = Duration::from_secs(1);
/// The rate is taken over this much of the past.
const RATE_WINDOW: Duration = Duration::from_secs(5);

/// Where a transfer or a check stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Bytes that are verified and here (or checked), and all.
    pub(crate) bytes: u64,
    pub(crate) bytes_total: u64,
    /// The same in pieces; 0 of 0 where pieces do not matter.
    pub(crate) pieces: u64,
    pub(crate) pieces_total: u64,
    /// Peers linked to, and those among them who hold everything.
    pub(crate) peers: u64,
    pub(crate) seeders: u64,
    /// Bytes sent to others.
    pub(crate) uploaded: u64,
}

/// Shows one piece of work from start to end.
pub(crate) struct Progress {
    output: Output,
    what: &'static str,
    shown: Shown,
    rate: Rate,
    uploads: Rate,
}

enum Shown {
    Bar(ProgressBar),
    /// A line or an event each so often, and when the last one was.
    Now {
        every: Duration,
        last: Option<Duration>,
    },
    Nothing,
}

impl Progress {
    /// Begins to show work, called `what`: `hashing`, `fetching`.
    pub(crate) fn new(output: &Output, what: &'static str) -> Self {
        let shown = match output.style() {
            Style::Bar => {
                let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {msg}")
                    .expect("the template is a constant")
                    .progress_chars("=> ");
                let bar = ProgressBar::new(0).with_style(style).with_prefix(what);
                Shown::Bar(output.bars.add(bar))
            }
            Style::Lines => Shown::Now { every: LINES_EVERY, last: None },
            Style::Events => Shown::Now { every: EVENTS_EVERY, last: None },
            Style::Silent => Shown::Nothing,
        };
        Self {
            output: output.clone(),
            what,
            shown,
            rate: Rate::default(),
            uploads: Rate::default(),
        }
    }

    /// Shows where it stands now. `now` counts from any fixed point.
    pub(crate) fn update(&mut self, now: Duration, standing: &Standing) {
        let rate = self.rate.record(now, standing.bytes);
        let upload_rate = self.uploads.record(now, standing.uploaded);
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_length(standing.bytes_total.max(1));
                bar.set_position(standing.bytes);
                bar.set_message(describe(standing, rate));
            }
            Shown::Now { every, last } => {
                // The first line comes after a while: short work needs none.
                let since = *last.get_or_insert(now);
                if now.saturating_sub(since) < *every {
                    return;
                }
                *last = Some(now);
                self.output.say(format_args!("{}: {}", self.what, describe(standing, rate)));
                self.output.event(&Event::progress(self.what, standing, rate, upload_rate));
            }
            Shown::Nothing => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Also when the work fails: an abandoned bar would stand over the error's line.
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// `63 % of 6.5 GiB, 12.3 MiB/s, 0:12 left, 5 peers, 630/1000 pieces`.
fn describe(standing: &Standing, rate: u64) -> String {
    let Standing { bytes, bytes_total, pieces, pieces_total, peers, .. } = *standing;
    let mut text = format!("{:3} % of {}", percent(bytes, bytes_total), Bytes(bytes_total));
    _ = write!(text, ", {}/s", Bytes(rate));
    if let Some(left) = time_left(standing, rate) {
        _ = write!(text, ", {} left", Countdown(left));
    }
    if pieces_total > 0 {
        let s = if peers == 1 { "" } else { "s" };
        _ = write!(text, ", {peers} peer{s}, {pieces}/{pieces_total} pieces");
    }
    text
}

/// How long the rest takes at this rate, in whole seconds rounded up.
pub(super) fn time_left(standing: &Standing, rate: u64) -> Option<Duration> {
    let left = standing.bytes_total.saturating_sub(standing.bytes);
    (rate > 0 && left > 0).then(|| Duration::from_secs(left.div_ceil(rate)))
}

/// Bytes per second over the last few seconds.
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(Duration, u64)>,
}

impl Rate {
    /// Takes in a count so far; gives the rate now.
    fn record(&mut self, now: Duration, count: u64) -> u64 {
        self.samples.push_back((now, count));
        // One sample older than the window stays, so that the window is always covered.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= RATE_WINDOW) {
            self.samples.pop_front();
        }
        let (since, before) = self.samples[0];
        let elapsed = now.saturating_sub(since).as_secs_f64();
        if elapsed > 0.0 { (count.saturating_sub(before) as f64 / elapsed) as u64 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn bytes_that_were_there_before_do_not_count_in_the_rate() {
        let mut rate = Rate::default();
        assert_eq!(rate.record(seconds(0), 1_000_000), 0);
        assert_eq!(rate.record(seconds(1), 1_000_500), 500);
    }

    #[test]
    fn the_rate_forgets_what_is_long_ago() {
        let mut rate = Rate::default();
        for second in 0..=10 {
            rate.record(seconds(second), second * 1000);
        }
        let stalled = (11..=20).map(|second| rate.record(seconds(second), 10_000)).last();
        assert_eq!(stalled, Some(0));
        assert!(rate.samples.len() < 10, "old samples are dropped");
    }

    #[test]
    fn a_standing_is_described_on_one_line() {
        let standing = Standing {
            bytes: 630,
            bytes_total: 1000,
            pieces: 63,
            pieces_total: 100,
            peers: 1,
            ..Standing::default()
        };
        assert_eq!(
            describe(&standing, 10),
            " 63 % of 1000 B, 10 B/s, 0:37 left, 1 peer, 63/100 pieces"
        );
        assert_eq!(time_left(&standing, 0), None);
    }
}
