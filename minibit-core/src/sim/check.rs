//! What must hold after every step of every swarm.

use std::collections::BTreeMap;
use std::time::Duration;

use super::scenario::Role;
use super::world::World;
use crate::peer::Violation;

/// Looks at the whole swarm each time, so it is for small ones.
#[derive(Debug, Default)]
pub(super) struct Check {
    broken: Option<String>,
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

    pub(super) fn look(&mut self, world: &World) {
        for member in &world.members {
            let Some(active) = &member.active else { continue };
            let ledger = &active.share.ledger;
            if member.role == Role::Leecher && ledger.have_count() != member.verified.len() {
                let (has, saw) = (ledger.have_count(), member.verified.len());
                let number = member.number;
                self.fail(
                    world,
                    &format!("peer {number} counts {has} pieces, verified were {saw}"),
                );
            }
            let (regular, optimistic) = active.manager.slots();
            let unchoked = active.share.links().values().filter(|link| !link.is_choking()).count();
            if unchoked > regular.saturating_add(optimistic) {
                let number = member.number;
                self.fail(
                    world,
                    &format!(
                        "peer {number} answers {unchoked} with {regular} + {optimistic} slots"
                    ),
                );
            }
            self.look_at_requests(world, member.number);
        }
    }

    /// Nothing is asked of two peers at once, and whoever answers is asked if it has anything.
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
