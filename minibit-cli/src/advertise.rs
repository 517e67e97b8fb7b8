//! Which of our addresses go into a ticket.
//!
//! A node that listens on one address is reached there. One that listens on all of them does
//! not know from where it will be asked for, so the ticket names every address of the
//! machine that others can use, the likeliest first. What a router forwards it cannot know: that
//! the user announces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use minibit_core::types::limits::TICKET_ADDRS_MAX;

/// Addresses at which a node that listens on `local` can be reached, at most `room` of them: first
/// those that the user announced, where port 0 is the one that the node listens on.
pub(crate) fn addresses(
    local: &[SocketAddr],
    announced: &[SocketAddr],
    room: usize,
) -> Vec<SocketAddr> {
    // Without a list of interfaces the loopback address is still true.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let interfaces: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    let port = local.first().map_or(0, SocketAddr::port);
    let mut all: Vec<SocketAddr> = announced.iter().map(|addr| with_port(*addr, port)).collect();
    let room = room.min(TICKET_ADDRS_MAX).saturating_sub(all.len());
    all.extend(choose(local, &interfaces, room));
    all
}

fn with_port(addr: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr.ip(), if addr.port() == 0 { port } else { addr.port() })
}

/// From how far a ticket can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// It names nothing but loopback addresses.
    Machine,
    /// It names none that means anything outside of this network.
    Network,
    /// As far as its addresses tell.
    Anywhere,
}

/// From how far any of these addresses can be used.
pub(crate) fn reach<'a>(addrs: impl Iterator<Item = &'a SocketAddr>) -> Reach {
    addrs.map(|addr| reach_of(addr.ip())).max().unwrap_or(Reach::Machine)
}

fn reach_of(ip: IpAddr) -> Reach {
    match ip {
        ip if ip.is_loopback() => Reach::Machine,
        IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() || is_behind_carrier(ip) => {
            Reach::Network
        }
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Reach::Network,
        _ => Reach::Anywhere,
    }
}

/// What providers give out behind a translator of theirs, 100.64.0.0/10.
fn is_behind_carrier(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0xc0 == 64
}

fn choose(local: &[SocketAddr], interfaces: &[IpAddr], room: usize) -> Vec<SocketAddr> {
    let mut chosen: Vec<SocketAddr> = Vec::new();
    for listening in local {
        if listening.ip().is_unspecified() {
            let usable = interfaces.iter().filter(|ip| accepts(listening.ip(), **ip));
            chosen.extend(usable.map(|ip| SocketAddr::new(*ip, listening.port())));
        } else {
            chosen.push(*listening);
        }
    }
    chosen.retain(|addr| !needs_scope(addr.ip()));
    chosen.sort_by_key(|addr| rank(addr.ip()));
    let mut seen = std::collections::HashSet::new();
    chosen.retain(|addr| seen.insert(*addr));
    if chosen.iter().any(|addr| !addr.ip().is_loopback()) {
        // What was named stays, even if it is a loopback address beside others.
        chosen.retain(|addr| !addr.ip().is_loopback() || local.contains(addr));
    }
    chosen.truncate(room);
    chosen
}

/// Whether a socket bound to a wildcard hears what is sent to this address. The IPv6 one
/// hears both kinds.
fn accepts(wildcard: IpAddr, ip: IpAddr) -> bool {
    wildcard.is_ipv6() || ip.is_ipv4()
}

/// Link-local IPv6 addresses mean nothing without the interface they belong to.
fn needs_scope(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// The likeliest to be reached first: IPv4, global IPv6, what only this network knows, what
/// only this machine knows.
fn rank(ip: IpAddr) -> u8 {
    match ip {
        ip if ip.is_loopback() => 9,
        IpAddr::V4(ip) if ip.is_link_local() => 8,
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) if Ipv6Addr::is_unique_local(&ip) => 2,
        IpAddr::V6(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERFACES: [&str; 6] =
        ["127.0.0.1", "::1", "fe80::1", "fd00::7", "2001:db8::7", "192.0.2.7"];

    fn chosen(local: &[&str], interfaces: &[&str]) -> Vec<String> {
        let local: Vec<SocketAddr> = local.iter().map(|addr| addr.parse().unwrap()).collect();
        let interfaces: Vec<IpAddr> = interfaces.iter().map(|ip| ip.parse().unwrap()).collect();
        choose(&local, &interfaces, 16).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_node_on_all_addresses_names_those_that_others_can_reach() {
        assert_eq!(
            chosen(&["[::]:5"], &INTERFACES),
            ["192.0.2.7:5", "[2001:db8::7]:5", "[fd00::7]:5"]
        );
        assert_eq!(chosen(&["0.0.0.0:5"], &INTERFACES), ["192.0.2.7:5"]);
        assert_eq!(chosen(&["[::]:5", "0.0.0.0:5"], &["192.0.2.7"]), ["192.0.2.7:5"]);
    }

    #[test]
    fn loopback_is_named_only_if_there_is_nothing_else_or_the_user_did() {
        assert_eq!(chosen(&["[::]:5"], &["127.0.0.1", "::1"]), ["127.0.0.1:5", "[::1]:5"]);
        assert_eq!(chosen(&["127.0.0.1:5"], &INTERFACES), ["127.0.0.1:5"]);
        assert_eq!(
            chosen(&["127.0.0.1:5", "0.0.0.0:6"], &INTERFACES),
            ["192.0.2.7:6", "127.0.0.1:5"]
        );
    }

    #[test]
    fn what_the_user_announces_comes_first_with_its_port_or_ours() {
        let addrs = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let announced = addrs(&["203.0.113.5:0", "203.0.113.6:80"]);
        let all = addresses(&addrs(&["192.0.2.7:5"]), &announced, 16);
        assert_eq!(all, addrs(&["203.0.113.5:5", "203.0.113.6:80", "192.0.2.7:5"]));
        let little_room = addresses(&addrs(&["192.0.2.7:5"]), &announced, 1);
        assert_eq!(little_room.len(), 2, "what was asked for is not left out in silence");
    }

    #[test]
    fn a_ticket_reaches_as_far_as_the_best_of_its_addresses() {
        let reach = |texts: &[&str]| {
            let addrs: Vec<SocketAddr> = texts.iter().map(|text| text.parse().unwrap()).collect();
            super::reach(addrs.iter())
        };
        assert_eq!(reach(&["127.0.0.1:5", "[::1]:5"]), Reach::Machine);
        for private in ["10.0.0.1:5", "192.168.1.2:5", "100.64.0.1:5", "[fd00::7]:5"] {
            assert_eq!(reach(&["127.0.0.1:5", private]), Reach::Network, "{private}");
        }
        assert_eq!(reach(&["192.168.1.2:5", "100.128.0.1:5"]), Reach::Anywhere);
    }

    #[test]
    fn a_node_on_one_address_names_that_one() {
        assert_eq!(chosen(&["192.0.2.7:5"], &INTERFACES), ["192.0.2.7:5"]);
    }

    #[test]
    fn a_ticket_has_room_for_so_many() {
        let many: Vec<IpAddr> = (1..=40).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        assert_eq!(choose(&["0.0.0.0:5".parse().unwrap()], &many, 16).len(), 16);
    }
}
