//! What would be lost if a directory that is in the way of a download were removed.
//!
//! `force` replaces what the download brings again, and nothing else: a directory may go only
//! if everything in it, all the way down, has a namesake of the same kind among the files that
//! are fetched. Somebody's notes beside an earlier copy of the share are a stray entry, and so
//! is a file of the share that is not selected this time.
//!
//! Invariant: nothing is changed, and no symbolic link is followed. It descends only into
//! directories of the share, so neither depth nor number of what is looked at depends on
//! what lies about.
//!
//! Not here: moving and removing ([`super::dir`]).

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use crate::content::Manifest;

/// The first entry found below `root` that is not among the selected files of the share, or
/// not of their kind; its path begins with `root`. In the place of a single file that is any
/// entry at all.
///
/// # Errors
/// What the operating system says about a directory that cannot be listed.
pub(super) fn first_stray(
    root: &Path,
    manifest: &Manifest,
    selection: &[bool],
) -> io::Result<Option<PathBuf>> {
    let known = Known::of(manifest, selection);
    let mut pending = vec![PathBuf::new()];
    while let Some(dir) = pending.pop() {
        for entry in std::fs::read_dir(root.join(&dir))? {
            let entry = entry?;
            let path = dir.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() && known.dirs.contains(&path) {
                pending.push(path);
            } else if !kind.is_file() || !known.files.contains(&path) {
                return Ok(Some(root.join(path)));
            }
        }
    }
    Ok(None)
}

/// The paths of the files that are fetched, and of the directories they are in.
#[derive(Default)]
struct Known {
    files: HashSet<PathBuf>,
    dirs: HashSet<PathBuf>,
}

impl Known {
    fn of(manifest: &Manifest, selection: &[bool]) -> Self {
        let mut known = Self::default();
        if manifest.is_single() {
            return known;
        }
        let selected = manifest.files().iter().zip(selection).filter(|(_, selected)| **selected);
        for (file, _) in selected {
            let path: PathBuf = file.path.iter().collect();
            for dir in path.ancestors().skip(1) {
                if !known.dirs.insert(dir.to_owned()) {
                    break;
                }
            }
            known.files.insert(path);
        }
        known
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::super::testing::Share;
    use super::*;

    /// An earlier copy of the folder, and its directory.
    fn copy(share: &Share) -> (TempDir, PathBuf) {
        let dir = TempDir::new().unwrap();
        let root = dir.path().join("folder");
        for (file, contents) in share.manifest.files().iter().zip(&share.contents) {
            let path = file.path.iter().fold(root.clone(), |path, part| path.join(part));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, contents).unwrap();
        }
        (dir, root)
    }

    #[test]
    fn a_copy_of_the_share_or_of_some_of_it_has_no_stray_entry() {
        let share = Share::folder();
        let (_dir, root) = copy(&share);
        let look = || first_stray(&root, &share.manifest, &share.everything()).unwrap();
        assert_eq!(look(), None);
        fs::remove_file(root.join("a/b/deep")).unwrap();
        assert_eq!(look(), None, "an empty directory of the share");
        fs::remove_dir_all(root.join("a")).unwrap();
        assert_eq!(look(), None);
    }

    type Plant = fn(&Path);

    #[test]
    fn whatever_the_download_does_not_bring_again_is_stray() {
        let share = Share::folder();
        let plants: [(&str, Plant); 6] = [
            ("notes", |path| fs::write(path, "mine").unwrap()),
            ("a/b/notes", |path| fs::write(path, "mine").unwrap()),
            ("mine", |path| fs::create_dir(path).unwrap()),
            ("link", |path| symlink("other", path).unwrap()),
            ("a/b/deep", |path| {
                fs::remove_file(path).unwrap();
                fs::create_dir(path).unwrap();
            }),
            ("z", |path| {
                fs::remove_dir_all(path).unwrap();
                symlink("a", path).unwrap();
            }),
        ];
        for (name, plant) in plants {
            let (_dir, root) = copy(&share);
            plant(&root.join(name));
            let stray = first_stray(&root, &share.manifest, &share.everything()).unwrap();
            assert_eq!(stray, Some(root.join(name)));
        }
    }

    #[test]
    fn a_file_of_the_share_that_is_not_selected_is_stray() {
        let share = Share::folder();
        let (_dir, root) = copy(&share);
        let mut selection = share.everything();
        selection[3] = false;
        let stray = first_stray(&root, &share.manifest, &selection).unwrap();
        assert_eq!(stray, Some(root.join("other")));
    }

    #[test]
    fn in_the_place_of_a_single_file_only_an_empty_directory_has_nothing_stray() {
        let (share, dir) = (Share::film(), TempDir::new().unwrap());
        let look = || first_stray(dir.path(), &share.manifest, &[true]).unwrap();
        assert_eq!(look(), None);
        fs::write(dir.path().join("film"), "mine").unwrap();
        assert_eq!(look(), Some(dir.path().join("film")));
    }
}
