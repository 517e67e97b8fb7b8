//! Everything about one piece in one 64-bit word, so that each change is one
//! compare-and-swap and no two facts about a piece can disagree.
//!
//! ```text
//! bit 63        48 47   46 45        32 31                    0
//! +---------------+-------+------------+------------------------+
//! | holders (u16) | state | writes now | owner (0 = nobody)     |
//! +---------------+-------+------------+------------------------+
//! ```
//! The holders stand on top, so a count that ran over would fall off the end instead of
//! changing the state.

use std::num::NonZeroU32;

/// Which connection a piece in flight belongs to. Never used again once it was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LaneId(NonZeroU32);

impl LaneId {
    /// The identity of that number.
    pub fn new(number: NonZeroU32) -> Self {
        Self(number)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// Levels of rarity. Up to 31 holders each count is a level of its own, so the choice is
/// exact where rarity matters: there one peer more or less changes a piece's chance to
/// survive by 3 % or more. Beyond, four levels for each doubling (within a quarter of exact)
/// up to 448 holders and more; besides, news there rarely changes a level, which makes it
/// cheap in the largest swarms.
pub(super) const LEVELS: usize = 48;
const EXACT: u32 = 32;

/// The level of a number of holders.
pub(super) fn level_of(holders: u32) -> usize {
    if holders < EXACT {
        return holders as usize;
    }
    let doubling = holders.ilog2();
    let quarter = (holders >> (doubling - 2)) & 3;
    ((EXACT + (doubling - EXACT.ilog2()) * 4 + quarter) as usize).min(LEVELS - 1)
}

/// How we stand to a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Wanted, and nobody fetches it.
    Missing = 0,
    /// Somebody fetches it.
    InFlight = 1,
    /// Held and verified.
    Have = 2,
    /// Not held, and not to be fetched.
    Unwanted = 3,
}

/// One reading of a piece's word.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell(pub(super) u64);

const OWNER: u64 = u32::MAX as u64;
const WRITES_AT: u32 = 32;
const WRITES: u64 = 0x3fff << WRITES_AT;
const STATE_AT: u32 = 46;
const STATE: u64 = 3 << STATE_AT;
const HOLDERS_AT: u32 = 48;

/// What one holder more adds to the word, or one less takes away.
pub(super) const ONE_HOLDER: u64 = 1 << HOLDERS_AT;

impl Cell {
    pub(super) fn new(state: State) -> Self {
        Self((state as u64) << STATE_AT)
    }

    pub(super) fn state(self) -> State {
        match (self.0 & STATE) >> STATE_AT {
            0 => State::Missing,
            1 => State::InFlight,
            2 => State::Have,
            _ => State::Unwanted,
        }
    }

    pub(super) fn holders(self) -> u32 {
        (self.0 >> HOLDERS_AT) as u32
    }

    pub(super) fn level(self) -> usize {
        level_of(self.holders())
    }

    /// Who fetches it; nobody, also, when it was given up while a write went on.
    pub(super) fn owner(self) -> Option<LaneId> {
        NonZeroU32::new((self.0 & OWNER) as u32).map(LaneId)
    }

    pub(super) fn is_owned_by(self, lane: LaneId) -> bool {
        self.state() == State::InFlight && self.owner() == Some(lane)
    }

    /// How many writes of its bytes are going on.
    pub(super) fn writes(self) -> u32 {
        ((self.0 & WRITES) >> WRITES_AT) as u32
    }

    pub(super) fn with_state(self, state: State) -> Self {
        Self(self.0 & !STATE | (state as u64) << STATE_AT)
    }

    pub(super) fn with_owner(self, owner: Option<LaneId>) -> Self {
        Self(self.0 & !OWNER | owner.map_or(0, |lane| u64::from(lane.get())))
    }

    /// One write more; `None` when the field is full (16,383 at once: never).
    pub(super) fn with_write(self) -> Option<Self> {
        (self.0 & WRITES != WRITES).then_some(Self(self.0 + (1 << WRITES_AT)))
    }

    /// One write less. There must be one.
    pub(super) fn without_write(self) -> Self {
        debug_assert!(self.writes() > 0, "no write is going on");
        Self(self.0 - (1 << WRITES_AT))
    }

    pub(super) fn with_one_holder_more(self) -> Self {
        Self(self.0.wrapping_add(ONE_HOLDER))
    }

    pub(super) fn with_one_holder_less(self) -> Self {
        Self(self.0.wrapping_sub(ONE_HOLDER))
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_word_do_not_touch_each_other() {
        let lane = LaneId::new(NonZeroU32::MAX);
        let cell = Cell::new(State::Missing)
            .with_one_holder_more()
            .with_state(State::InFlight)
            .with_owner(Some(lane))
            .with_write()
            .unwrap();
        assert_eq!(cell.state(), State::InFlight);
        assert_eq!((cell.holders(), cell.writes(), cell.owner()), (1, 1, Some(lane)));
        assert!(cell.is_owned_by(lane));
        let bare = cell.without_write().with_owner(None).with_one_holder_less();
        assert!(bare == Cell::new(State::InFlight));
    }

    #[test]
    fn levels_never_fall_and_are_exact_where_holders_are_few() {
        for holders in 0..=31 {
            assert_eq!(level_of(holders), holders as usize);
        }
        let levels: Vec<_> = (0..=u32::from(u16::MAX)).map(level_of).collect();
        assert!(levels.is_sorted());
        assert!(levels.windows(2).all(|pair| pair[1] - pair[0] <= 1));
        assert_eq!((levels[447], levels[448], levels[65_535]), (46, 47, 47));
    }
}
