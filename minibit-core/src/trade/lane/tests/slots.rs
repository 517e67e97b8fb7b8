//! When a peer keeps its slot or gives one back, and when the way out is busy.

use super::*;

#[test]
fn a_piece_that_has_just_begun_keeps_its_slot_though_its_peer_has_had_nothing_for_long() {
    let mut setting = Setting::new(true, Caps::default(), Slots::default());
    let link = setting.join(Duration::ZERO, 2, false).unwrap();
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    let share = Arc::clone(&setting.share);
    let mut lane = Lane::new(share, Arc::clone(&link), true, Duration::ZERO, waker, rng);
    let now = Duration::from_secs(60);
    let block = RawBlock { piece: 0, offset: 0, len: 16_384 };
    lane.on_message(Message::Request(vec![block]), now).unwrap();
    assert!(lane.take_block(now).is_some());
    assert!(link.is_amid_piece(now));
    assert!(!link.is_amid_piece(now + Duration::from_secs(3)), "it reads nothing");
}

#[test]
fn the_way_out_is_busy_while_a_block_is_being_sent_and_not_after() {
    let mut setting = Setting::new(true, Caps::default(), Slots::default());
    let link = setting.join(Duration::ZERO, 2, false).unwrap();
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    let share = Arc::clone(&setting.share);
    let mut lane = Lane::new(Arc::clone(&share), link, true, Duration::ZERO, waker, rng);
    let at = Duration::from_secs;
    let blocks: Vec<_> = (0..3).map(|piece| RawBlock { piece, offset: 0, len: 16_384 }).collect();
    lane.on_message(Message::Request(blocks), at(10)).unwrap();
    let span = lane.take_block(at(10)).unwrap();
    lane.on_block_sent(span, at(12));
    assert_eq!(share.busy.sum(at(20)), at(2));
    let span = lane.take_block(at(20)).unwrap();
    lane.not_held(span);
    assert_eq!(share.busy.sum(at(30)), at(2), "nothing was sent");
    lane.take_block(at(30)).unwrap();
    assert_eq!(share.busy.sum(at(31)), at(3));
    drop(lane);
    assert_eq!(share.busy.sum(at(40)), at(3), "the lane is gone");
}

#[test]
fn who_has_had_all_that_a_peer_holds_gives_its_slot_back_though_it_was_busy_when_the_last_came() {
    let gives_back_after = |millis_for_it: u64| {
        let (share, link) = link();
        let mut lane = first_lane(&share, &link);
        lane.ask(Duration::ZERO);
        let (piece, rest) =
            lane.download().pieces().split_first().map(|(a, b)| (*a, b.to_vec())).unwrap();
        // Of all that is missing it has nothing else.
        lane.part_with(&rest);
        let others = share.geometry.pieces().filter(|other| *other != piece);
        others.for_each(|other| {
            share.ledger.lose(&link.holdings, other);
        });
        lane.take_messages();
        let here = Duration::from_millis(millis_for_it);
        let header = BlockHeader { piece: piece.get(), offset: 0, len: 16_384 };
        lane.on_block(&header, Duration::ZERO).unwrap();
        let span = share.geometry.block(piece.get().into(), 0, 16_384).unwrap();
        comes(&mut lane, span, 16_384);
        lane.on_bytes(16_384, here);
        lane.publish_due(here);
        assert!(lane.on_block_done(span));
        let (_, origin) = lane.end_piece(piece).unwrap();
        share.keep(&link, piece, lane.id, &origin);
        (0..40).map(|step| Duration::from_millis(50) * step).find(|wait| {
            link.heard(here + *wait);
            lane.ask(here + *wait);
            lane.check_time(here + *wait, false).unwrap();
            lane.take_messages().contains(&Message::NotInterested)
        })
    };
    assert_eq!(gives_back_after(1000), Some(IDLE_SLOT_MAX));
    assert_eq!(gives_back_after(10), Some(IDLE_SLOT_MIN), "for who is fast it is soon");
}
