//! Who was turned away for lack of room, and whose turn it is once there is some.
//!
//! Whoever comes first after a place has become free would else have it: that is whoever knocks most
//! often, so a few more attackers than there are places, who come back at once whenever they lose theirs,
//! keep everybody else out. Here who was turned away keeps its turn for as long as it knocks again in time. The
//! order is that of the first knock, after the number of links that the address has: one address
//! with many links does not come before those with none. Who comes back after it had a place
//! waits behind all who have waited since, and a new identity is nobody's turn.
//!
//! On this machine all are of one address, and turns go by time alone: then who waits is let in after those
//! who waited before it and *stay*, however many come and go beside them. A turn that nobody takes is lost with
//! [`AWAY_MAX`], and so long its place may stay empty; how many may at once is for `neighbours` to say.
//!
//! Invariant: at most [`WAITING_MAX`] are remembered, and [`WAITING_PER_ADDR_MAX`] of an address. Whoever finds none
//! free has that of one who has knocked once and is overdue ([`OVERDUE`]); else it is turned away as one that has just
//! come, and has as good a chance the next time as others.
//! Not here: who makes room (`places`), how many links an address may have (`neighbours`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::types::PeerId;

/// Who has not knocked for so long has given up.
const AWAY_MAX: Duration = Duration::from_secs(3);
/// Who is remembered at once: some 100 KiB of them.
const WAITING_MAX: usize = 1024;
/// Of those, of one address that is not this machine's: what somebody there can invent.
const WAITING_PER_ADDR_MAX: usize = 32;

/// After so long who was turned away tries again, with a quarter of it more or less, or all who wait come at
/// once. In time to keep its turn; and for a seeder at which a thousand wait it is a thousand handshakes a second that end
/// with a word.
const KNOCK_AGAIN: Duration = Duration::from_secs(1);
/// Who means to stay has knocked again after so long, however far away it is.
const OVERDUE: Duration = Duration::from_secs(2);

/// How long to wait before the next attempt where there was no place for us, however many there have been.
pub fn knock_again_after(rng: &mut fastrand::Rng) -> Duration {
    KNOCK_AGAIN.mul_f64(0.75 + rng.f64() / 2.0)
}

/// Who waits: an identity at an address, as [`block_of`](super::book::block_of) gives it.
pub(super) type Waiter = (IpAddr, PeerId);

#[derive(Clone, Copy, Debug)]
struct Turn {
    number: u64,
    knocked: Duration,
    has_come_again: bool,
}

impl Turn {
    fn is_kept(&self, now: Duration) -> bool {
        now.saturating_sub(self.knocked) <= AWAY_MAX
    }

    fn is_overdue(&self, now: Duration) -> bool {
        !self.has_come_again && now.saturating_sub(self.knocked) > OVERDUE
    }
}

/// Those who wait; see the module's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Waiting {
    turns: BTreeMap<Waiter, Turn>,
    next: u64,
}

impl Waiting {
    /// Whether nobody does.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many have their turn before this one, of those at addresses that are its `rivals`, where an address has
    /// so many links as `links_of` says.
    pub(super) fn ahead_of(
        &self,
        now: Duration,
        who: Waiter,
        is_rival: impl Fn(IpAddr) -> bool,
        links_of: impl Fn(IpAddr) -> usize,
    ) -> usize {
        let own = self.turns.get(&who).filter(|turn| turn.is_kept(now));
        let own = (links_of(who.0), own.map_or(u64::MAX, |turn| turn.number));
        let is_ahead = |((ip, _), turn): &(&Waiter, &Turn)| {
            turn.is_kept(now) && is_rival(*ip) && (links_of(*ip), turn.number) < own
        };
        self.turns.iter().filter(is_ahead).count()
    }

    /// There is no room for this one.
    pub(super) fn turned_away(&mut self, now: Duration, who: Waiter) {
        self.turns.retain(|_, turn| turn.is_kept(now));
        if let Some(turn) = self.turns.get_mut(&who) {
            turn.knocked = now;
            turn.has_come_again = true;
            return;
        }
        let of_address = self.turns.keys().filter(|(ip, _)| *ip == who.0).count();
        let is_crowded = of_address >= WAITING_PER_ADDR_MAX && !who.0.is_loopback();
        if is_crowded || self.turns.len() >= WAITING_MAX {
            let may_be = |(ip, _): &Waiter| !is_crowded || *ip == who.0;
            let Some(overdue) = self.longest_overdue(now, may_be) else { return };
            self.turns.remove(&overdue);
        }
        self.turns.insert(who, Turn { number: self.next, knocked: now, has_come_again: false });
        self.next += 1;
    }

    fn longest_overdue(&self, now: Duration, may_be: impl Fn(&Waiter) -> bool) -> Option<Waiter> {
        let overdue = self.turns.iter().filter(|(who, turn)| may_be(who) && turn.is_overdue(now));
        overdue.min_by_key(|(_, turn)| (turn.knocked, turn.number)).map(|(who, _)| *who)
    }

    /// It waits no longer.
    pub(super) fn let_in(&mut self, who: Waiter) {
        self.turns.remove(&who);
    }
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn here(number: u64) -> Waiter {
        (HERE, PeerId::numbered(number))
    }

    fn ahead_of(waiting: &Waiting, now: Duration, who: Waiter) -> usize {
        waiting.ahead_of(now, who, |_| true, |_| 0)
    }

    #[test]
    fn who_was_turned_away_first_has_the_first_turn_and_who_is_new_the_last() {
        let mut waiting = Waiting::default();
        (1..=3).for_each(|number| waiting.turned_away(at(number), here(number)));
        waiting.turned_away(at(4), here(1));
        let ahead = [1, 2, 3, 9].map(|number| ahead_of(&waiting, at(5), here(number)));
        assert_eq!(ahead, [0, 1, 2, 3]);
        waiting.let_in(here(2));
        waiting.turned_away(at(6), here(2));
        let ahead = [1, 2, 3].map(|number| ahead_of(&waiting, at(7), here(number)));
        assert_eq!(ahead, [0, 2, 1], "who had its turn is the last again");
    }

    #[test]
    fn who_does_not_knock_again_in_time_loses_its_turn() {
        let mut waiting = Waiting::default();
        (1..=2).for_each(|number| waiting.turned_away(at(0), here(number)));
        waiting.turned_away(at(1000), here(2));
        assert_eq!(ahead_of(&waiting, AWAY_MAX, here(2)), 1);
        let late = AWAY_MAX + at(1);
        assert_eq!(ahead_of(&waiting, late, here(2)), 0);
        assert_eq!(ahead_of(&waiting, late, here(1)), 1, "it is one that has just come");
    }

    #[test]
    fn an_address_with_fewer_links_has_its_turn_before_one_with_more() {
        let mut waiting = Waiting::default();
        let (crowd, lonely) = ((ip(1), PeerId::numbered(1)), (ip(2), PeerId::numbered(2)));
        waiting.turned_away(at(0), crowd);
        waiting.turned_away(at(1), lonely);
        let links_of = |at| if at == ip(1) { 8 } else { 0 };
        assert_eq!(waiting.ahead_of(at(2), lonely, |_| true, links_of), 0);
        assert_eq!(waiting.ahead_of(at(2), crowd, |_| true, links_of), 1);
        assert_eq!(waiting.ahead_of(at(2), crowd, |at| at == ip(1), links_of), 0, "no rival");
    }

    #[test]
    fn what_one_address_or_all_of_them_can_invent_is_bounded() {
        let mut waiting = Waiting::default();
        (0..100).for_each(|number| waiting.turned_away(at(0), (ip(1), PeerId::numbered(number))));
        assert_eq!(waiting.turns.len(), WAITING_PER_ADDR_MAX);
        (0..5000).for_each(|number| waiting.turned_away(at(0), here(number)));
        assert_eq!(waiting.turns.len(), WAITING_MAX);
        waiting.turned_away(AWAY_MAX + at(1), here(1));
        assert_eq!(waiting.turns.len(), 1, "who gave up makes room");
    }

    #[test]
    fn where_nobody_has_room_to_wait_who_knocked_once_and_is_overdue_makes_some() {
        let mut waiting = Waiting::default();
        let all = WAITING_MAX as u64;
        (0..all).for_each(|number| waiting.turned_away(at(0), here(number)));
        (1..all).for_each(|number| waiting.turned_away(at(1), here(number)));
        waiting.turned_away(OVERDUE, here(9000));
        assert!(!waiting.turns.contains_key(&here(9000)), "it may yet come");
        let late = OVERDUE + at(1);
        waiting.turned_away(late, here(9001));
        waiting.turned_away(late, here(9002));
        let known = [0, 1, 9001, 9002].map(|number| waiting.turns.contains_key(&here(number)));
        assert_eq!(known, [false, true, true, false], "who came again keeps its turn");
    }

    #[test]
    fn where_one_address_has_no_room_to_wait_only_one_of_its_own_makes_some() {
        let mut waiting = Waiting::default();
        waiting.turned_away(at(0), (ip(2), PeerId::numbered(1)));
        (0..32).for_each(|number| waiting.turned_away(at(1), (ip(1), PeerId::numbered(number))));
        let late = OVERDUE + at(2);
        waiting.turned_away(late, (ip(1), PeerId::numbered(99)));
        let known = [(2, 1), (1, 0), (1, 1), (1, 99)].map(|(last, number)| {
            waiting.turns.contains_key(&(ip(last), PeerId::numbered(number)))
        });
        assert_eq!(known, [true, false, true, true]);
    }
}
