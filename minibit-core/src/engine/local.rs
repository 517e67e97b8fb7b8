//! Connections that do not leave this machine, and the pacing they can do without.
//!
//! Nothing is lost between two processes of one machine and no queue is shared, so there is
//! nothing for congestion control to do. Where the system's choice is BBR, which paces each
//! connection by a timer, those timers cost a sender more than everything else it does: a
//! third of a transfer's speed. There such connections get Reno, which every Linux has and
//! allows to everybody. Connections to and from elsewhere keep what the system chose.
//!
//! A connection that was paced once stays so, whatever comes after. So every socket begins with
//! Reno, those that listen for the connections they will accept, and one that turns out to lead
//! elsewhere is given the system's choice back before anything is sent on it.
//!
//! Not here: windows and lanes by distance (`peer::meter`). Systems other than Linux, and
//! Linux with any other choice, are left alone.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use tokio::net::{TcpSocket, TcpStream};

/// What paces, by the beginning of its name: `bbr`, `bbr2`, `bbr3`.
#[cfg(target_os = "linux")]
const PACING: &str = "bbr";
#[cfg(target_os = "linux")]
const UNPACED: &str = "reno";

/// The system's choice, where the connections of a socket no longer begin with it.
#[derive(Debug, Default)]
pub(super) struct Replaced(Option<String>);

/// Lets the connections of a socket that is about to listen or to connect begin without pacing.
pub(super) fn begin(socket: impl AsFd) -> Replaced {
    Replaced(unpace(socket))
}

/// Connects; paced as the system wishes if that leads off this machine.
///
/// # Errors
/// What the system says.
pub(super) async fn connect(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    let replaced = begin(&socket);
    let stream = socket.connect(addr).await?;
    replaced.settle(&stream);
    Ok(stream)
}

impl Replaced {
    /// Looks at a connection that has come to be, before anything is sent on it.
    pub(super) fn settle(&self, stream: &TcpStream) {
        if !stays_here(stream) {
            self.restore(stream);
        }
    }

    fn restore(&self, stream: &TcpStream) {
        #[cfg(target_os = "linux")]
        if let Some(usual) = &self.0
            && let Err(error) = rustix::net::sockopt::set_tcp_congestion(stream, usual)
        {
            // Everybody may choose the default. It must have been changed meanwhile, and Reno
            // works everywhere.
            tracing::debug!(%error, usual, "could not restore the congestion control");
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (&self.0, stream);
    }
}

/// Replaces what paces a socket, and tells what that was; `None` if nothing was done.
#[cfg(target_os = "linux")]
fn unpace(socket: impl AsFd) -> Option<String> {
    let usual = rustix::net::sockopt::tcp_congestion(&socket).ok()?;
    if !usual.starts_with(PACING) {
        return None;
    }
    rustix::net::sockopt::set_tcp_congestion(&socket, UNPACED).ok()?;
    Some(usual)
}

#[cfg(not(target_os = "linux"))]
fn unpace(_socket: impl AsFd) -> Option<String> {
    None
}

/// Whether both ends of a connection are on this machine.
pub(super) fn stays_here(stream: &TcpStream) -> bool {
    let ends = (stream.local_addr(), stream.peer_addr());
    matches!(ends, (Ok(ours), Ok(theirs)) if is_one_machine(ours.ip(), theirs.ip()))
}

/// A machine reaches its own addresses from the same address.
fn is_one_machine(ours: IpAddr, theirs: IpAddr) -> bool {
    let (ours, theirs) = (ours.to_canonical(), theirs.to_canonical());
    ours == theirs || theirs.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_machine_is_told_by_its_addresses() {
        for (ours, theirs, same) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", true),
            ("::ffff:127.0.0.1", "::ffff:127.0.0.1", true),
            ("::1", "::1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("::ffff:192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.8", false),
            ("2001:db8::1", "2001:db8::2", false),
        ] {
            let answer = is_one_machine(ours.parse().unwrap(), theirs.parse().unwrap());
            assert_eq!(answer, same, "{ours} {theirs}");
        }
    }

    /// What this system gives a connection, and what it becomes if that paces.
    #[cfg(target_os = "linux")]
    fn usual_and_unpaced() -> (String, String) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        let usual = rustix::net::sockopt::tcp_congestion(&socket).unwrap();
        let unpaced = if usual.starts_with(PACING) { UNPACED.to_owned() } else { usual.clone() };
        (usual, unpaced)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_within_the_machine_is_not_paced_and_one_from_elsewhere_is_as_usual() {
        let (usual, unpaced) = usual_and_unpaced();
        let of = |stream: &TcpStream| rustix::net::sockopt::tcp_congestion(stream).unwrap();
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let replaced = begin(&socket);
        let listener = socket.listen(8).unwrap();
        let ours = connect(listener.local_addr().unwrap()).await.unwrap();
        let (theirs, _) = listener.accept().await.unwrap();
        replaced.settle(&theirs);
        assert_eq!((of(&ours), of(&theirs)), (unpaced.clone(), unpaced));
        // As it would be for an address that is not ours.
        replaced.restore(&theirs);
        assert_eq!(of(&theirs), usual);
    }
}
