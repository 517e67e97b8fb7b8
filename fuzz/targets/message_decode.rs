//! The body of a control frame.
//!
//! Laws: no panic; what is accepted is JSON for `serde_json` too; what is refused as JSON is not
//! JSON for it (but for our depth, and half surrogate pairs in keys); a message reads back from
//! its own encoding.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use minibit_core::wire::{Message, MessageError, parse_message};

fuzz_target!(|data: &[u8]| {
    let judge = serde_json::from_slice::<serde::de::IgnoredAny>(data).is_ok();
    match parse_message(data) {
        Ok(message) => {
            assert!(judge, "accepted what is no JSON");
            if message != Message::Unknown {
                let mut out = BytesMut::new();
                message.encode(&mut out);
                assert_eq!(parse_message(&out[5..]), Ok(message));
            }
        }
        Err(MessageError::NotJson { .. } | MessageError::TrailingBytes { .. }) => {
            let half_pair = data.windows(2).any(|pair| pair == b"\\u");
            assert!(!judge || half_pair, "refused what is JSON");
        }
        Err(_) => {}
    }
});
