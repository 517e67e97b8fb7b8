//! For how long a lane waits for what it has asked for, and when it leaves it to others.

use super::*;

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
