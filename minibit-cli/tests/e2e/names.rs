//! Folders as people have them: odd sizes, deep, many files, names that take care.

use std::fs;
use std::path::Path;

use super::common::{Sandbox, assert_same, eventually, names_in, number};

/// Of the smallest kind, so that small files have several.
const PIECE: usize = 16 * 1024;

#[test]
fn files_of_every_awkward_size_arrive() {
    let sandbox = Sandbox::new();
    let sizes = [0, 1, 2, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 1, 4 * PIECE - 1];
    for (seed, size) in sizes.into_iter().enumerate() {
        sandbox.file(format!("sizes/{size}"), size, seed as u64);
        sandbox.file(format!("sizes/again/{size}"), size, 100 + seed as u64);
    }
    let sharer = sandbox.share_with(&[&sandbox.path("sizes")], &["--piece-size", "16K"]);
    sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(0);
    assert_same(sandbox.path("sizes"), sandbox.path("out/sizes"));
    for size in [0, 1, PIECE, PIECE + 1] {
        let source = sandbox.path(format!("sizes/{size}"));
        let sharer = sandbox.share_with(&[&source], &["--piece-size", "16K"]);
        sandbox.run(["get", &sharer.ticket, "-o", "single"]).expect(0);
        assert_same(&source, sandbox.path(format!("single/{size}")));
    }
}

#[test]
fn a_share_of_nothing_but_empty_files_arrives() {
    let sandbox = Sandbox::new();
    sandbox.file("empty/a", 0, 0);
    sandbox.file("empty/deep/b", 0, 0);
    let sharer = sandbox.share(&[&sandbox.path("empty")]);
    let done = sandbox.get(&sharer.ticket, "out", &[]).wait().expect(0).event("done");
    assert_eq!(number(&done, "bytes"), 0);
    assert_same(sandbox.path("empty"), sandbox.path("out/empty"));
}

#[test]
fn unusual_names_arrive_as_they_are() {
    let sandbox = Sandbox::new();
    let names = [
        "with spaces in it.txt",
        "-rf",
        "--help",
        "é and e\u{301}.txt",
        "日本語.mp4",
        "🎬 film 🍿.mp4",
        "it's 'quoted'",
        "$HOME `x` [!] {a,b} ~ & ; ()",
        "#hash%20",
        ".hidden",
        "...dots",
        "a/b/c/d/e/f/g/h/i/j/k/l/m/n/deep",
        "-dash folder/-x",
    ];
    for (seed, name) in names.into_iter().enumerate() {
        sandbox.file(Path::new("odd 🦀 folder").join(name), 1000 + seed, seed as u64);
    }
    let sharer = sandbox.share(&[Path::new("odd 🦀 folder")]);
    sandbox.run(["get", &sharer.ticket, "--dir=-out dir"]).expect(0);
    assert_same(sandbox.path("odd 🦀 folder"), sandbox.path("-out dir/odd 🦀 folder"));

    let sharer = sandbox.share(&[&sandbox.path("odd 🦀 folder/-rf")]);
    let ended = sandbox.run(["get", &sharer.ticket]).expect(0);
    assert_same(sandbox.path("odd 🦀 folder/-rf"), sandbox.path("-rf"));
    assert_eq!(ended.stdout.last().map(String::as_str), Some("./-rf"));
}

#[test]
fn a_name_that_could_do_harm_is_refused_when_it_is_shared() {
    let sandbox = Sandbox::new();
    for name in ["new\nline", "bell\u{7}", "back\\slash", "what?", "a:b", "trailing ", "NUL.txt"] {
        let path = sandbox.file(Path::new("bad").join(name), 10, 1);
        let ended = sandbox.run(["share", "--listen", "127.0.0.1:0", "bad"]).expect(2);
        assert!(ended.stdout.is_empty(), "{name:?}");
        // The error, and that it is to be renamed.
        assert_eq!(ended.stderr.lines().count(), 2, "{name:?}: {}", ended.stderr);
        assert!(!ended.error().contains(['\u{7}', '\u{1b}']), "it is escaped: {}", ended.error());
        fs::remove_file(path).expect("removed");
    }
}

#[test]
fn every_name_that_cannot_be_shared_is_told_at_once_and_of_many_the_first() {
    let sandbox = Sandbox::new();
    for name in ["a:b/one", "a:b/two", "CON", "fine"] {
        sandbox.file(Path::new("bad").join(name), 10, 1);
    }
    let share = ["share", "--listen", "127.0.0.1:0", "bad"];
    let ended = sandbox.run(share).expect(2);
    assert!(ended.error().contains("2 names cannot be shared"), "{}", ended.error());
    assert!(ended.error().contains("/a:b (") && ended.error().contains("/CON ("), "{ended:#?}");
    assert!(ended.stderr.contains("rename them"), "{}", ended.stderr);
    for number in 0..20 {
        sandbox.file(format!("bad/{number}?"), 10, 1);
    }
    let ended = sandbox.run(share).expect(2);
    assert!(ended.error().contains("22 names") && ended.error().contains("and 12 more"));
}

#[test]
fn what_a_share_does_not_carry_is_told_in_one_line() {
    use std::os::unix::fs::PermissionsExt;
    let sandbox = Sandbox::new();
    let program = sandbox.file("all/run.sh", 10, 1);
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).expect("ours");
    fs::create_dir_all(sandbox.path("all/deep/empty")).expect("made");
    fs::create_dir_all(sandbox.path("all/empty")).expect("made");
    let sharer = sandbox.share(&[&sandbox.path("all")]);
    let told = "1 file will not be executable, and 2 empty folders are left out";
    eventually("a warning", || sharer.process.stderr().contains(told).then_some(()));
}

#[test]
fn links_are_left_out_and_of_many_the_first_are_named() {
    let sandbox = Sandbox::new();
    sandbox.file("all/film.mp4", 10, 1);
    std::os::unix::fs::symlink("../all", sandbox.path("all/loop")).expect("made");
    for number in 0..13 {
        let link = sandbox.path(format!("all/link {number}"));
        std::os::unix::fs::symlink("film.mp4", link).expect("made");
    }
    let sharer = sandbox.share(&[&sandbox.path("all")]);
    let told = "left out 4 more that are links or not files";
    eventually("a warning", || sharer.process.stderr().contains(told).then_some(()));
    let stderr = sharer.process.stderr();
    assert_eq!(stderr.matches("left out the symbolic link ").count(), 10, "{stderr}");
    sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(0);
    assert_eq!(names_in(sandbox.path("out/all")), ["film.mp4"]);
}

#[test]
fn the_longest_names_arrive() {
    let sandbox = Sandbox::new();
    for name in ["n".repeat(255), "🎬".repeat(63)] {
        let source = sandbox.file(&name, 10, 1);
        let sharer = sandbox.share(&[&source]);
        sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(0);
        assert_same(&source, sandbox.path("out").join(&name));
    }
}

#[test]
fn three_hundred_small_files_arrive() {
    let sandbox = Sandbox::new();
    for n in 0..300 {
        sandbox.file(format!("many/{}/{n}.txt", n % 7), n * 13, n as u64);
    }
    let sharer = sandbox.share(&[&sandbox.path("many")]);
    sandbox.run(["get", &sharer.ticket, "-o", "out"]).expect(0);
    assert_same(sandbox.path("many"), sandbox.path("out/many"));
}
