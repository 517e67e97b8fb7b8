//! Whole frames from a socket, for connections that are not hot: trackers' and handshakes.
//!
//! Not here: lanes, which read payloads straight into pooled buffers.

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio_util::codec::Decoder;

use crate::wire::{Frame, FrameCodec, WireError};

/// The next frame; `None` at a clean end of the stream. What follows the frame stays in
/// `inbound`. Cancel safe: nothing is lost if the future is dropped.
///
/// # Errors
/// [`WireError`], after which the stream is useless.
pub(super) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    inbound: &mut BytesMut,
    codec: &mut FrameCodec,
) -> Result<Option<Frame>, WireError> {
    read_counted_frame(stream, inbound, codec, |_| {}).await
}

/// The same, and `count` is told of all bytes that come.
///
/// # Errors
/// As [`read_frame`].
pub(super) async fn read_counted_frame(
    stream: &mut (impl AsyncRead + Unpin),
    inbound: &mut BytesMut,
    codec: &mut FrameCodec,
    mut count: impl FnMut(usize),
) -> Result<Option<Frame>, WireError> {
    loop {
        if let Some(frame) = codec.decode(inbound)? {
            return Ok(Some(frame));
        }
        let bytes = stream.read_buf(inbound).await?;
        count(bytes);
        if bytes == 0 {
            return codec.decode_eof(inbound);
        }
    }
}
