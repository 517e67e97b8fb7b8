//! The tracker's end: who is listed, who is told of whom, who is dropped.
//!
//! A value: connections are numbers, time is an argument, and what is to be sent comes out as
//! [`Action`]s. A registration costs as much as the list it is answered with, however large the
//! swarm, except in the modes that tell everybody of everybody.
//!
//! Invariants: a connection has at most one registration and an id of a share at most one
//! connection; a peer is never told of itself nor of one that does not listen; after
//! [`Input::Closed`] nothing of a connection is left.
//!
//! Not here: sockets, handshake time-outs, and how much may wait for a slow connection.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::types::{PeerId, ShareId, limits};
use crate::wire::{Message, PROTOCOL_VERSION, PeerAddr, Register};

use super::crowd::{Crowd, Member};

/// Peers that the classic rule tells a joiner of.
const CLASSIC_SAMPLE: usize = 4;
/// Of a sampled list, one part in so many is kept for those that hold every piece.
const SEEDERS_PART: usize = 4;
/// Once its burst is used up, a peer may announce this often.
const ANNOUNCE_PACE: Duration = Duration::from_secs(1);

/// How a tracker tells peers of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Whom a joiner is told of, and who is told of a joiner.
    pub mode: Mode,
    /// How often peers are to announce themselves.
    pub interval: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { mode: Mode::Sampled { sample: 50, push: 8 }, interval: Duration::from_secs(30) }
    }
}

/// Whom a joiner is told of, and who is told of a joiner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A random sample both ways: a join stays cheap in a swarm of ten thousand. A quarter of a
    /// list is of those that hold every piece, for a joiner that does not.
    Sampled {
        /// How many peers a joiner is told of, at most [`limits::PEER_LIST_MAX`].
        sample: usize,
        /// How many peers are told of a joiner.
        push: usize,
    },
    /// A joiner is told of 4 random peers (of all if there are fewer than 5), and everybody of
    /// the joiner.
    Classic,
    /// Everybody is told of everybody, up to [`limits::PEER_LIST_MAX`] in a list.
    Mesh,
}

impl Mode {
    fn list_len(self) -> usize {
        match self {
            Self::Sampled { sample, .. } => sample.min(limits::PEER_LIST_MAX),
            Self::Classic => CLASSIC_SAMPLE,
            Self::Mesh => limits::PEER_LIST_MAX,
        }
    }

    /// How many of a list are chosen from those that hold every piece, if there are so many.
    fn seeders_listed(self) -> usize {
        match self {
            Self::Sampled { sample, .. } => sample / SEEDERS_PART,
            Self::Classic | Self::Mesh => 0,
        }
    }

    fn push_len(self) -> usize {
        match self {
            Self::Sampled { push, .. } => push,
            Self::Classic | Self::Mesh => usize::MAX,
        }
    }
}

/// The caller's number for a connection, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// What happened on a connection.
#[derive(Clone, Debug)]
pub enum Input {
    /// It opened with this REGISTRO.
    Register {
        /// The message.
        register: Register,
        /// Where the peer connects from.
        remote: SocketAddr,
        /// Our own address that it reached.
        local: IpAddr,
    },
    /// It sent a later message.
    Message(Message),
    /// Its [`Registry::deadline`] has come.
    Deadline,
    /// It has ended. Only this frees what is kept of it.
    Closed,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send {
        /// On this connection.
        conn: ConnId,
        /// The message.
        message: Message,
    },
    /// Say goodbye and close. Nothing is kept of the connection any more.
    Close {
        /// The connection.
        conn: ConnId,
        /// Why, for the goodbye and the log.
        reason: CloseReason,
    },
}

/// Why a tracker ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// The peer said goodbye.
    #[error("goodbye")]
    Goodbye,
    /// Not our protocol version.
    #[error("this tracker speaks version {PROTOCOL_VERSION} of the protocol")]
    Version,
    /// The id is held by a live connection from another address.
    #[error("the id is in use from another address")]
    IdTaken,
    /// A newer connection of the same peer took its place.
    #[error("replaced by a newer connection")]
    Replaced,
    /// REGISTRO came a second time.
    #[error("registered twice on one connection")]
    RegisteredTwice,
    /// An announce or goodbye in another's name.
    #[error("spoke in another's name")]
    IdChanged,
    /// A message that has no business on a connection to a tracker.
    #[error("a message that a tracker does not take")]
    Unexpected,
    /// Announced too often.
    #[error("announced too often")]
    TooManyAnnounces,
    /// Announced nothing for [`limits::SILENT_INTERVALS_MAX`] intervals.
    #[error("silent for too long")]
    Silent,
    /// The tracker or the share is full, or this address has its part.
    #[error("full")]
    Full,
}

/// How much a tracker keeps, for status lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Shares with at least one peer.
    pub shares: usize,
    /// Registered peers of all shares.
    pub peers: usize,
    /// Those of them that hold every piece.
    pub complete: usize,
}

/// Everything a tracker knows.
#[derive(Debug)]
pub struct Registry {
    rules: Rules,
    swarms: HashMap<ShareId, Swarm>,
    conns: HashMap<ConnId, Conn>,
}

/// A registered connection.
#[derive(Debug)]
struct Conn {
    share: ShareId,
    id: PeerId,
    /// Our address that the peer reached.
    local: IpAddr,
    /// Where the peer connects from.
    remote: IpAddr,
    /// When it has been silent for too long.
    deadline: Duration,
    /// The time at which its announces so far would all have been due at the pace.
    paid_until: Duration,
    unknown: u32,
    complete: bool,
}

/// The peers of one share.
#[derive(Debug, Default)]
struct Swarm {
    all: Crowd,
    /// Those that listen, and so are listed.
    listed: Crowd,
    /// Those of them that hold every piece.
    complete: Crowd,
}

impl Registry {
    /// Nobody registered.
    pub fn new(rules: Rules) -> Self {
        Self { rules, swarms: HashMap::new(), conns: HashMap::new() }
    }

    /// Takes in what happened on a connection, and puts what is to be done into `actions`.
    /// `now` counts from any fixed moment.
    pub fn handle(
        &mut self,
        now: Duration,
        conn: ConnId,
        input: Input,
        rng: &mut fastrand::Rng,
        actions: &mut Vec<Action>,
    ) {
        let outcome = match input {
            Input::Register { register, remote, local } => {
                self.register(now, conn, &register, (remote.ip(), local), rng, actions)
            }
            Input::Message(message) => self.message(now, conn, &message, rng, actions),
            Input::Deadline => self.check_deadline(now, conn),
            Input::Closed => {
                self.forget(conn);
                Ok(())
            }
        };
        if let Err(reason) = outcome {
            self.forget(conn);
            actions.push(Action::Close { conn, reason });
        }
    }

    /// When the connection must be heard of at the latest; `None` if it is not registered.
    pub fn deadline(&self, conn: ConnId) -> Option<Duration> {
        self.conns.get(&conn).map(|conn| conn.deadline)
    }

    /// How much is kept.
    pub fn summary(&self) -> Summary {
        Summary {
            shares: self.swarms.len(),
            peers: self.conns.len(),
            complete: self.conns.values().filter(|conn| conn.complete).count(),
        }
    }

    fn register(
        &mut self,
        now: Duration,
        conn: ConnId,
        register: &Register,
        (remote, local): (IpAddr, IpAddr),
        rng: &mut fastrand::Rng,
        actions: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        if self.conns.contains_key(&conn) {
            return Err(CloseReason::RegisteredTwice);
        }
        if register.version != PROTOCOL_VERSION {
            return Err(CloseReason::Version);
        }
        let (remote, local) = (remote.to_canonical(), local.to_canonical());
        let Register { id, share, port, complete, .. } = *register;
        self.replace_older(share, id, remote, actions)?;
        self.check_room(share, remote)?;
        let addr = PeerAddr { id, ip: remote, port };
        self.swarms.entry(share).or_default().insert(Member { conn, addr }, complete);
        let deadline = now + self.silence_max();
        let paid_until = now;
        let kept = Conn { share, id, local, remote, deadline, paid_until, unknown: 0, complete };
        self.conns.insert(conn, kept);
        self.send_list(conn, rng, actions);
        self.push_newcomer(share, addr, rng, actions);
        Ok(())
    }

    /// Makes way for a peer that registers again.
    ///
    /// A peer whose connection broke may come back before we notice; its old registration would
    /// lock it out. But an id is no secret, every peer list tells it: if anybody could take over
    /// a live registration, one stranger could unlist a whole swarm. So only the address that
    /// holds an id may replace it.
    fn replace_older(
        &mut self,
        share: ShareId,
        id: PeerId,
        remote: IpAddr,
        actions: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let older = self.swarms.get(&share).and_then(|swarm| swarm.all.get(id));
        if let Some(Member { conn, addr }) = older {
            if addr.ip != remote {
                return Err(CloseReason::IdTaken);
            }
            self.forget(conn);
            actions.push(Action::Close { conn, reason: CloseReason::Replaced });
        }
        Ok(())
    }

    fn check_room(&self, share: ShareId, remote: IpAddr) -> Result<(), CloseReason> {
        let has_room = match self.swarms.get(&share) {
            None => self.swarms.len() < limits::TRACKER_SHARES_MAX,
            Some(swarm) => swarm.has_room_for(remote),
        };
        if has_room { Ok(()) } else { Err(CloseReason::Full) }
    }

    fn message(
        &mut self,
        now: Duration,
        conn: ConnId,
        message: &Message,
        rng: &mut fastrand::Rng,
        actions: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let silence_max = self.silence_max();
        // A message may cross with our closing of the connection.
        let Some(kept) = self.conns.get_mut(&conn) else { return Ok(()) };
        match message {
            Message::Announce { id, complete } if *id == kept.id => {
                kept.pay_for_announce(now)?;
                kept.deadline = now + silence_max;
                if kept.complete != *complete {
                    kept.complete = *complete;
                    if let Some(swarm) = self.swarms.get_mut(&kept.share) {
                        swarm.note_complete(*id, *complete);
                    }
                }
                self.send_list(conn, rng, actions);
                Ok(())
            }
            Message::Goodbye { id, .. } if *id == kept.id => Err(CloseReason::Goodbye),
            Message::Announce { .. } | Message::Goodbye { .. } => Err(CloseReason::IdChanged),
            Message::KeepAlive => Ok(()),
            Message::Unknown if kept.unknown < limits::UNKNOWN_MESSAGES_MAX => {
                kept.unknown += 1;
                Ok(())
            }
            Message::Register(_) => Err(CloseReason::RegisteredTwice),
            _ => Err(CloseReason::Unexpected),
        }
    }

    fn check_deadline(&self, now: Duration, conn: ConnId) -> Result<(), CloseReason> {
        match self.conns.get(&conn) {
            Some(kept) if kept.deadline <= now => Err(CloseReason::Silent),
            _ => Ok(()),
        }
    }

    fn silence_max(&self) -> Duration {
        self.rules.interval * limits::SILENT_INTERVALS_MAX
    }

    /// Answers a registration or an announce.
    fn send_list(&self, conn: ConnId, rng: &mut fastrand::Rng, actions: &mut Vec<Action>) {
        let Some(asker) = self.conns.get(&conn) else { return };
        let Some(swarm) = self.swarms.get(&asker.share) else { return };
        let chosen = swarm.list_for(asker, self.rules.mode, rng);
        let peers = chosen.into_iter().map(|member| asker.sees(member.addr)).collect();
        let interval = u32::try_from(self.rules.interval.as_secs()).unwrap_or(u32::MAX);
        actions.push(Action::Send { conn, message: Message::PeerList { peers, interval } });
    }

    /// Tells peers that are already there of one that has come.
    fn push_newcomer(
        &self,
        share: ShareId,
        newcomer: PeerAddr,
        rng: &mut fastrand::Rng,
        actions: &mut Vec<Action>,
    ) {
        let Some(swarm) = self.swarms.get(&share) else { return };
        if newcomer.port == 0 {
            return;
        }
        for Member { conn, .. } in swarm.all.others_of(newcomer.id, self.rules.mode.push_len(), rng)
        {
            if let Some(told) = self.conns.get(&conn) {
                let message = Message::NewPeer(told.sees(newcomer));
                actions.push(Action::Send { conn, message });
            }
        }
    }

    fn forget(&mut self, conn: ConnId) {
        let Some(Conn { share, id, .. }) = self.conns.remove(&conn) else { return };
        if let Entry::Occupied(mut swarm) = self.swarms.entry(share) {
            swarm.get_mut().remove(id);
            if swarm.get().all.len() == 0 {
                swarm.remove();
            }
        }
    }
}

impl Conn {
    /// A peer's address as this one can reach it. A peer on the tracker's own machine (above all
    /// the seeder around an embedded tracker) registers from loopback; to others it is where the
    /// tracker is.
    fn sees(&self, mut peer: PeerAddr) -> PeerAddr {
        if is_this_machine(peer.ip) && !is_this_machine(self.remote) {
            peer.ip = self.local;
        }
        peer
    }

    fn pay_for_announce(&mut self, now: Duration) -> Result<(), CloseReason> {
        let due = self.paid_until.max(now) + ANNOUNCE_PACE;
        if due > now + ANNOUNCE_PACE * limits::ANNOUNCE_BURST {
            return Err(CloseReason::TooManyAnnounces);
        }
        self.paid_until = due;
        Ok(())
    }
}

impl Swarm {
    fn has_room_for(&self, remote: IpAddr) -> bool {
        let fair = self.all.of_network(remote) < limits::TRACKER_PEERS_PER_ADDR_MAX
            || is_this_machine(remote);
        fair && self.all.len() < limits::TRACKER_PEERS_MAX
    }

    /// Adds a member whose id is not here yet.
    fn insert(&mut self, member: Member, complete: bool) {
        self.all.insert(member);
        if member.addr.port != 0 {
            self.listed.insert(member);
        }
        self.note_complete(member.addr.id, complete);
    }

    fn remove(&mut self, id: PeerId) {
        for crowd in [&mut self.all, &mut self.listed, &mut self.complete] {
            crowd.remove(id);
        }
    }

    /// A member holds every piece by now, or no longer.
    fn note_complete(&mut self, id: PeerId, complete: bool) {
        self.complete.remove(id);
        if let Some(member) = self.listed.get(id).filter(|_| complete) {
            self.complete.insert(member);
        }
    }

    /// Whom to tell `asker` of. Whoever lacks something is told of some that hold everything,
    /// for among thousands that have just come they would not be found by chance.
    fn list_for(&self, asker: &Conn, mode: Mode, rng: &mut fastrand::Rng) -> Vec<Member> {
        let len = mode.list_len();
        let seeders = if asker.complete { 0 } else { mode.seeders_listed() };
        let mut chosen = self.complete.others_of(asker.id, seeders, rng);
        let known: HashSet<PeerId> = chosen.iter().map(|member| member.addr.id).collect();
        let others = self.listed.others_of(asker.id, len, rng).into_iter();
        chosen.extend(others.filter(|member| !known.contains(&member.addr.id)));
        chosen.truncate(len);
        chosen
    }
}

fn is_this_machine(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Destination;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const SHARE: ShareId = ShareId([9; 32]);

    /// A tracker, its connections by number, and what it has last wanted done.
    struct Table {
        registry: Registry,
        rng: fastrand::Rng,
        now: Duration,
        actions: Vec<Action>,
    }

    impl Table {
        fn new(mode: Mode) -> Self {
            let rules = Rules { mode, ..Rules::default() };
            let (registry, rng) = (Registry::new(rules), fastrand::Rng::with_seed(5));
            Self { registry, rng, now: Duration::from_secs(1000), actions: Vec::new() }
        }

        fn input(&mut self, conn: u64, input: Input) -> &[Action] {
            self.actions.clear();
            self.registry.handle(self.now, ConnId(conn), input, &mut self.rng, &mut self.actions);
            &self.actions
        }

        fn message(&mut self, conn: u64, message: Message) -> &[Action] {
            self.input(conn, Input::Message(message))
        }

        /// Peer `number` registers on the connection of that number, from its own address.
        fn join(&mut self, number: u64) -> &[Action] {
            let remote = format!("10.0.{}.{}", number / 250, number % 250 + 1);
            self.join_as(number, number, &remote)
        }

        fn join_as(&mut self, conn: u64, peer: u64, remote: &str) -> &[Action] {
            self.register(conn, register(peer), remote, "192.0.2.1")
        }

        fn register(
            &mut self,
            conn: u64,
            register: Register,
            remote: &str,
            local: &str,
        ) -> &[Action] {
            let remote = SocketAddr::new(remote.parse().unwrap(), 50_000);
            self.input(conn, Input::Register { register, remote, local: local.parse().unwrap() })
        }

        /// The list that was sent on the connection.
        fn list(&self, conn: u64) -> Vec<PeerAddr> {
            let mut lists = self.actions.iter().filter_map(|action| match action {
                Action::Send { conn: ConnId(to), message: Message::PeerList { peers, .. } }
                    if *to == conn =>
                {
                    Some(peers.clone())
                }
                _ => None,
            });
            lists.next_back().expect("no list was sent")
        }

        /// The numbers of the peers in that list.
        fn listed(&self, conn: u64) -> BTreeSet<u64> {
            self.list(conn).iter().map(|peer| peer.id.short().parse().unwrap()).collect()
        }

        /// The connections that were told of a newcomer.
        fn told(&self) -> BTreeSet<u64> {
            let told = self.actions.iter().filter_map(|action| match action {
                Action::Send { conn, message: Message::NewPeer(_) } => Some(conn.0),
                _ => None,
            });
            told.collect()
        }
    }

    fn register(peer: u64) -> Register {
        let id = PeerId::numbered(peer);
        Register { port: 4000, ..Register::new(id, SHARE, Destination::Tracker) }
    }

    fn announce(peer: u64) -> Message {
        Message::Announce { id: PeerId::numbered(peer), complete: false }
    }

    fn closed(conn: u64, reason: CloseReason) -> [Action; 1] {
        [Action::Close { conn: ConnId(conn), reason }]
    }

    #[test]
    fn the_classic_rule_lists_four_random_others_or_all_if_there_are_fewer_than_five() {
        for (peers, listed) in [(1, 0), (4, 3), (5, 4), (6, 4), (20, 4)] {
            let mut table = Table::new(Mode::Classic);
            for peer in 0..peers {
                table.join(peer);
            }
            let last = peers - 1;
            let list = table.listed(last);
            assert_eq!(list.len(), listed, "{peers} peers");
            assert!(!list.contains(&last), "it was told of itself");
            let everybody_else: BTreeSet<_> = (0..last).collect();
            assert_eq!(table.told(), everybody_else, "everybody is told of the newcomer");
        }
    }

    #[test]
    fn over_many_announces_the_classic_rule_lists_every_other_peer() {
        let mut table = Table::new(Mode::Classic);
        for peer in 0..6 {
            table.join(peer);
        }
        let mut seen = BTreeMap::new();
        for _ in 0..500 {
            table.now += Duration::from_secs(1);
            table.message(5, announce(5));
            let list = table.listed(5);
            assert_eq!(list.len(), 4);
            list.into_iter().for_each(|peer| *seen.entry(peer).or_insert(0) += 1);
        }
        // 400 times each are expected; 45 is five standard deviations.
        assert_eq!(seen.len(), 5);
        assert!(seen.values().all(|times| (355..=445).contains(times)), "{seen:?}");
    }

    #[test]
    fn in_a_mesh_everybody_is_told_of_everybody() {
        let mut table = Table::new(Mode::Mesh);
        for peer in 0..40 {
            table.join(peer);
            assert_eq!(table.listed(peer), (0..peer).collect());
            assert_eq!(table.told(), (0..peer).collect());
        }
    }

    #[test]
    fn a_join_to_a_swarm_of_ten_thousand_sends_a_sample_and_a_few_pushes() {
        let mut table = Table::new(Mode::Sampled { sample: 30, push: 8 });
        for peer in 0..10_000 {
            table.join(peer);
        }
        assert_eq!(table.listed(9_999).len(), 30);
        assert_eq!(table.told().len(), 8);
        assert_eq!(table.registry.summary().peers, 10_000);
    }

    #[test]
    fn a_list_never_has_more_than_its_cap() {
        let mut table = Table::new(Mode::Mesh);
        let extra = 5;
        for peer in 0..limits::PEER_LIST_MAX as u64 + extra {
            table.join(peer);
        }
        table.message(0, announce(0));
        assert_eq!(table.listed(0).len(), limits::PEER_LIST_MAX);
    }

    #[test]
    fn a_peer_that_does_not_listen_is_told_of_others_and_never_listed() {
        let mut table = Table::new(Mode::Mesh);
        table.join(0);
        table.register(1, Register { port: 0, ..register(1) }, "10.0.0.2", "192.0.2.1");
        assert_eq!(table.listed(1), BTreeSet::from([0]));
        assert_eq!(table.told(), BTreeSet::new());
        table.join(2);
        assert_eq!(table.listed(2), BTreeSet::from([0]));
        assert_eq!(table.told(), BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_peer_on_the_trackers_machine_is_listed_where_the_asker_found_the_tracker() {
        let mut table = Table::new(Mode::Mesh);
        table.register(0, register(0), "127.0.0.1", "127.0.0.1");
        table.register(1, register(1), "::ffff:10.0.0.2", "::ffff:192.0.2.1");
        assert_eq!(table.list(1)[0].socket_addr().to_string(), "192.0.2.1:4000");
        table.register(2, register(2), "2001:db8::2", "2001:db8::1");
        let ips: BTreeSet<_> = table.list(2).iter().map(|peer| peer.ip.to_string()).collect();
        assert_eq!(ips, BTreeSet::from(["10.0.0.2".to_owned(), "2001:db8::1".to_owned()]));
        // Another peer on that machine reaches it by loopback.
        table.register(3, register(3), "127.0.0.1", "127.0.0.1");
        let ips: BTreeSet<_> = table.list(3).iter().map(|peer| peer.ip.to_string()).collect();
        let seen = ["10.0.0.2", "127.0.0.1", "2001:db8::2"].map(String::from);
        assert_eq!(ips, BTreeSet::from(seen));
        // And a push of it to the others says where they reach the tracker.
        let pushed = table.actions.iter().filter_map(|action| match action {
            Action::Send { conn, message: Message::NewPeer(peer) } => {
                Some((conn.0, peer.ip.to_string()))
            }
            _ => None,
        });
        let wanted = [(0, "127.0.0.1"), (1, "192.0.2.1"), (2, "2001:db8::1")];
        let wanted = wanted.map(|(conn, ip)| (conn, ip.to_owned()));
        assert_eq!(pushed.collect::<BTreeSet<_>>(), BTreeSet::from(wanted));
    }

    #[test]
    fn shares_are_kept_apart() {
        let mut table = Table::new(Mode::Mesh);
        table.join(0);
        let other = Register { share: ShareId([1; 32]), ..register(1) };
        table.register(1, other, "10.0.0.2", "192.0.2.1");
        assert!(table.list(1).is_empty());
        assert!(table.told().is_empty());
        assert_eq!(table.registry.summary(), Summary { shares: 2, peers: 2, complete: 0 });
    }

    #[test]
    fn a_peer_that_comes_again_from_its_address_replaces_its_older_connection() {
        let mut table = Table::new(Mode::Mesh);
        table.join_as(1, 7, "10.0.0.7");
        let actions = table.join_as(2, 7, "10.0.0.7");
        assert_eq!(actions[0], closed(1, CloseReason::Replaced)[0]);
        assert_eq!(table.registry.summary().peers, 1);
        // The end of the older connection takes nothing of the newer one away.
        table.input(1, Input::Closed);
        assert_eq!(table.registry.summary().peers, 1);
    }

    #[test]
    fn a_stranger_cannot_take_over_an_id_until_its_connection_has_closed() {
        let mut table = Table::new(Mode::Mesh);
        table.join_as(1, 7, "10.0.0.7");
        assert_eq!(table.join_as(2, 7, "10.0.0.8"), closed(2, CloseReason::IdTaken));
        table.input(1, Input::Closed);
        assert!(matches!(table.join_as(3, 7, "10.0.0.8"), [Action::Send { .. }]));
    }

    #[test]
    fn a_connection_registers_once_and_speaks_in_its_own_name() {
        let goodbye = |peer| Message::Goodbye { id: PeerId::numbered(peer), reason: None };
        for (message, reason) in [
            (Message::Register(register(0)), CloseReason::RegisteredTwice),
            (announce(1), CloseReason::IdChanged),
            (goodbye(1), CloseReason::IdChanged),
            (Message::Unchoke, CloseReason::Unexpected),
            (goodbye(0), CloseReason::Goodbye),
        ] {
            let mut table = Table::new(Mode::Mesh);
            table.join(0);
            assert_eq!(table.message(0, message), closed(0, reason));
            assert_eq!(table.registry.summary(), Summary::default());
        }
        let mut table = Table::new(Mode::Mesh);
        table.join(0);
        assert_eq!(table.join(0), closed(0, CloseReason::RegisteredTwice));
    }

    #[test]
    fn another_version_is_refused() {
        let mut table = Table::new(Mode::Mesh);
        let future = Register { version: PROTOCOL_VERSION + 1, ..register(0) };
        let actions = table.register(0, future, "10.0.0.1", "192.0.2.1");
        assert_eq!(actions, closed(0, CloseReason::Version));
    }

    #[test]
    fn a_few_messages_of_later_versions_are_ignored_and_a_flood_is_not() {
        let mut table = Table::new(Mode::Mesh);
        table.join(0);
        for _ in 0..limits::UNKNOWN_MESSAGES_MAX {
            assert_eq!(table.message(0, Message::Unknown), []);
        }
        assert_eq!(table.message(0, Message::Unknown), closed(0, CloseReason::Unexpected));
    }

    #[test]
    fn three_intervals_without_an_announce_end_a_connection() {
        let mut table = Table::new(Mode::Mesh);
        table.join(0);
        let first = table.registry.deadline(ConnId(0)).unwrap();
        assert_eq!(first, table.now + Duration::from_secs(90));
        table.now += Duration::from_secs(30);
        table.message(0, announce(0));
        table.now = first;
        assert_eq!(table.input(0, Input::Deadline), [], "it has announced since");
        table.message(0, Message::KeepAlive);
        table.now = table.registry.deadline(ConnId(0)).unwrap();
        assert_eq!(table.now, first + Duration::from_secs(30));
        assert_eq!(table.input(0, Input::Deadline), closed(0, CloseReason::Silent));
        assert_eq!(table.registry.deadline(ConnId(0)), None);
    }

    #[test]
    fn a_burst_of_announces_is_answered_and_a_flood_ends_the_connection() {
        let mut table = Table::new(Mode::Mesh);
        table.join(0);
        for _ in 0..limits::ANNOUNCE_BURST {
            assert!(matches!(table.message(0, announce(0)), [Action::Send { .. }]));
        }
        table.now += ANNOUNCE_PACE;
        assert!(matches!(table.message(0, announce(0)), [Action::Send { .. }]));
        assert_eq!(table.message(0, announce(0)), closed(0, CloseReason::TooManyAnnounces));
    }

    #[test]
    fn one_address_cannot_fill_a_share_and_the_trackers_own_machine_may() {
        let mut table = Table::new(Mode::Sampled { sample: 1, push: 1 });
        let max = limits::TRACKER_PEERS_PER_ADDR_MAX as u64;
        // One /64 network is one address.
        for peer in 0..max {
            table.join_as(peer, peer, &format!("2001:db8::{peer:x}"));
        }
        assert_eq!(table.join_as(max, max, "2001:db8::ffff"), closed(max, CloseReason::Full));
        for peer in max..=2 * max {
            assert!(matches!(table.join_as(peer, peer, "127.0.0.1")[0], Action::Send { .. }));
        }
        table.input(0, Input::Closed);
        let actions = table.join_as(9_999, 9_999, "2001:db8::ffff");
        assert!(matches!(actions[0], Action::Send { .. }));
    }

    #[test]
    fn whoever_lacks_something_is_told_of_those_who_hold_everything_however_many_others_come() {
        let mut table = Table::new(Mode::Sampled { sample: 8, push: 1 });
        for peer in 100..1100 {
            table.join_as(peer, peer, "127.0.0.1");
        }
        let seeder = Register { complete: true, ..register(0) };
        table.register(0, seeder, "127.0.0.1", "127.0.0.1");
        table.join_as(1, 1, "127.0.0.1");
        assert_eq!(table.listed(1).len(), 8);
        assert!(table.listed(1).contains(&0));
        // It holds everything no longer, and is one of a thousand.
        table.message(0, announce(0));
        let is_listed = |table: &mut Table| {
            table.now += ANNOUNCE_PACE;
            table.message(1, announce(1));
            table.listed(1).contains(&0)
        };
        let times = (0..50).filter(|_| is_listed(&mut table)).count();
        assert!(times < 10, "{times} times of 50");
    }

    #[test]
    fn a_tracker_takes_only_so_many_shares() {
        let mut table = Table::new(Mode::Mesh);
        let max = limits::TRACKER_SHARES_MAX as u64;
        let share = |number: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            Register { share: ShareId(id), ..register(0) }
        };
        for number in 0..max {
            table.register(number, share(number), "10.0.0.1", "192.0.2.1");
        }
        let actions = table.register(max, share(max), "10.0.0.1", "192.0.2.1");
        assert_eq!(actions, closed(max, CloseReason::Full));
        table.input(0, Input::Closed);
        table.register(max + 1, share(max), "10.0.0.1", "192.0.2.1");
        assert_eq!(table.registry.summary().shares, limits::TRACKER_SHARES_MAX);
    }

    #[derive(Clone, Debug)]
    enum Op {
        Join { conn: u64, peer: u64, share: u8, port: u16, addr: u8 },
        Announce { conn: u64, peer: u64 },
        Close { conn: u64 },
        Pass { seconds: u64 },
        Deadline { conn: u64 },
    }

    fn op() -> impl Strategy<Value = Op> {
        let conn = 0u64..12;
        prop_oneof![
            4 => (conn.clone(), 0u64..8, 0u8..2, 0u16..2, 1u8..4).prop_map(
                |(conn, peer, share, port, addr)| Op::Join { conn, peer, share, port, addr }
            ),
            2 => (conn.clone(), 0u64..8).prop_map(|(conn, peer)| Op::Announce { conn, peer }),
            2 => conn.clone().prop_map(|conn| Op::Close { conn }),
            1 => (0u64..60).prop_map(|seconds| Op::Pass { seconds }),
            1 => conn.prop_map(|conn| Op::Deadline { conn }),
        ]
    }

    proptest! {
        /// A plain map from connections to registrations judges the registry's tables.
        #[test]
        fn whatever_happens_lists_name_exactly_the_others_of_the_share_that_listen(
            ops in prop::collection::vec(op(), 1..80),
        ) {
            let mut table = Table::new(Mode::Mesh);
            // conn -> (share, peer, port)
            let mut plain: BTreeMap<u64, (u8, u64, u16)> = BTreeMap::new();
            for op in ops {
                let conn = match op {
                    Op::Join { conn, peer, share, port, addr } => {
                        let register =
                            Register { share: ShareId([share; 32]), port, ..register(peer) };
                        table.register(conn, register, &format!("10.0.0.{addr}"), "192.0.2.1");
                        let registered = table.actions.iter().any(|action| {
                            matches!(action, Action::Send { conn: to, .. } if to.0 == conn)
                        });
                        if registered {
                            plain.insert(conn, (share, peer, port));
                        }
                        conn
                    }
                    Op::Announce { conn, peer } => {
                        table.message(conn, announce(peer));
                        conn
                    }
                    Op::Close { conn } => {
                        table.input(conn, Input::Closed);
                        plain.remove(&conn);
                        continue;
                    }
                    Op::Pass { seconds } => {
                        table.now += Duration::from_secs(seconds);
                        continue;
                    }
                    Op::Deadline { conn } => {
                        table.input(conn, Input::Deadline);
                        conn
                    }
                };
                for action in &table.actions {
                    match action {
                        Action::Close { conn, .. } => {
                            plain.remove(&conn.0);
                        }
                        Action::Send { conn, message: Message::NewPeer(peer) } => {
                            prop_assert!(plain.contains_key(&conn.0));
                            prop_assert_ne!(peer.id, PeerId::numbered(plain[&conn.0].1));
                        }
                        Action::Send { .. } => {}
                    }
                }
                let sent_list = table.actions.iter().any(|action| {
                    matches!(action, Action::Send { message: Message::PeerList { .. }, .. })
                });
                if sent_list {
                    let (share, itself, _) = plain[&conn];
                    let others: BTreeSet<_> = plain
                        .values()
                        .filter(|peer| peer.0 == share && peer.1 != itself && peer.2 != 0)
                        .map(|peer| peer.1)
                        .collect();
                    prop_assert_eq!(table.listed(conn), others);
                }
                prop_assert_eq!(table.registry.summary().peers, plain.len());
                let shares: BTreeSet<_> = plain.values().map(|peer| peer.0).collect();
                prop_assert_eq!(table.registry.summary().shares, shares.len());
            }
        }
    }
}
