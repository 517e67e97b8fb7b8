//! Pieces in files: where verified bytes come to rest and where served bytes come from.
//!
//! Two stores stand behind one trait. [`PartStore`] is a download: bytes go at their final
//! offset into `NAME.part`, a journal beside it says which pieces are verified, and at the end
//! everything gets its final name in one rename. [`SourceStore`] is a share: the user's own
//! files, read only, watched for changes.
//!
//! Invariant: a piece is on record only after its bytes were verified and handed to the
//! kernel, and is believed after a power cut only if they had reached the disk.
//!
//! Not here: which piece to fetch or to serve (`swarm`), hashing what arrives (`engine` with
//! `content`), threads that outlive a call. Everything blocks, and may stall as disks do; the
//! caller chooses the thread.

mod cache;
mod dir;
mod error;
mod handles;
mod hashing;
mod journal;
mod mmap;
mod part;
mod prepare;
mod present;
mod served;
mod source;
mod stray;
mod target;
mod verify;
mod walk;

#[cfg(test)]
mod fault;
#[cfg(test)]
mod testing;

pub use dir::names_of_download;
pub use error::StoreError;
pub use part::{PartOptions, PartStore, ResumeWarning, Resumed};
pub use prepare::{PrepareError, PrepareOptions, PrepareWarning, PreparedShare, Progress, prepare};
pub use present::{Present, present};
pub use served::{SendMethod, Served, ServedFile};
pub use source::SourceStore;
pub use verify::{BadFile, Problem, VerifyError, VerifyReport, verify};

use crate::types::{BlockSpan, PieceIndex};

/// Where the pieces of one share are, for reading and writing from many threads at once.
pub trait PieceStore: Send + Sync {
    /// Puts bytes of a piece at their final offset, before anybody has verified them. Where
    /// completing the piece has failed, the verified bytes there may be kept instead.
    ///
    /// # Errors
    /// [`StoreError::is_disk_full`] tells a full disk apart: the share can pause and try again.
    ///
    /// # Panics
    /// If `bytes` is not as long as the span: the caller's mistake.
    fn write(&self, span: BlockSpan, bytes: &[u8]) -> Result<(), StoreError>;

    /// Puts on record that a piece, wholly written, is verified. Doing so twice is harmless.
    ///
    /// # Errors
    /// The record could not be written. The piece may be fetched and completed again, and
    /// after a restart it may or may not count.
    fn complete(&self, piece: PieceIndex) -> Result<(), StoreError>;

    /// Reads bytes of a piece, verified or not.
    ///
    /// # Errors
    /// Among others an `UnexpectedEof` if the file is shorter than the share says.
    ///
    /// # Panics
    /// If `buf` is not as long as the span: the caller's mistake.
    fn read(&self, span: BlockSpan, buf: &mut [u8]) -> Result<(), StoreError>;

    /// Where to send a piece from, without reading it.
    ///
    /// # Errors
    /// [`StoreError::SourceChanged`] if the user's file is not what was hashed any more.
    fn serve(&self, piece: PieceIndex) -> Result<Served, StoreError>;
}
