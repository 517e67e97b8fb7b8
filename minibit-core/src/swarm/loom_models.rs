//! The lock-free parts under every order of events that loom can find, with all that weak
//! memory allows.
//!
//! Run with `RUSTFLAGS="--cfg loom" cargo test -p minibit-core --release --lib loom`.
//! Ledgers of one piece keep the models small; the tiers of a bitmap have their own model.
//! Threads may be interrupted four or five times; the races told in the headers need one or
//! two. Each model was seen to fail with the step or the ordering that it is about taken out.

use std::sync::Arc;

use fastrand::Rng;
use loom::thread;

use super::bits::Bits;
use super::cell::LEVELS;
use super::ledger::{FLYING, OPEN, belongs};
use super::news::News;
use super::{Holdings, LaneId, Ledger, PickOrder, share_of};
use crate::types::{PieceIndex, PieceSet};

fn check(interruptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(interruptions);
    builder.check(model);
}

fn ledger() -> Arc<Ledger> {
    Arc::new(Ledger::new(share_of(1), &PieceSet::empty(1), &PieceSet::full(1)))
}

fn only(ledger: &Ledger) -> PieceIndex {
    ledger.geometry().piece(0).expect("one piece")
}

fn claim(ledger: &Ledger, lane: LaneId) -> bool {
    let rng = &mut Rng::with_seed(1);
    ledger.claim(&Holdings::full(1), lane, PickOrder::RarestFirst, rng).is_some()
}

/// Nothing is landing any more: is the piece in all bitmaps it belongs to?
fn assert_nothing_lost(ledger: &Ledger) {
    let cell = ledger.cell(only(ledger));
    for number in (0..LEVELS).chain([FLYING, OPEN]) {
        if belongs(cell, number) {
            assert!(ledger.bitmap(number).contains(0), "bit of bitmap {number} lost");
        }
    }
}

#[test]
fn loom_of_two_claims_one_wins() {
    check(5, || {
        let ledger = ledger();
        let threads: Vec<_> = (0..2)
            .map(|_| {
                let (ledger, lane) = (ledger.clone(), ledger.new_lane());
                thread::spawn(move || claim(&ledger, lane))
            })
            .collect();
        let wins = threads.into_iter().map(|t| t.join().expect("no panic"));
        assert_eq!(wins.filter(|won| *won).count(), 1);
        assert_nothing_lost(&ledger);
        assert!(!ledger.has_open());
    });
}

#[test]
fn loom_gain_lose_and_claim_lose_no_level() {
    check(4, || {
        let ledger = ledger();
        let lane = ledger.new_lane();
        let stays = Holdings::empty(1);
        ledger.add_holder(&stays);
        ledger.gain(&stays, only(&ledger));
        let loser = {
            let ledger = ledger.clone();
            thread::spawn(move || assert!(ledger.lose(&stays, only(&ledger))))
        };
        let gainer = {
            let ledger = ledger.clone();
            thread::spawn(move || {
                let comes = Holdings::empty(1);
                ledger.add_holder(&comes);
                assert!(ledger.gain(&comes, only(&ledger)));
            })
        };
        let claimed = claim(&ledger, lane);
        loser.join().expect("no panic");
        gainer.join().expect("no panic");
        assert_nothing_lost(&ledger);
        assert_eq!(ledger.availability(only(&ledger)), 1);
        // A claim may miss a piece that is on its way between two levels, but only then.
        assert!(claimed || claim(&ledger, lane));
        assert_nothing_lost(&ledger);
    });
}

#[test]
fn loom_claim_and_release_against_gain_lose_no_level() {
    check(4, || {
        let ledger = ledger();
        let lane = ledger.new_lane();
        let gainer = {
            let ledger = ledger.clone();
            thread::spawn(move || {
                let comes = Holdings::empty(1);
                ledger.add_holder(&comes);
                assert!(ledger.gain(&comes, only(&ledger)));
            })
        };
        if claim(&ledger, lane) {
            assert!(ledger.release(only(&ledger), lane));
        }
        gainer.join().expect("no panic");
        assert_nothing_lost(&ledger);
        assert!(claim(&ledger, lane));
    });
}

#[test]
fn loom_nothing_is_written_after_a_take_over() {
    check(5, || {
        let ledger = ledger();
        let (old, new) = (ledger.new_lane(), ledger.new_lane());
        assert!(claim(&ledger, old));
        // The bytes at the piece's final place: loom fails if two threads touch them at once.
        let bytes = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let writer = {
            let (ledger, bytes) = (ledger.clone(), bytes.clone());
            thread::spawn(move || {
                if let Some(_lease) = ledger.begin_write(only(&ledger), old) {
                    bytes.with_mut(|_| ());
                }
            })
        };
        let taken = ledger.take_over(only(&ledger), old, new);
        if taken {
            let _lease = ledger.begin_write(only(&ledger), new).expect("the owner may write");
            bytes.with_mut(|_| ());
        }
        writer.join().expect("no panic");
        assert!(taken || ledger.take_over(only(&ledger), old, new));
        assert!(ledger.begin_write(only(&ledger), old).is_none());
    });
}

#[test]
fn loom_a_piece_given_up_during_a_write_opens_after_it() {
    check(5, || {
        let ledger = ledger();
        let (old, new) = (ledger.new_lane(), ledger.new_lane());
        assert!(claim(&ledger, old));
        let bytes = Arc::new(loom::cell::UnsafeCell::new(0u32));
        let writer = {
            let (ledger, bytes) = (ledger.clone(), bytes.clone());
            thread::spawn(move || {
                if let Some(_lease) = ledger.begin_write(only(&ledger), old) {
                    bytes.with_mut(|_| ());
                }
            })
        };
        assert!(ledger.release(only(&ledger), old));
        if claim(&ledger, new) {
            bytes.with_mut(|_| ());
            assert!(ledger.release(only(&ledger), new));
        }
        writer.join().expect("no panic");
        assert_nothing_lost(&ledger);
        assert!(claim(&ledger, new), "open again");
    });
}

#[test]
fn loom_readers_see_whole_news_only() {
    check(5, || {
        let news = Arc::new(News::new(2));
        let writers: Vec<_> = (0..2)
            .map(|piece| {
                let news = news.clone();
                thread::spawn(move || news.push(piece))
            })
            .collect();
        let seen: Vec<_> = news.since(0).collect();
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        let all: Vec<_> = news.since(0).collect();
        assert!(all == [0, 1] || all == [1, 0], "{all:?}");
        assert!(all.starts_with(&seen), "what was read has changed");
    });
}

#[test]
fn loom_news_follow_the_piece_they_tell_of() {
    check(5, || {
        let ledger = ledger();
        let lane = ledger.new_lane();
        assert!(claim(&ledger, lane));
        let finisher = {
            let ledger = ledger.clone();
            thread::spawn(move || assert!(ledger.verified(only(&ledger), lane)))
        };
        if ledger.is_complete() {
            assert!(ledger.have(only(&ledger)));
        }
        if ledger.news_len() == 1 {
            assert!(ledger.have(only(&ledger)) && ledger.snapshot().is_full());
        }
        finisher.join().expect("no panic");
        assert!(ledger.is_complete());
    });
}

#[test]
fn loom_upper_tiers_never_hide_a_bit() {
    check(5, || {
        // Word 1, which a search from word 0 on finds through the upper tier only.
        let bits = Arc::new(Bits::empty(65));
        bits.insert(1, 1);
        let remover = {
            let bits = bits.clone();
            thread::spawn(move || bits.remove(1, 1))
        };
        bits.insert(1, 2);
        remover.join().expect("no panic");
        assert_eq!(bits.next_common(None, 0, &mut 0), Some((1, 2)));
    });
}

#[test]
fn loom_upper_tiers_survive_two_removers() {
    check(5, || {
        let bits = Arc::new(Bits::empty(65));
        bits.insert(1, 1);
        let other = {
            let bits = bits.clone();
            thread::spawn(move || {
                bits.remove(1, 1);
                bits.insert(1, 1);
            })
        };
        bits.insert(1, 2);
        bits.remove(1, 2);
        other.join().expect("no panic");
        assert_eq!(bits.next_common(None, 0, &mut 0), Some((1, 1)));
    });
}
