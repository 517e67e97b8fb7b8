//! The ticket: one line of text that is enough to fetch a share.
//!
//! `minibit1` and, in base32 without padding, a version byte, the share id, a count, that
//! many addresses, and the first four bytes of the BLAKE3 hash of all that. An address is a
//! byte of flags (1 tracker, 2 peer, 4 IPv6), its 4 or 16 bytes, and the port, high byte
//! first; a node that is both tracker and peer is written once. All lower case, or (for QR
//! codes) all upper case.
//!
//! Invariant: a [`Ticket`] that exists names at least one address that can be dialled, and
//! has exactly one text, so any one changed character is noticed.
//! Not here: trust in the addresses; whatever they send is proven by the share id.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;

use crate::types::ShareId;
use crate::types::limits::{TICKET_ADDRS_MAX, TICKET_LEN_MAX};

/// What every ticket begins with, up to the digit of its format.
const PREFIX: &str = "minibit";
/// That digit, and the version byte within.
const VERSION: u8 = 1;
/// Bytes of the checksum at the end.
const CHECKSUM_LEN: usize = 4;

const FLAG_TRACKER: u8 = 1;
const FLAG_PEER: u8 = 2;
const FLAG_V6: u8 = 4;

/// Which share, and where to begin to look for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    share: ShareId,
    trackers: Vec<SocketAddr>,
    peers: Vec<SocketAddr>,
}

/// Why a text is not a ticket, or addresses cannot be in one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketError {
    /// No text.
    #[error("the ticket is empty")]
    Empty,
    /// Nothing but white space.
    #[error("the ticket is blank")]
    Blank,
    /// Over [`TICKET_LEN_MAX`].
    #[error("a ticket of {bytes} bytes; {TICKET_LEN_MAX} are allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// It begins with something else.
    #[error("a ticket begins with minibit1, and this does not")]
    Prefix,
    /// A later version's ticket.
    #[error("the ticket is of version {version}; this program knows version {VERSION}")]
    Version {
        /// The version it says.
        version: u8,
    },
    /// Upper and lower case within one ticket.
    #[error("the ticket mixes upper and lower case")]
    MixedCase,
    /// Not base32 from beginning to end.
    #[error("the ticket is not base32 (position {position}): mistyped or cut off")]
    Encoding {
        /// Position in the ticket, in bytes from 0.
        position: usize,
    },
    /// At least one character is wrong or missing.
    #[error("the ticket's checksum is wrong: mistyped or cut off")]
    Checksum,
    /// It ends within its share id or an address, or has flags nobody knows.
    #[error("the ticket's content cannot be read")]
    Malformed,
    /// Bytes after the last address.
    #[error("bytes follow the ticket's last address")]
    Trailing,
    /// The same ticket has another text.
    #[error("the ticket is not in its canonical form")]
    NotCanonical,
    /// Neither tracker nor peer.
    #[error("a ticket needs at least one address")]
    NoAddress,
    /// Over [`TICKET_ADDRS_MAX`].
    #[error("{count} addresses in a ticket; {TICKET_ADDRS_MAX} are allowed")]
    TooManyAddresses {
        /// How many.
        count: usize,
    },
    /// Port 0.
    #[error("{0} has no port that can be dialled")]
    Port(SocketAddr),
    /// Unspecified (`0.0.0.0`), multicast or broadcast.
    #[error("{0} is not the address of one host")]
    Address(SocketAddr),
}

impl Ticket {
    /// A ticket for that share. An address given twice in one list counts once; scopes of
    /// IPv6 addresses mean nothing on another machine and are dropped; an IPv4 address
    /// written as an IPv6 one (`::ffff:192.0.2.7`) becomes IPv4.
    ///
    /// # Errors
    /// [`TicketError`] if there is no address, too many, or one that cannot be dialled.
    pub fn new(
        share: ShareId,
        trackers: impl IntoIterator<Item = SocketAddr>,
        peers: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self, TicketError> {
        let ticket = Self { share, trackers: checked(trackers)?, peers: checked(peers)? };
        match ticket.entries().len() {
            0 => Err(TicketError::NoAddress),
            1..=TICKET_ADDRS_MAX => Ok(ticket),
            count => Err(TicketError::TooManyAddresses { count }),
        }
    }

    /// The share that is meant.
    pub fn share(&self) -> ShareId {
        self.share
    }

    /// Where trackers of it listen, best first.
    pub fn trackers(&self) -> &[SocketAddr] {
        &self.trackers
    }

    /// Where peers that hold it listen, best first.
    pub fn peers(&self) -> &[SocketAddr] {
        &self.peers
    }

    /// All addresses with their flags. Both lists keep their order: an address in both is
    /// written once if its turn comes in both at once, as it does when there is just one.
    fn entries(&self) -> Vec<(u8, SocketAddr)> {
        let mut peers = self.peers.iter().copied().peekable();
        let mut entries = Vec::with_capacity(self.trackers.len() + self.peers.len());
        for tracker in &self.trackers {
            let both = peers.next_if_eq(tracker).is_some();
            entries.push((if both { FLAG_TRACKER | FLAG_PEER } else { FLAG_TRACKER }, *tracker));
        }
        entries.extend(peers.map(|peer| (FLAG_PEER, peer)));
        entries
    }

    fn to_bytes(&self) -> Vec<u8> {
        let entries = self.entries();
        let mut out = vec![VERSION];
        out.extend(self.share.0);
        out.push(entries.len() as u8); // at most TICKET_ADDRS_MAX
        for (flags, addr) in entries {
            match addr.ip() {
                IpAddr::V4(ip) => {
                    out.push(flags);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(flags | FLAG_V6);
                    out.extend(ip.octets());
                }
            }
            out.extend(addr.port().to_be_bytes());
        }
        let checksum = checksum(&out);
        out.extend(checksum);
        out
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, TicketError> {
        let (body, sum) = bytes.split_last_chunk().ok_or(TicketError::Checksum)?;
        if checksum(body) != *sum {
            return Err(TicketError::Checksum);
        }
        let mut rest = body;
        let [version] = take(&mut rest)?;
        if version != VERSION {
            return Err(TicketError::Version { version });
        }
        let share = ShareId(take(&mut rest)?);
        let [count] = take(&mut rest)?;
        if usize::from(count) > TICKET_ADDRS_MAX {
            return Err(TicketError::TooManyAddresses { count: count.into() });
        }
        let (mut trackers, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let [flags] = take(&mut rest)?;
            let ip = if flags & FLAG_V6 == 0 {
                IpAddr::from(take::<4>(&mut rest)?)
            } else {
                IpAddr::from(take::<16>(&mut rest)?)
            };
            let addr = SocketAddr::new(ip, u16::from_be_bytes(take(&mut rest)?));
            match flags & !FLAG_V6 {
                FLAG_TRACKER => trackers.push(addr),
                FLAG_PEER => peers.push(addr),
                both if both == FLAG_TRACKER | FLAG_PEER => {
                    trackers.push(addr);
                    peers.push(addr);
                }
                _ => return Err(TicketError::Malformed),
            }
        }
        if !rest.is_empty() {
            return Err(TicketError::Trailing);
        }
        let ticket = Self::new(share, trackers, peers)?;
        if ticket.to_bytes() != bytes {
            return Err(TicketError::NotCanonical);
        }
        Ok(ticket)
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = BASE32_NOPAD.encode(&self.to_bytes()).to_ascii_lowercase();
        write!(f, "{PREFIX}{VERSION}{body}")
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    /// White space around the ticket is ignored.
    fn from_str(text: &str) -> Result<Self, TicketError> {
        if text.is_empty() {
            return Err(TicketError::Empty);
        }
        let text = text.trim();
        if text.is_empty() {
            return Err(TicketError::Blank);
        }
        if text.len() > TICKET_LEN_MAX {
            return Err(TicketError::TooLong { bytes: text.len() });
        }
        let body = strip_prefix(text)?;
        let has = |case: fn(&u8) -> bool| text.as_bytes().iter().any(case);
        if has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase) {
            return Err(TicketError::MixedCase);
        }
        let bytes = BASE32_NOPAD.decode(body.to_ascii_uppercase().as_bytes()).map_err(|error| {
            TicketError::Encoding { position: text.len() - body.len() + error.position }
        })?;
        Self::from_bytes(&bytes)
    }
}

/// What follows `minibit1`.
fn strip_prefix(text: &str) -> Result<&str, TicketError> {
    let (head, rest) = text.split_at_checked(PREFIX.len()).ok_or(TicketError::Prefix)?;
    let digit = rest.chars().next().and_then(|first| first.to_digit(10));
    match digit.and_then(|digit| u8::try_from(digit).ok()) {
        Some(version) if head.eq_ignore_ascii_case(PREFIX) => {
            if version == VERSION {
                Ok(&rest[1..])
            } else {
                Err(TicketError::Version { version })
            }
        }
        _ => Err(TicketError::Prefix),
    }
}

/// The addresses without doubles, each proven to be one that can be dialled.
fn checked(addrs: impl IntoIterator<Item = SocketAddr>) -> Result<Vec<SocketAddr>, TicketError> {
    let mut checked = Vec::new();
    for addr in addrs {
        // Made anew: without scope and flow, and an IPv4 address that a socket for both
        // families gave as an IPv6 one is IPv4 again.
        let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
        if addr.port() == 0 {
            return Err(TicketError::Port(addr));
        }
        if !is_one_host(addr.ip()) {
            return Err(TicketError::Address(addr));
        }
        if !checked.contains(&addr) {
            if checked.len() == TICKET_ADDRS_MAX {
                return Err(TicketError::TooManyAddresses { count: checked.len() + 1 });
            }
            checked.push(addr);
        }
    }
    Ok(checked)
}

fn is_one_host(ip: IpAddr) -> bool {
    let unspecified = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
    !unspecified.contains(&ip) && ip != broadcast && !ip.is_multicast()
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut sum = [0; CHECKSUM_LEN];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_LEN]);
    sum
}

/// Takes that many bytes from the front.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], TicketError> {
    let (taken, left) = rest.split_first_chunk().ok_or(TicketError::Malformed)?;
    *rest = left;
    Ok(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn share() -> ShareId {
        ShareId(std::array::from_fn(|at| at as u8))
    }

    /// The text of a ticket with this content after the share id, rightly summed.
    fn text_of(version: u8, rest: &[u8]) -> String {
        let mut bytes = vec![version];
        bytes.extend(share().0);
        bytes.extend(rest);
        bytes.extend(checksum(&bytes));
        format!("minibit1{}", BASE32_NOPAD.encode(&bytes).to_lowercase())
    }

    #[test]
    fn the_text_is_the_documented_one_and_short_enough_to_paste() {
        let both = addr("192.0.2.7:4001");
        let ticket = Ticket::new(share(), [both], [both]).unwrap();
        assert_eq!(ticket.to_string(), text_of(1, &[1, 3, 192, 0, 2, 7, 0x0f, 0xa1]));
        assert_eq!(ticket.to_string().len(), 80);
    }

    #[test]
    fn white_space_around_and_upper_case_are_accepted() {
        let ticket = Ticket::new(share(), [addr("[2001:db8::1]:1")], []).unwrap();
        for text in [format!(" \t{ticket}\r\n"), ticket.to_string().to_uppercase()] {
            assert_eq!(text.parse(), Ok(ticket.clone()));
        }
    }

    #[test]
    fn each_bad_ticket_is_refused_with_its_own_reason() {
        let good = text_of(1, &[1, 3, 192, 0, 2, 7, 0x0f, 0xa1]);
        let mapped = [&[1, 5][..], &[0; 10], &[255, 255, 192, 0, 2, 7, 0, 1]].concat();
        let entry = [1, 192, 0, 2, 7, 0, 1];
        let many = [&[17][..], &entry.repeat(17)].concat();
        let doubled = [&[2][..], &entry.repeat(2)].concat();
        let apart = [2, 1, 192, 0, 2, 7, 0, 1, 2, 192, 0, 2, 7, 0, 1];
        for (text, want) in [
            (String::new(), TicketError::Empty),
            (" \n".to_owned(), TicketError::Blank),
            (good.replace("minibit1", "magnet:?"), TicketError::Prefix),
            ("mini".to_owned(), TicketError::Prefix),
            ("minibit".to_owned(), TicketError::Prefix),
            ("minibié1aaaa".to_owned(), TicketError::Prefix),
            (good.replace("minibit1", "minibit2"), TicketError::Version { version: 2 }),
            (text_of(2, &[9, 9, 9]), TicketError::Version { version: 2 }),
            (good.replace("minibit1", "MINIBIT1"), TicketError::MixedCase),
            (good.replacen('a', "!", 1), TicketError::Encoding { position: 8 }),
            (good.replacen('a', "é", 1), TicketError::Encoding { position: 80 }),
            (good[..79].to_owned(), TicketError::Encoding { position: 78 }),
            (good[..72].to_owned(), TicketError::Checksum),
            ("minibit1".to_owned(), TicketError::Checksum),
            (format!("minibit1{}", "a".repeat(4089)), TicketError::TooLong { bytes: 4097 }),
            (text_of(1, &[0]), TicketError::NoAddress),
            (text_of(1, &many), TicketError::TooManyAddresses { count: 17 }),
            (text_of(1, &[1, 1, 192, 0, 2, 7, 0, 0]), TicketError::Port(addr("192.0.2.7:0"))),
            (text_of(1, &[1, 1, 0, 0, 0, 0, 0, 1]), TicketError::Address(addr("0.0.0.0:1"))),
            (text_of(1, &[1, 1, 224, 0, 0, 1, 0, 1]), TicketError::Address(addr("224.0.0.1:1"))),
            (text_of(1, &[]), TicketError::Malformed),
            (text_of(1, &[1]), TicketError::Malformed),
            (text_of(1, &[1, 5, 192, 0, 2, 7, 0, 1]), TicketError::Malformed),
            (text_of(1, &[1, 0, 192, 0, 2, 7, 0, 1]), TicketError::Malformed),
            (text_of(1, &[1, 9, 192, 0, 2, 7, 0, 1]), TicketError::Malformed),
            (text_of(1, &[1, 1, 192, 0, 2, 7, 0, 1, 0]), TicketError::Trailing),
            (text_of(1, &doubled), TicketError::NotCanonical),
            (text_of(1, &apart), TicketError::NotCanonical),
            (text_of(1, &mapped), TicketError::NotCanonical),
        ] {
            assert_eq!(text.parse::<Ticket>(), Err(want), "{text}");
        }
    }

    #[test]
    fn what_no_ticket_may_hold_is_refused_when_one_is_made() {
        let addrs = |count: u8| (0..count).map(|last| SocketAddr::from(([192, 0, 2, last], 1)));
        let make = |trackers, peers| Ticket::new(share(), addrs(trackers), addrs(peers));
        assert_eq!(make(0, 0), Err(TicketError::NoAddress));
        assert_eq!(make(17, 0), Err(TicketError::TooManyAddresses { count: 17 }));
        let late = addrs(17).skip(8);
        let error = TicketError::TooManyAddresses { count: 17 };
        assert_eq!(Ticket::new(share(), addrs(8), late), Err(error));
        assert!(make(16, 16).is_ok());
        let port = Ticket::new(share(), [], [addr("127.0.0.1:0")]);
        assert_eq!(port, Err(TicketError::Port(addr("127.0.0.1:0"))));
        let any = Ticket::new(share(), [addr("[::]:7")], []);
        assert_eq!(any, Err(TicketError::Address(addr("[::]:7"))));
    }

    #[test]
    fn doubles_scopes_and_the_mapping_of_ipv4_are_dropped() {
        let mapped = Ticket::new(share(), [addr("[::ffff:192.0.2.7]:7")], []).unwrap();
        assert_eq!(mapped.trackers(), [addr("192.0.2.7:7")]);
        let any = Ticket::new(share(), [addr("[::ffff:0.0.0.0]:7")], []);
        assert_eq!(any, Err(TicketError::Address(addr("0.0.0.0:7"))));
        let one = addr("[fe80::1%3]:7");
        let ticket = Ticket::new(share(), [one, one], [one]).unwrap();
        assert_eq!(ticket.trackers(), [addr("[fe80::1]:7")]);
        assert_eq!(ticket.to_string().parse(), Ok(ticket));
    }

    fn any_addr() -> impl Strategy<Value = SocketAddr> {
        let ip = prop_oneof![
            (1u8..224, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d])),
            any::<u64>().prop_map(|low| IpAddr::from(Ipv6Addr::from(
                (0x2001_0db8 << 96) + u128::from(low)
            ))),
            // Few enough that the two lists share some.
            (0u8..4).prop_map(|low| IpAddr::from([10, 0, 0, low])),
        ];
        (ip, 1u16..).prop_map(|(ip, port)| (ip, port % 3 + 1).into())
    }

    fn any_ticket() -> impl Strategy<Value = Ticket> {
        let addrs = || prop::collection::vec(any_addr(), 0..=8);
        (any::<[u8; 32]>(), addrs(), addrs()).prop_filter_map("no address", |(id, ours, theirs)| {
            Ticket::new(ShareId(id), ours, theirs).ok()
        })
    }

    proptest! {
        #[test]
        fn a_ticket_reads_back_from_its_text(ticket in any_ticket()) {
            let text = ticket.to_string();
            prop_assert!(text.len() <= TICKET_LEN_MAX);
            prop_assert_eq!(text.parse(), Ok(ticket));
        }

        #[test]
        fn a_ticket_with_one_character_changed_is_refused(
            ticket in any_ticket(), at: prop::sample::Index,
            to in prop_oneof![any::<char>(), prop::char::range('!', 'z')],
        ) {
            let mut text: Vec<char> = ticket.to_string().chars().collect();
            let at = at.index(text.len());
            prop_assume!(text[at] != to);
            text[at] = to;
            prop_assert!(text.iter().collect::<String>().parse::<Ticket>().is_err());
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "(minibit1)?[ -~é]{0,100}") {
            let _ = text.parse::<Ticket>();
        }
    }

    #[test]
    fn every_change_of_one_character_of_one_ticket_is_refused() {
        let good: Vec<char> = text_of(1, &[1, 3, 192, 0, 2, 7, 0x0f, 0xa1]).chars().collect();
        for at in 0..good.len() {
            for to in (' '..='~').filter(|to| *to != good[at]) {
                let mut text = good.clone();
                text[at] = to;
                assert!(text.iter().collect::<String>().parse::<Ticket>().is_err(), "{at} {to}");
            }
        }
    }
}
