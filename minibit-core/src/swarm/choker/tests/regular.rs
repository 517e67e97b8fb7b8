//! Who has the regular slots, and how calmly they move.

use std::time::Duration;

use super::super::{MOVES_COUNTED, ROUND};
use super::*;

#[test]
fn the_first_round_comes_at_once_and_gives_four_slots_and_one() {
    let mut room = Room::classic(10);
    assert_eq!(room.choker.next_round(), Duration::ZERO);
    assert_eq!(room.tick().0.len(), 5);
    assert_eq!((room.in_slot(Slot::Regular).len(), room.in_slot(Slot::Optimistic).len()), (4, 1));
    assert_eq!(room.choker.next_round(), room.now + ROUND);
    assert!(!room.choker.has_free_slot());
}

#[test]
fn a_free_slot_is_filled_at_once_and_nothing_else_changes_between_rounds() {
    let mut room = Room::classic(2);
    room.tick();
    room.now += Duration::from_secs(1);
    assert!(room.choker.has_free_slot());
    (2..5).for_each(|id| room.join(id));
    room.peer(4).interested = false;
    assert_eq!(room.tick(), (vec![2, 3], vec![]));
    room.peer(4).interested = true;
    assert_eq!(room.tick(), (vec![4], vec![]));
    room.join(5);
    assert_eq!(room.tick(), (vec![], vec![]), "all slots are taken");
    room.leave(1);
    assert_eq!(room.tick(), (vec![5], vec![]));
    room.join(6);
    room.peer(0).interested = false;
    assert_eq!(room.tick(), (vec![6], vec![0]));
    room.join(7);
    assert_eq!(room.tick(), (vec![], vec![]), "no better than those who are answered");
}

#[test]
fn those_who_contribute_get_the_regular_slots_one_in_each_round() {
    let mut room = Room::classic(12);
    room.tick();
    for _ in 0..12 {
        for id in 0..12 {
            room.peer(id).verified_from += u64::from(id) * 1000;
        }
        let before = room.in_slot(Slot::Regular);
        room.round();
        let after = room.in_slot(Slot::Regular);
        assert!(after.iter().filter(|id| !before.contains(id)).count() <= 1);
    }
    assert_eq!(room.in_slot(Slot::Regular), [8, 9, 10, 11]);
}

#[test]
fn one_slot_moves_in_a_round_though_several_wait_who_stand_better() {
    let mut room = Room::classic(12);
    room.tick();
    let waiting: Vec<_> = (0..12).filter(|id| !room.unchoked().contains(id)).collect();
    waiting.iter().for_each(|id| room.peer(*id).verified_from += 1000);
    for round in 1..=3 {
        let off = if round == 1 { room.tick().1 } else { room.round().1 };
        assert_eq!(off.len(), 1, "round {round}");
        assert_eq!(room.tick(), (vec![], vec![]), "round {round}");
    }
    let regular = room.in_slot(Slot::Regular);
    assert_eq!(regular.iter().filter(|id| waiting.contains(id)).count(), 3);
    assert_eq!(room.choker.moves()[2..], [0; MOVES_COUNTED - 2]);
}

#[test]
fn a_round_begins_with_what_counts_in_it_so_that_a_second_look_changes_nothing() {
    let mut room = Room::classic(6);
    room.tick();
    let regular = room.in_slot(Slot::Regular);
    let late = (0..6).find(|id| !room.unchoked().contains(id)).unwrap();
    regular.iter().for_each(|id| room.peer(*id).verified_from += 1);
    room.round();
    room.peer(late).verified_from += 1;
    for _ in 2..=3 {
        assert!(!room.in_slot(Slot::Regular).contains(&late), "equals");
        room.round();
        assert_eq!(room.tick(), (vec![], vec![]));
    }
    assert!(room.in_slot(Slot::Regular).contains(&late), "the others gave too long ago");
}

#[test]
fn of_those_who_had_no_chance_yet_who_answers_us_comes_first_and_who_has_nothing_next() {
    let mut room = Room::classic(9);
    for id in 0..9 {
        room.peer(id).held = u32::from(id < 6);
        room.peer(id).answers_us = id < 2;
    }
    room.tick();
    let regular = room.in_slot(Slot::Regular);
    assert_eq!(regular[..2], [0, 1]);
    assert!(regular[2..].iter().all(|id| *id >= 6), "{regular:?}");
}

#[test]
fn what_was_contributed_long_ago_does_not_count() {
    let mut room = Room::classic(6);
    room.tick();
    room.peer(0).verified_from = 1 << 40;
    (0..4).for_each(|_| {
        room.round();
    });
    for _ in 0..6 {
        (1..5).for_each(|id| room.peer(id).verified_from += 1000);
        room.round();
    }
    assert_eq!(room.in_slot(Slot::Regular), [1, 2, 3, 4]);
}

#[test]
fn equals_do_not_oust_each_other() {
    let mut room = Room::classic(12);
    room.tick();
    let first = room.in_slot(Slot::Regular);
    for _ in 0..10 {
        (0..12).for_each(|id| room.peer(id).verified_from += 1000);
        room.round();
        assert_eq!(room.in_slot(Slot::Regular), first);
    }
}

#[test]
fn a_snubbed_peer_loses_its_regular_slot_at_once_unless_we_are_complete() {
    let mut room = Room::classic(7);
    room.tick();
    let snubbed = room.in_slot(Slot::Regular)[0];
    room.peer(snubbed).snubbed = true;
    room.tick();
    assert!(!room.in_slot(Slot::Regular).contains(&snubbed));
    assert_eq!(room.unchoked().len(), 5);
    room.peer(snubbed).snubbed = false;
    room.peer(snubbed).verified_from += 1000;
    room.round();
    assert!(room.in_slot(Slot::Regular).contains(&snubbed));
    room.complete = true;
    room.tick();
    room.peer(snubbed).snubbed = true;
    assert!(!room.tick().1.contains(&snubbed));
}

#[test]
fn the_rarity_policy_prefers_those_with_rare_pieces() {
    let mut room = Room::new(ChokePolicy::Rarity, CLASSIC);
    assert!(room.choker.looks_at_rarity(false) && !room.choker.looks_at_rarity(true));
    for id in 0..9 {
        room.join(id);
        room.peer(id).rare_pieces = id * 10;
    }
    room.peer(0).verified_from = 1 << 30;
    room.tick();
    assert_eq!(room.in_slot(Slot::Regular), [5, 6, 7, 8]);
    let tried = room.in_slot(Slot::Optimistic)[0];
    room.peer(tried).rare_pieces = 1000;
    room.round();
    assert!(room.in_slot(Slot::Regular).contains(&tried), "the tried one may be promoted");
}
