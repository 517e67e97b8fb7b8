//! What came of a simulated swarm: its event, and the table for people.

use std::time::Duration;

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::units::Time;
use crate::swarm_values::Rate;

/// What came of one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Simulated {
    pub(crate) seed: u64,
    /// Without the seeders.
    pub(crate) peers: u64,
    pub(crate) seeders: u64,
    pub(crate) bytes: u64,
    pub(crate) pieces: u64,
    pub(crate) piece_size: u64,
    pub(crate) start: String,
    pub(crate) picking: String,
    pub(crate) policy: String,
    pub(crate) slots: String,
    /// Whether every honest peer got everything.
    pub(crate) finished: bool,
    pub(crate) honest_peers: u64,
    pub(crate) honest_peers_done: u64,
    /// When the first, the median and the last honest peer had everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) median_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_seconds: Option<f64>,
    pub(crate) lower_bound_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) over_bound: Option<f64>,
    /// Virtual time at the end.
    pub(crate) simulated_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seeder_copies: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_copy: Option<f64>,
    pub(crate) messages_per_peer: f64,
    pub(crate) waste: f64,
    pub(crate) pieces_refused: u64,
    /// Regular slots that an honest peer moved from one peer to another in a round.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slot_moves_median: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) slot_moves_most: Option<f64>,
    pub(crate) fairness: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) give_and_take: Option<f64>,
    pub(crate) honest_rate: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) free_rider_rate: Option<f64>,
    /// Honest peers that another honest peer has banned.
    pub(crate) honest_peers_banned: u64,
    /// Whether anybody keeps to no rule.
    #[serde(skip)]
    pub(crate) hostile: bool,
    #[serde(flatten)]
    pub(crate) joined: Option<Joined>,
    #[serde(flatten)]
    pub(crate) got: Option<Got>,
    #[serde(flatten)]
    pub(crate) slow: Option<Slow>,
    pub(crate) real_seconds: f64,
    pub(crate) events: u64,
    pub(crate) events_hash: String,
}

/// How long honest peers that joined one by one waited for their first piece, in rounds of the
/// choker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Joined {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_piece_median_rounds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first_piece_last_rounds: Option<f64>,
}

/// What honest peers had got in a time that was set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Got {
    /// Parts of the share, from 0 to 1.
    pub(crate) median_verified: f64,
    pub(crate) least_verified: f64,
    #[serde(flatten)]
    pub(crate) shares: Option<Shares>,
}

/// What the least and the most served honest peers had got, over the mean of all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Shares {
    pub(crate) least_share: f64,
    pub(crate) most_share: f64,
}

impl From<(f64, f64)> for Shares {
    fn from((least_share, most_share): (f64, f64)) -> Self {
        Self { least_share, most_share }
    }
}

/// What slow peers cost: the end beside that of the same swarm without them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Slow {
    pub(crate) last_without_slow_seconds: f64,
    pub(crate) slow_delay_seconds: f64,
    /// How much later the last of the other peers was.
    pub(crate) slow_delay_of_others_seconds: f64,
    /// Of the delay, what is for their ways out that are missing.
    pub(crate) slow_unsent_seconds: f64,
    /// What a piece takes over the whole way out of a peer that is not slow.
    pub(crate) piece_seconds: f64,
}

impl Slow {
    /// What of the delay is not for what they do not send.
    fn rest(self) -> f64 {
        self.slow_delay_seconds - self.slow_unsent_seconds
    }

    /// What a piece takes from one peer to the next, if five at a time share its way out.
    fn piece_of_five_seconds(self) -> f64 {
        5.0 * self.piece_seconds
    }

    /// The delay in such times.
    fn delay_in_fives(self) -> f64 {
        self.slow_delay_seconds / self.piece_of_five_seconds()
    }
}

/// The word for a value of a flag, as it is typed.
pub(crate) fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

/// A row of the table: what it is, where it is found, and how it is told.
type Row = (&'static str, fn(&Simulated) -> Option<f64>, fn(f64) -> String);

const ROWS: [Row; 38] = [
    ("verified, median peer", |run| Some(run.got?.median_verified), percent),
    ("verified, last peer", |run| Some(run.got?.least_verified), percent),
    ("peers that have all", |run| run.got.map(|_| run.honest_peers_done as f64), count),
    ("first peer done", |run| run.first_seconds, time),
    ("median peer done", |run| run.median_seconds, time),
    ("last peer done", |run| run.last_seconds, time),
    ("  without the slow peers", |run| Some(run.slow?.last_without_slow_seconds), time),
    ("  later with them", |run| Some(run.slow?.slow_delay_seconds), seconds),
    ("  of it, for what they do not send", |run| Some(run.slow?.slow_unsent_seconds), seconds),
    ("  of it, for other reasons", |run| Some(run.slow?.rest()), seconds),
    ("  last of the others later", |run| Some(run.slow?.slow_delay_of_others_seconds), seconds),
    ("a piece takes, sent alone", |run| Some(run.slow?.piece_seconds), seconds),
    ("  later with them", |run| in_pieces(run, |slow| slow.slow_delay_seconds), pieces),
    ("  of it, for other reasons", |run| in_pieces(run, Slow::rest), pieces),
    (
        "  last of the others later",
        |run| in_pieces(run, |slow| slow.slow_delay_of_others_seconds),
        pieces,
    ),
    (
        "a piece takes, sent with four others",
        |run| Some(run.slow?.piece_of_five_seconds()),
        seconds,
    ),
    ("  later with them", |run| Some(run.slow?.delay_in_fives()), pieces),
    ("first piece after joining", |run| run.joined?.first_piece_median_rounds, rounds),
    ("  last peer's", |run| run.joined?.first_piece_last_rounds, rounds),
    ("no swarm could before", |run| Some(run.lower_bound_seconds), time),
    ("last / that bound", |run| run.over_bound, |over| format!("{over:.2}")),
    ("seeders sent", |run| run.seeder_copies, copies),
    ("sent till a copy was out", |run| run.first_copy, copies),
    ("messages per peer", |run| Some(run.messages_per_peer), |count| format!("{count:.0}")),
    ("received in vain", |run| Some(run.waste), percent),
    ("pieces that came wrong", |run| some(run.pieces_refused), |count| format!("{count}")),
    ("honest peers banned", banned, |count| format!("{count}")),
    ("slots moved in a round", |run| run.slot_moves_median, |count| format!("{count:.0}")),
    ("  most", |run| run.slot_moves_most, |count| format!("{count:.0}")),
    ("mean rate of the honest", |run| Some(run.honest_rate), |rate| Rate(rate).to_string()),
    ("mean rate of free riders", |run| run.free_rider_rate, |rate| Rate(rate).to_string()),
    ("free riders / the honest", free_riding, percent),
    ("fairness (Jain)", |run| Some(run.fairness), |index| format!("{index:.3}")),
    ("received by one, least / mean", |run| Some(run.got?.shares?.least_share), percent),
    ("received by one, most / mean", |run| Some(run.got?.shares?.most_share), percent),
    ("give and take (rank corr.)", |run| run.give_and_take, |rank| format!("{rank:.2}")),
    ("events", |run| Some(run.events as f64), |count| format!("{count:.0}")),
    ("real time", |run| Some(run.real_seconds), time),
];

/// The table of one run, or of several: medians, with the least and the most.
pub(crate) fn table(runs: &[Simulated]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    match runs {
        [run] => _ = table.set_header([String::new(), format!("seed {}", run.seed)]),
        _ => _ = table.set_header(["", "median", "least", "most"]),
    }
    for (name, figure, told) in ROWS {
        let mut values: Vec<f64> = runs.iter().filter_map(figure).collect();
        values.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (values.first(), values.last()) else { continue };
        let mut cells = vec![name.to_owned(), told(median(&values))];
        if runs.len() > 1 {
            cells.extend([told(*least), told(*most)]);
        }
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let unfinished = runs.iter().filter(|run| !run.finished).count();
    if unfinished > 0 && runs.len() > 1 {
        return format!("{table}\n{unfinished} of {} runs did not finish", runs.len());
    }
    table.to_string()
}

/// Of sorted values, of which there is at least one.
fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    }
}

fn free_riding(run: &Simulated) -> Option<f64> {
    run.free_rider_rate.map(|rate| rate / run.honest_rate.max(f64::MIN_POSITIVE))
}

/// A count that is told only if there is any.
fn some(count: u64) -> Option<f64> {
    (count > 0).then_some(count as f64)
}

/// Told wherever somebody might have been taken for what another is.
fn banned(run: &Simulated) -> Option<f64> {
    let count = run.honest_peers_banned as f64;
    (run.hostile || count > 0.0).then_some(count)
}

/// A delay in times that a piece takes, sent alone.
fn in_pieces(run: &Simulated, delay: impl Fn(Slow) -> f64) -> Option<f64> {
    run.slow.map(|slow| delay(slow) / slow.piece_seconds)
}

fn count(count: f64) -> String {
    format!("{count:.0}")
}

fn pieces(count: f64) -> String {
    format!("{count:.1} of that")
}

fn seconds(count: f64) -> String {
    format!("{count:.2} s")
}

fn rounds(count: f64) -> String {
    format!("{count:.2} rounds")
}

fn copies(count: f64) -> String {
    format!("{count:.2} copies")
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

fn time(seconds: f64) -> String {
    Time(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seed: u64, last: f64) -> Simulated {
        Simulated {
            seed,
            finished: true,
            last_seconds: Some(last),
            lower_bound_seconds: 100.0,
            over_bound: Some(last / 100.0),
            honest_rate: 1000.0,
            ..Simulated::default()
        }
    }

    #[test]
    fn the_table_of_one_run_leaves_out_what_there_is_not() {
        let text = table(&[run(7, 125.0)]);
        assert!(
            text.contains("seed 7") && text.contains("2:05") && text.contains("1.25"),
            "{text}"
        );
        assert!(!text.contains("free riders") && !text.contains("rank"), "{text}");
        let riders = Simulated { free_rider_rate: Some(250.0), ..run(7, 125.0) };
        assert!(table(&[riders]).contains("25.0 %"));
    }

    #[test]
    fn what_slow_peers_cost_is_told_in_seconds_and_in_the_time_that_a_piece_takes() {
        let slow = Slow {
            last_without_slow_seconds: 115.0,
            slow_delay_seconds: 10.0,
            slow_delay_of_others_seconds: 4.0,
            slow_unsent_seconds: 7.0,
            piece_seconds: 2.0,
        };
        let text = table(&[Simulated { slow: Some(slow), ..run(7, 125.0) }]);
        let rows = text.lines().filter_map(|line| line.split_once('┆'));
        let told = |name: &str| {
            let rows = rows.clone().filter(|(row, _)| row.trim_matches(['│', ' ']) == name);
            rows.map(|(_, cell)| cell.trim_matches(['│', ' ']).to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(told("later with them"), ["10.00 s", "5.0 of that", "1.0 of that"]);
        assert_eq!(told("of it, for what they do not send"), ["7.00 s"]);
        assert_eq!(told("of it, for other reasons"), ["3.00 s", "1.5 of that"]);
        assert_eq!(told("last of the others later"), ["4.00 s", "2.0 of that"]);
    }

    #[test]
    fn the_table_of_several_has_the_median_the_least_and_the_most() {
        let unfinished = Simulated { finished: false, last_seconds: None, ..run(3, 0.0) };
        let text = table(&[run(1, 130.0), run(2, 110.0), run(3, 120.0), unfinished]);
        let last = text.lines().find(|line| line.contains("last peer")).expect("a row");
        let cells: Vec<&str> = last.split('┆').map(|cell| cell.trim_matches([' ', '│'])).collect();
        assert_eq!(cells[1..], ["2:00", "1:50", "2:10"], "{text}");
        assert!(text.contains("1 of 4 runs did not finish"), "{text}");
    }

    #[test]
    fn an_even_number_of_values_has_its_median_between_the_middle_ones() {
        assert_eq!(
            (median(&[1.0]), median(&[1.0, 3.0]), median(&[1.0, 3.0, 9.0])),
            (1.0, 2.0, 3.0)
        );
    }
}
