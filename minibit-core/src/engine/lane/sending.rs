//! Out: control bytes first, then blocks from the file to the socket by the kernel.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::task::Wake;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::Interest;

use super::{Lane, LaneEnd};
use crate::store::Served;
use crate::trade::{self, MetadataWanted};
use crate::types::{BlockSpan, PieceIndex, limits};
use crate::wire::{BLOCK_HEAD_LEN, BlockHeader, MetadataHeader};

/// Blocks sent in one turn before reading gets its turn.
const BLOCKS_A_TURN: usize = 4;

/// A block on its way out.
pub(super) struct Sending {
    span: BlockSpan,
    served: Served,
    head: [u8; BLOCK_HEAD_LEN],
    /// Bytes of head and payload that the socket has taken.
    sent: usize,
}

/// Metadata on its way out, in chunks.
pub(super) struct MetadataReply {
    header: MetadataHeader,
    bytes: Bytes,
}

/// Blocks read ahead at once from a cold file.
const WARM_AT_ONCE: usize = 16;

fn is_in_memory(served: &Served, span: BlockSpan) -> bool {
    let at = served.offset + u64::from(span.offset());
    served.file.is_in_memory(at, span.len() as usize)
}

impl Lane {
    pub(super) fn has_output(&self) -> bool {
        !self.outbound.is_empty()
            || self.sending.is_some()
            || self.metadata.is_some()
            || self.mind.has_metadata()
            || (!self.mind.upload().is_empty() && !self.is_warming())
    }

    /// Whether the next blocks are being read from the disk.
    fn is_warming(&self) -> bool {
        self.warming.as_ref().is_some_and(|done| !done.load(Acquire))
    }

    /// Writes what the socket takes; true if it took anything.
    pub(super) fn write(&mut self, now: Duration) -> Result<bool, LaneEnd> {
        let mut moved = false;
        let mut blocks = 0;
        loop {
            // A block that is half out must be finished before anything else is.
            let mid_block = self.sending.as_ref().is_some_and(|sending| sending.sent > 0);
            let taken = if !mid_block && !self.outbound.is_empty() {
                self.write_control()
            } else if self.sending.is_some() {
                self.write_block()
            } else if self.next_output() {
                continue;
            } else {
                break;
            };
            match taken {
                Ok(block_ended) => {
                    moved = true;
                    blocks += usize::from(block_ended);
                }
                Err(LaneEnd::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(end) => return Err(end),
            }
            if blocks == BLOCKS_A_TURN {
                break;
            }
        }
        if moved {
            self.mind.spoke(now);
        }
        Ok(moved)
    }

    pub(super) fn write_control(&mut self) -> Result<bool, LaneEnd> {
        let taken = self.stream.try_write(&self.outbound)?;
        self.outbound.advance(taken);
        Ok(false)
    }

    /// Sends some of the current block; true if that was the end of it.
    pub(super) fn write_block(&mut self) -> Result<bool, LaneEnd> {
        let Some(sending) = &mut self.sending else { return Ok(false) };
        let total = BLOCK_HEAD_LEN + sending.span.len() as usize;
        let head = &sending.head[sending.sent.min(BLOCK_HEAD_LEN)..];
        let done = sending.sent.saturating_sub(BLOCK_HEAD_LEN);
        let at = sending.served.offset + u64::from(sending.span.offset()) + done as u64;
        let rest = sending.span.len() as usize - done;
        let stream = &self.stream;
        let taken = stream.try_io(Interest::WRITABLE, || {
            sending.served.file.send(stream.as_fd(), head, at, rest)
        })?;
        sending.sent += taken;
        self.mind.on_taken(taken, self.context.now());
        if sending.sent < total {
            return Ok(false);
        }
        let span = sending.span;
        self.sending = None;
        self.on_block_sent(span);
        Ok(true)
    }

    fn on_block_sent(&mut self, span: BlockSpan) {
        let now = self.context.now();
        self.decide(|mind| mind.on_block_sent(span, now));
        // If the file was edited while the kernel read it, the peer must hear so right
        // behind the bytes.
        if self.mind.upload().is_empty() {
            let _ = self.serve(span.piece());
        }
    }

    /// Puts the next thing to send in place; false if there is nothing.
    pub(super) fn next_output(&mut self) -> bool {
        if let Some(reply) = self.metadata.take().or_else(|| self.next_metadata()) {
            self.put_metadata(reply);
            return true;
        }
        if self.is_warming() {
            return false;
        }
        let Some(span) = self.mind.upload().peek() else {
            self.warmed = 0;
            return false;
        };
        let served = self.serve(span.piece());
        if let Some(served) = &served
            && self.warmed == 0
            && !is_in_memory(served, span)
        {
            self.warm();
            return false;
        }
        self.mind.take_block(self.context.now());
        self.warmed = self.warmed.saturating_sub(1);
        match served {
            Some(served) => {
                let head = BlockHeader::of(span).encode_frame_head();
                self.sending = Some(Sending { span, served, head, sent: 0 });
            }
            None => {
                self.decide(|mind| mind.not_held(span));
            }
        }
        true
    }

    /// Has the next blocks read from the disk on a thread that may wait; the lane goes on when
    /// they are in memory. Those blocks are then sent without another look, so that a memory
    /// too small to keep them cannot make this a circle.
    fn warm(&mut self) {
        let spans: Vec<BlockSpan> = self.mind.upload().waiting().take(WARM_AT_ONCE).collect();
        let store = Arc::clone(&self.context.store);
        let bell = Arc::clone(&self.bell);
        self.warmed = spans.len();
        let done = Arc::new(AtomicBool::new(false));
        self.warming = Some(Arc::clone(&done));
        tokio::task::spawn_blocking(move || {
            for span in spans {
                if let Ok(served) = store.serve(span.piece()) {
                    let at = served.offset + u64::from(span.offset());
                    served.file.bring_into_memory(at, span.len() as usize);
                }
            }
            done.store(true, Release);
            bell.wake();
        });
    }

    /// Where a piece is to be sent from. A changed source is withdrawn, not served.
    pub(super) fn serve(&mut self, piece: PieceIndex) -> Option<Served> {
        match self.context.store.serve(piece) {
            Ok(served) => Some(served),
            Err(error) => {
                self.context.not_served(piece, &error);
                self.decide(trade::Lane::tell_peer);
                None
            }
        }
    }

    /// The next item of metadata that the peer has asked for, empty if it is not here.
    fn next_metadata(&mut self) -> Option<MetadataReply> {
        let context = &self.context;
        Some(match self.mind.take_metadata()? {
            MetadataWanted::Manifest => {
                let bytes = context.manifest_bytes.clone();
                MetadataReply { header: MetadataHeader::manifest(bytes.len() as u32), bytes }
            }
            MetadataWanted::Page(page) => {
                let bytes = context.share.hashes.page(page).unwrap_or_default();
                MetadataReply { header: MetadataHeader::page(page, bytes.len() as u32), bytes }
            }
        })
    }

    fn put_metadata(&mut self, mut reply: MetadataReply) {
        let chunk = reply.bytes.len().min(limits::METADATA_CHUNK_MAX as usize);
        let bytes = reply.bytes.split_to(chunk);
        reply.header.len = chunk as u32;
        self.outbound.extend_from_slice(&reply.header.encode_frame_head());
        self.outbound.extend_from_slice(&bytes);
        self.context.share.counters.messages_sent.fetch_add(1, Relaxed);
        if !reply.bytes.is_empty() {
            // A large manifest is on its way: that is what the peer has come for.
            self.link.took(self.context.now());
            reply.header.offset += chunk as u32;
            self.metadata = Some(reply);
        }
    }
}
