//! Work that computes on a thread of its own while the user watches: hashing, checking,
//! simulating.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use etcetera::BaseStrategy;
use minibit_core::store::{self, PrepareOptions, PreparedShare};

use super::{Session, failures};
use crate::cli::Source;
use crate::exit::{Exit, Failure};
use crate::output::progress::{Progress, Standing, TICK, Work};

/// Makes a share of these paths, with progress and all its warnings. None of the outputs may be of it.
///
/// # Errors
/// The failure of [`store::prepare`], or an interruption.
pub(super) async fn prepare(
    paths: &[PathBuf],
    source: &Source,
    outputs: &[PathBuf],
    session: &Session,
) -> Result<PreparedShare, Failure> {
    let options = PrepareOptions {
        piece_size: source.piece_size,
        name: source.name.clone(),
        threads: None,
        cache_dir: if source.no_cache { None } else { cache_dir() },
        outputs: outputs.to_vec(),
    };
    let paths = paths.to_vec();
    let prepared = watched(Work::Hashing, session, move |report, cancel| {
        store::prepare(&paths, &options, &hashed(report), cancel)
    })
    .await??;
    for warning in &prepared.warnings {
        session.output.warn(warning);
    }
    Ok(prepared)
}

/// Where hashes of earlier shares are kept; nowhere for a user without a home.
fn cache_dir() -> Option<PathBuf> {
    etcetera::choose_base_strategy().ok().map(|base| base.cache_dir().join("minibit"))
}

/// The store's progress, for [`watched`].
pub(super) fn hashed(report: &dyn Fn(Standing)) -> impl Fn(store::Progress) {
    move |progress| match progress {
        store::Progress::Listing { files } => report(Standing { files, ..Standing::default() }),
        store::Progress::Hashing { done, total } => {
            report(Standing { bytes: done, bytes_total: total, ..Standing::default() });
        }
        _ => {}
    }
}

/// Runs work on a thread of its own and shows how far it is. The work is given where to
/// report that, and the flag by which it is told to stop.
///
/// # Errors
/// If the work panicked, or the user wants no more of it.
pub(super) async fn watched<T: Send + 'static>(
    work: Work,
    session: &Session,
    run: impl FnOnce(&dyn Fn(Standing), &AtomicBool) -> T + Send + 'static,
) -> Result<T, Failure> {
    let standing = Arc::new(Mutex::new(Standing::default()));
    let (reported, cancel) = (Arc::clone(&standing), Arc::clone(session.interrupt.flag()));
    let mut task = tokio::task::spawn_blocking(move || {
        let report = |now| *reported.lock().unwrap_or_else(PoisonError::into_inner) = now;
        run(&report, &cancel)
    });
    let started = Instant::now();
    let mut progress = Progress::new(&session.output, work);
    let mut ticks = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            biased;
            done = &mut task => return done.map_err(|error| Failure::new(Exit::Failed, error)),
            // The work has its flag, but a disk that does not answer keeps it from looking there.
            () = session.interrupt.requested() => return Err(failures::interrupted()),
            _ = ticks.tick() => {
                let now = standing.lock().unwrap_or_else(PoisonError::into_inner).clone();
                progress.update(started.elapsed(), &now);
            }
        }
    }
}
