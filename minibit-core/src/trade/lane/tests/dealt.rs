//! What a seeder deals out: to whom, and what who is dealt something or nothing does.

use std::num::NonZeroU32;

use super::*;

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
