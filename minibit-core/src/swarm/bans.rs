//! Who is banned from a share: identities, addresses, and at last whole IPs.
//!
//! Invariant: each set is bounded, the oldest entry goes first. Loopback is never banned as a
//! whole: many peers share it.
//! Not here: why (`peer` and `engine` judge).

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

use super::book::block_of;
use crate::types::PeerId;

/// Entries of each set.
const BANS_MAX: usize = 4096;
/// Banned identities of one IP, after which the IP is banned.
const BANNED_PER_IP: u32 = 3;

/// Who is banned; see the module's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Bans {
    peers: Recent<PeerId>,
    addrs: Recent<SocketAddr>,
    ips: Recent<IpAddr>,
    /// Banned identities of each IP that is not banned yet.
    strikes: HashMap<IpAddr, u32>,
}

impl Bans {
    /// Whether every peer of this IP is banned.
    pub(super) fn hit_ip(&self, ip: IpAddr) -> bool {
        self.ips.contains(&block_of(ip))
    }

    /// Whether this identity is banned.
    pub(super) fn hit_peer(&self, id: PeerId) -> bool {
        self.peers.contains(&id)
    }

    /// Whether a peer with this identity (if it is known) and address is banned.
    pub(super) fn hit(&self, id: Option<PeerId>, addr: SocketAddr) -> bool {
        id.is_some_and(|id| self.peers.contains(&id))
            || self.addrs.contains(&addr)
            || self.ips.contains(&block_of(addr.ip()))
    }

    /// Bans an identity and its address, and the IP after the third identity there.
    pub(super) fn add(&mut self, id: PeerId, addr: SocketAddr) {
        let new = self.peers.insert(id);
        // Port 0 is no address: the peer does not listen.
        if addr.port() != 0 {
            self.addrs.insert(addr);
        }
        let block = block_of(addr.ip());
        if !new || block.is_loopback() {
            return;
        }
        if self.strikes.len() >= BANS_MAX {
            self.strikes.clear();
        }
        let strikes = self.strikes.entry(block).or_insert(0);
        *strikes += 1;
        if *strikes >= BANNED_PER_IP {
            self.strikes.remove(&block);
            self.ips.insert(block);
        }
    }
}

/// A set of the last [`BANS_MAX`] entries.
#[derive(Clone, Debug)]
struct Recent<T> {
    set: HashSet<T>,
    order: VecDeque<T>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { set: HashSet::new(), order: VecDeque::new() }
    }
}

impl<T: Copy + Eq + std::hash::Hash> Recent<T> {
    fn contains(&self, entry: &T) -> bool {
        self.set.contains(entry)
    }

    /// False if it was there.
    fn insert(&mut self, entry: T) -> bool {
        if !self.set.insert(entry) {
            return false;
        }
        self.order.push_back(entry);
        if self.order.len() > BANS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn id(number: u64) -> PeerId {
        PeerId::numbered(number)
    }

    #[test]
    fn an_ip_is_banned_with_its_third_identity_not_with_one_banned_thrice() {
        let mut bans = Bans::default();
        for port in 1..=5 {
            bans.add(id(1), SocketAddr::new(addr("192.0.2.1:1").ip(), port));
        }
        bans.add(id(2), addr("192.0.2.1:9"));
        assert!(!bans.hit_ip(addr("192.0.2.1:1").ip()));
        assert!(!bans.hit(Some(id(3)), addr("192.0.2.1:10")));
        bans.add(id(3), addr("192.0.2.1:0"));
        assert!(bans.hit_ip(addr("192.0.2.1:1").ip()));
        assert!(bans.hit_ip(addr("[::ffff:192.0.2.1]:1").ip()), "the same IP in IPv6's clothes");
        assert!(bans.hit(None, addr("192.0.2.1:10")) && !bans.hit(None, addr("192.0.2.2:10")));
    }

    #[test]
    fn loopback_is_banned_by_identity_and_address_only() {
        let mut bans = Bans::default();
        (1..=9).for_each(|n| bans.add(id(n), addr(&format!("127.0.0.1:{n}"))));
        assert!(bans.hit_peer(id(9)) && bans.hit(None, addr("127.0.0.1:9")));
        assert!(!bans.hit_ip(addr("127.0.0.1:9").ip()));
        assert!(!bans.hit(Some(id(10)), addr("127.0.0.1:10")));
    }

    #[test]
    fn an_ipv6_host_cannot_escape_within_its_own_subnet() {
        let mut bans = Bans::default();
        (1..=3).for_each(|n| bans.add(id(n), addr(&format!("[2001:db8::{n}]:7"))));
        assert!(bans.hit_ip(addr("[2001:db8::ffff]:7").ip()));
        assert!(!bans.hit_ip(addr("[2001:db8:0:1::1]:7").ip()));
    }

    #[test]
    fn the_sets_forget_the_oldest_and_stay_bounded() {
        let mut recent = Recent::default();
        (0..BANS_MAX + 10).for_each(|n| assert!(recent.insert(n)));
        assert!(!recent.contains(&9) && recent.contains(&10));
        assert_eq!((recent.set.len(), recent.order.len()), (BANS_MAX, BANS_MAX));
    }
}
