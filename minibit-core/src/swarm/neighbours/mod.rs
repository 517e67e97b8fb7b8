//! Whom we know, whom to dial now, and whom we will have nothing to do with.
//!
//! One value for each share. Where addresses come from and which are believed is the book's
//! matter ([`book`](super::book)); this is what is done with them. Whom to dial and when, with what holds of that: `dialling`.
//!
//! Invariants:
//! - We are never linked to ourselves, never twice to one peer, never to a banned one.
//! - Links and dials under way together never exceed what the caps allow.
//!
//! Not here: connecting, handshakes, the clock, randomness of its own.

mod caps;
mod dialling;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;

use super::LinkId;
use super::bans::Bans;
use super::book::{Book, KnownPeer, Source, Status, block_of, decrement};
use super::waiting::{Waiter, Waiting};
use crate::types::PeerId;

pub use caps::Caps;

/// A link that ends sooner and has brought nothing counts as a failure: else we would dial in a circle.
const LASTING: Duration = Duration::from_secs(10);
/// Two connections are "at once" if the second comes so soon after the first. An older link
/// is not given up for a newcomer that merely claims to be the same peer.
const AT_ONCE: Duration = Duration::from_secs(10);
/// Peers of one IP (for IPv6, of one /64) that connect to us get at most this part of the links.
const IP_PART: usize = 4;
/// But so many in any case, for those behind one router.
const IP_LINKS_MIN: usize = 8;
/// Of all places at most this part is for links of our own choice; twice that, if those are in vain.
const MADE_PART: usize = 4;
/// Of all places at most this part, and one at least, is kept for those who wait: a name that knocks once waits for
/// seconds, and may never come again.
const KEPT_PART: usize = 4;

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

impl Greeting {
    fn waiter(&self) -> Waiter {
        (block_of(self.addr.ip()), self.id)
    }
}

/// What is to be known of a link that is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// When payload that we had asked for came last.
    pub brought_at: Duration,
    /// It could not bring anything, for we asked it for nothing of what it had.
    pub was_held_back: bool,
}

/// What to do with a fresh connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is a link now.
    Keep,
    /// It is a link now, in place of this one with the same peer, which has to be closed (it is
    /// forgotten here).
    Replace(LinkId),
    /// The same, in place of one with another peer, of which nothing comes.
    Displace(LinkId),
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
    /// When there was somebody to dial first; `None` while we dial nobody.
    began: Option<Duration>,
    /// When it was looked at last whether there is somebody to dial, and whether places are kept for that.
    looked: Duration,
    keeps_places: bool,
    /// Those we are linked to have nothing for us.
    hungry: bool,
    /// Up to so many links we dial for that.
    one_more: usize,
    book: Book,
    links: HashMap<LinkId, Link>,
    /// How many of them we made.
    made: usize,
    /// So many of those are with who only takes, as far as that counts ([`Self::set_made_in_vain`]).
    made_in_vain: usize,
    by_peer: HashMap<PeerId, LinkId>,
    /// How many links there are to each IP.
    by_ip: HashMap<IpAddr, usize>,
    dialling: BTreeSet<SocketAddr>,
    /// How many dials there have been.
    dials: u32,
    /// When the last [`WINDOW`](dialling::WINDOW) with a dial began, and how many there were in it.
    window: (Duration, u32),
    bans: Bans,
    waiting: Waiting,
}

impl Neighbours {
    /// Nobody known, nobody banned.
    pub fn new(me: PeerId, caps: Caps) -> Self {
        Self {
            me,
            caps: Caps { links_made: caps.links_made.min(caps.links_max / MADE_PART), ..caps },
            began: None,
            looked: Duration::ZERO,
            keeps_places: true,
            hungry: false,
            one_more: 0,
            book: Book::default(),
            links: HashMap::new(),
            made: 0,
            made_in_vain: 0,
            by_peer: HashMap::new(),
            by_ip: HashMap::new(),
            dialling: BTreeSet::new(),
            dials: 0,
            window: (Duration::ZERO, 0),
            bans: Bans::default(),
            waiting: Waiting::default(),
        }
    }

    /// How many links there are.
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// How many addresses are known.
    pub fn known_count(&self) -> usize {
        self.book.len()
    }

    /// The link to a peer, if there is one.
    pub fn link_to(&self, id: PeerId) -> Option<LinkId> {
        self.by_peer.get(&id).copied()
    }

    /// Whether a connection from this IP is to be closed before a byte is read.
    pub fn refuses_ip(&self, ip: IpAddr) -> bool {
        self.bans.hit_ip(ip)
    }

    /// Whether this peer is banned.
    pub fn is_banned(&self, id: PeerId) -> bool {
        self.bans.hit_peer(id)
    }

    // ---- addresses ------------------------------------------------------------------------

    /// Learns addresses; returns how many were new. Those that the book does not believe, and
    /// we ourselves, are left out.
    pub fn learn(
        &mut self,
        now: Duration,
        source: Source,
        peers: impl IntoIterator<Item = KnownPeer>,
    ) -> usize {
        let me = self.me;
        self.book.learn(now, source, peers.into_iter().filter(|peer| peer.id != Some(me)))
    }

    // ---- links ----------------------------------------------------------------------------

    /// A connection's handshake is through: may it become a link? Of two connections with one
    /// peer made at once the one is kept whose initiator has the smaller identity; of two with
    /// the same initiator, or long after one another, the older one while it lives.
    ///
    /// If there is no room, one of those `giving_way` makes some, the first before all others. What room there
    /// is goes to those who were turned away before, as long as they come again.
    pub fn greeted(
        &mut self,
        now: Duration,
        greeting: Greeting,
        giving_way: &[LinkId],
        rng: &mut Rng,
    ) -> Verdict {
        if greeting.direction == Direction::Dialled {
            self.stop_dialling(greeting.addr);
        }
        let verdict = self.judge(now, &greeting, giving_way);
        match verdict {
            Verdict::Keep => self.link(now, greeting),
            Verdict::Replace(old) | Verdict::Displace(old) => {
                self.unlink(old);
                self.link(now, greeting);
            }
            Verdict::Refuse(why) => self.refused(now, &greeting, why, rng),
        }
        if verdict == Verdict::Refuse(Refusal::Full) && greeting.direction == Direction::Accepted {
            self.waiting.turned_away(now, greeting.waiter());
        } else {
            self.waiting.let_in(greeting.waiter());
        }
        verdict
    }

    fn judge(&self, now: Duration, greeting: &Greeting, giving_way: &[LinkId]) -> Verdict {
        if greeting.id == self.me {
            return Verdict::Refuse(Refusal::Ourselves);
        }
        if self.bans.hit(Some(greeting.id), greeting.addr) {
            return Verdict::Refuse(Refusal::Banned);
        }
        if let Some(id) = self.by_peer.get(&greeting.id) {
            let old = &self.links[id];
            let at_once = now.saturating_sub(old.since) < AT_ONCE;
            return if at_once && self.initiator(greeting) < old.initiator {
                Verdict::Replace(*id)
            } else {
                Verdict::Refuse(Refusal::Duplicate)
            };
        }
        if self.others_come_first(now, greeting, giving_way) {
            return Verdict::Refuse(Refusal::Full);
        }
        if !self.lacks_room_for(greeting) {
            return Verdict::Keep;
        }
        let leaver = giving_way.iter().find(|link| self.makes_room_for(**link, greeting));
        leaver.map_or(Verdict::Refuse(Refusal::Full), |link| Verdict::Displace(*link))
    }

    /// Whether this connection can be a link only in place of another, or others wait for a place: then it
    /// matters who gives way.
    pub fn needs_room_for(&self, greeting: &Greeting) -> bool {
        self.lacks_room_for(greeting) || !self.waiting.is_empty()
    }

    fn lacks_room_for(&self, greeting: &Greeting) -> bool {
        self.is_full_for(greeting.direction) || self.is_crowded_for(greeting)
    }

    /// Whether all the places that are free, or that somebody gives up, are kept for those who have waited for longer
    /// than who connects here. Whom we dial is our own choice.
    fn others_come_first(&self, now: Duration, greeting: &Greeting, giving_way: &[LinkId]) -> bool {
        if self.waiting.is_empty() || greeting.direction == Direction::Dialled {
            return false;
        }
        let is_crowded = self.is_crowded_for(greeting);
        let free = if is_crowded { 0 } else { self.free_places() };
        let given_up = giving_way.iter().filter(|link| self.makes_room_for(**link, greeting));
        let who = greeting.waiter();
        // Where one IP has its part, the places of others are not for its own.
        let is_rival = |ip| if is_crowded { ip == who.0 } else { !self.is_crowded(ip) };
        // On this machine many peers are what they seem.
        let links_of = |ip: IpAddr| if ip.is_loopback() { 0 } else { self.links_of(ip) };
        let ahead = self.waiting.ahead_of(now, who, is_rival, links_of);
        let kept_max = (self.caps.links_max / KEPT_PART).max(1);
        ahead.min(kept_max) >= free + given_up.count()
    }

    /// Whether there are as many links as there may be.
    pub fn is_full(&self) -> bool {
        self.is_full_for(Direction::Dialled)
    }

    fn is_full_for(&self, direction: Direction) -> bool {
        match direction {
            Direction::Accepted => self.free_places() == 0,
            Direction::Dialled => self.links.len() >= self.caps.links_max,
        }
    }

    /// Places for those who connect to us: not those of dials under way, nor those that are kept for dials.
    fn free_places(&self) -> usize {
        let keeps = self.began.is_some() && self.keeps_places;
        let kept = if keeps { self.made_aim().saturating_sub(self.made) } else { 0 };
        let taken = self.links.len() + self.dialling.len().max(kept);
        self.caps.links_max.saturating_sub(taken)
    }

    fn is_crowded_for(&self, greeting: &Greeting) -> bool {
        greeting.direction == Direction::Accepted && self.is_crowded(block_of(greeting.addr.ip()))
    }

    /// Whether this connection could be a link if that one were given up. Where one IP has its
    /// part, only one of its own makes room; for who connects to us, none of those we made by choice and still would.
    fn makes_room_for(&self, link: LinkId, greeting: &Greeting) -> bool {
        let Some(link) = self.links.get(&link) else { return false };
        let is_chosen = link.initiator == self.me && self.made <= self.made_aim();
        if is_chosen && greeting.direction == Direction::Accepted && self.began.is_some() {
            return false;
        }
        !self.is_crowded_for(greeting) || block_of(link.addr.ip()) == block_of(greeting.addr.ip())
    }

    /// Whether there is anybody to be dialled by now, if there were room.
    pub fn knows_more(&self, now: Duration) -> bool {
        self.candidates().any(|(_, _, from)| from <= now)
    }

    /// A link is to be closed so that another can be made; it is forgotten here.
    pub fn give_up(&mut self, link: LinkId) {
        self.unlink(link);
    }

    /// Whether peers of this IP have their part of the links: identities cost nothing, so
    /// else one host could take every place. On this machine many peers are what they seem.
    fn is_crowded(&self, block: IpAddr) -> bool {
        let part = (self.caps.links_max / IP_PART).max(IP_LINKS_MIN);
        !block.is_loopback() && self.links_of(block) >= part
    }

    fn links_of(&self, block: IpAddr) -> usize {
        self.by_ip.get(&block).copied().unwrap_or(0)
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
        self.made += usize::from(initiator == self.me);
        self.by_peer.insert(id, link);
        *self.by_ip.entry(block_of(addr.ip())).or_default() += 1;
        if let Some(known) = self.book.get_mut(addr) {
            // They may have come to us while we dial them: that dial is still reported.
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
        if let Some(known) = self.book.get_mut(greeting.addr) {
            known.id = Some(greeting.id);
            if why == Refusal::Ourselves {
                known.status = Status::Ourselves;
                return;
            }
        }
        self.fail(now, greeting.addr, rng);
    }

    /// A link is gone. Its address may
    /// be dialled again: soon, if the link lasted or brought anything, for a bad connection may be lost every few
    /// seconds, and after a longer wait each time if it did neither; but after no longer one if that was our own doing. An address from which a peer
    /// connected to us is learnt here, for then it can only be reached if we dial.
    pub fn closed(&mut self, now: Duration, link: LinkId, ending: Ending, rng: &mut Rng) {
        let Some(Link { id, addr, since, initiator }) = self.unlink(link) else { return };
        if initiator == id && addr.port() != 0 {
            self.learn(now, Source::Itself, [KnownPeer { id: Some(id), addr }]);
        }
        if let Some(known) = self.book.get_mut(addr) {
            if now.saturating_sub(since) >= LASTING || ending.brought_at > since {
                known.failures = 0;
            } else if ending.was_held_back {
                // The next line counts one, which it was not.
                known.failures = known.failures.saturating_sub(1);
            }
        }
        self.fail(now, addr, rng);
    }

    fn unlink(&mut self, link: LinkId) -> Option<Link> {
        let gone = self.links.remove(&link)?;
        self.made -= usize::from(gone.initiator == self.me);
        self.by_peer.remove(&gone.id);
        decrement(&mut self.by_ip, block_of(gone.addr.ip()));
        if let Some(known) = self.book.get_mut(gone.addr)
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

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
