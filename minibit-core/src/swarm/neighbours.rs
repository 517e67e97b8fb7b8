//! Whom we know, whom to dial now, and whom we will have nothing to do with.
//!
//! One value for each share. Addresses come from the ticket, from trackers and from peers
//! that connect to us; none of them is trusted: a tracker may list a victim a thousand times.
//!
//! Invariants:
//! - We are never linked to ourselves, never twice to one peer, never to a banned one.
//! - Every table is bounded, in all and for each source, so that one source cannot crowd out
//!   another; an address is dialled at most [`DIALS_MAX`] times in a row without success and
//!   then left alone for [`REST`], and one IP (but for loopback) has at most
//!   [`PER_IP_MAX`] addresses. What a hostile list can make us send to one victim is
//!   `DIALS_MAX * PER_IP_MAX` connects in ten minutes.
//! - A source may not name addresses that lie further inside than it does itself: one on the
//!   internet names only global ones, one on our network also private ones, one on this
//!   machine also loopback. Else a tracker could make us scan our own network.
//!
//! Not here: connecting, handshakes, the clock, randomness of its own.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;

use super::LinkId;
use crate::types::PeerId;

/// Addresses known at once.
const KNOWN_MAX: usize = 4096;
/// Of those, from one source.
const PER_SOURCE_MAX: usize = 1024;
/// Of those, with one IP that is not loopback.
const PER_IP_MAX: usize = 16;
/// Dials of one address in a row without a lasting link.
const DIALS_MAX: u32 = 8;
/// For how long an address that failed so often is left alone.
const REST: Duration = Duration::from_secs(600);
/// Banned peers, banned addresses and banned IPs that are remembered, of each the latest.
const BANS_MAX: usize = 4096;
/// Banned peers from one IP that is not loopback, after which the IP is banned.
const BANNED_PER_IP: u32 = 3;
/// The first wait after a failure; it doubles up to [`BACKOFF_MAX`], then 50 to 150 % of it.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(120);
/// A link that ends sooner counts as a failure: else we would dial in a circle.
const LASTING: Duration = Duration::from_secs(10);

/// How many links to have, and how fast to try for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Links at most, whoever made them.
    pub links_max: usize,
    /// We dial listed addresses while there are fewer links than this.
    pub links_aim: usize,
    /// We dial addresses that were only pushed (NOVO_PEER) while there are fewer links than
    /// this: whoever is new dials us, so we need not both do it.
    pub links_min: usize,
    /// Dials under way at once.
    pub dials_max: usize,
}

impl Default for Caps {
    fn default() -> Self {
        Self { links_max: 200, links_aim: 40, links_min: 8, dials_max: 16 }
    }
}

impl Caps {
    /// The classic setting: the tracker's sample, and no more dials once 4 links are there.
    pub fn classic() -> Self {
        Self { links_min: 4, ..Self::default() }
    }
}

/// Where an address comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// The user, or a ticket the user gave us. May name any address; never given up.
    Ticket,
    /// A list (LISTA_PEERS) of the tracker at this address.
    List(SocketAddr),
    /// A push (NOVO_PEER) of the tracker at this address.
    Push(SocketAddr),
}

/// A peer as a source names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KnownPeer {
    /// Its identity, where the source knows it (a ticket does not).
    pub id: Option<PeerId>,
    /// Where it listens.
    pub addr: SocketAddr,
}

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// We did.
    Dialled,
    /// The other side did.
    Accepted,
}

/// A peer that has shaken hands on a fresh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// The link that this connection would be.
    pub link: LinkId,
    /// Who it says it is.
    pub id: PeerId,
    /// Who connected.
    pub direction: Direction,
    /// The address that was dialled; of an accepted connection, the IP it comes from and the
    /// port (`porta`) that the peer says it listens on, 0 if it does not.
    pub addr: SocketAddr,
}

/// What to do with a fresh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is a link now.
    Keep,
    /// It is a link now, in place of this one, which has to be closed (it is forgotten here).
    Replace(LinkId),
    /// Close it.
    Refuse(Refusal),
}

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// It is ourselves.
    #[error("that is ourselves")]
    Ourselves,
    /// The identity, the address or the IP is banned.
    #[error("banned")]
    Banned,
    /// There is a link to this peer, which is kept.
    #[error("already linked")]
    Duplicate,
    /// There are as many links as there may be.
    #[error("no room for another link")]
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    /// May be dialled from this time on.
    Idle {
        from: Duration,
    },
    Dialling,
    Linked,
    /// It is our own address.
    Ourselves,
}

#[derive(Clone, Debug)]
struct Known {
    source: Source,
    id: Option<PeerId>,
    status: Status,
    /// Failures in a row.
    failures: u32,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    id: PeerId,
    initiator: PeerId,
    addr: SocketAddr,
    since: Duration,
}

/// Addresses, links and bans of one share; see the module's header.
#[derive(Clone, Debug)]
pub struct Neighbours {
    me: PeerId,
    caps: Caps,
    known: BTreeMap<SocketAddr, Known>,
    links: HashMap<LinkId, Link>,
    by_peer: HashMap<PeerId, LinkId>,
    dialling: usize,
    bans: Bans,
}

impl Neighbours {
    /// Nobody known, nobody banned.
    pub fn new(me: PeerId, caps: Caps) -> Self {
        Self {
            me,
            caps,
            known: BTreeMap::new(),
            links: HashMap::new(),
            by_peer: HashMap::new(),
            dialling: 0,
            bans: Bans::default(),
        }
    }

    /// How many links there are.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// How many addresses are known.
    pub fn known_count(&self) -> usize {
        self.known.len()
    }

    /// The link to a peer, if there is one.
    pub fn link_to(&self, id: PeerId) -> Option<LinkId> {
        self.by_peer.get(&id).copied()
    }

    /// Whether a connection from this IP is to be closed before a byte is read.
    pub fn refuses_ip(&self, ip: IpAddr) -> bool {
        self.bans.ips.contains(&block_of(ip))
    }

    /// Whether this peer is banned.
    pub fn is_banned(&self, id: PeerId) -> bool {
        self.bans.peers.contains(&id)
    }

    // ---- addresses ------------------------------------------------------------------------

    /// Learns addresses; returns how many were new. Those that may not be dialled (by the
    /// rules of the module's header) are left out.
    pub fn learn(
        &mut self,
        now: Duration,
        source: Source,
        peers: impl IntoIterator<Item = KnownPeer>,
    ) -> usize {
        let mut tally = Tally::of(self, source);
        peers.into_iter().filter(|peer| self.learn_one(now, source, *peer, &mut tally)).count()
    }

    fn learn_one(
        &mut self,
        now: Duration,
        source: Source,
        peer: KnownPeer,
        tally: &mut Tally,
    ) -> bool {
        if peer.id == Some(self.me) || !may_name(source, peer.addr) {
            return false;
        }
        if let Some(known) = self.known.get_mut(&peer.addr) {
            known.source = stronger(known.source, source);
            known.id = peer.id.or(known.id);
            return false;
        }
        let room = source == Source::Ticket || tally.has_room(peer.addr.ip());
        if !room && !self.evict(now, source, peer.addr.ip(), tally) {
            return false;
        }
        tally.add(peer.addr.ip());
        let status = Status::Idle { from: now };
        self.known.insert(peer.addr, Known { source, id: peer.id, status, failures: 0 });
        true
    }

    /// Makes room by forgetting one address of the same source that has not been dialled yet
    /// or has rested; the newer word is the better one. An address in its back-off stays:
    /// forgetting it would forget the back-off.
    fn evict(&mut self, now: Duration, source: Source, ip: IpAddr, tally: &mut Tally) -> bool {
        let must_be_of_ip = tally.ip_is_full(ip);
        let victim = self.known.iter().find(|(addr, known)| {
            known.source == source
                && (!must_be_of_ip || block_of(addr.ip()) == block_of(ip))
                && matches!(known.status, Status::Idle { from } if from <= now)
                && (known.failures == 0 || known.failures >= DIALS_MAX)
        });
        let Some(addr) = victim.map(|(addr, _)| *addr) else { return false };
        self.known.remove(&addr);
        tally.remove(addr.ip());
        true
    }

    // ---- dialling -------------------------------------------------------------------------

    /// Whom to dial now: each address returned counts as being dialled until it is reported
    /// with [`greeted`](Self::greeted) or [`dial_failed`](Self::dial_failed).
    pub fn dial(&mut self, now: Duration, rng: &mut Rng) -> Vec<SocketAddr> {
        let wanted = self.dials_wanted(self.caps.links_aim);
        if wanted == 0 {
            return Vec::new();
        }
        let mut ready: Vec<_> = self
            .candidates()
            .filter(|(_, _, from)| *from <= now)
            .map(|(addr, known, _)| (is_push(known), known.failures, rng.u32(..), addr))
            .collect();
        ready.sort_unstable();
        let mut chosen = Vec::new();
        for (pushed, _, _, addr) in ready {
            let aim = if pushed { self.caps.links_min } else { self.caps.links_aim };
            if self.dials_wanted(aim) == 0 {
                break;
            }
            if self.dials_id_already(addr) {
                continue;
            }
            if let Some(known) = self.known.get_mut(&addr) {
                known.status = Status::Dialling;
                self.dialling += 1;
                chosen.push(addr);
            }
        }
        chosen
    }

    /// When [`dial`](Self::dial) will have somebody to dial, if nothing else happens; a time
    /// that has passed means now. `None`: not before something else happens.
    pub fn next_dial(&self) -> Option<Duration> {
        let (listed, pushed) =
            (self.dials_wanted(self.caps.links_aim), self.dials_wanted(self.caps.links_min));
        self.candidates()
            .filter(|(_, known, _)| if is_push(known) { pushed > 0 } else { listed > 0 })
            .filter(|(addr, _, _)| !self.dials_id_already(*addr))
            .map(|(_, _, from)| from)
            .min()
    }

    /// How many more dials would be right for that number of links.
    fn dials_wanted(&self, aim: usize) -> usize {
        let links = self.links.len() + self.dialling;
        let missing = aim.min(self.caps.links_max).saturating_sub(links);
        missing.min(self.caps.dials_max.saturating_sub(self.dialling))
    }

    /// Addresses that may be dialled some time.
    fn candidates(&self) -> impl Iterator<Item = (SocketAddr, &Known, Duration)> {
        self.known.iter().filter_map(|(addr, known)| {
            let Status::Idle { from } = known.status else { return None };
            let linked = known.id.is_some_and(|id| self.by_peer.contains_key(&id));
            let banned = self.bans.hit(known.id, *addr);
            (!linked && !banned).then_some((*addr, known, from))
        })
    }

    /// Whether another address of the same peer is being dialled.
    fn dials_id_already(&self, addr: SocketAddr) -> bool {
        let Some(id) = self.known.get(&addr).and_then(|known| known.id) else { return false };
        self.dialling > 0
            && self
                .known
                .values()
                .any(|known| known.status == Status::Dialling && known.id == Some(id))
    }

    /// A dial came to nothing before the handshake was through.
    pub fn dial_failed(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        if self.stop_dialling(addr) {
            self.fail(now, addr, rng);
        }
    }

    fn stop_dialling(&mut self, addr: SocketAddr) -> bool {
        let Some(known) = self.known.get_mut(&addr) else { return false };
        let was = known.status == Status::Dialling;
        if was {
            known.status = Status::Idle { from: Duration::ZERO };
            self.dialling -= 1;
        }
        was
    }

    /// One failure more of an address: the next dial has to wait.
    fn fail(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        let Some(known) = self.known.get_mut(&addr) else { return };
        // It has rested: it begins anew.
        let failures = if known.failures >= DIALS_MAX { 0 } else { known.failures } + 1;
        let rests = failures >= DIALS_MAX && known.source != Source::Ticket;
        let wait = if rests { REST } else { backoff(failures, rng) };
        known.failures = failures;
        known.status = Status::Idle { from: now + wait };
    }

    // ---- links ----------------------------------------------------------------------------

    /// A connection's handshake is through: may it become a link? Of two links to one peer
    /// the one is kept whose initiator has the smaller identity; of two with the same
    /// initiator, the older one.
    pub fn greeted(&mut self, now: Duration, greeting: Greeting, rng: &mut Rng) -> Verdict {
        if greeting.direction == Direction::Dialled {
            self.stop_dialling(greeting.addr);
        }
        let verdict = self.judge(&greeting);
        match verdict {
            Verdict::Keep => self.link(now, greeting),
            Verdict::Replace(old) => {
                self.unlink(old);
                self.link(now, greeting);
            }
            Verdict::Refuse(why) => self.refused(now, &greeting, why, rng),
        }
        verdict
    }

    fn judge(&self, greeting: &Greeting) -> Verdict {
        if greeting.id == self.me {
            return Verdict::Refuse(Refusal::Ourselves);
        }
        if self.bans.hit(Some(greeting.id), greeting.addr) {
            return Verdict::Refuse(Refusal::Banned);
        }
        if let Some(old) = self.by_peer.get(&greeting.id) {
            let smaller = self.initiator(greeting) < self.links[old].initiator;
            return if smaller {
                Verdict::Replace(*old)
            } else {
                Verdict::Refuse(Refusal::Duplicate)
            };
        }
        if self.links.len() >= self.caps.links_max {
            return Verdict::Refuse(Refusal::Full);
        }
        Verdict::Keep
    }

    fn initiator(&self, greeting: &Greeting) -> PeerId {
        match greeting.direction {
            Direction::Dialled => self.me,
            Direction::Accepted => greeting.id,
        }
    }

    fn link(&mut self, now: Duration, greeting: Greeting) {
        let initiator = self.initiator(&greeting);
        let Greeting { link, id, addr, .. } = greeting;
        self.links.insert(link, Link { id, initiator, addr, since: now });
        self.by_peer.insert(id, link);
        if let Some(known) = self.known.get_mut(&addr) {
            // It may be under way to us and we to it: that dial is still reported.
            if known.status != Status::Dialling {
                known.status = Status::Linked;
            }
            known.id = Some(id);
        }
    }

    /// What a refused connection teaches about its address.
    fn refused(&mut self, now: Duration, greeting: &Greeting, why: Refusal, rng: &mut Rng) {
        if greeting.direction == Direction::Accepted {
            return;
        }
        if let Some(known) = self.known.get_mut(&greeting.addr) {
            known.id = Some(greeting.id);
            if why == Refusal::Ourselves {
                known.status = Status::Ourselves;
                return;
            }
        }
        self.fail(now, greeting.addr, rng);
    }

    /// A link is gone. Its address may be dialled again: soon, if the link lasted, and after
    /// a longer wait each time if it did not. An address from which a peer connected to us is
    /// learnt here, for then it can only be reached if we dial.
    pub fn closed(&mut self, now: Duration, link: LinkId, rng: &mut Rng) {
        let Some(Link { id, addr, since, initiator }) = self.unlink(link) else { return };
        if initiator == id && addr.port() != 0 {
            let source = Source::List(addr);
            self.learn(now, source, [KnownPeer { id: Some(id), addr }]);
        }
        if let Some(known) = self.known.get_mut(&addr)
            && now.saturating_sub(since) >= LASTING
        {
            known.failures = 0;
        }
        self.fail(now, addr, rng);
    }

    fn unlink(&mut self, link: LinkId) -> Option<Link> {
        let gone = self.links.remove(&link)?;
        self.by_peer.remove(&gone.id);
        if let Some(known) = self.known.get_mut(&gone.addr)
            && known.status == Status::Linked
        {
            known.status = Status::Idle { from: Duration::ZERO };
        }
        Some(gone)
    }

    // ---- bans -----------------------------------------------------------------------------

    /// Bans the peer of a link: its identity and its address, and the IP (for IPv6 the /64)
    /// after the third identity banned there, unless it is loopback. The caller closes the
    /// link and reports it with [`closed`](Self::closed).
    pub fn ban(&mut self, link: LinkId) {
        if let Some(Link { id, addr, .. }) = self.links.get(&link).copied() {
            self.ban_peer(id, addr);
        }
    }

    /// Bans a peer that is not linked: its identity and address as in a [`Greeting`].
    pub fn ban_peer(&mut self, id: PeerId, addr: SocketAddr) {
        self.bans.add(id, addr);
    }
}

/// Whether only a push named this address.
fn is_push(known: &Known) -> bool {
    matches!(known.source, Source::Push(_))
}

/// The wait after so many failures in a row: doubling, with jitter so that peers that failed
/// together do not come back together.
fn backoff(failures: u32, rng: &mut Rng) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(0.5 + rng.f64())
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

fn may_name(source: Source, addr: SocketAddr) -> bool {
    let ip = addr.ip().to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if addr.port() == 0 || ip.is_unspecified() || ip.is_multicast() || broadcast {
        return false;
    }
    match source {
        Source::Ticket => true,
        Source::List(from) | Source::Push(from) => reach(ip) >= reach(from.ip()),
    }
}

/// What counts as one IP: an IPv4 address, or the /64 that one IPv6 host has to itself.
fn block_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) if !ip.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64))
        }
        ip => ip,
    }
}

/// How many addresses are known, while a list is learnt.
struct Tally {
    known: usize,
    of_source: usize,
    of_ip: HashMap<IpAddr, usize>,
}

impl Tally {
    fn of(neighbours: &Neighbours, source: Source) -> Self {
        let known = &neighbours.known;
        let mut of_ip = HashMap::new();
        for addr in known.keys() {
            *of_ip.entry(block_of(addr.ip())).or_insert(0) += 1;
        }
        let of_source = known.values().filter(|known| known.source == source).count();
        Self { known: known.len(), of_source, of_ip }
    }

    fn ip_is_full(&self, ip: IpAddr) -> bool {
        let block = block_of(ip);
        !block.is_loopback() && self.of_ip.get(&block).is_some_and(|count| *count >= PER_IP_MAX)
    }

    fn has_room(&self, ip: IpAddr) -> bool {
        self.known < KNOWN_MAX && self.of_source < PER_SOURCE_MAX && !self.ip_is_full(ip)
    }

    fn add(&mut self, ip: IpAddr) {
        self.known += 1;
        self.of_source += 1;
        *self.of_ip.entry(block_of(ip)).or_insert(0) += 1;
    }

    fn remove(&mut self, ip: IpAddr) {
        self.known -= 1;
        self.of_source -= 1;
        if let Some(count) = self.of_ip.get_mut(&block_of(ip)) {
            *count -= 1;
        }
    }
}

/// Who is banned. Each set is bounded; the oldest entries go first.
#[derive(Clone, Debug, Default)]
struct Bans {
    peers: Recent<PeerId>,
    addrs: Recent<SocketAddr>,
    ips: Recent<IpAddr>,
    /// Banned identities of each IP that is not banned yet.
    strikes: HashMap<IpAddr, u32>,
}

impl Bans {
    fn hit(&self, id: Option<PeerId>, addr: SocketAddr) -> bool {
        id.is_some_and(|id| self.peers.contains(&id))
            || self.addrs.contains(&addr)
            || self.ips.contains(&block_of(addr.ip()))
    }

    fn add(&mut self, id: PeerId, addr: SocketAddr) {
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
