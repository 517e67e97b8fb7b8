//! Swarms in virtual time: what is printed and drawn, and what is refused.

use std::fs;

use serde_json::Value;

use super::common::{Ended, Sandbox, number};

/// Small enough for a build without optimisation.
const SMALL: [&str; 5] = ["simulate", "--peers", "8", "--pieces", "30"];

fn simulate(sandbox: &Sandbox, flags: &[&str]) -> Ended {
    sandbox.run(SMALL.iter().chain(flags))
}

/// The runs' events; what they tell of real time is left out.
fn runs(ended: &Ended) -> Vec<Value> {
    let mut events = ended.events();
    events.retain(|event| event["event"] == "simulated");
    for event in &mut events {
        event.as_object_mut().expect("an object").remove("real_seconds").expect("a field");
    }
    events
}

#[test]
fn a_simulation_prints_a_table_of_what_came_of_the_swarm() {
    let sandbox = Sandbox::new();
    let ended = simulate(&sandbox, &["--upload", "1Mbit-8Mbit", "--free-riders", "25%"]).expect(0);
    let table = ended.stdout.join("\n");
    for row in [
        "first peer done",
        "median peer done",
        "last peer done",
        "last / that bound",
        "seeders sent",
        "till a copy was out",
        "messages per peer",
        "in vain",
        "Jain",
        "rank corr.",
        "free riders / the honest",
        "events",
        "real time",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    assert!(ended.stderr.contains("8 peers, 1 seeder"), "{}", ended.stderr);
    assert!(ended.stderr.contains("1 Mbit/s to 8 Mbit/s"), "{}", ended.stderr);
}

#[test]
fn what_was_asked_for_beyond_the_usual_has_its_rows_and_its_fields() {
    let sandbox = Sandbox::new();
    let flags = ["--large-view", "25%", "--slow-peers", "1", "--joining", "2s"];
    let table = simulate(&sandbox, &flags).expect(0).stdout.join("\n");
    for row in [
        "without the slow peers",
        "later with them",
        "for what they do not send",
        "for other reasons",
        "last of the others later",
        "a piece takes, sent alone",
        "a piece takes, sent with four others",
        "first piece after joining",
        "honest peers banned",
        "free riders / the honest",
    ] {
        assert!(table.contains(row), "{row}: {table}");
    }
    let run = runs(&simulate(&sandbox, &[&flags[..], &["--json"]].concat()).expect(0)).remove(0);
    assert_eq!(run["honest_peers_banned"], 0);
    let of = |field: &str| run[field].as_f64().expect("a figure");
    let later = of("last_seconds") - of("last_without_slow_seconds");
    assert!((later - of("slow_delay_seconds")).abs() < 1e-6, "{run}");
    assert!(of("piece_seconds") > 0.0 && of("slow_unsent_seconds") > 0.0, "{run}");
    assert!(of("slow_delay_of_others_seconds") <= of("slow_delay_seconds"), "{run}");
    assert!(of("first_piece_median_rounds") <= of("first_piece_last_rounds"), "{run}");
    let usual = simulate(&sandbox, &[]).expect(0).stdout.join("\n");
    assert!(!usual.contains("slow peers") && !usual.contains("banned"), "{usual}");
}

#[test]
fn a_swarm_that_is_stopped_has_not_failed_and_tells_how_evenly_peers_were_served() {
    let sandbox = Sandbox::new();
    let ended = simulate(&sandbox, &["--json", "--stop-after", "3s"]).expect(0);
    let run = runs(&ended).remove(0);
    assert_eq!(run["finished"], false, "{run}");
    let share = |field: &str| run[field].as_f64().expect("a share");
    assert!(share("least_share") <= 1.0 && share("most_share") >= 1.0, "{run}");
    assert!((3.0..3.5).contains(&share("simulated_seconds")), "{run}");
    let (least, median) = (share("least_verified"), share("median_verified"));
    assert!((0.0..=median).contains(&least) && 0.0 < median && median < 1.0, "{run}");
    let table = simulate(&sandbox, &["--stop-after", "3s"]).expect(0).stdout.join("\n");
    for row in ["verified, median peer", "verified, last peer", "least / mean", "most / mean"] {
        assert!(table.contains(row), "{row}: {table}");
    }
}

#[test]
fn each_run_of_a_simulation_is_an_event_with_the_next_seed() {
    let sandbox = Sandbox::new();
    let ended = simulate(&sandbox, &["--json", "--runs", "3", "--seed", "7"]).expect(0);
    let runs = runs(&ended);
    let seeds: Vec<u64> = runs.iter().map(|run| number(run, "seed")).collect();
    assert_eq!(seeds, [7, 8, 9]);
    for run in &runs {
        assert_eq!(
            (&run["finished"], number(run, "honest_peers_done")),
            (&true.into(), 8),
            "{run}"
        );
        let seconds = |field: &str| run[field].as_f64().expect("a time");
        assert!(seconds("first_seconds") <= seconds("median_seconds"), "{run}");
        assert!(seconds("median_seconds") <= seconds("last_seconds"), "{run}");
        assert!(seconds("lower_bound_seconds") <= seconds("last_seconds"), "{run}");
    }
    let table = simulate(&sandbox, &["--runs", "3", "--seed", "7"]).expect(0).stdout.join("\n");
    assert!(["median", "least", "most"].iter().all(|name| table.contains(name)), "{table}");
}

#[test]
fn a_swarm_that_never_finishes_ends_at_the_same_event_each_time() {
    let sandbox = Sandbox::new();
    let run = || runs(&sandbox.run(["--json", "simulate", "--varied", "17"]).expect(0)).remove(0);
    assert_eq!(run(), run());
}

#[test]
fn the_same_seed_simulates_the_same_events_and_another_seed_others() {
    let sandbox = Sandbox::new();
    let run = |seed| runs(&simulate(&sandbox, &["--json", "--seed", seed]).expect(0)).remove(0);
    let (one, again, other) = (run("3"), run("3"), run("4"));
    assert_eq!(one, again);
    assert_ne!(one["events_hash"], other["events_hash"]);
}

#[test]
fn a_plot_is_a_picture_of_three_panels_and_a_dot_for_each_peer() {
    let sandbox = Sandbox::new();
    simulate(&sandbox, &["--plot", "swarm.svg"]).expect(0);
    let picture = fs::read_to_string(sandbox.path("swarm.svg")).expect("a picture");
    assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"));
    assert_well_formed(&picture);
    for title in ["Completion", "Copies of a piece", "What each peer gave and got", "8 peers"] {
        assert!(picture.contains(title), "{title}");
    }
    // Two more of them are the legend's.
    assert_eq!(picture.matches("<circle ").count(), 8 + 1 + 2);

    let ended = simulate(&sandbox, &["--plot", "nowhere/swarm.svg"]).expect(5);
    assert!(ended.error().contains("nowhere/swarm.svg"), "{}", ended.error());
}

#[test]
fn a_plot_shows_peers_of_every_kind() {
    let sandbox = Sandbox::new();
    let mut args = vec!["simulate", "--peers", "20", "--pieces", "30", "--stop-after", "5s"];
    args.extend(["--plot", "swarm.svg"]);
    let kinds = ["free-riders", "large-view", "corrupt", "liars", "drippers", "flooders"];
    let kinds = kinds.map(|kind| format!("--{kind}=10%"));
    args.extend(kinds.iter().map(String::as_str));
    sandbox.run(args).expect(0);
    let picture = fs::read_to_string(sandbox.path("swarm.svg")).expect("a picture");
    assert_well_formed(&picture);
    assert!(
        picture.contains("stopped after 5.00 s with 0 of 8 honest peers done; the median has ")
    );
    assert!(!picture.contains("not done"), "it was not to be");
    // Of the six kinds, the honest and the seeder there is one in the legend.
    assert_eq!(picture.matches("<circle ").count(), 20 + 1 + 8);
}

/// Every element that is opened is closed, in order, and values stand in quotes.
#[track_caller]
fn assert_well_formed(xml: &str) {
    let mut open = Vec::new();
    for tag in xml.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("a tag ends");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        let name = |tag: &str| tag.split([' ', '\n']).next().unwrap_or_default().to_owned();
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name(closed)), "{tag}");
        } else if !tag.ends_with('/') {
            open.push(name(tag));
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_swarm_that_lost_pieces_is_told_and_ends_with_code_1() {
    let sandbox = Sandbox::new();
    let flags = ["--json", "--seeders-leave", "0.5", "--plot", "swarm.svg"];
    let ended = simulate(&sandbox, &flags).expect(1);
    let picture = fs::read_to_string(sandbox.path("swarm.svg")).expect("a picture");
    let outcome = picture.lines().find(|line| line.contains("ended after ")).expect("it is told");
    assert!(outcome.ends_with(" with 0 of 8 honest peers done"), "{outcome}");
    let run = runs(&ended).remove(0);
    assert_eq!((&run["finished"], run.get("last_seconds")), (&false.into(), None), "{run}");
    assert!(ended.error().contains("never got everything"), "{}", ended.error());
    assert_eq!(number(&ended.event("failed"), "code"), 1);
}

#[test]
fn a_swarm_that_cannot_be_simulated_is_a_usage_error_of_one_line() {
    let sandbox = Sandbox::new();
    for (flags, word) in [
        (&["--pieces", "1048577"][..], "1048576"),
        (&["--peers", "0"], "from 1 to"),
        (&["--peers", "999999"], "from 1 to"),
        (&["--upload", "fast"], "10Mbit"),
        (&["--upload", "10Mbit-1Mbit"], "lower rate comes first"),
        (&["--slots", "four"], "4+1"),
        (&["--free-riders", "140%"], "100%"),
        (&["--start", "nothing"], "round-robin"),
        (&["--seeders", "0"], "seeder"),
        (&["--free-riders", "100%"], "honest"),
        (&["--peers", "20000", "--pieces", "1000000"], "memory"),
    ] {
        let ended = sandbox.run(["simulate"].iter().chain(flags)).expect(2);
        assert!(ended.error().contains(word), "{flags:?}: {}", ended.error());
        assert!(ended.stdout.is_empty(), "{flags:?}");
    }
}

#[test]
fn ctrl_c_ends_a_simulation_with_code_130() {
    let sandbox = Sandbox::new();
    let mut long = sandbox.start(["--json", "simulate", "--peers", "300"]);
    long.event("progress", |_| true);
    long.interrupt();
    let ended = long.wait().expect(130);
    assert!(ended.error().contains("interrupted"), "{}", ended.error());
}

#[test]
fn a_picture_that_cannot_be_drawn_is_told_before_anything_is_simulated() {
    let sandbox = Sandbox::new();
    let ended = sandbox.run(["simulate", "--peers", "3", "--plot", "nowhere/x.svg"]).expect(5);
    assert!(ended.error().contains("nowhere/x.svg"), "{}", ended.error());
    assert!(ended.stdout.is_empty(), "{ended:#?}");
}
