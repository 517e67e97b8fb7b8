//! How a seeder spreads its first copy: which pieces it has each peer fetch from it.
//!
//! Peers that choose for themselves choose alike: each sees only its own neighbours, so what one
//! has already had from the seeder another asks it for again, while pieces that nobody has are
//! left. So a seeder with several peers to serve deals its pieces out, each to one of them, as
//! they ask for more, until every piece was given once. Peers follow because what nobody else has
//! is what others will want from them; nothing forces them.
//!
//! The rules:
//! - A peer is given as many pieces as it takes in a short while, and more when it has used up
//!   half of them; never more than an equal part of what is left.
//! - What a peer was given and did not fetch, because it left or was choked, is given again.
//! - Once nothing is left to give, everybody chooses freely.
//!
//! Invariant: a piece is with at most one peer at a time.
//! Not here: who is answered (`choker`), what is done with a suggestion (`trade`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::LinkId;

/// Pieces that a peer is given first, or so many bytes of them where pieces are small: each
/// time costs a message or two.
const BATCH_START: u32 = 4;
const BATCH_START_BYTES: u32 = 256 * 1024;
/// Pieces that a peer is given at once at most: a list of them fits a control frame.
const BATCH_MAX: u32 = 1024;
/// A peer that comes back sooner than this gets twice as many.
const SOON: Duration = Duration::from_millis(200);
/// A peer that comes back later than this gets half as many.
const LATE: Duration = Duration::from_secs(2);
/// A peer that fetches for so long what it was not given does not follow; what it had asked for
/// before is here by then.
const ASTRAY: Duration = Duration::from_secs(4);
/// Pieces looked at in one call at most, for what others hold already.
const LOOK_MAX: u32 = 4096;

/// What was dealt out of one share; see the module's header.
#[derive(Clone, Debug)]
pub struct Guide {
    pieces: u32,
    batch_start: u32,
    /// From here on nothing was ever given.
    next: u32,
    /// Was given, and came back.
    returned: Vec<u32>,
    given: BTreeMap<LinkId, Given>,
}

#[derive(Clone, Debug)]
struct Given {
    /// Not sent yet.
    waiting: VecDeque<u32>,
    /// It may be given more once no more than so many wait: half of what it had then.
    low: usize,
    batch: u32,
    last: Duration,
    /// When it last fetched what it was given.
    followed: Duration,
}

impl Guide {
    /// Nothing given yet of a share of so many pieces of so many bytes.
    pub fn new(pieces: u32, piece_len: u32) -> Self {
        let batch_start = (BATCH_START_BYTES / piece_len.max(1)).max(BATCH_START);
        Self { pieces, batch_start, next: 0, returned: Vec::new(), given: BTreeMap::new() }
    }

    /// Whether there is nothing left to give.
    pub fn is_over(&self) -> bool {
        self.next == self.pieces && self.returned.is_empty()
    }

    /// More pieces for a peer, ascending, if it has used up half of what it had. Those that
    /// `is_out` says others hold are left out.
    pub fn deal(&mut self, now: Duration, link: LinkId, is_out: impl Fn(u32) -> bool) -> Vec<u32> {
        let left = self.pieces - self.next + self.returned.len() as u32;
        let batch_start = self.batch_start;
        let first = Given {
            waiting: VecDeque::new(),
            low: 0,
            batch: batch_start / 2,
            last: now,
            followed: now,
        };
        let given = self.given.entry(link).or_insert(first);
        if given.waiting.len() > given.low || left == 0 {
            return Vec::new();
        }
        match now.saturating_sub(given.last) {
            wait if wait < SOON => given.batch = (given.batch * 2).min(BATCH_MAX),
            wait if wait > LATE => given.batch = (given.batch / 2).max(batch_start),
            _ => {}
        }
        given.last = now;
        let others = self.given.len() as u32;
        let Some(given) = self.given.get_mut(&link) else { return Vec::new() };
        let part = left.div_ceil(others);
        let wanted = given.batch.min(part) as usize;
        let mut pieces = Vec::new();
        for _ in 0..LOOK_MAX {
            if pieces.len() >= wanted {
                break;
            }
            let Some(piece) = self.returned.pop().or_else(|| {
                (self.next < self.pieces).then(|| {
                    self.next += 1;
                    self.next - 1
                })
            }) else {
                break;
            };
            if !is_out(piece) {
                pieces.push(piece);
            }
        }
        pieces.sort_unstable();
        given.waiting.extend(&pieces);
        given.low = given.waiting.len() / 2;
        pieces
    }

    /// A piece was sent to a peer whole. True if the peer may be given more. It fetches in the
    /// order in which it was given, so what came before it has from others. If it goes on to
    /// fetch what it was not given, it does not follow, and what it was given is for others.
    pub fn sent(&mut self, now: Duration, link: LinkId, piece: u32) -> bool {
        let Some(given) = self.given.get_mut(&link) else { return false };
        match given.waiting.iter().position(|known| *known == piece) {
            Some(at) => {
                given.waiting.drain(..=at);
                given.followed = now;
            }
            None if now.saturating_sub(given.followed) >= ASTRAY => {
                self.returned.extend(given.waiting.drain(..));
                given.followed = now;
            }
            None => {}
        }
        given.waiting.len() <= given.low
    }

    /// A peer is not answered any more, or is gone: what it did not fetch is given to others.
    pub fn forget(&mut self, link: LinkId) {
        if let Some(given) = self.given.remove(&link) {
            self.returned.extend(given.waiting);
        }
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PIECE: u32 = 1 << 20;
    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn a_quick_peer_is_given_more_and_a_slow_one_as_much_as_before() {
        let mut guide = Guide::new(1000, PIECE);
        let quick = guide.deal(NOW, LinkId(1), |_| false);
        assert_eq!(quick, [0, 1, 2, 3]);
        assert!(guide.deal(NOW, LinkId(1), |_| false).is_empty(), "it has enough");
        assert!(!guide.sent(NOW, LinkId(1), 0));
        assert!(guide.sent(NOW, LinkId(1), 1));
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false).len(), 8);
        guide.deal(NOW, LinkId(2), |_| false);
        for piece in 12..15 {
            guide.sent(NOW, LinkId(2), piece);
        }
        assert_eq!(guide.deal(NOW + LATE, LinkId(2), |_| false).len(), 4);
    }

    #[test]
    fn nobody_is_given_more_than_a_part_of_what_is_left() {
        let mut guide = Guide::new(8, PIECE);
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false).len(), 4);
        assert_eq!(guide.deal(NOW, LinkId(2), |_| false).len(), 2);
        assert_eq!(guide.deal(NOW, LinkId(3), |_| false).len(), 1);
        let mut guide = Guide::new(100, 16 * 1024);
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false).len(), 16, "of small pieces more");
    }

    #[test]
    fn what_others_hold_is_not_given() {
        let mut guide = Guide::new(100, PIECE);
        assert_eq!(guide.deal(NOW, LinkId(1), |piece| piece % 10 != 0), [0, 10, 20, 30]);
    }

    #[test]
    fn what_was_not_fetched_is_given_to_another() {
        let mut guide = Guide::new(4, PIECE);
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false), [0, 1, 2, 3]);
        guide.sent(NOW, LinkId(1), 0);
        guide.forget(LinkId(1));
        let mut rest = Vec::new();
        while !guide.is_over() {
            let more = guide.deal(NOW, LinkId(2), |_| false);
            for piece in &more {
                guide.sent(NOW, LinkId(2), *piece);
            }
            rest.extend(more);
        }
        rest.sort_unstable();
        assert_eq!(rest, [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn no_piece_is_with_two_peers_and_every_piece_is_sent_in_the_end(
            pieces in 1u32..200,
            steps in prop::collection::vec((0u32..5, 0u8..4, 0u64..3000), 0..200),
        ) {
            let mut guide = Guide::new(pieces, PIECE);
            let mut with: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            let mut sent = vec![false; pieces as usize];
            let mut now = Duration::ZERO;
            for (peer, what, millis) in steps {
                now += Duration::from_millis(millis);
                let link = LinkId(peer);
                match what {
                    0 | 1 => {
                        for piece in guide.deal(now, link, |_| false) {
                            prop_assert!(with.values().flatten().all(|other| *other != piece));
                            prop_assert!(!sent[piece as usize]);
                            with.entry(peer).or_default().push(piece);
                        }
                    }
                    2 => {
                        let first = with.get_mut(&peer).filter(|pieces| !pieces.is_empty());
                        if let Some(piece) = first.map(|pieces| pieces.remove(0)) {
                            guide.sent(now, link, piece);
                            sent[piece as usize] = true;
                        }
                    }
                    _ => {
                        guide.forget(link);
                        with.remove(&peer);
                    }
                }
            }
            // Those who hold pieces give them back, and one fetches all that is left.
            for peer in 0..5 {
                guide.forget(LinkId(peer));
            }
            while !guide.is_over() {
                for piece in guide.deal(now, LinkId(9), |_| false) {
                    guide.sent(NOW, LinkId(9), piece);
                    prop_assert!(!std::mem::replace(&mut sent[piece as usize], true));
                }
            }
            prop_assert!(sent.into_iter().all(|sent| sent));
        }
    }
}
