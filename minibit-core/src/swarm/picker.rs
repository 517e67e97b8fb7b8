//! Which pieces to ask a peer for: the rarest that it holds, that we want and nobody fetches.
//!
//! Invariant: where no other thread changes the ledger meanwhile, a claimed piece has the
//! lowest level of rarity among those open pieces that the peer holds. Otherwise it had it
//! when it was looked at: a stale read may delay a good choice, never claim a piece twice.
//!
//! How it stays cheap at a million pieces: from the rarest level up, the level's bitmap and
//! the peer's are searched for a common bit through their upper tiers. One search serves many
//! claims. If a peer holds so little that what the levels have cost by now is a good part of a
//! walk over *its* pieces, that walk decides instead. So a call costs at most about
//! `min(pieces the peer holds, words of the levels)` steps beyond its claims.
//!
//! How random ties are: a search starts at a random word, and takes a random bit of the first
//! word that has any. Within a word every piece is as likely; a word's chance is proportional
//! to the gap of words without a candidate before it, so among evenly spread candidates all
//! are about as likely, and two peers with different seeds hardly start at the same place,
//! which is what the rule is for. A batch starts anew at a random word for each claim while
//! candidates are dense; once a search was long, the batch goes on from there. The walk over
//! a sparse peer's pieces draws a number for each: exactly uniform.
//!
//! Not here: how many to claim, when to use which order, endgame (`engine`).

use std::collections::BinaryHeap;

use fastrand::Rng;

use super::bits::{Bits, ones};
use super::cell::{LEVELS, LaneId, State};
use super::holdings::{Counted, Holdings};
use super::ledger::{Ledger, OPEN, belongs};
use crate::types::PieceIndex;

/// A search that looked at more words than this has met a sparse stretch.
const QUICK_PROBES: u32 = 16;

/// Words of the levels that may be looked at before the walk over the peer's pieces is the
/// better way: one for so many pieces it holds.
const WALK_ADVANTAGE: u32 = 4;

/// In which order a share is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Picking {
    /// Rarest first, after a few random pieces to begin with.
    #[default]
    RarestFirst,
    /// Any piece, whatever its rarity: for comparison.
    Random,
    /// From the first piece to the last: for comparison.
    Sequential,
}

/// In which order one peer is asked for pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PickOrder {
    /// The pieces that the fewest peers hold; among those, any.
    #[default]
    RarestFirst,
    /// Any: for the first pieces, when having something to trade counts most.
    Random,
    /// Only pieces that no counted peer but seeders holds, any of them: to spread a seeder's
    /// uploads over the swarm before asking it for what others have, too.
    FirstCopies,
    /// The lowest number first.
    Sequential,
}

impl Ledger {
    /// Claims one open piece that the peer holds, for `owner`, which must fetch it, then call
    /// [`verified`](Self::verified) or [`release`](Self::release). `None` if there is none.
    pub fn claim(
        &self,
        holdings: &Holdings,
        owner: LaneId,
        order: PickOrder,
        rng: &mut Rng,
    ) -> Option<PieceIndex> {
        self.claim_but(&[], holdings, owner, order, rng)
    }

    /// The same, but none of these few pieces, which stay open for others all the while.
    pub fn claim_but(
        &self,
        left_alone: &[PieceIndex],
        holdings: &Holdings,
        owner: LaneId,
        order: PickOrder,
        rng: &mut Rng,
    ) -> Option<PieceIndex> {
        let mut claimed = None;
        let picks = Picks { order, n: 1, left_alone };
        self.claim_each(holdings, owner, &picks, rng, |piece| claimed = Some(piece));
        claimed
    }

    /// Claims this piece for `owner`, if it is open and the peer holds it.
    pub fn claim_this(&self, holdings: &Holdings, owner: LaneId, piece: PieceIndex) -> bool {
        holdings.contains(piece)
            && self.cell(piece).state() == State::Missing
            && self.try_claim(piece, owner, OPEN)
    }

    /// Claims up to `n` open pieces that the peer holds and appends them to `out`, in the
    /// order in which to ask for them; returns how many. Cheaper than `n` single claims.
    pub fn claim_many(
        &self,
        holdings: &Holdings,
        owner: LaneId,
        order: PickOrder,
        n: usize,
        rng: &mut Rng,
        out: &mut Vec<PieceIndex>,
    ) -> usize {
        let before = out.len();
        let picks = Picks { order, n, left_alone: &[] };
        self.claim_each(holdings, owner, &picks, rng, |piece| out.push(piece));
        out.len() - before
    }

    fn claim_each(
        &self,
        holdings: &Holdings,
        owner: LaneId,
        picks: &Picks<'_>,
        rng: &mut Rng,
        found: impl FnMut(PieceIndex),
    ) {
        let Picks { order, n, left_alone } = *picks;
        // The length first: a peer that holds something and has no bitmap holds everything.
        let held_len = holdings.len();
        if n == 0 || held_len == 0 || !self.has_open() {
            return;
        }
        let held = holdings.bits();
        let (probes, budget) = (0, u32::MAX);
        let mut search =
            Search { ledger: self, held, left_alone, owner, rng, left: n, probes, budget, found };
        match order {
            PickOrder::Random => search.take_from(OPEN, true),
            PickOrder::FirstCopies => search.take_from(0, true),
            PickOrder::Sequential => search.take_from(OPEN, false),
            PickOrder::RarestFirst => {
                // What a counted peer holds has a holder: itself.
                let first = usize::from(holdings.counted() == Counted::ByPiece);
                search.budget = held_len / WALK_ADVANTAGE;
                search.take_rarest(first);
            }
        }
    }

    /// Claims a piece if it belongs to the bitmap in which it was found; else clears that bit.
    fn try_claim(&self, piece: PieceIndex, owner: LaneId, found_in: usize) -> bool {
        let won = self.change(piece, |cell| {
            belongs(cell, found_in)
                .then(|| cell.with_state(State::InFlight).with_owner(Some(owner)))
        });
        if !won {
            self.unmark(found_in, piece.index() / 64, 1 << (piece.get() % 64));
        }
        won
    }
}

/// What a call is to claim.
struct Picks<'a> {
    order: PickOrder,
    /// How many.
    n: usize,
    /// None of these.
    left_alone: &'a [PieceIndex],
}

/// One call's search.
struct Search<'a, F> {
    ledger: &'a Ledger,
    /// What the peer holds; `None` = everything.
    held: Option<&'a Bits>,
    /// Never claimed.
    left_alone: &'a [PieceIndex],
    owner: LaneId,
    rng: &'a mut Rng,
    /// Claims still wanted.
    left: usize,
    /// Words looked at so far.
    probes: u32,
    /// Give up when it were more than this.
    budget: u32,
    found: F,
}

impl<F: FnMut(PieceIndex)> Search<'_, F> {
    /// Level by level, while that is cheaper than walking over the peer's pieces.
    fn take_rarest(&mut self, first: usize) {
        for level in first..LEVELS {
            self.take_from(level, true);
            if self.left == 0 {
                return;
            }
            if self.probes > self.budget {
                return self.take_rarest_of_few();
            }
        }
    }

    /// Claims from one bitmap until it has no more for this peer: from a random place on and
    /// once around, or from the lowest number up.
    fn take_from(&mut self, number: usize, scattered: bool) {
        let bits = self.ledger.bitmap(number);
        if bits.is_empty() {
            return;
        }
        let end = bits.word_count();
        'around: loop {
            let start = if scattered { self.rng.usize(..end) } else { 0 };
            for (mut at, end) in [(start, end), (0, start)] {
                while at < end {
                    let before = self.probes;
                    let next = bits.next_common(self.held, at, &mut self.probes);
                    let Some((word, common)) = next.filter(|(word, _)| *word < end) else { break };
                    let dense = scattered && self.probes - before <= QUICK_PROBES;
                    let claimed = self.take_in_word(number, word, common, scattered, dense);
                    if self.left == 0 || self.probes > self.budget {
                        return;
                    }
                    if claimed && dense {
                        continue 'around;
                    }
                    at = word + 1;
                }
            }
            return;
        }
    }

    /// Claims pieces of one word (one, if `only_one`); says whether it got any.
    fn take_in_word(
        &mut self,
        number: usize,
        word: usize,
        common: u64,
        scattered: bool,
        only_one: bool,
    ) -> bool {
        let (mut rest, mut claimed) = (common, false);
        while rest != 0 && self.left > 0 && !(claimed && only_one) {
            let bit = if scattered { self.any_bit(rest) } else { rest.trailing_zeros() };
            rest &= !(1 << bit);
            claimed |= self.try_take(word * 64 + bit as usize, number);
        }
        claimed
    }

    /// Any of the bits set in a word, each as likely.
    fn any_bit(&mut self, word: u64) -> u32 {
        let mut rest = word;
        for _ in 0..self.rng.u32(..word.count_ones()) {
            rest &= rest - 1;
        }
        rest.trailing_zeros()
    }

    fn try_take(&mut self, piece: usize, found_in: usize) -> bool {
        let Some(piece) = self.ledger.geometry().piece(piece as u32) else { return false };
        if self.left_alone.contains(&piece) {
            return false;
        }
        let won = self.ledger.try_claim(piece, self.owner, found_in);
        if won {
            self.left -= 1;
            (self.found)(piece);
        }
        won
    }

    /// Walks over all open pieces of a peer that has few, and claims the rarest.
    fn take_rarest_of_few(&mut self) {
        let open = self.ledger.bitmap(OPEN);
        // The `left` best so far, the worst on top.
        let mut best: BinaryHeap<(usize, u32, usize)> = BinaryHeap::new();
        let mut from = 0;
        while let Some((word, common)) = open.next_common(self.held, from, &mut self.probes) {
            for piece in ones(common).map(|bit| word * 64 + bit) {
                let index = self.ledger.geometry().piece(piece as u32);
                let index = index.filter(|index| !self.left_alone.contains(index));
                let Some(index) = index else { continue };
                let candidate = (self.ledger.cell(index).level(), self.rng.u32(..), piece);
                if best.len() < self.left {
                    best.push(candidate);
                } else if let Some(mut worst) = best.peek_mut()
                    && candidate < *worst
                {
                    *worst = candidate;
                }
            }
            from = word + 1;
        }
        for (_, _, piece) in best.into_sorted_vec() {
            self.try_take(piece, OPEN);
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::super::cell::level_of;
    use super::super::share_of;
    use super::*;
    use crate::types::PieceSet;
    use fastrand::Rng;
    use proptest::prelude::*;
    use std::collections::HashMap;

    /// A swarm drawn as a string: a digit for each piece, how many peers hold it.
    fn swarm(picture: &str) -> Drawn {
        let counts: Vec<u32> = picture.chars().map(|c| c.to_digit(10).unwrap()).collect();
        Drawn { have: " ".repeat(counts.len()), peer: "x".repeat(counts.len()), counts, seed: 0 }
    }

    struct Drawn {
        counts: Vec<u32>,
        have: String,
        peer: String,
        seed: u64,
    }

    impl Drawn {
        /// Which pieces are not to be picked: `x` we hold it, `f` in flight, `-` not wanted.
        fn have(mut self, picture: &str) -> Self {
            assert_eq!(picture.len(), self.counts.len());
            self.have = picture.into();
            self
        }

        /// Which pieces the peer holds that is to be asked; all, if not said.
        fn peer(mut self, picture: &str) -> Self {
            assert_eq!(picture.len(), self.counts.len());
            self.peer = picture.into();
            self
        }

        fn seed(mut self, seed: u64) -> Self {
            self.seed = seed;
            self
        }

        fn set(picture: &str, marks: &str) -> PieceSet {
            let geometry = share_of(picture.len() as u32);
            let mut set = PieceSet::empty(picture.len() as u32);
            for (piece, _) in
                geometry.pieces().zip(picture.chars()).filter(|(_, mark)| marks.contains(*mark))
            {
                set.insert(piece);
            }
            set
        }

        fn ledger(&self) -> Ledger {
            let geometry = share_of(self.counts.len() as u32);
            let wanted = Self::set(&self.have, " fx");
            let ledger = Ledger::new(geometry.clone(), &Self::set(&self.have, "x"), &wanted);
            let flying = Holdings::from_set(&Self::set(&self.have, "f"));
            let (lane, rng) = (ledger.new_lane(), &mut Rng::with_seed(0));
            ledger.claim_many(&flying, lane, PickOrder::Random, 64, rng, &mut Vec::new());
            for number in 0..9 {
                let mut set = PieceSet::empty(self.counts.len() as u32);
                for piece in geometry.pieces().filter(|piece| self.counts[piece.index()] > number) {
                    set.insert(piece);
                }
                ledger.add_holder(&Holdings::from_set(&set));
            }
            ledger
        }

        fn pick_in(&self, order: PickOrder) -> Option<u32> {
            let (ledger, peer) = (self.ledger(), Holdings::from_set(&Self::set(&self.peer, "x")));
            let rng = &mut Rng::with_seed(self.seed);
            ledger.claim(&peer, ledger.new_lane(), order, rng).map(PieceIndex::get)
        }

        fn pick(&self) -> Option<u32> {
            self.pick_in(PickOrder::RarestFirst)
        }
    }

    #[test]
    fn the_worked_example_picks_the_piece_with_two_holders() {
        assert_eq!(swarm("23556633").pick(), Some(0));
        assert_eq!(swarm("35563263").pick(), Some(5));
    }

    #[test]
    fn the_rarest_piece_is_picked_among_those_that_count() {
        assert_eq!(swarm("1323").have("x   ").pick(), Some(2));
        assert_eq!(swarm("1323").have("xxx ").pick(), Some(3));
        assert_eq!(swarm("1323").have("f -x").pick(), Some(1));
        assert_eq!(swarm("1323").have("fxx-").pick(), None);
        assert_eq!(swarm("1323").peer(" x x").have("   x").pick(), Some(1));
        assert_eq!(swarm("1323").peer("x   ").have("x   ").pick(), None);
        assert_eq!(swarm("1323").peer("    ").pick(), None);
        assert_eq!(swarm("9990").pick(), Some(3));
    }

    #[test]
    fn what_is_left_alone_is_never_claimed_and_stays_open_for_others() {
        for order in [PickOrder::RarestFirst, PickOrder::Random, PickOrder::Sequential] {
            let (drawn, rng) = (swarm("1323"), &mut Rng::with_seed(1));
            let (ledger, peer) = (drawn.ledger(), Holdings::from_set(&Drawn::set("xxxx", "x")));
            let (lane, rarest) = (ledger.new_lane(), ledger.geometry().piece(0).unwrap());
            let claim = || ledger.claim_but(&[rarest], &peer, lane, order, rng);
            let mut claimed: Vec<u32> = std::iter::from_fn(claim).map(PieceIndex::get).collect();
            claimed.sort_unstable();
            assert_eq!(claimed, [1, 2, 3], "{order:?}");
            assert!(ledger.claim_this(&peer, lane, rarest), "{order:?}");
        }
    }

    #[test]
    fn ties_and_random_picks_fall_on_every_candidate() {
        for order in [PickOrder::RarestFirst, PickOrder::Random] {
            let mut seen: HashMap<u32, u32> = HashMap::new();
            for seed in 0..400 {
                let pick = swarm("12112").have("    x").seed(seed).pick_in(order).unwrap();
                *seen.entry(pick).or_default() += 1;
            }
            let candidates: &[u32] =
                if order == PickOrder::Random { &[0, 1, 2, 3] } else { &[0, 2, 3] };
            assert_eq!(seen.len(), candidates.len(), "{order:?} {seen:?}");
            assert!(candidates.iter().all(|piece| seen[piece] > 60), "{order:?} {seen:?}");
        }
    }

    #[test]
    fn a_peer_with_few_common_pieces_is_served_exactly_though_the_levels_are_full() {
        // Level 1 is full of pieces the peer lacks; its own three have 3, 2 and 3 holders.
        let pieces = 64 * 200;
        let geometry = share_of(pieces);
        let ledger =
            Ledger::new(geometry.clone(), &PieceSet::empty(pieces), &PieceSet::full(pieces));
        let mine = [5u32, 7000, 12_000];
        let (mut others, mut own) = (PieceSet::full(pieces), PieceSet::empty(pieces));
        for number in mine {
            others.remove(geometry.piece(number).unwrap());
            own.insert(geometry.piece(number).unwrap());
        }
        let peer = Holdings::from_set(&own);
        let (twin, third) = (Holdings::from_set(&own), Holdings::empty(pieces));
        for holder in [&peer, &twin, &third, &Holdings::from_set(&others)] {
            ledger.add_holder(holder);
        }
        ledger.gain(&third, geometry.piece(mine[0]).unwrap());
        ledger.gain(&third, geometry.piece(mine[2]).unwrap());
        let mut out = Vec::new();
        let (lane, rng) = (ledger.new_lane(), &mut Rng::with_seed(1));
        let claimed = ledger.claim_many(&peer, lane, PickOrder::RarestFirst, 9, rng, &mut out);
        let mut numbers: Vec<_> = out.iter().map(|piece| piece.get()).collect();
        assert_eq!((claimed, numbers.remove(0)), (3, 7000));
        numbers.sort_unstable();
        assert_eq!(numbers, [5, 12_000]);
    }

    #[test]
    fn four_threads_share_all_pieces_and_none_twice() {
        let pieces = 5000;
        let ledger =
            Ledger::new(share_of(pieces), &PieceSet::empty(pieces), &PieceSet::full(pieces));
        let news_maker = Holdings::empty(pieces);
        ledger.add_holder(&news_maker);
        let claimed: Vec<Vec<PieceIndex>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|seed| {
                    let ledger = &ledger;
                    scope.spawn(move || {
                        let (mut rng, mut out) = (Rng::with_seed(seed), Vec::new());
                        let (lane, seeder) = (ledger.new_lane(), Holdings::full(pieces));
                        let order = PickOrder::RarestFirst;
                        while ledger.claim_many(&seeder, lane, order, 3, &mut rng, &mut out) > 0 {
                            // Some come back, which moves them once more.
                            if rng.u8(..8) == 0
                                && let Some(piece) = out.pop()
                            {
                                assert!(ledger.release(piece, lane));
                            }
                        }
                        out
                    })
                })
                .collect();
            for piece in ledger.geometry().pieces() {
                ledger.gain(&news_maker, piece);
            }
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        // What was released last may have been missed by threads that were about to end.
        let (mut rest, lane) = (Vec::new(), ledger.new_lane());
        let (seeder, rng) = (Holdings::full(pieces), &mut Rng::with_seed(9));
        ledger.claim_many(&seeder, lane, PickOrder::Random, pieces as usize, rng, &mut rest);
        let mut all: Vec<_> = claimed.into_iter().flatten().chain(rest).collect();
        assert_eq!(all.len(), pieces as usize);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), pieces as usize);
        assert!(!ledger.has_open());
    }

    /// One step of a random history.
    #[derive(Clone, Debug)]
    enum Step {
        Gain(usize, u32),
        Lose(usize, u32),
        Leave(usize),
        Join(usize),
        Claim { peer: usize, order: PickOrder, n: usize },
        Release(usize),
        Verify(usize),
        Withdraw(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let (peer, piece) = (0usize..PEERS, any::<u32>());
        let order = prop_oneof![
            4 => Just(PickOrder::RarestFirst),
            1 => Just(PickOrder::Random),
            2 => Just(PickOrder::FirstCopies),
            1 => Just(PickOrder::Sequential),
        ];
        prop_oneof![
            8 => (peer.clone(), piece).prop_map(|(peer, piece)| Step::Gain(peer, piece)),
            2 => (peer.clone(), piece).prop_map(|(peer, piece)| Step::Lose(peer, piece)),
            1 => peer.clone().prop_map(Step::Leave),
            1 => peer.clone().prop_map(Step::Join),
            6 => (peer, order, 1usize..5)
                .prop_map(|(peer, order, n)| Step::Claim { peer, order, n }),
            2 => any::<usize>().prop_map(Step::Release),
            2 => any::<usize>().prop_map(Step::Verify),
            1 => piece.prop_map(Step::Withdraw),
        ]
    }

    /// As many as there are levels that are exact, and some more.
    const PEERS: usize = 40;

    /// The plain version: a `Vec` of pieces, counted afresh for each pick.
    struct Naive {
        open: Vec<bool>,
        have: Vec<bool>,
        counted: Vec<bool>,
        holds: Vec<Vec<bool>>,
    }

    impl Naive {
        fn holders(&self, piece: usize) -> u32 {
            let counted = self.holds.iter().zip(&self.counted).filter(|(_, counted)| **counted);
            counted.filter(|(holds, _)| holds[piece]).count() as u32
        }

        fn candidates(&self, peer: usize) -> Vec<usize> {
            (0..self.open.len()).filter(|p| self.open[*p] && self.holds[peer][*p]).collect()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn every_pick_is_one_that_plain_counting_would_allow(
            pieces in prop_oneof![1u32..70, 70u32..600],
            unwanted in prop::collection::vec(any::<u32>(), 0..3),
            full in prop::collection::vec(prop::bool::weighted(0.1), PEERS),
            steps in prop::collection::vec(step(), 0..400),
            seed in any::<u64>(),
        ) {
            let geometry = share_of(pieces);
            let mut wanted = PieceSet::full(pieces);
            for raw in unwanted {
                wanted.remove(geometry.piece(raw % pieces).unwrap());
            }
            let ledger = Ledger::new(geometry.clone(), &PieceSet::empty(pieces), &wanted);
            let peers: Vec<_> = full.iter()
                .map(|full| if *full { Holdings::full(pieces) } else { Holdings::empty(pieces) })
                .collect();
            let mut naive = Naive {
                open: geometry.pieces().map(|piece| wanted.contains(piece)).collect(),
                have: vec![false; pieces as usize],
                counted: vec![false; PEERS],
                holds: full.iter().map(|full| vec![*full; pieces as usize]).collect(),
            };
            let lane = ledger.new_lane();
            let mut rng = Rng::with_seed(seed);
            let mut flying: Vec<PieceIndex> = Vec::new();
            for step in steps {
                match step {
                    Step::Join(peer) => {
                        ledger.add_holder(&peers[peer]);
                        naive.counted[peer] = true;
                    }
                    Step::Leave(peer) => {
                        ledger.remove_holder(&peers[peer]);
                        naive.counted[peer] = false;
                    }
                    Step::Gain(peer, raw) => {
                        let piece = geometry.piece(raw % pieces).unwrap();
                        let new = ledger.gain(&peers[peer], piece);
                        prop_assert_eq!(new, !naive.holds[peer][piece.index()]);
                        naive.holds[peer][piece.index()] = true;
                    }
                    Step::Lose(peer, raw) => {
                        let piece = geometry.piece(raw % pieces).unwrap();
                        let was = ledger.lose(&peers[peer], piece);
                        prop_assert_eq!(was, naive.holds[peer][piece.index()]);
                        naive.holds[peer][piece.index()] = false;
                    }
                    Step::Claim { peer, order, n } => {
                        let mut out = Vec::new();
                        let apart = ledger.seeders();
                        let eligible = naive
                            .candidates(peer)
                            .into_iter()
                            .filter(|piece| {
                                order != PickOrder::FirstCopies || naive.holders(*piece) == apart
                            })
                            .count();
                        let got =
                            ledger.claim_many(&peers[peer], lane, order, n, &mut rng, &mut out);
                        prop_assert_eq!(got, n.min(eligible));
                        for piece in &out {
                            let candidates = naive.candidates(peer);
                            prop_assert!(candidates.contains(&piece.index()));
                            match order {
                                PickOrder::RarestFirst => {
                                    let level = level_of(naive.holders(piece.index()) - apart);
                                    let best = candidates
                                        .iter()
                                        .map(|other| level_of(naive.holders(*other) - apart))
                                        .min();
                                    prop_assert_eq!(Some(level), best);
                                }
                                PickOrder::FirstCopies => {
                                    prop_assert_eq!(naive.holders(piece.index()), apart);
                                }
                                PickOrder::Random => {}
                                PickOrder::Sequential => {
                                    let lowest = candidates.iter().min();
                                    prop_assert_eq!(Some(&piece.index()), lowest);
                                }
                            }
                            naive.open[piece.index()] = false;
                        }
                        flying.extend(out);
                    }
                    Step::Release(at) if !flying.is_empty() => {
                        let piece = flying.swap_remove(at % flying.len());
                        prop_assert!(ledger.release(piece, lane));
                        naive.open[piece.index()] = true;
                    }
                    Step::Verify(at) if !flying.is_empty() => {
                        let piece = flying.swap_remove(at % flying.len());
                        prop_assert!(ledger.verified(piece, lane));
                        naive.have[piece.index()] = true;
                    }
                    Step::Release(_) | Step::Verify(_) => {}
                    Step::Withdraw(raw) => {
                        let piece = geometry.piece(raw % pieces).unwrap();
                        prop_assert_eq!(ledger.withdraw(piece), naive.have[piece.index()]);
                        naive.have[piece.index()] = false;
                    }
                }
                prop_assert_eq!(ledger.has_open(), naive.open.contains(&true));
            }
            for piece in geometry.pieces() {
                prop_assert_eq!(ledger.availability(piece), naive.holders(piece.index()));
                prop_assert_eq!(ledger.have(piece), naive.have[piece.index()]);
            }
            flying.sort_unstable();
            let seeder = Holdings::full(pieces);
            let in_flight: Vec<_> =
                ledger.in_flight_of(&seeder).map(|(piece, _)| piece).collect();
            prop_assert_eq!(&in_flight, &flying);
            for (peer, holds) in peers.iter().zip(&naive.holds) {
                let theirs: Vec<_> = ledger.in_flight_of(peer).map(|(piece, _)| piece).collect();
                let held = flying.iter().copied().filter(|piece| holds[piece.index()]);
                prop_assert_eq!(theirs, held.collect::<Vec<_>>());
            }
        }
    }
}
