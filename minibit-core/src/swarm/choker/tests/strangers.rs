//! What a seeder gives to those of whom it does not know that they give, and to those who say of
//! themselves what gets them more.

use super::*;
use crate::swarm::Standing;
use crate::swarm::choker::trials::TRIALS_PART;

const ONE: u64 = PIECE as u64;

/// A seeder whose neighbours pass on what they get, and were sent ten pieces each.
fn seeder(givers: u32, pieces: u32, slots: Slots) -> Room {
    let mut room = Room::new(ChokePolicy::Contribution, slots);
    room.choker = Choker::new(ChokePolicy::Contribution, slots, PIECE, pieces);
    room.complete = true;
    for id in 0..givers {
        room.join(id);
        let peer = room.peer(id);
        (peer.passes_on, peer.held, peer.uploaded_to) = (Some(Standing::Giver), 10, 10 * ONE);
    }
    room
}

fn stranger(room: &mut Room, id: u32) {
    room.join(id);
    room.peer(id).passes_on = Some(Standing::New);
}

/// Somebody keeps what it got, so that a twentieth is gone.
fn taker(room: &mut Room, id: u32) {
    room.join(id);
    room.peer(id).passes_on = Some(Standing::Taker);
    room.peer(id).uploaded_to = 100 * ONE;
}

/// Turns of each of twenty, in the mean, beside five that say they are far behind, who had so many pieces less, read
/// so much of a turn, and link anew when it is over.
fn turns_beside_laggards(less: u64, read: u64, link_anew: bool) -> u32 {
    let slots = Slots::Fixed { regular: 4, optimistic: 0 };
    let mut room = seeder(25, PIECES, slots);
    for id in 0..25 {
        let lags = id >= 20;
        room.peer(id).held = if lags { 1 } else { 100 };
        room.peer(id).uploaded_to = if lags { 0 } else { less * ONE };
    }
    let (mut turns, mut next) = (0, 100);
    for _ in 0..400 {
        let (_, off) = room.round();
        for id in off.into_iter().filter(|id| *id >= 20 && link_anew) {
            let taken = room.peer(id).past.taken + room.peer(id).uploaded_to;
            room.leave(id);
            room.join(next);
            let peer = room.peer(next);
            (peer.passes_on, peer.held) = (Some(Standing::Giver), 1);
            peer.past = Past { taken, passed_on: 1, ..Past::default() };
            next += 1;
        }
        room.tick();
        for id in room.unchoked() {
            let lags = id >= 20;
            turns += u32::from(!lags);
            room.peer(id).uploaded_to += if lags { read } else { ONE };
        }
    }
    turns / 20
}

#[test]
fn who_says_that_it_is_behind_has_half_of_the_turns_at_most_whatever_it_does() {
    // Of 1,600 turns each of twenty-five has 64; half of them are 40 for each of twenty.
    let anew = turns_beside_laggards(0, ONE, true);
    assert!(anew >= 60, "what went over earlier links counts: {anew}");
    let slow = turns_beside_laggards(0, ONE / 20, false);
    assert!(slow >= 39, "who reads slowly: {slow}");
    let late = turns_beside_laggards(200, ONE, false);
    assert!((39..60).contains(&late), "who came late has the next turn, and not all: {late}");
}

#[test]
fn who_takes_nothing_of_a_trial_ahead_of_its_part_leaves_it_to_others() {
    let mut room = seeder(4, 10 * TRIALS_PART, CLASSIC);
    taker(&mut room, 4);
    stranger(&mut room, 5);
    for _ in 0..20 {
        room.tick();
        assert_eq!(room.in_slot(Slot::Optimistic), [5]);
        room.peer(5).interested = false;
        room.tick();
        room.peer(5).interested = true;
    }
    for id in 6..26 {
        stranger(&mut room, id);
        room.tick();
        room.leave(id - 1);
        room.tick();
        assert_eq!(room.in_slot(Slot::Optimistic), [id]);
    }
}

#[test]
fn a_trial_is_used_up_by_who_goes_while_its_piece_is_on_its_way() {
    for leaves in [false, true] {
        let mut room = seeder(4, TRIALS_PART, CLASSIC);
        taker(&mut room, 4);
        stranger(&mut room, 5);
        room.tick();
        assert_eq!(room.in_slot(Slot::Optimistic), [5]);
        (room.peer(5).amid_piece, room.peer(5).in_hand) = (true, true);
        room.peer(5).interested = false;
        room.tick();
        if leaves {
            room.tick();
            room.leave(5);
        } else {
            room.peer(5).amid_piece = false;
            room.peer(5).in_hand = false;
            room.peer(5).uploaded_to += ONE;
        }
        stranger(&mut room, 6);
        room.tick();
        assert_eq!(room.in_slot(Slot::Optimistic), [0; 0], "leaves: {leaves}");
    }
}

#[test]
fn one_trial_ahead_is_given_to_one_however_many_slots_are_free() {
    let slots = Slots::Fixed { regular: 4, optimistic: 3 };
    let mut room = seeder(4, TRIALS_PART, slots);
    taker(&mut room, 4);
    (5..8).for_each(|id| stranger(&mut room, id));
    room.tick();
    assert_eq!(room.in_slot(Slot::Optimistic).len(), 1);
}

#[test]
fn a_trial_ahead_of_its_part_is_for_a_piece_and_as_many_are_tried_as_there_are_trials() {
    let mut room = seeder(4, 2 * TRIALS_PART, CLASSIC);
    taker(&mut room, 4);
    (20..24).for_each(|id| stranger(&mut room, id));
    room.tick();
    for _ in 0..600 {
        room.now += Duration::from_millis(100);
        for id in room.unchoked() {
            room.peer(id).uploaded_to += ONE / 10;
        }
        room.tick();
    }
    let mut had: Vec<u64> = (20..24).map(|id| room.peer(id).uploaded_to / ONE).collect();
    had.sort_unstable();
    assert_eq!(had, [0, 0, 1, 1], "pieces of each");
}

#[test]
fn who_only_takes_has_no_trial_ahead_of_its_part() {
    let mut room = seeder(4, TRIALS_PART, CLASSIC);
    taker(&mut room, 4);
    room.tick();
    assert_eq!(room.in_slot(Slot::Optimistic), [0; 0]);
    room.peer(4).passes_on = Some(Standing::New);
    room.tick();
    assert_eq!(room.in_slot(Slot::Optimistic), [4]);
}

#[test]
fn trials_within_their_part_are_not_counted() {
    let mut room = seeder(4, TRIALS_PART, CLASSIC);
    for id in 5..8 {
        stranger(&mut room, id);
        room.tick();
        assert_eq!(room.in_slot(Slot::Optimistic), [id]);
        room.leave(id);
    }
    taker(&mut room, 4);
    stranger(&mut room, 9);
    room.tick();
    assert_eq!(room.in_slot(Slot::Optimistic), [9]);
}

/// Of all pieces one in so many went to strangers, each of whom leaves after its piece; they are known afterwards, or come under
/// new names.
fn part_of_those_who_leave(are_known: bool) -> u32 {
    let mut room = seeder(4, PIECES, CLASSIC);
    let (mut next, mut strangers, mut all) = (100, 0, 0);
    stranger(&mut room, next);
    room.tick();
    for _ in 0..400 {
        room.now += Duration::from_millis(100);
        for id in room.unchoked() {
            room.peer(id).uploaded_to += ONE;
            all += 1;
            if id >= 100 {
                strangers += 1;
                room.tick();
                room.leave(id);
                next += 1;
                stranger(&mut room, next);
                if are_known {
                    room.peer(next).passes_on = Some(Standing::Taker);
                    room.peer(next).past.taken = ONE;
                }
            }
        }
        room.tick();
    }
    all / strangers
}

#[test]
fn what_went_to_those_who_left_counts_so_that_they_get_no_more_than_a_twentieth() {
    for are_known in [false, true] {
        let part = part_of_those_who_leave(are_known);
        assert!((16..=24).contains(&part), "known: {are_known}: one piece in {part}");
    }
}

#[test]
fn who_was_sent_pieces_is_no_newcomer_though_it_says_that_it_has_nothing() {
    let mut room = seeder(4, PIECES, CLASSIC);
    (0..4).for_each(|id| room.peer(id).uploaded_to = 1000 * ONE);
    (20..22).for_each(|id| stranger(&mut room, id));
    room.peer(20).uploaded_to = 5 * ONE;
    room.peer(21).held = 1;
    room.peer(21).answers_us = true;
    room.tick();
    assert_eq!(room.in_slot(Slot::Optimistic), [21]);
}

#[test]
fn of_strangers_that_answer_us_who_holds_least_is_tried_first() {
    let mut room = seeder(4, PIECES, CLASSIC);
    (0..4).for_each(|id| room.peer(id).uploaded_to = 1000 * ONE);
    for (id, held, answers_us) in [(20, 9, true), (21, 3, true), (22, 5, true), (23, 1, false)] {
        stranger(&mut room, id);
        room.peer(id).held = held;
        room.peer(id).answers_us = answers_us;
    }
    // It had its chance, and gave something, long ago.
    stranger(&mut room, 24);
    room.peer(24).answers_us = true;
    room.peer(24).past = Past { taken: 5 * ONE, given: ONE, ..Past::default() };
    let mut tried = vec![];
    for _ in 0..5 {
        room.tick();
        let id = room.in_slot(Slot::Optimistic)[0];
        room.peer(id).passes_on = Some(Standing::OnTrial);
        tried.push(id);
    }
    assert_eq!(tried, [21, 22, 20, 24, 23]);
}

#[test]
fn no_trial_ends_for_a_newcomer_that_may_not_be_tried() {
    let mut room = seeder(5, PIECES, CLASSIC);
    taker(&mut room, 9);
    room.tick();
    let tried = room.in_slot(Slot::Optimistic);
    stranger(&mut room, 6);
    for _ in 0..2 {
        room.round();
        assert_eq!(room.in_slot(Slot::Optimistic), tried);
    }
}
