//! `get`: from a ticket to a verified file under its final name.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use globset::{Glob, GlobSet, GlobSetBuilder};
use minibit_core::content::{FileEntry, Manifest, Ticket, escape};
use minibit_core::engine::{GetError, GetOptions, Node, Selection, ShareHandle, ShareStats};
use minibit_core::types::limits::TICKET_ADDRS_MAX;

use super::failures::{self, AGAIN, GO_ON};
use super::node::{self, Role};
use super::opening::Opening;
use super::watch::{self, Fetched, Notices, Until, Wait};
use super::{Session, inspect, share, written};
use crate::cli::Get;
use crate::exit::{Exit, Failure};
use crate::input;
use crate::output::json::Event;
use crate::output::units::{Bytes, Count, Names, Time, percent};
use crate::values::Patience;

/// Runs the command.
pub(super) async fn run(flags: &Get, session: &Session) -> Result<(), Failure> {
    let ticket = input::ticket(&flags.ticket)?;
    let trackers = input::resolve(&flags.tracker)?;
    let ticket = with_more(&ticket, &trackers, &input::resolve(&flags.peer)?)?;
    let select = selection(&flags.select)?;
    let wait = Wait::of(flags.wait);
    let bound = node::bind(&flags.swarm, Role::Passing, None)?;
    let node = node::start(bound, &flags.swarm, Role::Passing, session);
    let started = Instant::now();
    let opening = Opening::of(&ticket, wait.at_first);
    let options = GetOptions {
        dir: flags.dir.clone(),
        select,
        force: flags.force,
        patience: patience(wait.at_first),
        first_pieces: None,
        checking: Some(opening.checking()),
    };
    session.output.say("looking for peers");
    if flags.list {
        return list(&node, &ticket, &opening, flags, session).await;
    }
    let share = opening
        .watched(node.get(&ticket, options), session)
        .await
        .map_err(|interrupted| interrupted.hint(opening.how_to_go_on()))?
        .map_err(|error| refused(error, &flags.select))?;
    let select = selection(&flags.select)?;
    let chosen = Chosen::of(share.manifest(), select.as_ref());
    opened(&share, &chosen, session);
    written::check_apart(flags.manifest_file.as_deref(), &flags.dir, share.manifest())?;
    written::write(flags.manifest_file.as_deref(), || share.manifest().encode())?;
    let fetched = watch::fetch(&share, wait, Notices::about(&trackers), session).await;
    let outcome = match fetched {
        Ok(Fetched::Complete(path)) => {
            done(&share, &chosen, &path, started, session);
            stay(&node, Until::of(&flags.stay), session).await;
            Ok(())
        }
        Ok(Fetched::Interrupted) => Err(failures::interrupted().hint(left(&share.stats()))),
        Ok(Fetched::Deserted) => Err(deserted(&share.stats())),
        Err(error) => Err(error.into()),
    };
    node.shutdown().await;
    outcome
}

/// Shows what the share consists of.
async fn list(
    node: &Node,
    ticket: &Ticket,
    opening: &Opening,
    flags: &Get,
    session: &Session,
) -> Result<(), Failure> {
    let patience = patience(Wait::of(flags.wait).at_first);
    let found = opening.watched(node.look_up(ticket, patience), session).await?;
    let manifest = found.map_err(GetError::from)?;
    written::write(flags.manifest_file.as_deref(), || manifest.encode())?;
    inspect::show_manifest(&manifest, &session.output);
    Ok(())
}

/// A failure to begin; if no file was selected, with what was asked for.
fn refused(error: GetError, select: &[Glob]) -> Failure {
    let nothing = matches!(error, GetError::NothingSelected { .. });
    let failure = Failure::from(error);
    if !nothing {
        return failure;
    }
    let globs: Vec<&str> = select.iter().map(Glob::glob).collect();
    failure.hint(format!("--select {} matches none of them", globs.join(" --select ")))
}

/// Nobody can give what is missing.
fn deserted(stats: &ShareStats) -> Failure {
    let failure = Failure::new(Exit::Unreachable, why_deserted(stats));
    if stats.pieces_withdrawn > 0 {
        return failure.hint(format!("{}; {NEW_TICKET}", done_so_far(stats)));
    }
    let go_on = format!("{}; --wait TIME waits longer", left(stats));
    // Whoever shared a file that was changed since has it no more.
    let may_lack = stats.links > 0 && stats.unanswering.is_empty();
    failure.hint(if may_lack { format!("{go_on}; or {NEW_TICKET}") } else { go_on })
}

/// What helps when a file was changed where it is shared.
const NEW_TICKET: &str =
    "if the file was changed where it is shared, ask for a new ticket: this one is for what it was";

fn why_deserted(stats: &ShareStats) -> String {
    match (stats.links, stats.pieces_refused) {
        _ if stats.pieces_withdrawn > 0 => {
            "what is missing was changed where it is shared, and nobody else has it".to_owned()
        }
        (0, 0) if stats.lost_contact => "lost contact with all peers".to_owned(),
        (0, 0) => "everybody has left".to_owned(),
        (0, refused) => format!(
            "nobody is left: wrong bytes came for {}, and whoever sends such is banned",
            Count(refused, "piece")
        ),
        _ if !stats.unanswering.is_empty() => {
            let whom = &stats.unanswering;
            let verb = if whom.len() == 1 { "does" } else { "do" };
            format!("{} {verb} not answer any more", Names(whom))
        }
        _ => "nobody who is there has what is missing".to_owned(),
    }
}

/// The ticket with the addresses that the user added.
fn with_more(
    ticket: &Ticket,
    trackers: &[SocketAddr],
    peers: &[SocketAddr],
) -> Result<Ticket, Failure> {
    // What the user named comes first, and stays if there is not room for all.
    let room = TICKET_ADDRS_MAX.saturating_sub(trackers.len() + peers.len());
    let own_trackers = ticket.trackers().iter().copied().take(room);
    let room = room - own_trackers.len();
    let own_peers = ticket.peers().iter().copied().filter(|peer| {
        // Written once where it follows the same tracker, so it takes no room of its own.
        ticket.trackers().contains(peer) || room > 0
    });
    let trackers = trackers.iter().copied().chain(own_trackers);
    let peers = peers.iter().copied().chain(own_peers);
    Ticket::new(ticket.share(), trackers, peers).map_err(Failure::usage)
}

/// How long to look for somebody, as the engine takes it.
pub(super) fn patience(wait: Patience) -> Duration {
    /// Longer than any machine stays up, and within what clocks can count.
    const FOREVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
    wait.0.unwrap_or(FOREVER).min(FOREVER)
}

/// Which files are wanted: those of which the path, or a folder on the way to it, matches.
///
/// # Errors
/// If the patterns together are too large.
fn selection(globs: &[Glob]) -> Result<Option<Selection>, Failure> {
    if globs.is_empty() {
        return Ok(None);
    }
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        set.add(glob.clone());
    }
    let set = set.build().map_err(Failure::usage)?;
    Ok(Some(Box::new(move |manifest: &Manifest| {
        manifest.files().iter().map(|file| is_selected(&set, &file.path)).collect()
    })))
}

fn is_selected(set: &GlobSet, path: &[String]) -> bool {
    (1..=path.len()).any(|depth| set.is_match(path[..depth].join("/")))
}

/// What of a share is fetched.
pub(super) struct Chosen<'a> {
    manifest: &'a Manifest,
    /// The files, in the manifest's order.
    files: Vec<&'a FileEntry>,
    bytes: u64,
    pieces: u64,
}

impl<'a> Chosen<'a> {
    /// All of it, or what was selected.
    pub(super) fn of(manifest: &'a Manifest, select: Option<&Selection>) -> Self {
        let geometry = manifest.geometry();
        let selected =
            select.map_or_else(|| vec![true; manifest.files().len()], |select| select(manifest));
        let mut chosen = Self { manifest, files: Vec::new(), bytes: 0, pieces: 0 };
        for (number, file) in (0..).zip(manifest.files()) {
            if selected[number as usize]
                && let Some(index) = geometry.file(number)
            {
                chosen.files.push(file);
                chosen.bytes += file.len;
                chosen.pieces += geometry.pieces_of(index).len() as u64;
            }
        }
        chosen
    }

    fn is_all(&self) -> bool {
        self.files.len() == self.manifest.files().len()
    }

    fn describe(&self, session: &Session) {
        if self.is_all() {
            return share::describe(self.manifest, session);
        }
        let manifest = self.manifest;
        session.output.say(format_args!(
            "{}: {} of {}, {} of {}",
            escape(manifest.name()),
            self.files.len(),
            Count(manifest.files().len() as u64, "file"),
            Bytes(self.bytes),
            Bytes(manifest.geometry().total_len()),
        ));
        share::list(self.files.iter().copied(), session);
    }
}

/// Says what is fetched, and what is here already.
pub(super) fn opened(share: &ShareHandle, chosen: &Chosen<'_>, session: &Session) {
    let (manifest, stats) = (share.manifest(), share.stats());
    chosen.describe(session);
    if stats.bytes_resumed > 0 {
        session.output.say(format_args!(
            "{} of {} were here already",
            Bytes(stats.bytes_resumed),
            Bytes(stats.bytes_total)
        ));
    }
    session.output.event(&Event::Manifest {
        share: share.id().to_string(),
        name: manifest.name().to_owned(),
        bytes: chosen.bytes,
        files: chosen.files.len() as u64,
        pieces: chosen.pieces,
        piece_size: manifest.piece_size().bytes().into(),
        resumed_bytes: stats.bytes_resumed.min(chosen.bytes),
    });
}

/// Says that every byte is in place.
pub(super) fn done(
    share: &ShareHandle,
    chosen: &Chosen<'_>,
    path: &Path,
    started: Instant,
    session: &Session,
) {
    let stats = share.stats();
    let elapsed = started.elapsed();
    session.output.say(format_args!(
        "every byte verified: {} in {}, {} fetched, {} sent on",
        Bytes(chosen.bytes),
        Time(elapsed),
        Bytes(stats.bytes_downloaded),
        Bytes(stats.bytes_uploaded),
    ));
    if let Some(behind) = disk_behind(&stats) {
        tracing::info!("{behind}");
    }
    session.output.event(&Event::Done {
        share: share.id().to_string(),
        path: path.to_owned(),
        bytes: chosen.bytes,
        seconds: elapsed.as_secs_f64(),
        downloaded: stats.bytes_downloaded,
        uploaded: stats.bytes_uploaded,
        messages_sent: stats.messages_sent,
        disk_queue_peak: stats.disk_queue_peak as u64,
        files: chosen.files.iter().map(|file| inspect::file(file)).collect(),
    });
    session.output.result(path.display());
}

/// How far the disk was behind the network, if it was.
fn disk_behind(stats: &ShareStats) -> Option<String> {
    let ShareStats { disk_queue_peak: peak, disk_queue_places: places, .. } = stats;
    (*peak > 0)
        .then(|| format!("the disk was behind: {peak} of {places} places in its queue taken"))
}

async fn stay(node: &Node, until: Option<Until>, session: &Session) {
    let Some(until) = until else { return };
    session.output.say(format_args!("complete; seeding {until}"));
    let started = Instant::now();
    let uploaded = watch::seed(node, until, Notices::default(), session).await;
    let seconds = started.elapsed().as_secs_f64();
    session.output.event(&Event::Stopped { uploaded, seconds });
}

/// How far it came, and how to go on.
fn left(stats: &ShareStats) -> String {
    let go_on = if stats.bytes_have > 0 { GO_ON } else { AGAIN };
    format!("{}; {go_on}", done_so_far(stats))
}

fn done_so_far(stats: &ShareStats) -> String {
    format!("{} % done", percent(stats.bytes_have, stats.bytes_total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_the_disk_was_behind_is_told_only_if_it_was() {
        let mut stats = ShareStats::default();
        stats.disk_queue_places = 16;
        assert_eq!(disk_behind(&stats), None);
        stats.disk_queue_peak = 5;
        let told = "the disk was behind: 5 of 16 places in its queue taken";
        assert_eq!(disk_behind(&stats).as_deref(), Some(told));
    }

    #[test]
    fn a_pattern_selects_files_and_whole_folders() {
        let set = |patterns: &[&str]| {
            let mut set = GlobSetBuilder::new();
            for pattern in patterns {
                set.add(Glob::new(pattern).unwrap());
            }
            set.build().unwrap()
        };
        let path = |path: &str| -> Vec<String> { path.split('/').map(str::to_owned).collect() };
        for (pattern, name, selected) in [
            ("*.mp4", "film.mp4", true),
            ("*.mp4", "deep/film.mp4", true),
            ("*.mp4", "film.mp3", false),
            ("deep", "deep/er/film.mp4", true),
            ("deep/**", "deep/er/film.mp4", true),
            ("er", "deep/er/film.mp4", false),
        ] {
            assert_eq!(is_selected(&set(&[pattern]), &path(name)), selected, "{pattern} {name}");
        }
    }

    #[test]
    fn whoever_is_left_alone_is_told_by_what_and_what_helps() {
        let mut stats = ShareStats::default();
        let error = |stats: &ShareStats| deserted(stats).to_string();
        let hint = |stats: &ShareStats| deserted(stats).advice().unwrap().to_owned();
        assert_eq!(error(&stats), "everybody has left");
        stats.lost_contact = true;
        assert_eq!(error(&stats), "lost contact with all peers");
        assert!(hint(&stats).contains("--wait") && !hint(&stats).contains("new ticket"));
        assert!(!hint(&stats).contains("kept"), "there is nothing to keep: {}", hint(&stats));
        (stats.bytes_have, stats.bytes_total) = (1, 2);
        assert!(hint(&stats).starts_with("50 % done; what was verified is kept"));
        stats.pieces_refused = 1;
        assert!(error(&stats).contains("wrong bytes came for 1 piece,"));
        stats.links = 1;
        assert!(error(&stats).starts_with("nobody who is there"));
        assert!(hint(&stats).contains("--wait") && hint(&stats).contains("new ticket"));
        stats.unanswering = vec![([192, 0, 2, 7], 1).into()];
        assert_eq!(error(&stats), "192.0.2.7:1 does not answer any more");
        assert!(hint(&stats).contains("--wait") && !hint(&stats).contains("new ticket"));
        stats.pieces_withdrawn = 1;
        assert!(error(&stats).contains("was changed"));
        assert!(!hint(&stats).contains("run the same command"), "that would never help");
    }

    #[test]
    fn a_selection_of_nothing_is_told_with_its_patterns() {
        let globs = [Glob::new("*.mkv").unwrap(), Glob::new("x").unwrap()];
        let failure = refused(GetError::NothingSelected { has: "film.mp4".into() }, &globs);
        assert!(failure.to_string().contains("film.mp4"));
        assert_eq!(failure.advice(), Some("--select *.mkv --select x matches none of them"));
    }

    #[test]
    fn forever_is_a_time_that_clocks_can_count() {
        assert!(Instant::now().checked_add(patience(Patience(None))).is_some());
        assert_eq!(patience(Patience(Some(Duration::ZERO))), Duration::ZERO);
    }
}
