//! The shell of a lane: what the engine's lane task does with sockets, over pipes.
//!
//! The engine has a lane take a whole turn whenever its socket or anybody else wakes it. Here it takes none where
//! there is next to nothing to do: woken for news it tells that; a message, and a block's head, are understood and
//! no more; after a block in the middle of a piece it sees whether it has to look; and a timer that was put off
//! meanwhile is set anew.

use std::ops::BitXor;
use std::sync::Arc;
use std::task::Waker;

use super::member::at;
use super::pipe::{Item, UNDER_WAY_MAX};
use super::queue::Event;
use super::ready::{LaneBell, LookAround};
use super::scenario::Role;
use super::uplink::PROGRESS_NS;
use super::world::World;
use crate::peer::{Arrival, Violation};
use crate::trade::{self, Lane, LaneEnd, Link, Wakers};
use crate::types::{BlockSpan, PieceIndex};
use crate::wire::{BlockHeader, Holdings, Message, Penalty, RawBlock};

/// A flooder asks again for what it has asked for so often at once.
const FLOOD: usize = 32;

/// No more is sent to a member whose way in is busy for longer than this: its connections' windows
/// are closed by then.
const BACKLOG_NS: u64 = 1_000_000_000;

/// How much of a lane is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Looks {
    /// What it takes to tell news or to hear some.
    AtNews,
    /// All over it.
    Around,
}

/// One end of a link. In this order in memory, for the first that is looked at of its mind is next to it.
#[derive(Debug)]
#[repr(C)]
pub(super) struct SimLane {
    /// The block that is coming, and how many bytes of it have.
    incoming: Option<(BlockSpan, Arrival)>,
    came: u32,
    timer: u64,
    /// When it looked around last, and when it has to again, by what was known then.
    looked: u64,
    due: u64,
    generation: u32,
    pub(super) member: u32,
    pipe: u32,
    end: u32,
    bell: Arc<LaneBell>,
    /// Of the piece that is coming it knows whether all was right so far.
    pub(super) mind: Lane<bool>,
}

impl World {
    /// A link's only lane begins.
    pub(super) fn start_lane(&mut self, number: u32, pipe: u32, end: usize, link: Arc<Link>) {
        let place = self.free_lanes.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            self.lanes.len() as u32 - 1
        });
        let rng = fastrand::Rng::with_seed(self.rng.u64(..));
        let Some(active) = &mut self.members[number as usize].active else { return };
        let bell = Arc::new(LaneBell::new(place, Arc::clone(&self.ready)));
        let all = Waker::from(Arc::new(LookAround(Arc::clone(&bell))));
        let wakers = Wakers { all, news: Waker::from(Arc::clone(&bell)) };
        let share = Arc::clone(&active.share);
        let mind = Lane::new(share, link, true, at(self.now), wakers, rng);
        active.lanes.insert(place);
        if let Some(known) = &mut self.pipes[pipe as usize] {
            known.ends[end].lane = Some(place);
        }
        bell.ring();
        self.lanes[place as usize] = Some(SimLane {
            mind,
            member: number,
            pipe,
            end: end as u32,
            bell,
            incoming: None,
            came: 0,
            timer: u64::MAX,
            looked: self.now,
            due: 0,
            generation: 0,
        });
    }

    /// A lane's connection is over.
    pub(super) fn end_lane(&mut self, place: u32, ban: bool) {
        let Some(lane) = &self.lanes[place as usize] else { return };
        let (number, link) = (lane.member, lane.mind.link().id);
        self.drop_lane(place);
        self.forget_link(number, link, ban);
        // Whoever does not come back has no use for a dial that fails.
        self.look_around(number);
    }

    /// Takes a lane away without a word to its member's manager.
    pub(super) fn drop_lane(&mut self, place: u32) {
        let Some(mut lane) = self.lanes[place as usize].take() else { return };
        let wrong = self.pipes[lane.pipe as usize].as_ref().is_some_and(|pipe| {
            let sender = pipe.ends[1 - lane.end()].member;
            self.members[sender as usize].role == Role::Corrupt
        });
        lane.take_what_came_of_block(wrong);
        let member = &mut self.members[lane.member as usize];
        if let Some(active) = &mut member.active {
            active.lanes.remove(&place);
        }
        member.uplink.stop(self.now, place);
        self.plan_uplink(lane.member);
        self.close_end(lane.pipe, lane.end());
        self.free_lanes.push(place);
    }

    /// A lane ends because of what it decided.
    fn end_for(&mut self, place: u32, end: &LaneEnd) {
        let ban = matches!(end, LaneEnd::Violation(broken) if broken.penalty() == Penalty::Ban);
        if matches!(end, LaneEnd::Violation(_))
            && let Some(lane) = &mut self.lanes[place as usize]
        {
            lane.mind.keep_nothing();
        }
        if let Some(lane) = &self.lanes[place as usize] {
            let other = self.pipes[lane.pipe as usize].as_ref();
            let other = other.map(|pipe| pipe.ends[1 - lane.end()].member);
            if let (Some(check), Some(other), LaneEnd::Violation(broken)) =
                (&mut self.check, other, end)
            {
                let honest = self.members[other as usize].role.is_honest();
                check.on_violation(
                    honest && self.members[lane.member as usize].role.is_honest(),
                    broken,
                );
            }
        }
        self.end_lane(place, ban);
    }

    /// A lane that was woken does what it was woken for.
    pub(super) fn turn(&mut self, place: u32) {
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        if !lane.bell.is_for_news() {
            return self.look_around_on_lane(place);
        }
        if let Some(check) = &mut self.check {
            check.touch(lane.member);
        }
        lane.bell.heard();
        lane.mind.tell_peer();
        self.say(place);
    }

    /// A lane looks around.
    fn look_around_on_lane(&mut self, place: u32) {
        let now = at(self.now);
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        if let Some(check) = &mut self.check {
            check.touch(lane.member);
        }
        lane.bell.heard();
        lane.looked = self.now;
        if let Some(reason) = lane.mind.link().closing() {
            let ban = matches!(reason, trade::CloseReason::Violation(broken)
                if broken.penalty() == Penalty::Ban);
            self.end_lane(place, ban);
            return;
        }
        let mind = &mut lane.mind;
        let looked = mind.heed(now).and_then(|()| {
            mind.ask(now);
            mind.check_time(now, false)
        });
        if let Err(end) = looked {
            self.end_for(place, &end);
            return;
        }
        lane.part_with_given_up();
        self.say(place);
        self.send_next(place);
        self.plan_timer(place);
    }

    fn plan_timer(&mut self, place: u32) {
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        lane.due = lane.mind.next_deadline(at(lane.looked)).as_nanos() as u64;
        self.set_timer(place);
    }

    /// Has the timer go off when it is time to look around. One that is set goes off first.
    fn set_timer(&mut self, place: u32) {
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        if lane.due < lane.timer {
            lane.timer = lane.due;
            lane.generation = lane.generation.wrapping_add(1);
            let generation = lane.generation;
            self.queue.push(lane.due, Event::LaneTimer { lane: place, generation });
        }
    }

    pub(super) fn on_lane_timer(&mut self, place: u32, generation: u32) {
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        if lane.generation != generation || lane.timer > self.now {
            return;
        }
        lane.timer = u64::MAX;
        // What it was set for has been put off since, as it mostly has.
        if lane.due > self.now {
            return self.set_timer(place);
        }
        // Or was by what was heard or told since, after which nothing is planned.
        if lane.mind.next_deadline(at(lane.looked)) > at(self.now) {
            return self.plan_timer(place);
        }
        self.look_around_on_lane(place);
    }

    /// Sends what the lane has to say; behind the block that is being sent, if one is.
    fn say(&mut self, place: u32) {
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        if !lane.mind.has_messages() {
            return;
        }
        let (pipe, end, role) = (lane.pipe, lane.end(), self.members[lane.member as usize].role);
        let mut messages = lane.mind.take_messages();
        match role {
            // It does not even say no.
            Role::Liar => messages.retain(|message| !matches!(message, Message::Refuse { .. })),
            Role::Flooder => flood(&mut messages),
            _ => {}
        }
        lane.mind.spoke(at(self.now));
        let count = messages.len() as u64;
        lane.mind
            .share()
            .counters
            .messages_sent
            .fetch_add(count, std::sync::atomic::Ordering::Relaxed);
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        if known.ends[end].sending {
            known.ends[end].behind.extend(messages);
        } else {
            for message in messages {
                self.send(pipe, end, Item::Message(message));
            }
        }
    }

    /// Reads some of a lane's link and connection; see [`Self::fetch_lanes`].
    pub(super) fn touch_link(&self, lane: &SimLane, looks: Looks) -> u64 {
        let sending =
            self.pipes[lane.pipe as usize].as_ref().map(|pipe| pipe.ends[lane.end()].sending);
        let link = lane.mind.link();
        let rest = if looks == Looks::Around {
            link.glance_at_rest() ^ lane.mind.glance_at_status()
        } else {
            0
        };
        rest ^ link.glance() ^ u64::from(sending.unwrap_or(false))
    }

    /// The lane at the other end of a lane's connection.
    pub(super) fn other_lane(&self, place: u32) -> Option<u32> {
        let lane = self.lanes[place as usize].as_ref()?;
        self.pipes[lane.pipe as usize].as_ref()?.ends[1 - lane.end()].lane
    }

    /// Begins to send the next block that was asked for, if the connection takes it.
    pub(super) fn send_next(&mut self, place: u32) {
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        if lane.mind.upload().is_empty() {
            return;
        }
        let (pipe, end, number) = (lane.pipe, lane.end(), lane.member);
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        let receiver = known.ends[1 - end].member;
        let here = &mut known.ends[end];
        let crowded = self.members[receiver as usize].in_free > self.now + BACKLOG_NS;
        let uplink = &mut self.members[number as usize].uplink;
        if crowded || here.sending || here.under_way >= UNDER_WAY_MAX || !uplink.is_open() {
            return;
        }
        let Some(span) = lane.mind.take_block(at(self.now)) else { return };
        here.sending = true;
        here.under_way += span.len();
        uplink.start(self.now, place, span);
        self.send(pipe, end, Item::Head(BlockHeader::of(span)));
        self.plan_uplink(number);
    }

    /// The last byte of a block has left.
    pub(super) fn on_block_out(&mut self, place: u32, span: BlockSpan, credited: u32) {
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        lane.mind.on_taken((span.len() - credited) as usize, at(self.now));
        lane.mind.on_block_sent(span, at(self.now));
        let (pipe, end, number) = (lane.pipe, lane.end(), lane.member);
        let wrong = self.members[number as usize].role == Role::Corrupt;
        let Some(known) = &mut self.pipes[pipe as usize] else { return };
        known.ends[end].sending = false;
        let receiver = known.ends[1 - end].member;
        let behind = std::mem::take(&mut known.ends[end].behind);
        let arrival = self.arrival_in(receiver, span.len());
        let credited = credited + self.send_parts(pipe, 1 - end, arrival, span, credited);
        self.put(pipe, 1 - end, arrival, Item::Body { span, credited, wrong });
        for message in behind {
            self.send(pipe, end, Item::Message(message));
        }
        self.let_seeder_leave(number);
        self.say(place);
        self.send_next(place);
        // Its peer may have been dealt nothing, and is to be dealt to again soon.
        self.plan_timer(place);
    }

    /// A block that waits for others on its receiver's way in comes little by little, for there
    /// all connections share the rate. Returns the bytes that come before the last.
    fn send_parts(
        &mut self,
        pipe: u32,
        end: usize,
        arrival: u64,
        span: BlockSpan,
        credited: u32,
    ) -> u32 {
        let ticks = ((arrival - self.now) / PROGRESS_NS) as u32;
        let bytes = (span.len() - credited) / (ticks + 1);
        for tick in 1..=ticks {
            let when = self.now + u64::from(tick) * PROGRESS_NS;
            self.put(pipe, end, when, Item::Part { span, bytes });
        }
        bytes * ticks
    }

    /// Some bytes of a block have come by now; told to its receiver as they would be seen there.
    pub(super) fn credit(&mut self, sender: u32, span: BlockSpan, bytes: u32) {
        let Some(lane) = &self.lanes[sender as usize] else { return };
        lane.mind.on_taken(bytes as usize, at(self.now));
        let Some(known) = &self.pipes[lane.pipe as usize] else { return };
        let there = &known.ends[1 - lane.end()];
        // What is held up by the network has not come.
        if there.held_up || self.split && self.is_cut(lane.pipe) {
            return;
        }
        let Some(receiver) = there.lane else { return };
        let now = at(self.now);
        let Some(lane) = &mut self.lanes[receiver as usize] else { return };
        lane.mind.link().heard(now);
        lane.on_part(span, bytes, now);
    }

    /// Something came over a lane's connection.
    pub(super) fn hear(&mut self, place: u32, item: Item) {
        let now = at(self.now);
        let Some(lane) = &mut self.lanes[place as usize] else { return };
        lane.mind.link().heard(now);
        let number = lane.member;
        // What a message changes for others to see to, it wakes them for; a block's head and what
        // comes of it leave nothing to see to, and a block in the middle of its piece mostly does not.
        let block_ends_piece = match &item {
            Item::Body { span, .. } => {
                Some(span.end() == lane.mind.share().geometry.piece_len(span.piece()))
            }
            _ => None,
        };
        let heard = match item {
            Item::Message(message) => lane.mind.on_message(message, now),
            Item::Head(header) => lane.on_head(&header, self.members[number as usize].role, now),
            Item::Body { span, credited, wrong } => {
                let kept = lane.on_body(span, credited, wrong, now);
                if let Some(piece) = kept {
                    self.note_piece(number, piece);
                }
                Ok(())
            }
            Item::Part { span, bytes } => {
                lane.on_part(span, bytes, now);
                Ok(())
            }
            Item::Hello(_) | Item::Answer(_) | Item::Close => Ok(()),
        };
        self.touch(number);
        match heard {
            Ok(()) => {
                if let Some(lane) = &mut self.lanes[place as usize] {
                    lane.part_with_given_up();
                    match block_ends_piece {
                        Some(ends) if ends || lane.mind.has_to_look() => {
                            lane.bell.ring();
                            return;
                        }
                        Some(_) => self.plan_timer(place),
                        None => {}
                    }
                }
                self.say(place);
                self.send_next(place);
            }
            Err(end) => self.end_for(place, &end),
        }
    }
}

impl SimLane {
    /// Which end of its connection it is.
    fn end(&self) -> usize {
        self.end as usize
    }

    /// Whether its timer, by what is known now, has it look around when it goes off.
    pub(super) fn is_due(&self) -> bool {
        self.due <= self.timer
    }

    /// What it will look at when its turn comes.
    pub(super) fn will_look(&self) -> Looks {
        if self.bell.is_for_news() { Looks::AtNews } else { Looks::Around }
    }

    /// Reads some of what it will look at; see [`World::fetch_lanes`].
    pub(super) fn touch(&self, looks: Looks) -> u64 {
        let rest = if looks == Looks::Around {
            self.mind.glance_at_rest() ^ u64::from(self.bell.is_rung())
        } else {
            0
        };
        rest ^ self.mind.glance() ^ self.timer ^ u64::from(self.incoming.is_some())
    }

    /// The same of what is known of the pieces that a message tells of.
    pub(super) fn touch_news(&self, item: &Item) -> u64 {
        let Item::Message(Message::Have { holdings: Holdings::News(runs), .. }) = item else {
            return 0;
        };
        let (share, held) = (self.mind.share(), &self.mind.link().holdings);
        let pieces = runs.iter().filter_map(|run| share.geometry.piece(run.first as u32));
        pieces.map(|piece| share.ledger.glance(held, piece)).fold(0, BitXor::bitxor)
    }

    /// What was given up does not count any more.
    fn part_with_given_up(&mut self) {
        let parted = self.mind.take_parted();
        if parted.is_empty() {
            return;
        }
        if let Some((span, arrival)) = &mut self.incoming
            && parted.contains(&span.piece())
        {
            *arrival = Arrival::Discard;
        }
    }

    fn on_head(
        &mut self,
        header: &BlockHeader,
        role: Role,
        now: std::time::Duration,
    ) -> Result<(), LaneEnd> {
        let mut arrival = match self.mind.on_block(header, now) {
            // It asked for it, whatever it says.
            Err(Violation::UnaskedBlocks | Violation::WrongBlock) if role == Role::Flooder => {
                Arrival::Discard
            }
            arrival => arrival?,
        };
        let geometry = &self.mind.share().geometry;
        let raw = (header.piece.into(), header.offset.into(), header.len.into());
        let Some(span) = geometry.block(raw.0, raw.1, raw.2) else { return Ok(()) };
        if let Arrival::Take { span } = arrival
            && !self.mind.begin_block(span, || true)
        {
            arrival = Arrival::Discard;
        }
        (self.incoming, self.came) = (Some((span, arrival)), 0);
        Ok(())
    }

    /// Some bytes of the block that is coming are here.
    fn on_part(&mut self, span: BlockSpan, bytes: u32, now: std::time::Duration) {
        let is_kept = |(coming, arrival)| coming == span && arrival != Arrival::Discard;
        if self.incoming.is_some_and(is_kept) {
            self.mind.on_bytes(bytes, now);
            self.mind.publish_due(now);
            self.came += bytes;
        }
    }

    /// The connection is gone; what is known to have come of the block that was coming has.
    fn take_what_came_of_block(&mut self, wrong: bool) {
        if let Some((span, Arrival::Take { .. })) = self.incoming.take()
            && self.came > 0
            && let Some(right) = self.mind.take_in(span.piece(), self.came)
        {
            *right &= !wrong;
            self.mind.on_payload(self.came);
        }
    }

    /// A block is all here; the piece, if it is verified with it.
    fn on_body(
        &mut self,
        span: BlockSpan,
        credited: u32,
        wrong: bool,
        now: std::time::Duration,
    ) -> Option<PieceIndex> {
        let (_, arrival) = self.incoming.take()?;
        if arrival == Arrival::Discard {
            self.mind.on_waste(span.len());
            return None;
        }
        self.mind.on_bytes(span.len() - credited, now);
        self.mind.on_payload(span.len());
        let whole = self.mind.on_block_done(span);
        self.mind.publish_due(now);
        let piece = span.piece();
        *self.mind.take_in(piece, span.len())? &= !wrong;
        if !whole {
            return None;
        }
        let (right, origin) = self.mind.end_piece(piece)?;
        if !right {
            self.mind.on_wrong_piece(piece, &origin, now);
            return None;
        }
        let (share, link, id) =
            (Arc::clone(self.mind.share()), Arc::clone(self.mind.link()), self.mind.id());
        let ours = share.ledger.owner(piece) == Some(id);
        share.keep(&link, piece, id, &origin);
        ours.then_some(piece)
    }
}

/// Makes requests ask for the same blocks over and over.
fn flood(messages: &mut [Message]) {
    for message in messages {
        if let Message::Request(blocks) = message {
            let once: Vec<RawBlock> = blocks.clone();
            for _ in 1..FLOOD {
                blocks.extend_from_slice(&once);
            }
        }
    }
}
