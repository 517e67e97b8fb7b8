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
use super::units::{Bytes, Count, Countdown, percent};
use super::{Output, Style};

/// How often a caller should call [`Progress::update`]. Anything rarer than the bar's own
/// needs is dropped here, not there.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// What is done sooner needs no line and no event.
const SHORT: Duration = Duration::from_millis(300);
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
    /// Files found so far, while it is not known yet how many bytes there are.
    pub(crate) files: u64,
    /// Like the bytes, in pieces; 0 of 0 where pieces do not matter.
    pub(crate) pieces: u64,
    pub(crate) pieces_total: u64,
    /// Peers linked to, and those among them who hold everything.
    pub(crate) peers: u64,
    pub(crate) seeders: u64,
    /// Bytes sent to others.
    pub(crate) uploaded: u64,
    /// Nobody has what is missing.
    pub(crate) alone: Option<Alone>,
}

/// With nobody to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alone {
    /// Left out if it never does.
    pub(crate) gives_up_in: Option<Duration>,
}

impl Standing {
    /// Whether more has changed than a countdown.
    fn is_news_after(&self, earlier: &Self) -> bool {
        let timeless = |standing: &Self| {
            let alone = standing.alone.as_ref().map(|_| Alone { gives_up_in: None });
            Self { alone, ..standing.clone() }
        };
        timeless(self) != timeless(earlier)
    }
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// A share is made from files.
    Hashing,
    /// Files are checked against a manifest.
    Verifying,
    /// A share is fetched.
    Fetching,
    /// A complete share is served.
    Seeding,
    /// A swarm is simulated.
    Simulating,
}

impl Work {
    /// Its name in events and before a bar.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Hashing => "hashing",
            Self::Verifying => "verifying",
            Self::Fetching => "fetching",
            Self::Seeding => "seeding",
            Self::Simulating => "simulating",
        }
    }
}

/// Shows one piece of work from start to end.
pub(crate) struct Progress {
    output: Output,
    work: Work,
    /// What was shown last: a node that idles prints no lines.
    last: Standing,
    shown: Shown,
    rate: Rate,
    uploads: Rate,
}

enum Shown {
    Bar(ProgressBar),
    /// A line or an event each so often.
    Now(Pace),
    Nothing,
}

/// When there is to be a line or an event: soon, then each so often.
#[derive(Debug)]
struct Pace {
    every: Duration,
    due: Option<Duration>,
}

impl Pace {
    fn new(every: Duration) -> Self {
        Self { every, due: None }
    }

    fn is_due(&mut self, now: Duration) -> bool {
        now >= *self.due.get_or_insert(now + SHORT)
    }

    fn shown(&mut self, now: Duration) {
        self.due = Some(now + self.every);
    }
}

impl Progress {
    /// Begins to show some work.
    pub(crate) fn new(output: &Output, work: Work) -> Self {
        let shown = match output.style() {
            Style::Bar => Shown::Bar(output.bars.add(bar(work))),
            Style::Lines => Shown::Now(Pace::new(LINES_EVERY)),
            Style::Events => Shown::Now(Pace::new(EVENTS_EVERY)),
            Style::Silent => Shown::Nothing,
        };
        Self {
            output: output.clone(),
            work,
            last: Standing::default(),
            shown,
            rate: Rate::default(),
            uploads: Rate::default(),
        }
    }

    /// Shows where it stands now. `now` counts from any fixed point.
    pub(crate) fn update(&mut self, now: Duration, standing: &Standing) {
        let rate = self.rate.record(now, standing.bytes);
        let upload_rate = self.uploads.record(now, standing.uploaded);
        let left = time_left(standing, rate).filter(|_| self.rate.is_steady(now));
        let text = || match self.work {
            Work::Seeding => describe_seeding(standing, upload_rate),
            Work::Fetching => describe_fetching(standing, rate, left),
            Work::Hashing | Work::Verifying | Work::Simulating => describe(standing, rate, left),
        };
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_length(standing.bytes_total.max(1));
                bar.set_position(standing.bytes);
                bar.set_message(text());
            }
            Shown::Now(pace) => {
                if !pace.is_due(now) || !standing.is_news_after(&self.last) {
                    return;
                }
                pace.shown(now);
                self.output.say(format_args!("{}: {}", self.work.name(), text()));
                let event = Event::progress(self.work, standing, rate, upload_rate, left);
                self.output.event(&event);
                self.last = standing.clone();
            }
            Shown::Nothing => {}
        }
    }
}

fn bar(work: Work) -> ProgressBar {
    let template = match work {
        // It has no end to approach.
        Work::Seeding => "{prefix} {wide_msg}",
        // What does not fit on the terminal's line is cut: a bar that wraps cannot be redrawn.
        _ => "{prefix} [{bar:16}] {wide_msg}",
    };
    let style = ProgressStyle::with_template(template)
        .expect("the templates are constants")
        .progress_chars("=> ");
    ProgressBar::new(0).with_style(style).with_prefix(work.name())
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Also when the work fails: an abandoned bar would stand over the error's line.
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// Where it is not known yet how much there is to do.
const BEGINNING: &str = "beginning";

/// `63 % of 6.5 GiB, 12.3 MiB/s, 0:12 left`.
fn describe(standing: &Standing, rate: u64, left: Option<Duration>) -> String {
    let Standing { bytes, bytes_total, files, .. } = *standing;
    if bytes_total == 0 && files > 0 {
        return format!("{} found so far", Count(files, "file"));
    }
    if bytes_total == 0 {
        return BEGINNING.to_owned();
    }
    let mut text = format!("{:3} % of {}", percent(bytes, bytes_total), Bytes(bytes_total));
    _ = write!(text, ", {}/s", Bytes(rate));
    if let Some(left) = left {
        _ = write!(text, ", {} left", Countdown(left));
    }
    text
}

/// The same, then `5 peers, 630/1000 pieces`.
fn describe_fetching(standing: &Standing, rate: u64, left: Option<Duration>) -> String {
    let Standing { bytes, bytes_total, pieces, pieces_total, peers, .. } = *standing;
    if let Some(alone) = &standing.alone {
        return format!(
            "{:3} % of {}, {}",
            percent(bytes, bytes_total),
            Bytes(bytes_total),
            describe_alone(alone, peers)
        );
    }
    let text = describe(standing, rate, left);
    format!("{text}, {}, {pieces}/{pieces_total} pieces", Count(peers, "peer"))
}

/// `no peers; trying again, giving up in 59:43`.
fn describe_alone(alone: &Alone, peers: u64) -> String {
    let who = match peers {
        0 => "no peers".to_owned(),
        some => format!("{} without what is missing", Count(some, "peer")),
    };
    match alone.gives_up_in {
        Some(left) => format!("{who}; trying again, giving up in {}", Countdown(left)),
        None => format!("{who}; trying again"),
    }
}

/// `5 peers, 3 of them complete, 1.2 GiB sent, 12.3 MiB/s`.
fn describe_seeding(standing: &Standing, rate: u64) -> String {
    let Standing { peers, seeders, uploaded, .. } = *standing;
    let (peers, sent, rate) = (Count(peers, "peer"), Bytes(uploaded), Bytes(rate));
    format!("{peers}, {seeders} complete, {sent} sent, {rate}/s")
}

/// How long the rest takes at this rate, in whole seconds rounded up.
fn time_left(standing: &Standing, rate: u64) -> Option<Duration> {
    let left = standing.bytes_total.saturating_sub(standing.bytes);
    (rate > 0 && left > 0).then(|| Duration::from_secs(left.div_ceil(rate)))
}

/// Bytes per second over the last few seconds.
#[derive(Debug, Default)]
struct Rate {
    samples: VecDeque<(Duration, u64)>,
    /// When the count last changed, and since when it has never stood still for a whole window.
    changed: Duration,
    moving_since: Duration,
}

impl Rate {
    /// Takes in a count so far; gives the rate now.
    fn record(&mut self, now: Duration, count: u64) -> u64 {
        let last = self.samples.back().map(|(_, count)| *count);
        if last.is_none_or(|last| last != count) {
            if last.is_none() || now.saturating_sub(self.changed) >= RATE_WINDOW {
                self.moving_since = now;
            }
            self.changed = now;
        }
        self.samples.push_back((now, count));
        // One sample older than the window stays, so that the window is always covered.
        while self.samples.get(1).is_some_and(|(at, _)| now.saturating_sub(*at) >= RATE_WINDOW) {
            self.samples.pop_front();
        }
        let (since, before) = self.samples[0];
        let elapsed = now.saturating_sub(since).as_secs_f64();
        if elapsed > 0.0 { (count.saturating_sub(before) as f64 / elapsed) as u64 } else { 0 }
    }

    /// Whether the rate is that of a whole window: before, and after a pause, it says nothing of
    /// what is to come.
    fn is_steady(&self, now: Duration) -> bool {
        now.saturating_sub(self.moving_since) >= RATE_WINDOW
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
    fn nothing_is_foretold_before_a_whole_window_and_after_a_pause() {
        let mut rate = Rate::default();
        let mut steady = |second, count| {
            rate.record(seconds(second), count);
            rate.is_steady(seconds(second))
        };
        assert!(!steady(0, 0) && !steady(4, 400) && steady(5, 500));
        assert!(steady(9, 500), "a moment's silence");
        assert!(!steady(20, 501) && !steady(24, 900) && steady(25, 1000));
    }

    #[test]
    fn what_has_no_size_yet_shows_no_percentage() {
        let standing = Standing { peers: 2, ..Standing::default() };
        assert_eq!(describe(&standing, 0, None), "beginning");
        assert_eq!(describe_fetching(&standing, 0, None), "beginning, 2 peers, 0/0 pieces");
        let standing = Standing { files: 1234, ..Standing::default() };
        assert_eq!(describe(&standing, 0, None), "1234 files found so far");
    }

    #[test]
    fn something_is_shown_within_half_a_second_and_then_each_so_often() {
        let millis = Duration::from_millis;
        let mut pace = Pace::new(LINES_EVERY);
        assert!(!pace.is_due(millis(0)) && !pace.is_due(millis(200)), "short work needs no line");
        assert!(pace.is_due(millis(400)));
        assert!(pace.is_due(millis(450)), "as long as there was nothing to show");
        pace.shown(millis(450));
        assert!(!pace.is_due(millis(5400)) && pace.is_due(millis(5450)));
    }

    #[test]
    fn whoever_is_alone_sees_for_how_long_it_is_tried_and_no_line_for_each_second() {
        let alone = |left| Some(Alone { gives_up_in: Some(seconds(left)) });
        let standing =
            Standing { bytes: 63, bytes_total: 100, alone: alone(3583), ..Standing::default() };
        assert_eq!(
            describe_fetching(&standing, 0, None),
            " 63 % of 100 B, no peers; trying again, giving up in 59:43"
        );
        let forever = Alone { gives_up_in: None };
        assert_eq!(describe_alone(&forever, 2), "2 peers without what is missing; trying again");
        let later = Standing { alone: alone(3500), ..standing.clone() };
        assert!(!later.is_news_after(&standing));
        assert!(standing.is_news_after(&Standing { alone: None, ..standing.clone() }));
        assert!(Standing { peers: 1, ..later }.is_news_after(&standing));
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
            describe_fetching(&standing, 10, time_left(&standing, 10)),
            " 63 % of 1000 B, 10 B/s, 0:37 left, 1 peer, 63/100 pieces"
        );
        assert_eq!(time_left(&standing, 0), None);
        assert_eq!(describe_seeding(&standing, 1024), "1 peer, 0 complete, 0 B sent, 1.0 KiB/s");
    }
}
