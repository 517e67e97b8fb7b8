//! One module for each command. Each takes its checked flags and a [`Session`], and gives
//! nothing or a [`Failure`].

mod demo;
mod failures;
mod get;
mod inspect;
mod news;
mod node;
mod opening;
mod peer;
mod share;
mod simulate;
mod tracker;
mod verify;
mod watch;
mod work;
mod written;

use crate::cli::{Cli, Command};
use crate::exit::{Exit, Failure};
use crate::interrupt::Interrupt;
use crate::output::Output;

/// What every command that takes its time is given.
#[derive(Clone, Debug)]
struct Session {
    output: Output,
    interrupt: Interrupt,
}

/// Runs the command.
///
/// # Errors
/// The failure that the process ends with.
pub(crate) fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Failed, error))?;
    let outcome = runtime.block_on(async {
        let interrupt = Interrupt::listen().map_err(|error| Failure::new(Exit::Failed, error))?;
        let session = Session { output: output.clone(), interrupt };
        dispatch(cli.command, &session).await
    });
    // A disk or a name server that does not answer must not keep us from ending.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(command: Command, session: &Session) -> Result<(), Failure> {
    match command {
        Command::Share(flags) => share::run(&flags, session).await,
        Command::Get(flags) => get::run(&flags, session).await,
        Command::Tracker(mut flags) => tracker::run(&mut flags, session).await,
        Command::Peer(flags) => peer::run(&flags, session).await,
        Command::Demo(flags) => demo::run(&flags, session).await,
        Command::Simulate(flags) => simulate::run(&flags, session).await,
        Command::Verify(flags) => verify::run(&flags, session).await,
        Command::Inspect(flags) => inspect::run(&flags, &session.output),
    }
}
