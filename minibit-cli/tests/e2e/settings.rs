//! Flags, variables and the configuration file, and where words go.

use std::fs;

use super::common::{Running, Sandbox, assert_same, names_in};

#[test]
fn flags_beat_variables_and_variables_beat_the_file_in_a_real_download() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 1000, 1);
    let sharer = sandbox.share(&[&source]);
    let config = "[get]\ndir = \"by file\"\nlisten = [\"127.0.0.1:0\"]\n";
    fs::write(sandbox.path("minibit.toml"), config).expect("written");
    let get = |flags: &[&str], variable: Option<&str>| {
        let args = ["get", &sharer.ticket, "--config", "minibit.toml"];
        let mut command = sandbox.minibit(args.iter().chain(flags));
        variable.map(|dir| command.env("MINIBIT_GET_DIR", dir));
        Running::start(&mut command).wait().expect(0).stdout
    };
    assert_eq!(get(&[], None), ["by file/film.mp4"]);
    assert_eq!(get(&[], Some("by variable")), ["by variable/film.mp4"]);
    assert_eq!(get(&["-o", "by flag"], Some("by variable 2")), ["by flag/film.mp4"]);
    for dir in ["by file", "by variable", "by flag"] {
        assert_same(&source, sandbox.path(dir).join("film.mp4"));
    }
    assert!(!sandbox.path("by variable 2").exists());
}

#[test]
fn a_quiet_command_says_nothing_but_its_result() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 100_000, 1);
    let sharer = sandbox.share_with(&[&source], &["-q"]);
    let ended = sandbox.run(["get", &sharer.ticket, "-q"].iter().chain(&["-o", "out"])).expect(0);
    assert_eq!((ended.stdout, ended.stderr.as_str()), (vec!["out/film.mp4".to_owned()], ""));
    sharer.process.interrupt();
    let ended = sharer.process.wait().expect(0);
    assert_eq!((ended.stdout.len(), ended.stderr.as_str()), (1, ""));
    // What went wrong is said all the same.
    let failed = sandbox.run(["get", &sharer.ticket, "-q", "-o", "no", "--wait", "1ms"]).expect(4);
    assert!(!failed.error().is_empty());
}

#[test]
fn each_peer_has_its_log_and_no_byte_of_a_file_is_in_it() {
    let sandbox = Sandbox::new();
    let secret = "these words are nobody's business. ";
    fs::write(sandbox.path("diary.txt"), secret.repeat(5000)).expect("written");
    let flags = ["--log-dir", "logs", "-vvv", "--id", "7"];
    let sharer = sandbox.share_with(&[&sandbox.path("diary.txt")], &flags);
    sandbox
        .run(["-vvv", "--log-dir", "logs", "get", &sharer.ticket, "-o", "out", "--id", "8"])
        .expect(0);
    sharer.process.interrupt();
    let ended = sharer.process.wait().expect(0);
    let mut logs = ended.stderr;
    let names = names_in(sandbox.path("logs"));
    for name in ["peer_7.log", "peer_8.log"] {
        assert!(names.contains(&name.to_owned()), "{names:?}");
        let log = fs::read_to_string(sandbox.path("logs").join(name)).expect("text");
        assert!(log.contains("linked"), "{name}: {log}");
    }
    for name in names {
        logs += &fs::read_to_string(sandbox.path("logs").join(name)).expect("text");
    }
    assert!(!logs.contains("nobody's business"));
}

#[test]
fn a_demo_writes_a_log_for_each_of_its_peers() {
    let sandbox = Sandbox::new();
    sandbox.file("film.mp4", 200_000, 1);
    let args = ["demo", "film.mp4", "--peers", "4", "--dir", "copies", "--log-dir", "logs"];
    sandbox.run(args).expect(0);
    let names = names_in(sandbox.path("logs"));
    for n in 0..4 {
        assert!(names.contains(&format!("peer_{n}.log")), "{names:?}");
    }
}

#[test]
fn events_come_in_the_order_that_is_documented() {
    let sandbox = Sandbox::new();
    let source = sandbox.file("film.mp4", 100_000, 1);
    let mut sharer = sandbox.start(["--json", "share", "--listen", "127.0.0.1:0", "film.mp4"]);
    let ticket = sharer.event("ticket", |_| true)["ticket"].as_str().expect("text").to_owned();
    let names = |events: &[serde_json::Value]| -> Vec<String> {
        let events = events.iter().filter(|event| event["event"] != "progress");
        events.map(|event| event["event"].as_str().expect("text").to_owned()).collect()
    };
    let got = sandbox.get(&ticket, "out", &[]).wait().expect(0);
    assert_eq!(names(&got.events()), ["listening", "manifest", "done"]);
    assert!(got.stderr.is_empty(), "{}", got.stderr);
    assert_same(&source, sandbox.path("out/film.mp4"));
    sharer.interrupt();
    let shared = sharer.wait().expect(0);
    assert_eq!(names(&shared.events()), ["listening", "ticket", "stopped"]);
}
