//! A choker and its peers in a time of their own; what it must do is in the modules.
//!
//! ```text
//! regular    who has the regular slots        trials   who is tried, and what takers get
//! seeding    once we are complete             free     when a slot is free, and how many there are
//! strangers  what a seeder gives to those it does not know, and who say they have little
//! chance     whatever happens
//! ```

mod chance;
mod free;
mod regular;
mod seeding;
mod strangers;
mod trials;

use std::time::Duration;

use fastrand::Rng;

use super::peer::Slot;
use super::{ChokePolicy, Choker, LinkId, PeerView, Sent, Slots};
use crate::swarm::Past;

const PIECE: u32 = 256 * 1024;
/// Few enough that a seeder tries nobody beyond a part of what it sends.
const PIECES: u32 = 31;
const CLASSIC: Slots = Slots::Fixed { regular: 4, optimistic: 1 };

/// A choker and its peers in a time of their own.
struct Room {
    choker: Choker,
    now: Duration,
    complete: bool,
    peers: Vec<PeerView>,
    /// Those who take nothing; all others take something all the time.
    idle: Vec<u32>,
    rng: Rng,
}

impl Room {
    fn new(policy: ChokePolicy, slots: Slots) -> Self {
        let (choker, rng) = (Choker::new(policy, slots, PIECE, PIECES), Rng::with_seed(5));
        let now = Duration::from_secs(100);
        Self { choker, now, complete: false, peers: vec![], idle: vec![], rng }
    }

    fn classic(peers: u32) -> Self {
        let mut room = Self::new(ChokePolicy::Contribution, CLASSIC);
        (0..peers).for_each(|id| room.join(id));
        room
    }

    fn join(&mut self, id: u32) {
        self.peers.push(PeerView {
            id: LinkId(id),
            interested: true,
            verified_from: 0,
            uploaded_to: 0,
            held: 0,
            rare_pieces: 0,
            took_at: self.now,
            snubbed: false,
            answers_us: false,
            has_sent: false,
            distance: None,
            past: Past::default(),
            passes_on: None,
            amid_piece: false,
            in_hand: false,
        });
    }

    fn peer(&mut self, id: u32) -> &mut PeerView {
        self.peers.iter_mut().find(|peer| peer.id == LinkId(id)).unwrap()
    }

    fn leave(&mut self, id: u32) {
        self.peers.retain(|peer| peer.id != LinkId(id));
    }

    /// Ticks now; returns who was unchoked and who was choked.
    fn tick(&mut self) -> (Vec<u32>, Vec<u32>) {
        let before = self.unchoked();
        for peer in self.peers.iter_mut().filter(|peer| !self.idle.contains(&peer.id.0)) {
            peer.took_at = self.now;
        }
        let uploaded = self.peers.iter().map(|peer| peer.uploaded_to).sum();
        let sent = Sent { handed_over: uploaded, uploaded, busy: self.now };
        self.choker.note_sent(sent);
        let changes =
            self.choker.tick(self.now, self.complete, self.peers.iter().copied(), &mut self.rng);
        let (on, off): (Vec<_>, Vec<_>) = changes.into_iter().partition(|(_, on)| *on);
        let ids = |list: Vec<(LinkId, bool)>| list.into_iter().map(|(id, _)| id.0).collect();
        let (on, off): (Vec<u32>, Vec<u32>) = (ids(on), ids(off));
        let after = self.unchoked();
        assert!(on.iter().all(|id| after.contains(id) && !before.contains(id)));
        assert!(off.iter().all(|id| !after.contains(id) && before.contains(id)));
        assert_eq!(after.len() + off.len(), self.still(&before) + on.len());
        (on, off)
    }

    /// How many of these are still there.
    fn still(&self, ids: &[u32]) -> usize {
        self.peers.iter().filter(|peer| ids.contains(&peer.id.0)).count()
    }

    fn round(&mut self) -> (Vec<u32>, Vec<u32>) {
        self.now = self.choker.next_round().max(self.now);
        self.tick()
    }

    fn unchoked(&self) -> Vec<u32> {
        let ids = self.peers.iter().map(|peer| peer.id);
        ids.filter(|id| self.choker.is_unchoked(*id)).map(|id| id.0).collect()
    }

    fn in_slot(&self, slot: Slot) -> Vec<u32> {
        let peers = self.choker.peers.iter().filter(|peer| peer.slot == slot);
        peers.map(|peer| peer.view.id.0).collect()
    }
}
