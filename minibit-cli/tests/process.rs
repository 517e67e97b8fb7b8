//! The command as its users meet it: a real process, its streams and its exit code. What
//! needs a swarm is tested elsewhere.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;

use minibit_core::content::{FileEntry, Manifest, Ticket};
use minibit_core::store::{PrepareOptions, prepare};
use minibit_core::types::{Digest, PieceSize, ShareId};

/// The command, with none of the variables of whoever runs the tests.
fn minibit() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minibit"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("MINIBIT_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

fn run(args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    minibit().args(args).output().expect("the binary runs")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn ticket() -> String {
    let tracker = "192.0.2.7:4000".parse().expect("an address");
    let peer = "[2001:db8::7]:4001".parse().expect("an address");
    Ticket::new(ShareId([7; 32]), [tracker], [peer]).expect("valid").to_string()
}

fn manifest() -> Manifest {
    let file = |name: &str, len| FileEntry {
        path: vec!["deep".into(), name.into()],
        len,
        root: Digest([len as u8; 32]),
    };
    let piece_size = PieceSize::new(16384).expect("valid");
    let files = vec![file("film.mp4", 40_000), file("notes", 5)];
    Manifest::new("things".into(), false, piece_size, files).expect("valid")
}

fn json_lines(output: &Output) -> Vec<serde_json::Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn help_and_version_are_no_errors_and_go_to_stdout() {
    for args in [&["--help"][..], &["--version"], &["get", "--help"], &["help", "share"]] {
        let output = run(args);
        assert_eq!(code(&output), 0, "{args:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{args:?}");
    }
    let help = stdout(&run(["--help"]));
    for part in ["Examples:", "Exit codes:", "Settings:"] {
        assert!(help.contains(part), "{part}");
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error_on_stderr() {
    for args in [
        &[][..],
        &["fetch"],
        &["share"],
        &["get"],
        &["get", "x", "--seed", "--seed-ratio", "2"],
        &["get", "x", "--select", "["],
        &["get", "x", "--wait", "soon"],
        &["share", "x", "--piece-size", "100000"],
        &["share", "x", "--listen", "nowhere"],
        &["tracker", "--classic", "--mesh"],
        &["peer"],
        &["demo", "--peers", "1"],
        &["demo", "--start", "somehow"],
        &["verify", "x"],
        &["verify", "x", "--ticket", "a", "--manifest", "b"],
        &["inspect", "x", "-q", "-v"],
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{args:?}");
    }
}

#[test]
fn a_ticket_is_read_from_the_command_line_a_file_or_stdin() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("ticket.txt");
    fs::write(&file, format!("{}\n", ticket())).expect("written");
    let from_args = run(["inspect", &ticket()]);
    let mut at = std::ffi::OsString::from("@");
    at.push(&file);
    let from_file = run([OsStr::new("inspect"), &at]);
    let mut child = minibit()
        .args(["inspect", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stdin = child.stdin.take().expect("piped");
    writeln!(stdin, "  {}", ticket()).expect("it reads");
    // The pipe stays open, as that of `minibit share | minibit get -` does.
    let from_stdin = child.wait_with_output().expect("it ends");
    drop(stdin);
    for output in [from_args, from_file, from_stdin] {
        assert_eq!(code(&output), 0);
        let text = stdout(&output);
        assert!(text.contains(&"07".repeat(32)), "{text}");
        assert!(text.contains("192.0.2.7:4000") && text.contains("[2001:db8::7]:4001"), "{text}");
    }
}

#[test]
fn a_damaged_ticket_is_refused_with_its_reason() {
    let mut cut = ticket();
    cut.pop();
    for (argument, reason) in [
        ("", "empty"),
        ("hello", "begins with minibit1"),
        (cut.as_str(), "from the command line"),
        ("@/no/such/file", "/no/such/file"),
        ("-", "stdin"),
    ] {
        let output = run(["inspect", argument]);
        assert_eq!(code(&output), 2, "{argument:?}");
        assert!(stderr(&output).contains(reason), "{argument:?}: {}", stderr(&output));
        // What may be meant as a file's name is answered as that, too.
        let lines = if argument == "hello" { 2 } else { 1 };
        assert_eq!(stderr(&output).lines().count(), lines, "{argument:?}");
    }
}

#[test]
fn a_slip_on_the_command_line_is_answered_with_what_was_meant() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("folder.t");
    fs::write(&file, ticket()).expect("written");
    let file = file.to_str().expect("text");
    let nowhere = dir.path().join("nothere");
    let nowhere = nowhere.to_str().expect("text");
    for (args, answer) in [
        (&["get", file][..], format!("did you mean @{file}?")),
        (&["verify", nowhere, "--ticket", &ticket()], "nothere: no such file".into()),
        (&["verify", nowhere, "--manifest", nowhere], "nothere: no such file".into()),
        (&["demo", "--peers", "300"], "from 2 to 200".into()),
    ] {
        let output = run(args);
        assert_eq!(code(&output), 2, "{args:?}");
        assert!(stderr(&output).contains(&answer), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn a_manifest_is_shown_with_its_files_and_roots() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("things.manifest");
    fs::write(&path, manifest().encode()).expect("written");
    let output = run([OsStr::new("inspect"), path.as_os_str()]);
    assert_eq!(code(&output), 0);
    let text = stdout(&output);
    assert!(text.contains(&manifest().share_id().to_string()), "{text}");
    assert!(text.contains("deep/film.mp4") && text.contains("4 of 16.0 KiB"), "{text}");

    let events = json_lines(&run([OsStr::new("inspect"), path.as_os_str(), OsStr::new("--json")]));
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["event"], "inspected_manifest");
    assert_eq!(events[0]["pieces"], 4);
    assert_eq!(events[0]["files"][0]["path"], "deep/film.mp4");
    assert_eq!(events[0]["files"][0]["root"], Digest([40_000u32 as u8; 32]).to_string());
    assert_eq!(events[0]["extensions"]["mp4"], 1);
}

#[test]
fn a_file_that_is_no_manifest_is_an_integrity_failure() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("film.mp4");
    fs::write(&path, [0u8; 5000]).expect("written");
    let output = run([OsStr::new("--json"), OsStr::new("inspect"), path.as_os_str()]);
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("is not a manifest"));
    let events = json_lines(&output);
    assert_eq!((&events[0]["event"], &events[0]["code"]), (&"failed".into(), &3.into()));
}

/// A folder `things` with two files, its manifest as a file, and its ticket.
fn things(dir: &Path) -> (std::path::PathBuf, std::path::PathBuf, String) {
    let things = dir.join("things");
    fs::create_dir_all(things.join("deep")).expect("made");
    fs::write(things.join("deep/film.mp4"), vec![7; 100_000]).expect("written");
    fs::write(things.join("empty"), "").expect("written");
    let piece_size = Some(PieceSize::new(32768).expect("valid"));
    let options = PrepareOptions { piece_size, ..PrepareOptions::default() };
    let paths = [things.clone()];
    let share = prepare(&paths, &options, &|_| {}, &AtomicBool::new(false)).expect("a share");
    let manifest = dir.join("things.manifest");
    fs::write(&manifest, share.manifest.encode()).expect("written");
    let peer = "192.0.2.7:4000".parse().expect("an address");
    let ticket = Ticket::new(share.manifest.share_id(), [], [peer]).expect("valid");
    (things, manifest, ticket.to_string())
}

fn verify(path: &Path, flag: &str, against: impl AsRef<OsStr>) -> Output {
    run([OsStr::new("verify"), path.as_os_str(), OsStr::new(flag), against.as_ref()])
}

#[test]
fn a_right_folder_is_verified_by_manifest_and_by_ticket() {
    let dir = tempfile::tempdir().expect("a directory");
    let (things, manifest, ticket) = things(dir.path());
    for output in [verify(&things, "--manifest", &manifest), verify(&things, "--ticket", &ticket)] {
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert!(stdout(&output).contains("every byte is right"));
    }
}

#[test]
fn a_changed_byte_is_an_integrity_failure_that_names_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let (things, manifest, ticket) = things(dir.path());
    let film = things.join("deep/film.mp4");
    let mut bytes = fs::read(&film).expect("it is there");
    bytes[50_000] ^= 1;
    fs::write(&film, bytes).expect("written");
    let output = verify(&things, "--manifest", &manifest);
    assert_eq!(code(&output), 3);
    assert!(stderr(&output).contains("film.mp4"), "{}", stderr(&output));
    assert_eq!(code(&verify(&things, "--ticket", &ticket)), 3);

    let mut command = minibit();
    command.args(["--json", "verify"]).arg(&things).arg("--manifest").arg(&manifest);
    let events = json_lines(&command.output().expect("the binary runs"));
    assert_eq!(events[0]["event"], "verified");
    assert_eq!(events[0]["ok"], false);
    assert!(events[0]["bad"][0]["path"].as_str().is_some_and(|path| path.ends_with("film.mp4")));
    assert_eq!(events[1]["event"], "failed");
}

#[test]
fn a_renamed_folder_is_verified_by_ticket_under_its_old_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let (things, _, ticket) = things(dir.path());
    let renamed = dir.path().join("renamed");
    fs::rename(&things, &renamed).expect("renamed");
    assert_eq!(code(&verify(&renamed, "--ticket", &ticket)), 3);
    let mut command = minibit();
    command.arg("verify").arg(&renamed).args(["--name", "things", "--ticket", &ticket]);
    assert_eq!(code(&command.output().expect("the binary runs")), 0);
}

#[test]
fn what_is_not_there_cannot_be_shared_or_verified() {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, manifest, ticket) = things(dir.path());
    let missing = dir.path().join("missing");
    assert_eq!(code(&verify(&missing, "--ticket", &ticket)), 2);
    assert_eq!(code(&verify(&missing, "--manifest", &manifest)), 2);
    let output = run([OsStr::new("share"), missing.as_os_str()]);
    assert_eq!(code(&output), 2);
    assert!(stderr(&output).contains("missing") && output.stdout.is_empty());
}

#[test]
fn flags_beat_variables_and_variables_beat_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("minibit.toml");
    fs::write(&config, "[get]\nwait = \"from the file\"\n").expect("written");
    let get = |flag: Option<&str>, variable: Option<&str>, file: bool| {
        let mut command = minibit();
        command.args(["get", "no-ticket"]);
        flag.map(|value| command.args(["--wait", value]));
        variable.map(|value| command.env("MINIBIT_GET_WAIT", value));
        file.then(|| command.arg("--config").arg(&config));
        stderr(&command.output().expect("the binary runs"))
    };
    // Each source has a value that is refused, so the message says which one was used.
    assert!(get(None, None, true).contains("from the file"));
    let variable = get(None, Some("from the variable"), true);
    assert!(variable.contains("from the variable"), "{variable}");
    assert!(variable.contains("MINIBIT_GET_WAIT is not valid"), "{variable}");
    let stray = minibit().args(["get", "no-ticket"]).env("MINIBIT_WAIT", "1h").output();
    let stray = String::from_utf8_lossy(&stray.expect("the binary runs").stderr).into_owned();
    let words = "the variable MINIBIT_WAIT sets no flag; did you mean MINIBIT_GET_WAIT?";
    assert!(stray.contains(words), "{stray}");
    for (name, meant) in [
        ("MINIBIT_GET_WIAT", Some("MINIBIT_GET_WAIT")),
        ("MINIBIT_GETWAIT", Some("MINIBIT_GET_WAIT")),
        ("MINIBIT_LOGDIR", Some("MINIBIT_LOG_DIR")),
        ("MINIBIT_HOME", None),
        ("MINIBIT_BACKUP_BUCKET", None),
        ("MINIBIT_", None),
        ("MINIBIT", None),
    ] {
        let said = minibit().args(["inspect", &ticket()]).env(name, "1h").output();
        let said = stderr(&said.expect("the binary runs"));
        let told = meant.map(|meant| format!("{name} sets no flag; did you mean {meant}?"));
        let is_right = told.map_or(said.is_empty(), |told| said.contains(&told));
        assert!(is_right, "{name}: {said}");
    }
    let short = get(None, Some("t"), false);
    assert!(short.contains("MINIBIT_GET_WAIT is not valid"), "as in no-ticket: {short}");
    assert!(get(Some("from the flag"), Some("from the variable"), true).contains("from the flag"));
    let both = get(Some("t"), Some("t"), false);
    assert!(both.contains("'t' for '--wait") && !both.contains("MINIBIT"), "{both}");
    assert!(get(Some("1s"), Some("bad"), true).contains("begins with minibit1"));
    assert!(get(None, Some("1s"), true).contains("begins with minibit1"));
}

#[test]
fn common_flags_come_from_variables_and_the_file_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("minibit.toml");
    fs::write(&config, "json = true\n").expect("written");
    let inspect = |command: &mut Command| command.args(["inspect", &ticket()]).output();
    let by_variable = inspect(minibit().env("MINIBIT_JSON", "1")).expect("the binary runs");
    let by_file = inspect(minibit().env("MINIBIT_CONFIG", &config)).expect("the binary runs");
    for output in [by_variable, by_file] {
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        assert_eq!(json_lines(&output)[0]["event"], "inspected_ticket");
    }
}

#[test]
fn a_configuration_that_is_wrong_is_a_usage_error_that_names_file_and_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let config = dir.path().join("minibit.toml");
    for (text, reason) in [
        ("jason = true", "jason"),
        ("config = \"x\"", "config"),
        ("[fetch]\nwait = \"1s\"", "[fetch]"),
        ("[get]\npeers = 3", "peers in [get]"),
        ("[get]\nwait = { a = 1 }", "wait in [get]"),
        ("[demo]\npeers = 1", "--peers"),
        ("not toml", "TOML"),
    ] {
        fs::write(&config, text).expect("written");
        let output = run([
            OsStr::new("--config"),
            config.as_os_str(),
            OsStr::new("inspect"),
            OsStr::new(&ticket()),
        ]);
        // A wrong value is noticed by the command that has the flag.
        let output = if text.contains("[demo]") {
            run([OsStr::new("demo"), OsStr::new("--config"), config.as_os_str()])
        } else {
            output
        };
        assert_eq!(code(&output), 2, "{text}");
        let words = stderr(&output);
        assert!(words.contains(reason) && words.contains("minibit.toml"), "{text}: {words}");
    }
    let output =
        run([OsStr::new("--config"), Path::new("/no/such").as_os_str(), OsStr::new("demo")]);
    assert_eq!(code(&output), 2);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let mut child = minibit()
        .args(["inspect", &ticket()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((code(&output), stderr(&output).as_str()), (0, ""));
}
