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
    /// [`StoreError::TargetExists`], [`StoreError::NotOurs`] and (with `force`)
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
fn pieces_of(geometry: &Geometry, selection: &[bool]) -> PieceSet {
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
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt, FileTypeExt, symlink};

    use tempfile::TempDir;

    use super::super::testing::Share;
    use super::*;

    fn listing(dir: &TempDir) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn force() -> PartOptions {
        PartOptions { force: true, ..PartOptions::default() }
    }

    fn numbers(set: &PieceSet) -> Vec<u32> {
        set.iter().collect()
    }

    #[test]
    fn a_download_leaves_its_files_under_their_names_and_nothing_else() {
        for share in [Share::film(), Share::folder()] {
            let dir = TempDir::new().unwrap();
            let (store, resumed) = share.open(&dir).unwrap();
            assert!(resumed.have.is_empty() && resumed.doubtful.is_empty());
            share.fetch(&store, share.all());
            let path = store.finish().unwrap();
            assert_eq!(path, dir.path().join(share.manifest.name()));
            share.assert_in_place(&dir);
            assert_eq!(listing(&dir), [share.manifest.name()]);
            assert_eq!(store.finish().unwrap(), path, "finishing again does nothing");
        }
    }

    #[test]
    fn what_was_completed_is_known_after_the_process_died_and_only_that() {
        for share in [Share::film(), Share::folder()] {
            let dir = TempDir::new().unwrap();
            let (store, _) = share.open(&dir).unwrap();
            share.fetch(&store, [0, 2, 3]);
            let half = share.geometry().block(1, 0, 9_000).unwrap();
            store.write(half, share.bytes(half)).unwrap();
            drop(store);
            let (store, resumed) = share.open(&dir).unwrap();
            assert_eq!(numbers(&resumed.have), [0, 2, 3]);
            assert!(resumed.doubtful.is_empty() && resumed.warnings.is_empty());
            assert!(matches!(store.finish(), Err(StoreError::Incomplete { .. })));
            share.fetch(&store, share.all());
            store.finish().unwrap();
            share.assert_in_place(&dir);
        }
    }

    #[test]
    fn a_second_download_to_the_same_place_is_refused_until_the_first_is_gone() {
        let (share, dir) = (Share::film(), TempDir::new().unwrap());
        let (first, _) = share.open(&dir).unwrap();
        assert!(matches!(share.open(&dir), Err(StoreError::InUse { .. })));
        assert!(matches!(share.open_with(&dir, force()), Err(StoreError::InUse { .. })));
        drop(first);
        share.open(&dir).unwrap();
    }

    #[test]
    fn whatever_has_the_final_name_is_refused_and_left_alone() {
        for share in [Share::film(), Share::folder()] {
            for kind in ["file", "directory", "link", "dangling link", "fifo"] {
                let dir = TempDir::new().unwrap();
                let path = dir.path().join(share.manifest.name());
                plant(&path, kind);
                let outcome = share.open(&dir);
                assert!(matches!(outcome, Err(StoreError::TargetExists { .. })), "{outcome:?}");
                assert_eq!(listing(&dir), [share.manifest.name()], "{kind}");
            }
        }
    }

    /// Puts something that is not ours in the way.
    fn plant(path: &Path, kind: &str) {
        match kind {
            "file" => fs::write(path, "mine").unwrap(),
            "directory" => {
                fs::create_dir(path).unwrap();
                fs::write(path.join("mine"), "mine").unwrap();
            }
            "link" => symlink("/etc/passwd", path).unwrap(),
            "dangling link" => symlink("/nowhere/at/all", path).unwrap(),
            "fifo" => {
                let (mode, kind) = (rustix::fs::Mode::RUSR, rustix::fs::FileType::Fifo);
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn a_file_in_the_place_of_the_target_directory_is_called_one() {
        let (share, dir) = (Share::film(), TempDir::new().unwrap());
        let path = dir.path().join("plain");
        fs::write(&path, "mine").unwrap();
        let outcome = PartStore::open(&path, &share.manifest, &[true], force()).map(drop);
        assert!(matches!(outcome, Err(StoreError::NotADirectory { .. })), "{outcome:?}");
    }

    #[test]
    fn with_force_a_file_is_replaced_only_at_the_end() {
        for share in [Share::film(), Share::folder()] {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join(share.manifest.name());
            plant(&path, "file");
            let (store, _) = share.open_with(&dir, force()).unwrap();
            share.fetch(&store, share.all());
            assert_eq!(fs::read(path).unwrap(), b"mine");
            store.finish().unwrap();
            share.assert_in_place(&dir);
            assert_eq!(listing(&dir), [share.manifest.name()]);
        }
    }

    #[test]
    fn with_force_an_earlier_copy_of_a_folder_and_an_empty_directory_are_replaced() {
        for (share, old) in [(Share::film(), None), (Share::folder(), Some("a/b/deep"))] {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join(share.manifest.name());
            fs::create_dir(&path).unwrap();
            if let Some(old) = old {
                fs::create_dir_all(path.join("a/b")).unwrap();
                fs::write(path.join(old), "an older edition").unwrap();
            }
            let (store, _) = share.open_with(&dir, force()).unwrap();
            share.fetch(&store, share.all());
            store.finish().unwrap();
            share.assert_in_place(&dir);
            assert_eq!(listing(&dir), [share.manifest.name()]);
        }
    }

    #[test]
    fn with_force_a_directory_with_something_else_in_it_is_refused_and_left_alone() {
        for share in [Share::film(), Share::folder()] {
            let dir = TempDir::new().unwrap();
            let path = dir.path().join(share.manifest.name());
            plant(&path, "directory");
            let outcome = share.open_with(&dir, force()).map(drop);
            let Err(StoreError::WouldLose { entry }) = outcome else { panic!("{outcome:?}") };
            assert_eq!(entry, path.join("mine"));
            assert_eq!(fs::read(entry).unwrap(), b"mine");
            assert_eq!(listing(&dir), [share.manifest.name()]);
        }
    }

    #[test]
    fn with_force_what_comes_into_the_directory_during_the_download_is_not_lost() {
        let (share, dir) = (Share::folder(), TempDir::new().unwrap());
        let path = dir.path().join("folder");
        fs::create_dir(&path).unwrap();
        let (store, _) = share.open_with(&dir, force()).unwrap();
        share.fetch(&store, share.all());
        fs::write(path.join("mine"), "mine").unwrap();
        assert!(matches!(store.finish(), Err(StoreError::WouldLose { .. })));
        assert_eq!(fs::read(path.join("mine")).unwrap(), b"mine");
        fs::remove_file(path.join("mine")).unwrap();
        store.finish().unwrap();
        share.assert_in_place(&dir);
    }

    #[test]
    fn links_and_devices_are_refused_even_with_force() {
        let share = Share::film();
        for name in ["film", "film.part", "film.part.minibit"] {
            for kind in ["link", "dangling link", "fifo"] {
                let dir = TempDir::new().unwrap();
                let path = dir.path().join(name);
                plant(&path, kind);
                let outcome = share.open_with(&dir, force());
                assert!(matches!(outcome, Err(StoreError::NotOurs { .. })), "{name} {outcome:?}");
                assert_eq!(listing(&dir), [name]);
                let kept = path.symlink_metadata().unwrap().file_type();
                assert!(kept.is_symlink() || kept.is_fifo());
            }
        }
    }

    #[test]
    fn a_part_without_a_journal_is_not_ours_unless_forced() {
        let (share, dir) = (Share::film(), TempDir::new().unwrap());
        let mut theirs = share.contents[0].clone();
        theirs[20_000] ^= 1;
        fs::write(dir.path().join("film.part"), &theirs).unwrap();
        assert!(matches!(share.open(&dir), Err(StoreError::TargetExists { .. })));
        assert_eq!(listing(&dir), ["film.part"]);
        assert!(fs::read(dir.path().join("film.part")).unwrap() == theirs);
        let (store, resumed) = share.open_with(&dir, force()).unwrap();
        assert!(resumed.have.is_empty() && resumed.doubtful.is_full());
        assert_eq!(resumed.warnings, [ResumeWarning::NoJournal]);
        let block = share.geometry().block(0, 100, 50).unwrap();
        let mut buffer = [0; 50];
        store.read(block, &mut buffer).unwrap();
        assert_eq!(buffer, share.bytes(block));
    }

    #[test]
    fn a_link_on_the_way_to_a_file_leads_nowhere() {
        let (share, dir) = (Share::folder(), TempDir::new().unwrap());
        let outside = TempDir::new().unwrap();
        let (store, _) = share.open(&dir).unwrap();
        drop(store);
        let inside = dir.path().join("folder.part/a");
        fs::remove_dir_all(&inside).unwrap();
        symlink(outside.path(), &inside).unwrap();
        assert!(share.open(&dir).is_err());

        fs::remove_file(&inside).unwrap();
        let (store, _) = share.open(&dir).unwrap();
        // Planted while the download runs, for a directory and for a file.
        fs::remove_dir_all(&inside).unwrap();
        symlink(outside.path(), &inside).unwrap();
        let secret = outside.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        symlink(&secret, dir.path().join("folder.part/other")).unwrap();
        for piece in [0, 4] {
            let block = share.geometry().block(piece, 0, 9).unwrap();
            assert!(store.write(block, share.bytes(block)).is_err(), "piece {piece}");
        }
        assert_eq!(fs::read(&secret).unwrap(), b"secret");
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_name_taken_during_the_download_is_not_overwritten_at_its_end() {
        for share in [Share::film(), Share::folder()] {
            let dir = TempDir::new().unwrap();
            let (store, _) = share.open(&dir).unwrap();
            share.fetch(&store, share.all());
            let path = dir.path().join(share.manifest.name());
            fs::write(&path, "mine").unwrap();
            assert!(matches!(store.finish(), Err(StoreError::TargetExists { .. })));
            assert_eq!(fs::read(&path).unwrap(), b"mine");
            fs::remove_file(&path).unwrap();
            store.finish().unwrap();
            share.assert_in_place(&dir);
        }
    }

    #[test]
    fn a_download_that_died_after_its_last_rename_is_finished_by_the_next() {
        for share in [Share::film(), Share::folder()] {
            let dir = TempDir::new().unwrap();
            let (store, _) = share.open(&dir).unwrap();
            share.fetch(&store, share.all());
            store.parts.announce_finish(false).unwrap();
            store.parts.target.rename(Replace::Refuse).unwrap();
            drop(store);
            let (store, resumed) = share.open(&dir).unwrap();
            assert!(resumed.have.is_full());
            store.serve(share.geometry().piece(0).unwrap()).unwrap();
            drop(store);
            let (store, _) = share.open(&dir).unwrap();
            store.finish().unwrap();
            share.assert_in_place(&dir);
            assert_eq!(listing(&dir), [share.manifest.name()]);
        }
    }

    #[test]
    fn a_file_that_only_looks_like_the_finished_one_is_refused() {
        let (share, dir) = (Share::film(), TempDir::new().unwrap());
        let (store, _) = share.open(&dir).unwrap();
        share.fetch(&store, share.all());
        store.parts.announce_finish(false).unwrap();
        drop(store);
        fs::remove_file(dir.path().join("film.part")).unwrap();
        fs::write(dir.path().join("film"), "short").unwrap();
        assert!(matches!(share.open(&dir), Err(StoreError::TargetExists { .. })));
        assert_eq!(fs::read(dir.path().join("film")).unwrap(), b"short");
    }

    #[test]
    fn pieces_that_disappeared_from_the_disk_are_fetched_again() {
        let (share, dir) = (Share::folder(), TempDir::new().unwrap());
        let (store, _) = share.open(&dir).unwrap();
        share.fetch(&store, share.all());
        drop(store);
        let part = dir.path().join("folder.part");
        File::options().write(true).open(part.join("a/b/deep")).unwrap().set_len(20_000).unwrap();
        fs::remove_file(part.join("other")).unwrap();
        let (store, resumed) = share.open(&dir).unwrap();
        assert_eq!(numbers(&resumed.have), [0, 3]);
        assert_eq!(resumed.warnings, [ResumeWarning::Lost { pieces: 3 }]);
        share.fetch(&store, [1, 2, 4]);
        store.finish().unwrap();
        share.assert_in_place(&dir);
    }

    #[test]
    fn a_damaged_or_foreign_journal_means_a_full_check_of_what_is_there() {
        let share = Share::film();
        let other = Share::new("film", &[(&["film"], 70_000)]);
        for (damage, warning) in [
            ("cut", ResumeWarning::CorruptJournal),
            ("flip", ResumeWarning::CorruptJournal),
            ("long", ResumeWarning::CorruptJournal),
            ("foreign", ResumeWarning::ForeignJournal),
        ] {
            let dir = TempDir::new().unwrap();
            let first = if damage == "foreign" { &other } else { &share };
            let (store, _) = first.open(&dir).unwrap();
            first.fetch(&store, [0, 1]);
            drop(store);
            let journal = dir.path().join("film.part.minibit");
            let file = File::options().write(true).open(&journal).unwrap();
            match damage {
                "cut" => file.set_len(70).unwrap(),
                "flip" => file.write_all_at(b"?", 64).unwrap(),
                "long" => file.set_len(1 << 30).unwrap(),
                _ => {}
            }
            let (store, resumed) = share.open(&dir).unwrap();
            assert_eq!(resumed.warnings, [warning], "{damage}");
            assert!(resumed.have.is_empty());
            let reachable = if damage == "foreign" { 4 } else { 7 };
            assert_eq!(resumed.doubtful.len(), reachable, "{damage}");
            // What is checked but not yet completed stays doubtful over another death.
            share.fetch(&store, [0]);
            drop(store);
            let (_, resumed) = share.open(&dir).unwrap();
            assert_eq!(numbers(&resumed.have), [0]);
            assert_eq!(resumed.doubtful.len(), reachable - 1);
            assert!(resumed.warnings.is_empty());
        }
    }

    #[test]
    fn only_selected_files_are_made_and_another_selection_can_follow() {
        let (share, dir) = (Share::folder(), TempDir::new().unwrap());
        let open = |selection: [bool; 5]| {
            PartStore::open(dir.path(), &share.manifest, &selection, PartOptions::default())
        };
        let (store, _) = open([false, true, true, false, false]).unwrap();
        assert_eq!(numbers(store.wanted()), [3]);
        share.fetch(&store, [3]);
        drop(store);
        let mut made: Vec<PathBuf> = Vec::new();
        super::super::walk::walk::<super::super::walk::Unreadable>(
            &dir.path().join("folder.part"),
            &mut |path, _| {
                made.push(path.to_owned());
                Ok(())
            },
        )
        .unwrap();
        made.sort();
        assert_eq!(made, [Path::new("a/small"), Path::new("empty")]);
        let (store, resumed) = open([false, true, false, true, true]).unwrap();
        assert_eq!(numbers(&resumed.have), [3]);
        share.fetch(&store, [4]);
        store.finish().unwrap();
        assert!(!dir.path().join("folder/a/b").exists());
        assert!(dir.path().join("folder/z/empty").exists());
    }

    #[test]
    fn a_share_that_cannot_fit_is_refused_with_both_numbers_and_leaves_nothing() {
        let size = crate::types::PieceSize::new(16 << 20).unwrap();
        let len = crate::types::limits::SHARE_LEN_MAX;
        let file = crate::content::FileEntry {
            path: vec!["huge".into()],
            len,
            root: crate::types::Digest([1; 32]),
        };
        let manifest = Manifest::new("huge".into(), true, size, vec![file]).unwrap();
        let dir = TempDir::new().unwrap();
        let outcome = PartStore::open(dir.path(), &manifest, &[true], PartOptions::default());
        match outcome {
            Err(error @ StoreError::NoSpace { needed, free, .. }) => {
                assert!(needed == len && free < len && error.is_disk_full());
            }
            other => panic!("this disk has room for 16 TiB? {other:?}"),
        }
        assert!(listing(&dir).is_empty());
    }

    #[test]
    fn names_of_any_legal_length_and_two_long_ones_that_begin_alike_can_be_downloaded() {
        let dir = TempDir::new().unwrap();
        let mut open = Vec::new();
        for name in [
            "x".repeat(255),
            format!("{}y", "x".repeat(254)),
            format!("a{}", "é".repeat(127)),
            "x".repeat(238),
            "x".repeat(239),
        ] {
            let share = Share::new(&name, &[(&[&name], 10)]);
            let (store, _) = share.open(&dir).unwrap();
            share.fetch(&store, [0]);
            open.push((share, store));
        }
        for (share, store) in open {
            store.finish().unwrap();
            share.assert_in_place(&dir);
        }
    }

    #[test]
    fn more_files_than_handles_may_be_open_are_written_and_served_all_the_same() {
        let names: Vec<String> = (0..300).map(|number| format!("file{number:03}")).collect();
        let paths: Vec<[&str; 1]> = names.iter().map(|name| [&**name]).collect();
        let files: Vec<(&[&str], usize)> = paths.iter().map(|path| (&path[..], 20_000)).collect();
        let (share, dir) = (Share::new("many", &files), TempDir::new().unwrap());
        let options = PartOptions { open_files: 4, ..PartOptions::default() };
        let (store, _) = share.open_with(&dir, options).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..3 {
                let (store, share) = (&store, &share);
                scope.spawn(move || share.fetch(store, (thread..600).step_by(3)));
            }
        });
        store.checkpoint().unwrap();
        let served: Vec<Served> =
            share.geometry().pieces().map(|piece| store.serve(piece).unwrap()).collect();
        assert!(served.iter().all(|served| served.file.len() == 20_000));
        drop(served);
        store.finish().unwrap();
        share.assert_in_place(&dir);
    }

    #[test]
    fn a_million_pieces_are_resumed_and_their_journal_stays_small() {
        let pieces = crate::types::limits::PIECES_MAX;
        let size = crate::types::PieceSize::new(16384).unwrap();
        let geometry = Geometry::new(size, [u64::from(pieces) * 16384]).unwrap();
        let share = crate::types::ShareId([3; 32]);
        let epoch = journal::Epoch([1; 16]);
        let nothing = Knowledge::nothing(pieces);
        let opening = Opening {
            share,
            geometry: &geometry,
            epoch,
            selection: &[true],
            knowledge: &nothing,
            finishing: false,
        };
        let mut journal = Journal::start(&opening, |header| {
            let file = tempfile::tempfile()?;
            file.write_all_at(header, 0)?;
            Ok(super::super::ServedFile::new(file, 0, SendMethod::default()))
        })
        .unwrap();
        for piece in geometry.pieces() {
            journal.piece(piece).unwrap();
        }
        let file = journal.file();
        let len = file.file().metadata().unwrap().len();
        assert!(len < 9_000_000, "{len}");
        assert!(len <= journal::len_max(&geometry));
        let mut bytes = vec![0; len as usize];
        file.read_at(&mut bytes, 0).unwrap();
        let found = journal::parse(&bytes, share, &geometry, epoch).unwrap();
        assert!(found.knowledge.live.is_full());
        let found = journal::parse(&bytes, share, &geometry, journal::Epoch([2; 16])).unwrap();
        assert!(found.knowledge.live.is_empty() && found.knowledge.doubtful.is_full());
    }
}
