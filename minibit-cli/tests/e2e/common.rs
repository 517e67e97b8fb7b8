//! A directory for a test, processes of the command in it, and trees of files to compare.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use minibit_core::content::Ticket;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing here takes so long, unless it hangs: generous, because machines may be busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// Between two looks at something that tells nobody when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A directory that one test has for itself.
pub(crate) struct Sandbox {
    dir: TempDir,
}

impl Sandbox {
    pub(crate) fn new() -> Self {
        Self { dir: TempDir::new().expect("a directory") }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file of bytes that do not repeat; directories on the way are made.
    pub(crate) fn file(&self, name: impl AsRef<Path>, len: usize, seed: u64) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, noise(len, seed)).expect("written");
        path
    }

    /// The command, run here, with nothing of whoever runs the tests in it.
    pub(crate) fn minibit(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_minibit"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("MINIBIT_") {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("HOME", self.dir.path())
            .env("XDG_CACHE_HOME", self.path(".cache"))
            .stdin(Stdio::null());
        command
    }

    /// Starts the command.
    pub(crate) fn start(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Running {
        Running::start(&mut self.minibit(args))
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ended {
        self.start(args).wait()
    }

    /// Shares `paths` from a port of the system's choice, on IPv4 loopback.
    pub(crate) fn share(&self, paths: &[&Path]) -> Sharer {
        self.share_with(paths, &[])
    }

    /// The same with further flags.
    pub(crate) fn share_with(&self, paths: &[&Path], flags: &[&str]) -> Sharer {
        let mut args: Vec<&OsStr> = ["share", "--listen", "127.0.0.1:0"].map(OsStr::new).into();
        args.extend(flags.iter().map(OsStr::new));
        args.push(OsStr::new("--"));
        args.extend(paths.iter().map(|path| path.as_os_str()));
        let mut process = self.start(args);
        let ticket = process.line();
        Sharer { process, ticket }
    }

    /// Starts a `get` into a directory, with events.
    pub(crate) fn get(&self, ticket: &str, dir: &str, flags: &[&str]) -> Running {
        let mut args = vec!["--json", "get", ticket, "-o", dir, "--listen", "127.0.0.1:0"];
        args.extend(flags);
        if !flags.contains(&"--wait") {
            // Less than a test waits, so that it can say what it waited for.
            args.extend(["--wait", "40s"]);
        }
        self.start(args)
    }
}

/// A `share` that has said where to find it.
pub(crate) struct Sharer {
    pub(crate) process: Running,
    pub(crate) ticket: String,
}

impl Sharer {
    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        parse(&self.ticket).peers()[0]
    }
}

pub(crate) fn parse(ticket: &str) -> Ticket {
    ticket.parse().unwrap_or_else(|error| panic!("{ticket:?}: {error}"))
}

/// A ticket of the same share that leads elsewhere.
pub(crate) fn led(ticket: &str, trackers: &[SocketAddr], peers: &[SocketAddr]) -> String {
    let share = parse(ticket).share();
    Ticket::new(share, trackers.iter().copied(), peers.iter().copied()).expect("valid").to_string()
}

/// A process of the command. It ends with this value.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// Every line of stdout that was read so far.
    seen: Vec<String>,
    stderr: Arc<Mutex<String>>,
    errors_read: Option<thread::JoinHandle<()>>,
}

/// A process that has ended by itself.
#[derive(Debug)]
pub(crate) struct Ended {
    /// `None` if a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let stderr = child.stderr.take().expect("piped");
        Self::of(child, stderr)
    }

    /// A process that writes to us on stdout, and what it writes on stderr.
    pub(crate) fn of(mut child: Child, mut stderr: impl Read + Send + 'static) -> Self {
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, lines) = channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let words = Arc::new(Mutex::new(String::new()));
        let into = Arc::clone(&words);
        let errors_read = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stderr.read(&mut bytes) {
                into.lock().expect("no panic").push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, lines, seen: Vec::new(), stderr: words, errors_read: Some(errors_read) }
    }

    pub(crate) fn stderr(&self) -> String {
        self.stderr.lock().expect("no panic").clone()
    }

    /// The next line on stdout.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => {
                self.seen.push(line.clone());
                line
            }
            Err(error) => panic!("no line on stdout ({error}); stderr: {}", self.stderr()),
        }
    }

    /// The next event of that name for which `is` holds; those before it are passed over.
    pub(crate) fn event(&mut self, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        loop {
            let event: Value = serde_json::from_str(&self.line()).expect("JSON");
            assert!(
                name == "failed" || event["event"] != "failed",
                "{event}; stderr: {}",
                self.stderr()
            );
            if event["event"] == name && is(&event) {
                return event;
            }
        }
    }

    /// Every line of stdout so far.
    pub(crate) fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Whether it still runs.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ours").is_none()
    }

    /// SIGKILL: no chance to tidy up. Returns when it is gone.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        _ = self.child.kill();
        self.child.wait().expect("ours");
    }

    /// What ends it with SIGKILL from another thread. The process is still ours to wait for.
    pub(crate) fn killer(&self) -> impl FnOnce() + Send + 'static {
        let pid = self.pid();
        // Not waited for before this value, so the number cannot belong to another.
        move || _ = kill_process(pid, Signal::KILL)
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        _ = kill_process(self.pid(), signal);
    }

    /// Bytes of memory that are its own, and of no file.
    #[cfg(target_os = "linux")]
    pub(crate) fn own_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it has not been waited for");
        // Left out for a process that has ended.
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.and_then(|line| line.split_whitespace().next()).unwrap_or("0");
        kib.parse::<u64>().expect("a number") * 1024
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Ended {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                // Stdout is closed: it has ended, or is about to.
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    panic!("it does not end; stdout: {:#?}, stderr: {}", self.seen, self.stderr())
                }
            }
        }
        let status = eventually("its end", || self.child.try_wait().expect("ours"));
        self.ended(status)
    }

    fn ended(&mut self, status: ExitStatus) -> Ended {
        if let Some(reader) = self.errors_read.take() {
            reader.join().expect("no panic");
        }
        Ended { code: status.code(), stdout: std::mem::take(&mut self.seen), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if thread::panicking() {
            self.seen.extend(self.lines.try_iter());
            eprintln!("a process said {:#?} and {}", self.seen, self.stderr());
        }
        // Whatever the test came to.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Ended {
    /// Fails the test with everything the process said, unless it ended with this code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    /// Its events.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.stdout.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// Its only event of that name.
    #[track_caller]
    pub(crate) fn event(&self, name: &str) -> Value {
        let mut events = self.events();
        events.retain(|event| event["event"] == name);
        assert_eq!(events.len(), 1, "{name}: {self:#?}");
        events.remove(0)
    }

    /// The line on stderr that says what is wrong.
    #[track_caller]
    pub(crate) fn error(&self) -> &str {
        let mut errors = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let error = errors.next().unwrap_or_else(|| panic!("no error: {self:#?}"));
        assert_eq!(errors.next(), None, "one error is enough: {self:#?}");
        error
    }
}

/// Looks again and again until there is something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "still waiting for {what}");
        thread::park_timeout(LOOK_AGAIN);
    }
}

/// A number of an event.
#[track_caller]
pub(crate) fn number(event: &Value, field: &str) -> u64 {
    event[field].as_u64().unwrap_or_else(|| panic!("no {field} in {event}"))
}

/// Bytes that do not repeat, from a seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// Every file and directory under a path, with the bytes of files.
fn tree(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(path) = open.pop() {
        let meta =
            fs::symlink_metadata(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let inner = path.strip_prefix(root).expect("within").to_path_buf();
        if meta.is_dir() {
            open.extend(
                fs::read_dir(&path).expect("readable").map(|entry| entry.expect("one").path()),
            );
            found.insert(inner, None);
        } else {
            assert!(meta.is_file(), "{} is neither", path.display());
            found.insert(inner, Some(fs::read(&path).expect("readable")));
        }
    }
    found
}

/// Fails unless two files, or two trees of files, have the same names and bytes.
#[track_caller]
pub(crate) fn assert_same(one: impl AsRef<Path>, other: impl AsRef<Path>) {
    let (one, other) = (tree(one.as_ref()), tree(other.as_ref()));
    let names = |tree: &BTreeMap<PathBuf, _>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    // Not by `assert_eq`: nobody reads megabytes.
    let differ: Vec<_> = one.iter().filter(|(path, bytes)| other[*path] != **bytes).collect();
    assert!(differ.is_empty(), "{:?}", differ.iter().map(|(path, _)| path).collect::<Vec<_>>());
}

/// The names in a directory.
pub(crate) fn names_in(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.as_ref())
        .expect("readable")
        .map(|entry| entry.expect("one").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The samples of the repository.
pub(crate) fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../files")
}

pub(crate) const SAMPLES: [&str; 5] =
    ["text.txt", "picture.png", "document.pdf", "music.mp3", "film.mp4"];
