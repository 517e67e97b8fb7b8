//! On what a run was made: printed above every table, since figures without it mean nothing.

use std::fs;
use std::process::Command;

/// One line each: machine, kernel, congestion control, date and commit.
pub fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("unknown processor", |(_, name)| name.trim());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let meminfo = read("/proc/meminfo");
    let memory = meminfo.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    let commit =
        output("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]);
    format!(
        "{model}, {cores} cores, {} GiB; Linux {}; congestion control {}; load {}\n{}; commit {}",
        memory.unwrap_or(0) >> 20,
        read("/proc/sys/kernel/osrelease"),
        read("/proc/sys/net/ipv4/tcp_congestion_control"),
        read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        if commit.is_empty() { "unknown" } else { &commit },
    )
}

/// What a program prints; nothing if it cannot be run.
fn output(program: &str, args: &[&str]) -> String {
    let run = Command::new(program).args(args).output();
    run.map(|run| String::from_utf8_lossy(&run.stdout).trim().to_owned()).unwrap_or_default()
}
