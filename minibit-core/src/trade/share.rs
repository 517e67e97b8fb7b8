//! What all lanes of a share have in common: the ledger, the links, what peers may be told.
//!
//! What a block touches is atomic, belongs to one lane, or is a short lock of that lane's link.
//! The maps of links and lanes are locked when those come and go, when pieces are given back,
//! while a lane that has nothing to ask for looks around, and every [`CARRYING_FOR`] at most to see
//! which links carry something. Both are ordered, so that a simulated swarm is the same each time.
//! Not here: files, and what the user is told.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::busy::Busy;
use super::link::{LaneStatus, Link, micros};
use super::lock;
use super::prefixes::{Mixed, Origin, Prefix, Prefixes, Sender};
use super::strangers::{Strangers, machine_of};
use crate::content::{HashBook, PieceHasher};
use crate::swarm::{Guide, LaneId, Ledger, LinkId, Past, Picking, Recent, Standing};
use crate::types::{FileIndex, Geometry, PeerId, PieceIndex, PieceSet};
use crate::wire::RawBlock;

/// So many peers must want something before a seeder deals its pieces out: one alone gets all.
const GUIDED_MIN: u32 = 2;

/// So many peers that let us down are remembered, those that did it last.
const LET_DOWN_MAX: usize = 1024;

/// One in so many of all pieces is much news.
const MUCH_NEWS_PART: u64 = 16;

/// What a shell has to hear at once, from any lane on any thread.
pub trait Signals: Send + Sync {
    /// A piece was verified: [`Manager::schedule_news`](super::Manager::schedule_news).
    fn news(&self);
    /// There may be a slot to give or to free: [`Manager::choose_slots`](super::Manager::choose_slots). Not told where
    /// a look within a second is soon enough.
    fn slots_changed(&self);
    /// A link that we made should have more lanes.
    fn lanes_wanted(&self, link: LinkId);
    /// The last wanted piece was verified.
    fn complete(&self);
    /// A lane has ended.
    fn lane_gone(&self);
}

/// Sums over all links of a share, since it was opened.
#[derive(Debug, Default)]
pub struct Counters {
    /// Payload bytes received in blocks that were asked for.
    pub downloaded: AtomicU64,
    /// Payload bytes sent.
    pub uploaded: AtomicU64,
    /// Payload bytes that connections have taken, those of blocks that are not out whole included.
    pub handed_over: AtomicU64,
    /// Payload bytes received and thrown away.
    pub wasted: AtomicU64,
    /// Messages sent, BLOCO frames included.
    pub messages_sent: AtomicU64,
    /// BLOCO frames sent.
    pub blocks_sent: AtomicU64,
    /// Connections made or accepted.
    pub connections: AtomicU64,
    /// Pieces fetched and verified.
    pub pieces_fetched: AtomicU64,
    /// Pieces fetched whose bytes were wrong.
    pub pieces_refused: AtomicU64,
    /// Pieces not here that peers withdrew.
    pub pieces_withdrawn: AtomicU64,
}

/// For how long it is taken for true how many links carry something.
const CARRYING_FOR: Duration = Duration::from_millis(5);

/// How a share is to be conducted.
#[derive(Debug, Clone, Copy)]
pub struct Setup {
    /// Our identity.
    pub me: PeerId,
    /// Cores that hashing may use.
    pub cores: usize,
    /// Lanes of each link; `None`: as many as cores and distance call for.
    pub lanes: Option<u8>,
    /// In which order pieces are fetched.
    pub picking: Picking,
}

/// One share, as all its lanes see it. `H` is what a shell knows of the bytes of a piece that have come
/// so far.
pub struct Share<H = PieceHasher> {
    /// How it is conducted.
    pub setup: Setup,
    /// How it is cut into pieces.
    pub geometry: Arc<Geometry>,
    /// What each piece must hash to.
    pub hashes: Arc<HashBook>,
    /// State and rarity of each piece.
    pub ledger: Ledger,
    /// What has been moved so far.
    pub counters: Counters,
    pub(super) busy: Busy,
    pub(super) signals: Box<dyn Signals>,
    /// See [`Choker::may_heed_newcomers`](crate::swarm::Choker::may_heed_newcomers).
    heeds_newcomers: AtomicBool,
    /// Raised when a piece was verified and nobody has been told; the manager batches.
    pub(super) news_pending: AtomicBool,
    /// The news log up to here may be told to peers that hear it soon ([`Link::hears_soon`]).
    news_released: AtomicU32,
    /// The same for all others.
    news_released_to_all: AtomicU32,
    /// Pieces whose source changed, in order; links tell their peers from where they are.
    pub(super) withdrawn: Mutex<Vec<PieceIndex>>,
    /// While set nothing is asked for.
    paused: AtomicBool,
    /// What we deal out, if we began with everything.
    pub(super) guide: Option<Mutex<Guide>>,
    /// How many peers want something of us.
    audience: AtomicU32,
    /// Peers that let requests run into their deadline and have delivered nothing since: they
    /// shall not be as new by coming anew.
    let_down_by: Mutex<Recent<PeerId, ()>>,
    /// What has come of pieces that nobody fetches.
    prefixes: Mutex<Prefixes<H>>,
    /// Whether there is anything in there: as long as nothing goes wrong nobody need look.
    has_prefixes: AtomicBool,
    /// Who is asked for one piece first, for many who came before it from its machine sent nothing right.
    strangers: Mutex<Strangers>,
    /// Whether anybody is: else nobody need look.
    has_trials: AtomicBool,
    /// Of the wanted pieces, still to be verified.
    bytes_left: AtomicU64,
    lanes: Mutex<BTreeMap<LaneId, Arc<LaneStatus>>>,
    /// See [`Self::carrying`].
    carrying: AtomicU32,
    carrying_looked_us: AtomicU64,
    links: Mutex<BTreeMap<LinkId, Arc<Link>>>,
}

impl<H> std::fmt::Debug for Share<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Share").field("ledger", &self.ledger).finish_non_exhaustive()
    }
}

impl<H> Share<H> {
    /// A share of which we hold `have` and want `wanted`.
    ///
    /// # Panics
    /// If the sets are of another number of pieces than the share.
    pub fn new(
        setup: Setup,
        geometry: Arc<Geometry>,
        hashes: Arc<HashBook>,
        have: &PieceSet,
        wanted: &PieceSet,
        signals: Box<dyn Signals>,
    ) -> Self {
        let missing = wanted
            .iter()
            .filter_map(|number| geometry.piece(number))
            .filter(|piece| !have.contains(*piece));
        let bytes_left = missing.map(|piece| u64::from(geometry.piece_len(piece))).sum();
        let piece_len = geometry.piece_size().bytes();
        let guide =
            have.is_full().then(|| Mutex::new(Guide::new(geometry.piece_count(), piece_len)));
        Self {
            setup,
            guide,
            audience: AtomicU32::new(0),
            let_down_by: Mutex::new(Recent::new(LET_DOWN_MAX)),
            ledger: Ledger::new(Arc::clone(&geometry), have, wanted),
            hashes,
            geometry,
            counters: Counters::default(),
            busy: Busy::default(),
            signals,
            heeds_newcomers: AtomicBool::new(true),
            news_pending: AtomicBool::new(false),
            news_released: AtomicU32::new(0),
            news_released_to_all: AtomicU32::new(0),
            withdrawn: Mutex::new(Vec::new()),
            paused: AtomicBool::new(false),
            prefixes: Mutex::default(),
            has_prefixes: AtomicBool::new(false),
            strangers: Mutex::new(Strangers::new(piece_len)),
            has_trials: AtomicBool::new(false),
            bytes_left: AtomicU64::new(bytes_left),
            lanes: Mutex::default(),
            carrying: AtomicU32::new(0),
            carrying_looked_us: AtomicU64::new(0),
            links: Mutex::default(),
        }
    }

    /// The lanes there are.
    pub(super) fn lanes(&self) -> MutexGuard<'_, BTreeMap<LaneId, Arc<LaneStatus>>> {
        lock(&self.lanes)
    }

    /// The links there are. Never to be held across a wait.
    pub fn links(&self) -> MutexGuard<'_, BTreeMap<LinkId, Arc<Link>>> {
        lock(&self.links)
    }

    /// How many links carry at least an eighth of what the fastest of them does. Looked at anew every
    /// [`CARRYING_FOR`], for lanes ask often and links may be many.
    pub(super) fn carrying(&self, now: Duration) -> usize {
        let now_us = now.as_micros() as u64;
        let looked = self.carrying_looked_us.load(Relaxed);
        if now_us < looked + CARRYING_FOR.as_micros() as u64 {
            return self.carrying.load(Relaxed) as usize;
        }
        self.carrying_looked_us.store(now_us, Relaxed);
        let rates: Vec<u64> = self.links().values().map(|link| link.receiving_rate(now)).collect();
        let least = rates.iter().max().map_or(0, |fastest| fastest / 8).max(1);
        let carrying = rates.iter().filter(|rate| **rate >= least).count();
        self.carrying.store(carrying as u32, Relaxed);
        carrying
    }

    /// Bytes of the wanted pieces that are still to be verified.
    pub fn bytes_left(&self) -> u64 {
        self.bytes_left.load(Relaxed)
    }

    /// There is work again: pieces were given back, or a pause ended.
    pub fn wake_all(&self) {
        for lane in self.lanes().values() {
            lane.waker.wake_by_ref();
        }
    }

    /// From now on nothing is asked for; false if that was so.
    pub fn pause(&self) -> bool {
        !self.paused.swap(true, Relaxed)
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.paused.store(false, Relaxed);
        self.wake_all();
    }

    pub(super) fn is_paused(&self) -> bool {
        self.paused.load(Relaxed)
    }

    /// A piece that `owner` fetched over this link, to its end, is right and on record: it is ours now.
    /// Called under a write lease, or where nobody else can take it over.
    pub fn keep(&self, link: &Link, piece: PieceIndex, owner: LaneId, origin: &Origin) {
        if !self.ledger.verified(piece, owner) {
            return;
        }
        let len = self.geometry.piece_len(piece);
        link.verified_bytes.fetch_add(origin.own(len).into(), Relaxed);
        if origin.is_of_one_peer() {
            link.has_earned.store(true, Relaxed);
        }
        if self.has_prefixes() {
            self.with_prefixes(|prefixes| prefixes.on_right(origin, &Sender::of(link)));
        }
        if let Origin::Mixed(mixed) = origin {
            let mut strangers = lock(&self.strangers);
            let others = mixed.senders().filter(|sender| !sender.is_of(link));
            others.for_each(|sender| strangers.note_begun_right(sender.ip(), sender.id()));
        }
        self.bytes_left.fetch_sub(len.into(), Relaxed);
        self.counters.pieces_fetched.fetch_add(1, Relaxed);
        // Peers shall hear of it, batched with what comes right after.
        if !self.news_pending.swap(true, AcqRel) {
            self.signals.news();
        }
        if self.ledger.is_complete() {
            self.signals.complete();
        }
    }

    // ---- what has come of pieces that nobody fetches ----

    fn has_prefixes(&self) -> bool {
        self.has_prefixes.load(Acquire)
    }

    fn with_prefixes<T>(&self, act: impl FnOnce(&mut Prefixes<H>) -> T) -> T {
        let mut prefixes = lock(&self.prefixes);
        let outcome = act(&mut prefixes);
        self.has_prefixes.store(!prefixes.is_empty(), Release);
        outcome
    }

    /// Gives a piece back, to be fetched by anybody, and keeps what has come of it. Nothing, if it
    /// is not the owner's any more: then others may have written to it.
    pub(super) fn leave(&self, piece: PieceIndex, owner: LaneId, prefix: Option<Prefix<H>>) {
        let is_part = |prefix: &Prefix<H>| prefix.end() < self.geometry.piece_len(piece);
        if let Some(prefix) = prefix.filter(is_part) {
            // Nobody can have the piece before the prefix is in its place.
            let Some(_lease) = self.ledger.begin_write(piece, owner) else { return };
            self.with_prefixes(|prefixes| prefixes.keep(piece, prefix));
            self.ledger.release(piece, owner);
        } else {
            self.ledger.release(piece, owner);
        }
    }

    /// Gives back a piece that is not asked for after all. Who could have asked for it found it taken meanwhile.
    pub(super) fn put_back(&self, piece: PieceIndex, owner: LaneId) {
        self.ledger.release(piece, owner);
        self.wake_all();
    }

    /// From where on this peer is to be asked for a piece that was claimed.
    pub(super) fn end_of_prefix(&self, piece: PieceIndex, by: &Sender) -> u32 {
        if !self.has_prefixes() {
            return 0;
        }
        lock(&self.prefixes).end_for(piece, by)
    }

    /// Where what is here of a piece ends, if this peer may go on with it or there is nothing.
    pub(super) fn ends_at(&self, piece: PieceIndex, by: &Sender) -> Option<u32> {
        if !self.has_prefixes() {
            return Some(0);
        }
        let prefixes = lock(&self.prefixes);
        let end = prefixes.end_for(piece, by);
        (end > 0 || !prefixes.holds(piece)).then_some(end)
    }

    /// Whether this peer may be asked for a piece that was claimed, or would throw away what others began.
    pub(super) fn may_begin(&self, piece: PieceIndex, by: &Sender, now: Duration) -> bool {
        !self.has_prefixes() || lock(&self.prefixes).may_begin(piece, by, now)
    }

    /// The pieces that others began and this peer would throw away: few, and most often none. The shortest
    /// beginning comes first.
    pub(super) fn left_alone(&self, by: &Sender, now: Duration) -> Vec<PieceIndex> {
        if !self.has_prefixes() {
            return Vec::new();
        }
        lock(&self.prefixes).left_alone(by, now)
    }

    /// Claims a piece that others began and this peer is to leave alone, if it has earned that it may throw
    /// what there is of it away.
    pub(super) fn claim_earned(
        &self,
        link: &Link,
        left_alone: &[PieceIndex],
        claim: impl FnMut(&PieceIndex) -> bool,
    ) -> Option<PieceIndex> {
        // Taken first, or two lanes could spend the same.
        if left_alone.is_empty() || !link.has_earned.swap(false, Relaxed) {
            return None;
        }
        let claimed = left_alone.iter().copied().find(claim);
        if claimed.is_none() {
            link.has_earned.store(true, Relaxed);
        }
        claimed
    }

    /// Whether a peer had a part in a wrong piece, and has not shown since that it was another's.
    pub(super) fn is_in_doubt(&self, by: &Sender) -> bool {
        self.has_prefixes() && !lock(&self.prefixes).may_mix(by)
    }

    /// Claims a piece that was begun, of which most is here, for this peer to go on with.
    pub(super) fn claim_begun(
        &self,
        link: &Link,
        by: &Sender,
        mut claim: impl FnMut(PieceIndex) -> bool,
    ) -> Option<(PieceIndex, u32)> {
        if !self.has_prefixes() {
            return None;
        }
        let begun = lock(&self.prefixes).for_peer(by);
        begun.into_iter().find(|(piece, _)| link.holdings.contains(*piece) && claim(*piece))
    }

    /// The owner of a piece is about to write to it from `at` on. `Err`: not what it takes to be here is,
    /// or the piece is not its own any more.
    pub(super) fn take_prefix(
        &self,
        piece: PieceIndex,
        owner: LaneId,
        at: u32,
    ) -> Result<Option<Prefix<H>>, ()> {
        if !self.has_prefixes() {
            return if at == 0 { Ok(None) } else { Err(()) };
        }
        let _lease = self.ledger.begin_write(piece, owner).ok_or(())?;
        match self.with_prefixes(|prefixes| prefixes.take(piece, at)) {
            None if at > 0 => Err(()),
            prefix => Ok(prefix),
        }
    }

    /// A piece that came over several links is wrong.
    pub(super) fn note_spoilt(&self, mixed: &Mixed) {
        self.with_prefixes(|prefixes| prefixes.on_wrong(mixed));
    }

    /// A peer is banned, and none of its bytes is to be trusted.
    pub(super) fn forget_prefixes_of(&self, link: &Link) {
        if self.has_prefixes() {
            self.with_prefixes(|prefixes| prefixes.forget_from(&Sender::of(link)));
        }
    }

    // ---- strangers ----

    /// A link is over: what came of it is remembered of its peer, or of its machine.
    pub(super) fn note_worth(&self, link: &Link, now: Duration) {
        let (ip, id, mut strangers) = (link.addr.ip(), link.agreed.peer, lock(&self.strangers));
        if is_on_trial(&strangers, link, now) {
            strangers.note_left(ip, id, micros(&link.tried_us), now);
        }
        if link.has_earned.load(Relaxed) {
            strangers.note_earned(ip, id);
        }
        if link.bytes_from() > 0 {
            strangers.note_right(ip, id);
        } else if link.gave_at() > link.made && strangers.note_failure(ip, now) {
            self.has_trials.store(true, Relaxed);
        }
    }

    /// Whether a peer that is linked anew has earned something that it has yet to make use of. It is told once.
    pub(super) fn take_earned(&self, ip: IpAddr, id: PeerId) -> bool {
        lock(&self.strangers).take_earned(ip, id)
    }

    /// Since when a peer that is linked now has waited for its turn.
    pub(super) fn waits_since(&self, ip: IpAddr, id: PeerId, now: Duration) -> Duration {
        lock(&self.strangers).waits_since(ip, id, now)
    }

    /// Whether a peer is to be asked for one piece at a time, in its turn, until it has sent a right one.
    pub(super) fn is_on_trial(&self, link: &Link, now: Duration) -> bool {
        self.has_trials.load(Relaxed) && is_on_trial(&lock(&self.strangers), link, now)
    }

    /// Whether it is the turn of this peer, which is on trial; then it is asked for a piece.
    pub(super) fn takes_trial(&self, link: &Link, now: Duration) -> bool {
        let ip = link.addr.ip();
        if link.is_busy() || !lock(&self.strangers).is_due(ip, now) || !self.has_use_for(link) {
            return false;
        }
        let (links, mut strangers) = (self.links(), lock(&self.strangers));
        let turn = |link: &Link| (link.tried_us.load(Relaxed), link.id);
        let is_before = |other: &&Arc<Link>| {
            turn(other) < turn(link)
                && machine_of(other.addr.ip()) == machine_of(ip)
                && is_on_trial(&strangers, other, now)
                && !other.is_choked()
                && !other.lets_us_down()
                && other.closing().is_none()
                && self.ledger.has_open_of(&other.holdings)
                && !other.is_busy()
        };
        let before = links.values().filter(is_before).count();
        let takes = strangers.takes_turn(ip, now, before);
        if takes {
            link.tried_us.store(now.as_micros() as u64, Relaxed);
        }
        takes
    }

    /// Whether there is anything to be had from a peer, be it in place of another that stalls.
    fn has_use_for(&self, link: &Link) -> bool {
        self.ledger.has_open_of(&link.holdings)
            || self.ledger.in_flight_of(&link.holdings).next().is_some()
    }

    /// Our own file was changed under us: its pieces are no longer ours to offer. False if we
    /// offered none.
    pub fn withdraw(&self, file: FileIndex) -> bool {
        let mut withdrawn = lock(&self.withdrawn);
        let before = withdrawn.len();
        withdrawn.extend(self.geometry.pieces_of(file).filter(|p| self.ledger.withdraw(*p)));
        let any = withdrawn.len() > before;
        drop(withdrawn);
        if any {
            self.wake_all();
        }
        any
    }

    /// A peer let requests run into their deadline.
    pub(super) fn note_let_down(&self, link: &Link) {
        if !link.snubbed.swap(true, Relaxed) {
            lock(&self.let_down_by).insert(link.agreed.peer, ());
        }
    }

    /// A peer delivers.
    pub(super) fn note_delivery(&self, link: &Link) {
        if link.snubbed.load(Relaxed) && link.snubbed.swap(false, Relaxed) {
            lock(&self.let_down_by).remove(&link.agreed.peer);
        }
    }

    /// Whether the peer let us down when it was last linked.
    pub(super) fn was_let_down_by(&self, peer: &PeerId) -> bool {
        lock(&self.let_down_by).get(peer).is_some()
    }

    /// So many peers want something of us now. True if links have to heed that: if we deal pieces
    /// out, and there was one to deal to and now are more, or the other way round.
    pub(super) fn note_audience(&self, audience: u32) -> bool {
        let before = self.audience.swap(audience, Relaxed);
        self.guide.is_some() && (before < GUIDED_MIN) != (audience < GUIDED_MIN)
    }

    /// Whether there are too few who want something of us to deal pieces out.
    pub(super) fn serves_one_alone(&self) -> bool {
        self.audience.load(Relaxed) < GUIDED_MIN
    }

    /// Whether to hear of who comes to want something: by the manager's last decision.
    pub(super) fn heed_newcomers(&self, may: bool) {
        self.heeds_newcomers.store(may, Relaxed);
    }

    /// A peer has come to want something of us, or wants nothing any more. Most often that changes nothing: with all slots
    /// taken who comes waits for the next look, a second or so, and who goes from among those who wait leaves no slot. A
    /// seeder has to know how many there are to deal to.
    pub(super) fn note_interest(&self, link: &Link) {
        let may_get_or_leave_slot = if link.is_audience() {
            self.heeds_newcomers.load(Relaxed)
        } else {
            !link.is_choking()
        };
        if may_get_or_leave_slot || self.guide.is_some() {
            self.signals.slots_changed();
        }
    }

    /// What a peer did not fetch of what we gave it may be given to others.
    pub(super) fn take_back(&self, link: LinkId) {
        if let Some(guide) = &self.guide {
            lock(guide).forget(link);
        }
    }

    /// A link begins.
    pub(super) fn note_come(&self, now: Duration, link: LinkId, past: Past) {
        if let Some(guide) = &self.guide {
            lock(guide).came(now, link, past);
        }
    }

    /// A link is over. Returns how many pieces its peer has passed on and how many it has kept.
    pub(super) fn note_gone(&self, link: LinkId) -> (u32, u32) {
        self.guide.as_ref().map_or((0, 0), |guide| lock(guide).gone(link))
    }

    /// A peer has come to hold a piece.
    pub(super) fn note_held(&self, now: Duration, link: LinkId, piece: u32) {
        if let Some(guide) = &self.guide {
            let has_shown = lock(guide).heard_of(now, link, piece);
            if has_shown {
                // It need not wait while others are tried.
                self.signals.slots_changed();
            }
        }
    }

    /// How a peer stands by what it passes on, if we can tell.
    pub(super) fn standing(&self, now: Duration, link: LinkId) -> Option<Standing> {
        self.guide.as_ref().map(|guide| lock(guide).standing(now, link))
    }

    /// When a peer comes to be on trial though nothing has happened, if we deal pieces out.
    pub(super) fn next_trial(&self) -> Option<Duration> {
        self.guide.as_ref().map(|guide| lock(guide).next_trial())
    }

    /// A peer has asked for blocks, and will be sent them.
    pub(super) fn note_asked(&self, link: LinkId, blocks: &[RawBlock]) {
        if let Some(guide) = &self.guide {
            lock(guide).asked(link, blocks.iter().map(|block| block.piece));
        }
    }

    /// A piece begins to be sent to a peer. Whoever is alone with us can pass nothing on.
    pub(super) fn note_begun(&self, now: Duration, link: LinkId, piece: PieceIndex) {
        if let Some(guide) = &self.guide
            && !self.serves_one_alone()
        {
            lock(guide).begun(now, link, piece.get());
        }
    }

    /// A piece went out to a peer whole. True if it may be given more.
    pub(super) fn note_sent(&self, now: Duration, link: LinkId, piece: PieceIndex) -> bool {
        self.guide.as_ref().is_some_and(|guide| lock(guide).sent(now, link, piece.get()))
    }

    /// Lets links tell what we hold by now: all of them, or those whose peers hear it soon.
    pub(super) fn release_news(&self, to_all: bool) {
        // In this order: a piece verified right after the flag is lowered raises it again.
        self.news_pending.swap(false, AcqRel);
        let upto = self.ledger.news_len();
        let from = if to_all {
            self.news_released.store(upto, Release);
            self.news_released_to_all.swap(upto, AcqRel)
        } else {
            self.news_released.swap(upto, AcqRel)
        };
        let fresh: Vec<PieceIndex> = self.ledger.news(from).collect();
        let holds_all = self.ledger.holds_all();
        let links = self.links();
        // What is looked at of a link is read from memory side by side for many: first what says who hears,
        // then what they hold, and what wakes them last.
        let hears = |link: &&Arc<Link>| to_all || link.hears_soon();
        let mut hearers: Vec<&Arc<Link>> = links.values().filter(hears).collect();
        hearers.retain(|link| {
            let is_new = |piece: &PieceIndex| !link.holdings.contains(*piece);
            holds_all || link.may_deal() || fresh.iter().any(is_new)
        });
        hearers.into_iter().for_each(|link| link.wake_for_news());
    }

    /// Whether so much of the share has yet to be told where nothing goes that it should not wait.
    pub(super) fn has_much_news(&self) -> bool {
        let told = self.news_released_to_all.load(Acquire);
        let untold = u64::from(self.ledger.news_len() - told);
        untold * MUCH_NEWS_PART >= u64::from(self.geometry.piece_count())
    }

    /// Up to where the news may be told over this link.
    pub(super) fn released(&self, link: &Link) -> u32 {
        let released =
            if link.hears_soon() { &self.news_released } else { &self.news_released_to_all };
        released.load(Acquire).max(link.news_due.load(Acquire))
    }
}

fn is_on_trial(strangers: &Strangers, link: &Link, now: Duration) -> bool {
    link.bytes_from() == 0 && strangers.is_on_trial(link.addr.ip(), link.agreed.peer, now)
}
