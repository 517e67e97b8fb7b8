//! Where a flag's value comes from: the command line beats `MINIBIT_*` variables, which beat
//! the file given by `--config`.
//!
//! There is one definition of every flag, in [`cli`](crate::cli). Variables and the file feed
//! the same flags through the same checks, by rule and not by list: `--seed-ratio` of `get` is
//! `MINIBIT_GET_SEED_RATIO` and, in the file, `seed-ratio` in the table `[get]`. Flags of
//! every command have neither the command in the variable's name nor a table in the file. So
//! a new flag needs nothing here.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::builder::{BoolishValueParser, OsStr};
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::exit::{Exit, Failure};

/// What `--help` says about it.
pub(crate) const SETTINGS_HELP: &str = "\
Settings:
  Every flag can also be set by a variable or in the file given by --config:
    minibit get --seed-ratio 2      beats   MINIBIT_GET_SEED_RATIO=2
    MINIBIT_GET_SEED_RATIO=2        beats   [get] seed-ratio = 2  in the file
  Flags that every command has go without the command: MINIBIT_LOG_DIR, log-dir = \"logs\".
  Several values: separated by commas in a variable, an array in the file.";

/// A variable whose name differs in more letters from that of any flag is not meant for one.
const SLIPS_MAX: usize = 2;

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// Clap's own: also how `--help` and `--version` come out.
    #[error(transparent)]
    Arguments(#[from] clap::Error),
    /// A flag refused the value that a variable gave it.
    #[error("the variable {variable} is not valid: {reason}")]
    Variable {
        /// Its name.
        variable: String,
        /// Which flag, and why.
        reason: String,
    },
    /// The file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("the configuration {} is not valid TOML", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key or table that is no flag or command.
    #[error("the configuration {} sets {key}, which is {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key, with its table.
        key: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A flag refused its value.
    #[error("the configuration {} is not valid: {reason}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which flag, and why.
        reason: String,
    },
}

/// Reads the settings of a command line (program name first).
///
/// # Errors
/// [`SettingsError`]; `--help` and `--version` come as `Arguments` too.
pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, SettingsError> {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = with_variables(Cli::command());
    let matches =
        command.clone().try_get_matches_from(&args).map_err(|error| {
            match variable_of(&error, &args) {
                Some(variable) => SettingsError::Variable { variable, reason: first_line(&error) },
                None => error.into(),
            }
        })?;
    let Some(path) = matches.get_one::<PathBuf>("config").cloned() else {
        return Ok(Cli::from_arg_matches(&matches)?);
    };
    let command = with_file(command, &path)?;
    // The arguments alone were fine a moment ago, so it is the file that is not.
    let matches: ArgMatches = command
        .try_get_matches_from(&args)
        .map_err(|error| SettingsError::Value { path, reason: first_line(&error) })?;
    Ok(Cli::from_arg_matches(&matches)?)
}

/// What an error of clap says, without its prefix and the usage that follows.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// The variable that gave a flag the value it refuses, if the command line did not.
fn variable_of(error: &clap::Error, args: &[OsString]) -> Option<String> {
    let text = |kind| match error.get(kind)? {
        ContextValue::String(text) => Some(text.as_str()),
        _ => None,
    };
    // `--wait <TIME>`, and what is wrong with it.
    let (flag, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    let long = flag.strip_prefix("--")?.split([' ', '=']).next()?;
    // By the flag's name: a value as short as some are may stand in any argument.
    let is_given = |arg: &OsString| {
        let arg = arg.to_string_lossy();
        arg.strip_prefix("--").is_some_and(|arg| arg.split('=').next() == Some(long))
    };
    if args.iter().any(is_given) {
        return None;
    }
    let ending = format!("_{}", long.to_uppercase().replace('-', "_"));
    std::env::vars_os().find_map(|(name, set)| {
        let name = name.into_string().ok()?;
        let is_it = name.starts_with("MINIBIT_") && name.ends_with(&ending);
        (is_it && set.to_string_lossy().contains(value)).then_some(name)
    })
}

/// Gives every flag its variable.
fn with_variables(command: Command) -> Command {
    let named = |prefix: String| move |arg: Arg| with_variable(arg, &prefix);
    command.mut_args(named("MINIBIT_".into())).mut_subcommands(move |sub| {
        let prefix = format!("MINIBIT_{}_", sub.get_name().to_uppercase());
        sub.mut_args(named(prefix))
    })
}

/// Says of each variable that is no flag's, and looks as if it were meant for one, that it sets nothing: a slip in its name
/// would go unnoticed. Others with our prefix are somebody else's business.
pub(crate) fn strays() -> Vec<String> {
    let set: Vec<String> = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .filter(|name| name.starts_with("MINIBIT"))
        .collect();
    if set.is_empty() {
        return Vec::new();
    }
    let command = with_variables(Cli::command());
    let args = command.get_subcommands().flat_map(Command::get_arguments);
    let known: Vec<&str> =
        args.chain(command.get_arguments()).filter_map(|arg| arg.get_env()?.to_str()).collect();
    set.iter().filter_map(|name| stray(name, &known)).collect()
}

fn stray(name: &str, known: &[&str]) -> Option<String> {
    if known.contains(&name) {
        return None;
    }
    // The name of a flag without its command, or one that is hardly different.
    let flag = name.strip_prefix("MINIBIT").filter(|flag| flag.len() > 1);
    let without_command = known.iter().find(|known| flag.is_some_and(|flag| known.ends_with(flag)));
    let nearest = || {
        let near = known.iter().map(|known| (strsim::osa_distance(name, known), known));
        let near = near.filter(|(slips, _)| *slips <= SLIPS_MAX);
        near.min_by_key(|(slips, _)| *slips).map(|(_, known)| known)
    };
    let meant = without_command.or_else(nearest)?;
    Some(format!("the variable {name} sets no flag; did you mean {meant}?"))
}

fn with_variable(arg: Arg, prefix: &str) -> Arg {
    let Some(long) = arg.get_long() else { return arg };
    let variable = format!("{prefix}{}", long.to_uppercase().replace('-', "_"));
    let arg = arg.env(OsStr::from(variable)).hide_env(true);
    match arg.get_action() {
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        ArgAction::Append => arg.value_delimiter(','),
        _ => arg,
    }
}

/// Makes a file's values the flags' defaults.
fn with_file(mut command: Command, path: &Path) -> Result<Command, SettingsError> {
    let text = fs::read_to_string(path)
        .map_err(|source| SettingsError::Unreadable { path: path.into(), source })?;
    let table: toml::Table = text
        .parse()
        .map_err(|source| SettingsError::Syntax { path: path.into(), source: Box::new(source) })?;
    for (key, value) in table {
        let wrong = |key: &str, why| SettingsError::Key { path: path.into(), key: key.into(), why };
        if let toml::Value::Table(flags) = value {
            if command.find_subcommand(&key).is_none() {
                return Err(wrong(&format!("[{key}]"), "no command"));
            }
            for (flag, value) in flags {
                let name = format!("{flag} in [{key}]");
                let arg = find_flag(command.find_subcommand(&key), &flag);
                let arg = arg.ok_or_else(|| wrong(&name, "no flag of that command"))?;
                let values =
                    texts(&value).ok_or_else(|| wrong(&name, "neither a value nor a list"))?;
                command = command
                    .mut_subcommand(&key, |sub| sub.mut_arg(arg, |arg| arg.default_values(values)));
            }
        } else {
            let arg = find_flag(Some(&command), &key).filter(|_| key != "config");
            let arg = arg.ok_or_else(|| wrong(&key, "no flag that every command has"))?;
            let values = texts(&value).ok_or_else(|| wrong(&key, "neither a value nor a list"))?;
            command = command.mut_arg(arg, |arg| arg.default_values(values));
        }
    }
    Ok(command)
}

/// The id of a command's flag of that name.
fn find_flag(command: Option<&Command>, long: &str) -> Option<clap::Id> {
    command?
        .get_arguments()
        .find(|arg| arg.get_long() == Some(long))
        .map(|arg| arg.get_id().clone())
}

/// A value of the file as the texts that a command line would have.
fn texts(value: &toml::Value) -> Option<Vec<OsStr>> {
    let text = |value: &toml::Value| match value {
        toml::Value::String(text) => Some(text.clone().into()),
        toml::Value::Integer(number) => Some(number.to_string().into()),
        toml::Value::Float(number) => Some(number.to_string().into()),
        toml::Value::Boolean(flag) => Some(flag.to_string().into()),
        _ => None,
    };
    match value {
        toml::Value::Array(values) => values.iter().map(text).collect(),
        single => Some(vec![text(single)?]),
    }
}

/// Says why there are no settings, or prints the help or the version that was asked for; the
/// code to end with.
pub(crate) fn explain(error: SettingsError) -> ExitCode {
    match error {
        SettingsError::Arguments(error) => {
            // Nobody to tell if the stream is closed.
            _ = error.print();
            // Clap's own codes: 0 for help and version, 2 for all else, as ours are.
            u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.code()).into()
        }
        other => {
            let failure = Failure::usage(other);
            _ = writeln!(io::stderr(), "error: {failure}");
            ExitCode::from(&failure)
        }
    }
}
