//! Identities that have yet to send anything right, from a machine where others came to nothing.
//!
//! A peer that sends a wrong piece is banned, and one that leaves has left; but an identity costs nothing, and
//! where many peers share an address it cannot be banned with them. So one machine could send wrong pieces
//! without end, each under another name, as fast as it connects. From the [`FAILURES_MIN`]th link on
//! that brought something and not one right piece, those of its machine who have yet to
//! send a right piece are on trial: each is asked for one piece, one of them at a time, and the next after as long as
//! a piece takes at [`WASTE_RATE`]. What has been asked for in vain is then that and no more, whatever the
//! number of names.
//!
//! An honest peer of that machine is used all the same. Once it has sent a right piece, be it with others, it is
//! asked like everybody else, also when it comes again; and a beginning that turns out right is no failure. Until then the turns go round, to whoever was
//! asked, or linked, longest ago: new names come behind it, also when its turn came to nothing. A link that is lost
//! before its turn came loses nothing: who is linked again within [`COMES_AGAIN`] has waited since the first. Who does not take its turn holds up nobody
//! for longer than another turn. Half of the failures are forgotten each ten minutes.
//!
//! Invariant: at most [`REMEMBERED_MAX`] machines and as many peers are remembered, those that were met last.
//! Not here: who is banned (`swarm::bans`), whose bytes are mixed with those of others (`prefixes`).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::swarm::{Recent, block_of};
use crate::types::PeerId;

/// So many links of a machine that brought only what came to nothing put its strangers on trial: one or two
/// are lost in the middle of their first piece where connections are bad.
const FAILURES_MIN: u32 = 4;
/// Bytes a second of pieces that are asked of strangers on trial, of each machine,
const WASTE_RATE: u32 = 1 << 20;
/// but one at least in so long, and no more than one in this.
const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Each time so long has passed, half of a machine's failures are forgotten: an address goes from one to another.
const HALVED_EACH: Duration = Duration::from_secs(600);
/// Who was linked, on trial, and comes again within so long goes on waiting where it was, as if linked so long before at
/// most. No longer, or whoever has many names could have them all wait while few are linked: who stays linked comes before
/// all that are linked so long after it, whatever their names.
const COMES_AGAIN: Duration = Duration::from_secs(10);
/// Machines, and peers, that are remembered.
const REMEMBERED_MAX: usize = 1024;

/// What is known of a machine.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    failures: u32,
    /// Up to when they are halved.
    halved: Duration,
    /// When the next of its strangers may be asked.
    next: Duration,
}

impl Record {
    fn failures(&self, now: Duration) -> u32 {
        self.failures.checked_shr(self.halvings(now)).unwrap_or(0)
    }

    fn halvings(&self, now: Duration) -> u32 {
        (now.saturating_sub(self.halved).as_secs() / HALVED_EACH.as_secs()) as u32
    }

    fn with_failure(self, now: Duration) -> Self {
        let left = self.failures(now);
        let halved = if left == 0 { now } else { self.halved + HALVED_EACH * self.halvings(now) };
        Self { failures: left.saturating_add(1), halved, ..self }
    }
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Strangers {
    machines: Recent<IpAddr, Record>,
    /// Who has sent a right piece.
    proven: Recent<(IpAddr, PeerId), ()>,
    /// Who has done so and may still throw away a beginning of others for it; see `prefixes`.
    earned: Recent<(IpAddr, PeerId), ()>,
    /// Since when those waited whose links were lost before they were proven, and when that was.
    left: Recent<(IpAddr, PeerId), (Duration, Duration)>,
    pause: Duration,
}

/// The machine that an address is one of. All addresses that only this machine has are of one.
pub(super) fn machine_of(ip: IpAddr) -> IpAddr {
    if ip.to_canonical().is_loopback() { Ipv4Addr::LOCALHOST.into() } else { block_of(ip) }
}

impl Strangers {
    /// Nobody known, of a share with pieces of `piece_len` bytes.
    pub(super) fn new(piece_len: u32) -> Self {
        let pause = Duration::from_secs_f64(f64::from(piece_len) / f64::from(WASTE_RATE));
        Self {
            machines: Recent::new(REMEMBERED_MAX),
            proven: Recent::new(REMEMBERED_MAX),
            earned: Recent::new(REMEMBERED_MAX),
            left: Recent::new(REMEMBERED_MAX),
            pause: pause.clamp(PAUSE_MIN, PAUSE_MAX),
        }
    }

    fn record(&self, ip: IpAddr) -> Record {
        self.machines.get(&machine_of(ip)).copied().unwrap_or_default()
    }

    /// A link is over that brought something, and not one right piece. True if its machine's strangers are on
    /// trial.
    pub(super) fn note_failure(&mut self, ip: IpAddr, now: Duration) -> bool {
        let record = self.record(ip).with_failure(now);
        self.machines.insert(machine_of(ip), record);
        record.failures >= FAILURES_MIN
    }

    /// A peer that has left had begun a piece that others have ended and that is right: its link did not come to
    /// nothing after all.
    pub(super) fn note_begun_right(&mut self, ip: IpAddr, id: PeerId) {
        if let Some(record) = self.machines.get(&machine_of(ip)).copied() {
            let failures = record.failures.saturating_sub(1);
            self.machines.insert(machine_of(ip), Record { failures, ..record });
        }
        self.note_right(ip, id);
    }

    /// A peer has sent a right piece.
    pub(super) fn note_right(&mut self, ip: IpAddr, id: PeerId) {
        self.proven.insert((machine_of(ip), id), ());
    }

    /// A link is over whose peer has sent a right piece that it has yet to make use of.
    pub(super) fn note_earned(&mut self, ip: IpAddr, id: PeerId) {
        self.earned.insert((machine_of(ip), id), ());
    }

    /// Whether there is such a piece of a peer that is linked again, which its link knows of from now on.
    pub(super) fn take_earned(&mut self, ip: IpAddr, id: PeerId) -> bool {
        self.earned.remove(&(machine_of(ip), id)).is_some()
    }

    /// The link of a peer on trial is over, which has waited since then.
    pub(super) fn note_left(&mut self, ip: IpAddr, id: PeerId, since: Duration, now: Duration) {
        self.left.insert((machine_of(ip), id), (since, now));
    }

    /// Since when a peer that is linked now waits.
    pub(super) fn waits_since(&mut self, ip: IpAddr, id: PeerId, now: Duration) -> Duration {
        let left = self.left.remove(&(machine_of(ip), id));
        let left = left.filter(|(_, left)| now < *left + COMES_AGAIN);
        left.map_or(now, |(since, _)| since.max(now.saturating_sub(COMES_AGAIN)))
    }

    /// Whether this peer, which has brought nothing over its link, is on trial.
    pub(super) fn is_on_trial(&self, ip: IpAddr, id: PeerId, now: Duration) -> bool {
        self.record(ip).failures(now) >= FAILURES_MIN
            && self.proven.get(&(machine_of(ip), id)).is_none()
    }

    /// Whether a stranger on trial may be asked for a piece now, if so many others of its machine are before
    /// it; then it is the next one's turn only after a pause.
    pub(super) fn takes_turn(&mut self, ip: IpAddr, now: Duration, before: usize) -> bool {
        let record = self.record(ip);
        let is_turn = now >= record.next + self.pause * before as u32;
        if is_turn {
            self.machines.insert(machine_of(ip), Record { next: now + self.pause, ..record });
        }
        is_turn
    }

    /// Whether it is anybody's turn at this machine.
    pub(super) fn is_due(&self, ip: IpAddr, now: Duration) -> bool {
        now >= self.record(ip).next
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;
    use std::task::Waker;

    use super::super::prefixes::{Progress, Sender};
    use super::super::testing::Setting;
    use super::super::{CloseReason, Lane, Link, Origin};
    use super::*;
    use crate::peer::Arrival;
    use crate::swarm::{Caps, Slots};
    use crate::types::PieceIndex;
    use crate::wire::{BlockHeader, Message};

    const NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn id(number: u64) -> PeerId {
        PeerId::numbered(number)
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// So long after a link is lost its peer is linked again.
    const REDIALLED: u64 = 100;

    /// With pieces of 256 KiB, after as many failures of that machine.
    fn after_failures(count: u32, ip: IpAddr) -> Strangers {
        let mut strangers = Strangers::new(256 * 1024);
        for _ in 0..count {
            strangers.note_failure(ip, at(0));
        }
        strangers
    }

    #[test]
    fn new_names_of_a_machine_are_on_trial_once_some_came_to_nothing_and_those_of_others_never() {
        assert!(!after_failures(FAILURES_MIN - 1, NAT).is_on_trial(NAT, id(9), at(0)));
        let strangers = after_failures(FAILURES_MIN, NAT);
        assert!(strangers.is_on_trial(NAT, id(9), at(0)));
        assert!(!strangers.is_on_trial([192, 0, 2, 8].into(), id(9), at(0)));
        let here = after_failures(FAILURES_MIN, [127, 0, 0, 1].into());
        assert!(
            here.is_on_trial([127, 9, 9, 9].into(), id(9), at(0)),
            "it has as many as it likes"
        );
    }

    #[test]
    fn who_has_sent_something_right_is_not_on_trial_and_nobody_elsewhere_is_taken_for_it() {
        let mut strangers = after_failures(FAILURES_MIN, NAT);
        strangers.note_right(NAT, id(1));
        assert!(
            !strangers.is_on_trial(NAT, id(1), at(0)) && strangers.is_on_trial(NAT, id(2), at(0))
        );
        let elsewhere = [192, 0, 2, 8].into();
        for _ in 0..FAILURES_MIN {
            strangers.note_failure(elsewhere, at(0));
        }
        assert!(strangers.is_on_trial(elsewhere, id(1), at(0)));
    }

    #[test]
    fn what_others_have_ended_and_is_right_did_not_come_to_nothing() {
        let mut strangers = after_failures(FAILURES_MIN, NAT);
        strangers.note_begun_right(NAT, id(1));
        assert!(!strangers.is_on_trial(NAT, id(9), at(0)));
        assert!(strangers.note_failure(NAT, at(0)) && !strangers.is_on_trial(NAT, id(1), at(0)));
    }

    #[test]
    fn half_of_the_failures_of_a_machine_are_forgotten_each_ten_minutes() {
        let is_on_trial = |strangers: &Strangers, minutes: u64, millis: u64| {
            strangers.is_on_trial(NAT, id(9), at(minutes * 60_000 + millis))
        };
        let mut strangers = after_failures(2 * FAILURES_MIN - 1, NAT);
        assert!(is_on_trial(&strangers, 9, 59_999) && !is_on_trial(&strangers, 10, 0));
        assert!(strangers.note_failure(NAT, at(600_000)), "three are left");
        assert!(is_on_trial(&strangers, 19, 59_999) && !is_on_trial(&strangers, 20, 0));
        let many = after_failures(4 * FAILURES_MIN, NAT);
        assert!(is_on_trial(&many, 29, 59_999) && !is_on_trial(&many, 30, 0));
    }

    #[test]
    fn what_is_forgotten_is_so_ten_minutes_after_the_first_failure_whenever_that_was() {
        let mut strangers = Strangers::new(256 * 1024);
        for _ in 0..FAILURES_MIN {
            strangers.note_failure(NAT, at(599_000));
        }
        assert!(strangers.is_on_trial(NAT, id(9), at(601_000)));
    }

    #[test]
    fn a_turn_comes_after_a_pause_and_who_is_later_in_the_order_waits_for_one_more_each() {
        let mut strangers = after_failures(FAILURES_MIN, NAT);
        assert!(strangers.takes_turn(NAT, at(1000), 0));
        assert!(!strangers.is_due(NAT, at(1249)) && !strangers.takes_turn(NAT, at(1249), 0));
        assert!(strangers.is_due(NAT, at(1250)) && !strangers.takes_turn(NAT, at(1499), 1));
        assert!(strangers.takes_turn(NAT, at(1500), 1), "the first has not taken it");
        assert!(!strangers.takes_turn(NAT, at(1749), 0));
    }

    /// A download that peers of one machine connect to.
    struct Victim {
        setting: Setting,
        next_number: u64,
        asked: u64,
    }

    impl Victim {
        fn new() -> Self {
            let setting = Setting::new(false, Caps::default(), Slots::default());
            Self { setting, next_number: 100, asked: 0 }
        }

        /// A peer that nobody knows connects, holds everything and answers requests.
        fn join(&mut self, now: Duration) -> Lane {
            self.join_with(now, true)
        }

        /// The same, and it holds everything or nothing.
        fn join_with(&mut self, now: Duration, complete: bool) -> Lane {
            self.next_number += 1;
            self.join_as(now, self.next_number, complete)
        }

        /// The same under a name of which something may be known.
        fn join_as(&mut self, now: Duration, number: u64, complete: bool) -> Lane {
            let link = self.setting.join(now, number, complete).unwrap();
            let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(number));
            Lane::new(Arc::clone(&self.setting.share), link, true, now, waker, rng)
        }

        /// A peer connects, sends something, and leaves.
        fn visit(&mut self, now: Duration) -> Arc<Link> {
            self.next_number += 1;
            let link = self.setting.join(now, self.next_number, true).unwrap();
            link.gave(now + at(1));
            self.setting.manager.remove_link(now + at(1), link.id, false);
            link
        }

        /// A piece that nobody has fetched is right, and came over a lane to its end.
        fn keep(&self, lane: &Lane, piece: PieceIndex, origin: &Origin) {
            let share = &self.setting.share;
            assert!(share.ledger.claim_this(&lane.link().holdings, lane.id(), piece));
            share.keep(lane.link(), piece, lane.id(), origin);
        }

        fn is_on_trial(&self, lane: &Lane, now: Duration) -> bool {
            self.setting.share.is_on_trial(lane.link(), now)
        }

        fn piece(&self) -> PieceIndex {
            self.setting.share.geometry.piece(0).unwrap()
        }

        /// Twenty liars have done what they can for a second.
        fn beset() -> (Self, Vec<Lane>) {
            let mut victim = Self::new();
            let mut liars: Vec<Lane> = (0..20).map(|_| victim.join(at(0))).collect();
            (0..1000).step_by(10).for_each(|millis| {
                liars.iter_mut().for_each(|liar| victim.lie(liar, at(millis)));
            });
            (victim, liars)
        }

        /// When a peer is asked for something, beside liars.
        fn asks(
            &mut self,
            lane: &mut Lane,
            liars: &mut [Lane],
            from: u64,
            upto: u64,
        ) -> Option<Duration> {
            let asked = (from..upto).step_by(10).find(|millis| {
                liars.iter_mut().for_each(|liar| self.lie(liar, at(*millis)));
                Self::ask(lane, at(*millis)) > 0
            });
            asked.map(at)
        }

        /// Has the lane ask for what it may; how many bytes that is.
        fn ask(lane: &mut Lane, now: Duration) -> u64 {
            lane.ask(now);
            let blocks = lane.take_messages().into_iter().filter_map(|message| match message {
                Message::Request(blocks) => Some(blocks),
                _ => None,
            });
            blocks.flatten().map(|block| block.len).sum()
        }

        /// A liar has sent something of whatever it was asked for, and comes again under a new name.
        fn lie(&mut self, liar: &mut Lane, now: Duration) {
            let asked = Self::ask(liar, now);
            if asked == 0 {
                return;
            }
            self.asked += asked;
            liar.on_bytes(asked as u32, now + at(1));
            let link = liar.link().id;
            liar.link().close(CloseReason::Gone);
            *liar = self.join(now);
            self.setting.manager.remove_link(now, link, false);
        }
    }

    const SHARE_LEN: u64 = 64 * 16_384;

    #[test]
    fn under_however_many_names_a_machine_sends_wrong_pieces_they_are_asked_of_it_little_by_little()
    {
        let mut victim = Victim::new();
        let mut liars: Vec<Lane> = (0..20).map(|_| victim.join(at(0))).collect();
        for millis in (0..10_000).step_by(10) {
            liars.iter_mut().for_each(|liar| victim.lie(liar, at(millis)));
        }
        // A piece in 50 ms, after what was asked of the first of them.
        assert!(victim.asked < 200 * 16_384 + 2 * SHARE_LEN, "{} bytes", victim.asked);
    }

    #[test]
    fn an_honest_peer_beside_liars_of_its_machine_is_asked_for_a_piece_soon_and_then_for_all_it_can_send()
     {
        let (mut victim, mut liars) = Victim::beset();
        let mut honest = victim.join(at(1000));
        let asked = victim.asks(&mut honest, &mut liars, 1000, 60_000);
        let asked = asked.expect("an honest peer is never asked for anything");
        assert!(asked < at(2200), "{asked:?}: it is the last of 21 at first, and a turn is 50 ms");
        let first = honest.download().pieces();
        assert_eq!(first.len(), 1);
        let header = BlockHeader { piece: first[0].get(), offset: 0, len: 16_384 };
        let arrival = honest.on_block(&header, asked).unwrap();
        let Arrival::Take { span } = arrival else { panic!("it was asked for") };
        honest.on_bytes(span.len(), asked);
        honest.on_block_done(span);
        victim.setting.share.keep(honest.link(), first[0], honest.id(), &Origin::Alone);
        assert!(Victim::ask(&mut honest, asked) > 0);
        assert!(honest.download().pieces().len() > 1);
    }

    #[test]
    fn whose_links_are_lost_before_its_turn_comes_is_asked_when_it_is_linked_again() {
        let (mut victim, mut liars) = Victim::beset();
        victim.next_number += 1;
        let (me, mut now, mut links) = (victim.next_number, 1000, 0);
        // Twenty turns of 50 ms are more than a link lasts.
        let asked = loop {
            let mut honest = victim.join_as(at(now), me, true);
            let asked = victim.asks(&mut honest, &mut liars, now, now + 700);
            if asked.is_some() || links == 20 {
                break asked;
            }
            (now, links) = (now + 700, links + 1);
            assert!(honest.link().waits_for_us.load(Relaxed), "which is no failure of its");
            victim.setting.manager.remove_link(at(now), honest.link().id, false);
            now += REDIALLED;
        };
        assert!(asked.is_some_and(|asked| asked < at(3000)), "{asked:?} after {links} links");
    }

    #[test]
    fn who_comes_again_goes_on_waiting_where_it_was_but_not_after_ten_seconds() {
        let mut strangers = after_failures(FAILURES_MIN, NAT);
        strangers.note_left(NAT, id(1), at(1000), at(3000));
        assert_eq!(strangers.waits_since(NAT, id(2), at(4000)), at(4000));
        assert_eq!(strangers.waits_since(NAT, id(1), at(10_999)), at(1000));
        strangers.note_left(NAT, id(1), at(1000), at(3000));
        assert_eq!(strangers.waits_since(NAT, id(1), at(13_000)), at(13_000));
    }

    #[test]
    fn names_that_come_again_and_again_have_not_waited_for_longer_than_who_was_linked_ten_seconds_before()
     {
        let mut strangers = after_failures(FAILURES_MIN, NAT);
        let waits = (1..100).map(|second| {
            let now = at(1000 * second);
            let since = strangers.waits_since(NAT, id(1), now);
            strangers.note_left(NAT, id(1), since, now);
            now - since
        });
        let waits: Vec<_> = waits.collect();
        assert_eq!(waits.iter().max(), Some(&COMES_AGAIN), "{waits:?}");
    }

    #[test]
    fn whose_turn_came_while_others_fetched_all_there_is_is_asked_later_beside_new_names() {
        let (mut victim, mut liars) = Victim::beset();
        let mut honest = victim.join(at(1000));
        let share = Arc::clone(&victim.setting.share);
        let others = share.ledger.new_lane();
        let is_taken =
            |piece: &PieceIndex| share.ledger.claim_this(&honest.link().holdings, others, *piece);
        let taken: Vec<_> = share.geometry.pieces().filter(is_taken).collect();
        assert_eq!(Victim::ask(&mut honest, at(1100)), 0);
        taken.iter().for_each(|piece| assert!(share.ledger.release(*piece, others)));
        let asked = victim.asks(&mut honest, &mut liars, 1110, 60_000);
        assert!(asked.is_some_and(|asked| asked < at(2400)), "{asked:?}");
    }

    #[test]
    fn who_had_yet_to_be_dealt_anything_when_its_turn_came_is_asked_later_beside_new_names() {
        let (mut victim, mut liars) = Victim::beset();
        let mut honest = victim.join(at(1000));
        honest.link().guiding.begin();
        let before = honest.link().tried_us.load(Relaxed);
        let had_turn = (1000..3000).step_by(10).find(|millis| {
            liars.iter_mut().for_each(|liar| victim.lie(liar, at(*millis)));
            assert_eq!(Victim::ask(&mut honest, at(*millis)), 0);
            honest.link().tried_us.load(Relaxed) > before
        });
        let dealt = had_turn.expect("it has no turn");
        super::super::lock(&honest.link().suggested).push_back(3..5);
        let asked = victim.asks(&mut honest, &mut liars, dealt + 10, dealt + 60_000);
        assert!(asked.is_some_and(|asked| asked < at(dealt + 1300)), "{asked:?} after {dealt}");
    }

    #[test]
    fn who_has_nothing_that_we_lack_takes_no_turn() {
        let mut victim = Victim::new();
        (0..FAILURES_MIN).for_each(|_| drop(victim.visit(at(0))));
        let mut of_no_use = victim.join_with(at(10), false);
        let mut honest = victim.join(at(10));
        assert!(victim.is_on_trial(&of_no_use, at(20)));
        assert_eq!(Victim::ask(&mut of_no_use, at(20)), 0);
        assert!(Victim::ask(&mut honest, at(20)) > 0);
    }

    #[test]
    fn who_left_in_the_middle_of_what_another_ended_right_has_not_failed() {
        let mut victim = Victim::new();
        let left: Vec<_> = (0..FAILURES_MIN).map(|_| victim.visit(at(0))).collect();
        let (piece, other) = (victim.piece(), victim.join(at(10)));
        assert!(victim.is_on_trial(&other, at(10)));
        let mut progress = Progress::new(piece, (), at(0));
        progress.take_in(4096);
        let begun = progress.into_prefix(Sender::of(&left[0]), at(1)).unwrap();
        let ends = Sender::of(other.link());
        let mut progress = Progress::on(piece, begun, &ends);
        progress.take_in(12_288);
        victim.keep(&other, piece, &progress.into_whole(ends).1);
        let newcomer = victim.join(at(20));
        assert!(!victim.is_on_trial(&newcomer, at(20)));
    }

    #[test]
    fn who_sent_a_right_piece_and_comes_again_is_asked_like_everybody_else() {
        let mut victim = Victim::new();
        let (piece, honest) = (victim.piece(), victim.join(at(0)));
        let number = victim.next_number;
        victim.keep(&honest, piece, &Origin::Alone);
        victim.setting.manager.remove_link(at(1), honest.link().id, false);
        (0..FAILURES_MIN).for_each(|_| drop(victim.visit(at(2))));
        let newcomer = victim.join(at(10));
        assert!(victim.is_on_trial(&newcomer, at(10)));
        let again = victim.setting.join(at(10), number, true).unwrap();
        assert!(!victim.setting.share.is_on_trial(&again, at(10)));
    }
}
