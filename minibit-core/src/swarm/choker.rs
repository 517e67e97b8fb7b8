//! Whom we answer: the choker, as a value.
//!
//! Every [`ROUND`] it ranks the peers that are interested in us and gives out regular and
//! optimistic slots; between rounds it only fills slots that are free, at once. A slot nobody
//! wants costs nothing, a slot kept free for ten seconds costs ten seconds.
//!
//! The rules:
//! - Only interested peers have slots. Whoever leaves, loses interest, or (unless we are
//!   complete) is snubbed loses a regular slot at once. A slot that is not used for two seconds
//!   goes to another, if any wait.
//! - A piece that was begun is sent to its end even if its peer is choked; until then the slot is
//!   not free. Else each change would add to what the link carries at a time.
//! - Who stands better ([`Standing`]) comes first, and need not wait for a round: who gives before those who had no
//!   chance yet, those before who had one and gives nothing. A seeder goes by what peers pass on,
//!   a receiver by what it got from them: in the last two rounds to be a giver, ever to be no
//!   taker. Once a receiver is complete, what it got counts for as long as the link lasts.
//! - A standing outlives its link: what passed before counts too ([`Past`]).
//! - Who only takes is left out while others keep the link busy, but for a twentieth of what we
//!   send. So it is with those who had no chance yet at a seeder that knows enough who pass on.
//! - Among equals **Contribution** ranks by bytes verified from the peer in the last two rounds and
//!   since, takers by how much they hold (others found them worth it); **Rarity** by how many
//!   rare pieces it holds; **Seeder** (always, once we are complete) gives everybody a turn: who
//!   waits longest comes next, who was answered longest goes.
//! - Calm: in a round at most one regular slot is taken from a peer that uses it and has done nothing
//!   to lose it, for one that stands better or, when the round begins, ranks better; never for an
//!   equal one. All others wait for the rounds to come. Who was sent something and has shown nothing
//!   for it, or only takes, goes at once and is not counted.
//! - The optimistic slots go to those who had no chance yet, then to those to whom we owe most, for
//!   three rounds or until they have shown nothing for it. A tried peer that ranks well enough
//!   moves to a regular slot, and another is tried at once.
//! - [`Slots::Auto`] sets the number of regular slots by what the link carries (`slots`).
//!
//! Invariant: never more peers unchoked than regular and optimistic slots, never one that is
//! not interested, and a reported change is a real change.
//! Not here: messages, measuring, the clock. The caller acts on the changes; it may call
//! [`Choker::tick`] at any event as well as on time.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;

use super::slack::Slack;
use super::slots::{Auto, per_second};
use super::{Past, Standing};

/// Time between two full rounds.
pub const ROUND: Duration = Duration::from_secs(10);

/// A peer that was sent a piece, and after so long has given back less than one part in so many,
/// only takes.
const TAKER_AFTER: Duration = Duration::from_secs(1);
const TAKER_PART: u64 = 10;
/// Of all that we send, those who only take get one part in so many, by chance.
const CHANCE_PART: u64 = 20;
/// Half of the regular slots keep a link busy, but no fewer than so many.
const BUSY_MIN: usize = 2;
/// A peer that takes nothing for so long while others wait gives its slot to one of them.
const IDLE: Duration = Duration::from_secs(2);
/// The same while nobody waits for it costs the slot's holder no more than the right to its place.
const UNUSED: Duration = Duration::from_secs(5);
/// And waits for so long before it comes in turn again.
const BENCHED: Duration = ROUND;
/// For so long the rest of a piece may hold up a slot after a choke: who fetches it byte by byte
/// shall not keep others out.
const LEAVING_MAX: Duration = ROUND.saturating_mul(3);
/// How long an optimistic slot is kept.
const TRIAL: Duration = ROUND.saturating_mul(3);

/// Slots that are moved in a round at most.
const MOVES_MAX: usize = 1;
/// Rounds are told apart by up to so many moves, less one.
const MOVES_COUNTED: usize = 17;
/// Number of rounds in which none, one, two, … slots were moved.
pub type MovesByRound = [u32; MOVES_COUNTED];

/// Names one link for as long as it lives; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// How peers are ranked for regular slots while we are not complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ChokePolicy {
    /// By the bytes verified from them in the last rounds: tit for tat.
    #[default]
    Contribution,
    /// By how many rare pieces they hold.
    Rarity,
    /// Everybody in turn. Used whatever the setting once we are complete.
    Seeder,
}

/// How many peers are answered at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Slots {
    /// So many; 4 and 1 is the classic setting.
    Fixed {
        /// Slots by rank.
        regular: usize,
        /// Slots by chance.
        optimistic: usize,
    },
    /// One optimistic slot, and 4 to 128 regular ones after what the link carries (see
    /// `swarm/slots.rs`).
    #[default]
    Auto,
}

/// What the choker looks at of one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its link.
    pub id: LinkId,
    /// It wants something that we hold.
    pub interested: bool,
    /// Bytes it sent us in pieces that proved right, over this link.
    pub verified_from: u64,
    /// Bytes we sent it over this link.
    pub uploaded_to: u64,
    /// How many pieces it holds.
    pub held: u32,
    /// How many rare pieces it holds ([`Ledger::rare_held`](super::Ledger::rare_held)); only
    /// looked at by [`ChokePolicy::Rarity`].
    pub rare_pieces: u32,
    /// A piece is being sent to it that is not all out. It is sent to its end even if we choke it.
    pub amid_piece: bool,
    /// A block that it has asked for waits for its connection to take it.
    pub in_hand: bool,
    /// When it last took any payload from us; its joining, if it never did.
    pub took_at: Duration,
    /// It let us down, and has delivered nothing since.
    pub snubbed: bool,
    /// What passed over earlier links with it.
    pub past: Past,
    /// How it stands by what it passes on ([`Guide::standing`](super::Guide::standing)), if we
    /// can tell; else it is judged here, by what it gave us.
    pub passes_on: Option<Standing>,
}

impl PeerView {
    /// Bytes we sent it, over earlier links too.
    fn taken(&self) -> u64 {
        self.past.taken + self.uploaded_to
    }

    /// Bytes it sent us, over earlier links too.
    fn given(&self) -> u64 {
        self.past.given + self.verified_from
    }
}

/// Which slot a peer has, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// Choked; waiting, if it is interested.
    None,
    Regular,
    Optimistic,
}

#[derive(Clone, Debug)]
struct PeerState {
    /// What was seen of it last.
    view: PeerView,
    slot: Slot,
    /// When `slot` (or, of one without, the wait for one) began.
    since: Duration,
    /// It was answered before the decision that is being made.
    was_answered: bool,
    /// Choked with a piece under way, which still takes the place of this slot.
    leaving: Slot,
    left_at: Duration,
    /// `verified_from` at the last three rounds, the oldest first.
    verified_marks: [u64; 3],
    /// `uploaded_to` at the last round.
    uploaded_mark: u64,
    /// When it was first seen to have taken anything.
    taking_since: Option<Duration>,
    standing: Standing,
    /// Until then it comes after all others, for it did not use its slot.
    benched_until: Duration,
    /// When it last lost a slot for that, if it has taken nothing since.
    let_pass_at: Option<Duration>,
}

/// Decides whom we answer; see the module's header.
#[derive(Clone, Debug)]
pub struct Choker {
    policy: ChokePolicy,
    slots: Slots,
    piece_len: u64,
    auto: Auto,
    slack: Slack,
    /// See [`Self::note_handed_over`].
    handed_over: u64,
    /// Ascending by link. In one piece and found by their place, for a decision goes over all of
    /// them many times.
    peers: Vec<PeerState>,
    last_round: Option<Duration>,
    /// Slots moved in this round (see [`Self::moves`]), and the rounds before by how many were.
    moved: usize,
    rounds: MovesByRound,
    /// Who stands worse is answered only as far as it needs them to keep the link busy.
    trusted_from: Standing,
}

impl Choker {
    /// A choker that knows nobody yet, for a share of pieces of so many bytes.
    pub fn new(policy: ChokePolicy, slots: Slots, piece_len: u32) -> Self {
        let auto = Auto::new(piece_len);
        let piece_len = piece_len.into();
        Self {
            policy,
            slots,
            piece_len,
            auto,
            slack: Slack::default(),
            handed_over: 0,
            peers: Vec::new(),
            last_round: None,
            moved: 0,
            rounds: [0; MOVES_COUNTED],
            trusted_from: Standing::New,
        }
    }

    /// When the next full round is due; now, if there was none yet.
    pub fn next_round(&self) -> Duration {
        self.last_round.map_or(Duration::ZERO, |last| last + ROUND)
    }

    /// So many payload bytes have been handed to all connections by now, those of peers that left included.
    /// To be told before [`Self::tick`].
    pub fn note_handed_over(&mut self, bytes: u64) {
        self.handed_over = bytes;
    }

    /// When to decide again between rounds, if nothing happens before: there may be more slots.
    pub fn next_look(&self) -> Option<Duration> {
        self.auto.next_look()
    }

    /// Whether the peer is unchoked at the moment.
    pub fn is_unchoked(&self, id: LinkId) -> bool {
        self.place_of(id).is_ok_and(|at| self.peers[at].is_answered())
    }

    /// Whether the peer was offered a slot, did not use it, and has taken nothing since; or has one for
    /// long, of which it makes no use.
    pub fn lets_slots_pass(&self, now: Duration, id: LinkId) -> bool {
        self.place_of(id).is_ok_and(|at| {
            let peer = &self.peers[at];
            let unused = peer.is_answered() && now >= peer.might_take_from() + UNUSED;
            unused || peer.let_pass_at.is_some()
        })
    }

    /// Rounds, the one that goes on included, by how many regular slots were taken in them from peers
    /// that used them, for others' sake; the last number stands for that many or more. A slot that
    /// fell free, or whose holder showed nothing for what it was sent, was not moved.
    pub fn moves(&self) -> MovesByRound {
        let mut rounds = self.rounds;
        rounds[self.moved.min(MOVES_COUNTED - 1)] += u32::from(self.last_round.is_some());
        rounds
    }

    /// How many regular and optimistic slots there are at the moment.
    pub fn slots(&self) -> (usize, usize) {
        match self.slots {
            Slots::Fixed { regular, optimistic } => (regular, optimistic),
            Slots::Auto => (self.auto.regular(), 1),
        }
    }

    /// Whether a slot is free, so that a peer that joins interested is unchoked at once.
    pub fn has_free_slot(&self) -> bool {
        let (regular, optimistic) = self.slots();
        self.taken(Slot::Regular) + self.taken(Slot::Optimistic) < regular + optimistic
    }

    /// Slots of a kind that are not free: those of peers that are choked and get the rest of a
    /// piece are not yet.
    fn taken(&self, kind: Slot) -> usize {
        self.peers.iter().filter(|peer| peer.slot == kind || peer.leaving == kind).count()
    }

    /// Where a peer is among those we know; if it is not, where it belongs.
    fn place_of(&self, id: LinkId) -> Result<usize, usize> {
        self.peers.binary_search_by_key(&id, |peer| peer.view.id)
    }

    /// Whether [`PeerView::rare_pieces`] is looked at.
    pub fn looks_at_rarity(&self, complete: bool) -> bool {
        !complete && self.policy == ChokePolicy::Rarity
    }

    /// Decides again: a full round if one is due, else only what cannot wait (a slot became
    /// free, a peer came, left or changed its interest). `peers` are all links there are, each
    /// once, in any order (fastest if ascending); `complete` says that we hold all we want. Returns
    /// the peers to unchoke (true) and to choke (false), ascending. Time must not go backwards.
    pub fn tick(
        &mut self,
        now: Duration,
        complete: bool,
        peers: &[PeerView],
        rng: &mut Rng,
    ) -> Vec<(LinkId, bool)> {
        let policy = if complete { ChokePolicy::Seeder } else { self.policy };
        let due = now >= self.next_round();
        if due {
            self.begin_round();
        }
        self.take_note(now, due, policy, peers);
        let passing_on_shows = peers.iter().any(|view| view.passes_on.is_some());
        self.trusted_from = if passing_on_shows { Standing::Giver } else { Standing::New };
        self.resize(now, due);
        self.free_lost_slots(now, policy);
        self.bench_idle(now);
        self.end_vain_trials(now);
        let is_judged = self.peers.iter().any(|peer| peer.standing != Standing::New);
        if !due && !is_judged && !self.has_free_slot() {
            return self.changes();
        }
        let mut ranking = self.rank(now, policy, rng);
        self.make_way(now, &mut ranking);
        self.leave_out_takers(now, &mut ranking);
        let mut tried = Vec::new();
        if due {
            self.swap_regular(now, policy, &mut ranking);
            tried = self.end_trials(now);
        }
        self.fill_regular(now, &ranking);
        self.fill_optimistic(now, &tried, rng);
        if due {
            self.note_round(now);
        }
        self.changes()
    }

    /// Learns of joins, leaves, interest, and of who gives. A round that is `due` has begun by then: what
    /// no longer counts in it must not count for the choice that it begins with.
    fn take_note(&mut self, now: Duration, due: bool, policy: ChokePolicy, peers: &[PeerView]) {
        for (place, view) in peers.iter().enumerate() {
            // Most often nobody came or went since the last time.
            let is_in_place = self.peers.get(place).is_some_and(|peer| peer.view.id == view.id);
            let found = if is_in_place { Ok(place) } else { self.place_of(view.id) };
            let at = found.unwrap_or_else(|at| {
                self.peers.insert(at, PeerState::new(now, *view));
                at
            });
            self.peers[at].note(now, due, *view);
            self.peers[at].judge(now, self.piece_len, policy);
        }
        if self.peers.len() > peers.len() {
            let here: BTreeSet<_> = peers.iter().map(|view| view.id).collect();
            self.peers.retain(|peer| here.contains(&peer.view.id));
        }
    }

    /// Sets the number of slots after the last round's rates, or between rounds if there is
    /// plenty for all who are answered. Not counted is who takes nothing of what it has asked for, for long or
    /// while the link has room; where nobody ever took anything, nobody is.
    fn resize(&mut self, now: Duration, due: bool) {
        if self.slots != Slots::Auto {
            return;
        }
        let holders = self.peers.iter().filter(|peer| peer.is_answered());
        let has_room = self.slack.note(now, self.handed_over);
        let is_deaf = |peer: &&PeerState| peer.view.in_hand && (has_room || peer.is_idle(now));
        let never_took = |peer: &PeerState| peer.view.uploaded_to == 0 && peer.is_idle(now);
        let deaf = if holders.clone().all(never_took) {
            holders.clone().count()
        } else {
            holders.clone().filter(is_deaf).count()
        };
        let answered = holders.count();
        if !self.has_waiting() || answered == 0 {
            return self.auto.nobody_waits();
        }
        self.auto.some_are_deaf(due, deaf, answered);
        // Who takes nothing tells nothing of what the link carries.
        let answered = (answered - deaf).max(1) as u64;
        match self.last_round {
            Some(last) if due => {
                let of_late = |peer: &PeerState| peer.view.uploaded_to - peer.uploaded_mark;
                let sent: u64 = self.peers.iter().map(of_late).sum();
                self.auto.adapt(now, per_second(sent, now.saturating_sub(last)), answered);
            }
            _ => {
                let sent = self.peers.iter().map(|peer| peer.view.uploaded_to).sum();
                self.auto.look(now, sent, answered);
            }
        }
    }

    /// Takes slots from those that may not keep them, and those there are too many of.
    fn free_lost_slots(&mut self, now: Duration, policy: ChokePolicy) {
        for peer in &mut self.peers {
            let lost = match peer.slot {
                Slot::None => false,
                Slot::Regular => !may_hold_regular(policy, &peer.view),
                Slot::Optimistic => !peer.view.interested,
            };
            if lost {
                peer.put(now, Slot::None);
            }
        }
    }

    /// Whether anybody waits for a slot.
    pub fn has_waiting(&self) -> bool {
        self.peers.iter().any(PeerState::has_no_slot)
    }

    /// Takes slots from those that do not use them, as far as others wait. Else those who ask
    /// for everything and read nothing could hold them all.
    fn bench_idle(&mut self, now: Duration) {
        let mut waiting = self.peers.iter().filter(|peer| peer.is_waiting(now)).count();
        for peer in &mut self.peers {
            if waiting > 0 && peer.is_answered() && peer.is_idle(now) {
                peer.benched_until = now + BENCHED;
                peer.let_pass_at = Some(now);
                peer.put(now, Slot::None);
                waiting -= 1;
            }
        }
    }

    /// Those that may hold a regular slot, the best first.
    fn rank(&self, now: Duration, policy: ChokePolicy, rng: &mut Rng) -> Vec<Ranked> {
        let mut ranking: Vec<_> = (self.peers.iter().enumerate())
            .filter(|(_, peer)| may_hold_regular(policy, &peer.view))
            .map(|(at, peer)| Ranked {
                benched: now < peer.benched_until,
                standing: peer.standing,
                score: peer.score(now, policy),
                regular: peer.slot == Slot::Regular,
                tie: rng.u32(..),
                at,
            })
            .collect();
        ranking.sort_unstable_by_key(|ranked| std::cmp::Reverse(ranked.key()));
        ranking
    }

    /// Who stands worse has a regular slot only as long as nobody is there for it who stands better: a
    /// peer that wants what has just come does not wait for a round while its gifts go to others.
    /// Those on trial count, too: they come before others of their standing that wait, and if only the
    /// latter counted, the slot taken for one would be filled with another.
    fn make_way(&mut self, now: Duration, ranking: &mut [Ranked]) {
        let regular = ranking.iter().filter(|ranked| ranked.regular).count();
        let mut free = self.slots().0.saturating_sub(regular);
        let mut worst_from = ranking.len();
        for better in 0..ranking.len() {
            if ranking[better].regular || ranking[better].benched {
                continue;
            }
            if free > 0 {
                free -= 1;
                continue;
            }
            // The better one is ranked before all others that have none, and gets the slot once
            // it is free.
            let Some(worse) = ranking[..worst_from].iter().rposition(|ranked| ranked.regular)
            else {
                return;
            };
            let stands_better = ranking[better].standing > ranking[worse].standing;
            if !stands_better || !self.take_from(now, &mut ranking[worse]) {
                return;
            }
            worst_from = worse;
        }
    }

    /// How many more than those who do not only take it needs to keep the link busy. A slot that
    /// is left empty makes the others larger.
    fn to_be_busy(&self) -> usize {
        let trusted = self
            .peers
            .iter()
            .filter(|peer| peer.slot == Slot::Regular && peer.standing >= self.trusted_from);
        (self.slots().0 / 2).max(BUSY_MIN).saturating_sub(trusted.count())
    }

    /// Those who only take have only so many regular slots as it needs to keep the link busy.
    fn leave_out_takers(&mut self, now: Duration, ranking: &mut Vec<Ranked>) {
        let mut room = self.to_be_busy();
        let is_busy = room == 0;
        ranking.retain_mut(|ranked| {
            let stands_well = ranked.standing >= self.trusted_from
                || ranked.standing == Standing::New && !is_busy;
            if stands_well {
                return true;
            }
            let stays = room > 0;
            room -= usize::from(stays);
            stays || ranked.regular && !self.take_from(now, ranked)
        });
    }

    /// Whether those who only take have had their part of what we send.
    fn takers_had_their_part(&self) -> bool {
        let (mut all, mut takers) = (0, 0);
        for peer in &self.peers {
            // Over this link: what went to them long ago nobody misses today.
            all += peer.view.uploaded_to;
            if peer.standing < self.trusted_from {
                takers += peer.view.uploaded_to;
            }
        }
        takers * CHANCE_PART > all
    }

    /// A trial that has shown nothing ends at once if somebody waits who stands better, or if
    /// the link is busy without.
    fn end_vain_trials(&mut self, now: Duration) {
        let left_out = self.to_be_busy() == 0 && self.takers_had_their_part();
        let trusted_from = self.trusted_from;
        let waits = |peer: &&PeerState| peer.is_waiting(now) && peer.standing >= trusted_from;
        let waiting = self.peers.iter().filter(waits).count();
        let is_vain =
            |peer: &&mut PeerState| peer.slot == Slot::Optimistic && peer.standing < Standing::New;
        let ended = if left_out { usize::MAX } else { waiting };
        for peer in self.peers.iter_mut().filter(is_vain).take(ended) {
            peer.put(now, Slot::None);
        }
    }

    /// Drops surplus regular slots, then gives some to better peers: the calm part of a round.
    fn swap_regular(&mut self, now: Duration, policy: ChokePolicy, ranking: &mut [Ranked]) {
        let (slots, _) = self.slots();
        let mut worst_first: Vec<_> =
            (0..ranking.len()).rev().filter(|at| ranking[*at].regular).collect();
        let surplus = worst_first.len().saturating_sub(slots);
        for at in worst_first.drain(..surplus) {
            self.peers[ranking[at].at].put(now, Slot::None);
            ranking[at].regular = false;
        }
        let free = slots - worst_first.len();
        let candidates: Vec<_> =
            (0..ranking.len()).filter(|at| !ranking[*at].regular).skip(free).collect();
        if let (Some(worse), Some(better)) = (worst_first.first(), candidates.first())
            && deserves(policy, &ranking[*better], &ranking[*worse])
        {
            self.take_from(now, &mut ranking[*worse]);
        }
    }

    /// Ends the trials that have lasted, as far as others wait; returns the places of those that were
    /// tried.
    fn end_trials(&mut self, now: Duration) -> Vec<usize> {
        let waiting = self.peers.iter().filter(|peer| peer.has_no_slot()).count();
        let lasted = self.peers.iter_mut().enumerate().filter(|(_, peer)| {
            peer.slot == Slot::Optimistic && now.saturating_sub(peer.since) >= TRIAL
        });
        let ended = lasted.take(waiting).map(|(at, peer)| {
            peer.put(now, Slot::None);
            at
        });
        ended.collect()
    }

    /// Gives free regular slots to the best ranked that have none.
    fn fill_regular(&mut self, now: Duration, ranking: &[Ranked]) {
        let (slots, _) = self.slots();
        let used = self.taken(Slot::Regular);
        let without = ranking.iter().filter(|ranked| !ranked.regular);
        for ranked in without.take(slots.saturating_sub(used)) {
            self.peers[ranked.at].put(now, Slot::Regular);
        }
    }

    /// Gives free optimistic slots to some that have none: first to those who had no chance yet,
    /// then to those that we owe most or that owe us least. To those who only take, while others
    /// keep the link busy, no more than their part.
    fn fill_optimistic(&mut self, now: Duration, tried: &[usize], rng: &mut Rng) {
        let used = self.taken(Slot::Optimistic);
        let free = self.slots().1.saturating_sub(used);
        if free == 0 {
            return;
        }
        let left_out = self.to_be_busy() == 0 && self.takers_had_their_part();
        let mut waiting: Vec<_> = (self.peers.iter().enumerate())
            .filter(|(_, peer)| peer.has_no_slot())
            .filter(|(_, peer)| peer.standing >= self.trusted_from || !left_out)
            .map(|(at, peer)| {
                let comes_last = now < peer.benched_until || tried.contains(&at);
                let known = peer.standing != Standing::New;
                let standing = std::cmp::Reverse(peer.standing);
                let owes = peer.view.taken() as i64 - peer.view.given() as i64;
                let owes = match peer.standing {
                    Standing::Taker => -i64::from(peer.view.held),
                    _ => owes.div_euclid(self.piece_len as i64),
                };
                (comes_last, known, standing, owes, rng.u32(..), at)
            })
            .collect();
        waiting.sort_unstable();
        for (.., at) in waiting.into_iter().take(free) {
            self.peers[at].put(now, Slot::Optimistic);
        }
    }

    /// Slots may be moved again.
    fn begin_round(&mut self) {
        self.rounds = self.moves();
        self.moved = 0;
    }

    fn note_round(&mut self, now: Duration) {
        self.last_round = Some(now);
        for peer in &mut self.peers {
            peer.uploaded_mark = peer.view.uploaded_to;
        }
    }

    /// Takes a regular slot from a peer that would have kept it, for others' sake; false if no more
    /// may be moved in this round. Who has shown nothing for what it was sent can always lose it.
    fn take_from(&mut self, now: Duration, holder: &mut Ranked) -> bool {
        if holder.standing >= Standing::New {
            if self.moved >= MOVES_MAX {
                return false;
            }
            self.moved += 1;
        }
        self.peers[holder.at].put(now, Slot::None);
        holder.regular = false;
        true
    }

    fn changes(&self) -> Vec<(LinkId, bool)> {
        let changed = self.peers.iter().filter(|peer| peer.is_answered() != peer.was_answered);
        changed.map(|peer| (peer.view.id, peer.is_answered())).collect()
    }
}

/// A candidate for a regular slot.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    benched: bool,
    standing: Standing,
    score: u64,
    regular: bool,
    tie: u32,
    /// Its place among the peers.
    at: usize,
}

impl Ranked {
    /// Among equals those that have a slot keep it; the rest is chance. In one number, the first to
    /// be looked at on top: candidates are compared far more often than anything else is done here.
    fn key(&self) -> u128 {
        let by_standing = u128::from(!self.benched) << 8 | self.standing as u128;
        let by_score = by_standing << 64 | u128::from(self.score);
        by_score << 33 | u128::from(self.regular) << 32 | u128::from(self.tie)
    }
}

fn may_hold_regular(policy: ChokePolicy, view: &PeerView) -> bool {
    view.interested && (policy == ChokePolicy::Seeder || !view.snubbed)
}

/// The lowest rank by turns of a peer that waits.
const WAITS: u64 = 1 << 63;

/// Rank by turns: those who wait above those who are answered, each by how long.
fn turn_score(now: Duration, peer: &PeerState) -> u64 {
    let millis = u64::try_from(now.saturating_sub(peer.since).as_millis()).unwrap_or(u64::MAX);
    let millis = millis.min(WAITS - 1);
    if peer.slot == Slot::None { WAITS + millis } else { WAITS - 1 - millis }
}

/// Whether `better` may take the slot of `worse` in a round.
fn deserves(policy: ChokePolicy, better: &Ranked, worse: &Ranked) -> bool {
    if better.benched || better.standing < worse.standing {
        return false;
    }
    match policy {
        // Whoever waits comes before whoever had a turn.
        ChokePolicy::Seeder => better.score >= WAITS,
        ChokePolicy::Contribution | ChokePolicy::Rarity => better.score > worse.score,
    }
}

impl PeerState {
    fn new(now: Duration, view: PeerView) -> Self {
        Self {
            view,
            slot: Slot::None,
            since: now,
            was_answered: false,
            leaving: Slot::None,
            left_at: Duration::ZERO,
            verified_marks: [view.verified_from; 3],
            uploaded_mark: view.uploaded_to,
            taking_since: None,
            standing: Standing::New,
            benched_until: Duration::ZERO,
            let_pass_at: None,
        }
    }

    /// Since when it has taken nothing, though it might have if it is answered.
    fn might_take_from(&self) -> Duration {
        self.view.took_at.max(self.since)
    }

    /// Whether it has taken nothing for long, though it might have if it is answered.
    fn is_idle(&self, now: Duration) -> bool {
        now >= self.might_take_from() + IDLE
    }

    /// Learns how the peer is by now.
    fn note(&mut self, now: Duration, due: bool, view: PeerView) {
        self.was_answered = self.is_answered();
        self.let_pass_at = self.let_pass_at.filter(|at| view.took_at <= *at);
        if view.interested && !self.view.interested {
            self.since = now;
        }
        if !view.amid_piece || now.saturating_sub(self.left_at) >= LEAVING_MAX {
            self.leaving = Slot::None;
        }
        if view.uploaded_to > 0 {
            self.taking_since.get_or_insert(now);
        }
        if due {
            let [_, older, old] = self.verified_marks;
            self.verified_marks = [older, old, view.verified_from];
        }
        self.view = view;
    }

    /// Sets how it stands.
    fn judge(&mut self, now: Duration, piece_len: u64, policy: ChokePolicy) {
        self.standing = self.view.passes_on.unwrap_or_else(|| match policy {
            ChokePolicy::Contribution | ChokePolicy::Seeder => {
                self.standing_by_trade(now, piece_len, policy)
            }
            ChokePolicy::Rarity => Standing::New,
        });
    }

    fn put(&mut self, now: Duration, slot: Slot) {
        self.left_at = now;
        self.leaving =
            if slot == Slot::None && self.view.amid_piece { self.slot } else { Slot::None };
        // From optimistic to regular it goes on being answered: its turn is not new.
        if (self.slot == Slot::None) != (slot == Slot::None) {
            self.since = now;
        }
        self.slot = slot;
    }

    fn is_answered(&self) -> bool {
        self.slot != Slot::None
    }

    /// Whether it wants something and has no slot.
    fn has_no_slot(&self) -> bool {
        self.view.interested && self.slot == Slot::None
    }

    /// The same, and it has not given one away of late by not using it.
    fn is_waiting(&self, now: Duration) -> bool {
        self.has_no_slot() && now >= self.benched_until
    }

    /// By what it is ranked among those that stand alike, the best highest.
    fn score(&self, now: Duration, policy: ChokePolicy) -> u64 {
        match policy {
            ChokePolicy::Contribution if self.standing == Standing::Taker => self.view.held.into(),
            ChokePolicy::Contribution => {
                self.view.verified_from.saturating_sub(self.verified_marks[0])
            }
            ChokePolicy::Rarity => u64::from(self.view.rare_pieces),
            ChokePolicy::Seeder => turn_score(now, self),
        }
    }

    /// How it stands by what it gave us. Only what it gave of late makes it a giver, as long as
    /// we want anything ourselves.
    fn standing_by_trade(&self, now: Duration, piece_len: u64, policy: ChokePolicy) -> Standing {
        let view = &self.view;
        let counts_from = if policy == ChokePolicy::Seeder { 0 } else { self.verified_marks[0] };
        let has_had_time = view.past.taken >= piece_len
            || self.taking_since.is_some_and(|since| now.saturating_sub(since) >= TAKER_AFTER);
        let had_its_chance = view.taken() >= piece_len && has_had_time;
        let given = if policy == ChokePolicy::Seeder { view.given() } else { view.verified_from };
        if had_its_chance && view.given() < view.taken() / TAKER_PART {
            Standing::Taker
        } else if given > counts_from {
            Standing::Giver
        } else if view.past.is_suspect {
            Standing::OnTrial
        } else {
            Standing::New
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::super::slots::FLOOR;
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    const PIECE: u32 = 256 * 1024;
    const CLASSIC: Slots = Slots::Fixed { regular: 4, optimistic: 1 };

    /// A choker and its peers in a time of their own.
    struct Room {
        choker: Choker,
        now: Duration,
        complete: bool,
        peers: Vec<PeerView>,
        /// Those who take nothing; all others take something all the time.
        idle: Vec<u32>,
        rng: Rng,
    }

    impl Room {
        fn new(policy: ChokePolicy, slots: Slots) -> Self {
            let (choker, rng) = (Choker::new(policy, slots, PIECE), Rng::with_seed(5));
            let now = Duration::from_secs(100);
            Self { choker, now, complete: false, peers: vec![], idle: vec![], rng }
        }

        fn classic(peers: u32) -> Self {
            let mut room = Self::new(ChokePolicy::Contribution, CLASSIC);
            (0..peers).for_each(|id| room.join(id));
            room
        }

        fn join(&mut self, id: u32) {
            self.peers.push(PeerView {
                id: LinkId(id),
                interested: true,
                verified_from: 0,
                uploaded_to: 0,
                held: 0,
                rare_pieces: 0,
                took_at: self.now,
                snubbed: false,
                past: Past::default(),
                passes_on: None,
                amid_piece: false,
                in_hand: false,
            });
        }

        fn peer(&mut self, id: u32) -> &mut PeerView {
            self.peers.iter_mut().find(|peer| peer.id == LinkId(id)).unwrap()
        }

        fn leave(&mut self, id: u32) {
            self.peers.retain(|peer| peer.id != LinkId(id));
        }

        /// Ticks now; returns who was unchoked and who was choked.
        fn tick(&mut self) -> (Vec<u32>, Vec<u32>) {
            let before = self.unchoked();
            for peer in self.peers.iter_mut().filter(|peer| !self.idle.contains(&peer.id.0)) {
                peer.took_at = self.now;
            }
            let changes = self.choker.tick(self.now, self.complete, &self.peers, &mut self.rng);
            let (on, off): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, on)| *on);
            let ids = |list: Vec<(LinkId, bool)>| list.into_iter().map(|(id, _)| id.0).collect();
            let (on, off): (Vec<u32>, Vec<u32>) = (ids(on), ids(off));
            let after = self.unchoked();
            assert!(on.iter().all(|id| after.contains(id) && !before.contains(id)));
            assert!(off.iter().all(|id| !after.contains(id) && before.contains(id)));
            assert_eq!(after.len() + off.len(), self.still(&before) + on.len());
            (on, off)
        }

        /// How many of these are still there.
        fn still(&self, ids: &[u32]) -> usize {
            self.peers.iter().filter(|peer| ids.contains(&peer.id.0)).count()
        }

        fn round(&mut self) -> (Vec<u32>, Vec<u32>) {
            self.now = self.choker.next_round().max(self.now);
            self.tick()
        }

        fn unchoked(&self) -> Vec<u32> {
            let ids = self.peers.iter().map(|peer| peer.id);
            ids.filter(|id| self.choker.is_unchoked(*id)).map(|id| id.0).collect()
        }

        fn in_slot(&self, slot: Slot) -> Vec<u32> {
            let peers = self.choker.peers.iter().filter(|peer| peer.slot == slot);
            peers.map(|peer| peer.view.id.0).collect()
        }
    }

    #[test]
    fn the_first_round_comes_at_once_and_gives_four_slots_and_one() {
        let mut room = Room::classic(10);
        assert_eq!(room.choker.next_round(), Duration::ZERO);
        assert_eq!(room.tick().0.len(), 5);
        assert_eq!(
            (room.in_slot(Slot::Regular).len(), room.in_slot(Slot::Optimistic).len()),
            (4, 1)
        );
        assert_eq!(room.choker.next_round(), room.now + ROUND);
        assert!(!room.choker.has_free_slot());
    }

    #[test]
    fn a_free_slot_is_filled_at_once_and_nothing_else_changes_between_rounds() {
        let mut room = Room::classic(2);
        room.tick();
        room.now += Duration::from_secs(1);
        assert!(room.choker.has_free_slot());
        (2..5).for_each(|id| room.join(id));
        room.peer(4).interested = false;
        assert_eq!(room.tick(), (vec![2, 3], vec![]));
        room.peer(4).interested = true;
        assert_eq!(room.tick(), (vec![4], vec![]));
        room.join(5);
        assert_eq!(room.tick(), (vec![], vec![]), "all slots are taken");
        room.leave(1);
        assert_eq!(room.tick(), (vec![5], vec![]));
        room.join(6);
        room.peer(0).interested = false;
        assert_eq!(room.tick(), (vec![6], vec![0]));
        room.join(7);
        assert_eq!(room.tick(), (vec![], vec![]), "no better than those who are answered");
    }

    #[test]
    fn those_who_contribute_get_the_regular_slots_one_in_each_round() {
        let mut room = Room::classic(12);
        room.tick();
        for _ in 0..12 {
            for id in 0..12 {
                room.peer(id).verified_from += u64::from(id) * 1000;
            }
            let before = room.in_slot(Slot::Regular);
            room.round();
            let after = room.in_slot(Slot::Regular);
            assert!(after.iter().filter(|id| !before.contains(id)).count() <= 1);
        }
        assert_eq!(room.in_slot(Slot::Regular), [8, 9, 10, 11]);
    }

    #[test]
    fn one_slot_moves_in_a_round_though_several_wait_who_stand_better() {
        let mut room = Room::classic(12);
        room.tick();
        let waiting: Vec<_> = (0..12).filter(|id| !room.unchoked().contains(id)).collect();
        waiting.iter().for_each(|id| room.peer(*id).verified_from += 1000);
        for round in 1..=3 {
            let off = if round == 1 { room.tick().1 } else { room.round().1 };
            assert_eq!(off.len(), 1, "round {round}");
            assert_eq!(room.tick(), (vec![], vec![]), "round {round}");
        }
        let regular = room.in_slot(Slot::Regular);
        assert_eq!(regular.iter().filter(|id| waiting.contains(id)).count(), 3);
        assert_eq!(room.choker.moves()[2..], [0; MOVES_COUNTED - 2]);
    }

    #[test]
    fn a_round_begins_with_what_counts_in_it_so_that_a_second_look_changes_nothing() {
        let mut room = Room::classic(6);
        room.tick();
        let regular = room.in_slot(Slot::Regular);
        let late = (0..6).find(|id| !room.unchoked().contains(id)).unwrap();
        regular.iter().for_each(|id| room.peer(*id).verified_from += 1);
        room.round();
        room.peer(late).verified_from += 1;
        for _ in 2..=3 {
            assert!(!room.in_slot(Slot::Regular).contains(&late), "equals");
            room.round();
            assert_eq!(room.tick(), (vec![], vec![]));
        }
        assert!(room.in_slot(Slot::Regular).contains(&late), "the others gave too long ago");
    }

    #[test]
    fn those_on_trial_who_gave_get_slots_of_takers_with_those_who_wait_in_one_look() {
        let mut room = Room::new(ChokePolicy::Seeder, Slots::Fixed { regular: 2, optimistic: 1 });
        (0..3).for_each(|id| room.join(id));
        room.tick();
        let tried = room.in_slot(Slot::Optimistic)[0];
        room.join(3);
        for id in 0..4 {
            let gives = id == tried || id == 3;
            room.peer(id).passes_on = Some(if gives { Standing::Giver } else { Standing::Taker });
        }
        room.tick();
        assert_eq!(room.in_slot(Slot::Regular), [tried, 3]);
        assert_eq!(room.tick(), (vec![], vec![]));
    }

    #[test]
    fn what_was_contributed_long_ago_does_not_count() {
        let mut room = Room::classic(6);
        room.tick();
        room.peer(0).verified_from = 1 << 40;
        (0..4).for_each(|_| {
            room.round();
        });
        for _ in 0..6 {
            (1..5).for_each(|id| room.peer(id).verified_from += 1000);
            room.round();
        }
        assert_eq!(room.in_slot(Slot::Regular), [1, 2, 3, 4]);
    }

    #[test]
    fn equals_do_not_oust_each_other() {
        let mut room = Room::classic(12);
        room.tick();
        let first = room.in_slot(Slot::Regular);
        for _ in 0..10 {
            (0..12).for_each(|id| room.peer(id).verified_from += 1000);
            room.round();
            assert_eq!(room.in_slot(Slot::Regular), first);
        }
    }

    #[test]
    fn a_tried_peer_that_shows_its_worth_is_promoted_without_a_pause() {
        let mut room = Room::classic(12);
        room.tick();
        let tried = room.in_slot(Slot::Optimistic)[0];
        room.peer(tried).verified_from += 1000;
        let (on, off) = room.round();
        assert!(room.in_slot(Slot::Regular).contains(&tried));
        assert!(!on.contains(&tried) && !off.contains(&tried));
        assert_ne!(room.in_slot(Slot::Optimistic), [tried]);
        assert_eq!(room.unchoked().len(), 5);
    }

    #[test]
    fn the_optimistic_slot_moves_on_after_three_rounds() {
        let mut room = Room::classic(12);
        room.tick();
        let first = room.in_slot(Slot::Optimistic);
        for _ in 0..2 {
            assert_eq!(room.round(), (vec![], vec![]));
        }
        let (on, off) = room.round();
        assert_eq!((on.len(), &off), (1, &first));
        assert_eq!(room.in_slot(Slot::Optimistic), on);
        // With nobody else who waits there is nobody to give it to.
        let mut small = Room::classic(5);
        small.tick();
        (0..9).for_each(|_| assert_eq!(small.round(), (vec![], vec![])));
    }

    #[test]
    fn whoever_had_no_chance_yet_is_tried_before_all_others_and_each_in_turn() {
        let mut room =
            Room::new(ChokePolicy::Contribution, Slots::Fixed { regular: 0, optimistic: 1 });
        (0..6).for_each(|id| room.join(id));
        room.tick();
        let mut tried = vec![room.unchoked()[0]];
        for _ in 1..6 {
            // It gets a piece and gives nothing; after a second its chance is over.
            let id = *tried.last().unwrap();
            room.peer(id).uploaded_to += u64::from(PIECE);
            room.tick();
            room.now += TAKER_AFTER;
            assert_eq!(room.tick().1, [id]);
            tried.push(room.unchoked()[0]);
        }
        tried.sort_unstable();
        assert_eq!(tried, [0, 1, 2, 3, 4, 5]);
    }

    /// Peers 0 and 1 give, 2 and 3 have had their chance, and what went to them is a lot.
    fn givers_and_takers() -> Room {
        let mut room = Room::classic(4);
        room.tick();
        for id in 0..4 {
            room.peer(id).uploaded_to += 4 * u64::from(PIECE);
        }
        room.now += Duration::from_millis(1);
        room.tick();
        (0..2).for_each(|id| room.peer(id).verified_from += 4 * u64::from(PIECE));
        room.now += TAKER_AFTER;
        room
    }

    #[test]
    fn who_only_takes_is_left_out_while_two_who_give_keep_the_link_busy() {
        let mut room = givers_and_takers();
        assert_eq!(room.tick(), (vec![], vec![2, 3]));
        assert_eq!(room.choker.moved, 0, "two had it coming");
        room.peer(1).interested = false;
        let (on, _) = room.tick();
        assert_eq!(room.in_slot(Slot::Regular).len(), 2, "one giver and {on:?}");
    }

    #[test]
    fn who_only_took_is_not_new_by_coming_anew() {
        let mut room = givers_and_takers();
        room.tick();
        room.leave(2);
        room.join(9);
        room.peer(9).past = Past { taken: 4 * u64::from(PIECE), ..Past::default() };
        // And this one is nobody that we know, from where the other was.
        room.join(10);
        room.peer(10).past = Past { is_suspect: true, ..Past::default() };
        assert_eq!(room.tick(), (vec![], vec![]));
        room.join(11);
        assert_eq!(room.tick(), (vec![11], vec![]), "who is new has its chance");
        room.peer(9).verified_from += u64::from(PIECE);
        assert_eq!(room.tick(), (vec![9], vec![]), "and who has made up for it");
    }

    #[test]
    fn who_only_takes_gets_a_twentieth_by_chance() {
        let mut room = givers_and_takers();
        room.tick();
        for _ in 0..400 {
            room.now += Duration::from_secs(1);
            for id in 0..2 {
                room.peer(id).verified_from += u64::from(PIECE);
            }
            for id in room.unchoked() {
                room.peer(id).uploaded_to += u64::from(PIECE);
            }
            room.tick();
        }
        let sent = |id: u32| room.peers[id as usize].uploaded_to;
        let (takers, all) = (sent(2) + sent(3), (0..4).map(sent).sum::<u64>());
        let part = all as f64 / takers as f64;
        assert!((15.0..=25.0).contains(&part), "one part in {part}");
    }

    #[test]
    fn a_seeder_answers_those_who_pass_on_and_tries_others_with_little() {
        let mut room = Room::classic(12);
        room.complete = true;
        for id in 0..12 {
            let standing = if id < 5 { Standing::Giver } else { Standing::New };
            room.peer(id).passes_on = Some(standing);
        }
        room.tick();
        assert!(room.in_slot(Slot::Regular).iter().all(|id| *id < 5), "{:?}", room.unchoked());
        assert!(room.in_slot(Slot::Optimistic)[0] >= 5, "{:?}", room.unchoked());
        let tried = room.in_slot(Slot::Optimistic)[0];
        room.peer(tried).passes_on = Some(Standing::OnTrial);
        room.peer(tried).uploaded_to += u64::from(PIECE);
        assert_eq!(room.tick().1, [tried]);
        assert!(room.unchoked().iter().all(|id| *id < 5), "{:?}", room.unchoked());
    }

    /// Five slots, one of them left by peer 0 with a piece under way, and peer 5 waits for it.
    fn one_is_leaving() -> Room {
        let mut room = Room::classic(5);
        room.tick();
        room.join(5);
        room.peer(0).amid_piece = true;
        room.tick();
        room.peer(0).interested = false;
        assert_eq!(room.tick(), (vec![], vec![0]));
        assert!(!room.choker.has_free_slot());
        room
    }

    #[test]
    fn a_slot_is_not_free_until_the_piece_that_was_begun_is_out() {
        let mut room = one_is_leaving();
        room.peer(0).amid_piece = false;
        assert_eq!(room.tick(), (vec![5], vec![]));
    }

    #[test]
    fn a_piece_that_is_never_out_does_not_hold_up_its_slot_for_ever() {
        let mut room = one_is_leaving();
        room.now += LEAVING_MAX;
        assert!(room.tick().0.contains(&5));
    }

    #[test]
    fn a_snubbed_peer_loses_its_regular_slot_at_once_unless_we_are_complete() {
        let mut room = Room::classic(7);
        room.tick();
        let snubbed = room.in_slot(Slot::Regular)[0];
        room.peer(snubbed).snubbed = true;
        room.tick();
        assert!(!room.in_slot(Slot::Regular).contains(&snubbed));
        assert_eq!(room.unchoked().len(), 5);
        room.peer(snubbed).snubbed = false;
        room.peer(snubbed).verified_from += 1000;
        room.round();
        assert!(room.in_slot(Slot::Regular).contains(&snubbed));
        room.complete = true;
        room.tick();
        room.peer(snubbed).snubbed = true;
        assert!(!room.tick().1.contains(&snubbed));
    }

    #[test]
    fn the_rarity_policy_prefers_those_with_rare_pieces() {
        let mut room = Room::new(ChokePolicy::Rarity, CLASSIC);
        assert!(room.choker.looks_at_rarity(false) && !room.choker.looks_at_rarity(true));
        for id in 0..9 {
            room.join(id);
            room.peer(id).rare_pieces = id * 10;
        }
        room.peer(0).verified_from = 1 << 30;
        room.tick();
        assert_eq!(room.in_slot(Slot::Regular), [5, 6, 7, 8]);
        let tried = room.in_slot(Slot::Optimistic)[0];
        room.peer(tried).rare_pieces = 1000;
        room.round();
        assert!(room.in_slot(Slot::Regular).contains(&tried), "the tried one may be promoted");
    }

    #[test]
    fn a_seeder_gives_everybody_a_fair_turn() {
        let mut room = Room::classic(20);
        room.complete = true;
        room.tick();
        let (mut answered, mut waits) = ([0u32; 20], [0u32; 20]);
        for _ in 0..200 {
            let (_, off) = room.round();
            assert!(off.len() <= 2, "one regular, one optimistic");
            let unchoked = room.unchoked();
            for id in 0..20 {
                let served = unchoked.contains(&id);
                answered[id as usize] += u32::from(served);
                waits[id as usize] = if served { 0 } else { waits[id as usize] + 1 };
                assert!(waits[id as usize] <= 20, "{id} waited 200 s and more");
            }
        }
        let (least, most) = (answered.iter().min().unwrap(), answered.iter().max().unwrap());
        assert!(*least >= 35 && *most <= 70, "200 x 5 / 20 = 50 each: {answered:?}");
    }

    #[test]
    fn once_we_are_complete_those_who_gave_are_answered_before_others() {
        let mut room = Room::classic(12);
        room.tick();
        (4..8).for_each(|id| room.peer(id).verified_from = 1000);
        room.now += ROUND * 5;
        room.complete = true;
        (0..4).for_each(|_| {
            room.round();
        });
        assert_eq!(room.in_slot(Slot::Regular), [4, 5, 6, 7]);
    }

    #[test]
    fn without_a_crowd_a_seeder_leaves_everybody_alone() {
        let mut room = Room::classic(5);
        room.complete = true;
        room.tick();
        (0..9).for_each(|_| assert_eq!(room.round(), (vec![], vec![])));
    }

    #[test]
    fn who_does_not_use_a_slot_gives_it_to_one_that_waits_and_comes_after_all_others() {
        let mut room = Room::classic(5);
        room.idle = vec![0, 1, 2];
        room.tick();
        room.now += IDLE;
        assert_eq!(room.tick(), (vec![], vec![]), "nobody waits");
        room.join(5);
        room.join(6);
        let (on, off) = room.tick();
        assert_eq!(on, [5, 6]);
        assert!(off.len() == 2 && off.iter().all(|id| *id < 3), "{off:?}");
        room.leave(5);
        let (on, _) = room.tick();
        assert_eq!(on.len(), 1, "with nobody else waiting one of them comes back");
        assert!(off.contains(&on[0]));
    }

    /// Rounds in which all answered peers together get so many bytes a second.
    fn rounds_at(room: &mut Room, rounds: u32, rate: impl Fn(usize) -> u64) -> Vec<usize> {
        (0..rounds)
            .map(|_| {
                let unchoked = room.unchoked();
                let each = rate(unchoked.len()) * ROUND.as_secs() / unchoked.len() as u64;
                unchoked.iter().for_each(|id| room.peer(*id).uploaded_to += each);
                room.round();
                room.choker.slots().0
            })
            .collect()
    }

    fn crowd(policy: ChokePolicy) -> Room {
        let mut room = Room::new(policy, Slots::Auto);
        (0..500).for_each(|id| room.join(id));
        room.tick();
        room
    }

    #[test]
    fn slots_follow_what_the_link_carries() {
        let mut room = crowd(ChokePolicy::Contribution);
        assert_eq!(room.unchoked().len(), FLOOR + 1);
        assert_eq!(rounds_at(&mut room, 3, |_| 1 << 30), [5, 6, 7]);
        assert_eq!(room.unchoked().len(), 8);
        let mut room = crowd(ChokePolicy::Seeder);
        assert_eq!(rounds_at(&mut room, 2, |_| 1 << 20), [5, 4]);
        assert_eq!(room.unchoked().len(), 5);
    }

    #[test]
    fn between_rounds_more_are_answered_where_there_is_plenty() {
        let mut room = crowd(ChokePolicy::Contribution);
        for _ in 0..2 {
            room.now += Duration::from_millis(300);
            room.unchoked().iter().for_each(|id| room.peer(*id).uploaded_to += 1 << 24);
            room.tick();
        }
        assert_eq!(room.unchoked().len(), 2 * FLOOR + 1);
    }

    #[test]
    fn nothing_is_learnt_from_rounds_in_which_nobody_waits() {
        let mut room = Room::new(ChokePolicy::Contribution, Slots::Auto);
        (0..5).for_each(|id| room.join(id));
        room.tick();
        assert_eq!(rounds_at(&mut room, 5, |_| 1000), [FLOOR; 5]);
        assert_eq!(room.unchoked().len(), 5);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Join,
        Leave(usize),
        Interest(usize, bool),
        Snub(usize, bool),
        Bytes(usize, u32),
        Wait(u64),
        Complete,
    }

    fn step() -> impl Strategy<Value = Step> {
        let at = any::<usize>();
        prop_oneof![
            3 => Just(Step::Join),
            1 => at.prop_map(Step::Leave),
            2 => (at, any::<bool>()).prop_map(|(at, on)| Step::Interest(at, on)),
            1 => (at, any::<bool>()).prop_map(|(at, on)| Step::Snub(at, on)),
            4 => (at, any::<u32>()).prop_map(|(at, bytes)| Step::Bytes(at, bytes)),
            4 => (0u64..15_000).prop_map(Step::Wait),
            1 => Just(Step::Complete),
        ]
    }

    proptest! {
        #[test]
        fn slots_are_never_overdrawn_nor_left_free_while_somebody_waits(
            policy in prop_oneof![
                Just(ChokePolicy::Contribution), Just(ChokePolicy::Rarity), Just(ChokePolicy::Seeder),
            ],
            regular in 0usize..6, optimistic in 0usize..3,
            steps in prop::collection::vec(step(), 0..150), seed in any::<u64>(),
        ) {
            let mut room = Room::new(policy, Slots::Fixed { regular, optimistic });
            room.rng = Rng::with_seed(seed);
            let (mut next, mut moved) = (0, 0);
            for step in steps {
                let pick = |at: usize, room: &Room| at.checked_rem(room.peers.len());
                match step {
                    Step::Join => {
                        room.join(next);
                        next += 1;
                    }
                    Step::Leave(at) => {
                        if let Some(at) = pick(at, &room) {
                            room.peers.swap_remove(at);
                        }
                    }
                    Step::Interest(at, on) => {
                        if let Some(at) = pick(at, &room) {
                            room.peers[at].interested = on;
                        }
                    }
                    Step::Snub(at, on) => {
                        if let Some(at) = pick(at, &room) {
                            room.peers[at].snubbed = on;
                        }
                    }
                    Step::Bytes(at, bytes) => {
                        if let Some(at) = pick(at, &room) {
                            room.peers[at].verified_from += u64::from(bytes);
                            room.peers[at].rare_pieces = bytes % 7;
                        }
                    }
                    Step::Wait(millis) => room.now += Duration::from_millis(millis),
                    Step::Complete => room.complete = true,
                }
                let due = room.now >= room.choker.next_round();
                let before = room.unchoked();
                let had_regular = room.in_slot(Slot::Regular);
                let (on, off) = room.tick();
                let unchoked = room.unchoked();
                prop_assert!(room.in_slot(Slot::Regular).len() <= regular);
                prop_assert!(room.in_slot(Slot::Optimistic).len() <= optimistic);
                prop_assert_eq!(room.choker.peers.len(), room.peers.len());
                let seeding = room.complete || policy == ChokePolicy::Seeder;
                for peer in &room.peers {
                    prop_assert!(peer.interested || !unchoked.contains(&peer.id.0));
                }
                let waiting: Vec<_> = room.peers.iter()
                    .filter(|peer| peer.interested && !unchoked.contains(&peer.id.0)).collect();
                if !waiting.is_empty() {
                    prop_assert_eq!(room.in_slot(Slot::Optimistic).len(), optimistic);
                }
                if waiting.iter().any(|peer| seeding || !peer.snubbed) {
                    prop_assert_eq!(room.in_slot(Slot::Regular).len(), regular);
                }
                // Calm: beyond those who lost their right, one regular in a round and the tried ones go.
                let lost = room.peers.iter().filter(|peer| before.contains(&peer.id.0))
                    .filter(|peer| !peer.interested || (peer.snubbed && !seeding)).count();
                let tried = if due { optimistic } else { 0 };
                prop_assert!(off.len() <= lost + 1 + tried, "{:?} off, {:?} on", off, on);
                moved = if due { 0 } else { moved } + room.peers.iter()
                    .filter(|peer| peer.interested && (seeding || !peer.snubbed))
                    .filter(|peer| had_regular.contains(&peer.id.0) && off.contains(&peer.id.0))
                    .count();
                prop_assert!(moved <= 1, "{moved} slots moved in a round");
                prop_assert_eq!(room.tick(), (vec![], vec![]), "a second look changes nothing");
            }
        }
    }
}
