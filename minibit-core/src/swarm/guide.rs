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
//! - What only such hold as keep what they get is with nobody, whatever they say that they hold.
//! - Once nothing is left to give, who has used up what it had is given what others were given and have yet
//!   to fetch: of connections that share a way out one may get a tenth of another, and all would wait for it.
//!   The few pieces that a newcomer is given are left to it while it has fetched none of them.
//! - Once nothing is left of that either, and what was sent last should have come by what a peer takes for a
//!   piece, it chooses freely; one that has yet to show what it takes chooses at once.
//! - A peer that has passed on nothing yet is on trial some time after its first piece began to be sent,
//!   so that on a slow link others are tried with the next one. Of whoever
//!   passes nothing on, hardly anything that it was sent some seconds ago has come to be with
//!   anybody else; it only takes. What it was sent is given again, as is what a peer had that left.
//! - A peer that comes back has passed on and kept what it had before ([`Past`]).
//! - Of a piece that two were sent nobody knows who passed it on: it speaks for neither.
//!
//! Invariant: a piece waits to be fetched by at most one peer at a time.
//! Not here: who is answered (`choker`), what is done with a suggestion (`trade`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::{LinkId, Past, Standing};

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
/// A peer that fetches for so long what it was not given, and so many pieces, does not follow; what
/// it had asked for before is here by then.
const ASTRAY: Duration = Duration::from_secs(4);
const ASTRAY_PIECES: u32 = 4;
/// So long a piece may take to be passed on and heard of, beyond twice the time that we take for
/// one; but no longer than the second.
const PASSING_ON: Duration = Duration::from_secs(3);
const PASSING_ON_MAX: Duration = Duration::from_secs(60);
/// So long a peer may take what it can before it is on trial: on a fast link nothing of it can
/// have come to be with others sooner, and been told of.
const TRIAL_AFTER: Duration = Duration::from_millis(2500);
/// Between two looks for pieces that are overdue.
const RECLAIM: Duration = Duration::from_secs(1);
/// A peer is judged by so many pieces at least,
const TAKER_AFTER: u32 = 2;
/// and only takes if it has passed on less than one in so many.
const TAKER_PART: u32 = 5;
/// Pieces that wait with a peer and are left to it, for it may have asked for them already,
const ASKED: usize = 4;
/// unless it takes so many times as long for each as whoever could have them instead.
const CLEARLY_SLOWER: u32 = 4;
/// What was asked for is sent twice if another is given it, so only if all that waits takes so long.
const WORTH_TWICE: Duration = Duration::from_millis(200);
/// What was sent last is on its way for so many times as long as whoever waits took for a piece, but no longer
/// than the second: until then it may choose nothing, for it would choose just that.
const ON_THE_WAY: u32 = 8;
const ON_THE_WAY_MAX: Duration = Duration::from_secs(1);
/// Whoever waits for what others may yet leave to it is looked at after the time that it takes for a piece,
/// and no more often than this.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(10);
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
    returned: BTreeSet<u32>,
    given: BTreeMap<LinkId, Given>,
    /// Pieces that were sent to one peer and are, as far as we know, with nobody else.
    with_one: HashMap<u32, (LinkId, Duration)>,
    /// Pieces that, as far as we know, are only with such as keep what they get: not out, whoever holds them.
    withheld: HashSet<u32>,
    /// Pieces that are with others as well, or were sent to two: they speak for nobody any more.
    settled: Box<[bool]>,
    /// When a piece last began to be sent that was with nobody.
    first_sent: Duration,
    /// When it was last looked at which of those are overdue.
    reclaimed: Duration,
    tallies: BTreeMap<LinkId, Tally>,
}

/// What became of what a peer was sent.
#[derive(Clone, Debug)]
struct Tally {
    first: Duration,
    /// Time between two pieces, on average.
    pace: Duration,
    last: Duration,
    /// Pieces that were sent and may still be on their way on, with when.
    fresh: VecDeque<(Duration, u32)>,
    /// Pieces sent longer ago that have come to be with nobody else.
    due: u32,
    /// Pieces that have come to be with somebody else.
    passed_on: u32,
    only_takes: bool,
    /// It was sent something over an earlier link, or comes from where others only took.
    is_known: bool,
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
            only_takes: false,
            is_known: false,
        }
    }

    fn sent(&mut self, now: Duration, piece: u32) {
        if self.has_had_some() {
            // Lanes of one link look at the clock before they take their turn here.
            let gap = now.saturating_sub(self.last).min(PASSING_ON_MAX);
            self.pace = (self.pace * 3 + gap) / 4;
        }
        self.last = self.last.max(now);
        self.fresh.push_back((now, piece));
    }

    /// How long a piece may take to be with others, and us to hear of it: they send no faster
    /// than we do.
    fn passing_on(&self) -> Duration {
        (PASSING_ON + 8 * self.pace).min(PASSING_ON_MAX)
    }

    fn has_had_some(&self) -> bool {
        self.due > 0 || !self.fresh.is_empty()
    }

    fn standing(&self, now: Duration) -> Standing {
        if self.only_takes {
            Standing::Taker
        } else if self.passed_on > 0 {
            Standing::Giver
        } else if self.is_known || now.saturating_sub(self.first) >= TRIAL_AFTER {
            Standing::OnTrial
        } else {
            Standing::New
        }
    }
}

/// A piece that was given and has yet to begin to be sent.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    piece: u32,
    /// It has been asked for, and will be sent to whom it was given, too, if another has it instead.
    is_asked: bool,
}

#[derive(Clone, Debug)]
struct Given {
    /// Not sent yet.
    waiting: VecDeque<Waiting>,
    /// It may be given more once no more than so many wait: half of what it had then.
    low: usize,
    batch: u32,
    last: Duration,
    /// Pieces of what it was given that it has fetched since then.
    fetched: u32,
    /// When it last fetched what it was given, and how many others it has begun to fetch since.
    followed: Duration,
    strays: u32,
}

impl Given {
    fn new(now: Duration, batch: u32) -> Self {
        Self {
            waiting: VecDeque::new(),
            low: 0,
            batch,
            last: now,
            fetched: 0,
            followed: now,
            strays: 0,
        }
    }

    fn has_enough(&self) -> bool {
        self.waiting.len() > self.low
    }

    /// Time for each piece since it was last given any. Of one for which nothing waits, until the last: what
    /// comes after that is our time, not its.
    fn pace(&self, now: Duration) -> Duration {
        let until = if self.waiting.is_empty() && self.fetched > 0 { self.followed } else { now };
        until.saturating_sub(self.last) / self.fetched.max(1)
    }

    /// How long until it has fetched all that waits.
    fn rest(&self, now: Duration) -> Duration {
        self.pace(now).saturating_mul(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX))
    }

    /// More for it to fetch.
    fn give(&mut self, now: Duration, pieces: &[u32]) {
        (self.last, self.fetched) = (now, 0);
        self.waiting.extend(pieces.iter().map(|piece| Waiting { piece: *piece, is_asked: false }));
        self.low = self.waiting.len() / 2;
    }

    /// Gives up what another should have instead, that takes `pace` for each: so many that both are done at the
    /// same time, of those not asked for, the last first.
    fn spare(&mut self, now: Duration, pace: Duration) -> Vec<u32> {
        let own = self.pace(now).as_secs_f64();
        let both = own + pace.as_secs_f64();
        let part = if both > 0.0 { own / both } else { 0.5 };
        let fair = self.waiting.len() as f64 * part;
        let is_slow = self.pace(now) >= pace * CLEARLY_SLOWER;
        let fair = if is_slow { fair.ceil() } else { fair } as usize;
        let own_at_least = if is_slow { 0 } else { ASKED };
        let may_twice = is_slow && self.rest(now) >= WORTH_TWICE;
        let may_go = |waiting: &Waiting| may_twice || !waiting.is_asked;
        let mut pieces = Vec::new();
        for at in (own_at_least..self.waiting.len()).rev() {
            if pieces.len() == fair.min(BATCH_MAX as usize) {
                break;
            }
            if may_go(&self.waiting[at]) {
                pieces.extend(self.waiting.remove(at).map(|waiting| waiting.piece));
            }
        }
        pieces.sort_unstable();
        pieces
    }

    /// What waits is for others.
    fn give_up(&mut self) -> impl Iterator<Item = u32> {
        self.waiting.drain(..).map(|waiting| waiting.piece)
    }
}

impl Guide {
    /// Nothing given yet of a share of so many pieces of so many bytes.
    pub fn new(pieces: u32, piece_len: u32) -> Self {
        let batch_start = (BATCH_START_BYTES / piece_len.max(1)).max(BATCH_START);
        Self {
            pieces,
            batch_start,
            next: 0,
            returned: BTreeSet::new(),
            given: BTreeMap::new(),
            with_one: HashMap::new(),
            withheld: HashSet::new(),
            settled: vec![false; pieces as usize].into_boxed_slice(),
            first_sent: Duration::ZERO,
            reclaimed: Duration::ZERO,
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
        if self.next == self.pieces && self.returned.is_empty() {
            self.reclaim(now);
        }
        let withheld = std::mem::take(&mut self.withheld);
        let dealt = self.deal_some(now, link, |piece| is_out(piece) && !withheld.contains(&piece));
        self.withheld = withheld;
        dealt
    }

    /// The same, with `is_out` saying only what is with somebody who may pass it on.
    fn deal_some(
        &mut self,
        now: Duration,
        link: LinkId,
        is_out: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        let batch_start = self.batch_start;
        let first = Given::new(now, batch_start / 2);
        let given = self.given.entry(link).or_insert(first);
        if given.has_enough() {
            return Some(Vec::new());
        }
        let left = self.pieces - self.next + self.returned.len() as u32;
        if left == 0 {
            return self.deal_of_others(now, link, is_out);
        }
        match now.saturating_sub(given.last) {
            wait if wait < SOON => given.batch = (given.batch * 2).min(BATCH_MAX),
            wait if wait > LATE => given.batch = (given.batch / 2).max(batch_start),
            _ => {}
        }
        let others = self.given.len() as u32;
        let given = self.given.get_mut(&link)?;
        let part = left.div_ceil(others);
        let wanted = given.batch.min(part) as usize;
        let mut pieces = Vec::new();
        for _ in 0..LOOK_MAX {
            if pieces.len() >= wanted {
                break;
            }
            let Some(piece) = self.returned.pop_last().or_else(|| {
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
        given.give(now, &pieces);
        Some(pieces)
    }

    /// With nothing left to give: what waits with the peer that will be done last, or nothing yet if that is
    /// best left to it. `None` if nothing waits with anybody.
    fn deal_of_others(
        &mut self,
        now: Duration,
        link: LinkId,
        is_out: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        loop {
            let with = self.given.iter_mut().filter(|(_, given)| !given.waiting.is_empty());
            let Some((last, given)) = with.max_by_key(|(_, given)| given.rest(now)) else {
                return self.is_first_copy_on_the_way(now, link).then(Vec::new);
            };
            let (last, before) = (*last, given.waiting.len());
            given.waiting.retain(|waiting| !is_out(waiting.piece));
            if given.waiting.len() < before {
                continue;
            }
            if last == link {
                return Some(Vec::new());
            }
            let own = self.given.get(&link).filter(|own| own.fetched > 0);
            let pace = own.map(|own| own.pace(now));
            let given = self.given.get_mut(&last)?;
            let pieces = given.spare(now, pace.unwrap_or_else(|| given.pace(now)));
            if !pieces.is_empty() {
                self.given.get_mut(&link)?.give(now, &pieces);
            }
            return Some(pieces);
        }
    }

    /// Whether the last that was with nobody should have yet to come, by what this peer takes for a piece.
    fn is_first_copy_on_the_way(&self, now: Duration, link: LinkId) -> bool {
        now < self.first_copy_due(now, link)
    }

    fn first_copy_due(&self, now: Duration, link: LinkId) -> Duration {
        let own = self.given.get(&link).filter(|own| own.fetched > 0);
        let pace = own.map_or(Duration::ZERO, |own| own.pace(now));
        self.first_sent + (pace * ON_THE_WAY).min(ON_THE_WAY_MAX)
    }

    /// When a peer that has used up what it had, and was given nothing, is to be dealt to again though nothing
    /// has happened: time alone may make another slow, or have brought what was on its way.
    pub fn look_again(&self, now: Duration, link: LinkId) -> Option<Duration> {
        let own = self.given.get(&link).filter(|own| own.waiting.is_empty())?;
        if self.given.values().all(|given| given.waiting.is_empty()) {
            return Some(self.first_copy_due(now, link));
        }
        Some(now + own.pace(now).clamp(LOOK_AGAIN_MIN, ON_THE_WAY_MAX))
    }

    /// A peer has asked for blocks of these pieces.
    pub fn asked(&mut self, link: LinkId, pieces: impl Iterator<Item = u64>) {
        let Some(given) = self.given.get_mut(&link) else { return };
        let mut last = None;
        for piece in pieces.filter(|piece| last.replace(*piece) != Some(*piece)) {
            let waiting =
                given.waiting.iter_mut().find(|waiting| u64::from(waiting.piece) == piece);
            if let Some(waiting) = waiting {
                waiting.is_asked = true;
            }
        }
    }

    /// A piece begins to be sent to a peer. What it was given before it may still come, for one of its
    /// connections may be slower than another. If it goes on to fetch what it was not given, it does
    /// not follow, and what it was given is for others.
    pub fn begun(&mut self, now: Duration, link: LinkId, piece: u32) {
        let Some(settled) = self.settled.get_mut(piece as usize) else { return };
        match self.with_one.entry(piece) {
            Entry::Vacant(_) if *settled => {}
            Entry::Vacant(entry) => {
                entry.insert((link, now));
                self.first_sent = now;
                self.tallies.entry(link).or_insert_with(|| Tally::new(now));
            }
            Entry::Occupied(entry) if entry.get().0 != link => {
                entry.remove();
                *settled = true;
            }
            Entry::Occupied(_) => {}
        }
        let Some(given) = self.given.get_mut(&link) else { return };
        if let Some(at) = given.waiting.iter().position(|waiting| waiting.piece == piece) {
            given.waiting.remove(at);
            given.fetched += 1;
            (given.followed, given.strays) = (now, 0);
            return;
        }
        given.strays += 1;
        if given.strays >= ASTRAY_PIECES && now.saturating_sub(given.followed) >= ASTRAY {
            self.returned.extend(given.give_up());
            (given.followed, given.strays) = (now, 0);
        }
    }

    /// A piece was sent to a peer whole. True if the peer may be given more.
    pub fn sent(&mut self, now: Duration, link: LinkId, piece: u32) -> bool {
        if self.with_one.get(&piece).is_some_and(|(sent_to, _)| *sent_to == link)
            && let Some(tally) = self.tallies.get_mut(&link)
        {
            tally.sent(now, piece);
        }
        self.given.get(&link).is_some_and(|given| !given.has_enough())
    }

    /// A peer says that it holds a piece: if another was sent it, that one has passed it on.
    pub fn heard_of(&mut self, link: LinkId, piece: u32) {
        if let Some(given) = self.given.get_mut(&link) {
            // It has it, from whomever, and will not fetch it.
            given.waiting.retain(|waiting| waiting.piece != piece);
        }
        let sent_to = self.with_one.get(&piece).map(|(sent_to, _)| *sent_to);
        if sent_to == Some(link) {
            if self.tallies.get(&link).is_some_and(|tally| tally.passed_on > 0) {
                self.withheld.remove(&piece);
            }
            return;
        }
        if self.tallies.get(&link).is_none_or(|tally| !tally.only_takes) {
            self.withheld.remove(&piece);
        }
        // What we sent to nobody says nothing, whoever claims to hold it.
        if self.with_one.remove(&piece).is_some()
            && let Some(settled) = self.settled.get_mut(piece as usize)
        {
            *settled = true;
        }
        if let Some(tally) = sent_to.and_then(|sent_to| self.tallies.get_mut(&sent_to)) {
            tally.passed_on += 1;
            if tally.passed_on == 1 {
                // What it holds beside that is as good as out.
                let with_one = &self.with_one;
                self.withheld.retain(|piece| with_one.get(piece).map(|(with, _)| *with) != sent_to);
            }
        }
    }

    /// How a peer stands, by what it passes on of what it was sent.
    pub fn standing(&mut self, now: Duration, link: LinkId) -> Standing {
        let Some(tally) = self.tallies.get_mut(&link) else { return Standing::New };
        let passing_on = tally.passing_on();
        while let Some((sent, piece)) = tally.fresh.front().copied()
            && now.saturating_sub(sent) >= passing_on
        {
            tally.fresh.pop_front();
            let is_kept = self.with_one.get(&piece).is_some_and(|(with, _)| *with == link);
            tally.due += u32::from(is_kept);
        }
        let judged = tally.due + tally.passed_on;
        let only_takes = tally.due >= TAKER_AFTER && tally.passed_on * TAKER_PART < judged;
        let is_news = !std::mem::replace(&mut tally.only_takes, only_takes) && only_takes;
        let standing = tally.standing(now);
        if is_news {
            self.give_again(link);
        }
        standing
    }

    /// A link begins with a peer that was here before. What it had left with may still be on its way
    /// on, but it is not waited for any more: that says nothing for or against it.
    pub fn came(&mut self, now: Duration, link: LinkId, past: Past) {
        if past.is_on_trial() {
            let Past { passed_on, kept, .. } = past;
            let tally = Tally { passed_on, due: kept, is_known: true, ..Tally::new(now) };
            self.tallies.insert(link, tally);
        }
    }

    /// A peer's link is over. Returns how many pieces it has passed on and how many it has kept.
    pub fn gone(&mut self, link: LinkId) -> (u32, u32) {
        self.forget(link);
        let tally = self.tallies.remove(&link);
        self.give_again(link);
        tally.map_or((0, 0), |tally| (tally.passed_on, tally.due))
    }

    /// With nothing else left to give: what was sent to one peer long ago and never heard of since.
    fn reclaim(&mut self, now: Duration) {
        if now.saturating_sub(self.reclaimed) < RECLAIM {
            return;
        }
        self.reclaimed = now;
        let Self { tallies, returned, withheld, .. } = self;
        self.with_one.retain(|piece, (sent_to, since)| {
            let tally = tallies.get(sent_to);
            let patience = tally.map_or(PASSING_ON_MAX, Tally::passing_on);
            let lost = now.saturating_sub(*since) > patience;
            if lost {
                returned.insert(*piece);
                if tally.is_some_and(|tally| tally.passed_on == 0) {
                    withheld.insert(*piece);
                }
            }
            !lost
        });
        self.leave_what_waits();
    }

    /// What only this peer has, as far as we know, is as good as with nobody.
    fn give_again(&mut self, link: LinkId) {
        let Self { returned, withheld, next, .. } = self;
        self.with_one.retain(|piece, (sent_to, _)| {
            let lost = *sent_to == link;
            if lost {
                withheld.insert(*piece);
            }
            // What was never given has its turn still to come.
            if lost && *piece < *next {
                returned.insert(*piece);
            }
            !lost
        });
        self.leave_what_waits();
    }

    /// One that chose for itself may have fetched what another was given and has yet to fetch: that is not
    /// given again.
    fn leave_what_waits(&mut self) {
        for waiting in self.given.values().flat_map(|given| &given.waiting) {
            self.returned.remove(&waiting.piece);
        }
    }

    /// A peer is not answered any more, or is gone: what it did not fetch is given to others.
    pub fn forget(&mut self, link: LinkId) {
        if let Some(mut given) = self.given.remove(&link) {
            self.returned.extend(given.give_up());
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

        /// A piece is sent to a peer from its first byte to its last. True if it may be given more.
        fn send(&mut self, now: Duration, link: LinkId, piece: u32) -> bool {
            self.begun(now, link, piece);
            self.sent(now, link, piece)
        }

        fn deal_all(&mut self, now: Duration, link: LinkId) -> Vec<u32> {
            self.deal(now, link, |_| false).unwrap_or_default()
        }
    }

    const NOW: Duration = Duration::from_secs(100);

    const LATER: Duration = NOW.saturating_add(LATE);

    /// All is given: the first peer has fetched nothing of its four for two seconds, the second all of its
    /// two, the last of which it was given at that time.
    fn one_is_done(given_last_at: Duration) -> Guide {
        let mut guide = Guide::new(6, PIECE);
        assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
        assert_eq!(guide.deal_all(NOW, LinkId(2)), [4]);
        guide.send(NOW, LinkId(2), 4);
        assert_eq!(guide.deal_all(given_last_at, LinkId(2)), [5]);
        guide.send(LATER, LinkId(2), 5);
        guide
    }

    #[test]
    fn what_waits_with_a_clearly_slower_peer_is_given_to_one_that_is_done() {
        let mut guide = one_is_done(LATER - SOON);
        let pieces = guide.deal_all(LATER, LinkId(2));
        assert_eq!(pieces, [0, 1, 2, 3]);
        for piece in pieces {
            guide.send(LATER, LinkId(2), piece);
        }
        assert_eq!(guide.deal(LATER, LinkId(1), |_| false), None, "nothing is left");
    }

    #[test]
    fn what_waits_with_a_peer_as_quick_is_left_to_it_and_waited_for() {
        let mut guide = one_is_done(NOW);
        assert_eq!(guide.deal(LATER, LinkId(2), |_| false), Some(Vec::new()));
        let came = LATER + ON_THE_WAY_MAX;
        assert_eq!(guide.deal(came, LinkId(2), |_| true), None, "others hold it by now");
    }

    #[test]
    fn who_has_fetched_all_it_had_does_not_seem_slower_for_waiting() {
        let mut guide = Guide::new(6, PIECE);
        assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
        assert_eq!(guide.deal_all(NOW, LinkId(2)), [4]);
        let quick = Duration::from_millis(10);
        guide.send(NOW + quick, LinkId(2), 4);
        assert_eq!(guide.deal_all(NOW + quick, LinkId(2)), [5]);
        guide.send(NOW + 2 * quick, LinkId(2), 5);
        // The other has fetched nothing, and is clearly slower once it took four times as long.
        let soon = NOW + 3 * quick;
        assert_eq!(guide.deal(soon, LinkId(2), |_| false), Some(Vec::new()));
        let again = guide.look_again(soon, LinkId(2)).unwrap();
        assert_eq!(again, soon + quick, "looked at again after a piece's time");
        assert_eq!(guide.deal_all(again, LinkId(2)), [0, 1, 2, 3]);
    }

    #[test]
    fn what_a_slower_peer_has_asked_for_is_not_sent_twice_to_save_a_moment() {
        let quick = Duration::from_millis(10);
        let slower = |asked: u64, late: Duration| {
            let mut guide = Guide::new(6, PIECE);
            guide.deal_all(NOW, LinkId(1));
            guide.asked(LinkId(1), 0..asked);
            guide.deal_all(NOW, LinkId(2));
            guide.send(NOW + quick, LinkId(2), 4);
            guide.deal_all(NOW + quick, LinkId(2));
            guide.send(NOW + 2 * quick, LinkId(2), 5);
            guide.deal_all(NOW + late, LinkId(2))
        };
        // Four of the four wait, and none has begun.
        let soon = 4 * quick;
        assert_eq!(slower(0, soon), [0, 1, 2, 3]);
        assert_eq!(slower(3, soon), [3]);
        assert_eq!(slower(3, WORTH_TWICE / 4), [0, 1, 2, 3]);
    }

    #[test]
    fn who_waits_for_the_last_of_the_first_copy_is_looked_at_again_when_it_should_be_here() {
        let mut guide = Guide::new(2, PIECE);
        assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1]);
        let quick = Duration::from_millis(10);
        guide.send(NOW + quick, LinkId(1), 0);
        guide.send(NOW + 2 * quick, LinkId(1), 1);
        let now = NOW + 2 * quick;
        assert_eq!(guide.deal(now, LinkId(1), |_| false), Some(Vec::new()));
        let again = guide.look_again(now, LinkId(1)).unwrap();
        assert_eq!(again, now + quick * ON_THE_WAY);
        assert_eq!(guide.deal(again, LinkId(1), |_| false), None);
    }

    #[test]
    fn a_piece_that_comes_after_later_ones_is_still_what_its_peer_was_given() {
        let mut guide = Guide::new(8, PIECE);
        guide.deal_all(NOW, LinkId(1));
        for piece in 1..4 {
            guide.send(NOW, LinkId(1), piece);
        }
        guide.forget(LinkId(1));
        assert!(guide.deal_all(NOW, LinkId(2)).contains(&0));
    }

    #[test]
    fn a_piece_that_its_peer_has_from_others_is_not_waited_for() {
        let mut guide = one_is_done(NOW);
        for piece in 0..4 {
            guide.heard_of(LinkId(1), piece);
        }
        let came = LATER + ON_THE_WAY_MAX;
        assert_eq!(guide.deal(came, LinkId(2), |_| false), None);
    }

    #[test]
    fn nobody_chooses_freely_while_what_was_sent_last_should_have_yet_to_come() {
        let mut guide = one_is_done(LATER - SOON);
        for piece in 0..4 {
            guide.send(LATER, LinkId(1), piece);
        }
        assert_eq!(guide.deal(LATER, LinkId(2), |_| false), Some(Vec::new()));
        assert_eq!(guide.deal(LATER + ON_THE_WAY_MAX, LinkId(2), |_| false), None);
    }

    #[test]
    fn a_quick_peer_is_given_more_and_a_slow_one_as_much_as_before() {
        let mut guide = Guide::new(1000, PIECE);
        let quick = guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default();
        assert_eq!(quick, [0, 1, 2, 3]);
        assert!(
            guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().is_empty(),
            "it has enough"
        );
        assert!(!guide.send(NOW, LinkId(1), 0));
        assert!(guide.send(NOW, LinkId(1), 1));
        assert_eq!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().len(), 8);
        guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default();
        for piece in 12..15 {
            guide.send(NOW, LinkId(2), piece);
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
        guide.send(NOW, LinkId(1), 0);
        guide.forget(LinkId(1));
        let mut rest = Vec::new();
        while !guide.is_over() {
            let more = guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default();
            for piece in &more {
                guide.send(NOW, LinkId(2), *piece);
            }
            rest.extend(more);
        }
        rest.sort_unstable();
        assert_eq!(rest, [1, 2, 3]);
    }

    #[test]
    fn a_piece_that_has_begun_is_not_given_again_when_its_peer_is_choked() {
        let mut guide = Guide::new(8, PIECE);
        assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
        guide.begun(NOW, LinkId(1), 0);
        guide.forget(LinkId(1));
        let mut others = Vec::new();
        while !guide.is_over() {
            let more = guide.deal_all(NOW, LinkId(2));
            more.iter().for_each(|piece| _ = guide.send(NOW, LinkId(2), *piece));
            others.extend(more);
        }
        others.sort_unstable();
        assert_eq!(others, [1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn who_passes_nothing_on_only_takes_and_who_passes_on_a_part_gives() {
        let mut guide = Guide::new(100, PIECE);
        guide.next = 60;
        let (taker, giver) = (LinkId(1), LinkId(2));
        assert_eq!(guide.standing(NOW, taker), Standing::New);
        for piece in 0..10 {
            guide.send(NOW, taker, piece);
            guide.send(NOW, giver, 50 + piece);
        }
        assert_eq!(guide.standing(NOW, taker), Standing::New, "it has had no time to");
        guide.heard_of(taker, 0);
        for piece in [50, 51] {
            guide.heard_of(giver, piece);
            guide.heard_of(LinkId(3), piece);
        }
        assert_eq!(guide.standing(NOW, giver), Standing::Giver);
        assert_eq!(guide.standing(NOW + TRIAL_AFTER, taker), Standing::OnTrial);
        assert_eq!(guide.standing(NOW + PASSING_ON, taker), Standing::Taker);
        assert_eq!(guide.standing(NOW + PASSING_ON, giver), Standing::Giver);
        assert_eq!(guide.deal_all(NOW, LinkId(3)), [6, 7, 8, 9], "what is with the taker");
    }

    #[test]
    fn what_only_a_taker_holds_is_given_again_until_another_has_it() {
        let mut guide = Guide::new(6, PIECE);
        let taker = LinkId(1);
        assert_eq!(guide.deal_all(NOW, taker), [0, 1, 2, 3]);
        for piece in 0..4 {
            guide.send(NOW, taker, piece);
            guide.heard_of(taker, piece);
        }
        assert_eq!(guide.standing(NOW + PASSING_ON, taker), Standing::Taker);
        guide.heard_of(LinkId(3), 2);
        // All of these are with somebody, as far as they say.
        let is_out = |piece| piece < 4;
        assert_eq!(guide.deal(NOW, LinkId(2), is_out), Some(vec![0, 1, 3]));
    }

    #[test]
    fn what_a_giver_holds_by_now_is_not_given_again_because_a_taker_had_it_first() {
        let mut guide = Guide::new(2, PIECE);
        let (taker, giver) = (LinkId(1), LinkId(2));
        for piece in 0..2 {
            guide.send(NOW, taker, piece);
            guide.heard_of(taker, piece);
        }
        guide.next = 2;
        assert_eq!(guide.standing(NOW + PASSING_ON, taker), Standing::Taker);
        let now = NOW + PASSING_ON;
        assert_eq!(guide.deal(now, giver, |_| true), Some(vec![0, 1]));
        for piece in 0..2 {
            guide.send(now, giver, piece);
            guide.heard_of(giver, piece);
        }
        guide.heard_of(LinkId(3), 1);
        let later = now + PASSING_ON_MAX + RECLAIM;
        assert_eq!(guide.standing(later, giver), Standing::Giver);
        assert_eq!(guide.deal(later, LinkId(3), |_| true).unwrap_or_default(), [] as [u32; 0]);
    }

    #[test]
    fn what_was_sent_long_ago_to_one_that_passes_nothing_on_is_given_again_though_it_holds_it() {
        let mut guide = Guide::new(2, PIECE);
        guide.next = 2;
        guide.send(NOW, LinkId(1), 0);
        guide.send(NOW, LinkId(2), 1);
        guide.heard_of(LinkId(3), 1);
        let later = NOW + PASSING_ON + RECLAIM;
        assert_eq!(guide.deal(later, LinkId(2), |_| true), Some(vec![0]));
    }

    #[test]
    fn who_takes_long_for_its_first_piece_is_on_trial_before_it_has_it() {
        let mut guide = Guide::new(100, PIECE);
        guide.begun(NOW, LinkId(1), 0);
        assert_eq!(guide.standing(NOW, LinkId(1)), Standing::New);
        assert_eq!(guide.standing(NOW + TRIAL_AFTER, LinkId(1)), Standing::OnTrial);
    }

    #[test]
    fn what_was_sent_to_two_or_is_out_already_speaks_for_nobody() {
        let mut guide = Guide::new(100, PIECE);
        let taker = LinkId(1);
        // Sent to another first, who passed it on before or passes it on after.
        guide.send(NOW, LinkId(2), 0);
        guide.heard_of(LinkId(3), 0);
        guide.send(NOW, LinkId(2), 1);
        for piece in [0, 1] {
            guide.send(NOW, taker, piece);
            guide.heard_of(LinkId(4), piece);
        }
        guide.send(NOW, taker, 2);
        assert_eq!(guide.standing(NOW + TRIAL_AFTER, taker), Standing::OnTrial);
    }

    #[test]
    fn a_piece_that_is_sent_to_another_as_well_does_not_count_against_the_first() {
        let mut guide = Guide::new(100, PIECE);
        for piece in 0..4 {
            guide.send(NOW, LinkId(1), piece);
            guide.begun(NOW, LinkId(2), piece);
        }
        assert_ne!(guide.standing(NOW + PASSING_ON_MAX, LinkId(1)), Standing::Taker);
    }

    #[test]
    fn what_is_given_to_one_is_not_given_again_because_another_fetched_it_and_left() {
        let mut guide = Guide::new(8, PIECE);
        assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
        guide.send(NOW, LinkId(2), 1);
        guide.gone(LinkId(2));
        let mut others = guide.deal_all(NOW, LinkId(3));
        others.extend(guide.deal_all(NOW, LinkId(4)));
        assert!(!others.is_empty() && others.iter().all(|piece| *piece >= 4), "{others:?}");
    }

    #[test]
    fn who_passes_on_after_all_is_a_taker_no_more() {
        let mut guide = Guide::new(100, PIECE);
        (0..2).for_each(|piece| _ = guide.send(NOW, LinkId(1), piece));
        let later = NOW + PASSING_ON_MAX;
        assert_eq!(guide.standing(later, LinkId(1)), Standing::Taker);
        for piece in 10..13 {
            guide.send(later, LinkId(1), piece);
            guide.heard_of(LinkId(2), piece);
        }
        assert_eq!(guide.standing(later, LinkId(1)), Standing::Giver);
    }

    #[test]
    fn what_was_never_heard_of_again_is_given_again_once_nothing_else_is_left() {
        let mut guide = Guide::new(8, PIECE);
        let silent = LinkId(1);
        guide.send(NOW, silent, 0);
        for piece in 1..8 {
            guide.send(NOW, LinkId(2), piece);
            guide.heard_of(LinkId(3), piece);
        }
        while !guide.is_over() {
            guide.deal_all(NOW, LinkId(2));
            guide.forget(LinkId(2));
            guide.next = guide.pieces;
            guide.returned.clear();
        }
        assert_eq!(guide.deal(NOW + RECLAIM, LinkId(2), |_| false), None, "it may be on its way");
        let later = NOW + PASSING_ON_MAX + RECLAIM;
        assert_eq!(guide.deal_all(later, LinkId(2)), [0]);
    }

    #[test]
    fn what_was_never_heard_of_again_is_left_to_whoever_it_waits_for() {
        let mut guide = Guide::new(4, PIECE);
        assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
        // Fetched by one that chose for itself, and never heard of again.
        guide.send(NOW, LinkId(2), 2);
        let later = NOW + PASSING_ON_MAX + RECLAIM;
        guide.deal_all(later, LinkId(1));
        let with_first: Vec<u32> =
            guide.given[&LinkId(1)].waiting.iter().map(|waiting| waiting.piece).collect();
        assert_eq!(with_first, [0, 1, 2, 3]);
        assert!(guide.returned.is_empty(), "it waits with the first: {:?}", guide.returned);
    }

    #[test]
    fn lanes_may_report_in_another_order_than_they_looked_at_the_clock() {
        let mut guide = Guide::new(10, PIECE);
        guide.send(NOW, LinkId(1), 0);
        guide.send(NOW - Duration::from_millis(1), LinkId(1), 1);
        assert_eq!(guide.standing(NOW, LinkId(1)), Standing::New);
    }

    #[test]
    fn who_goes_on_to_fetch_what_it_was_not_given_loses_what_it_was_given() {
        let mut guide = Guide::new(100, PIECE);
        assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
        // What it had asked for before it heard of them.
        for stray in 90..90 + ASTRAY_PIECES - 1 {
            guide.send(NOW + ASTRAY, LinkId(1), stray);
        }
        assert_eq!(guide.deal_all(NOW, LinkId(2)), [4, 5, 6, 7]);
        guide.send(NOW + ASTRAY, LinkId(1), 99);
        assert_eq!(guide.deal_all(NOW, LinkId(3)), [0, 1, 2, 3]);
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
                            prop_assert!(!sent[piece as usize]);
                            with.values_mut().for_each(|pieces| pieces.retain(|p| *p != piece));
                            with.entry(peer).or_default().push(piece);
                        }
                    }
                    2 => {
                        let first = with.get_mut(&peer).filter(|pieces| !pieces.is_empty());
                        if let Some(piece) = first.map(|pieces| pieces.remove(0)) {
                            guide.send(now, link, piece);
                            // Passed on at once, or it would be given again in the end.
                            guide.heard_of(LinkId(8), piece);
                            sent[piece as usize] = true;
                        }
                    }
                    _ => {
                        guide.forget(link);
                        with.remove(&peer);
                    }
                }
                let waiting: Vec<u32> =
                    guide.given.values().flat_map(|given| &given.waiting).map(|waiting| waiting.piece).collect();
                let once: BTreeSet<u32> = waiting.iter().copied().collect();
                prop_assert_eq!(waiting.len(), once.len());
            }
            // Those who hold pieces give them back, and one fetches all that is left.
            for peer in 0..5 {
                guide.forget(LinkId(peer));
            }
            while !guide.is_over() {
                for piece in guide.deal(now, LinkId(9), |_| false).unwrap_or_default() {
                    guide.send(now, LinkId(9), piece);
                    guide.heard_of(LinkId(8), piece);
                    prop_assert!(!std::mem::replace(&mut sent[piece as usize], true));
                }
            }
            prop_assert!(sent.into_iter().all(|sent| sent));
        }
    }

    #[test]
    fn who_comes_back_stands_no_better_than_it_left_and_no_worse() {
        let mut guide = Guide::new(1000, PIECE);
        (0..4).for_each(|piece| _ = guide.send(NOW, LinkId(1), piece));
        let later = NOW + TRIAL_AFTER;
        assert_eq!(guide.standing(later, LinkId(1)), Standing::OnTrial);
        let (passed_on, kept) = guide.gone(LinkId(1));
        let past = Past { taken: 4, passed_on, kept, ..Past::default() };
        guide.came(later, LinkId(2), past);
        assert_eq!(guide.standing(later, LinkId(2)), Standing::OnTrial, "it had its chance");
        guide.came(later, LinkId(3), Past { passed_on: 3, ..past });
        assert_eq!(guide.standing(later, LinkId(3)), Standing::Giver);
        guide.came(later, LinkId(4), Past { kept: 3, ..past });
        assert_eq!(guide.standing(later, LinkId(4)), Standing::Taker);
        guide.came(later, LinkId(5), Past::default());
        assert_eq!(guide.standing(later, LinkId(5)), Standing::New);
    }
}
