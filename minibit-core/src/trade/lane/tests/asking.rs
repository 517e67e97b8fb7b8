//! What a lane asks for, and what it does not.

use super::*;
use crate::trade::testing::Woken;

/// A lane of the seeder's link that has yet to report the end of all pieces but number 9.
fn lane_with_unfinished(share: &Arc<Share>, link: &Arc<Link>) -> Lane {
    let (share, link) = (Arc::clone(share), Arc::clone(link));
    link.choked.store(false, Relaxed);
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    let lane = Lane::new(share, link, false, Duration::ZERO, waker, rng);
    let pieces = (0..64).filter(|number| *number != 9);
    let pieces = pieces.filter_map(|number| lane.share.geometry.piece(number));
    lock(&lane.unfinished).extend(pieces);
    lane
}

#[test]
fn a_piece_whose_end_has_yet_to_be_reported_is_not_fetched_anew_though_its_seeder_deals_it() {
    let (share, link) = link();
    let mut lane = lane_with_unfinished(&share, &link);
    lock(&link.suggested).push_back(7..10);
    link.guiding.begin();
    lane.ask(Duration::ZERO);
    assert_eq!(lane.download().pieces(), [share.geometry.piece(9).unwrap()]);
}

#[test]
fn a_piece_whose_end_has_yet_to_be_reported_is_not_taken_over() {
    let (share, link) = link();
    let stalled = lane_with_unfinished(&share, &link);
    for number in 0..64 {
        let piece = share.geometry.piece(number).unwrap();
        assert!(share.ledger.claim_this(&link.holdings, stalled.id(), piece));
    }
    let mut lane = lane_with_unfinished(&share, &link);
    lane.ask(Duration::from_secs(20));
    assert_eq!(lane.download().pieces(), [share.geometry.piece(9).unwrap()]);
}

#[test]
fn of_what_waits_with_a_slower_peer_what_comes_next_is_left_to_it() {
    let mut setting = Setting::with_pieces_of(16_384, false, Caps::default(), Slots::default());
    let links = [2, 3].map(|number| setting.join(Duration::ZERO, number, true).unwrap());
    let share = setting.share;
    let (slow, mut fast) = (first_lane(&share, &links[0]), first_lane(&share, &links[1]));
    let [begun, next, later] = [0, 1, 2].map(|number| share.geometry.piece(number).unwrap());
    for piece in share.geometry.pieces() {
        assert!(share.ledger.claim_this(&links[0].holdings, slow.id(), piece));
        if ![begun, next, later].contains(&piece) {
            share.ledger.verified(piece, slow.id());
        }
    }
    let now = Duration::from_millis(100);
    fast.download.on_bytes(16_384, now);
    let last = |due: u64| {
        slow.status.due_us.store(100_000 + due * 1000, Relaxed);
        slow.status.begun_due_us.store(400_000, Relaxed);
    };
    slow.status.progress_us.store(100_000, Relaxed);
    slow.status.begun.store(1, Relaxed);
    slow.status.next.store(2, Relaxed);
    slow.status.rate.store(163_840, Relaxed);
    last(299);
    fast.ask(now);
    assert_eq!(fast.download().pieces(), [], "all is here before it could be here twice");
    last(700);
    fast.ask(now);
    assert_eq!(fast.download().pieces(), [later]);
    assert_eq!(share.ledger.owner(next), Some(slow.id()));
}

#[test]
fn a_lane_of_which_nothing_is_known_takes_over_nothing_that_comes_as_fast_as_it_may_by_others() {
    let mut setting = Setting::with_pieces_of(16_384, false, Caps::default(), Slots::default());
    let links = [2, 3, 4].map(|number| setting.join(Duration::ZERO, number, true).unwrap());
    let share = setting.share;
    let [owner, other, mut unknown] = links.each_ref().map(|link| first_lane(&share, link));
    let last = share.geometry.piece(0).unwrap();
    for piece in share.geometry.pieces() {
        assert!(share.ledger.claim_this(&links[0].holdings, owner.id(), piece));
        if piece != last {
            share.ledger.verified(piece, owner.id());
        }
    }
    // Half of it has come, and the rest takes eight seconds; no other took less than sixteen for a piece.
    let now = Duration::from_secs(60);
    owner.status.begun.store(last.get() + 1, Relaxed);
    owner.status.rate.store(1024, Relaxed);
    owner.status.progress_us.store(now.as_micros() as u64, Relaxed);
    let due = (now + Duration::from_secs(8)).as_micros() as u64;
    owner.status.due_us.store(due, Relaxed);
    owner.status.begun_due_us.store(due, Relaxed);
    other.status.rate.store(1024, Relaxed);
    unknown.ask(now);
    assert_eq!(unknown.download().pieces(), []);
    other.status.rate.store(1, Relaxed);
    let takes_it = |unknown: &mut Lane| {
        unknown.ask(now);
        let took = !unknown.download().is_idle();
        unknown.cancel(&[last]);
        assert!(!took || share.ledger.claim_this(&links[0].holdings, owner.id(), last));
        took
    };
    assert!(takes_it(&mut unknown), "who drips is no measure");
    other.status.rate.store(32_768, Relaxed);
    unknown.ask(now);
    assert_eq!(unknown.download().pieces(), [last], "others take half a second");
}

#[test]
fn a_lane_tells_others_what_comes_next_and_how_far_it_is() {
    let mut setting = Setting::with_pieces_of(16_384, false, Caps::default(), Slots::default());
    let link = setting.join(Duration::ZERO, 2, true).unwrap();
    let (mut lane, first) = asking(&setting.share, &link);
    let pieces = lane.download().pieces();
    let next = |lane: &Lane| lane.status.next.load(Relaxed);
    lane.publish_due(Duration::ZERO);
    assert_eq!(next(&lane), first.piece().get() + 1, "nothing has begun");
    let now = Duration::from_millis(30);
    let (piece, offset, len) = (first.piece().get(), first.offset(), first.len());
    lane.on_block(&BlockHeader { piece, offset, len }, now).unwrap();
    lane.publish_due(now);
    let then = pieces.iter().find(|piece| **piece != first.piece()).expect("more was asked for");
    assert_eq!(next(&lane), then.get() + 1);
    assert_eq!(lane.status.trip_us.load(Relaxed), 30_000);
    lane.cancel(&pieces);
    lane.publish_due(now);
    assert_eq!(next(&lane), 0);
    assert_eq!(lane.status.begun_due_us.load(Relaxed), 30_000, "what was due is not any more");
}

/// After how many times what it takes itself a lane takes over a piece of which the first block comes.
fn taken_after(piece_len: u32) -> u64 {
    let mut setting = Setting::with_pieces_of(piece_len, false, Caps::default(), Slots::default());
    let links = [2, 3].map(|number| setting.join(Duration::ZERO, number, true).unwrap());
    let share = setting.share;
    let (slow, mut fast) = (first_lane(&share, &links[0]), first_lane(&share, &links[1]));
    let piece = share.geometry.piece(0).unwrap();
    assert!(share.ledger.claim_this(&links[0].holdings, slow.id(), piece));
    all_but(&share, &links[0], piece);
    let now = Duration::from_millis(100);
    fast.download.on_bytes(piece_len, now);
    slow.status.progress_us.store(100_000, Relaxed);
    slow.status.begun.store(1, Relaxed);
    let takes = |times: &u64| {
        slow.status.begun_due_us.store(100_000 + times * 100_000 + 1000, Relaxed);
        fast.ask(now);
        !fast.download().is_idle()
    };
    (1..20).find(takes).expect("it is taken")
}

#[test]
fn what_is_under_way_is_taken_over_less_readily_if_all_of_it_is_lost() {
    assert_eq!([taken_after(32_768), taken_after(16_384)], [4, 8]);
}

#[test]
fn who_found_a_piece_taken_that_is_not_asked_for_after_all_looks_again() {
    let (share, links) = links(2);
    let woken = Arc::new(Woken::default());
    let (waker, rng) = (Waker::from(Arc::clone(&woken)), fastrand::Rng::with_seed(1));
    links[0].choked.store(false, Relaxed);
    let other: Lane =
        Lane::new(Arc::clone(&share), Arc::clone(&links[0]), true, Duration::ZERO, waker, rng);
    let (piece, claims) = (share.geometry.piece(8).unwrap(), share.ledger.new_lane());
    assert!(share.ledger.claim_this(&links[1].holdings, claims, piece));
    let before = woken.0.load(Relaxed);
    share.put_back(piece, claims);
    assert!(share.ledger.has_open_of(&other.link().holdings));
    assert!(woken.0.load(Relaxed) > before, "or it would come upon it by chance");
}

#[test]
fn a_further_lane_nearby_asks_for_nothing_while_more_links_than_cores_carry_what_counts() {
    let (share, links) = links(3);
    let lane = |link: &Arc<Link>, first, rate| {
        link.choked.store(false, Relaxed);
        let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
        let (share, link) = (Arc::clone(&share), Arc::clone(link));
        let lane = Lane::new(share, link, first, Duration::ZERO, waker, rng);
        lane.status.rate.store(rate, Relaxed);
        lane
    };
    let firsts: Vec<Lane> = links.iter().map(|link| lane(link, true, 1_000_000)).collect();
    let mut further = lane(&links[0], false, 0);
    let mut asks = |now: Duration, rate_of_third| {
        firsts.iter().for_each(|lane| {
            lane.status.progress_us.store(now.as_micros() as u64, Relaxed);
        });
        firsts[2].status.rate.store(rate_of_third, Relaxed);
        further.ask(now);
        !further.download().is_idle()
    };
    assert!(!asks(Duration::from_millis(100), 125_000), "three links carry, there are two cores");
    assert!(asks(Duration::from_millis(200), 124_000), "one that crawls is none of them");
}

#[test]
fn a_further_lane_begins_with_the_distance_that_another_has_met() {
    let (share, link) = link();
    let lane = |first| {
        let (share, link) = (Arc::clone(&share), Arc::clone(&link));
        Lane::new(share, link, first, Duration::ZERO, Waker::noop().clone(), fastrand::Rng::new())
    };
    let first = lane(true);
    assert_eq!(first.download().meter().round_trip(), None);
    let far = Duration::from_millis(100);
    link.round_trip_us.store(far.as_micros() as u64, Relaxed);
    let further = lane(false);
    assert_eq!(further.download().meter().round_trip(), Some(far));
    assert!(further.download().meter().window() > first.download().meter().window());
}
