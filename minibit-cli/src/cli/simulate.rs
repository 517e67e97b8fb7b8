//! The flags of `simulate`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};
use minibit_core::types::{PieceSize, limits};

use super::Policy;
use crate::swarm_values::{Rate, RateRange, Slots, parse_percent};
use crate::values::{self, Start, within};

/// Peers simulated at most: what a machine has memory for.
pub(crate) const PEERS_MAX: u32 = 20_000;

/// Simulate a swarm of up to thousands of peers, without a network.
///
/// The peers decide by the very code that decides in `get` and `share`; time, rates and distances
/// are modelled, so a swarm that takes hours is simulated in seconds, and the same seed gives the
/// same again. Ends with a table: how long it took, next to the bound that no swarm can beat, who
/// sent how much, and how fair it was. Exits 1 if some honest peer never got everything.
///
/// Rates are a second's: 10Mbit is 10,000,000 bits, 1MiB is 1,048,576 bytes.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  minibit simulate
  minibit simulate --peers 1000 --upload 1Mbit-10Mbit --plot swarm.svg
  minibit simulate --peers 40 --free-riders 40% --slots 4+1 --runs 9
  minibit simulate --peers 60 --pieces 400 --slow-peers 1       does one hold up the others?
  minibit simulate --peers 30 --pieces 4000 --upload 1Mbit --stop-after 30m    is it fair?
  minibit simulate --picking sequential --seeders-leave 1.1     who needs rarest first?
  minibit simulate --peers 300 --joining 10m --churn 5% --leave-when-done --json")]
pub(crate) struct Simulate {
    /// How many peers fetch it, those that keep to no rule among them.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = within(1, PEERS_MAX))]
    pub(crate) peers: u32,
    /// How many peers hold everything from the start; 1 if left out, and with round-robin none.
    #[arg(long, value_name = "N", value_parser = within(0, 1000u32))]
    pub(crate) seeders: Option<u32>,
    /// How many pieces the share has.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = within(1, limits::PIECES_MAX))]
    pub(crate) pieces: u32,
    /// Length of a piece, a power of two from 16K to 16M.
    #[arg(long, value_name = "SIZE", default_value = "256K", value_parser = values::parse_piece_size)]
    pub(crate) piece_size: PieceSize,
    /// What they hold at the start: seed, random:P% or round-robin.
    #[arg(long, default_value = "seed")]
    pub(crate) start: Start,
    /// Peers join one by one over this time.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = values::parse_duration)]
    pub(crate) joining: Duration,
    /// End after this time of the swarm, done or not, and print how evenly peers were served.
    #[arg(long, value_name = "TIME", value_parser = values::parse_duration)]
    pub(crate) stop_after: Option<Duration>,
    /// A peer leaves as soon as it has everything.
    #[arg(long)]
    pub(crate) leave_when_done: bool,
    /// Seeders leave once each has sent so many copies of the share.
    #[arg(long, value_name = "COPIES", value_parser = values::parse_ratio)]
    pub(crate) seeders_leave: Option<f64>,
    /// Seed of all chance, to repeat a swarm.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Simulate it so often, each time with the next seed, and print medians with least and most.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = within(1, 1000u32))]
    pub(crate) runs: u32,
    /// Simulate the made-up swarm of that number, as the project's own tests do: small, with
    /// faults and peers that keep to no rule; whatever must always hold is checked after every
    /// step.
    #[arg(long, value_name = "NUMBER", conflicts_with_all = [
        "peers", "seeders", "pieces", "piece_size", "start", "joining", "leave_when_done",
        "seeders_leave", "upload", "download", "seeder_upload", "latency", "churn", "policy",
        "picking", "slots", "free_riders", "large_view", "slow_peers", "stop_after", "corrupt", "liars", "drippers", "flooders", "seed",
        "runs",
    ])]
    pub(crate) varied: Option<u64>,
    /// Draw the (first) run: completion and copies of pieces over time, and what each peer gave
    /// and got.
    #[arg(long, value_name = "FILE.svg", value_hint = ValueHint::FilePath)]
    pub(crate) plot: Option<PathBuf>,
    // The headings of these are those of all that follows.
    #[command(flatten)]
    pub(crate) network: Network,
    #[command(flatten)]
    pub(crate) rules: Rules,
    #[command(flatten)]
    pub(crate) hostile: Hostile,
}

/// What lies between the peers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct Network {
    /// What each peer can send: a rate, or a range with as many peers in each doubling.
    #[arg(long, value_name = "RATE", default_value = "10Mbit")]
    pub(crate) upload: RateRange,
    /// What each peer can receive, in the same order; without a bound if left out.
    #[arg(long, value_name = "RATE")]
    pub(crate) download: Option<RateRange>,
    /// What each seeder can send; as much as the best of the others if left out.
    #[arg(long, value_name = "RATE")]
    pub(crate) seeder_upload: Option<Rate>,
    /// So many of the peers send at a hundredth of their rate. The same swarm is simulated without
    /// them, too, and what they cost the others is printed.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = within(0, PEERS_MAX))]
    pub(crate) slow_peers: u32,
    /// How long a message takes from one peer to another.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = values::parse_duration)]
    pub(crate) latency: Duration,
    /// Of the peers that are not done, so many crash in each minute. They are back after ten
    /// seconds, with what they had verified.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub(crate) churn: f64,
}

/// By which rules peers choose.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rules")]
pub(crate) struct Rules {
    /// How each peer chooses whom to serve.
    #[arg(long, value_enum, default_value_t = Policy::Contribution)]
    pub(crate) policy: Policy,
    /// In which order each peer fetches the pieces.
    #[arg(long, value_enum, default_value_t = Picking::Rarest)]
    pub(crate) picking: Picking,
    /// How many peers each serves at a time: auto, or so many by rank and by chance, as 4+1.
    #[arg(long, default_value = "auto")]
    pub(crate) slots: Slots,
}

/// In which order pieces are fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Picking {
    /// The pieces that the fewest peers hold: what all commands do.
    Rarest,
    /// Any piece.
    Random,
    /// From the first piece to the last.
    Sequential,
}

/// Parts of the peers that keep to no rule.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Hostile peers")]
pub(crate) struct Hostile {
    /// Peers that take and never give.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub(crate) free_riders: f64,
    /// Free riders that link to every peer they hear of, for more of them to try them.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub(crate) large_view: f64,
    /// Peers that send wrong bytes in every block.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub(crate) corrupt: f64,
    /// Peers that say they hold everything and never send a block.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub(crate) liars: f64,
    /// Peers that send at a thousandth of their rate.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub(crate) drippers: f64,
    /// Peers that ask for far more than they may.
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent)]
    pub(crate) flooders: f64,
}
