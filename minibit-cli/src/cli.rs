//! The command line as types: what can be asked for, with its help.
//!
//! A value of these types is checked as far as one flag alone can be. What needs two flags,
//! a file or the network is the command's business.

mod simulate;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum, ValueHint};
use globset::Glob;
use minibit_core::types::PieceSize;

pub(crate) use simulate::{Hostile, Network, Picking, Rules, Simulate};

use crate::exit::EXIT_CODES;
use crate::settings::SETTINGS_HELP;
use crate::values::{self, Announced, HostPort, Patience, Start, within};

/// Share large files from one machine to many.
///
/// Everyone who fetches a share also passes it on, so the last of many is done hardly later
/// than the first. Every byte is verified on arrival against the hash in the ticket.
#[derive(Debug, Parser)]
#[command(
    name = "minibit",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{SETTINGS_HELP}\n\n{EXIT_CODES}"),
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  minibit share film.mp4             prints a ticket, and shares until Ctrl-C
  minibit get minibit1...            fetches it into this directory, on any machine
  minibit demo                       a whole swarm on this machine, with a table at the end
  minibit simulate --peers 1000      a large one in virtual time, without a network";

/// Flags of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Common {
    /// Print events for programs on stdout, one JSON object per line (docs/json-events.md).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print nothing on stderr but errors.
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more on stderr: -v what happens, -vv each link and piece, -vvv everything.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Write a log for each peer of this process: DIR/peer_N.log.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) log_dir: Option<PathBuf>,
    /// Take settings from a TOML file.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Share(Share),
    Get(Get),
    Tracker(Tracker),
    Peer(Peer),
    Demo(Demo),
    Simulate(Box<Simulate>),
    Verify(Verify),
    Inspect(Inspect),
}

/// Share files or folders and print the ticket that fetches them.
///
/// The ticket is the only line on stdout. Without --tracker, a tracker runs in this process.
/// Shares until Ctrl-C or SIGTERM.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minibit share film.mp4
  minibit share --name holidays photos/ film.mp4 --ticket-file ticket.txt
  minibit share film.mp4 --tracker tracker.example.org:26464 --listen :4000
  minibit share film.mp4 --announce 203.0.113.5          the router's address, which forwards
  minibit share film.mp4 | ssh other minibit get -")]
pub(crate) struct Share {
    /// Files and folders; several become one folder.
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) source: Source,
    /// Tracker to announce to, instead of one in this process; may be given several times.
    #[arg(long, value_name = "ADDR")]
    pub(crate) tracker: Vec<HostPort>,
    /// Also write the ticket to a file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) ticket_file: Option<PathBuf>,
    /// Also write the manifest to a file, for `verify` and `inspect`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) swarm: Swarm,
}

/// How files become a share.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// Name of the share; if left out the path's own, or for several that of the folder they are in.
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Length of a piece, a power of two from 16K to 16M; follows the total if left out.
    #[arg(long, value_name = "SIZE", value_parser = values::parse_piece_size)]
    pub(crate) piece_size: Option<PieceSize>,
    /// Hash everything anew, even what is known from an earlier run.
    #[arg(long)]
    pub(crate) no_cache: bool,
}

/// Fetch what a ticket names.
///
/// Ends when every byte is verified and in place under its final name; the path is the last
/// line on stdout. Started again after any interruption, it goes on where it was.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minibit get minibit1...
  minibit get @ticket.txt -o ~/films
  minibit get minibit1... --list                            what is in it?
  minibit get - --select '*.mp4' --select 'notes/**' < ticket.txt
  minibit get minibit1... --seed-ratio 2 --seed-time 1h     stay until either is reached")]
#[command(group = ArgGroup::new("until_stopped").args(["seed"]).conflicts_with_all(["seed_ratio", "seed_time"]))]
pub(crate) struct Get {
    /// The ticket, @FILE to read it from a file, or - to read one line from stdin.
    #[arg(value_name = "TICKET|@FILE|-")]
    pub(crate) ticket: String,
    /// Directory to put it in.
    #[arg(short = 'o', long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Fetch only files whose path in the share matches; a * matches through /, and the name of a
    /// folder selects all that is in it. May be given several times.
    #[arg(long, value_name = "GLOB")]
    pub(crate) select: Vec<Glob>,
    /// Fetch nothing but the list of files, and print it as `inspect` does.
    #[arg(long, conflicts_with_all = ["select", "force", "seed", "seed_ratio", "seed_time"])]
    pub(crate) list: bool,
    /// Replace a file that has the share's name, or a folder that has it and holds nothing but
    /// files that are fetched; a folder with anything else in it is left alone.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) stay: Stay,
    /// Peer or seeder to ask besides those in the ticket.
    #[arg(long, value_name = "ADDR")]
    pub(crate) peer: Vec<HostPort>,
    /// Tracker to ask besides those in the ticket.
    #[arg(long, value_name = "ADDR")]
    pub(crate) tracker: Vec<HostPort>,
    /// How long to go on with nobody to fetch from, or `forever`; if left out, 60s, and 1h once
    /// something is here.
    #[arg(long, value_name = "TIME")]
    pub(crate) wait: Option<Patience>,
    /// Also write the manifest to a file, for `verify` and `inspect`.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) swarm: Swarm,
}

/// Whether to stay and pass the share on once it is complete.
#[derive(Debug, Args)]
pub(crate) struct Stay {
    /// Stay and seed until stopped.
    #[arg(long)]
    pub(crate) seed: bool,
    /// Stay until this many bytes went out for each that the share has.
    #[arg(long, value_name = "RATIO", value_parser = values::parse_ratio)]
    pub(crate) seed_ratio: Option<f64>,
    /// Stay this long.
    #[arg(long, value_name = "TIME", value_parser = values::parse_duration)]
    pub(crate) seed_time: Option<Duration>,
}

/// Run a tracker: it tells peers of each other, and keeps nothing on disk.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minibit tracker
  minibit tracker --listen 192.0.2.7:4000 --sample 20
  minibit tracker --seed film.mp4          also peer 0, which holds everything")]
pub(crate) struct Tracker {
    /// Share this as well, as peer 0, and print its ticket; may be given several times.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) seed: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) rules: TrackerRules,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) swarm: Swarm,
}

/// Which peers a tracker tells a joiner of.
#[derive(Debug, Args)]
pub(crate) struct TrackerRules {
    /// How many random peers a joiner is told of.
    #[arg(long, value_name = "N", value_parser = within::<u16>(1, 1000))]
    pub(crate) sample: Option<u16>,
    /// The classic rule: 4 random peers, all of them if there are fewer than 5.
    #[arg(long, conflicts_with_all = ["mesh", "sample"])]
    pub(crate) classic: bool,
    /// Tell everybody of everybody.
    #[arg(long, conflicts_with = "sample")]
    pub(crate) mesh: bool,
}

/// Run a node for long: it seeds and fetches several shares at once, until stopped.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minibit peer --share films/ --tracker tracker.example.org
  minibit peer --id 3 --get @a.ticket --get @b.ticket -o downloads --log-dir logs")]
#[command(group = ArgGroup::new("work").args(["share", "get"]).required(true).multiple(true))]
pub(crate) struct Peer {
    /// Share this; may be given several times. The tickets are the lines on stdout.
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) share: Vec<PathBuf>,
    /// Fetch this ticket or @FILE and seed it afterwards; may be given several times.
    #[arg(long, value_name = "TICKET|@FILE")]
    pub(crate) get: Vec<String>,
    /// Tracker to announce to; may be given several times.
    #[arg(long, value_name = "ADDR")]
    pub(crate) tracker: Vec<HostPort>,
    /// Directory to fetch into.
    #[arg(short = 'o', long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub(crate) dir: PathBuf,
    /// Replace a file that has the share's name, or a folder that has it and holds nothing but
    /// files that are fetched; a folder with anything else in it is left alone.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) source: Source,
    #[command(flatten)]
    pub(crate) reach: Reach,
    #[command(flatten)]
    pub(crate) swarm: Swarm,
}

/// Where others are told to look for this node.
#[derive(Debug, Args)]
pub(crate) struct Reach {
    /// Also put this address into tickets, as that of a router which forwards the port; a name is
    /// looked up now. The port is the one listened on if left out. May be given several times.
    #[arg(long, value_name = "ADDR")]
    pub(crate) announce: Vec<Announced>,
}

/// How this node meets others.
#[derive(Debug, Args)]
#[command(next_help_heading = "Swarm")]
pub(crate) struct Swarm {
    /// Where to listen: ADDR:PORT, an address or a port; may be given several times.
    #[arg(long, value_name = "ADDR", value_parser = values::parse_listen)]
    pub(crate) listen: Vec<SocketAddr>,
    /// A small number as this peer's identity; random if left out.
    #[arg(long, value_name = "N")]
    pub(crate) id: Option<u64>,
    /// Whom to serve: those who gave most, those who hold rare pieces, or all in turn.
    #[arg(long, value_enum, default_value_t = Policy::Contribution)]
    pub(crate) policy: Policy,
    /// How many peers to serve at a time; follows the policy if left out.
    #[arg(long, value_name = "N", value_parser = within::<u16>(1, 1000))]
    pub(crate) slots: Option<u16>,
    /// The classic choker: 4 peers and 1 by chance, changed every 10 s.
    #[arg(long, conflicts_with = "slots")]
    pub(crate) classic_slots: bool,
    /// How many peers to be linked to at most.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = within::<u16>(1, 10_000))]
    pub(crate) max_links: u16,
    /// Connections to each peer; follows cores and distance if left out.
    #[arg(long, value_name = "N", value_parser = within::<u8>(1, 16))]
    pub(crate) lanes: Option<u8>,
}

/// How a node chooses whom to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Policy {
    /// Those from whom most verified bytes came lately.
    Contribution,
    /// Those who hold most of what is rare.
    Rarity,
    /// All in turn, as a seeder does.
    Seeder,
}

/// Run a whole swarm on this machine: a tracker, a seeder and leechers, over real TCP.
///
/// Every peer is a full node with its own files. Ends with a table of what each did.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minibit demo
  minibit demo film.mp4 --peers 20
  minibit demo --start round-robin --log-dir logs
  minibit demo --start random:10% --json")]
pub(crate) struct Demo {
    /// File or folder to move; the sample film if left out.
    #[arg(value_name = "FILE", value_hint = ValueHint::AnyPath)]
    pub(crate) file: Option<PathBuf>,
    /// How many peers, the seeder among them.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = within::<u16>(2, 200))]
    pub(crate) peers: u16,
    /// What they hold at the start: seed, random:P% or round-robin.
    #[arg(long, default_value = "seed")]
    pub(crate) start: Start,
    /// Length of a piece, a power of two from 16K to 16M; follows the total if left out.
    #[arg(long, value_name = "SIZE", value_parser = values::parse_piece_size)]
    pub(crate) piece_size: Option<PieceSize>,
    /// Directory for the copies; files/downloads under the current one if left out.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) dir: Option<PathBuf>,
    /// The classic setting: the tracker's sample of 4, 4 + 1 slots every 10 s.
    #[arg(long)]
    pub(crate) classic: bool,
    /// How each peer chooses whom to serve.
    #[arg(long, value_enum, default_value_t = Policy::Contribution)]
    pub(crate) policy: Policy,
    /// Seed of all chance in the demo, to repeat a run's choices.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) random_seed: u64,
}

/// Check a file or folder against a ticket or a manifest.
///
/// Needs no network. Exits 0 if every byte is right, and 3 if not. With a manifest, every
/// file that differs is named; with a ticket alone, only whether all is right can be told.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minibit verify film.mp4 --ticket minibit1...
  minibit verify photos/ --manifest photos.manifest")]
#[command(group = ArgGroup::new("against").args(["ticket", "manifest"]).required(true))]
pub(crate) struct Verify {
    /// The file or folder.
    #[arg(value_hint = ValueHint::AnyPath)]
    pub(crate) path: PathBuf,
    /// The ticket, @FILE or -.
    #[arg(long, value_name = "TICKET|@FILE|-")]
    pub(crate) ticket: Option<String>,
    /// A manifest written by `share` or `get` with --manifest-file.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) manifest: Option<PathBuf>,
    /// Name of the share in the ticket, if the path has another.
    #[arg(long, requires = "ticket")]
    pub(crate) name: Option<String>,
}

/// Show what a ticket or a manifest says. Needs no network.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  minibit inspect minibit1...
  minibit inspect photos.manifest
  minibit inspect photos.manifest --json")]
pub(crate) struct Inspect {
    /// A ticket, @FILE or - for one, or the path of a manifest.
    #[arg(value_name = "TICKET|@FILE|-|MANIFEST")]
    pub(crate) what: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_flag_of_simulate_that_is_of_no_group_stands_under_none() {
        let command = Cli::command();
        let simulate = command.find_subcommand("simulate").expect("a command");
        for name in ["seed", "runs", "varied", "plot"] {
            let flag = simulate.get_arguments().find(|arg| arg.get_id() == name).expect("a flag");
            assert_eq!(flag.get_help_heading(), None, "{name}");
        }
    }

    #[test]
    fn every_command_has_examples_in_its_help() {
        for command in Cli::command().get_subcommands() {
            let help = command.clone().render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", command.get_name());
        }
    }
}
