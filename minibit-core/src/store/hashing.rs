//! Reading files and hashing their pieces, on all cores.
//!
//! The work is one list of units, a few hundred KiB each, that the threads take one by one: a
//! single large file keeps all of them busy, and so do ten thousand small ones. Bytes are read
//! at their position into one buffer per thread that stays in the core's cache and is used
//! again and again; never through a mapping, whose pages cost more to touch than to hash.
//!
//! Each unit comes with the place where its hashes belong, so a thread puts them there at once: a list
//! of its own would double what the hashes of a large share take.
//!
//! Invariant: the hash of a piece comes from one read of each of its bytes.
//!
//! Not here: which files, and what the hashes prove.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::vec;

use super::prepare::numbered;
use super::source::open_regular;
use crate::content::PieceHasher;
use crate::types::{Digest, FileIndex, Geometry};

/// Bytes read at a time: a thread's buffer, sized to a core's second-level cache.
const BUFFER_LEN: usize = 256 * 1024;

/// Somebody asked for an end; nothing is known about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cancelled;

/// The pieces' hashes as far as their files could be read.
#[derive(Debug)]
pub(super) struct Hashed {
    /// By file; of files that were not asked for there are none.
    digests: Vec<Vec<Digest>>,
    /// Files that could not be read, with the first error of each.
    pub(super) failed: BTreeMap<FileIndex, io::Error>,
}

impl Hashed {
    /// The hashes of one file's pieces, in order.
    pub(super) fn of(&self, file: FileIndex) -> &[Digest] {
        &self.digests[file.index()]
    }

    /// The same, to be kept.
    pub(super) fn take(&mut self, file: FileIndex) -> Vec<Digest> {
        std::mem::take(&mut self.digests[file.index()])
    }
}

/// Pieces of one file that a thread hashes in one go.
struct Unit<'a> {
    path: &'a Path,
    file: FileIndex,
    first_piece: u32,
    /// Where their hashes go.
    digests: &'a mut [Digest],
}

/// What all threads see.
struct Work<'a> {
    geometry: &'a Geometry,
    units: Mutex<vec::IntoIter<Unit<'a>>>,
    bytes: AtomicU64,
    cancel: &'a AtomicBool,
}

/// Files that a thread could not read.
type Failed = Vec<(FileIndex, io::Error)>;

/// Hashes the pieces of these files. `progress` is told, on the calling thread, how many
/// bytes are done; `threads` counts that thread, and is all cores if not given.
pub(super) fn hash_files<'a>(
    geometry: &'a Geometry,
    files: impl IntoIterator<Item = (FileIndex, &'a Path)>,
    threads: Option<NonZeroUsize>,
    progress: &dyn Fn(u64),
    cancel: &'a AtomicBool,
) -> Result<Hashed, Cancelled> {
    let mut digests = vec![Vec::new(); geometry.files().len()];
    let mut paths = vec![None; digests.len()];
    for (file, path) in files {
        digests[file.index()] = vec![Digest([0; 32]); geometry.span(file).pieces as usize];
        paths[file.index()] = Some(path);
    }
    let asked_for = numbered(geometry).zip(&mut digests).zip(&paths);
    let units: Vec<Unit<'_>> = asked_for
        .filter_map(|((file, digests), path)| path.map(|path| (file, digests, path)))
        .flat_map(|(file, digests, path)| units_of(geometry, file, path, digests))
        .collect();
    let count = units.len();
    let units = Mutex::new(units.into_iter());
    let work = Work { geometry, units, bytes: AtomicU64::new(0), cancel };
    let threads = threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
        .min(count);
    let failures = std::thread::scope(|scope| {
        // A thread that cannot be started leaves its share to the others.
        let helpers: Vec<_> = (1..threads)
            .filter_map(|_| {
                std::thread::Builder::new().spawn_scoped(scope, || work.run(&|_| {})).ok()
            })
            .collect();
        let mut failures = work.run(progress);
        for helper in helpers {
            match helper.join() {
                Ok(more) => failures.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        failures
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(Cancelled);
    }
    progress(work.bytes.into_inner());
    let mut failed = BTreeMap::new();
    for (file, error) in failures {
        failed.entry(file).or_insert(error);
    }
    Ok(Hashed { digests, failed })
}

/// Cuts a file's pieces into units of about one buffer, or one piece if that is more.
fn units_of<'a>(
    geometry: &Geometry,
    file: FileIndex,
    path: &'a Path,
    digests: &'a mut [Digest],
) -> impl Iterator<Item = Unit<'a>> + use<'a> {
    let first = geometry.span(file).first_piece;
    let step = (BUFFER_LEN as u32 / geometry.piece_size().bytes()).max(1);
    let firsts = (first..).step_by(step as usize);
    firsts.zip(digests.chunks_mut(step as usize)).map(move |(first_piece, digests)| Unit {
        path,
        file,
        first_piece,
        digests,
    })
}

impl Work<'_> {
    fn next_unit(&self) -> Option<Unit<'_>> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner).next()
    }

    /// Takes units until none is left.
    fn run(&self, progress: &dyn Fn(u64)) -> Failed {
        let mut failed = Failed::new();
        let mut buffer = vec![0; BUFFER_LEN];
        let mut open: Option<(FileIndex, File)> = None;
        while let Some(mut unit) = self.next_unit() {
            if self.cancel.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = self.hash(&mut unit, &mut open, &mut buffer) {
                failed.push((unit.file, error));
            }
            progress(self.bytes.load(Ordering::Relaxed));
        }
        failed
    }

    fn hash(
        &self,
        unit: &mut Unit<'_>,
        open: &mut Option<(FileIndex, File)>,
        buffer: &mut [u8],
    ) -> io::Result<()> {
        let file = match open {
            Some((file, handle)) if *file == unit.file => handle,
            _ => &mut open.insert((unit.file, open_regular(unit.path)?)).1,
        };
        let count = unit.digests.len() as u64;
        let pieces = (unit.first_piece..).map_while(|number| self.geometry.piece(number));
        let mut hashers = pieces
            .zip(&mut *unit.digests)
            .map(|(piece, digest)| (PieceHasher::new(self.geometry, piece), digest));
        let Some((mut hasher, mut digest)) = hashers.next() else { return Ok(()) };
        let span = self.geometry.span(unit.file);
        let piece_len = u64::from(self.geometry.piece_size().bytes());
        let mut at = u64::from(unit.first_piece - span.first_piece) * piece_len;
        let end = span.len.min(at + count * piece_len);
        while at < end {
            let read = (end - at).min(buffer.len() as u64) as usize;
            file.read_exact_at(&mut buffer[..read], at)?;
            at += read as u64;
            let mut bytes = &buffer[..read];
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(bytes.len().min(hasher.remaining() as usize));
                hasher.update(now);
                bytes = later;
                if hasher.remaining() == 0 {
                    *digest = hasher.finish();
                    let Some(next) = hashers.next() else { break };
                    (hasher, digest) = next;
                }
            }
            self.bytes.fetch_add(read as u64, Ordering::Relaxed);
            if self.cancel.load(Ordering::Relaxed) {
                break;
            }
        }
        Ok(())
    }
}
