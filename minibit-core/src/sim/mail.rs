//! Dealings with the tracker: its registry, and letters to and from it.
//!
//! The tracker's own connections are cheap and few, so they have no pipes: a letter arrives one
//! way later, and letters of one member stay in order because each takes the same time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::member::{addr_of, at};
use super::queue::Event;
use super::world::World;
use crate::swarm::{KnownPeer, Source};
use crate::tracker::{Action, ConnId, Input, Registry, Rules, Step};
use crate::wire::{Destination, Message, PeerAddr, Register};

/// Where the tracker is.
const TRACKER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(12, 0, 0, 1)), 26_464);

#[derive(Debug)]
enum Letter {
    ToTracker { member: u32, life: u32, input: Input },
    ToMember { member: u32, life: u32, message: Message },
}

/// The tracker and what is on its way to and from it.
#[derive(Debug)]
pub(super) struct Tracker {
    registry: Registry,
    letters: Vec<Option<Letter>>,
    free: Vec<u32>,
}

impl Tracker {
    pub(super) fn new() -> Self {
        Self { registry: Registry::new(Rules::default()), letters: Vec::new(), free: Vec::new() }
    }

    fn keep(&mut self, letter: Letter) -> u32 {
        match self.free.pop() {
            Some(place) => {
                self.letters[place as usize] = Some(letter);
                place
            }
            None => {
                self.letters.push(Some(letter));
                self.letters.len() as u32 - 1
            }
        }
    }
}

/// The connection of one of a member's lives.
fn conn(member: u32, life: u32) -> ConnId {
    ConnId(u64::from(life) << 32 | u64::from(member))
}

impl World {
    fn post(&mut self, letter: Letter, round_trips: u64) {
        let number = self.tracker.keep(letter);
        let way = self.scenario.latency.as_nanos() as u64;
        self.queue.push(self.now + way * (1 + 2 * round_trips), Event::Letter { number });
    }

    /// The announcer's turn.
    pub(super) fn announce(&mut self, number: u32, life: u32) {
        let member = &mut self.members[number as usize];
        if member.life != life {
            return;
        }
        let introduction = member.introduction(&self.common);
        let id = member.id;
        let Some(active) = &mut member.active else { return };
        match active.announcer.step(at(self.now), &mut self.rng) {
            Step::Connect => {
                active.announcer.registered(at(self.now));
                let register = Register {
                    port: introduction.port,
                    complete: introduction.complete,
                    ..Register::new(id, introduction.share, Destination::Tracker)
                };
                let local = TRACKER.ip();
                let input = Input::Register { register, remote: addr_of(number), local };
                self.post(Letter::ToTracker { member: number, life, input }, 1);
                self.queue.push(self.now, Event::Announce { member: number, life });
            }
            Step::Announce => {
                let message = Message::Announce { id, complete: introduction.complete };
                let input = Input::Message(message);
                self.post(Letter::ToTracker { member: number, life, input }, 0);
                self.queue.push(self.now, Event::Announce { member: number, life });
            }
            // The simulated tracker always answers.
            Step::Disconnect => {}
            Step::Wait(until) => {
                let until = until.as_nanos().min(u128::from(u64::MAX / 2)) as u64;
                self.queue.push(until.max(self.now + 1), Event::Announce { member: number, life });
            }
        }
    }

    pub(super) fn on_letter(&mut self, number: u32) {
        let Some(letter) = self.tracker.letters[number as usize].take() else { return };
        self.tracker.free.push(number);
        match letter {
            Letter::ToTracker { member, life, input } => {
                let mut actions = Vec::new();
                self.tracker.registry.handle(
                    at(self.now),
                    conn(member, life),
                    input,
                    &mut self.rng,
                    &mut actions,
                );
                for action in actions {
                    if let Action::Send { conn, message } = action {
                        let (member, life) = (conn.0 as u32, (conn.0 >> 32) as u32);
                        self.post(Letter::ToMember { member, life, message }, 0);
                    }
                }
            }
            Letter::ToMember { member, life, message } => self.on_word(member, life, message),
        }
    }

    fn on_word(&mut self, number: u32, life: u32, message: Message) {
        let member = &mut self.members[number as usize];
        let Some(active) = member.active.as_mut().filter(|_| member.life == life) else { return };
        let known = |peer: &PeerAddr| KnownPeer { id: Some(peer.id), addr: peer.socket_addr() };
        match message {
            Message::PeerList { peers, interval } => {
                active.announcer.answered(interval);
                let known = peers.iter().map(known);
                active.manager.learn(at(self.now), Source::List(TRACKER), known);
            }
            Message::NewPeer(peer) => {
                active.manager.learn(at(self.now), Source::Push(TRACKER), [known(&peer)]);
            }
            _ => {}
        }
        self.look_around(number);
    }

    /// A member's connection to the tracker has ended.
    pub(super) fn tracker_closed(&mut self, number: u32) {
        let life = self.members[number as usize].life;
        self.post(Letter::ToTracker { member: number, life, input: Input::Closed }, 0);
    }
}
