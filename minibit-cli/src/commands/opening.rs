//! Watching a download until it is open: whether anybody answers, and how far the check of what is already here
//! has come.
//!
//! Nothing of this takes long as a rule, and then nothing is said.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use minibit_core::content::Ticket;
use minibit_core::engine::Checking;

use super::Session;
use super::failures::{self, AGAIN, GO_ON};
use super::news::{News, Why};
use crate::exit::Failure;
use crate::output::progress::{Alone, Progress, Standing, TICK, Work};
use crate::values::Patience;

/// Whoever has not answered by then may well not do so at all, and the user had better know.
const UNANSWERED_AFTER: Duration = Duration::from_millis(800);

/// A download that is not open yet.
pub(super) struct Opening {
    /// Whom the ticket names.
    asked: Vec<SocketAddr>,
    patience: Patience,
    /// How far the check has come, if there is one.
    checked: Arc<Mutex<Option<Standing>>>,
}

impl Opening {
    /// By this ticket, with so much patience.
    pub(super) fn of(ticket: &Ticket, patience: Patience) -> Self {
        let mut asked = ticket.peers().to_vec();
        for tracker in ticket.trackers() {
            if !asked.contains(tracker) {
                asked.push(*tracker);
            }
        }
        Self { asked, patience, checked: Arc::default() }
    }

    /// What the engine tells of its check.
    pub(super) fn checking(&self) -> Checking {
        let checked = Arc::clone(&self.checked);
        Box::new(move |bytes, bytes_total| {
            let standing = Standing { bytes, bytes_total, ..Standing::default() };
            *checked.lock().unwrap_or_else(PoisonError::into_inner) = Some(standing);
        })
    }

    /// Shows how the work of opening goes, until it is done.
    ///
    /// # Errors
    /// If the user wants no more of it.
    pub(super) async fn watched<T>(
        &self,
        work: impl Future<Output = T>,
        session: &Session,
    ) -> Result<T, Failure> {
        let started = Instant::now();
        let mut work = std::pin::pin!(work);
        let mut ticks = tokio::time::interval(TICK);
        let (mut progress, mut waiting) = (None, None);
        let mut is_told = false;
        loop {
            tokio::select! {
                biased;
                () = session.interrupt.requested() => {
                    return Err(failures::interrupted());
                }
                done = &mut work => return Ok(done),
                _ = ticks.tick() => {
                    let now = started.elapsed();
                    let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if let Some(checked) = checked {
                        waiting = None;
                        progress
                            .get_or_insert_with(|| Progress::new(&session.output, Work::Verifying))
                            .update(now, &checked);
                    } else if now >= UNANSWERED_AFTER && !is_told {
                        is_told = true;
                        let news = self.unanswered(now);
                        session.output.say(&news);
                        session.output.event(&news.event());
                    }
                    if is_told && progress.is_none() && session.output.has_bars() {
                        waiting
                            .get_or_insert_with(|| Progress::new(&session.output, Work::Fetching))
                            .update(now, &self.alone(now));
                    }
                }
            }
        }
    }

    /// What helps whoever stops it now. Until there is something to check, nothing has come of which any could be kept.
    pub(super) fn how_to_go_on(&self) -> &'static str {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if checked.is_some() { GO_ON } else { AGAIN }
    }

    /// How it stands while nothing has come.
    fn alone(&self, now: Duration) -> Standing {
        let gives_up_in = self.gives_up_in(now);
        let alone = Some(Alone { gives_up_in, unanswering: 0 });
        Standing { alone, silent: Some(now), ..Standing::default() }
    }

    fn gives_up_in(&self, now: Duration) -> Option<Duration> {
        self.patience.0.map(|patience| patience.saturating_sub(now))
    }

    /// What is said when nothing has come so far.
    fn unanswered(&self, now: Duration) -> News {
        News::Waiting {
            why: Why::Unanswered,
            whom: self.asked.clone(),
            gives_up_in: self.gives_up_in(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use minibit_core::types::ShareId;

    #[test]
    fn whoever_waits_is_told_for_whom_and_for_how_long() {
        let addr = |port: u16| SocketAddr::from(([192, 0, 2, 7], port));
        let ticket = Ticket::new(ShareId([1; 32]), [addr(1)], [addr(1), addr(2)]).unwrap();
        let seconds = Duration::from_secs;
        let opening =
            |patience| Opening::of(&ticket, Patience(patience)).unanswered(seconds(1)).to_string();
        assert!(opening(Some(seconds(60))).starts_with(
            "nothing has come from 192.0.2.7:1, 192.0.2.7:2 yet; trying again for 59 s: "
        ));
        assert!(opening(None).contains("yet; trying again: "));
    }

    #[test]
    fn nothing_is_checked_until_the_engine_says_so() {
        let ticket = Ticket::new(ShareId([1; 32]), [], [([192, 0, 2, 7], 1).into()]).unwrap();
        let opening = Opening::of(&ticket, Patience(None));
        assert_eq!(*opening.checked.lock().unwrap(), None);
        assert_eq!(opening.how_to_go_on(), AGAIN);
        opening.checking()(5, 10);
        let expected = Standing { bytes: 5, bytes_total: 10, ..Standing::default() };
        assert_eq!(*opening.checked.lock().unwrap(), Some(expected));
        assert_eq!(opening.how_to_go_on(), GO_ON);
    }
}
