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
//!   What a peer has asked for is left to it, too, unless it is clearly slower and all that waits with it takes long:
//!   it would be sent twice.
//! - Once nothing is left of that either, and what was sent last should have come by what a peer takes for a
//!   piece, it chooses freely; one that has yet to show what it takes chooses at once.
//! - A peer that has passed on nothing yet is on trial a moment after its first piece began to be sent,
//!   so that others are tried with the next one, unless pieces take less than that. Of whoever
//!   passes nothing on, hardly anything that it was sent some seconds ago has come to be with
//!   anybody else; it only takes. What it was sent is given again, as is what a peer had that left.
//! - Once nothing else is left to give, what is with a peer that has passed on nothing is given again after twice as long as
//!   it takes others to pass a piece on.
//! - A peer that comes back has passed on and kept what it had before ([`Past`]).
//! - Of a piece that two were sent nobody knows who passed it on: it speaks for neither.
//!
//! Invariant: a piece waits to be fetched by at most one peer at a time.
//! Not here: who is answered (`choker`), what is done with a suggestion (`trade`).

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque, btree_map, hash_map};
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
const TRIAL_AFTER: Duration = Duration::from_millis(100);
/// Between two looks for pieces that are overdue, or as long as it takes to pass one on if that is less, but not less than
/// [`OVERDUE_MIN`].
const RECLAIM: Duration = Duration::from_secs(1);
/// With nothing else left to give, who has passed on nothing is not waited for longer than so many times as long as it
/// takes others to pass a piece on: the last pieces of the first copy would be with free riders, and all wait for them.
const OVERDUE: u32 = 2;
/// But for so long in any case.
const OVERDUE_MIN: Duration = Duration::from_millis(50);
/// Of how many pieces it is the average how long it takes to pass one on.
const OF_LATE: u32 = 16;
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
    with_one: HashMap<u32, WithOne>,
    /// Pieces that, as far as we know, are only with such as keep what they get: not out, whoever holds them.
    /// Whoever kept it last.
    withheld: HashMap<u32, LinkId>,
    /// Pieces that are with others as well, or were sent to two: they speak for nobody any more.
    settled: Box<[bool]>,
    /// When a piece last began to be sent that was with nobody.
    first_sent: Duration,
    /// How long it takes until what was sent to one peer is with another and we hear of it, on average of late.
    passing_on: Option<Duration>,
    /// When it was last looked at which of those are overdue.
    reclaimed: Duration,
    tallies: BTreeMap<LinkId, Tally>,
    /// When whoever was sent its first piece last is on trial.
    next_trial: Duration,
}

/// Whom a piece was sent to that is with nobody else.
#[derive(Clone, Copy, Debug)]
struct WithOne {
    link: LinkId,
    /// When it began to be sent, and when it was out.
    begun: Duration,
    sent: Option<Duration>,
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
            withheld: HashMap::new(),
            settled: vec![false; pieces as usize].into_boxed_slice(),
            first_sent: Duration::ZERO,
            passing_on: None,
            reclaimed: Duration::ZERO,
            tallies: BTreeMap::new(),
            next_trial: Duration::ZERO,
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
        let dealt =
            self.deal_some(now, link, |piece| is_out(piece) && !withheld.contains_key(&piece));
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
            hash_map::Entry::Vacant(_) if *settled => {}
            hash_map::Entry::Vacant(entry) => {
                entry.insert(WithOne { link, begun: now, sent: None });
                self.first_sent = now;
                if let btree_map::Entry::Vacant(tally) = self.tallies.entry(link) {
                    tally.insert(Tally::new(now));
                    self.next_trial = now + TRIAL_AFTER;
                }
            }
            hash_map::Entry::Occupied(entry) if entry.get().link != link => {
                entry.remove();
                *settled = true;
            }
            hash_map::Entry::Occupied(_) => {}
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
        if let Some(with) = self.with_one.get_mut(&piece).filter(|with| with.link == link) {
            with.sent.get_or_insert(now);
            if let Some(tally) = self.tallies.get_mut(&link) {
                tally.sent(now, piece);
            }
        }
        self.given.get(&link).is_some_and(|given| !given.has_enough())
    }

    /// A peer says that it holds a piece: if another was sent it, that one has passed it on, unless the peer had kept it before.
    /// True if that is the first that it has passed on.
    pub fn heard_of(&mut self, now: Duration, link: LinkId, piece: u32) -> bool {
        if let Some(given) = self.given.get_mut(&link) {
            // It has it, from whomever, and will not fetch it.
            given.waiting.retain(|waiting| waiting.piece != piece);
        }
        let sent_to = self.with_one.get(&piece).map(|with| with.link);
        if sent_to == Some(link) {
            if self.tallies.get(&link).is_some_and(|tally| tally.passed_on > 0) {
                self.withheld.remove(&piece);
            }
            return false;
        }
        if self.withheld.get(&piece) == Some(&link) {
            // It kept it, and for its sake it was sent to another: that says nothing of that one.
            return false;
        }
        if self.tallies.get(&link).is_none_or(|tally| !tally.only_takes) {
            self.withheld.remove(&piece);
        }
        // What we sent to nobody says nothing, whoever claims to hold it.
        if let Some(with) = self.with_one.remove(&piece)
            && let Some(settled) = self.settled.get_mut(piece as usize)
        {
            *settled = true;
            if let Some(sent) = with.sent {
                self.note_passing_on(now.saturating_sub(sent).min(PASSING_ON_MAX));
            }
        }
        let Some(tally) = sent_to.and_then(|sent_to| self.tallies.get_mut(&sent_to)) else {
            return false;
        };
        tally.passed_on += 1;
        let is_first = tally.passed_on == 1;
        if is_first {
            // What it holds beside that is as good as out.
            let with_one = &self.with_one;
            self.withheld.retain(|piece, _| with_one.get(piece).map(|with| with.link) != sent_to);
        }
        is_first
    }

    fn note_passing_on(&mut self, took: Duration) {
        let average = |before: Duration| (before * (OF_LATE - 1) + took) / OF_LATE;
        self.passing_on = Some(self.passing_on.map_or(took, average));
    }

    /// When a peer comes to be on trial though nothing has happened.
    pub fn next_trial(&self) -> Duration {
        self.next_trial
    }

    /// How a peer stands, by what it passes on of what it was sent.
    pub fn standing(&mut self, now: Duration, link: LinkId) -> Standing {
        let Some(tally) = self.tallies.get_mut(&link) else { return Standing::New };
        let passing_on = tally.passing_on();
        while let Some((sent, piece)) = tally.fresh.front().copied()
            && now.saturating_sub(sent) >= passing_on
        {
            tally.fresh.pop_front();
            let is_kept = self.with_one.get(&piece).is_some_and(|with| with.link == link);
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
        let usual = self.passing_on.map(|usual| usual.max(OVERDUE_MIN));
        if now.saturating_sub(self.reclaimed) < usual.map_or(RECLAIM, |usual| usual.min(RECLAIM)) {
            return;
        }
        self.reclaimed = now;
        let Self { tallies, returned, withheld, .. } = self;
        self.with_one.retain(|piece, with| {
            let tally = tallies.get(&with.link);
            let patience = tally.map_or(PASSING_ON_MAX, Tally::passing_on);
            let has_shown_nothing = tally.is_some_and(|tally| tally.passed_on == 0);
            let is_over = |since: Duration, patience| now.saturating_sub(since) > patience;
            let is_overdue = match (usual, with.sent) {
                (Some(usual), Some(sent)) => has_shown_nothing && is_over(sent, usual * OVERDUE),
                _ => false,
            };
            let lost = is_overdue || is_over(with.begun, patience);
            if lost {
                returned.insert(*piece);
                if has_shown_nothing {
                    withheld.insert(*piece, with.link);
                }
            }
            !lost
        });
        self.leave_what_waits();
    }

    /// What only this peer has, as far as we know, is as good as with nobody.
    fn give_again(&mut self, link: LinkId) {
        let Self { returned, withheld, next, .. } = self;
        self.with_one.retain(|piece, with| {
            let lost = with.link == link;
            if lost {
                withheld.insert(*piece, link);
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
mod tests;
