//! How commands end: one code for each kind of outcome, and words that help.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::common::{Sandbox, assert_same, eventually, led, names_in, noise, number};
use super::relay::Relay;

#[test]
fn a_port_that_is_taken_is_a_failure_that_says_so() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("bound").to_string();
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", 10, 1);
    let ended = sandbox.run(["share", "--listen", &addr, "film.mp4"]).expect(1);
    assert!(ended.error().contains(&addr) && ended.stderr.contains("--listen"), "{ended:#?}");
}

#[test]
fn a_share_that_finds_the_usual_port_taken_says_which_it_uses_instead() {
    let usual = usual_port();
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", 10, 1);
    let mut sharer = sandbox.start(["share", "film.mp4"]);
    let ticket = super::common::parse(&sharer.line());
    let words = format!("so this listens on port {}", ticket.peers()[0].port());
    eventually("a warning", || sharer.stderr().contains(&words).then_some(()));
    assert!(sharer.stderr().contains("port 26464 is in use"), "{}", sharer.stderr());
    drop(usual);
}

/// Holds the port that shares have unless told otherwise, if nobody else does.
fn usual_port() -> Option<TcpListener> {
    TcpListener::bind("[::]:26464").or_else(|_| TcpListener::bind("0.0.0.0:26464")).ok()
}

#[test]
fn what_is_not_there_cannot_be_shared() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(["share", "--listen", "127.0.0.1:0", "no such film"]).expect(2);
    assert!(ended.error().contains("no such film"), "{}", ended.error());
    assert!(ended.stdout.is_empty());
}

#[test]
fn what_cannot_be_shared_is_told_with_what_helps() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("empty")).expect("made");
    for (path, words) in [
        ("-", "save it in a file"),
        ("/dev/null", "save it in a file"),
        ("/", "--name"),
        ("empty", "empty folders"),
    ] {
        let ended = sandbox.run(["share", "--listen", "127.0.0.1:0", path]).expect(2);
        assert_eq!(ended.stderr.lines().count(), 2, "{path}: {}", ended.stderr);
        assert!(ended.stderr.contains(words), "{path}: {}", ended.stderr);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_result_that_could_not_be_written_is_a_disk_failure() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 10, 1);
    let ticket = sandbox.share(&[&source]).ticket;
    let full = fs::File::options().write(true).open("/dev/full").expect("a full disk");
    let ended =
        sandbox.minibit(["inspect", &ticket]).stdout(full).output().expect("the binary runs");
    let stderr = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(5), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "said once: {stderr}");
    assert!(stderr.starts_with("error: could not write to stdout: "), "{stderr}");
}

#[test]
fn when_nobody_is_there_it_gives_up_in_time_with_code_4() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 10, 1);
    let ticket = sandbox.share(&[&source]).ticket;
    // The sharer is gone by now.
    let ended = sandbox.run(["get", &ticket, "-o", "out", "--wait", "300ms"]).expect(4);
    assert!(ended.error().contains("reached within 0.3 s"), "{}", ended.error());
    // Each address, once, with what became of it.
    let addr = super::common::parse(&ticket).peers()[0];
    assert!(ended.error().contains(&format!("{addr} refused: ")), "{}", ended.error());
    assert_eq!(ended.error().matches(&addr.to_string()).count(), 1, "{}", ended.error());
    assert!(ended.stdout.is_empty());
    assert!(!sandbox.path("out").exists(), "nothing was begun");
}

#[test]
fn without_any_time_to_wait_it_does_not_say_that_there_was_nobody_to_ask() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 10, 1);
    let sharer = sandbox.share(&[&source]);
    let silent = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let ticket = led(&sharer.ticket, &[], &[silent]);
    let ended = sandbox.run(["get", &ticket, "--wait", "0"]).expect(4);
    assert!(ended.error().contains(&silent.to_string()), "{}", ended.error());
}

#[test]
fn when_everybody_leaves_in_the_middle_it_gives_up_with_code_4_and_keeps_what_it_has() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 3_000_000, 1);
    let sharer = sandbox.share(&[&source]);
    let relay = Relay::start(sharer.addr(), 1_500_000);
    // It gets no more than half, and has that to give.
    let mut half = sandbox.get(&led(&sharer.ticket, &[], &[relay.addr()]), "half", &[]);
    let listening = half.event("listening", |_| true);
    relay.wait_for_end();
    let addr = listening["addresses"][0].as_str().expect("text").parse().expect("an address");
    let ticket = led(&sharer.ticket, &[], &[addr]);
    let mut get = sandbox.get(&ticket, "out", &["--wait", "5s"]);
    let alone = get.event("progress", |event| event["gives_up_in"].is_u64());
    assert!(number(&alone, "gives_up_in") < 5, "{alone}");
    half.interrupt();
    let ended = get.wait().expect(4);
    assert!(ended.error().contains("everybody has left"), "{}", ended.error());
    assert!(ended.stderr.contains("run the same command again"), "{}", ended.stderr);
    assert!(names_in(sandbox.path("out")).contains(&"film.mp4.part.minibit".to_owned()));
}

#[test]
fn whoever_loses_the_network_in_the_middle_is_not_told_that_everybody_has_left() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 3_000_000, 1);
    let mut sharer = sandbox.share(&[&source]);
    let relay = Relay::start(sharer.addr(), 1_500_000);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    let get = sandbox.get(&ticket, "out", &["--wait", "200ms"]);
    relay.wait_for_end();
    sharer.process.kill();
    drop(relay);
    let ended = get.wait().expect(4);
    assert!(ended.error().contains("lost contact with all peers"), "{}", ended.error());
    assert!(ended.stderr.contains("--wait"), "{}", ended.stderr);
}

/// What a `get` says on stderr that loses its only peer in the middle and then finds another. It goes on, in each
/// case, when it has said what `is_said` looks for.
fn left_alone_for_a_while(flags: &[&str], is_said: impl Fn(&str, &str) -> bool) -> String {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 3_000_000, 1);
    let (mut one, other) = (sandbox.share(&[&source]), sandbox.share(&[&source]));
    let relay = Relay::start(one.addr(), 1_500_000);
    // The other is not there at first, and then does not give all at once.
    let slow = Relay::start(other.addr(), 200_000);
    let gate = Relay::start(slow.addr(), 1);
    let ticket = led(&one.ticket, &[], &[relay.addr(), gate.addr()]);
    let args = ["get", &ticket, "-o", "out", "--listen", "127.0.0.1:0", "--wait", "40s"];
    let get = sandbox.start(args.iter().chain(flags));
    relay.wait_for_end();
    one.process.kill();
    let lost = format!("lost contact with {}; it goes on by itself when", relay.addr());
    drop(relay);
    eventually("who is gone", || is_said(&get.stderr(), &lost).then_some(()));
    gate.open();
    let back = format!("going on, with {}\n", gate.addr());
    eventually("who is back", || is_said(&get.stderr(), &back).then_some(()));
    slow.open();
    get.wait().expect(0).stderr
}

#[test]
fn whoever_is_left_alone_in_the_middle_is_told_so_once_and_that_it_goes_on_when_somebody_is_back() {
    let said = left_alone_for_a_while(&[], |stderr, words| stderr.contains(words));
    assert_eq!(said.matches("lost contact").count(), 1, "{said}");
    assert_eq!(said.matches("going on").count(), 1, "{said}");
    for flag in ["--quiet", "--json"] {
        assert_eq!(left_alone_for_a_while(&[flag], |_, _| true), "", "{flag}");
    }
}

/// Where a sharer was that is gone, and its ticket.
fn shared_no_more(sandbox: &Sandbox) -> (SocketAddr, String) {
    let sharer = sandbox.share(&[&sandbox.file("film.mp4", 10, 1)]);
    (sharer.addr(), sharer.ticket.clone())
}

#[test]
fn whoever_waits_for_the_first_answer_is_told_for_whom() {
    let sandbox = Sandbox::new();
    let (addr, ticket) = shared_no_more(&sandbox);
    for flags in [&[][..], &["--list"]] {
        let mut args = vec!["get", &ticket, "-o", "out", "--wait", "40s"];
        args.extend(flags);
        let get = sandbox.start(args);
        let words = format!("nothing has come from {addr} yet; trying again for ");
        let left = eventually("who is missing", || {
            let told = get.stderr();
            let (_, left) = told.split_once(&words)?;
            Some(left.split_once(": ")?.0.to_owned())
        });
        let seconds = left.strip_suffix(" s").and_then(|seconds| seconds.parse::<u64>().ok());
        // How many are left by now is the machine's to say.
        assert!(seconds.is_some_and(|seconds| (1..=40).contains(&seconds)), "{left}");
        get.interrupt();
        let ended = get.wait().expect(130);
        assert!(!ended.stderr.contains("kept"), "nothing has come: {}", ended.stderr);
    }
}

#[test]
fn a_manifest_is_not_written_where_the_download_goes() {
    let sandbox = Sandbox::new();
    let film = sandbox.file("film.mp4", 1000, 1);
    let sharer = sandbox.share(&[&film]);
    let get = |output| sandbox.run(["get", &sharer.ticket, "-o", "out", "--manifest-file", output]);
    get("out/manifest").expect(0);
    symlink("out/film.mp4", sandbox.path("link")).expect("made");
    for output in ["out/film.mp4", "link", "out/../out/film.mp4.part"] {
        let ended = get(output).expect(2);
        assert!(ended.error().contains("is where the download goes"), "{}", ended.stderr);
        assert_same(&film, sandbox.path("out/film.mp4"));
    }
}

#[test]
fn programs_hear_for_whom_it_waits_as_people_do() {
    let sandbox = Sandbox::new();
    let (addr, ticket) = shared_no_more(&sandbox);
    for flags in [&[][..], &["--list"]] {
        let mut get = sandbox.get(&ticket, "out", flags);
        let waiting = get.event("waiting", |_| true);
        assert_eq!(waiting["why"], "unanswered");
        assert_eq!(waiting["peers"], serde_json::json!([addr.to_string()]));
        // Of 40 s; how many are left by now is the machine's to say.
        assert!((20..40).contains(&number(&waiting, "gives_up_in")), "{waiting}");
        get.interrupt();
        get.wait().expect(130);
    }
    let args = ["--json", "peer", "--get", &ticket, "-o", "out", "--listen", "127.0.0.1:0"];
    let mut peer = sandbox.start(args);
    let waiting = peer.event("waiting", |_| true);
    assert_eq!(waiting["peers"], serde_json::json!([addr.to_string()]));
    assert!(waiting.get("gives_up_in").is_none(), "it never does");
    peer.interrupt();
    peer.wait().expect(0);
}

#[test]
fn a_sharer_that_is_there_and_sends_nothing_is_said_not_to_answer() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 3_000_000, 1);
    let sharer = sandbox.share(&[&source]);
    let relay = Relay::start(sharer.addr(), 1_500_000);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    // The connections stay, and nothing comes over them, as from a machine that sleeps.
    let mut get = sandbox.get(&ticket, "out", &[]);
    let waiting = get.event("waiting", |_| true);
    assert_eq!(waiting["why"], "silent");
    assert_eq!(waiting["peers"], serde_json::json!([relay.addr().to_string()]));
    relay.open();
    get.wait().expect(0);
    assert_eq!(
        relay.frames("NEGADO"),
        0,
        "what was on its way is of use, and is not asked for again"
    );
}

#[test]
fn a_long_lived_peer_tells_whom_it_waits_for_in_the_middle_as_well() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 3_000_000, 1);
    let mut sharer = sandbox.share(&[&source]);
    let relay = Relay::start(sharer.addr(), 1_500_000);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    let args = ["--json", "peer", "--get", &ticket, "-o", "out", "--listen", "127.0.0.1:0"];
    let mut peer = sandbox.start(args);
    relay.wait_for_end();
    sharer.process.kill();
    let addr = relay.addr().to_string();
    drop(relay);
    let waiting = peer.event("waiting", |waiting| waiting["why"] == "lost");
    assert_eq!(waiting["peers"], serde_json::json!([addr]));
    peer.interrupt();
    peer.wait().expect(0);
}

#[test]
fn a_place_that_cannot_be_written_to_is_a_disk_failure() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 1000, 1);
    sandbox.file("a file", 1, 1);
    let sharer = sandbox.share(&[&source]);
    let ended = sandbox.run(["get", &sharer.ticket, "-o", "a file/out"]).expect(5);
    assert!(ended.error().contains("a file"), "{}", ended.error());
    assert!(ended.stdout.is_empty());
}

#[test]
fn what_is_in_the_way_is_named_with_what_helps_against_it_and_is_left_alone() {
    let sandbox = Sandbox::new();
    let film = sandbox.file("film.mp4", 1000, 1);
    sandbox.file("all/film.mp4", 1000, 1);
    let (one, all) = (sandbox.share(&[&film]), sandbox.share(&[&sandbox.path("all")]));
    let mine = [
        "file/film.mp4",
        "folder/film.mp4/mine",
        "other/all/film.mp4",
        "journal/film.mp4.part.minibit/mine",
        "part/film.mp4.part/mine",
    ];
    let mine = mine.map(|name| sandbox.file(name, 1000, 2));
    fs::write(sandbox.path("part/film.mp4.part.minibit"), "").expect("written");
    for link in ["link/film.mp4", "link to be/film.mp4.part"] {
        let link = sandbox.path(link);
        fs::create_dir(link.parent().expect("a parent")).expect("made");
        symlink("../file/film.mp4", link).expect("made");
    }
    for (ticket, dir, error, hint, would_replace) in [
        (&one, "file", "film.mp4 exists already", "its bytes are not those", true),
        (&one, "link", "film.mp4 exists already", "it is a symbolic link; -o DIR", false),
        (&one, "folder", "film.mp4 exists already", "it is a folder, and not all", true),
        (&all, "other", "all exists already", "it is a folder, and not all", true),
        (&one, "link to be", "film.mp4.part is a symbolic link", "-o DIR", false),
        (&one, "part", "film.mp4.part is a directory", "-o DIR", false),
        (&one, "journal", "film.mp4.part.minibit is a directory", "-o DIR", false),
    ] {
        let ended = sandbox.run(["get", &ticket.ticket, "-o", dir]).expect(5);
        assert!(ended.error().contains(error), "{dir}: {}", ended.stderr);
        assert!(ended.stderr.contains(hint), "{dir}: {}", ended.stderr);
        assert_eq!(ended.stderr.contains("--force"), would_replace, "{dir}: {}", ended.stderr);
        assert!(ended.stdout.is_empty(), "{ended:#?}");
    }
    for (dir, error) in [("folder", "mine is in the way"), ("link", "is a symbolic link, not")] {
        let ended = sandbox.run(["get", &one.ticket, "-o", dir, "--force"]).expect(5);
        assert!(ended.error().contains(error), "{dir}: {}", ended.stderr);
    }
    assert!(mine.iter().all(|path| fs::read(path).is_ok_and(|bytes| bytes == noise(1000, 2))));
}

#[test]
fn all_bytes_under_the_name_of_an_unfinished_download_are_not_a_finished_one() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 1000, 1);
    let part = sandbox.file("out/film.mp4.part", 1000, 1);
    let sharer = sandbox.share(&[&source]);
    let ended = sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(5);
    assert!(ended.error().contains("no journal of a download beside it"), "{}", ended.error());
    assert!(ended.stderr.contains("--force checks what is in it"), "{}", ended.stderr);
    assert_same(&source, &part);
    sandbox.run(["get", &sharer.ticket, "-o", "out", "--force"]).expect(0);
    assert_eq!(names_in(sandbox.path("out")), ["film.mp4"]);
}

#[test]
fn ctrl_c_while_it_looks_for_peers_ends_it_with_code_130() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 10, 1);
    let ticket = sandbox.share(&[&source]).ticket;
    let mut get = sandbox.get(&ticket, "out", &[]);
    get.event("listening", |_| true);
    get.interrupt();
    let ended = get.wait().expect(130);
    assert!(ended.error().contains("interrupted"), "{}", ended.error());
}

#[test]
fn verify_tells_right_from_wrong_by_ticket_and_by_manifest() {
    let sandbox = Sandbox::new();
    sandbox.file("all/film.mp4", 100_000, 1);
    sandbox.file("all/notes", 5, 2);
    let flags = ["--manifest-file", "all.manifest"];
    let ticket = sandbox.share_with(&[&sandbox.path("all")], &flags).ticket;
    let by_ticket = ["verify", "all", "--ticket", &ticket];
    let by_manifest = ["--json", "verify", "all", "--manifest", "all.manifest"];
    let right = sandbox.run(by_ticket).expect(0);
    assert!(right.stdout[0].contains("every byte is right"), "{right:#?}");
    assert_eq!(sandbox.run(by_manifest).expect(0).event("verified")["ok"], true);

    let mut bytes = fs::read(sandbox.path("all/film.mp4")).expect("readable");
    bytes[77_777] ^= 1;
    fs::write(sandbox.path("all/film.mp4"), bytes).expect("written");
    let wrong = sandbox.run(by_ticket).expect(3);
    assert!(wrong.stdout.is_empty() && wrong.error().contains("all"), "{wrong:#?}");
    let verified = sandbox.run(by_manifest).expect(3).event("verified");
    assert_eq!(verified["ok"], false);
    let bad = verified["bad"].as_array().expect("a list");
    assert_eq!(bad.len(), 1, "{verified}");
    assert!(bad[0]["path"].as_str().is_some_and(|path| path.ends_with("film.mp4")), "{verified}");

    fs::remove_file(sandbox.path("all/notes")).expect("removed");
    let verified = sandbox.run(by_manifest).expect(3).event("verified");
    assert_eq!(verified["bad"].as_array().map(Vec::len), Some(2), "{verified}");
}

#[test]
fn inspect_prints_a_manifest_with_the_meaning_of_the_mission() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 40_000, 1);
    let flags = ["--piece-size", "16K", "--manifest-file", "shared"];
    let sharer = sandbox.share_with(&[&source], &flags);
    sandbox.run(["get", &sharer.ticket, "-o", "out", "--manifest-file", "got"]).expect(0);
    assert_same(sandbox.path("shared"), sandbox.path("got"));
    let event = sandbox.run(["--json", "inspect", "got"]).expect(0).event("inspected_manifest");
    assert_eq!(event["name"], "film.mp4");
    assert_eq!((&event["bytes"], &event["pieces"]), (&40_000.into(), &3.into()));
    assert_eq!((&event["piece_size"], &event["extensions"]["mp4"]), (&16_384.into(), &1.into()));
    assert_eq!(event["files"][0]["root"].as_str().map(str::len), Some(64));
    let ticket = sandbox.run(["--json", "inspect", &sharer.ticket]).expect(0);
    assert_eq!(ticket.event("inspected_ticket")["share"], event["share"]);
}

#[test]
fn a_slip_of_files_and_tickets_is_answered_with_what_was_meant() {
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", 40_000, 1);
    let ended = sandbox.run(["inspect", "film.mp4"]).expect(3);
    assert!(ended.stderr.contains("is this the shared file itself?"), "{}", ended.stderr);
    for command in ["get", "inspect"] {
        let ended = sandbox.run([command, "no-film.mp4"]).expect(2);
        assert!(ended.stderr.contains("nor is there a file"), "{}", ended.stderr);
    }
    let ended = sandbox.run(["get", "@film.mp4"]).expect(2);
    assert!(ended.stderr.contains("should hold the line that"), "{}", ended.stderr);
    let ticket = sandbox.share(&[&sandbox.path("film.mp4")]).ticket;
    let ended = sandbox.run(["share", "--listen", "127.0.0.1:0", &ticket]).expect(2);
    assert!(ended.stderr.contains("that is a ticket: `minibit get`"), "{}", ended.stderr);
}

#[test]
fn a_peer_that_sends_wrong_bytes_is_banned_and_the_pieces_come_from_another() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 2_000_000, 1);
    let (honest, other) = (sandbox.share(&[&source]), sandbox.share(&[&source]));
    assert_ne!(honest.ticket, other.ticket, "they are two peers of one share");
    let liar = Relay::lying(other.addr());
    // The honest one comes to its turn only when the other has been found out.
    let gate = Relay::start(honest.addr(), 1);
    let ticket = led(&honest.ticket, &[], &[liar.addr(), gate.addr()]);
    let mut get = sandbox.get(&ticket, "out", &[]);
    let warning = get.event("warning", |_| true)["message"].as_str().expect("text").to_owned();
    assert!(warning.contains("banned") && warning.contains(&liar.addr().to_string()), "{warning}");
    gate.open();
    get.wait().expect(0);
    assert_same(&source, sandbox.path("out/film.mp4"));
}

#[test]
fn a_disk_that_fills_up_pauses_it_with_a_reason_and_it_goes_on_when_there_is_room() {
    let sandbox = Sandbox::new();
    // Of one piece each, so that room is taken as they come.
    for n in 0..370 {
        sandbox.file(format!("all/{n}"), 16_000, n);
    }
    let place = sandbox.path("out");
    let Some(_disk) = SmallDisk::mount(&place) else { return };
    let sharer = sandbox.share(&[&sandbox.path("all")]);
    let relay = Relay::start(sharer.addr(), 1_500_000);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    let mut get = sandbox.get(&ticket, "out", &[]);
    relay.wait_for_end();
    // Somebody else takes what is left.
    let ballast = place.join("ballast");
    let mut other = fs::File::create(&ballast).expect("made");
    while other.write_all(&[1; 4096]).is_ok() {}
    relay.open();
    let warning = get.event("warning", |_| true)["message"].as_str().expect("text").to_owned();
    assert!(warning.contains("paused") && warning.contains("space"), "{warning}");
    assert!(warning.contains("make room"), "{warning}");
    assert!(get.is_running());
    drop(other);
    fs::remove_file(ballast).expect("removed");
    let ended = get.wait().expect(0);
    assert_eq!(ended.stderr.lines().count(), 1, "it is said once: {}", ended.stderr);
    assert_same(sandbox.path("all"), place.join("all"));
}

#[test]
fn what_cannot_fit_is_refused_before_anything_is_fetched() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", SmallDisk::LEN + 1, 1);
    let place = sandbox.path("out");
    let Some(_disk) = SmallDisk::mount(&place) else { return };
    let sharer = sandbox.share(&[&source]);
    let ended = sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(5);
    assert!(ended.error().contains("not enough space"), "{}", ended.error());
    assert!(names_in(&place).is_empty());
}

/// A file system in memory, with room for little. It is gone with this value.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    const LEN: usize = 8 << 20;

    /// Nothing where the user, or the system, may not do that.
    fn mount(at: &'a Path) -> Option<Self> {
        fs::create_dir(at).expect("made");
        let size = format!("size={}", Self::LEN);
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at).output();
        if mount.is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        eprintln!("skipped: a small disk cannot be mounted here");
        None
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        // Even while a process that is being ended has files there.
        _ = Command::new("umount").arg("-l").arg(self.0).output();
    }
}

#[test]
fn a_share_that_was_told_to_stop_leaves_its_port_free() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 1000, 1);
    let sharer = sandbox.share(&[&source]);
    let addr = sharer.addr();
    sharer.process.interrupt();
    sharer.process.wait().expect(0);
    eventually("a free port", || TcpListener::bind(addr).ok());
}
