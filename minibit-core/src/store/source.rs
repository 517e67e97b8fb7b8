//! The files of a share we made: the user's own, never written to.
//!
//! A shared file is the user's to change at any time. Its length, time stamp and inode are
//! noted when it is hashed and compared, by one `fstat`, before a piece of it is served. A
//! file that was *replaced* by another of its name goes on being served from the old one as
//! long as it is open; once it has to be opened again, the difference shows.
//!
//! Invariant: nothing here can change a file.
//!
//! Not here: hashing ([`super::prepare()`]), telling peers (`engine`).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::handles::{DEFAULT_BOUND, Handles};
use super::served::{SendMethod, Served, ServedFile};
use super::{PieceStore, StoreError};
use crate::types::{BlockSpan, FileIndex, Geometry, PieceIndex};

/// What is compared to notice that a file was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) len: u64,
    /// Time of the last change, in nanoseconds since 1970.
    pub(super) modified: i128,
    pub(super) device: u64,
    pub(super) inode: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &std::fs::Metadata) -> Self {
        let modified =
            i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        Self { len: metadata.len(), modified, device: metadata.dev(), inode: metadata.ino() }
    }
}

/// One file of a share, as it was when it was hashed.
#[derive(Clone, Debug)]
pub(super) struct SourceFile {
    pub(super) path: PathBuf,
    pub(super) stamp: Stamp,
}

/// The files of a share, read only.
#[derive(Debug)]
pub struct SourceStore {
    geometry: Arc<Geometry>,
    files: Box<[SourceFile]>,
    handles: Handles<ServedFile>,
    method: SendMethod,
}

impl SourceStore {
    /// The files in the manifest's order.
    pub(super) fn new(geometry: Arc<Geometry>, files: Vec<SourceFile>) -> Self {
        debug_assert_eq!(geometry.files().len(), files.len());
        let handles = Handles::new(files.len(), DEFAULT_BOUND);
        Self { geometry, files: files.into(), handles, method: SendMethod::default() }
    }

    /// Serves by another method than the system's cheapest.
    #[must_use]
    pub fn with_method(mut self, method: SendMethod) -> Self {
        self.method = method;
        self
    }

    /// Where a file of the share is.
    pub fn path(&self, file: FileIndex) -> &Path {
        &self.files[file.index()].path
    }

    /// Whether a file is still what was hashed. Costs one system call.
    ///
    /// # Errors
    /// [`StoreError::SourceChanged`] if it is not, also if it can not be found any more.
    pub fn check(&self, file: FileIndex) -> Result<(), StoreError> {
        self.unchanged(file).map(|_| ())
    }

    fn unchanged(&self, file: FileIndex) -> Result<Arc<ServedFile>, StoreError> {
        let SourceFile { path, stamp } = &self.files[file.index()];
        let changed = || StoreError::SourceChanged { path: path.clone() };
        let handle = self.handles.get_or_open(file, || match open_regular(path) {
            Ok(opened) => Ok(ServedFile::new(opened, stamp.len, self.method)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(changed()),
            Err(error) => Err(StoreError::io("open", path)(error)),
        })?;
        let found = handle.file().metadata().map_err(StoreError::io("examine", path))?;
        if Stamp::of(&found) == *stamp { Ok(handle) } else { Err(changed()) }
    }
}

impl PieceStore for SourceStore {
    /// Always an error: the user's files are not ours to write to.
    fn write(&self, span: BlockSpan, _bytes: &[u8]) -> Result<(), StoreError> {
        let path = self.path(self.geometry.file_of(span.piece()));
        Err(StoreError::io("write", path)(io::Error::from(io::ErrorKind::ReadOnlyFilesystem)))
    }

    /// Nothing to do: every piece is there from the start.
    fn complete(&self, _piece: PieceIndex) -> Result<(), StoreError> {
        Ok(())
    }

    fn read(&self, span: BlockSpan, buf: &mut [u8]) -> Result<(), StoreError> {
        assert_eq!(buf.len(), span.len() as usize, "room for one block");
        let (file, start) = self.geometry.locate(span.piece());
        let handle = self.unchanged(file)?;
        handle
            .file()
            .read_exact_at(buf, start + u64::from(span.offset()))
            .map_err(StoreError::io("read", self.path(file)))
    }

    fn serve(&self, piece: PieceIndex) -> Result<Served, StoreError> {
        let (file, offset) = self.geometry.locate(piece);
        Ok(Served { file: self.unchanged(file)?, offset })
    }
}

/// Opens a file for reading without waiting for the other end of a FIFO that took its place.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file =
        File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}
