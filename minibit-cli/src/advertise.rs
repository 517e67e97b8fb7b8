//! Which of our addresses go into a ticket.
//!
//! A node that listens on one address is reached there. One that listens on all of them does
//! not know from where it will be asked for, so the ticket names every address of the
//! machine that others can use, the likeliest first.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use minibit_core::types::limits::TICKET_ADDRS_MAX;

/// Addresses at which a node that listens on `local` can be reached, at most `room` of them.
pub(crate) fn addresses(local: &[SocketAddr], room: usize) -> Vec<SocketAddr> {
    // Without a list of interfaces the loopback address is still true.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let interfaces: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    choose(local, &interfaces, room.min(TICKET_ADDRS_MAX))
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
    fn a_node_on_one_address_names_that_one() {
        assert_eq!(chosen(&["192.0.2.7:5"], &INTERFACES), ["192.0.2.7:5"]);
    }

    #[test]
    fn a_ticket_has_room_for_so_many() {
        let many: Vec<IpAddr> = (1..=40).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        assert_eq!(choose(&["0.0.0.0:5".parse().unwrap()], &many, 16).len(), 16);
    }
}
