//! How many files and connections this process may have open.
//!
//! Systems set the limit low for the sake of old programs and let each process raise it, up to
//! a second limit that it cannot pass. Whoever brings many links into one process asks here how many they may be.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Lets this process have as many as the system allows it. That it may not is no failure: then
/// it has fewer.
pub(crate) fn raise_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// How many this process may have open at once.
pub(crate) fn limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}
