//! What the seeder gives to whom, and when, a rule at a time; and that no piece waits with two.

use super::*;
use proptest::prelude::*;

const PIECE: u32 = 1 << 20;

impl Guide {
    /// Whether there is nothing left to give.
    fn is_over(&self) -> bool {
        self.next == self.pieces && self.returned.is_empty()
    }

    /// A piece is sent to a peer from its first byte to its last. True if it may be given more.
    fn send(&mut self, now: Duration, link: LinkId, piece: u32) -> bool {
        self.begun(now, link, piece);
        self.sent(now, link, piece)
    }

    fn deal_all(&mut self, now: Duration, link: LinkId) -> Vec<u32> {
        self.deal(now, link, |_| false).unwrap_or_default()
    }
}

const NOW: Duration = Duration::from_secs(100);

const LATER: Duration = NOW.saturating_add(LATE);

/// All is given: the first peer has fetched nothing of its four for two seconds, the second all of its
/// two, the last of which it was given at that time.
fn one_is_done(given_last_at: Duration) -> Guide {
    let mut guide = Guide::new(6, PIECE);
    assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
    assert_eq!(guide.deal_all(NOW, LinkId(2)), [4]);
    guide.send(NOW, LinkId(2), 4);
    assert_eq!(guide.deal_all(given_last_at, LinkId(2)), [5]);
    guide.send(LATER, LinkId(2), 5);
    guide
}

#[test]
fn what_waits_with_a_clearly_slower_peer_is_given_to_one_that_is_done() {
    let mut guide = one_is_done(LATER - SOON);
    let pieces = guide.deal_all(LATER, LinkId(2));
    assert_eq!(pieces, [0, 1, 2, 3]);
    for piece in pieces {
        guide.send(LATER, LinkId(2), piece);
    }
    assert_eq!(guide.deal(LATER, LinkId(1), |_| false), None, "nothing is left");
}

#[test]
fn what_waits_with_a_peer_as_quick_is_left_to_it_and_waited_for() {
    let mut guide = one_is_done(NOW);
    assert_eq!(guide.deal(LATER, LinkId(2), |_| false), Some(Vec::new()));
    let came = LATER + ON_THE_WAY_MAX;
    assert_eq!(guide.deal(came, LinkId(2), |_| true), None, "others hold it by now");
}

#[test]
fn who_has_fetched_all_it_had_does_not_seem_slower_for_waiting() {
    let mut guide = Guide::new(6, PIECE);
    assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
    assert_eq!(guide.deal_all(NOW, LinkId(2)), [4]);
    let quick = Duration::from_millis(10);
    guide.send(NOW + quick, LinkId(2), 4);
    assert_eq!(guide.deal_all(NOW + quick, LinkId(2)), [5]);
    guide.send(NOW + 2 * quick, LinkId(2), 5);
    // The other has fetched nothing, and is clearly slower once it took four times as long.
    let soon = NOW + 3 * quick;
    assert_eq!(guide.deal(soon, LinkId(2), |_| false), Some(Vec::new()));
    let again = guide.look_again(soon, LinkId(2)).unwrap();
    assert_eq!(again, soon + quick, "looked at again after a piece's time");
    assert_eq!(guide.deal_all(again, LinkId(2)), [0, 1, 2, 3]);
}

#[test]
fn what_a_slower_peer_has_asked_for_is_not_sent_twice_to_save_a_moment() {
    let quick = Duration::from_millis(10);
    let slower = |asked: u64, late: Duration| {
        let mut guide = Guide::new(6, PIECE);
        guide.deal_all(NOW, LinkId(1));
        guide.asked(LinkId(1), 0..asked);
        guide.deal_all(NOW, LinkId(2));
        guide.send(NOW + quick, LinkId(2), 4);
        guide.deal_all(NOW + quick, LinkId(2));
        guide.send(NOW + 2 * quick, LinkId(2), 5);
        guide.deal_all(NOW + late, LinkId(2))
    };
    // Four of the four wait, and none has begun.
    let soon = 4 * quick;
    assert_eq!(slower(0, soon), [0, 1, 2, 3]);
    assert_eq!(slower(3, soon), [3]);
    assert_eq!(slower(3, WORTH_TWICE / 4), [0, 1, 2, 3]);
}

#[test]
fn who_waits_for_the_last_of_the_first_copy_is_looked_at_again_when_it_should_be_here() {
    let mut guide = Guide::new(2, PIECE);
    assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1]);
    let quick = Duration::from_millis(10);
    guide.send(NOW + quick, LinkId(1), 0);
    guide.send(NOW + 2 * quick, LinkId(1), 1);
    let now = NOW + 2 * quick;
    assert_eq!(guide.deal(now, LinkId(1), |_| false), Some(Vec::new()));
    let again = guide.look_again(now, LinkId(1)).unwrap();
    assert_eq!(again, now + quick * ON_THE_WAY);
    assert_eq!(guide.deal(again, LinkId(1), |_| false), None);
}

#[test]
fn a_piece_that_comes_after_later_ones_is_still_what_its_peer_was_given() {
    let mut guide = Guide::new(8, PIECE);
    guide.deal_all(NOW, LinkId(1));
    for piece in 1..4 {
        guide.send(NOW, LinkId(1), piece);
    }
    guide.forget(LinkId(1));
    assert!(guide.deal_all(NOW, LinkId(2)).contains(&0));
}

#[test]
fn a_piece_that_its_peer_has_from_others_is_not_waited_for() {
    let mut guide = one_is_done(NOW);
    for piece in 0..4 {
        guide.heard_of(NOW, LinkId(1), piece);
    }
    let came = LATER + ON_THE_WAY_MAX;
    assert_eq!(guide.deal(came, LinkId(2), |_| false), None);
}

#[test]
fn nobody_chooses_freely_while_what_was_sent_last_should_have_yet_to_come() {
    let mut guide = one_is_done(LATER - SOON);
    for piece in 0..4 {
        guide.send(LATER, LinkId(1), piece);
    }
    assert_eq!(guide.deal(LATER, LinkId(2), |_| false), Some(Vec::new()));
    assert_eq!(guide.deal(LATER + ON_THE_WAY_MAX, LinkId(2), |_| false), None);
}

#[test]
fn a_quick_peer_is_given_more_and_a_slow_one_as_much_as_before() {
    let mut guide = Guide::new(1000, PIECE);
    let quick = guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default();
    assert_eq!(quick, [0, 1, 2, 3]);
    assert!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().is_empty(), "it has enough");
    assert!(!guide.send(NOW, LinkId(1), 0));
    assert!(guide.send(NOW, LinkId(1), 1));
    assert_eq!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().len(), 8);
    guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default();
    for piece in 12..15 {
        guide.send(NOW, LinkId(2), piece);
    }
    assert_eq!(guide.deal(NOW + LATE, LinkId(2), |_| false).unwrap_or_default().len(), 4);
}

#[test]
fn nobody_is_given_more_than_a_part_of_what_is_left() {
    let mut guide = Guide::new(8, PIECE);
    assert_eq!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().len(), 4);
    assert_eq!(guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default().len(), 2);
    assert_eq!(guide.deal(NOW, LinkId(3), |_| false).unwrap_or_default().len(), 1);
    let mut guide = Guide::new(100, 16 * 1024);
    assert_eq!(
        guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default().len(),
        16,
        "of small pieces more"
    );
}

#[test]
fn what_others_hold_is_not_given() {
    let mut guide = Guide::new(100, PIECE);
    assert_eq!(
        guide.deal(NOW, LinkId(1), |piece| piece % 10 != 0).unwrap_or_default(),
        [0, 10, 20, 30]
    );
}

#[test]
fn what_was_not_fetched_is_given_to_another() {
    let mut guide = Guide::new(4, PIECE);
    assert_eq!(guide.deal(NOW, LinkId(1), |_| false).unwrap_or_default(), [0, 1, 2, 3]);
    guide.send(NOW, LinkId(1), 0);
    guide.forget(LinkId(1));
    let mut rest = Vec::new();
    while !guide.is_over() {
        let more = guide.deal(NOW, LinkId(2), |_| false).unwrap_or_default();
        for piece in &more {
            guide.send(NOW, LinkId(2), *piece);
        }
        rest.extend(more);
    }
    rest.sort_unstable();
    assert_eq!(rest, [1, 2, 3]);
}

#[test]
fn a_piece_that_has_begun_is_not_given_again_when_its_peer_is_choked() {
    let mut guide = Guide::new(8, PIECE);
    assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
    guide.begun(NOW, LinkId(1), 0);
    guide.forget(LinkId(1));
    let mut others = Vec::new();
    while !guide.is_over() {
        let more = guide.deal_all(NOW, LinkId(2));
        more.iter().for_each(|piece| _ = guide.send(NOW, LinkId(2), *piece));
        others.extend(more);
    }
    others.sort_unstable();
    assert_eq!(others, [1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn who_passes_nothing_on_only_takes_and_who_passes_on_a_part_gives() {
    let mut guide = Guide::new(100, PIECE);
    guide.next = 60;
    let (taker, giver) = (LinkId(1), LinkId(2));
    assert_eq!(guide.standing(NOW, taker), Standing::New);
    for piece in 0..10 {
        guide.send(NOW, taker, piece);
        guide.send(NOW, giver, 50 + piece);
    }
    assert_eq!(guide.standing(NOW, taker), Standing::New, "it has had no time to");
    guide.heard_of(NOW, taker, 0);
    for piece in [50, 51] {
        guide.heard_of(NOW, giver, piece);
        guide.heard_of(NOW, LinkId(3), piece);
    }
    assert_eq!(guide.standing(NOW, giver), Standing::Giver);
    assert_eq!(guide.standing(NOW + TRIAL_AFTER, taker), Standing::OnTrial);
    assert_eq!(guide.standing(NOW + PASSING_ON, taker), Standing::Taker);
    assert_eq!(guide.standing(NOW + PASSING_ON, giver), Standing::Giver);
    assert_eq!(guide.deal_all(NOW, LinkId(3)), [6, 7, 8, 9], "what is with the taker");
}

#[test]
fn what_only_a_taker_holds_is_given_again_until_another_has_it() {
    let mut guide = Guide::new(6, PIECE);
    let taker = LinkId(1);
    assert_eq!(guide.deal_all(NOW, taker), [0, 1, 2, 3]);
    for piece in 0..4 {
        guide.send(NOW, taker, piece);
        guide.heard_of(NOW, taker, piece);
    }
    assert_eq!(guide.standing(NOW + PASSING_ON, taker), Standing::Taker);
    guide.heard_of(NOW, LinkId(3), 2);
    // All of these are with somebody, as far as they say.
    let is_out = |piece| piece < 4;
    assert_eq!(guide.deal(NOW, LinkId(2), is_out), Some(vec![0, 1, 3]));
}

#[test]
fn what_a_giver_holds_by_now_is_not_given_again_because_a_taker_had_it_first() {
    let mut guide = Guide::new(2, PIECE);
    let (taker, giver) = (LinkId(1), LinkId(2));
    for piece in 0..2 {
        guide.send(NOW, taker, piece);
        guide.heard_of(NOW, taker, piece);
    }
    guide.next = 2;
    assert_eq!(guide.standing(NOW + PASSING_ON, taker), Standing::Taker);
    let now = NOW + PASSING_ON;
    assert_eq!(guide.deal(now, giver, |_| true), Some(vec![0, 1]));
    for piece in 0..2 {
        guide.send(now, giver, piece);
        guide.heard_of(now, giver, piece);
    }
    guide.heard_of(now, LinkId(3), 1);
    let later = now + PASSING_ON_MAX + RECLAIM;
    assert_eq!(guide.standing(later, giver), Standing::Giver);
    assert_eq!(guide.deal(later, LinkId(3), |_| true).unwrap_or_default(), [] as [u32; 0]);
}

#[test]
fn what_was_sent_long_ago_to_one_that_passes_nothing_on_is_given_again_though_it_holds_it() {
    let mut guide = Guide::new(2, PIECE);
    guide.next = 2;
    guide.send(NOW, LinkId(1), 0);
    guide.send(NOW, LinkId(2), 1);
    guide.heard_of(NOW, LinkId(3), 1);
    let later = NOW + PASSING_ON + RECLAIM;
    assert_eq!(guide.deal(later, LinkId(2), |_| true), Some(vec![0]));
}

#[test]
fn who_takes_long_for_its_first_piece_is_on_trial_before_it_has_it() {
    let mut guide = Guide::new(100, PIECE);
    guide.begun(NOW, LinkId(1), 0);
    assert_eq!(guide.standing(NOW, LinkId(1)), Standing::New);
    assert_eq!(guide.standing(NOW + TRIAL_AFTER, LinkId(1)), Standing::OnTrial);
}

#[test]
fn what_was_sent_to_two_or_is_out_already_speaks_for_nobody() {
    let mut guide = Guide::new(100, PIECE);
    let taker = LinkId(1);
    // Sent to another first, who passed it on before or passes it on after.
    guide.send(NOW, LinkId(2), 0);
    guide.heard_of(NOW, LinkId(3), 0);
    guide.send(NOW, LinkId(2), 1);
    for piece in [0, 1] {
        guide.send(NOW, taker, piece);
        guide.heard_of(NOW, LinkId(4), piece);
    }
    guide.send(NOW, taker, 2);
    assert_eq!(guide.standing(NOW + TRIAL_AFTER, taker), Standing::OnTrial);
}

#[test]
fn a_piece_that_is_sent_to_another_as_well_does_not_count_against_the_first() {
    let mut guide = Guide::new(100, PIECE);
    for piece in 0..4 {
        guide.send(NOW, LinkId(1), piece);
        guide.begun(NOW, LinkId(2), piece);
    }
    assert_ne!(guide.standing(NOW + PASSING_ON_MAX, LinkId(1)), Standing::Taker);
}

#[test]
fn what_is_given_to_one_is_not_given_again_because_another_fetched_it_and_left() {
    let mut guide = Guide::new(8, PIECE);
    assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
    guide.send(NOW, LinkId(2), 1);
    guide.gone(LinkId(2));
    let mut others = guide.deal_all(NOW, LinkId(3));
    others.extend(guide.deal_all(NOW, LinkId(4)));
    assert!(!others.is_empty() && others.iter().all(|piece| *piece >= 4), "{others:?}");
}

#[test]
fn who_passes_on_after_all_is_a_taker_no_more() {
    let mut guide = Guide::new(100, PIECE);
    (0..2).for_each(|piece| _ = guide.send(NOW, LinkId(1), piece));
    let later = NOW + PASSING_ON_MAX;
    assert_eq!(guide.standing(later, LinkId(1)), Standing::Taker);
    for piece in 10..13 {
        guide.send(later, LinkId(1), piece);
        guide.heard_of(later, LinkId(2), piece);
    }
    assert_eq!(guide.standing(later, LinkId(1)), Standing::Giver);
}

#[test]
fn what_was_never_heard_of_again_is_given_again_once_nothing_else_is_left() {
    let mut guide = Guide::new(8, PIECE);
    let silent = LinkId(1);
    guide.send(NOW, silent, 0);
    for piece in 1..8 {
        guide.send(NOW, LinkId(2), piece);
        guide.heard_of(NOW + RECLAIM, LinkId(3), piece);
    }
    while !guide.is_over() {
        guide.deal_all(NOW, LinkId(2));
        guide.forget(LinkId(2));
        guide.next = guide.pieces;
        guide.returned.clear();
    }
    assert_eq!(guide.deal(NOW + RECLAIM, LinkId(2), |_| false), None, "it may be on its way");
    // Others took as long as that to pass a piece on.
    let just_before = NOW + RECLAIM * OVERDUE;
    assert_eq!(guide.deal(just_before, LinkId(2), |_| false), None);
    assert_eq!(guide.deal_all(just_before + RECLAIM, LinkId(2)), [0]);
}

#[test]
fn what_is_still_going_out_or_was_heard_of_before_it_was_out_is_no_measure_of_how_soon_pieces_are_passed_on()
 {
    let mut guide = Guide::new(3, PIECE);
    guide.next = 3;
    guide.begun(NOW, LinkId(1), 0);
    guide.heard_of(NOW, LinkId(9), 0);
    assert_eq!(guide.passing_on, None);
    guide.send(NOW, LinkId(2), 1);
    guide.heard_of(NOW, LinkId(9), 1);
    assert_eq!(guide.passing_on, Some(Duration::ZERO));
    // To one that reads slowly.
    guide.begun(NOW, LinkId(3), 2);
    let later = NOW + OVERDUE_MIN * OVERDUE + RECLAIM;
    assert_eq!(guide.deal(later, LinkId(4), |_| false).unwrap_or_default(), [] as [u32; 0]);
    guide.sent(later, LinkId(3), 2);
    let soon = later + OVERDUE_MIN * OVERDUE;
    assert_eq!(guide.deal(soon, LinkId(4), |_| false).unwrap_or_default(), [] as [u32; 0]);
    assert_eq!(guide.deal_all(soon + OVERDUE_MIN, LinkId(4)), [2]);
}

#[test]
fn who_keeps_a_piece_and_claims_it_later_does_not_speak_for_whom_it_was_sent_to_instead() {
    let mut guide = Guide::new(2, PIECE);
    guide.next = 2;
    guide.send(NOW, LinkId(9), 1);
    guide.heard_of(NOW, LinkId(8), 1);
    guide.send(NOW, LinkId(1), 0);
    let later = NOW + RECLAIM;
    assert_eq!(guide.deal_all(later, LinkId(2)), [0]);
    guide.send(later, LinkId(2), 0);
    assert!(!guide.heard_of(later, LinkId(1), 0), "it says so of itself");
    let much_later = later + RECLAIM;
    assert_eq!(guide.deal_all(much_later, LinkId(3)), [0], "nobody has shown that it is out");
}

#[test]
fn who_has_passed_on_something_is_waited_for_longer_than_others_take() {
    let mut guide = Guide::new(3, PIECE);
    (0..2).for_each(|piece| _ = guide.send(NOW, LinkId(1), piece));
    guide.send(NOW, LinkId(2), 2);
    let soon = NOW + OVERDUE_MIN;
    guide.heard_of(soon, LinkId(3), 0);
    guide.next = 3;
    let later = soon + OVERDUE_MIN * OVERDUE;
    assert_eq!(guide.deal_all(later, LinkId(3)), [2], "what is with who has passed on nothing");
    assert_eq!(
        guide.deal(NOW + PASSING_ON, LinkId(4), |_| false).unwrap_or_default(),
        [] as [u32; 0]
    );
    assert_eq!(guide.deal_all(NOW + PASSING_ON * 2, LinkId(4)), [1]);
}

#[test]
fn what_was_never_heard_of_again_is_left_to_whoever_it_waits_for() {
    let mut guide = Guide::new(4, PIECE);
    assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
    // Fetched by one that chose for itself, and never heard of again.
    guide.send(NOW, LinkId(2), 2);
    let later = NOW + PASSING_ON_MAX + RECLAIM;
    guide.deal_all(later, LinkId(1));
    let with_first: Vec<u32> =
        guide.given[&LinkId(1)].waiting.iter().map(|waiting| waiting.piece).collect();
    assert_eq!(with_first, [0, 1, 2, 3]);
    assert!(guide.returned.is_empty(), "it waits with the first: {:?}", guide.returned);
}

#[test]
fn lanes_may_report_in_another_order_than_they_looked_at_the_clock() {
    let mut guide = Guide::new(10, PIECE);
    guide.send(NOW, LinkId(1), 0);
    guide.send(NOW - Duration::from_millis(1), LinkId(1), 1);
    assert_eq!(guide.standing(NOW, LinkId(1)), Standing::New);
}

#[test]
fn who_goes_on_to_fetch_what_it_was_not_given_loses_what_it_was_given() {
    let mut guide = Guide::new(100, PIECE);
    assert_eq!(guide.deal_all(NOW, LinkId(1)), [0, 1, 2, 3]);
    // What it had asked for before it heard of them.
    for stray in 90..90 + ASTRAY_PIECES - 1 {
        guide.send(NOW + ASTRAY, LinkId(1), stray);
    }
    assert_eq!(guide.deal_all(NOW, LinkId(2)), [4, 5, 6, 7]);
    guide.send(NOW + ASTRAY, LinkId(1), 99);
    assert_eq!(guide.deal_all(NOW, LinkId(3)), [0, 1, 2, 3]);
}

proptest! {
    #[test]
    fn no_piece_is_with_two_peers_and_every_piece_is_sent_in_the_end(
        pieces in 1u32..200,
        steps in prop::collection::vec((0u32..5, 0u8..4, 0u64..3000), 0..200),
    ) {
        let mut guide = Guide::new(pieces, PIECE);
        let mut with: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut sent = vec![false; pieces as usize];
        let mut now = Duration::ZERO;
        for (peer, what, millis) in steps {
            now += Duration::from_millis(millis);
            let link = LinkId(peer);
            match what {
                0 | 1 => {
                    for piece in guide.deal(now, link, |_| false).unwrap_or_default() {
                        prop_assert!(!sent[piece as usize]);
                        with.values_mut().for_each(|pieces| pieces.retain(|p| *p != piece));
                        with.entry(peer).or_default().push(piece);
                    }
                }
                2 => {
                    let first = with.get_mut(&peer).filter(|pieces| !pieces.is_empty());
                    if let Some(piece) = first.map(|pieces| pieces.remove(0)) {
                        guide.send(now, link, piece);
                        // Passed on at once, or it would be given again in the end.
                        guide.heard_of(now, LinkId(8), piece);
                        sent[piece as usize] = true;
                    }
                }
                _ => {
                    guide.forget(link);
                    with.remove(&peer);
                }
            }
            let waiting: Vec<u32> =
                guide.given.values().flat_map(|given| &given.waiting).map(|waiting| waiting.piece).collect();
            let once: BTreeSet<u32> = waiting.iter().copied().collect();
            prop_assert_eq!(waiting.len(), once.len());
        }
        // Those who hold pieces give them back, and one fetches all that is left.
        for peer in 0..5 {
            guide.forget(LinkId(peer));
        }
        while !guide.is_over() {
            for piece in guide.deal(now, LinkId(9), |_| false).unwrap_or_default() {
                guide.send(now, LinkId(9), piece);
                guide.heard_of(now, LinkId(8), piece);
                prop_assert!(!std::mem::replace(&mut sent[piece as usize], true));
            }
        }
        prop_assert!(sent.into_iter().all(|sent| sent));
    }
}

#[test]
fn who_comes_back_stands_no_better_than_it_left_and_no_worse() {
    let mut guide = Guide::new(1000, PIECE);
    (0..4).for_each(|piece| _ = guide.send(NOW, LinkId(1), piece));
    let later = NOW + TRIAL_AFTER;
    assert_eq!(guide.standing(later, LinkId(1)), Standing::OnTrial);
    let (passed_on, kept) = guide.gone(LinkId(1));
    let past = Past { taken: 4, passed_on, kept, ..Past::default() };
    guide.came(later, LinkId(2), past);
    assert_eq!(guide.standing(later, LinkId(2)), Standing::OnTrial, "it had its chance");
    guide.came(later, LinkId(3), Past { passed_on: 3, ..past });
    assert_eq!(guide.standing(later, LinkId(3)), Standing::Giver);
    guide.came(later, LinkId(4), Past { kept: 3, ..past });
    assert_eq!(guide.standing(later, LinkId(4)), Standing::Taker);
    guide.came(later, LinkId(5), Past::default());
    assert_eq!(guide.standing(later, LinkId(5)), Standing::New);
}

#[test]
fn the_first_piece_that_a_peer_passes_on_is_news_and_those_after_are_not() {
    let mut guide = Guide::new(100, PIECE);
    (0..2).for_each(|piece| _ = guide.send(NOW, LinkId(1), piece));
    assert!(!guide.heard_of(NOW, LinkId(1), 0), "that it has it itself says nothing");
    assert!(guide.heard_of(NOW, LinkId(2), 0));
    assert!(!guide.heard_of(NOW, LinkId(2), 1));
}

#[test]
fn a_stranger_is_on_trial_soon_after_its_first_piece_began_and_no_later_for_its_second() {
    let mut guide = Guide::new(100, PIECE);
    guide.begun(NOW, LinkId(1), 0);
    assert_eq!(guide.next_trial(), NOW + TRIAL_AFTER);
    guide.begun(NOW + TRIAL_AFTER, LinkId(1), 1);
    assert_eq!(guide.next_trial(), NOW + TRIAL_AFTER);
}
