//! Many at once: receivers that feed each other, and go on when somebody goes.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use serde_json::Value;

use super::common::{Running, Sandbox, Sharer, assert_same, eventually, led, number};
use super::journal::Journal;
use super::relay::Relay;

const LEN: usize = 24_000_000;
const PIECE: usize = 64 * 1024;

/// Four receivers of one film. They know each other through a tracker of their own, and the
/// sharer only through a relay, which holds it back after a part of the film.
struct Stage {
    sandbox: Sandbox,
    sharer: Sharer,
    _tracker: Running,
    relay: Relay,
    gets: Vec<Running>,
}

impl Stage {
    fn new(budget: u64) -> Self {
        let sandbox = Sandbox::new();
        let source = sandbox.file("film.mp4", LEN, 1);
        let sharer = sandbox.share_with(&[&source], &["--piece-size", "64K"]);
        let mut tracker = sandbox.start(["--json", "tracker", "--listen", "127.0.0.1:0", "--mesh"]);
        let listening = tracker.event("listening", |_| true);
        let addr = listening["addresses"][0].as_str().expect("text").parse().expect("an address");
        let relay = Relay::start(sharer.addr(), budget);
        let ticket = led(&sharer.ticket, &[addr], &[relay.addr()]);
        let gets = (0..4).map(|n| sandbox.get(&ticket, &format!("out{n}"), &["--seed"])).collect();
        Self { sandbox, sharer, _tracker: tracker, relay, gets }
    }

    /// Waits until these are complete, and compares what they have.
    fn finish(&mut self, which: impl IntoIterator<Item = usize>) -> HashMap<usize, Value> {
        let mut done = HashMap::new();
        for n in which {
            done.insert(n, self.gets[n].event("done", |_| true));
            let copy = self.sandbox.path(format!("out{n}/film.mp4"));
            assert_same(self.sandbox.path("film.mp4"), copy);
        }
        done
    }
}

#[test]
fn receivers_feed_each_other() {
    let mut stage = Stage::new(6_000_000);
    stage.relay.wait_for_end();
    // Held back, the sharer gives nothing more: what they get now is each other's.
    let mut have = HashMap::new();
    let mut sum = 0;
    while sum <= stage.relay.payload() {
        for (n, get) in stage.gets.iter_mut().enumerate() {
            if have.values().sum::<u64>() > stage.relay.payload() {
                break;
            }
            let event = get.event("progress", |event| event["what"] == "fetching");
            have.insert(n, number(&event, "bytes"));
        }
        sum = have.values().sum();
    }
    stage.relay.open();
    stage.finish(0..4);
    let from_sharer = stage.relay.payload();
    let mut uploaded = 0;
    for get in stage.gets.drain(..) {
        get.interrupt();
        uploaded += number(&get.wait().expect(0).event("stopped"), "uploaded");
    }
    assert!(uploaded > 0, "they gave each other something");
    assert!(uploaded + from_sharer >= 4 * LEN as u64, "{uploaded} and {from_sharer}");
    assert!(from_sharer < 4 * LEN as u64, "the sharer gave less than a copy to each");
}

#[test]
fn when_the_sharer_leaves_after_one_copy_is_out_the_rest_comes_from_the_others() {
    let mut stage = Stage::new(u64::MAX);
    let pieces = LEN.div_ceil(PIECE);
    let out: Vec<PathBuf> = (0..4).map(|n| stage.sandbox.path(format!("out{n}"))).collect();
    eventually("a copy among them", || {
        // Who has its own copy has no journal any more.
        let copy = out.iter().any(|dir| dir.join("film.mp4").exists());
        let journals = out.iter().map(|dir| dir.join("film.mp4.part.minibit"));
        let pieces_out: BTreeSet<u32> =
            journals.filter_map(|path| Journal::read(&path)).flat_map(|it| it.pieces).collect();
        (copy || pieces_out.len() == pieces).then_some(())
    });
    stage.sharer.process.kill();
    stage.finish(0..4);
}

#[test]
fn when_a_receiver_is_killed_the_others_finish() {
    let mut stage = Stage::new(6_000_000);
    stage.relay.wait_for_end();
    stage.gets[1].kill();
    stage.relay.open();
    stage.finish([0, 2, 3]);
}

#[test]
fn when_the_sharer_says_goodbye_a_seeding_receiver_takes_its_place() {
    let mut stage = Stage::new(u64::MAX);
    stage.finish(0..4);
    let Sharer { process, ticket } = stage.sharer;
    process.interrupt();
    process.wait().expect(0);
    // The ticket leads to the sharer alone; whoever knows another address goes there.
    let listening = stage.gets.remove(2);
    let mut last = stage.sandbox.get(
        &led(&ticket, &[], &[stage.relay.addr()]),
        "last",
        &["--peer", &address(&listening)],
    );
    last.event("done", |_| true);
    assert_same(stage.sandbox.path("film.mp4"), stage.sandbox.path("last/film.mp4"));
}

/// Where a process said that it listens.
fn address(process: &Running) -> String {
    let said = process.seen().iter().find(|line| line.contains("\"listening\"")).expect("said");
    let event: Value = serde_json::from_str(said).expect("JSON");
    event["addresses"][0].as_str().expect("text").to_owned()
}

#[test]
fn blocks_are_asked_for_in_batches_and_news_are_told_in_batches() {
    let stage = Stage::new(u64::MAX);
    let Stage { mut gets, relay, .. } = stage;
    for get in &mut gets {
        get.event("done", |_| true);
    }
    let (blocks, requests) = (relay.frames("BLOCO"), relay.frames("PEDIDO"));
    assert!(blocks > 0 && requests < blocks, "{requests} requests for {blocks} blocks");
    assert!(relay.frames("ESTOQUE") < blocks, "news do not come one by one");
    assert!(relay.frames("REGISTRO") >= 2, "each side introduces itself");
}
