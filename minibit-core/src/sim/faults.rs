//! What goes wrong: peers that crash, connections that break, a network that splits.

use super::queue::Event;
use super::scenario::Role;
use super::world::World;

const MINUTE_NS: f64 = 60e9;
/// How long a crashed peer stays away.
const AWAY_NS: u64 = 10_000_000_000;

impl World {
    /// Puts the scenario's faults among the events.
    pub(super) fn plan_faults(&mut self) {
        if self.scenario.faults.churn > 0.0 {
            self.plan_churn();
        }
        if self.scenario.faults.broken_links > 0.0 {
            self.plan_broken_link();
        }
        if let Some((from, to)) = self.scenario.faults.partition {
            self.queue.push(from.as_nanos() as u64, Event::Partition { on: true });
            self.queue.push(to.as_nanos() as u64, Event::Partition { on: false });
        }
    }

    /// When something that happens so often in a minute happens next, by chance.
    fn some_time(&mut self, per_minute: f64) -> u64 {
        let wait = -(1.0 - self.rng.f64()).ln() * MINUTE_NS / per_minute;
        self.now + wait as u64
    }

    fn plan_churn(&mut self) {
        let leechers = f64::from(self.wanting.max(1));
        let when = self.some_time(self.scenario.faults.churn * leechers);
        self.queue.push(when, Event::Churn);
    }

    fn plan_broken_link(&mut self) {
        let when = self.some_time(self.scenario.faults.broken_links);
        self.queue.push(when, Event::BreakLink);
    }

    pub(super) fn on_churn(&mut self) {
        let victims: Vec<u32> = self
            .members
            .iter()
            .filter(|member| member.role == Role::Leecher && member.is_wanting())
            .filter(|member| member.active.is_some())
            .map(|member| member.number)
            .collect();
        if let Some(victim) = self.rng.choice(victims) {
            let life = self.members[victim as usize].life;
            self.queue.push(self.now, Event::Crash { member: victim, life });
        }
        self.plan_churn();
    }

    /// A peer dies without a word and comes back later with what was verified.
    pub(super) fn crash(&mut self, number: u32, life: u32) {
        let member = &self.members[number as usize];
        if member.life != life || member.active.is_none() {
            return;
        }
        self.leave(number);
        self.queue.push(self.now + AWAY_NS, Event::Join { member: number });
    }

    pub(super) fn break_a_link(&mut self) {
        let lanes: Vec<u32> = (0..self.lanes.len() as u32)
            .filter(|place| self.lanes[*place as usize].is_some())
            .collect();
        if let Some(lane) = self.rng.choice(lanes) {
            self.end_lane(lane, false);
        }
        self.plan_broken_link();
    }

    /// Whether a connection goes from one half of the split network to the other.
    pub(super) fn is_cut(&self, pipe: u32) -> bool {
        let half = |member: u32| member % 2;
        self.pipes[pipe as usize]
            .as_ref()
            .is_some_and(|pipe| half(pipe.ends[0].member) != half(pipe.ends[1].member))
    }

    pub(super) fn set_partition(&mut self, on: bool) {
        self.split = on;
        if on {
            return;
        }
        // What was held up comes now, in order.
        for number in 0..self.pipes.len() as u32 {
            for end in 0..2u8 {
                let Some(pipe) = &mut self.pipes[number as usize] else { continue };
                let here = &mut pipe.ends[usize::from(end)];
                if !std::mem::take(&mut here.held_up) {
                    continue;
                }
                // What arrives as one has one event. Where its time has passed that is lost; where it comes
                // now it is still to happen.
                let arrivals = self.transit.arrivals(&here.coming);
                let late = arrivals.filter(|at| *at < self.now).count();
                for _ in 0..late {
                    self.queue.push(self.now, Event::Deliver { pipe: number, end });
                }
            }
        }
    }
}
