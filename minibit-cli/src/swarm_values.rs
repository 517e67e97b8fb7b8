//! The values people type about a simulated swarm: rates, parts of it, slots.
//!
//! As in [`values`](crate::values): each parser takes one text and gives a checked value or one
//! line that says what is wrong with it.

use std::fmt;
use std::str::FromStr;

use minibit_core::sim::Rates;
use minibit_core::swarm;

/// Bytes per second below which nothing is simulated: a peer without any upload is a free rider.
const RATE_MIN: f64 = 1024.0;
/// Bytes per second above which nothing is simulated: a terabit.
const RATE_MAX: f64 = 1.25e11;
/// Bytes per second of one Mbit/s.
const MBIT: f64 = 125_000.0;

/// One rate, in bytes per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate(pub(crate) f64);

impl FromStr for Rate {
    type Err = String;

    /// A text like `10Mbit`, `1.5MiB` or `500kbit/s`. Bits count in thousands, bytes in powers
    /// of 1024.
    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "not a rate like 10Mbit or 1MiB";
        let text = text.strip_suffix("/s").unwrap_or(text);
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).filter(|at| *at > 0);
        let unit_at = unit_at.ok_or(EXPECTED)?;
        let (number, unit) = text.split_at(unit_at);
        let bytes = match unit.to_ascii_lowercase().as_str() {
            "kbit" => 125.0,
            "mbit" => MBIT,
            "gbit" => 125e6,
            "kib" | "k" => 1024.0,
            "mib" | "m" => 1024.0 * 1024.0,
            "gib" | "g" => 1024.0 * 1024.0 * 1024.0,
            _ => return Err(format!("{unit:?} is no unit; use kbit, Mbit, Gbit, KiB, MiB or GiB")),
        };
        let rate = number.parse::<f64>().map_err(|_| EXPECTED.to_owned())? * bytes;
        if (RATE_MIN..=RATE_MAX).contains(&rate) {
            Ok(Self(rate))
        } else {
            Err("a rate is 1KiB to 1000Gbit a second".into())
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mbit = self.0 / MBIT;
        // Two digits at least, and no tail of zeros.
        let digits = if mbit < 1.0 { 3 } else { 1 };
        let number = format!("{mbit:.digits$}");
        write!(f, "{} Mbit/s", number.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The rates of many peers: one for all, or from the first to the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RateRange(pub(crate) Rates);

impl RateRange {
    /// The highest of them.
    pub(crate) fn highest(self) -> f64 {
        match self.0 {
            Rates::Same(rate) | Rates::Between(_, rate) => rate,
        }
    }
}

impl FromStr for RateRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((low, high)) = text.split_once('-') else {
            return Ok(Self(Rates::Same(text.parse::<Rate>()?.0)));
        };
        let (low, high) = (low.parse::<Rate>()?.0, high.parse::<Rate>()?.0);
        if low > high {
            return Err("the lower rate comes first".into());
        }
        Ok(Self(if low == high { Rates::Same(low) } else { Rates::Between(low, high) }))
    }
}

impl fmt::Display for RateRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Rates::Same(rate) => Rate(rate).fmt(f),
            Rates::Between(low, high) => write!(f, "{} to {}", Rate(low), Rate(high)),
        }
    }
}

/// A part from a text like `40%` or `40`, from 0 to 1.
///
/// # Errors
/// A line that says what is wrong.
pub(crate) fn parse_percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text);
    let percent = number.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    percent.map(|percent: f64| percent / 100.0).ok_or("not a part from 0% to 100%".into())
}

/// How many slots each peer has: `auto`, or so many by rank and so many by chance, as `4+1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots(pub(crate) swarm::Slots);

impl FromStr for Slots {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const EXPECTED: &str = "not auto, or two numbers up to 1000 like 4+1";
        if text == "auto" {
            return Ok(Self(swarm::Slots::Auto));
        }
        let count = |text: &str| text.parse().ok().filter(|count| *count <= 1000);
        let (regular, optimistic) = text.split_once('+').ok_or(EXPECTED)?;
        let (Some(regular), Some(optimistic)) = (count(regular), count(optimistic)) else {
            return Err(EXPECTED.into());
        };
        if regular + optimistic == 0 {
            return Err("with no slot at all nobody is ever answered".into());
        }
        Ok(Self(swarm::Slots::Fixed { regular, optimistic }))
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            swarm::Slots::Auto => f.write_str("auto"),
            swarm::Slots::Fixed { regular, optimistic } => write!(f, "{regular}+{optimistic}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_their_units_in_bits_or_bytes() {
        for (text, bytes) in [
            ("10Mbit", 1.25e6),
            ("10Mbit/s", 1.25e6),
            ("1.5mbit", 187_500.0),
            ("512kbit", 64_000.0),
            ("2Gbit", 250e6),
            ("1MiB", 1_048_576.0),
            ("64K", 65_536.0),
        ] {
            assert_eq!(text.parse(), Ok(Rate(bytes)), "{text}");
        }
        for text in ["", "10", "Mbit", "-1Mbit", "0Mbit", "1kbit", "2000Gbit", "10Mb", "nanMbit"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_range_goes_from_the_lower_rate_to_the_higher() {
        let range = |text: &str| text.parse::<RateRange>().map(|range| range.0);
        assert_eq!(range("1Mbit-10Mbit"), Ok(Rates::Between(125e3, 1.25e6)));
        assert_eq!(range("1MiB"), Ok(Rates::Same(1_048_576.0)));
        assert_eq!(range("1MiB-1MiB"), Ok(Rates::Same(1_048_576.0)));
        for text in ["10Mbit-1Mbit", "1Mbit-", "-1Mbit", "1Mbit-2Mbit-3Mbit", "1-10Mbit"] {
            assert!(range(text).is_err(), "{text}");
        }
        assert_eq!("1Mbit-10Mbit".parse::<RateRange>().unwrap().highest(), 1.25e6);
    }

    #[test]
    fn rates_are_told_in_megabits() {
        for (bytes, text) in
            [(1.25e6, "10 Mbit/s"), (1.25e8, "1000 Mbit/s"), (64e3, "0.512 Mbit/s")]
        {
            assert_eq!(Rate(bytes).to_string(), text);
        }
    }

    #[test]
    fn a_part_is_read_with_or_without_its_sign() {
        assert_eq!((parse_percent("40%"), parse_percent("2.5")), (Ok(0.4), Ok(0.025)));
        for text in ["", "%", "101%", "-1", "nan"] {
            assert!(parse_percent(text).is_err(), "{text}");
        }
    }

    #[test]
    fn slots_read_back_as_they_are_printed() {
        for text in ["auto", "4+1", "0+1", "64+0"] {
            assert_eq!(text.parse::<Slots>().unwrap().to_string(), text);
        }
        for text in ["", "4", "+1", "0+0", "4+1+1", "1001+1", "-4+1"] {
            assert!(text.parse::<Slots>().is_err(), "{text}");
        }
    }
}
