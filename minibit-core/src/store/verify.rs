//! Comparing what lies on a disk with a manifest.
//!
//! Reports every file that is missing, unreadable, of another length or of other content, and
//! every file too many; never stops at the first. Where the pieces' hashes are known it says
//! which bytes are wrong, else only that the file's root differs.
//!
//! Not here: repairing anything.

use std::fmt;
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use super::hashing::{Cancelled, Hashed, hash_files};
use super::prepare::{Progress, numbered};
use super::walk::{Unreadable, walk};
use crate::content::{HashBook, Manifest, escape, merge_pieces};
use crate::types::{Digest, FileIndex};

/// What a check found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Everything that is not as the manifest says, in the manifest's order, then the files
    /// too many in the order of their names.
    pub bad: Vec<BadFile>,
    /// Files that are right.
    pub good: usize,
}

impl VerifyReport {
    /// Whether every file of the manifest is there and right; files too many do not count.
    pub fn is_whole(&self) -> bool {
        self.bad.iter().all(|bad| matches!(bad.problem, Problem::Extra))
    }
}

/// A file that is not as the manifest says.
#[derive(Debug)]
#[non_exhaustive]
pub struct BadFile {
    /// Where it is, or should be.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: Problem,
}

impl fmt::Display for BadFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", escape(&self.path.to_string_lossy()), self.problem)
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It is not there.
    #[error("missing")]
    Missing,
    /// Something else has its name.
    #[error("not a file")]
    NotAFile,
    /// It could not be read.
    #[error("unreadable")]
    Unreadable(#[source] io::Error),
    /// It is longer or shorter than it should be.
    #[error("{found} bytes long instead of {expected}")]
    Length {
        /// What the manifest says.
        expected: u64,
        /// What it is.
        found: u64,
    },
    /// These bytes, whole pieces each, are wrong.
    #[error("wrong bytes in {}", ranges(.0))]
    Pieces(Vec<Range<u64>>),
    /// Its root is wrong; which bytes are to blame is not known.
    #[error("its root is {found} instead of {expected}")]
    Root {
        /// What the manifest says.
        expected: Digest,
        /// The root it has.
        found: Digest,
    },
    /// The manifest knows no such file.
    #[error("not part of the share")]
    Extra,
}

fn ranges(ranges: &[Range<u64>]) -> String {
    let texts: Vec<String> =
        ranges.iter().map(|range| format!("{}..{}", range.start, range.end)).collect();
    texts.join(", ")
}

/// Why a check could not be made at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A directory could not be read.
    #[error("could not list {}", escape(&path.to_string_lossy()))]
    List {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The caller wanted no more of it.
    #[error("cancelled")]
    Cancelled,
}

impl From<Unreadable> for VerifyError {
    fn from(Unreadable { path, source }: Unreadable) -> Self {
        Self::List { path, source }
    }
}

impl From<Cancelled> for VerifyError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Compares the file or directory at `path` with a manifest; for a share of a single file
/// `path` may also be the directory it is in. Blocks until everything was read; `progress`
/// and `cancel` are as in [`prepare`](super::prepare()), and so is `threads` in its options.
///
/// # Errors
/// [`VerifyError`] if no complete report could be made.
pub fn verify(
    path: &Path,
    manifest: &Manifest,
    hashes: Option<&HashBook>,
    threads: Option<NonZeroUsize>,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<VerifyReport, VerifyError> {
    let geometry = manifest.geometry();
    let check = Check { path, manifest, hashes };
    let mut problems: Vec<Option<Problem>> = numbered(geometry).map(|_| None).collect();
    let mut paths = Vec::with_capacity(problems.len());
    for (file, files) in numbered(geometry).zip(0..) {
        progress(Progress::Listing { files });
        if cancel.load(Ordering::Relaxed) {
            return Err(VerifyError::Cancelled);
        }
        let place = check.path_of(file);
        problems[file.index()] = check.problem_at_sight(&place, file);
        paths.push(place);
    }
    let to_read = || numbered(geometry).filter(|file| problems[file.index()].is_none());
    let total = to_read().map(|file| geometry.span(file).len).sum();
    progress(Progress::Hashing { done: 0, total });
    let mut hashed = hash_files(
        geometry,
        to_read().map(|file| (file, &*paths[file.index()])),
        threads,
        &|done| progress(Progress::Hashing { done, total }),
        cancel,
    )?;
    let read: Vec<FileIndex> = to_read().collect();
    for file in read {
        problems[file.index()] = match hashed.failed.remove(&file) {
            Some(error) => Some(Problem::Unreadable(error)),
            None => check.problem_inside(&hashed, file),
        };
    }
    let good = problems.iter().filter(|problem| problem.is_none()).count();
    let mut bad: Vec<BadFile> = paths
        .into_iter()
        .zip(problems)
        .filter_map(|(path, problem)| Some(BadFile { path, problem: problem? }))
        .collect();
    bad.extend(check.extra_files()?);
    Ok(VerifyReport { bad, good })
}

struct Check<'a> {
    path: &'a Path,
    manifest: &'a Manifest,
    hashes: Option<&'a HashBook>,
}

impl Check<'_> {
    fn path_of(&self, file: FileIndex) -> PathBuf {
        if self.manifest.is_single() && !self.path.is_dir() {
            return self.path.to_owned();
        }
        let mut path = self.path.to_owned();
        path.extend(&self.manifest.files()[file.index()].path);
        path
    }

    /// What is wrong before a byte was read.
    fn problem_at_sight(&self, place: &Path, file: FileIndex) -> Option<Problem> {
        let expected = self.manifest.geometry().span(file).len;
        match fs::metadata(place) {
            Ok(found) if !found.is_file() => Some(Problem::NotAFile),
            Ok(found) if found.len() != expected => {
                Some(Problem::Length { expected, found: found.len() })
            }
            Ok(_) => None,
            Err(error) => Some(match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Problem::Missing,
                _ => Problem::Unreadable(error),
            }),
        }
    }

    /// What is wrong with the content of a file that was read.
    fn problem_inside(&self, hashed: &Hashed, file: FileIndex) -> Option<Problem> {
        let geometry = self.manifest.geometry();
        let digests = hashed.of(file);
        let found = merge_pieces(digests);
        let expected = self.manifest.files()[file.index()].root;
        if found == expected {
            return None;
        }
        let mut wrong: Vec<Range<u64>> = Vec::new();
        for (piece, digest) in geometry.pieces_of(file).zip(digests) {
            let Some(right) = self.hashes.and_then(|book| book.expected(piece)) else {
                return Some(Problem::Root { expected, found });
            };
            if right == *digest {
                continue;
            }
            let start = geometry.locate(piece).1;
            let end = start + u64::from(geometry.piece_len(piece));
            match wrong.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => wrong.push(start..end),
            }
        }
        Some(Problem::Pieces(wrong))
    }

    fn extra_files(&self) -> Result<Vec<BadFile>, VerifyError> {
        if self.manifest.is_single() || !self.path.is_dir() {
            return Ok(Vec::new());
        }
        let known: std::collections::HashSet<PathBuf> =
            self.manifest.files().iter().map(|file| file.path.iter().collect()).collect();
        let mut extra = Vec::new();
        walk::<VerifyError>(self.path, &mut |below, _| {
            if !known.contains(below) {
                extra.push(BadFile { path: self.path.join(below), problem: Problem::Extra });
            }
            Ok(())
        })?;
        extra.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(extra)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use tempfile::TempDir;

    use super::*;
    use crate::store::{PrepareOptions, PreparedShare, prepare};
    use crate::types::PieceSize;

    fn folder() -> (TempDir, PathBuf, PreparedShare) {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("share");
        fs::create_dir(&root).unwrap();
        for (name, len) in [("a", 100_000), ("b", 10), ("c", 50_000), ("d", 0), ("e", 5)] {
            fs::write(root.join(name), vec![7; len]).unwrap();
        }
        let piece_size = Some(PieceSize::new(16384).unwrap());
        let options = PrepareOptions { piece_size, ..PrepareOptions::default() };
        let share =
            prepare(std::slice::from_ref(&root), &options, &|_| {}, &AtomicBool::new(false));
        (dir, root, share.unwrap())
    }

    fn report(root: &Path, share: &PreparedShare, hashes: Option<&HashBook>) -> VerifyReport {
        let cancel = AtomicBool::new(false);
        verify(root, &share.manifest, hashes, None, &|_| {}, &cancel).unwrap()
    }

    fn lines(root: &Path, report: &VerifyReport) -> Vec<String> {
        let prefix = format!("{}/", root.display());
        report.bad.iter().map(|bad| bad.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn what_was_not_touched_is_whole() {
        let (_dir, root, share) = folder();
        let report = report(&root, &share, None);
        assert!(report.bad.is_empty() && report.is_whole());
        assert_eq!(report.good, 5);
    }

    #[test]
    fn every_kind_of_damage_is_named_with_its_file_and_its_bytes() {
        let (_dir, root, share) = folder();
        let edited = File::options().write(true).open(root.join("a")).unwrap();
        for at in [20_000, 33_000, 99_999] {
            edited.write_all_at(b"!", at).unwrap();
        }
        fs::remove_file(root.join("b")).unwrap();
        fs::write(root.join("c"), [7; 49_999]).unwrap();
        fs::remove_file(root.join("e")).unwrap();
        fs::create_dir_all(root.join("e")).unwrap();
        fs::write(root.join("extra"), b"").unwrap();
        let known = report(&root, &share, Some(&share.hashes));
        assert_eq!(
            lines(&root, &known),
            [
                "a: wrong bytes in 16384..49152, 98304..100000",
                "b: missing",
                "c: 49999 bytes long instead of 50000",
                "e: not a file",
                "extra: not part of the share",
            ]
        );
        assert_eq!(known.good, 1);
        assert!(!known.is_whole());
        let unknown = report(&root, &share, None);
        let hash = blake3::hash(&fs::read(root.join("a")).unwrap());
        let right = share.manifest.files()[0].root;
        let line = format!("a: its root is {} instead of {right}", hash.to_hex());
        assert_eq!(lines(&root, &unknown)[0], line);
    }

    #[test]
    fn a_single_file_is_found_by_its_own_path_and_by_its_directory() {
        let dir = TempDir::new().unwrap();
        let film = dir.path().join("film");
        fs::write(&film, vec![1; 40_000]).unwrap();
        let share = prepare(
            std::slice::from_ref(&film),
            &PrepareOptions::default(),
            &|_| {},
            &AtomicBool::new(false),
        )
        .unwrap();
        assert!(report(&film, &share, None).is_whole());
        assert!(report(dir.path(), &share, None).is_whole());
        fs::rename(&film, dir.path().join("renamed")).unwrap();
        assert!(report(&dir.path().join("renamed"), &share, None).is_whole());
        assert!(!report(dir.path(), &share, None).is_whole());
    }
}
