//! What a lane leaves behind of a piece that it did not end, and who goes on with it.

use super::*;
use crate::wire::RefuseReason;

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

/// Somebody refuses the rest of a piece that has begun to come over its link, alone or after what came over another: where
/// the next that is asked for it begins.
fn goes_on_after_refusal(came_before: u32) -> u32 {
    let mut setting = Setting::with_pieces_of(1 << 20, false, Caps::default(), Slots::default());
    let links = [2, 3, 4].map(|number| setting.join(Duration::ZERO, number, true).unwrap());
    let share = setting.share;
    if came_before > 0 {
        let (mut lost, span) = asking(&share, &links[0]);
        comes(&mut lost, span, came_before);
    }
    let (mut refusing, first) = asking(&share, &links[1]);
    assert_eq!(first.offset(), came_before);
    let (piece, offset, len) = (first.piece().get(), first.offset(), first.len());
    refusing.on_block(&BlockHeader { piece, offset, len }, Duration::ZERO).unwrap();
    comes(&mut refusing, first, len);
    assert!(!refusing.on_block_done(first), "there is more of it");
    let rest = refusing.download().begun(&share.geometry).expect("it has begun");
    assert_eq!(rest, (first.piece(), u64::from((1 << 20) - first.end())));
    let next = RawBlock { piece: piece.into(), offset: first.end().into(), len: len.into() };
    let refused = Message::Refuse { blocks: vec![next], reason: RefuseReason::Choked };
    refusing.on_message(refused, Duration::ZERO).unwrap();
    assert!(!refusing.download().pieces().contains(&first.piece()));
    assert!(!links[1].lets_us_down(), "it has only refused");
    share.end_of_prefix(first.piece(), &Sender::of(&links[2]))
}

#[test]
fn what_a_peer_began_and_refuses_the_rest_of_is_left_to_nobody_but_what_others_had_begun_is() {
    assert_eq!(goes_on_after_refusal(0), 0);
    assert!(goes_on_after_refusal(5000) > 5000);
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
