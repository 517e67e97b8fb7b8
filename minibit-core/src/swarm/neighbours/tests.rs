//! Whom we dial, whom we link to and whom we leave alone, a rule at a time; and that the caps hold whatever happens.

use super::dialling::{
    AT_FIRST, BACKOFF_MAX, BACKOFF_MIN, DIALS_IN_WINDOW, DIALS_MAX, REST, WINDOW,
};
use super::*;
use fastrand::Rng;
use proptest::prelude::*;

/// Our own identity lies in the middle, so that others are smaller and greater.
const ME: u64 = 50;

struct Node {
    neighbours: Neighbours,
    now: Duration,
    rng: Rng,
    next_link: u32,
    giving_way: Vec<LinkId>,
}

impl Node {
    fn new(caps: Caps) -> Self {
        let neighbours = Neighbours::new(PeerId::numbered(ME), caps);
        let (now, rng) = (Duration::from_secs(1), Rng::with_seed(3));
        Self { neighbours, now, rng, next_link: 1, giving_way: Vec::new() }
    }

    fn after(&mut self, wait: Duration) -> &mut Self {
        self.now += wait;
        self
    }

    fn learn(&mut self, source: Source, peers: impl IntoIterator<Item = u64>) -> usize {
        self.neighbours.learn(self.now, source, peers.into_iter().map(peer))
    }

    fn dial(&mut self) -> Vec<SocketAddr> {
        self.neighbours.dial(self.now, &mut self.rng)
    }

    fn fail(&mut self, addr: SocketAddr) {
        self.neighbours.dial_failed(self.now, addr, &mut self.rng);
    }

    fn greet(&mut self, number: u64, direction: Direction) -> (LinkId, Verdict) {
        self.greet_at(number, addr(number), direction)
    }

    fn greet_at(
        &mut self,
        number: u64,
        addr: SocketAddr,
        direction: Direction,
    ) -> (LinkId, Verdict) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let greeting = Greeting { link, id: PeerId::numbered(number), direction, addr };
        (link, self.neighbours.greeted(self.now, greeting, &self.giving_way, &mut self.rng))
    }

    fn close(&mut self, link: LinkId) {
        self.neighbours.closed(self.now, link, Ending::default(), &mut self.rng);
    }
}

#[test]
fn nothing_is_due_for_an_address_of_a_peer_that_is_being_dialled_at_another() {
    let mut node = Node::new(caps(40, 40, 0, 4));
    let id = Some(PeerId::numbered(2));
    let known = [2, 3].map(|number| KnownPeer { id, addr: addr(number) });
    node.neighbours.learn(node.now, Source::Ticket, known);
    assert_eq!(node.dial().len(), 1);
    assert_eq!(node.dial(), []);
    assert!(node.neighbours.next_dial(node.now).is_none_or(|due| due > node.now));
}

#[test]
fn many_identities_of_one_ip_do_not_take_every_place() {
    let mut node = Node::new(caps(40, 0, 0, 0));
    let full = Verdict::Refuse(Refusal::Full);
    let crowd = |port| SocketAddr::new(addr(1).ip(), port);
    for number in 100..110 {
        assert_eq!(node.greet_at(number, crowd(1), Direction::Accepted).1, Verdict::Keep);
    }
    assert_eq!(node.greet_at(110, crowd(1), Direction::Accepted).1, full);
    assert_eq!(node.greet_at(111, crowd(2), Direction::Dialled).1, Verdict::Keep, "our choice");
    assert_eq!(node.greet(2, Direction::Accepted).1, Verdict::Keep, "another IP");
    let here = SocketAddr::from(([127, 0, 0, 1], 1));
    for number in 200..220 {
        assert_eq!(node.greet_at(number, here, Direction::Accepted).1, Verdict::Keep);
    }
}

fn addr(number: u64) -> SocketAddr {
    SocketAddr::new(IpAddr::V4((0x0800_0000 + number as u32).into()), 7)
}

fn peer(number: u64) -> KnownPeer {
    KnownPeer { id: Some(PeerId::numbered(number)), addr: addr(number) }
}

fn list() -> Source {
    Source::List(addr(9999))
}

fn caps(links_max: usize, links_aim: usize, links_min: usize, dials_max: usize) -> Caps {
    Caps { links_max, links_aim, links_made: 0, links_min, links_first: links_aim, dials_max }
}

#[test]
fn with_few_connections_there_are_few_links_and_room_for_those_who_come() {
    for connections in 1..1000 {
        let Caps { links_max, links_aim, links_min, dials_max, .. } =
            Caps::default().within(connections);
        assert!(links_max + dials_max <= connections.max(2) && links_min <= links_aim);
        assert!(links_aim < links_max || links_max < 2, "{connections}");
        assert!(links_max >= 1 && dials_max >= 1);
    }
    assert_eq!(Caps::default().within(1000), Caps::default());
}

#[test]
fn listed_addresses_are_dialled_up_to_the_aim_and_so_many_at_once() {
    let mut node = Node::new(caps(100, 6, 2, 4));
    node.learn(list(), 1..=20);
    let first = node.dial();
    assert_eq!((first.len(), node.dial().len()), (4, 0));
    for dialled in first {
        let number = (1..=20).find(|n| addr(*n) == dialled).unwrap();
        assert_eq!(node.greet(number, Direction::Dialled).1, Verdict::Keep);
    }
    assert_eq!((node.dial().len(), node.dial().len()), (2, 0));
    assert_eq!(node.neighbours.next_dial(node.now), None);
}

/// Room for a hundred, content with forty, of which ten are to be our choice.
const CHOOSY: Caps = Caps {
    links_max: 100,
    links_aim: 40,
    links_made: 10,
    links_min: 8,
    links_first: 40,
    dials_max: 16,
};

#[test]
fn whoever_connects_first_does_not_keep_us_from_links_of_our_own_choice() {
    let mut node = Node::new(CHOOSY);
    (101..=150).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
    node.learn(list(), 1..=30);
    assert!(node.dial().is_empty(), "it may be over before that matters");
    node.now = node.neighbours.next_dial(node.now).expect("it will matter");
    let dialled = node.dial();
    assert_eq!((dialled.len(), node.dial().len()), (10, 0));
    let numbers = (1..=30).filter(|n| dialled.contains(&addr(*n)));
    let links: Vec<LinkId> = numbers.map(|n| node.greet(n, Direction::Dialled).0).collect();
    assert_eq!(node.neighbours.next_dial(node.now), None);
    node.neighbours.closed(node.now, links[0], Ending::default(), &mut node.rng);
    assert_eq!(node.dial().len(), 1, "in place of the one that is gone");
}

#[test]
fn links_that_we_made_to_who_only_takes_do_not_count_but_for_as_many_again() {
    // In vain are so many of the ten that we made; others made forty.
    for (in_vain, dialled) in [(0, 0), (4, 4), (40, 10)] {
        let mut node = Node::new(CHOOSY);
        node.learn(list(), 1..=40);
        node.dial();
        node.after(AT_FIRST);
        (1..=10).for_each(|n| assert_eq!(node.greet(n, Direction::Dialled).1, Verdict::Keep));
        for n in 11..=40 {
            node.neighbours.dial_failed(node.now, addr(n), &mut node.rng);
        }
        (101..=140).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
        node.after(BACKOFF_MAX * 2);
        node.neighbours.set_made_in_vain(in_vain);
        assert_eq!(node.dial().len(), dialled, "{in_vain}");
    }
}

#[test]
fn as_long_as_we_dial_places_are_kept_for_links_of_our_own_choice() {
    let mut node = Node::new(CHOOSY);
    let full = Verdict::Refuse(Refusal::Full);
    node.learn(list(), 1..=1);
    let dialled = node.dial();
    assert_eq!(dialled, [addr(1)]);
    (101..=190).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
    assert_eq!(node.greet(191, Direction::Accepted).1, full);
    assert_eq!(node.greet(1, Direction::Dialled).1, Verdict::Keep);
    assert_eq!(node.greet(192, Direction::Accepted).1, full, "nine are kept still");
    node.neighbours.dial_nobody();
    node.now += Duration::from_secs(60);
    (201..=209).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
    assert_eq!(node.greet(210, Direction::Accepted).1, full);
}

#[test]
fn places_are_kept_for_who_is_to_be_dialled_in_place_of_links_in_vain_and_these_stay_ours() {
    let mut node = Node::new(CHOOSY);
    node.learn(list(), 1..=30);
    node.dial();
    (1..=10).for_each(|n| assert_eq!(node.greet(n, Direction::Dialled).1, Verdict::Keep));
    for n in 11..=30 {
        node.neighbours.dial_failed(node.now, addr(n), &mut node.rng);
    }
    node.neighbours.set_made_in_vain(10);
    let kept = (101..=200).filter(|n| node.greet(*n, Direction::Accepted).1 == Verdict::Keep);
    assert_eq!(kept.count(), 80);
    node.after(BACKOFF_MAX * 2);
    let dialled = node.dial();
    assert_eq!(dialled.len(), 10);
    let mut ours = vec![];
    for dialled in dialled {
        let number = (11..=30).find(|number| addr(*number) == dialled).unwrap();
        ours.push(node.greet(number, Direction::Dialled).0);
    }
    let greeting = Greeting {
        link: LinkId(9999),
        id: PeerId::numbered(300),
        direction: Direction::Accepted,
        addr: addr(300),
    };
    let verdict = node.neighbours.greeted(node.now, greeting, &ours, &mut node.rng);
    assert_eq!(verdict, Verdict::Refuse(Refusal::Full));
}

#[test]
fn who_connects_to_us_has_no_place_of_a_link_of_our_own_choice_however_useless() {
    let mut node = Node::new(CHOOSY);
    node.learn(list(), 1..=10);
    let made: Vec<LinkId> = (1..=10)
        .map(|number| {
            node.dial();
            node.greet(number, Direction::Dialled).0
        })
        .collect();
    (101..=190).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
    let greeting = |n| Greeting {
        link: LinkId(1000),
        id: PeerId::numbered(n),
        direction: Direction::Accepted,
        addr: addr(n),
    };
    let verdict = node.neighbours.greeted(node.now, greeting(200), &made, &mut node.rng);
    assert_eq!(verdict, Verdict::Refuse(Refusal::Full));
    let verdict = node.neighbours.greeted(node.now, greeting(200), &[LinkId(30)], &mut node.rng);
    assert_eq!(verdict, Verdict::Displace(LinkId(30)));
}

#[test]
fn no_places_are_kept_where_nobody_could_be_dialled_by_choice() {
    for source in [Source::Push(addr(9999)), list()] {
        let mut node = Node::new(CHOOSY);
        node.learn(source, 101..=140);
        (101..=190).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
        node.now += Duration::from_secs(2);
        assert!(node.dial().is_empty(), "all who are known are linked");
        (191..=200).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
    }
}

#[test]
fn a_push_alone_makes_us_dial_only_below_the_minimum() {
    let push = Source::Push(addr(9999));
    let mut node = Node::new(caps(100, 40, 4, 16));
    node.learn(push, 1..=9);
    assert_eq!(node.dial().len(), 4);
    let mut full = Node::new(caps(100, 40, 4, 16));
    (11..=14).for_each(|n| assert_eq!(full.greet(n, Direction::Accepted).1, Verdict::Keep));
    full.learn(push, 1..=9);
    assert_eq!((full.dial(), full.neighbours.next_dial(full.now)), (vec![], None));
    full.learn(list(), 1..=2);
    assert_eq!(full.dial().len(), 2, "a list is another matter");
}

#[test]
fn a_link_that_is_lost_soon_is_made_again_soon_as_long_as_it_brings_something() {
    let waits = |brings: bool, was_held_back: bool| -> Vec<Duration> {
        let mut node = Node::new(Caps::default());
        node.learn(list(), [1]);
        let again = |_| {
            assert_eq!(node.dial(), [addr(1)]);
            let (link, verdict) = node.greet(1, Direction::Dialled);
            assert_eq!(verdict, Verdict::Keep);
            let brought_at = node.now + Duration::from_millis(u64::from(brings));
            node.now += Duration::from_secs(2);
            let ending = Ending { brought_at, was_held_back };
            node.neighbours.closed(node.now, link, ending, &mut node.rng);
            let next = node.neighbours.next_dial(node.now).unwrap();
            let wait = next - node.now;
            node.now = next;
            wait
        };
        (0..DIALS_MAX).map(again).collect()
    };
    let are_short = |waits: &[Duration]| waits.iter().all(|wait| *wait < BACKOFF_MIN * 2);
    assert!(are_short(&waits(true, false)));
    assert!(are_short(&waits(false, true)), "we never asked it for anything");
    assert_eq!(waits(false, false).last(), Some(&REST));
}

#[test]
fn who_had_no_room_once_and_cannot_be_reached_any_more_is_not_tried_again_soon_for_lack_of_others()
{
    let next_after = |reachable: bool| {
        let mut node = Node::new(Caps::default());
        node.greet(2, Direction::Accepted);
        node.learn(list(), [1]);
        for time in 0..6 {
            assert_eq!(node.dial(), [addr(1)]);
            if time < 5 || reachable {
                node.neighbours.found_no_room(node.now, addr(1), &mut node.rng);
            } else {
                node.fail(addr(1));
            }
            if time < 5 {
                node.now = node.neighbours.next_dial(node.now).unwrap();
            }
        }
        node.neighbours.set_hungry(node.now, true, &mut node.rng);
        node.neighbours.next_dial(node.now).unwrap() - node.now
    };
    assert!(next_after(true) < Duration::from_secs(2));
    assert!(next_after(false) >= Duration::from_secs(8));
}

#[test]
fn who_failed_before_has_its_turn_beside_any_number_of_nodes_that_are_slow_to_say_that_they_are_full()
 {
    for dials_max in [1, 16] {
        let mut node = Node::new(Caps { dials_max, ..Caps::default() });
        assert_eq!(node.greet(500, Direction::Accepted).1, Verdict::Keep);
        node.learn(Source::Ticket, [1]);
        assert_eq!(node.dial(), [addr(1)]);
        node.fail(addr(1));
        node.neighbours.set_hungry(node.now, true, &mut node.rng);
        node.learn(list(), 2..=61);
        let mut dialled_again = (0..8).map(|_| {
            let dialled = node.dial();
            node.after(Duration::from_secs(4));
            for full in &dialled {
                node.neighbours.found_no_room(node.now, *full, &mut node.rng);
            }
            dialled.contains(&addr(1))
        });
        assert!(dialled_again.any(|again| again), "{dials_max} at once");
    }
}

#[test]
fn addresses_that_refuse_at_once_are_dialled_at_a_bounded_rate_and_those_that_come_later_all_the_same()
 {
    let mut node = Node::new(Caps::default());
    node.greet(2, Direction::Accepted);
    // Of which the fourth and the last dial of all.
    node.neighbours.dials = u32::MAX;
    node.learn(list(), 100..=1099);
    let (start, mut begun) = (node.now, 0);
    while node.now < start + 4 * WINDOW {
        let dialled = node.dial();
        begun += dialled.len();
        dialled.iter().for_each(|addr| node.fail(*addr));
        let next = node.neighbours.next_dial(node.now).unwrap();
        assert!(next <= node.now + WINDOW, "somebody is ready all the time");
        node.now = next.max(node.now);
    }
    assert_eq!(begun, 4 * DIALS_IN_WINDOW as usize);
    node.learn(list(), [3]);
    let dialled_of_new = (0..60).any(|_| {
        let dialled = node.dial();
        dialled.iter().for_each(|addr| node.fail(*addr));
        node.now = node.neighbours.next_dial(node.now).unwrap().max(node.now);
        dialled.contains(&addr(3))
    });
    assert!(dialled_of_new);
}

#[test]
fn of_those_who_failed_who_has_been_ready_for_longest_is_tried_again_first() {
    let mut node = Node::new(Caps { dials_max: 1, ..Caps::default() });
    for number in 1..=2 {
        node.learn(list(), [number]);
        assert_eq!(node.dial(), [addr(number)]);
        node.fail(addr(number));
        node.after(Duration::from_secs(1));
    }
    node.learn(list(), 3..=30);
    let fresh = node.dial();
    fresh.iter().for_each(|addr| node.fail(*addr));
    assert_eq!(node.dial(), [addr(1)], "the fourth dial");
}

#[test]
fn failures_wait_longer_each_time_and_then_rest() {
    let mut node = Node::new(Caps::default());
    node.learn(list(), [1]);
    let mut waits = Vec::new();
    for _ in 0..DIALS_MAX {
        assert_eq!(node.dial(), [addr(1)]);
        node.fail(addr(1));
        let next = node.neighbours.next_dial(node.now).unwrap();
        waits.push(next - node.now);
        assert_eq!(node.dial(), []);
        node.now = next;
    }
    for (at, wait) in waits[..waits.len() - 1].iter().enumerate() {
        let middle = BACKOFF_MIN * (1 << at);
        assert!((middle / 2..=middle * 3 / 2).contains(wait), "{at}: {waits:?}");
    }
    assert_eq!(waits.last(), Some(&REST));
    // It has rested, and starts again with short waits.
    assert_eq!(node.dial(), [addr(1)]);
    node.fail(addr(1));
    assert!(node.neighbours.next_dial(node.now).unwrap() - node.now < BACKOFF_MIN * 2);
}

#[test]
fn where_there_is_no_room_who_has_nothing_tries_again_each_second_and_others_ever_more_rarely() {
    let mut node = Node::new(Caps::default());
    node.learn(list(), [1]);
    let refused_for = |node: &mut Node| {
        assert_eq!(node.dial(), [addr(1)]);
        node.neighbours.found_no_room(node.now, addr(1), &mut node.rng);
        let wait = node.neighbours.next_dial(node.now).unwrap() - node.now;
        node.after(wait);
        wait
    };
    for _ in 0..20 {
        assert!((750..=1250).contains(&refused_for(&mut node).as_millis()));
    }
    node.greet(2, Direction::Accepted);
    let waits: Vec<_> = (0..DIALS_MAX).map(|_| refused_for(&mut node)).collect();
    assert_eq!(waits.last(), Some(&REST));
    node.neighbours.set_hungry(node.now, true, &mut node.rng);
    assert!(refused_for(&mut node) < BACKOFF_MIN * 3, "those it has are of no use");
}

#[test]
fn who_was_full_while_we_were_content_is_tried_again_soon_once_we_lack_something() {
    let mut node = Node::new(Caps::default());
    node.learn(list(), [1, 2]);
    node.greet(3, Direction::Accepted);
    for _ in 0..DIALS_MAX {
        for dialled in node.dial() {
            if dialled == addr(1) {
                node.neighbours.found_no_room(node.now, dialled, &mut node.rng);
            } else {
                node.fail(dialled);
            }
        }
        node.after(BACKOFF_MAX * 2);
    }
    assert_eq!(node.dial(), [], "both rest");
    node.neighbours.set_hungry(node.now, true, &mut node.rng);
    assert!(node.neighbours.next_dial(node.now).unwrap() - node.now < BACKOFF_MIN * 3);
    node.after(BACKOFF_MIN * 3);
    assert_eq!(node.dial(), [addr(1)], "the other cannot be reached");
}

#[test]
fn who_has_nothing_from_anybody_dials_one_more_each_time_that_it_is_found_so() {
    let mut node = Node::new(Caps { links_aim: 2, links_made: 0, ..Caps::default() });
    node.learn(list(), 10..20);
    node.greet(2, Direction::Accepted);
    node.greet(3, Direction::Accepted);
    assert_eq!(node.dial(), [], "there are enough");
    for _ in 0..3 {
        node.neighbours.set_hungry(node.now, true, &mut node.rng);
        let dialled = node.dial();
        assert_eq!(dialled.len(), 1);
        let number = (10..20).find(|number| addr(*number) == dialled[0]).unwrap();
        assert_eq!(node.greet(number, Direction::Dialled).1, Verdict::Keep);
        assert_eq!(node.dial(), [], "it may have something");
    }
    node.neighbours.set_hungry(node.now, true, &mut node.rng);
    node.neighbours.set_hungry(node.now, false, &mut node.rng);
    assert_eq!(node.dial(), []);
}

#[test]
fn who_has_nothing_from_anybody_keeps_its_turn_with_who_was_full_beside_any_number_of_others() {
    let mut node = Node::new(Caps { links_aim: 2, links_made: 0, ..Caps::default() });
    node.learn(list(), [1]);
    assert_eq!(node.dial(), [addr(1)]);
    node.neighbours.found_no_room(node.now, addr(1), &mut node.rng);
    node.learn(list(), 10..80);
    node.greet(2, Direction::Accepted);
    node.greet(3, Direction::Accepted);
    let mut knocked = 0;
    for _ in 0..20 {
        node.after(Duration::from_secs(1));
        node.neighbours.set_hungry(node.now, true, &mut node.rng);
        while let [dialled] = node.dial()[..] {
            if dialled == addr(1) {
                knocked += 1;
                node.neighbours.found_no_room(node.now, dialled, &mut node.rng);
            } else {
                let number = (10..80).find(|number| addr(*number) == dialled).unwrap();
                assert_eq!(node.greet(number, Direction::Dialled).1, Verdict::Keep);
            }
        }
    }
    assert!(knocked >= 10, "{knocked} times in 20 s");
}

#[test]
fn the_ticket_is_never_given_up() {
    let mut node = Node::new(Caps::default());
    node.learn(Source::Ticket, [1]);
    for _ in 0..50 {
        assert_eq!(node.dial(), [addr(1)]);
        node.fail(addr(1));
        let next = node.neighbours.next_dial(node.now).unwrap();
        assert!(next - node.now <= BACKOFF_MAX * 3 / 2);
        node.now = next;
    }
}

#[test]
fn a_lasting_link_clears_the_failures_and_a_short_one_is_another() {
    let mut node = Node::new(Caps::default());
    node.learn(list(), [1]);
    for _ in 0..4 {
        node.dial();
        node.fail(addr(1));
        node.now = node.neighbours.next_dial(node.now).unwrap();
    }
    for (lives, short_wait) in [(Duration::from_secs(1), false), (LASTING, true)] {
        assert_eq!(node.dial(), [addr(1)]);
        let (link, verdict) = node.greet(1, Direction::Dialled);
        assert_eq!(verdict, Verdict::Keep);
        node.after(lives).close(link);
        let next = node.neighbours.next_dial(node.now).unwrap();
        assert_eq!(next - node.now < BACKOFF_MIN * 2, short_wait);
        node.now = next;
    }
}

#[test]
fn we_are_never_linked_to_ourselves_and_dial_our_own_address_once() {
    let mut node = Node::new(Caps::default());
    assert_eq!(node.learn(list(), [ME]), 0, "a list names us: known by the identity");
    let own = KnownPeer { id: None, addr: addr(77) };
    node.neighbours.learn(node.now, Source::Ticket, [own]);
    assert_eq!(node.dial(), [addr(77)]);
    let refused = Verdict::Refuse(Refusal::Ourselves);
    assert_eq!(node.greet_at(ME, addr(77), Direction::Dialled).1, refused);
    assert_eq!(node.greet_at(ME, addr(77), Direction::Accepted).1, refused);
    assert_eq!(node.after(REST).dial(), []);
    node.neighbours.learn(node.now, list(), [own]);
    assert_eq!((node.dial(), node.neighbours.next_dial(node.now)), (vec![], None));
}

#[test]
fn of_two_connections_at_once_both_ends_keep_the_one_of_the_smaller_identity() {
    use Direction::{Accepted, Dialled};
    let duplicate = Verdict::Refuse(Refusal::Duplicate);
    for (other, first, second, replaced) in [
        (9, Accepted, Dialled, false),
        (9, Dialled, Accepted, true),
        (90, Accepted, Dialled, true),
        (90, Dialled, Accepted, false),
        (9, Accepted, Accepted, false),
        (90, Accepted, Accepted, false),
    ] {
        let mut node = Node::new(Caps::default());
        node.learn(list(), [other]);
        node.dial();
        let (old, verdict) = node.greet(other, first);
        assert_eq!(verdict, Verdict::Keep);
        let (new, verdict) = node.greet(other, second);
        let want = if replaced { Verdict::Replace(old) } else { duplicate };
        assert_eq!(verdict, want, "{other} {first:?} {second:?}");
        let kept = if replaced { new } else { old };
        assert_eq!(node.neighbours.link_to(PeerId::numbered(other)), Some(kept));
        assert_eq!(node.neighbours.link_count(), 1);
        // The end of the one that was given up does not end the one that is kept.
        node.close(if replaced { old } else { new });
        assert_eq!(node.neighbours.link_count(), 1);
        // Our own dial came to nothing, if it has not become one of the two.
        node.fail(addr(other));
        node.after(LASTING).close(kept);
        assert_eq!(node.after(BACKOFF_MAX).dial(), [addr(other)]);
    }
}

#[test]
fn a_link_that_has_lived_is_not_given_up_for_a_newcomer() {
    let mut node = Node::new(Caps::default());
    node.learn(list(), [9]);
    node.dial();
    node.greet(9, Direction::Dialled);
    let (_, verdict) = node.after(AT_ONCE).greet(9, Direction::Accepted);
    assert_eq!(verdict, Verdict::Refuse(Refusal::Duplicate));
}

#[test]
fn a_peer_that_is_linked_is_not_dialled_at_any_of_its_addresses() {
    let mut node = Node::new(Caps::default());
    let second = KnownPeer { id: Some(PeerId::numbered(1)), addr: addr(1001) };
    node.learn(list(), [1]);
    node.neighbours.learn(node.now, list(), [second]);
    assert_eq!(node.dial().len(), 1, "one of the two");
    let (link, _) = node.greet_at(1, addr(5000), Direction::Accepted);
    node.fail(addr(1));
    node.fail(addr(1001));
    assert_eq!(node.after(BACKOFF_MAX).dial(), []);
    node.after(LASTING).close(link);
    assert_eq!(node.after(BACKOFF_MAX).dial().len(), 1);
}

#[test]
fn there_are_never_more_links_than_the_cap() {
    let mut node = Node::new(caps(3, 3, 2, 9));
    (1..=3).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, Verdict::Keep));
    let (_, verdict) = node.greet(4, Direction::Accepted);
    assert_eq!(verdict, Verdict::Refuse(Refusal::Full));
}

#[test]
fn a_newcomer_has_the_place_of_who_gives_way_and_of_nobody_else() {
    let mut node = Node::new(caps(3, 3, 2, 9));
    let links: Vec<_> = (1..=3).map(|n| node.greet(n, Direction::Accepted).0).collect();
    node.giving_way = vec![links[1], links[2]];
    assert_eq!(node.greet(4, Direction::Accepted).1, Verdict::Displace(links[1]));
    assert_eq!((node.neighbours.link_count(), node.neighbours.is_full()), (3, true));
    assert_eq!(node.neighbours.link_to(PeerId::numbered(2)), None);
    let duplicate = Verdict::Refuse(Refusal::Duplicate);
    assert_eq!(node.greet(4, Direction::Accepted).1, duplicate, "nobody leaves for that");
}

#[test]
fn where_one_address_has_its_part_only_one_of_its_own_gives_way() {
    let mut node = Node::new(caps(40, 0, 0, 0));
    let crowd = SocketAddr::new(addr(1).ip(), 1);
    let (other, _) = node.greet(2, Direction::Accepted);
    let own = (100..110).map(|n| node.greet_at(n, crowd, Direction::Accepted).0).last();
    node.giving_way = vec![other];
    let (_, verdict) = node.greet_at(110, crowd, Direction::Accepted);
    assert_eq!(verdict, Verdict::Refuse(Refusal::Full));
    node.giving_way.extend(own);
    let (_, verdict) = node.greet_at(110, crowd, Direction::Accepted);
    assert_eq!(Some(verdict), own.map(Verdict::Displace));
}

#[test]
fn a_place_that_falls_free_is_for_who_was_turned_away_first_as_long_as_it_comes_again() {
    let full = Verdict::Refuse(Refusal::Full);
    let mut node = Node::new(caps(3, 3, 2, 9));
    let links: Vec<_> = (1..=3).map(|n| node.greet(n, Direction::Accepted).0).collect();
    assert_eq!(node.greet(4, Direction::Accepted).1, full);
    node.after(Duration::from_secs(1)).close(links[0]);
    assert_eq!(node.greet(5, Direction::Accepted).1, full, "it is for the other");
    node.giving_way = vec![links[1]];
    assert_eq!(node.greet(5, Direction::Accepted).1, Verdict::Keep, "there are two");
    let late = node.after(Duration::from_secs(9)).greet(6, Direction::Accepted).1;
    assert_eq!(late, Verdict::Displace(links[1]), "it did not come again");
    assert_eq!(node.greet(4, Direction::Accepted).1, full, "and has lost its turn");
}

#[test]
fn of_many_free_places_a_quarter_of_all_is_kept_for_those_who_wait_and_those_in_their_order() {
    let mut node = Node::new(caps(40, 0, 0, 0));
    let full = Verdict::Refuse(Refusal::Full);
    let links: Vec<_> = (100..140).map(|n| node.greet(n, Direction::Accepted).0).collect();
    (200..220).for_each(|n| assert_eq!(node.greet(n, Direction::Accepted).1, full));
    links[..16].iter().for_each(|link| node.close(*link));
    let let_in = |node: &mut Node, numbers: std::ops::Range<u64>| {
        numbers.filter(|n| node.greet(*n, Direction::Accepted).1 == Verdict::Keep).count()
    };
    assert_eq!(let_in(&mut node, 300..316), 6, "ten are kept");
    assert_eq!(let_in(&mut node, 210..220), 0);
    assert_eq!(let_in(&mut node, 200..210), 10);
}

#[test]
fn however_many_one_address_has_waiting_another_has_the_next_place() {
    let mut node = Node::new(caps(40, 0, 0, 0));
    let crowd = |number: u64| SocketAddr::new(addr(1).ip(), number as u16);
    let own = (100..109).map(|n| node.greet_at(n, crowd(n), Direction::Accepted).0);
    let own: Vec<_> = own.collect();
    for number in 200..231 {
        node.greet(number, Direction::Accepted);
    }
    for number in 300..330 {
        let verdict = node.greet_at(number, crowd(number), Direction::Accepted).1;
        assert_eq!(verdict, Verdict::Refuse(Refusal::Full));
    }
    node.giving_way = vec![own[0]];
    let verdict = node.greet(2, Direction::Accepted).1;
    assert_eq!(verdict, Verdict::Displace(own[0]), "it has no link yet");
}

#[test]
fn a_banned_peer_is_refused_and_not_dialled_under_any_name_or_address() {
    let mut node = Node::new(Caps::default());
    node.learn(list(), [1]);
    node.dial();
    let (link, _) = node.greet(1, Direction::Dialled);
    node.neighbours.ban(link);
    node.close(link);
    let banned = Verdict::Refuse(Refusal::Banned);
    assert!(node.neighbours.is_banned(PeerId::numbered(1)));
    assert_eq!(node.after(REST).dial(), []);
    assert_eq!(node.greet_at(1, addr(2), Direction::Accepted).1, banned, "same identity");
    assert_eq!(node.greet_at(2, addr(1), Direction::Accepted).1, banned, "same address");
    assert!(!node.neighbours.refuses_ip(addr(1).ip()));
    for number in 3..=4 {
        node.neighbours.ban_peer(PeerId::numbered(number), addr(1));
    }
    assert!(node.neighbours.refuses_ip(addr(1).ip()), "three identities of one IP");
}

#[test]
fn whoever_came_to_us_can_be_dialled_after_it_is_gone_unless_it_does_not_listen() {
    let mut node = Node::new(Caps::default());
    let (link, _) = node.greet(1, Direction::Accepted);
    let silent = SocketAddr::new(addr(2).ip(), 0);
    let (silent_link, _) = node.greet_at(2, silent, Direction::Accepted);
    node.after(LASTING).close(link);
    node.close(silent_link);
    assert_eq!(node.after(BACKOFF_MAX).dial(), [addr(1)]);
}

#[derive(Clone, Debug)]
enum Step {
    Learn(Vec<u64>, bool),
    Dial,
    Fail(usize),
    Greet { number: u64, dialled: bool },
    Close(usize),
    Ban(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let number = 40u64..60;
    prop_oneof![
        (prop::collection::vec(number.clone(), 0..8), any::<bool>())
            .prop_map(|(peers, push)| Step::Learn(peers, push)),
        Just(Step::Dial),
        any::<usize>().prop_map(Step::Fail),
        (number, any::<bool>()).prop_map(|(number, dialled)| Step::Greet { number, dialled }),
        any::<usize>().prop_map(Step::Close),
        any::<usize>().prop_map(Step::Ban),
        (0u64..30_000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_the_caps_hold_and_no_peer_is_linked_twice(
        steps in prop::collection::vec(step(), 0..200), seed in any::<u64>(),
    ) {
        let mut node = Node::new(caps(6, 5, 3, 3));
        node.rng = Rng::with_seed(seed);
        let mut links: Vec<(LinkId, u64)> = Vec::new();
        let mut dials: Vec<SocketAddr> = Vec::new();
        let mut banned: Vec<u64> = Vec::new();
        for step in steps {
            match step {
                Step::Learn(peers, true) => {
                    node.learn(Source::Push(addr(9999)), peers);
                }
                Step::Learn(peers, false) => {
                    node.learn(list(), peers);
                }
                Step::Dial => dials.extend(node.dial()),
                Step::Fail(at) if !dials.is_empty() => {
                    let addr = dials.swap_remove(at % dials.len());
                    node.fail(addr);
                }
                Step::Greet { number, dialled } => {
                    let direction =
                        if dialled { Direction::Dialled } else { Direction::Accepted };
                    if dialled {
                        let Some(at) = dials.iter().position(|to| *to == addr(number)) else {
                            continue;
                        };
                        dials.swap_remove(at);
                    }
                    let (link, verdict) = node.greet(number, direction);
                    match verdict {
                        Verdict::Keep => links.push((link, number)),
                        Verdict::Replace(old) | Verdict::Displace(old) => {
                            links.retain(|(link, _)| *link != old);
                            links.push((link, number));
                        }
                        Verdict::Refuse(_) => {}
                    }
                }
                Step::Close(at) if !links.is_empty() => {
                    let (link, _) = links.swap_remove(at % links.len());
                    node.close(link);
                }
                Step::Ban(at) if !links.is_empty() => {
                    let (link, number) = links.swap_remove(at % links.len());
                    node.neighbours.ban(link);
                    node.close(link);
                    banned.push(number);
                }
                Step::Wait(millis) => node.now += Duration::from_millis(millis),
                Step::Fail(_) | Step::Close(_) | Step::Ban(_) => {}
            }
            prop_assert_eq!(node.neighbours.link_count(), links.len());
            prop_assert!(links.len() <= 6 && dials.len() <= 3);
            prop_assert!(dials.len() <= 5usize.max(links.len()));
            let mut peers: Vec<_> = links.iter().map(|(_, number)| *number).collect();
            peers.sort_unstable();
            peers.dedup();
            prop_assert_eq!(peers.len(), links.len());
            prop_assert!(!peers.contains(&ME));
            prop_assert!(banned.iter().all(|number| !peers.contains(number)));
            // What is said to be next is what a dial then does.
            let due = node.neighbours.next_dial(node.now).is_some_and(|at| at <= node.now);
            let mut other = node.neighbours.clone();
            prop_assert_eq!(due, !other.dial(node.now, &mut Rng::with_seed(1)).is_empty());
        }
    }
}
