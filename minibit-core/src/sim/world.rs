//! Carries out what everybody decides, event by event.
//!
//! Invariant: after every event all who were woken have looked around before time goes on.

use std::ops::BitXor;
use std::sync::Arc;
use std::time::Duration;

use super::check::Check;
use super::mail::Tracker;
use super::member::{Common, Member, addr_of, at, number_of};
use super::pipe::{Item, Pipe};
use super::queue::{Event, Queue};
use super::ready::{Ready, ReadyList};
use super::report::{Report, Timeline};
use super::scenario::{Role, Scenario, Start};
use super::transit::Transit;
use super::uplink::Flow;
use crate::content::{FileEntry, HashBook, Manifest, merge_pieces};
use crate::swarm::{KnownPeer, LinkId, Source};
use crate::trade::Told;
use crate::types::{Digest, Geometry, PieceSet};
use crate::wire::{Message, Register};

use super::lanes::{Looks, SimLane};

/// For so many events or lanes at a time what they will touch is fetched from memory.
const AHEAD: usize = 16;

/// A swarm in which no honest leecher has received anything for so long has stopped; longer than peers
/// wait before they dial again whom they could not reach.
const STOPPED_AFTER: Duration = Duration::from_secs(1200);

/// A swarm in virtual time.
#[derive(Debug)]
pub struct World {
    pub(super) scenario: Scenario,
    pub(super) common: Common,
    pub(super) now: u64,
    pub(super) queue: Queue,
    pub(super) ready: Arc<ReadyList>,
    /// Those of the list whose turn it is; empty between steps.
    woken: Vec<Ready>,
    pub(super) members: Vec<Member>,
    pub(super) lanes: Vec<Option<SimLane>>,
    pub(super) free_lanes: Vec<u32>,
    pub(super) pipes: Vec<Option<Pipe>>,
    pub(super) free_pipes: Vec<u32>,
    pub(super) transit: Transit,
    pub(super) tracker: Tracker,
    pub(super) rng: fastrand::Rng,
    pub(super) split: bool,
    pub(super) timeline: Timeline,
    pub(super) check: Option<Check>,
    /// Of each piece, honest leechers that are there and hold it.
    pub(super) copies: Vec<u32>,
    /// Pieces that are with some honest leecher, verified.
    pub(super) out: PieceSet,
    /// What the seeders had sent when the last piece was with some honest leecher.
    pub(super) first_copy: Option<u64>,
    pub(super) wanting: u32,
    /// What honest leechers had received when it was last looked at, and since when it is no more.
    received: (u64, u64),
    /// See [`Self::end`].
    ends_at: u64,
    pub(super) events: u64,
    hash: u64,
}

/// Simulates a swarm until every honest leecher is done, nothing comes any more, or the scenario's time is over.
pub fn run(scenario: Scenario) -> Report {
    let mut world = World::new(scenario);
    while !world.is_done() && world.step() {}
    world.report()
}

/// A share whose hashes are made up: no byte of it is ever looked at.
fn made_up_share(scenario: &Scenario) -> Common {
    let hashes: Vec<Digest> =
        (0..scenario.pieces).map(|n| Digest(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect();
    let root = merge_pieces(&hashes);
    let len = u64::from(scenario.pieces) * u64::from(scenario.piece_size.bytes());
    let file = FileEntry { path: vec!["film.mp4".to_owned()], len, root };
    let manifest = Manifest::new("film.mp4".to_owned(), true, scenario.piece_size, vec![file])
        .expect("a scenario's share is within the limits of shares");
    let book = HashBook::new(&manifest);
    if let Some(file) = manifest.geometry().file(0) {
        // One piece needs no page: its hash is the root.
        let _ = book.insert_file(file, hashes);
    }
    Common {
        share_id: manifest.share_id(),
        geometry: Arc::clone(manifest.geometry()),
        hashes: Arc::new(book),
    }
}

impl World {
    /// A swarm that has yet to begin.
    ///
    /// # Panics
    /// If the scenario has no piece, or more of them than a share may have.
    pub fn new(scenario: Scenario) -> Self {
        let common = made_up_share(&scenario);
        let mut rng = fastrand::Rng::with_seed(scenario.seed);
        let count = scenario.seeders + scenario.leechers;
        let mut members: Vec<Member> =
            (0..count).map(|number| Member::new(number, &scenario)).collect();
        deal_first_pieces(&scenario, &common.geometry, &mut members, &mut rng);
        let out = held_by_honest_leechers(&common.geometry, &members);
        let mut world = Self {
            now: 0,
            queue: Queue::new(),
            ready: Arc::default(),
            woken: Vec::new(),
            lanes: Vec::new(),
            free_lanes: Vec::new(),
            pipes: Vec::new(),
            free_pipes: Vec::new(),
            transit: Transit::default(),
            tracker: Tracker::new(),
            split: false,
            timeline: Timeline::default(),
            check: None,
            first_copy: out.is_full().then_some(0),
            copies: vec![0; scenario.pieces as usize],
            out,
            wanting: members.iter().filter(|member| is_awaited(member)).count() as u32,
            received: (0, 0),
            ends_at: 0,
            events: 0,
            hash: 0xcbf2_9ce4_8422_2325,
            common,
            members,
            rng,
            scenario,
        };
        world.ends_at = world.end().as_nanos() as u64;
        world.plan();
        world
    }

    /// From now on what must always hold is checked after every step; the first that does not
    /// hold is in [`World::broken`].
    #[must_use]
    pub fn checked(mut self) -> Self {
        self.check = Some(Check::default());
        self
    }

    /// What did not hold, if anything.
    pub fn broken(&self) -> Option<&str> {
        self.check.as_ref().and_then(Check::broken)
    }

    /// Pieces that honest leechers have verified, all together.
    pub fn verified(&self) -> u64 {
        let leechers = self.members.iter().filter(|member| member.role == Role::Leecher);
        leechers.map(|member| u64::from(member.verified.len())).sum()
    }

    /// Honest leechers that are there and lack a piece that another honest peer which is there
    /// holds: in the end there must be none.
    pub fn unserved(&self) -> Vec<u32> {
        let honest = || self.members.iter().filter(|m| m.role.is_honest() && m.active.is_some());
        let lacks = |member: &Member, piece| !member.verified.contains(piece);
        let pieces = || self.common.geometry.pieces();
        let is_there: Vec<bool> =
            pieces().map(|piece| honest().any(|other| !lacks(other, piece))).collect();
        honest()
            .filter(|member| pieces().any(|p| is_there[p.index()] && lacks(member, p)))
            .map(|member| member.number)
            .collect()
    }

    /// Something of this member has changed.
    pub(super) fn touch(&mut self, number: u32) {
        if let Some(check) = &mut self.check {
            check.touch(number);
        }
    }

    /// Virtual time since the beginning.
    pub fn now(&self) -> Duration {
        at(self.now)
    }

    /// Whether every honest leecher is done, the swarm has stopped, or time is over.
    pub fn is_done(&self) -> bool {
        self.wanting == 0 || self.now >= self.ends_at
    }

    /// When it is over at the latest: nothing has come to an honest leecher for so long that nothing will, though all who
    /// are to come are here, and the network is whole.
    fn end(&self) -> Duration {
        let Scenario { joining, faults, time_max, .. } = &self.scenario;
        let whole = faults.partition.map_or(Duration::ZERO, |(_, to)| to);
        let stopped = at(self.received.1).max(*joining).max(whole) + STOPPED_AFTER;
        stopped.min(*time_max)
    }

    /// What came of it so far.
    pub fn report(&self) -> Report {
        Report::of(self)
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    fn plan(&mut self) {
        let joining = self.scenario.joining.as_nanos() as u64;
        for member in 0..self.members.len() as u32 {
            let when = match member.checked_sub(self.scenario.seeders) {
                None => 0,
                // Not all in one nanosecond: nobody is that punctual.
                Some(leecher) => {
                    let spread = joining.max(50_000_000);
                    let place = f64::from(leecher + 1) / f64::from(self.scenario.leechers);
                    if joining > 0 {
                        (spread as f64 * place) as u64
                    } else {
                        self.rng.u64(1_000_000..spread)
                    }
                }
            };
            self.queue.push(when, Event::Join { member });
        }
        self.queue.push(0, Event::Sample);
        self.plan_faults();
    }

    /// One event and all that follows at once; false when there are no more.
    pub fn step(&mut self) -> bool {
        if self.events.is_multiple_of(AHEAD as u64) {
            self.fetch_ahead();
        }
        let Some((time, event)) = self.queue.pop() else { return false };
        self.now = self.now.max(time);
        self.events += 1;
        self.note(event);
        self.handle(event);
        self.let_all_look_around();
        if let Some(mut check) = self.check.take() {
            check.look(self);
            self.check = Some(check);
        }
        true
    }

    /// Everybody who was woken looks around, and who is woken by that, until nobody is.
    fn let_all_look_around(&mut self) {
        let mut woken = std::mem::take(&mut self.woken);
        loop {
            self.ready.take(&mut woken);
            if woken.is_empty() {
                break;
            }
            for at in 0..woken.len() {
                if at.is_multiple_of(AHEAD) && woken.len() > 1 {
                    self.fetch_woken(&woken[at..]);
                }
                match woken[at] {
                    Ready::Lane(lane) => self.turn(lane),
                    Ready::Member(member) => self.look_around(member),
                }
            }
            woken.clear();
        }
        self.woken = woken;
    }

    /// Reads of what the next events will touch; see [`Self::fetch_lanes`].
    fn fetch_ahead(&self) {
        let mut ahead = [const { None }; AHEAD];
        for (place, event) in ahead.iter_mut().zip(self.queue.soonest()) {
            *place = self.soon(event);
        }
        let lanes = || ahead.iter().flatten();
        self.fetch_lanes(&lanes().map(|(lane, looks, _)| (*lane, *looks)));
        let news = lanes().filter_map(|(lane, _, item)| {
            let lane = self.lanes[*lane as usize].as_ref()?;
            Some(lane.touch_news((*item)?))
        });
        std::hint::black_box(news.fold(0, BitXor::bitxor));
    }

    /// The lane that an event concerns first, how much of it is looked at, and what comes first.
    fn soon(&self, event: Event) -> Option<(u32, Looks, Option<&Item>)> {
        match event {
            Event::Deliver { pipe, end } => {
                let end = &self.pipes[pipe as usize].as_ref()?.ends[usize::from(end)];
                let (lane, item) = (end.lane?, self.transit.first(&end.coming)?);
                let is_news = matches!(item, Item::Message(Message::Have { .. }));
                Some((lane, if is_news { Looks::AtNews } else { Looks::Around }, Some(item)))
            }
            Event::LaneTimer { lane, .. } => {
                let is_due = self.lanes[lane as usize].as_ref()?.is_due();
                is_due.then_some((lane, Looks::Around, None))
            }
            Event::Uplink { member, .. } => {
                let lane = self.members[member as usize].uplink.next_lane()?;
                Some((lane, Looks::Around, None))
            }
            _ => None,
        }
    }

    /// The same for the next of those that were woken.
    fn fetch_woken(&self, woken: &[Ready]) {
        self.fetch_lanes(&woken.iter().take(AHEAD).filter_map(|ready| match ready {
            Ready::Lane(place) => Some((*place, self.lanes[*place as usize].as_ref()?.will_look())),
            Ready::Member(_) => None,
        }));
    }

    /// Reads a little of all that some lanes will look at: a large swarm is not in the cache, and memory answers
    /// many such reads in the time that it takes for one. Each lane alone would wait for one after the other.
    fn fetch_lanes(&self, places: &(impl Iterator<Item = (u32, Looks)> + Clone)) {
        let lanes = || {
            places
                .clone()
                .filter_map(|(at, looks)| Some((self.lanes[at as usize].as_ref()?, looks)))
        };
        let seen = lanes().map(|(lane, looks)| lane.touch(looks)).fold(0, BitXor::bitxor);
        let links = lanes().map(|(lane, looks)| self.touch_link(lane, looks));
        std::hint::black_box(links.fold(seen, BitXor::bitxor));
    }

    /// Folds an event into the hash of all of them (FNV-1a over its parts).
    fn note(&mut self, event: Event) {
        let (kind, a, b) = match event {
            Event::Deliver { pipe, end } => (1, pipe, u32::from(end)),
            Event::Uplink { member, generation } => (2, member, generation),
            Event::LaneTimer { lane, generation } => (3, lane, generation),
            Event::MemberTimer { member } => (4, member, 0),
            Event::Announce { member, life } => (5, member, life),
            Event::Letter { number } => (6, number, 0),
            Event::Join { member } => (7, member, 0),
            Event::Crash { member, life } => (8, member, life),
            Event::Churn => (9, 0, 0),
            Event::BreakLink => (10, 0, 0),
            Event::Partition { on } => (11, u32::from(on), 0),
            Event::Sample => (12, 0, 0),
        };
        for part in [self.now, kind, u64::from(a), u64::from(b)] {
            self.hash = (self.hash ^ part).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Deliver { pipe, end } => self.deliver(pipe, end.into()),
            Event::Uplink { member, generation } => self.on_uplink(member, generation),
            Event::LaneTimer { lane, generation } => self.on_lane_timer(lane, generation),
            Event::MemberTimer { member } => self.on_member_timer(member),
            Event::Announce { member, life } => self.announce(member, life),
            Event::Letter { number } => self.on_letter(number),
            Event::Join { member } => self.join(member),
            Event::Crash { member, life } => self.crash(member, life),
            Event::Churn => self.on_churn(),
            Event::BreakLink => self.break_a_link(),
            Event::Partition { on } => self.set_partition(on),
            Event::Sample => {
                self.sample();
                let span = self.timeline.next_gap();
                self.queue.push(self.now + span, Event::Sample);
            }
        }
    }

    // ---- members ----

    pub(super) fn join(&mut self, number: u32) {
        let rng = fastrand::Rng::with_seed(self.rng.u64(..));
        let member = &mut self.members[number as usize];
        member.join(&self.scenario, &self.common, &self.ready, rng);
        member.joined.get_or_insert(self.now);
        let life = member.life;
        self.read_ticket(number);
        self.count_copies_of(number, |copies| *copies += 1);
        self.queue.push(self.now, Event::Announce { member: number, life });
        self.look_around(number);
    }

    /// Whoever joins knows from its ticket where the one listens who shares.
    fn read_ticket(&mut self, number: u32) {
        const SHARER: u32 = 0;
        if number == SHARER || self.scenario.seeders == 0 {
            return;
        }
        let sharer = KnownPeer { id: None, addr: addr_of(SHARER) };
        if let Some(active) = &mut self.members[number as usize].active {
            active.manager.learn(at(self.now), Source::Ticket, [sharer]);
        }
    }

    /// The member's turn: what its lanes told it, what is due, whom to dial.
    pub(super) fn look_around(&mut self, number: u32) {
        let now = at(self.now);
        self.touch(number);
        let Some(active) = &mut self.members[number as usize].active else { return };
        let told = active.bell.take();
        if told.news() {
            active.manager.schedule_news(now);
        }
        if told.slots() {
            active.manager.choose_slots(now);
        }
        if told.complete() {
            active.manager.release_news();
            active.manager.choose_slots(now);
        }
        active.manager.do_what_is_due(now);
        let dials = active.manager.dial(now);
        let wake = active.manager.next_wake(now).as_nanos() as u64;
        if wake < active.timer {
            active.timer = wake;
            self.queue.push(wake, Event::MemberTimer { member: number });
        }
        if told.complete() {
            self.on_complete(number);
        }
        for addr in dials {
            self.dial(number, addr);
        }
    }

    fn on_member_timer(&mut self, number: u32) {
        let Some(active) = &mut self.members[number as usize].active else { return };
        // An earlier one was planned since; this is not the one that counts.
        if active.timer > self.now {
            return;
        }
        active.timer = u64::MAX;
        self.look_around(number);
    }

    fn on_complete(&mut self, number: u32) {
        let member = &mut self.members[number as usize];
        if member.completed.is_none() {
            member.completed = Some(self.now);
            if is_awaited_role(member.role) {
                self.wanting -= 1;
            }
        }
        if self.scenario.leave_when_done {
            self.leave(number);
        }
    }

    /// A member leaves for good; its neighbours see their connections end.
    pub(super) fn leave(&mut self, number: u32) {
        self.tracker_closed(number);
        let Some(active) = &self.members[number as usize].active else { return };
        for lane in active.lanes.clone() {
            self.drop_lane(lane);
        }
        // Dials of its under way come to nothing.
        let life = self.members[number as usize].life;
        for pipe in 0..self.pipes.len() as u32 {
            for end in 0..2 {
                let mine = self.pipes[pipe as usize].as_ref().is_some_and(|known| {
                    let end = &known.ends[end];
                    end.member == number && end.life == life && end.open
                });
                if mine {
                    self.close_end(pipe, end);
                }
            }
        }
        self.members[number as usize].leave();
        self.count_copies_of(number, |copies| *copies -= 1);
    }

    /// Counts what a member that comes or goes holds, if it is an honest leecher.
    fn count_copies_of(&mut self, number: u32, count: impl Fn(&mut u32)) {
        let member = &self.members[number as usize];
        if member.role == Role::Leecher {
            member.verified.iter().for_each(|piece| count(&mut self.copies[piece as usize]));
        }
    }

    // ---- connections ----

    /// One way between two members, with this message's own deviation.
    pub(super) fn one_way(&mut self) -> u64 {
        let latency = self.scenario.latency.as_nanos() as f64;
        let deviation = self.scenario.jitter * (self.rng.f64() * 2.0 - 1.0);
        (latency * (1.0 + deviation)).max(1000.0) as u64
    }

    fn new_pipe(&mut self, from: u32, to: u32) -> u32 {
        let life = |number: u32| self.members[number as usize].life;
        let pipe = Pipe::new((from, life(from)), (to, life(to)));
        match self.free_pipes.pop() {
            Some(place) => {
                self.pipes[place as usize] = Some(pipe);
                place
            }
            None => {
                self.pipes.push(Some(pipe));
                self.pipes.len() as u32 - 1
            }
        }
    }

    fn dial(&mut self, from: u32, addr: std::net::SocketAddr) {
        let to = number_of(addr).filter(|to| (*to as usize) < self.members.len());
        let Some(to) = to else {
            if let Some(active) = &mut self.members[from as usize].active {
                active.manager.dial_failed(at(self.now), addr);
            }
            return;
        };
        let member = &self.members[from as usize];
        let Some(active) = &member.active else { return };
        let unchoked = active.manager.has_free_slot();
        let hello = member.introduction(&self.common).register(unchoked);
        let pipe = self.new_pipe(from, to);
        if let Some(known) = &mut self.pipes[pipe as usize] {
            known.told = Told::by(&hello);
        }
        // The connection itself takes a round trip before anything can be said.
        let connect = 2 * self.one_way();
        let arrival = self.now + connect + self.one_way();
        self.put(pipe, 1, arrival, Item::Hello(Box::new(hello)));
    }

    /// Sends something from one end of a connection to the other.
    pub(super) fn send(&mut self, pipe: u32, from: usize, item: Item) {
        let arrival = self.now + self.one_way();
        let end = 1 - from;
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        let coming = &mut known.ends[end].coming;
        if let Some(arrival) = self.transit.send(coming, self.now, arrival, item) {
            self.queue.push(arrival, Event::Deliver { pipe, end: end as u8 });
        }
    }

    /// Puts something on its way to `end` that arrives apart from what was sent before it, and behind that.
    pub(super) fn put(&mut self, pipe: u32, end: usize, arrival: u64, item: Item) {
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        let arrival = self.transit.send_apart(&mut known.ends[end].coming, self.now, arrival, item);
        self.queue.push(arrival, Event::Deliver { pipe, end: end as u8 });
    }

    fn deliver(&mut self, pipe: u32, end: usize) {
        let split = self.split;
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        if known.ends[end].held_up || split && self.is_cut(pipe) {
            if let Some(known) = &mut self.pipes[pipe as usize] {
                known.ends[end].held_up = true;
            }
            return;
        }
        while let Some(known) = &mut self.pipes[pipe as usize]
            && let Some((item, next_is_with_it)) = self.transit.take(&mut known.ends[end].coming)
        {
            self.receive(pipe, end, item);
            if !next_is_with_it {
                break;
            }
        }
        if self.pipes[pipe as usize].as_ref().is_some_and(Pipe::is_over) {
            self.pipes[pipe as usize] = None;
            self.free_pipes.push(pipe);
        }
    }

    fn receive(&mut self, pipe: u32, end: usize, item: Item) {
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        if let Item::Body { span, .. } = &item {
            let sender = &mut known.ends[1 - end];
            sender.under_way -= span.len();
            // Most often it sends on already, and its lane need not be looked for.
            let waits = sender.lane.filter(|_| !sender.sending);
            let receiver = known.ends[end].member;
            waits.into_iter().for_each(|sender| self.send_next(sender));
            self.let_others_send(receiver);
        }
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        let here = &known.ends[end];
        let (member, life, lane, open) = (here.member, here.life, here.lane, here.open);
        match item {
            // Whoever left meanwhile has closed it, even if it is back by now.
            Item::Hello(register) if open => self.on_hello(pipe, &register),
            Item::Answer(register) if open => self.on_answer(pipe, &register),
            Item::Close => {
                if let Some(known) = &mut self.pipes[pipe as usize] {
                    known.ends[end].open = false;
                }
                match lane {
                    Some(lane) => self.end_lane(lane, false),
                    None if end == 0 => {
                        let addr = self.peer_addr(pipe, 0);
                        let dialler = &mut self.members[member as usize];
                        if let Some(active) = &mut dialler.active
                            && dialler.life == life
                        {
                            active.manager.dial_failed(at(self.now), addr);
                        }
                    }
                    None => {}
                }
            }
            item => {
                if let Some(lane) = lane {
                    self.hear(lane, item);
                }
            }
        }
    }

    /// A member's way in has room again for those who wait for it.
    fn let_others_send(&mut self, receiver: u32) {
        let member = &self.members[receiver as usize];
        if member.ns_per_byte_in == 0.0 {
            return;
        }
        let lanes: Vec<u32> =
            member.active.iter().flat_map(|active| active.lanes.iter().copied()).collect();
        for lane in lanes {
            if let Some(sender) = self.other_lane(lane) {
                self.send_next(sender);
            }
        }
    }

    /// Address of whoever is at the other end.
    fn peer_addr(&self, pipe: u32, end: usize) -> std::net::SocketAddr {
        let other =
            self.pipes[pipe as usize].as_ref().map_or(0, |known| known.ends[1 - end].member);
        addr_of(other)
    }

    fn on_hello(&mut self, pipe: u32, register: &Register) {
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        let number = known.ends[1].member;
        let addr = self.peer_addr(pipe, 1);
        let member = &mut self.members[number as usize];
        let introduction = member.introduction(&self.common);
        let accepted = introduction.check(register).ok().and_then(|agreed| {
            let active = member.active.as_mut()?;
            let (new, answer) = active.manager.accepted(&introduction, agreed, addr);
            let link = active.manager.add_link(at(self.now), new).ok()?;
            Some((link, answer))
        });
        // The address may have come to life since the dial.
        let life = member.life;
        if let Some(known) = &mut self.pipes[pipe as usize] {
            known.ends[1].life = life;
        }
        match accepted {
            Some((link, answer)) => {
                self.send(pipe, 1, Item::Answer(Box::new(answer)));
                self.start_lane(number, pipe, 1, link);
            }
            None => self.close_end(pipe, 1),
        }
    }

    fn on_answer(&mut self, pipe: u32, register: &Register) {
        let Some(known) = &self.pipes[pipe as usize] else { return };
        let (number, life) = (known.ends[0].member, known.ends[0].life);
        let told = known.told;
        let addr = self.peer_addr(pipe, 0);
        let distance = self.scenario.latency * 2;
        let member = &mut self.members[number as usize];
        let introduction = member.introduction(&self.common);
        let alive = member.life == life;
        let accepted = introduction.check(register).ok().filter(|_| alive).and_then(|agreed| {
            let active = member.active.as_mut()?;
            let new = active.manager.established(told, agreed, addr, distance);
            active.manager.add_link(at(self.now), new).ok()
        });
        match accepted {
            Some(link) => self.start_lane(number, pipe, 0, link),
            None => self.close_end(pipe, 0),
        }
    }

    /// Closes one end; the other hears of it.
    pub(super) fn close_end(&mut self, pipe: u32, end: usize) {
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        if !known.ends[end].open {
            return;
        }
        known.ends[end].open = false;
        known.ends[end].lane = None;
        known.ends[end].behind.clear();
        if known.ends[1 - end].open {
            self.send(pipe, end, Item::Close);
        }
    }

    pub(super) fn forget_link(&mut self, number: u32, link: LinkId, ban: bool) {
        self.touch(number);
        let member = &mut self.members[number as usize];
        let Some(active) = &mut member.active else { return };
        let Some(link) = active.manager.remove_link(at(self.now), link, ban) else { return };
        // By its own books, not by what it was asked to do.
        let banned = active.manager.bans(link.agreed.peer).then_some(link.agreed.peer);
        if let Some(id) = banned.filter(|_| member.role.is_honest()) {
            let them = self.members.iter_mut().filter(|member| member.id == id);
            them.for_each(|member| member.banned = true);
        }
    }

    // ---- ways out ----

    /// Plans the next look at a member's way out.
    pub(super) fn plan_uplink(&mut self, number: u32) {
        let uplink = &mut self.members[number as usize].uplink;
        if uplink.in_turn {
            return;
        }
        uplink.generation += 1;
        if let Some(when) = uplink.next_look() {
            let generation = uplink.generation;
            self.queue.push(when, Event::Uplink { member: number, generation });
        }
    }

    fn on_uplink(&mut self, number: u32, generation: u32) {
        let uplink = &mut self.members[number as usize].uplink;
        if uplink.generation != generation {
            return;
        }
        uplink.in_turn = true;
        let done = uplink.take_done(self.now);
        let progress = uplink.take_progress();
        let senders = progress.iter().map(|(lane, ..)| *lane);
        let receivers = senders.clone().filter_map(|lane| self.other_lane(lane));
        self.fetch_lanes(&receivers.map(|lane| (lane, Looks::Around)));
        for (lane, span, fresh) in progress {
            self.credit(lane, span, fresh);
        }
        for Flow { lane, span, credited, .. } in done {
            self.on_block_out(lane, span, credited);
        }
        self.members[number as usize].uplink.in_turn = false;
        self.plan_uplink(number);
    }

    /// When so many bytes that were sent now have come in at a member.
    pub(super) fn arrival_in(&mut self, number: u32, bytes: u32) -> u64 {
        let sent = self.now + self.one_way();
        let member = &mut self.members[number as usize];
        let takes = (f64::from(bytes) * member.ns_per_byte_in) as u64;
        // A way in that is idle took the block in while it was being sent.
        let free = member.in_free.max(sent.saturating_sub(takes)) + takes;
        member.in_free = free;
        free.max(sent)
    }

    // ---- what is looked at ----

    fn sample(&mut self) {
        let moment = Timeline::look(self);
        self.timeline.add(moment);
        let leechers = self.members.iter().filter(|member| member.role == Role::Leecher);
        let received = leechers.map(|member| member.sums().downloaded).sum();
        if received != self.received.0 {
            self.received = (received, self.now);
            self.ends_at = self.end().as_nanos() as u64;
        }
    }

    /// A leecher has verified a piece.
    pub(super) fn note_piece(&mut self, number: u32, piece: crate::types::PieceIndex) {
        let member = &mut self.members[number as usize];
        let is_new = member.verified.insert(piece);
        member.first_piece.get_or_insert(self.now);
        if member.role != Role::Leecher {
            return;
        }
        self.copies[piece.index()] += u32::from(is_new);
        if self.out.insert(piece) && self.out.is_full() {
            let seeders = self.members.iter().filter(|m| m.role == Role::Seeder);
            self.first_copy = Some(seeders.map(|m| m.sums().uploaded).sum());
        }
    }

    /// Seeders that have done what they came for.
    pub(super) fn let_seeder_leave(&mut self, number: u32) {
        let Some(copies) = self.scenario.seeders_leave_after else { return };
        let member = &self.members[number as usize];
        let enough = copies * self.scenario.share_len();
        if member.role == Role::Seeder && member.sums().uploaded as f64 >= enough {
            self.leave(number);
        }
    }
}

/// Whether the simulation goes on until this member is done.
fn is_awaited(member: &Member) -> bool {
    is_awaited_role(member.role) && !member.verified.is_full()
}

fn is_awaited_role(role: Role) -> bool {
    role == Role::Leecher
}

fn held_by_honest_leechers(geometry: &Geometry, members: &[Member]) -> PieceSet {
    let mut held = PieceSet::empty(geometry.piece_count());
    let leechers = || members.iter().filter(|member| member.role == Role::Leecher);
    for piece in geometry.pieces() {
        if leechers().any(|member| member.verified.contains(piece)) {
            held.insert(piece);
        }
    }
    held
}

fn deal_first_pieces(
    scenario: &Scenario,
    geometry: &Geometry,
    members: &mut [Member],
    rng: &mut fastrand::Rng,
) {
    let leechers = &mut members[scenario.seeders as usize..];
    match scenario.start {
        Start::Empty => {}
        Start::Random(part) => {
            for member in leechers {
                for piece in geometry.pieces().filter(|_| rng.f64() < part) {
                    member.verified.insert(piece);
                }
            }
        }
        Start::RoundRobin => {
            let count = leechers.len().max(1);
            for piece in geometry.pieces() {
                leechers[piece.index() % count].verified.insert(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Faults, Rates};
    use crate::types::PieceSize;

    fn swarm() -> Scenario {
        Scenario {
            leechers: 12,
            pieces: 20,
            piece_size: PieceSize::new(64 * 1024).expect("a size"),
            upload: Rates::Same(250_000.0),
            seeder_upload: 250_000.0,
            ..Scenario::default()
        }
    }

    fn all_faults() -> Faults {
        Faults {
            churn: 2.0,
            broken_links: 300.0,
            partition: Some((Duration::from_secs(5), Duration::from_secs(9))),
        }
    }

    #[test]
    fn the_first_copy_is_out_when_every_piece_is_with_some_honest_leecher() {
        let all_honest = run(swarm());
        let sent = all_honest.first_copy.expect("all are done");
        assert!((1.0..=all_honest.seeder_copies()).contains(&sent), "{sent} copies");
        // The only honest one has its last piece at the very end, whatever the others have.
        let one_honest = run(Scenario { hostile: vec![(Role::Flooder, 0.9)], ..swarm() });
        assert_eq!(one_honest.of_role(Role::Leecher).count(), 1);
        assert_eq!(one_honest.first_copy, Some(one_honest.seeder_copies()));
    }

    #[test]
    fn messages_overtake_each_other_on_different_connections_and_never_on_one() {
        let mut world = World::new(Scenario { jitter: 0.9, ..swarm() });
        let pipes = [world.new_pipe(1, 2), world.new_pipe(1, 3)];
        for number in 0..100 {
            world.now += 1_000_000;
            world.send(pipes[number % 2], 0, Item::Message(Message::KeepAlive));
        }
        let arrivals = pipes.map(|pipe| -> Vec<u64> {
            let pipe = world.pipes[pipe as usize].as_ref().expect("it is there");
            world.transit.arrivals(&pipe.ends[1].coming).collect()
        });
        assert!(arrivals.iter().all(|of_one| of_one.len() == 50 && of_one.is_sorted()));
        let in_order_of_sending = arrivals[0].iter().zip(&arrivals[1]).flat_map(|(a, b)| [a, b]);
        assert!(!in_order_of_sending.is_sorted(), "nothing was overtaken");
    }

    #[test]
    fn what_is_on_its_way_has_as_many_events_as_it_arrives_in_parts_whatever_breaks() {
        let mut world = World::new(Scenario { faults: all_faults(), ..swarm() });
        let (mut parts_seen, mut were_held_up) = (0, 0);
        for step in 0..20_000 {
            world.step();
            if step % 50 > 0 {
                continue;
            }
            let deliveries = world.queue.all().filter_map(|event| match event {
                Event::Deliver { pipe, end } => Some((pipe, usize::from(end))),
                _ => None,
            });
            let deliveries: Vec<_> = deliveries.collect();
            let pipes =
                world.pipes.iter().zip(0..).filter_map(|(pipe, at)| Some((pipe.as_ref()?, at)));
            for (pipe, at) in pipes {
                for (end, here) in pipe.ends.iter().enumerate() {
                    let planned = deliveries.iter().filter(|to| **to == (at, end)).count();
                    // One whose time has come while it is held up has lost its event.
                    let counts = |is_to_come: &dyn Fn(&u64) -> bool| {
                        world.transit.arrivals(&here.coming).filter(is_to_come).count()
                    };
                    let parts = counts(&|_| true);
                    if here.held_up {
                        let (later, now_or_later) =
                            (counts(&|at| *at > world.now), counts(&|at| *at >= world.now));
                        assert!((later..=now_or_later).contains(&planned), "{planned} of {parts}");
                    } else {
                        assert_eq!(planned, parts, "pipe {at}, end {end}, at {:?}", world.now());
                    }
                    parts_seen += parts;
                    were_held_up += usize::from(here.held_up);
                }
            }
        }
        assert!(parts_seen > 100 && were_held_up > 0, "{parts_seen}, {were_held_up}");
    }

    #[test]
    fn of_connections_only_those_are_kept_that_have_lanes_or_will_have_them() {
        let mut world =
            World::new(Scenario { faults: all_faults(), leave_when_done: true, ..swarm() });
        for _ in 0..60_000 {
            world.step();
            let pipes = world.pipes.iter().flatten();
            let useless = pipes.filter(|pipe| !pipe.is_used()).count();
            assert_eq!(useless, 0, "of {} at {:?}", world.pipes.len(), world.now());
        }
        assert_eq!(world.wanting, 0);
    }

    #[test]
    fn copies_are_counted_as_they_come_and_while_their_holders_are_there() {
        let faults = Faults { churn: 20.0, ..Faults::default() };
        let mut world = World::new(Scenario {
            faults,
            start: Start::Random(0.3),
            hostile: vec![(Role::FreeRider, 0.2)],
            ..swarm()
        });
        let (mut all_were_here, mut some_were_gone) = (false, false);
        while !world.is_done() && world.step() {
            let here = || world.members.iter().filter(|member| member.active.is_some());
            let leechers = || here().filter(|member| member.role == Role::Leecher);
            let holders = |piece| leechers().filter(move |member| member.verified.contains(piece));
            let copies = world.common.geometry.pieces().map(|piece| holders(piece).count() as u32);
            assert!(copies.eq(world.copies.iter().copied()), "at {:?}", world.now());
            all_were_here |= here().count() == world.members.len();
            some_were_gone |= all_were_here && here().count() < world.members.len();
        }
        assert!(all_were_here && some_were_gone);
    }
}
