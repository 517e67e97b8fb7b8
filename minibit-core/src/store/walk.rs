//! What is in a directory, all the way down, without following links.
//!
//! Not here: judging names, or what to do with each thing found.

use std::fs::{self, FileType};
use std::io;
use std::path::{Path, PathBuf};

/// Directories within directories that are still looked into. Deeper ones cannot be in a
/// share, and a mount that contains itself would never end.
const DEPTH_MAX: usize = crate::types::limits::PATH_DEPTH_MAX + 1;

/// A directory that could not be read.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

/// Calls `visit` with the path below `root`, and the kind, of everything in it that is not a
/// directory, and of directories in it that have nothing in them. Stops at the first error, of its own or of `visit`.
pub(super) fn walk<E: From<Unreadable>>(
    root: &Path,
    visit: &mut dyn FnMut(&Path, FileType) -> Result<(), E>,
) -> Result<(), E> {
    let mut pending = vec![(PathBuf::new(), 0)];
    while let Some((below, depth)) = pending.pop() {
        let path = root.join(&below);
        let fail = |source| Unreadable { path: path.clone(), source };
        let mut is_empty = depth > 0;
        for entry in fs::read_dir(&path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            is_empty = false;
            let child = below.join(entry.file_name());
            let kind = entry.file_type().map_err(fail)?;
            if kind.is_dir() && depth + 1 < DEPTH_MAX {
                pending.push((child, depth + 1));
            } else if kind.is_dir() {
                return Err(fail(io::Error::other("directories too deep within each other")).into());
            } else {
                visit(&child, kind)?;
            }
        }
        if is_empty {
            visit(&below, fs::symlink_metadata(&path).map_err(fail)?.file_type())?;
        }
    }
    Ok(())
}
