//! Which exit code each of the core's errors ends with, and what the user can do about it.

use std::io;
use std::path::Path;

use minibit_core::content::Ticket;
use minibit_core::engine::{BootstrapError, CompleteError, GetError, NodeError};
use minibit_core::store::{PrepareError, StoreError, VerifyError};

use crate::exit::{Exit, Failure};

/// Said when work was left where it can be taken up.
pub(super) const GO_ON: &str = "what was verified is kept: run the same command again to go on";
/// The same where nothing was verified so far.
pub(super) const AGAIN: &str = "run the same command again to go on";

/// Said of what comes through a pipe.
const KEEP_IT: &str = "what is shared is read again and again: save it in a file, and share that";

/// The user stopped it.
pub(super) fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "interrupted")
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        match &error {
            PrepareError::Cancelled => interrupted(),
            PrepareError::Io { source, .. } if source.kind() != io::ErrorKind::NotFound => {
                Self::new(Exit::Disk, error)
            }
            PrepareError::Changed { .. } => Self::new(Exit::Failed, error),
            PrepareError::Name { .. } | PrepareError::NotUtf8 { .. } => {
                Self::usage(error).hint("rename it; other systems could not have that name")
            }
            PrepareError::NoName { .. } => Self::usage(error).hint("--name gives it one"),
            PrepareError::NoFiles { .. } => Self::usage(error).hint(
                "a share is made of files: empty folders, and links within folders, are left out",
            ),
            PrepareError::Output { .. } => Self::usage(error).hint("write it to another place"),
            PrepareError::NotAFile { .. } => Self::usage(error).hint(KEEP_IT),
            PrepareError::Io { path, .. } if path.as_os_str() == "-" => {
                Self::usage(error).hint(KEEP_IT)
            }
            PrepareError::Names { .. } => {
                Self::usage(error).hint("rename them; other systems could not have those names")
            }
            PrepareError::Io { path, .. } if is_ticket(path) => {
                Self::usage(error).hint("that is a ticket: `minibit get` fetches what it names")
            }
            // The rest is about what was asked to be shared.
            _ => Self::usage(error),
        }
    }
}

impl From<VerifyError> for Failure {
    fn from(error: VerifyError) -> Self {
        match error {
            VerifyError::Cancelled => interrupted(),
            other => Self::new(Exit::Disk, other),
        }
    }
}

impl From<NodeError> for Failure {
    fn from(error: NodeError) -> Self {
        let hint = match &error {
            NodeError::Listen { source, .. } => listen_hint(source.kind()),
            _ => None,
        };
        let failure = Self::new(Exit::Failed, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<GetError> for Failure {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Store(StoreError::TargetExists { path }) => {
                let hint = format!("{}; {}", what_exists(&path), exists_hint(&path));
                Self::new(Exit::Disk, StoreError::TargetExists { path }).hint(hint)
            }
            GetError::Store(error) => error.into(),
            GetError::Bootstrap(error) => match error {
                BootstrapError::Manifest { .. } => Self::new(Exit::Integrity, error),
                _ => Self::new(Exit::Unreachable, error).hint(
                    "is somebody sharing it, and can this machine connect to them? \
                         --wait TIME waits longer",
                ),
            },
            GetError::NothingSelected { .. } => Self::usage(error),
            other => Self::new(Exit::Failed, other),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let hint = store_hint(&error);
        let failure = Self::new(Exit::Disk, error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<CompleteError> for Failure {
    fn from(error: CompleteError) -> Self {
        let hint = match &error {
            CompleteError::Store(error) => store_hint(error),
            _ => None,
        };
        let failure = Self::new(Exit::Disk, error);
        failure.hint(hint.unwrap_or(GO_ON))
    }
}

fn is_ticket(path: &Path) -> bool {
    path.to_str().is_some_and(|text| text.parse::<Ticket>().is_ok())
}

fn listen_hint(kind: io::ErrorKind) -> Option<&'static str> {
    match kind {
        io::ErrorKind::AddrInUse => Some("choose another port with --listen, or :0 for any"),
        io::ErrorKind::AddrNotAvailable => Some(
            "this machine does not have that address; --listen PORT listens on all that it has, \
             and --announce ADDR puts a router's into the ticket",
        ),
        io::ErrorKind::PermissionDenied => Some("ports below 1024 may be reserved: choose another"),
        _ => None,
    }
}

fn store_hint(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::TargetExists { path } => Some(exists_hint(path)),
        StoreError::PartExists { .. } => {
            Some("--force checks what is in it and goes on from there, -o DIR puts it elsewhere")
        }
        StoreError::NotADirectory { .. } => Some("-o names the directory to put it in"),
        StoreError::WouldLose { .. } => {
            Some("move it out of there, or use -o DIR to put the download elsewhere")
        }
        StoreError::NotOurs { .. } => Some("-o DIR puts it elsewhere"),
        StoreError::InUse { .. } => Some("another minibit is at it; wait for it, or use -o DIR"),
        StoreError::NoSpace { .. } => Some("make room, or use -o DIR"),
        error if error.is_disk_full() => Some(GO_ON),
        StoreError::Io { source, .. } if is_refused(source) => {
            Some("nothing can be written there; -o DIR puts it elsewhere")
        }
        _ => None,
    }
}

/// What a thing in the way is: a download looks at it first, and takes what is all of the share for itself.
fn what_exists(path: &Path) -> &'static str {
    if path.is_symlink() {
        "it is a symbolic link"
    } else if path.is_dir() {
        "it is a folder, and not all that is to be fetched is in it as the ticket names it"
    } else {
        "its bytes are not those that the ticket names"
    }
}

/// What helps when a thing is in the way.
fn exists_hint(path: &Path) -> &'static str {
    if path.is_symlink() {
        "-o DIR puts the download elsewhere"
    } else if path.is_dir() {
        "--force replaces it and fetches everything again, -o DIR puts it elsewhere; nothing can be \
         added to it: --select PATTERN with another -o DIR fetches the files that are not there"
    } else {
        "--force replaces it and fetches everything again, -o DIR puts it elsewhere"
    }
}

/// Whether it is the place that does not let us write.
fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let io = |kind: io::ErrorKind| io::Error::from(kind);
        let prepare =
            |kind| PrepareError::Io { action: "open", path: "x".into(), source: io(kind) };
        assert_eq!(Failure::from(prepare(io::ErrorKind::NotFound)).exit(), Exit::Usage);
        assert_eq!(Failure::from(prepare(io::ErrorKind::PermissionDenied)).exit(), Exit::Disk);
        assert_eq!(Failure::from(PrepareError::Cancelled).exit(), Exit::Interrupted);
        let nothing = GetError::NothingSelected { has: "film.mp4".into() };
        assert_eq!(Failure::from(nothing).exit(), Exit::Usage);
        let exists = Failure::from(StoreError::TargetExists { path: "x".into() });
        assert_eq!(exists.exit(), Exit::Disk);
        assert!(exists.advice().is_some_and(|hint| hint.contains("--force")));
        let lose = Failure::from(StoreError::WouldLose { entry: "x/mine".into() });
        assert_eq!(lose.exit(), Exit::Disk);
        assert!(lose.advice().is_some_and(|hint| hint.contains("-o DIR")));
        let listen = NodeError::Listen {
            addr: "127.0.0.1:1".parse().unwrap(),
            source: io(io::ErrorKind::AddrInUse),
        };
        assert!(Failure::from(listen).advice().is_some_and(|hint| hint.contains("--listen")));
        let refused = StoreError::Io {
            action: "create",
            path: "x".into(),
            source: io(io::ErrorKind::ReadOnlyFilesystem),
        };
        assert!(Failure::from(refused).advice().is_some_and(|hint| hint.contains("-o DIR")));
        for kind in [io::ErrorKind::AddrNotAvailable, io::ErrorKind::PermissionDenied] {
            assert!(listen_hint(kind).is_some(), "{kind}");
        }
    }
}
