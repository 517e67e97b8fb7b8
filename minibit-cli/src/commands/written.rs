//! Files that the user wants written beside the work: a ticket, a manifest.
//!
//! They are written when the work that leads to them is done, which may take long. So it is found out before whether they can
//! be: a slip in a path should not cost the hashing of a film.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::exit::{Exit, Failure};

/// Finds out whether the file at `path`, if one is wanted, can be written later on. Leaves things as they were.
///
/// # Errors
/// What keeps it from being written, as far as that can be told without doing so.
pub(super) fn check(path: Option<&Path>) -> Result<(), Failure> {
    path.map_or(Ok(()), |path| could_write(path).map_err(|source| failed(path, source)))
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
#[error("cannot write {}", path.display())]
struct WriteError {
    path: PathBuf,
    source: io::Error,
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn whether_a_file_could_be_written_is_found_out_without_leaving_a_trace() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("old"), "words").expect("written");
        symlink("nothing", path("link")).expect("made");
        for good in ["new", "old", "link"] {
            assert!(check(Some(&path(good))).is_ok(), "{good}");
        }
        assert!(check(Some(Path::new("/dev/null"))).is_ok() && check(None).is_ok());
        for bad in ["", "no/such", "old/within"] {
            let failure = check(Some(&path(bad))).expect_err(bad);
            assert_eq!(failure.exit(), Exit::Disk);
            let text = failure.to_string();
            assert!(text.starts_with(&format!("cannot write {}: ", path(bad).display())), "{text}");
        }
        assert_eq!(fs::read_to_string(path("old")).expect("readable"), "words");
        assert!(!path("new").exists() && !path("nothing").exists());
    }
}
