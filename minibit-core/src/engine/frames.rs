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
    loop {
        if let Some(frame) = codec.decode(inbound)? {
            return Ok(Some(frame));
        }
        if stream.read_buf(inbound).await? == 0 {
            return codec.decode_eof(inbound);
        }
    }
}
