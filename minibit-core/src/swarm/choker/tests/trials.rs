//! Who is tried, and what those get who only take.

use std::time::Duration;

use super::super::peer::{TAKER_AFTER, TAKER_SOON_AFTER, TAKER_SOON_AFTER_SOME};
use super::*;
use crate::swarm::{ROUND, Standing};

#[test]
fn those_on_trial_who_gave_get_slots_of_takers_with_those_who_wait_in_one_look() {
    let mut room = Room::new(ChokePolicy::Seeder, Slots::Fixed { regular: 2, optimistic: 1 });
    (0..3).for_each(|id| room.join(id));
    room.tick();
    let tried = room.in_slot(Slot::Optimistic)[0];
    room.join(3);
    for id in 0..4 {
        let gives = id == tried || id == 3;
        room.peer(id).passes_on = Some(if gives { Standing::Giver } else { Standing::Taker });
    }
    room.tick();
    assert_eq!(room.in_slot(Slot::Regular), [tried, 3]);
    assert_eq!(room.tick(), (vec![], vec![]));
}

#[test]
fn a_tried_peer_that_shows_its_worth_is_promoted_without_a_pause() {
    let mut room = Room::classic(12);
    room.tick();
    let tried = room.in_slot(Slot::Optimistic)[0];
    room.peer(tried).verified_from += 1000;
    let (on, off) = room.round();
    assert!(room.in_slot(Slot::Regular).contains(&tried));
    assert!(!on.contains(&tried) && !off.contains(&tried));
    assert_ne!(room.in_slot(Slot::Optimistic), [tried]);
    assert_eq!(room.unchoked().len(), 5);
}

/// A receiver with so many regular slots and one by chance, to which so many give in all rounds, and five that hold something
/// and do not answer it.
fn beside_silent_strangers(givers: u32, regular: usize) -> Room {
    let mut room = Room::new(ChokePolicy::Contribution, Slots::Fixed { regular, optimistic: 1 });
    (0..givers).for_each(|id| room.join(id));
    room.tick();
    (0..givers).for_each(|id| room.peer(id).verified_from += 1000);
    room.tick();
    for id in 10..15 {
        room.join(id);
        room.peer(id).held = 10;
    }
    room.tick();
    room
}

fn silent(ids: &[u32]) -> usize {
    ids.iter().filter(|id| **id >= 10).count()
}

#[test]
fn where_enough_give_those_who_hold_something_and_do_not_answer_are_tried_one_in_a_round() {
    let mut room = beside_silent_strangers(4, 6);
    assert_eq!(silent(&room.unchoked()), 0, "not in the first round");
    for _ in 0..3 {
        (0..4).for_each(|id| room.peer(id).verified_from += 1000);
        room.round();
        let tried = room.in_slot(Slot::Optimistic);
        assert_eq!((silent(&tried), silent(&room.unchoked())), (1, 1));
        // It takes a piece and gives nothing for it.
        room.peer(tried[0]).uploaded_to += u64::from(PIECE);
        room.tick();
        room.now += TAKER_AFTER;
        assert_eq!(room.tick(), (vec![], tried), "nobody else comes in its place");
    }
    let next = (10..15).find(|id| room.peer(*id).uploaded_to == 0).unwrap();
    room.peer(next).answers_us = true;
    assert_eq!(room.tick().0, [next], "who answers us is welcome");
}

#[test]
fn of_those_who_hold_something_and_do_not_answer_so_many_keep_slots_as_the_link_needs_to_be_busy() {
    let mut room = beside_silent_strangers(4, 10);
    assert_eq!(silent(&room.in_slot(Slot::Regular)), 1, "half of ten slots are used");
    for _ in 0..3 {
        assert_eq!(room.tick(), (vec![], vec![]));
    }
}

#[test]
fn nobody_is_benched_for_those_who_are_not_needed() {
    let mut room = beside_silent_strangers(4, 6);
    room.join(4);
    room.peer(4).held = 10;
    room.peer(4).answers_us = true;
    room.tick();
    room.peer(4).verified_from += 1000;
    room.tick();
    room.idle = vec![0];
    room.now += Duration::from_secs(4);
    assert_eq!(room.tick(), (vec![], vec![]));
}

#[test]
fn who_takes_nothing_in_its_slot_is_not_one_of_enough() {
    let mut room = beside_silent_strangers(4, 6);
    assert_eq!(silent(&room.in_slot(Slot::Regular)), 0);
    room.idle = vec![0];
    room.now += Duration::from_secs(2);
    room.tick();
    assert_eq!(silent(&room.in_slot(Slot::Regular)), 3, "its slot is for one of them, too");
}

#[test]
fn where_too_few_give_those_who_hold_something_and_do_not_answer_have_what_slots_there_are() {
    let mut room = beside_silent_strangers(3, 6);
    assert_eq!(silent(&room.unchoked()), 4);
    room.join(3);
    room.tick();
    room.peer(3).verified_from += 1000;
    room.tick();
    assert_eq!(silent(&room.in_slot(Slot::Regular)), 0, "until enough do");
}

#[test]
fn at_a_seeder_a_trial_that_has_shown_nothing_ends_for_whoever_had_none_yet() {
    let mut room = Room::classic(12);
    room.complete = true;
    (0..12).for_each(|id| room.peer(id).passes_on = Some(Standing::New));
    room.tick();
    let tried = room.in_slot(Slot::Optimistic)[0];
    room.peer(tried).passes_on = Some(Standing::OnTrial);
    let (on, off) = room.tick();
    assert_eq!((on.len(), off), (1, vec![tried]));
}

#[test]
fn the_optimistic_slot_moves_on_after_three_rounds() {
    let mut room = Room::classic(12);
    room.tick();
    let first = room.in_slot(Slot::Optimistic);
    for _ in 0..2 {
        assert_eq!(room.round(), (vec![], vec![]));
    }
    let (on, off) = room.round();
    assert_eq!((on.len(), &off), (1, &first));
    assert_eq!(room.in_slot(Slot::Optimistic), on);
    // With nobody else who waits there is nobody to give it to.
    let mut small = Room::classic(5);
    small.tick();
    (0..9).for_each(|_| assert_eq!(small.round(), (vec![], vec![])));
}

#[test]
fn who_comes_with_nothing_waits_for_the_next_round_and_not_for_the_end_of_a_trial() {
    let mut room = Room::classic(6);
    (0..6).for_each(|id| room.peer(id).verified_from = PIECE.into());
    (0..6).for_each(|id| room.peer(id).held = 9);
    room.tick();
    let tried = room.in_slot(Slot::Optimistic);
    room.join(7);
    assert_eq!(room.tick(), (vec![], vec![]));
    (0..6).for_each(|id| room.peer(id).verified_from += u64::from(PIECE));
    assert_eq!(room.round(), (vec![7], tried));
}

#[test]
fn as_many_trials_end_as_newcomers_wait_and_find_no_slot_the_longest_first() {
    let mut room = Room::new(ChokePolicy::Contribution, Slots::Fixed { regular: 1, optimistic: 2 });
    (0..3).for_each(|id| room.join(id));
    (0..3).for_each(|id| room.peer(id).held = 9);
    room.tick();
    let regular = room.in_slot(Slot::Regular)[0];
    let tried = room.in_slot(Slot::Optimistic);
    let round = |room: &mut Room| {
        room.peer(regular).verified_from += 1000;
        room.round()
    };
    round(&mut room);
    // The trial of the first begins anew.
    room.peer(tried[0]).interested = false;
    room.tick();
    room.peer(tried[0]).interested = true;
    room.tick();
    round(&mut room);
    room.join(7);
    room.peer(tried[1]).amid_piece = true;
    assert_eq!(round(&mut room), (vec![], vec![tried[1]]), "its slot will be free");
    room.peer(tried[1]).amid_piece = false;
    assert_eq!(room.tick(), (vec![7], vec![]));
}

#[test]
fn a_trial_of_less_than_half_a_round_and_one_of_a_newcomer_go_on() {
    let mut room = Room::classic(6);
    (0..6).for_each(|id| room.peer(id).verified_from = PIECE.into());
    (0..6).for_each(|id| room.peer(id).held = 9);
    room.tick();
    let tried = room.in_slot(Slot::Optimistic)[0];
    room.now += ROUND / 2 + Duration::from_secs(1);
    room.peer(tried).interested = false;
    room.join(7);
    assert_eq!(room.tick().0.len(), 1, "another is tried");
    let tried = room.in_slot(Slot::Optimistic);
    room.join(8);
    (0..6).for_each(|id| room.peer(id).verified_from += u64::from(PIECE));
    room.round();
    assert_eq!(room.in_slot(Slot::Optimistic), tried);
}

#[test]
fn whoever_had_no_chance_yet_is_tried_before_all_others_and_each_in_turn() {
    let mut room = Room::new(ChokePolicy::Contribution, Slots::Fixed { regular: 0, optimistic: 1 });
    (0..6).for_each(|id| room.join(id));
    room.tick();
    let mut tried = vec![room.unchoked()[0]];
    for _ in 1..6 {
        // It gets a piece and gives nothing; after a second its chance is over.
        let id = *tried.last().unwrap();
        room.peer(id).uploaded_to += u64::from(PIECE);
        room.tick();
        room.now += TAKER_AFTER;
        assert_eq!(room.tick().1, [id]);
        tried.push(room.unchoked()[0]);
    }
    tried.sort_unstable();
    assert_eq!(tried, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn who_is_new_to_the_swarm_is_tried_first_and_then_who_answers_us() {
    let mut room = Room::new(ChokePolicy::Contribution, Slots::Fixed { regular: 0, optimistic: 2 });
    for id in 0..8 {
        room.join(id);
        room.peer(id).held = u32::from(id != 6);
        room.peer(id).answers_us = id == 4;
    }
    room.tick();
    assert_eq!(room.in_slot(Slot::Optimistic), [4, 6]);
}

/// Peers 0 and 1 give, 2 and 3 have had their chance, and what went to them is a lot.
fn givers_and_takers() -> Room {
    let mut room = Room::classic(4);
    room.tick();
    for id in 0..4 {
        room.peer(id).uploaded_to += 4 * u64::from(PIECE);
    }
    room.now += Duration::from_millis(1);
    room.tick();
    (0..2).for_each(|id| room.peer(id).verified_from += 4 * u64::from(PIECE));
    room.now += TAKER_AFTER;
    room
}

#[test]
fn who_only_takes_is_left_out_while_two_who_give_keep_the_link_busy() {
    let mut room = givers_and_takers();
    assert_eq!(room.tick(), (vec![], vec![2, 3]));
    assert_eq!(room.choker.moved, 0, "two had it coming");
    room.peer(1).interested = false;
    let (on, _) = room.tick();
    assert_eq!(room.in_slot(Slot::Regular).len(), 2, "one giver and {on:?}");
}

#[test]
fn who_was_sent_three_pieces_shows_sooner_that_it_only_takes_but_not_before_anything_can_have_come()
{
    let known_after = |pieces: u64, has_sent: bool, distance: Option<u64>| {
        let mut room = Room::classic(4);
        room.tick();
        room.peer(0).uploaded_to = pieces * u64::from(PIECE);
        room.peer(0).has_sent = has_sent;
        room.peer(0).distance = distance.map(Duration::from_millis);
        (0..200).map(|step| Duration::from_millis(10) * step).find(|wait| {
            room.tick();
            room.now += Duration::from_millis(10);
            room.choker.peers[0].standing == Standing::Taker && *wait > Duration::ZERO
        })
    };
    assert_eq!(known_after(2, false, Some(0)), Some(TAKER_AFTER));
    assert_eq!(known_after(3, false, Some(0)), Some(TAKER_SOON_AFTER));
    assert_eq!(known_after(3, false, Some(100)), Some(Duration::from_millis(200)));
    assert_eq!(known_after(3, false, Some(5_000)), Some(TAKER_AFTER), "it may only look far");
    assert_eq!(known_after(3, false, None), Some(TAKER_SOON_AFTER_SOME));
    let some = "its first piece may be on its way";
    assert_eq!(known_after(3, true, Some(0)), Some(TAKER_SOON_AFTER_SOME), "{some}");
    assert_eq!(known_after(3, true, Some(200)), Some(Duration::from_millis(400)), "{some}");
}

#[test]
fn who_only_took_is_not_new_by_coming_anew() {
    let mut room = givers_and_takers();
    room.tick();
    room.leave(2);
    room.join(9);
    room.peer(9).past = Past { taken: 4 * u64::from(PIECE), ..Past::default() };
    // And this one is nobody that we know, from where the other was.
    room.join(10);
    room.peer(10).past = Past { is_suspect: true, ..Past::default() };
    assert_eq!(room.tick(), (vec![], vec![]));
    room.join(11);
    assert_eq!(room.tick(), (vec![11], vec![]), "who is new has its chance");
    room.peer(9).verified_from += u64::from(PIECE);
    assert_eq!(room.tick(), (vec![9], vec![]), "and who has made up for it");
}

#[test]
fn who_only_takes_gets_a_twentieth_by_chance() {
    let mut room = givers_and_takers();
    room.tick();
    for _ in 0..400 {
        room.now += Duration::from_secs(1);
        for id in 0..2 {
            room.peer(id).verified_from += u64::from(PIECE);
        }
        for id in room.unchoked() {
            room.peer(id).uploaded_to += u64::from(PIECE);
        }
        room.tick();
    }
    let sent = |id: u32| room.peers[id as usize].uploaded_to;
    let (takers, all) = (sent(2) + sent(3), (0..4).map(sent).sum::<u64>());
    let part = all as f64 / takers as f64;
    assert!((15.0..=25.0).contains(&part), "one part in {part}");
}
