//! The heads of BLOCO and METADADOS frames.
//!
//! Laws: no panic; a head that is accepted encodes to the bytes it was read from, and its body
//! is within the cap.

#![no_main]

use libfuzzer_sys::fuzz_target;
use minibit_core::wire::{FrameHead, FrameLimits, parse_head};

/// Length of a header and of the payload that it must name, as a frame's length.
fn frame(kind: u8, header: &[u8]) -> Vec<u8> {
    let len = header.last_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len));
    let length = (header.len() as u32 + 1).saturating_add(len);
    [&length.to_be_bytes()[..], &[kind], header].concat()
}

fuzz_target!(|data: &[u8]| {
    let limits = FrameLimits::established(1000, 64 * 1024);
    let kind = if data.len() == 22 { 2 } else { 1 };
    // Both as it comes and with the length that fits it.
    for bytes in [data.to_vec(), frame(kind, data)] {
        let Ok(Some((head, taken))) = parse_head(&bytes, &limits) else { continue };
        assert!(head.body_len() <= 64 * 1024);
        match head {
            FrameHead::Control { .. } => assert_eq!(taken, 5),
            FrameHead::Block(header) => assert_eq!(header.encode_frame_head(), bytes[..taken]),
            FrameHead::Metadata(header) => assert_eq!(header.encode_frame_head(), bytes[..taken]),
        }
    }
});
