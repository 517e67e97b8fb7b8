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
