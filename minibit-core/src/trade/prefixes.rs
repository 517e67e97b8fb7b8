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
//! again once it has sent a whole piece that is right, but not when it had a part in a third wrong
//! one: a liar could alternate for ever. So each machine of a liar spoils three pieces at most. A peer
//! whose own bytes, over several links, make a wrong piece has nothing of it kept any more. It is not
//! banned for it: whoever has its address may have borrowed its identity.
//!
//! Nobody who is in doubt throws away what others have begun and he may not go on with, before it has
//! been left alone for [`IDLE`], or takes longer than [`LONGEST`]: a liar who leaves again and again would
//! keep a peer on a bad connection from ever ending a piece. So it is with the [`PROTECTED_MAX`] longest: an
//! honest peer may be in doubt as well, and others leave beginnings just to keep it from them. And whoever
//! in doubt has sent a whole right piece, over however many links, may, with nothing else to fetch, throw away one
//! beginning for it: it costs a liar more than it spoils, and a seeder whom twenty liars made doubted, new
//! names each time, ends what they hold up.
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
use std::time::Duration;

use super::link::Link;
use crate::swarm::{LinkId, Recent, block_of};
use crate::types::{PeerId, PieceIndex};

/// Prefixes kept: a lane leaves one at a time, blocks that come late may leave more, and there are 200 links at
/// most. With a hash's state of two KiB, half a MiB.
const PREFIXES_MAX: usize = 256;
/// Links that a prefix may have come over: 64 with a block each have sent a MiB at least.
const SENDERS_MAX: usize = 64;
/// Machines and peers that are remembered, those that were met last.
const REMEMBERED_MAX: usize = 1024;
/// Wrong pieces in which a machine had a part, after which it is never mixed with others again.
const SPOILT_MAX: u32 = 3;

/// For so long a beginning that has stopped growing is waited for; longer than it takes to connect anew.
const IDLE: Duration = Duration::from_secs(30);
/// So long after its first byte a beginning has no right any more to be waited for.
const LONGEST: Duration = Duration::from_secs(120);
/// Beginnings that are waited for at a time, the longest of all: more than peers on bad connections as a rule
/// have, and few enough that liars, who leave a block of each piece, cannot keep who is in doubt from all.
const PROTECTED_MAX: usize = 4;

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

    pub(super) fn id(&self) -> PeerId {
        self.id
    }

    pub(super) fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Whether it is this link.
    pub(super) fn is_of(&self, link: &Link) -> bool {
        self.link == link.id
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

impl Mixed {
    /// The links that sent some of it.
    pub(super) fn senders(&self) -> impl Iterator<Item = &Sender> {
        self.senders.iter()
    }
}

impl Origin {
    /// Of a piece of `len` bytes, those that are to the credit of the link that ended it.
    pub(super) fn own(&self, len: u32) -> u32 {
        match self {
            Self::Alone => len,
            Self::Mixed(mixed) => mixed.own,
        }
    }

    /// Whether one peer has sent all of it, be it over one link after another.
    pub(super) fn is_of_one_peer(&self) -> bool {
        match self {
            Self::Alone => true,
            Self::Mixed(mixed) => are_of_one_peer(&mixed.senders),
        }
    }
}

fn are_of_one_peer(senders: &[Sender]) -> bool {
    senders.windows(2).all(|two| two[0].is_same_peer(&two[1]))
}

/// What has come of a piece that nobody fetches.
#[derive(Debug)]
pub(super) struct Prefix<H> {
    hash: H,
    end: u32,
    /// In the order of their bytes; each link once.
    senders: Vec<Sender>,
    /// When its first byte came, and its last.
    began: Duration,
    came: Duration,
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
    /// When its first byte came.
    began: Duration,
    /// Whether all of it is in the file.
    is_written: bool,
}

impl<H> Progress<H> {
    /// A piece that begins to come.
    pub(super) fn new(piece: PieceIndex, hash: H, now: Duration) -> Self {
        Self { piece, hash, end: 0, start: 0, earlier: Vec::new(), began: now, is_written: true }
    }

    /// A piece of which this is here already.
    pub(super) fn on(piece: PieceIndex, prefix: Prefix<H>, by: &Sender) -> Self {
        let Prefix { hash, end, senders, began, .. } = prefix;
        let is_alone = senders.iter().all(|sender| sender == by);
        let (start, earlier) = if is_alone { (0, Vec::new()) } else { (end, senders) };
        Self { piece, hash, end, start, earlier, began, is_written: true }
    }

    pub(super) fn piece(&self) -> PieceIndex {
        self.piece
    }

    pub(super) fn end(&self) -> u32 {
        self.end
    }

    /// Whether all that came came over this link.
    pub(super) fn is_of_this_link(&self) -> bool {
        self.earlier.is_empty()
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

    /// What is to be kept of it, if anything; the last of it came at `came`.
    pub(super) fn into_prefix(self, by: Sender, came: Duration) -> Option<Prefix<H>> {
        let senders = self.senders(by);
        let is_kept = self.is_written && self.end > 0 && senders.len() <= SENDERS_MAX;
        let Self { hash, end, began, .. } = self;
        is_kept.then_some(Prefix { hash, end, senders, began, came })
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
        if self.is_of_no_use(&prefix) {
            return;
        }
        self.kept.insert(piece, prefix);
        if self.kept.len() > PREFIXES_MAX
            && let Some(shortest) = self.kept.iter().min_by_key(|(_, prefix)| prefix.end)
        {
            let shortest = *shortest.0;
            self.kept.remove(&shortest);
        }
    }

    /// Whether there is a prefix of a piece, whoever may go on with it.
    pub(super) fn holds(&self, piece: PieceIndex) -> bool {
        self.kept.contains_key(&piece)
    }

    /// From where on this peer is to be asked for a piece.
    pub(super) fn end_for(&self, piece: PieceIndex, by: &Sender) -> u32 {
        let prefix = self.kept.get(&piece).filter(|prefix| self.may_go_on(prefix, by));
        prefix.map_or(0, |prefix| prefix.end)
    }

    /// Whether this peer may be asked for a piece, be it from its beginning.
    pub(super) fn may_begin(&self, piece: PieceIndex, by: &Sender, now: Duration) -> bool {
        let is_free = |prefix: &Prefix<H>| {
            self.may_go_on(prefix, by)
                || self.may_mix(by)
                || now >= prefix.came + IDLE
                || now >= prefix.began + LONGEST
                || self.longer_than(piece, prefix) >= PROTECTED_MAX
        };
        self.kept.get(&piece).is_none_or(is_free)
    }

    /// The pieces that this peer may not be asked for, the shortest prefix first.
    pub(super) fn left_alone(&self, by: &Sender, now: Duration) -> Vec<PieceIndex> {
        let is_left = |(piece, _): &(&PieceIndex, _)| !self.may_begin(**piece, by, now);
        let mut left: Vec<_> = self.kept.iter().filter(is_left).collect();
        left.sort_by_key(|(_, prefix)| prefix.end);
        left.into_iter().map(|(piece, _)| *piece).collect()
    }

    /// How many are longer than this one, or as long and of an earlier piece.
    fn longer_than(&self, piece: PieceIndex, prefix: &Prefix<H>) -> usize {
        let rank = |piece, end| (std::cmp::Reverse(end), piece);
        let own = rank(piece, prefix.end);
        self.kept.iter().filter(|(other, prefix)| rank(**other, prefix.end) < own).count()
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
        if !origin.is_of_one_peer() {
            return;
        }
        if let Some(doubt) = self.doubts.get(&by.machine()).copied() {
            self.doubts.insert(by.machine(), Doubt { cleared: true, ..doubt });
        }
    }

    /// A piece from several links is wrong.
    pub(super) fn on_wrong(&mut self, mixed: &Mixed) {
        let senders = &mixed.senders;
        if let [first, ..] = senders.as_slice()
            && are_of_one_peer(senders)
        {
            self.wrong_alone.insert((first.ip, first.id), ());
            self.forget_from(first);
            return;
        }
        let mut machines: Vec<Machine> = senders.iter().map(Sender::machine).collect();
        machines.sort_unstable();
        machines.dedup();
        for machine in machines {
            let before = self.doubts.get(&machine).map_or(0, |doubt| doubt.spoilt);
            self.doubts.insert(machine, Doubt { spoilt: before + 1, cleared: false });
        }
        let mut kept = std::mem::take(&mut self.kept);
        kept.retain(|_, prefix| !self.is_of_no_use(prefix));
        self.kept = kept;
    }

    /// Whether nobody may go on with it: it is of several peers, and one of them is in doubt, or of one of
    /// which nothing is kept.
    fn is_of_no_use(&self, prefix: &Prefix<H>) -> bool {
        let [first, ..] = prefix.senders.as_slice() else { return true };
        if are_of_one_peer(&prefix.senders) {
            return self.wrong_alone.get(&(first.ip, first.id)).is_some();
        }
        !prefix.senders.iter().all(|sender| self.may_mix(sender))
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

    /// Whether nothing is held against a peer.
    pub(super) fn may_mix(&self, sender: &Sender) -> bool {
        let doubt = self.doubts.get(&sender.machine());
        doubt.is_none_or(|doubt| doubt.cleared && doubt.spoilt < SPOILT_MAX)
            && self.wrong_alone.get(&(sender.ip, sender.id)).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Geometry, PieceSize};
    use proptest::prelude::*;

    /// Blocks of a piece; a byte stands for one here.
    const BLOCKS: u32 = 8;

    fn pieces(count: u32) -> Vec<PieceIndex> {
        let size = PieceSize::new(16384).unwrap();
        let geometry = Geometry::new(size, [u64::from(count) * 16384]).unwrap();
        geometry.pieces().collect()
    }

    /// Link `link` of peer `peer`, which is alone at its address.
    fn sender(link: u32, peer: u8) -> Sender {
        let ip = [192, 0, 2, peer].into();
        Sender { link: LinkId(link), id: PeerId::numbered(peer.into()), ip }
    }

    /// A beginning of `end` bytes that came over these links.
    fn prefix(end: u32, senders: &[Sender]) -> Prefix<()> {
        let (began, came) = (Duration::ZERO, Duration::ZERO);
        Prefix { hash: (), end, senders: senders.to_vec(), began, came }
    }

    /// A piece that is half of one and half of the other.
    fn mixed(one: Sender, other: Sender) -> Mixed {
        let progress = Progress::on(pieces(1)[0], prefix(4, &[one]), &other);
        match whole(progress, 4, other) {
            Origin::Mixed(mixed) => mixed,
            Origin::Alone => panic!("from two links"),
        }
    }

    fn whole(mut progress: Progress<()>, rest: u32, by: Sender) -> Origin {
        progress.take_in(rest);
        progress.into_whole(by).1
    }

    #[test]
    fn a_piece_is_its_links_alone_however_often_that_went_on_with_it() {
        let (piece, by) = (pieces(1)[0], sender(1, 1));
        let mut progress = Progress::new(piece, (), Duration::ZERO);
        progress.take_in(3);
        let kept = progress.into_prefix(by, Duration::ZERO).unwrap();
        let again = Progress::on(piece, kept, &by);
        assert_eq!(whole(again, 5, by), Origin::Alone);
    }

    #[test]
    fn a_piece_from_two_links_is_to_the_credit_of_each_for_what_it_sent() {
        let (first, last) = (sender(1, 1), sender(2, 2));
        let origin = whole(Progress::on(pieces(1)[0], prefix(3, &[first]), &last), 5, last);
        assert_eq!(origin.own(8), 5);
        assert_eq!(origin, Origin::Mixed(Mixed { own: 5, senders: vec![first, last] }));
    }

    #[test]
    fn who_goes_on_and_brings_nothing_has_no_part_in_it() {
        let (first, last) = (sender(1, 1), sender(2, 2));
        let progress = Progress::on(pieces(1)[0], prefix(3, &[first]), &last);
        assert_eq!(progress.into_prefix(last, Duration::ZERO).unwrap().senders, [first]);
    }

    #[test]
    fn what_is_not_all_in_the_file_is_not_kept() {
        let mut progress = Progress::new(pieces(1)[0], (), Duration::ZERO);
        progress.take_in(3);
        progress.keep_nothing();
        assert!(progress.into_prefix(sender(1, 1), Duration::ZERO).is_none());
    }

    #[test]
    fn those_who_made_a_wrong_piece_are_not_mixed_until_they_sent_a_right_one() {
        let (one, other, third) = (sender(1, 1), sender(2, 2), sender(3, 3));
        let piece = pieces(1)[0];
        let mut prefixes = Prefixes::default();
        prefixes.keep(piece, prefix(4, &[one]));
        assert_eq!(prefixes.end_for(piece, &third), 4);
        prefixes.on_wrong(&mixed(one, other));
        assert_eq!(prefixes.end_for(piece, &third), 0, "one of them lies");
        assert_eq!(prefixes.end_for(piece, &one), 4, "what is its own it may end");
        assert_eq!(prefixes.end_for(piece, &sender(9, 1)), 4, "over another link, too");
        prefixes.on_right(&Origin::Alone, &one);
        assert_eq!(prefixes.end_for(piece, &third), 4);
        assert_eq!(prefixes.end_for(piece, &other), 0, "the other has shown nothing");
    }

    #[test]
    fn who_sent_a_right_piece_over_one_link_after_another_is_mixed_again_and_who_had_a_part_in_one_is_not()
     {
        let (one, other, third) = (sender(1, 1), sender(2, 2), sender(3, 3));
        let piece = pieces(1)[0];
        let mut prefixes = Prefixes::default();
        prefixes.on_wrong(&mixed(one, other));
        prefixes.keep(piece, prefix(4, &[one]));
        let again = sender(9, 1);
        prefixes.on_right(&Origin::Mixed(mixed(third, again)), &again);
        assert_eq!(prefixes.end_for(piece, &third), 0, "a block of it may be all that it sent");
        prefixes.on_right(&Origin::Mixed(mixed(one, again)), &again);
        assert_eq!(prefixes.end_for(piece, &third), 4);
    }

    #[test]
    fn of_those_that_are_left_alone_the_shortest_comes_first() {
        let (honest, pieces) = (sender(100, 2), pieces(4));
        let mut prefixes = Prefixes::default();
        prefixes.on_wrong(&mixed(sender(1, 1), honest));
        for (piece, end) in pieces.iter().zip([5, 2, 7, 3]) {
            prefixes.keep(*piece, prefix(end, &[sender(50, 3)]));
        }
        let left = prefixes.left_alone(&honest, Duration::ZERO);
        assert_eq!(left, [pieces[1], pieces[3], pieces[0], pieces[2]]);
    }

    #[test]
    fn liars_who_leave_a_block_of_every_piece_keep_who_is_in_doubt_from_four_of_them() {
        let (liar, honest) = (|link| sender(link, 1), sender(100, 2));
        let pieces = pieces(12);
        let mut prefixes = Prefixes::default();
        prefixes.on_wrong(&mixed(liar(1), honest));
        for (link, piece) in (2..).zip(&pieces) {
            prefixes.keep(*piece, prefix(1, &[liar(link)]));
        }
        let may = |prefixes: &Prefixes<()>, now| {
            pieces.iter().filter(|piece| prefixes.may_begin(**piece, &honest, now)).count()
        };
        assert_eq!(may(&prefixes, Duration::ZERO), 12 - PROTECTED_MAX);
        // What is longer than theirs is left alone before theirs.
        prefixes.keep(pieces[11], prefix(5, &[sender(50, 3)]));
        assert!(!prefixes.may_begin(pieces[11], &honest, Duration::ZERO));
        assert_eq!(may(&prefixes, Duration::ZERO), 12 - PROTECTED_MAX);
    }

    #[test]
    fn a_new_identity_at_the_same_address_is_not_mixed_either() {
        let (liar, honest, piece) = (sender(1, 1), sender(2, 2), pieces(1)[0]);
        let mut prefixes = Prefixes::default();
        prefixes.on_wrong(&mixed(liar, honest));
        let again = Sender { link: LinkId(3), id: PeerId::numbered(77), ..liar };
        prefixes.keep(piece, prefix(4, &[again]));
        assert_eq!(prefixes.end_for(piece, &sender(4, 4)), 0);
    }

    #[test]
    fn whoever_had_a_part_in_three_wrong_pieces_is_never_mixed_again() {
        let (one, other, piece) = (sender(1, 1), sender(2, 2), pieces(1)[0]);
        let mut prefixes = Prefixes::default();
        prefixes.keep(piece, prefix(4, &[one]));
        for time in 1..=SPOILT_MAX {
            prefixes.on_wrong(&mixed(one, other));
            prefixes.on_right(&Origin::Alone, &one);
            let is_mixed = prefixes.end_for(piece, &sender(3, 3)) > 0;
            assert_eq!(is_mixed, time < SPOILT_MAX, "after {time}");
        }
    }

    #[test]
    fn whose_own_links_made_a_wrong_piece_has_nothing_kept_and_nobody_else_is_doubted() {
        let (one, again) = (sender(1, 1), sender(2, 1));
        let [first, second] = pieces(2)[..] else { panic!("two pieces") };
        let mut prefixes = Prefixes::default();
        prefixes.keep(first, prefix(4, &[one]));
        prefixes.on_wrong(&mixed(one, again));
        prefixes.keep(second, prefix(4, &[again]));
        assert!(prefixes.kept.is_empty(), "or it would be waited for");
        prefixes.keep(first, prefix(4, &[sender(4, 4)]));
        assert_eq!(prefixes.end_for(first, &sender(5, 5)), 4);
        assert_eq!(prefixes.end_for(first, &again), 0);
    }

    #[test]
    fn what_a_banned_peer_sent_is_gone() {
        let (liar, honest) = (sender(1, 1), sender(2, 2));
        let [first, second] = pieces(2)[..] else { panic!("two pieces") };
        let mut prefixes = Prefixes::default();
        prefixes.keep(first, prefix(4, &[honest, liar]));
        prefixes.keep(second, prefix(4, &[honest]));
        prefixes.forget_from(&sender(7, 1));
        assert_eq!([first, second].map(|piece| prefixes.end_for(piece, &honest)), [0, 4]);
    }

    #[test]
    fn so_many_are_kept_and_the_longest_of_them_is_gone_on_with_first() {
        let by = sender(1, 1);
        let pieces = pieces(PREFIXES_MAX as u32 + 10);
        let mut prefixes = Prefixes::default();
        for (number, piece) in pieces.iter().enumerate() {
            prefixes.keep(*piece, prefix(number as u32 + 1, &[by]));
        }
        let left = prefixes.for_peer(&by);
        assert_eq!(left.len(), PREFIXES_MAX);
        assert_eq!(left.first(), Some(&(*pieces.last().unwrap(), pieces.len() as u32)));
        assert_eq!(prefixes.end_for(pieces[9], &by), 0, "the shortest made room");
    }

    #[test]
    fn what_is_mixed_of_a_peer_in_doubt_is_thrown_away_at_once_for_nobody_may_go_on_with_it() {
        let (one, other, third) = (sender(1, 1), sender(2, 2), sender(3, 3));
        let [first, second, last] = pieces(3)[..] else { panic!("three pieces") };
        let mut prefixes = Prefixes::default();
        prefixes.keep(first, prefix(4, &[one, third]));
        prefixes.on_wrong(&mixed(one, other));
        prefixes.keep(second, prefix(4, &[other, third]));
        prefixes.keep(last, prefix(4, &[other]));
        assert_eq!(prefixes.kept.keys().collect::<Vec<_>>(), [&last]);
    }

    #[test]
    fn what_others_began_is_not_thrown_away_for_a_peer_in_doubt_as_long_as_it_grows() {
        let (honest, liar, piece) = (sender(1, 1), sender(2, 2), pieces(1)[0]);
        let secs = Duration::from_secs;
        let mut prefixes = Prefixes::default();
        prefixes.on_wrong(&mixed(liar, honest));
        let kept = |came| Prefix { came, ..prefix(4, &[honest]) };
        prefixes.keep(piece, kept(secs(60)));
        assert!(prefixes.may_begin(piece, &sender(3, 1), secs(89)), "its own it goes on with");
        assert!(!prefixes.may_begin(piece, &sender(3, 2), secs(89)));
        assert!(prefixes.may_begin(piece, &sender(3, 2), secs(90)), "it has stopped growing");
        assert!(prefixes.may_begin(piece, &sender(3, 3), secs(89)), "nothing is held against it");
        prefixes.keep(piece, kept(secs(110)));
        assert!(!prefixes.may_begin(piece, &sender(3, 2), secs(119)));
        assert!(prefixes.may_begin(piece, &sender(3, 2), secs(120)), "it takes too long");
    }

    /// What an honest peer sends for a block, and what a liar may.
    const RIGHT: u8 = 1;
    const WRONG: u8 = 0;

    /// A download from honest peers and liars, over links that come and go. What is in the file is
    /// written as the engine does it, so that a hash that is not of the file shows.
    struct Download {
        pieces: Vec<PieceIndex>,
        file: Vec<[u8; BLOCKS as usize]>,
        done: Vec<bool>,
        prefixes: Prefixes<Vec<u8>>,
        banned: Vec<u8>,
        spoilt: u32,
        next_link: u32,
    }

    impl Download {
        fn new(count: u32) -> Self {
            Self {
                pieces: pieces(count),
                file: vec![[9; BLOCKS as usize]; count as usize],
                done: vec![false; count as usize],
                prefixes: Prefixes::default(),
                banned: Vec::new(),
                spoilt: 0,
                next_link: 0,
            }
        }

        /// Peer `peer` is linked, sends these blocks of a piece, and the link is lost.
        fn link(&mut self, at: usize, peer: u8, blocks: &[u8], now: Duration) {
            if self.done[at] || self.banned.contains(&peer) {
                return;
            }
            self.next_link += 1;
            let (piece, by) = (self.pieces[at], sender(self.next_link, peer));
            if !self.prefixes.may_begin(piece, &by, now) {
                return;
            }
            let from = self.prefixes.end_for(piece, &by);
            let mut progress = match self.prefixes.take(piece, from) {
                Some(prefix) => Progress::on(piece, prefix, &by),
                None => Progress::new(piece, Vec::new(), now),
            };
            assert_eq!(progress.end(), from, "where the peer was asked from");
            for block in blocks.iter().take((BLOCKS - from) as usize) {
                self.file[at][progress.end() as usize] = *block;
                progress.take_in(1).push(*block);
            }
            if progress.end() < BLOCKS {
                progress
                    .into_prefix(by, now)
                    .into_iter()
                    .for_each(|kept| self.prefixes.keep(piece, kept));
                return;
            }
            let (hash, origin) = progress.into_whole(by);
            assert_eq!(hash, self.file[at], "the hash is of what is in the file");
            match (hash.iter().all(|block| *block == RIGHT), &origin) {
                (true, _) => {
                    self.done[at] = true;
                    self.prefixes.on_right(&origin, &by);
                }
                (false, Origin::Alone) => {
                    self.banned.push(peer);
                    self.prefixes.forget_from(&by);
                }
                (false, Origin::Mixed(mixed)) => {
                    self.spoilt += 1;
                    self.prefixes.on_wrong(mixed);
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_honest_peer_is_ever_blamed_a_liar_spoils_little_and_the_download_ends(
            links in prop::collection::vec(
                (0usize..4, 0u8..6, prop::collection::vec(WRONG..=RIGHT, 0..12)), 0..400,
            ),
        ) {
            // Peers 0 to 2 are honest; 3 to 5 send what they like and leave when they like.
            let mut download = Download::new(4);
            for (at, peer, mut blocks) in links {
                if peer < 3 {
                    blocks.fill(RIGHT);
                }
                download.link(at, peer, &blocks, Duration::ZERO);
            }
            prop_assert!(download.banned.iter().all(|peer| *peer >= 3), "{:?}", download.banned);
            // Three each, and once each over links of its own.
            prop_assert!(download.spoilt <= 3 * (SPOILT_MAX + 1), "{} spoilt", download.spoilt);
            // Whatever they did: who is honest and loses its links again and again brings it to an end.
            for _ in 0..3 * BLOCKS {
                (0..4).for_each(|at| download.link(at, 0, &[RIGHT], IDLE));
            }
            prop_assert!(download.done.iter().all(|done| *done));
        }
    }
}
