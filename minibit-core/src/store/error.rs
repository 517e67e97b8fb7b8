//! What may go wrong between us and the disk; no peer is ever at fault for any of it.

use std::io;
use std::path::{Path, PathBuf};

/// Why a store could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The operating system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// The selected files do not fit on the disk.
    #[error("not enough space in {}: {:.1} MiB needed, {:.1} MiB free", path.display(), mib(*needed), mib(*free))]
    NoSpace {
        /// The target directory.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Bytes the file system would give us.
        free: u64,
    },
    /// The place to download into is no directory.
    #[error("{} is a file, not a directory", path.display())]
    NotADirectory {
        /// The place.
        path: PathBuf,
    },
    /// Something of that name is there already, and `force` was not given.
    #[error("{} exists already", path.display())]
    TargetExists {
        /// The name in the way.
        path: PathBuf,
    },
    /// What has the name of an unfinished download has no journal beside it, so it is somebody else's, and `force` was not
    /// given.
    #[error("{} exists already, and there is no journal of a download beside it", path.display())]
    PartExists {
        /// The name in the way.
        path: PathBuf,
    },
    /// What is there already is neither a regular file nor a directory of ours: a symbolic
    /// link, a FIFO, a device, a socket; or a directory where there should be a file. Refused even with `force`.
    #[error("{} is {kind}, not something to download into", path.display())]
    NotOurs {
        /// The name in the way.
        path: PathBuf,
        /// What it is, with its article.
        kind: &'static str,
    },
    /// The directory in the way holds something that the download does not bring again.
    /// Refused even with `force`, which replaces and does not destroy.
    #[error("{} is in the way and would be lost: it is not among what is fetched", entry.display())]
    WouldLose {
        /// The directory, or something in it; the first that was found.
        entry: PathBuf,
    },
    /// Another process downloads to the same place.
    #[error("{} is being downloaded by another process", path.display())]
    InUse {
        /// The target.
        path: PathBuf,
    },
    /// A shared file is not what was hashed any more: its length, time stamp or inode differs.
    #[error("{} was changed while it was shared", path.display())]
    SourceChanged {
        /// The changed file.
        path: PathBuf,
    },
    /// An earlier attempt to bring data to the disk failed. The kernel may have dropped the
    /// data, so no later success of it means anything; a restart checks what is there.
    #[error("{} could not be brought to the disk earlier; start again to check it", path.display())]
    SyncFailed {
        /// The target.
        path: PathBuf,
    },
    /// Asked to finish although selected pieces are not on record as verified.
    #[error("{missing} pieces are missing")]
    Incomplete {
        /// How many.
        missing: u32,
    },
}

/// Bytes as people compare them with what their disk has.
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl StoreError {
    /// Whether the disk (or the user's quota) is full, which passes when space is made.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::NoSpace { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            _ => false,
        }
    }

    /// For `map_err`: the operating system's answer to `action` on `path`.
    pub(super) fn io<E: Into<io::Error>>(
        action: &'static str,
        path: &Path,
    ) -> impl FnOnce(E) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;

    #[test]
    fn a_full_disk_and_a_used_up_quota_are_told_apart_from_a_broken_disk() {
        let io = |errno: Errno| StoreError::io("write", Path::new("x"))(errno);
        assert!(io(Errno::NOSPC).is_disk_full());
        assert!(io(Errno::DQUOT).is_disk_full());
        assert!(!io(Errno::IO).is_disk_full());
        assert!(StoreError::NoSpace { path: "x".into(), needed: 2, free: 1 }.is_disk_full());
    }
}
