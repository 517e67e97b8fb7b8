//! What comes all the same though it was given up, as after a connection stood still.

use super::*;
use crate::peer::Arrival;

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
