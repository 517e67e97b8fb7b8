//! State and rarity of every piece of a share, for all links on all cores, without a lock.
//!
//! Links report what their peers gain and lose, connections claim pieces and finish them; a
//! mutex or a central task here would queue every link behind the slowest. Each piece is one
//! atomic word ([`cell`](super::cell)); for each level of rarity a bitmap has the pieces of
//! that level that are wanted and unclaimed, so that the picker finds a rarest one without
//! counting anything ([`picker`](super::picker)).
//!
//! Invariants:
//! - A piece in flight has one owner. A claim is one compare-and-swap from missing to in
//!   flight: exactly one wins.
//! - Bytes are written under a [`WriteLease`] only, and while one is held the piece stays with
//!   its owner. An owner that lost the piece gets no lease, unless it claims it anew; it must
//!   then begin anew, too, since others may have written meanwhile, or go on from what its last owner
//!   left under such a lease.
//! - A piece that became ours stays held (and in the news) until it is withdrawn, and a
//!   withdrawn one is never fetched again: the changed file is its user's.
//! - The word is the truth, the bitmaps follow. Once all changes have landed each piece's bit
//!   is set in the bitmaps it belongs to: whoever changes a word sets the bit where the piece
//!   now belongs, clears the one where it belonged, then reads the word again and sets the
//!   cleared bit again if it is right again. (The last to bring a piece to a level sets its
//!   bit there after changing the word; a clearing that comes later still is followed by a
//!   read that sees that change.) A bit too many is harmless: whoever claims checks the word,
//!   and clears what is stale in the same way. While a change is landing a search may miss the
//!   piece: a caller that found nothing asks again at its next event or tick.
//!
//! Seeders are counted apart, in one number: they add the same to every piece.
//! Memory for each piece: 8 B word + 4 B news (if it was missing) + 50 bitmaps of 1.016 bits (48 levels, in
//! flight, open) = 18.4 B; 19 MB for a million pieces. For each peer see
//! [`holdings`](super::holdings).
//! Not here: when to take over or to ask twice (`engine`), hashing, files, whom to ask.

use std::sync::Arc;

use super::bits::{Bits, ones};
use super::cell::{Cell, LEVELS, LaneId, ONE_HOLDER, State};
use super::holdings::{Counted, Holdings, place};
use super::news::News;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use crate::types::{Geometry, PieceIndex, PieceSet};

/// Number of the bitmap of all pieces in flight; those below are the levels.
pub(super) const FLYING: usize = LEVELS;
/// Number of the bitmap of all missing pieces, of any level.
pub(super) const OPEN: usize = LEVELS + 1;
const BITMAPS: usize = LEVELS + 2;

/// How many levels of rarity count as rare for [`Ledger::rare_held`].
const RARE_LEVELS: usize = 4;

/// State and rarity of every piece of one share; see the module's header.
pub struct Ledger {
    geometry: Arc<Geometry>,
    cells: Box<[AtomicU64]>,
    bitmaps: Box<[Bits]>,
    news: News,
    seeders: AtomicU32,
    have: AtomicU32,
    wanted_left: AtomicU32,
    next_lane: AtomicU32,
}

impl Ledger {
    /// A ledger of a share of which we hold `have`, and want `wanted` (what we hold already
    /// may be in both).
    ///
    /// # Panics
    /// If the sets are of another number of pieces than the share.
    pub fn new(geometry: Arc<Geometry>, have: &PieceSet, wanted: &PieceSet) -> Self {
        let pieces = geometry.piece_count();
        assert_eq!((have.capacity(), wanted.capacity()), (pieces, pieces), "other share's sets");
        let open: Vec<u64> =
            have.words().iter().zip(wanted.words()).map(|(have, wanted)| wanted & !have).collect();
        let missing: u32 = open.iter().map(|word| word.count_ones()).sum();
        let cells = geometry.pieces().map(|piece| {
            let state = match (have.contains(piece), wanted.contains(piece)) {
                (true, _) => State::Have,
                (false, true) => State::Missing,
                (false, false) => State::Unwanted,
            };
            AtomicU64::new(Cell::new(state).0)
        });
        let bitmaps = (0..BITMAPS).map(|number| match number {
            0 | OPEN => Bits::from_words(open.clone()),
            _ => Bits::empty(pieces),
        });
        Self {
            cells: cells.collect(),
            bitmaps: bitmaps.collect(),
            // What is not missing now is never verified later.
            news: News::new(missing),
            seeders: AtomicU32::new(0),
            have: AtomicU32::new(have.len()),
            wanted_left: AtomicU32::new(missing),
            next_lane: AtomicU32::new(1),
            geometry,
        }
    }

    /// The share's cut.
    pub fn geometry(&self) -> &Arc<Geometry> {
        &self.geometry
    }

    /// A fresh identity for a connection, never given out before by this ledger.
    pub fn new_lane(&self) -> LaneId {
        loop {
            let number = self.next_lane.fetch_add(1, Ordering::Relaxed);
            // Zero comes up once in 4 billion connections.
            if let Some(number) = std::num::NonZeroU32::new(number) {
                return LaneId::new(number);
            }
        }
    }

    // ---- who holds what -------------------------------------------------------------------

    /// Counts a peer's pieces from now on; nothing if it is counted. A full peer counts as a
    /// seeder, in constant time; any other takes time linear in what it holds.
    pub fn add_holder(&self, holdings: &Holdings) {
        let _turn = holdings.turn();
        if holdings.counted() == Counted::Not {
            self.start_counting(holdings);
        }
    }

    /// Stops counting a peer: its link is gone. Nothing if it is not counted.
    pub fn remove_holder(&self, holdings: &Holdings) {
        let _turn = holdings.turn();
        self.stop_counting(holdings);
    }

    fn start_counting(&self, holdings: &Holdings) {
        if holdings.is_full() {
            holdings.set_counted(Counted::AsSeeder);
            self.seeders.fetch_add(1, Ordering::AcqRel);
        } else {
            holdings.set_counted(Counted::ByPiece);
            let held = holdings.bits().into_iter().flat_map(Bits::filled_words);
            self.count(held, Cell::with_one_holder_more, ONE_HOLDER);
        }
    }

    fn stop_counting(&self, holdings: &Holdings) {
        match holdings.counted() {
            Counted::Not => {}
            Counted::AsSeeder => {
                self.seeders.fetch_sub(1, Ordering::AcqRel);
            }
            Counted::ByPiece => {
                let held = holdings.bits().into_iter().flat_map(Bits::filled_words);
                self.count(held, Cell::with_one_holder_less, ONE_HOLDER.wrapping_neg());
            }
        }
        holdings.set_counted(Counted::Not);
    }

    /// A peer says that it holds one more piece. False if it had said so before.
    pub fn gain(&self, holdings: &Holdings, piece: PieceIndex) -> bool {
        let _turn = holdings.turn();
        let new = holdings.insert(piece);
        if new && holdings.counted() == Counted::ByPiece {
            let old = Cell(self.word(piece).fetch_add(ONE_HOLDER, Ordering::AcqRel));
            self.settle(piece, old, old.with_one_holder_more());
        }
        new
    }

    /// Reads a little of what [`Self::gain`] will look at. Whoever simulates many peers calls it ahead, for memory
    /// answers many such reads in the time that it takes for one; what is read means nothing.
    pub fn glance(&self, holdings: &Holdings, piece: PieceIndex) -> u64 {
        let cell = self.cell(piece);
        let (word, _) = place(piece);
        let shelves = [shelf(cell), shelf(cell.with_one_holder_more())];
        let words = shelves.into_iter().flatten().map(|number| self.bitmaps[number].word(word));
        words.fold(u64::from(holdings.contains(piece)), |all, one| all ^ one)
    }

    /// A peer says that it holds all pieces of a set; returns how many are new. Cheaper than
    /// one by one, and a peer that held nothing and now everything counts as a seeder.
    ///
    /// # Panics
    /// If the set is of a share with another number of pieces.
    pub fn gain_all(&self, holdings: &Holdings, set: &PieceSet) -> u32 {
        assert_eq!(set.capacity(), self.geometry.piece_count(), "other share's set");
        let _turn = holdings.turn();
        let before = holdings.len();
        if set.is_full() && before == 0 {
            let counted = holdings.counted() != Counted::Not;
            holdings.set_full();
            if counted {
                self.start_counting(holdings);
            }
        } else {
            let words = set.words().iter().enumerate();
            let new = words.map(|(word, mask)| (word, holdings.insert_word(word, *mask)));
            if holdings.counted() == Counted::ByPiece {
                self.count(new, Cell::with_one_holder_more, ONE_HOLDER);
            } else {
                new.for_each(drop);
            }
        }
        holdings.len() - before
    }

    /// A peer says that it no longer holds a piece. False if it did not hold it. A seeder's
    /// first loss makes it a peer like any other, which takes time linear in the pieces.
    pub fn lose(&self, holdings: &Holdings, piece: PieceIndex) -> bool {
        let _turn = holdings.turn();
        let was = holdings.remove(piece);
        match holdings.counted() {
            Counted::AsSeeder if was => {
                self.stop_counting(holdings);
                self.start_counting(holdings);
            }
            Counted::ByPiece if was => {
                let old = Cell(self.word(piece).fetch_sub(ONE_HOLDER, Ordering::AcqRel));
                self.settle(piece, old, old.with_one_holder_less());
            }
            _ => {}
        }
        was
    }

    /// How many of the counted peers hold a piece.
    pub fn availability(&self, piece: PieceIndex) -> u32 {
        self.cell(piece).holders() + self.seeders()
    }

    /// Whether any counted peer other than those that were complete when they were counted holds
    /// the piece of this number.
    pub fn is_out(&self, piece: u32) -> bool {
        self.geometry.piece(piece).is_some_and(|piece| self.cell(piece).holders() > 0)
    }

    /// How many of the counted peers were complete when they were counted.
    pub fn seeders(&self) -> u32 {
        self.seeders.load(Ordering::Acquire)
    }

    /// Whether the peer holds something that we want and do not have.
    pub fn wants_any(&self, holdings: &Holdings) -> bool {
        if holdings.is_empty() {
            return false;
        }
        let held = holdings.bits();
        [OPEN, FLYING]
            .iter()
            .any(|number| self.bitmaps[*number].next_common(held, 0, &mut 0).is_some())
    }

    /// Whether the peer holds something that we want and nobody fetches.
    pub fn has_open_of(&self, holdings: &Holdings) -> bool {
        !holdings.is_empty() && self.bitmaps[OPEN].next_common(holdings.bits(), 0, &mut 0).is_some()
    }

    /// How many of the rarest pieces that we miss the peer holds: those of the four lowest
    /// levels of availability that occur among them at the moment (a level is one count up
    /// to 31 holders; pieces that only seeders hold do not make a level).
    pub fn rare_held(&self, holdings: &Holdings) -> u32 {
        if holdings.is_empty() {
            return 0;
        }
        let held = holdings.bits();
        let rarest = self.bitmaps[1..LEVELS].iter().filter(|bits| !bits.is_empty());
        rarest.take(RARE_LEVELS).map(|bits| count_common(bits, held)).sum()
    }

    // ---- pieces in flight -----------------------------------------------------------------

    /// Gives a piece back, to be fetched by anybody; false if it is not in flight with this
    /// owner. If a write of its bytes is going on, the piece is open again when that is done.
    pub fn release(&self, piece: PieceIndex, owner: LaneId) -> bool {
        self.change(piece, |cell| {
            let given_up = cell.with_owner(None);
            cell.is_owned_by(owner).then(|| match cell.writes() {
                0 => given_up.with_state(State::Missing),
                _ => given_up,
            })
        })
    }

    /// Leave to write bytes of a piece at their final place, as long as the lease is kept.
    /// `None` once the piece no longer belongs to `owner`: then nothing may be written. For
    /// the time of the write only, and on the thread that writes: a take-over is refused while
    /// it is held. Several may be held at once.
    pub fn begin_write(&self, piece: PieceIndex, owner: LaneId) -> Option<WriteLease<'_>> {
        self.change(piece, |cell| cell.is_owned_by(owner).then(|| cell.with_write()).flatten())
            .then(|| WriteLease { ledger: self, piece })
    }

    fn end_write(&self, piece: PieceIndex) {
        self.change(piece, |cell| {
            let done = cell.without_write();
            let given_up = cell.state() == State::InFlight && cell.owner().is_none();
            Some(if given_up && done.writes() == 0 {
                done.with_state(State::Missing)
            } else {
                done
            })
        });
    }

    /// Makes `to` the owner of a piece that is in flight with `from`. False if it is not, or
    /// while a write is going on: then try again later. After true, `from` can write no more.
    pub fn take_over(&self, piece: PieceIndex, from: LaneId, to: LaneId) -> bool {
        self.change(piece, |cell| {
            (cell.is_owned_by(from) && cell.writes() == 0).then(|| cell.with_owner(Some(to)))
        })
    }

    /// A piece in flight was hashed, is right, and all its bytes are written: it is ours, and
    /// news. False if it is not in flight with this owner.
    pub fn verified(&self, piece: PieceIndex, owner: LaneId) -> bool {
        let ours = self.change(piece, |cell| {
            cell.is_owned_by(owner).then(|| cell.with_owner(None).with_state(State::Have))
        });
        if ours {
            self.news.push(piece.get());
            self.have.fetch_add(1, Ordering::AcqRel);
            self.wanted_left.fetch_sub(1, Ordering::AcqRel);
        }
        ours
    }

    /// We no longer hold a piece: our own file was changed under us. It is never fetched
    /// again. False if we did not hold it.
    pub fn withdraw(&self, piece: PieceIndex) -> bool {
        let held = self.change(piece, |cell| {
            (cell.state() == State::Have).then(|| cell.with_state(State::Unwanted))
        });
        if held {
            self.have.fetch_sub(1, Ordering::AcqRel);
        }
        held
    }

    /// The pieces in flight that a peer holds, ascending, with their owners. One that is given up
    /// while a write goes on has none and is left out.
    pub fn in_flight_of<'a>(
        &'a self,
        holdings: &'a Holdings,
    ) -> impl Iterator<Item = (PieceIndex, LaneId)> + 'a {
        let words = self.bitmaps[FLYING].common_words(holdings.bits());
        words
            .filter(|_| !holdings.is_empty())
            .flat_map(|(word, mask)| ones(mask).map(move |bit| word * 64 + bit))
            .filter_map(|number| {
                let piece = self.geometry.piece(number as u32)?;
                Some((piece, self.owner(piece)?))
            })
    }

    /// Who fetches a piece at the moment.
    pub fn owner(&self, piece: PieceIndex) -> Option<LaneId> {
        let cell = self.cell(piece);
        cell.owner().filter(|_| cell.state() == State::InFlight)
    }

    // ---- what is ours ---------------------------------------------------------------------

    /// Whether we hold a piece, verified.
    pub fn have(&self, piece: PieceIndex) -> bool {
        self.cell(piece).state() == State::Have
    }

    /// How many pieces we hold.
    pub fn have_count(&self) -> u32 {
        self.have.load(Ordering::Acquire)
    }

    /// How many pieces we want and do not hold, in flight or not.
    pub fn wanted_left(&self) -> u32 {
        self.wanted_left.load(Ordering::Acquire)
    }

    /// How many wanted pieces nobody fetches: 0 with [`wanted_left`](Self::wanted_left) over 0
    /// is the endgame. False by what is landing at the moment.
    pub fn has_open(&self) -> bool {
        !self.bitmaps[OPEN].is_empty()
    }

    /// Whether we hold all we want. [`holds_all`](Self::holds_all) says whether that is
    /// everything.
    pub fn is_complete(&self) -> bool {
        self.wanted_left() == 0
    }

    /// Whether we hold every piece of the share: we are a seeder.
    pub fn holds_all(&self) -> bool {
        self.have_count() == self.geometry.piece_count()
    }

    /// The pieces we hold. To announce them and then what is new: take
    /// [`news_len`](Self::news_len) first, then this; what lands between is in both.
    pub fn snapshot(&self) -> PieceSet {
        let mut set = PieceSet::empty(self.geometry.piece_count());
        self.geometry.pieces().filter(|piece| self.have(*piece)).for_each(|piece| {
            set.insert(piece);
        });
        set
    }

    /// How many pieces have become ours since the ledger was made.
    pub fn news_len(&self) -> u32 {
        self.news.len()
    }

    /// The pieces that became ours, from number `from` of the news on. Withdrawn ones too.
    pub fn news(&self, from: u32) -> impl Iterator<Item = PieceIndex> + '_ {
        self.news.since(from).filter_map(|number| self.geometry.piece(number))
    }

    // ---- words and bitmaps ----------------------------------------------------------------

    fn word(&self, piece: PieceIndex) -> &AtomicU64 {
        &self.cells[piece.index()]
    }

    pub(super) fn cell(&self, piece: PieceIndex) -> Cell {
        Cell(self.word(piece).load(Ordering::Acquire))
    }

    pub(super) fn bitmap(&self, number: usize) -> &Bits {
        &self.bitmaps[number]
    }

    /// Changes a piece's word to what `to` makes of it, and lets the bitmaps follow. False,
    /// and nothing is changed, where `to` says `None`.
    pub(super) fn change(&self, piece: PieceIndex, to: impl Fn(Cell) -> Option<Cell>) -> bool {
        let changed = self.word(piece).fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            to(Cell(word)).map(|cell| cell.0)
        });
        match changed {
            Ok(old) => {
                if let Some(new) = to(Cell(old)) {
                    self.settle(piece, Cell(old), new);
                }
                true
            }
            Err(_) => false,
        }
    }

    /// Lets the bitmaps follow a change of a piece's word.
    fn settle(&self, piece: PieceIndex, old: Cell, new: Cell) {
        let (word, mask) = place(piece);
        let (was, is) = (shelf(old), shelf(new));
        if was != is {
            if let Some(number) = is {
                self.bitmaps[number].insert(word, mask);
            }
            if let Some(number) = was {
                self.unmark(number, word, mask);
            }
        }
        match (old.state() == State::Missing, new.state() == State::Missing) {
            (false, true) => {
                self.bitmaps[OPEN].insert(word, mask);
            }
            (true, false) => self.unmark(OPEN, word, mask),
            _ => {}
        }
    }

    /// Clears bits of a bitmap, then sets those again that are right again.
    pub(super) fn unmark(&self, number: usize, word: usize, mask: u64) {
        self.bitmaps[number].remove(word, mask);
        let again = ones(mask)
            .filter(|bit| {
                let cell = Cell(self.cells[word * 64 + bit].load(Ordering::Acquire));
                belongs(cell, number)
            })
            .fold(0, |again, bit| again | 1 << bit);
        if again != 0 {
            self.bitmaps[number].insert(word, again);
        }
    }

    /// Adds `amount` to the words of the pieces named by (word, mask), which makes of each what
    /// `step` does, and lets the bitmaps follow 64 pieces at a time.
    fn count(
        &self,
        pieces: impl Iterator<Item = (usize, u64)>,
        step: impl Fn(Cell) -> Cell,
        amount: u64,
    ) {
        for (word, mask) in pieces.filter(|(_, mask)| *mask != 0) {
            let mut moves = Moves::default();
            for bit in ones(mask) {
                let old = Cell(self.cells[word * 64 + bit].fetch_add(amount, Ordering::AcqRel));
                moves.note(bit, shelf(old), shelf(step(old)));
            }
            for number in ones(moves.touched) {
                self.bitmaps[number].insert(word, moves.to[number]);
            }
            for number in ones(moves.touched) {
                self.unmark(number, word, moves.from[number]);
            }
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (have, left) = (self.have_count(), self.wanted_left());
        write!(f, "Ledger(have {have}, left {left}, of {})", self.geometry.piece_count())
    }
}

/// Leave to write bytes of one piece; dropping it ends the write. See [`Ledger::begin_write`].
#[must_use = "the write must happen while the lease is held"]
pub struct WriteLease<'a> {
    ledger: &'a Ledger,
    piece: PieceIndex,
}

impl WriteLease<'_> {
    /// The piece that may be written.
    pub fn piece(&self) -> PieceIndex {
        self.piece
    }
}

impl Drop for WriteLease<'_> {
    fn drop(&mut self) {
        self.ledger.end_write(self.piece);
    }
}

/// Which of 64 neighbouring pieces change their level, by level.
struct Moves {
    from: [u64; BITMAPS],
    to: [u64; BITMAPS],
    /// The bitmaps with anything in `from` or `to`.
    touched: u64,
}

impl Default for Moves {
    fn default() -> Self {
        Self { from: [0; BITMAPS], to: [0; BITMAPS], touched: 0 }
    }
}

impl Moves {
    fn note(&mut self, bit: usize, was: Option<usize>, is: Option<usize>) {
        if was == is {
            return;
        }
        if let Some(number) = was {
            self.from[number] |= 1 << bit;
            self.touched |= 1 << number;
        }
        if let Some(number) = is {
            self.to[number] |= 1 << bit;
            self.touched |= 1 << number;
        }
    }
}

/// The bitmap, other than `OPEN`, that a piece belongs to.
fn shelf(cell: Cell) -> Option<usize> {
    match cell.state() {
        State::Missing => Some(cell.level()),
        State::InFlight => Some(FLYING),
        State::Have | State::Unwanted => None,
    }
}

/// Whether a piece belongs to the bitmap of that number.
pub(super) fn belongs(cell: Cell, number: usize) -> bool {
    match number {
        OPEN => cell.state() == State::Missing,
        _ => shelf(cell) == Some(number),
    }
}

fn count_common(ours: &Bits, theirs: Option<&Bits>) -> u32 {
    let (mut from, mut count) = (0, 0);
    while let Some((word, common)) = ours.next_common(theirs, from, &mut 0) {
        count += common.count_ones();
        from = word + 1;
    }
    count
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::super::{PickOrder, share_of};
    use super::*;
    use fastrand::Rng;

    fn ledger(pieces: u32) -> Ledger {
        Ledger::new(share_of(pieces), &PieceSet::empty(pieces), &PieceSet::full(pieces))
    }

    fn piece(ledger: &Ledger, number: u32) -> PieceIndex {
        ledger.geometry().piece(number).unwrap()
    }

    fn claim(ledger: &Ledger, owner: LaneId) -> Option<PieceIndex> {
        let seeder = Holdings::full(ledger.geometry().piece_count());
        ledger.claim(&seeder, owner, PickOrder::RarestFirst, &mut Rng::with_seed(1))
    }

    #[test]
    fn a_piece_goes_from_missing_through_flight_to_held_and_into_the_news() {
        let ledger = ledger(1);
        let (lane, only) = (ledger.new_lane(), piece(&ledger, 0));
        assert_eq!((ledger.wanted_left(), ledger.has_open()), (1, true));
        assert_eq!(claim(&ledger, lane), Some(only));
        let (peer, other) = (Holdings::full(1), Holdings::empty(1));
        assert_eq!(ledger.in_flight_of(&peer).collect::<Vec<_>>(), [(only, lane)]);
        assert_eq!(ledger.in_flight_of(&other).count(), 0);
        assert!(ledger.gain(&other, only));
        assert_eq!(ledger.in_flight_of(&other).collect::<Vec<_>>(), [(only, lane)]);
        assert!(!ledger.has_open() && !ledger.is_complete());
        assert_eq!(claim(&ledger, ledger.new_lane()), None);

        assert!(!ledger.verified(only, ledger.new_lane()), "only its owner can finish it");
        assert!(ledger.verified(only, lane));
        assert!(!ledger.verified(only, lane), "only once");
        assert!(ledger.is_complete() && ledger.holds_all() && ledger.have(only));
        assert_eq!(ledger.news(0).collect::<Vec<_>>(), [only]);
        assert!(ledger.snapshot().is_full());
        assert_eq!(ledger.in_flight_of(&peer).count(), 0);
        assert!(!ledger.release(only, lane));
    }

    #[test]
    fn a_released_piece_is_open_to_all_at_the_level_it_has_by_then() {
        let ledger = ledger(1);
        let (lane, only) = (ledger.new_lane(), piece(&ledger, 0));
        claim(&ledger, lane);
        let peer = Holdings::empty(1);
        ledger.add_holder(&peer);
        ledger.gain(&peer, only);
        assert!(ledger.release(only, lane));
        assert!(ledger.bitmap(1).contains(0) && !ledger.bitmap(0).contains(0));
        assert!(ledger.begin_write(only, lane).is_none());
        assert_eq!(claim(&ledger, lane), Some(only));
    }

    #[test]
    fn a_take_over_waits_for_writes_and_then_shuts_the_old_owner_out() {
        let ledger = ledger(1);
        let (old, new, only) = (ledger.new_lane(), ledger.new_lane(), piece(&ledger, 0));
        claim(&ledger, old);
        let first = ledger.begin_write(only, old).unwrap();
        let second = ledger.begin_write(only, old).unwrap();
        assert!(!ledger.take_over(only, old, new));
        drop(first);
        assert!(!ledger.take_over(only, old, new), "one write still goes on");
        drop(second);
        assert!(!ledger.take_over(only, new, old), "not from one who does not own it");
        assert!(ledger.take_over(only, old, new));
        assert!(ledger.begin_write(only, old).is_none());
        assert!(!ledger.verified(only, old) && !ledger.release(only, old));
        assert_eq!(ledger.owner(only), Some(new));
        assert!(ledger.begin_write(only, new).is_some());
        assert!(ledger.verified(only, new));
    }

    #[test]
    fn a_piece_given_up_during_a_write_opens_when_the_write_ends() {
        let ledger = ledger(1);
        let (lane, only) = (ledger.new_lane(), piece(&ledger, 0));
        claim(&ledger, lane);
        let lease = ledger.begin_write(only, lane).unwrap();
        assert!(ledger.release(only, lane));
        assert!(ledger.begin_write(only, lane).is_none(), "given up: no more writes");
        assert_eq!(ledger.in_flight_of(&Holdings::full(1)).count(), 0);
        assert_eq!(claim(&ledger, ledger.new_lane()), None, "bytes may still land");
        drop(lease);
        assert_eq!(claim(&ledger, ledger.new_lane()), Some(only));
    }

    #[test]
    fn a_piece_may_be_verified_while_its_last_lease_is_held() {
        let ledger = ledger(1);
        let (lane, only) = (ledger.new_lane(), piece(&ledger, 0));
        claim(&ledger, lane);
        let lease = ledger.begin_write(only, lane).unwrap();
        assert_eq!(lease.piece(), only);
        assert!(ledger.verified(only, lane));
        drop(lease);
        assert!(ledger.have(only) && !ledger.has_open());
    }

    #[test]
    fn a_withdrawn_piece_is_neither_held_nor_fetched_again() {
        let pieces = 70;
        let full = PieceSet::full(pieces);
        let ledger = Ledger::new(share_of(pieces), &full, &full);
        assert!(ledger.is_complete() && ledger.holds_all());
        let gone = piece(&ledger, 69);
        assert!(ledger.withdraw(gone) && !ledger.withdraw(gone));
        assert!(!ledger.have(gone) && !ledger.holds_all());
        assert_eq!(ledger.have_count(), 69);
        assert!(!ledger.snapshot().contains(gone));
        assert_eq!(claim(&ledger, ledger.new_lane()), None);
    }

    #[test]
    fn unwanted_pieces_are_never_claimed_and_not_counted_as_left() {
        let mut wanted = PieceSet::empty(3);
        let geometry = share_of(3);
        wanted.insert(geometry.piece(1).unwrap());
        let ledger = Ledger::new(geometry, &PieceSet::empty(3), &wanted);
        assert_eq!(ledger.wanted_left(), 1);
        let lane = ledger.new_lane();
        let one = claim(&ledger, lane).unwrap();
        assert_eq!((one.get(), claim(&ledger, lane)), (1, None));
        ledger.verified(one, lane);
        assert!(ledger.is_complete() && !ledger.holds_all());
    }

    #[test]
    fn seeders_are_counted_apart_until_they_lose_a_piece() {
        let ledger = ledger(100);
        let seeder = Holdings::full(100);
        ledger.add_holder(&seeder);
        ledger.add_holder(&seeder);
        assert_eq!((ledger.seeders(), ledger.availability(piece(&ledger, 7))), (1, 1));
        assert!(ledger.cell(piece(&ledger, 7)).holders() == 0 && seeder.bits().is_none());

        assert!(ledger.lose(&seeder, piece(&ledger, 7)));
        assert!(!ledger.lose(&seeder, piece(&ledger, 7)));
        assert_eq!(ledger.seeders(), 0);
        assert_eq!(ledger.availability(piece(&ledger, 7)), 0);
        assert_eq!(ledger.availability(piece(&ledger, 8)), 1);

        assert!(ledger.gain(&seeder, piece(&ledger, 7)));
        assert_eq!(ledger.availability(piece(&ledger, 7)), 1);
        ledger.remove_holder(&seeder);
        ledger.remove_holder(&seeder);
        assert!((0..100).all(|at| ledger.availability(piece(&ledger, at)) == 0));
    }

    #[test]
    fn a_bitmap_counts_like_its_pieces_one_by_one_and_a_full_one_makes_a_seeder() {
        let ledger = ledger(200);
        let (mut some, full) = (PieceSet::empty(200), PieceSet::full(200));
        [3, 64, 199].iter().for_each(|number| {
            some.insert(piece(&ledger, *number));
        });
        let peer = Holdings::empty(200);
        ledger.add_holder(&peer);
        ledger.gain(&peer, piece(&ledger, 64));
        assert_eq!((ledger.gain_all(&peer, &some), ledger.gain_all(&peer, &some)), (2, 0));
        assert_eq!(peer.snapshot(ledger.geometry()), some);
        let held = |at: &u32| ledger.availability(piece(&ledger, *at)) == 1;
        assert_eq!((0..200).filter(held).collect::<Vec<_>>(), [3, 64, 199]);

        let seeder = Holdings::empty(200);
        ledger.add_holder(&seeder);
        assert_eq!(ledger.gain_all(&seeder, &full), 200);
        assert_eq!((ledger.seeders(), seeder.bits().is_none()), (1, true));
        // One that was not empty stays counted piece by piece, though it is full now.
        assert_eq!(ledger.gain_all(&peer, &full), 197);
        assert_eq!((ledger.seeders(), ledger.availability(piece(&ledger, 7))), (1, 2));
        ledger.remove_holder(&peer);
        ledger.remove_holder(&seeder);
        // Without being counted, a set is only kept.
        assert_eq!(ledger.gain_all(&Holdings::empty(200), &full), 200);
        assert!((0..200).all(|at| ledger.availability(piece(&ledger, at)) == 0));
    }

    #[test]
    fn we_want_what_is_open_or_in_flight_and_not_what_we_hold() {
        let ledger = ledger(2);
        let peer = Holdings::empty(2);
        assert!(!ledger.wants_any(&peer));
        ledger.add_holder(&peer);
        ledger.gain(&peer, piece(&ledger, 0));
        assert!(ledger.wants_any(&peer));
        let lane = ledger.new_lane();
        let rng = &mut Rng::with_seed(1);
        let got = ledger.claim(&peer, lane, PickOrder::Random, rng).unwrap();
        assert!(ledger.wants_any(&peer), "in flight is not held");
        ledger.verified(got, lane);
        assert!(!ledger.wants_any(&peer));
        assert!(ledger.wants_any(&Holdings::full(2)));
    }

    #[test]
    fn rare_pieces_are_those_of_the_four_lowest_counts_that_occur() {
        // Piece n is held by n peers of six; the last peer holds only the most common one.
        let ledger = ledger(7);
        let peers: Vec<_> = (0..6).map(|_| Holdings::empty(7)).collect();
        peers.iter().for_each(|peer| ledger.add_holder(peer));
        for number in 1..7 {
            for peer in peers.iter().take(number as usize) {
                ledger.gain(peer, piece(&ledger, number));
            }
        }
        let rare: Vec<_> = peers.iter().map(|peer| ledger.rare_held(peer)).collect();
        assert_eq!(rare, [4, 3, 2, 1, 0, 0]);
    }
}
