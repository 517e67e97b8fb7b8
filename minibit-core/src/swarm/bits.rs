//! A bitmap that many threads change while others search it.
//!
//! Tier 0 has one bit for each piece; each tier above has one bit for each word of the tier
//! below, set while that word is not zero; the top tier is a single word. So a search skips
//! 64, 4,096 or 262,144 pieces at a step, and emptiness is one load. A million pieces need
//! four tiers: 1.016 bits for each piece.
//!
//! Invariant: once all changes have landed, an upper bit is set if its word is not zero.
//! Whoever empties a word clears the bit above it, *then* reads the word again and sets the
//! bit again if somebody filled it meanwhile. That suffices: a filler sets its upper bit after
//! its lower one (release), so a clearing that comes later in the upper word's order (acquire)
//! is followed by a read that sees the lower bit. While changes are landing a search may miss
//! a bit or meet one that is gone; callers check what they find against the truth.
//! Not here: what a bit means.

use super::sync::{AtomicU64, Ordering};

/// Tiers that [`PIECES_MAX`](crate::types::limits::PIECES_MAX) needs: 64^4 is 16 times that.
const TIERS_MAX: usize = 4;

/// Small, for there is one for each level of rarity and each peer.
pub(super) struct Bits {
    /// All tiers, the lowest first.
    words: Box<[AtomicU64]>,
    /// Where each tier starts in `words`.
    starts: [u32; TIERS_MAX],
    /// Number of the tier that is a single word.
    top: u8,
}

impl Bits {
    /// No bit set, room for `len`.
    pub(super) fn empty(len: u32) -> Self {
        Self::from_words(vec![0; len.div_ceil(64) as usize])
    }

    /// The bitmap with these words of 64 bits.
    pub(super) fn from_words(lowest: Vec<u64>) -> Self {
        let mut words = lowest;
        if words.is_empty() {
            words.push(0);
        }
        let mut starts = [0u32; TIERS_MAX];
        let mut top = 0;
        while words.len() - starts[top] as usize > 1 {
            let below = starts[top] as usize..words.len();
            let mut tier = vec![0u64; below.len().div_ceil(64)];
            for (at, word) in words[below].iter().enumerate() {
                tier[at / 64] |= u64::from(*word != 0) << (at % 64);
            }
            top += 1;
            starts[top] = words.len() as u32;
            words.extend(tier);
        }
        Self { words: words.into_iter().map(AtomicU64::new).collect(), starts, top: top as u8 }
    }

    fn top(&self) -> usize {
        usize::from(self.top)
    }

    fn at(&self, tier: usize, word: usize) -> &AtomicU64 {
        &self.words[self.starts[tier] as usize + word]
    }

    /// How many words the lowest tier has; at least 1.
    pub(super) fn word_count(&self) -> usize {
        if self.top == 0 { 1 } else { self.starts[1] as usize }
    }

    /// Word `word` of the lowest tier.
    pub(super) fn word(&self, word: usize) -> u64 {
        self.at(0, word).load(Ordering::Acquire)
    }

    /// Whether the bit is set.
    pub(super) fn contains(&self, bit: usize) -> bool {
        self.word(bit / 64) & (1 << (bit % 64)) != 0
    }

    /// Whether no bit is set.
    pub(super) fn is_empty(&self) -> bool {
        self.at(self.top(), 0).load(Ordering::Acquire) == 0
    }

    /// Sets the bits of `mask` in a word; returns the word as it was.
    pub(super) fn insert(&self, word: usize, mask: u64) -> u64 {
        let before = self.at(0, word).fetch_or(mask, Ordering::AcqRel);
        if before == 0 && mask != 0 {
            self.note_filled(0, word);
        }
        before
    }

    /// Clears the bits of `mask` in a word; returns the word as it was.
    pub(super) fn remove(&self, word: usize, mask: u64) -> u64 {
        let before = self.at(0, word).fetch_and(!mask, Ordering::AcqRel);
        if before != 0 && before & !mask == 0 {
            self.note_emptied(0, word);
        }
        before
    }

    /// A word has just come to be other than zero: says so in the tiers above.
    fn note_filled(&self, tier: usize, word: usize) {
        let (mut tier, mut word) = (tier, word);
        while tier < self.top() {
            tier += 1;
            let before = self.at(tier, word / 64).fetch_or(1 << (word % 64), Ordering::AcqRel);
            if before != 0 {
                return;
            }
            word /= 64;
        }
    }

    /// A word has just come to be zero: says so in the tiers above, and takes it back where
    /// somebody filled the word meanwhile.
    fn note_emptied(&self, tier: usize, word: usize) {
        if tier == self.top() {
            return;
        }
        let bit = 1 << (word % 64);
        let before = self.at(tier + 1, word / 64).fetch_and(!bit, Ordering::AcqRel);
        if before == bit {
            self.note_emptied(tier + 1, word / 64);
        }
        if self.at(tier, word).load(Ordering::Acquire) != 0 {
            self.note_filled(tier, word);
        }
    }

    /// The first word at or after `from` that has a bit set here and in `other` (`None` has
    /// all bits set), and those bits. Adds the words looked at to `probes`.
    pub(super) fn next_common(
        &self,
        other: Option<&Self>,
        from: usize,
        probes: &mut u32,
    ) -> Option<(usize, u64)> {
        if from >= self.word_count() {
            return None;
        }
        let (mut tier, mut word, mut mask) = (0, from, u64::MAX);
        loop {
            *probes = probes.saturating_add(1);
            let mut common = self.at(tier, word).load(Ordering::Acquire) & mask;
            if let Some(other) = other
                && common != 0
            {
                common &= other.at(tier, word).load(Ordering::Acquire);
            }
            match (common, tier) {
                (0, _) if tier == self.top() => return None,
                // Nothing more below this word: up, to what comes after it.
                (0, _) => {
                    mask = (u64::MAX << (word % 64)) << 1;
                    word /= 64;
                    tier += 1;
                }
                (_, 0) => return Some((word, common)),
                _ => {
                    word = word * 64 + common.trailing_zeros() as usize;
                    tier -= 1;
                    mask = u64::MAX;
                }
            }
        }
    }

    /// All words that are not zero, ascending, with their numbers.
    pub(super) fn filled_words(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.common_words(None)
    }

    /// All words that have a bit set here and in `other` (`None` has all bits set), ascending, with
    /// their numbers and those bits.
    pub(super) fn common_words<'a>(
        &'a self,
        other: Option<&'a Self>,
    ) -> impl Iterator<Item = (usize, u64)> + 'a {
        let mut from = 0;
        std::iter::from_fn(move || {
            let (word, bits) = self.next_common(other, from, &mut 0)?;
            from = word + 1;
            Some((word, bits))
        })
    }
}

/// The numbers of the bits set in a word, ascending.
pub(super) fn ones(word: u64) -> impl Iterator<Item = usize> {
    let mut rest = word;
    std::iter::from_fn(move || {
        (rest != 0).then(|| {
            let bit = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            bit
        })
    })
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_search_crosses_every_tier_to_the_one_common_bit() {
        for bit in [0, 63, 64, 4095, 4096, 262_143, 262_144, 1_048_575] {
            let (ours, theirs) = (Bits::empty(1 << 20), Bits::empty(1 << 20));
            ours.insert(bit / 64, 1 << (bit % 64));
            theirs.insert(bit / 64, 1 << (bit % 64));
            let want = Some((bit / 64, 1 << (bit % 64)));
            let mut probes = 0;
            assert_eq!(ours.next_common(Some(&theirs), 0, &mut probes), want);
            assert!(probes <= 7, "{probes} words looked at for bit {bit}");
            assert_eq!(ours.next_common(Some(&theirs), bit / 64 + 1, &mut probes), None);
        }
    }

    proptest! {
        #[test]
        fn a_bitmap_answers_like_a_set(
            len in 1u32..9000, changes in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200),
        ) {
            let bits = Bits::empty(len);
            let mut set = BTreeSet::new();
            for (raw, put) in changes {
                let at = (raw % len) as usize;
                let (word, mask) = (at / 64, 1 << (at % 64));
                let was = if put {
                    let was = set.contains(&at);
                    set.insert(at);
                    prop_assert_eq!(bits.insert(word, mask) & mask != 0, was);
                    true
                } else {
                    let was = set.remove(&at);
                    prop_assert_eq!(bits.remove(word, mask) & mask != 0, was);
                    false
                };
                prop_assert_eq!(bits.contains(at), was);
            }
            let found: Vec<_> = bits
                .filled_words()
                .flat_map(|(word, mask)| ones(mask).map(move |bit| word * 64 + bit))
                .collect();
            prop_assert_eq!(bits.is_empty(), set.is_empty());
            prop_assert_eq!(found, set.into_iter().collect::<Vec<_>>());
        }
    }
}
