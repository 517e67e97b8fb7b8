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
//! asked like everybody else, also when it comes again; and a beginning that turns out right is no failure. Until then the turns go round, beginning with
//! whoever has been linked for longest: new names come behind it. Who does not take its turn holds up nobody
//! for longer than another turn.
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
/// Machines, and peers, that are remembered.
const REMEMBERED_MAX: usize = 1024;

/// What is known of a machine.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    failures: u32,
    /// When the next of its strangers may be asked.
    next: Duration,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Strangers {
    machines: Recent<IpAddr, Record>,
    /// Who has sent a right piece.
    proven: Recent<(IpAddr, PeerId), ()>,
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
            pause: pause.clamp(PAUSE_MIN, PAUSE_MAX),
        }
    }

    fn record(&self, ip: IpAddr) -> Record {
        self.machines.get(&machine_of(ip)).copied().unwrap_or_default()
    }

    /// A link is over that brought something, and not one right piece. True if its machine's strangers are on
    /// trial.
    pub(super) fn note_failure(&mut self, ip: IpAddr) -> bool {
        let before = self.record(ip);
        let failures = before.failures.saturating_add(1);
        self.machines.insert(machine_of(ip), Record { failures, ..before });
        failures >= FAILURES_MIN
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

    /// Whether this peer, which has brought nothing over its link, is on trial.
    pub(super) fn is_on_trial(&self, ip: IpAddr, id: PeerId) -> bool {
        self.record(ip).failures >= FAILURES_MIN && self.proven.get(&(machine_of(ip), id)).is_none()
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
    use std::task::Waker;

    use super::super::testing::Setting;
    use super::super::{CloseReason, Lane, Origin};
    use super::*;
    use crate::peer::Arrival;
    use crate::swarm::{Caps, Slots};
    use crate::wire::{BlockHeader, Message};

    const NAT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    fn id(number: u64) -> PeerId {
        PeerId::numbered(number)
    }

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// With pieces of 256 KiB, after as many failures of that machine.
    fn after_failures(count: u32, ip: IpAddr) -> Strangers {
        let mut strangers = Strangers::new(256 * 1024);
        for _ in 0..count {
            strangers.note_failure(ip);
        }
        strangers
    }

    #[test]
    fn new_names_of_a_machine_are_on_trial_once_some_came_to_nothing_and_those_of_others_never() {
        assert!(!after_failures(FAILURES_MIN - 1, NAT).is_on_trial(NAT, id(9)));
        let strangers = after_failures(FAILURES_MIN, NAT);
        assert!(strangers.is_on_trial(NAT, id(9)));
        assert!(!strangers.is_on_trial([192, 0, 2, 8].into(), id(9)));
        let here = after_failures(FAILURES_MIN, [127, 0, 0, 1].into());
        assert!(here.is_on_trial([127, 9, 9, 9].into(), id(9)), "it has as many as it likes");
    }

    #[test]
    fn who_has_sent_something_right_is_not_on_trial_and_nobody_elsewhere_is_taken_for_it() {
        let mut strangers = after_failures(FAILURES_MIN, NAT);
        strangers.note_right(NAT, id(1));
        assert!(!strangers.is_on_trial(NAT, id(1)) && strangers.is_on_trial(NAT, id(2)));
        let elsewhere = [192, 0, 2, 8].into();
        for _ in 0..FAILURES_MIN {
            strangers.note_failure(elsewhere);
        }
        assert!(strangers.is_on_trial(elsewhere, id(1)));
    }

    #[test]
    fn what_others_have_ended_and_is_right_did_not_come_to_nothing() {
        let mut strangers = after_failures(FAILURES_MIN, NAT);
        strangers.note_begun_right(NAT, id(1));
        assert!(!strangers.is_on_trial(NAT, id(9)));
        assert!(strangers.note_failure(NAT) && !strangers.is_on_trial(NAT, id(1)));
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
            self.next_number += 1;
            let link = self.setting.join(now, self.next_number, true).unwrap();
            let (waker, rng) = (Waker::noop().clone(), fastrand::Rng::with_seed(self.next_number));
            Lane::new(Arc::clone(&self.setting.share), link, true, now, waker, rng)
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
        let mut victim = Victim::new();
        let mut liars: Vec<Lane> = (0..20).map(|_| victim.join(at(0))).collect();
        (0..1000).step_by(10).for_each(|millis| {
            liars.iter_mut().for_each(|liar| victim.lie(liar, at(millis)));
        });
        let mut honest = victim.join(at(1000));
        let asked = (1000..60_000).step_by(10).find(|millis| {
            liars.iter_mut().for_each(|liar| victim.lie(liar, at(*millis)));
            Victim::ask(&mut honest, at(*millis)) > 0
        });
        let asked = at(asked.expect("an honest peer is never asked for anything"));
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
}
