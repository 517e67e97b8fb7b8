//! What a command reads besides its flags: tickets from the command line, a file or stdin,
//! manifests from files, addresses from names.
//!
//! Everything read is capped: a path given by mistake may be a film.

use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use minibit_core::content::{Manifest, ManifestError, Ticket, TicketError};
use minibit_core::types::limits::{MANIFEST_LEN_MAX, TICKET_LEN_MAX};

use crate::exit::{Exit, Failure};
use crate::values::HostPort;

/// Why something could not be read.
#[derive(Debug, thiserror::Error)]
enum InputError {
    #[error("cannot read the ticket from {from}")]
    TicketUnreadable { from: String, source: io::Error },
    #[error("cannot use the ticket from {from}")]
    Ticket { from: String, source: TicketError },
    #[error("cannot read the manifest {}", path.display())]
    ManifestUnreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a manifest", path.display())]
    Manifest { path: PathBuf, source: ManifestError },
    #[error("cannot find the address of {host}")]
    Host { host: HostPort, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: HostPort },
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
        Err(source) => return Err(Failure::usage(InputError::TicketUnreadable { from, source })),
    };
    text.trim().parse().map_err(|source| Failure::usage(InputError::Ticket { from, source }))
}

/// Reads at most what a ticket may have and a little white space, so that one too long is
/// still seen to be too long.
fn read_text(from: &mut dyn Read) -> io::Result<String> {
    let mut text = String::new();
    from.take(TICKET_LEN_MAX as u64 + 64).read_to_string(&mut text)?;
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
    Manifest::decode(&bytes).map_err(|source| {
        Failure::new(Exit::Integrity, InputError::Manifest { path: path.into(), source })
    })
}

/// The addresses of machines given by name or address.
///
/// # Errors
/// Unreachable, if a name is not known or has no address.
pub(crate) fn resolve(hosts: &[HostPort]) -> Result<Vec<SocketAddr>, Failure> {
    let mut found = Vec::new();
    for host in hosts {
        let before = found.len();
        let addrs = (host.host.as_str(), host.port).to_socket_addrs().map_err(|source| {
            Failure::new(Exit::Unreachable, InputError::Host { host: host.clone(), source })
        })?;
        found.extend(addrs);
        if found.len() == before {
            return Err(Failure::new(
                Exit::Unreachable,
                InputError::NoAddress { host: host.clone() },
            ));
        }
    }
    Ok(found)
}
