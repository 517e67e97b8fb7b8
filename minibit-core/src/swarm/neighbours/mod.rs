//! Whom we know, whom to dial now, and whom we will have nothing to do with.
//!
//! One value for each share. Where addresses come from and which are believed is the book's
//! matter ([`book`](super::book)); this is what is done with them.
//!
//! Invariants:
//! - We are never linked to ourselves, never twice to one peer, never to a banned one.
//! - An address is dialled at most [`DIALS_MAX`] times in a row without success and then left
//!   alone for [`REST`] (the ticket's are tried on, ever more rarely, and those that we asked for nothing after half a
//!   second or so), so what a hostile list
//!   can make us send to one IP is bounded: that many connects for each of the book's
//!   addresses of that IP.
//! - Links and dials under way together never exceed what the caps allow.
//! - However soon dials end, no more than [`DIALS_IN_WINDOW`] begin in a [`WINDOW`].
//!
//! Not here: connecting, handshakes, the clock, randomness of its own.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fastrand::Rng;

use super::LinkId;
use super::bans::Bans;
use super::book::{Book, Known, KnownPeer, Source, Status, block_of, decrement};
use super::waiting::{Waiter, Waiting, knock_again_after};
use crate::types::PeerId;

/// Dials of one address in a row without a lasting link.
const DIALS_MAX: u32 = 8;
/// For how long an address that failed so often is left alone.
const REST: Duration = Duration::from_secs(600);
/// The first wait after a failure; it doubles up to [`BACKOFF_MAX`], then 50 to 150 % of it.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(120);
/// One in so many dials is for whoever failed before and has been ready for longest, whoever has failed less: those that
/// are slow to say that they have no room, which is no failure for who has nothing, would else come first for ever.
const AGAIN_EACH: u32 = 4;
/// In each [`WINDOW`] at most so many dials begin: each walks over the book, and addresses that refuse at once, which a
/// hostile tracker lists by the thousand, would else be dialled as fast as one core can.
const DIALS_IN_WINDOW: u32 = 32;
const WINDOW: Duration = Duration::from_millis(250);
/// A link that ends sooner and has brought nothing counts as a failure: else we would dial in a circle.
const LASTING: Duration = Duration::from_secs(10);
/// Two connections are "at once" if the second comes so soon after the first. An older link
/// is not given up for a newcomer that merely claims to be the same peer.
const AT_ONCE: Duration = Duration::from_secs(10);

/// For so long only as many are dialled as do for a transfer that is over soon.
const AT_FIRST: Duration = Duration::from_secs(2);

/// Peers of one IP (for IPv6, of one /64) that connect to us get at most this part of the links.
const IP_PART: usize = 4;
/// But so many in any case, for those behind one router.
const IP_LINKS_MIN: usize = 8;
/// Of all places at most this part is for links of our own choice; twice that, if those are in vain.
const MADE_PART: usize = 4;
/// How often it is looked at whether there is somebody for whom to keep them.
const CHOICE_LOOK: Duration = Duration::from_secs(1);
/// Of all places at most this part, and one at least, is kept for those who wait: a name that knocks once waits for
/// seconds, and may never come again.
const KEPT_PART: usize = 4;

/// How many links to have, and how fast to try for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Links at most, whoever made them.
    pub links_max: usize,
    /// We dial listed addresses while there are fewer links than this.
    pub links_aim: usize,
    /// And while there are fewer than this that we have made ourselves, however many others have: whoever connects to
    /// us is not our choice, and those who take and never give may be first with everybody. As long as there is
    /// somebody to dial, so many places are for these, a quarter of all at most; and as many again at most in place of those
    /// of these links that are with who only takes.
    pub links_made: usize,
    /// We dial addresses that were only pushed (NOVO_PEER) while there are fewer links than
    /// this: whoever is new dials us, so we need not both do it.
    pub links_min: usize,
    /// But we dial nobody in the first two seconds while there are this many.
    pub links_first: usize,
    /// Dials under way at once.
    pub dials_max: usize,
}

impl Caps {
    /// The same for a share of so many pieces: where there is little to trade it may be over
    /// before many links are made, and making them would be most of the work. To begin with one
    /// for every 32 pieces, at least 3.
    pub fn for_share(self, pieces: u32) -> Self {
        Self { links_first: (pieces as usize / 32).max(3), ..self }
    }

    /// The same for a node that may have no more connections than this in each share, those that
    /// it is making included: with fewer links it dials fewer, so that others find room.
    #[must_use]
    pub fn within(self, connections: usize) -> Self {
        let dials_max = self.dials_max.min(connections / 8).max(1);
        let links_max = self.links_max.min(connections.saturating_sub(dials_max)).max(1);
        Self {
            links_max,
            links_aim: self.links_aim.min(links_max.div_ceil(2)),
            links_min: self.links_min.min(links_max.div_ceil(2)),
            dials_max,
            ..self
        }
    }

    /// The classic setting: the tracker's sample, and no more dials once 4 links are there.
    pub fn classic() -> Self {
        Self { links_min: 4, ..Self::default() }
    }
}

impl Default for Caps {
    fn default() -> Self {
        Self {
            links_max: 200,
            links_aim: 40,
            links_made: 20,
            links_min: 8,
            links_first: 40,
            dials_max: 16,
        }
    }
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
    /// When the last [`WINDOW`] with a dial began, and how many there were in it.
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

    // ---- dialling -------------------------------------------------------------------------

    /// Whether those we are linked to have nothing for us. Then we dial one more, however many
    /// there are, each time that we are told so: a few peers that lack the same pieces would else be content with each
    /// other. No more, for where all begin at once all are hungry, and to know more of the hungry helps nobody. Who had no
    /// room for us while we were content is tried again soon: that may have been the one who has them.
    pub fn set_hungry(&mut self, now: Duration, hungry: bool, rng: &mut Rng) {
        if hungry && !self.hungry {
            for known in self.book.each_mut().filter(|known| known.had_no_room) {
                if let Status::Idle { from } = &mut known.status {
                    *from = (now + knock_again_after(rng)).min(*from);
                }
            }
        }
        self.hungry = hungry;
        self.one_more = if hungry { self.links.len() + 1 } else { 0 };
    }

    /// So many of the links that we made are with those who only take. They do not count for [`Caps::links_made`], or whoever
    /// chose badly would have nobody to trade with; but where most are like that others are dialled for no more than as many again.
    pub fn set_made_in_vain(&mut self, made_in_vain: usize) {
        self.made_in_vain = made_in_vain.min(self.caps.links_made);
    }

    /// Whom to dial now: each address returned counts as being dialled until it is reported
    /// with [`greeted`](Self::greeted), [`dial_failed`](Self::dial_failed) or [`found_no_room`](Self::found_no_room).
    pub fn dial(&mut self, now: Duration, rng: &mut Rng) -> Vec<SocketAddr> {
        if self.began.is_none() && self.book.len() > 0 {
            self.began = Some(now);
        }
        self.review_choice(now);
        if self.dials_wanted(self.aim(now, false)) == 0 || self.rests_until(now).is_some() {
            return Vec::new();
        }
        // Whoever was found full comes first every other time while we are hungry: so we keep our turn there, and those
        // that are slow to say that they are full do not keep us from others.
        let knocks = self.hungry && self.dials.is_multiple_of(2);
        let mut ready: Vec<_> = self
            .candidates()
            .filter(|(_, _, from)| *from <= now)
            .map(|(addr, known, _)| {
                let comes_later = knocks && !known.had_no_room;
                (known.is_pushed(), comes_later, known.failures, rng.u32(..), addr)
            })
            .collect();
        ready.sort_unstable();
        let mut ready = ready.into_iter().map(|(pushed, .., addr)| (pushed, addr));
        let mut again = None;
        let mut chosen = Vec::new();
        loop {
            let is_for_again = self.dials % AGAIN_EACH == AGAIN_EACH - 1;
            let again = is_for_again
                .then(|| again.get_or_insert_with(|| self.to_be_tried_again(now).into_iter()));
            let next = again.and_then(Iterator::next);
            let next = next.filter(|(pushed, _)| self.dials_wanted(self.aim(now, *pushed)) > 0);
            let Some((pushed, addr)) = next.or_else(|| ready.next()) else { break };
            // The listed ones stand before the pushed ones, which have the smaller aim.
            if self.dials_wanted(self.aim(now, pushed)) == 0 || self.rests_until(now).is_some() {
                break;
            }
            if !self.dialling.contains(&addr) && !self.dials_peer_of(addr) {
                self.start_dialling(now, addr);
                chosen.push(addr);
            }
        }
        chosen
    }

    /// Looks whether there is anybody to dial by our own choice, now or when a short wait is over: only then places are
    /// kept for that. While there is room for all it makes no difference, and to look costs a walk over the book.
    fn review_choice(&mut self, now: Duration) {
        if now < self.looked + CHOICE_LOOK {
            return;
        }
        self.looked = now;
        let is_tight = self.links.len() + self.made_aim() >= self.caps.links_max;
        let may_be_chosen = |known: &Known| !known.is_pushed() && !known.resting;
        self.keeps_places = !is_tight
            || !self.dialling.is_empty()
            || self.candidates().any(|(_, known, _)| may_be_chosen(known));
    }

    /// Nobody is to be dialled any more, until [`dial`](Self::dial) is called again.
    pub fn dial_nobody(&mut self) {
        self.began = None;
    }

    /// Who failed and may be dialled by now, and whether only a push named it: who has been ready for longest comes
    /// first.
    fn to_be_tried_again(&self, now: Duration) -> Vec<(bool, SocketAddr)> {
        let failed = |(_, known, from): &(_, &Known, _)| *from <= now && known.failures > 0;
        let mut failed: Vec<_> = self.candidates().filter(failed).collect();
        failed.sort_unstable_by_key(|(addr, known, from)| (known.is_pushed(), *from, *addr));
        failed.into_iter().map(|(addr, known, _)| (known.is_pushed(), addr)).collect()
    }

    /// When [`dial`](Self::dial) will have somebody to dial, if nothing else happens; a time
    /// that has passed means now. `None`: not before something else happens.
    pub fn next_dial(&self, now: Duration) -> Option<Duration> {
        if self.dials_wanted(self.aim(now, false)) == 0 {
            let more = self.began.map(|began| began + AT_FIRST).filter(|more| *more > now);
            return more.filter(|more| self.dials_wanted(self.aim(*more, false)) > 0);
        }
        if let Some(until) = self.rests_until(now) {
            return Some(until);
        }
        // Once and not for each address: this is asked whenever a dial has ended.
        let dialled = self.peers_dialled();
        let wants = [false, true].map(|pushed| self.dials_wanted(self.aim(now, pushed)) > 0);
        self.candidates()
            .filter(|(_, known, _)| {
                wants[usize::from(known.is_pushed())]
                    && known.id.is_none_or(|id| !dialled.contains(&id))
            })
            .map(|(_, _, from)| from)
            .min()
    }

    /// How many links we would have that we made ourselves.
    fn made_aim(&self) -> usize {
        self.caps.links_made + self.made_in_vain
    }

    /// Up to how many links we dial addresses of this kind.
    fn aim(&self, now: Duration, pushed: bool) -> usize {
        let Caps { links_aim, links_min, links_first, .. } = self.caps;
        let is_first = self.began.is_none_or(|began| now < began + AT_FIRST);
        let with_made = self.made_aim() + self.links.len() - self.made;
        let aim = match (pushed, is_first) {
            (true, _) => links_min.min(links_aim),
            (false, true) => links_aim,
            (false, false) => links_aim.max(with_made),
        };
        let aim = if is_first { aim.min(links_first) } else { aim };
        aim.max(self.one_more)
    }

    /// How many more dials would be right for that number of links.
    fn dials_wanted(&self, aim: usize) -> usize {
        let links = self.links.len() + self.dialling.len();
        let missing = aim.min(self.caps.links_max).saturating_sub(links);
        missing.min(self.caps.dials_max.saturating_sub(self.dialling.len()))
    }

    /// Addresses that may be dialled some time, with that time.
    fn candidates(&self) -> impl Iterator<Item = (SocketAddr, &Known, Duration)> {
        self.book.iter().filter_map(|(addr, known)| {
            let Status::Idle { from } = known.status else { return None };
            let linked = known.id.is_some_and(|id| self.by_peer.contains_key(&id));
            let banned = self.bans.hit(known.id, addr);
            (!linked && !banned).then_some((addr, known, from))
        })
    }

    /// Whether another address of the same peer is being dialled.
    fn dials_peer_of(&self, addr: SocketAddr) -> bool {
        let id = self.book.get(addr).and_then(|known| known.id);
        id.is_some_and(|id| self.peers_dialled().contains(&id))
    }

    fn peers_dialled(&self) -> Vec<PeerId> {
        self.dialling.iter().filter_map(|addr| self.book.get(*addr)?.id).collect()
    }

    fn start_dialling(&mut self, now: Duration, addr: SocketAddr) {
        if let Some(known) = self.book.get_mut(addr) {
            known.status = Status::Dialling;
            known.had_no_room = false;
            if std::mem::take(&mut known.resting) {
                known.failures = 0;
            }
            self.dialling.insert(addr);
            self.dials = self.dials.wrapping_add(1);
            if now >= self.window.0 + WINDOW {
                self.window = (now, 0);
            }
            self.window.1 += 1;
        }
    }

    /// Until when no dial begins, because there were as many as there may be, if that is so.
    fn rests_until(&self, now: Duration) -> Option<Duration> {
        let (until, begun) = (self.window.0 + WINDOW, self.window.1);
        (now < until && begun >= DIALS_IN_WINDOW).then_some(until)
    }

    /// A dial came to nothing before the handshake was through.
    pub fn dial_failed(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        if self.stop_dialling(addr) {
            self.fail(now, addr, rng);
        }
    }

    /// Whom we dialled has no place for us. Who has nothing from anybody tries again so soon that it keeps its turn
    /// there, however often; else it is a failure like others.
    pub fn found_no_room(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        if !self.stop_dialling(addr) {
            return;
        }
        let is_content = !self.hungry && !self.links.is_empty();
        if is_content {
            self.fail(now, addr, rng);
        }
        let Some(known) = self.book.get_mut(addr) else { return };
        known.had_no_room = true;
        if !is_content {
            known.status = Status::Idle { from: now + knock_again_after(rng) };
        }
    }

    fn stop_dialling(&mut self, addr: SocketAddr) -> bool {
        let was = self.dialling.remove(&addr);
        if was && let Some(known) = self.book.get_mut(addr) {
            known.status = Status::Idle { from: Duration::ZERO };
        }
        was
    }

    /// One failure more of an address: the next dial has to wait.
    fn fail(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        let Some(known) = self.book.get_mut(addr) else { return };
        known.failures += 1;
        known.resting = known.failures >= DIALS_MAX && !known.is_of_ticket();
        let wait = if known.resting { REST } else { backoff(known.failures, rng) };
        if matches!(known.status, Status::Idle { .. }) {
            known.status = Status::Idle { from: now + wait };
        }
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

/// The wait after so many failures in a row: doubling, with jitter so that peers that failed
/// together do not come back together.
fn backoff(failures: u32, rng: &mut Rng) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(0.5 + rng.f64())
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests;
