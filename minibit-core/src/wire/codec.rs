//! Frames as a `tokio_util` codec, for connections that are not hot: handshakes, trackers,
//! tests. A lane that moves blocks reads heads with [`parse_head`] and payloads straight into
//! its pooled buffer, and writes heads and file bytes in one system call.
//!
//! Invariant: the codec reserves nothing. The buffer it is given grows by what has come, so a
//! header's promise costs its sender as much as us.

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::{Decoder, Encoder};

use super::Penalty;
use super::frame::{FrameError, FrameHead, FrameLimits, parse_head};
use super::header::{BlockHeader, MetadataHeader};
use super::message::Message;
use super::parse::{MessageError, parse_message};

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A control message.
    Control(Message),
    /// BLOCO.
    Block {
        /// Which bytes.
        header: BlockHeader,
        /// The bytes, as many as the header says.
        payload: Bytes,
    },
    /// METADADOS.
    Metadata {
        /// Which bytes.
        header: MetadataHeader,
        /// The bytes, as many as the header says.
        payload: Bytes,
    },
}

/// Why a connection's stream of frames ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// A frame was refused.
    #[error("refused a frame")]
    Frame(#[from] FrameError),
    /// A control frame's body was refused.
    #[error("refused a message")]
    Message(#[from] MessageError),
    /// The socket failed; nobody is at fault.
    #[error("connection failed")]
    Io(#[from] std::io::Error),
}

impl WireError {
    /// What the sender has earned.
    pub fn penalty(&self) -> Penalty {
        match self {
            Self::Frame(error) => error.penalty(),
            Self::Message(_) | Self::Io(_) => Penalty::Close,
        }
    }
}

/// Reads [`Frame`]s and writes [`Message`]s.
#[derive(Clone, Debug)]
pub struct FrameCodec {
    limits: FrameLimits,
}

impl FrameCodec {
    /// With these caps until others are set.
    pub fn new(limits: FrameLimits) -> Self {
        Self { limits }
    }

    /// Sets the caps for the frames after this one.
    pub fn set_limits(&mut self, limits: FrameLimits) {
        self.limits = limits;
    }
}

impl Decoder for FrameCodec {
    type Item = Frame;
    type Error = WireError;

    fn decode(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        let Some((head, head_len)) = parse_head(src, &self.limits)? else { return Ok(None) };
        if src.len() < head_len + head.body_len() {
            return Ok(None);
        }
        src.advance(head_len);
        let body = src.split_to(head.body_len());
        Ok(Some(match head {
            FrameHead::Control { .. } => Frame::Control(parse_message(&body)?),
            FrameHead::Block(header) => Frame::Block { header, payload: body.freeze() },
            FrameHead::Metadata(header) => Frame::Metadata { header, payload: body.freeze() },
        }))
    }

    fn decode_eof(&mut self, src: &mut BytesMut) -> Result<Option<Frame>, WireError> {
        match self.decode(src)? {
            None if !src.is_empty() => Err(FrameError::Truncated { got: src.len() }.into()),
            frame => Ok(frame),
        }
    }
}

impl Encoder<&Message> for FrameCodec {
    type Error = WireError;

    fn encode(&mut self, message: &Message, out: &mut BytesMut) -> Result<(), WireError> {
        message.encode(out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PeerId;
    use proptest::prelude::*;

    fn established() -> FrameCodec {
        FrameCodec::new(FrameLimits::established(100, 16 * 1024))
    }

    fn stream() -> (Vec<Frame>, Vec<u8>) {
        let mut bytes = BytesMut::new();
        let goodbye = Message::Goodbye { id: PeerId([7; 16]), reason: Some("até \"já\"".into()) };
        goodbye.encode(&mut bytes);
        let header = BlockHeader { piece: 1, offset: 2, len: 5 };
        bytes.extend_from_slice(&header.encode_frame_head());
        bytes.extend_from_slice(b"bytes");
        Message::KeepAlive.encode(&mut bytes);
        let block = Frame::Block { header, payload: Bytes::from_static(b"bytes") };
        let frames = vec![Frame::Control(goodbye), block, Frame::Control(Message::KeepAlive)];
        (frames, bytes.to_vec())
    }

    #[test]
    fn a_frame_cut_off_by_the_end_of_the_stream_is_an_error_and_a_clean_end_is_not() {
        let (frames, bytes) = stream();
        for end in 0..=bytes.len() {
            let mut src = BytesMut::from(&bytes[..end]);
            let mut codec = established();
            let outcome = loop {
                match codec.decode_eof(&mut src) {
                    Ok(Some(frame)) => assert!(frames.contains(&frame)),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            };
            let whole = Message::KeepAlive;
            let mut last = BytesMut::new();
            whole.encode(&mut last);
            let ends = [0, bytes.len() - last.len() - 22, bytes.len() - last.len(), bytes.len()];
            assert_eq!(outcome.is_ok(), ends.contains(&end), "cut at {end}: {outcome:?}");
        }
    }

    #[test]
    fn a_promise_of_many_bytes_reserves_none() {
        let mut codec = established();
        let head = BlockHeader { piece: 0, offset: 0, len: 16 * 1024 }.encode_frame_head();
        let mut src = BytesMut::from(&head[..]);
        let before = src.capacity();
        assert!(codec.decode(&mut src).unwrap().is_none());
        assert_eq!(src.capacity(), before);
    }

    #[test]
    fn new_limits_hold_from_the_next_frame_on() {
        let (_, bytes) = stream();
        let mut src = BytesMut::from(&bytes[..]);
        let mut codec = FrameCodec::new(FrameLimits::before_handshake());
        assert!(codec.decode(&mut src).unwrap().is_some());
        let early = codec.decode(&mut src).unwrap_err();
        assert!(matches!(early, WireError::Frame(FrameError::TooEarly { .. })), "{early}");
        codec.set_limits(FrameLimits::established(100, 16 * 1024));
        assert!(codec.decode(&mut src).unwrap().is_some());
    }

    proptest! {
        #[test]
        fn frames_read_the_same_however_the_stream_is_split(
            cuts in prop::collection::vec(1usize..20, 1..200),
        ) {
            let (frames, bytes) = stream();
            let mut codec = established();
            let mut src = BytesMut::new();
            let mut got = Vec::new();
            let mut rest = &bytes[..];
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                rest = later;
                src.extend_from_slice(now);
                while let Some(frame) = codec.decode(&mut src).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
        }
    }
}
