//! What the user sees: results on stdout, everything else on stderr.
//!
//! Stdout is for whoever reads our result: a ticket, a path, or, with `--json`, events, one
//! per line. Stderr is for people: words, a progress bar, warnings. A reader of stdout who
//! goes away ends nothing: the work goes on, and the exit code still tells. A result that could not
//! be written is a failure of the disk in the end.
//!
//! Not here: what is worth saying. Anything a stranger chose is escaped by the caller, with
//! [`minibit_core::content::escape`].

pub(crate) mod json;
pub(crate) mod log;
pub(crate) mod progress;
pub(crate) mod simulated;
pub(crate) mod table;
pub(crate) mod units;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::MultiProgress;

use crate::cli::Common;
use crate::exit::Failure;
use json::Event;

/// Where everything a command says goes through.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    verbose: bool,
    /// That stdout takes no more was said.
    told_of_stdout: Arc<AtomicBool>,
    /// Redraws the bar after other lines; draws nothing when stderr is no terminal.
    bars: MultiProgress,
}

impl Output {
    /// As the common flags want it.
    pub(crate) fn new(common: &Common) -> Self {
        Self {
            json: common.json,
            quiet: common.quiet,
            verbose: common.verbose > 0,
            told_of_stdout: Arc::default(),
            bars: MultiProgress::new(),
        }
    }

    /// A line for people, on stderr. Left out with `--quiet` and `--json`.
    pub(crate) fn say(&self, line: impl Display) {
        if !self.quiet && !self.json {
            self.to_stderr(&line);
        }
    }

    /// Something the user should know though the work goes on.
    pub(crate) fn warn(&self, line: impl Display) {
        self.event(&Event::Warning { message: line.to_string() });
        if !self.quiet {
            self.to_stderr(&format_args!("warning: {line}"));
        }
    }

    /// The end of a command that failed.
    pub(crate) fn fail(&self, failure: &Failure) {
        let error = failure.to_string();
        self.to_stderr(&format_args!("error: {error}"));
        if let Some(advice) = failure.advice() {
            self.to_stderr(&advice);
        }
        let hint = failure.advice().map(str::to_owned);
        self.event(&Event::Failed { code: failure.exit().code(), error, hint });
    }

    /// A line of the command's result, on stdout. Left out with `--json`: its event has it.
    pub(crate) fn result(&self, line: impl Display) {
        if !self.json {
            self.to_stdout(format_args!("{line}\n"));
        }
    }

    /// An event for programs, on stdout with `--json`.
    pub(crate) fn event(&self, event: &Event) {
        if self.json {
            let line = serde_json::to_string(event).expect("events are plain data");
            self.to_stdout(format_args!("{line}\n"));
        }
    }

    /// Whether all that was for stdout got there, or at least its reader did not want it.
    pub(crate) fn is_whole(&self) -> bool {
        !self.told_of_stdout.load(Ordering::Relaxed)
    }

    /// Whether the user asked for more than the usual.
    pub(crate) fn is_verbose(&self) -> bool {
        self.verbose
    }

    /// Whether a bar shows time passing: elsewhere a line for each second would be a flood.
    pub(crate) fn has_bars(&self) -> bool {
        self.style() == Style::Bar
    }

    /// How progress is shown.
    fn style(&self) -> Style {
        if self.json {
            Style::Events
        } else if self.quiet {
            Style::Silent
        } else if io::stderr().is_terminal() {
            Style::Bar
        } else {
            Style::Lines
        }
    }

    fn to_stderr(&self, line: &dyn Display) {
        // There is nobody to tell if stderr is gone.
        self.bars.suspend(|| _ = writeln!(io::stderr(), "{line}"));
    }

    fn to_stdout(&self, text: std::fmt::Arguments<'_>) {
        let written = self.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_fmt(text).and_then(|()| stdout.flush())
        });
        match written {
            // A pipe that was closed at its other end: see the module's header.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => self.lost(&error),
            _ => {}
        }
    }

    /// Part of the result is lost, and whoever reads it later should not believe that it is all.
    fn lost(&self, error: &io::Error) {
        if !self.told_of_stdout.swap(true, Ordering::Relaxed) {
            self.to_stderr(&format_args!("error: could not write to stdout: {error}"));
        }
    }
}

/// The ways to show progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Bar,
    Lines,
    Events,
    Silent,
}
