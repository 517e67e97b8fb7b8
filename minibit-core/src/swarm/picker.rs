//! Which pieces to ask a peer for: the rarest that it holds, that we want and nobody fetches.
//!
//! Invariant: where no other thread changes the ledger meanwhile, a claimed piece has the
//! lowest level of rarity among those open pieces that the peer holds. Otherwise it had it
//! when it was looked at: a stale read may delay a good choice, never claim a piece twice.
//!
//! How it stays cheap at a million pieces: from the rarest level up, the level's bitmap and
//! the peer's are searched for a common bit through their upper tiers. One search serves many
//! claims. If a peer holds so little that a walk over *its* pieces is shorter than what the
//! levels have cost by now, that walk decides instead. So a call costs at most
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

/// In which order a peer is asked for pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum PickOrder {
    /// The pieces that the fewest peers hold; among those, any.
    #[default]
    RarestFirst,
    /// Any: for the first pieces, when having something to trade counts most.
    Random,
    /// The lowest numbers first: for playback while downloading.
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
        let mut claimed = None;
        self.claim_each(holdings, owner, order, 1, rng, |piece| claimed = Some(piece));
        claimed
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
        self.claim_each(holdings, owner, order, n, rng, |piece| out.push(piece));
        out.len() - before
    }

    fn claim_each(
        &self,
        holdings: &Holdings,
        owner: LaneId,
        order: PickOrder,
        n: usize,
        rng: &mut Rng,
        found: impl FnMut(PieceIndex),
    ) {
        // The length first: a peer that holds something and has no bitmap holds everything.
        let held_len = holdings.len();
        if n == 0 || held_len == 0 || !self.has_open() {
            return;
        }
        let held = holdings.bits();
        let mut search = Search { ledger: self, held, owner, rng, left: n, probes: 0, found };
        match order {
            PickOrder::Random => search.take_from(OPEN, true),
            PickOrder::Sequential => search.take_from(OPEN, false),
            PickOrder::RarestFirst => {
                // What a counted peer holds has a holder: itself.
                let first = usize::from(holdings.counted() == Counted::ByPiece);
                search.take_rarest(first, held_len);
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

/// One call's search.
struct Search<'a, F> {
    ledger: &'a Ledger,
    /// What the peer holds; `None` = everything.
    held: Option<&'a Bits>,
    owner: LaneId,
    rng: &'a mut Rng,
    /// Claims still wanted.
    left: usize,
    /// Words looked at so far.
    probes: u32,
    found: F,
}

impl<F: FnMut(PieceIndex)> Search<'_, F> {
    /// Level by level, while that is cheaper than walking over the peer's pieces.
    fn take_rarest(&mut self, first: usize, held_len: u32) {
        for level in first..LEVELS {
            self.take_from(level, true);
            if self.left == 0 {
                return;
            }
            if self.probes > held_len {
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
                    if self.left == 0 {
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
                let Some(index) = self.ledger.geometry().piece(piece as u32) else { continue };
                best.push((self.ledger.cell(index).level(), self.rng.u32(..), piece));
                if best.len() > self.left {
                    best.pop();
                }
            }
            from = word + 1;
        }
        for (_, _, piece) in best.into_sorted_vec() {
            self.try_take(piece, OPEN);
        }
    }
}
