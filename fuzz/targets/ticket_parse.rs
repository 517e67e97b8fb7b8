//! A ticket that a user pasted.
//!
//! Laws: no panic; what is accepted has one text, but for case; it names at least one address
//! that can be dialled.

#![no_main]

use libfuzzer_sys::fuzz_target;
use minibit_core::content::Ticket;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(ticket) = text.parse::<Ticket>() else { return };
    assert_eq!(ticket.to_string(), text.trim().to_ascii_lowercase());
    let mut addrs = ticket.trackers().iter().chain(ticket.peers());
    assert!(addrs.clone().next().is_some());
    assert!(addrs.all(|addr| addr.port() != 0 && !addr.ip().is_unspecified()));
});
