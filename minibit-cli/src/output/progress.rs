//! Progress while bytes move: a bar on a terminal, a line every few seconds elsewhere,
//! events with `--json`.
//!
//! The rate is over the last few seconds, so that it follows what the network does now, and
//! counts only bytes that came in this run: a resumed transfer does not start at gigabytes
//! per second. Percent are rounded down: 100 % means done.
//!
//! Time comes in as an argument; this module has no clock.

use std::collections::VecDeque;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::json::Event;
use super::units::{Bytes, Count, Left, Passed, percent};
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
    /// For how long nothing has come from others, if that is long.
    pub(crate) silent: Option<Duration>,
    /// Nobody has what is missing.
    pub(crate) alone: Option<Alone>,
}

/// With nobody to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Alone {
    /// Left out if it never does.
    pub(crate) gives_up_in: Option<Duration>,
    /// Peers that have what is missing and do not send it.
    pub(crate) unanswering: u64,
}

impl Standing {
    /// Whether more has changed than what a clock counts.
    fn is_news_after(&self, earlier: &Self) -> bool {
        let timeless = |standing: &Self| {
            let alone =
                standing.alone.as_ref().map(|alone| Alone { gives_up_in: None, ..alone.clone() });
            let silent = standing.silent.map(|_| Duration::ZERO);
            Self { alone, silent, ..standing.clone() }
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
        let down = self.rate.record(now, standing.bytes);
        let up = self.uploads.record(now, standing.uploaded);
        // While nothing comes nobody knows.
        let known = self.rate.is_steady(now) && standing.silent.is_none();
        let left = time_left(standing, down).filter(|_| known);
        let rates = Rates { down, up, left };
        let line = || describe(self.work, standing, &rates);
        match &mut self.shown {
            Shown::Bar(bar) => {
                let drawn = drawn(self.work, standing);
                bar.set_message(line().fitted(self.work.name(), drawn.as_deref(), columns()));
            }
            Shown::Now(pace) => {
                if !pace.is_due(now) || !standing.is_news_after(&self.last) {
                    return;
                }
                pace.shown(now);
                self.output.say(format_args!("{}: {}", self.work.name(), line().whole()));
                let event = Event::progress(self.work, standing, down, up, left);
                self.output.event(&event);
                self.last = standing.clone();
            }
            Shown::Nothing => {}
        }
    }
}

fn bar(work: Work) -> ProgressBar {
    // The message is made to fit; on a terminal too narrow for the least of it it is cut, for a line that wraps
    // cannot be redrawn.
    let style = ProgressStyle::with_template("{wide_msg}").expect("the template is a constant");
    ProgressBar::new(0).with_style(style).with_message(work.name())
}

/// How many columns the terminal has that the bar is drawn on.
fn columns() -> usize {
    const USUAL: u16 = 80;
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    size.map(|size| size.ws_col).filter(|columns| *columns > 0).unwrap_or(USUAL).into()
}

impl Drop for Progress {
    fn drop(&mut self) {
        // Also when the work fails: an abandoned bar would stand over the error's line.
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// What a line says, in order: on a narrow terminal the parts of the highest ranks go first, each as a whole.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
struct Part {
    rank: u8,
    /// What parts it from the one before it.
    after: &'static str,
    text: String,
}

/// The rank of what cannot be left out.
const LEAST: u8 = 0;
/// The rank of what moves while nothing else does: it has room on 40 columns, or one would think that all has stopped.
const CLOCK: u8 = 1;
/// The rank of the bar before a line.
const BAR: u8 = 5;
const RANK_MAX: u8 = 6;
/// Columns of a bar within its brackets.
const BAR_COLUMNS: u64 = 16;

impl Line {
    fn add(&mut self, rank: u8, text: String) {
        self.0.push(Part { rank, after: ", ", text });
    }

    /// Adds what goes with the part before it, and is left out before that is.
    fn add_to_last(&mut self, rank: u8, text: String) {
        self.0.push(Part { rank, after: " ", text });
    }

    /// All of it.
    fn whole(&self) -> String {
        self.up_to(RANK_MAX)
    }

    fn up_to(&self, rank: u8) -> String {
        let mut line = String::new();
        for part in self.0.iter().filter(|part| part.rank <= rank) {
            if !line.is_empty() {
                line += part.after;
            }
            line += &part.text;
        }
        line
    }

    /// What of it and of a bar fits on so many columns; at least what is of the lowest rank.
    fn fitted(&self, name: &str, bar: Option<&str>, columns: usize) -> String {
        let of_rank = |rank| match bar.filter(|_| rank >= BAR) {
            Some(bar) => format!("{name} {bar} {}", self.up_to(rank)),
            None => format!("{name}: {}", self.up_to(rank)),
        };
        let mut lines = (1..=RANK_MAX).rev().map(of_rank);
        lines.find(|line| line.chars().count() <= columns).unwrap_or_else(|| of_rank(LEAST))
    }
}

/// `[=====>          ]`; nothing where there is no end to approach.
fn drawn(work: Work, standing: &Standing) -> Option<String> {
    if work == Work::Seeding || standing.bytes_total == 0 {
        return None;
    }
    let done = (percent(standing.bytes, standing.bytes_total) * BAR_COLUMNS / 100) as usize;
    let (head, rest) = if done < BAR_COLUMNS as usize { (">", 15 - done) } else { ("", 0) };
    Some(format!("[{}{head}{}]", "=".repeat(done), " ".repeat(rest)))
}

/// What a line says of some work.
fn describe(work: Work, standing: &Standing, rates: &Rates) -> Line {
    match work {
        Work::Seeding => describe_seeding(standing, rates.up),
        Work::Fetching => describe_fetching(standing, rates),
        Work::Hashing | Work::Verifying | Work::Simulating => describe_work(standing, rates),
    }
}

/// How fast it goes: bytes per second, and how long the rest takes, as far as that can be told.
#[derive(Clone, Copy, Debug, Default)]
struct Rates {
    down: u64,
    up: u64,
    left: Option<Duration>,
}

/// `63 % of 6.5 GiB, 12.3 MiB/s, 12 s left`.
fn describe_work(standing: &Standing, rates: &Rates) -> Line {
    let Standing { bytes, bytes_total, files, .. } = *standing;
    let mut line = Line::default();
    if bytes_total == 0 && standing.alone.is_some() {
        return line;
    }
    if bytes_total == 0 {
        let found = format!("{} found so far", Count(files, "file"));
        // With neither it is not known yet how much there is to do.
        line.add(LEAST, if files > 0 { found } else { "beginning".to_owned() });
        return line;
    }
    line.add(LEAST, format!("{:3} %", percent(bytes, bytes_total)));
    line.add_to_last(2, format!("of {}", Bytes(bytes_total)));
    if standing.alone.is_some() {
        return line;
    }
    match standing.silent {
        Some(silent) => line.add(CLOCK, format!("nothing for {}", Passed(silent))),
        None => line.add(3, format!("{}/s", Bytes(rates.down))),
    }
    if let Some(left) = rates.left {
        line.add(CLOCK, format!("{} left", Left(left)));
    }
    line
}

/// The same, then `5 peers, 630/1000 pieces`.
fn describe_fetching(standing: &Standing, rates: &Rates) -> Line {
    let mut line = describe_work(standing, rates);
    let Standing { pieces, pieces_total, peers, .. } = *standing;
    match &standing.alone {
        Some(alone) => describe_alone(&mut line, alone, standing),
        None => {
            line.add(4, Count(peers, "peer").to_string());
            line.add(6, format!("{pieces}/{pieces_total} pieces"));
        }
    }
    line
}

/// `no peers, trying again, giving up in 59:43`; if it never does, for how long nothing has come.
fn describe_alone(line: &mut Line, alone: &Alone, standing: &Standing) {
    let who = match (standing.peers, alone.unanswering) {
        (0, _) => "no peers".to_owned(),
        (some, 0) => format!("{} without what is missing", Count(some, "peer")),
        (_, 1) => "1 peer that does not answer".to_owned(),
        (_, some) => format!("{some} peers that do not answer"),
    };
    line.add(3, who);
    let counts = alone.gives_up_in.is_some();
    if let Some(silent) = standing.silent.filter(|_| alone.unanswering > 0 || !counts) {
        line.add(if counts { 4 } else { CLOCK }, format!("nothing for {}", Passed(silent)));
    }
    line.add(6, "trying again".to_owned());
    if let Some(left) = alone.gives_up_in {
        line.add(CLOCK, format!("giving up in {}", Left(left)));
    }
}

/// `5 peers, 3 complete, 1.2 GiB sent, 12.3 MiB/s`; of a node that fetches as well, before that how much is here.
fn describe_seeding(standing: &Standing, rate: u64) -> Line {
    let Standing { bytes, bytes_total, peers, seeders, uploaded, .. } = *standing;
    let mut line = Line::default();
    if bytes < bytes_total {
        line.add(1, format!("{} % of {} here", percent(bytes, bytes_total), Bytes(bytes_total)));
    }
    line.add(LEAST, Count(peers, "peer").to_string());
    line.add(4, format!("{seeders} complete"));
    line.add(1, format!("{} sent", Bytes(uploaded)));
    line.add(3, format!("{}/s", Bytes(rate)));
    line
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
        let rates = Rates::default();
        let text = |work, standing: &Standing| describe(work, standing, &rates).whole();
        assert_eq!(text(Work::Hashing, &standing), "beginning");
        assert_eq!(text(Work::Fetching, &standing), "beginning, 2 peers, 0/0 pieces");
        let standing = Standing { files: 1234, ..Standing::default() };
        assert_eq!(text(Work::Hashing, &standing), "1234 files found so far");
        assert_eq!(drawn(Work::Hashing, &standing), None);
        let alone = Some(Alone { gives_up_in: Some(seconds(52)), unanswering: 0 });
        let standing = Standing { alone, ..Standing::default() };
        let told = "no peers, trying again, giving up in 52 s";
        assert_eq!(text(Work::Fetching, &standing), told);
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
        let alone = |left| Some(Alone { gives_up_in: Some(seconds(left)), unanswering: 0 });
        let text = |standing: &Standing| describe_fetching(standing, &Rates::default()).whole();
        let standing =
            Standing { bytes: 63, bytes_total: 100, alone: alone(3583), ..Standing::default() };
        assert_eq!(text(&standing), " 63 % of 100 B, no peers, trying again, giving up in 59:43");
        let forever = Some(Alone { gives_up_in: None, unanswering: 0 });
        let without = Standing { peers: 2, alone: forever, ..standing.clone() };
        assert_eq!(text(&without), " 63 % of 100 B, 2 peers without what is missing, trying again");
        let later = Standing { alone: alone(3500), ..standing.clone() };
        assert!(!later.is_news_after(&standing));
        assert!(standing.is_news_after(&Standing { alone: None, ..standing.clone() }));
        assert!(Standing { peers: 1, ..later }.is_news_after(&standing));
    }

    #[test]
    fn a_standing_is_described_on_one_line() {
        let rates = Rates { down: 10, up: 1024, left: Some(seconds(37)) };
        let standing = Standing {
            bytes: 630,
            bytes_total: 1000,
            pieces: 63,
            pieces_total: 100,
            peers: 1,
            ..Standing::default()
        };
        assert_eq!(
            describe_fetching(&standing, &rates).whole(),
            " 63 % of 1000 B, 10 B/s, 37 s left, 1 peer, 63/100 pieces"
        );
        assert_eq!(time_left(&standing, 10), rates.left);
        assert_eq!(time_left(&standing, 0), None);
        assert_eq!(
            describe(Work::Seeding, &standing, &rates).whole(),
            "63 % of 1000 B here, 1 peer, 0 complete, 0 B sent, 1.0 KiB/s"
        );
        let all = Standing { bytes: 1000, ..standing };
        assert_eq!(
            describe(Work::Seeding, &all, &rates).whole(),
            "1 peer, 0 complete, 0 B sent, 1.0 KiB/s"
        );
    }

    #[test]
    fn who_does_not_answer_is_told_apart_from_who_has_nothing_and_for_how_long_nothing_came() {
        let mut standing = Standing {
            bytes: 63,
            bytes_total: 100,
            peers: 2,
            silent: Some(seconds(7)),
            ..Standing::default()
        };
        let text = |standing: &Standing| {
            describe_fetching(standing, &Rates { down: 10, ..Rates::default() }).whole()
        };
        assert_eq!(text(&standing), " 63 % of 100 B, nothing for 7 s, 2 peers, 0/0 pieces");
        let later = Standing { silent: Some(seconds(9)), ..standing.clone() };
        assert!(!later.is_news_after(&standing), "no line for each second");
        standing.alone = Some(Alone { gives_up_in: Some(seconds(60)), unanswering: 1 });
        assert_eq!(
            text(&standing),
            " 63 % of 100 B, 1 peer that does not answer, nothing for 7 s, trying again, \
             giving up in 1:00"
        );
        standing.alone = Some(Alone { gives_up_in: None, unanswering: 2 });
        assert!(text(&standing).contains("2 peers that do not answer"));
    }

    #[test]
    fn on_a_narrow_terminal_the_least_important_parts_are_left_out_whole() {
        let standing = Standing {
            bytes: 630,
            bytes_total: 1000,
            pieces: 63,
            pieces_total: 100,
            peers: 12,
            ..Standing::default()
        };
        let rates = Rates { down: 10, up: 0, left: Some(seconds(37)) };
        let bar = drawn(Work::Fetching, &standing);
        let line = describe(Work::Fetching, &standing, &rates);
        let fitted = |columns| line.fitted("fetching", bar.as_deref(), columns);
        let all = "fetching [==========>     ]  63 % of 1000 B, 10 B/s, 37 s left, 12 peers, 63/100 pieces";
        assert_eq!(fitted(all.len()), all);
        assert_eq!(fitted(all.len() - 1), all.replace(", 63/100 pieces", ""));
        assert_eq!(fitted(60), "fetching:  63 % of 1000 B, 10 B/s, 37 s left, 12 peers");
        assert_eq!(fitted(50), "fetching:  63 % of 1000 B, 10 B/s, 37 s left");
        assert_eq!(fitted(40), "fetching:  63 % of 1000 B, 37 s left");
        assert_eq!(fitted(30), "fetching:  63 %, 37 s left");
        assert_eq!(fitted(20), "fetching:  63 %");
        let alone = Alone { gives_up_in: Some(seconds(3583)), unanswering: 0 };
        let alone = Standing { alone: Some(alone), ..standing.clone() };
        let alone = describe(Work::Fetching, &alone, &rates);
        for line in [&line, &alone] {
            let mut parts: Vec<&str> = line.0.iter().map(|part| part.text.trim()).collect();
            parts.push("63 % of 1000 B");
            for columns in 15..120 {
                let shown = line.fitted("fetching", bar.as_deref(), columns);
                assert!(shown.chars().count() <= columns, "{columns}: {shown}");
                let begins = if shown.contains('[') { "] " } else { ": " };
                let (_, text) = shown.split_once(begins).expect("a name comes first");
                assert!(text.split(", ").all(|part| parts.contains(&part.trim())), "{shown}");
            }
        }
    }

    #[test]
    fn on_40_columns_there_is_room_for_what_moves_while_nothing_comes() {
        let mebibytes = |number: u64| number << 20;
        let fetching = Standing {
            bytes: mebibytes(500),
            bytes_total: mebibytes(1023),
            peers: 12,
            silent: Some(seconds(359_999)),
            ..Standing::default()
        };
        let opening = Standing { silent: fetching.silent, ..Standing::default() };
        for (gives_up_in, moves) in
            [(Some(seconds(359_999)), "giving up in 99:59:59"), (None, "nothing for 99:59:59")]
        {
            for unanswering in [0, 1, 12] {
                let alone = Some(Alone { gives_up_in, unanswering });
                for standing in [&fetching, &opening] {
                    let standing = Standing { alone: alone.clone(), ..standing.clone() };
                    let line = describe_fetching(&standing, &Rates::default());
                    let bar = drawn(Work::Fetching, &standing);
                    for columns in 40..130 {
                        let shown = line.fitted("fetching", bar.as_deref(), columns);
                        assert!(shown.chars().count() <= columns, "{columns}: {shown}");
                        assert!(shown.contains(moves), "{columns}: {shown}");
                    }
                }
            }
        }
        let line = describe_fetching(&fetching, &Rates::default());
        assert_eq!(line.fitted("fetching", None, 40), "fetching:  48 %, nothing for 99:59:59");
    }

    #[test]
    fn a_bar_is_as_long_at_any_part() {
        let at = |bytes| Standing { bytes, bytes_total: 100, ..Standing::default() };
        let bar = |bytes| drawn(Work::Hashing, &at(bytes)).expect("a bar");
        assert_eq!(bar(0), "[>               ]");
        assert_eq!(bar(50), "[========>       ]");
        assert_eq!(bar(99), "[===============>]");
        assert_eq!(bar(100), "[================]");
        assert_eq!(drawn(Work::Seeding, &at(50)), None, "it has no end to approach");
    }
}
