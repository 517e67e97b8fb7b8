//! What pieces bring that prove right or wrong: doubt, and what is earned by a right one.

use super::*;
use crate::types::PieceSet;

#[test]
fn wrong_bytes_from_several_links_are_nobodys_and_end_none_of_them() {
    let (share, links) = links(2);
    let piece = spoil(&share, &links[0], &links[1]);
    assert!(links.iter().all(|link| lock(&link.suspect).is_none()));
    // Whoever is next fetches all of it.
    assert_eq!(share.end_of_prefix(piece, &Sender::of(&links[0])), 0);
    assert_eq!(share.ledger.owner(piece), None);
    assert!(!share.ledger.have(piece));
}

/// A lane to a seeder that is in doubt, and the piece that an honest peer began, left, and is waited for with.
fn doubted_lane() -> (Lane, PieceIndex) {
    let (share, links) = links(3);
    spoil(&share, &links[0], &links[1]);
    let (mut lost, span) = asking(&share, &links[2]);
    comes(&mut lost, span, 5000);
    drop(lost);
    let link = Arc::clone(&links[0]);
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(3));
    (Lane::new(share, link, true, Duration::ZERO, waker, rng), span.piece())
}

#[test]
fn what_a_seeder_in_doubt_dealt_and_may_not_begin_yet_is_fetched_as_soon_as_it_may() {
    let (mut lane, begun) = doubted_lane();
    let other = lane.share.geometry.piece((begun.get() + 1) % 64).unwrap();
    for piece in [begun, other] {
        lock(&lane.link.suggested).push_back(piece.get()..piece.get() + 1);
    }
    lane.link.guiding.begin();
    lane.ask(Duration::ZERO);
    assert_eq!(lane.download().pieces(), [other]);
    lane.ask(Duration::from_secs(30));
    assert_eq!(lane.download().pieces(), [other, begun]);
}

#[test]
fn a_lane_that_found_something_is_not_held_back_by_what_it_may_not_begin() {
    let (mut lane, begun) = doubted_lane();
    // Of all others there are copies, so that what may not be begun is the only first copy to be had.
    let mut out = PieceSet::full(64);
    out.remove(begun);
    lane.share.ledger.add_holder(&Holdings::from_set(&out));
    lane.ask(Duration::ZERO);
    assert!(!lane.download().is_idle() && !lane.held_back);
}

#[test]
fn a_lane_that_finds_only_what_it_may_not_begin_is_held_back_and_leaves_it_open() {
    let (mut lane, begun) = doubted_lane();
    let (share, link) = (Arc::clone(&lane.share), Arc::clone(&lane.link));
    all_but(&share, &link, begun);
    lane.ask(Duration::ZERO);
    assert!(lane.download().is_idle() && lane.held_back && link.waits_for_us.load(Relaxed));
    assert_eq!(share.ledger.owner(begun), None);
}

/// A whole right piece comes over the link.
fn comes_right(share: &Share, link: &Link, number: u32) {
    let (piece, lane) = (share.geometry.piece(number).unwrap(), share.ledger.new_lane());
    assert!(share.ledger.claim_this(&link.holdings, lane, piece));
    share.keep(link, piece, lane, &Origin::Alone);
}

#[test]
fn for_a_right_piece_who_is_in_doubt_for_ever_may_begin_one_anew_that_others_left() {
    let (share, links) = links(3);
    for time in 0..3 {
        spoil(&share, &links[0], &links[1]);
        (0..2).for_each(|at| comes_right(&share, &links[at], (2 * time + at) as u32));
    }
    let (mut lost, span) = asking(&share, &links[2]);
    comes(&mut lost, span, 5000);
    drop(lost);
    let begun = span.piece();
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(3));
    let mut lane: Lane =
        Lane::new(Arc::clone(&share), Arc::clone(&links[0]), true, Duration::ZERO, waker, rng);
    lane.ask(Duration::ZERO);
    let asked = lane.download().pieces();
    assert!(!asked.is_empty() && !asked.contains(&begun), "there is more to be had");
    lane.part_with(&asked);
    all_but(&share, &links[0], begun);
    lane.ask(Duration::ZERO);
    assert_eq!(lane.download().pieces(), [begun]);
    // And if it does not send that, no other one.
    lane.part_with(&[begun]);
    lane.ask(Duration::ZERO);
    assert!(lane.download().is_idle() && lane.held_back);
}

/// A seeder that is in doubt for ever and has sent a right piece, and the piece that another began and left, which it may
/// begin anew for that.
fn earned() -> (Setting, Arc<Link>, PieceIndex) {
    let mut setting = Setting::new(false, Caps::default(), Slots::default());
    let links: Vec<_> =
        (2..5).map(|number| setting.join(Duration::ZERO, number, true).unwrap()).collect();
    let share = Arc::clone(&setting.share);
    for time in 0..3 {
        spoil(&share, &links[0], &links[1]);
        (0..2).for_each(|at| comes_right(&share, &links[at], (2 * time + at) as u32));
    }
    let (mut lost, span) = asking(&share, &links[2]);
    comes(&mut lost, span, 5000);
    drop(lost);
    (setting, Arc::clone(&links[0]), span.piece())
}

#[test]
fn what_a_peer_has_earned_is_not_lost_with_its_link_and_spent_once() {
    let (mut setting, link, begun) = earned();
    all_but(&setting.share, &link, begun);
    for is_left in [true, false] {
        let here: Vec<_> = setting.share.links().keys().copied().collect();
        for link in here {
            setting.manager.remove_link(Duration::ZERO, link, false);
        }
        let again = setting.join(Duration::ZERO, 2, true).unwrap();
        let mut lane = first_lane(&setting.share, &again);
        lane.ask(Duration::ZERO);
        assert_eq!(!lane.download().is_idle(), is_left);
        assert_eq!(again.waits_for_us.load(Relaxed), !is_left);
    }
}

#[test]
fn what_was_earned_is_not_spent_while_there_is_anything_else_to_fetch() {
    let (setting, link, begun) = earned();
    // Of all others there are copies, so that it is the only first copy.
    let mut out = PieceSet::full(64);
    out.remove(begun);
    setting.share.ledger.add_holder(&Holdings::from_set(&out));
    let mut lane = first_lane(&setting.share, &link);
    lane.ask(Duration::ZERO);
    assert!(!lane.download().is_idle() && !lane.download().pieces().contains(&begun));
}

#[test]
fn a_piece_whose_end_has_yet_to_be_reported_is_not_fetched_anew_for_what_was_earned() {
    let (setting, link, begun) = earned();
    all_but(&setting.share, &link, begun);
    let mut lane = first_lane(&setting.share, &link);
    lock(&lane.unfinished).insert(begun);
    lane.ask(Duration::ZERO);
    assert!(lane.download().is_idle());
    assert!(link.has_earned.load(Relaxed), "and it has it still");
}

#[test]
fn a_piece_from_several_peers_earns_nothing() {
    let (share, links) = links(2);
    let (mut lost, span) = asking(&share, &links[0]);
    comes(&mut lost, span, 5000);
    drop(lost);
    let (mut next, rest) = asking(&share, &links[1]);
    comes(&mut next, rest, rest.len());
    let (_, origin) = next.end_piece(rest.piece()).unwrap();
    share.keep(&links[1], rest.piece(), next.id(), &origin);
    assert!(share.ledger.have(rest.piece()) && !links[1].has_earned.load(Relaxed));
}
