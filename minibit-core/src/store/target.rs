//! What a download needs from the disk, apart from the disk.
//!
//! The rules of resuming ([`super::part`], [`super::journal`]) are written against these two
//! traits, so that tests can put a disk below them that loses, tears and reorders writes.
//! There is one real implementation, in [`super::dir`].

use std::io;

use crate::types::FileIndex;

/// A file that several threads read and write at positions of their own.
pub(super) trait RawFile: Send + Sync {
    /// Fills `buf`; `UnexpectedEof` if the file ends before.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `bytes`, growing the file if need be.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Returns when the contents (and the length) would survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// The place of one download: its files and its journal.
pub(super) trait Target: Send + Sync {
    /// An open file of it.
    type File: RawFile;
    /// Opens a file of the share for reading and writing, and creates it if it is missing.
    fn open(&self, file: FileIndex) -> io::Result<Self::File>;
    /// Returns when all files of the share would survive a power cut.
    fn sync_all(&self) -> io::Result<()>;
    /// Returns when the names of the part and of the journal would survive a power cut.
    fn sync_names(&self) -> io::Result<()>;
    /// Puts a new journal in place of the old one, all or nothing. With `durable` its contents survive a
    /// power cut; which of the two the name means then, only [`Self::sync_names`] decides.
    fn replace_journal(&self, bytes: &[u8], durable: bool) -> io::Result<Self::File>;
}
