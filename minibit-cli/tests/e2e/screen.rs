//! What people see on a terminal while a download takes its time, however narrow it is.

use std::collections::BTreeSet;

use super::common::{Running, Sandbox, eventually, led};
use super::relay::Relay;
use super::terminal::{drawn, start_on};

/// Different lines that show a clock of this name, once there are so many; each has room on its terminal.
#[track_caller]
fn counting(process: &Running, columns: usize, clock: &str, count: usize) -> BTreeSet<String> {
    eventually("a clock that counts", || {
        let lines = drawn(process).into_iter().filter(|line| line.starts_with("fetching"));
        let lines: BTreeSet<String> = lines.filter(|line| line.contains(clock)).collect();
        for line in &lines {
            assert!(line.chars().count() <= columns, "{columns}: {line}");
        }
        (lines.len() >= count).then_some(lines)
    })
}

#[test]
fn while_a_sharer_that_stands_still_is_waited_for_a_clock_counts_on_terminals_of_any_width() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 3_000_000, 1);
    let sharer = sandbox.share(&[&source]);
    let relay = Relay::start(sharer.addr(), 1_500_000);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    let start = |columns: u16, wait: &str| {
        let dir = format!("{columns} {wait}");
        let args = ["get", &ticket, "-o", &dir, "--listen", "127.0.0.1:0", "--wait", wait];
        (start_on(columns, sandbox.minibit(args)), usize::from(columns))
    };
    let bounded = [40, 60, 80, 120].map(|columns| start(columns, "40s"));
    let unbounded = [40, 80].map(|columns| start(columns, "forever"));
    for (process, columns) in &bounded {
        counting(process, *columns, "giving up in ", 3);
    }
    for (process, columns) in &unbounded {
        counting(process, *columns, "nothing for ", 3);
    }
    for (process, _) in bounded.into_iter().chain(unbounded) {
        process.interrupt();
        process.wait().expect(130);
    }
}

#[test]
fn while_nobody_answers_at_all_a_clock_counts_too() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 10, 1);
    // The sharer is gone by now.
    let ticket = sandbox.share(&[&source]).ticket;
    for (wait, clock) in [("40s", "giving up in "), ("forever", "nothing for ")] {
        let args = ["get", &ticket, "--listen", "127.0.0.1:0", "--wait", wait];
        let process = start_on(40, sandbox.minibit(args));
        counting(&process, 40, clock, 2);
        process.interrupt();
        process.wait().expect(130);
    }
}

#[test]
fn no_time_that_is_left_is_told_while_nothing_comes() {
    const STEP: u64 = 200_000;
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 40_000_000, 1);
    let sharer = sandbox.share_with(&[&source], &["--piece-size", "16K"]);
    let relay = Relay::start(sharer.addr(), STEP);
    let ticket = led(&sharer.ticket, &[], &[relay.addr()]);
    let mut get = sandbox.get(&ticket, "out", &[]);
    // Some comes each second, until it can be told how long the rest takes.
    get.event("progress", |progress| {
        relay.allow(STEP);
        progress.get("seconds_left").is_some()
    });
    let silent = get.event("progress", |progress| progress.get("silent_for").is_some());
    assert!(silent.get("seconds_left").is_none(), "{silent}");
    get.interrupt();
    get.wait().expect(130);
}
