//! Whom to dial, when, and when again.
//!
//! Invariants:
//! - An address is dialled at most [`DIALS_MAX`] times in a row without success and then left
//!   alone for [`REST`] (the ticket's are tried on, ever more rarely, and those that we asked for nothing after half a
//!   second or so), so what a hostile list
//!   can make us send to one IP is bounded: that many connects for each of the book's
//!   addresses of that IP.
//! - However soon dials end, no more than [`DIALS_IN_WINDOW`] begin in a [`WINDOW`].
//!
//! Not here: what becomes of a link that was made, and who gets a place that is kept for links of our own choice (the
//! module above).

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;

use super::{Caps, Neighbours};
use crate::swarm::book::{Known, Status};
use crate::swarm::waiting::knock_again_after;
use crate::types::PeerId;

/// Dials of one address in a row without a lasting link.
pub(super) const DIALS_MAX: u32 = 8;
/// For how long an address that failed so often is left alone.
pub(super) const REST: Duration = Duration::from_secs(600);
/// The first wait after a failure; it doubles up to [`BACKOFF_MAX`], then 50 to 150 % of it.
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(500);
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(120);
/// One in so many dials is for whoever failed before and has been ready for longest, whoever has failed less: those that
/// are slow to say that they have no room, which is no failure for who has nothing, would else come first for ever.
const AGAIN_EACH: u32 = 4;
/// In each [`WINDOW`] at most so many dials begin: each walks over the book, and addresses that refuse at once, which a
/// hostile tracker lists by the thousand, would else be dialled as fast as one core can.
pub(super) const DIALS_IN_WINDOW: u32 = 32;
pub(super) const WINDOW: Duration = Duration::from_millis(250);
/// For so long only as many are dialled as do for a transfer that is over soon.
pub(super) const AT_FIRST: Duration = Duration::from_secs(2);
/// How often it is looked at whether there is somebody for whom to keep places.
const CHOICE_LOOK: Duration = Duration::from_secs(1);

impl Neighbours {
    /// Whether those we are linked to have nothing for us. Then we dial one more, however many
    /// there are, each time that we are told so: a few peers that lack the same pieces would else be content with each
    /// other. No more, for where all begin at once all are hungry, and to know more of the hungry helps nobody. Who had no
    /// room for us while we were content is tried again soon: that may have been the one who has them.
    pub fn set_hungry(&mut self, now: Duration, hungry: bool, rng: &mut Rng) {
        if hungry && !self.hungry {
            for known in self.book.each_mut().filter(|known| known.had_no_room) {
                if let Status::Idle { from } = &mut known.status {
                    *from = (now + knock_again_after(rng)).min(*from);
                }
            }
        }
        self.hungry = hungry;
        self.one_more = if hungry { self.links.len() + 1 } else { 0 };
    }

    /// So many of the links that we made are with those who only take. They do not count for [`Caps::links_made`], or whoever
    /// chose badly would have nobody to trade with; but where most are like that others are dialled for no more than as many again.
    pub fn set_made_in_vain(&mut self, made_in_vain: usize) {
        self.made_in_vain = made_in_vain.min(self.caps.links_made);
    }

    /// Whom to dial now: each address returned counts as being dialled until it is reported
    /// with [`greeted`](Self::greeted), [`dial_failed`](Self::dial_failed) or [`found_no_room`](Self::found_no_room).
    pub fn dial(&mut self, now: Duration, rng: &mut Rng) -> Vec<SocketAddr> {
        if self.began.is_none() && self.book.len() > 0 {
            self.began = Some(now);
        }
        self.review_choice(now);
        if self.dials_wanted(self.aim(now, false)) == 0 || self.rests_until(now).is_some() {
            return Vec::new();
        }
        // Whoever was found full comes first every other time while we are hungry: so we keep our turn there, and those
        // that are slow to say that they are full do not keep us from others.
        let knocks = self.hungry && self.dials.is_multiple_of(2);
        let mut ready: Vec<_> = self
            .candidates()
            .filter(|(_, _, from)| *from <= now)
            .map(|(addr, known, _)| {
                let comes_later = knocks && !known.had_no_room;
                (known.is_pushed(), comes_later, known.failures, rng.u32(..), addr)
            })
            .collect();
        ready.sort_unstable();
        let mut ready = ready.into_iter().map(|(pushed, .., addr)| (pushed, addr));
        let mut again = None;
        let mut chosen = Vec::new();
        loop {
            let is_for_again = self.dials % AGAIN_EACH == AGAIN_EACH - 1;
            let again = is_for_again
                .then(|| again.get_or_insert_with(|| self.to_be_tried_again(now).into_iter()));
            let next = again.and_then(Iterator::next);
            let next = next.filter(|(pushed, _)| self.dials_wanted(self.aim(now, *pushed)) > 0);
            let Some((pushed, addr)) = next.or_else(|| ready.next()) else { break };
            // The listed ones stand before the pushed ones, which have the smaller aim.
            if self.dials_wanted(self.aim(now, pushed)) == 0 || self.rests_until(now).is_some() {
                break;
            }
            if !self.dialling.contains(&addr) && !self.dials_peer_of(addr) {
                self.start_dialling(now, addr);
                chosen.push(addr);
            }
        }
        chosen
    }

    /// Looks whether there is anybody to dial by our own choice, now or when a short wait is over: only then places are
    /// kept for that. While there is room for all it makes no difference, and to look costs a walk over the book.
    fn review_choice(&mut self, now: Duration) {
        if now < self.looked + CHOICE_LOOK {
            return;
        }
        self.looked = now;
        let is_tight = self.links.len() + self.made_aim() >= self.caps.links_max;
        let may_be_chosen = |known: &Known| !known.is_pushed() && !known.resting;
        self.keeps_places = !is_tight
            || !self.dialling.is_empty()
            || self.candidates().any(|(_, known, _)| may_be_chosen(known));
    }

    /// Nobody is to be dialled any more, until [`dial`](Self::dial) is called again.
    pub fn dial_nobody(&mut self) {
        self.began = None;
    }

    /// Who failed and may be dialled by now, and whether only a push named it: who has been ready for longest comes
    /// first.
    fn to_be_tried_again(&self, now: Duration) -> Vec<(bool, SocketAddr)> {
        let failed = |(_, known, from): &(_, &Known, _)| *from <= now && known.failures > 0;
        let mut failed: Vec<_> = self.candidates().filter(failed).collect();
        failed.sort_unstable_by_key(|(addr, known, from)| (known.is_pushed(), *from, *addr));
        failed.into_iter().map(|(addr, known, _)| (known.is_pushed(), addr)).collect()
    }

    /// When [`dial`](Self::dial) will have somebody to dial, if nothing else happens; a time
    /// that has passed means now. `None`: not before something else happens.
    pub fn next_dial(&self, now: Duration) -> Option<Duration> {
        if self.dials_wanted(self.aim(now, false)) == 0 {
            let more = self.began.map(|began| began + AT_FIRST).filter(|more| *more > now);
            return more.filter(|more| self.dials_wanted(self.aim(*more, false)) > 0);
        }
        if let Some(until) = self.rests_until(now) {
            return Some(until);
        }
        // Once and not for each address: this is asked whenever a dial has ended.
        let dialled = self.peers_dialled();
        let wants = [false, true].map(|pushed| self.dials_wanted(self.aim(now, pushed)) > 0);
        self.candidates()
            .filter(|(_, known, _)| {
                wants[usize::from(known.is_pushed())]
                    && known.id.is_none_or(|id| !dialled.contains(&id))
            })
            .map(|(_, _, from)| from)
            .min()
    }

    /// How many links we would have that we made ourselves.
    pub(super) fn made_aim(&self) -> usize {
        self.caps.links_made + self.made_in_vain
    }

    /// Up to how many links we dial addresses of this kind.
    fn aim(&self, now: Duration, pushed: bool) -> usize {
        let Caps { links_aim, links_min, links_first, .. } = self.caps;
        let is_first = self.began.is_none_or(|began| now < began + AT_FIRST);
        let with_made = self.made_aim() + self.links.len() - self.made;
        let aim = match (pushed, is_first) {
            (true, _) => links_min.min(links_aim),
            (false, true) => links_aim,
            (false, false) => links_aim.max(with_made),
        };
        let aim = if is_first { aim.min(links_first) } else { aim };
        aim.max(self.one_more)
    }

    /// How many more dials would be right for that number of links.
    fn dials_wanted(&self, aim: usize) -> usize {
        let links = self.links.len() + self.dialling.len();
        let missing = aim.min(self.caps.links_max).saturating_sub(links);
        missing.min(self.caps.dials_max.saturating_sub(self.dialling.len()))
    }

    /// Addresses that may be dialled some time, with that time.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (SocketAddr, &Known, Duration)> {
        self.book.iter().filter_map(|(addr, known)| {
            let Status::Idle { from } = known.status else { return None };
            let linked = known.id.is_some_and(|id| self.by_peer.contains_key(&id));
            let banned = self.bans.hit(known.id, addr);
            (!linked && !banned).then_some((addr, known, from))
        })
    }

    /// Whether another address of the same peer is being dialled.
    fn dials_peer_of(&self, addr: SocketAddr) -> bool {
        let id = self.book.get(addr).and_then(|known| known.id);
        id.is_some_and(|id| self.peers_dialled().contains(&id))
    }

    fn peers_dialled(&self) -> Vec<PeerId> {
        self.dialling.iter().filter_map(|addr| self.book.get(*addr)?.id).collect()
    }

    fn start_dialling(&mut self, now: Duration, addr: SocketAddr) {
        if let Some(known) = self.book.get_mut(addr) {
            known.status = Status::Dialling;
            known.had_no_room = false;
            if std::mem::take(&mut known.resting) {
                known.failures = 0;
            }
            self.dialling.insert(addr);
            self.dials = self.dials.wrapping_add(1);
            if now >= self.window.0 + WINDOW {
                self.window = (now, 0);
            }
            self.window.1 += 1;
        }
    }

    /// Until when no dial begins, because there were as many as there may be, if that is so.
    fn rests_until(&self, now: Duration) -> Option<Duration> {
        let (until, begun) = (self.window.0 + WINDOW, self.window.1);
        (now < until && begun >= DIALS_IN_WINDOW).then_some(until)
    }

    /// A dial came to nothing before the handshake was through.
    pub fn dial_failed(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        if self.stop_dialling(addr) {
            self.fail(now, addr, rng);
        }
    }

    /// Whom we dialled has no place for us. Who has nothing from anybody tries again so soon that it keeps its turn
    /// there, however often; else it is a failure like others.
    pub fn found_no_room(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        if !self.stop_dialling(addr) {
            return;
        }
        let is_content = !self.hungry && !self.links.is_empty();
        if is_content {
            self.fail(now, addr, rng);
        }
        let Some(known) = self.book.get_mut(addr) else { return };
        known.had_no_room = true;
        if !is_content {
            known.status = Status::Idle { from: now + knock_again_after(rng) };
        }
    }

    pub(super) fn stop_dialling(&mut self, addr: SocketAddr) -> bool {
        let was = self.dialling.remove(&addr);
        if was && let Some(known) = self.book.get_mut(addr) {
            known.status = Status::Idle { from: Duration::ZERO };
        }
        was
    }

    /// One failure more of an address: the next dial has to wait.
    pub(super) fn fail(&mut self, now: Duration, addr: SocketAddr, rng: &mut Rng) {
        let Some(known) = self.book.get_mut(addr) else { return };
        known.failures += 1;
        known.resting = known.failures >= DIALS_MAX && !known.is_of_ticket();
        let wait = if known.resting { REST } else { backoff(known.failures, rng) };
        if matches!(known.status, Status::Idle { .. }) {
            known.status = Status::Idle { from: now + wait };
        }
    }
}

/// The wait after so many failures in a row: doubling, with jitter so that peers that failed
/// together do not come back together.
fn backoff(failures: u32, rng: &mut Rng) -> Duration {
    let doubled = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16));
    doubled.min(BACKOFF_MAX).mul_f64(0.5 + rng.f64())
}
