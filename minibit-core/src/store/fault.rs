//! A disk that lies: downloads over files whose durable and live bytes are kept apart.
//!
//! A write changes the live bytes and is pending until a sync. A power cut keeps any subset of
//! the pending writes, each of them torn into sectors, in any order, and may forget a file or
//! a rename altogether. A failed sync drops what was pending for good although later syncs
//! succeed, and takes it from the live bytes once the process has died (the cache is
//! evicted). Writes fail half done. Each history follows from its seed alone.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::journal::{self, Epoch, Knowledge, Opening};
use super::part::{Parts, drop_missing, knowledge_of};
use super::target::{RawFile, Target};
use super::testing::Share;
use crate::types::{FileIndex, PieceIndex};

const SECTOR: usize = 512;

#[derive(Default, Clone)]
struct SimFile {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
    /// Writes that a failed sync has dropped: in the cache until it is evicted.
    dropped: bool,
    /// Whether a power cut can still make the file's name disappear.
    name_pending: bool,
}

fn put(bytes: &mut Vec<u8>, at: usize, data: &[u8]) {
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

struct Disk {
    /// In order, for their fates are drawn one after the other.
    files: BTreeMap<u32, SimFile>,
    /// The journals that a power cut may leave under the name, the newest last.
    journals: Vec<u32>,
    /// Whether the first of them is sure to stay until a later one does.
    is_name_sure: bool,
    next: u32,
    rng: fastrand::Rng,
    /// Chance in a thousand that a write, or a sync, fails.
    faults: u32,
    /// After the first failed sync the journal can still be written: see `Parts::distrust`.
    sync_failed: bool,
    /// What other threads do while the disk is busy with the next sync.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

const FIRST_JOURNAL: u32 = 1000;

impl Disk {
    fn fails(&mut self) -> bool {
        self.rng.u32(0..1000) < self.faults
    }

    fn file(&mut self, id: u32) -> &mut SimFile {
        self.files.get_mut(&id).expect("an open file exists")
    }

    fn write(&mut self, id: u32, bytes: &[u8], at: usize) -> io::Result<()> {
        let spared = self.sync_failed && id >= FIRST_JOURNAL;
        let failure = (self.fails() && !spared).then(|| match self.rng.u8(..2) {
            0 => Errno::NOSPC,
            _ => Errno::IO,
        });
        let len = if failure.is_some() { self.rng.usize(..=bytes.len()) } else { bytes.len() };
        let file = self.file(id);
        put(&mut file.live, at, &bytes[..len]);
        file.pending.push((at, bytes[..len].to_vec()));
        failure.map_or(Ok(()), |errno| Err(errno.into()))
    }

    fn sync(&mut self, id: u32) -> io::Result<()> {
        let failed = self.fails();
        self.sync_failed |= failed;
        let file = self.file(id);
        let pending = std::mem::take(&mut file.pending);
        if failed {
            file.dropped |= !pending.is_empty();
            return Err(Errno::IO.into());
        }
        for (at, bytes) in pending {
            put(&mut file.durable, at, &bytes);
        }
        file.name_pending = false;
        Ok(())
    }

    /// The process dies; the machine goes on.
    fn kill(&mut self) {
        for file in self.files.values_mut().filter(|file| file.dropped) {
            file.live.clone_from(&file.durable);
            for (at, bytes) in &file.pending {
                put(&mut file.live, *at, bytes);
            }
            file.dropped = false;
        }
        self.sync_failed = false;
    }

    fn cut_power(&mut self) {
        let rng = &mut self.rng;
        self.files.retain(|_, file| !file.name_pending || rng.bool());
        for file in self.files.values_mut() {
            let mut pending = std::mem::take(&mut file.pending);
            rng.shuffle(&mut pending);
            for (at, bytes) in pending {
                let kept = rng.u8(..3);
                for (number, sector) in bytes.chunks(SECTOR).enumerate() {
                    if kept == 0 || kept == 1 && rng.bool() {
                        let whole =
                            if kept == 1 { rng.usize(..=sector.len()) } else { sector.len() };
                        put(&mut file.durable, at + number * SECTOR, &sector[..whole]);
                    }
                }
            }
            file.live.clone_from(&file.durable);
            (file.dropped, file.name_pending) = (false, false);
        }
        self.sync_failed = false;
        // Any of the renames may be the last one that reached the disk.
        let sure = usize::from(self.is_name_sure);
        let kept = self.rng.usize(sure..=self.journals.len());
        self.journals.truncate(kept);
    }
}

#[derive(Clone)]
struct FaultStore(Arc<Mutex<Disk>>);

struct Handle(FaultStore, u32);

impl RawFile for Handle {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut disk = self.0.0.lock().unwrap();
        let bytes =
            disk.file(self.1).live.get(offset as usize..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.0.0.lock().unwrap().write(self.1, bytes, offset as usize)
    }

    fn sync(&self) -> io::Result<()> {
        let outcome = self.0.0.lock().unwrap().sync(self.1);
        let meanwhile = self.0.0.lock().unwrap().meanwhile.take();
        meanwhile.into_iter().for_each(|act| act());
        outcome
    }
}

impl Target for FaultStore {
    type File = Handle;

    fn open(&self, file: FileIndex) -> io::Result<Handle> {
        let fresh = SimFile { name_pending: true, ..SimFile::default() };
        self.0.lock().unwrap().files.entry(file.get()).or_insert(fresh);
        Ok(Handle(self.clone(), file.get()))
    }

    fn sync_all(&self) -> io::Result<()> {
        let ids: Vec<u32> = self.0.lock().unwrap().files.keys().copied().collect();
        ids.into_iter().try_for_each(|id| self.0.lock().unwrap().sync(id))
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut disk = self.0.lock().unwrap();
        if disk.fails() {
            disk.sync_failed = true;
            return Err(Errno::IO.into());
        }
        // Only the newest rename counts from now on.
        let older = disk.journals.len() - 1;
        disk.journals.drain(..older);
        disk.is_name_sure = true;
        Ok(())
    }

    fn replace_journal(&self, bytes: &[u8], durable: bool) -> io::Result<Handle> {
        let mut disk = self.0.lock().unwrap();
        let id = disk.next;
        disk.next += 1;
        disk.files.insert(id, SimFile::default());
        disk.write(id, bytes, 0)?;
        if durable {
            disk.sync(id)?;
        }
        disk.journals.push(id);
        Ok(Handle(self.clone(), id))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Death {
    Clean,
    Kill,
    Power,
}

/// One download over a lying disk, life after life.
struct History {
    share: Share,
    disk: FaultStore,
    epoch: u8,
    rng: fastrand::Rng,
}

type Download = Parts<FaultStore>;

impl History {
    fn new(seed: u64, faults: u32) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let files: [(&[&str], usize); 4] =
            [(&["a"], 50_000), (&["b"], 3), (&["c"], 16_384), (&["d"], 40_000)];
        let disk = Disk {
            files: BTreeMap::new(),
            journals: Vec::new(),
            is_name_sure: false,
            next: FIRST_JOURNAL,
            rng: fastrand::Rng::with_seed(!seed),
            faults,
            sync_failed: false,
            meanwhile: None,
        };
        let disk = FaultStore(Arc::new(Mutex::new(disk)));
        Self { share: Share::new("many", &files), disk, epoch: 1, rng }
    }

    /// Opens the download the way `PartStore::open` does.
    fn open(&self) -> Option<(Download, Knowledge)> {
        let geometry = self.share.geometry();
        let epoch = Epoch([self.epoch; 16]);
        let (journal, surveyed) = {
            let disk = self.disk.0.lock().unwrap();
            let journal = disk.journals.last().map(|id| disk.files[id].live.clone());
            let surveyed: Vec<_> = (0..geometry.files().len() as u32)
                .map(|number| {
                    let len = disk.files.get(&number)?.live.len() as u64;
                    Some(super::dir::OnDisk { len, allocated: len })
                })
                .collect();
            (journal, surveyed)
        };
        let resuming = journal.is_some();
        let found = journal
            .map(|bytes| journal::parse(&bytes, self.share.manifest.share_id(), geometry, epoch));
        let mut knowledge = knowledge_of(found, geometry, &mut Vec::new());
        drop_missing(geometry, &surveyed, &mut knowledge);
        let opening = Opening {
            share: self.share.manifest.share_id(),
            geometry,
            epoch,
            selection: &self.share.everything(),
            knowledge: &knowledge,
            finishing: false,
        };
        let download = Parts::open(self.disk.clone(), &opening, 2, resuming).ok()?;
        Some((download, knowledge))
    }

    fn is_right(&self, download: &Download, piece: PieceIndex) -> bool {
        self.share.geometry().blocks(piece, 16384).all(|block| {
            let mut found = vec![0; block.len() as usize];
            download.read(block, &mut found).is_ok() && found == self.share.bytes(block)
        })
    }

    fn believed(&self, knowledge: &Knowledge) -> Vec<PieceIndex> {
        self.share.geometry().pieces().filter(|piece| knowledge.believes(*piece)).collect()
    }

    /// A life of some fetching; returns the pieces whose completion was answered with success.
    fn live(&mut self, download: &Download, knowledge: &Knowledge) -> Vec<PieceIndex> {
        let mut done = self.believed(knowledge);
        for piece in self.share.geometry().pieces() {
            if knowledge.doubtful.contains(piece)
                && self.is_right(download, piece)
                && download.complete(piece).is_ok()
            {
                done.push(piece);
            }
        }
        for _ in 0..self.rng.usize(..20) {
            let number = self.rng.u32(self.share.all());
            let piece = self.share.geometry().piece(number).unwrap();
            match self.rng.u8(..6) {
                // On a failing disk it may fail; it must only not claim too much.
                0 => drop(download.checkpoint()),
                _ if done.contains(&piece) => {}
                1 => self.write(download, piece, |byte| !byte),
                _ => {
                    self.write(download, piece, |byte| byte);
                    if self.is_right(download, piece) && download.complete(piece).is_ok() {
                        done.push(piece);
                    }
                }
            }
        }
        done
    }

    fn write(&self, download: &Download, piece: PieceIndex, with: impl Fn(u8) -> u8) {
        for block in self.share.geometry().blocks(piece, 5_000) {
            let bytes: Vec<u8> = self.share.bytes(block).iter().map(|byte| with(*byte)).collect();
            // A failed write leaves a piece that is not completed.
            let _ = download.write(block, &bytes);
        }
    }
}

/// Runs one history of several lives; panics where the journal claims too much or too little.
fn run(seed: u64, faults: u32) {
    let mut history = History::new(seed, faults);
    let mut expected: Option<(Vec<PieceIndex>, Death)> = None;
    for life in 0..6 {
        let Some((download, knowledge)) = history.open() else {
            // Nothing could be written; the next attempt finds the same.
            history.disk.0.lock().unwrap().kill();
            continue;
        };
        for piece in history.believed(&knowledge) {
            let right = history.is_right(&download, piece);
            assert!(right, "seed {seed}, life {life}: piece {piece} is claimed and not there");
        }
        if let Some((done, death)) = expected.take() {
            for piece in done {
                let kept = knowledge.believes(piece);
                assert!(kept, "seed {seed}, life {life}: piece {piece} forgotten after {death:?}");
            }
        }
        let done = history.live(&download, &knowledge);
        let death = [Death::Clean, Death::Kill, Death::Power][history.rng.usize(..3)];
        if death == Death::Clean {
            let outcome = download.checkpoint();
            assert!(outcome.is_ok() || faults > 0, "seed {seed}, life {life}: {outcome:?}");
        }
        drop(download);
        let mut disk = history.disk.0.lock().unwrap();
        match death {
            Death::Kill => disk.kill(),
            // The power may go right after a clean stop.
            Death::Clean | Death::Power => disk.cut_power(),
        }
        drop(disk);
        if death != Death::Kill {
            history.epoch += 1;
        }
        if death != Death::Power && faults == 0 {
            expected = Some((done, death));
        }
    }
}

#[test]
fn a_journal_never_claims_what_the_disk_lost_nor_forgets_what_it_kept() {
    for seed in 0..200 {
        run(seed, 0);
    }
}

#[test]
fn a_failing_disk_makes_a_journal_claim_less_never_more() {
    for seed in 0..200 {
        run(seed, 40);
    }
}

#[test]
fn a_record_that_stands_although_its_writing_failed_is_never_wrong() {
    // Here all of a record was once written, an error came back, and wrong bytes followed.
    run(1167, 40);
    // The same on purpose, with any part of the record written.
    let mut stood = 0;
    for (seed, repeated) in (0..50).flat_map(|seed| [(seed, false), (seed, true)]) {
        let history = History::new(seed, 0);
        let (download, _) = history.open().unwrap();
        let [failed, later] = [1, 0].map(|number| history.share.geometry().piece(number).unwrap());
        let fail = |faults| history.disk.0.lock().unwrap().faults = faults;
        history.write(&download, failed, |byte| byte);
        fail(1000);
        assert!(download.complete(failed).is_err());
        fail(0);
        if repeated {
            // The next record takes it along.
            history.write(&download, later, |byte| byte);
            download.complete(later).unwrap();
        }
        history.write(&download, failed, |byte| !byte);
        drop(download);
        let (download, knowledge) = history.open().unwrap();
        let believed = knowledge.believes(failed);
        assert!(!believed || history.is_right(&download, failed));
        assert_eq!(knowledge.believes(later), repeated);
        assert!(believed || !repeated);
        stood += u32::from(believed && !repeated);
    }
    assert!((1..50).contains(&stood), "{stood} of 50 stood");
}

#[test]
fn after_a_failed_sync_no_checkpoint_is_made_and_the_next_start_believes_none_since() {
    let history = History::new(1, 0);
    let (download, _) = history.open().unwrap();
    let piece = |number| history.share.geometry().piece(number).unwrap();
    for number in [1, 0] {
        history.write(&download, piece(number), |byte| byte);
        download.complete(piece(number)).unwrap();
        if number == 1 {
            download.checkpoint().unwrap();
        }
    }
    history.disk.0.lock().unwrap().faults = 1000;
    // The files cannot be synced; only the journal is spared.
    assert!(download.checkpoint().is_err());
    history.disk.0.lock().unwrap().faults = 0;
    assert!(download.checkpoint().is_err(), "a later success would mean nothing");
    drop(download);
    history.disk.0.lock().unwrap().kill();
    let (_, knowledge) = history.open().unwrap();
    assert!(knowledge.believes(piece(1)));
    assert!(!knowledge.believes(piece(0)) && knowledge.doubtful.contains(piece(0)));
}

#[test]
fn a_piece_completed_while_the_disk_is_busy_waits_for_the_next_checkpoint() {
    let history = Arc::new(History::new(1, 0));
    let (download, _) = history.open().unwrap();
    let download = Arc::new(download);
    let fetch = |history: &History, download: &Download, number| {
        let piece = history.share.geometry().piece(number).unwrap();
        history.write(download, piece, |byte| byte);
        download.complete(piece).unwrap();
    };
    // Both in one file, whose length is right from the first on.
    fetch(&history, &download, 3);
    let (other, late) = (Arc::clone(&history), Arc::clone(&download));
    let act = move || fetch(&other, &late, 0);
    history.disk.0.lock().unwrap().meanwhile = Some(Box::new(act));
    download.checkpoint().unwrap();
    let journals = history.disk.0.lock().unwrap().journals.clone();
    {
        // The power cut loses the data that was not synced, and keeps the whole journal.
        let mut disk = history.disk.0.lock().unwrap();
        for (id, file) in &mut disk.files {
            if journals.contains(id) {
                file.durable.clone_from(&file.live);
            }
            file.live.clone_from(&file.durable);
            file.pending.clear();
        }
    }
    drop(download);
    let history = Arc::try_unwrap(history).unwrap_or_else(|_| panic!("nobody else has it"));
    let history = History { epoch: 2, ..history };
    let (_, knowledge) = history.open().unwrap();
    let piece = |number| history.share.geometry().piece(number).unwrap();
    assert!(knowledge.believes(piece(3)));
    assert!(!knowledge.believes(piece(0)) && knowledge.doubtful.contains(piece(0)));
}
