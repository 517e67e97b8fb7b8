//! Beginnings of pieces that outlive the connection over which they came.
//!
//! What has come of a piece in order is in its file, and its hash is a small state. When a lane ends
//! or parts with the piece, both stay here for whoever fetches it next: else a piece that takes longer
//! than links last would never be here.
//!
//! Who is to blame: a piece that came over one link alone is its peer's, as ever. One that came over
//! several and is wrong is nobody's: none of them can be shown to have sent the wrong bytes. All of
//! it is thrown away, and from then on no byte from those machines is mixed with those of others:
//! what each sends is its own alone, so the one who lies is found out by the next piece that it sends
//! whole, or gains no more by leaving in the middle than if nothing were kept. A machine is mixed
//! again once it has sent a whole piece that is right, but not when it had a part in a third wrong one: a liar could
//! alternate for ever. A peer whose own bytes, over several links, make a wrong piece has nothing
//! of it kept. It is not banned for it: whoever has its address may have borrowed its identity.
//!
//! Invariants:
//! - A prefix is here only as long as nobody has written to its piece since. It comes in, and goes out,
//!   under a write lease of the piece's owner ([`Ledger::begin_write`](crate::swarm::Ledger::begin_write)),
//!   so it is never that of somebody who has lost the piece.
//! - It never counts as held. At most [`PREFIXES_MAX`] are kept, each with the names of at most
//!   [`SENDERS_MAX`] links.
//!
//! Not here: bytes and how they are hashed; `H` is what the shell knows of a beginning.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::link::Link;
use crate::swarm::{LinkId, Recent, block_of};
use crate::types::{PeerId, PieceIndex};

/// Prefixes kept: a lane leaves one at a time, and there are 200 links at most. With a hash's state
/// of two KiB, half a MiB.
const PREFIXES_MAX: usize = 256;
/// Links that a prefix may have come over: 64 with a block each have sent a MiB at least.
const SENDERS_MAX: usize = 64;
/// Machines and peers that are remembered, those that were met last.
const REMEMBERED_MAX: usize = 1024;
/// Wrong pieces in which a machine had a part, after which it is never mixed with others again.
const SPOILT_MAX: u32 = 3;

/// One link's peer, as a sender of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sender {
    link: LinkId,
    id: PeerId,
    ip: IpAddr,
}

/// An address; of one machine's own peers each is its own.
type Machine = (IpAddr, Option<PeerId>);

impl Sender {
    pub(super) fn of(link: &Link) -> Self {
        Self { link: link.id, id: link.agreed.peer, ip: block_of(link.addr.ip()) }
    }

    fn machine(&self) -> Machine {
        (self.ip, self.ip.is_loopback().then_some(self.id))
    }

    fn is_same_peer(&self, other: &Self) -> bool {
        (self.id, self.ip) == (other.id, other.ip)
    }
}

/// Where the bytes of a whole piece came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// All from the link that brought the last of them.
    Alone,
    /// From several links.
    Mixed(Mixed),
}

/// See [`Origin::Mixed`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mixed {
    /// Bytes from the link that brought the last of them, without what it sent before others did.
    own: u32,
    senders: Vec<Sender>,
}

impl Origin {
    /// Of a piece of `len` bytes, those that are to the credit of the link that ended it.
    pub(super) fn own(&self, len: u32) -> u32 {
        match self {
            Self::Alone => len,
            Self::Mixed(mixed) => mixed.own,
        }
    }
}

/// What has come of a piece that nobody fetches.
#[derive(Debug)]
pub(super) struct Prefix<H> {
    hash: H,
    end: u32,
    /// In the order of their bytes; each link once.
    senders: Vec<Sender>,
}

impl<H> Prefix<H> {
    /// How many bytes it has.
    pub(super) fn end(&self) -> u32 {
        self.end
    }
}

/// What comes of a piece over a lane.
#[derive(Debug)]
pub(super) struct Progress<H> {
    piece: PieceIndex,
    hash: H,
    /// So many of its bytes have come and are hashed,
    end: u32,
    /// and of those so many before this lane went on with it, over these links; nobody's, if all that
    /// came came over this link.
    start: u32,
    earlier: Vec<Sender>,
    /// Whether all of it is in the file.
    is_written: bool,
}

impl<H> Progress<H> {
    /// A piece that begins to come.
    pub(super) fn new(piece: PieceIndex, hash: H) -> Self {
        Self { piece, hash, end: 0, start: 0, earlier: Vec::new(), is_written: true }
    }

    /// A piece of which this is here already.
    pub(super) fn on(piece: PieceIndex, prefix: Prefix<H>, by: &Sender) -> Self {
        let Prefix { hash, end, senders } = prefix;
        let is_alone = senders.iter().all(|sender| sender == by);
        let (start, earlier) = if is_alone { (0, Vec::new()) } else { (end, senders) };
        Self { piece, hash, end, start, earlier, is_written: true }
    }

    pub(super) fn piece(&self) -> PieceIndex {
        self.piece
    }

    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// So many bytes more are here, to be hashed.
    pub(super) fn take_in(&mut self, len: u32) -> &mut H {
        self.end += len;
        &mut self.hash
    }

    /// Not all of what came is in the file, or is to be trusted: it is not kept.
    pub(super) fn keep_nothing(&mut self) {
        self.is_written = false;
    }

    /// What is to be kept of it, if anything.
    pub(super) fn into_prefix(self, by: Sender) -> Option<Prefix<H>> {
        let senders = self.senders(by);
        let is_kept = self.is_written && self.end > 0 && senders.len() <= SENDERS_MAX;
        is_kept.then_some(Prefix { hash: self.hash, end: self.end, senders })
    }

    /// All of it is here.
    pub(super) fn into_whole(self, by: Sender) -> (H, Origin) {
        let origin = match self.earlier.is_empty() {
            true => Origin::Alone,
            false => Origin::Mixed(Mixed { own: self.end - self.start, senders: self.senders(by) }),
        };
        (self.hash, origin)
    }

    fn senders(&self, by: Sender) -> Vec<Sender> {
        let mut senders = self.earlier.clone();
        if self.end > self.start && !senders.contains(&by) {
            senders.push(by);
        }
        senders
    }
}

/// What is held against a machine.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// Wrong pieces in which it had a part.
    spoilt: u32,
    /// It has sent a whole right piece since.
    cleared: bool,
}

/// The beginnings that are kept, and whose may be mixed; see the module's header.
#[derive(Debug)]
pub(super) struct Prefixes<H> {
    kept: BTreeMap<PieceIndex, Prefix<H>>,
    doubts: Recent<Machine, Doubt>,
    /// Peers whose own bytes over several links made a wrong piece.
    wrong_alone: Recent<(IpAddr, PeerId), ()>,
}

impl<H> Default for Prefixes<H> {
    fn default() -> Self {
        Self {
            kept: BTreeMap::new(),
            doubts: Recent::new(REMEMBERED_MAX),
            wrong_alone: Recent::new(REMEMBERED_MAX),
        }
    }
}

impl<H> Prefixes<H> {
    /// Whether there is nothing here to be looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.doubts.is_empty() && self.wrong_alone.is_empty()
    }

    /// Keeps a prefix; where there are too many, the shortest makes room.
    pub(super) fn keep(&mut self, piece: PieceIndex, prefix: Prefix<H>) {
        self.kept.insert(piece, prefix);
        if self.kept.len() > PREFIXES_MAX
            && let Some(shortest) = self.kept.iter().min_by_key(|(_, prefix)| prefix.end)
        {
            let shortest = *shortest.0;
            self.kept.remove(&shortest);
        }
    }

    /// From where on this peer is to be asked for a piece.
    pub(super) fn end_for(&self, piece: PieceIndex, by: &Sender) -> u32 {
        let prefix = self.kept.get(&piece).filter(|prefix| self.may_go_on(prefix, by));
        prefix.map_or(0, |prefix| prefix.end)
    }

    /// The pieces that this peer may go on with, the longest prefix first.
    pub(super) fn for_peer(&self, by: &Sender) -> Vec<(PieceIndex, u32)> {
        let may = |(_, prefix): &(_, &Prefix<H>)| self.may_go_on(prefix, by);
        let mut found: Vec<_> =
            self.kept.iter().filter(may).map(|(piece, prefix)| (*piece, prefix.end)).collect();
        found.sort_by_key(|(_, end)| std::cmp::Reverse(*end));
        found
    }

    /// Takes the prefix of a piece, if it ends there; another is of no use to anybody, for the piece
    /// is about to be written from its beginning.
    pub(super) fn take(&mut self, piece: PieceIndex, at: u32) -> Option<Prefix<H>> {
        self.kept.remove(&piece).filter(|prefix| prefix.end == at)
    }

    /// A peer is banned: what came from it is not to be trusted.
    pub(super) fn forget_from(&mut self, by: &Sender) {
        self.kept.retain(|_, prefix| !prefix.senders.iter().any(|sender| sender.is_same_peer(by)));
    }

    /// A piece of that origin is right.
    pub(super) fn on_right(&mut self, origin: &Origin, by: &Sender) {
        if *origin != Origin::Alone {
            return;
        }
        self.wrong_alone.remove(&(by.ip, by.id));
        if let Some(doubt) = self.doubts.get(&by.machine()).copied() {
            self.doubts.insert(by.machine(), Doubt { cleared: true, ..doubt });
        }
    }

    /// A piece from several links is wrong.
    pub(super) fn on_wrong(&mut self, mixed: &Mixed) {
        let senders = &mixed.senders;
        if let [first, rest @ ..] = senders.as_slice()
            && rest.iter().all(|sender| sender.is_same_peer(first))
        {
            self.wrong_alone.insert((first.ip, first.id), ());
            return;
        }
        let mut machines: Vec<Machine> = senders.iter().map(Sender::machine).collect();
        machines.sort_unstable();
        machines.dedup();
        for machine in machines {
            let before = self.doubts.get(&machine).map_or(0, |doubt| doubt.spoilt);
            self.doubts.insert(machine, Doubt { spoilt: before + 1, cleared: false });
        }
    }

    fn may_go_on(&self, prefix: &Prefix<H>, by: &Sender) -> bool {
        let mut others = prefix.senders.iter().filter(|sender| sender.link != by.link).peekable();
        if others.peek().is_none() {
            return true;
        }
        if others.all(|sender| sender.is_same_peer(by)) {
            return self.wrong_alone.get(&(by.ip, by.id)).is_none();
        }
        prefix.senders.iter().chain([by]).all(|sender| self.may_mix(sender))
    }

    fn may_mix(&self, sender: &Sender) -> bool {
        let doubt = self.doubts.get(&sender.machine());
        doubt.is_none_or(|doubt| doubt.cleared && doubt.spoilt < SPOILT_MAX)
            && self.wrong_alone.get(&(sender.ip, sender.id)).is_none()
    }
}
