//! `tracker`: tells peers of each other; with `--seed` also peer 0, which holds everything.

use std::time::Instant;

use minibit_core::types::limits::TICKET_ADDRS_MAX;

use super::node::{self, Role};
use super::watch::{self, Notices, Until};
use super::{Session, share, work};
use crate::advertise;
use crate::cli::Tracker;
use crate::exit::Failure;
use crate::input;
use crate::output::json::Event;

/// Runs the command.
pub(super) async fn run(flags: &mut Tracker, session: &Session) -> Result<(), Failure> {
    let announced = input::announced(&flags.reach.announce)?;
    let mut seeds = Vec::new();
    for path in &flags.seed {
        let paths = std::slice::from_ref(path);
        seeds.push(work::prepare(paths, &flags.source, session).await?);
    }
    if !seeds.is_empty() {
        flags.swarm.id.get_or_insert(SEED_ID);
    }
    let rules = node::rules(&flags.rules);
    let node = node::start(&flags.swarm, Role::Lasting, Some(rules), session).await?;
    let started = Instant::now();
    for prepared in seeds {
        let manifest = prepared.manifest.clone();
        node.share(prepared, &[]).await?;
        share::describe(&manifest, session);
        let ticket = node::ticket(&node, &manifest, &[], &announced)?;
        node::announce(&ticket, &manifest, &flags.swarm, session);
    }
    let addresses = advertise::addresses(node.local_addrs(), &announced, TICKET_ADDRS_MAX);
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    session.output.say(format_args!("tracker on {}, until Ctrl-C", addresses.join(", ")));
    let uploaded = watch::seed(&node, Until::default(), Notices::default(), session).await;
    node.shutdown().await;
    let seconds = started.elapsed().as_secs_f64();
    session.output.event(&Event::Stopped { uploaded, seconds });
    Ok(())
}

/// The number that a tracker which seeds has among its peers.
const SEED_ID: u64 = 0;
