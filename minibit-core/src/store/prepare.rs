//! From paths to a share: list the files, choose the piece size, hash everything.
//!
//! A path to a file makes a share of that one file, a path to a directory one of everything
//! in it, several paths one folder that holds them all. Links that the user names are
//! followed; links, special files and empty directories met inside a directory are left out,
//! and so are permissions. The order of files depends on their names alone, so the same
//! content gives the same share everywhere.
//!
//! Invariant: the hashes are those of files that did not change from before the first byte
//! was read until after the last.
//!
//! Not here: tickets, trackers, serving.

use std::fs::{self, FileType};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::cache::{Cache, WORTH_IT};
use super::hashing::{Cancelled, hash_files};
use super::source::{SourceFile, SourceStore, Stamp};
use super::walk::{Unreadable, walk};
use crate::content::{
    Collision, FileEntry, HashBook, Manifest, ManifestError, NameError, check_collisions,
    check_component, check_path, escape, merge_pieces,
};
use crate::types::{Digest, FileIndex, Geometry, GeometryError, PieceSize, limits};

/// How a share is made.
#[derive(Clone, Debug, Default)]
pub struct PrepareOptions {
    /// Length of a piece; chosen by the share's size if not given.
    pub piece_size: Option<PieceSize>,
    /// Name of the share, and of the file if it is one; from the paths if not given.
    pub name: Option<String>,
    /// Threads that hash; all cores if not given.
    pub threads: Option<NonZeroUsize>,
    /// Where hashes of earlier shares are kept; none are if not given.
    pub cache_dir: Option<PathBuf>,
    /// Files that the caller is going to write. None of them may be of the share, by whatever name: that would change it.
    pub outputs: Vec<PathBuf>,
}

/// How far making or checking a share has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Still looking for files.
    Listing {
        /// Found so far.
        files: u64,
    },
    /// Reading and hashing.
    Hashing {
        /// Bytes hashed, or known from earlier.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
}

/// A share that is ready to be served.
#[derive(Debug)]
pub struct PreparedShare {
    /// Names, lengths and roots.
    pub manifest: Manifest,
    /// The hashes of all pieces.
    pub hashes: HashBook,
    /// The files.
    pub store: SourceStore,
    /// Whether nothing worth remembering had to be hashed: it was known from earlier.
    pub cached: bool,
    /// What the user should know.
    pub warnings: Vec<PrepareWarning>,
}

/// Something about a share that is not as one might think; it was made all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareWarning {
    /// A symbolic link inside a shared directory.
    #[error("left out the symbolic link {}", shown(path))]
    SymlinkSkipped {
        /// The link.
        path: PathBuf,
    },
    /// A FIFO, socket or device inside a shared directory.
    #[error("left out {}, which is not a file", shown(path))]
    SpecialSkipped {
        /// What was left out.
        path: PathBuf,
    },
    /// More of the two kinds before than are named.
    #[error("left out {more} more that are links or not files")]
    MoreSkipped {
        /// How many.
        more: u64,
    },
    /// What files and directories have besides names and bytes.
    #[error("{}", left_behind(*executables, *empty_dirs))]
    NotCarried {
        /// Files that can be executed.
        executables: u64,
        /// Directories with nothing in them.
        empty_dirs: u64,
    },
    /// The directory for hashes of earlier shares is of no use.
    #[error("could not keep the hashes in {} for next time: {reason}", path.display())]
    Cache {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
}

fn left_behind(executables: u64, empty_dirs: u64) -> String {
    let count = |count: u64, one: &str, many: &str| {
        (count > 0).then(|| format!("{count} {}", if count == 1 { one } else { many }))
    };
    let bits = count(executables, "file will not be executable", "files will not be executable");
    let dirs = count(empty_dirs, "empty folder is left out", "empty folders are left out");
    let both: Vec<String> = bits.into_iter().chain(dirs).collect();
    format!("{}: a share has names and bytes alone", both.join(", and "))
}

/// Why no share was made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// The operating system refused.
    #[error("could not {action} {}", shown(path))]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// No path was given.
    #[error("nothing to share")]
    NoPaths,
    /// Neither a file nor a directory.
    #[error("{} is neither a file nor a directory", shown(path))]
    NotAFile {
        /// What was to be shared.
        path: PathBuf,
    },
    /// One of [`PrepareOptions::outputs`] is a file of the share.
    #[error("{} is to be shared, and would be written over", shown(path))]
    Output {
        /// The output.
        path: PathBuf,
    },
    /// There is no file in what was given.
    #[error("there is no file in {}", shown(path))]
    NoFiles {
        /// The first path that was given.
        path: PathBuf,
    },
    /// A path that offers no name, as `/` does.
    #[error("{} does not tell what to call the share; give it a name", shown(path))]
    NoName {
        /// The path.
        path: PathBuf,
    },
    /// A name that is not text: other systems could not have it.
    #[error("the name of {} is not UTF-8", shown(path))]
    NotUtf8 {
        /// The file.
        path: PathBuf,
    },
    /// A name that other systems could not have, or that could deceive.
    #[error("{} cannot be shared under that name", shown(path))]
    Name {
        /// The file, or the share's name.
        path: PathBuf,
        /// What is wrong with the name.
        source: NameError,
    },
    /// Several names of the two kinds before.
    #[error("{} names cannot be shared: {}", .names.len() as u64 + more, in_words(names, *more))]
    Names {
        /// The first of them, each as an error of its own.
        names: Vec<Self>,
        /// How many others there are.
        more: u64,
    },
    /// Two files that would be one on some disk.
    #[error("two names are too much alike")]
    Collision(#[from] Collision),
    /// Too many files, bytes or pieces.
    #[error("this cannot be one share")]
    Size(#[from] GeometryError),
    /// The manifest of it would not be valid.
    #[error("this cannot be one share")]
    Manifest(#[from] ManifestError),
    /// A file was written to while it was hashed.
    #[error("{} was changed while it was hashed", shown(path))]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The caller wanted no more of it.
    #[error("cancelled")]
    Cancelled,
}

/// Several errors with their causes.
fn in_words(errors: &[PrepareError], more: u64) -> String {
    let words = errors.iter().map(|error| match error {
        PrepareError::Name { path, source } => format!("{} ({source})", shown(path)),
        PrepareError::NotUtf8 { path } => format!("{} (not UTF-8)", shown(path)),
        other => other.to_string(),
    });
    let words = words.collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{words}, and {more} more") } else { words }
}

fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy()).to_string()
}

impl PrepareError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl From<Unreadable> for PrepareError {
    fn from(Unreadable { path, source }: Unreadable) -> Self {
        Self::Io { action: "list", path, source }
    }
}

impl From<Cancelled> for PrepareError {
    fn from(_: Cancelled) -> Self {
        Self::Cancelled
    }
}

/// Makes a share of these files and directories. Blocks until everything is hashed;
/// `progress` is called on this thread, often, from the first moment on. Setting `cancel`
/// ends it within milliseconds.
///
/// # Errors
/// [`PrepareError`]; nothing but cache entries was written then.
pub fn prepare(
    paths: &[PathBuf],
    options: &PrepareOptions,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<PreparedShare, PrepareError> {
    progress(Progress::Listing { files: 0 });
    let mut listing = Listing {
        files: Vec::new(),
        warnings: Vec::new(),
        bad_names: BadNames::default(),
        skipped: 0,
        executables: 0,
        empty_dirs: 0,
        progress,
        cancel,
    };
    let (name, single) = listing.list(paths, options)?;
    let Listing { mut files, mut warnings, .. } = listing;
    refuse_outputs(&files, &options.outputs)?;
    files.sort_by(|one, other| one.name.cmp(&other.name));
    check_component(&name)
        .map_err(|source| PrepareError::Name { path: PathBuf::from(&name), source })?;
    check_collisions(files.iter().map(|file| &*file.name))?;
    let total = files.iter().map(|file| file.source.stamp.len).sum();
    let size = options.piece_size.unwrap_or_else(|| PieceSize::for_total(total));
    let geometry = Geometry::new(size, files.iter().map(|file| file.source.stamp.len))?;

    let mut hashing = Hashing { geometry: &geometry, files: &files, cache: None };
    if let Some(dir) = &options.cache_dir {
        match Cache::open(dir) {
            Ok(cache) => hashing.cache = Some(cache),
            Err(error) => warnings.push(cache_warning(dir, &error)),
        }
    }
    let outcome = hashing.run(options.threads, progress, cancel)?;
    if let (Some(dir), Some(error)) = (&options.cache_dir, &outcome.cache_error) {
        warnings.push(cache_warning(dir, error));
    }
    assemble(name, single, size, files, outcome, warnings)
}

/// An error if one of the outputs is one of the files: links, also hard ones, lead to the same.
fn refuse_outputs(files: &[Listed], outputs: &[PathBuf]) -> Result<(), PrepareError> {
    for path in outputs {
        // What is not there, or cannot be seen, was not found in the share.
        let Ok(output) = fs::metadata(path) else { continue };
        let is_output = |file: &Listed| {
            (file.source.stamp.device, file.source.stamp.inode) == (output.dev(), output.ino())
        };
        if files.iter().any(is_output) {
            return Err(PrepareError::Output { path: path.clone() });
        }
    }
    Ok(())
}

fn cache_warning(dir: &Path, error: &io::Error) -> PrepareWarning {
    PrepareWarning::Cache { path: dir.to_owned(), reason: error.to_string() }
}

fn assemble(
    name: String,
    single: bool,
    size: PieceSize,
    files: Vec<Listed>,
    outcome: Outcome,
    warnings: Vec<PrepareWarning>,
) -> Result<PreparedShare, PrepareError> {
    let (names, sources): (Vec<_>, Vec<_>) =
        files.into_iter().map(|file| (file.name, file.source)).unzip();
    let entries = names
        .into_iter()
        .zip(&sources)
        .zip(&outcome.digests)
        .map(|((path, source), digests)| FileEntry {
            path,
            len: source.stamp.len,
            root: merge_pieces(digests),
        })
        .collect();
    let manifest = Manifest::new(name, single, size, entries)?;
    let hashes = HashBook::new(&manifest);
    let geometry = manifest.geometry();
    for (file, digests) in numbered(geometry).zip(outcome.digests) {
        // The root was just merged from them.
        let inserted = hashes.insert_file(file, digests);
        debug_assert!(inserted.is_ok(), "{inserted:?}");
    }
    let store = SourceStore::new(Arc::clone(geometry), sources);
    Ok(PreparedShare { manifest, hashes, store, cached: outcome.cached, warnings })
}

/// The share's files by number.
pub(super) fn numbered(geometry: &Geometry) -> impl Iterator<Item = FileIndex> + '_ {
    (0..).map_while(|number| geometry.file(number))
}

/// A file that is to be shared.
#[derive(Debug)]
struct Listed {
    /// Its path in the share.
    name: Vec<String>,
    source: SourceFile,
}

/// So many of those that are left out have a warning of their own.
const SKIPPED_NAMED: u64 = 10;

/// The search for files.
struct Listing<'a> {
    files: Vec<Listed>,
    warnings: Vec<PrepareWarning>,
    bad_names: BadNames,
    /// Links and what is no file.
    skipped: u64,
    executables: u64,
    empty_dirs: u64,
    progress: &'a dyn Fn(Progress),
    cancel: &'a AtomicBool,
}

/// Names that cannot be shared: all are told at once, so that all can be changed at once.
#[derive(Default)]
struct BadNames {
    names: Vec<PrepareError>,
    /// Beyond those.
    more: u64,
    /// The last of all: a directory's name is bad once, whatever is in it.
    last: PathBuf,
}

impl BadNames {
    /// Kept of them.
    const KEPT: usize = 10;

    fn add(&mut self, path: PathBuf, error: impl FnOnce(PathBuf) -> PrepareError) {
        if path == self.last {
            return;
        }
        self.last.clone_from(&path);
        if self.names.len() < Self::KEPT {
            self.names.push(error(path));
        } else {
            self.more += 1;
        }
    }

    fn into_result(self) -> Result<(), PrepareError> {
        let Self { mut names, more, .. } = self;
        match names.len() {
            0 => Ok(()),
            1 => Err(names.remove(0)),
            _ => Err(PrepareError::Names { names, more }),
        }
    }
}

/// The path up to the component of `name` that `is_bad` for the first time.
fn up_to_bad(path: &Path, depth: usize, is_bad: impl Fn(usize) -> bool) -> PathBuf {
    let first = (1..depth).find(|up_to| is_bad(*up_to)).unwrap_or(depth);
    path.ancestors().nth(depth - first).unwrap_or(path).to_owned()
}

impl Listing<'_> {
    /// Finds all files; returns the share's name and whether it is a single file.
    fn list(
        &mut self,
        paths: &[PathBuf],
        options: &PrepareOptions,
    ) -> Result<(String, bool), PrepareError> {
        let first = paths.first().ok_or(PrepareError::NoPaths)?;
        let chosen = options.name.clone();
        let answer = if let [path] = paths {
            let name = chosen.map_or_else(|| name_of(path), Ok)?;
            let single = self.add_top(path, &[], Some(&name))?;
            (name, single)
        } else {
            let name = chosen.map_or_else(|| common_parent_name(paths), Ok)?;
            for path in paths {
                let own = name_of(path)?;
                self.add_top(path, std::slice::from_ref(&own), None)?;
            }
            (name, false)
        };
        std::mem::take(&mut self.bad_names).into_result()?;
        if let Some(more @ 1..) = self.skipped.checked_sub(SKIPPED_NAMED) {
            self.warnings.push(PrepareWarning::MoreSkipped { more });
        }
        if self.executables + self.empty_dirs > 0 {
            let Self { executables, empty_dirs, .. } = *self;
            self.warnings.push(PrepareWarning::NotCarried { executables, empty_dirs });
        }
        if self.files.is_empty() {
            return Err(PrepareError::NoFiles { path: first.clone() });
        }
        Ok(answer)
    }

    /// Adds a path that the user named; `prefix` goes before the paths of what is in it, and
    /// `alone` is its name if it is a file that stands for itself. True if it is a file.
    fn add_top(
        &mut self,
        path: &Path,
        prefix: &[String],
        alone: Option<&String>,
    ) -> Result<bool, PrepareError> {
        // A pipe has no canonical path, though `/dev/stdin` names it.
        if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
            return Err(PrepareError::NotAFile { path: path.to_owned() });
        }
        let path = fs::canonicalize(path).map_err(PrepareError::io("find", path))?;
        let metadata = fs::metadata(&path).map_err(PrepareError::io("examine", &path))?;
        if metadata.is_file() {
            let name = prefix.iter().chain(alone).cloned().collect();
            self.add(path, name, &metadata)?;
            return Ok(true);
        }
        walk(&path, &mut |below, kind| self.visit(&path, prefix, below, kind))?;
        Ok(false)
    }

    fn visit(
        &mut self,
        root: &Path,
        prefix: &[String],
        below: &Path,
        kind: FileType,
    ) -> Result<(), PrepareError> {
        let path = root.join(below);
        if kind.is_dir() {
            self.empty_dirs += 1;
            return Ok(());
        }
        if !kind.is_file() {
            self.skip(path, kind);
            return Ok(());
        }
        let inner: Vec<_> = below.iter().collect();
        if inner.iter().any(|component| component.to_str().is_none()) {
            let bad = up_to_bad(&path, inner.len(), |depth| inner[depth - 1].to_str().is_none());
            self.bad_names.add(bad, |path| PrepareError::NotUtf8 { path });
            return Ok(());
        }
        let inner = inner.into_iter().filter_map(std::ffi::OsStr::to_str);
        let name = prefix.iter().cloned().chain(inner.map(str::to_owned)).collect();
        let metadata = fs::symlink_metadata(&path).map_err(PrepareError::io("examine", &path))?;
        self.add(path, name, &metadata)
    }

    /// Leaves out what a share cannot carry. A few are named: some folders have thousands of links.
    fn skip(&mut self, path: PathBuf, kind: FileType) {
        self.skipped += 1;
        if self.skipped > SKIPPED_NAMED {
            return;
        }
        self.warnings.push(if kind.is_symlink() {
            PrepareWarning::SymlinkSkipped { path }
        } else {
            PrepareWarning::SpecialSkipped { path }
        });
    }

    fn add(
        &mut self,
        path: PathBuf,
        name: Vec<String>,
        metadata: &fs::Metadata,
    ) -> Result<(), PrepareError> {
        if self.cancel.load(Ordering::Relaxed) {
            return Err(PrepareError::Cancelled);
        }
        if self.files.len() == limits::FILES_MAX {
            return Err(GeometryError::TooManyFiles { files: limits::FILES_MAX + 1 }.into());
        }
        if let Err(source) = check_path(&name) {
            let bad = up_to_bad(&path, name.len(), |depth| check_path(&name[..depth]).is_err());
            self.bad_names.add(bad, |path| PrepareError::Name { path, source });
            return Ok(());
        }
        if metadata.mode() & 0o111 != 0 {
            self.executables += 1;
        }
        let source = SourceFile { path, stamp: Stamp::of(metadata) };
        self.files.push(Listed { name, source });
        (self.progress)(Progress::Listing { files: self.files.len() as u64 });
        Ok(())
    }
}

/// The last name of a path, of the place it leads to if it ends in dots.
fn name_of(path: &Path) -> Result<String, PrepareError> {
    let found = match path.components().next_back() {
        Some(Component::Normal(name)) => Some(name.to_owned()),
        _ => {
            let place = fs::canonicalize(path).map_err(PrepareError::io("find", path))?;
            place.file_name().map(ToOwned::to_owned)
        }
    };
    let name = found.ok_or_else(|| PrepareError::NoName { path: path.to_owned() })?;
    name.into_string().map_err(|_| PrepareError::NotUtf8 { path: path.to_owned() })
}

/// The name of the innermost directory that holds all of these.
fn common_parent_name(paths: &[PathBuf]) -> Result<String, PrepareError> {
    let mut common: Option<PathBuf> = None;
    for path in paths {
        let place = fs::canonicalize(path).map_err(PrepareError::io("find", path))?;
        let parent = place.parent().unwrap_or(&place);
        common = Some(match common {
            None => parent.to_owned(),
            Some(so_far) => so_far
                .components()
                .zip(parent.components())
                .take_while(|(one, other)| one == other)
                .map(|(one, _)| one)
                .collect(),
        });
    }
    name_of(&common.ok_or(PrepareError::NoPaths)?)
}

/// The hashing of all files, with the help of earlier results.
struct Hashing<'a> {
    geometry: &'a Geometry,
    files: &'a [Listed],
    cache: Option<Cache>,
}

/// What hashing gave.
struct Outcome {
    /// The hashes of each file's pieces.
    digests: Vec<Vec<Digest>>,
    cached: bool,
    cache_error: Option<io::Error>,
}

impl Hashing<'_> {
    fn run(
        &self,
        threads: Option<NonZeroUsize>,
        progress: &dyn Fn(Progress),
        cancel: &AtomicBool,
    ) -> Result<Outcome, PrepareError> {
        let total = self.geometry.total_len();
        progress(Progress::Hashing { done: 0, total });
        let known: Vec<Option<Vec<Digest>>> =
            self.files.iter().map(|file| self.known(file)).collect();
        let fresh = || numbered(self.geometry).filter(|file| known[file.index()].is_none());
        let hashed_len: u64 = fresh().map(|file| self.geometry.span(file).len).sum();
        let mut hashed = hash_files(
            self.geometry,
            fresh().map(|file| (file, &*self.source(file).path)),
            threads,
            &|done| progress(Progress::Hashing { done: done + total - hashed_len, total }),
            cancel,
        )?;
        if let Some((file, error)) = hashed.failed.pop_first() {
            let path = &self.source(file).path;
            return Err(match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound => {
                    PrepareError::Changed { path: path.clone() }
                }
                _ => PrepareError::io("read", path)(error),
            });
        }
        let mut cache_error = None;
        let mut digests = Vec::with_capacity(known.len());
        let mut cached = self.files.iter().any(|file| file.source.stamp.len >= WORTH_IT);
        for (file, known) in numbered(self.geometry).zip(known) {
            digests.push(match known {
                Some(known) => known,
                None => {
                    let own = hashed.take(file);
                    let source = self.source(file);
                    check_unchanged(source)?;
                    cached &= source.stamp.len < WORTH_IT;
                    cache_error = cache_error.or(self.remember(source, &own).err());
                    own
                }
            });
        }
        Ok(Outcome { digests, cached, cache_error })
    }

    fn source(&self, file: FileIndex) -> &SourceFile {
        &self.files[file.index()].source
    }

    fn known(&self, file: &Listed) -> Option<Vec<Digest>> {
        let SourceFile { path, stamp } = &file.source;
        self.cache.as_ref()?.load(path, stamp, self.geometry.piece_size())
    }

    fn remember(&self, source: &SourceFile, digests: &[Digest]) -> io::Result<()> {
        let Some(cache) = &self.cache else { return Ok(()) };
        cache.store(&source.path, &source.stamp, self.geometry.piece_size(), digests)
    }
}

/// Whether a file is still what was listed, now that it was read.
pub(super) fn check_unchanged(source: &SourceFile) -> Result<(), PrepareError> {
    match fs::metadata(&source.path) {
        Ok(metadata) if Stamp::of(&metadata) == source.stamp => Ok(()),
        _ => Err(PrepareError::Changed { path: source.path.clone() }),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs::File;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use tempfile::TempDir;

    use super::*;
    use crate::store::{PieceStore, StoreError};

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(len as u64).fill(&mut bytes);
        bytes
    }

    fn put(dir: &Path, name: &str, len: usize) -> PathBuf {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, noise(len)).unwrap();
        path
    }

    fn prepare_with(
        paths: &[PathBuf],
        options: &PrepareOptions,
    ) -> Result<PreparedShare, PrepareError> {
        prepare(paths, options, &|_| {}, &AtomicBool::new(false))
    }

    fn prepared(paths: &[PathBuf]) -> PreparedShare {
        prepare_with(paths, &PrepareOptions::default()).unwrap()
    }

    fn names(share: &PreparedShare) -> Vec<String> {
        share.manifest.files().iter().map(|file| file.path.join("/")).collect()
    }

    /// Files of many lengths around the boundaries of pieces.
    fn folder() -> TempDir {
        let dir = TempDir::new().unwrap();
        for (number, len) in
            [0, 1, 1023, 1025, 16383, 16384, 16385, 700_001, 3_000_000].into_iter().enumerate()
        {
            put(dir.path(), &format!("share/{}/{number}", number % 3), len);
        }
        dir
    }

    #[test]
    fn every_root_is_the_files_plain_hash_whatever_the_pieces_and_the_threads() {
        let dir = folder();
        let mut ids = Vec::new();
        for (piece, threads) in [(16 << 10, 1), (16 << 10, 3), (256 << 10, 2), (1 << 20, 2)] {
            let options = PrepareOptions {
                piece_size: Some(PieceSize::new(piece).unwrap()),
                threads: NonZeroUsize::new(threads),
                ..PrepareOptions::default()
            };
            let share = prepare_with(&[dir.path().join("share")], &options).unwrap();
            for file in share.manifest.files() {
                let bytes = fs::read(dir.path().join("share").join(file.path.join("/"))).unwrap();
                assert_eq!(file.root.0, *blake3::hash(&bytes).as_bytes(), "{:?}", file.path);
            }
            let all_known = share
                .manifest
                .geometry()
                .pieces()
                .all(|piece| share.hashes.expected(piece).is_some());
            assert!(all_known);
            ids.push(share.manifest.share_id());
        }
        assert_eq!(ids[0], ids[1], "threads do not change the share");
    }

    #[test]
    fn a_file_makes_a_share_of_one_and_a_folder_one_in_the_order_of_names() {
        let dir = TempDir::new().unwrap();
        let film = put(dir.path(), "film.mp4", 100_000);
        let share = prepared(std::slice::from_ref(&film));
        assert!(share.manifest.is_single());
        assert_eq!((share.manifest.name(), names(&share)), ("film.mp4", vec!["film.mp4".into()]));

        for name in ["b/z", "b/a", "a.txt", "b.txt", "b/c/d"] {
            put(dir.path(), &format!("tree/{name}"), 10);
        }
        let share = prepared(&[dir.path().join("tree/b/..")]);
        assert!(!share.manifest.is_single());
        assert_eq!(share.manifest.name(), "tree");
        assert_eq!(names(&share), ["a.txt", "b/a", "b/c/d", "b/z", "b.txt"]);

        let options = PrepareOptions { name: Some("other".into()), ..PrepareOptions::default() };
        let share = prepare_with(&[film], &options).unwrap();
        assert_eq!((share.manifest.name(), names(&share)), ("other", vec!["other".into()]));
    }

    #[test]
    fn a_file_of_the_share_is_no_output_by_whatever_name_and_nothing_is_hashed_to_know_that() {
        let dir = TempDir::new().unwrap();
        let film = put(dir.path(), "share/film.mp4", 1000);
        let [link, hard] = ["link", "hard"].map(|name| dir.path().join(name));
        symlink(&film, &link).unwrap();
        fs::hard_link(&film, &hard).unwrap();
        let paths = [dir.path().join("share")];
        for output in [film, link, hard] {
            let outputs = vec![dir.path().join("share/new"), output.clone()];
            let options = PrepareOptions { outputs, ..PrepareOptions::default() };
            let progress = |progress| assert!(matches!(progress, Progress::Listing { .. }));
            match prepare(&paths, &options, &progress, &AtomicBool::new(false)) {
                Err(PrepareError::Output { path }) => assert_eq!(path, output),
                other => panic!("{other:?}"),
            }
        }
        let outputs = vec![put(dir.path(), "beside", 10)];
        let options = PrepareOptions { outputs, ..PrepareOptions::default() };
        assert!(prepare_with(&paths, &options).is_ok());
    }

    #[test]
    fn several_paths_make_one_folder_named_after_what_holds_them_all() {
        let dir = TempDir::new().unwrap();
        let film = put(dir.path(), "top/x/film", 10);
        put(dir.path(), "top/y/subs/en", 10);
        let paths = [film.clone(), dir.path().join("top/y/subs")];
        let share = prepared(&paths);
        assert_eq!(share.manifest.name(), "top");
        assert_eq!(names(&share), ["film", "subs/en"]);
        let twice = prepare_with(&[film.clone(), film], &PrepareOptions::default());
        assert!(matches!(twice, Err(PrepareError::Collision(_))), "{twice:?}");
    }

    #[test]
    fn links_and_special_files_in_a_folder_are_left_out_with_a_warning() {
        let dir = TempDir::new().unwrap();
        put(dir.path(), "share/file", 10);
        let link = dir.path().join("share/link");
        symlink("/etc/passwd", &link).unwrap();
        symlink(dir.path(), dir.path().join("share/loop")).unwrap();
        let fifo = dir.path().join("share/fifo");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let share = prepared(&[dir.path().join("share")]);
        assert_eq!(names(&share), ["file"]);
        assert_eq!(share.warnings.len(), 3);
        assert!(share.warnings.iter().any(|warning| {
            matches!(warning, PrepareWarning::SymlinkSkipped { path } if path.ends_with("link"))
        }));
        assert!(share.warnings.iter().any(|warning| {
            matches!(warning, PrepareWarning::SpecialSkipped { path } if path.ends_with("fifo"))
        }));
    }

    #[test]
    fn what_cannot_be_shared_is_refused_with_its_reason() {
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("empty")).unwrap();
        put(dir.path(), "colon/a:b", 1);
        fs::create_dir(dir.path().join("bytes")).unwrap();
        let bytes = dir.path().join("bytes").join(std::ffi::OsStr::from_bytes(b"\xff"));
        File::create(bytes).unwrap();
        put(dir.path(), "case/A", 1);
        put(dir.path(), "case/a", 1);
        let refused = |name: &str| {
            prepare_with(&[dir.path().join(name)], &PrepareOptions::default()).unwrap_err()
        };
        assert!(matches!(refused("empty"), PrepareError::NoFiles { .. }));
        assert!(matches!(refused("colon"), PrepareError::Name { .. }));
        assert!(matches!(refused("bytes"), PrepareError::NotUtf8 { .. }));
        assert!(matches!(refused("case"), PrepareError::Collision(_)));
        assert!(matches!(refused("nothing"), PrepareError::Io { action: "find", .. }));
        let (pipe, _writes) = io::pipe().unwrap();
        let pipe = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&pipe));
        for no_file in ["/dev/null".into(), pipe.into()] {
            assert!(matches!(
                prepare_with(&[no_file], &PrepareOptions::default()),
                Err(PrepareError::NotAFile { .. })
            ));
        }
        assert!(matches!(
            prepare_with(&[], &PrepareOptions::default()),
            Err(PrepareError::NoPaths)
        ));
    }

    #[test]
    fn progress_starts_at_once_never_goes_back_and_ends_at_the_total() {
        let dir = folder();
        let seen = RefCell::new(Vec::new());
        prepare(
            &[dir.path().join("share")],
            &PrepareOptions::default(),
            &|progress| seen.borrow_mut().push(progress),
            &AtomicBool::new(false),
        )
        .unwrap();
        let seen = seen.into_inner();
        assert_eq!(seen[0], Progress::Listing { files: 0 });
        let done: Vec<u64> = seen
            .iter()
            .filter_map(|progress| match progress {
                Progress::Hashing { done, total } => {
                    assert_eq!(*total, 3_751_202);
                    Some(*done)
                }
                Progress::Listing { .. } => None,
            })
            .collect();
        assert!(done.is_sorted());
        assert_eq!((done.first(), done.last()), (Some(&0), Some(&3_751_202)));
    }

    #[test]
    fn a_cancelled_share_is_not_made() {
        let dir = folder();
        let cancel = AtomicBool::new(false);
        let outcome = prepare(
            &[dir.path().join("share")],
            &PrepareOptions::default(),
            &|progress| {
                if matches!(progress, Progress::Hashing { .. }) {
                    cancel.store(true, Ordering::Relaxed);
                }
            },
            &cancel,
        );
        assert!(matches!(outcome, Err(PrepareError::Cancelled)));
    }

    #[test]
    fn a_file_that_changes_while_it_is_hashed_is_noticed() {
        let dir = TempDir::new().unwrap();
        let film = put(dir.path(), "film", 3_000_000);
        for change in [
            (|path: &Path| File::options().append(true).open(path).unwrap().set_len(9).unwrap())
                as fn(&Path),
            |path| fs::write(path, noise(3_000_000)).unwrap(),
            |path| fs::remove_file(path).unwrap(),
        ] {
            fs::write(&film, noise(3_000_000)).unwrap();
            set_age(&film, 100);
            let changed = std::cell::Cell::new(false);
            let outcome = prepare(
                std::slice::from_ref(&film),
                &PrepareOptions::default(),
                &|progress| {
                    if matches!(progress, Progress::Hashing { .. }) && !changed.replace(true) {
                        change(&film);
                    }
                },
                &AtomicBool::new(false),
            );
            assert!(matches!(outcome, Err(PrepareError::Changed { .. })), "{outcome:?}");
        }
    }

    fn set_age(path: &Path, seconds: u64) {
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - seconds);
        File::options().append(true).open(path).unwrap().set_modified(then).unwrap();
    }

    #[test]
    fn an_unchanged_file_is_not_read_again_and_a_changed_or_fresh_one_is() {
        let dir = TempDir::new().unwrap();
        let film = put(dir.path(), "film", 3_000_000);
        let cache_dir = Some(dir.path().join("cache"));
        let options = PrepareOptions { cache_dir, ..PrepareOptions::default() };
        let share = || prepare_with(std::slice::from_ref(&film), &options).unwrap();
        assert!(!share().cached);
        assert!(!share().cached, "a file of this very moment could change unnoticed");
        set_age(&film, 0);
        let first = share();
        assert!(!first.cached);
        let second = share();
        assert!(second.cached);
        assert_eq!(first.manifest, second.manifest);
        set_age(&film, 1);
        assert!(!share().cached, "another time stamp");
        assert!(share().cached);
        let size = Some(PieceSize::new(1 << 20).unwrap());
        let other = PrepareOptions { piece_size: size, ..options.clone() };
        assert!(!prepare_with(std::slice::from_ref(&film), &other).unwrap().cached);
    }

    #[test]
    fn a_damaged_cache_is_ignored_and_a_useless_directory_only_warned_about() {
        let dir = TempDir::new().unwrap();
        let film = put(dir.path(), "film", 3_000_000);
        set_age(&film, 0);
        let cache_dir = dir.path().join("cache");
        let options =
            PrepareOptions { cache_dir: Some(cache_dir.clone()), ..PrepareOptions::default() };
        let share = || prepare_with(std::slice::from_ref(&film), &options).unwrap();
        let manifest = share().manifest;
        let entry = fs::read_dir(&cache_dir).unwrap().next().unwrap().unwrap().path();
        let sound = fs::read(&entry).unwrap();
        for damage in [0, 20, 60, sound.len() - 1] {
            let mut bytes = sound.clone();
            bytes[damage] ^= 1;
            fs::write(&entry, &bytes).unwrap();
            let share = share();
            assert!(!share.cached, "byte {damage}");
            assert_eq!(share.manifest, manifest);
        }
        fs::write(&entry, &sound[..sound.len() - 1]).unwrap();
        assert!(!share().cached);
        assert!(share().cached, "it was written anew");

        let options = PrepareOptions { cache_dir: Some(film.clone()), ..options };
        let share = prepare_with(std::slice::from_ref(&film), &options).unwrap();
        assert!(matches!(&*share.warnings, [PrepareWarning::Cache { .. }]));
    }

    #[test]
    fn a_source_that_changed_is_not_served_and_one_that_did_not_is() {
        let dir = TempDir::new().unwrap();
        let film = put(dir.path(), "film", 100_000);
        set_age(&film, 0);
        let share = prepared(std::slice::from_ref(&film));
        let geometry = share.manifest.geometry();
        let piece = geometry.piece(6).unwrap();
        let served = share.store.serve(piece).unwrap();
        assert_eq!(served.offset, 6 * 16384);
        let span = geometry.block(6, 5, 100).unwrap();
        let mut buffer = [0; 100];
        share.store.read(span, &mut buffer).unwrap();
        assert_eq!(buffer, noise(100_000)[6 * 16384 + 5..][..100]);
        assert!(share.store.write(span, &buffer).is_err());

        fs::write(&film, noise(99_999)).unwrap();
        let file = geometry.file(0).unwrap();
        for outcome in [
            share.store.check(file),
            share.store.serve(piece).map(drop),
            share.store.read(span, &mut buffer),
        ] {
            assert!(matches!(outcome, Err(StoreError::SourceChanged { .. })), "{outcome:?}");
        }
    }
}
