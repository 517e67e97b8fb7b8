//! From flags to a running node, and from a node to a ticket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use minibit_core::content::{Manifest, Ticket, TicketError};
use minibit_core::engine::{Bound, Node, NodeConfig};
use minibit_core::swarm::{Caps, ChokePolicy, Slots};
use minibit_core::tracker::{Mode, Rules};
use minibit_core::types::limits::TICKET_ADDRS_MAX;
use minibit_core::types::{PeerId, ShareId};

use super::Session;
use crate::advertise::{self, Reach};
use crate::cli::{Policy, Swarm, TrackerRules};
use crate::exit::Failure;
use crate::output::json::Event;
use crate::values::DEFAULT_PORT;

/// The classic choker: 4 peers by rank and 1 by chance.
pub(super) const CLASSIC_SLOTS: Slots = Slots::Fixed { regular: 4, optimistic: 1 };

/// What a node listens for when the user names no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Tickets name it: the same port each time, if it is free.
    Lasting,
    /// It comes and goes: any port.
    Passing,
}

/// Takes the ports of a node as the flags want it. Before files are read, which may take long: a port that cannot be
/// had is told at once.
///
/// # Errors
/// If it cannot listen there.
pub(super) fn bind(flags: &Swarm, role: Role, tracker: Option<Rules>) -> Result<Bound, Failure> {
    Ok(Node::bind(config(flags, role, tracker))?)
}

/// Starts the node, and says where it listens.
pub(super) fn start(bound: Bound, flags: &Swarm, role: Role, session: &Session) -> Node {
    let node = bound.start();
    let addresses: Vec<String> = node.local_addrs().iter().map(ToString::to_string).collect();
    if session.output.is_verbose() {
        session.output.say(format_args!("listening on {}", addresses.join(", ")));
    }
    session.output.event(&Event::Listening { peer: node.id().to_string(), addresses });
    let port = node.local_addrs().first().map_or(0, SocketAddr::port);
    if let Some(warning) = other_port(flags, role, port) {
        session.output.warn(warning);
    }
    node
}

fn config(flags: &Swarm, role: Role, tracker: Option<Rules>) -> NodeConfig {
    let slots = match flags.slots {
        _ if flags.classic_slots => CLASSIC_SLOTS,
        Some(regular) => Slots::Fixed { regular: regular.into(), optimistic: 1 },
        None => Slots::Auto,
    };
    let links_max = usize::from(flags.max_links);
    let links = Caps { links_max, ..Caps::default() };
    NodeConfig {
        listen: if flags.listen.is_empty() { default_listen(role) } else { flags.listen.clone() },
        peer_id: flags.id.map(PeerId::numbered),
        slots,
        policy: policy(flags.policy),
        links: Caps {
            links_aim: links.links_aim.min(links_max),
            links_min: links.links_min.min(links_max),
            ..links
        },
        lanes: flags.lanes,
        tracker,
        ..NodeConfig::default()
    }
}

/// The engine's default is any port on all addresses.
fn default_listen(role: Role) -> Vec<SocketAddr> {
    match role {
        Role::Lasting => usual_addr().into_iter().collect(),
        Role::Passing => Vec::new(),
    }
}

/// All addresses with the usual port, if it is free: IPv6 and IPv4, or IPv4 where there is no other.
fn usual_addr() -> Option<SocketAddr> {
    let on = |ip| SocketAddr::new(ip, DEFAULT_PORT);
    let (both, ipv4) = (on(Ipv6Addr::UNSPECIFIED.into()), on(Ipv4Addr::UNSPECIFIED.into()));
    match TcpListener::bind(both) {
        Ok(_) => Some(both),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
        Err(_) => TcpListener::bind(ipv4).is_ok().then_some(ipv4),
    }
}

/// What to know of the port if it is not the one that lasting nodes have.
fn other_port(flags: &Swarm, role: Role, port: u16) -> Option<String> {
    let by_chance = role == Role::Lasting && flags.listen.is_empty() && port != DEFAULT_PORT;
    by_chance.then(|| {
        format!(
            "port {DEFAULT_PORT} is in use, so this listens on port {port}: its address is good \
             only as long as it runs; --listen chooses a port"
        )
    })
}

/// The swarm's word for a policy.
pub(super) fn policy(policy: Policy) -> ChokePolicy {
    match policy {
        Policy::Contribution => ChokePolicy::Contribution,
        Policy::Rarity => ChokePolicy::Rarity,
        Policy::Seeder => ChokePolicy::Seeder,
    }
}

/// The tracker's rules as the flags want them.
pub(super) fn rules(flags: &TrackerRules) -> Rules {
    let usual = Rules::default();
    let mode = match (flags.sample, usual.mode) {
        _ if flags.classic => Mode::Classic,
        _ if flags.mesh => Mode::Mesh,
        (Some(sample), Mode::Sampled { push, .. }) => Mode::Sampled { sample: sample.into(), push },
        (_, usual) => usual,
    };
    Rules { mode, ..usual }
}

/// Finds out whether a ticket has room for all that the user names. Before files are read, which may take long.
///
/// # Errors
/// Those of [`ticket`].
pub(super) fn check_ticket(
    bound: &Bound,
    trackers: &[SocketAddr],
    announced: &[SocketAddr],
) -> Result<(), Failure> {
    // A ticket is as long whatever is shared.
    ticket(&bound.local_addrs(), ShareId([0; 32]), trackers, announced).map(drop)
}

/// The ticket by which others fetch a share of a node that listens on `local`: by these trackers, or by the node
/// itself as the tracker if there are none.
///
/// # Errors
/// If more addresses are named than a ticket has room for, or there is none.
pub(super) fn ticket(
    local: &[SocketAddr],
    share: ShareId,
    trackers: &[SocketAddr],
    announced: &[SocketAddr],
) -> Result<Ticket, Failure> {
    let room = TICKET_ADDRS_MAX.saturating_sub(trackers.len()).max(1);
    let own = advertise::addresses(local, announced, room);
    let trackers = if trackers.is_empty() { &own } else { trackers };
    let ticket = Ticket::new(share, trackers.iter().copied(), own.iter().copied());
    ticket.map_err(|error| {
        let is_too_many = matches!(error, TicketError::TooManyAddresses { .. });
        let failure = Failure::usage(error);
        match () {
            () if is_too_many => failure.hint("name fewer with --tracker and --announce"),
            () if own.is_empty() => failure.hint(NO_NETWORK),
            () => failure,
        }
    })
}

/// Said when not even loopback is there.
pub(super) const NO_NETWORK: &str = "this machine has no network; bring one up, or name an address by \
                          --listen or --announce";

/// From how far a ticket can be used.
pub(super) fn reach(ticket: &Ticket) -> Reach {
    advertise::reach(ticket.trackers().iter().chain(ticket.peers()))
}

/// Prints a share's ticket: the line that others need.
pub(super) fn announce(ticket: &Ticket, manifest: &Manifest, flags: &Swarm, session: &Session) {
    if flags.listen.is_empty() && reach(ticket) == Reach::Machine {
        session.output.warn(
            "this machine has no network but its own: the ticket is good on this machine only",
        );
    }
    let geometry = manifest.geometry();
    session.output.event(&Event::Ticket {
        ticket: ticket.to_string(),
        share: manifest.share_id().to_string(),
        name: manifest.name().to_owned(),
        bytes: geometry.total_len(),
        files: manifest.files().len() as u64,
        pieces: geometry.piece_count().into(),
        piece_size: geometry.piece_size().bytes().into(),
    });
    session.output.result(ticket);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    /// A node as `get` starts it with these flags.
    fn node(args: &[&str]) -> NodeConfig {
        let cli = Cli::parse_from(["minibit", "get", "TICKET"].iter().chain(args));
        let Command::Get(get) = cli.command else { panic!("another command") };
        config(&get.swarm, Role::Passing, None)
    }

    /// A tracker's mode with these flags.
    fn mode(args: &[&str]) -> Mode {
        let cli = Cli::parse_from(["minibit", "tracker"].iter().chain(args));
        let Command::Tracker(tracker) = cli.command else { panic!("another command") };
        rules(&tracker.rules).mode
    }

    #[test]
    fn without_flags_a_node_follows_its_links_and_serves_by_contribution() {
        let node = node(&[]);
        assert_eq!(node.slots, Slots::Auto);
        assert_eq!(node.policy, ChokePolicy::Contribution);
        assert_eq!(node.links, Caps { links_max: 100, ..Caps::default() });
        assert_eq!((node.lanes, node.peer_id, node.seed), (None, None, None));
        assert!(node.listen.is_empty() && node.tracker.is_none());
    }

    #[test]
    fn each_policy_is_the_swarms_of_that_name() {
        for (name, policy) in [
            ("contribution", ChokePolicy::Contribution),
            ("rarity", ChokePolicy::Rarity),
            ("seeder", ChokePolicy::Seeder),
        ] {
            assert_eq!(node(&["--policy", name]).policy, policy);
        }
    }

    #[test]
    fn slots_are_as_many_as_are_asked_for_and_one_by_chance() {
        assert_eq!(node(&["--slots", "7"]).slots, Slots::Fixed { regular: 7, optimistic: 1 });
        assert_eq!(node(&["--classic-slots"]).slots, Slots::Fixed { regular: 4, optimistic: 1 });
    }

    #[test]
    fn a_node_never_aims_at_more_links_than_it_may_have() {
        let usual = Caps::default();
        let most = node(&["--max-links", "300"]).links;
        assert_eq!(most, Caps { links_max: 300, ..usual });
        let few = node(&["--max-links", "3"]).links;
        assert_eq!((few.links_max, few.links_aim, few.links_min), (3, 3, 3));
        assert_eq!(few.dials_max, usual.dials_max);
    }

    #[test]
    fn lanes_identity_and_addresses_are_passed_on() {
        let node = node(&["--lanes", "5", "--id", "3", "--listen", "127.0.0.1:9"]);
        assert_eq!(node.lanes, Some(5));
        assert_eq!(node.peer_id, Some(PeerId::numbered(3)));
        assert_eq!(node.listen, ["127.0.0.1:9".parse().unwrap()]);
    }

    #[test]
    fn a_node_is_a_tracker_by_the_rules_it_is_given() {
        let rules = Rules { mode: Mode::Mesh, ..Rules::default() };
        let cli = Cli::parse_from(["minibit", "tracker"]);
        let Command::Tracker(tracker) = cli.command else { panic!("another command") };
        assert_eq!(config(&tracker.swarm, Role::Passing, Some(rules)).tracker, Some(rules));
    }

    #[test]
    fn each_flag_of_a_tracker_is_a_mode_of_its_own() {
        let Mode::Sampled { sample, push } = Rules::default().mode else {
            panic!("a sample is the usual rule")
        };
        assert_eq!(mode(&[]), Mode::Sampled { sample, push });
        assert_eq!(mode(&["--sample", "20"]), Mode::Sampled { sample: 20, push });
        assert_eq!(mode(&["--classic"]), Mode::Classic);
        assert_eq!(mode(&["--mesh"]), Mode::Mesh);
    }
}
