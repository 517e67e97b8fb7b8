//! Once we are complete: everybody in turn, who passes on before others.

use super::super::ROUND;
use super::*;
use crate::swarm::Standing;

#[test]
fn a_seeder_gives_everybody_a_fair_turn() {
    let mut room = Room::classic(20);
    room.complete = true;
    room.tick();
    let (mut answered, mut waits) = ([0u32; 20], [0u32; 20]);
    for _ in 0..200 {
        let (_, off) = room.round();
        assert!(off.len() <= 2, "one regular, one optimistic");
        let unchoked = room.unchoked();
        for id in 0..20 {
            let served = unchoked.contains(&id);
            answered[id as usize] += u32::from(served);
            waits[id as usize] = if served { 0 } else { waits[id as usize] + 1 };
            assert!(waits[id as usize] <= 20, "{id} waited 200 s and more");
        }
    }
    let (least, most) = (answered.iter().min().unwrap(), answered.iter().max().unwrap());
    assert!(*least >= 35 && *most <= 70, "200 x 5 / 20 = 50 each: {answered:?}");
}

#[test]
fn once_we_are_complete_those_who_gave_are_answered_before_others() {
    let mut room = Room::classic(12);
    room.tick();
    (4..8).for_each(|id| room.peer(id).verified_from = 1000);
    room.now += ROUND * 5;
    room.complete = true;
    (0..4).for_each(|_| {
        room.round();
    });
    assert_eq!(room.in_slot(Slot::Regular), [4, 5, 6, 7]);
}

#[test]
fn without_a_crowd_a_seeder_leaves_everybody_alone() {
    let mut room = Room::classic(5);
    room.complete = true;
    room.tick();
    (0..9).for_each(|_| assert_eq!(room.round(), (vec![], vec![])));
}

#[test]
fn a_seeder_answers_those_who_pass_on_and_tries_others_with_little() {
    let mut room = Room::classic(12);
    room.complete = true;
    for id in 0..12 {
        let standing = if id < 5 { Standing::Giver } else { Standing::New };
        room.peer(id).passes_on = Some(standing);
    }
    room.tick();
    assert!(room.in_slot(Slot::Regular).iter().all(|id| *id < 5), "{:?}", room.unchoked());
    assert!(room.in_slot(Slot::Optimistic)[0] >= 5, "{:?}", room.unchoked());
    let tried = room.in_slot(Slot::Optimistic)[0];
    room.peer(tried).passes_on = Some(Standing::OnTrial);
    room.peer(tried).uploaded_to += u64::from(PIECE);
    assert_eq!(room.tick().1, [tried]);
    assert!(room.unchoked().iter().all(|id| *id < 5), "{:?}", room.unchoked());
}
