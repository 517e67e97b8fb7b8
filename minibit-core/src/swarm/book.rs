//! The addresses we know of a share's peers: bounded, whatever is listed.
//!
//! Addresses come from the ticket, from trackers and from peers that connect to us; only the
//! ticket is trusted: a tracker may list a victim a thousand times.
//!
//! Invariants:
//! - The book is bounded in all, for each source, so that one source cannot crowd out
//!   another, and for each IP but loopback.
//! - A source may not name addresses that lie further inside than it does itself: one on the
//!   internet names only global ones, one on our network also private ones, one on this
//!   machine also loopback. Else a tracker could make us scan our own network.
//! - What an address cost us is not forgotten while it matters: only addresses that were
//!   never dialled, or have rested, make room for newer ones.
//!
//! Not here: when to dial (`neighbours`).

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::types::PeerId;

/// Addresses known at once.
const KNOWN_MAX: usize = 4096;
/// Of those, from one source.
const PER_SOURCE_MAX: usize = 1024;
/// Of those, with one IP that is not loopback.
pub(crate) const PER_IP_MAX: usize = 32;
/// Addresses that one call may push out: each costs a walk over the book.
const EVICTIONS_MAX: usize = 64;

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The user, or a ticket the user gave us. May name any address; never given up.
    Ticket,
    /// A list (LISTA_PEERS) of the tracker at this address.
    List(SocketAddr),
    /// A push (NOVO_PEER) of the tracker at this address.
    Push(SocketAddr),
    /// The peer itself, which connected to us and said where it listens.
    Itself,
}

/// A peer as a source names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KnownPeer {
    /// Its identity, where the source knows it (a ticket does not).
    pub id: Option<PeerId>,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// What we may do with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// May be dialled from this time on.
    Idle { from: Duration },
    /// A dial is under way.
    Dialling,
    /// There is a link.
    Linked,
    /// It is our own address.
    Ourselves,
}

/// One address of the book.
#[derive(Clone, Debug)]
pub(super) struct Known {
    source: Source,
    pub(super) id: Option<PeerId>,
    pub(super) status: Status,
    /// Failures in a row.
    pub(super) failures: u32,
    /// It failed so often that it rests; forgotten with its next dial.
    pub(super) resting: bool,
    /// It answered the last dial, and had no place for us.
    pub(super) had_no_room: bool,
}

impl Known {
    /// Whether only a push named this address.
    pub(super) fn is_pushed(&self) -> bool {
        matches!(self.source, Source::Push(_))
    }

    /// Whether the user named it.
    pub(super) fn is_of_ticket(&self) -> bool {
        self.source == Source::Ticket
    }

    /// Whether forgetting it at this time would forget nothing that protects anybody.
    fn is_dispensable(&self, now: Duration) -> bool {
        let ready = matches!(self.status, Status::Idle { from } if from <= now);
        ready && (self.failures == 0 || self.resting)
    }
}

/// The addresses, in their order, and how many there are of each kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Book {
    known: BTreeMap<SocketAddr, Known>,
    of_source: HashMap<Source, usize>,
    of_ip: HashMap<IpAddr, usize>,
}

impl Book {
    /// How many addresses there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    pub(super) fn get(&self, addr: SocketAddr) -> Option<&Known> {
        self.known.get(&addr)
    }

    pub(super) fn get_mut(&mut self, addr: SocketAddr) -> Option<&mut Known> {
        self.known.get_mut(&addr)
    }

    pub(super) fn each_mut(&mut self) -> impl Iterator<Item = &mut Known> {
        self.known.values_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketAddr, &Known)> {
        self.known.iter().map(|(addr, known)| (*addr, known))
    }

    /// Writes down addresses; returns how many were new.
    pub(super) fn learn(
        &mut self,
        now: Duration,
        source: Source,
        peers: impl IntoIterator<Item = KnownPeer>,
    ) -> usize {
        let mut evictions = EVICTIONS_MAX;
        let allowed = peers.into_iter().filter(|peer| may_name(source, peer.addr));
        allowed.filter(|peer| self.learn_one(now, source, *peer, &mut evictions)).count()
    }

    fn learn_one(
        &mut self,
        now: Duration,
        source: Source,
        peer: KnownPeer,
        evictions: &mut usize,
    ) -> bool {
        if let Some(known) = self.known.get_mut(&peer.addr) {
            known.id = known.id.or(peer.id);
            let (before, after) = (known.source, stronger(known.source, source));
            known.source = after;
            self.recount(before, after);
            return false;
        }
        let ip = peer.addr.ip();
        if source != Source::Ticket && !self.has_room(source, ip) {
            if *evictions == 0 {
                return false;
            }
            *evictions -= 1;
            if !self.evict(now, source, ip) {
                return false;
            }
        }
        *self.of_source.entry(source).or_default() += 1;
        *self.of_ip.entry(block_of(ip)).or_default() += 1;
        let status = Status::Idle { from: now };
        let (resting, had_no_room) = (false, false);
        let known = Known { source, id: peer.id, status, failures: 0, resting, had_no_room };
        self.known.insert(peer.addr, known);
        true
    }

    fn recount(&mut self, before: Source, after: Source) {
        if before != after {
            decrement(&mut self.of_source, before);
            *self.of_source.entry(after).or_default() += 1;
        }
    }

    fn ip_is_full(&self, ip: IpAddr) -> bool {
        let block = block_of(ip);
        !block.is_loopback() && self.of_ip.get(&block).is_some_and(|count| *count >= PER_IP_MAX)
    }

    fn has_room(&self, source: Source, ip: IpAddr) -> bool {
        let of_source = self.of_source.get(&source).copied().unwrap_or(0);
        self.known.len() < KNOWN_MAX && of_source < PER_SOURCE_MAX && !self.ip_is_full(ip)
    }

    /// Makes room by forgetting one dispensable address of the same source: its newer word is
    /// the better one.
    fn evict(&mut self, now: Duration, source: Source, ip: IpAddr) -> bool {
        let must_be_of_ip = self.ip_is_full(ip);
        let victim = self.known.iter().find(|(addr, known)| {
            known.source == source
                && (!must_be_of_ip || block_of(addr.ip()) == block_of(ip))
                && known.is_dispensable(now)
        });
        let Some(addr) = victim.map(|(addr, _)| *addr) else { return false };
        self.known.remove(&addr);
        decrement(&mut self.of_source, source);
        decrement(&mut self.of_ip, block_of(addr.ip()));
        true
    }
}

/// One less of a kind; a kind with none is forgotten.
pub(super) fn decrement<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, usize>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut entry) = counts.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// Of two sources of one address, the one whose rules are to hold.
fn stronger(old: Source, new: Source) -> Source {
    match (old, new) {
        (Source::Ticket, _) | (_, Source::Ticket) => Source::Ticket,
        (Source::Push(_), Source::List(_)) => new,
        _ => old,
    }
}

/// How far inside an address lies; a smaller one is further inside.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    Machine,
    Network,
    Internet,
}

fn reach(ip: IpAddr) -> Reach {
    match ip.to_canonical() {
        ip if ip.is_loopback() => Reach::Machine,
        IpAddr::V4(ip) => {
            // 100.64/10 is shared by the customers of one provider.
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            if ip.is_private() || ip.is_link_local() || shared {
                Reach::Network
            } else {
                Reach::Internet
            }
        }
        IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Reach::Network,
        IpAddr::V6(_) => Reach::Internet,
    }
}

/// Whether a source may name this address; see the module's header.
pub(crate) fn may_name(source: Source, addr: SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if addr.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
        return false;
    }
    match source {
        Source::Ticket | Source::Itself => true,
        Source::List(from) | Source::Push(from) => reach(ip) >= reach(from.ip()),
    }
}

/// What counts as one IP: an IPv4 address, or the /64 that one IPv6 host has to itself.
pub(crate) fn block_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64))
        }
        ip => ip,
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(100);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn tracker() -> Source {
        Source::List(addr("198.51.100.1:7"))
    }

    fn at(addr: SocketAddr) -> KnownPeer {
        KnownPeer { id: None, addr }
    }

    /// Global addresses, all with different IPs.
    fn many(count: u32) -> impl Iterator<Item = KnownPeer> {
        (0..count).map(|n| at(SocketAddr::new(IpAddr::V4((0x0800_0000 + n).into()), 7)))
    }

    fn check_counts(book: &Book) {
        let mut of_source: HashMap<Source, usize> = HashMap::new();
        let mut of_ip: HashMap<IpAddr, usize> = HashMap::new();
        for (addr, known) in book.iter() {
            *of_source.entry(known.source).or_default() += 1;
            *of_ip.entry(block_of(addr.ip())).or_default() += 1;
        }
        assert_eq!((&of_source, &of_ip), (&book.of_source, &book.of_ip));
    }

    #[test]
    fn a_source_names_nothing_further_inside_than_itself() {
        let cases = [
            ("198.51.100.1:7", "8.8.8.8:1", true),
            ("198.51.100.1:7", "10.0.0.1:1", false),
            ("198.51.100.1:7", "100.64.0.1:1", false),
            ("198.51.100.1:7", "169.254.1.1:1", false),
            ("198.51.100.1:7", "127.0.0.1:1", false),
            ("198.51.100.1:7", "[::1]:1", false),
            ("198.51.100.1:7", "[::ffff:127.0.0.1]:1", false),
            ("198.51.100.1:7", "[fd00::1]:1", false),
            ("10.0.0.9:7", "10.0.0.1:1", true),
            ("10.0.0.9:7", "8.8.8.8:1", true),
            ("10.0.0.9:7", "127.0.0.1:1", false),
            ("127.0.0.1:7", "127.0.0.1:1", true),
            ("127.0.0.1:7", "10.0.0.1:1", true),
        ];
        for (from, named, allowed) in cases {
            for source in [Source::List(addr(from)), Source::Push(addr(from))] {
                assert_eq!(may_name(source, addr(named)), allowed, "{from} names {named}");
            }
            assert!(may_name(Source::Ticket, addr(named)));
        }
    }

    #[test]
    fn what_is_no_address_of_a_peer_is_never_learnt() {
        for bad in ["8.8.8.8:0", "0.0.0.0:1", "[::]:1", "224.0.0.1:1", "255.255.255.255:1"] {
            for source in [Source::Ticket, Source::Itself, Source::List(addr("127.0.0.1:7"))] {
                assert!(!may_name(source, addr(bad)), "{bad}");
            }
        }
    }

    #[test]
    fn one_source_fills_its_share_of_the_book_and_no_more() {
        let mut book = Book::default();
        let learnt = book.learn(NOW, tracker(), many(3000));
        assert_eq!(learnt, PER_SOURCE_MAX + EVICTIONS_MAX);
        assert_eq!(book.len(), PER_SOURCE_MAX);
        let other = Source::List(addr("203.0.113.1:7"));
        assert_eq!(book.learn(NOW, other, [at(addr("9.9.9.9:1"))]), 1);
        check_counts(&book);
    }

    #[test]
    fn the_whole_book_is_bounded() {
        let mut book = Book::default();
        for (number, peer) in many(6000).enumerate() {
            let source = SocketAddr::new(addr("198.51.100.1:7").ip(), 1 + number as u16 / 1000);
            book.learn(NOW, Source::List(source), [peer]);
        }
        assert_eq!(book.len(), KNOWN_MAX);
        check_counts(&book);
    }

    #[test]
    fn one_victim_has_few_ports_in_the_book_but_loopback_has_many() {
        let mut book = Book::default();
        let ports = |ip: &str| -> Vec<_> {
            (1..=100).map(|port| at(SocketAddr::new(ip.parse().unwrap(), port))).collect()
        };
        book.learn(NOW, tracker(), ports("9.9.9.9"));
        assert_eq!(book.len(), PER_IP_MAX);
        check_counts(&book);
        assert_eq!(book.learn(NOW, Source::List(addr("127.0.0.1:7")), ports("127.0.0.1")), 100);
    }

    #[test]
    fn an_address_in_its_back_off_cannot_be_pushed_out_and_forgotten() {
        let mut book = Book::default();
        book.learn(NOW, tracker(), many(PER_SOURCE_MAX as u32));
        for peer in many(PER_SOURCE_MAX as u32) {
            let known = book.get_mut(peer.addr).unwrap();
            known.failures = 3;
        }
        let fresh = at(addr("9.9.9.9:1"));
        assert_eq!(book.learn(NOW, tracker(), [fresh]), 0);
        let first = many(1).next().unwrap().addr;
        book.get_mut(first).unwrap().resting = true;
        assert_eq!(book.learn(NOW, tracker(), [fresh]), 1);
        assert!(book.get(first).is_none() && book.get(fresh.addr).is_some());
        check_counts(&book);
    }

    #[test]
    fn an_address_keeps_its_best_source_and_the_identity_it_has() {
        let mut book = Book::default();
        let (here, push) = (addr("9.9.9.9:1"), Source::Push(addr("198.51.100.1:7")));
        let (one, two) = (PeerId::numbered(1), PeerId::numbered(2));
        book.learn(NOW, push, [KnownPeer { id: Some(one), addr: here }]);
        assert!(book.get(here).unwrap().is_pushed());
        book.learn(NOW, tracker(), [KnownPeer { id: Some(two), addr: here }]);
        assert!(!book.get(here).unwrap().is_pushed());
        assert_eq!(book.get(here).unwrap().id, Some(one));
        book.learn(NOW, Source::Ticket, [at(here)]);
        book.learn(NOW, tracker(), [at(here)]);
        assert!(book.get(here).unwrap().is_of_ticket());
        check_counts(&book);
    }
}
