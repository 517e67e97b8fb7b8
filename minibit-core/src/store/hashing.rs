//! Reading files and hashing their pieces, on all cores.
//!
//! The work is one list of units, a few hundred KiB each, that the threads take one by one: a
//! single large file keeps all of them busy, and so do ten thousand small ones. Bytes are read
//! at their position into one buffer per thread that stays in the core's cache and is used
//! again and again; never through a mapping, whose pages cost more to touch than to hash.
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
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::source::open_regular;
use crate::content::PieceHasher;
use crate::types::{Digest, FileIndex, Geometry, PieceIndex};

/// Bytes read at a time: a thread's buffer, sized to a core's second-level cache.
const BUFFER_LEN: usize = 256 * 1024;

/// Somebody asked for an end; nothing is known about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cancelled;

/// The pieces' hashes as far as their files could be read.
#[derive(Debug)]
pub(super) struct Hashed {
    /// By piece number, over the whole share; pieces that were not asked for stay zeros.
    digests: Vec<Digest>,
    /// Files that could not be read, with the first error of each.
    pub(super) failed: BTreeMap<FileIndex, io::Error>,
}

impl Hashed {
    /// The hashes of one file's pieces, in order.
    pub(super) fn of(&self, geometry: &Geometry, file: FileIndex) -> &[Digest] {
        let span = geometry.span(file);
        &self.digests[span.first_piece as usize..][..span.pieces as usize]
    }
}

/// Pieces of one file that a thread hashes in one go.
struct Unit<'a> {
    path: &'a Path,
    file: FileIndex,
    pieces: std::ops::Range<u32>,
}

/// What all threads see.
struct Work<'a> {
    geometry: &'a Geometry,
    units: Vec<Unit<'a>>,
    next: AtomicUsize,
    bytes: AtomicU64,
    cancel: &'a AtomicBool,
}

/// What one thread found.
#[derive(Default)]
struct Share {
    digests: Vec<(PieceIndex, Digest)>,
    failed: Vec<(FileIndex, io::Error)>,
}

/// Hashes the pieces of these files. `progress` is told, on the calling thread, how many
/// bytes are done; `threads` counts that thread, and is all cores if not given.
pub(super) fn hash_files<'a>(
    geometry: &'a Geometry,
    files: impl IntoIterator<Item = (FileIndex, &'a Path)>,
    threads: Option<NonZeroUsize>,
    progress: &dyn Fn(u64),
    cancel: &'a AtomicBool,
) -> Result<Hashed, Cancelled> {
    let units = files.into_iter().flat_map(|(file, path)| units_of(geometry, file, path)).collect();
    let next = AtomicUsize::new(0);
    let work = Work { geometry, units, next, bytes: AtomicU64::new(0), cancel };
    let threads = threads
        .or_else(|| std::thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get)
        .min(work.units.len());
    let shares = std::thread::scope(|scope| {
        // A thread that cannot be started leaves its share to the others.
        let helpers: Vec<_> = (1..threads)
            .filter_map(|_| {
                std::thread::Builder::new().spawn_scoped(scope, || work.run(&|_| {})).ok()
            })
            .collect();
        let mut shares = vec![work.run(progress)];
        for helper in helpers {
            match helper.join() {
                Ok(share) => shares.push(share),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        shares
    });
    if cancel.load(Ordering::Relaxed) {
        return Err(Cancelled);
    }
    progress(work.bytes.into_inner());
    let mut digests = vec![Digest([0; 32]); geometry.piece_count() as usize];
    let mut failed = BTreeMap::new();
    for share in shares {
        for (piece, digest) in share.digests {
            digests[piece.index()] = digest;
        }
        for (file, error) in share.failed {
            failed.entry(file).or_insert(error);
        }
    }
    Ok(Hashed { digests, failed })
}

/// Cuts a file's pieces into units of about one buffer, or one piece if that is more.
fn units_of<'a>(
    geometry: &Geometry,
    file: FileIndex,
    path: &'a Path,
) -> impl Iterator<Item = Unit<'a>> + use<'a> {
    let span = geometry.span(file);
    let step = (BUFFER_LEN as u32 / geometry.piece_size().bytes()).max(1);
    let end = span.first_piece + span.pieces;
    (span.first_piece..end).step_by(step as usize).map(move |first| Unit {
        path,
        file,
        pieces: first..end.min(first + step),
    })
}

impl Work<'_> {
    /// Takes units until none is left.
    fn run(&self, progress: &dyn Fn(u64)) -> Share {
        let mut share = Share::default();
        let mut buffer = vec![0; BUFFER_LEN];
        let mut open: Option<(FileIndex, File)> = None;
        while let Some(unit) = self.units.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            if self.cancel.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = self.hash(unit, &mut open, &mut buffer, &mut share.digests) {
                share.failed.push((unit.file, error));
            }
            progress(self.bytes.load(Ordering::Relaxed));
        }
        share
    }

    fn hash(
        &self,
        unit: &Unit<'_>,
        open: &mut Option<(FileIndex, File)>,
        buffer: &mut [u8],
        digests: &mut Vec<(PieceIndex, Digest)>,
    ) -> io::Result<()> {
        let file = match open {
            Some((file, handle)) if *file == unit.file => handle,
            _ => &mut open.insert((unit.file, open_regular(unit.path)?)).1,
        };
        let mut pieces = unit.pieces.clone().filter_map(|number| self.geometry.piece(number));
        let Some(mut piece) = pieces.next() else { return Ok(()) };
        let mut hasher = PieceHasher::new(self.geometry, piece);
        let span = self.geometry.span(unit.file);
        let piece_len = u64::from(self.geometry.piece_size().bytes());
        let mut at = u64::from(unit.pieces.start - span.first_piece) * piece_len;
        let end = span.len.min(u64::from(unit.pieces.end - span.first_piece) * piece_len);
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
                    digests.push((piece, hasher.finish()));
                    let Some(next) = pieces.next() else { break };
                    piece = next;
                    hasher = PieceHasher::new(self.geometry, piece);
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
