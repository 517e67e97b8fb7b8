//! A download: bytes arrive, are verified elsewhere, go on record, and get their name at the
//! end.
//!
//! ```text
//! write ... write   complete   ...   checkpoint   ...   finish
//! NAME.part         journal record   data, then journal to the disk   rename, journal gone
//! ```
//!
//! Invariant: a piece is on record only if its bytes were written before; a checkpoint is
//! written only after the data behind it reached the disk, and never again once a sync failed.
//! A piece whose record failed is kept as it is, for the record may stand all the same.
//! Bytes of pieces that were never verified may lie in `NAME.part`; nothing reports them.
//!
//! Not here: when to make a checkpoint, and on which thread (`engine`).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::dir::{DirTarget, Entered, OnDisk, Replace};
use super::handles::{DEFAULT_BOUND, Handles};
use super::journal::{self, Found, Journal, Knowledge, Opening, Unusable};
use super::served::{SendMethod, Served};
use super::target::{RawFile, Target};
use super::{PieceStore, StoreError};
use crate::content::Manifest;
use crate::types::{BlockSpan, FileIndex, Geometry, PieceIndex, PieceSet};

/// From how many written files on one call brings a whole file system to the disk rather
/// than each file by itself.
const SYNC_ONE_BY_ONE_MAX: usize = 32;

/// How a download treats its place.
#[derive(Clone, Copy, Debug)]
pub struct PartOptions {
    /// Replace a file that has the final name, or a directory in which there is nothing but
    /// files of the share that are fetched again; and go on with a `NAME.part` that has no
    /// journal (everything in it is hashed first).
    pub force: bool,
    /// Whether [`PartStore::finish`] returns only when the files would survive a power cut.
    /// Without it a power cut soon after may leave holes in a file that was reported as done.
    pub sync: bool,
    /// Files kept open at once.
    pub open_files: usize,
    /// How payload goes to sockets.
    pub method: SendMethod,
}

impl Default for PartOptions {
    fn default() -> Self {
        Self { force: false, sync: true, open_files: DEFAULT_BOUND, method: SendMethod::default() }
    }
}

/// What an earlier attempt left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Resumed {
    /// Pieces that were verified and need not be looked at again.
    pub have: PieceSet,
    /// Pieces that may be there: to be read, hashed and, if right, completed before use.
    pub doubtful: PieceSet,
    /// What the user should know.
    pub warnings: Vec<ResumeWarning>,
}

/// Something odd about what an earlier attempt left behind; the download goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResumeWarning {
    /// The journal was damaged; everything in the part is hashed again.
    #[error("the resume file is damaged; checking everything that is there")]
    CorruptJournal,
    /// The journal is of another share of that name; everything in the part is hashed again.
    #[error("the resume file belongs to another share; checking everything that is there")]
    ForeignJournal,
    /// The part has no journal; everything in it is hashed.
    #[error("there is no resume file; checking everything that is there")]
    NoJournal,
    /// Files that were removed or cut short since.
    #[error("{pieces} verified pieces have disappeared from the disk")]
    Lost {
        /// How many pieces were on record and are gone.
        pieces: u32,
    },
}

/// The files of one download. Shared by all threads of its links.
#[derive(Debug)]
pub struct PartStore {
    parts: Parts<DirTarget>,
    wanted: PieceSet,
    replace: Replace,
    sync: bool,
    /// One finish at a time.
    finishing: Mutex<()>,
}

impl PartStore {
    /// Opens the place of a download in `dir`, which is made if it is missing, and takes up
    /// what an earlier attempt left there. `selection` tells of each file in the manifest's
    /// order whether it is wanted; pieces of other files are neither expected nor refused.
    ///
    /// # Errors
    /// [`StoreError::TargetExists`], [`StoreError::PartExists`], [`StoreError::NotOurs`] and (with `force`)
    /// [`StoreError::WouldLose`] for what is in the way,
    /// [`StoreError::InUse`] if another process is at it, [`StoreError::NoSpace`] if the disk
    /// can not hold what is still to come. Nothing was changed then.
    ///
    /// # Panics
    /// If `selection` is not as long as the manifest's list of files: the caller's mistake.
    pub fn open(
        dir: &Path,
        manifest: &Manifest,
        selection: &[bool],
        options: PartOptions,
    ) -> Result<(Self, Resumed), StoreError> {
        assert_eq!(selection.len(), manifest.files().len(), "one choice for every file");
        let replace = if options.force { Replace::Force } else { Replace::Refuse };
        let wanted = pieces_of(manifest.geometry(), selection);
        let Entered { mut target, lock, has_part, has_last } =
            DirTarget::enter(dir, manifest, selection, options.method, replace)?;
        let arrival = Arrival { manifest, selection, wanted: &wanted, has_part, has_last, replace };
        let (knowledge, warnings) = match arrival.judge(&mut target, lock.journal.as_deref()) {
            Ok(judged) => judged,
            Err(error) => {
                target.abandon(lock)?;
                return Err(error);
            }
        };
        let opening = Opening {
            share: manifest.share_id(),
            geometry: manifest.geometry(),
            epoch: target.epoch(),
            selection,
            knowledge: &knowledge,
            finishing: target.is_renamed(),
        };
        if !target.is_renamed() {
            target.make_tree()?;
        }
        let path = target.last_path();
        let parts = Parts::open(target, &opening, options.open_files, lock.journal.is_some())
            .map_err(StoreError::io("write the journal of", &path))?;
        // Only now: the new journal is locked as well.
        drop(lock);
        if !parts.target.is_renamed() {
            parts.target.lay_out(selection)?;
        }
        let have = parts.journal().recorded().clone();
        let resumed = Resumed { have, doubtful: knowledge.doubtful, warnings };
        let sync = options.sync;
        Ok((Self { parts, wanted, replace, sync, finishing: Mutex::new(()) }, resumed))
    }

    /// Where everything will be once it is finished.
    pub fn path(&self) -> PathBuf {
        self.parts.target.last_path()
    }

    /// The pieces of the selected files.
    pub fn wanted(&self) -> &PieceSet {
        &self.wanted
    }

    /// Brings to the disk what was verified so far and puts that on record, so that a power
    /// cut from now on costs only what comes later. Costs nothing if nothing is new. As the
    /// last call before the store is dropped it makes a clean stop: nothing is hashed again.
    ///
    /// # Errors
    /// Once bringing data to the disk has failed, [`StoreError::SyncFailed`] for ever: a
    /// later success would say nothing about the data of that time.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.parts.checkpoint().map_err(|error| error.at(&self.path()))
    }

    /// Gives everything its final name, removes the journal, and returns the name. The pieces
    /// can be served from there as before. Calling it again does nothing more.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] while selected pieces are not on record,
    /// [`StoreError::TargetExists`] or [`StoreError::WouldLose`] if something has taken the
    /// final name meanwhile, or has come into the directory that has it. The download is as
    /// it was and finishing can be tried again.
    pub fn finish(&self) -> Result<PathBuf, StoreError> {
        let _one = self.finishing.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = self.missing();
        if missing > 0 {
            return Err(StoreError::Incomplete { missing });
        }
        if self.sync {
            self.checkpoint()?;
        }
        let announced = self.parts.announce_finish(self.sync);
        announced.map_err(|error| error.at(&self.path()))?;
        let target = &self.parts.target;
        target.rename(self.replace)?;
        if self.sync {
            let synced = target.sync_names();
            synced.map_err(StoreError::io("sync the directory of", &self.path()))?;
        }
        target.remove_journal()?;
        Ok(target.last_path())
    }

    fn missing(&self) -> u32 {
        let journal = self.parts.journal();
        let words = self.wanted.words().iter().zip(journal.recorded().words());
        words.map(|(wanted, have)| (wanted & !have).count_ones()).sum()
    }
}

impl PieceStore for PartStore {
    fn write(&self, span: BlockSpan, bytes: &[u8]) -> Result<(), StoreError> {
        self.parts.write(span, bytes).map_err(|(file, error)| self.failed("write", file)(error))
    }

    fn complete(&self, piece: PieceIndex) -> Result<(), StoreError> {
        let failed = |error| StoreError::io("write the journal of", &self.path())(error);
        self.parts.complete(piece).map_err(failed)
    }

    fn read(&self, span: BlockSpan, buf: &mut [u8]) -> Result<(), StoreError> {
        self.parts.read(span, buf).map_err(|(file, error)| self.failed("read", file)(error))
    }

    fn serve(&self, piece: PieceIndex) -> Result<Served, StoreError> {
        let (file, offset) = self.parts.geometry.locate(piece);
        let handle = self.parts.handle(file).map_err(self.failed("open", file))?;
        Ok(Served { file: handle, offset })
    }
}

impl PartStore {
    fn failed(
        &self,
        action: &'static str,
        file: FileIndex,
    ) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { action, path: self.parts.target.path_of(file), source }
    }
}

/// All pieces of the selected files.
pub(super) fn pieces_of(geometry: &Geometry, selection: &[bool]) -> PieceSet {
    let mut pieces = PieceSet::empty(geometry.piece_count());
    for file in (0..).map_while(|number| geometry.file(number)) {
        if selection[file.index()] {
            for piece in geometry.pieces_of(file) {
                pieces.insert(piece);
            }
        }
    }
    pieces
}

/// What a download wants of a place that was entered, and what was found in it.
struct Arrival<'a> {
    manifest: &'a Manifest,
    selection: &'a [bool],
    wanted: &'a PieceSet,
    has_part: bool,
    has_last: bool,
    replace: Replace,
}

impl Arrival<'_> {
    /// Finds out what is there, or why nothing can be done here. Creates nothing.
    fn judge(
        &self,
        target: &mut DirTarget,
        journal: Option<&[u8]>,
    ) -> Result<(Knowledge, Vec<ResumeWarning>), StoreError> {
        let geometry = self.manifest.geometry();
        let found = journal
            .map(|bytes| journal::parse(bytes, self.manifest.share_id(), geometry, target.epoch()));
        if self.has_last {
            if let Some(knowledge) = self.finished_before(target, &found)? {
                return Ok((knowledge, Vec::new()));
            }
            if self.replace == Replace::Refuse {
                return Err(StoreError::TargetExists { path: target.last_path() });
            }
            target.check_may_replace()?;
        }
        let mut warnings = Vec::new();
        let mut knowledge = Knowledge::nothing(geometry.piece_count());
        let mut surveyed = vec![None; geometry.files().len()];
        if self.has_part {
            surveyed = target.survey()?;
            knowledge = knowledge_of(found, geometry, &mut warnings);
            let pieces = drop_missing(geometry, &surveyed, &mut knowledge);
            if pieces > 0 {
                warnings.push(ResumeWarning::Lost { pieces });
            }
        }
        self.check_space(target, &surveyed, &knowledge)?;
        Ok((knowledge, warnings))
    }

    /// Takes up a download that died between its final rename and the removal of its journal:
    /// what has the final name is its own, and whole.
    fn finished_before(
        &self,
        target: &mut DirTarget,
        found: &Option<Result<Found, Unusable>>,
    ) -> Result<Option<Knowledge>, StoreError> {
        let Some(Ok(found)) = found else { return Ok(None) };
        let covers = self.selection.iter().zip(&found.selection).all(|(now, then)| now <= then);
        if self.has_part || !found.finishing || !covers {
            return Ok(None);
        }
        target.look_at(true)?;
        let mut knowledge = found.knowledge.clone();
        drop_missing(self.manifest.geometry(), &target.survey()?, &mut knowledge);
        let whole = self.pieces(self.wanted).all(|piece| knowledge.believes(piece));
        if !whole {
            target.look_at(false)?;
        }
        Ok(whole.then_some(knowledge))
    }

    /// Refuses a download that can not fit, before anything of it is written.
    fn check_space(
        &self,
        target: &DirTarget,
        surveyed: &[Option<OnDisk>],
        knowledge: &Knowledge,
    ) -> Result<(), StoreError> {
        let geometry = self.manifest.geometry();
        let mut needed = 0;
        for file in (0..).map_while(|number| geometry.file(number)) {
            if !self.selection[file.index()] {
                continue;
            }
            let missing: u64 = geometry
                .pieces_of(file)
                .filter(|piece| !knowledge.believes(*piece) && !knowledge.doubtful.contains(*piece))
                .map(|piece| u64::from(geometry.piece_len(piece)))
                .sum();
            // Room that is set aside already need not be free any more.
            let allocated = surveyed[file.index()].map_or(0, |found| found.allocated);
            needed += missing.min(geometry.span(file).len.saturating_sub(allocated));
        }
        match target.free_space() {
            Some(free) if free < needed => {
                Err(StoreError::NoSpace { path: target.dir_path().to_owned(), needed, free })
            }
            _ => Ok(()),
        }
    }

    fn pieces(&self, set: &PieceSet) -> impl Iterator<Item = PieceIndex> {
        set.iter().filter_map(|number| self.manifest.geometry().piece(number))
    }
}

/// What the journal says about a part that is there. Without a usable journal every piece may
/// be there.
pub(super) fn knowledge_of(
    found: Option<Result<Found, Unusable>>,
    geometry: &Geometry,
    warnings: &mut Vec<ResumeWarning>,
) -> Knowledge {
    warnings.push(match found {
        Some(Ok(found)) => return found.knowledge,
        Some(Err(Unusable::Corrupt)) => ResumeWarning::CorruptJournal,
        Some(Err(Unusable::Foreign)) => ResumeWarning::ForeignJournal,
        None => ResumeWarning::NoJournal,
    });
    let pieces = geometry.piece_count();
    Knowledge { doubtful: PieceSet::full(pieces), ..Knowledge::nothing(pieces) }
}

/// Forgets the pieces whose bytes can not all be there; returns how many had been believed.
pub(super) fn drop_missing(
    geometry: &Geometry,
    surveyed: &[Option<OnDisk>],
    knowledge: &mut Knowledge,
) -> u32 {
    let mut lost = 0;
    for file in (0..).map_while(|number| geometry.file(number)) {
        let there = surveyed[file.index()].map_or(0, |found| found.len);
        for piece in geometry.pieces_of(file) {
            let end = geometry.locate(piece).1 + u64::from(geometry.piece_len(piece));
            if end > there {
                lost += u32::from(knowledge.believes(piece));
                knowledge.forget(piece);
            }
        }
    }
    lost
}

/// The rules of a download, over any kind of disk.
#[derive(Debug)]
pub(super) struct Parts<T: Target> {
    target: T,
    geometry: Arc<Geometry>,
    handles: Handles<T::File>,
    journal: Mutex<Journal<T::File>>,
    /// Bit `n % 64` of word `n / 64`: pieces of file `n` were completed since the last sync.
    unsynced: Box<[AtomicU64]>,
    /// One checkpoint at a time.
    checkpointing: Mutex<()>,
    /// Whether the names of the journal and of the part would survive a power cut.
    names_synced: AtomicBool,
    sync_failed: AtomicBool,
    /// A piece was answered with an error that may be on record: see [`Self::write`].
    record_failed: AtomicBool,
}

impl<T: Target> Parts<T> {
    /// Starts a new journal that says what is known; `resuming` if it replaces another.
    pub(super) fn open(
        target: T,
        opening: &Opening<'_>,
        open_files: usize,
        resuming: bool,
    ) -> io::Result<Self> {
        let journal = Journal::start(opening, |header| target.replace_journal(header, resuming))?;
        let geometry = Arc::new(opening.geometry.clone());
        let files = geometry.files().len();
        let parts = Self {
            target,
            handles: Handles::new(files, open_files),
            journal: Mutex::new(journal),
            unsynced: (0..files.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            checkpointing: Mutex::new(()),
            names_synced: AtomicBool::new(false),
            sync_failed: AtomicBool::new(false),
            record_failed: AtomicBool::new(false),
            geometry,
        };
        for number in opening.knowledge.live.iter() {
            parts.geometry.piece(number).into_iter().for_each(|piece| parts.mark_unsynced(piece));
        }
        Ok(parts)
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal<T::File>> {
        // A journal is whole after every call of it.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, file: FileIndex) -> io::Result<Arc<T::File>> {
        self.handles.get_or_open(file, || self.target.open(file))
    }

    /// Puts bytes in place, unless verified ones are there that the journal may claim: those
    /// stay, and `bytes` are right and the same, or wrong and not wanted.
    pub(super) fn write(
        &self,
        span: BlockSpan,
        bytes: &[u8],
    ) -> Result<(), (FileIndex, io::Error)> {
        assert_eq!(bytes.len(), span.len() as usize, "the bytes of one block");
        // The lock is for disks that have failed; on others nobody writes a recorded piece.
        if self.record_failed.load(Ordering::Acquire) && self.journal().may_claim(span.piece()) {
            return Ok(());
        }
        let (file, start) = self.geometry.locate(span.piece());
        let at = start + u64::from(span.offset());
        self.handle(file)
            .and_then(|handle| handle.write_at(bytes, at))
            .map_err(|error| (file, error))
    }

    pub(super) fn read(
        &self,
        span: BlockSpan,
        buf: &mut [u8],
    ) -> Result<(), (FileIndex, io::Error)> {
        assert_eq!(buf.len(), span.len() as usize, "room for one block");
        let (file, start) = self.geometry.locate(span.piece());
        let at = start + u64::from(span.offset());
        self.handle(file).and_then(|handle| handle.read_at(buf, at)).map_err(|error| (file, error))
    }

    pub(super) fn complete(&self, piece: PieceIndex) -> io::Result<()> {
        // The mark comes after the piece's writes and before its record. So a checkpoint that
        // counts the record either finds the mark, or an earlier one found it and synced the
        // file after those writes.
        self.mark_unsynced(piece);
        let recorded = self.journal().piece(piece);
        if recorded.is_err() {
            self.record_failed.store(true, Ordering::Release);
        }
        recorded
    }

    fn mark_unsynced(&self, piece: PieceIndex) {
        let file = self.geometry.file_of(piece).index();
        self.unsynced[file / 64].fetch_or(1 << (file % 64), Ordering::AcqRel);
    }

    pub(super) fn checkpoint(&self) -> Result<(), CheckpointError> {
        let _one = self.checkpointing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(CheckpointError::FailedBefore);
        }
        // First how far the records go, then which files they are about: see `complete`.
        let Some(records) = self.journal().uncovered() else { return Ok(()) };
        self.sync_data()?;
        self.journal().checkpoint(records).map_err(CheckpointError::Journal)?;
        self.sync_journal()?;
        if !self.names_synced.load(Ordering::Acquire) {
            self.target.sync_names().map_err(|error| self.distrust(error))?;
            self.names_synced.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Brings the files with new pieces to the disk.
    fn sync_data(&self) -> Result<(), CheckpointError> {
        let words: Vec<u64> =
            self.unsynced.iter().map(|word| word.swap(0, Ordering::AcqRel)).collect();
        let files: Vec<FileIndex> = (0..)
            .map_while(|number| self.geometry.file(number))
            .filter(|file| words[file.index() / 64] & (1 << (file.index() % 64)) != 0)
            .collect();
        if files.len() > SYNC_ONE_BY_ONE_MAX {
            return self.target.sync_all().map_err(|error| self.distrust(error));
        }
        for &file in &files {
            let handle = self.handle(file).map_err(|error| {
                // Nothing was tried on it: the files stay to be synced.
                for (word, old) in self.unsynced.iter().zip(&words) {
                    word.fetch_or(*old, Ordering::AcqRel);
                }
                CheckpointError::Data(error)
            })?;
            handle.sync().map_err(|error| self.distrust(error))?;
        }
        Ok(())
    }

    /// Without the lock: records go on being added while the disk works.
    fn sync_journal(&self) -> Result<(), CheckpointError> {
        let file = self.journal().file();
        file.sync().map_err(|error| self.distrust(error))
    }

    /// After a failed sync the kernel may call the data clean although it is lost. No later
    /// checkpoint would mean anything, and a restart must not believe what none covers.
    fn distrust(&self, error: io::Error) -> CheckpointError {
        if !self.sync_failed.swap(true, Ordering::AcqRel) {
            // Best effort on a failing disk; the caller hears of the first error anyway.
            let _ = self.journal().distrust();
        }
        CheckpointError::Data(error)
    }

    /// Puts on record that the final rename follows, once.
    fn announce_finish(&self, sync: bool) -> Result<(), CheckpointError> {
        self.journal().finishing().map_err(CheckpointError::Journal)?;
        if sync { self.sync_journal() } else { Ok(()) }
    }
}

/// Why a checkpoint was not made.
#[derive(Debug)]
pub(super) enum CheckpointError {
    Data(io::Error),
    Journal(io::Error),
    FailedBefore,
}

impl CheckpointError {
    fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Data(error) => StoreError::io("bring to the disk", path)(error),
            Self::Journal(error) => StoreError::io("write the journal of", path)(error),
            Self::FailedBefore => StoreError::SyncFailed { path: path.to_owned() },
        }
    }
}

#[cfg(test)]
mod tests;
