//! `verify`: whether a file or folder is what a ticket or a manifest says, without asking
//! anybody.
//!
//! A manifest names every root, so what is wrong can be named too. A ticket has only the hash
//! of the manifest: the manifest that the files would have is made again and compared. The
//! roots do not depend on the piece size, so the files are read once and every size that the
//! sharer may have chosen is tried.

use std::path::{Path, PathBuf};

use minibit_core::content::{Manifest, Ticket, escape};
use minibit_core::store::{self, PrepareError, PrepareOptions};
use minibit_core::types::{PieceSize, limits};

use super::{Session, work};
use crate::cli::Verify;
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::json::{Bad, Event};
use crate::output::progress::Work;
use crate::output::units::{Bytes, Count};

/// The files are not what they should be. What exactly was printed before.
#[derive(Debug, thiserror::Error)]
enum Mismatch {
    #[error("{} differs from the manifest", escape(&.0.to_string_lossy()))]
    Manifest(PathBuf),
    #[error("{} is not what the ticket names", escape(&.0.to_string_lossy()))]
    Ticket(PathBuf),
}

/// There is nothing to check.
#[derive(Debug, thiserror::Error)]
#[error("{}: no such file or folder", escape(&.0.to_string_lossy()))]
struct NoSuchFile(PathBuf);

/// Runs the command.
pub(super) async fn run(flags: &Verify, session: &Session) -> Result<(), Failure> {
    if !flags.path.try_exists().unwrap_or(true) {
        return Err(Failure::usage(NoSuchFile(flags.path.clone())));
    }
    match (&flags.manifest, &flags.ticket) {
        (Some(manifest), _) => {
            against_manifest(&flags.path, input::manifest(manifest)?, session).await
        }
        (None, Some(ticket)) => {
            against_ticket(&flags.path, &input::ticket(ticket)?, flags.name.clone(), session).await
        }
        (None, None) => unreachable!("the command line requires one of them"),
    }
}

async fn against_manifest(
    path: &Path,
    manifest: Manifest,
    session: &Session,
) -> Result<(), Failure> {
    let output = &session.output;
    let total = manifest.geometry().total_len();
    let place = path.to_owned();
    let report = watched_verify(place, manifest, session).await?;
    for bad in &report.bad {
        output.say(bad);
    }
    let bad = |bad: &store::BadFile| Bad {
        path: bad.path.to_string_lossy().into_owned(),
        problem: bad.problem.to_string(),
    };
    output.event(&Event::Verified {
        path: path.to_owned(),
        ok: report.is_whole(),
        bytes: total,
        bad: report.bad.iter().map(bad).collect(),
    });
    if !report.is_whole() {
        return Err(Failure::new(Exit::Integrity, Mismatch::Manifest(path.into())));
    }
    let files = Count(report.good as u64, "file");
    output.result(format_args!("{files}, {}: every byte is right", Bytes(total)));
    Ok(())
}

async fn watched_verify(
    path: PathBuf,
    manifest: Manifest,
    session: &Session,
) -> Result<store::VerifyReport, Failure> {
    let report = work::watched(Work::Verifying, session, move |report, cancel| {
        store::verify(&path, &manifest, None, None, &work::hashed(report), cancel)
    });
    Ok(report.await??)
}

async fn against_ticket(
    path: &Path,
    ticket: &Ticket,
    name: Option<String>,
    session: &Session,
) -> Result<(), Failure> {
    let options = PrepareOptions { name, ..PrepareOptions::default() };
    let paths = [path.to_owned()];
    let prepared = work::watched(Work::Verifying, session, move |report, cancel| {
        store::prepare(&paths, &options, &work::hashed(report), cancel)
    })
    .await?;
    let manifest = match prepared {
        Ok(prepared) => Some(prepared.manifest),
        // What cannot be shared was never shared: it differs.
        Err(
            PrepareError::NoFiles { .. } | PrepareError::Name { .. } | PrepareError::Names { .. },
        ) => None,
        Err(error) => return Err(error.into()),
    };
    let ok = manifest.as_ref().is_some_and(|manifest| is_share_of(ticket, manifest));
    let bytes = manifest.map_or(0, |manifest| manifest.geometry().total_len());
    let problem = "the files, or their names, differ from the ticket's".to_owned();
    let bad = if ok { vec![] } else { vec![Bad { path: String::new(), problem }] };
    session.output.event(&Event::Verified { path: path.to_owned(), ok, bytes, bad });
    if !ok {
        return Err(Failure::new(Exit::Integrity, Mismatch::Ticket(path.into())).hint(
            "a share that was renamed needs its own name by --name; a part of one cannot be \
             checked by a ticket; a manifest tells what differs",
        ));
    }
    session.output.result(format_args!("{}: every byte is right", Bytes(bytes)));
    Ok(())
}

/// Whether the ticket's share has these files, whatever its piece size.
fn is_share_of(ticket: &Ticket, manifest: &Manifest) -> bool {
    sizes().any(|size| {
        let files = manifest.files().to_vec();
        Manifest::new(manifest.name().to_owned(), manifest.is_single(), size, files)
            .is_ok_and(|manifest| manifest.share_id() == ticket.share())
    })
}

/// Every piece size there is.
fn sizes() -> impl Iterator<Item = PieceSize> {
    let doubled = |size: &u32| (*size < limits::PIECE_LEN_MAX).then(|| size * 2);
    std::iter::successors(Some(limits::PIECE_LEN_MIN), doubled)
        .filter_map(|bytes| PieceSize::new(bytes).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use minibit_core::content::FileEntry;
    use minibit_core::types::Digest;

    #[test]
    fn every_piece_size_is_tried() {
        let bytes: Vec<u32> = sizes().map(PieceSize::bytes).collect();
        assert_eq!(bytes.first(), Some(&limits::PIECE_LEN_MIN));
        assert_eq!(bytes.last(), Some(&limits::PIECE_LEN_MAX));
        let manifest = |size, root| {
            let files =
                vec![FileEntry { path: vec!["x".into()], len: 5, root: Digest([root; 32]) }];
            Manifest::new("x".into(), true, PieceSize::new(size).unwrap(), files).unwrap()
        };
        let addr = "192.0.2.7:1".parse().unwrap();
        let ticket = Ticket::new(manifest(1 << 20, 1).share_id(), [addr], []).unwrap();
        assert!(is_share_of(&ticket, &manifest(16384, 1)));
        assert!(!is_share_of(&ticket, &manifest(1 << 20, 2)));
    }
}
