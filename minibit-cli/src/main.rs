//! The `minibit` command: parses, runs one command, ends with one exit code.
//!
//! Everything that moves bytes or decides lives in `minibit-core`; here is what a user types
//! and sees. See `cli` for the flags, `commands` for what they do, `output` for what is shown.

mod advertise;
mod cli;
mod commands;
mod descriptors;
mod exit;
mod input;
mod interrupt;
mod output;
mod settings;
mod swarm_values;
mod values;

use std::process::ExitCode;

use exit::Exit;
use output::Output;

/// Gives memory back to the system, and is quick with the small objects of many links.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match settings::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return settings::explain(error),
    };
    descriptors::raise_limit();
    let output = Output::new(&cli.common);
    for stray in settings::strays() {
        output.warn(stray);
    }
    match output::log::start(&cli.common, &output).and_then(|()| commands::run(cli, &output)) {
        Ok(()) if output.is_whole() => ExitCode::SUCCESS,
        // That was said when it happened.
        Ok(()) => Exit::Disk.code().into(),
        Err(failure) => {
            output.fail(&failure);
            ExitCode::from(&failure)
        }
    }
}
