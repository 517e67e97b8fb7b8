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
//!   not free. Else each change would add to what the link carries at a time. But who only takes is
//!   cut off: it would not pass the piece on, and its slot is free at once.
//! - Who stands better ([`Standing`]) comes first, and need not wait for a round: who gives before those who had no
//!   chance yet, those before who had one and gives nothing. A seeder goes by what peers pass on,
//!   a receiver by what it got from them: in the last two rounds to be a giver, ever to be no
//!   taker. Once a receiver is complete, what it got counts for as long as the link lasts.
//! - A standing outlives its link: what passed before counts too ([`Past`]).
//! - Who only takes is left out while others keep the link busy, but for a twentieth of what we
//!   send. So it is with those who had no chance yet at a seeder that knows enough who pass on,
//!   but that it may try one of them ahead of that for each 32 pieces of the share, with a piece.
//! - While more give and want something than there are regular slots (four are enough), a receiver needs
//!   nobody who holds something, does not answer it, has had no chance yet and never gave anything: it has enough others or only
//!   takes. One of these is tried in a round, from the second on; regular slots are for them only as far as it takes to
//!   keep the link busy.
//! - Among equals **Contribution** ranks by bytes verified from the peer in the last two rounds and
//!   since, those who had no chance yet by what speaks for them (they answer us; they have nothing to
//!   give), takers by how much they hold (others found them worth it); **Rarity** by how many
//!   rare pieces it holds; **Seeder** (always, once we are complete) gives everybody a turn: who
//!   waits longest comes next, who was answered longest goes; but of givers first who is far behind and had little of us,
//!   in one turn of two.
//! - Calm: in a round at most one regular slot is taken from a peer that uses it and has done nothing
//!   to lose it, for one that stands better or, when the round begins, ranks better; never for an
//!   equal one. All others wait for the rounds to come. Who was sent something and has shown nothing
//!   for it, or only takes, goes at once and is not counted, nor is who is not needed while enough give.
//! - The optimistic slots go to those who had no chance yet (of these first to who holds nothing and was sent no piece, then to
//!   who answers us, the least first), then to those to whom we owe most, for three rounds or until they have shown nothing for it, or, once
//!   half a round is over, until the round ends in which somebody has come with nothing. A tried peer that ranks well enough
//!   moves to a regular slot, and another is tried at once.
//! - [`Slots::Auto`] sets the number of regular slots by what the link carries (`slots`), and never raises it for the sake
//!   of those who only take where enough others keep the link busy.
//!
//! Invariant: never more peers unchoked than regular and optimistic slots, never one that is
//! not interested, and a reported change is a real change.
//!
//! ```text
//! peer      one peer: its slot, what it gave and took, how it stands by that
//! regular   who gets the regular slots, and who loses one
//! trials    who is tried, and how much those who only take may have
//! ```
//! Not here: messages, measuring, the clock. The caller acts on the changes; it may call
//! [`Choker::tick`] at any event as well as on time.

mod peer;
mod regular;
#[cfg(not(loom))]
#[cfg(test)]
mod tests;
mod trials;

use std::time::Duration;

use fastrand::Rng;

pub(crate) use self::peer::TAKER_PART;
use self::peer::{LEAVING_MAX, PeerState, Slot, leaving_max};
use self::regular::may_hold_regular;
use self::trials::{Gone, TRIALS_PART};
use super::slack::Slack;
use super::slots::{Auto, FLOOR, Look, Round, per_second};
use super::{Past, Standing};

/// Time between two full rounds.
pub const ROUND: Duration = Duration::from_secs(10);

/// A peer that takes nothing for so long while others wait gives its slot to one of them.
const IDLE: Duration = Duration::from_secs(2);
/// The same while nobody waits for it costs the slot's holder no more than the right to its place.
const UNUSED: Duration = Duration::from_secs(5);
/// And waits for so long before it comes in turn again.
const BENCHED: Duration = ROUND;

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
    /// One optimistic slot, and regular ones after what the link carries (see
    /// `swarm/slots`): 4 to begin with, 1 to 128 in all.
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
    /// A piece is being sent to it that is not all out. It is sent to its end even if we choke it, unless it only takes.
    pub amid_piece: bool,
    /// A block that it has asked for waits for its connection to take it.
    pub in_hand: bool,
    /// When it last took any payload from us; its joining, if it never did.
    pub took_at: Duration,
    /// It let us down, and has delivered nothing since.
    pub snubbed: bool,
    /// It says that it answers our requests, and has not let us down.
    pub answers_us: bool,
    /// Payload has come from it, be it of a piece that is not all here.
    pub has_sent: bool,
    /// How long it takes to it and back, if that is known; only looked at while it has given next to nothing.
    pub distance: Option<Duration>,
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

/// What has been sent to all peers so far, those that left included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Payload bytes that were handed to connections.
    pub handed_over: u64,
    /// Those of them in blocks that are out whole.
    pub uploaded: u64,
    /// In how much of the time anything was being sent.
    pub busy: Duration,
}

/// Those who give, or may come to.
#[derive(Clone, Copy, Debug)]
struct Givers {
    /// So many of them want something, or did in this round.
    wanting: usize,
    /// The same without those who were sent something and have shown nothing yet.
    hopeful: usize,
    /// There are slots for all these, those for who takes nothing counted, and they fill the classic setting: where fewer of them are
    /// answered, under four however slow the link, it may have room for everybody.
    are_served: bool,
}

/// Decides whom we answer; see the module's header.
#[derive(Clone, Debug)]
pub struct Choker {
    policy: ChokePolicy,
    slots: Slots,
    piece_len: u64,
    /// So many strangers a seeder may still try ahead of the part of those who only take.
    trials_ahead: u32,
    /// What went to those who are gone.
    gone: Gone,
    /// The slot that was given last was for somebody who was far behind.
    laggard_had_turn: bool,
    auto: Auto,
    slack: Slack,
    sent: Sent,
    /// Ascending by link. In one piece and found by their place, for a decision goes over all of
    /// them many times.
    peers: Vec<PeerState>,
    last_round: Option<Duration>,
    /// For how long the rest of a piece may hold up a slot, by what the last round carried.
    leaving_max: Duration,
    /// Slots moved in this round (see [`Self::moves`]), and the rounds before by how many were.
    moved: usize,
    rounds: MovesByRound,
    /// Who stands worse is answered only as far as it needs them to keep the link busy.
    trusted_from: Standing,
    /// A receiver has enough who give, and needs nobody who holds something and does not answer it.
    enough_give: bool,
    /// One of these may be tried in this round.
    may_try_silent: bool,
    /// Counts the decisions: who was not seen in the last is gone.
    decisions: u32,
    /// See [`Self::may_heed_newcomers`].
    may_heed_newcomers: bool,
}

impl Choker {
    /// A choker that knows nobody yet, for a share of so many pieces of so many bytes.
    pub fn new(policy: ChokePolicy, slots: Slots, piece_len: u32, pieces: u32) -> Self {
        let auto = Auto::new(piece_len);
        let piece_len = piece_len.into();
        Self {
            policy,
            slots,
            piece_len,
            trials_ahead: pieces / TRIALS_PART,
            gone: Gone::default(),
            laggard_had_turn: false,
            auto,
            slack: Slack::default(),
            sent: Sent::default(),
            peers: Vec::new(),
            last_round: None,
            leaving_max: LEAVING_MAX,
            moved: 0,
            rounds: [0; MOVES_COUNTED],
            trusted_from: Standing::New,
            enough_give: false,
            may_try_silent: false,
            decisions: 0,
            may_heed_newcomers: true,
        }
    }

    /// When the next full round is due; now, if there was none yet.
    pub fn next_round(&self) -> Duration {
        self.last_round.map_or(Duration::ZERO, |last| last + ROUND)
    }

    /// What has been sent by now. To be told before [`Self::is_look_due`] and [`Self::tick`].
    pub fn note_sent(&mut self, sent: Sent) {
        self.sent = sent;
    }

    /// When to decide again between rounds, if nothing happens before: there may be more slots.
    pub fn next_look(&self) -> Option<Duration> {
        self.auto.next_look()
    }

    /// Whether [`Self::next_look`] has come, and there may be more slots by what has been sent by now. Most
    /// often it has not been enough by far, and to decide again is the most work that there is between rounds.
    pub fn is_look_due(&mut self, now: Duration) -> bool {
        self.auto.is_look_due(now, self.sent.uploaded)
    }

    /// Whether it makes a difference before the next look, which is a second away at most, that somebody comes to want
    /// something: a slot is free, or one of those who are answered stands worse than a peer can, or nobody waits, so that
    /// who is idle has kept its slot and it was not looked at whether there should be more. By the last decision.
    pub fn may_heed_newcomers(&self) -> bool {
        self.may_heed_newcomers
    }

    /// Whether the peer is unchoked at the moment.
    pub fn is_unchoked(&self, id: LinkId) -> bool {
        self.place_of(id).is_ok_and(|at| self.peers[at].is_answered())
    }

    /// Whether the peer took what it was sent and gave next to nothing.
    pub fn only_takes(&self, id: LinkId) -> bool {
        self.place_of(id).is_ok_and(|at| self.peers[at].standing == Standing::Taker)
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
        peers: impl IntoIterator<Item = PeerView>,
        rng: &mut Rng,
    ) -> Vec<(LinkId, bool)> {
        self.decide(now, complete, peers, rng);
        let may_give_way = self.peers.iter().any(PeerState::may_give_way);
        self.may_heed_newcomers = may_give_way || !self.has_waiting() || self.has_free_slot();
        self.changes()
    }

    fn decide(
        &mut self,
        now: Duration,
        complete: bool,
        peers: impl IntoIterator<Item = PeerView>,
        rng: &mut Rng,
    ) {
        let policy = if complete { ChokePolicy::Seeder } else { self.policy };
        let due = now >= self.next_round();
        if due {
            self.begin_round();
        }
        let has_room = self.slack.note(now, self.sent.handed_over);
        self.take_note(now, due, policy, peers);
        let passing_on_shows = self.peers.iter().any(|peer| peer.view.passes_on.is_some());
        self.trusted_from = if passing_on_shows { Standing::Giver } else { Standing::New };
        self.enough_give = policy == ChokePolicy::Contribution && self.have_enough_givers(now);
        self.resize(now, due, policy, has_room);
        self.free_lost_slots(now, policy);
        self.bench_idle(now);
        self.take_back_trials();
        self.end_vain_trials(now);
        let is_judged = self.peers.iter().any(|peer| peer.standing != Standing::New);
        if !due && !is_judged && !self.has_free_slot() {
            return;
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
        if due {
            tried.extend(self.end_trials_for_newcomers(now));
        }
        self.fill_optimistic(now, &tried, rng);
        if due {
            self.note_round(now);
        }
    }

    /// Learns of joins, leaves, interest, and of who gives. A round that is `due` has begun by then: what
    /// no longer counts in it must not count for the choice that it begins with.
    fn take_note(
        &mut self,
        now: Duration,
        due: bool,
        policy: ChokePolicy,
        peers: impl IntoIterator<Item = PeerView>,
    ) {
        self.decisions = self.decisions.wrapping_add(1);
        // While it has room, what is slow is whoever reads, and shall not keep others out.
        let leaving_max = if self.slack.has_room() { LEAVING_MAX } else { self.leaving_max };
        let mut count = 0;
        for (place, view) in peers.into_iter().enumerate() {
            // Most often nobody came or went since the last time.
            let is_in_place = self.peers.get(place).is_some_and(|peer| peer.view.id == view.id);
            let found = if is_in_place { Ok(place) } else { self.place_of(view.id) };
            let at = found.unwrap_or_else(|at| {
                self.peers.insert(at, PeerState::new(now, view));
                at
            });
            self.peers[at].note(now, due, leaving_max, view);
            self.peers[at].judge(now, self.piece_len, policy);
            self.peers[at].seen_in = self.decisions;
            count = place + 1;
        }
        if self.peers.len() > count {
            self.part_with_gone();
        }
    }

    /// Sets the number of slots after the last round's rates, or between rounds if there is
    /// plenty for all who are answered. Not counted is who takes nothing of what it has asked for, for long or
    /// while the link has room, or did so until its slot was lost, while nobody takes anything; and where nobody ever took
    /// anything, none of them is.
    fn resize(&mut self, now: Duration, due: bool, policy: ChokePolicy, has_room: bool) {
        if self.slots != Slots::Auto {
            return;
        }
        // While somebody takes what is sent the link is not idle for the sake of those who are stuck; were they
        // counted then, each would have one more of the others answered, and all of them would wait.
        let somebody_takes = self.peers.iter().any(|peer| peer.takes(now));
        let is_stuck = |peer: &PeerState| !somebody_takes && peer.is_stuck(now);
        let holders = self.peers.iter().filter(|peer| peer.is_answered() || is_stuck(peer));
        let is_deaf = |peer: &&PeerState| {
            is_stuck(peer) || peer.view.in_hand && (has_room || peer.is_idle(now))
        };
        let never_took =
            |peer: &PeerState| peer.view.uploaded_to == 0 && (is_stuck(peer) || peer.is_idle(now));
        let deaf = if holders.clone().all(never_took) {
            holders.clone().count()
        } else {
            holders.clone().filter(is_deaf).count()
        };
        let answered = holders.count();
        if !self.has_waiting() || answered == 0 {
            return self.auto.nobody_waits(due);
        }
        self.auto.some_are_deaf(due, deaf, answered);
        // Who takes nothing tells nothing of what the link carries.
        let answered = (answered - deaf).max(1) as u64;
        let givers = self.givers(now, policy);
        let enough = givers.filter(|givers| givers.are_served).map(|givers| givers.wanting);
        match self.last_round {
            Some(last) if due => {
                let of_late = |peer: &PeerState| peer.view.uploaded_to - peer.uploaded_mark;
                let sent: u64 = self.peers.iter().map(of_late).sum();
                let takers = self.peers.iter().filter(|peer| of_late(peer) > 0).count() as u64;
                let total = per_second(sent, now.saturating_sub(last));
                self.auto.adapt(now, Round { total, takers, answered, enough });
            }
            _ if enough.is_some() => self.auto.put_off_looks(),
            _ => {
                let sent = self.peers.iter().map(|peer| peer.view.uploaded_to).sum();
                let hopeful = givers.map_or(0, |givers| givers.hopeful);
                // Who has all and sends nothing may wait for its disk, and has no room then.
                let busy = if policy == ChokePolicy::Seeder { now } else { self.sent.busy };
                self.auto.look(now, Look { sent, busy, answered, hopeful });
                self.auto.note_look(now, answered, self.sent.uploaded);
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
    fn has_waiting(&self) -> bool {
        self.peers.iter().any(PeerState::has_no_slot)
    }

    /// Those who may give and want something, or did in this round: what somebody holds that others lack may be with them
    /// for a moment, and in the next there is something else. `None` where nobody can show that it gives: who comes to a peer that is
    /// done, which does not deal pieces out, has nothing for it.
    fn givers(&self, now: Duration, policy: ChokePolicy) -> Option<Givers> {
        if policy != ChokePolicy::Contribution && self.trusted_from != Standing::Giver {
            return None;
        }
        let (mut wanting, mut hopeful, mut answered) = (0, 0, 0);
        for peer in self.peers.iter().filter(|peer| peer.may_give()) {
            let may_have_one = may_hold_regular(policy, &peer.view) && now >= peer.benched_until;
            let had_some = peer.view.uploaded_to > peer.uploaded_mark;
            let wants = may_have_one || had_some;
            wanting += usize::from(wants);
            hopeful += usize::from(wants && peer.standing >= Standing::New);
            answered += usize::from(peer.is_answered());
        }
        let are_served = wanting <= self.slots().0 && answered >= FLOOR;
        Some(Givers { wanting, hopeful, are_served })
    }

    /// Whether more want something who give than there are regular slots, or at least as many as the classic setting has.
    /// Who wanted something in this round counts, as in [`Self::givers`]; who takes nothing in its slot does not.
    fn have_enough_givers(&self, now: Duration) -> bool {
        let wants = |peer: &&PeerState| {
            let may_have_one = may_hold_regular(ChokePolicy::Contribution, &peer.view);
            let had_some = peer.view.uploaded_to > peer.uploaded_mark;
            (may_have_one || had_some) && !(peer.is_answered() && peer.is_idle(now))
        };
        let givers = self.peers.iter().filter(|peer| peer.standing == Standing::Giver);
        let enough = (self.slots().0 + 1).min(FLOOR);
        givers.filter(wants).take(enough).count() == enough
    }

    /// Whether it is one of those that a receiver does not need while enough give; see the module's header.
    fn is_surplus(&self, peer: &PeerState) -> bool {
        self.enough_give && peer.is_silent()
    }

    /// Takes slots from those that do not use them, as far as others wait. Else those who ask
    /// for everything and read nothing could hold them all.
    fn bench_idle(&mut self, now: Duration) {
        let waits = |peer: &&PeerState| peer.is_waiting(now) && !self.is_surplus(peer);
        let mut waiting = self.peers.iter().filter(waits).count();
        for peer in &mut self.peers {
            if waiting > 0 && peer.is_answered() && peer.is_idle(now) {
                peer.let_slot_pass(now);
                peer.put(now, Slot::None);
                waiting -= 1;
            }
        }
    }

    /// Slots may be moved again.
    fn begin_round(&mut self) {
        self.rounds = self.moves();
        self.moved = 0;
        // A transfer that is over within a round has no use for others than it found at once.
        self.may_try_silent = self.last_round.is_some();
    }

    fn note_round(&mut self, now: Duration) {
        let of_late = |peer: &PeerState| peer.view.uploaded_to - peer.uploaded_mark;
        let sent: u64 = self.peers.iter().map(of_late).sum();
        let takers = self.peers.iter().filter(|peer| of_late(peer) > 0).count();
        if let Some(last) = self.last_round.filter(|_| sent > 0) {
            let round = now.saturating_sub(last);
            self.leaving_max = leaving_max(self.piece_len, round, sent, takers);
        }
        self.last_round = Some(now);
        for peer in &mut self.peers {
            peer.uploaded_mark = peer.view.uploaded_to;
        }
    }

    /// Those that are to get nothing more of what they have asked for, not even the rest of a piece that was begun, by the
    /// last decision: they only take.
    pub fn cut_off(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.peers.iter().filter(|peer| peer.is_cut_off()).map(|peer| peer.view.id)
    }

    fn changes(&self) -> Vec<(LinkId, bool)> {
        let changed = self.peers.iter().filter(|peer| peer.is_answered() != peer.was_answered);
        changed.map(|peer| (peer.view.id, peer.is_answered())).collect()
    }
}
