//! A share and its manager for the tests of this folder: no shell; only how often the choker should have decided again
//! and a lane was woken is counted.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use super::{Link, Manager, Setup, Share, Signals, Told};
use crate::content::{FileEntry, HashBook, Manifest, merge_pieces};
use crate::peer::{Agreed, Introduction};
use crate::swarm::{Caps, ChokePolicy, Choker, LinkId, Neighbours, Picking, Refusal, Slots};
use crate::types::{Digest, PeerId, PieceSet, PieceSize, ShareId};

/// Pieces of the share.
const PIECES: u32 = 64;

/// Counts how often a lane was woken.
#[derive(Default)]
pub(super) struct Woken(pub(super) AtomicU32);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[derive(Default)]
struct Nobody {
    slots_changed: Arc<AtomicU32>,
}

impl Signals for Nobody {
    fn news(&self) {}
    fn slots_changed(&self) {
        self.slots_changed.fetch_add(1, Relaxed);
    }
    fn lanes_wanted(&self, _: LinkId) {}
    fn complete(&self) {}
    fn lane_gone(&self) {}
}

/// A manager that knows nobody, and its share.
pub(super) struct Setting {
    pub(super) share: Arc<Share>,
    pub(super) manager: Manager,
    /// How often the share said that there may be a slot to give or to free.
    pub(super) slots_changed: Arc<AtomicU32>,
    id: ShareId,
}

impl Setting {
    /// We are peer 1, and hold everything or nothing.
    pub(super) fn new(holds_all: bool, caps: Caps, slots: Slots) -> Self {
        Self::with_pieces_of(16384, holds_all, caps, slots)
    }

    /// The same with pieces of so many bytes.
    pub(super) fn with_pieces_of(size: u32, holds_all: bool, caps: Caps, slots: Slots) -> Self {
        let hashes = [Digest([1; 32]); PIECES as usize];
        let size = PieceSize::new(size).unwrap();
        let len = u64::from(PIECES) * u64::from(size.bytes());
        let file = FileEntry { path: vec!["film".into()], len, root: merge_pieces(&hashes) };
        let manifest = Manifest::new("film".into(), true, size, vec![file]).unwrap();
        let me = PeerId::numbered(1);
        let setup = Setup { me, cores: 2, lanes: None, picking: Picking::default() };
        let geometry = Arc::clone(manifest.geometry());
        let all = PieceSet::full(PIECES);
        let have = if holds_all { all.clone() } else { PieceSet::empty(PIECES) };
        let hashes = Arc::new(HashBook::new(&manifest));
        let nobody = Nobody::default();
        let slots_changed = Arc::clone(&nobody.slots_changed);
        let share = Arc::new(Share::new(setup, geometry, hashes, &have, &all, Box::new(nobody)));
        let choker = Choker::new(ChokePolicy::default(), slots, size.bytes(), 1);
        let neighbours = Neighbours::new(me, caps);
        let rng = fastrand::Rng::with_seed(1);
        let manager = Manager::new(Arc::clone(&share), choker, neighbours, false, rng);
        Self { share, manager, slots_changed, id: manifest.share_id() }
    }

    /// Another peer connects to us; it answers us, and holds everything or nothing.
    pub(super) fn join(
        &mut self,
        now: Duration,
        number: u64,
        complete: bool,
    ) -> Result<Arc<Link>, Refusal> {
        let (mine, agreed) = self.agree(number, complete);
        let (new, _) = self.manager.accepted(&mine, agreed, ([127, 0, 0, 1], 9).into());
        self.manager.add_link(now, new)
    }

    /// A peer that we have dialled answers; it holds nothing.
    pub(super) fn reach(&mut self, now: Duration, number: u64, addr: SocketAddr) -> Arc<Link> {
        let (_, agreed) = self.agree(number, false);
        let new = self.manager.established(Told::default(), agreed, addr, Duration::ZERO);
        self.manager.add_link(now, new).unwrap()
    }

    fn agree(&self, number: u64, complete: bool) -> (Introduction, Agreed) {
        let introduction = |number, complete| {
            let id = PeerId::numbered(number);
            Introduction { id, share: self.id, port: 1, complete }
        };
        let mine = introduction(1, self.share.ledger.holds_all());
        let agreed = mine.check(&introduction(number, complete).register(true)).unwrap();
        (mine, agreed)
    }
}
