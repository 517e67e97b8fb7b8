//! Where the program's own log goes: to stderr as far as `-v` asks, and with `--log-dir` to
//! one file for each peer of this process.
//!
//! The engine runs everything a node does in a span with a field `peer`, the node's short id.
//! [`PerPeer`] looks for the innermost such span around an event and writes the event to
//! `peer_N.log`; what belongs to no peer goes to `minibit.log`. The bytes that are moved are
//! never logged, by anybody.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use super::Output;
use crate::cli::Common;
use crate::exit::{Exit, Failure};

/// The field of a span that says which of this process's peers it is about.
const PEER_FIELD: &str = "peer";

/// Begins to log as the flags want it. Once per process.
///
/// # Errors
/// If the directory cannot be made.
pub(crate) fn start(common: &Common, output: &Output) -> Result<(), Failure> {
    let to_stderr = tracing_subscriber::fmt::layer()
        .with_writer(BehindBars(output.clone()))
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .with_filter(stderr_level(common));
    let to_files = common
        .log_dir
        .as_deref()
        .map(|dir| PerPeer::new(dir).map(|layer| layer.with_filter(file_level(common))))
        .transpose()
        .map_err(|error| Failure::new(Exit::Disk, error))?;
    tracing_subscriber::registry().with(to_stderr).with(to_files).init();
    Ok(())
}

fn stderr_level(common: &Common) -> LevelFilter {
    match common.verbose {
        _ if common.quiet => LevelFilter::ERROR,
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    }
}

/// A log that was asked for says at least what happened.
fn file_level(common: &Common) -> LevelFilter {
    stderr_level(common).max(LevelFilter::INFO)
}

/// Stderr, with the progress bar out of the way while a line is written.
struct BehindBars(Output);

impl<'a> MakeWriter<'a> for BehindBars {
    type Writer = BarsWriter<'a>;

    fn make_writer(&'a self) -> BarsWriter<'a> {
        BarsWriter(&self.0)
    }
}

struct BarsWriter<'a>(&'a Output);

impl Write for BarsWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.bars.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The log directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the log directory {}", dir.display())]
struct LogDirError {
    dir: PathBuf,
    source: io::Error,
}

/// A layer that writes each event to the file of the peer it is about.
struct PerPeer {
    dir: PathBuf,
    /// Open files by their name; `None` for one that could not be opened, which is not tried
    /// again for each line.
    files: Mutex<HashMap<String, Option<File>>>,
}

/// A span's `peer` field, kept with the span.
struct PeerName(String);

impl PerPeer {
    fn new(dir: &Path) -> Result<Self, LogDirError> {
        fs::create_dir_all(dir).map_err(|source| LogDirError { dir: dir.into(), source })?;
        Ok(Self { dir: dir.into(), files: Mutex::default() })
    }

    fn write(&self, name: String, line: &str) {
        // A poisoned lock: another thread panicked while it wrote its line. Ours is as good.
        let mut files = self.files.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let path = self.dir.join(&name);
        let open = || OpenOptions::new().create(true).append(true).open(&path);
        if let Some(file) = files.entry(name).or_insert_with(|| open().ok()) {
            // A full disk must not stop a transfer to another one.
            _ = file.write_all(line.as_bytes());
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for PerPeer {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut visitor = PeerVisitor(None);
        attributes.record(&mut visitor);
        if let (Some(peer), Some(span)) = (visitor.0, context.span(id)) {
            span.extensions_mut().insert(PeerName(peer));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let peer = context.event_scope(event).into_iter().flatten().find_map(|span| {
            span.extensions().get::<PeerName>().map(|PeerName(name)| name.clone())
        });
        let name = peer.map_or_else(|| "minibit.log".into(), |peer| format!("peer_{peer}.log"));
        self.write(name, &render(event));
    }
}

/// `2026-01-02T03:04:05.678901Z  INFO what happened field=value`.
fn render(event: &Event<'_>) -> String {
    let mut line = String::with_capacity(160);
    // Without a readable clock the line is still worth having.
    _ = SystemTime.format_time(&mut Writer::new(&mut line));
    _ = write!(line, " {:>5}", event.metadata().level());
    let mut fields = FieldVisitor { message: String::new(), rest: String::new() };
    event.record(&mut fields);
    for text in [&fields.message, &fields.rest] {
        // What a stranger chose may be among the values; a line stays a line.
        _ = write!(line, "{}", minibit_core::content::escape(text));
    }
    line.push('\n');
    line
}

struct FieldVisitor {
    message: String,
    rest: String,
}

impl Visit for FieldVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        _ = if field.name() == "message" {
            write!(self.message, " {value:?}")
        } else {
            write!(self.rest, " {}={value:?}", field.name())
        };
    }
}

/// Takes a `peer` field as far as it can be a part of a file's name.
struct PeerVisitor(Option<String>);

impl Visit for PeerVisitor {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == PEER_FIELD {
            let text = format!("{value:?}");
            self.0 = Some(text.chars().filter(char::is_ascii_alphanumeric).collect());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_goes_to_the_file_of_the_innermost_peer_around_it() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        let layer = PerPeer::new(&logs).unwrap();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!("of nobody");
            let _node = tracing::info_span!("node", peer = 3).entered();
            let _link = tracing::info_span!("link", remote = "x").entered();
            tracing::info!(pieces = 7, "of three");
            let _other = tracing::info_span!("node", peer = "../4").entered();
            tracing::info!("of\u{1b}[31m four");
        });
        let read = |name: &str| fs::read_to_string(logs.join(name)).unwrap();
        assert!(read("minibit.log").ends_with("INFO of nobody\n"));
        assert!(read("peer_3.log").ends_with("INFO of three pieces=7\n"));
        assert!(
            read("peer_4.log").ends_with("INFO of\\u{1b}[31m four\n"),
            "{}",
            read("peer_4.log")
        );
    }

    #[test]
    fn a_log_directory_that_cannot_be_made_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(PerPeer::new(&file.join("logs")).is_err());
    }
}
