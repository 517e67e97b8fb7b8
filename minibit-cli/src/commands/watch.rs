//! Watching shares while the node works: progress, warnings, and when it is over.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use minibit_core::engine::{CompleteError, Node, ShareHandle, ShareStats};
use minibit_core::types::ShareId;

use super::Session;
use super::news::{News, Why};
use crate::cli::Stay;
use crate::output::Output;
use crate::output::progress::{Alone, Progress, Standing, TICK, Work};
use crate::output::units::Time;
use crate::values::Patience;

/// How often a node that only seeds is looked at: it should cost nothing to leave it alone.
const SEEDING_TICK: Duration = Duration::from_secs(1);

/// The first peers may take so long to be linked to.
const ALONE_SHOWN_AFTER: Duration = Duration::from_secs(2);
/// A peer that is about to be replaced is no news, but nobody should wonder for a second why nothing moves.
const LOST_SHOWN_AFTER: Duration = Duration::from_millis(500);
/// Bytes may come in bursts; a rate that falls for no visible reason is worth a word.
const SILENT_SHOWN_AFTER: Duration = Duration::from_secs(2);
/// On a bad line peers come and go: that is told no more often.
const TOLD_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How fetching ended.
#[derive(Debug)]
pub(super) enum Fetched {
    /// Everything is verified and in place, here.
    Complete(PathBuf),
    /// The user stopped it.
    Interrupted,
    /// Nobody was there to fetch from for longer than the user would wait.
    Deserted,
}

/// Shows a download until it is over.
///
/// # Errors
/// The share's own, if it cannot be completed any more.
pub(super) async fn fetch(
    share: &ShareHandle,
    wait: Wait,
    mut notices: Notices,
    session: &Session,
) -> Result<Fetched, CompleteError> {
    let started = Instant::now();
    let mut progress = Progress::new(&session.output, Work::Fetching);
    let mut company = Company::default();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            done = share.completed() => {
                notices.show(share.id(), &share.stats(), &session.output);
                return done.map(Fetched::Complete);
            }
            () = session.interrupt.requested() => return Ok(Fetched::Interrupted),
            _ = ticks.tick() => {
                let (now, stats) = (started.elapsed(), share.stats());
                company.tell(now, share, &stats, wait, &session.output);
                let alone = company.alone(now, &stats, wait.with(&stats));
                let silent = company.silent(now);
                progress.update(now, &Standing { alone, silent, ..standing(&stats) });
                notices.show(share.id(), &stats, &session.output);
                if company.is_deserted(now, wait.with(&stats)) {
                    return Ok(Fetched::Deserted);
                }
            }
        }
    }
}

/// Waits for a download that goes on for as long as the node does, and tells when nobody is there to fetch from.
///
/// # Errors
/// The share's own, if it cannot be completed any more.
pub(super) async fn completed(
    share: &ShareHandle,
    session: &Session,
) -> Result<PathBuf, CompleteError> {
    let started = Instant::now();
    let mut company = Company::default();
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            done = share.completed() => return done,
            _ = ticks.tick() => {
                let wait = Wait::of(Some(Patience(None)));
                company.tell(started.elapsed(), share, &share.stats(), wait, &session.output);
            }
        }
    }
}

/// Where a share stands, as progress shows it.
pub(super) fn standing(stats: &ShareStats) -> Standing {
    Standing {
        bytes: stats.bytes_have,
        bytes_total: stats.bytes_total,
        files: 0,
        pieces: stats.pieces_have.into(),
        pieces_total: stats.pieces_total.into(),
        peers: stats.links as u64,
        seeders: stats.seeders as u64,
        uploaded: stats.bytes_uploaded,
        silent: None,
        alone: None,
    }
}

/// How long a download goes on with nobody to fetch from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wait {
    /// While nothing is here.
    pub(super) at_first: Patience,
    /// Once something is: then the ticket is good, and it is likely our own network that is
    /// gone, or a machine that sleeps.
    once_begun: Patience,
}

impl Wait {
    /// As the flag wants it, if it was given.
    pub(super) fn of(flag: Option<Patience>) -> Self {
        let or = |seconds| flag.unwrap_or(Patience(Some(Duration::from_secs(seconds))));
        Self { at_first: or(60), once_begun: or(3600) }
    }

    /// For a share that stands so.
    fn with(self, stats: &ShareStats) -> Patience {
        // What was changed where it was shared does not come back.
        let may_come = stats.pieces_have > 0 && stats.pieces_withdrawn == 0;
        if may_come { self.once_begun } else { self.at_first }
    }
}

/// Notices when nobody is there to fetch from, or nothing comes from those who are.
#[derive(Debug, Default)]
struct Company {
    alone_since: Option<Duration>,
    /// When bytes last came, or could come again after a time in which they could not.
    fed: Duration,
    /// Nobody is there at all.
    is_empty: bool,
    /// Where those are, or were, to whom we were linked when there was last somebody to fetch from.
    with: Vec<SocketAddr>,
    told: Told,
}

/// What the user was told of it.
#[derive(Debug, Default)]
struct Told {
    /// That nobody is there, and not yet that somebody is back.
    is_alone: bool,
    /// When, the last time.
    at: Option<Duration>,
}

impl Company {
    /// Takes in how it stands, and says what is new.
    fn tell(
        &mut self,
        now: Duration,
        share: &ShareHandle,
        stats: &ShareStats,
        wait: Wait,
        output: &Output,
    ) {
        self.look(now, stats, || share.links().iter().map(|link| link.addr).collect());
        if let Some(news) = self.news(now, stats, wait.with(stats)) {
            output.say(&news);
            output.event(&news.event());
        }
    }

    fn look(&mut self, now: Duration, stats: &ShareStats, with: impl FnOnce() -> Vec<SocketAddr>) {
        // A share that waits for its own disk is not alone. Peers that lack what is missing
        // here are no company.
        if stats.sources > 0 {
            self.with = with();
        }
        if let Some(silent) = stats.silent {
            self.fed = self.fed.max(now.saturating_sub(silent));
        }
        // What could not come was not awaited: whoever is back after an hour has not been silent for that long.
        let is_back = std::mem::replace(&mut self.is_empty, stats.links == 0) && !self.is_empty;
        if stats.paused.is_some() || is_back {
            self.fed = now;
        }
        if stats.sources > 0 || stats.paused.is_some() {
            self.alone_since = None;
        } else {
            self.alone_since.get_or_insert(now);
        }
    }

    /// What the user is to be told once: that those we fetched from are gone, and what comes of it; then that it
    /// goes on.
    fn news(&mut self, now: Duration, stats: &ShareStats, patience: Patience) -> Option<News> {
        let alone = self.alone(now, stats, patience);
        if self.told.is_alone && stats.sources > 0 {
            self.told.is_alone = false;
            return Some(News::GoingOn { with: self.with.clone() });
        }
        let is_news = self.told.at.is_none_or(|at| now.saturating_sub(at) >= TOLD_AGAIN_AFTER);
        // Of files that were changed there are other words.
        let alone = alone.filter(|_| {
            !self.told.is_alone && is_news && !self.with.is_empty() && stats.pieces_withdrawn == 0
        })?;
        self.told = Told { is_alone: true, at: Some(now) };
        let (why, whom) = match (stats.links, stats.lost_contact) {
            (0, true) => (Why::Lost, &self.with),
            (0, false) => (Why::Left, &self.with),
            _ if !stats.unanswering.is_empty() => {
                (Why::Silent(now.saturating_sub(self.fed)), &stats.unanswering)
            }
            _ => (Why::NotHeld, &self.with),
        };
        Some(News::Waiting { why, whom: whom.clone(), gives_up_in: alone.gives_up_in })
    }

    /// For how long nothing has come, once that is more than a pause.
    fn silent(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.fed)).filter(|silent| *silent >= SILENT_SHOWN_AFTER)
    }

    /// For how long by now.
    fn alone_for(&self, now: Duration) -> Option<Duration> {
        self.alone_since.map(|since| now.saturating_sub(since))
    }

    fn is_deserted(&self, now: Duration, patience: Patience) -> bool {
        let alone = self.alone_for(now).zip(patience.0);
        alone.is_some_and(|(alone, patience)| alone > patience)
    }

    /// What the user is shown of it, once it lasts.
    fn alone(&self, now: Duration, stats: &ShareStats, patience: Patience) -> Option<Alone> {
        let after = if self.with.is_empty() { ALONE_SHOWN_AFTER } else { LOST_SHOWN_AFTER };
        let alone = self.alone_for(now).filter(|alone| *alone >= after)?;
        Some(Alone {
            gives_up_in: patience.0.map(|patience| patience.saturating_sub(alone)),
            unanswering: stats.unanswering.len() as u64,
        })
    }
}

/// Until when a complete share is served.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Until {
    ratio: Option<f64>,
    time: Option<Duration>,
}

impl Until {
    /// As the flags want it; `None` if they want no seeding at all.
    pub(super) fn of(flags: &Stay) -> Option<Self> {
        let until = Self { ratio: flags.seed_ratio, time: flags.seed_time };
        (flags.seed || until.ratio.is_some() || until.time.is_some()).then_some(until)
    }

    fn reached(self, seeding_for: Duration, uploaded: u64, size: u64) -> bool {
        self.time.is_some_and(|time| seeding_for >= time)
            || self.ratio.is_some_and(|ratio| uploaded as f64 >= ratio * size as f64)
    }
}

impl fmt::Display for Until {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.time, self.ratio) {
            (None, None) => f.write_str("until Ctrl-C"),
            (Some(time), None) => write!(f, "for {}", Time(time)),
            (None, Some(ratio)) => write!(f, "until {ratio} times its size is sent"),
            (Some(time), Some(ratio)) => {
                write!(f, "for {}, or until {ratio} times its size is sent", Time(time))
            }
        }
    }
}

/// Shows all shares of a node until the user stops it, or enough was given back. Returns the
/// bytes sent.
pub(super) async fn seed(
    node: &Node,
    until: Until,
    mut notices: Notices,
    session: &Session,
) -> u64 {
    let started = Instant::now();
    let mut progress = Progress::new(&session.output, Work::Seeding);
    let mut ticks = tokio::time::interval(SEEDING_TICK);
    loop {
        tokio::select! {
            biased;
            () = session.interrupt.requested() => break,
            _ = ticks.tick() => {
                let now = node_standing(node, &mut notices, session);
                progress.update(started.elapsed(), &now);
                if until.reached(started.elapsed(), now.uploaded, now.bytes_total) {
                    break;
                }
            }
        }
    }
    node.shares().iter().map(|share| share.stats().bytes_uploaded).sum()
}

/// All shares of a node together.
fn node_standing(node: &Node, notices: &mut Notices, session: &Session) -> Standing {
    let mut sum = Standing::default();
    for share in node.shares() {
        let stats = share.stats();
        notices.show(share.id(), &stats, &session.output);
        let one = standing(&stats);
        sum.bytes += one.bytes;
        sum.bytes_total += one.bytes_total;
        sum.pieces += one.pieces;
        sum.pieces_total += one.pieces_total;
        sum.peers += one.peers;
        sum.seeders += one.seeders;
        sum.uploaded += one.uploaded;
    }
    sum
}

/// Prints what shares have to say to the user, each thing once.
#[derive(Debug, Default)]
pub(super) struct Notices {
    shown: HashMap<ShareId, Shown>,
    /// Those that the user named. What else a ticket names may well be out of reach from here.
    trackers: HashMap<SocketAddr, Contact>,
}

/// What the user knows of a tracker.
#[derive(Debug, Default)]
struct Contact {
    /// All shares announced there would say the same; the first speaks for them.
    speaker: Option<ShareId>,
    is_missing: bool,
}

#[derive(Debug, Default)]
struct Shown {
    warnings: usize,
    paused: bool,
    /// That a file was changed where it is shared.
    withdrawn: bool,
}

impl Notices {
    /// Notices that also tell how it stands with these trackers.
    pub(super) fn about(trackers: &[SocketAddr]) -> Self {
        let trackers = trackers.iter().map(|addr| (*addr, Contact::default())).collect();
        Self { shown: HashMap::new(), trackers }
    }

    /// Prints what is new.
    pub(super) fn show(&mut self, share: ShareId, stats: &ShareStats, output: &Output) {
        for tracker in &stats.trackers {
            match self.contact(share, tracker.addr, tracker.problem.is_some()) {
                Some(true) => output.warn(format_args!(
                    "the tracker {} does not answer ({}); trying again",
                    tracker.addr,
                    tracker.problem.as_deref().unwrap_or_default()
                )),
                Some(false) => {
                    output.say(format_args!("the tracker {} answers now", tracker.addr));
                }
                None => {}
            }
        }
        let shown = self.shown.entry(share).or_default();
        for warning in stats.warnings.iter().skip(shown.warnings) {
            output.warn(warning);
        }
        shown.warnings = shown.warnings.max(stats.warnings.len());
        if stats.pieces_withdrawn > 0 && stats.sources == 0 && !shown.withdrawn {
            shown.withdrawn = true;
            output.warn("a file was changed where it is shared; nobody here has it as it was");
        }
        // Not each reason: the next piece may be of another file.
        if shown.paused != stats.paused.is_some() {
            match &stats.paused {
                Some(reason) => output
                    .warn(format_args!("paused: {reason}; make room, and it goes on by itself")),
                None => output.say("going on"),
            }
            shown.paused = stats.paused.is_some();
        }
    }

    /// Takes in whether a tracker is missing; what the user is to be told, if that is new.
    fn contact(&mut self, share: ShareId, addr: SocketAddr, is_missing: bool) -> Option<bool> {
        let contact = self.trackers.get_mut(&addr)?;
        let speaks = *contact.speaker.get_or_insert(share) == share;
        if !speaks || contact.is_missing == is_missing {
            return None;
        }
        contact.is_missing = is_missing;
        Some(is_missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(sources: usize) -> ShareStats {
        let mut stats = ShareStats::default();
        // Others may be there, too.
        stats.links = 1;
        stats.sources = sources;
        stats
    }

    #[test]
    fn a_share_is_deserted_only_after_it_was_alone_for_long() {
        let seconds = Duration::from_secs;
        let patience = Patience(Some(seconds(10)));
        let mut company = Company::default();
        let mut at = |second, count| {
            company.look(seconds(second), &sources(count), || vec![([192, 0, 2, 7], 1).into()]);
            company.is_deserted(seconds(second), patience)
        };
        assert!(!at(0, 0) && !at(9, 0) && !at(10, 1) && !at(20, 0) && !at(30, 0));
        assert!(at(31, 0));
        assert!(!company.is_deserted(Duration::MAX, Patience(None)));
        let alone = |second| company.alone(seconds(second), &sources(0), patience);
        assert_eq!(alone(20), None, "it may be over in a moment");
        assert_eq!(alone(23), Some(Alone { gives_up_in: Some(seconds(7)), unanswering: 0 }));
    }

    #[test]
    fn that_nobody_is_there_to_fetch_from_is_told_within_a_second_once_and_so_is_that_it_goes_on() {
        let millis = Duration::from_millis;
        let addr = SocketAddr::from(([192, 0, 2, 7], 1));
        let mut company = Company::default();
        let mut at = |now, stats: &ShareStats| {
            company.look(millis(now), stats, || vec![addr]);
            let news = company.news(millis(now), stats, Patience(Some(millis(61_500))));
            news.map(|news| news.to_string())
        };
        let (here, mut gone) = (sources(1), ShareStats::default());
        gone.lost_contact = true;
        assert_eq!(at(0, &gone), None);
        assert_eq!(at(5000, &gone), None, "nobody was there yet");
        assert_eq!((at(5200, &here), at(5400, &gone), at(5600, &gone)), (None, None, None));
        let told = at(6000, &gone).expect("it lasts");
        assert_eq!(
            told,
            "lost contact with 192.0.2.7:1; it goes on by itself when anybody is back (giving up \
             in 1:01); Ctrl-C keeps what is here"
        );
        assert_eq!(at(9000, &gone), None, "once");
        assert_eq!(at(9200, &here).as_deref(), Some("going on, with 192.0.2.7:1"));
        assert_eq!((at(9400, &here), at(9600, &gone), at(12_000, &gone)), (None, None, None));
        assert_eq!(at(12_200, &here), None, "what was not told needs no end");
        assert_eq!(at(80_000, &gone), None);
        gone.lost_contact = false;
        assert!(at(81_000, &gone).expect("a minute later").starts_with("192.0.2.7:1 left; "));
    }

    #[test]
    fn whoever_has_what_is_missing_and_sends_nothing_is_said_not_to_answer() {
        let seconds = Duration::from_secs;
        let addrs = [1, 2].map(|port| SocketAddr::from(([192, 0, 2, 7], port)));
        let mut company = Company::default();
        let mut at = |second, stats: &ShareStats| {
            company.look(seconds(second), stats, || addrs.to_vec());
            let news = company.news(seconds(second), stats, Patience(None));
            (
                news,
                company.silent(seconds(second)),
                company.alone(seconds(second), stats, Patience(None)),
            )
        };
        let mut stats = sources(2);
        stats.silent = Some(Duration::ZERO);
        assert_eq!(at(10, &stats), (None, None, None));
        stats.silent = Some(seconds(2));
        assert_eq!(at(12, &stats), (None, Some(seconds(2)), None), "it may only be slow");
        stats.sources = 0;
        stats.unanswering = vec![addrs[1]];
        stats.silent = Some(seconds(3));
        assert_eq!(at(13, &stats).0, None);
        // Another link does not make it younger.
        stats.silent = None;
        let (news, silent, alone) = at(14, &stats);
        let whom = vec![addrs[1]];
        let why = Why::Silent(seconds(4));
        assert_eq!(news, Some(News::Waiting { why, whom, gives_up_in: None }));
        assert_eq!(silent, Some(seconds(4)));
        assert_eq!(alone, Some(Alone { gives_up_in: None, unanswering: 1 }));
        stats.paused = Some("the disk is full".to_owned());
        assert_eq!(at(20, &stats).1, None, "nothing is asked for");
    }

    #[test]
    fn who_is_back_after_a_long_time_has_been_silent_only_since_then() {
        let seconds = Duration::from_secs;
        let mut company = Company::default();
        let mut at = |second, stats: &ShareStats| {
            company.look(seconds(second), stats, || vec![([192, 0, 2, 7], 1).into()]);
            (company.news(seconds(second), stats, Patience(None)), company.silent(seconds(second)))
        };
        let mut here = sources(1);
        here.silent = Some(Duration::ZERO);
        assert_eq!(at(10, &here), (None, None));
        let gone = ShareStats::default();
        at(11, &gone);
        let (lost, silent) = at(100, &gone);
        assert!(lost.is_some());
        assert_eq!(silent, Some(seconds(90)), "while nobody is there, since bytes came");
        // Nothing has come over the new link yet.
        here.silent = None;
        let (back, silent) = at(101, &here);
        assert!(matches!(back, Some(News::GoingOn { .. })), "{back:?}");
        assert_eq!(silent, None);
        assert_eq!(at(102, &here).1, None);
        assert_eq!(at(104, &here).1, Some(seconds(3)));
        here.silent = Some(Duration::ZERO);
        assert_eq!(at(105, &here).1, None);
    }

    #[test]
    fn of_files_that_were_changed_it_is_not_said_that_they_come_back() {
        let mut company = Company::default();
        let mut at = |now, stats: &ShareStats| {
            company.look(now, stats, || vec![([192, 0, 2, 7], 1).into()]);
            company.news(now, stats, Patience(None)).map(|news| news.to_string())
        };
        let mut stats = sources(0);
        assert_eq!(at(Duration::ZERO, &sources(1)), None);
        assert_eq!(at(Duration::from_secs(1), &stats), None);
        stats.pieces_withdrawn = 1;
        assert_eq!(at(Duration::from_secs(9), &stats), None);
        stats.pieces_withdrawn = 0;
        let told = at(Duration::from_secs(9), &stats).expect("with peers");
        assert!(told.starts_with("nobody who is there has what is missing; "), "{told}");
        assert!(!told.contains("giving up"), "{told}");
    }

    #[test]
    fn once_something_is_here_it_waits_longer_unless_the_user_has_said_how_long() {
        let mut begun = ShareStats::default();
        begun.pieces_have = 1;
        let seconds = |seconds| Patience(Some(Duration::from_secs(seconds)));
        for (flag, at_first, once_begun) in [
            (None, seconds(60), seconds(3600)),
            (Some(seconds(5)), seconds(5), seconds(5)),
            (Some(Patience(None)), Patience(None), Patience(None)),
        ] {
            let wait = Wait::of(flag);
            assert_eq!(wait.with(&ShareStats::default()), at_first);
            assert_eq!(wait.with(&begun), once_begun);
            let mut changed = begun.clone();
            changed.pieces_withdrawn = 1;
            assert_eq!(wait.with(&changed), at_first);
        }
    }

    #[test]
    fn a_tracker_is_missing_once_and_back_once_and_only_if_the_user_named_it() {
        let addr = |port: u16| SocketAddr::from(([192, 0, 2, 7], port));
        let (one, other) = (ShareId([1; 32]), ShareId([2; 32]));
        let mut notices = Notices::about(&[addr(1)]);
        let mut told = |share, port, missing| notices.contact(share, addr(port), missing);
        assert_eq!(told(one, 1, false), None, "nothing is wrong");
        assert_eq!(told(one, 1, true), Some(true));
        assert_eq!(told(one, 1, true), None);
        assert_eq!(told(other, 1, false), None, "one of them speaks");
        assert_eq!(told(one, 1, false), Some(false));
        assert_eq!(told(one, 2, true), None);
    }

    #[test]
    fn seeding_ends_when_either_aim_is_reached() {
        let second = Duration::from_secs(1);
        let both = Until { ratio: Some(2.0), time: Some(10 * second) };
        assert!(!both.reached(second, 199, 100));
        assert!(both.reached(second, 200, 100));
        assert!(both.reached(10 * second, 0, 100));
        assert_eq!(both.to_string(), "for 10.00 s, or until 2 times its size is sent");
        assert_eq!(Until::default().to_string(), "until Ctrl-C");
        assert!(!Until::default().reached(Duration::MAX, u64::MAX, 1));
    }
}
