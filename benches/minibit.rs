//! `minibit share` and `minibit get` as processes, over loopback unless told otherwise.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use minibit_core::content::{Manifest, Ticket};
use minibit_core::store::{PartOptions, PartStore};
use serde_json::Value;

use crate::process::{Running, own_cpu};
use crate::{Flags, Outcome, Scratch};

/// The binary that is measured.
#[derive(Clone, Debug)]
pub struct Minibit {
    path: PathBuf,
    /// In place of the user's directories: his settings and his cache are none of ours.
    home: PathBuf,
    /// Flags that every command gets.
    extra: Vec<String>,
}

impl Minibit {
    /// The one that `--minibit` names, or the one beside this program.
    ///
    /// # Errors
    /// There is none.
    pub fn new(flags: &mut Flags, scratch: &Scratch) -> Outcome<Self> {
        let beside = std::env::current_exe()?.with_file_name("minibit");
        let path = flags.text("minibit").map_or(beside, PathBuf::from);
        if path.exists() {
            Ok(Self { path, home: scratch.join("home"), extra: Vec::new() })
        } else {
            Err(format!("{}: build it first, cargo build --release", path.display()).into())
        }
    }

    /// The same with further flags.
    pub fn with(&self, flags: &[&str]) -> Self {
        let mut extra = self.extra.clone();
        extra.extend(flags.iter().map(ToString::to_string));
        Self { extra, ..self.clone() }
    }

    /// A command with events on stdout and nothing but errors on stderr.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.path);
        command.env("XDG_CONFIG_HOME", &self.home).env("XDG_CACHE_HOME", &self.home);
        command.args(["--quiet", "--json", name]).args(&self.extra);
        command
    }

    /// Shares a file or folder, on a port of the system's choice.
    ///
    /// # Errors
    /// It ends without a ticket.
    pub fn share(&self, source: &Path) -> Outcome<Share> {
        let mut manifest_file = source.as_os_str().to_owned();
        manifest_file.push(".manifest");
        let mut command = self.command("share");
        command.args(["--listen", "127.0.0.1:0", "--manifest-file"]).arg(&manifest_file);
        command.arg(source);
        let mut running = Running::start(&mut command)?;
        let ticket = running.until(&mut [], |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            event["ticket"].as_str()?.parse().ok()
        })?;
        Ok(Share { running, ticket, manifest: Manifest::decode(&fs::read(&manifest_file)?)? })
    }

    /// Starts to fetch.
    ///
    /// # Errors
    /// It does not start.
    pub fn get(&self, ticket: &Ticket, dir: &Path) -> Outcome<Get> {
        let mut command = self.command("get");
        command.args(["--listen", "127.0.0.1:0", "--dir"]).arg(dir).arg(ticket.to_string());
        let (started, children_before) = (Instant::now(), own_cpu().1);
        let running = Running::start(&mut command)?;
        Ok(Get { running, started, children_before })
    }
}

/// A running `share`.
#[derive(Debug)]
pub struct Share {
    /// The process.
    pub running: Running,
    /// What fetches it.
    pub ticket: Ticket,
    /// What is in it.
    pub manifest: Manifest,
}

impl Share {
    /// Ends it; the bytes it has sent, and its messages if it tells.
    ///
    /// # Errors
    /// It does not end or does not say.
    pub fn stop(self) -> Outcome<(u64, Option<u64>)> {
        let stopped = event(&self.running.stop()?, "stopped")?;
        Ok((stopped["uploaded"].as_u64().ok_or("no uploaded")?, stopped["messages_sent"].as_u64()))
    }
}

/// A running `get`.
#[derive(Debug)]
pub struct Get {
    /// The process.
    pub running: Running,
    started: Instant,
    children_before: f64,
}

/// A `get` that has ended well.
#[derive(Debug)]
pub struct Got {
    /// From before its start to its end.
    pub seconds: f64,
    /// CPU seconds; only right if no other child ended meanwhile.
    pub cpu: f64,
    /// Peak of anonymous memory in KiB.
    pub anon_kib: u64,
    /// Its `done` event.
    pub done: Value,
}

impl Get {
    /// Waits until its download is open, when peers may link to it: where it listens, and how many
    /// bytes it had from an earlier run.
    ///
    /// # Errors
    /// It ends before.
    pub fn opened(&mut self) -> Outcome<(SocketAddr, u64)> {
        let address = self.running.until(&mut [], |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            event["addresses"][0].as_str()?.parse().ok()
        })?;
        let resumed = self.running.until(&mut [], |line| {
            let event: Value = serde_json::from_str(line).ok()?;
            event["resumed_bytes"].as_u64()
        })?;
        Ok((address, resumed))
    }

    /// Waits for its end; `beside` is looked at meanwhile.
    ///
    /// # Errors
    /// It fails.
    pub fn finish(mut self, beside: &mut [&mut Running]) -> Outcome<Got> {
        let lines = self.running.finish(beside)?;
        Ok(Got {
            seconds: self.started.elapsed().as_secs_f64(),
            cpu: own_cpu().1 - self.children_before,
            anon_kib: self.running.anon_peak(),
            done: event(&lines, "done")?,
        })
    }
}

/// The last event of that name.
///
/// # Errors
/// There is none.
pub fn event(lines: &[String], name: &str) -> Outcome<Value> {
    let mut events = lines.iter().rev().filter_map(|line| serde_json::from_str(line).ok());
    let found = events.find(|event: &Value| event["event"] == name);
    found.ok_or_else(|| format!("no event {name}").into())
}

/// Makes of a finished download the `NAME.part` of one that has nothing yet, as if a `get` had
/// been stopped before its first piece: the journal says nothing, so every byte is fetched and
/// verified again, and goes into pages that the file has already.
///
/// # Errors
/// Whatever the store ran into.
pub fn begin_again(manifest: &Manifest, dir: &Path) -> Outcome<()> {
    let (name, kept) = (manifest.name(), dir.join("kept"));
    fs::rename(dir.join(name), &kept)?;
    let selection = vec![true; manifest.files().len()];
    let (store, _) = PartStore::open(dir, manifest, &selection, PartOptions::default())?;
    drop(store);
    fs::rename(&kept, dir.join(format!("{name}.part")))?;
    Ok(())
}
