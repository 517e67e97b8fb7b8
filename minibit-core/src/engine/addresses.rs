//! Whom to try for a manifest, and when: the addresses of a ticket and those that trackers name.
//!
//! The sources have their turns, and of each source whoever was never tried comes first, then whoever has
//! waited out its pause. So however many dead addresses one tracker names, the living one that
//! another names is tried soon, and one among them once they have all had their turn.
//! Not here: connecting (`bootstrap`), whom the swarm dials (`swarm::Neighbours`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::time::Instant;

use crate::swarm::{PER_IP_MAX, Source, block_of, knock_again_after, may_name};
use crate::types::limits;

/// Addresses tried at once.
pub(super) const AT_ONCE_MAX: usize = 16;
/// Addresses kept of one source: more than a list has.
const KNOWN_MAX: usize = limits::PEER_LIST_MAX + 24;
/// By how much later each further address is tried for the first time, and how long after one that
/// came to nothing. One answer is enough; whoever else was asked would have a link for nothing.
pub(super) const STAGGER: Duration = Duration::from_millis(50);
/// First pause before an address is tried again; it doubles up to the last, which is longer for
/// those that a tracker names, for those it may name without end.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(4);
const RETRY_LAST_LISTED: Duration = Duration::from_secs(30);

/// See the module's header.
#[derive(Default)]
pub(super) struct Addresses {
    known: HashSet<SocketAddr>,
    of_ip: HashMap<IpAddr, usize>,
    sources: Vec<Named>,
    /// Whose turn it is.
    next: usize,
    /// First attempts so far, as far as they are spread out.
    begun: u32,
}

/// The addresses of one source that are not being tried.
struct Named {
    source: Source,
    count: usize,
    fresh: VecDeque<SocketAddr>,
    tried: VecDeque<Again>,
}

/// An address that is to be tried again.
struct Again {
    addr: SocketAddr,
    from: Instant,
    pause: Duration,
    lost_turns: u32,
}

/// One attempt: who, named by whom, after what wait, how long it had paused before, and how often it has
/// had to give way to another with a large manifest.
pub(super) struct Turn {
    pub(super) addr: SocketAddr,
    named: usize,
    pub(super) wait: Duration,
    pause: Duration,
    pub(super) lost_turns: u32,
}

impl Addresses {
    /// Takes in what a source names, as far as it may.
    pub(super) fn learn(&mut self, source: Source, addrs: impl IntoIterator<Item = SocketAddr>) {
        let at = self.sources.iter().position(|named| named.source == source);
        let at = at.unwrap_or_else(|| {
            let (fresh, tried) = (VecDeque::new(), VecDeque::new());
            self.sources.push(Named { source, count: 0, fresh, tried });
            self.sources.len() - 1
        });
        for addr in addrs {
            if may_name(source, addr) && !self.known.contains(&addr) && self.has_room(at, addr) {
                self.known.insert(addr);
                *self.of_ip.entry(block_of(addr.ip())).or_default() += 1;
                self.sources[at].count += 1;
                self.sources[at].fresh.push_back(addr);
            }
        }
    }

    /// Whether one more may be known of a source; if it has named too many, the one that failed
    /// longest ago makes room.
    fn has_room(&mut self, at: usize, addr: SocketAddr) -> bool {
        let block = block_of(addr.ip());
        let of_ip = self.of_ip.get(&block).copied().unwrap_or(0);
        if of_ip >= PER_IP_MAX && !block.is_loopback() {
            return false;
        }
        let named = &mut self.sources[at];
        if named.count < KNOWN_MAX || named.source == Source::Ticket {
            return true;
        }
        let Some(oldest) = named.tried.pop_front() else { return false };
        named.count -= 1;
        self.known.remove(&oldest.addr);
        if let Some(count) = self.of_ip.get_mut(&block_of(oldest.addr.ip())) {
            *count -= 1;
        }
        true
    }

    /// Whom to try now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Turn> {
        for step in 0..self.sources.len() {
            let at = (self.next + step) % self.sources.len();
            let named = &mut self.sources[at];
            let turn = if let Some(addr) = named.fresh.pop_front() {
                // The first few one after another; from then on each follows one that failed.
                let before = self.begun;
                self.begun = (before + 1).min(AT_ONCE_MAX as u32);
                let spread = if (before as usize) < AT_ONCE_MAX { before } else { 1 };
                Turn {
                    addr,
                    named: at,
                    wait: STAGGER * spread,
                    pause: Duration::ZERO,
                    lost_turns: 0,
                }
            } else {
                let ready = named.tried.iter().position(|tried| tried.from <= now);
                let Some(tried) = ready.and_then(|ready| named.tried.remove(ready)) else {
                    continue;
                };
                let Again { addr, pause, lost_turns, .. } = tried;
                Turn { addr, named: at, wait: Duration::ZERO, pause, lost_turns }
            };
            self.next = at + 1;
            return Some(turn);
        }
        None
    }

    /// When somebody may be tried again, if nobody can be now.
    pub(super) fn next_ready(&self) -> Option<Instant> {
        self.sources.iter().flat_map(|named| &named.tried).map(|tried| tried.from).min()
    }

    /// It came to nothing: again, after a longer pause.
    pub(super) fn again(&mut self, now: Instant, turn: &Turn) {
        let is_of_ticket = self.sources[turn.named].source == Source::Ticket;
        let last = if is_of_ticket { RETRY_LAST } else { RETRY_LAST_LISTED };
        let pause = (turn.pause * 2).clamp(RETRY_FIRST, last);
        self.put_back(turn, now + pause, pause);
    }

    /// It said that it has no place for us: again soon, however often.
    pub(super) fn again_when_there_is_room(
        &mut self,
        now: Instant,
        turn: &Turn,
        rng: &mut fastrand::Rng,
    ) {
        self.put_back(turn, now + knock_again_after(rng), turn.pause);
    }

    fn put_back(&mut self, turn: &Turn, from: Instant, pause: Duration) {
        let Turn { addr, lost_turns, .. } = *turn;
        self.sources[turn.named].tried.push_back(Again { addr, from, pause, lost_turns });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(number: usize) -> SocketAddr {
        let [.., high, low] = number.to_be_bytes();
        SocketAddr::from(([8, 8, high, low], 9))
    }

    /// Tries addresses until this one comes up, all refused at once; how long that takes.
    fn found_after(addresses: &mut Addresses, wanted: SocketAddr) -> Duration {
        let start = Instant::now();
        let mut ends = std::collections::BTreeSet::new();
        let mut going: HashMap<Instant, Vec<Turn>> = HashMap::new();
        let (mut now, mut count) = (start, 0);
        loop {
            while count < AT_ONCE_MAX
                && let Some(turn) = addresses.next(now)
            {
                count += 1;
                ends.insert(now + turn.wait);
                going.entry(now + turn.wait).or_default().push(turn);
            }
            let ready = addresses.next_ready().filter(|_| count < AT_ONCE_MAX);
            now = ends.first().copied().into_iter().chain(ready).min().unwrap();
            ends.remove(&now);
            for turn in going.remove(&now).into_iter().flatten() {
                if turn.addr == wanted {
                    return now - start;
                }
                count -= 1;
                addresses.again(now, &turn);
            }
        }
    }

    #[tokio::test]
    async fn the_last_of_a_thousand_that_refuse_at_once_is_tried_within_seconds() {
        let mut addresses = Addresses::default();
        let tracker = Source::List(SocketAddr::from(([8, 8, 8, 8], 7)));
        addresses.learn(tracker, (0..1000).map(addr));
        let after = found_after(&mut addresses, addr(999));
        assert!(after < Duration::from_secs(5), "{after:?}");
        // Another list names others: those that failed make room.
        addresses.learn(tracker, (1000..2000).map(addr));
        let after = found_after(&mut addresses, addr(1999));
        assert!(after < Duration::from_secs(10), "{after:?}");
        assert!(addresses.known.len() <= KNOWN_MAX);
    }

    #[tokio::test]
    async fn who_has_no_place_is_tried_again_after_a_second_however_often_and_others_ever_more_rarely()
     {
        let mut addresses = Addresses::default();
        let tracker = Source::List(SocketAddr::from(([8, 8, 8, 8], 7)));
        addresses.learn(tracker, [addr(1)]);
        let (mut rng, mut now) = (fastrand::Rng::with_seed(1), Instant::now());
        for times in 0..20 {
            let turn = addresses.next(now).unwrap();
            addresses.again_when_there_is_room(now, &turn, &mut rng);
            let pause = addresses.next_ready().unwrap() - now;
            assert!((750..=1250).contains(&pause.as_millis()), "{pause:?}, {times}");
            now += pause;
        }
        for _ in 0..20 {
            let turn = addresses.next(now).unwrap();
            addresses.again(now, &turn);
            now = addresses.next_ready().unwrap();
        }
        let turn = addresses.next(now).unwrap();
        assert_eq!(turn.pause, RETRY_LAST_LISTED);
    }

    #[tokio::test]
    async fn how_often_an_address_gave_way_is_remembered() {
        let mut addresses = Addresses::default();
        addresses.learn(Source::Ticket, [addr(1)]);
        let now = Instant::now();
        let mut turn = addresses.next(now).unwrap();
        turn.lost_turns += 1;
        addresses.again(now, &turn);
        assert_eq!(addresses.next(now + RETRY_LAST).unwrap().lost_turns, 1);
    }

    #[tokio::test]
    async fn one_victim_is_tried_at_a_few_ports_only() {
        let mut addresses = Addresses::default();
        let tracker = Source::List(SocketAddr::from(([8, 8, 8, 8], 7)));
        let ports = (1..1000).map(|port| SocketAddr::from(([9, 9, 9, 9], port)));
        addresses.learn(tracker, ports);
        assert_eq!(addresses.known.len(), PER_IP_MAX);
    }
}
