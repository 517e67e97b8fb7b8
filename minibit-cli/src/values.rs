//! The values people type: sizes, durations, ratios, addresses, ways to start.
//!
//! Each parser takes one text and gives a checked value or one line that says what is wrong
//! with it. A value that exists needs no further check.
//!
//! Not here: looking names up. A [`HostPort`] is only known to look like one.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use minibit_core::types::PieceSize;

/// Where `share` and `tracker` listen unless told otherwise. Below the ports that systems
/// give out on their own, so that it is free when a share is started again and its ticket
/// stays good.
pub(crate) const DEFAULT_PORT: u16 = 26464;

/// Bytes from a text like `256K`, `1MiB` or `1048576`. Units are powers of 1024.
///
/// # Errors
/// A line that says what is wrong.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| "not a size like 256K or 1MiB".to_owned())?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return Err(format!("{unit:?} is no unit; use K, M, G or T, or KiB and so on")),
    };
    number.checked_shl(shift).filter(|bytes| bytes >> shift == number).ok_or("too large".into())
}

/// A piece size from a text like `256K`.
///
/// # Errors
/// A line that says what is wrong.
pub(crate) fn parse_piece_size(text: &str) -> Result<PieceSize, String> {
    let bytes = parse_size(text)?;
    let bytes = u32::try_from(bytes).map_err(|_| "a piece has at most 16 MiB".to_owned())?;
    PieceSize::new(bytes).map_err(|error| error.to_string())
}

/// A duration from a text like `30s`, `1h30m`, `250ms` or `30` (seconds).
///
/// # Errors
/// A line that says what is wrong.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "not a duration like 30s, 10m or 1h30m";
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, tail) = split_unit(rest);
        let unit_len = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let number: u64 = number.parse().map_err(|_| EXPECTED.to_owned())?;
        let unit_ms = match &tail[..unit_len] {
            "ms" => 1,
            "s" => 1000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(EXPECTED.into()),
        };
        let part = number.checked_mul(unit_ms).ok_or("too long")?;
        total = total.checked_add(Duration::from_millis(part)).ok_or("too long")?;
        rest = &tail[unit_len..];
    }
    if text.is_empty() { Err(EXPECTED.into()) } else { Ok(total) }
}

/// How long something may wait: a duration, or `forever`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Patience(pub(crate) Option<Duration>);

impl FromStr for Patience {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self(None));
        }
        parse_duration(text).map(|duration| Self(Some(duration)))
    }
}

/// Uploaded bytes per downloaded byte, from a text like `1.5`.
///
/// # Errors
/// A line that says what is wrong.
pub(crate) fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text.parse().map_err(|_| "not a ratio like 1.5".to_owned())?;
    if ratio.is_finite() && ratio >= 0.0 {
        Ok(ratio)
    } else {
        Err("a ratio is not negative and has an end".into())
    }
}

/// A parser of whole numbers from `least` to `most`.
pub(crate) fn within<T: FromStr + PartialOrd + fmt::Display + Copy>(
    least: T,
    most: T,
) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| format!("not a number from {least} to {most}"))
    }
}

/// Splits a text after its leading digits.
fn split_unit(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Where to listen: `ADDR:PORT`, an address alone (with [`DEFAULT_PORT`]) or a port alone
/// (on all addresses, IPv6 and IPv4).
///
/// # Errors
/// A line that says what is wrong.
pub(crate) fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(addr) = text.parse() {
        return Ok(addr);
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port));
    }
    bare_ip(text)
        .map(|ip| SocketAddr::new(ip, DEFAULT_PORT))
        .ok_or("not an address like 0.0.0.0:4000, [::]:4000 or :4000".into())
}

fn bare_ip(text: &str) -> Option<IpAddr> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    inner.parse().ok()
}

/// A machine to connect to: a name or address, and a port ([`DEFAULT_PORT`] if none is given).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPort {
    /// A name, or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = parse_host(text)?;
        Ok(Self { host, port: port.unwrap_or(DEFAULT_PORT) })
    }
}

/// A name or address by which this machine is reached from elsewhere, and the port there; the
/// one it listens on if none is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Announced {
    /// A name, or an address without brackets.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

impl FromStr for Announced {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_host(text).map(|(host, port)| Self { host, port })
    }
}

/// A host without brackets, and its port if it has one.
fn parse_host(text: &str) -> Result<(String, Option<u16>), String> {
    const EXPECTED: &str = "not an address like 192.0.2.7:4000, [2001:db8::7]:4000 or name:4000";
    if let Some(ip) = bare_ip(text) {
        return Ok((ip.to_string(), None));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse().map_err(|_| EXPECTED.to_owned())?)),
        None => (text, None),
    };
    let named = |host: &str| {
        !host.is_empty()
            && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
    };
    let host = match bare_ip(host) {
        Some(ip) if host.starts_with('[') || ip.is_ipv4() => ip.to_string(),
        None if named(host) => host.to_owned(),
        _ => return Err(EXPECTED.into()),
    };
    if port == Some(0) {
        return Err("port 0 cannot be connected to".into());
    }
    Ok((host, port))
}

/// What the peers of the demo hold when it begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Start {
    /// Peer 0 holds everything, the others nothing.
    Seed,
    /// Peer 0 holds everything, each other one a random part of the pieces.
    Random {
        /// Part of all pieces, 0 to 1.
        part: f64,
    },
    /// Piece `b` is with peer `b mod N`, and nobody holds more.
    RoundRobin,
}

impl FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "not one of seed, random:10% and round-robin";
        match text {
            "seed" => return Ok(Self::Seed),
            "round-robin" => return Ok(Self::RoundRobin),
            _ => {}
        }
        let percent: f64 = text
            .strip_prefix("random:")
            .and_then(|rest| rest.strip_suffix('%'))
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| EXPECTED.to_owned())?;
        if (0.0..=100.0).contains(&percent) {
            Ok(Self::Random { part: percent / 100.0 })
        } else {
            Err("the random part is 0% to 100%".into())
        }
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seed => f.write_str("seed"),
            Self::Random { part } => write!(f, "random:{}%", part * 100.0),
            Self::RoundRobin => f.write_str("round-robin"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("256K", 256 << 10),
            ("1MiB", 1 << 20),
            ("2g", 2 << 30),
            ("3TiB", 3 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "1.5M", "1KB", "1 M", "99999999T", "1e3"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_piece_size_is_a_power_of_two_within_the_limits() {
        assert_eq!(parse_piece_size("16K").unwrap().bytes(), 16384);
        assert_eq!(parse_piece_size("16M").unwrap().bytes(), 16 << 20);
        for text in ["8K", "32M", "100000", "8G"] {
            assert!(parse_piece_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, ms) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("250ms", 250),
            ("1h30m", 5_400_000),
            ("2d", 172_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "1x", "1h30", "-1s", "1.5h", "999999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!("forever".parse(), Ok(Patience(None)));
    }

    #[test]
    fn a_number_out_of_its_range_is_refused_with_the_range() {
        let peers = within::<u8>(2, 200);
        assert_eq!((peers("2"), peers("200")), (Ok(2), Ok(200)));
        for text in ["1", "201", "300", "-1", "", "x"] {
            assert_eq!(peers(text), Err("not a number from 2 to 200".into()), "{text}");
        }
    }

    #[test]
    fn a_ratio_is_a_plain_number_that_is_not_negative() {
        assert_eq!(parse_ratio("1.5"), Ok(1.5));
        for text in ["", "-1", "nan", "inf", "1:2"] {
            assert!(parse_ratio(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_place_to_listen_may_leave_out_what_has_a_default() {
        for (text, addr) in [
            ("127.0.0.1:5", "127.0.0.1:5"),
            ("[::1]:0", "[::1]:0"),
            (":4000", "[::]:4000"),
            ("4000", "[::]:4000"),
            ("10.0.0.1", "10.0.0.1:26464"),
            ("::1", "[::1]:26464"),
        ] {
            assert_eq!(parse_listen(text), Ok(addr.parse().unwrap()), "{text}");
        }
        for text in ["", "somewhere", "1.2.3.4:99999", "1.2.3:5"] {
            assert!(parse_listen(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_host_reads_back_as_it_is_printed() {
        for (text, printed) in [
            ("example.org:4000", "example.org:4000"),
            ("example.org", "example.org:26464"),
            ("192.0.2.7:1", "192.0.2.7:1"),
            ("[2001:db8::7]:4000", "[2001:db8::7]:4000"),
            ("2001:db8::7", "[2001:db8::7]:26464"),
        ] {
            let host: HostPort = text.parse().unwrap();
            assert_eq!(host.to_string(), printed);
            assert_eq!(printed.parse(), Ok(host));
        }
        for text in ["", ":1", "a b:1", "a:0", "a:b", "a:1:2", "http://a:1"] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_announced_address_has_the_port_that_is_given_or_none() {
        for (text, host, port) in [
            ("203.0.113.5", "203.0.113.5", None),
            ("203.0.113.5:4000", "203.0.113.5", Some(4000)),
            ("[2001:db8::7]:4000", "2001:db8::7", Some(4000)),
            ("2001:db8::7", "2001:db8::7", None),
            ("home.example.org", "home.example.org", None),
        ] {
            assert_eq!(text.parse(), Ok(Announced { host: host.into(), port }), "{text}");
        }
        assert!("a:0".parse::<Announced>().is_err());
    }

    #[test]
    fn a_start_reads_back_as_it_is_printed() {
        for text in ["seed", "round-robin", "random:10%", "random:0%"] {
            assert_eq!(text.parse::<Start>().unwrap().to_string(), text);
        }
        for text in ["", "random", "random:10", "random:101%", "random:nan%"] {
            assert!(text.parse::<Start>().is_err(), "{text}");
        }
    }
}
