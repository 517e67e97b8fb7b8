//! The place of a download in a real directory, entered without following anybody's links.
//!
//! Next to the final `NAME` stand `NAME.part` (the file, or a directory with the whole tree)
//! and `NAME.part.minibit` (the journal, locked for as long as the download is open).
//! Everything is opened relative to the directory's own descriptor and, in a tree, beneath it
//! without a single symbolic link on the way: a link planted there, before or meanwhile, is an
//! error and never a way out.
//!
//! Invariant: no existing file that is not this download's own is written to, replaced or
//! removed, unless `force` was given and it is a regular file, or a directory with nothing in
//! it but what the download brings again.
//!
//! Not here: what the bytes mean, which pieces are there.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::served::{SendMethod, ServedFile};
use super::target::{RawFile, Target};
use super::{StoreError, journal, stray};
use crate::content::Manifest;
use crate::types::{FileIndex, limits};

const PART: &str = ".part";
const JOURNAL: &str = ".part.minibit";
const NEW_JOURNAL: &str = ".part.minibit.new";

const READ_WRITE: OFlags =
    OFlags::RDWR.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The place of one download.
#[derive(Debug)]
pub(super) struct DirTarget {
    /// The directory everything is in, for messages and as a descriptor.
    dir_path: PathBuf,
    dir: OwnedFd,
    names: Names,
    manifest: Manifest,
    /// Of each file whether it is fetched.
    selection: Box<[bool]>,
    method: SendMethod,
    /// The tree's own directory; none for a single file.
    tree: Option<OwnedFd>,
    /// Files that were seen to exist, so that the others can be created in one call.
    made: Box<[AtomicBool]>,
    /// Whether everything has its final name.
    renamed: AtomicBool,
}

/// The names a download uses in its directory.
#[derive(Debug)]
struct Names {
    /// The final name, or as much of it as leaves room for a suffix.
    stem: String,
    last: String,
    part: String,
    journal: String,
    new_journal: String,
}

impl Names {
    fn new(manifest: &Manifest) -> Self {
        let name = manifest.name();
        let longest = limits::NAME_COMPONENT_MAX - NEW_JOURNAL.len();
        let stem = if name.len() <= longest {
            name.to_owned()
        } else {
            // Too long for a suffix: as much of it as fits, and the share to tell apart two
            // that begin alike.
            let share = &manifest.share_id().to_string()[..16];
            let mut end = longest - share.len() - 1;
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            format!("{}~{share}", &name[..end])
        };
        Self {
            last: name.to_owned(),
            part: format!("{stem}{PART}"),
            journal: format!("{stem}{JOURNAL}"),
            new_journal: format!("{stem}{NEW_JOURNAL}"),
            stem,
        }
    }
}

/// The names that a download of this share takes in its directory, at one time or another.
pub fn names_of_download(manifest: &Manifest) -> [String; 4] {
    let Names { last, part, journal, new_journal, .. } = Names::new(manifest);
    [last, part, journal, new_journal]
}

/// What was found when a download's place was entered.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) target: DirTarget,
    /// The lock; to be held until the journal is replaced by one that is locked as well.
    pub(super) lock: Lock,
    /// Whether `NAME.part` is there.
    pub(super) has_part: bool,
    /// Whether `NAME` is there.
    pub(super) has_last: bool,
}

/// The hold on a download's place: an exclusive lock on its journal.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// The journal's bytes, if there was one: empty if it is too long to be this share's.
    pub(super) journal: Option<Vec<u8>>,
}

/// A file of a download as the file system has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct OnDisk {
    pub(super) len: u64,
    /// Bytes it takes up, fewer than its length if it has holes.
    pub(super) allocated: u64,
}

/// How the final rename treats what is in the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replace {
    Refuse,
    Force,
}

impl DirTarget {
    /// Makes the directory if it is missing, locks the download's place in it and looks
    /// around. Nothing but the lock (an empty journal, if there is none) is created.
    pub(super) fn enter(
        dir_path: &Path,
        manifest: &Manifest,
        selection: &[bool],
        method: SendMethod,
        replace: Replace,
    ) -> Result<Entered, StoreError> {
        if dir_path.metadata().is_ok_and(|found| !found.is_dir()) {
            return Err(StoreError::NotADirectory { path: dir_path.to_owned() });
        }
        std::fs::create_dir_all(dir_path).map_err(StoreError::io("create", dir_path))?;
        // The directory is the user's word: it may be reached through links.
        let open_dir = DIRECTORY.difference(OFlags::NOFOLLOW);
        let dir = rustix::fs::open(dir_path, open_dir, Mode::empty())
            .map_err(StoreError::io("open", dir_path))?;
        let mut target = Self {
            dir_path: dir_path.to_owned(),
            dir,
            names: Names::new(manifest),
            manifest: manifest.clone(),
            selection: selection.into(),
            method,
            tree: None,
            made: manifest.files().iter().map(|_| AtomicBool::new(false)).collect(),
            renamed: AtomicBool::new(false),
        };
        let has_last = target.look_at_last(replace)?;
        let lock = target.lock_journal()?;
        match target.look_at_part(&lock, replace) {
            Ok(has_part) => Ok(Entered { target, lock, has_part, has_last }),
            Err(error) => {
                target.abandon(lock)?;
                Err(error)
            }
        }
    }

    /// Gives up the hold on a download that is not going to happen, and removes the empty
    /// journal that was made for it.
    pub(super) fn abandon(&self, lock: Lock) -> Result<(), StoreError> {
        if lock.journal.is_none() {
            self.remove(&self.names.journal)?;
        }
        drop(lock.file);
        Ok(())
    }

    /// The directory it is in.
    pub(super) fn dir_path(&self) -> &Path {
        &self.dir_path
    }

    /// Where everything will be.
    pub(super) fn last_path(&self) -> PathBuf {
        self.dir_path.join(&self.names.last)
    }

    /// Where everything is until then.
    pub(super) fn part_path(&self) -> PathBuf {
        self.dir_path.join(&self.names.part)
    }

    fn base_path(&self) -> PathBuf {
        if self.is_renamed() { self.last_path() } else { self.part_path() }
    }

    /// Where a file of the share is now, for messages.
    pub(super) fn path_of(&self, file: FileIndex) -> PathBuf {
        let base = self.base_path();
        if self.manifest.is_single() {
            return base;
        }
        self.manifest.files()[file.index()].path.iter().fold(base, |path, part| path.join(part))
    }

    /// Whether everything has its final name.
    pub(super) fn is_renamed(&self) -> bool {
        self.renamed.load(Ordering::Acquire)
    }

    /// Looks for the files under their final names (of a download that was finished but for
    /// its journal), or under that of the part.
    pub(super) fn look_at(&mut self, renamed: bool) -> Result<(), StoreError> {
        self.tree = match renamed {
            true => self.open_tree(&self.names.last)?,
            false if self.tree.is_some() => self.open_tree(&self.names.part)?,
            false => None,
        };
        self.renamed = AtomicBool::new(renamed);
        Ok(())
    }

    /// Makes the directory that a folder's files will be in, unless it is there.
    pub(super) fn make_tree(&mut self) -> Result<(), StoreError> {
        if !self.manifest.is_single() && self.tree.is_none() {
            rustix::fs::mkdirat(&self.dir, &*self.names.part, Mode::from_raw_mode(0o777))
                .map_err(StoreError::io("create", &self.part_path()))?;
            self.tree = self.open_tree(&self.names.part)?;
        }
        Ok(())
    }

    /// Makes the directories of the selected files, and the selected files that are empty: no
    /// piece will ever come for them.
    pub(super) fn lay_out(&self, selection: &[bool]) -> Result<(), StoreError> {
        if !self.manifest.is_single() {
            self.make_directories(selection)?;
        }
        for (file, _) in self.selected(selection).filter(|(_, len)| *len == 0) {
            self.open(file).map_err(StoreError::io("create", &self.path_of(file)))?;
        }
        Ok(())
    }

    /// The selected files with their lengths.
    fn selected<'a>(
        &'a self,
        selection: &'a [bool],
    ) -> impl Iterator<Item = (FileIndex, u64)> + 'a {
        let geometry = self.manifest.geometry();
        (0..).zip(selection).filter(|(_, selected)| **selected).filter_map(|(number, _)| {
            let file = geometry.file(number)?;
            Some((file, geometry.span(file).len))
        })
    }

    fn make_directories(&self, selection: &[bool]) -> Result<(), StoreError> {
        let mut made: HashSet<&[String]> = HashSet::new();
        for (file, _) in self.selected(selection) {
            let path = &*self.manifest.files()[file.index()].path;
            let parents = &path[..path.len() - 1];
            if made.insert(parents) {
                self.make_path(parents)?;
            }
        }
        Ok(())
    }

    fn make_path(&self, components: &[String]) -> Result<(), StoreError> {
        let mut path = self.base_path();
        let mut at: Option<OwnedFd> = None;
        for component in components {
            path.push(component);
            let parent = at.as_ref().map_or(self.root(), AsFd::as_fd);
            match rustix::fs::mkdirat(parent, &**component, Mode::from_raw_mode(0o777)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(StoreError::io("create", &path)(errno)),
            }
            let child = rustix::fs::openat(parent, &**component, DIRECTORY, Mode::empty())
                .map_err(|errno| not_followed(errno, "open", &path))?;
            at = Some(child);
        }
        Ok(())
    }

    /// What is there of each file of the share, by number; used once, when resuming. A part
    /// that is longer than the share says is cut, so that its final length is right.
    pub(super) fn survey(&self) -> Result<Vec<Option<OnDisk>>, StoreError> {
        let geometry = self.manifest.geometry();
        let mut found = Vec::with_capacity(geometry.files().len());
        for file in (0..).map_while(|number| geometry.file(number)) {
            found.push(self.survey_file(file, geometry.span(file).len)?);
        }
        Ok(found)
    }

    fn survey_file(&self, file: FileIndex, expected: u64) -> Result<Option<OnDisk>, StoreError> {
        let opened = match self.open_existing(file) {
            Ok(opened) => opened,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io("open", &self.path_of(file))(error)),
        };
        let path = self.path_of(file);
        let stat = rustix::fs::fstat(&opened).map_err(StoreError::io("examine", &path))?;
        let mut len = stat.st_size as u64;
        if len > expected && self.is_renamed() {
            return Ok(None);
        }
        if len > expected {
            opened.set_len(expected).map_err(StoreError::io("shorten", &path))?;
            len = expected;
        }
        self.made[file.index()].store(true, Ordering::Relaxed);
        Ok(Some(OnDisk { len, allocated: stat.st_blocks as u64 * 512 }))
    }

    /// Bytes that the file system would still give us.
    pub(super) fn free_space(&self) -> Option<u64> {
        let stat = rustix::fs::fstatvfs(&self.dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    /// In which life of the machine, and of the mount the directory is on, we are.
    pub(super) fn epoch(&self) -> journal::Epoch {
        let Ok(boot) = std::fs::read("/proc/sys/kernel/random/boot_id") else {
            return journal::Epoch([0; 16]);
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&boot);
        hasher.update(&mount_id(self.dir.as_fd()).to_le_bytes());
        let mut epoch = [0; 16];
        hasher.finalize_xof().fill(&mut epoch);
        journal::Epoch(epoch)
    }

    /// Gives everything its final name.
    pub(super) fn rename(&self, replace: Replace) -> Result<(), StoreError> {
        if self.is_renamed() {
            return Ok(());
        }
        match self.rename_unless_exists() {
            Ok(()) => {}
            Err(Errno::EXIST) if replace == Replace::Force => self.rename_over()?,
            Err(Errno::EXIST) => return Err(StoreError::TargetExists { path: self.last_path() }),
            Err(errno) => return Err(StoreError::io("rename", &self.part_path())(errno)),
        }
        self.renamed.store(true, Ordering::Release);
        Ok(())
    }

    fn rename_unless_exists(&self) -> rustix::io::Result<()> {
        let (from, to) = (&*self.names.part, &*self.names.last);
        #[cfg(any(target_os = "linux", target_vendor = "apple"))]
        match rustix::fs::renameat_with(
            &self.dir,
            from,
            &self.dir,
            to,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            // The file system, or the kernel, does not know how.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
            answer => return answer,
        }
        match rustix::fs::statat(&self.dir, to, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EXIST),
            Err(Errno::NOENT) => rustix::fs::renameat(&self.dir, from, &self.dir, to),
            Err(errno) => Err(errno),
        }
    }

    /// Replaces what is in the way: a file by a file in one step; else what is there is moved
    /// aside and removed once the new name stands.
    fn rename_over(&self) -> Result<(), StoreError> {
        let renaming = |errno| StoreError::io("rename", &self.part_path())(errno);
        let Some(existing) = self.stat(&self.names.last)? else {
            return self.rename_unless_exists().map_err(renaming);
        };
        let is_dir = check_replaceable(&existing, &self.last_path())?;
        if self.manifest.is_single() && !is_dir {
            let (from, to) = (&*self.names.part, &*self.names.last);
            return rustix::fs::renameat(&self.dir, from, &self.dir, to).map_err(renaming);
        }
        self.refuse_to_lose(&self.names.last)?;
        let aside = self.move_aside()?;
        // Looked at once more: under this name nobody adds to it any more.
        let replaced = self
            .refuse_to_lose(&aside)
            .and_then(|()| self.rename_unless_exists().map_err(renaming));
        if let Err(error) = replaced {
            // Best effort: what was there before is better than nothing under that name.
            let _ = rustix::fs::renameat(&self.dir, &*aside, &self.dir, &*self.names.last);
            return Err(error);
        }
        let aside_path = self.dir_path.join(&aside);
        if is_dir {
            std::fs::remove_dir_all(&aside_path)
        } else {
            std::fs::remove_file(&aside_path)
        }
        .map_err(StoreError::io("remove", &aside_path))
    }

    /// Refuses, for `force`, to replace what has the final name if something would be lost.
    pub(super) fn check_may_replace(&self) -> Result<(), StoreError> {
        self.refuse_to_lose(&self.names.last)
    }

    /// An error if a directory of that name holds anything that the download does not bring
    /// again. A regular file is what `force` is about, and may always go.
    fn refuse_to_lose(&self, name: &str) -> Result<(), StoreError> {
        let path = self.dir_path.join(name);
        let Some(stat) = self.stat(name)? else { return Ok(()) };
        if !check_replaceable(&stat, &path)? {
            return Ok(());
        }
        let stray = stray::first_stray(&path, &self.manifest, &self.selection)
            .map_err(StoreError::io("list", &path))?;
        stray.map_or(Ok(()), |entry| Err(StoreError::WouldLose { entry }))
    }

    /// Moves what has the final name to a free one, which it returns.
    fn move_aside(&self) -> Result<String, StoreError> {
        for number in 0..u32::MAX {
            let aside = format!("{}.old{number}", self.names.stem);
            if self.stat(&aside)?.is_none() {
                rustix::fs::renameat(&self.dir, &*self.names.last, &self.dir, &*aside)
                    .map_err(StoreError::io("rename", &self.last_path()))?;
                return Ok(aside);
            }
        }
        Err(StoreError::TargetExists { path: self.last_path() })
    }

    /// Removes the journal, the last step of a download.
    pub(super) fn remove_journal(&self) -> Result<(), StoreError> {
        self.remove(&self.names.journal)
    }

    fn remove(&self, name: &str) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(StoreError::io("remove", &self.dir_path.join(name))(errno)),
        }
    }

    fn stat(&self, name: &str) -> Result<Option<Stat>, StoreError> {
        match rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(StoreError::io("examine", &self.dir_path.join(name))(errno)),
        }
    }

    /// Whether something has the final name already; links and devices are refused at once.
    fn look_at_last(&self, replace: Replace) -> Result<bool, StoreError> {
        match self.stat(&self.names.last)? {
            None => Ok(false),
            Some(stat) if replace == Replace::Force => {
                check_replaceable(&stat, &self.last_path()).map(|_| true)
            }
            // Without force any kind of thing is in the way in the same manner, unless it
            // turns out to be this download's own.
            Some(_) => Ok(true),
        }
    }

    /// Whether there is a part of the right kind to go on with; a tree is opened.
    fn look_at_part(&mut self, lock: &Lock, replace: Replace) -> Result<bool, StoreError> {
        let Some(stat) = self.stat(&self.names.part)? else { return Ok(false) };
        let path = self.part_path();
        let is_dir = check_replaceable(&stat, &path)?;
        // Our journal is made before our part: a part alone is somebody else's.
        if lock.journal.is_none() && replace == Replace::Refuse {
            return Err(StoreError::PartExists { path });
        }
        if is_dir == self.manifest.is_single() {
            let kind = if is_dir { "a directory" } else { "a file" };
            return Err(StoreError::NotOurs { path, kind });
        }
        self.tree = self.open_tree(&self.names.part)?;
        Ok(true)
    }

    /// Opens, locks and reads the journal's file, or makes an empty one.
    fn lock_journal(&self) -> Result<Lock, StoreError> {
        let name = &*self.names.journal;
        let path = self.dir_path.join(name);
        loop {
            let (file, existed) = match self.create(self.dir.as_fd(), name) {
                Ok(file) => (file, false),
                Err(Errno::EXIST) => {
                    match rustix::fs::openat(&self.dir, name, READ_WRITE, Mode::empty()) {
                        Ok(file) => (file, true),
                        Err(Errno::NOENT) => continue,
                        Err(errno) => return Err(not_followed(errno, "open", &path)),
                    }
                }
                Err(errno) => return Err(StoreError::io("create", &path)(errno)),
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(StoreError::InUse { path: self.last_path() }),
                Err(errno) => return Err(StoreError::io("lock", &path)(errno)),
            }
            let stat = rustix::fs::fstat(&file).map_err(StoreError::io("examine", &path))?;
            if check_replaceable(&stat, &path)? {
                return Err(StoreError::NotOurs { path, kind: "a directory" });
            }
            // The lock counts only if the name still means the file that was locked: its
            // holder may have replaced or removed it in between.
            if self.stat(name)?.is_some_and(|named| is_same_file(&named, &stat)) {
                let file = File::from(file);
                let journal = existed.then(|| self.load_journal(&file)).transpose()?;
                return Ok(Lock { file, journal });
            }
        }
    }

    fn load_journal(&self, file: &File) -> Result<Vec<u8>, StoreError> {
        let path = self.dir_path.join(&self.names.journal);
        let len = file.metadata().map_err(StoreError::io("examine", &path))?.len();
        if len > journal::len_max(self.manifest.geometry()) {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; len as usize];
        file.read_exact_at(&mut bytes, 0).map_err(StoreError::io("read", &path))?;
        Ok(bytes)
    }

    fn open_tree(&self, name: &str) -> Result<Option<OwnedFd>, StoreError> {
        if self.manifest.is_single() {
            return Ok(None);
        }
        rustix::fs::openat(&self.dir, name, DIRECTORY, Mode::empty())
            .map(Some)
            .map_err(|errno| not_followed(errno, "open", &self.dir_path.join(name)))
    }

    /// The directory that files' paths are relative to.
    fn root(&self) -> BorrowedFd<'_> {
        self.tree.as_ref().unwrap_or(&self.dir).as_fd()
    }

    /// A file's path below [`Self::root`].
    fn relative(&self, file: FileIndex) -> PathBuf {
        if !self.manifest.is_single() {
            return self.manifest.files()[file.index()].path.iter().collect();
        }
        if self.is_renamed() { &self.names.last } else { &self.names.part }.into()
    }

    fn open_existing(&self, file: FileIndex) -> io::Result<File> {
        let opened = open_beneath(self.root(), &self.relative(file), READ_WRITE)?;
        let stat = rustix::fs::fstat(&opened)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok(opened.into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }

    fn open_new(&self, file: FileIndex) -> io::Result<File> {
        let flags = READ_WRITE.union(OFlags::CREATE).union(OFlags::EXCL);
        let created: File = open_beneath(self.root(), &self.relative(file), flags)?.into();
        let span = self.manifest.geometry().span(file);
        if span.pieces > 1 {
            reserve(&created, span.len);
        }
        Ok(created)
    }

    fn create(&self, dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
        let flags = READ_WRITE.union(OFlags::CREATE).union(OFlags::EXCL);
        rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o666))
    }
}

impl Target for DirTarget {
    type File = ServedFile;

    fn open(&self, file: FileIndex) -> io::Result<ServedFile> {
        let made = &self.made[file.index()];
        let first = if made.load(Ordering::Relaxed) {
            self.open_existing(file)
        } else {
            self.open_new(file)
        };
        // Another thread created it meanwhile, or somebody removed it.
        let opened = match first {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => self.open_existing(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.open_new(file),
            answer => answer,
        }?;
        made.store(true, Ordering::Relaxed);
        Ok(ServedFile::new(opened, self.manifest.geometry().span(file).len, self.method))
    }

    fn sync_all(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        return Ok(rustix::fs::syncfs(&self.dir)?);
        #[cfg(not(target_os = "linux"))]
        {
            let geometry = self.manifest.geometry();
            for file in (0..).map_while(|number| geometry.file(number)) {
                if self.made[file.index()].load(Ordering::Relaxed) {
                    self.open_existing(file)?.sync_data()?;
                }
            }
            Ok(())
        }
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.dir)?)
    }

    fn replace_journal(&self, bytes: &[u8], durable: bool) -> io::Result<ServedFile> {
        let (new, name) = (&*self.names.new_journal, &*self.names.journal);
        // We hold the lock, so a leftover is from a download that died right here.
        match rustix::fs::unlinkat(&self.dir, new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let file: File = self.create(self.dir.as_fd(), new)?.into();
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        file.write_all_at(bytes, 0)?;
        if durable {
            file.sync_data()?;
        }
        rustix::fs::renameat(&self.dir, new, &self.dir, name)?;
        Ok(ServedFile::new(file, 0, self.method))
    }
}

impl RawFile for ServedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read_exact_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file().write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file().sync_data()
    }
}

/// Opens a relative path of plain names beneath a directory, following no symbolic link.
fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    // openat2 takes no mode where nothing is created.
    let mode =
        if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o666) } else { Mode::empty() };
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::ResolveFlags;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, flags, mode, resolve) {
            // An old kernel, or a sandbox that does not know the call: walk by hand.
            Err(Errno::NOSYS | Errno::PERM) => {}
            // Somebody renames directories above; the walk by hand settles it.
            Err(Errno::AGAIN) => {}
            answer => return answer,
        }
    }
    walk_beneath(root, path, flags, mode)
}

/// The same, one component at a time.
fn walk_beneath(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    let mut components: Vec<&OsStr> = path.iter().collect();
    let last = components.pop().ok_or(Errno::NOENT)?;
    let mut at: Option<OwnedFd> = None;
    for component in components {
        let parent = at.as_ref().map_or(root, AsFd::as_fd);
        at = Some(rustix::fs::openat(parent, component, DIRECTORY, Mode::empty())?);
    }
    rustix::fs::openat(at.as_ref().map_or(root, AsFd::as_fd), last, flags, mode)
}

/// Asks the file system to set the room aside. If it does not know how, or has no room, the
/// writes themselves will tell.
fn reserve(file: &File, len: u64) {
    #[cfg(not(target_vendor = "apple"))]
    let _ = rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len);
    #[cfg(target_vendor = "apple")]
    let _ = (file, len);
}

/// Tells a directory (true) from a regular file (false).
fn check_replaceable(stat: &Stat, path: &Path) -> Result<bool, StoreError> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return Ok(false),
        FileType::Directory => return Ok(true),
        FileType::Symlink => "a symbolic link",
        FileType::Fifo => "a FIFO",
        FileType::Socket => "a socket",
        _ => "a device",
    };
    Err(StoreError::NotOurs { path: path.to_owned(), kind })
}

/// An open that refused to follow a link says so in plain words.
fn not_followed(errno: Errno, action: &'static str, path: &Path) -> StoreError {
    match errno {
        Errno::LOOP | Errno::NOTDIR => {
            let is_link = path.symlink_metadata().is_ok_and(|found| found.is_symlink());
            let kind = if is_link { "a symbolic link" } else { "not a directory" };
            StoreError::NotOurs { path: path.to_owned(), kind }
        }
        Errno::ISDIR => StoreError::NotOurs { path: path.to_owned(), kind: "a directory" },
        errno => StoreError::io(action, path)(errno),
    }
}

fn is_same_file(one: &Stat, other: &Stat) -> bool {
    one.st_dev == other.st_dev && one.st_ino == other.st_ino
}

/// A number of the mount, never used twice in one life of the machine where the kernel knows
/// such a thing: a disk that was pulled and came back is another mount.
fn mount_id(dir: BorrowedFd<'_>) -> u64 {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::StatxFlags;
        // STATX_MNT_ID_UNIQUE, Linux 6.8; an older kernel answers with the plain number.
        let unique = StatxFlags::from_bits_retain(0x4000);
        let wanted = unique | StatxFlags::MNT_ID;
        rustix::fs::statx(dir, c"", AtFlags::EMPTY_PATH, wanted).map_or(0, |found| found.stx_mnt_id)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = dir;
        0
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Opens by the system's own call where there is one, and by walking.
    fn both_ways(root: &File, path: &str, flags: OFlags) -> [rustix::io::Result<()>; 2] {
        let path = Path::new(path);
        [
            open_beneath(root.as_fd(), path, flags).map(drop),
            walk_beneath(root.as_fd(), path, flags, Mode::empty()).map(drop),
        ]
    }

    #[test]
    fn walking_by_hand_and_the_systems_call_refuse_the_same_links() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        for name in ["outside", "tree/a/b/file"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        symlink(dir.path(), tree.join("up")).unwrap();
        symlink("../../../outside", tree.join("a/b/link")).unwrap();
        symlink("b", tree.join("a/inner")).unwrap();
        let root = File::open(&tree).unwrap();
        assert!(both_ways(&root, "a/b/file", READ_WRITE).iter().all(Result::is_ok));
        for path in ["up/outside", "a/b/link", "a/inner/file"] {
            for outcome in both_ways(&root, path, READ_WRITE) {
                assert!(matches!(outcome, Err(Errno::LOOP | Errno::NOTDIR)), "{path} {outcome:?}");
            }
        }
        for outcome in both_ways(&root, "a/none", READ_WRITE) {
            assert_eq!(outcome, Err(Errno::NOENT));
        }
    }

    #[test]
    fn a_file_of_several_pieces_is_reserved_and_one_of_a_single_piece_is_not() {
        let dir = tempfile::tempdir().unwrap();
        for (len, pieces) in [(100_000, 7), (16_384, 1)] {
            let share = super::super::testing::Share::new("film", &[(&["film"], len)]);
            let entered = DirTarget::enter(
                dir.path(),
                &share.manifest,
                &[true],
                SendMethod::default(),
                Replace::Refuse,
            );
            let Entered { target, lock, .. } = entered.unwrap();
            let file = share.geometry().file(0).unwrap();
            assert_eq!(share.geometry().span(file).pieces, pieces);
            let opened = Target::open(&target, file).unwrap();
            let found = opened.file().metadata().unwrap().len();
            // Where the file system cannot reserve, the file simply starts empty.
            assert!(found == 0 || pieces > 1 && found == len as u64, "{found}");
            fs::remove_file(dir.path().join("film.part")).unwrap();
            target.abandon(lock).unwrap();
        }
    }
}
