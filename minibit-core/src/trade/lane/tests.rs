//! The conduct of one lane, a rule at a time: what it asks for, what it leaves behind, what it tells.

use super::super::testing::{Setting, Woken};
use super::*;
use std::num::NonZeroU32;
use std::task::Waker;

use crate::peer::Arrival;
use crate::swarm::{Caps, Holdings, PickOrder, Slots};
use crate::types::PieceSet;
use crate::wire::{self, BlockHeader, RawBlock};

/// A link to a seeder that has dialled us: nothing tells how far it is.
fn link() -> (Arc<Share>, Arc<Link>) {
    let (share, mut links) = links(1);
    (share, links.remove(0))
}

/// So many of them.
fn links(count: u64) -> (Arc<Share>, Vec<Arc<Link>>) {
    let mut setting = Setting::new(false, Caps::default(), Slots::default());
    let join = |number| setting.join(Duration::ZERO, number, true).unwrap();
    let links = (2..2 + count).map(join).collect();
    (setting.share, links)
}

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

/// A lane of a link to a seeder that deals its pieces out, and has dealt us nothing for now.
fn guided_lane() -> Lane {
    let (share, link) = link();
    link.choked.store(false, Relaxed);
    link.guiding.begin();
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    Lane::new(share, link, true, Duration::ZERO, waker, rng)
}

#[test]
fn who_waits_for_what_a_seeder_deals_tells_it_at_once_what_has_come_from_others() {
    let mut lane = guided_lane();
    let (share, link) = (Arc::clone(&lane.share), Arc::clone(&lane.link));
    let (piece, others) = (share.geometry.piece(3).unwrap(), LaneId::new(NonZeroU32::MAX));
    assert!(share.ledger.claim_this(&link.holdings, others, piece));
    share.keep(&link, piece, others, &Origin::Alone);
    let told = |lane: &mut Lane| {
        lane.heed(Duration::ZERO).unwrap();
        lane.take_messages().iter().any(|message| matches!(message, Message::Have { .. }))
    };
    assert!(!told(&mut lane), "news wait for others to go with them");
    lane.ask(Duration::ZERO);
    assert!(told(&mut lane));
    lane.ask(Duration::ZERO);
    assert!(!told(&mut lane), "once");
}

#[test]
fn who_was_dealt_what_others_have_sent_by_now_does_not_choose_freely_for_it() {
    let mut lane = guided_lane();
    let (share, link) = (Arc::clone(&lane.share), Arc::clone(&lane.link));
    let others = LaneId::new(NonZeroU32::MAX);
    for number in 3..5 {
        let piece = share.geometry.piece(number).unwrap();
        assert!(share.ledger.claim_this(&link.holdings, others, piece));
    }
    share.keep(&link, share.geometry.piece(3).unwrap(), others, &Origin::Alone);
    lock(&link.suggested).extend([3..5, 3..5]);
    lane.ask(Duration::ZERO);
    assert!(lane.download.is_idle() && link.guiding.is_now());
    assert_eq!(lock(&link.suggested).len(), 1, "once, however often it was said");
    // But who was to send the other was banned: the seeder has given it to nobody but us.
    share.ledger.release(share.geometry.piece(4).unwrap(), others);
    lane.ask(Duration::ZERO);
    assert_eq!(lane.download().pieces(), [share.geometry.piece(4).unwrap()]);
}

#[test]
fn who_is_dealt_nothing_chooses_after_the_time_of_some_pieces_and_three_seconds_if_that_is_unknown()
{
    let chooses_after = |bytes_per_s: u32| {
        let mut lane = guided_lane();
        lane.download.on_bytes(bytes_per_s, Duration::from_secs(1));
        let waits = (1..400).map(|step| Duration::from_millis(10) * step);
        waits.into_iter().find(|wait| {
            let now = Duration::from_secs(1) + *wait;
            lane.link.heard(now - *wait);
            lane.ask(now);
            !lane.download.is_idle()
        })
    };
    // Pieces of 16 KiB.
    assert_eq!(chooses_after(0), Some(Duration::from_secs(3)));
    assert_eq!(chooses_after(16_384), Some(Duration::from_secs(3)));
    assert_eq!(chooses_after(8 * 16_384), Some(Duration::from_secs(1)));
    assert_eq!(chooses_after(100 << 20), Some(Duration::from_millis(100)));
}

#[test]
fn a_seeder_gives_nobody_else_what_a_peer_has_asked_it_for() {
    let mut setting = Setting::new(true, Caps::default(), Slots::default());
    let links: Vec<Arc<Link>> =
        (2..4).map(|number| setting.join(Duration::ZERO, number, false).unwrap()).collect();
    let mut lanes: Vec<Lane> = links
        .iter()
        .map(|link| {
            link.interested.store(true, Relaxed);
            let (share, link) = (Arc::clone(&setting.share), Arc::clone(link));
            let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
            Lane::new(share, link, true, Duration::ZERO, waker, rng)
        })
        .collect();
    let dealt = |lane: &mut Lane, now| -> Vec<u64> {
        lane.guide(now);
        let messages = lane.take_messages().into_iter();
        let runs = messages.filter_map(|message| match message {
            Message::Suggest(runs) => Some(runs),
            _ => None,
        });
        runs.flatten().flat_map(|run| run.first..run.first + run.count).collect()
    };
    let blocks = |pieces: &[u64]| -> Vec<RawBlock> {
        let block = |piece: &u64| RawBlock { piece: *piece, offset: 0, len: 16_384 };
        pieces.iter().map(block).collect()
    };
    let mut now = Duration::ZERO;
    let slow = dealt(&mut lanes[0], now);
    lanes[0].on_message(Message::Request(blocks(&slow)), now).unwrap();
    let mut quick = Vec::new();
    for _ in 0..100 {
        now += Duration::from_micros(100);
        let pieces = dealt(&mut lanes[1], now);
        lanes[1].on_message(Message::Request(blocks(&pieces)), now).unwrap();
        while let Some(span) = lanes[1].take_block(now) {
            lanes[1].on_block_sent(span, now);
        }
        quick.extend(pieces);
    }
    assert!(!slow.is_empty() && quick.len() + slow.len() == 64, "{slow:?} {quick:?}");
}

#[test]
fn who_is_choked_and_answered_again_at_once_is_dealt_something_between_the_two() {
    let mut setting = Setting::new(true, Caps::default(), Slots::default());
    let mut join = |number| setting.join(Duration::ZERO, number, false).unwrap();
    let (link, other) = (join(2), join(3));
    for link in [&link, &other] {
        link.interested.store(true, Relaxed);
        link.choking.store(true, Relaxed);
    }
    let mut lane = first_lane(&setting.share, &link);
    lane.heed(Duration::ZERO).unwrap();
    lane.take_messages();
    link.times_choked.fetch_add(1, Relaxed);
    link.choking.store(false, Relaxed);
    lane.heed(Duration::ZERO).unwrap();
    let said = lane.take_messages();
    assert!(
        matches!(said[..], [Message::Choke, Message::Suggest(_), Message::Unchoke]),
        "whoever is choked forgets what it was dealt: {said:?}"
    );
}

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
fn who_is_dealt_nothing_waits_once_and_not_again_after_each_piece() {
    let mut lane = guided_lane();
    let now = Duration::from_secs(3);
    lane.ask(now);
    let chosen = lane.download().pieces();
    assert!(!chosen.is_empty());
    lane.part_with(&chosen);
    lane.ask(now);
    assert!(!lane.download().is_idle(), "not three seconds later");
}

/// A lane of a link that answers, which has asked for something; and the block that comes first.
fn asking(share: &Arc<Share>, link: &Arc<Link>) -> (Lane, BlockSpan) {
    let (share, link) = (Arc::clone(share), Arc::clone(link));
    link.choked.store(false, Relaxed);
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
    let mut lane = Lane::new(share, link, false, Duration::ZERO, waker, rng);
    lane.ask(Duration::ZERO);
    let asked = lane.take_messages().into_iter().find_map(|message| match message {
        Message::Request(blocks) => Some(blocks[0]),
        _ => None,
    });
    let first = asked.expect("it asks");
    let span = lane.share.geometry.block(first.piece, first.offset, first.len);
    (lane, span.expect("a block of the share"))
}

fn new_hasher() -> PieceHasher {
    let (share, _) = link();
    PieceHasher::new(&share.geometry, share.geometry.piece(0).unwrap())
}

/// So many bytes of the block come.
fn comes(lane: &mut Lane, span: BlockSpan, len: u32) {
    assert!(lane.begin_block(span, new_hasher));
    assert!(lane.take_in(span.piece(), len).is_some());
}

#[test]
fn what_came_before_a_connection_was_lost_is_not_asked_for_again() {
    let (share, links) = links(3);
    let (mut lost, span) = asking(&share, &links[0]);
    comes(&mut lost, span, 5000);
    drop(lost);
    let (mut next, rest) = asking(&share, &links[1]);
    assert_eq!((rest.piece(), rest.offset()), (span.piece(), 5000));
    assert!(!share.ledger.have(rest.piece()), "a part is never held");
    // And so on.
    comes(&mut next, rest, 6000);
    next.part_with(&[rest.piece()]);
    let (mut last, rest) = asking(&share, &links[2]);
    assert_eq!((rest.piece(), rest.offset(), rest.end()), (span.piece(), 11_000, 16_384));
    comes(&mut last, rest, rest.len());
    let (_, origin) = last.end_piece(rest.piece()).unwrap();
    assert_eq!(origin.own(16_384), 5384);
}

#[test]
fn who_has_lost_a_piece_to_another_leaves_nothing_of_it_behind() {
    let (share, links) = links(2);
    let (mut lost, span) = asking(&share, &links[0]);
    comes(&mut lost, span, 5000);
    let taker = share.ledger.new_lane();
    assert!(share.ledger.take_over(span.piece(), lost.id(), taker));
    drop(lost);
    // The taker has written from the beginning on.
    assert!(share.ledger.release(span.piece(), taker));
    let sender = Sender::of(&links[1]);
    assert_eq!(share.end_of_prefix(span.piece(), &sender), 0);
}

#[test]
fn nothing_is_kept_of_what_a_peer_sent_that_broke_a_rule() {
    let (share, links) = links(2);
    let (mut lost, span) = asking(&share, &links[0]);
    comes(&mut lost, span, 5000);
    links[0].close(CloseReason::Violation(Violation::OutsideShare));
    drop(lost);
    assert_eq!(share.end_of_prefix(span.piece(), &Sender::of(&links[0])), 0);
}

#[test]
fn a_piece_whose_beginning_is_gone_by_the_time_its_rest_comes_is_given_up() {
    let (share, links) = links(2);
    let (mut lost, span) = asking(&share, &links[0]);
    comes(&mut lost, span, 5000);
    drop(lost);
    let (mut next, rest) = asking(&share, &links[1]);
    share.forget_prefixes_of(&links[0]);
    assert!(!next.begin_block(rest, new_hasher));
    assert_eq!(next.take_parted(), [rest.piece()]);
    assert_eq!(share.ledger.owner(rest.piece()), None);
}

/// A piece of which the first link has sent the beginning and the second the rest turns out wrong.
fn spoil(share: &Arc<Share>, first: &Arc<Link>, second: &Arc<Link>) -> PieceIndex {
    let (mut lost, span) = asking(share, first);
    comes(&mut lost, span, 5000);
    drop(lost);
    let (mut next, rest) = asking(share, second);
    comes(&mut next, rest, rest.len());
    let (_, origin) = next.end_piece(rest.piece()).unwrap();
    next.on_wrong_piece(rest.piece(), &origin, Duration::ZERO);
    rest.piece()
}

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

fn first_lane(share: &Arc<Share>, link: &Arc<Link>) -> Lane {
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(3));
    link.choked.store(false, Relaxed);
    Lane::new(Arc::clone(share), Arc::clone(link), true, Duration::ZERO, waker, rng)
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

/// All pieces but this one are here already.
fn all_but(share: &Share, link: &Link, kept: PieceIndex) {
    let is_missing = |piece: &PieceIndex| *piece != kept && !share.ledger.have(*piece);
    for piece in share.geometry.pieces().filter(is_missing) {
        if let Some(owner) = share.ledger.owner(piece) {
            share.ledger.release(piece, owner);
        }
        let other = share.ledger.new_lane();
        assert!(share.ledger.claim_this(&link.holdings, other, piece));
        share.ledger.verified(piece, other);
    }
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

/// When the last piece, which drips from the first of the links, is taken over by the second,
/// over which nothing has come; `None` if not within an hour.
fn taken_from_who_drips(share: &Arc<Share>, links: &[Arc<Link>]) -> Option<Duration> {
    let (mut dripper, span) = asking(share, &links[0]);
    all_but(share, &links[0], span.piece());
    let (piece, offset, len) = (span.piece().get(), span.offset(), span.len());
    dripper.on_block(&BlockHeader { piece, offset, len }, Duration::ZERO).unwrap();
    comes(&mut dripper, span, 1);
    links[1].choked.store(false, Relaxed);
    let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(2));
    let (share, link) = (Arc::clone(share), Arc::clone(&links[1]));
    let mut other: Lane = Lane::new(share, link, true, Duration::ZERO, waker, rng);
    (1..7200).map(|half| Duration::from_millis(500) * half).find(|now| {
        dripper.on_bytes(1, *now);
        dripper.on_payload(1);
        dripper.publish_due(*now);
        links.iter().take(2).for_each(|link| link.heard(*now));
        dripper.check_time(*now, false).unwrap();
        other.check_time(*now, false).unwrap();
        other.heed(*now).unwrap();
        dripper.heed(*now).unwrap();
        dripper.ask(*now);
        other.ask(*now);
        !other.download().is_idle()
    })
}

#[test]
fn the_last_piece_does_not_stay_with_who_drips_because_nobody_else_had_anything_to_send() {
    let (share, links) = links(2);
    assert_eq!(taken_from_who_drips(&share, &links), Some(Duration::from_secs(10)));
}

#[test]
fn the_last_piece_does_not_stay_with_who_drips_because_a_liar_spoilt_one_of_the_others() {
    let (share, links) = links(3);
    spoil(&share, &links[2], &links[1]);
    assert_eq!(taken_from_who_drips(&share, &links), Some(Duration::from_secs(30)));
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

/// A seeder and who fetches from it, over a connection that may stand still.
struct Pair {
    seeder: Lane,
    getter: Lane,
    /// What is on its way to the getter.
    coming: VecDeque<Coming>,
}

enum Coming {
    Message(Message),
    Block(BlockSpan),
}

impl Pair {
    fn new(getter: &mut Setting) -> Self {
        let mut setting = Setting::new(true, Caps::default(), Slots::default());
        let lane = |setting: &mut Setting, complete| {
            let link = setting.join(Duration::ZERO, 2, complete).unwrap();
            let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(1));
            Lane::new(Arc::clone(&setting.share), link, true, Duration::ZERO, waker, rng)
        };
        let (seeder, getter) = (lane(&mut setting, false), lane(getter, true));
        seeder.link.choking.store(false, Relaxed);
        getter.link.choked.store(false, Relaxed);
        Self { seeder, getter, coming: VecDeque::new() }
    }

    /// Both do what they have to. What the getter says arrives; what the seeder sends waits.
    fn run(&mut self, now: Duration) {
        self.getter.check_time(now, false).unwrap();
        self.getter.ask(now);
        self.getter.publish_due(now);
        self.getter.take_parted();
        for message in self.getter.take_messages() {
            let is_about_blocks = matches!(message, Message::Request(_) | Message::Cancel(_));
            if is_about_blocks {
                self.seeder.on_message(message, now).unwrap();
            }
        }
        while let Some(span) = self.seeder.take_block(now) {
            self.say_what_is_said();
            self.coming.push_back(Coming::Block(span));
            self.seeder.on_block_sent(span, now);
        }
        self.say_what_is_said();
    }

    fn say_what_is_said(&mut self) {
        let messages = self.seeder.take_messages().into_iter();
        let refusals = messages.filter(|message| matches!(message, Message::Refuse { .. }));
        self.coming.extend(refusals.map(Coming::Message));
    }

    /// All that is on its way arrives.
    fn arrive(&mut self, now: Duration) {
        let getter = &mut self.getter;
        getter.link.heard(now);
        for coming in self.coming.drain(..) {
            let span = match coming {
                Coming::Message(message) => {
                    getter.on_message(message, now).unwrap();
                    continue;
                }
                Coming::Block(span) => span,
            };
            let (piece, offset, len) = (span.piece(), span.offset(), span.len());
            let header = BlockHeader { piece: piece.get(), offset, len };
            if getter.on_block(&header, now).unwrap() == Arrival::Discard {
                getter.on_waste(len);
                continue;
            }
            comes(getter, span, len);
            getter.on_bytes(len, now);
            getter.on_payload(len);
            assert!(getter.on_block_done(span), "pieces of a block");
            let (_, origin) = getter.end_piece(piece).unwrap();
            getter.share.keep(&getter.link, piece, getter.id, &origin);
        }
    }

    /// When all is here, if from then on the connection carries what is sent.
    fn done(&mut self, from: Duration) -> Option<Duration> {
        (0..60_000).map(|millis| from + Duration::from_millis(millis)).find(|now| {
            self.arrive(*now);
            self.run(*now);
            self.getter.share.ledger.is_complete()
        })
    }
}

/// The getter has some, the connection stands still for so long, and with it those to others that are
/// there: when all is here after that, and how many bytes came in vain.
fn after_standing_still(others: u64, still: Duration) -> (Option<Duration>, u64) {
    let mut setting = Setting::new(false, Caps::default(), Slots::default());
    let mut pair = Pair::new(&mut setting);
    let (waker, share) = (Waker::noop(), Arc::clone(&setting.share));
    let mut others: Vec<Lane> = (0..others)
        .map(|number| {
            let link = setting.join(Duration::ZERO, 3 + number, true).unwrap();
            let rng = fastrand::Rng::with_seed(number);
            Lane::new(Arc::clone(&share), link, true, Duration::ZERO, waker.clone(), rng)
        })
        .collect();
    pair.run(Duration::ZERO);
    pair.arrive(Duration::from_millis(1));
    others.iter().for_each(|other| other.link.choked.store(false, Relaxed));
    for millis in (2..still.as_millis() as u64).step_by(10) {
        let now = Duration::from_millis(millis);
        pair.run(now);
        for other in &mut others {
            other.check_time(now, false).unwrap();
            other.ask(now);
            other.publish_due(now);
        }
    }
    // They are gone, and the seeder is left.
    drop(others);
    let done = pair.done(still).map(|done| done - still);
    (done, share.counters.wasted.load(Relaxed))
}

#[test]
fn after_a_connection_stood_still_all_comes_at_once_and_what_was_under_way_is_of_use() {
    for (others, seconds) in [(0, 2), (0, 4), (0, 8), (0, 9), (1, 4), (1, 9)] {
        let (done, wasted) = after_standing_still(others, Duration::from_secs(seconds));
        let (came, soon) =
            (format!("{done:?}, {others} others, {seconds} s"), Duration::from_secs(1));
        assert!(done.is_some_and(|done| done < soon), "{came}");
        assert_eq!(wasted, 0, "{came}");
    }
}

#[test]
fn what_was_given_up_and_comes_all_the_same_is_of_use() {
    // Longer than anything is waited for, and not so long that the peer is gone. What is asked for again may be
    // sent again, but not much of it.
    for (others, seconds) in [(0, 11), (0, 14), (1, 14), (3, 14)] {
        let (done, wasted) = after_standing_still(others, Duration::from_secs(seconds));
        let (came, soon) =
            (format!("{done:?}, {others} others, {seconds} s"), Duration::from_secs(1));
        assert!(done.is_some_and(|done| done < soon), "{came}");
        assert!(wasted <= 6 * 16_384, "{came}: {wasted}");
    }
}

/// A lane that has asked a peer which has sent right pieces for one of four blocks, and given it up.
fn given_up() -> (Lane, [BlockSpan; 4]) {
    let mut setting = Setting::with_pieces_of(4 * 16_384, false, Caps::default(), Slots::default());
    let link = setting.join(Duration::ZERO, 2, true).unwrap();
    let (mut lane, first) = asking(&setting.share, &link);
    let piece = first.piece();
    let block =
        |number: u64| lane.share.geometry.block(piece.get().into(), number * 16_384, 16_384);
    let blocks = [0, 1, 2, 3].map(|number| block(number).unwrap());
    lane.cancel(&[piece]);
    assert_eq!(lane.take_parted(), [piece]);
    link.verified_bytes.store(4 * 16_384, Relaxed);
    (lane, blocks)
}

/// A block comes; true if it is taken.
fn comes_late(lane: &mut Lane, span: BlockSpan) -> bool {
    let header = BlockHeader { piece: span.piece().get(), offset: span.offset(), len: span.len() };
    if lane.on_block(&header, Duration::from_secs(1)).unwrap() == Arrival::Discard {
        return false;
    }
    comes(lane, span, span.len());
    lane.on_bytes(span.len(), Duration::from_secs(1));
    lane.on_block_done(span);
    true
}

#[test]
fn of_a_piece_that_was_given_up_others_go_on_with_what_came_all_the_same() {
    let (mut lane, blocks) = given_up();
    let in_flight = lane.download.in_flight();
    assert!(comes_late(&mut lane, blocks[0]) && comes_late(&mut lane, blocks[1]));
    assert!(!comes_late(&mut lane, blocks[3]), "there is a gap before it");
    assert_eq!(lane.download.in_flight(), in_flight);
    let piece = blocks[0].piece();
    assert_eq!(lane.share.ledger.owner(piece), Some(lane.id));
    lane.ask(Duration::from_secs(1));
    assert_eq!(lane.take_parted(), [piece]);
    assert_eq!(lane.share.ledger.owner(piece), None);
    assert_eq!(lane.share.end_of_prefix(piece, &lane.sender), 2 * 16_384);
    assert!(comes_late(&mut lane, blocks[2]), "it follows on what is left of it");
    assert_eq!(lane.share.ledger.owner(piece), Some(lane.id));
}

#[test]
fn of_a_stranger_no_beginning_that_comes_late_is_left_to_others() {
    let (mut lane, blocks) = given_up();
    lane.link.verified_bytes.store(0, Relaxed);
    assert!(!comes_late(&mut lane, blocks[0]));
    assert_eq!(lane.share.ledger.owner(blocks[0].piece()), None);
}

#[test]
fn a_piece_that_comes_whole_though_it_was_given_up_stays_with_whom_it_came_to() {
    let (mut lane, blocks) = given_up();
    assert!(blocks.iter().all(|block| comes_late(&mut lane, *block)));
    lane.ask(Duration::from_secs(1));
    let piece = blocks[0].piece();
    assert_eq!(lane.take_parted(), []);
    assert_eq!(lane.share.ledger.owner(piece), Some(lane.id));
    assert!(lane.end_piece(piece).is_some_and(|(_, origin)| origin == Origin::Alone));
}

#[test]
fn what_was_given_up_is_left_to_whom_it_was_given_to() {
    let (mut lane, blocks) = given_up();
    let piece = blocks[0].piece();
    let other = lane.share.ledger.new_lane();
    assert!(lane.share.ledger.claim_this(&lane.link.holdings, other, piece));
    assert!(!comes_late(&mut lane, blocks[0]));
    assert_eq!(lane.share.ledger.owner(piece), Some(other));
}

#[test]
fn a_late_block_does_not_end_what_others_have_begun() {
    let (mut lane, blocks) = given_up();
    let piece = blocks[0].piece();
    let (share, other) = (Arc::clone(&lane.share), lane.share.ledger.new_lane());
    assert!(share.ledger.claim_this(&lane.link.holdings, other, piece));
    let stranger = Sender::of(&links(1).1[0]);
    let mut begun = Progress::new(piece, new_hasher(), Duration::ZERO);
    begun.take_in(3 * 16_384);
    share.leave(piece, other, begun.into_prefix(stranger, Duration::ZERO));
    assert!(!comes_late(&mut lane, blocks[0]), "it is here already");
    assert_eq!(share.ledger.owner(piece), None);
}

#[test]
fn a_piece_that_was_asked_for_again_behind_others_comes_by_the_first_request_and_the_second_is_cancelled()
 {
    let (mut lane, blocks) = given_up();
    let piece = blocks[0].piece();
    let before = lane.download.pieces();
    assert!(!before.is_empty());
    assert!(lane.share.ledger.claim_this(&lane.link.holdings, lane.id, piece));
    let mut again = Some((piece, 0));
    lane.download.on_bytes(1 << 20, Duration::from_millis(100));
    let spans = lane.download.top_up(&lane.share.geometry, Duration::ZERO, || again.take());
    assert!(spans.iter().any(|span| span.piece() == piece), "{spans:?}");
    lane.take_messages();
    assert!(blocks.iter().all(|block| comes_late(&mut lane, *block)));
    let said = lane.take_messages();
    assert!(
        matches!(&said[..], [Message::Cancel(cancelled)] if cancelled[0].piece == u64::from(piece.get()))
    );
    assert_eq!(lane.download.pieces(), before);
    assert!(lane.end_piece(piece).is_some());
}

#[test]
fn the_answer_to_a_second_request_is_none_to_the_first_which_was_cancelled_in_time() {
    let (mut lane, blocks) = given_up();
    let piece = blocks[0].piece();
    all_but(&lane.share, &lane.link, piece);
    let others = lane.download.pieces();
    lane.cancel(&others);
    lane.take_parted();
    lane.ask(Duration::ZERO);
    lane.take_messages();
    for block in blocks {
        assert_eq!(lane.download.pieces(), [piece]);
        assert!(comes_late(&mut lane, block));
        lane.ask(Duration::from_secs(1));
        assert!(
            !lane.has_messages(),
            "what is about to come is not cancelled, nor asked for again"
        );
    }
    assert!(lane.end_piece(piece).is_some());
}

#[test]
fn who_let_us_wait_is_waited_for_anew_when_it_sends_and_asked_again_when_something_is_here() {
    let (mut lane, blocks) = given_up();
    let others = lane.download.pieces();
    lane.cancel(&others);
    lane.take_parted();
    let now = Duration::from_secs(100);
    lane.download.set_back(now);
    let header = BlockHeader { piece: blocks[0].piece().get(), offset: 0, len: blocks[0].len() };
    assert_eq!(lane.on_block(&header, now).unwrap(), Arrival::Take { span: blocks[0] });
    lane.check_time(now, false).unwrap();
    assert!(!lane.download.is_idle(), "it has only begun to come");
    assert!(lane.download.rests_until(now).is_some(), "it has only said that it will");
    comes(&mut lane, blocks[0], blocks[0].len());
    lane.on_bytes(blocks[0].len(), now);
    lane.on_block_done(blocks[0]);
    assert!(lane.download.rests_until(now).is_none());
}

/// When a lane whose peer sends nothing that was asked for gives it up; the peer may say `other things` meanwhile.
fn gives_up_after(share: &Arc<Share>, link: &Arc<Link>, other_things: bool) -> Option<Duration> {
    link.heard(Duration::ZERO);
    let (mut lane, _) = asking(share, link);
    lane.publish_due(Duration::ZERO);
    (0..120).map(|step| Duration::from_millis(100) * step).find(|now| {
        if other_things {
            link.heard(*now);
        }
        lane.check_time(*now, false).unwrap();
        lane.download().is_idle()
    })
}

#[test]
fn what_does_not_come_is_given_up_unless_the_connection_stands_still_and_nobody_else_could_send_it()
{
    let (share, links) = links(2);
    let after = |other_things| gives_up_after(&share, &links[0], other_things).unwrap();
    links[1].choked.store(false, Relaxed);
    assert_eq!(after(false), Duration::from_secs(3));
    links[1].choked.store(true, Relaxed);
    assert_eq!(after(false), Duration::from_secs(10));
    assert_eq!(after(true), Duration::from_secs(3));
    links[1].choked.store(false, Relaxed);
    links[1].waits_for_us.store(true, Relaxed);
    assert_eq!(
        after(false),
        Duration::from_secs(10),
        "liars that wait for their turn send nothing"
    );
    links[1].waits_for_us.store(false, Relaxed);
    assert_eq!(after(false), Duration::from_secs(3));
    share.note_let_down(&links[1]);
    assert_eq!(after(false), Duration::from_secs(10));
}

#[test]
fn what_is_waited_for_is_left_to_others_a_second_after_they_could_send_it() {
    let (share, links) = links(2);
    links[1].choked.store(true, Relaxed);
    links[0].heard(Duration::ZERO);
    let (mut lane, _) = asking(&share, &links[0]);
    lane.publish_due(Duration::ZERO);
    let answers = Duration::from_secs(5);
    let left = (0..100).map(|step| Duration::from_millis(100) * step).find(|now| {
        links[1].choked.store(*now < answers, Relaxed);
        lane.check_time(*now, false).unwrap();
        lane.download().is_idle()
    });
    assert!(left.is_some_and(|at| (answers..=answers + STANDS_STILL).contains(&at)), "{left:?}");
}
