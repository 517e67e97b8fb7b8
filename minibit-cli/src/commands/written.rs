//! Files that the user wants written beside the work: a ticket, a manifest.
//!
//! They are written when the work that leads to them is done, which may take long. So it is found out before whether they can
//! be: a slip in a path should not cost the hashing of a film, and still less the film.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use minibit_core::content::Manifest;
use minibit_core::store::names_of_download;

use crate::exit::{Exit, Failure};

/// Those of these files that are wanted, once it is found out that each can be written later on. Leaves things as they were.
///
/// # Errors
/// What keeps one from being written, as far as that can be told without doing so; or that two of them are one.
pub(super) fn outputs<const N: usize>(
    wanted: [&Option<PathBuf>; N],
) -> Result<Vec<PathBuf>, Failure> {
    let mut outputs: Vec<PathBuf> = Vec::new();
    for path in wanted.into_iter().flatten() {
        if outputs.contains(path) {
            return Err(Failure::usage(TwiceError { path: path.clone() }));
        }
        could_write(path).map_err(|source| failed(path, source))?;
        outputs.push(path.clone());
    }
    Ok(outputs)
}

/// Finds out whether the file at `path`, if one is wanted, is none of a download of this share into `dir`.
///
/// # Errors
/// If it is, or would be in the way of one.
pub(super) fn check_apart(
    path: Option<&Path>,
    dir: &Path,
    manifest: &Manifest,
) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    match place_in(dir, path) {
        Some(place) if names_of_download(manifest).contains(&place) => {
            let failure = Failure::usage(DownloadError { path: path.into() });
            Err(failure.hint("write it to another place"))
        }
        _ => Ok(()),
    }
}

/// The name in `dir` that leads to `path`, links followed; `None` if it is elsewhere, or cannot be written anyhow.
fn place_in(dir: &Path, path: &Path) -> Option<String> {
    let place = fs::canonicalize(path).or_else(|_| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        fs::canonicalize(parent.unwrap_or(Path::new(".")))
            .map(|parent| parent.join(path.file_name().unwrap_or_default()))
    });
    let place = place.ok()?.strip_prefix(fs::canonicalize(dir).ok()?).ok()?.to_owned();
    place.iter().next()?.to_str().map(str::to_owned)
}

/// Writes the file at `path`, if one is wanted; it is made, or replaced.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(path: Option<&Path>, bytes: impl FnOnce() -> Vec<u8>) -> Result<(), Failure> {
    path.map_or(Ok(()), |path| fs::write(path, bytes()).map_err(|source| failed(path, source)))
}

fn could_write(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Ok(found) if found.is_file() => File::options().write(true).open(path).map(drop),
        // To open a pipe or a device is to begin with it.
        Ok(_) => Ok(()),
        // What a link leads to cannot be made without leaving it there.
        Err(error) if error.kind() == io::ErrorKind::NotFound && path.is_symlink() => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            File::create_new(path)?;
            fs::remove_file(path)
        }
        Err(error) => Err(error),
    }
}

fn failed(path: &Path, source: io::Error) -> Failure {
    Failure::new(Exit::Disk, WriteError { path: path.into(), source })
}

#[derive(Debug, thiserror::Error)]
#[error("{} would be written twice, and the second replaces the first", path.display())]
struct TwiceError {
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("{} is where the download goes", path.display())]
struct DownloadError {
    path: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use minibit_core::content::FileEntry;
    use minibit_core::types::{Digest, PieceSize};

    use super::*;

    #[test]
    fn no_manifest_is_written_where_a_download_goes_however_long_its_name() {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["film.mp4", &"x".repeat(255)] {
            let file = FileEntry { path: vec![name.into()], len: 5, root: Digest([1; 32]) };
            let size = PieceSize::new(16384).expect("a size");
            let manifest = Manifest::new(name.into(), true, size, vec![file]).expect("a share");
            let check =
                |place: &str| check_apart(Some(&dir.path().join(place)), dir.path(), &manifest);
            for place in names_of_download(&manifest) {
                assert_eq!(check(&place).expect_err(&place).exit(), Exit::Usage);
            }
            assert!(check("film.minibit").is_ok());
        }
    }

    #[test]
    fn whether_a_file_could_be_written_is_found_out_without_leaving_a_trace() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("old"), "words").expect("written");
        symlink("nothing", path("link")).expect("made");
        for good in ["new", "old", "link"] {
            assert_eq!(outputs([&Some(path(good))]).expect(good), [path(good)]);
        }
        assert!(outputs([&Some("/dev/null".into()), &None]).is_ok());
        for bad in ["", "no/such", "old/within"] {
            let failure = outputs([&Some(path(bad))]).expect_err(bad);
            assert_eq!(failure.exit(), Exit::Disk);
            let text = failure.to_string();
            assert!(text.starts_with(&format!("cannot write {}: ", path(bad).display())), "{text}");
        }
        let twice =
            outputs([&Some(path("old")), &Some(path("old"))]).expect_err("one place for two");
        assert_eq!(twice.exit(), Exit::Usage);
        assert_eq!(fs::read_to_string(path("old")).expect("readable"), "words");
        assert!(!path("new").exists() && !path("nothing").exists());
    }
}
