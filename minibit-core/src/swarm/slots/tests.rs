//! How many slots there are for what a way out carries, and how soon, a rule at a time.

use super::*;

const PIECE: u32 = 256 * 1024;
const ROUND_AT: Duration = Duration::from_secs(10);

fn shown(total: u64, answered: u64, takers: u64) -> Round {
    Round { total, takers, answered, enough: None }
}

/// A look at a way out that was full until then.
fn full(now: Duration, sent: u64, answered: u64) -> Look {
    Look { sent, busy: now, answered, hopeful: 0 }
}

#[test]
fn slots_for_those_who_take_nothing_are_gone_when_nobody_waits_any_more() {
    let mut auto = Auto::new(PIECE);
    auto.some_are_deaf(true, 20, 20);
    auto.nobody_waits(false);
    assert_eq!(auto.regular(), FLOOR + 80, "until the next round");
    auto.nobody_waits(true);
    assert_eq!(auto.regular(), FLOOR);
}

#[test]
fn there_are_as_many_slots_as_those_who_may_give_want_whoever_else_waits_and_no_more() {
    let piece = u64::from(PIECE);
    // So that there is plenty, so that slow receivers leave room, and so that less than a piece goes out in a round.
    for (piece_len, each) in [(PIECE, 20 * piece), (PIECE, 100 << 10), (64 * PIECE, 125_000)] {
        for (givers, before) in [(4, FLOOR), (6, FLOOR), (6, 40), (11, FLOOR), (11, 12)] {
            let mut auto = Auto { regular: before, ..Auto::new(piece_len) };
            let slots = (1..=80).map(|number| {
                let (regular, answered) = (auto.regular, auto.regular as u64);
                let is_enough = givers <= regular && regular >= FLOOR;
                let enough = is_enough.then_some(givers);
                let total = each * answered;
                auto.adapt(ROUND_AT * number, Round { enough, ..shown(total, answered, answered) });
                auto.regular
            });
            let slots: Vec<usize> = slots.skip(40).collect();
            let what = format!("{givers} of {before} at {each}: {slots:?}");
            // Now and then fewer are tried, and one trial more when these are found too few.
            assert!(slots.iter().filter(|slots| **slots == givers).count() >= 30, "{what}");
            assert!(slots.iter().all(|slots| *slots <= givers + givers / 4), "{what}");
        }
    }
}

#[test]
fn who_asks_for_little_shows_not_how_much_the_link_carries() {
    let piece = u64::from(PIECE);
    // Six pieces a second to five: no plenty, if that is all that goes out.
    let second = Duration::from_secs(1);
    let slots = |busy: Duration| {
        let mut auto = Auto::new(PIECE);
        auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
        auto.look(second, Look { busy, ..full(second, 6 * piece, 5) });
        auto.regular()
    };
    assert_eq!(slots(second), FLOOR);
    assert_eq!(slots(second / 2), 2 * FLOOR, "it carries twelve");
    assert_eq!(slots(Duration::ZERO), 2 * FLOOR, "what no time was seen for");
    // One piece in what may have been a moment is no more than four in a second.
    let mut auto = Auto::new(PIECE);
    auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
    auto.look(second, Look { busy: Duration::ZERO, ..full(second, piece, 5) });
    assert_eq!(auto.regular(), FLOOR);
}

#[test]
fn all_who_may_give_are_answered_if_that_is_a_piece_a_second_for_each() {
    let piece = u64::from(PIECE);
    let second = Duration::from_secs(1);
    for (pieces, slots) in [(15, 15), (14, 10)] {
        let mut auto = Auto { regular: 10, ..Auto::new(PIECE) };
        auto.look(Duration::ZERO, full(Duration::ZERO, 0, 10));
        let look = Look { hopeful: 15, ..full(second, pieces * piece, 10) };
        assert_eq!((auto.look(second, look), auto.regular()), (slots > 10, slots));
    }
}

#[test]
fn what_was_tried_is_forgotten_where_slots_go_because_there_are_enough() {
    let mut auto = Auto { regular: 40, ..Auto::new(PIECE) };
    let enough = Some(10);
    auto.adapt(ROUND_AT, Round { enough, ..shown(40 << 10, 40, 40) });
    assert_eq!(auto.regular(), 10);
    auto.adapt(ROUND_AT * 2, shown(30 << 10, 10, 10));
    assert!(auto.regular() <= 12, "{}", auto.regular());
}

#[test]
fn a_link_too_slow_to_tell_anything_by_keeps_to_the_fewest_slots() {
    let mut auto = Auto::new(PIECE);
    let rounds = [0, 1638, 0, 3276, 0, 1638].into_iter().enumerate();
    let slots = rounds.map(|(round, total)| {
        auto.adapt(Duration::from_secs(10 * round as u64), shown(total, 5, 5));
        auto.regular()
    });
    assert_eq!(slots.collect::<Vec<_>>(), [2, 1, 1, 1, 1, 1]);
}

/// Slots after each round in which somebody waits, if `rate` of the slots is what all get.
fn rounds(count: usize, rate: impl Fn(u64) -> u64) -> Vec<usize> {
    let mut auto = Auto::new(PIECE);
    (1..=count)
        .map(|round| {
            let answered = auto.regular as u64 + 1;
            auto.adapt(
                Duration::from_secs(10 * round as u64),
                shown(rate(answered), answered, answered),
            );
            auto.regular
        })
        .collect()
}

#[test]
fn a_slow_way_out_has_the_classic_four_and_now_and_then_tries_five() {
    assert_eq!(rounds(12, |_| 1 << 20), [5, 4, 4, 4, 4, 4, 4, 5, 4, 4, 4, 4]);
}

#[test]
fn a_way_out_that_takes_seconds_for_a_piece_has_two_until_it_is_faster() {
    let slow = u64::from(PIECE) / 2;
    assert_eq!(rounds(9, |_| slow), [2, 3, 2, 2, 2, 2, 2, 2, 3]);
    let mut auto = Auto::new(PIECE);
    auto.adapt(ROUND_AT, shown(slow, 5, 5));
    assert_eq!(auto.regular, SLOW_FLOOR);
    auto.adapt(2 * ROUND_AT, shown(4 * slow, 3, 3));
    assert!(auto.regular >= FLOOR, "{}", auto.regular);
}

#[test]
fn a_way_out_that_takes_half_a_minute_for_a_piece_has_one_and_a_faster_one_two() {
    assert_eq!(rounds(4, |_| u64::from(PIECE) / 31), [2, 1, 1, 1]);
    assert_eq!(rounds(4, |_| u64::from(PIECE) / 29), [2, 2, 2, 2]);
}

#[test]
fn receivers_slower_than_a_slow_way_out_do_not_leave_it_idle() {
    // Each takes 20 KiB/s, whatever the number, and the way out 200 KiB/s.
    let slots = rounds(20, |answered| (answered * (20 << 10)).min(200 << 10));
    // Now and then half of them are tried, for a round.
    let full = slots[5..].iter().filter(|slots| **slots >= 8).count();
    assert!(full >= 13, "{slots:?}");
}

/// A way out that sends pieces of 16 MiB, each begun one to its end.
struct LongPieces {
    auto: Auto,
    round: u32,
    /// What is left of those that were begun.
    begun: Vec<u64>,
}

impl LongPieces {
    const PIECE: u64 = 16 << 20;

    fn new() -> Self {
        Self { auto: Auto::new(16 << 20), round: 0, begun: Vec::new() }
    }

    /// Slots after each of so many rounds, where each receiver takes at most `each` bytes in a second and all
    /// together at most `all`.
    fn rounds(&mut self, count: u32, each: u64, all: u64) -> Vec<usize> {
        let seconds = ROUND_AT.as_secs();
        let round = |_| {
            let answered = self.auto.regular + 1;
            let begun = self.begun.len().max(answered);
            self.begun.resize(begun, Self::PIECE);
            let takers = begun as u64;
            let rate = each.min(all / takers);
            self.begun.iter_mut().for_each(|left| *left = left.saturating_sub(rate * seconds));
            self.begun.retain(|left| *left > 0);
            self.round += 1;
            self.auto.adapt(ROUND_AT * self.round, shown(rate * takers, answered as u64, takers));
            self.auto.regular
        };
        (0..count).map(round).collect()
    }
}

#[test]
fn receivers_that_take_minutes_for_a_piece_do_not_leave_a_fast_way_out_idle() {
    let (each, slow, fast) = (125_000, 300_000, 125_000_000);
    let slots = LongPieces::new().rounds(20, each, fast);
    assert!(slots[19] >= 40, "{slots:?}");
    // Nor where one slot was right before, for the way out was slow.
    let mut swarm = LongPieces::new();
    assert_eq!(swarm.rounds(10, each, slow)[9], SLOWEST_FLOOR);
    let slots = swarm.rounds(80, each, fast);
    assert!(slots[79] >= 40, "{slots:?}");
}

#[test]
fn a_way_out_that_slows_down_does_not_keep_all_the_slots_there_may_be() {
    let (each, fast, slow) = (30_000, 125_000_000, 500_000);
    let mut swarm = LongPieces::new();
    let slots = swarm.rounds(60, each, fast);
    assert_eq!(slots.last(), Some(&CAP), "{slots:?}");
    let slots = swarm.rounds(60, fast, slow);
    assert!(slots[59] < CAP / 2, "{slots:?}");
}

#[test]
fn who_is_sent_the_rest_of_a_piece_counts_when_more_slots_are_judged() {
    let mut auto = LongPieces::new().auto;
    auto.regular = 2;
    auto.adapt(ROUND_AT, shown(500_000, 3, 10));
    assert_eq!(auto.regular, 3);
    // One in ten more, which is more than half of what an eleventh takes.
    auto.adapt(2 * ROUND_AT, shown(530_000, 4, 11));
    assert_eq!(auto.regular, 4);
}

#[test]
fn slots_that_long_pieces_were_proven_to_take_are_kept_until_far_less_is_carried() {
    let mut auto = LongPieces::new().auto;
    (auto.regular, auto.proven) = (40, 1_000_000);
    let mut now = Duration::ZERO;
    let mut least_of_20 = |total| {
        let slots = (0..20).map(|_| {
            now += ROUND_AT;
            auto.adapt(now, shown(total, auto.regular as u64 + 1, auto.regular as u64 + 1));
            auto.regular
        });
        slots.min()
    };
    assert_eq!(least_of_20(900_000), Some(40));
    assert_eq!(least_of_20(800_000), Some(SLOW_FLOOR));
}

#[test]
fn a_slow_way_out_tries_a_second_slot_no_more_often_than_pieces_take() {
    // A piece takes 37 s.
    let rate = LongPieces::PIECE / 37;
    let slots = LongPieces::new().rounds(120, rate, rate);
    let tried = slots[5..].iter().filter(|slots| **slots > SLOWEST_FLOOR).count();
    assert!((2..=5).contains(&tried), "{tried} of 115 rounds: {slots:?}");
}

#[test]
fn a_fast_way_out_gets_more_with_each_round() {
    assert_eq!(rounds(5, |_| 1 << 30), [5, 6, 7, 8, 10]);
}

#[test]
fn on_a_fast_way_out_nobody_waits_for_a_round() {
    let mut auto = Auto::new(PIECE);
    assert!(!auto.look(Duration::ZERO, full(Duration::ZERO, 0, 9)));
    let mut sent = 0;
    for (number, slots) in [8, 16, 32, 64, 128].into_iter().enumerate() {
        let looks = number as u32 + 1;
        let answered = auto.regular as u64 + 1;
        sent += answered << 19;
        assert!(
            !auto.look(LOOK * looks - LOOK / 2, full(LOOK * looks - LOOK / 2, sent, answered)),
            "too soon"
        );
        assert!(auto.look(LOOK * looks, full(LOOK * looks, sent, answered)));
        assert_eq!(auto.regular, slots);
    }
    assert!(!auto.look(LOOK * 9, full(LOOK * 9, 9 << 30, 9)));
}

#[test]
fn on_a_very_fast_way_out_nobody_waits_for_a_quarter_of_a_second() {
    let mut auto = Auto::new(PIECE);
    auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
    assert_eq!(auto.next_look(), Some(EARLY_LOOK));
    assert!(!auto.look(
        EARLY_LOOK - Duration::from_millis(1),
        full(EARLY_LOOK - Duration::from_millis(1), 5 << 20, 5)
    ));
    assert!(auto.look(EARLY_LOOK, full(EARLY_LOOK, 5 << 20, 5)));
    // What connections hold in their buffers tells nothing.
    assert!(!auto.look(2 * EARLY_LOOK, full(2 * EARLY_LOOK, (14 << 20) - 1, 9)));
    assert_eq!(auto.next_look(), Some(3 * EARLY_LOOK));
    assert!(auto.look(3 * EARLY_LOOK, full(3 * EARLY_LOOK, 14 << 20, 9)));
}

#[test]
fn an_early_look_that_could_find_nothing_is_left_out_and_the_next_comes_later() {
    let before = 1 << 30;
    let mut auto = Auto::new(PIECE);
    auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
    auto.note_look(Duration::ZERO, 5, before);
    assert!(!auto.is_look_due(EARLY_LOOK, before + (5 << 20) - 1));
    assert_eq!(auto.next_look(), Some(2 * EARLY_LOOK));
    assert!(auto.is_look_due(2 * EARLY_LOOK, before + (5 << 20)));
    assert!(auto.is_look_due(LOOK, before), "the usual one is not left out");
}

#[test]
fn where_some_are_left_empty_there_are_no_more_however_fast_the_others_are() {
    let mut auto = Auto::new(PIECE);
    auto.look(Duration::ZERO, full(Duration::ZERO, 0, 3));
    assert!(!auto.look(LOOK, full(LOOK, 1 << 30, 3)));
    assert_eq!(auto.regular, FLOOR);
}

#[test]
fn who_waits_after_a_while_in_which_nobody_did_has_an_early_look_at_once() {
    let mut auto = Auto::new(PIECE);
    auto.look(Duration::ZERO, full(Duration::ZERO, 0, 5));
    // In vain, so that the next would come later.
    assert!(!auto.look(EARLY_LOOK, full(EARLY_LOOK, 0, 5)));
    assert_eq!(auto.next_look(), Some(2 * EARLY_LOOK));
    auto.nobody_waits(false);
    let again = Duration::from_secs(60);
    assert!(!auto.look(again, full(again, 0, 5)));
    assert_eq!(auto.next_look(), Some(again + EARLY_LOOK));
    assert!(auto.look(again + EARLY_LOOK, full(again + EARLY_LOOK, 5 << 20, 5)));
}

#[test]
fn slow_receivers_do_not_cost_the_others_their_slots() {
    // Each takes 100 KiB/s, whatever the number.
    let slots = rounds(20, |answered| answered * (100 << 10));
    assert_eq!(slots[..5], [5, 6, 7, 8, 10]);
    assert_eq!(slots[17], CAP, "{slots:?}");
}

#[test]
fn slots_follow_the_length_of_pieces() {
    let after_a_while = |piece_len: u32| {
        let mut auto = Auto::new(piece_len);
        for round in 1..=20 {
            let answered = auto.regular as u64 + 1;
            auto.adapt(Duration::from_secs(10 * round), shown(20 << 20, answered, answered));
        }
        auto.regular
    };
    assert!(after_a_while(16 << 20) <= 5, "a piece of 16 MiB takes long");
    assert_eq!(after_a_while(16 << 10), CAP, "one of 16 KiB does not");
}
