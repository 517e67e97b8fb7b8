//! A stream of frames from a stranger, in each state of a connection.
//!
//! Laws: no panic; the frames and the end are the same however the stream is split; no frame is
//! over its cap; what was read encodes to something that reads the same.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use minibit_core::types::limits::{BLOCK_LEN_MAX, METADATA_CHUNK_MAX};
use minibit_core::wire::{Frame, FrameCodec, FrameLimits, Message, WireError};
use tokio_util::codec::Decoder;

fuzz_target!(|data: &[u8]| {
    for limits in [
        FrameLimits::before_handshake(),
        FrameLimits::established(10, 16 * 1024),
        FrameLimits::tracker_client(),
    ] {
        let (frames, end) = read(data, limits, data.len().max(1));
        for frame in &frames {
            check(frame);
        }
        for step in [1, 7] {
            let (split, split_end) = read(data, limits, step);
            assert_eq!(split, frames);
            // Only that it ended, not why: an early refusal cannot know the kind yet.
            assert_eq!(split_end.is_some(), end.is_some());
        }
    }
});

/// Everything that comes out of a stream that arrives `step` bytes at a time.
fn read(data: &[u8], limits: FrameLimits, step: usize) -> (Vec<Frame>, Option<WireError>) {
    let mut codec = FrameCodec::new(limits);
    let mut src = BytesMut::new();
    let mut frames = Vec::new();
    for chunk in data.chunks(step) {
        src.extend_from_slice(chunk);
        loop {
            match codec.decode(&mut src) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    let end = codec.decode_eof(&mut src).map(|frame| assert!(frame.is_none()));
    (frames, end.err())
}

fn check(frame: &Frame) {
    match frame {
        Frame::Control(Message::Unknown) => {}
        Frame::Control(message) => {
            let mut out = BytesMut::new();
            message.encode(&mut out);
            let again = minibit_core::wire::parse_message(&out[5..]);
            assert_eq!(again.as_ref(), Ok(message));
        }
        Frame::Block { header, payload } => {
            assert_eq!(header.len as usize, payload.len());
            assert!(header.len <= BLOCK_LEN_MAX);
        }
        Frame::Metadata { header, payload } => {
            assert_eq!(header.len as usize, payload.len());
            assert!(header.len <= METADATA_CHUNK_MAX);
        }
    }
}
