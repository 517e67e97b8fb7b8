//! Many small swarms, each different in all that a scenario can say, faults and hostile members
//! included; what must always hold is checked after every step.

use minibit_core::sim::{Scenario, World};

/// Numbers of the swarms, in as many parts as there are tests, so that these run side by side.
const SEEDS: u64 = 120;
const PARTS: u64 = 4;
/// Numbers beyond those that have found something: a way in that let no block be seen coming, free
/// riders for only neighbours, a lane that looked at the clock for ever, a seeder waited for in
/// vain, liars that take over again and again, pieces that drip from one while others hold them, a
/// refusal taken for that of another request (twice), blocks forgotten that were still to come, pieces that
/// take longer than links last, or than peers do. Of these 780 also takes luck, with other seeds as with any change of
/// what happens when: see `docs/swarm.md`.
const FOUND: [u64; 16] =
    [143, 194, 310, 349, 396, 543, 624, 780, 1117, 1143, 1239, 1253, 1295, 1393, 1530, 1638];

/// What went wrong with a swarm, if anything.
fn fault_of(scenario: Scenario) -> Option<String> {
    let mut world = World::new(scenario).checked();
    while !world.is_done() && world.step() {
        if let Some(broken) = world.broken() {
            return Some(broken.to_owned());
        }
    }
    // What is with nobody who is there cannot be had; everything else must be.
    let unserved = world.unserved();
    (!unserved.is_empty())
        .then(|| format!("at {:?} peers {unserved:?} lack what honest peers hold", world.now()))
}

#[track_caller]
fn all_of_part(part: u64) {
    let faults: Vec<String> = (0..SEEDS)
        .chain(FOUND)
        .filter(|seed| seed % PARTS == part)
        .filter_map(|seed| {
            let fault = fault_of(Scenario::varied(seed))?;
            Some(format!("{fault}\n    minibit simulate --varied {seed}"))
        })
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn in_swarms_of_every_kind_all_rules_hold_and_all_get_what_is_there() {
    all_of_part(0);
}

#[test]
fn in_as_many_other_swarms_they_do_too() {
    all_of_part(1);
}

#[test]
fn and_in_a_third_lot_of_swarms() {
    all_of_part(2);
}

#[test]
fn and_in_a_fourth_lot_of_swarms() {
    all_of_part(3);
}
