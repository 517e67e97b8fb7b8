//! Which pieces of a download are verified, on disk beside it.
//!
//! A header says which share this is, in which life of the machine it was written, and what
//! was known when it was opened; a record of 8 bytes follows for every piece verified since.
//! `docs/on-disk.md` has the exact bytes.
//!
//! Two kinds of death are told apart. A killed process leaves everything it wrote in the
//! kernel's cache, so the same life of the machine (the same [`Epoch`]) believes every record.
//! After a power cut only what a checkpoint covers is believed: a checkpoint is written after
//! the data was brought to the disk and says how many records that data stands behind. The
//! others are *doubtful*, to be hashed again.
//!
//! Invariant: a journal never claims a piece that the data lacks, whatever part of the
//! writes reached the disk in whatever order. Records are checked one by one and bound to
//! their place in their journal, so a torn or stale one counts as not written. A record whose
//! writing failed may stand all the same, so what it says has to stay true: nothing else is
//! ever written in its place, and [`Journal::may_claim`] names the piece it is about.
//!
//! Not here: the data, and the order of syncs ([`super::part`] keeps it); locks and names of
//! files ([`super::dir`]).

use std::io;
use std::sync::Arc;

use super::target::RawFile;
use crate::types::{Geometry, PieceIndex, PieceSet, ShareId};

const MAGIC: [u8; 8] = *b"MBJOURN1";
/// Magic, share id, epoch, piece count, file count, whether finishing.
const FIXED_LEN: usize = 8 + 32 + 16 + 4 + 4 + 1;
const CHECK_LEN: usize = 32;
const RECORD_LEN: usize = 8;

/// One life of the machine and of the mount: what was written in it is still in the kernel's
/// cache if it is not on the disk. All zeros: unknown, equal to no other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epoch(pub(super) [u8; 16]);

impl Epoch {
    fn is_same(self, other: Self) -> bool {
        self.0 == other.0 && self.0 != [0; 16]
    }
}

/// What is known about the pieces of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Knowledge {
    /// Verified, and on the disk.
    pub(super) durable: PieceSet,
    /// Verified, and at least in the kernel's cache of the epoch that is on now.
    pub(super) live: PieceSet,
    /// Once said to be verified, or found lying there: to be hashed before it is believed.
    pub(super) doubtful: PieceSet,
}

impl Knowledge {
    pub(super) fn nothing(pieces: u32) -> Self {
        let empty = PieceSet::empty(pieces);
        Self { durable: empty.clone(), live: empty.clone(), doubtful: empty }
    }

    /// Whether a piece may be reported as held.
    pub(super) fn believes(&self, piece: PieceIndex) -> bool {
        self.durable.contains(piece) || self.live.contains(piece)
    }

    pub(super) fn forget(&mut self, piece: PieceIndex) {
        self.durable.remove(piece);
        self.live.remove(piece);
        self.doubtful.remove(piece);
    }
}

/// A journal as it was found.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) knowledge: Knowledge,
    /// Which files were selected.
    pub(super) selection: Vec<bool>,
    /// Everything selected was verified and the files were about to get their final name.
    pub(super) finishing: bool,
}

/// Why the bytes found in a journal's place are not this share's journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Damaged, or no journal at all.
    Corrupt,
    /// The journal of another share.
    Foreign,
}

/// A record's meaning. On disk a `u32`: the kind in the upper 4 bits, a number below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    /// This piece is verified.
    Piece(PieceIndex),
    /// The data behind the first so many records has been brought to the disk.
    Checkpoint(u32),
    /// Bringing data to the disk failed: believe nothing that no checkpoint covers.
    Distrust,
    /// Everything selected is verified; the final rename follows.
    Finishing,
}

const NUMBER_BITS: u32 = 28;

impl Record {
    fn encode(self) -> u32 {
        match self {
            Self::Piece(piece) => piece.get(),
            Self::Checkpoint(records) => 1 << NUMBER_BITS | records,
            Self::Distrust => 2 << NUMBER_BITS,
            Self::Finishing => 3 << NUMBER_BITS,
        }
    }

    fn decode(raw: u32, geometry: &Geometry) -> Option<Self> {
        let number = raw & ((1 << NUMBER_BITS) - 1);
        match (raw >> NUMBER_BITS, number) {
            (0, _) => geometry.piece(number).map(Self::Piece),
            (1, _) => Some(Self::Checkpoint(number)),
            (2, 0) => Some(Self::Distrust),
            (3, 0) => Some(Self::Finishing),
            _ => None,
        }
    }
}

/// Binds a record to its journal (by the header's hash) and to its place in it, so that bytes
/// of an older journal, or of a record written elsewhere, are not taken for it.
fn check_of(header: &[u8; CHECK_LEN], number: u64, raw: u32) -> [u8; 4] {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&raw.to_le_bytes());
    let hash = *blake3::keyed_hash(header, &bytes).as_bytes();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn bits_len(count: usize) -> usize {
    count.div_ceil(8)
}

fn header_len(geometry: &Geometry) -> usize {
    let pieces = PieceSet::wire_len(geometry.piece_count());
    FIXED_LEN + bits_len(geometry.files().len()) + 3 * pieces + CHECK_LEN
}

/// The longest journal one opening can write: every piece once, a checkpoint after each, one
/// for what was live before, and the two marks. Anything longer is not ours, and is not read.
pub(super) fn len_max(geometry: &Geometry) -> u64 {
    let records = 2 * u64::from(geometry.piece_count()) + 4;
    header_len(geometry) as u64 + records * RECORD_LEN as u64
}

fn encode_header(opening: &Opening<'_>) -> Vec<u8> {
    let Opening { share, geometry, epoch, selection, knowledge, finishing } = *opening;
    let mut bytes = Vec::with_capacity(header_len(geometry));
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&share.0);
    bytes.extend_from_slice(&epoch.0);
    bytes.extend_from_slice(&geometry.piece_count().to_le_bytes());
    bytes.extend_from_slice(&(geometry.files().len() as u32).to_le_bytes());
    bytes.push(u8::from(finishing));
    bytes.extend(selection.chunks(8).map(|eight| {
        eight
            .iter()
            .zip(0..)
            .fold(0u8, |byte, (&selected, at)| byte | u8::from(selected) << (7 - at))
    }));
    for set in [&knowledge.durable, &knowledge.live, &knowledge.doubtful] {
        bytes.extend_from_slice(&set.to_wire());
    }
    let check = blake3::hash(&bytes);
    bytes.extend_from_slice(check.as_bytes());
    bytes
}

/// Reads the bytes found in a journal's place.
pub(super) fn parse(
    bytes: &[u8],
    share: ShareId,
    geometry: &Geometry,
    now: Epoch,
) -> Result<Found, Unusable> {
    let (fixed, rest) = bytes.split_at_checked(FIXED_LEN).ok_or(Unusable::Corrupt)?;
    if fixed[..8] != MAGIC {
        return Err(Unusable::Corrupt);
    }
    if fixed[8..40] != share.0 {
        return Err(Unusable::Foreign);
    }
    let counts = [geometry.piece_count(), geometry.files().len() as u32].map(u32::to_le_bytes);
    let len = header_len(geometry);
    if fixed[56..64] != counts.concat() || bytes.len() < len {
        return Err(Unusable::Corrupt);
    }
    let (header, records) = bytes.split_at(len);
    let (body, check) = header.split_at(len - CHECK_LEN);
    let check: [u8; CHECK_LEN] = check.try_into().map_err(|_| Unusable::Corrupt)?;
    if *blake3::hash(body).as_bytes() != check {
        return Err(Unusable::Corrupt);
    }
    let (selection, sets) = rest.split_at(bits_len(geometry.files().len()));
    let selection = (0..geometry.files().len())
        .map(|file| selection[file / 8] & (0x80 >> (file % 8)) != 0)
        .collect();
    let wire_len = PieceSet::wire_len(geometry.piece_count());
    let set = |number: usize| {
        let bytes = &sets[number * wire_len..(number + 1) * wire_len];
        PieceSet::from_wire(bytes, geometry).map_err(|_| Unusable::Corrupt)
    };
    let then = Epoch(fixed[40..56].try_into().map_err(|_| Unusable::Corrupt)?);
    let mut knowledge = Knowledge { durable: set(0)?, live: set(1)?, doubtful: set(2)? };
    let marked = replay(records, &check, geometry, then.is_same(now), &mut knowledge);
    Ok(Found { knowledge, selection, finishing: marked || fixed[64] != 0 })
}

/// Applies the records after the header; tells whether the finishing mark is among them.
fn replay(
    records: &[u8],
    header: &[u8; CHECK_LEN],
    geometry: &Geometry,
    same_epoch: bool,
    knowledge: &mut Knowledge,
) -> bool {
    let mut pieces = Vec::new();
    let (mut covered, mut distrusted, mut finishing) = (None, !same_epoch, false);
    // A damaged record does not stop the reading: each stands for itself.
    for (record, number) in records.chunks_exact(RECORD_LEN).zip(0u64..) {
        let raw = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
        if record[4..] != check_of(header, number, raw) {
            continue;
        }
        match Record::decode(raw, geometry) {
            Some(Record::Piece(piece)) => pieces.push((piece, number)),
            Some(Record::Checkpoint(records)) => covered = covered.max(Some(u64::from(records))),
            Some(Record::Distrust) => distrusted = true,
            Some(Record::Finishing) => finishing = true,
            None => {}
        }
    }
    // A checkpoint also stands behind what was live when the journal was opened.
    let live =
        geometry.pieces().filter(|piece| knowledge.live.contains(*piece)).collect::<Vec<_>>();
    for piece in live {
        knowledge.live.remove(piece);
        settle(knowledge, piece, covered.is_some(), distrusted);
    }
    for (piece, number) in pieces {
        settle(knowledge, piece, covered.is_some_and(|covered| number < covered), distrusted);
    }
    finishing
}

/// Enters one piece that was verified once.
fn settle(knowledge: &mut Knowledge, piece: PieceIndex, covered: bool, distrusted: bool) {
    if covered {
        knowledge.durable.insert(piece);
    }
    if knowledge.durable.contains(piece) {
        knowledge.doubtful.remove(piece);
    } else if distrusted {
        knowledge.doubtful.insert(piece);
    } else {
        knowledge.doubtful.remove(piece);
        knowledge.live.insert(piece);
    }
}

/// A journal open for writing.
#[derive(Debug)]
pub(super) struct Journal<F> {
    file: Arc<F>,
    /// The header's hash: the key of every record's check.
    header: [u8; CHECK_LEN],
    /// Where records begin.
    start: u64,
    /// Records written.
    records: u32,
    /// How many of them the last checkpoint covers.
    covered: u32,
    /// Whether anything believed at the start still waits for its first checkpoint.
    live_at_start: bool,
    /// All pieces on record.
    recorded: PieceSet,
    is_finishing: bool,
    /// The record whose writing failed last. Its place may hold any part of it, or all.
    owed: Option<Record>,
}

/// What a new journal starts with.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) share: ShareId,
    pub(super) geometry: &'a Geometry,
    pub(super) epoch: Epoch,
    pub(super) selection: &'a [bool],
    pub(super) knowledge: &'a Knowledge,
    /// Everything selected has its final name already.
    pub(super) finishing: bool,
}

impl<F: RawFile> Journal<F> {
    /// A journal that says what is known now, in a file that `create` makes of the header.
    pub(super) fn start(
        opening: &Opening<'_>,
        create: impl FnOnce(&[u8]) -> io::Result<F>,
    ) -> io::Result<Self> {
        let Opening { geometry, knowledge, finishing, .. } = *opening;
        let bytes = encode_header(opening);
        let mut header = [0; CHECK_LEN];
        header.copy_from_slice(&bytes[bytes.len() - CHECK_LEN..]);
        let mut recorded = knowledge.durable.clone();
        for piece in geometry.pieces().filter(|piece| knowledge.live.contains(*piece)) {
            recorded.insert(piece);
        }
        Ok(Self {
            file: Arc::new(create(&bytes)?),
            header,
            start: bytes.len() as u64,
            records: 0,
            covered: 0,
            live_at_start: !knowledge.live.is_empty(),
            recorded,
            is_finishing: finishing,
            owed: None,
        })
    }

    /// Records a verified piece; nothing to do if it is on record.
    pub(super) fn piece(&mut self, piece: PieceIndex) -> io::Result<()> {
        if !self.recorded.contains(piece) {
            self.append(Record::Piece(piece))?;
        }
        Ok(())
    }

    /// Whether the journal says that this piece is verified, or may say so although recording
    /// it has failed. Once it may, it may for as long as the journal is open.
    pub(super) fn may_claim(&self, piece: PieceIndex) -> bool {
        self.recorded.contains(piece) || self.owed == Some(Record::Piece(piece))
    }

    /// The pieces on record.
    pub(super) fn recorded(&self) -> &PieceSet {
        &self.recorded
    }

    /// How many records there are, if a checkpoint would have something to add.
    pub(super) fn uncovered(&self) -> Option<u32> {
        (self.records > self.covered || self.live_at_start).then_some(self.records)
    }

    /// Records that the data behind the first `records` records is on the disk.
    pub(super) fn checkpoint(&mut self, records: u32) -> io::Result<()> {
        self.append(Record::Checkpoint(records))
    }

    /// Records that data could not be brought to the disk.
    pub(super) fn distrust(&mut self) -> io::Result<()> {
        self.append(Record::Distrust)
    }

    /// Records that the final rename follows, once.
    pub(super) fn finishing(&mut self) -> io::Result<()> {
        if !self.is_finishing {
            self.append(Record::Finishing)?;
        }
        Ok(())
    }

    /// The file it is in, to sync it.
    pub(super) fn file(&self) -> Arc<F> {
        Arc::clone(&self.file)
    }

    /// Writes a record after the others. One that failed before it comes first, to the place
    /// where it may stand already: no state of the disk then has anything else there.
    fn append(&mut self, record: Record) -> io::Result<()> {
        match self.owed {
            Some(owed) if owed != record => self.put(owed)?,
            _ => {}
        }
        self.put(record)
    }

    fn put(&mut self, record: Record) -> io::Result<()> {
        let raw = record.encode();
        let number = u64::from(self.records);
        let mut bytes = [0; RECORD_LEN];
        bytes[..4].copy_from_slice(&raw.to_le_bytes());
        bytes[4..].copy_from_slice(&check_of(&self.header, number, raw));
        self.owed = Some(record);
        self.file.write_at(&bytes, self.start + number * RECORD_LEN as u64)?;
        self.owed = None;
        self.records += 1;
        self.note(record);
        Ok(())
    }

    /// Enters a record that was written.
    fn note(&mut self, record: Record) {
        match record {
            Record::Piece(piece) => {
                self.recorded.insert(piece);
            }
            Record::Checkpoint(records) => {
                // The checkpoint's own record needs no cover, so it calls for no other one.
                self.covered = if self.records == records + 1 { self.records } else { records };
                self.live_at_start = false;
            }
            Record::Distrust => {}
            Record::Finishing => self.is_finishing = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use proptest::prelude::*;

    use super::*;
    use crate::types::PieceSize;

    const SHARE: ShareId = ShareId([7; 32]);
    const NOW: Epoch = Epoch([1; 16]);

    /// A file in memory that never fails.
    #[derive(Default)]
    struct Memory(Mutex<Vec<u8>>);

    impl RawFile for Memory {
        fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
            buf.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..buf.len()]);
            Ok(())
        }

        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let mut all = self.0.lock().unwrap();
            all.truncate(offset as usize);
            all.extend_from_slice(bytes);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn geometry() -> Geometry {
        let size = PieceSize::new(16384).unwrap();
        Geometry::new(size, [50 * 16384, 0, 100]).unwrap()
    }

    fn opened(geometry: &Geometry, knowledge: &Knowledge) -> Journal<Memory> {
        let opening = Opening {
            share: SHARE,
            geometry,
            epoch: NOW,
            selection: &[true, false, true],
            knowledge,
            finishing: false,
        };
        Journal::start(&opening, |header| Ok(Memory(Mutex::new(header.to_vec())))).unwrap()
    }

    fn bytes(journal: &Journal<Memory>) -> Vec<u8> {
        journal.file().0.lock().unwrap().clone()
    }

    fn set(numbers: &[u32]) -> PieceSet {
        let mut set = PieceSet::empty(51);
        for number in numbers {
            set.insert(geometry().piece(*number).unwrap());
        }
        set
    }

    /// What is read back, in this epoch or after a power cut.
    fn read(journal: &Journal<Memory>, now: Epoch) -> Knowledge {
        parse(&bytes(journal), SHARE, &geometry(), now).unwrap().knowledge
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let geometry = geometry();
        let known = Knowledge { durable: set(&[0]), live: set(&[9]), doubtful: set(&[50]) };
        let mut journal = opened(&geometry, &known);
        journal.piece(geometry.piece(3).unwrap()).unwrap();
        journal.checkpoint(1).unwrap();
        let bytes = bytes(&journal);
        assert_eq!(bytes[..8], *b"MBJOURN1");
        assert_eq!(bytes[8..40], SHARE.0);
        assert_eq!(bytes[40..56], NOW.0);
        assert_eq!(bytes[56..65], [51, 0, 0, 0, 3, 0, 0, 0, 0]);
        assert_eq!(bytes[65], 0b1010_0000);
        assert_eq!(bytes[66..73], [0x80, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[73..80], [0, 0x40, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[80..87], [0, 0, 0, 0, 0, 0, 0x20]);
        assert_eq!(bytes[87..119], *blake3::hash(&bytes[..87]).as_bytes());
        assert_eq!(bytes[119..123], [3, 0, 0, 0]);
        assert_eq!(bytes[127..131], [1, 0, 0, 0x10]);
        let key: [u8; 32] = bytes[87..119].try_into().unwrap();
        let check = blake3::keyed_hash(&key, &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0x10]);
        assert_eq!(bytes[131..], check.as_bytes()[..4]);
    }

    #[test]
    fn another_epoch_believes_what_a_checkpoint_covers_and_doubts_the_rest() {
        let geometry = geometry();
        let known = Knowledge { durable: set(&[0]), live: set(&[9]), doubtful: set(&[20, 50]) };
        let mut journal = opened(&geometry, &known);
        let piece = |number| geometry.piece(number).unwrap();
        let other = Epoch([2; 16]);
        let nothing = || PieceSet::empty(51);
        assert_eq!(read(&journal, NOW), known);
        let doubts = Knowledge { durable: set(&[0]), live: nothing(), doubtful: set(&[9, 20, 50]) };
        assert_eq!(read(&journal, other), doubts);

        for number in [3, 20] {
            journal.piece(piece(number)).unwrap();
        }
        journal.checkpoint(1).unwrap();
        let covered = set(&[0, 3, 9]);
        let here = Knowledge { durable: covered.clone(), live: set(&[20]), doubtful: set(&[50]) };
        assert_eq!(read(&journal, NOW), here);
        let there = Knowledge { durable: covered, live: nothing(), doubtful: set(&[20, 50]) };
        assert_eq!(read(&journal, other), there);
        journal.distrust().unwrap();
        assert_eq!(read(&journal, NOW), there);
    }

    #[test]
    fn an_unknown_epoch_is_the_same_as_no_other_not_even_itself() {
        assert!(!Epoch([0; 16]).is_same(Epoch([0; 16])));
        assert!(NOW.is_same(NOW));
    }

    #[test]
    fn a_piece_is_recorded_once_and_a_checkpoint_only_when_something_is_new() {
        let geometry = geometry();
        let mut journal = opened(&geometry, &Knowledge::nothing(51));
        assert_eq!(journal.uncovered(), None);
        let empty = bytes(&journal).len();
        for _ in 0..3 {
            journal.piece(geometry.piece(5).unwrap()).unwrap();
        }
        assert_eq!(bytes(&journal).len(), empty + RECORD_LEN);
        journal.checkpoint(journal.uncovered().unwrap()).unwrap();
        assert_eq!(journal.uncovered(), None);
        let live = Knowledge { live: set(&[1]), ..Knowledge::nothing(51) };
        assert_eq!(opened(&geometry, &live).uncovered(), Some(0));
    }

    proptest! {
        #[test]
        fn no_damage_makes_a_journal_claim_a_piece_it_was_never_told(
            told in prop::collection::vec(0u32..51, 0..30),
            checkpoints in prop::collection::vec(any::<bool>(), 30),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
            cut in any::<prop::sample::Index>(),
            is_cut in any::<bool>(),
        ) {
            let geometry = geometry();
            let mut journal = opened(&geometry, &Knowledge::nothing(51));
            for (number, checkpoint) in told.iter().zip(checkpoints) {
                journal.piece(geometry.piece(*number).unwrap()).unwrap();
                if let Some(records) = journal.uncovered().filter(|_| checkpoint) {
                    journal.checkpoint(records).unwrap();
                }
            }
            let mut bytes = bytes(&journal);
            for (at, byte) in damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if is_cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Ok(found) = parse(&bytes, SHARE, &geometry, NOW) {
                for piece in geometry.pieces().filter(|piece| found.knowledge.believes(*piece)) {
                    prop_assert!(told.contains(&piece.get()));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..300), is_ours in any::<bool>(),
        ) {
            let mut bytes = bytes;
            if is_ours && bytes.len() >= 40 {
                bytes[..8].copy_from_slice(&MAGIC);
                bytes[8..40].copy_from_slice(&SHARE.0);
            }
            prop_assert!(parse(&bytes, SHARE, &geometry(), NOW).is_err());
        }
    }
}
