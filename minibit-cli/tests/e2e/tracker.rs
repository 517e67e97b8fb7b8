//! Trackers: found through them, without them, and again when they come back.

use std::net::{SocketAddr, TcpListener};

use super::common::{Running, Sandbox, Sharer, assert_same, eventually, led, number};
use super::relay::Relay;

/// Starts a tracker with these flags, and says where it listens.
fn tracker(sandbox: &Sandbox, listen: &str, flags: &[&str]) -> (Running, SocketAddr) {
    let mut args = vec!["--json", "tracker", "--listen", listen];
    args.extend(flags);
    let mut tracker = sandbox.start(args);
    let listening = tracker.event("listening", |_| true);
    let addr = listening["addresses"][0].as_str().expect("text").parse().expect("an address");
    (tracker, addr)
}

/// Shares `film.mp4` of that length and announces it to a tracker.
fn announced(sandbox: &Sandbox, tracker: SocketAddr, len: usize) -> Sharer {
    let source = sandbox.file("film.mp4", len, 1);
    sandbox.share_with(&[&source], &["--tracker", &tracker.to_string()])
}

#[test]
fn a_share_is_found_through_a_tracker_alone() {
    let sandbox = Sandbox::new();
    let (_tracker, addr) = tracker(&sandbox, "127.0.0.1:0", &[]);
    let sharer = announced(&sandbox, addr, 1_000_001);
    assert_eq!(super::common::parse(&sharer.ticket).trackers(), [addr]);
    let ticket = led(&sharer.ticket, &[addr], &[]);
    sandbox.run(["get", &ticket, "-o", "out"]).expect(0);
    assert_same(sandbox.path("film.mp4"), sandbox.path("out/film.mp4"));
}

#[test]
fn a_share_without_a_named_tracker_has_one_of_its_own() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 400_000, 1);
    let sharer = sandbox.share(&[&source]);
    // Through the tracker in the sharer's process, and nobody else.
    let ticket = led(&sharer.ticket, &[sharer.addr()], &[]);
    sandbox.run(["get", &ticket, "-o", "out"]).expect(0);
    assert_same(&source, sandbox.path("out/film.mp4"));
}

#[test]
fn a_ticket_names_the_address_that_is_announced_and_how_far_it_reaches_is_said() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 1000, 1);
    let near = sandbox.share(&[&source]);
    let reach = "on this machine it is fetched with";
    eventually("its words", || near.process.stderr().contains(reach).then_some(()));
    let flags = ["--announce", "203.0.113.5", "--announce", "203.0.113.6:80"];
    let far = sandbox.share_with(&[&source], &flags);
    eventually("its words", || far.process.stderr().contains("others fetch it").then_some(()));
    let ticket = super::common::parse(&far.ticket);
    let (first, own) = (ticket.peers()[0], ticket.peers()[2]);
    assert_eq!((first.ip().to_string(), first.port()), ("203.0.113.5".to_owned(), own.port()));
    assert_eq!(ticket.peers()[1].to_string(), "203.0.113.6:80");
    assert_eq!(ticket.peers(), ticket.trackers(), "its own tracker is reached there, too");
}

#[test]
fn a_tracker_that_seeds_is_peer_0_and_holds_everything() {
    let sandbox = Sandbox::new();
    let (film, music) = (sandbox.file("film.mp4", 700_000, 1), sandbox.file("music.mp3", 9, 2));
    let seeds = ["--seed", "film.mp4", "--seed", "music.mp3"];
    let args = ["--json", "tracker", "--listen", "127.0.0.1:0"];
    let mut tracker = sandbox.start(args.into_iter().chain(seeds));
    let listening = tracker.event("listening", |_| true);
    assert!(listening["peer"].as_str().expect("text").chars().all(|c| c == '0'), "{listening}");
    for source in [film, music] {
        let ticket = tracker.event("ticket", |_| true)["ticket"].as_str().expect("text").to_owned();
        sandbox.run(["get", &ticket, "-o", "out"]).expect(0);
        assert_same(&source, sandbox.path("out").join(source.file_name().expect("a name")));
    }
    tracker.interrupt();
    let stopped = tracker.wait().expect(0).event("stopped");
    assert!(number(&stopped, "uploaded") >= 700_009);
}

#[test]
fn swarms_of_4_5_and_6_peers_finish_under_the_classic_rule_and_in_a_mesh() {
    for (flags, peers) in [("--classic", 4), ("--classic", 5), ("--classic", 6), ("--mesh", 5)] {
        let sandbox = Sandbox::new();
        let (_tracker, addr) = tracker(&sandbox, "127.0.0.1:0", &[flags]);
        let sharer = announced(&sandbox, addr, 2_000_001);
        let ticket = led(&sharer.ticket, &[addr], &[]);
        // The sharer is one of them.
        let gets: Vec<_> = (1..peers)
            .map(|n| sandbox.get(&ticket, &format!("out{n}"), &["--classic-slots"]))
            .collect();
        for (n, get) in (1..peers).zip(gets) {
            get.wait().expect(0);
            assert_same(sandbox.path("film.mp4"), sandbox.path(format!("out{n}/film.mp4")));
        }
    }
}

#[test]
fn a_transfer_outlives_its_tracker() {
    let sandbox = Sandbox::new();
    let (mut tracker, addr) = tracker(&sandbox, "127.0.0.1:0", &[]);
    let source = sandbox.file("film.mp4", 12_000_000, 1);
    let sharer = sandbox.share(&[&source]);
    // The sharer is reached through the relay alone; the tracker tells the receivers of each
    // other.
    let relay = Relay::start(sharer.addr(), 4_000_000);
    let ticket = led(&sharer.ticket, &[addr], &[relay.addr()]);
    let gets: Vec<_> = (0..3).map(|n| sandbox.get(&ticket, &format!("out{n}"), &[])).collect();
    relay.wait_for_end();
    tracker.kill();
    relay.open();
    for (n, get) in gets.into_iter().enumerate() {
        get.wait().expect(0);
        assert_same(&source, sandbox.path(format!("out{n}/film.mp4")));
    }
}

#[test]
fn a_tracker_that_comes_back_knows_its_peers_again() {
    let sandbox = Sandbox::new();
    let (mut first, addr) = tracker(&sandbox, "127.0.0.1:0", &[]);
    let sharer = announced(&sandbox, addr, 1_000_001);
    let ticket = led(&sharer.ticket, &[addr], &[]);
    let mut stays = sandbox.get(&ticket, "stays", &["--seed"]);
    stays.event("done", |_| true);
    first.kill();
    // The same address, and nothing that it knew before.
    let (_second, again) = tracker(&sandbox, &addr.to_string(), &[]);
    assert_eq!(again, addr);
    let done = sandbox.get(&ticket, "late", &[]).wait().expect(0).event("done");
    assert_same(sandbox.path("film.mp4"), sandbox.path("late/film.mp4"));
    let seconds = done["seconds"].as_f64().expect("a number");
    assert!(seconds < 15.0, "the peers were back within seconds, not {seconds}");
}

#[test]
fn a_tracker_that_is_not_there_is_no_reason_to_fail() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 300_000, 1);
    let sharer = sandbox.share(&[&source]);
    // A port that was free a moment ago.
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let ticket = led(&sharer.ticket, &[nobody], &[sharer.addr()]);
    sandbox.run(["get", &ticket, "-o", "out"]).expect(0);
    assert_same(&source, sandbox.path("out/film.mp4"));
}

#[test]
fn a_named_tracker_that_is_not_there_is_told_once_and_so_is_its_coming() {
    let sandbox = Sandbox::new();
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let sharer = announced(&sandbox, addr, 1000);
    let said = |words: &str| {
        eventually(words, || sharer.process.stderr().contains(words).then_some(()));
    };
    said(&format!("warning: the tracker {addr} does not answer (refused: "));
    let (_tracker, _) = tracker(&sandbox, &addr.to_string(), &[]);
    said(&format!("the tracker {addr} answers now"));
    assert_eq!(sharer.process.stderr().matches("does not answer").count(), 1);
}

#[test]
fn a_tracker_ends_in_order_when_it_is_told_to() {
    let sandbox = Sandbox::new();
    let (tracker, _) = tracker(&sandbox, "127.0.0.1:0", &[]);
    tracker.signal(rustix::process::Signal::TERM);
    tracker.wait().expect(0).event("stopped");
}
