//! Disks that are slower than the network: the transfer ends right, the tasks of the network do not wait, and `-v`
//! tells how far the disk was behind.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::common::{Ended, Sandbox, Sharer, assert_same, led, number};
use super::slow_disk::{Access, Pace, SlowDisk};

/// One piece is one block, and so one write.
const PIECE: u64 = 16 * 1024;
/// What the queue takes, by `docs/performance.md`.
const PLACES: usize = 16;

/// A film of so many pieces, shared.
fn shared(sandbox: &Sandbox, pieces: u64) -> Sharer {
    let source = sandbox.file("film.mp4", (pieces * PIECE) as usize, pieces);
    sandbox.share_with(&[&source], &["--piece-size", "16K"])
}

/// A `get` that says what `-v` says. It has one thread for all of the network, so if that waits, all does.
fn verbose_get(sandbox: &Sandbox, ticket: &str) -> Command {
    let args = ["--json", "-v", "get", ticket, "-o", "out", "--listen", "127.0.0.1:0"];
    let mut command = sandbox.minibit(args);
    command.args(["--lanes", "1", "--wait", "40s"]).env("TOKIO_WORKER_THREADS", "1");
    command
}

fn is_payload(access: Access) -> bool {
    access.len == Some(PIECE)
}

/// The thread of the network: before anything was slow it made the writes itself.
fn network_thread(seen: &[(Access, Pace)]) -> u32 {
    let mut seen = seen.iter().map(|(access, _)| *access);
    seen.find(|access| is_payload(*access)).expect("a block was written").thread
}

/// The most places that were taken, as the last line of the log has it.
#[track_caller]
fn most_taken(ended: &Ended) -> usize {
    assert!(ended.stderr.contains("the disk is slow: writes wait in a queue"), "{ended:#?}");
    let line = ended.stderr.lines().find(|line| line.contains("the disk was behind: "));
    let line = line.unwrap_or_else(|| panic!("nothing about the disk: {ended:#?}"));
    let (_, figures) = line.split_once("behind: ").expect("as just now");
    let mut figures = figures.split(' ').map_while(|word| match word {
        "of" => Some(None),
        word => word.parse::<usize>().ok().map(Some),
    });
    let (taken, places) = (figures.next(), figures.nth(1));
    assert_eq!(places, Some(Some(PLACES)), "{line}");
    taken.flatten().unwrap_or_else(|| panic!("no figure: {line}"))
}

#[test]
fn while_the_disk_stands_still_the_queue_is_full_and_the_network_goes_on() {
    /// What is fetched before the disk stands still.
    const KEPT: u64 = 8;
    let sandbox = Sandbox::new();
    let sharer = shared(&sandbox, 64);
    let mut blocks = 0;
    // The first block says that the disk is slow, for as long as the engine believes such a thing: nobody can have
    // said so before, not even a machine that is too busy to let the test answer.
    let (mut get, disk) = SlowDisk::start(verbose_get(&sandbox, &sharer.ticket), move |access| {
        blocks += u64::from(is_payload(access));
        match blocks {
            1 if is_payload(access) => Pace::After(Duration::from_millis(600)),
            _ if is_payload(access) && blocks > KEPT => Pace::Held,
            _ => Pace::AtOnce,
        }
    });
    let addr = get.event("listening", |_| true)["addresses"][0].clone();
    let addr = addr.as_str().expect("text").parse().expect("an address");
    let held = disk.wait_for_held(PLACES);

    // Now nothing moves on the disk, and nobody but this process can serve anybody.
    sharer.process.signal(Signal::STOP);
    let mut third = sandbox.get(&led(&sharer.ticket, &[], &[addr]), "third", &[]);
    let all = KEPT * PIECE;
    let progress = third.event("progress", |progress| number(progress, "bytes") >= all);
    assert_eq!(number(&progress, "bytes"), all, "no more than what is on record");
    let seen = disk.seen();
    assert_eq!(disk.wait_for_held(PLACES), held, "no more than there are places");
    let network = network_thread(&seen);
    assert!(!held.contains(&network), "{network} of {held:?}");
    assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), PLACES, "side by side");

    sharer.process.signal(Signal::CONT);
    disk.let_go();
    let ended = get.wait().expect(0);
    assert_eq!(number(&ended.event("done"), "disk_queue_peak"), PLACES as u64);
    assert_eq!(most_taken(&ended), PLACES);
    assert_same(sandbox.path("film.mp4"), sandbox.path("out/film.mp4"));
}

/// Fetches onto a disk on which every so-manieth write takes so long.
#[track_caller]
fn fetched_with_slow_writes(pieces: u64, one_in: usize, takes: Duration) {
    let sandbox = Sandbox::new();
    let sharer = shared(&sandbox, pieces);
    let (get, disk) = SlowDisk::start(verbose_get(&sandbox, &sharer.ticket), move |access| {
        let is_slow = access.len.is_some() && access.number % one_in == one_in - 1;
        if is_slow { Pace::After(takes) } else { Pace::AtOnce }
    });
    let ended = get.wait().expect(0);
    assert_same(sandbox.path("film.mp4"), sandbox.path("out/film.mp4"));
    let most = most_taken(&ended);
    assert!((1..=PLACES).contains(&most), "{most} places");

    let seen = disk.seen();
    let network = network_thread(&seen);
    let slow = seen.iter().filter(|(_, pace)| *pace != Pace::AtOnce);
    let (slow, met) = slow.fold((0, 0), |(slow, met), (access, _)| {
        (slow + 1, met + usize::from(access.thread == network))
    });
    // One tells that the disk is slow, unless it was so because the machine is too busy to let the test answer, and
    // some more that it still is, each after twice the time.
    assert!(met * 4 <= slow, "the network met {met} of {slow}");
}

#[test]
fn a_disk_on_which_every_write_is_slow_is_left_to_other_threads() {
    fetched_with_slow_writes(64, 1, Duration::from_millis(30));
}

#[test]
fn a_disk_that_is_slow_in_one_of_forty_writes_is_left_to_other_threads_too() {
    fetched_with_slow_writes(256, 40, Duration::from_millis(200));
}
