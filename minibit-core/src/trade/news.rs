//! When our neighbours hear of the pieces that we have verified.
//!
//! To tell a piece to each of fifty links by itself is more work than to fetch it. So news waits for more
//! of it: where anything goes little, elsewhere longer, and longer the less of the share it is, for a large share
//! takes so long that a moment matters less. On a fast network no wait is longer than the shortest.
//! Not here: what is told and to whom it is new (`lane`).

use std::time::Duration;

/// How long news waits for more of it at least, with few links; with many the wait grows, so that
/// telling them never becomes the work.
const SOON: Duration = Duration::from_millis(30);
/// Added to [`SOON`] for each link.
const SOON_EACH: Duration = Duration::from_micros(250);
/// Longest that news waits where anything goes.
const SOON_MAX: Duration = Duration::from_millis(250);
/// News of less than one in so many pieces waits until then.
const SOON_PART: u64 = 256;
/// How long news waits for more of it where neither side answers the other: nothing depends on
/// it there, and most links of a large swarm are like that. A seeder that deals pieces out hears it then.
const ELSEWHERE: Duration = Duration::from_secs(1);
/// Longest that it waits there.
const ELSEWHERE_MAX: Duration = Duration::from_secs(5);
/// News of less than one in so many pieces waits until then.
const ELSEWHERE_PART: u64 = 64;
/// One in so many of all pieces is much news, and goes everywhere at once: whoever has no slot with a seeder does
/// not know otherwise what others could give.
const MUCH_PART: u64 = 16;

/// Who is to hear news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearers {
    /// Those over whose links anything goes.
    Trading,
    /// Seeders that have dealt pieces out to us.
    Guides,
    /// All.
    All,
}

/// Pieces that were verified and not told yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untold {
    /// To those over whose links anything goes.
    pub(super) trading: u32,
    /// To all.
    pub(super) all: u32,
    /// Of how many there are.
    pub(super) pieces: u32,
}

impl Untold {
    fn is_one_in(&self, untold: u32, part: u64) -> bool {
        u64::from(untold) * part >= u64::from(self.pieces)
    }
}

/// Since when there is news for whom; see the module's header.
#[derive(Debug, Default)]
pub(super) struct NewsTimes {
    trading: Option<Duration>,
    guides: Option<Duration>,
    all: Option<Duration>,
}

impl NewsTimes {
    /// A piece was verified; `guided` if any seeder has dealt pieces out to us.
    pub(super) fn note(&mut self, now: Duration, guided: bool) {
        self.trading.get_or_insert(now);
        self.all.get_or_insert(now);
        if guided {
            self.guides.get_or_insert(now);
        }
    }

    /// All have heard it, or are about to.
    pub(super) fn told_all(&mut self) {
        *self = Self::default();
    }

    /// Who is to hear now, with so many links.
    pub(super) fn due(&mut self, now: Duration, links: u32, untold: Untold) -> Option<Hearers> {
        let waited = |since: Option<Duration>| since.map(|since| now.saturating_sub(since));
        let soon = soon(links);
        let to_all = waited(self.all).is_some_and(|waited| {
            waited >= ELSEWHERE_MAX
                || waited >= ELSEWHERE && untold.is_one_in(untold.all, ELSEWHERE_PART)
                || waited >= soon && untold.is_one_in(untold.all, MUCH_PART)
        });
        let to_trading = waited(self.trading).is_some_and(|waited| {
            waited >= SOON_MAX || waited >= soon && untold.is_one_in(untold.trading, SOON_PART)
        });
        if to_all {
            self.told_all();
            Some(Hearers::All)
        } else if to_trading {
            self.trading = None;
            Some(Hearers::Trading)
        } else if waited(self.guides).is_some_and(|waited| waited >= ELSEWHERE) {
            self.guides = None;
            Some(Hearers::Guides)
        } else {
            None
        }
    }

    /// When to look again: at the shortest and at the longest wait of each, for what comes meanwhile is looked at
    /// with what was there.
    pub(super) fn next_look(&self, now: Duration, links: u32) -> Option<Duration> {
        let waits = [
            (self.trading, soon(links)),
            (self.trading, SOON_MAX),
            (self.guides, ELSEWHERE),
            (self.all, ELSEWHERE),
            (self.all, ELSEWHERE_MAX),
        ];
        let looks = waits.into_iter().filter_map(|(since, wait)| Some(since? + wait));
        looks.filter(|look| *look > now).min()
    }
}

fn soon(links: u32) -> Duration {
    (SOON + SOON_EACH * links).min(SOON_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// When news that began at zero is told to whom, if so much is untold all the time.
    fn told(untold: u32, pieces: u32, guided: bool) -> Vec<(Duration, Hearers)> {
        let mut times = NewsTimes::default();
        times.note(Duration::ZERO, guided);
        let untold = Untold { trading: untold, all: untold, pieces };
        let (mut now, mut told) = (Duration::ZERO, Vec::new());
        while let Some(next) = times.next_look(now, 8) {
            now = next;
            while let Some(hearers) = times.due(now, 8, untold) {
                told.push((now, hearers));
            }
        }
        told
    }

    #[test]
    fn the_less_of_the_share_it_is_the_longer_it_waits() {
        use Hearers::{All, Guides, Trading};
        assert_eq!(told(64, 1024, true), [(MS(32), All)], "much of it");
        assert_eq!(told(16, 1024, true), [(MS(32), Trading), (MS(1000), All)]);
        let little = [(MS(32), Trading), (MS(1000), Guides), (MS(5000), All)];
        assert_eq!(told(4, 1024, true), little);
        let least = [(MS(250), Trading), (MS(1000), Guides), (MS(5000), All)];
        assert_eq!(told(3, 1024, true), least);
        assert_eq!(told(3, 1024, false), [(MS(250), Trading), (MS(5000), All)]);
        // A piece of a share of a hundred is some of it.
        assert_eq!(told(1, 100, false), [(MS(32), Trading), (MS(5000), All)]);
        assert_eq!(told(2, 100, false), [(MS(32), Trading), (MS(1000), All)]);
    }

    #[test]
    fn what_was_told_to_those_who_trade_waits_on_for_all_others() {
        let mut times = NewsTimes::default();
        let untold = |trading, all| Untold { trading, all, pieces: 1024 };
        times.note(Duration::ZERO, false);
        assert_eq!(times.due(MS(250), 8, untold(1, 1)), Some(Hearers::Trading));
        times.note(MS(900), false);
        // Sixteen by now, and a second has passed since the first of them.
        assert_eq!(times.due(MS(1000), 8, untold(15, 16)), Some(Hearers::All));
        assert_eq!(times.next_look(MS(1000), 8), None);
    }

    #[test]
    fn with_many_links_the_shortest_wait_grows() {
        assert_eq!([0, 8, 100, 2000].map(soon), [30, 32, 55, 250].map(MS));
    }
}
