//! What a lane says and when, and how much it listens to.

use super::*;
use crate::swarm::PickOrder;
use crate::wire;

#[test]
fn news_waits_for_the_block_that_goes_out_and_is_told_in_one_without_what_was_withdrawn_meanwhile()
{
    let mut setting = Setting::new(false, Caps::default(), Slots::default());
    let link = setting.join(Duration::ZERO, 2, false).unwrap();
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    let share = Arc::clone(&setting.share);
    let mut lane =
        Lane::new(Arc::clone(&share), Arc::clone(&link), true, Duration::ZERO, waker, rng);
    let get = |rng: &mut fastrand::Rng| {
        let (seeder, owner) = (Holdings::full(64), share.ledger.new_lane());
        let piece = share.ledger.claim(&seeder, owner, PickOrder::Random, rng).unwrap();
        assert!(share.ledger.verified(piece, owner));
        share.release_news(true);
        piece
    };
    let mut rng = fastrand::Rng::with_seed(2);
    let first = get(&mut rng);
    lane.tell_peer();
    assert_eq!(told(&mut lane), [vec![first.get()]]);
    let block = RawBlock { piece: first.get().into(), offset: 0, len: 16_384 };
    for is_held in [true, false] {
        lane.on_message(Message::Request(vec![block]), Duration::ZERO).unwrap();
        let span = lane.take_block(Duration::ZERO).expect("it is answered");
        let mut fresh = Vec::new();
        for _ in 0..2 {
            fresh.push(get(&mut rng).get());
            lane.tell_peer();
        }
        assert!(!lane.has_messages(), "it could not be heard before the block");
        let gone = share.ledger.news(0).last().expect("there is news");
        assert!(share.ledger.withdraw(gone));
        fresh.retain(|piece| *piece != gone.get());
        link.times_choked.fetch_add(1, Relaxed);
        lane.tell_peer();
        let said = lane.take_messages();
        assert!(matches!(said[..], [Message::Choke, Message::Unchoke]), "at once, {said:?}");
        if is_held {
            lane.on_block_sent(span, Duration::ZERO);
        } else {
            lane.not_held(span);
        }
        fresh.sort_unstable();
        assert_eq!(told(&mut lane), [fresh]);
    }
}

#[test]
fn who_is_cut_off_in_the_middle_of_a_piece_hears_that_the_rest_does_not_come() {
    let mut setting = Setting::with_pieces_of(65_536, true, Caps::default(), Slots::default());
    let link = setting.join(Duration::ZERO, 2, false).unwrap();
    let mut lane = first_lane(&setting.share, &link);
    let blocks = [0, 16_384].map(|offset| RawBlock { piece: 1, offset, len: 16_384 });
    lane.on_message(Message::Request(blocks.to_vec()), Duration::ZERO).unwrap();
    let begun = lane.take_block(Duration::ZERO).expect("it is answered");
    let is_amid_piece = |link: &Link| link.lanes_amid_piece.load(Relaxed) > 0;
    let choke = |cut_off: u32| {
        link.choking.store(true, Relaxed);
        link.times_choked.fetch_add(1, Relaxed);
        link.times_cut_off.fetch_add(cut_off, Relaxed);
    };
    lane.take_messages();
    choke(0);
    lane.heed(Duration::ZERO).unwrap();
    assert!(is_amid_piece(&link) && !lane.upload().is_empty());
    assert!(matches!(lane.take_messages()[..], [Message::Choke]));
    choke(1);
    lane.heed(Duration::ZERO).unwrap();
    lane.on_block_sent(begun, Duration::ZERO);
    assert!(!is_amid_piece(&link) && lane.upload().is_empty());
    let said = lane.take_messages();
    let refused = said.iter().find_map(|message| match message {
        Message::Refuse { blocks, reason: wire::RefuseReason::Choked } => Some(&blocks[..]),
        _ => None,
    });
    assert_eq!(refused, Some(&blocks[1..]), "{said:?}");
}

/// The pieces of each message of news.
fn told(lane: &mut Lane) -> Vec<Vec<u32>> {
    let pieces = |message| match message {
        Message::Have { holdings: wire::Holdings::News(runs), .. } => {
            let numbers = runs.into_iter().flat_map(|run| run.first..run.first + run.count);
            Some(numbers.map(|number| number as u32).collect())
        }
        _ => None,
    };
    lane.take_messages().into_iter().filter_map(pieces).collect()
}

#[test]
fn a_lane_whose_peer_floods_it_with_control_messages_reads_no_more_until_it_has_made_up_for_it() {
    let (share, link) = link();
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    let mut lane = Lane::new(share, link, true, Duration::ZERO, waker, rng);
    let mut heard = 0;
    while !lane.hears_enough(Duration::ZERO) {
        lane.heard_control(64 * 1024, Duration::ZERO);
        heard += 64 * 1024;
        assert!(heard <= 16 << 20, "without limit");
    }
    // One message of 64 KiB was too much, which is what it may say in a second.
    let made_up = Duration::from_secs(1);
    assert!(lane.next_deadline(Duration::ZERO) <= made_up, "woken when it may read again");
    assert!(lane.hears_enough(made_up - Duration::from_millis(1)));
    assert!(!lane.hears_enough(made_up));
}
