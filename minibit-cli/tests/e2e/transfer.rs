//! The main job: what is shared on one side is there, byte for byte, on the other.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::common::{SAMPLES, Sandbox, assert_same, eventually, led, number, parse, samples};
use super::relay::Relay;

#[test]
fn each_sample_arrives_byte_for_byte() {
    let sandbox = Sandbox::new();
    for name in SAMPLES {
        let source = samples().join(name);
        let sharer = sandbox.share(&[&source]);
        let ended = sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(0);
        assert_same(&source, sandbox.path("out").join(name));
        let path = ended.stdout.last().expect("a line");
        assert_eq!(Path::new(path).file_name(), Path::new(name).file_name());
    }
    opens_in_real_tools(&sandbox.path("out"));
}

/// Asks the tools that people use whether the copies are what their names say.
fn opens_in_real_tools(dir: &Path) {
    let film = dir.join("film.mp4");
    let args = ["-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0"];
    if let Some(words) = tool("ffprobe", &args, &film) {
        assert!(words.contains("h264") && words.contains("aac"), "{words}");
    }
    if let Some(words) = tool("pdftotext", &[], &dir.join("document.pdf")) {
        assert!(words.is_empty(), "{words}");
        let text = fs::read_to_string(dir.join("document.txt")).expect("it writes text");
        assert!(text.split_whitespace().count() > 1000, "there are pages of words");
    }
}

/// What a tool prints about a file; nothing if it is not installed here.
fn tool(name: &str, args: &[&str], file: &Path) -> Option<String> {
    let Ok(output) = Command::new(name).args(args).arg(file).stdin(Stdio::null()).output() else {
        eprintln!("left out: {name} is not installed");
        return None;
    };
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn all_samples_arrive_as_one_folder() {
    let sandbox = Sandbox::new();
    for name in SAMPLES {
        let inner = sandbox.path("files").join(name);
        fs::create_dir_all(sandbox.path("files")).expect("made");
        fs::copy(samples().join(name), inner).expect("copied");
    }
    let sharer = sandbox.share(&[&sandbox.path("files")]);
    let ended = sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(0);
    assert_eq!(ended.stdout.last().map(Path::new), Some(Path::new("out/files")));
    assert_same(sandbox.path("files"), sandbox.path("out/files"));
}

#[test]
fn the_root_that_is_printed_is_the_files_plain_hash() {
    let sandbox = Sandbox::new();
    // As `b3sum` prints it; the same figure stands in the samples' own page.
    let known = "8e4971223eb952ae8175a375d1cda48a0de3af3bbc4e736636000d5cded63ddd";
    let sharer = sandbox.share(&[&samples().join("film.mp4")]);
    let done = sandbox.get(&sharer.ticket, "out", &[]).wait().expect(0).event("done");
    assert_eq!(done["files"][0]["root"], known);
    assert_eq!(done["files"][0]["path"], "film.mp4");
    assert!(sharer.process.stderr().contains(known), "{}", sharer.process.stderr());
    let page = fs::read_to_string(samples().join("README.md")).expect("a page");
    assert!(page.contains(known));
}

#[test]
fn the_ticket_is_the_only_line_of_share_and_the_path_the_last_of_get() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 100_000, 1);
    let flags = ["--ticket-file", "ticket.txt", "--manifest-file", "film.manifest"];
    let sharer = sandbox.share_with(&[&source], &flags);
    let ticket = sharer.ticket.clone();
    assert_eq!(parse(&ticket).to_string(), ticket);
    assert_eq!(
        fs::read_to_string(sandbox.path("ticket.txt")).expect("text"),
        format!("{ticket}\n")
    );

    let by_argument = sandbox.run(["get", &ticket, "-o", "argument"]);
    let by_file = sandbox.run(["get", "@ticket.txt", "-o", "file"]);
    let mut command = sandbox.minibit(["get", "-", "-o", "stdin"]);
    command.stdin(fs::File::open(sandbox.path("ticket.txt")).expect("a file"));
    let by_stdin = super::common::Running::start(&mut command).wait();
    for (ended, dir) in [(by_argument, "argument"), (by_file, "file"), (by_stdin, "stdin")] {
        let ended = ended.expect(0);
        assert_eq!(ended.stdout, [format!("{dir}/film.mp4")]);
        assert_same(&source, sandbox.path(dir).join("film.mp4"));
    }

    sharer.process.interrupt();
    let ended = sharer.process.wait().expect(0);
    assert_eq!(ended.stdout, [ticket]);
    assert!(ended.stderr.contains("sent"), "{}", ended.stderr);
}

#[test]
fn several_paths_become_one_folder_under_the_name_that_is_given() {
    let sandbox = Sandbox::new();
    let film = sandbox.file("here/film.mp4", 50_000, 1);
    sandbox.file("there/notes/a.txt", 10, 2);
    sandbox.file("there/notes/deep/b.txt", 20_000, 3);
    let sharer =
        sandbox.share_with(&[&film, &sandbox.path("there/notes")], &["--name", "holidays"]);
    let ended = sandbox.run(["get", &sharer.ticket]).expect(0);
    assert_eq!(ended.stdout.last().map(Path::new), Some(Path::new("./holidays")));
    assert_same(&film, sandbox.path("holidays/film.mp4"));
    assert_same(sandbox.path("there/notes"), sandbox.path("holidays/notes"));
    assert_eq!(super::common::names_in(sandbox.path("holidays")), ["film.mp4", "notes"]);
}

#[test]
fn only_selected_files_are_fetched_and_the_rest_can_follow() {
    let sandbox = Sandbox::new();
    sandbox.file("all/film.mp4", 300_000, 1);
    sandbox.file("all/music.mp3", 200_000, 2);
    sandbox.file("all/notes/a.txt", 40_000, 3);
    sandbox.file("all/notes/b.txt", 5, 4);
    let sharer = sandbox.share(&[&sandbox.path("all")]);
    let flags = ["--select", "*.mp4", "--select", "notes/**"];
    let ended = sandbox.get(&sharer.ticket, "out", &flags).wait().expect(0);
    let (manifest, done) = (ended.event("manifest"), ended.event("done"));
    assert_eq!((number(&manifest, "files"), number(&manifest, "bytes")), (3, 340_005));
    let paths = done["files"].as_array().expect("a list").iter().map(|file| file["path"].clone());
    assert_eq!(paths.collect::<Vec<_>>(), ["film.mp4", "notes/a.txt", "notes/b.txt"]);
    let words = sandbox.run(["get", &sharer.ticket, "-o", "said", "--select", "film.mp4"]);
    let words = words.expect(0).stderr;
    assert!(words.contains("all: 1 of 4 files, 293.0 KiB of 527.3 KiB"), "{words}");
    assert!(words.contains("  film.mp4\n") && !words.contains("music.mp3"), "{words}");
    assert_eq!(number(&done, "bytes"), 340_005);
    assert!(number(&done, "downloaded") >= 340_005);
    for name in ["film.mp4", "notes/a.txt", "notes/b.txt"] {
        assert_same(sandbox.path("all").join(name), sandbox.path("out/all").join(name));
    }
    assert!(!sandbox.path("out/all/music.mp3").exists());

    let rest = ["get", &sharer.ticket, "--select", "*.mp3"];
    let refused = sandbox.run(rest.iter().chain(&["-o", "out"])).expect(5);
    assert!(refused.stderr.contains("nothing can be added to it: --select"), "{}", refused.stderr);
    sandbox.run(rest.iter().chain(&["-o", "rest"])).expect(0);
    assert_same(sandbox.path("all/music.mp3"), sandbox.path("rest/all/music.mp3"));

    let listed = sandbox.run(["get", &sharer.ticket, "-o", "none", "--list"]).expect(0).stdout;
    assert!(listed.iter().any(|line| line.ends_with("  notes/a.txt")), "{listed:#?}");
    assert!(!sandbox.path("none").exists(), "nothing but the list was fetched");

    let ended = sandbox.get(&sharer.ticket, "out", &["--select", "*.wav"]).wait().expect(2);
    assert!(ended.error().contains("selected"), "{}", ended.error());
}

#[test]
fn four_receivers_at_once_all_finish() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 8_000_001, 1);
    let sharer = sandbox.share(&[&source]);
    let gets: Vec<_> =
        (0..4).map(|n| sandbox.get(&sharer.ticket, &format!("out{n}"), &[])).collect();
    for (n, get) in gets.into_iter().enumerate() {
        let done = get.wait().expect(0).event("done");
        assert_eq!(number(&done, "bytes"), 8_000_001);
        assert_same(&source, sandbox.path(format!("out{n}/film.mp4")));
    }
}

#[test]
fn it_works_over_ipv6_alone() {
    if TcpListener::bind("[::1]:0").is_err() {
        eprintln!("left out: this machine has no IPv6 loopback");
        return;
    }
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 1_000_001, 1);
    let mut sharer = sandbox.start(["share", "--listen", "[::1]:0", "film.mp4"]);
    let ticket = sharer.line();
    assert!(parse(&ticket).peers().iter().all(std::net::SocketAddr::is_ipv6), "{ticket}");
    sandbox.run(["get", &ticket, "-o", "out", "--listen", "[::1]:0"]).expect(0);
    assert_same(&source, sandbox.path("out/film.mp4"));
}

#[test]
fn a_receiver_ends_when_it_is_done_and_seeds_as_long_as_it_is_told_to() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 500_000, 1);
    let sharer = sandbox.share(&[&source]);
    sandbox.run(["get", &sharer.ticket, "-o", "plain"]).expect(0);

    let by_time = sandbox.get(&sharer.ticket, "time", &["--seed-time", "10ms"]).wait().expect(0);
    by_time.event("done");
    by_time.event("stopped");

    let mut by_ratio = sandbox.get(&sharer.ticket, "ratio", &["--seed-ratio", "1"]);
    let addr = by_ratio.event("listening", |_| true)["addresses"][0].clone();
    by_ratio.event("done", |_| true);
    let addr = addr.as_str().expect("text").parse().expect("an address");
    // Only from the one that stays, so that it gives back exactly what it has.
    let ticket = super::common::led(&sharer.ticket, &[], &[addr]);
    sandbox.run(["get", &ticket, "-o", "second"]).expect(0);
    let stopped = by_ratio.wait().expect(0).event("stopped");
    assert!(number(&stopped, "uploaded") >= 500_000, "{stopped}");

    let mut forever = sandbox.get(&sharer.ticket, "forever", &["--seed"]);
    forever.event("done", |_| true);
    assert!(forever.is_running());
    forever.interrupt();
    forever.wait().expect(0).event("stopped");
}

#[test]
fn a_long_lived_peer_shares_and_fetches_at_once() {
    let sandbox = Sandbox::new();
    let (one, other) = (sandbox.file("one", 300_000, 1), sandbox.file("other", 200_000, 2));
    let sharer = sandbox.share(&[&one]);
    let args = ["peer", "--id", "3", "--listen", "127.0.0.1:0", "-o", "in", "--share", "other"];
    let mut peer = sandbox.start(args.into_iter().chain(["--get", &sharer.ticket]));
    let ticket = peer.line();
    sandbox.run(["get", &ticket, "-o", "out"]).expect(0);
    assert_same(&other, sandbox.path("out/other"));
    eventually("the peer's own download", || sandbox.path("in/one").exists().then_some(()));
    assert_same(&one, sandbox.path("in/one"));
    peer.interrupt();
    peer.wait().expect(0);
}

#[test]
fn a_source_cut_short_while_it_is_shared_is_withdrawn_and_nobody_dies() {
    let sandbox = Sandbox::new();
    sandbox.file("all/film.mp4", 3_000_000, 1);
    let whole = sandbox.file("all/music.mp3", 1_000_000, 2);
    let mut sharer = sandbox.share(&[&sandbox.path("all")]);
    fs::OpenOptions::new()
        .write(true)
        .open(sandbox.path("all/film.mp4"))
        .and_then(|file| file.set_len(1000))
        .expect("cut");
    let failed = sandbox.run(["get", &sharer.ticket, "-o", "none", "--wait", "1s"]).expect(4);
    assert!(failed.error().contains("was changed where it is shared"), "{}", failed.error());
    assert!(failed.stderr.contains("ask for a new ticket"), "{}", failed.stderr);
    assert!(!failed.stderr.contains("run the same command"), "{}", failed.stderr);
    eventually("the sharer's words", || sharer.process.stderr().contains("film.mp4").then_some(()));
    assert!(sharer.process.is_running());
    // What is still whole is still shared.
    sandbox.run(["get", &sharer.ticket, "-o", "out", "--select", "*.mp3"]).expect(0);
    assert_same(&whole, sandbox.path("out/all/music.mp3"));
    let told = sharer.process.stderr();
    assert!(told.contains("share it again") && !told.contains("nothing else is left"), "{told}");
}

#[test]
fn whoever_has_nothing_left_to_share_is_told_how_to_share_anew() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 3_000_000, 1);
    let sharer = sandbox.share(&[&source]);
    sandbox.file("film.mp4", 3_000_000, 2);
    sandbox.run(["get", &sharer.ticket, "-o", "none", "--wait", "1s"]).expect(4);
    let words = "nothing else is left of the share; share it again";
    eventually("its words", || sharer.process.stderr().contains(words).then_some(()));
    assert_eq!(sharer.process.stderr().matches("film.mp4 was changed").count(), 1);
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_follow_the_size_of_the_file() {
    const LEN: u64 = 256 << 20;
    /// Far above what is needed, far below the file.
    const MOST: u64 = 64 << 20;
    let sandbox = Sandbox::new();
    let file = fs::File::create(sandbox.path("film.mp4")).expect("made");
    file.set_len(LEN).expect("a sparse file");
    let sharer = sandbox.share(&[&sandbox.path("film.mp4")]);
    let mut get = sandbox.get(&sharer.ticket, "out", &["--seed"]);
    let mut most = 0;
    eventually("the whole file", || {
        most = most.max(sharer.process.own_memory()).max(get.own_memory());
        sandbox.path("out/film.mp4").exists().then_some(())
    });
    get.event("done", |_| true);
    assert!(most > 0 && most < MOST, "{most} bytes");
}

/// A piece, in connections that are lost after a sixth of it.
const PIECE: u64 = 2 << 20;
const CUT_AFTER: u64 = PIECE / 6;

#[test]
fn a_piece_arrives_though_every_connection_is_lost_in_the_middle_of_it() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", (2 * PIECE) as usize - 1000, 1);
    let sharer = sandbox.share_with(&[&source], &["--piece-size", "2M"]);
    let relay = Relay::cutting(sharer.addr(), CUT_AFTER);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    sandbox.get(&ticket, "out", &[]).wait().expect(0);
    assert_same(&source, sandbox.path("out/film.mp4"));
    // What is on its way when one of several connections is lost may be lost with it.
    let passed = relay.payload();
    assert!(passed <= 3 * PIECE, "{passed} bytes passed of {}", 2 * PIECE);
    assert!(relay.frames("REGISTRO") > 12, "it was lost again and again");
}

#[test]
fn a_liar_that_leaves_in_the_middle_keeps_nobody_on_a_bad_connection_from_finishing() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", (2 * PIECE) as usize - 1000, 2);
    let share = || sandbox.share_with(&[&source], &["--piece-size", "2M"]);
    let (honest, other) = (share(), share());
    let bad = Relay::cutting(honest.addr(), CUT_AFTER);
    let liar = Relay::lying_and_cutting(other.addr(), CUT_AFTER);
    let ticket = led(&honest.ticket, &[], &[liar.addr(), bad.addr()]);
    let ended = sandbox.get(&ticket, "out", &[]).wait().expect(0);
    assert_same(&source, sandbox.path("out/film.mp4"));
    assert!(liar.payload() > 0, "it was asked");
    let warnings: Vec<_> = ended.stdout.iter().filter(|line| line.contains("banned")).collect();
    let accused = bad.addr().to_string();
    assert!(warnings.iter().all(|line| !line.contains(&accused)), "{warnings:?}");
}
