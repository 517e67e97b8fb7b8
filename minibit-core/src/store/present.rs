//! Whether what a download is to bring lies under its final name already, byte for byte.
//!
//! An earlier run may have finished it, or the user has it from elsewhere: then there is nothing to fetch, and it can be
//! served from where it is. Only files that are wanted are looked at, whatever else lies beside them. What cannot be it by its
//! kind or its length is told without reading a byte, all else by hashing it.
//!
//! Invariant: nothing is changed, and below the final name no symbolic link is followed.
//!
//! Not here: what is done about something else that has the name ([`super::dir`]).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::hashing::hash_files;
use super::part::pieces_of;
use super::prepare::{check_unchanged, numbered};
use super::source::{SourceFile, SourceStore, Stamp};
use crate::content::{HashBook, Manifest};
use crate::types::{FileIndex, PieceSet};

/// Wanted files that were found.
#[derive(Debug)]
pub struct Present {
    /// Their pieces.
    pub pieces: PieceSet,
    /// The hashes of their pieces.
    pub hashes: HashBook,
    /// The files. Those that are not wanted cannot be served from it.
    pub store: SourceStore,
}

/// Looks for all files that `selection` wants, in the manifest's order, in what is at `path`: the share's file, or its
/// folder. `None` if one of them is not there, or not as the manifest says. Blocks until everything was read; `progress` is
/// told how many bytes are hashed, of how many, often and on this thread.
///
/// # Panics
/// If `selection` is not as long as the manifest's list of files: the caller's mistake.
pub fn present(
    path: &Path,
    manifest: &Manifest,
    selection: &[bool],
    progress: &dyn Fn(u64, u64),
) -> Option<Present> {
    assert_eq!(selection.len(), manifest.files().len(), "one choice for every file");
    let geometry = manifest.geometry();
    let root = fs::canonicalize(path).ok()?;
    let is_wanted = |file: &FileIndex| selection[file.index()];
    let mut sources = Vec::with_capacity(selection.len());
    for file in numbered(geometry) {
        sources.push(match is_wanted(&file) {
            true => at_sight(&root, manifest, file)?,
            false => nowhere(&root),
        });
    }
    let wanted = || numbered(geometry).filter(is_wanted);
    let total = wanted().map(|file| geometry.span(file).len).sum();
    progress(0, total);
    let mut hashed = hash_files(
        geometry,
        wanted().map(|file| (file, &*sources[file.index()].path)),
        None,
        &|done| progress(done, total),
        &AtomicBool::new(false),
    )
    .ok()?;
    if !hashed.failed.is_empty() {
        return None;
    }
    let hashes = HashBook::new(manifest);
    for file in wanted() {
        check_unchanged(&sources[file.index()]).ok()?;
        hashes.insert_file(file, hashed.take(file)).ok()?;
    }
    let store = SourceStore::new(Arc::clone(geometry), sources);
    Some(Present { pieces: pieces_of(geometry, selection), hashes, store })
}

/// A file of the share below `root`, if it may be the one that the manifest names.
fn at_sight(root: &Path, manifest: &Manifest, file: FileIndex) -> Option<SourceFile> {
    let mut path = root.to_owned();
    if !manifest.is_single() {
        path.extend(&manifest.files()[file.index()].path);
    }
    let found = fs::symlink_metadata(&path).ok()?;
    let may_be_it = found.is_file()
        && found.len() == manifest.geometry().span(file).len
        // No folder on the way there is a link.
        && fs::canonicalize(&path).is_ok_and(|place| place == path);
    may_be_it.then(|| SourceFile { stamp: Stamp::of(&found), path })
}

/// The place of a file that is not wanted: a stamp that nothing there has.
fn nowhere(root: &Path) -> SourceFile {
    let stamp = Stamp { len: 0, modified: 0, device: 0, inode: 0 };
    SourceFile { path: root.to_owned(), stamp }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use tempfile::TempDir;

    use super::super::testing::Share;
    use super::super::{PieceStore, StoreError};
    use super::*;

    /// Files of the share, those that `is_there` takes, in a folder of their own.
    fn laid_out(share: &Share, is_there: impl Fn(usize) -> bool) -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("folder");
        for (number, file) in share.manifest.files().iter().enumerate() {
            let path = file.path.iter().fold(root.clone(), |path, part| path.join(part));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if is_there(number) {
                fs::write(path, &share.contents[number]).unwrap();
            }
        }
        (dir, root)
    }

    fn found(share: &Share, root: &Path, selection: &[bool]) -> Option<Present> {
        present(root, &share.manifest, selection, &|_, _| {})
    }

    #[test]
    fn files_that_are_wanted_are_found_whatever_lies_beside_them_and_can_be_served() {
        let share = Share::folder();
        let selection = [true, false, true, false, false];
        let (_dir, root) = laid_out(&share, |number| selection[number]);
        fs::write(root.join("a/notes"), "mine").unwrap();
        let told = RefCell::new(Vec::new());
        let tell = |done, total| told.borrow_mut().push((done, total));
        let Present { pieces, hashes, store } =
            present(&root, &share.manifest, &selection, &tell).expect("all that is wanted");
        assert_eq!(*told.borrow().first().unwrap(), (0, 40_000));
        assert_eq!(*told.borrow().last().unwrap(), (40_000, 40_000));
        for piece in share.geometry().pieces() {
            let is_here = share.geometry().file_of(piece).get() == 0;
            assert_eq!(pieces.contains(piece), is_here);
            // Of a file of one piece the root is its hash.
            assert!(hashes.expected(piece).is_some() || !is_here);
            match store.serve(piece) {
                Ok(_) => assert!(is_here),
                Err(StoreError::SourceChanged { .. } | StoreError::Io { .. }) => assert!(!is_here),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(found(&share, &root, &share.everything()).is_none(), "not all of it is there");
        let (_dir, root) = laid_out(&share, |_| true);
        assert!(found(&share, &root, &share.everything()).is_some());
        let film = Share::film();
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("film");
        fs::write(&path, &film.contents[0]).unwrap();
        symlink(&path, dir.path().join("link")).unwrap();
        assert!(found(&film, &path, &[true]).is_some());
        assert!(found(&film, &dir.path().join("link"), &[true]).is_some(), "named by the user");
    }

    #[test]
    fn what_is_of_another_kind_or_has_another_byte_is_not_it() {
        let share = Share::folder();
        let changes: [fn(&Path); 5] = [
            |root| fs::remove_file(root.join("empty")).unwrap(),
            |root| fs::write(root.join("other"), [0; 16_384]).unwrap(),
            |root| fs::write(root.join("other"), [0; 16_383]).unwrap(),
            |root| {
                fs::rename(root.join("other"), root.join("elsewhere")).unwrap();
                symlink("elsewhere", root.join("other")).unwrap();
            },
            |root| {
                fs::rename(root.join("a"), root.join("elsewhere")).unwrap();
                symlink("elsewhere", root.join("a")).unwrap();
            },
        ];
        for change in changes {
            let (_dir, root) = laid_out(&share, |_| true);
            change(&root);
            assert!(found(&share, &root, &share.everything()).is_none());
        }
        assert!(found(&share, Path::new("/no/such"), &share.everything()).is_none());
    }
}
