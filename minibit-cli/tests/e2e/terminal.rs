//! A terminal that a process of the command has as its stderr, and what is drawn on it.
//!
//! What is drawn again and again in one place comes as one line after the other.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::common::Running;

/// Starts a command whose stderr is a terminal of so many columns.
pub(crate) fn start_on(columns: u16, mut command: Command) -> Running {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC);
    let ours = ours.expect("a terminal");
    grantpt(&ours).and_then(|()| unlockpt(&ours)).expect("ours");
    let size = Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(&ours, size).expect("a terminal has a size");
    let name = ptsname(&ours, Vec::new()).expect("a name").into_string().expect("text");
    let theirs = fs::OpenOptions::new().read(true).write(true).open(name).expect("a terminal");
    let child = command
        .env("TERM", "xterm")
        .stdout(Stdio::piped())
        .stderr(theirs)
        .spawn()
        .expect("the binary runs");
    // With the command goes our own hold on its end: reading ends when the process does.
    drop(command);
    Running::of(child, File::from(ours))
}

/// The lines that a process has drawn so far, without what colours them and moves about.
pub(crate) fn drawn(process: &Running) -> Vec<String> {
    let written = process.stderr();
    let lines = written.split(['\r', '\n']).map(|line| without_escapes(line).trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// `ESC [ ... letter` is what the terminal is told.
fn without_escapes(line: &str) -> String {
    let mut parts = line.split("\u{1b}[");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).map_or(part.len(), |at| at + 1);
        text += &part[end..];
    }
    text
}
