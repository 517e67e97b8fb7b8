//! The events of `--json`: the contract with programs that drive this one.
//!
//! One object per line, with `event` first. Fields are added, never renamed or given another
//! meaning. Sizes are bytes, times are seconds, hashes and ids lower-case hex. Documented for
//! their readers in `docs/json-events.md`; a test keeps the two together.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::progress::{Standing, Work};
use super::simulated::Simulated;
use super::units::percent;

/// Anything that is printed with `--json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// This node listens.
    Listening { peer: String, addresses: Vec<String> },
    /// A share is ready, and this fetches it.
    Ticket {
        ticket: String,
        share: String,
        name: String,
        bytes: u64,
        files: u64,
        pieces: u64,
        piece_size: u64,
    },
    /// The manifest of what is fetched is here.
    Manifest {
        share: String,
        name: String,
        bytes: u64,
        files: u64,
        pieces: u64,
        piece_size: u64,
        /// What is already here from an earlier run.
        resumed_bytes: u64,
    },
    /// Where work stands, about once a second.
    Progress {
        /// `hashing`, `fetching`, `seeding`, `verifying` or `simulating`.
        what: &'static str,
        bytes: u64,
        bytes_total: u64,
        percent: u64,
        /// Found so far, while it is not known yet how many bytes there are.
        #[serde(skip_serializing_if = "Option::is_none")]
        files: Option<u64>,
        pieces: u64,
        pieces_total: u64,
        /// Bytes per second.
        rate: u64,
        upload_rate: u64,
        uploaded: u64,
        peers: u64,
        seeders: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        seconds_left: Option<u64>,
        /// Since bytes last came, if that is long.
        #[serde(skip_serializing_if = "Option::is_none")]
        silent_for: Option<u64>,
        /// With nobody to fetch from.
        #[serde(skip_serializing_if = "Option::is_none")]
        gives_up_in: Option<u64>,
    },
    /// There is nobody to fetch from, and it is tried on.
    Waiting {
        /// `unanswered`, `lost`, `left`, `silent` or `not_held`.
        why: &'static str,
        peers: Vec<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        gives_up_in: Option<u64>,
    },
    /// There is somebody to fetch from again.
    GoingOn { peers: Vec<String> },
    /// Something to know, while the work goes on.
    Warning { message: String },
    /// Every byte of a fetched share is verified and in place.
    Done {
        share: String,
        path: PathBuf,
        bytes: u64,
        seconds: f64,
        downloaded: u64,
        uploaded: u64,
        messages_sent: u64,
        disk_queue_peak: u64,
        files: Vec<File>,
    },
    /// A node that shares was told to stop, or has seeded as long as it should.
    Stopped { uploaded: u64, seconds: f64 },
    /// What `verify` found.
    Verified { path: PathBuf, ok: bool, bytes: u64, bad: Vec<Bad> },
    /// What `inspect` read in a ticket.
    InspectedTicket { share: String, trackers: Vec<String>, peers: Vec<String> },
    /// What `inspect` read in a manifest.
    InspectedManifest {
        share: String,
        name: String,
        single: bool,
        bytes: u64,
        pieces: u64,
        piece_size: u64,
        /// How many files have each extension; "" for none.
        extensions: BTreeMap<String, u64>,
        files: Vec<File>,
    },
    /// One peer of the demo, at its end.
    DemoPeer(DemoPeer),
    /// The whole demo, at its end.
    Demo(Demo),
    /// One run of a simulated swarm, at its end.
    Simulated(Box<Simulated>),
    /// The command failed; the last event.
    Failed {
        code: u8,
        error: String,
        /// What to do about it.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
}

/// A file of a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct File {
    /// Its path within the share, with `/`.
    pub(crate) path: String,
    pub(crate) bytes: u64,
    /// Its BLAKE3 hash, as `b3sum` prints it.
    pub(crate) root: String,
}

/// Something that `verify` found wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Bad {
    /// Where the file is, or should be; empty for the share as a whole.
    pub(crate) path: String,
    pub(crate) problem: String,
}

/// What one peer of the demo did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DemoPeer {
    pub(crate) peer: u64,
    /// Whether it ended with a complete, verified copy.
    pub(crate) success: bool,
    /// From the start of the swarm until its copy was verified; 0 for one that began with all.
    pub(crate) seconds: f64,
    /// Messages it sent to peers and tracker, each BLOCO counted.
    pub(crate) messages_sent: u64,
    pub(crate) blocks_sent: u64,
    pub(crate) connections: u64,
    pub(crate) downloaded: u64,
    pub(crate) uploaded: u64,
    /// Pieces that did not match their hash and were fetched again.
    pub(crate) pieces_refused: u64,
}

/// What the whole demo did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Demo {
    pub(crate) peers: u64,
    pub(crate) start: String,
    pub(crate) bytes: u64,
    pub(crate) pieces: u64,
    pub(crate) piece_size: u64,
    /// From the start of the swarm until the last copy was verified.
    pub(crate) seconds: f64,
    /// Part of the peers that succeeded, 0 to 1.
    pub(crate) success_rate: f64,
    /// On average over the peers.
    pub(crate) messages_per_peer: f64,
    pub(crate) connections: u64,
    /// The peer that was last, and when.
    pub(crate) slowest_peer: u64,
}

impl Event {
    /// Where some work stands, at these rates in bytes per second.
    pub(crate) fn progress(
        work: Work,
        standing: &Standing,
        rate: u64,
        upload_rate: u64,
        left: Option<Duration>,
    ) -> Self {
        Self::Progress {
            what: work.name(),
            bytes: standing.bytes,
            bytes_total: standing.bytes_total,
            percent: percent(standing.bytes, standing.bytes_total),
            files: (standing.files > 0).then_some(standing.files),
            pieces: standing.pieces,
            pieces_total: standing.pieces_total,
            rate,
            upload_rate,
            uploaded: standing.uploaded,
            peers: standing.peers,
            seeders: standing.seeders,
            seconds_left: left.map(|left| left.as_secs()),
            silent_for: standing.silent.map(|silent| silent.as_secs()),
            gives_up_in: standing
                .alone
                .as_ref()
                .and_then(|alone| alone.gives_up_in)
                .map(|left| left.as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::Alone;
    use super::*;
    use crate::output::simulated::{Got, Joined, Shares, Slow};

    fn one_of_each() -> Vec<Event> {
        let text = String::new;
        let file = File { path: text(), bytes: 0, root: text() };
        vec![
            Event::Listening { peer: text(), addresses: vec![] },
            Event::Ticket {
                ticket: text(),
                share: text(),
                name: text(),
                bytes: 0,
                files: 0,
                pieces: 0,
                piece_size: 0,
            },
            Event::Manifest {
                share: text(),
                name: text(),
                bytes: 0,
                files: 0,
                pieces: 0,
                piece_size: 0,
                resumed_bytes: 0,
            },
            Event::progress(
                Work::Fetching,
                &Standing {
                    bytes_total: 1,
                    files: 1,
                    silent: Some(Duration::ZERO),
                    alone: Some(Alone { gives_up_in: Some(Duration::ZERO), unanswering: 0 }),
                    ..Standing::default()
                },
                1,
                1,
                Some(Duration::ZERO),
            ),
            Event::Waiting { why: "lost", peers: vec![], gives_up_in: Some(0) },
            Event::GoingOn { peers: vec![] },
            Event::Warning { message: text() },
            Event::Done {
                share: text(),
                path: PathBuf::new(),
                bytes: 0,
                seconds: 0.0,
                downloaded: 0,
                uploaded: 0,
                messages_sent: 0,
                disk_queue_peak: 0,
                files: vec![file.clone()],
            },
            Event::Stopped { uploaded: 0, seconds: 0.0 },
            Event::Verified {
                path: PathBuf::new(),
                ok: false,
                bytes: 0,
                bad: vec![Bad { path: text(), problem: text() }],
            },
            Event::InspectedTicket { share: text(), trackers: vec![], peers: vec![] },
            Event::InspectedManifest {
                share: text(),
                name: text(),
                single: true,
                bytes: 0,
                pieces: 0,
                piece_size: 0,
                extensions: BTreeMap::new(),
                files: vec![file],
            },
            Event::DemoPeer(DemoPeer {
                peer: 0,
                success: true,
                seconds: 0.0,
                messages_sent: 0,
                blocks_sent: 0,
                connections: 0,
                downloaded: 0,
                uploaded: 0,
                pieces_refused: 0,
            }),
            Event::Demo(Demo {
                peers: 0,
                start: text(),
                bytes: 0,
                pieces: 0,
                piece_size: 0,
                seconds: 0.0,
                success_rate: 0.0,
                messages_per_peer: 0.0,
                connections: 0,
                slowest_peer: 0,
            }),
            Event::Simulated(Box::new(Simulated {
                first_seconds: Some(0.0),
                median_seconds: Some(0.0),
                last_seconds: Some(0.0),
                over_bound: Some(0.0),
                seeder_copies: Some(0.0),
                first_copy: Some(0.0),
                give_and_take: Some(0.0),
                free_rider_rate: Some(0.0),
                joined: Some(Joined {
                    first_piece_median_rounds: Some(0.0),
                    first_piece_last_rounds: Some(0.0),
                }),
                got: Some(Got {
                    median_verified: 0.0,
                    least_verified: 0.0,
                    shares: Some(Shares { least_share: 0.0, most_share: 0.0 }),
                }),
                slow: Some(Slow {
                    last_without_slow_seconds: 0.0,
                    slow_delay_seconds: 0.0,
                    slow_delay_of_others_seconds: 0.0,
                    slow_unsent_seconds: 0.0,
                    piece_seconds: 0.0,
                }),
                slot_moves_median: Some(0.0),
                slot_moves_most: Some(0.0),
                ..Simulated::default()
            })),
            Event::Failed { code: 1, error: text(), hint: Some(text()) },
        ]
    }

    /// Every key of an object, those of objects within it included.
    fn keys(value: &serde_json::Value, into: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    into.push(key.clone());
                    keys(value, into);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| keys(value, into)),
            _ => {}
        }
    }

    #[test]
    fn every_event_and_field_is_documented_in_its_section() {
        let manual = include_str!("../../../docs/json-events.md");
        let sections: Vec<&str> = manual.split("\n## ").collect();
        for event in one_of_each() {
            let json = serde_json::to_value(&event).unwrap();
            let name = json["event"].as_str().unwrap().to_owned();
            let section = sections
                .iter()
                .find(|section| section.starts_with(&format!("`{name}`")))
                .unwrap_or_else(|| panic!("no section for {name}"));
            let mut fields = Vec::new();
            keys(&json, &mut fields);
            for field in fields.iter().filter(|field| *field != "event") {
                assert!(section.contains(&format!("`{field}`")), "{name}: {field}");
            }
        }
    }

    #[test]
    fn an_event_is_one_line_that_begins_with_its_name() {
        for event in one_of_each() {
            let line = serde_json::to_string(&event).unwrap();
            assert!(line.starts_with("{\"event\":\"") && !line.contains('\n'), "{line}");
        }
    }
}
