//! Fair samples of numbers, at a cost that follows the sample and not the crowd.

use std::collections::HashSet;

/// `count` different numbers below `end` without `except`, each set of them equally likely, in
/// random order; all there are if there are fewer.
pub(super) fn sample(
    end: usize,
    except: Option<usize>,
    count: usize,
    rng: &mut fastrand::Rng,
) -> Vec<usize> {
    let except = except.filter(|number| *number < end);
    let others = end - usize::from(except.is_some());
    let count = count.min(others);
    // Robert Floyd's algorithm: one draw for each number of the sample.
    let mut chosen = HashSet::with_capacity(count);
    let mut numbers = Vec::with_capacity(count);
    for last in others - count..others {
        let draw = rng.usize(..=last);
        let number = if chosen.insert(draw) { draw } else { last };
        chosen.insert(number);
        // Close the gap that the exception leaves.
        let skips = except.is_some_and(|except| number >= except);
        numbers.push(number + usize::from(skips));
    }
    rng.shuffle(&mut numbers);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sample_has_different_numbers_below_its_end_and_never_the_exception(
            end in 0usize..50, except in prop::option::of(0usize..60), count in 0usize..60, seed: u64,
        ) {
            let numbers = sample(end, except, count, &mut fastrand::Rng::with_seed(seed));
            let others = (0..end).filter(|number| Some(*number) != except).count();
            prop_assert_eq!(numbers.len(), count.min(others));
            let distinct: HashSet<_> = numbers.iter().collect();
            prop_assert_eq!(distinct.len(), numbers.len());
            prop_assert!(numbers.iter().all(|number| *number < end && Some(*number) != except));
        }
    }

    #[test]
    fn every_number_is_equally_likely_at_every_place() {
        let rng = &mut fastrand::Rng::with_seed(11);
        let mut counts = [[0u32; 10]; 4];
        for _ in 0..9_000 {
            for (place, number) in sample(10, Some(3), 4, rng).into_iter().enumerate() {
                counts[place][number] += 1;
            }
        }
        for (place, counts) in counts.iter().enumerate() {
            for (number, count) in counts.iter().enumerate() {
                // 1,000 are expected; 150 is five standard deviations.
                let expected = if number == 3 { 0..=0 } else { 850..=1150 };
                assert!(expected.contains(count), "{number} came {count} times at {place}");
            }
        }
    }
}
