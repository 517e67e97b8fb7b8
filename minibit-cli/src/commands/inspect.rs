//! `inspect`: what a ticket or a manifest says, without asking anybody.

use std::collections::BTreeMap;
use std::path::Path;

use minibit_core::content::{FileEntry, Manifest, Ticket, escape};

use crate::cli::Inspect;
use crate::exit::Failure;
use crate::input;
use crate::output::Output;
use crate::output::json::{Event, File};
use crate::output::units::{Bytes, Count};

/// Runs the command.
pub(super) fn run(flags: &Inspect, output: &Output) -> Result<(), Failure> {
    if is_manifest_path(&flags.what) {
        show_manifest(&input::manifest(Path::new(&flags.what))?, output);
    } else {
        show_ticket(&input::ticket(&flags.what)?, output);
    }
    Ok(())
}

/// Whether the argument is meant as a file's path. What is no file is read as a ticket, so
/// that a mistyped one is told what is wrong with it.
fn is_manifest_path(what: &str) -> bool {
    what != "-" && !what.starts_with('@') && Path::new(what).exists()
}

fn show_ticket(ticket: &Ticket, output: &Output) {
    let texts = |addrs: &[std::net::SocketAddr]| -> Vec<String> {
        addrs.iter().map(ToString::to_string).collect()
    };
    let (trackers, peers) = (texts(ticket.trackers()), texts(ticket.peers()));
    output.result(format_args!("share    {}", ticket.share()));
    for tracker in &trackers {
        output.result(format_args!("tracker  {tracker}"));
    }
    for peer in &peers {
        output.result(format_args!("peer     {peer}"));
    }
    output.event(&Event::InspectedTicket { share: ticket.share().to_string(), trackers, peers });
}

/// Prints what a share consists of.
pub(super) fn show_manifest(manifest: &Manifest, output: &Output) {
    let geometry = manifest.geometry();
    output.result(format_args!("share       {}", manifest.share_id()));
    output.result(format_args!("name        {}", escape(manifest.name())));
    output.result(format_args!("kind        {}", kind(manifest)));
    output.result(format_args!(
        "bytes       {} ({})",
        geometry.total_len(),
        Bytes(geometry.total_len())
    ));
    output.result(format_args!(
        "pieces      {} of {}",
        geometry.piece_count(),
        Bytes(geometry.piece_size().bytes().into())
    ));
    let files = files(manifest);
    for file in &files {
        output.result(format_args!("{}  {:>12}  {}", file.root, file.bytes, escape(&file.path)));
    }
    output.event(&Event::InspectedManifest {
        share: manifest.share_id().to_string(),
        name: manifest.name().to_owned(),
        single: manifest.is_single(),
        bytes: geometry.total_len(),
        pieces: geometry.piece_count().into(),
        piece_size: geometry.piece_size().bytes().into(),
        extensions: extensions(manifest),
        files,
    });
}

fn kind(manifest: &Manifest) -> String {
    if manifest.is_single() {
        return "one file".into();
    }
    format!("folder of {}", Count(manifest.files().len() as u64, "file"))
}

/// The files as events list them.
fn files(manifest: &Manifest) -> Vec<File> {
    manifest.files().iter().map(file).collect()
}

/// A file as events list it.
pub(super) fn file(entry: &FileEntry) -> File {
    File { path: entry.path.join("/"), bytes: entry.len, root: entry.root.to_string() }
}

fn extensions(manifest: &Manifest) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for name in manifest.files().iter().filter_map(|file| file.path.last()) {
        let extension = Path::new(name).extension().unwrap_or_default().to_string_lossy();
        *counts.entry(extension.into_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use minibit_core::content::FileEntry;
    use minibit_core::types::{Digest, PieceSize};

    #[test]
    fn extensions_are_counted() {
        let file =
            |name: &str| FileEntry { path: vec![name.into()], len: 1, root: Digest([1; 32]) };
        let files = vec![file("a.png"), file("b.png"), file("README")];
        let manifest =
            Manifest::new("x".into(), false, PieceSize::new(16384).unwrap(), files).unwrap();
        let counts: Vec<_> = extensions(&manifest).into_iter().collect();
        assert_eq!(counts, [(String::new(), 1), ("png".into(), 2)]);
        assert_eq!(kind(&manifest), "folder of 3 files");
    }
}
