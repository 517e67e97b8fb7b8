//! When a slot is free again, and how many there are.

use std::time::Duration;

use super::super::peer::{LEAVING_MAX, LEAVING_MOST, leaving_max};
use super::super::{IDLE, ROUND};
use super::*;
use crate::swarm::Standing;
use crate::swarm::slots::{CAP, FLOOR};

/// Five slots, one of them left by peer 0 with a piece under way, and peer 5 waits for it.
fn one_is_leaving() -> Room {
    let mut room = Room::classic(5);
    room.tick();
    room.join(5);
    room.peer(0).amid_piece = true;
    room.tick();
    room.peer(0).interested = false;
    assert_eq!(room.tick(), (vec![], vec![0]));
    assert!(!room.choker.has_free_slot());
    room
}

#[test]
fn a_slot_is_not_free_until_the_piece_that_was_begun_is_out() {
    let mut room = one_is_leaving();
    room.peer(0).amid_piece = false;
    assert_eq!(room.tick(), (vec![5], vec![]));
}

#[test]
fn a_piece_that_is_never_out_does_not_hold_up_its_slot_for_ever() {
    let mut room = one_is_leaving();
    room.now += LEAVING_MAX;
    assert!(room.tick().0.contains(&5));
}

#[test]
fn where_pieces_take_long_a_slot_waits_for_twice_as_long_as_one_took_of_late() {
    let mut room = Room::classic(5);
    room.tick();
    // In each of five slots a quarter of a piece in a round.
    let round = |room: &mut Room| {
        for peer in &mut room.peers {
            peer.uploaded_to += u64::from(PIECE) / 4;
            peer.verified_from = peer.uploaded_to;
        }
        room.round();
        room.choker.peers[0].leaving != Slot::None
    };
    assert!(!round(&mut room));
    room.peer(0).amid_piece = true;
    room.tick();
    room.peer(0).interested = false;
    assert_eq!(room.tick().1, [0]);
    let held_up = (0..20).take_while(|_| round(&mut room)).count();
    // A piece takes 32 to 40 seconds, by how many were sent something in a round.
    assert!((6..=8).contains(&held_up), "{held_up} rounds");
}

/// One who was sent a piece and gave nothing, with its next piece begun, stands so and loses its slot: to whom it goes, and
/// who is cut off.
fn loses_slot_amid_piece(standing: Option<Standing>, given: u64) -> (Vec<u32>, Vec<u32>) {
    let slots = Slots::Fixed { regular: 1, optimistic: 0 };
    let mut room = Room::new(ChokePolicy::Contribution, slots);
    room.join(0);
    room.tick();
    let piece = u64::from(PIECE);
    let taken = if given > 0 { piece } else { piece - 1 };
    (room.peer(0).uploaded_to, room.peer(0).verified_from) = (taken, given);
    (room.peer(0).amid_piece, room.peer(0).passes_on) = (true, standing);
    room.tick();
    room.join(1);
    room.now += Duration::from_secs(1);
    room.peer(0).interested = false;
    let (on, off) = room.tick();
    assert_eq!(off, [0]);
    (on, room.choker.cut_off().map(|id| id.0).collect())
}

#[test]
fn who_only_takes_does_not_get_the_rest_of_a_piece_and_holds_up_no_slot() {
    assert_eq!(loses_slot_amid_piece(None, 1), (vec![1], vec![0]));
    let (nobody, is_piece) = (vec![], u64::from(PIECE));
    assert_eq!(loses_slot_amid_piece(None, is_piece), (nobody.clone(), vec![]), "it gives");
    assert_eq!(loses_slot_amid_piece(None, 0), (nobody.clone(), vec![]), "it has had no piece yet");
    let keeps = Some(Standing::Taker);
    assert_eq!(loses_slot_amid_piece(keeps, 1), (nobody, vec![]), "it may be the only copy");
}

/// One that was sent a piece but for a byte, and wants nothing more.
fn has_enough_but_for_the_rest_of_a_piece() -> Room {
    let mut room = Room::new(ChokePolicy::Contribution, CLASSIC);
    room.join(0);
    room.tick();
    (room.peer(0).uploaded_to, room.peer(0).amid_piece) = (u64::from(PIECE) - 1, true);
    room.tick();
    room.peer(0).interested = false;
    room
}

#[test]
fn who_gets_the_rest_of_a_piece_is_cut_off_once_it_is_seen_to_take_only() {
    let mut room = has_enough_but_for_the_rest_of_a_piece();
    room.now += Duration::from_secs(1);
    assert_eq!(room.tick().1, [0]);
    assert_eq!(room.choker.cut_off().count(), 0);
    room.peer(0).uploaded_to += 1;
    room.tick();
    assert!(room.choker.cut_off().map(|id| id.0).eq([0]));
    room.tick();
    assert_eq!(room.choker.cut_off().count(), 0, "once");
}

#[test]
fn who_paused_in_the_rest_of_a_piece_is_cut_off_all_the_same() {
    let mut room = has_enough_but_for_the_rest_of_a_piece();
    room.tick();
    room.peer(0).amid_piece = false;
    room.now += Duration::from_secs(2);
    room.tick();
    (room.peer(0).uploaded_to, room.peer(0).amid_piece) = (u64::from(PIECE), true);
    room.tick();
    assert!(room.choker.cut_off().map(|id| id.0).eq([0]));
}

#[test]
fn what_the_rest_of_a_piece_may_take_follows_the_last_round_within_bounds() {
    let piece = u64::from(PIECE);
    let after = |sent, slots| leaving_max(piece, ROUND, sent, slots);
    assert_eq!(after(piece * 5 / 4, 5), ROUND * 8);
    assert_eq!(after(piece * 100, 5), LEAVING_MAX, "pieces are soon out");
    assert_eq!(after(0, 5), LEAVING_MOST, "nothing went out");
    assert_eq!(after(0, 0), LEAVING_MAX);
}

#[test]
fn who_does_not_use_a_slot_gives_it_to_one_that_waits_and_comes_after_all_others() {
    let mut room = Room::classic(5);
    room.idle = vec![0, 1, 2];
    room.tick();
    room.now += IDLE;
    assert_eq!(room.tick(), (vec![], vec![]), "nobody waits");
    room.join(5);
    room.join(6);
    let (on, off) = room.tick();
    assert_eq!(on, [5, 6]);
    assert!(off.len() == 2 && off.iter().all(|id| *id < 3), "{off:?}");
    room.leave(5);
    let (on, _) = room.tick();
    assert_eq!(on.len(), 1, "with nobody else waiting one of them comes back");
    assert!(off.contains(&on[0]));
}

#[test]
fn who_takes_nothing_of_what_is_sent_to_its_end_after_a_choke_let_its_slot_pass_and_is_not_counted()
{
    let mut room = Room::new(ChokePolicy::Seeder, Slots::Auto);
    room.complete = true;
    (0..30).for_each(|id| room.join(id));
    room.peers.iter_mut().for_each(|peer| peer.passes_on = Some(Standing::New));
    room.idle = (0..30).collect();
    room.tick();
    let first = room.unchoked();
    for id in &first {
        let peer = room.peer(*id);
        (peer.amid_piece, peer.in_hand, peer.passes_on) = (true, true, Some(Standing::OnTrial));
    }
    let (on, off) = room.tick();
    assert_eq!((on, off), (vec![], first.clone()), "what was begun is sent to its end");
    room.now += IDLE;
    first.iter().for_each(|id| room.peer(*id).amid_piece = false);
    assert_eq!(room.tick().0.len(), 25, "all others are answered");
    assert!(first.iter().all(|id| room.choker.lets_slots_pass(room.now, LinkId(*id))));
    // In the round after it is forgotten.
    room.round();
    room.round();
    assert!(room.choker.slots().0 <= FLOOR);
}

#[test]
fn those_who_are_stuck_have_no_more_of_the_others_answered_while_somebody_takes() {
    let mut room = Room::new(ChokePolicy::Seeder, Slots::Auto);
    room.complete = true;
    (0..30).for_each(|id| room.join(id));
    room.peers.iter_mut().for_each(|peer| peer.passes_on = Some(Standing::New));
    room.tick();
    let mut first = room.unchoked();
    let takes = first.pop().unwrap();
    room.idle = first.clone();
    room.peers.iter_mut().for_each(|peer| peer.in_hand = peer.id == LinkId(takes));
    room.peer(takes).uploaded_to = u64::from(PIECE) / 2;
    for id in &first {
        let peer = room.peer(*id);
        (peer.amid_piece, peer.in_hand, peer.passes_on) = (true, true, Some(Standing::OnTrial));
    }
    room.tick();
    room.now += IDLE;
    first.iter().for_each(|id| room.peer(*id).amid_piece = false);
    room.tick();
    assert_eq!(room.unchoked().len(), FLOOR + 1);
}

/// Rounds in which all answered peers together get so many bytes a second.
fn rounds_at(room: &mut Room, rounds: u32, rate: impl Fn(usize) -> u64) -> Vec<usize> {
    (0..rounds)
        .map(|_| {
            let unchoked = room.unchoked();
            let each = rate(unchoked.len()) * ROUND.as_secs() / unchoked.len() as u64;
            unchoked.iter().for_each(|id| room.peer(*id).uploaded_to += each);
            room.round();
            room.choker.slots().0
        })
        .collect()
}

fn crowd(policy: ChokePolicy) -> Room {
    let mut room = Room::new(policy, Slots::Auto);
    (0..500).for_each(|id| room.join(id));
    room.tick();
    room
}

#[test]
fn slots_follow_what_the_link_carries() {
    let mut room = crowd(ChokePolicy::Contribution);
    assert_eq!(room.unchoked().len(), FLOOR + 1);
    assert_eq!(rounds_at(&mut room, 3, |_| 1 << 30), [5, 6, 7]);
    assert_eq!(room.unchoked().len(), 8);
    let mut room = crowd(ChokePolicy::Seeder);
    assert_eq!(rounds_at(&mut room, 2, |_| 1 << 20), [5, 4]);
    assert_eq!(room.unchoked().len(), 5);
}

#[test]
fn between_rounds_more_are_answered_where_there_is_plenty() {
    let mut room = crowd(ChokePolicy::Contribution);
    for _ in 0..2 {
        room.now += Duration::from_millis(300);
        room.unchoked().iter().for_each(|id| room.peer(*id).uploaded_to += 1 << 24);
        room.tick();
    }
    assert_eq!(room.unchoked().len(), 2 * FLOOR + 1);
}

#[test]
fn newcomers_are_heeded_unless_some_wait_in_vain_for_slots_that_nobody_has_to_leave() {
    let mut room = Room::classic(6);
    room.tick();
    assert!(room.choker.may_heed_newcomers(), "nobody who is answered has given anything");
    (0..6).for_each(|id| room.peer(id).verified_from = PIECE.into());
    room.tick();
    assert!(!room.choker.may_heed_newcomers());
    let waits = (0..6).find(|id| !room.choker.is_unchoked(LinkId(*id))).unwrap();
    room.peer(waits).interested = false;
    room.tick();
    assert!(room.choker.may_heed_newcomers(), "nobody waits");
    room.peer(waits).interested = true;
    room.tick();
    assert!(!room.choker.may_heed_newcomers());
    let answered = room.unchoked();
    answered[..2].iter().for_each(|id| room.leave(*id));
    room.tick();
    assert!(room.choker.may_heed_newcomers(), "a slot is free");
}

#[test]
fn where_one_comes_and_another_goes_at_once_both_are_noticed() {
    let mut room = Room::classic(3);
    room.tick();
    room.leave(1);
    room.join(7);
    room.peers.swap(0, 2);
    room.tick();
    let known: Vec<u32> = room.choker.peers.iter().map(|peer| peer.view.id.0).collect();
    assert_eq!(known, [0, 2, 7]);
}

#[test]
fn nothing_is_learnt_from_rounds_in_which_nobody_waits() {
    let mut room = Room::new(ChokePolicy::Contribution, Slots::Auto);
    (0..5).for_each(|id| room.join(id));
    room.tick();
    assert_eq!(rounds_at(&mut room, 5, |_| 1000), [FLOOR; 5]);
    assert_eq!(room.unchoked().len(), 5);
}

/// Regular slots, and how many of the second kind are answered, after twelve seconds and a round on a fast link with so
/// many that give and thirty who do not answer us, come to hold something, and only take.
fn on_a_fast_link_with(givers: u32, complete: bool) -> (usize, usize) {
    on_a_fast_link(givers, complete, |_, _| true)
}

/// The same where those who give want something only in some steps, of a quarter of a second.
fn on_a_fast_link(givers: u32, complete: bool, wants: impl Fn(u32, u32) -> bool) -> (usize, usize) {
    let mut room = Room::new(ChokePolicy::Contribution, Slots::Auto);
    (0..givers).for_each(|id| room.join(id));
    (0..givers).for_each(|id| room.peer(id).verified_from = 1 << 24);
    room.complete = complete;
    (givers..givers + 30).for_each(|id| room.join(id));
    room.tick();
    for step in 0..56 {
        room.now += Duration::from_millis(250);
        room.unchoked().iter().for_each(|id| room.peer(*id).uploaded_to += 1 << 24);
        if !complete {
            (0..givers).for_each(|id| room.peer(id).verified_from += 1 << 24);
        }
        (0..givers).for_each(|id| room.peer(id).interested = wants(id, step));
        if step == 8 {
            (givers..givers + 30).for_each(|id| room.peer(id).held = 1);
        }
        room.tick();
    }
    let takers = room.unchoked().iter().filter(|id| **id >= givers).count();
    (room.choker.slots().0, takers)
}

#[test]
fn a_fast_link_has_slots_for_all_who_may_give_and_in_the_end_none_for_those_who_only_take() {
    assert_eq!(on_a_fast_link_with(12, false), (12, 0));
}

#[test]
fn who_gives_and_wants_nothing_for_a_moment_has_a_slot_when_it_wants_something_again() {
    let (slots, _) = on_a_fast_link(12, false, |id, step| (id + step) % 2 == 0);
    assert_eq!(slots, 12);
}

#[test]
fn where_fewer_give_than_keep_a_link_busy_those_who_only_take_have_slots_as_well() {
    let (slots, takers) = on_a_fast_link_with(3, false);
    assert!(slots > 30 && takers > 10, "{slots} slots, {takers} answered");
}

#[test]
fn who_comes_when_we_are_done_has_nothing_for_us_and_is_answered_all_the_same() {
    let (slots, takers) = on_a_fast_link_with(4, true);
    assert!(slots > 30 && takers == 30, "{slots} slots, {takers} answered");
}

#[test]
fn where_rarity_counts_nobody_can_show_that_it_gives_and_slots_are_for_all() {
    let mut room = crowd(ChokePolicy::Rarity);
    let ids: Vec<u32> = room.peers.iter().map(|peer| peer.id.0).collect();
    ids.iter().for_each(|id| room.peer(*id).held = 1);
    ids[..6].iter().for_each(|id| room.peer(*id).answers_us = true);
    for _ in 0..8 {
        room.now += Duration::from_millis(300);
        room.unchoked().iter().for_each(|id| room.peer(*id).uploaded_to += 1 << 24);
        room.tick();
    }
    assert_eq!(room.unchoked().len(), CAP + 1);
}
