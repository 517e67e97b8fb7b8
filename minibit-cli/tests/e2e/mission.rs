//! The mission's page against the tests there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::common::Sandbox;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all functions marked as tests under a directory.
fn tests_under(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("readable").map(|entry| entry.expect("one")) {
        let path = entry.path();
        if path.is_dir() {
            tests_under(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            found.extend(tests_in(&text).map(str::to_owned));
        }
    }
}

/// The name of the function after each `#[test]` and the like.
fn tests_in(text: &str) -> impl Iterator<Item = &str> {
    let marked = ["#[test]", "#[tokio::test"];
    let mut lines = text.lines().map(str::trim);
    std::iter::from_fn(move || {
        lines.find(|line| marked.iter().any(|mark| line.starts_with(mark)))?;
        let name = lines.find_map(|line| line.split_once("fn ").map(|(_, rest)| rest))?;
        name.split('(').next()
    })
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// A sentence as tests' names are, rather than a field or a file.
fn is_test_name(text: &str) -> bool {
    text.matches('_').count() >= 3
        && text.chars().all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit())
}

#[test]
fn every_row_of_the_mission_names_what_shows_it_and_that_exists() {
    let page = fs::read_to_string(root().join("docs/mission.md")).expect("a page");
    let mut tests = BTreeSet::new();
    for part in ["minibit-core/src", "minibit-core/tests", "minibit-cli/src", "minibit-cli/tests"] {
        tests_under(&root().join(part), &mut tests);
    }
    for name in quoted(&page).filter(|text| is_test_name(text)) {
        assert!(tests.contains(name), "there is no test {name}");
    }

    let rows = page.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let number: u32 = cells.next()?.parse().ok()?;
        Some((number, cells.last()?))
    });
    let rows: Vec<(u32, &str)> = rows.collect();
    let numbers: Vec<u32> = rows.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=43).collect::<Vec<_>>());
    for (number, shown) in rows {
        // A command shows what a machine makes of it, and holds nothing to anything.
        assert!(quoted(shown).any(is_test_name), "no test shows row {number}");
        let has_command = quoted(shown).any(|text| text.starts_with(RUN));
        assert_eq!(has_command, MEASURED.contains(&number), "row {number}");
    }
}

/// The rows whose figures depend on the machine: they name the command that prints them.
const MEASURED: std::ops::RangeInclusive<u32> = 41..=43;
/// How a command of the page begins.
const RUN: &str = "cargo run --release -- ";

#[test]
fn every_command_of_the_mission_is_one_that_the_command_line_takes() {
    let page = fs::read_to_string(root().join("docs/mission.md")).expect("a page");
    let sandbox = Sandbox::new();
    let mut commands = 0;
    for command in quoted(&page).filter_map(|text| text.strip_prefix(RUN)) {
        // What stands before it is looked at first.
        sandbox.run(command.split(' ').chain(["--help"])).expect(0);
        commands += 1;
    }
    assert!(commands >= MEASURED.count(), "{commands}");
}

#[test]
fn tests_are_found_by_their_marks() {
    let text = "#[test]\nfn one() {}\nfn two() {}\n #[tokio::test(flavor)]\n async fn three() {}";
    assert_eq!(tests_in(text).collect::<Vec<_>>(), ["one", "three"]);
}
