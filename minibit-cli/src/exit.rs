//! How the process ends: one code for each kind of outcome, and the failure that leads there.
//!
//! Scripts branch on the code, people read the line. Every failure has both: the error's own
//! words, its causes after it, and what to do next where there is something to do.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// Every code this program ends with, documented in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Nothing that has a code of its own.
    Failed = 1,
    /// The command line, a variable or the configuration file is wrong.
    Usage = 2,
    /// Bytes are not what they should be: a file, a manifest.
    Integrity = 3,
    /// No tracker and no peer could be reached, for as long as we may wait.
    Unreachable = 4,
    /// Our own disk: full, read-only, in use, in the way.
    Disk = 5,
    /// Ctrl-C or SIGTERM. What was verified is kept.
    Interrupted = 130,
}

impl Exit {
    /// The number.
    pub(crate) fn code(self) -> u8 {
        self as u8
    }
}

/// What `--help` says about the codes.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
    0  done: every byte verified and in place
    1  failed
    2  usage: the command line, a variable or the configuration is wrong
    3  integrity: bytes are not what the ticket or the manifest says
    4  nobody reachable
    5  disk: full, read-only, in use or in the way
  130  interrupted; what was verified is kept
  Once share, tracker and peer run, Ctrl-C is how they end, with 0.";

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    error: Box<dyn Error + Send + Sync>,
    hint: Option<String>,
}

impl Failure {
    /// A failure with its kind and its error, which is printed with all its causes.
    pub(crate) fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { exit, error: error.into(), hint: None }
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// Adds what the user can do about it, printed on a line of its own.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The kind.
    pub(crate) fn exit(&self) -> Exit {
        self.exit
    }

    /// What to do about it, if something is known.
    pub(crate) fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> Self {
        failure.exit.code().into()
    }
}

impl fmt::Display for Failure {
    /// The error and its causes, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        let mut cause = self.error.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("could not write x")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_failure_is_one_line_with_its_causes() {
        let failure = Failure::new(Exit::Disk, Outer(std::io::Error::other("no space")));
        assert_eq!(failure.to_string(), "could not write x: no space");
        assert_eq!(failure.exit().code(), 5);
    }

    #[test]
    fn the_help_names_every_code() {
        for exit in [
            Exit::Failed,
            Exit::Usage,
            Exit::Integrity,
            Exit::Unreachable,
            Exit::Disk,
            Exit::Interrupted,
        ] {
            let code = exit.code().to_string();
            assert!(EXIT_CODES.lines().any(|line| line.trim_start().starts_with(&code)), "{code}");
        }
    }
}
