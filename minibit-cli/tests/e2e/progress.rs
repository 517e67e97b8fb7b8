//! What is shown while work takes its time: how far it is, from the first moment on, however slow the disk is.

use std::collections::HashSet;
use std::fs::{hard_link, read};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::process::Command;

use super::common::{Running, Sandbox, noise, number};
use super::slow_disk::{Access, Pace, SlowDisk};

/// What is read at a time to be hashed.
const READ: usize = 256 << 10;
/// Of a file that takes some reads.
const LEN: usize = 16 * READ;

fn sharing(sandbox: &Sandbox, path: &str) -> Command {
    sandbox.minibit(["--json", "share", "--listen", "127.0.0.1:0", path])
}

/// Each thread reads once; then the disk stands still.
fn after_a_read_by_each_thread() -> impl FnMut(Access) -> Pace + Send {
    let mut threads = HashSet::new();
    move |access| {
        // The system reads the program itself, too.
        let is_hashed = access.len == Some(READ as u64);
        if is_hashed && !threads.insert(access.thread) { Pace::Held } else { Pace::AtOnce }
    }
}

/// Fails unless it is told that some of the bytes are done while the disk stands still.
#[track_caller]
fn assert_some_are_done(process: &mut Running, what: &str) {
    let progress = process.event("progress", |progress| number(progress, "bytes") > 0);
    assert_eq!(progress["what"], what);
    assert_eq!(number(&progress, "bytes_total"), LEN as u64);
    assert!(number(&progress, "bytes") < LEN as u64, "{progress}");
}

#[test]
fn while_the_disk_is_slow_to_read_it_is_told_how_much_is_hashed_and_how_much_is_verified() {
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", LEN, 1);
    let (mut share, disk) =
        SlowDisk::start_to_read(sharing(&sandbox, "film.mp4"), after_a_read_by_each_thread());
    assert_some_are_done(&mut share, "hashing");
    disk.let_go();
    let ticket = share.event("ticket", |_| true)["ticket"].as_str().expect("text").to_owned();

    let verify = sandbox.minibit(["--json", "verify", "film.mp4", "--ticket", &ticket]);
    let (mut verify, disk) = SlowDisk::start_to_read(verify, after_a_read_by_each_thread());
    assert_some_are_done(&mut verify, "verifying");
    disk.let_go();
    assert_eq!(verify.wait().expect(0).event("verified")["ok"], true);
}

#[test]
fn a_port_that_cannot_be_had_is_told_before_anything_is_read() {
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", LEN, 1);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    for command in [
        &["share", "film.mp4"][..],
        &["peer", "--share", "film.mp4"],
        &["tracker", "--seed", "film.mp4"],
    ] {
        let command = sandbox.minibit(command.iter().chain(&["--listen", &addr]));
        let (command, disk) = SlowDisk::start_to_read(command, after_a_read_by_each_thread());
        let ended = command.wait().expect(1);
        assert!(ended.error().contains(&addr), "{}", ended.error());
        drop(disk);
    }
}

#[test]
fn a_file_that_cannot_be_written_in_the_end_is_told_before_anything_is_read() {
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", LEN, 1);
    for flags in [
        ["--ticket-file", "no/such/folder"],
        ["--ticket-file", "."],
        ["--manifest-file", "film.mp4/within"],
    ] {
        let command = ["share", "--listen", "127.0.0.1:0", "film.mp4"];
        let command = sandbox.minibit(command.iter().chain(&flags));
        let (command, disk) = SlowDisk::start_to_read(command, after_a_read_by_each_thread());
        let ended = command.wait().expect(5);
        assert!(ended.error().contains(&format!("cannot write {}", flags[1])), "{ended:#?}");
        drop(disk);
    }
    let flags = ["--ticket-file", "ticket", "--manifest-file", "manifest"];
    let sharer = sandbox.share_with(&[&sandbox.path("film.mp4")], &flags);
    let written = std::fs::read_to_string(sandbox.path("ticket")).expect("readable");
    assert_eq!(written, format!("{}\n", sharer.ticket));
    sandbox.run(["inspect", "manifest"]).expect(0);
}

#[test]
fn what_is_shared_is_not_written_over_by_its_ticket_or_manifest_and_that_is_told_before_it_is_read()
{
    let sandbox = Sandbox::new();
    let film = sandbox.file("all/film.mp4", LEN, 1);
    symlink("all/film.mp4", sandbox.path("link")).expect("made");
    hard_link(&film, sandbox.path("hard link")).expect("made");
    for (shared, flag, output) in [
        ("all/film.mp4", "--ticket-file", "all/film.mp4"),
        ("all/film.mp4", "--manifest-file", "link"),
        ("link", "--ticket-file", "all/film.mp4"),
        ("all", "--manifest-file", "hard link"),
        ("all", "--ticket-file", "all/../all/film.mp4"),
    ] {
        let command = ["share", "--listen", "127.0.0.1:0", shared, flag, output];
        let command = sandbox.minibit(command);
        let (command, disk) = SlowDisk::start_to_read(command, after_a_read_by_each_thread());
        let ended = command.wait().expect(2);
        assert!(ended.error().contains(&format!("{output} is to be shared")), "{ended:#?}");
        drop(disk);
        assert!(read(&film).is_ok_and(|bytes| bytes == noise(LEN, 1)), "{output}");
    }
    // Beside what is shared there is room.
    sandbox.share_with(&[&film], &["--ticket-file", "all/ticket"]);
}

#[test]
fn more_trackers_than_a_ticket_has_room_for_are_told_before_anything_is_read() {
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", LEN, 1);
    let addrs: Vec<String> = (1..=20).map(|host| format!("192.0.2.{host}:1")).collect();
    for (command, flag) in [
        (["share", "film.mp4"].as_slice(), "--tracker"),
        (&["peer", "--share", "film.mp4"], "--tracker"),
        (&["tracker", "--seed", "film.mp4"], "--announce"),
    ] {
        let many = addrs.iter().flat_map(|addr| [flag, addr]);
        let args = command.iter().copied().chain(["--listen", "127.0.0.1:0"]).chain(many);
        let command = sandbox.minibit(args);
        let (command, disk) = SlowDisk::start_to_read(command, after_a_read_by_each_thread());
        let ended = command.wait().expect(2);
        assert!(ended.error().contains("addresses in a ticket; 16 are allowed"), "{ended:#?}");
        assert!(ended.stderr.contains("name fewer"), "{ended:#?}");
        drop(disk);
    }
}

#[test]
fn whoever_fetches_what_is_there_already_sees_how_far_the_check_of_it_has_come() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", LEN, 1);
    let sharer = sandbox.share(&[&source]);
    let get = sandbox.minibit(["--json", "get", &sharer.ticket]);
    let (mut get, disk) = SlowDisk::start_to_read(get, after_a_read_by_each_thread());
    assert_some_are_done(&mut get, "verifying");
    disk.let_go();
    let done = get.wait().expect(0).event("done");
    assert_eq!(number(&done, "downloaded"), 0);
}

#[test]
fn another_film_of_that_name_is_told_without_reading_it() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", LEN, 1);
    let sharer = sandbox.share(&[&source]);
    sandbox.file("out/film.mp4", LEN + 1, 1);
    let get = sandbox.minibit(["get", &sharer.ticket, "-o", "out"]);
    let (get, _disk) = SlowDisk::start_to_read(get, after_a_read_by_each_thread());
    let ended = get.wait().expect(5);
    assert!(ended.stderr.contains("--force"), "{}", ended.stderr);
}

#[test]
fn while_files_are_looked_for_it_is_told_how_many_were_found() {
    let sandbox = Sandbox::new();
    for name in ["all/one", "all/two", "all/deep/three"] {
        sandbox.file(name, 10, 1);
    }
    // The outer folder takes two looks, the second of which finds its end.
    let (mut share, disk) = SlowDisk::start_to_list(sharing(&sandbox, "all"), |access| {
        if access.number < 2 { Pace::AtOnce } else { Pace::Held }
    });
    let progress = share.event("progress", |progress| progress["files"] == 2);
    assert_eq!((&progress["what"], &progress["bytes_total"]), (&"hashing".into(), &0.into()));
    disk.let_go();
    assert_eq!(number(&share.event("ticket", |_| true), "files"), 3);
}

#[test]
fn whoever_stops_it_while_files_are_looked_for_does_not_wait_for_the_rest() {
    let sandbox = Sandbox::new();
    for name in ["all/one", "all/deep/two"] {
        sandbox.file(name, 10, 1);
    }
    let (mut share, disk) = SlowDisk::start_to_list(sharing(&sandbox, "all"), |access| {
        if access.number < 2 { Pace::AtOnce } else { Pace::Held }
    });
    share.event("progress", |progress| progress["files"] == 1);
    share.interrupt();
    let ended = share.wait().expect(130);
    assert!(ended.error().contains("interrupted"), "{}", ended.error());
    drop(disk);
}
