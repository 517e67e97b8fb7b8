//! One module for each command. Each takes its checked flags and an [`Output`], and gives
//! nothing or a [`Failure`].

mod inspect;

use crate::cli::{Cli, Command};
use crate::exit::Failure;
use crate::output::Output;

/// Runs the command.
///
/// # Errors
/// The failure that the process ends with.
pub(crate) fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    match cli.command {
        Command::Inspect(flags) => inspect::run(&flags, output),
        _ => Err(Failure::usage("this build cannot do that yet")),
    }
}
