//! What must hold after every step of every swarm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::world::World;
use crate::peer::Violation;
use crate::types::limits;

/// So often the whole swarm is looked at, for what changes with time alone.
const ALL_EVERY: u32 = 100;

/// Looks at those members after each step of which something has changed.
#[derive(Debug, Default)]
pub(super) struct Check {
    broken: Option<String>,
    touched: BTreeSet<u32>,
    steps: u32,
}

impl Check {
    pub(super) fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    fn fail(&mut self, world: &World, what: &str) {
        if self.broken.is_none() {
            self.broken = Some(format!("at {:?}: {what}", world.now()));
        }
    }

    /// A rule was broken, as its victim saw it.
    pub(super) fn on_violation(&mut self, between_honest: bool, broken: &Violation) {
        if between_honest && self.broken.is_none() {
            self.broken = Some(format!("an honest peer was taken to have {broken}"));
        }
    }

    /// Something of this member has changed in the step that goes on.
    pub(super) fn touch(&mut self, number: u32) {
        self.touched.insert(number);
    }

    pub(super) fn look(&mut self, world: &World) {
        self.steps += 1;
        if self.steps.is_multiple_of(ALL_EVERY) {
            self.touched.extend(0..world.members.len() as u32);
        }
        for number in std::mem::take(&mut self.touched) {
            self.look_at_pieces(world, number);
            self.look_at_slots(world, number);
            self.look_at_moves(world, number);
            self.look_at_requests(world, number);
        }
    }

    /// Nothing counts as held that was not verified.
    fn look_at_pieces(&mut self, world: &World, number: u32) {
        let member = &world.members[number as usize];
        let Some(active) = member.active.as_ref().filter(|_| member.role.is_honest()) else {
            return;
        };
        let (has, saw) = (active.share.ledger.have_count(), member.verified.len());
        if has != saw {
            self.fail(world, &format!("peer {number} counts {has} pieces, verified were {saw}"));
        }
    }

    /// No more peers are answered than there are slots.
    fn look_at_slots(&mut self, world: &World, number: u32) {
        let Some(active) = &world.members[number as usize].active else { return };
        let (regular, optimistic) = active.manager.slots();
        let unchoked = active.share.links().values().filter(|link| !link.is_choking()).count();
        if unchoked > regular.saturating_add(optimistic) {
            let slots = format!("{regular} + {optimistic} slots");
            self.fail(world, &format!("peer {number} answers {unchoked} with {slots}"));
        }
    }

    /// In no round more than one slot is taken from a peer that uses it and may keep it.
    fn look_at_moves(&mut self, world: &World, number: u32) {
        let Some(active) = &world.members[number as usize].active else { return };
        if active.manager.moves()[2..].iter().any(|rounds| *rounds > 0) {
            self.fail(world, &format!("peer {number} moves more than one slot in a round"));
        }
    }

    /// Nothing is asked of two peers at once, whoever answers is asked if it has anything, and
    /// no more requests of a peer are kept than it may make.
    fn look_at_requests(&mut self, world: &World, number: u32) {
        let Some(active) = &world.members[number as usize].active else { return };
        let mut asked: BTreeMap<u32, u32> = BTreeMap::new();
        for place in &active.lanes {
            let Some(lane) = &world.lanes[*place as usize] else { continue };
            for piece in lane.mind.download().pieces() {
                if let Some(other) = asked.insert(piece.get(), *place) {
                    self.fail(
                        world,
                        &format!(
                            "peer {number} asks for piece {piece} on lanes {other} and {place}"
                        ),
                    );
                }
            }
            let waiting = lane.mind.upload().waiting().count();
            if waiting > limits::REQUESTS_IN_FLIGHT_MAX {
                self.fail(
                    world,
                    &format!("peer {number} keeps {waiting} requests on lane {place}"),
                );
            }
            // Not at this moment: whose rest ends now may have its turn still to come.
            let before = world.now().saturating_sub(Duration::from_nanos(1));
            if lane.mind.is_starved(before) {
                self.fail(
                    world,
                    &format!("peer {number} asks nothing on lane {place}, which has what it wants"),
                );
            }
        }
    }
}
