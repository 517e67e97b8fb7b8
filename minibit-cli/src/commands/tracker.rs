//! `tracker`: tells peers of each other; with `--seed` also peer 0, which holds everything.

use std::net::SocketAddr;
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
    if !flags.seed.is_empty() {
        flags.swarm.id.get_or_insert(SEED_ID);
    }
    let bound = node::bind(&flags.swarm, Role::Lasting, Some(node::rules(&flags.rules)))?;
    if !flags.seed.is_empty() {
        node::check_ticket(&bound, &[], &announced)?;
    }
    let mut seeds = Vec::new();
    for path in &flags.seed {
        let paths = std::slice::from_ref(path);
        seeds.push(work::prepare(paths, &flags.source, &[], session).await?);
    }
    let node = node::start(bound, &flags.swarm, Role::Lasting, session);
    let started = Instant::now();
    for prepared in seeds {
        let manifest = prepared.manifest.clone();
        node.share(prepared, &[]).await?;
        share::describe(&manifest, session);
        let ticket = node::ticket(node.local_addrs(), manifest.share_id(), &[], &announced)?;
        node::announce(&ticket, &manifest, &flags.swarm, session);
    }
    let addresses = advertise::addresses(node.local_addrs(), &announced, TICKET_ADDRS_MAX);
    session.output.say(runs_on(&addresses));
    let uploaded = watch::seed(&node, Until::default(), Notices::default(), session).await;
    node.shutdown().await;
    let seconds = started.elapsed().as_secs_f64();
    session.output.event(&Event::Stopped { uploaded, seconds });
    Ok(())
}

/// What is said once it runs. Without a network it runs on: one may come up.
fn runs_on(addresses: &[SocketAddr]) -> String {
    if addresses.is_empty() {
        return format!("nobody can reach this tracker: {}", node::NO_NETWORK);
    }
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    format!("tracker on {}, until Ctrl-C", addresses.join(", "))
}

/// The number that a tracker which seeds has among its peers.
const SEED_ID: u64 = 0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tracker_says_where_it_is_or_that_it_is_nowhere() {
        let addr = |port: u16| SocketAddr::from(([192, 0, 2, 7], port));
        assert_eq!(
            runs_on(&[addr(1), addr(2)]),
            "tracker on 192.0.2.7:1, 192.0.2.7:2, until Ctrl-C"
        );
        assert!(runs_on(&[]).contains("no network"));
    }
}
