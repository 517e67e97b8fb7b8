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
//! - A peer that has passed on nothing yet is given a few pieces, and more once it has; until then
//!   it chooses for itself, for nobody else may want what it wants.
//! - Whoever passes nothing on is a sink: of what it was sent some seconds ago hardly anything has
//!   come to be with anybody else. It is answered after all others, and what it was sent is given
//!   again, as is what a peer had that left.
//!
//! Invariant: a piece is with at most one peer at a time.
//! Not here: who is answered (`choker`), what is done with a suggestion (`trade`).

use std::collections::{BTreeMap, HashMap, VecDeque};
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
/// So long a piece may take to be passed on and heard of, beyond twice the time that we take for
/// one; but no longer than the second.
const PASSING_ON: Duration = Duration::from_secs(3);
const PASSING_ON_MAX: Duration = Duration::from_secs(60);
/// So many pieces a peer gets that has passed on none, or as many as it takes in so long: on a
/// fast link it cannot have.
const UNPROVEN_MAX: u32 = 3;
const UNPROVEN_TIME: Duration = Duration::from_millis(2500);
/// A peer is judged by so many pieces at least,
const SINK_AFTER: u32 = 2;
/// and is a sink if it has passed on less than one in so many.
const SINK_PART: u32 = 5;
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
    /// Pieces that were sent to one peer and are, as far as we know, with nobody else.
    with_one: HashMap<u32, LinkId>,
    tallies: BTreeMap<LinkId, Tally>,
}

/// What became of what a peer was sent.
#[derive(Clone, Debug)]
struct Tally {
    first: Duration,
    /// Time between two pieces, on average.
    pace: Duration,
    last: Duration,
    /// When pieces were sent that may still be on their way on.
    fresh: VecDeque<Duration>,
    /// Pieces sent longer ago.
    due: u32,
    /// Pieces that have come to be with somebody else.
    passed_on: u32,
    is_sink: bool,
}

impl Tally {
    fn new(now: Duration) -> Self {
        Self {
            first: now,
            pace: Duration::ZERO,
            last: now,
            fresh: VecDeque::new(),
            due: 0,
            passed_on: 0,
            is_sink: false,
        }
    }

    fn sent(&mut self, now: Duration) {
        if !self.fresh.is_empty() || self.due > 0 {
            // Lanes of one link look at the clock before they take their turn here.
            let gap = now.saturating_sub(self.last).min(PASSING_ON_MAX);
            self.pace = (self.pace * 3 + gap) / 4;
        }
        self.last = self.last.max(now);
        self.fresh.push_back(now);
    }

    /// How long a piece may take to be with others, and us to hear of it: they send no faster
    /// than we do.
    fn passing_on(&self) -> Duration {
        (PASSING_ON + 2 * self.pace).min(PASSING_ON_MAX)
    }

    fn has_yet_to_pass_on(&self, now: Duration) -> bool {
        self.passed_on == 0
            && self.fresh.len() as u32 + self.due >= UNPROVEN_MAX
            && now.saturating_sub(self.first) >= UNPROVEN_TIME
    }
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
        Self {
            pieces,
            batch_start,
            next: 0,
            returned: Vec::new(),
            given: BTreeMap::new(),
            with_one: HashMap::new(),
            tallies: BTreeMap::new(),
        }
    }

    /// More pieces for a peer, ascending, if it has used up half of what it had. Those that
    /// `is_out` says others hold are left out. `None`: it is to choose for itself.
    pub fn deal(
        &mut self,
        now: Duration,
        link: LinkId,
        is_out: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        let left = self.pieces - self.next + self.returned.len() as u32;
        let waits = self.tallies.get(&link).is_some_and(|tally| tally.has_yet_to_pass_on(now));
        if left == 0 || waits {
            return None;
        }
        let batch_start = self.batch_start;
        let first = Given {
            waiting: VecDeque::new(),
            low: 0,
            batch: batch_start / 2,
            last: now,
            followed: now,
        };
        let given = self.given.entry(link).or_insert(first);
        if given.waiting.len() > given.low {
            return Some(Vec::new());
        }
        match now.saturating_sub(given.last) {
            wait if wait < SOON => given.batch = (given.batch * 2).min(BATCH_MAX),
            wait if wait > LATE => given.batch = (given.batch / 2).max(batch_start),
            _ => {}
        }
        given.last = now;
        let others = self.given.len() as u32;
        let given = self.given.get_mut(&link)?;
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
        Some(pieces)
    }

    /// A piece was sent to a peer whole. True if the peer may be given more. It fetches in the
    /// order in which it was given, so what came before it has from others. If it goes on to
    /// fetch what it was not given, it does not follow, and what it was given is for others.
    pub fn sent(&mut self, now: Duration, link: LinkId, piece: u32) -> bool {
        if let std::collections::hash_map::Entry::Vacant(entry) = self.with_one.entry(piece) {
            entry.insert(link);
            self.tallies.entry(link).or_insert_with(|| Tally::new(now)).sent(now);
        }
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

    /// A peer says that it holds a piece: if another was sent it, that one has passed it on.
    pub fn heard_of(&mut self, link: LinkId, piece: u32) {
        if self.with_one.get(&piece).is_some_and(|sent_to| *sent_to != link)
            && let Some(sent_to) = self.with_one.remove(&piece)
            && let Some(tally) = self.tallies.get_mut(&sent_to)
        {
            tally.passed_on += 1;
        }
    }

    /// Whether a peer passes hardly anything on of what it was sent.
    pub fn is_sink(&mut self, now: Duration, link: LinkId) -> bool {
        let Some(tally) = self.tallies.get_mut(&link) else { return false };
        let passing_on = tally.passing_on();
        while tally.fresh.front().is_some_and(|sent| now.saturating_sub(*sent) >= passing_on) {
            tally.fresh.pop_front();
            tally.due += 1;
        }
        let is_sink = tally.due >= SINK_AFTER && tally.passed_on * SINK_PART < tally.due;
        if is_sink && !std::mem::replace(&mut tally.is_sink, is_sink) {
            self.give_again(link);
        }
        is_sink
    }

    /// A peer's link is over.
    pub fn gone(&mut self, link: LinkId) {
        self.forget(link);
        self.tallies.remove(&link);
        self.give_again(link);
    }

    /// What only this peer has, as far as we know, is as good as with nobody.
    fn give_again(&mut self, link: LinkId) {
        let returned = &mut self.returned;
        self.with_one.retain(|piece, sent_to| {
            let lost = *sent_to == link;
            if lost {
                returned.push(*piece);
            }
            !lost
        });
        // In an order that does not depend on the map's.
        self.returned.sort_unstable();
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

    impl Guide {
        /// Whether there is nothing left to give.
        fn is_over(&self) -> bool {
            self.next == self.pieces && self.returned.is_empty()
        }
    }

    const NOW: Duration = Duration::from_secs(100);

    #[test]
    fn a_quick_peer_is_given_more_and_a_slow_one_as_much_as_before() {
        let mut guide = Guide::new(1000, PIECE);
        let quick = guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default();
        assert_eq!(quick, [0, 1, 2, 3]);
        assert!(
            guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().is_empty(),
            "it has enough"
        );
        assert!(!guide.sent(NOW, LinkId(1), 0));
        assert!(guide.sent(NOW, LinkId(1), 1));
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().len(), 8);
        guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default();
        for piece in 12..15 {
            guide.sent(NOW, LinkId(2), piece);
        }
        assert_eq!(guide.deal(NOW + LATE, LinkId(2), |_| false).unwrap_or_default().len(), 4);
    }

    #[test]
    fn nobody_is_given_more_than_a_part_of_what_is_left() {
        let mut guide = Guide::new(8, PIECE);
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().len(), 4);
        assert_eq!(guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default().len(), 2);
        assert_eq!(guide.deal(NOW, LinkId(3), |_| false).unwrap_or_default().len(), 1);
        let mut guide = Guide::new(100, 16 * 1024);
        assert_eq!(
            guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().len(),
            16,
            "of small pieces more"
        );
    }

    #[test]
    fn what_others_hold_is_not_given() {
        let mut guide = Guide::new(100, PIECE);
        assert_eq!(
            guide.deal(NOW, LinkId(1), |piece| piece % 10 != 0).unwrap_or_default(),
            [0, 10, 20, 30]
        );
    }

    #[test]
    fn what_was_not_fetched_is_given_to_another() {
        let mut guide = Guide::new(4, PIECE);
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default(), [0, 1, 2, 3]);
        guide.sent(NOW, LinkId(1), 0);
        guide.forget(LinkId(1));
        let mut rest = Vec::new();
        while !guide.is_over() {
            let more = guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default();
            for piece in &more {
                guide.sent(NOW, LinkId(2), *piece);
            }
            rest.extend(more);
        }
        rest.sort_unstable();
        assert_eq!(rest, [1, 2, 3]);
    }

    #[test]
    fn who_passes_nothing_on_is_a_sink_and_who_passes_on_a_part_is_none() {
        let mut guide = Guide::new(100, PIECE);
        let (sink, giver) = (LinkId(1), LinkId(2));
        for piece in 0..10 {
            guide.sent(NOW, sink, piece);
            guide.sent(NOW, giver, 50 + piece);
        }
        assert!(!guide.is_sink(NOW, sink), "it has had no time to");
        guide.heard_of(sink, 0);
        for piece in [50, 51] {
            guide.heard_of(giver, piece);
            guide.heard_of(LinkId(3), piece);
        }
        assert!(guide.is_sink(NOW + PASSING_ON, sink));
        assert!(!guide.is_sink(NOW + PASSING_ON, giver));
        assert_eq!(
            guide.deal(NOW, LinkId(3), |_| false).unwrap_or_default(),
            [6, 7, 8, 9],
            "what is with the sink"
        );
    }

    #[test]
    fn lanes_may_report_in_another_order_than_they_looked_at_the_clock() {
        let mut guide = Guide::new(10, PIECE);
        guide.sent(NOW, LinkId(1), 0);
        guide.sent(NOW - Duration::from_millis(1), LinkId(1), 1);
        assert!(!guide.is_sink(NOW, LinkId(1)));
    }

    #[test]
    fn who_has_passed_on_nothing_gets_no_more_until_it_has() {
        let mut guide = Guide::new(100, PIECE);
        for piece in guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default() {
            guide.sent(NOW, LinkId(1), piece);
        }
        let later = NOW + UNPROVEN_TIME;
        assert_eq!(guide.deal(later, LinkId(1), |_| false), None);
        guide.heard_of(LinkId(2), 0);
        assert!(!guide.deal(later, LinkId(1), |_| false).unwrap_or_default().is_empty());
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
                        for piece in guide.deal(now, link, |_| false).unwrap_or_default() {
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
                for piece in guide.deal(now, LinkId(9), |_| false).unwrap_or_default() {
                    guide.sent(now, LinkId(9), piece);
                    guide.heard_of(LinkId(8), piece);
                    prop_assert!(!std::mem::replace(&mut sent[piece as usize], true));
                }
            }
            prop_assert!(sent.into_iter().all(|sent| sent));
        }
    }
}
