//! `share`: hash, listen, print the ticket, seed until told to stop.

use std::time::Instant;

use minibit_core::content::{FileEntry, Manifest, escape};

use super::node::{self, Role};
use super::watch::{self, Notices, Until};
use super::{Session, work, written};
use crate::advertise::Reach;
use crate::cli::Share;
use crate::exit::Failure;
use crate::input;
use crate::output::json::Event;
use crate::output::units::{Bytes, Count};

/// Roots of at most so many files are listed; `inspect` lists them all.
const ROOTS_SHOWN: usize = 20;

/// Runs the command.
pub(super) async fn run(flags: &Share, session: &Session) -> Result<(), Failure> {
    let trackers = input::resolve(&flags.tracker)?;
    let announced = input::announced(&flags.reach.announce)?;
    let outputs = written::outputs([&flags.ticket_file, &flags.manifest_file])?;
    let own_tracker = trackers.is_empty().then(Default::default);
    let bound = node::bind(&flags.swarm, Role::Lasting, own_tracker)?;
    node::check_ticket(&bound, &trackers, &announced)?;
    let prepared = work::prepare(&flags.paths, &flags.source, &outputs, session).await?;
    let manifest = prepared.manifest.clone();
    let node = node::start(bound, &flags.swarm, Role::Lasting, session);
    let started = Instant::now();
    node.share(prepared, &trackers).await?;
    let ticket = node::ticket(node.local_addrs(), manifest.share_id(), &trackers, &announced)?;
    describe(&manifest, session);
    written::write(flags.manifest_file.as_deref(), || manifest.encode())?;
    written::write(flags.ticket_file.as_deref(), || format!("{ticket}\n").into())?;
    node::announce(&ticket, &manifest, &flags.swarm, session);
    session.output.say(format_args!(
        "sharing until Ctrl-C; {} with: minibit get TICKET",
        match node::reach(&ticket) {
            Reach::Machine => "on this machine it is fetched",
            Reach::Network => "others on this network fetch it",
            Reach::Anywhere => "others fetch it",
        }
    ));
    let uploaded = watch::seed(&node, Until::default(), Notices::about(&trackers), session).await;
    node.shutdown().await;
    session.output.say(format_args!("stopped; {} sent", Bytes(uploaded)));
    let seconds = started.elapsed().as_secs_f64();
    session.output.event(&Event::Stopped { uploaded, seconds });
    Ok(())
}

/// Says what is in a share, with the root of each file.
pub(super) fn describe(manifest: &Manifest, session: &Session) {
    let geometry = manifest.geometry();
    session.output.say(format_args!(
        "{}: {}, {} of {}",
        escape(manifest.name()),
        Bytes(geometry.total_len()),
        Count(geometry.piece_count().into(), "piece"),
        Bytes(geometry.piece_size().bytes().into()),
    ));
    list(manifest.files(), session);
}

/// Names files with their roots.
pub(super) fn list<'a>(
    files: impl IntoIterator<Item = &'a FileEntry, IntoIter: ExactSizeIterator>,
    session: &Session,
) {
    let mut files = files.into_iter();
    for file in files.by_ref().take(ROOTS_SHOWN) {
        session.output.say(format_args!("{}  {}", file.root, escape(&file.path.join("/"))));
    }
    if let more @ 1.. = files.len() {
        session.output.say(format_args!("and {} more", Count(more as u64, "file")));
    }
}
