//! Downloads killed with SIGKILL at random moments, over real files.
//!
//! A child process (this same test binary, asked by a variable in its environment) downloads
//! and says on its standard output which pieces its store has put on record. The parent kills
//! it after a random number of them, that is at any instruction of what comes next, opens the
//! place itself, and compares.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::AtomicBool;

use minibit_core::store::{
    PartOptions, PartStore, PieceStore, PrepareOptions, PreparedShare, Resumed, SourceStore,
    prepare,
};
use minibit_core::types::{BlockSpan, Geometry, PieceIndex, PieceSize};

const PLACE: &str = "MINIBIT_TEST_CRASH_PLACE";
const HELPER: &str = "a_download_left_alone_ends_in_place";

/// The share that is downloaded: `source` below the test's directory.
fn share(place: &Path) -> PreparedShare {
    let options = PrepareOptions { piece_size: PieceSize::new(16384).ok(), ..Default::default() };
    prepare(&[place.join("source")], &options, &|_| {}, &AtomicBool::new(false)).unwrap()
}

/// Makes the source: a folder with a file of many pieces and small ones, or a single file.
fn make_source(place: &Path, single: bool, rng: &mut fastrand::Rng) {
    let mut noise = |path: &Path, len: usize| {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(len).collect();
        std::fs::write(path, bytes).unwrap();
    };
    let source = place.join("source");
    if single {
        return noise(&source, 1_500_000);
    }
    std::fs::create_dir_all(source.join("deep/er")).unwrap();
    noise(&source.join("film"), 1_000_000);
    noise(&source.join("empty"), 0);
    for number in 0..40 {
        noise(&source.join(format!("deep/er/{number}")), 1 + number * 700);
    }
}

fn open(place: &Path, share: &PreparedShare) -> (PartStore, Resumed) {
    let selection = vec![true; share.manifest.files().len()];
    let target = place.join("target");
    PartStore::open(&target, &share.manifest, &selection, PartOptions::default()).unwrap()
}

fn bytes_of(store: &dyn PieceStore, block: BlockSpan) -> Option<Vec<u8>> {
    let mut bytes = vec![0; block.len() as usize];
    store.read(block, &mut bytes).ok().map(|()| bytes)
}

fn is_right(
    geometry: &Geometry,
    piece: PieceIndex,
    source: &SourceStore,
    part: &PartStore,
) -> bool {
    geometry.blocks(piece, 16384).all(|block| {
        let expected = bytes_of(source, block);
        expected.is_some() && bytes_of(part, block) == expected
    })
}

/// Fetches everything that is missing, in an order of its own each time, with a checkpoint
/// now and then, and finishes. Calls `said` for each piece once it is on record.
fn download(place: &Path, rng: &mut fastrand::Rng, said: &mut dyn FnMut(PieceIndex)) {
    let share = share(place);
    let geometry = share.manifest.geometry();
    let (part, resumed) = open(place, &share);
    let mut missing: Vec<_> =
        geometry.pieces().filter(|piece| !resumed.have.contains(*piece)).collect();
    rng.shuffle(&mut missing);
    for piece in missing {
        for block in geometry.blocks(piece, 5_000) {
            part.write(block, &bytes_of(&share.store, block).unwrap()).unwrap();
        }
        part.complete(piece).unwrap();
        said(piece);
        if rng.u8(..10) == 0 {
            part.checkpoint().unwrap();
        }
    }
    part.finish().unwrap();
}

fn assert_in_place(place: &Path) {
    let share = share(place);
    for file in share.manifest.files() {
        let mut below = place.join("target/source");
        let mut source = place.join("source");
        if !share.manifest.is_single() {
            below.extend(&file.path);
            source.extend(&file.path);
        }
        assert!(std::fs::read(&below).unwrap() == std::fs::read(source).unwrap(), "{below:?}");
    }
    let left: Vec<_> = std::fs::read_dir(place.join("target")).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

/// The child's work, and a test of its own when nobody asks for a child.
#[test]
fn a_download_left_alone_ends_in_place() {
    if let Some(place) = std::env::var_os(PLACE) {
        let mut out = std::io::stdout();
        let mut say = |piece: PieceIndex| {
            writeln!(out, "\npiece {piece}").unwrap();
        };
        return download(Path::new(&place), &mut fastrand::Rng::new(), &mut say);
    }
    for single in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let mut rng = fastrand::Rng::with_seed(u64::from(single));
        make_source(place.path(), single, &mut rng);
        download(place.path(), &mut rng, &mut |_| {});
        assert_in_place(place.path());
    }
}

fn start_child(place: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", HELPER, "--nocapture"])
        .env(PLACE, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Lets a child download until it has said `count` pieces, then kills it. Returns all it said,
/// also between the decision and the kill; none if it was done before.
fn download_and_kill(place: &Path, count: usize) -> Option<Vec<u32>> {
    let mut child = start_child(place);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = Vec::new();
    let number =
        |line: String| line.strip_prefix("piece ").and_then(|text| text.parse::<u32>().ok());
    while said.len() < count {
        let Some(line) = lines.next() else { break };
        said.extend(number(line.unwrap()));
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    // What the pipe still holds. Each line went in by one write, so none is cut in two.
    said.extend(lines.map_while(Result::ok).filter_map(number));
    (!status.success()).then_some(said)
}

/// Kills downloads until `trials` were killed in the middle; a finished one starts over.
fn kill_again_and_again(trials: usize, single: bool, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let place = tempfile::tempdir().unwrap();
    make_source(place.path(), single, &mut rng);
    let share = share(place.path());
    let geometry = share.manifest.geometry();
    let mut on_record: Vec<u32> = Vec::new();
    let mut killed = 0;
    while killed < trials {
        let Some(said) = download_and_kill(place.path(), rng.usize(0..20)) else {
            assert_in_place(place.path());
            std::fs::remove_dir_all(place.path().join("target")).unwrap();
            on_record.clear();
            continue;
        };
        killed += 1;
        on_record.extend(said);
        if place.path().join("target/source").exists() {
            // Killed within the finish. Whether the journal is gone decides who says so.
            assert_eq!(on_record.len() as u32, geometry.piece_count(), "seed {seed}");
            std::fs::remove_dir_all(place.path().join("target")).unwrap();
            on_record.clear();
            continue;
        }
        let (part, resumed) = open(place.path(), &share);
        assert!(resumed.warnings.is_empty() && resumed.doubtful.is_empty(), "{resumed:?}");
        for number in &on_record {
            let piece = geometry.piece(*number).unwrap();
            assert!(resumed.have.contains(piece), "seed {seed}: piece {piece} was forgotten");
        }
        // At most one was put on record without being said.
        assert!(resumed.have.len() as usize <= on_record.len() + 1, "seed {seed}");
        for piece in geometry.pieces().filter(|piece| resumed.have.contains(*piece)) {
            assert!(is_right(geometry, piece, &share.store, &part), "seed {seed}: piece {piece}");
        }
        on_record = resumed.have.iter().collect();
    }
    if !place.path().join("target/source").exists() {
        download(place.path(), &mut rng, &mut |_| {});
    }
    assert_in_place(place.path());
}

#[test]
fn a_killed_download_of_a_file_knows_every_piece_it_put_on_record() {
    kill_again_and_again(15, true, 1);
}

#[test]
fn a_killed_download_of_a_folder_knows_every_piece_it_put_on_record() {
    kill_again_and_again(15, false, 2);
}
