//! `peer`: one node for long, with several shares coming and going out at once.

use std::sync::Arc;
use std::time::Instant;

use minibit_core::content::Ticket;
use minibit_core::engine::{GetOptions, Node};
use tokio::task::JoinSet;

use super::get::Chosen;
use super::node::{self, Role};
use super::opening::Opening;
use super::watch::{self, Notices, Until};
use super::{Session, get, share, work};
use crate::cli::Peer;
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::json::Event;
use crate::output::units::Bytes;
use crate::values::Patience;

/// Runs the command.
pub(super) async fn run(flags: &Peer, session: &Session) -> Result<(), Failure> {
    let trackers = input::resolve(&flags.tracker)?;
    let announced = input::announced(&flags.reach.announce)?;
    let tickets =
        flags.get.iter().map(|text| input::ticket(text)).collect::<Result<Vec<_>, _>>()?;
    // Like `share`: with no tracker to announce to, it is one itself.
    let own_tracker = (trackers.is_empty() && !flags.share.is_empty()).then(Default::default);
    let bound = node::bind(&flags.swarm, Role::Lasting, own_tracker)?;
    if !flags.share.is_empty() {
        node::check_ticket(&bound, &trackers, &announced)?;
    }
    let mut prepared = Vec::new();
    for path in &flags.share {
        let paths = std::slice::from_ref(path);
        prepared.push(work::prepare(paths, &flags.source, &[], session).await?);
    }
    let node = Arc::new(node::start(bound, &flags.swarm, Role::Lasting, session));
    let started = Instant::now();
    for prepared in prepared {
        let manifest = prepared.manifest.clone();
        node.share(prepared, &trackers).await?;
        share::describe(&manifest, session);
        let ticket = node::ticket(node.local_addrs(), manifest.share_id(), &trackers, &announced)?;
        node::announce(&ticket, &manifest, &flags.swarm, session);
    }
    let mut downloads = JoinSet::new();
    for ticket in tickets {
        let opening = Opening::of(&ticket, Patience(None));
        let options = options(flags, &opening);
        downloads.spawn(download(Arc::clone(&node), ticket, options, opening, session.clone()));
    }
    let (failed, uploaded) = tokio::join!(
        collect(downloads, session),
        watch::seed(&node, Until::default(), Notices::about(&trackers), session),
    );
    for share in node.shares() {
        share.stop().await;
    }
    session.output.say(format_args!("stopped; {} sent", Bytes(uploaded)));
    let seconds = started.elapsed().as_secs_f64();
    session.output.event(&Event::Stopped { uploaded, seconds });
    failed.map_or(Ok(()), Err)
}

fn options(flags: &Peer, opening: &Opening) -> GetOptions {
    GetOptions {
        dir: flags.dir.clone(),
        select: None,
        force: flags.force,
        patience: get::patience(Patience(None)),
        first_pieces: None,
        checking: Some(opening.checking()),
    }
}

/// Fetches one share; afterwards the node goes on seeding it.
async fn download(
    node: Arc<Node>,
    ticket: Ticket,
    options: GetOptions,
    opening: Opening,
    session: Session,
) -> Result<(), Failure> {
    let started = Instant::now();
    let share = opening.watched(node.get(&ticket, options), &session).await??;
    let chosen = Chosen::of(share.manifest(), None);
    get::opened(&share, &chosen, &session);
    let path = watch::completed(&share, &session).await?;
    get::done(&share, &chosen, &path, started, &session);
    Ok(())
}

/// Waits for all downloads or for the user. One that fails is told at once, and the others go
/// on; the first failure is what the node ends with.
async fn collect(
    mut downloads: JoinSet<Result<(), Failure>>,
    session: &Session,
) -> Option<Failure> {
    let mut first = None;
    loop {
        let ended = tokio::select! {
            biased;
            () = session.interrupt.requested() => return first,
            ended = downloads.join_next() => ended,
        };
        let Some(ended) = ended else { return first };
        let outcome = ended.unwrap_or_else(|error| Err(Failure::new(Exit::Failed, error)));
        if let Err(failure) = outcome {
            session.output.warn(format_args!("a download failed: {failure}"));
            first.get_or_insert(failure);
        }
    }
}
