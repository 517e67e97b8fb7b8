//! Downloads that are stopped in their middle, in every way there is, and taken up again.

use std::collections::BTreeSet;
use std::fs;

use super::common::{Running, Sandbox, Sharer, assert_same, eventually, led, names_in, number};
use super::journal::Journal;
use super::relay::Relay;

/// What a download of `film.mp4` into `out` leaves behind when it is stopped.
const PART: &str = "out/film.mp4.part";
const JOURNAL: &str = "out/film.mp4.part.minibit";

/// A sharer of one film, and a relay to it that lets some of it pass.
struct Stage {
    sandbox: Sandbox,
    sharer: Sharer,
    relay: Relay,
    ticket: String,
    len: u64,
}

impl Stage {
    fn new(len: u64, piece_size: &str, budget: u64) -> Self {
        let sandbox = Sandbox::new();
        let source = sandbox.file("film.mp4", len as usize, len);
        let sharer = sandbox.share_with(&[&source], &["--piece-size", piece_size]);
        let relay = Relay::start(sharer.addr(), budget);
        let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
        Self { sandbox, sharer, relay, ticket, len }
    }

    fn get(&self, flags: &[&str]) -> Running {
        self.sandbox.get(&self.ticket, "out", flags)
    }
}

/// Pieces of 64 KiB that the relay may have passed on and that are on nobody's record when a
/// download dies: all that may be asked for on each connection, for on a busy machine the download may
/// sleep while the relay goes on, and one for each place of the queue for a slow disk.
fn lost_max(connections: u64) -> u64 {
    const ASKED_MAX: u64 = 256;
    const PLACES: u64 = 16;
    connections * ASKED_MAX + PLACES
}

/// It is a handful as a rule. In half of all downloads it is no more than this, 4 MiB and the places, however
/// busy the machine: records would else be held back.
const LOST_AS_A_RULE_MAX: u64 = 64 + 16;

/// Kills downloads in their middle; see [`killed_anywhere`].
fn killed_often(seeds: std::ops::Range<u64>) {
    let mut lost: Vec<u64> = seeds.map(killed_anywhere).collect();
    lost.sort_unstable();
    assert!(lost[lost.len() / 2] <= LOST_AS_A_RULE_MAX, "pieces that are not on record: {lost:?}");
}

/// Kills a download as soon as a random part of it has come, and goes on. Returns how many pieces had
/// passed and were not on record.
fn killed_anywhere(seed: u64) -> u64 {
    const PIECE: u64 = 64 * 1024;
    let mut rng = fastrand::Rng::with_seed(seed);
    let len = rng.u64(40_000_000..48_000_000);
    let stage = Stage::new(len, "64K", rng.u64(10_000..len));
    let mut first = stage.get(&[]);
    stage.relay.at_end(first.killer());
    stage.relay.wait_for_end();
    first.kill();
    let asked_before = stage.relay.requested();
    let delivered_before = stage.relay.delivered();
    let lost_max = lost_max(stage.relay.connections());
    drop(stage.relay);

    // It may have been killed before it had opened anything.
    let kept = Journal::read(&stage.sandbox.path(JOURNAL)).map_or(0, |it| it.pieces.len() as u64);
    let delivered = delivered_before.len() as u64;
    assert!(kept <= delivered, "seed {seed}: nothing is made up");
    assert!(delivered - kept <= lost_max, "seed {seed}: {kept} of {delivered} are on record");
    assert!(!stage.sandbox.path("out/film.mp4").exists(), "seed {seed}: not under its name");

    let second = Relay::start(stage.sharer.addr(), u64::MAX);
    let ticket = led(&stage.ticket, &[], &[second.addr()]);
    let ended = stage.sandbox.get(&ticket, "out", &[]).wait().expect(0);
    assert_same(stage.sandbox.path("film.mp4"), stage.sandbox.path("out/film.mp4"));
    assert_eq!(names_in(stage.sandbox.path("out")), ["film.mp4"], "seed {seed}");

    let pieces = len.div_ceil(PIECE);
    let manifest = ended.event("manifest");
    let resumed = number(&manifest, "resumed_bytes").div_ceil(PIECE);
    assert_eq!(resumed, kept, "seed {seed}: all that was verified, and only that");
    assert_eq!(second.requested().len() as u64, pieces - kept, "seed {seed}: only the rest");
    let again: BTreeSet<_> = second.requested().intersection(&asked_before).copied().collect();
    // What was asked for and is not on record, and no more than that.
    assert_eq!(again.len() as u64, asked_before.len() as u64 - kept, "seed {seed}");
    delivered - kept
}

#[test]
fn a_download_killed_at_5_random_moments_goes_on_where_it_was() {
    killed_often(0..5);
}

#[test]
fn a_download_killed_at_30_random_moments_goes_on_where_it_was() {
    killed_often(100..130);
}

#[test]
fn a_download_killed_again_and_again_gets_there_and_fetches_little_twice() {
    const PIECE: u64 = 16 * 1024;
    let stage = Stage::new(8_000_000, "16K", 1_000_000);
    let mut asked = 0;
    let mut relay = Relay::start(stage.sharer.addr(), 1_000_000);
    loop {
        let ticket = led(&stage.ticket, &[], &[relay.addr()]);
        let mut get = stage.sandbox.get(&ticket, "out", &[]);
        relay.at_end(get.killer());
        eventually("its end", || (!get.is_running()).then_some(()));
        asked += relay.requested().len() as u64;
        if stage.sandbox.path("out/film.mp4").exists() {
            break;
        }
        assert!(asked < 100 * stage.len.div_ceil(PIECE), "it never gets there");
        relay = Relay::start(stage.sharer.addr(), 1_000_000);
    }
    assert_same(stage.sandbox.path("film.mp4"), stage.sandbox.path("out/film.mp4"));
}

#[test]
fn a_clean_stop_says_how_to_go_on_and_the_next_run_fetches_only_the_rest() {
    let stage = Stage::new(30_000_000, "64K", 12_000_000);
    let first = stage.get(&[]);
    stage.relay.wait_for_end();
    first.interrupt();
    let ended = first.wait().expect(130);
    assert_eq!(ended.event("failed")["code"], 130);
    assert!(ended.stderr.contains("kept: run the same command again"), "{}", ended.stderr);
    assert!(stage.sandbox.path(PART).exists() && stage.sandbox.path(JOURNAL).exists());

    let journal = Journal::read(&stage.sandbox.path(JOURNAL)).expect("a journal");
    let kept = journal.pieces.len() as u64;
    assert_eq!(journal.on_disk, journal.records, "nothing needs to be hashed again");

    let second = Relay::start(stage.sharer.addr(), u64::MAX);
    let ticket = led(&stage.ticket, &[], &[second.addr()]);
    let ended = stage.sandbox.get(&ticket, "out", &[]).wait().expect(0);
    assert_same(stage.sandbox.path("film.mp4"), stage.sandbox.path("out/film.mp4"));
    let resumed = number(&ended.event("manifest"), "resumed_bytes");
    assert!(resumed > 0 && resumed.div_ceil(64 * 1024) == kept, "{resumed}");
    assert_eq!(second.requested().len() as u64, stage.len.div_ceil(64 * 1024) - kept);
}

#[test]
fn a_folder_that_was_killed_goes_on_too() {
    let sandbox = Sandbox::new();
    for n in 0..40 {
        sandbox.file(format!("all/{}/{n}", n % 3), n * 10_007, n as u64);
    }
    let sharer = sandbox.share_with(&[&sandbox.path("all")], &["--piece-size", "16K"]);
    let relay = Relay::start(sharer.addr(), 3_000_000);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    let mut first = sandbox.get(&ticket, "out", &[]);
    relay.wait_for_end();
    first.kill();
    relay.open();
    let ended = sandbox.get(&ticket, "out", &[]).wait().expect(0);
    assert_same(sandbox.path("all"), sandbox.path("out/all"));
    assert!(number(&ended.event("manifest"), "resumed_bytes") > 0);
}

#[test]
fn a_second_get_at_the_same_place_is_refused_and_harms_nothing() {
    let stage = Stage::new(2_000_000, "16K", 500_000);
    let mut first = stage.get(&[]);
    stage.relay.wait_for_end();
    eventually("its journal", || stage.sandbox.path(JOURNAL).exists().then_some(()));
    // The second asks the sharer itself, so that it gets as far as the files.
    let refused = stage.sandbox.get(&stage.sharer.ticket, "out", &[]).wait().expect(5);
    assert!(refused.stderr.contains("another minibit"), "{}", refused.stderr);
    stage.relay.open();
    first.event("done", |_| true);
    first.wait().expect(0);
    assert_same(stage.sandbox.path("film.mp4"), stage.sandbox.path("out/film.mp4"));
}

#[test]
fn another_file_is_never_overwritten_without_force() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 100_000, 1);
    let mine = sandbox.file("out/film.mp4", 77, 2);
    let sharer = sandbox.share(&[&source]);
    let refused = sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(5);
    assert!(refused.stdout.is_empty());
    assert!(refused.stderr.contains("bytes are not those that the ticket"), "{}", refused.stderr);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
    assert_eq!(fs::read(&mine).expect("still there"), super::common::noise(77, 2));
    assert_eq!(names_in(sandbox.path("out")), ["film.mp4"], "nothing is left behind");

    sandbox.run(["get", &sharer.ticket, "-o", "out", "--force"]).expect(0);
    assert_same(&source, &mine);
    assert_eq!(names_in(sandbox.path("out")), ["film.mp4"]);
}

#[test]
fn a_download_that_is_complete_is_not_fetched_again() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 100_000, 1);
    let sharer = sandbox.share(&[&source]);
    sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(0);
    let again = sandbox.get(&sharer.ticket, "out", &[]).wait().expect(0);
    assert_eq!(number(&again.event("done"), "downloaded"), 0);
    assert_same(&source, sandbox.path("out/film.mp4"));
}

#[test]
fn whoever_has_the_selected_files_already_has_nothing_to_fetch_and_can_pass_them_on() {
    let sandbox = Sandbox::new();
    sandbox.file("all/film.mp4", 300_000, 1);
    sandbox.file("all/music.mp3", 200_000, 2);
    let sharer = sandbox.share(&[&sandbox.path("all")]);
    let select = ["--select", "*.mp4"];
    sandbox.get(&sharer.ticket, "out", &select).wait().expect(0);
    let again = sandbox.get(&sharer.ticket, "out", &select).wait().expect(0);
    let (manifest, done) = (again.event("manifest"), again.event("done"));
    assert_eq!(
        (number(&manifest, "bytes"), number(&manifest, "resumed_bytes")),
        (300_000, 300_000)
    );
    assert_eq!((number(&done, "bytes"), number(&done, "downloaded")), (300_000, 0));
    assert_eq!(names_in(sandbox.path("out")), ["all"], "and no journal");

    // Whatever else is there: it is the files that count.
    sandbox.file("out/all/mine.txt", 10, 3);
    let mut seed = sandbox.get(&sharer.ticket, "out", &["--select", "*.mp4", "--seed"]);
    let listening = seed.event("listening", |_| true);
    seed.event("done", |_| true);
    let addr = listening["addresses"][0].as_str().expect("text").parse().expect("an address");
    let ticket = led(&sharer.ticket, &[], &[addr]);
    sandbox.get(&ticket, "passed on", &select).wait().expect(0);
    assert_same(sandbox.path("all/film.mp4"), sandbox.path("passed on/all/film.mp4"));

    sandbox.file("out/all/film.mp4", 300_000, 4);
    let refused = sandbox.run(["get", &sharer.ticket, "-o", "out", "--select", "*.mp4"]).expect(5);
    assert!(refused.stderr.contains("--force"), "{}", refused.stderr);
}

#[test]
fn after_another_boot_nothing_is_believed_that_was_not_hashed_again() {
    // An unclean stop on another machine, or another boot: the journal's epoch differs, so
    // everything on record is hashed before it counts.
    let stage = Stage::new(4_000_000, "16K", 2_000_000);
    let mut first = stage.get(&[]);
    stage.relay.wait_for_end();
    eventually("a piece on record", || {
        Journal::read(&stage.sandbox.path(JOURNAL)).filter(|journal| !journal.pieces.is_empty())
    });
    first.kill();
    let mut journal = fs::read(stage.sandbox.path(JOURNAL)).expect("a journal");
    journal[40] ^= 1;
    fs::write(stage.sandbox.path(JOURNAL), journal).expect("damaged");
    let mut part = fs::read(stage.sandbox.path(PART)).expect("a part");
    part.iter_mut().for_each(|byte| *byte ^= 1);
    fs::write(stage.sandbox.path(PART), part).expect("damaged");
    stage.relay.open();
    stage.get(&[]).wait().expect(0);
    assert_same(stage.sandbox.path("film.mp4"), stage.sandbox.path("out/film.mp4"));
}
