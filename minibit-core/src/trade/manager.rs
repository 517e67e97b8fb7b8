//! What concerns more than one link: whom to dial and to link, whom to answer, when peers hear
//! the news.
//!
//! Never on the way of a block. The shell asks [`Manager::next_wake`] when to come back, and
//! comes at once when it is told to (see [`Signals`](super::Signals)).
//! Not here: connecting, handshakes, what is done when a share is complete.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::link::{CloseReason, Guiding, Link};
use super::share::Share;
use crate::content::PieceHasher;
use crate::peer::{Agreed, Introduction};
use crate::swarm::{
    Choker, Direction, Ending, Greeting, Holdings, KnownPeer, LinkId, MovesByRound, Neighbours,
    Occupant, Past, Pasts, PeerView, Refusal, Sent, Source, TAKER_PART, Verdict, giving_way,
};
use crate::types::PeerId;
use crate::wire::{LaneKey, Register};

/// How long news waits for more of it, with few links; with many the wait grows, so that
/// telling them never becomes the work.
const NEWS_DELAY: Duration = Duration::from_millis(30);
/// Added to [`NEWS_DELAY`] for each link.
const NEWS_DELAY_EACH: Duration = Duration::from_micros(250);
/// Longest that news waits.
const NEWS_DELAY_MAX: Duration = Duration::from_millis(250);
/// How long news waits for more of it where neither side answers the other: nothing depends on
/// it there, and most links of a large swarm are like that. Much of it does not wait so long, for whoever has
/// no slot with a seeder does not know otherwise what others could give.
const NEWS_DELAY_IDLE: Duration = Duration::from_secs(1);
/// Added to [`NEWS_DELAY_IDLE`] for each link beyond [`FEW_LINKS`].
const NEWS_DELAY_IDLE_EACH: Duration = Duration::from_millis(50);
/// Longest that news waits there: who has heard of nothing for [`HUNGRY`] dials others.
const NEWS_DELAY_IDLE_MAX: Duration = HUNGRY;
/// With so many links there is little to be saved, and a swarm that small lacks what it does not hear of.
const FEW_LINKS: u32 = 20;
/// After so long without anything to be had from anybody further peers are dialled.
const HUNGRY: Duration = Duration::from_secs(2);
/// The same after so long without a byte, whatever others say that they have for us.
const STARVING: Duration = Duration::from_secs(30);
/// Looks at neighbours and slots at least this often.
const TICK: Duration = Duration::from_secs(1);

/// What our REGISTRO said of us.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// That we answer requests from the start.
    pub unchoked: bool,
    /// That we hold every piece.
    pub complete: bool,
}

impl Told {
    /// What `register`, sent by us, says.
    pub fn by(register: &Register) -> Self {
        Self { unchoked: register.unchoked, complete: register.complete }
    }
}

/// A connection whose handshake is through.
#[derive(Debug)]
pub struct NewLink {
    /// What both ends agreed on.
    pub agreed: Agreed,
    /// The address that the connection came from or went to.
    pub addr: SocketAddr,
    /// Whether we made it.
    pub initiated: bool,
    /// How long the answer to our REGISTRO took, if we made it.
    pub distance: Option<Duration>,
    /// The key by which further lanes join.
    pub key: LaneKey,
    /// What our REGISTRO said.
    pub told: Told,
}

impl NewLink {
    fn greeting(&self, link: LinkId) -> Greeting {
        let (direction, port) = if self.initiated {
            (Direction::Dialled, self.addr.port())
        } else {
            (Direction::Accepted, self.agreed.port)
        };
        let addr = SocketAddr::new(self.addr.ip(), port);
        Greeting { link, id: self.agreed.peer, direction, addr }
    }
}

/// The manager of one share; see the module's header.
#[derive(Debug)]
pub struct Manager<H = PieceHasher> {
    share: Arc<Share<H>>,
    choker: Choker,
    neighbours: Neighbours,
    /// What passed with those that were here before.
    pasts: Pasts,
    /// Whether somebody else brings peers together, so that a seeder need not.
    has_tracker: bool,
    next_link: u32,
    news_at: Option<Duration>,
    /// The same for links over which nothing goes.
    idle_news_at: Option<Duration>,
    /// When slots were chosen last.
    chosen_at: Duration,
    /// When it was looked at last whether any peer has anything for us, and since when none has.
    larder: (Duration, Option<Duration>),
    /// What had come by then, and since when no more has.
    meal: Option<(u64, Duration)>,
    rng: fastrand::Rng,
}

impl<H> Manager<H> {
    /// A manager without links.
    pub fn new(
        share: Arc<Share<H>>,
        choker: Choker,
        neighbours: Neighbours,
        has_tracker: bool,
        rng: fastrand::Rng,
    ) -> Self {
        Self {
            pasts: Pasts::new(share.geometry.piece_size().bytes().into()),
            share,
            choker,
            neighbours,
            has_tracker,
            next_link: 1,
            news_at: None,
            chosen_at: Duration::ZERO,
            larder: (Duration::ZERO, None),
            meal: None,
            idle_news_at: None,
            rng,
        }
    }

    // ---- time ----

    /// When to call [`Self::do_what_is_due`] and [`Self::dial`] again, if nothing happens
    /// before. What was due at `now` has been done; what could not be done is tried at the next
    /// tick, never in a circle.
    pub fn next_wake(&self, now: Duration) -> Duration {
        let dial = self.may_dial().then(|| self.neighbours.next_dial(now)).flatten();
        let look = self.choker.next_look();
        let trial = self.share.next_trial();
        let (round, idle) = (Some(self.choker.next_round()), Some(self.chosen_at + TICK));
        [self.news_at, self.idle_news_at, round, idle, look, trial, dial]
            .into_iter()
            .flatten()
            .filter(|at| *at > now)
            .fold(now + TICK, Duration::min)
    }

    /// Releases news and holds a round of the choker, if it is time.
    pub fn do_what_is_due(&mut self, now: Duration) {
        if self.idle_news_at.is_some_and(|at| now >= at) {
            self.release_news();
        } else if self.news_at.is_some_and(|at| now >= at) {
            self.news_at = None;
            if self.share.has_much_news() {
                self.release_news();
            } else {
                self.share.release_news(false);
            }
        }
        self.note_sent(now);
        let look = self.choker.is_look_due(now);
        let idle = now >= self.chosen_at + TICK;
        let chosen_at = self.chosen_at;
        let trial = self.share.next_trial().is_some_and(|at| at > chosen_at && now >= at);
        if look || idle || trial || now >= self.choker.next_round() {
            self.choose_slots(now);
        }
    }

    // ---- neighbours ----

    /// Addresses were named.
    pub fn learn(
        &mut self,
        now: Duration,
        source: Source,
        peers: impl IntoIterator<Item = KnownPeer>,
    ) {
        self.neighbours.learn(now, source, peers);
    }

    /// Whoever lacks something finds us by the tracker; a seeder that dials only doubles links.
    fn may_dial(&self) -> bool {
        !self.share.ledger.holds_all() || !self.has_tracker
    }

    /// Whom to dial now; each is to be reported by [`Self::add_link`],
    /// [`Self::dial_failed`] or [`Self::found_no_room`].
    pub fn dial(&mut self, now: Duration) -> Vec<SocketAddr> {
        if self.look_for_food(now) && self.neighbours.is_full() && self.may_dial() {
            self.make_room(now);
        }
        if !self.may_dial() {
            self.neighbours.dial_nobody();
            return Vec::new();
        }
        self.neighbours.dial(now, &mut self.rng)
    }

    /// With nothing to be had from anybody, one who is of no use makes room for another to be
    /// dialled: else those who connect to us could keep us from whoever has something.
    fn make_room(&mut self, now: Duration) {
        if self.neighbours.knows_more(now)
            && let Some(link) = self.giving_way(now).first().copied()
        {
            self.neighbours.give_up(link);
            self.close(link, CloseReason::Displaced);
        }
    }

    /// Notices when all whom we are linked to have had nothing for us for a while. True if that is
    /// so, once each [`TICK`]. Tells as often how many of the links that we made are with who only takes.
    fn look_for_food(&mut self, now: Duration) -> bool {
        let (looked, since) = self.larder;
        if now < looked + TICK {
            return false;
        }
        let ledger = &self.share.ledger;
        // What a peer says that it holds and does not send is not to be had.
        let has_some =
            |link: &Arc<Link>| !link.snubbed.load(Relaxed) && ledger.has_open_of(&link.holdings);
        let nothing = ledger.has_open() && !self.share.links().values().any(has_some);
        let since = nothing.then(|| since.unwrap_or(now));
        self.larder = (now, since);
        let hungry = since.is_some_and(|since| now >= since + HUNGRY) || self.is_starving(now);
        self.neighbours.set_hungry(now, hungry, &mut self.rng);
        let in_vain = |link: &&Arc<Link>| link.initiated && self.choker.only_takes(link.id);
        let made_in_vain = self.share.links().values().filter(in_vain).count();
        self.neighbours.set_made_in_vain(made_in_vain);
        hungry
    }

    /// Notices when nothing has come for long, though we want something: those we are linked to
    /// may all be such as never give what they say they hold.
    fn is_starving(&mut self, now: Duration) -> bool {
        let got = self.share.counters.downloaded.load(Relaxed);
        let is_content = self.share.ledger.is_complete() || self.share.is_paused();
        let goes_on = |(before, _): &(u64, Duration)| got == *before && !is_content;
        let since = self.meal.filter(goes_on).map_or(now, |(_, since)| since);
        self.meal = Some((got, since));
        now >= since + STARVING
    }

    /// A dial came to nothing.
    pub fn dial_failed(&mut self, now: Duration, addr: SocketAddr) {
        self.neighbours.dial_failed(now, addr, &mut self.rng);
    }

    /// Whom we dialled has no place for us.
    pub fn found_no_room(&mut self, now: Duration, addr: SocketAddr) {
        self.neighbours.found_no_room(now, addr, &mut self.rng);
    }

    /// A peer that is not linked is to be banned.
    pub fn ban_peer(&mut self, id: PeerId, addr: SocketAddr) {
        self.neighbours.ban_peer(id, addr);
    }

    /// Whether this peer is banned.
    pub fn bans(&self, id: PeerId) -> bool {
        self.neighbours.is_banned(id)
    }

    /// Whether a peer that joins is answered at once: to be told in REGISTRO.
    pub fn has_free_slot(&self) -> bool {
        self.choker.has_free_slot()
    }

    /// Rounds by how many slots were moved in them: [`Choker::moves`].
    pub fn moves(&self) -> MovesByRound {
        self.choker.moves()
    }

    /// How many regular and optimistic slots there are at the moment.
    pub fn slots(&self) -> (usize, usize) {
        self.choker.slots()
    }

    /// A peer that connected has introduced itself: the link that may come of it, and the
    /// REGISTRO to answer with.
    pub fn accepted(
        &mut self,
        introduction: &Introduction,
        agreed: Agreed,
        addr: SocketAddr,
    ) -> (NewLink, Register) {
        let unchoked = !agreed.complete && self.has_free_slot();
        let key = LaneKey::random(&mut self.rng);
        let mut answer = introduction.register(unchoked);
        answer.key = Some(key);
        let new = NewLink {
            agreed,
            addr,
            initiated: false,
            distance: None,
            key,
            told: Told::by(&answer),
        };
        (new, answer)
    }

    /// A peer that we dialled has answered: the link that may come of it. `distance` is how long
    /// the answer to our REGISTRO took.
    pub fn established(
        &mut self,
        told: Told,
        mut agreed: Agreed,
        addr: SocketAddr,
        distance: Duration,
    ) -> NewLink {
        let key = agreed.key.unwrap_or_else(|| {
            // Without a key from the peer no lane can join: the link keeps to one connection.
            agreed.lanes_max = 1;
            LaneKey::random(&mut self.rng)
        });
        NewLink { agreed, addr, initiated: true, distance: Some(distance), key, told }
    }

    // ---- links ----

    /// A handshake is through: the link, if it may be one. Its first lane is to be started.
    ///
    /// # Errors
    /// Why the connection is to be closed instead.
    pub fn add_link(&mut self, now: Duration, new: NewLink) -> Result<Arc<Link>, Refusal> {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        let greeting = new.greeting(id);
        let room = self.neighbours.needs_room_for(&greeting);
        let giving_way = if room { self.giving_way(now) } else { Vec::new() };
        match self.neighbours.greeted(now, greeting, &giving_way, &mut self.rng) {
            Verdict::Keep => {}
            Verdict::Replace(old) => self.close(old, CloseReason::Gone),
            Verdict::Displace(old) => self.close(old, CloseReason::Displaced),
            Verdict::Refuse(reason) => return Err(reason),
        }
        let link = Arc::new(self.link(now, id, new));
        self.share.note_come(now, id, link.past);
        self.share.ledger.add_holder(&link.holdings);
        self.share.links().insert(id, Arc::clone(&link));
        self.share.counters.connections.fetch_add(1, Relaxed);
        self.choose_slots(now);
        // What REGISTRO promised and what the choker decided may differ; the lane tells.
        link.choking.store(!self.choker.is_unchoked(id), Relaxed);
        Ok(link)
    }

    fn close(&self, link: LinkId, reason: CloseReason) {
        if let Some(link) = self.share.links().get(&link) {
            link.close(reason);
        }
    }

    /// The links that may be given up for another, the most useless first.
    fn giving_way(&self, now: Duration) -> Vec<LinkId> {
        let links = self.share.links();
        let open = links.values().filter(|link| link.closing().is_none());
        giving_way(now, open.map(|link| self.occupant(now, link)))
    }

    fn occupant(&self, now: Duration, link: &Link) -> Occupant {
        Occupant {
            id: link.id,
            moved_at: link.moved_at(),
            was_of_use: link.bytes_to() + link.bytes_from() > 0,
            has_for_us: !link.snubbed.load(Relaxed) && self.share.ledger.wants_any(&link.holdings),
            waits: link.is_audience() && !self.choker.lets_slots_pass(now, link.id),
        }
    }

    fn link(&self, now: Duration, id: LinkId, new: NewLink) -> Link {
        let pieces = self.share.geometry.piece_count();
        let complete = new.agreed.complete;
        let (peer, ip) = (new.agreed.peer, new.addr.ip());
        Link {
            id,
            addr: new.addr,
            initiated: new.initiated,
            distance: new.distance,
            past: self.pasts.of(peer, ip),
            told_complete: new.told.complete,
            told_unchoked: new.told.unchoked,
            made: now,
            tried_us: AtomicU64::new(self.share.waits_since(ip, peer, now).as_micros() as u64),
            begun_us: AtomicU64::default(),
            key: new.key,
            holdings: if complete { Holdings::full(pieces) } else { Holdings::empty(pieces) },
            choking: AtomicBool::new(!new.told.unchoked),
            times_choked: AtomicU32::new(0),
            choked: AtomicBool::new(!new.agreed.unchoked),
            chokes: AtomicU32::new(0),
            interested: AtomicBool::new(!complete),
            declined: AtomicBool::new(false),
            suggested: Mutex::default(),
            news_due: AtomicU32::default(),
            guiding: Guiding::default(),
            came_complete: complete,
            snubbed: AtomicBool::new(self.share.was_let_down_by(&peer)),
            suspect: Mutex::new(None),
            has_earned: AtomicBool::new(self.share.take_earned(ip, peer)),
            waits_for_us: AtomicBool::new(false),
            was_asked: AtomicBool::new(false),
            forgiven: AtomicU32::new(0),
            repeats: Mutex::default(),
            verified_bytes: AtomicU64::new(0),
            uploaded_bytes: AtomicU64::new(0),
            took_us: AtomicU64::new(now.as_micros() as u64),
            gave_us: AtomicU64::new(now.as_micros() as u64),
            last_heard_us: AtomicU64::new(now.as_micros() as u64),
            // The first lane is started by the caller; each counts from before it starts.
            lane_count: AtomicU8::new(1),
            lanes_asked: AtomicU8::new(1),
            times_cut_off: AtomicU32::new(0),
            lanes_amid_piece: AtomicU8::new(0),
            lanes_sending: AtomicU8::new(0),
            first: OnceLock::new(),
            round_trip_us: AtomicU64::new(0),
            closing: OnceLock::new(),
            lanes: Mutex::default(),
            agreed: new.agreed,
        }
    }

    /// A link's first lane has ended. Returns the link, unless it was reported before.
    pub fn remove_link(&mut self, now: Duration, id: LinkId, ban: bool) -> Option<Arc<Link>> {
        let link = self.share.links().remove(&id)?;
        self.share.ledger.remove_holder(&link.holdings);
        self.remember(&link);
        self.share.note_worth(&link, now);
        if ban {
            self.share.forget_prefixes_of(&link);
            self.neighbours.ban(id);
        }
        let was_held_back = link.waits_for_us.load(Relaxed) && !link.was_asked.load(Relaxed);
        let ending = Ending { brought_at: link.gave_at(), was_held_back };
        self.neighbours.closed(now, id, ending, &mut self.rng);
        self.choose_slots(now);
        self.share.wake_all();
        Some(link)
    }

    /// What passed over a link that is over counts when its peer comes again.
    fn remember(&mut self, link: &Link) {
        let (passed_on, kept) = self.share.note_gone(link.id);
        let past = Past {
            given: link.past.given + link.bytes_from(),
            taken: link.past.taken + link.bytes_to(),
            passed_on,
            kept,
            is_suspect: link.past.is_suspect,
        };
        self.pasts.note(link.agreed.peer, link.addr.ip(), past);
    }

    // ---- slots and news ----

    /// Decides whom to answer.
    pub fn choose_slots(&mut self, now: Duration) {
        self.chosen_at = now;
        let complete = self.share.ledger.is_complete();
        let rarity = self.choker.looks_at_rarity(complete);
        // First and by itself: so little for each link is read from memory side by side for many, and the
        // views find it in the cache.
        let audience = self.share.links().values().filter(|link| link.is_audience()).count();
        if self.share.note_audience(audience as u32) {
            // Whoever is alone now may choose.
            self.share.links().values().for_each(|link| link.wake_first());
        }
        self.note_sent(now);
        let changes = {
            let links = self.share.links();
            let views = links.values().map(|link| view(&self.share, now, link, rarity));
            self.choker.tick(now, complete, views, &mut self.rng)
        };
        self.share.heed_newcomers(self.choker.may_heed_newcomers());
        for (id, unchoke) in changes {
            let Some(link) = self.share.links().get(&id).cloned() else { continue };
            link.choking.store(!unchoke, Relaxed);
            if !unchoke {
                link.times_choked.fetch_add(1, Release);
                self.share.take_back(id);
            }
            link.wake();
        }
        for id in self.choker.cut_off() {
            let Some(link) = self.share.links().get(&id).cloned() else { continue };
            link.times_cut_off.fetch_add(1, Release);
            link.wake();
        }
    }

    fn note_sent(&mut self, now: Duration) {
        let counters = &self.share.counters;
        self.choker.note_sent(Sent {
            handed_over: counters.handed_over.load(Relaxed),
            uploaded: counters.uploaded.load(Relaxed),
            busy: self.share.busy.sum(now),
        });
    }

    /// A piece was verified: peers hear of it soon, with what comes right after.
    pub fn schedule_news(&mut self, now: Duration) {
        let links = self.share.links().len() as u32;
        let delay = (NEWS_DELAY + NEWS_DELAY_EACH * links).min(NEWS_DELAY_MAX);
        self.news_at.get_or_insert(now + delay);
        let idle_delay = NEWS_DELAY_IDLE + NEWS_DELAY_IDLE_EACH * links.saturating_sub(FEW_LINKS);
        self.idle_news_at.get_or_insert(now + idle_delay.min(NEWS_DELAY_IDLE_MAX));
    }

    /// Lets all peers hear what we hold by now.
    pub fn release_news(&mut self) {
        self.news_at = None;
        self.idle_news_at = None;
        self.share.release_news(true);
    }
}

/// What the choker looks at of a link.
fn view<H>(share: &Share<H>, now: Duration, link: &Link, rarity: bool) -> PeerView {
    let verified_from = link.verified_bytes.load(Relaxed);
    let uploaded_to = link.uploaded_bytes.load(Relaxed);
    // What these lie beside is not looked at else, and most often a peer gives.
    let gives = verified_from > uploaded_to / TAKER_PART;
    let has_sent = gives || link.gave_at() > link.made;
    let distance = if gives { None } else { link.known_distance() };
    PeerView {
        id: link.id,
        interested: link.is_audience(),
        verified_from,
        has_sent,
        distance,
        uploaded_to,
        held: link.holdings.len(),
        rare_pieces: if rarity { share.ledger.rare_held(&link.holdings) } else { 0 },
        amid_piece: link.is_amid_piece(now),
        in_hand: link.lanes_sending.load(Relaxed) > 0,
        took_at: Duration::from_micros(link.took_us.load(Relaxed)),
        snubbed: link.snubbed.load(Relaxed),
        answers_us: !link.choked.load(Relaxed) && !link.snubbed.load(Relaxed),
        past: link.past,
        passes_on: share.standing(now, link.id),
    }
}

#[cfg(test)]
mod tests {
    use super::super::prefixes::Origin;
    use super::super::testing::{Setting, Woken};
    use super::*;
    use crate::swarm::{Caps, ChokePolicy, PickOrder, Slots};
    use fastrand::Rng;

    const FEW: Caps = Caps {
        links_max: 8,
        links_aim: 4,
        links_made: 0,
        links_min: 2,
        links_first: 4,
        dials_max: 1,
    };
    const ONE_SLOT: Slots = Slots::Fixed { regular: 1, optimistic: 1 };

    /// Lets time pass up to then; whoever `takes` takes something all the time.
    fn pass(setting: &mut Setting, from: u64, to: u64, takes: &[&Arc<Link>]) {
        for second in from..to {
            let now = Duration::from_secs(second);
            takes.iter().for_each(|link| link.took(now));
            setting.manager.do_what_is_due(now);
        }
    }

    #[test]
    fn whoever_only_keeps_a_place_gives_it_to_a_newcomer() {
        let mut setting = Setting::new(true, FEW, ONE_SLOT);
        let idle: Vec<_> =
            (2..10).map(|number| setting.join(Duration::ZERO, number, false).unwrap()).collect();
        pass(&mut setting, 0, 4, &[]);
        let too_soon = setting.join(Duration::from_secs(4), 10, false);
        assert_eq!(too_soon.err(), Some(Refusal::Full));
        pass(&mut setting, 4, 40, &[]);
        let newcomer = setting.join(Duration::from_secs(40), 10, false);
        assert!(newcomer.is_ok());
        let gone = idle.iter().filter(|link| link.closing() == Some(&CloseReason::Displaced));
        assert_eq!(gone.count(), 1);
    }

    #[test]
    fn the_more_links_the_longer_news_waits_where_nothing_goes_but_not_until_others_are_hungry() {
        let waits = |links: u64| {
            let mut setting = Setting::new(true, Caps::default(), Slots::Auto);
            (2..2 + links).for_each(|n| drop(setting.join(Duration::ZERO, n, false).unwrap()));
            setting.manager.schedule_news(Duration::ZERO);
            setting.manager.idle_news_at.expect("it is planned")
        };
        let (few, some, many, most) = (waits(2), waits(20), waits(30), waits(150));
        assert_eq!(few, some);
        assert!(some < many && many < most && most <= HUNGRY, "{some:?}, {many:?}, {most:?}");
    }

    #[test]
    fn who_has_everything_and_dials_nobody_any_more_keeps_no_places_for_dials() {
        let caps = Caps { links_made: 2, ..FEW };
        let mut setting = Setting::new(false, caps, ONE_SLOT);
        let neighbours = Neighbours::new(PeerId::numbered(1), caps);
        let (choker, rng) =
            (Choker::new(ChokePolicy::default(), ONE_SLOT, 16_384, 1), Rng::with_seed(1));
        setting.manager = Manager::new(Arc::clone(&setting.share), choker, neighbours, true, rng);
        let other = KnownPeer { id: None, addr: ([11, 0, 0, 1], 1).into() };
        setting.manager.learn(Duration::ZERO, Source::Ticket, [other]);
        assert_eq!(setting.manager.dial(Duration::ZERO).len(), 1);
        (2..8).for_each(|number| drop(setting.join(Duration::ZERO, number, false).unwrap()));
        assert_eq!(setting.join(Duration::ZERO, 8, false).err(), Some(Refusal::Full));
        setting.manager.dial_failed(Duration::ZERO, other.addr);
        let ledger = &setting.share.ledger;
        let (seeder, lane, mut rng) = (Holdings::full(64), ledger.new_lane(), Rng::with_seed(1));
        while let Some(piece) = ledger.claim(&seeder, lane, PickOrder::Random, &mut rng) {
            assert!(ledger.verified(piece, lane));
        }
        let later = Duration::from_secs(30);
        assert!(setting.manager.dial(later).is_empty());
        (8..10).for_each(|number| drop(setting.join(later, number, false).unwrap()));
    }

    #[test]
    fn how_far_a_peer_is_counts_until_it_gives() {
        let mut setting = Setting::new(false, FEW, ONE_SLOT);
        let link = setting.join(Duration::from_secs(1), 2, false).unwrap();
        let seen = || {
            let view = view(&setting.share, Duration::from_secs(3), &link, false);
            (view.has_sent, view.distance)
        };
        assert_eq!(seen(), (false, None), "it has dialled us");
        link.round_trip_us.store(300_000, Relaxed);
        assert_eq!(seen(), (false, Some(Duration::from_millis(300))));
        link.gave(Duration::from_secs(2));
        assert!(seen().0, "of a piece that is not all here");
        link.verified_bytes.store(16_384, Relaxed);
        link.uploaded_bytes.store(16_384 * 11, Relaxed);
        assert_eq!(seen(), (true, Some(Duration::from_millis(300))), "it has given too little");
        link.uploaded_bytes.store(16_384 * 9, Relaxed);
        assert_eq!(seen(), (true, None));
    }

    #[test]
    fn another_is_dialled_in_place_of_who_only_takes_if_we_made_that_link_and_while_it_does() {
        let dials = |is_ours: bool, gives: bool| {
            let caps = Caps { links_max: 100, links_aim: 1, links_made: 1, ..FEW };
            let mut setting = Setting::new(false, caps, ONE_SLOT);
            let addr = |number: u8| SocketAddr::from(([11, 0, 0, number], 1));
            let known = (1..9).map(|number| KnownPeer { id: None, addr: addr(number) });
            setting.manager.learn(Duration::ZERO, Source::Ticket, known);
            let dialled = setting.manager.dial(Duration::ZERO);
            assert_eq!(dialled.len(), 1);
            let ours = setting.reach(Duration::ZERO, 2, dialled[0]);
            let theirs = setting.join(Duration::ZERO, 3, false).unwrap();
            let taker = if is_ours { &ours } else { &theirs };
            taker.uploaded_bytes.store(1 << 20, Relaxed);
            pass(&mut setting, 1, 6, &[taker]);
            taker.verified_bytes.store(if gives { 1 << 20 } else { 0 }, Relaxed);
            pass(&mut setting, 6, 9, &[taker]);
            setting.manager.dial(Duration::from_secs(9)).len()
        };
        assert_eq!(dials(true, false), 1);
        assert_eq!(dials(false, false), 0, "whoever connects to us is not our choice");
        assert_eq!(dials(true, true), 0, "it gives by now");
    }

    #[test]
    fn a_newcomer_is_in_within_seconds_where_nobody_who_is_there_has_asked_for_anything() {
        let caps = Caps { links_max: 100, ..Caps::default() };
        let mut setting = Setting::new(true, caps, Slots::Auto);
        (2..102).for_each(|number| drop(setting.join(Duration::ZERO, number, false).unwrap()));
        pass(&mut setting, 0, 6, &[]);
        let now = Duration::from_secs(6);
        let newcomer = setting.join(now, 200, false).unwrap();
        pass(&mut setting, 6, 10, &[&newcomer]);
        assert!(!newcomer.is_choking(), "answered as well");
        // And more who come do not push it out.
        (300..310).for_each(|number| drop(setting.join(Duration::from_secs(10), number, false)));
        assert_eq!(newcomer.closing(), None);
    }

    #[test]
    fn who_only_takes_is_cut_off_when_it_loses_its_slot_in_the_middle_of_a_piece() {
        let slot = Slots::Fixed { regular: 1, optimistic: 0 };
        let mut setting = Setting::new(false, FEW, slot);
        let links = [2, 3].map(|number| setting.join(Duration::ZERO, number, false).unwrap());
        let piece_len = setting.share.geometry.piece_size().bytes();
        let taker = links.iter().find(|link| setting.manager.choker.is_unchoked(link.id));
        let taker = taker.expect("one is answered");
        taker.uploaded_bytes.store(piece_len.into(), Relaxed);
        taker.lanes_amid_piece.store(1, Relaxed);
        setting.manager.choose_slots(Duration::ZERO);
        assert_eq!(taker.times_cut_off.load(Relaxed), 0);
        taker.interested.store(false, Relaxed);
        let now = Duration::from_secs(1);
        taker.took(now);
        setting.manager.choose_slots(now);
        assert!(taker.is_choking());
        assert_eq!(taker.times_cut_off.load(Relaxed), 1);
    }

    /// More peers than there are places do nothing but keep one, and knock again, as somebody else, as soon as they
    /// are turned away or lose it. When a newcomer that tries once a second has a place.
    fn let_in_beside(attackers: u64, patience: Duration) -> Option<Duration> {
        const KNOCKS_EVERY_MS: u64 = 100;
        let caps = Caps { links_max: 100, ..Caps::default() };
        let mut setting = Setting::new(true, caps, Slots::Auto);
        let mut links: Vec<Option<Arc<Link>>> = vec![None; attackers as usize];
        let mut next_number = 1000;
        for millis in (0..patience.as_millis() as u64).step_by(KNOCKS_EVERY_MS as usize) {
            let now = Duration::from_millis(millis);
            for link in &mut links {
                if let Some(gone) = link.take_if(|link| link.closing().is_some()) {
                    setting.manager.remove_link(now, gone.id, false);
                }
                if link.is_none() {
                    next_number += 1;
                    *link = setting.join(now, next_number, false).ok();
                }
            }
            setting.manager.do_what_is_due(now);
            if millis % 1000 == 500 && setting.join(now, 2, false).is_ok() {
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn who_stays_for_its_turn_has_a_place_though_more_than_there_are_knock_all_the_time() {
        let found = let_in_beside(130, Duration::from_secs(60));
        assert!(found.is_some_and(|after| after <= Duration::from_secs(12)), "{found:?}");
    }

    #[test]
    fn free_places_are_not_kept_empty_by_names_that_knock_once() {
        let caps = Caps { links_max: 100, ..Caps::default() };
        let mut setting = Setting::new(true, caps, Slots::Auto);
        let join = |number| setting.join(Duration::ZERO, number, false).unwrap();
        let all: Vec<_> = (100..200).map(join).collect();
        for number in 1000..2100 {
            assert!(setting.join(Duration::ZERO, number, false).is_err());
        }
        for link in all {
            setting.manager.remove_link(Duration::ZERO, link.id, false);
        }
        // And more come all the time.
        for millis in 0..500 {
            let now = Duration::from_millis(millis);
            if let Ok(link) = setting.join(now, 10_000 + millis, false) {
                setting.manager.remove_link(now, link.id, false);
            }
        }
        assert!(setting.join(Duration::from_millis(500), 2, false).is_ok());
    }

    #[test]
    fn beside_those_for_whom_a_place_is_kept_a_newcomer_has_that_of_who_is_of_no_use() {
        let mut setting = Setting::new(true, FEW, Slots::Auto);
        let join = |number| setting.join(Duration::ZERO, number, false).unwrap();
        let links: Vec<_> = (2..10).map(join).collect();
        pass(&mut setting, 0, 4, &[]);
        assert!(setting.join(Duration::from_secs(4), 10, false).is_err());
        setting.manager.remove_link(Duration::from_secs(4), links[0].id, false);
        pass(&mut setting, 4, 6, &[]);
        assert!(
            setting.join(Duration::from_secs(6), 11, false).is_ok(),
            "one is free, all others idle"
        );
    }

    #[test]
    fn nobody_loses_a_place_for_waiting_long_for_a_slot() {
        let mut setting = Setting::new(true, FEW, ONE_SLOT);
        let links: Vec<_> =
            (2..10).map(|number| setting.join(Duration::ZERO, number, false).unwrap()).collect();
        // Whoever is answered takes something; the others wait, for longer than any link may idle.
        for second in 0..300 {
            let answered: Vec<_> = links.iter().filter(|link| !link.is_choking()).collect();
            pass(&mut setting, second, second + 1, &answered);
        }
        let late = setting.join(Duration::from_secs(300), 10, false);
        assert_eq!(late.err(), Some(Refusal::Full));
    }

    /// So many peers have joined a seeder, and it has begun to send each a piece, of which little is out.
    fn seeder_with(count: u64) -> (Setting, Vec<Arc<Link>>) {
        let mut setting = Setting::new(true, Caps::default(), Slots::Auto);
        let join = |number| setting.join(Duration::ZERO, number, false).unwrap();
        let links: Vec<_> = (2..2 + count).map(join).collect();
        for link in &links {
            link.uploaded_bytes.store(100, Relaxed);
            link.lanes_sending.store(1, Relaxed);
        }
        (setting, links)
    }

    #[test]
    fn those_who_take_nothing_of_what_they_ask_for_keep_nobody_waiting() {
        let (mut setting, deaf) = seeder_with(95);
        pass(&mut setting, 0, 7, &[]);
        assert!(deaf.iter().all(|link| !link.is_choking()), "slots that cannot send are not used");
        let honest = setting.join(Duration::from_secs(7), 100, false).unwrap();
        assert!(!honest.is_choking());
    }

    #[test]
    fn those_who_take_a_little_now_and_then_of_a_link_that_carried_much_keep_nobody_waiting() {
        let (mut setting, deaf) = seeder_with(95);
        let deaf: Vec<_> = deaf.iter().collect();
        setting.share.counters.handed_over.fetch_add(10_000_000, Relaxed);
        pass(&mut setting, 0, 10, &deaf);
        assert!(deaf.iter().all(|link| !link.is_choking()));
    }

    #[test]
    fn those_who_have_nothing_to_ask_for_at_the_moment_make_no_more_slots() {
        let (mut setting, links) = seeder_with(95);
        links.iter().for_each(|link| link.lanes_sending.store(0, Relaxed));
        for second in 0..7 {
            pass(&mut setting, second, second + 1, &[]);
            assert!(links.iter().filter(|link| !link.is_choking()).count() <= 5);
        }
    }

    #[test]
    fn who_takes_little_by_little_keeps_its_slot_beside_those_who_take_nothing() {
        let (mut setting, links) = seeder_with(196);
        // Until the first round, which gives others a turn.
        for second in 0..9 {
            pass(&mut setting, second, second + 1, &[&links[0]]);
        }
        assert_eq!(links[0].times_choked.load(Relaxed), 0);
        assert!(links.iter().any(|link| link.times_choked.load(Relaxed) > 0), "others wait");
    }

    #[test]
    fn where_nothing_goes_news_waits_for_a_second_unless_it_is_much_of_the_share() {
        let told_after = |count: u32, wait: Duration| {
            let mut setting = Setting::new(false, FEW, ONE_SLOT);
            let seeder = setting.join(Duration::ZERO, 2, true).unwrap();
            let idle = setting.join(Duration::ZERO, 3, false).unwrap();
            idle.choking.store(true, Relaxed);
            idle.choked.store(true, Relaxed);
            let Setting { share, manager, .. } = &mut setting;
            for number in 0..count {
                let piece = share.geometry.piece(number).unwrap();
                let lane = share.ledger.new_lane();
                assert!(share.ledger.claim_this(&seeder.holdings, lane, piece));
                share.keep(&seeder, piece, lane, &Origin::Alone);
            }
            manager.schedule_news(Duration::ZERO);
            manager.do_what_is_due(wait);
            share.released(&idle)
        };
        // Of 64 pieces.
        assert_eq!(told_after(3, NEWS_DELAY * 2), 0);
        assert_eq!(told_after(3, NEWS_DELAY_IDLE), 3);
        assert_eq!(told_after(4, NEWS_DELAY * 2), 4);
    }

    #[test]
    fn whose_links_are_lost_that_we_asked_for_nothing_is_dialled_again_soon_however_often() {
        let dials = |was_asked| {
            let mut setting = Setting::new(false, Caps::default(), Slots::default());
            for _ in 0..6 {
                let link = setting.join(Duration::ZERO, 2, true).unwrap();
                link.was_asked.store(was_asked, Relaxed);
                link.waits_for_us.store(true, Relaxed);
                setting.manager.remove_link(Duration::ZERO, link.id, false);
            }
            setting.manager.dial(Duration::from_secs(1)).len()
        };
        assert_eq!(dials(false), 1);
        assert_eq!(dials(true), 0, "which sent nothing of what it was asked for");
    }

    #[test]
    fn who_may_deal_pieces_out_hears_soon_who_holds_them_though_nothing_goes_there() {
        let mut setting = Setting::new(false, FEW, ONE_SLOT);
        let seeder = setting.join(Duration::ZERO, 2, true).unwrap();
        seeder.choking.store(true, Relaxed);
        seeder.choked.store(true, Relaxed);
        let woken = Arc::new(Woken::default());
        let waker = std::task::Waker::from(Arc::clone(&woken));
        assert!(seeder.first.set(waker.into()).is_ok());
        let Setting { share, manager, .. } = &mut setting;
        let (piece, lane) = (share.geometry.piece(0).unwrap(), share.ledger.new_lane());
        assert!(share.ledger.claim_this(&seeder.holdings, lane, piece));
        share.keep(&seeder, piece, lane, &Origin::Alone);
        manager.schedule_news(Duration::ZERO);
        let before = woken.0.load(Relaxed);
        manager.do_what_is_due(NEWS_DELAY * 2);
        assert_eq!((share.released(&seeder), woken.0.load(Relaxed) - before), (1, 1));
    }

    #[test]
    fn who_begins_its_first_piece_with_a_seeder_makes_way_once_it_is_out() {
        let slots = Slots::Fixed { regular: 4, optimistic: 1 };
        let mut setting = Setting::new(true, Caps::default(), slots);
        let join = |number| setting.join(Duration::ZERO, number, false).unwrap();
        let links: Vec<_> = (2..12).map(join).collect();
        let is_answered = |link: &&Arc<Link>| !link.is_choking();
        let first: Vec<_> = links.iter().filter(is_answered).collect();
        let now = Duration::from_secs(1);
        setting.manager.do_what_is_due(now);
        for (number, link) in (0..).zip(&first) {
            link.begins_piece(now);
            link.lanes_amid_piece.store(1, Relaxed);
            setting.share.note_begun(now, link.id, setting.share.geometry.piece(number).unwrap());
        }
        let trial = setting.share.next_trial().unwrap();
        assert!(trial > now && setting.manager.next_wake(now) <= trial);
        setting.manager.do_what_is_due(trial);
        assert_eq!(
            links.iter().filter(is_answered).count(),
            0,
            "what was begun is sent to its end"
        );
        first.iter().for_each(|link| link.lanes_amid_piece.store(0, Relaxed));
        setting.manager.choose_slots(trial);
        assert_eq!(links.iter().filter(is_answered).count(), 5);
        assert!(first.iter().all(|link| link.is_choking()));
    }

    #[test]
    fn those_who_begin_a_piece_of_a_seeder_and_take_nothing_keep_nobody_waiting_nor_their_place() {
        let mut setting = Setting::new(true, Caps::default(), Slots::Auto);
        let deaf: Vec<_> =
            (2..62).map(|number| setting.join(Duration::ZERO, number, false).unwrap()).collect();
        let first: Vec<_> = deaf.iter().filter(|link| !link.is_choking()).collect();
        for now in (0..7000).step_by(100).map(Duration::from_millis) {
            setting.manager.do_what_is_due(now);
            for (number, link) in (0..).zip(&deaf).filter(|(_, link)| !link.is_choking()) {
                if link.lanes_amid_piece.swap(1, Relaxed) == 0 {
                    link.lanes_sending.store(1, Relaxed);
                    link.begins_piece(now);
                    let piece = setting.share.geometry.piece(number).unwrap();
                    setting.share.note_begun(now, link.id, piece);
                }
            }
        }
        let now = Duration::from_secs(7);
        assert!(deaf.iter().all(|link| link.lanes_amid_piece.load(Relaxed) > 0), "all had a turn");
        let gives_way = setting.manager.giving_way(now);
        assert!(first.iter().all(|link| gives_way.contains(&link.id)));
        assert!(!setting.join(now, 100, false).unwrap().is_choking());
    }

    #[test]
    fn the_first_piece_that_a_peer_passes_on_has_it_judged_at_once_and_no_other_has() {
        let mut setting = Setting::new(true, FEW, Slots::Auto);
        let (tried, other) =
            [2, 3].map(|number| setting.join(Duration::ZERO, number, false)).into();
        let (tried, other) = (tried.unwrap(), other.unwrap());
        for number in 0..2 {
            let piece = setting.share.geometry.piece(number).unwrap();
            setting.share.note_begun(Duration::ZERO, tried.id, piece);
            let before = setting.slots_changed.load(Relaxed);
            setting.share.note_held(Duration::ZERO, other.id, number);
            let judged = setting.slots_changed.load(Relaxed) - before;
            assert_eq!(judged, u32::from(number == 0));
        }
    }

    #[test]
    fn who_comes_or_goes_where_no_slot_may_change_hands_is_looked_at_a_second_later() {
        let mut setting = Setting::new(false, FEW, ONE_SLOT);
        let [first, second] = [2, 3].map(|number| setting.join(Duration::ZERO, number, false));
        let (first, second) = (first.unwrap(), second.unwrap());
        for link in [&first, &second] {
            link.verified_bytes.store(1 << 20, Relaxed);
        }
        let waits = setting.join(Duration::ZERO, 4, false).unwrap();
        assert!(!first.is_choking() && !second.is_choking() && waits.is_choking());
        let tell = |link: &Arc<Link>, interested| {
            let before = setting.slots_changed.load(Relaxed);
            link.interested.store(interested, Relaxed);
            setting.share.note_interest(link);
            setting.slots_changed.load(Relaxed) - before
        };
        assert_eq!([tell(&waits, false), tell(&waits, true)], [0, 0]);
        assert_eq!(tell(&first, false), 1, "it leaves a slot");
        setting.manager.do_what_is_due(TICK);
        assert!(!waits.is_choking() && first.is_choking(), "nobody had to be told");
    }

    #[test]
    fn a_seeder_has_no_use_for_those_who_hold_everything_and_want_nothing() {
        let mut setting = Setting::new(true, FEW, ONE_SLOT);
        for number in 2..10 {
            setting.join(Duration::ZERO, number, true).unwrap();
        }
        assert!(setting.join(Duration::from_secs(60), 10, false).is_ok());
    }
}
