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

#[test]
fn a_seeder_of_many_pieces_tries_newcomers_one_after_the_other() {
    // How many of forty that keep what they get were sent a piece while four who pass on were sent forty.
    let tried = |pieces: u32| {
        let mut room = Room::classic(44);
        room.choker = Choker::new(ChokePolicy::Contribution, CLASSIC, PIECE, pieces);
        room.complete = true;
        let standing = |id| if id < 4 { Standing::Giver } else { Standing::New };
        (0..44).for_each(|id| room.peer(id).passes_on = Some(standing(id)));
        room.tick();
        for _ in 0..40 {
            room.now += Duration::from_millis(100);
            for id in room.unchoked() {
                room.peer(id).uploaded_to += u64::from(PIECE);
                if id >= 4 {
                    room.peer(id).passes_on = Some(Standing::OnTrial);
                }
            }
            room.tick();
        }
        room.peers.iter().filter(|peer| peer.id.0 >= 4 && peer.uploaded_to > 0).count()
    };
    assert!((7..=9).contains(&tried(31)), "a twentieth: {}", tried(31));
    assert!((10..=12).contains(&tried(320)), "ten at once: {}", tried(320));
}

#[test]
fn who_is_far_behind_the_others_that_give_has_the_next_turn() {
    let slots = Slots::Fixed { regular: 4, optimistic: 0 };
    let mut room = Room::new(ChokePolicy::Contribution, slots);
    (0..20).for_each(|id| room.join(id));
    room.complete = true;
    (0..20).for_each(|id| room.peer(id).held = 100);
    (0..20).for_each(|id| room.peer(id).passes_on = Some(Standing::Giver));
    (0..20).for_each(|id| room.peer(id).uploaded_to = PIECE.into());
    room.tick();
    room.join(20);
    room.peer(20).passes_on = Some(Standing::Giver);
    let turn_comes = |held: u32| {
        let mut room = Room {
            choker: room.choker.clone(),
            peers: room.peers.clone(),
            rng: room.rng.clone(),
            idle: vec![],
            ..room
        };
        room.peer(20).held = held;
        (1..60).find(|_| {
            room.round();
            room.in_slot(Slot::Regular).contains(&20)
        })
    };
    assert_eq!(turn_comes(70), Some(1));
    assert!(
        turn_comes(80) > Some(10),
        "its turn is after all who came before it: {:?}",
        turn_comes(80)
    );
}

#[test]
fn who_says_that_it_is_behind_gets_no_more_turns_than_others() {
    // Rounds in which each of twenty, and of five that say so, had one of four slots.
    let rounds = |they_say: u32| {
        let mut room =
            Room::new(ChokePolicy::Contribution, Slots::Fixed { regular: 4, optimistic: 0 });
        (0..25).for_each(|id| room.join(id));
        room.complete = true;
        (0..25).for_each(|id| room.peer(id).held = if id < 20 { 100 } else { they_say });
        (0..25).for_each(|id| room.peer(id).passes_on = Some(Standing::Giver));
        let mut rounds = [0; 25];
        for _ in 0..400 {
            room.round();
            for id in room.unchoked() {
                rounds[id as usize] += 1;
                room.peer(id).uploaded_to += u64::from(PIECE);
            }
        }
        rounds
    };
    for they_say in [100, 1] {
        let rounds = rounds(they_say);
        assert!(rounds.iter().all(|count| (48..=80).contains(count)), "{they_say}: {rounds:?}");
    }
}
