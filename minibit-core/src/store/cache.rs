//! Hashes of files that were shared before, so that sharing them again is immediate.
//!
//! One small file per (path, piece size) in a directory of the user's; `docs/on-disk.md` has
//! the bytes. An entry counts only for the same length, time stamp and inode, and only if its
//! own checksum is right; anything else is ignored and written anew.
//!
//! A file that was changed within the last two seconds before it was hashed gets no entry: it
//! could change again without its time stamp showing it.
//!
//! Not here: a limit on the directory's size. An entry is a thousandth of its file at most,
//! and a changed file's entry takes the old one's place.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::source::Stamp;
use crate::types::{Digest, PieceSize};

const MAGIC: [u8; 8] = *b"MBCACHE1";
/// Files below this length are hashed as fast as their entry could be read.
pub(super) const WORTH_IT: u64 = 1024 * 1024;
/// Time stamps of some file systems are no finer.
const SETTLED_NANOS: i128 = 2_000_000_000;
/// Magic, length, time stamp, inode, number of pieces.
const HEAD_LEN: usize = 8 + 8 + 16 + 8 + 4;
const CHECK_LEN: usize = 32;
/// Hashes read or written at a time.
const AT_ONCE: usize = 4096;

/// The directory of entries.
#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
    /// The file system's time when it was opened, in nanoseconds since 1970.
    now: i128,
}

impl Cache {
    /// Opens the directory, which is made if it is missing.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        // The clock that counts is the one files are stamped by.
        let (path, probe) = temporary(dir)?;
        let now = probe.metadata().map(|metadata| Stamp::of(&metadata).modified);
        fs::remove_file(path)?;
        Ok(Self { dir: dir.to_owned(), now: now? })
    }

    /// The hashes of a file's pieces, if it is as it was when they were stored.
    pub(super) fn load(&self, path: &Path, stamp: &Stamp, size: PieceSize) -> Option<Vec<Digest>> {
        if stamp.len < WORTH_IT {
            return None;
        }
        let pieces = stamp.len.div_ceil(u64::from(size.bytes())) as usize;
        let file = File::open(self.entry(path, size)).ok()?;
        if file.metadata().ok()?.len() != (HEAD_LEN + pieces * 32 + CHECK_LEN) as u64 {
            return None;
        }
        let mut file = Checked { file, hasher: blake3::Hasher::new() };
        let mut found = [0; HEAD_LEN];
        file.read(&mut found).ok()?;
        if found[..] != head(stamp, pieces) {
            return None;
        }
        let mut digests = vec![[0; 32]; pieces];
        for some in digests.chunks_mut(AT_ONCE) {
            file.read(some.as_flattened_mut()).ok()?;
        }
        let mut check = [0; CHECK_LEN];
        let Checked { mut file, hasher } = file;
        file.read_exact(&mut check).ok()?;
        let sound = *hasher.finalize().as_bytes() == check;
        sound.then(|| digests.into_iter().map(Digest).collect())
    }

    /// Keeps the hashes of a file's pieces, if they are worth it and the file has settled.
    pub(super) fn store(
        &self,
        path: &Path,
        stamp: &Stamp,
        size: PieceSize,
        digests: &[Digest],
    ) -> io::Result<()> {
        if stamp.len < WORTH_IT || stamp.modified > self.now - SETTLED_NANOS {
            return Ok(());
        }
        let (temporary, file) = temporary(&self.dir)?;
        let mut file = Checked { file, hasher: blake3::Hasher::new() };
        let written = file
            .write_entry(&head(stamp, digests.len()), digests)
            .and_then(|()| fs::rename(&temporary, self.entry(path, size)));
        if written.is_err() {
            // Best effort: the error that counts is the first one.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Where the hashes of a path are kept.
    fn entry(&self, path: &Path, size: PieceSize) -> PathBuf {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&size.bytes().to_le_bytes());
        hasher.update(path.as_os_str().as_encoded_bytes());
        self.dir.join(format!("{}.hashes", hasher.finalize().to_hex()))
    }
}

/// An entry's file, and the hash of what was read from it or written to it: in parts, for a whole
/// entry in memory would be as much again as the hashes.
struct Checked {
    file: File,
    hasher: blake3::Hasher,
}

impl Checked {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }

    fn write_entry(&mut self, head: &[u8], digests: &[Digest]) -> io::Result<()> {
        self.write(head)?;
        for some in digests.chunks(AT_ONCE) {
            let bytes: Vec<u8> = some.iter().flat_map(|digest| digest.0).collect();
            self.write(&bytes)?;
        }
        let check = self.hasher.finalize();
        self.file.write_all(check.as_bytes())
    }
}

fn head(stamp: &Stamp, pieces: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_LEN);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&stamp.len.to_le_bytes());
    bytes.extend_from_slice(&stamp.modified.to_le_bytes());
    bytes.extend_from_slice(&stamp.inode.to_le_bytes());
    bytes.extend_from_slice(&(pieces as u32).to_le_bytes());
    bytes
}

/// A new file of a name nobody else uses.
fn temporary(dir: &Path) -> io::Result<(PathBuf, File)> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!(".{}-{number}.tmp", std::process::id()));
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            // Left behind by a process of that number that died.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}
