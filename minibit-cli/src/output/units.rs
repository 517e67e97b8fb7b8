//! Numbers as people read them: bytes, rates, times, parts.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// Bytes in the largest unit that leaves at least 1: `1.5 MiB`.
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let mut value = self.0 as f64 / 1024.0;
        let mut unit = 0;
        // What would round to 1024.0 is 1.0 of the next unit.
        while value >= 1023.95 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        write!(f, "{value:.1} {}", UNITS[unit])
    }
}

/// A time to a precision that suits its length: `35 ms`, `1.25 s`, `3:07`, `2:03:07`.
pub(crate) struct Time(pub(crate) Duration);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0 => write!(f, "{} ms", self.0.as_millis()),
            1..60 => write!(f, "{:.2} s", self.0.as_secs_f64()),
            _ => Passed(self.0).fmt(f),
        }
    }
}

/// A time that has passed, in whole seconds: `7 s`, `3:07`, `2:03:07`.
pub(crate) struct Passed(pub(crate) Duration);

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        match seconds {
            0..60 => write!(f, "{seconds} s"),
            60..3600 => write!(f, "{}:{:02}", seconds / 60, seconds % 60),
            _ => write!(f, "{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        }
    }
}

/// A time that is left, in the same way, but rounded up: as long as there is some, it is not none.
pub(crate) struct Left(pub(crate) Duration);

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begun = u64::from(self.0.subsec_nanos() > 0);
        Passed(Duration::from_secs(self.0.as_secs().saturating_add(begun))).fmt(f)
    }
}

/// A count with its noun: `1 file`, `2 files`.
pub(crate) struct Count(pub(crate) u64, pub(crate) &'static str);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}{}", self.0, self.1, if self.0 == 1 { "" } else { "s" })
    }
}

/// Where peers are: a few, and how many more.
pub(crate) struct Names<'a>(pub(crate) &'a [SocketAddr]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 3;
        for (number, addr) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{addr}", if number == 0 { "" } else { ", " })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// A part in whole percent, rounded down: 100 means all. Where the whole is not known yet, or
/// is nothing, no part of it is there.
pub(crate) fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    // In 128 bits, so that no length overflows.
    (u128::from(part.min(whole)) * 100 / u128::from(whole)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_their_unit() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

    #[test]
    fn times_are_told_to_a_precision_that_suits() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (1250, "1.25 s"),
            (187_000, "3:07"),
            (7_387_000, "2:03:07"),
        ] {
            assert_eq!(Time(Duration::from_millis(ms)).to_string(), text);
        }
    }

    #[test]
    fn what_is_left_of_a_time_is_not_told_as_nothing_while_there_is_some() {
        for (ms, passed, left) in [
            (0, "0 s", "0 s"),
            (200, "0 s", "1 s"),
            (59_001, "59 s", "1:00"),
            (187_000, "3:07", "3:07"),
            (7_386_500, "2:03:06", "2:03:07"),
        ] {
            let time = Duration::from_millis(ms);
            assert_eq!((&*Passed(time).to_string(), &*Left(time).to_string()), (passed, left));
        }
        assert!(Left(Duration::MAX).to_string().contains(':'));
    }

    #[test]
    fn of_many_addresses_a_few_are_named() {
        let addrs: Vec<SocketAddr> = (1..=5).map(|port| ([192, 0, 2, 7], port).into()).collect();
        assert_eq!(Names(&addrs[..1]).to_string(), "192.0.2.7:1");
        assert_eq!(Names(&addrs[..3]).to_string(), "192.0.2.7:1, 192.0.2.7:2, 192.0.2.7:3");
        assert!(Names(&addrs).to_string().ends_with(", 192.0.2.7:3 and 2 more"));
    }

    #[test]
    fn a_percentage_is_never_rounded_up_and_of_nothing_is_none() {
        assert_eq!(percent(999, 1000), 99);
        assert_eq!(percent(1000, 1000), 100);
        assert_eq!(percent(u64::MAX - 1, u64::MAX), 99);
        assert_eq!(percent(0, 0), 0);
    }
}
