//! One simulated peer: the shipping conduct of a share, and what it stands on here.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::ready::{MemberBell, ReadyList};
use super::scenario::{Role, Scenario};
use super::uplink::Uplink;
use crate::content::HashBook;
use crate::peer::Introduction;
use crate::swarm::{Caps, Choker, MovesByRound, Neighbours, Slots};
use crate::tracker::Announcer;
use crate::trade::{Manager, Setup, Share};
use crate::types::{Geometry, PeerId, PieceSet, ShareId};

/// Where every simulated peer listens.
const PORT: u16 = 26_464;
/// The first of their addresses. They are the internet's, so that nobody takes them for
/// neighbours in one building.
const FIRST_ADDR: u32 = 0x0b00_0001;

/// Links of a peer that wants all there are.
const EVERYBODY: Caps = Caps {
    links_max: 1 << 20,
    links_aim: 1 << 20,
    links_made: 0,
    links_min: 1 << 20,
    links_first: 1 << 20,
    dials_max: 1 << 20,
};

/// Address of peer `number`.
pub(super) fn addr_of(number: u32) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::from(FIRST_ADDR + number).into(), PORT)
}

/// The peer at an address.
pub(super) fn number_of(addr: SocketAddr) -> Option<u32> {
    match addr {
        SocketAddr::V4(addr) => u32::from(*addr.ip()).checked_sub(FIRST_ADDR),
        SocketAddr::V6(_) => None,
    }
}

/// A peer that is there.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) share: Arc<Share<bool>>,
    pub(super) manager: Manager<bool>,
    pub(super) bell: Arc<MemberBell>,
    pub(super) announcer: Announcer,
    /// Its lanes.
    pub(super) lanes: BTreeSet<u32>,
    /// When it looks at its deadlines.
    pub(super) timer: u64,
}

/// A peer, there or not.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) number: u32,
    pub(super) id: PeerId,
    pub(super) role: Role,
    pub(super) active: Option<Active>,
    /// How often it has joined.
    pub(super) life: u32,
    pub(super) uplink: Uplink,
    pub(super) upload_rate: f64,
    /// Nanoseconds that a byte takes on its way in.
    pub(super) ns_per_byte_in: f64,
    /// When its way in is free again.
    pub(super) in_free: u64,
    /// Pieces that it has verified, as the simulator saw it happen.
    pub(super) verified: PieceSet,
    pub(super) joined: Option<u64>,
    /// When it had verified its first piece.
    pub(super) first_piece: Option<u64>,
    pub(super) completed: Option<u64>,
    /// An honest peer has banned it.
    pub(super) banned: bool,
    /// Sums over its earlier lives.
    pub(super) before: Sums,
}

/// What a member has done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    pub(super) wasted: u64,
    pub(super) messages: u64,
    pub(super) refused: u64,
    /// Rounds by how many slots were moved in them.
    pub(super) moves: MovesByRound,
}

impl Sums {
    fn of(active: &Active) -> Self {
        use std::sync::atomic::Ordering::Relaxed;
        let counters = &active.share.counters;
        Self {
            uploaded: counters.uploaded.load(Relaxed),
            downloaded: counters.downloaded.load(Relaxed),
            wasted: counters.wasted.load(Relaxed),
            messages: counters.messages_sent.load(Relaxed),
            refused: counters.pieces_refused.load(Relaxed),
            moves: active.manager.moves(),
        }
    }
}

/// What all members have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) share_id: ShareId,
    pub(super) geometry: Arc<Geometry>,
    pub(super) hashes: Arc<HashBook>,
}

impl Member {
    pub(super) fn new(number: u32, scenario: &Scenario) -> Self {
        let (role, upload_rate, in_rate) = match number.checked_sub(scenario.seeders) {
            None => (Role::Seeder, scenario.seeder_upload, f64::INFINITY),
            Some(leecher) => (
                scenario.role_of(leecher),
                scenario.upload_of(leecher),
                scenario.download_of(leecher),
            ),
        };
        let held = if role == Role::Seeder {
            PieceSet::full(scenario.pieces)
        } else {
            PieceSet::empty(scenario.pieces)
        };
        Self {
            number,
            id: PeerId::numbered(u64::from(number)),
            role,
            active: None,
            life: 0,
            uplink: Uplink::new(upload_rate),
            upload_rate,
            ns_per_byte_in: 1e9 / in_rate,
            in_free: 0,
            verified: held,
            joined: None,
            first_piece: None,
            completed: None,
            banned: false,
            before: Sums::default(),
        }
    }

    /// It joins with what it has verified so far.
    pub(super) fn join(
        &mut self,
        scenario: &Scenario,
        common: &Common,
        ready: &Arc<ReadyList>,
        rng: fastrand::Rng,
    ) {
        let bell = Arc::new(MemberBell::new(self.number, Arc::clone(ready)));
        let setup = Setup { me: self.id, cores: 1, lanes: Some(1), picking: scenario.picking };
        let share = Arc::new(Share::new(
            setup,
            Arc::clone(&common.geometry),
            Arc::clone(&common.hashes),
            &self.verified,
            &PieceSet::full(scenario.pieces),
            Box::new(Arc::clone(&bell)),
        ));
        let slots = match self.role {
            Role::FreeRider | Role::LargeView => Slots::Fixed { regular: 0, optimistic: 0 },
            Role::Liar => Slots::Fixed { regular: usize::MAX / 4, optimistic: 0 },
            _ => scenario.slots,
        };
        let caps = match self.role {
            Role::LargeView => EVERYBODY,
            _ => scenario.caps.for_share(scenario.pieces),
        };
        let manager = Manager::new(
            Arc::clone(&share),
            Choker::new(scenario.policy, slots, scenario.piece_size.bytes(), scenario.pieces),
            Neighbours::new(self.id, caps),
            true,
            rng,
        );
        self.life += 1;
        self.active = Some(Active {
            share,
            manager,
            bell,
            announcer: Announcer::new(),
            lanes: BTreeSet::new(),
            timer: u64::MAX,
        });
    }

    /// It is gone; what it did is remembered.
    pub(super) fn leave(&mut self) {
        self.before = self.sums();
        self.active = None;
    }

    pub(super) fn sums(&self) -> Sums {
        let Some(active) = &self.active else { return self.before };
        let (now, before) = (Sums::of(active), self.before);
        Sums {
            uploaded: before.uploaded + now.uploaded,
            downloaded: before.downloaded + now.downloaded,
            wasted: before.wasted + now.wasted,
            messages: before.messages + now.messages,
            refused: before.refused + now.refused,
            moves: std::array::from_fn(|moved| before.moves[moved] + now.moves[moved]),
        }
    }

    /// What it says of itself.
    pub(super) fn introduction(&self, common: &Common) -> Introduction {
        let complete = self.active.as_ref().is_some_and(|active| active.share.ledger.holds_all());
        Introduction {
            id: self.id,
            share: common.share_id,
            port: PORT,
            complete: complete || self.role == Role::Liar,
        }
    }

    pub(super) fn is_wanting(&self) -> bool {
        self.completed.is_none() && self.role != Role::Seeder && self.role != Role::Liar
    }
}

/// A moment as the values under test take it.
pub(super) fn at(now: u64) -> Duration {
    Duration::from_nanos(now)
}
