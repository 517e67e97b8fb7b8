//! Whom we answer: the choker, as a value.
//!
//! Every [`ROUND`] it ranks the peers that are interested in us and gives out regular and
//! optimistic slots; between rounds it only fills slots that are free, at once. A slot nobody
//! wants costs nothing, a slot kept free for ten seconds costs ten seconds.
//!
//! The rules:
//! - Only interested peers have slots. Whoever leaves, loses interest, or (unless we are
//!   complete) is snubbed loses a regular slot at once.
//! - **Contribution** ranks by bytes verified from the peer in the last two rounds and since;
//!   **Rarity** by how many rare pieces it holds; **Seeder** (always, once we are complete)
//!   gives everybody a turn: who waits longest comes next, who was answered longest goes.
//! - Calm: a round takes a slot from at most a quarter of the regular ones (one of 4) for a
//!   better ranked peer, never for an equal one; the rest only changes where it must.
//! - The optimistic slots go to others at random, to newcomers three times as likely, for
//!   three rounds: long enough to show. A tried peer that ranks well enough moves to a regular
//!   slot, and another is tried at once.
//! - [`Slots::Auto`] sets the number of regular slots by what the link carries; see there.
//!
//! Invariant: never more peers unchoked than regular and optimistic slots, never one that is
//! not interested, and a reported change is a real change.
//! Not here: messages, measuring, the clock. The caller acts on the changes; it may call
//! [`Choker::tick`] at any event as well as on time.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;

/// Time between two full rounds.
pub const ROUND: Duration = Duration::from_secs(10);
/// For how long a peer may owe us every block we asked for before its view says `snubbed`.
pub const SNUB_AFTER: Duration = Duration::from_secs(60);

/// How long after joining a peer is a newcomer.
const NEWCOMER: Duration = Duration::from_secs(30);
/// How much likelier a newcomer gets an optimistic slot.
const NEWCOMER_WEIGHT: u32 = 3;
/// How long an optimistic slot is kept.
const TRIAL: Duration = ROUND.saturating_mul(3);

/// Regular slots of [`Slots::Auto`]: at least, to begin with, and at most.
const AUTO_FLOOR: usize = 4;
const AUTO_START: usize = 64;
const AUTO_CAP: usize = 128;
/// A mean rate for each answered peer (bytes per second) at which more slots hurt nobody.
const AUTO_PLENTY: u64 = 256 * 1024;
/// A mean rate below which the answered peers are too many: a 1 MiB piece takes 16 s.
const AUTO_THIN: u64 = 64 * 1024;
/// After slots were taken away in vain, none are taken away for so long.
const AUTO_HOLD: Duration = ROUND.saturating_mul(6);

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
    /// One optimistic slot, and 4 to 128 regular ones after what the link carries. It begins
    /// with 64, so that on a fast or short link, where slots do not matter, nobody waits.
    /// Looked at each round in which somebody had to wait, by the mean rate of those answered:
    /// - 256 KiB/s or more: a quarter more slots;
    /// - under 64 KiB/s: half the slots, not under 4. If the mean has not risen by an eighth
    ///   in the next round, the slots were not what held it back (the receivers are slow):
    ///   they are given back, and none are taken away for a minute.
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
    /// Bytes it sent us in pieces that proved right, since it joined.
    pub verified_from: u64,
    /// Bytes we sent it, since it joined.
    pub uploaded_to: u64,
    /// How many rare pieces it holds ([`Ledger::rare_held`](super::Ledger::rare_held)); only
    /// looked at by [`ChokePolicy::Rarity`].
    pub rare_pieces: u32,
    /// When its link came to be.
    pub joined_at: Duration,
    /// It owed us blocks for [`SNUB_AFTER`] and sent none.
    pub snubbed: bool,
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
    slot: Slot,
    /// When `slot` (or, of one without, the wait for one) began.
    since: Duration,
    interested: bool,
    /// `verified_from` at the last two rounds, the older first.
    verified_marks: [u64; 2],
    /// `uploaded_to` at the last round.
    uploaded_mark: u64,
}

/// Decides whom we answer; see the module's header.
#[derive(Clone, Debug)]
pub struct Choker {
    policy: ChokePolicy,
    slots: Slots,
    auto: Auto,
    peers: BTreeMap<LinkId, PeerState>,
    last_round: Option<Duration>,
}

impl Choker {
    /// A choker that knows nobody yet.
    pub fn new(policy: ChokePolicy, slots: Slots) -> Self {
        Self { policy, slots, auto: Auto::new(), peers: BTreeMap::new(), last_round: None }
    }

    /// When the next full round is due; now, if there was none yet.
    pub fn next_round(&self) -> Duration {
        self.last_round.map_or(Duration::ZERO, |last| last + ROUND)
    }

    /// Whether the peer is unchoked at the moment.
    pub fn is_unchoked(&self, id: LinkId) -> bool {
        self.peers.get(&id).is_some_and(|peer| peer.slot != Slot::None)
    }

    /// How many regular and optimistic slots there are at the moment.
    pub fn slots(&self) -> (usize, usize) {
        match self.slots {
            Slots::Fixed { regular, optimistic } => (regular, optimistic),
            Slots::Auto => (self.auto.regular, 1),
        }
    }

    /// Whether a slot is free, so that a peer that joins interested is unchoked at once.
    pub fn has_free_slot(&self) -> bool {
        let (regular, optimistic) = self.slots();
        self.peers.values().filter(|peer| peer.slot != Slot::None).count() < regular + optimistic
    }

    /// Whether [`PeerView::rare_pieces`] is looked at.
    pub fn looks_at_rarity(&self, complete: bool) -> bool {
        !complete && self.policy == ChokePolicy::Rarity
    }

    /// Decides again: a full round if one is due, else only what cannot wait (a slot became
    /// free, a peer came, left or changed its interest). `peers` are all links there are, each
    /// once, in any order; `complete` says that we hold all we want. Returns the peers to
    /// unchoke (true) and to choke (false). Time must not go backwards.
    pub fn tick(
        &mut self,
        now: Duration,
        complete: bool,
        peers: &[PeerView],
        rng: &mut Rng,
    ) -> Vec<(LinkId, bool)> {
        let before = self.unchoked();
        self.take_note(now, peers);
        let policy = if complete { ChokePolicy::Seeder } else { self.policy };
        let due = now >= self.next_round();
        if due {
            self.resize(now, peers);
        }
        self.free_lost_slots(now, policy, peers);
        let mut ranking = self.rank(now, policy, peers, rng);
        if due {
            self.swap_regular(now, policy, &mut ranking);
            self.end_trials(now);
        }
        self.fill_regular(now, &ranking);
        self.fill_optimistic(now, peers, rng);
        if due {
            self.close_round(now, peers);
        }
        self.changes(&before, peers)
    }

    fn unchoked(&self) -> Vec<LinkId> {
        let unchoked = self.peers.iter().filter(|(_, peer)| peer.slot != Slot::None);
        unchoked.map(|(id, _)| *id).collect()
    }

    /// Learns of joins, leaves and interest.
    fn take_note(&mut self, now: Duration, peers: &[PeerView]) {
        for view in peers {
            let peer = self.peers.entry(view.id).or_insert_with(|| PeerState {
                slot: Slot::None,
                since: now,
                interested: false,
                verified_marks: [view.verified_from; 2],
                uploaded_mark: view.uploaded_to,
            });
            if view.interested && !peer.interested {
                peer.since = now;
            }
            peer.interested = view.interested;
        }
        if self.peers.len() > peers.len() {
            let here: std::collections::BTreeSet<_> = peers.iter().map(|view| view.id).collect();
            self.peers.retain(|id, _| here.contains(id));
        }
    }

    /// Sets the number of slots after the last round's rates.
    fn resize(&mut self, now: Duration, peers: &[PeerView]) {
        let Some(last) = self.last_round.filter(|_| self.slots == Slots::Auto) else { return };
        let waiting = self.peers.values().any(|peer| peer.interested && peer.slot == Slot::None);
        let answered = self.peers.values().filter(|peer| peer.slot != Slot::None).count() as u64;
        if !waiting || answered == 0 {
            return;
        }
        let sent: u64 = peers
            .iter()
            .map(|view| view.uploaded_to.saturating_sub(self.peers[&view.id].uploaded_mark))
            .sum();
        let millis = u64::try_from(now.saturating_sub(last).as_millis()).unwrap_or(u64::MAX).max(1);
        self.auto.adapt(now, sent.saturating_mul(1000) / millis / answered);
    }

    /// Takes slots from those that may not keep them, and those there are too many of.
    fn free_lost_slots(&mut self, now: Duration, policy: ChokePolicy, peers: &[PeerView]) {
        for view in peers {
            let lost = match self.peers[&view.id].slot {
                Slot::None => false,
                Slot::Regular => !may_hold_regular(policy, view),
                Slot::Optimistic => !view.interested,
            };
            if lost {
                self.put(now, view.id, Slot::None);
            }
        }
    }

    /// Those that may hold a regular slot, the best first.
    fn rank(
        &self,
        now: Duration,
        policy: ChokePolicy,
        peers: &[PeerView],
        rng: &mut Rng,
    ) -> Vec<Ranked> {
        let mut ranking: Vec<_> = peers
            .iter()
            .filter(|view| may_hold_regular(policy, view))
            .map(|view| {
                let peer = &self.peers[&view.id];
                let regular = peer.slot == Slot::Regular;
                let score = match policy {
                    ChokePolicy::Contribution => {
                        view.verified_from.saturating_sub(peer.verified_marks[0])
                    }
                    ChokePolicy::Rarity => u64::from(view.rare_pieces),
                    ChokePolicy::Seeder => turn_score(now, peer),
                };
                Ranked { score, regular, tie: rng.u32(..), id: view.id }
            })
            .collect();
        ranking.sort_unstable_by_key(|ranked| std::cmp::Reverse(ranked.key()));
        ranking
    }

    /// Drops surplus regular slots, then gives some to better peers: the calm part of a round.
    fn swap_regular(&mut self, now: Duration, policy: ChokePolicy, ranking: &mut [Ranked]) {
        let (slots, _) = self.slots();
        let mut worst_first: Vec<_> =
            (0..ranking.len()).rev().filter(|at| ranking[*at].regular).collect();
        let surplus = worst_first.len().saturating_sub(slots);
        for at in worst_first.drain(..surplus) {
            self.put(now, ranking[at].id, Slot::None);
            ranking[at].regular = false;
        }
        let free = slots - worst_first.len();
        let candidates: Vec<_> =
            (0..ranking.len()).filter(|at| !ranking[*at].regular).skip(free).collect();
        let swaps = (slots / 4).max(1);
        for (worse, better) in worst_first.into_iter().zip(candidates).take(swaps) {
            if !deserves(policy, &ranking[better], &ranking[worse]) {
                return;
            }
            self.put(now, ranking[worse].id, Slot::None);
            self.put(now, ranking[better].id, Slot::Regular);
            ranking[worse].regular = false;
            ranking[better].regular = true;
        }
    }

    fn end_trials(&mut self, now: Duration) {
        let ended: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| {
                peer.slot == Slot::Optimistic && now.saturating_sub(peer.since) >= TRIAL
            })
            .map(|(id, _)| *id)
            .collect();
        let waiting = self.peers.values().filter(|p| p.interested && p.slot == Slot::None).count();
        for id in ended.into_iter().take(waiting) {
            self.put(now, id, Slot::None);
        }
    }

    /// Gives free regular slots to the best ranked that have none.
    fn fill_regular(&mut self, now: Duration, ranking: &[Ranked]) {
        let (slots, _) = self.slots();
        let used = ranking.iter().filter(|ranked| ranked.regular).count();
        let without = ranking.iter().filter(|ranked| !ranked.regular);
        for ranked in without.take(slots.saturating_sub(used)) {
            self.put(now, ranked.id, Slot::Regular);
        }
    }

    /// Gives free optimistic slots to some that have none, at random.
    fn fill_optimistic(&mut self, now: Duration, peers: &[PeerView], rng: &mut Rng) {
        let used = self.peers.values().filter(|peer| peer.slot == Slot::Optimistic).count();
        let (_, slots) = self.slots();
        let mut waiting: Vec<_> = peers
            .iter()
            .filter(|view| view.interested && self.peers[&view.id].slot == Slot::None)
            .map(|view| (view.id, weight(now, view)))
            .collect();
        for _ in used..slots {
            let total: u32 = waiting.iter().map(|(_, weight)| weight).sum();
            if total == 0 {
                return;
            }
            let mut drawn = rng.u32(..total);
            let at = waiting.iter().position(|(_, weight)| {
                let here = drawn < *weight;
                drawn = drawn.wrapping_sub(*weight);
                here
            });
            if let Some(at) = at {
                let (id, _) = waiting.swap_remove(at);
                self.put(now, id, Slot::Optimistic);
            }
        }
    }

    fn close_round(&mut self, now: Duration, peers: &[PeerView]) {
        self.last_round = Some(now);
        for view in peers {
            if let Some(peer) = self.peers.get_mut(&view.id) {
                peer.verified_marks = [peer.verified_marks[1], view.verified_from];
                peer.uploaded_mark = view.uploaded_to;
            }
        }
    }

    fn put(&mut self, now: Duration, id: LinkId, slot: Slot) {
        if let Some(peer) = self.peers.get_mut(&id) {
            // From optimistic to regular it goes on being answered: its turn is not new.
            if (peer.slot == Slot::None) != (slot == Slot::None) {
                peer.since = now;
            }
            peer.slot = slot;
        }
    }

    fn changes(&self, before: &[LinkId], peers: &[PeerView]) -> Vec<(LinkId, bool)> {
        let before: std::collections::BTreeSet<_> = before.iter().copied().collect();
        peers
            .iter()
            .map(|view| (view.id, self.is_unchoked(view.id)))
            .filter(|(id, unchoked)| before.contains(id) != *unchoked)
            .collect()
    }
}

/// A candidate for a regular slot.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    score: u64,
    regular: bool,
    tie: u32,
    id: LinkId,
}

impl Ranked {
    /// Among equals those that have a slot keep it; the rest is chance.
    fn key(&self) -> (u64, bool, u32) {
        (self.score, self.regular, self.tie)
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
    match policy {
        // Whoever waits comes before whoever had a turn.
        ChokePolicy::Seeder => better.score >= WAITS,
        ChokePolicy::Contribution | ChokePolicy::Rarity => better.score > worse.score,
    }
}

fn weight(now: Duration, view: &PeerView) -> u32 {
    if now.saturating_sub(view.joined_at) < NEWCOMER { NEWCOMER_WEIGHT } else { 1 }
}

/// The number of regular slots under [`Slots::Auto`].
#[derive(Clone, Debug)]
struct Auto {
    regular: usize,
    /// Slots and mean rate before the last halving, while its effect is not known.
    halved_from: Option<(usize, u64)>,
    hold_until: Duration,
}

impl Auto {
    fn new() -> Self {
        Self { regular: AUTO_START, halved_from: None, hold_until: Duration::ZERO }
    }

    /// Follows a round in which peers had to wait and those answered got `mean` bytes/s each.
    fn adapt(&mut self, now: Duration, mean: u64) {
        if let Some((slots, before)) = self.halved_from.take()
            && mean < before.saturating_add(before / 8)
        {
            self.regular = slots;
            self.hold_until = now + AUTO_HOLD;
        } else if mean >= AUTO_PLENTY {
            self.regular = (self.regular + self.regular / 4).min(AUTO_CAP);
        } else if mean < AUTO_THIN && self.regular > AUTO_FLOOR && now >= self.hold_until {
            self.halved_from = Some((self.regular, mean));
            self.regular = (self.regular / 2).max(AUTO_FLOOR);
        }
    }
}
