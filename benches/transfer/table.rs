//! The tables of a run.

use minibit_benches::{GIB, MIB, spread};

use crate::contender::{Figures, Setup};

/// Prints everything that the rounds tell.
pub(crate) fn print(setup: &Setup, names: &[&str], rounds: &[Vec<Figures>]) {
    let gib = setup.bytes_moved() / GIB;
    println!(
        "{:.0} MiB to {} receiver(s), {} rounds: median (min–max)\n",
        setup.size as f64 / MIB,
        setup.receivers,
        rounds.len()
    );
    println!(
        "| | MiB/s in all | CPU s/GiB, both ends | sender | receivers | anon MiB, sender \
         | one receiver | seeder sent, copies | seeder's messages |\n|---|---|---|---|---|---|---|---|---|"
    );
    for (column, name) in names.iter().enumerate() {
        let of = |value: &dyn Fn(&Figures) -> f64| {
            spread(rounds.iter().map(|round| value(&round[column])))
        };
        println!(
            "| {name} | {} | {} | {} | {} | {} | {} | {} | {} |",
            of(&|f| setup.bytes_moved() / MIB / f.seconds),
            of(&|f| f.cpu / gib),
            of(&|f| f.cpu_sender / gib),
            of(&|f| (f.cpu - f.cpu_sender) / gib),
            of(&|f| f.anon_sender / 1024.0),
            of(&|f| f.anon_receiver / 1024.0),
            of(&|f| f.seeder_copies),
            of(&|f| f.messages),
        );
    }
    println!("\nThroughput as a multiple of the column's, within each round:\n");
    let others: Vec<usize> = (0..names.len()).filter(|column| !is_ours(names[*column])).collect();
    let head: Vec<&str> = others.iter().map(|column| names[*column]).collect();
    println!("| | {} |\n|---|{}", head.join(" | "), "---|".repeat(head.len()));
    for (ours, name) in names.iter().enumerate().filter(|(_, name)| is_ours(name)) {
        let ratio = |other: &usize| {
            spread(rounds.iter().map(|round| round[*other].seconds / round[ours].seconds))
        };
        let cells: Vec<String> = others.iter().map(ratio).collect();
        println!("| {name} | {} |", cells.join(" | "));
    }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("minibit")
}
