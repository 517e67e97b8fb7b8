//! Whatever happens, slots are neither overdrawn nor left free while somebody waits.

use std::time::Duration;

use fastrand::Rng;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Join,
    Leave(usize),
    Interest(usize, bool),
    Snub(usize, bool),
    Bytes(usize, u32),
    Wait(u64),
    Complete,
}

fn step() -> impl Strategy<Value = Step> {
    let at = any::<usize>();
    prop_oneof![
        3 => Just(Step::Join),
        1 => at.prop_map(Step::Leave),
        2 => (at, any::<bool>()).prop_map(|(at, on)| Step::Interest(at, on)),
        1 => (at, any::<bool>()).prop_map(|(at, on)| Step::Snub(at, on)),
        4 => (at, any::<u32>()).prop_map(|(at, bytes)| Step::Bytes(at, bytes)),
        4 => (0u64..15_000).prop_map(Step::Wait),
        1 => Just(Step::Complete),
    ]
}

proptest! {
    #[test]
    fn slots_are_never_overdrawn_nor_left_free_while_somebody_waits(
        policy in prop_oneof![
            Just(ChokePolicy::Contribution), Just(ChokePolicy::Rarity), Just(ChokePolicy::Seeder),
        ],
        regular in 0usize..6, optimistic in 0usize..3,
        steps in prop::collection::vec(step(), 0..150), seed in any::<u64>(),
    ) {
        let mut room = Room::new(policy, Slots::Fixed { regular, optimistic });
        room.rng = Rng::with_seed(seed);
        let (mut next, mut moved) = (0, 0);
        for step in steps {
            let pick = |at: usize, room: &Room| at.checked_rem(room.peers.len());
            match step {
                Step::Join => {
                    room.join(next);
                    next += 1;
                }
                Step::Leave(at) => {
                    if let Some(at) = pick(at, &room) {
                        room.peers.swap_remove(at);
                    }
                }
                Step::Interest(at, on) => {
                    if let Some(at) = pick(at, &room) {
                        room.peers[at].interested = on;
                    }
                }
                Step::Snub(at, on) => {
                    if let Some(at) = pick(at, &room) {
                        room.peers[at].snubbed = on;
                    }
                }
                Step::Bytes(at, bytes) => {
                    if let Some(at) = pick(at, &room) {
                        room.peers[at].verified_from += u64::from(bytes);
                        room.peers[at].rare_pieces = bytes % 7;
                    }
                }
                Step::Wait(millis) => room.now += Duration::from_millis(millis),
                Step::Complete => room.complete = true,
            }
            let due = room.now >= room.choker.next_round();
            let before = room.unchoked();
            let had_regular = room.in_slot(Slot::Regular);
            let (on, off) = room.tick();
            let unchoked = room.unchoked();
            prop_assert!(room.in_slot(Slot::Regular).len() <= regular);
            prop_assert!(room.in_slot(Slot::Optimistic).len() <= optimistic);
            prop_assert_eq!(room.choker.peers.len(), room.peers.len());
            let seeding = room.complete || policy == ChokePolicy::Seeder;
            for peer in &room.peers {
                prop_assert!(peer.interested || !unchoked.contains(&peer.id.0));
            }
            let waiting: Vec<_> = room.peers.iter()
                .filter(|peer| peer.interested && !unchoked.contains(&peer.id.0)).collect();
            if !waiting.is_empty() {
                prop_assert_eq!(room.in_slot(Slot::Optimistic).len(), optimistic);
            }
            if waiting.iter().any(|peer| seeding || !peer.snubbed) {
                prop_assert_eq!(room.in_slot(Slot::Regular).len(), regular);
            }
            // Calm: beyond those who lost their right, one regular in a round and the tried ones go.
            let lost = room.peers.iter().filter(|peer| before.contains(&peer.id.0))
                .filter(|peer| !peer.interested || (peer.snubbed && !seeding)).count();
            let tried = if due { optimistic } else { 0 };
            prop_assert!(off.len() <= lost + 1 + tried, "{:?} off, {:?} on", off, on);
            moved = if due { 0 } else { moved } + room.peers.iter()
                .filter(|peer| peer.interested && (seeding || !peer.snubbed))
                .filter(|peer| had_regular.contains(&peer.id.0) && off.contains(&peer.id.0))
                .count();
            prop_assert!(moved <= 1, "{moved} slots moved in a round");
            prop_assert_eq!(room.tick(), (vec![], vec![]), "a second look changes nothing");
        }
    }
}
