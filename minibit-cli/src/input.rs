//! What a command reads besides its flags: tickets from the command line, a file or stdin,
//! manifests from files, addresses from names.
//!
//! Everything read is capped: a path given by mistake may be a film.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use minibit_core::content::{Manifest, ManifestError, Ticket, TicketError};
use minibit_core::types::limits::{MANIFEST_LEN_MAX, TICKET_LEN_MAX};

use crate::exit::{Exit, Failure};
use crate::values::{Announced, HostPort};

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error("cannot read the ticket from {from}")]
    TicketUnreadable { from: String, source: io::Error },
    #[error("cannot use the ticket from {from}")]
    Ticket { from: String, source: TicketError },
    #[error("cannot read the manifest {}", path.display())]
    ManifestUnreadable { path: PathBuf, source: io::Error },
    #[error("{} is too large to be a manifest", path.display())]
    NoManifest { path: PathBuf },
    #[error("{} is not a manifest", path.display())]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("cannot find the address of {host}")]
    Host { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
}

/// A ticket given as itself, as `@FILE`, or as `-` for stdin.
///
/// # Errors
/// A usage failure that says which of these it was and what is wrong.
pub(crate) fn ticket(argument: &str) -> Result<Ticket, Failure> {
    let (from, text) = match (argument, argument.strip_prefix('@')) {
        ("-", _) => ("stdin".into(), read_text(&mut io::stdin().lock())),
        (_, Some(path)) => {
            (path.to_owned(), File::open(path).and_then(|mut file| read_text(&mut file)))
        }
        _ => ("the command line".to_owned(), Ok(argument.to_owned())),
    };
    let text = match text {
        Ok(text) => text,
        Err(source) => {
            let is_text = source.kind() != io::ErrorKind::InvalidData;
            let failure = Failure::usage(InputError::TicketUnreadable { from, source });
            return Err(if is_text { failure } else { failure.hint(A_LINE) });
        }
    };
    text.trim().parse().map_err(|source| {
        let is_prefix = source == TicketError::Prefix;
        let failure = Failure::usage(InputError::Ticket { from, source });
        if Path::new(argument).is_file() {
            failure.hint(format!("{argument} is a file: did you mean @{argument}?"))
        } else if argument.starts_with('@') {
            failure.hint(A_LINE)
        } else if is_prefix && argument != "-" {
            failure.hint("nor is there a file of that name")
        } else {
            failure
        }
    })
}

/// What a file by `@FILE` should hold.
const A_LINE: &str = "the file should hold the line that `minibit share` prints, and no more";

/// Reads the first line that is not blank: who writes the ticket into a pipe may go on running,
/// as `minibit share` does, and never close it. At most what a ticket may have and a little
/// white space is read, so that one too long is still seen to be too long.
fn read_text(from: &mut dyn Read) -> io::Result<String> {
    let mut from = BufReader::new(from.take(TICKET_LEN_MAX as u64 + 64));
    let mut text = String::new();
    while text.trim().is_empty() && from.read_line(&mut text)? > 0 {}
    Ok(text)
}

/// A manifest from a file.
///
/// # Errors
/// A failure if it cannot be read (usage) or is not a valid manifest (integrity).
pub(crate) fn manifest(path: &Path) -> Result<Manifest, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MANIFEST_LEN_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|source| {
            Failure::usage(InputError::ManifestUnreadable { path: path.into(), source })
        })?;
    if bytes.len() > MANIFEST_LEN_MAX {
        let error = InputError::NoManifest { path: path.into() };
        return Err(Failure::new(Exit::Integrity, error).hint("is this the shared file itself?"));
    }
    Manifest::decode(&bytes).map_err(|source| {
        Failure::new(Exit::Integrity, InputError::Manifest { path: path.into(), source })
            .hint("is this the shared file itself? --manifest-file of share and get writes one")
    })
}

/// The addresses of machines given by name or address.
///
/// # Errors
/// Unreachable, if a name is not known or has no address.
pub(crate) fn resolve(hosts: &[HostPort]) -> Result<Vec<SocketAddr>, Failure> {
    let found = hosts.iter().map(|at| look_up(&at.host, at.port, || at.to_string()));
    Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
}

/// The addresses by which this machine is to be known; port 0 where none was given.
///
/// # Errors
/// As [`resolve`].
pub(crate) fn announced(hosts: &[Announced]) -> Result<Vec<SocketAddr>, Failure> {
    let found = hosts.iter().map(|at| look_up(&at.host, at.port.unwrap_or(0), || at.host.clone()));
    Ok(found.collect::<Result<Vec<_>, _>>()?.concat())
}

fn look_up(host: &str, port: u16, shown: impl Fn() -> String) -> Result<Vec<SocketAddr>, Failure> {
    let unreachable = |error| Failure::new(Exit::Unreachable, error);
    let found: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|source| unreachable(InputError::Host { host: shown(), source }))?
        .collect();
    if found.is_empty() {
        return Err(unreachable(InputError::NoAddress { host: shown() }));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe whose other end stays open: to read on after this text is to wait for ever.
    struct Open<'a>(&'a [u8]);

    impl Read for Open<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            assert!(!self.0.is_empty(), "read on after the line was there");
            self.0.read(buf)
        }
    }

    #[test]
    fn the_ticket_is_the_first_line_and_nobody_waits_for_more() {
        assert_eq!(read_text(&mut Open(b"minibit1abc\n")).unwrap(), "minibit1abc\n");
        assert_eq!(read_text(&mut Open(b"\n \nminibit1abc\n")).unwrap().trim(), "minibit1abc");
        assert_eq!(read_text(&mut &b"minibit1abc"[..]).unwrap(), "minibit1abc");
        assert_eq!(read_text(&mut &b""[..]).unwrap(), "");
        let endless = read_text(&mut io::repeat(b'a')).unwrap();
        assert!(endless.len() > TICKET_LEN_MAX);
    }
}
