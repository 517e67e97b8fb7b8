//! What a peer has asked for on one lane and has not got yet.
//!
//! A choke or a piece that is gone is judged here, at the sender, not hoped for at the
//! receiver. Only spans wait in the queue; bytes are read when the socket takes them.
//!
//! A choke ends with the piece that is being sent: a beginning is of no use to anybody before somebody
//! has sent the rest. Unless the peer is cut off, for it would be the only one to whom it is of use.
//! Not here: the bytes, or whether the peer deserves them (`swarm::choker`).

use std::collections::{HashSet, VecDeque};

use super::facts::Violation;
use crate::types::{BlockSpan, Geometry, PieceIndex, limits};
use crate::wire::{Message, RawBlock, RefuseReason};

/// The queue of blocks to send on one lane.
#[derive(Debug, Default)]
pub struct Upload {
    queue: VecDeque<BlockSpan>,
    /// The piece of which a block was taken last, and where that block ended.
    begun: Option<(PieceIndex, u32)>,
    /// The rest of that is not sent while we choke the peer.
    is_cut_off: bool,
}

impl Upload {
    /// The peer asks for blocks. Those that will not be sent are returned as NEGADO messages.
    ///
    /// `block_len` is the longest block agreed on; `choking` whether we choke this peer, so
    /// that it gets no more than the rest of a piece that was begun; `held` whether we have a
    /// piece, verified.
    ///
    /// # Errors
    /// [`Violation::OutsideShare`] for a block that no piece of the share contains, or that is
    /// empty or longer than agreed. Nothing of the message is queued then.
    pub fn on_request(
        &mut self,
        blocks: &[RawBlock],
        geometry: &Geometry,
        block_len: u32,
        choking: bool,
        held: impl Fn(PieceIndex) -> bool,
    ) -> Result<Vec<Message>, Violation> {
        let mut spans = Vec::with_capacity(blocks.len());
        for raw in blocks {
            let span = geometry
                .block(raw.piece, raw.offset, raw.len)
                .filter(|span| span.len() <= block_len)
                .ok_or(Violation::OutsideShare)?;
            spans.push(span);
        }
        let mut refused = Refused::default();
        for span in spans {
            if choking && !self.is_next_of_begun(span) {
                refused.choked.push(span.into());
            } else if !held(span.piece()) {
                refused.not_held.push(span.into());
            } else if self.queue.len() >= limits::REQUESTS_IN_FLIGHT_MAX
                || is_too_short(span, geometry)
            {
                refused.too_many.push(span.into());
            } else {
                self.queue.push_back(span);
            }
        }
        Ok(refused.into_messages())
    }

    /// The peer no longer needs these; what is not in the queue is ignored.
    pub fn on_cancel(&mut self, blocks: &[RawBlock]) {
        let cancelled: HashSet<&RawBlock> = blocks.iter().collect();
        self.queue.retain(|span| !cancelled.contains(&RawBlock::from(*span)));
    }

    /// We choke the peer: what was not sent is void, but for the rest of a piece that was begun.
    pub fn on_choking(&mut self) {
        for span in std::mem::take(&mut self.queue) {
            if self.is_next_of_begun(span) {
                self.queue.push_back(span);
            }
        }
    }

    /// A peer that we choke gets nothing more, not even the rest of a piece that was begun. Returns what was asked for
    /// of that and will not be sent.
    pub fn on_cut_off(&mut self) -> Vec<RawBlock> {
        self.is_cut_off = true;
        std::mem::take(&mut self.queue).into_iter().map(RawBlock::from).collect()
    }

    /// Whether this block follows on what was sent and waits of the piece that was begun.
    fn is_next_of_begun(&self, span: BlockSpan) -> bool {
        let follows = |piece, end| span.piece() == piece && span.offset() == end;
        !self.is_cut_off
            && self.begun.is_some_and(|(piece, end)| match self.queue.back() {
                Some(last) if last.piece() == piece => follows(piece, last.end()),
                _ => follows(piece, end),
            })
    }

    /// The next block to send, taken off the queue.
    pub fn take_next(&mut self) -> Option<BlockSpan> {
        let span = self.queue.pop_front()?;
        self.is_cut_off = false;
        self.begun = Some((span.piece(), span.end()));
        Some(span)
    }

    /// The next block to send, if it does not follow on the one that was taken last.
    pub fn next_begins_anew(&self) -> Option<BlockSpan> {
        let next = self.peek()?;
        (self.begun != Some((next.piece(), next.offset()))).then_some(next)
    }

    /// The next block is not to be sent.
    pub fn skip(&mut self) -> Option<BlockSpan> {
        self.queue.pop_front()
    }

    /// The block after those already taken, to be read ahead.
    pub fn peek(&self) -> Option<BlockSpan> {
        self.queue.front().copied()
    }

    /// All that waits, in the order in which it will be sent.
    pub fn waiting(&self) -> impl Iterator<Item = BlockSpan> + '_ {
        self.queue.iter().copied()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

/// Whether so little is asked for that to send it is mostly work.
fn is_too_short(span: BlockSpan, geometry: &Geometry) -> bool {
    span.len() < limits::REQUEST_LEN_MIN && span.end() < geometry.piece_len(span.piece())
}

#[derive(Default)]
struct Refused {
    choked: Vec<RawBlock>,
    not_held: Vec<RawBlock>,
    too_many: Vec<RawBlock>,
}

impl Refused {
    fn into_messages(self) -> Vec<Message> {
        [
            (self.choked, RefuseReason::Choked),
            (self.not_held, RefuseReason::NotHeld),
            (self.too_many, RefuseReason::TooMany),
        ]
        .into_iter()
        .filter(|(blocks, _)| !blocks.is_empty())
        .map(|(blocks, reason)| Message::Refuse { blocks, reason })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PieceSize;

    const LEN: u32 = 16384;

    fn geometry() -> Geometry {
        let size = PieceSize::new(32768).unwrap();
        Geometry::new(size, [300 * 32768 + 5]).unwrap()
    }

    fn raw(piece: u64, offset: u64, len: u64) -> RawBlock {
        RawBlock { piece, offset, len }
    }

    fn ask(upload: &mut Upload, blocks: &[RawBlock], choking: bool) -> Vec<Message> {
        upload
            .on_request(blocks, &geometry(), LEN, choking, |piece| piece.get() != 7)
            .expect("blocks inside the share")
    }

    #[test]
    fn blocks_come_out_in_the_order_they_were_asked_for() {
        let mut upload = Upload::default();
        assert!(ask(&mut upload, &[raw(2, 0, 16384), raw(1, 16384, 16384)], false).is_empty());
        assert_eq!(upload.take_next().map(RawBlock::from), Some(raw(2, 0, 16384)));
        assert_eq!(upload.take_next().map(RawBlock::from), Some(raw(1, 16384, 16384)));
        assert_eq!(upload.take_next(), None);
    }

    #[test]
    fn a_choked_peer_and_a_missing_piece_are_answered_clearly_and_never_queued() {
        let mut upload = Upload::default();
        let refused =
            |piece, reason| vec![Message::Refuse { blocks: vec![raw(piece, 0, 10)], reason }];
        assert_eq!(ask(&mut upload, &[raw(1, 0, 10)], true), refused(1, RefuseReason::Choked));
        assert_eq!(ask(&mut upload, &[raw(7, 0, 10)], false), refused(7, RefuseReason::NotHeld));
        assert!(upload.is_empty());
    }

    #[test]
    fn the_257th_request_is_refused_and_the_first_256_stand() {
        let mut upload = Upload::default();
        let many: Vec<_> = (10..10 + 257).map(|piece| raw(piece, 0, 4096)).collect();
        let answers = ask(&mut upload, &many, false);
        let last = vec![raw(266, 0, 4096)];
        assert_eq!(answers, [Message::Refuse { blocks: last, reason: RefuseReason::TooMany }]);
        assert_eq!(std::iter::from_fn(|| upload.take_next()).count(), 256);
    }

    #[test]
    fn a_piece_is_not_sent_in_crumbs() {
        let mut upload = Upload::default();
        let reason = RefuseReason::TooMany;
        let short = vec![raw(1, 0, 1), raw(1, 4096, 4095)];
        let refused = [Message::Refuse { blocks: short.clone(), reason }];
        assert_eq!(ask(&mut upload, &short, false), refused);
        // The ends of a piece and of the share may be short.
        let sent = [raw(1, 0, 4096), raw(1, 32767, 1), raw(300, 0, 5)];
        assert!(ask(&mut upload, &sent, false).is_empty());
        assert_eq!(upload.waiting().count(), 3);
    }

    #[test]
    fn blocks_beyond_the_piece_empty_or_longer_than_agreed_are_banned() {
        let cases =
            [raw(0, 0, 0), raw(0, 0, 16385), raw(0, 32768, 1), raw(300, 0, 6), raw(301, 0, 1)];
        for block in cases {
            let mut upload = Upload::default();
            let asked = [raw(1, 0, 100), block];
            let verdict = upload.on_request(&asked, &geometry(), LEN, false, |_| true);
            assert_eq!(verdict, Err(Violation::OutsideShare), "{block:?}");
            assert!(upload.is_empty(), "nothing of a bad message is served");
        }
    }

    #[test]
    fn cancelled_and_choked_blocks_are_not_sent() {
        let mut upload = Upload::default();
        ask(&mut upload, &[raw(1, 0, 4096), raw(2, 0, 4096)], false);
        upload.on_cancel(&[raw(1, 0, 4096), raw(9, 0, 4096)]);
        assert_eq!(upload.peek().map(RawBlock::from), Some(raw(2, 0, 4096)));
        upload.on_choking();
        assert!(upload.is_empty());
    }

    #[test]
    fn who_is_cut_off_gets_no_more_of_a_piece_that_was_begun_and_hears_so() {
        let mut upload = Upload::default();
        ask(&mut upload, &[raw(1, 0, 8192), raw(1, 8192, 8192), raw(2, 0, 4096)], false);
        upload.take_next();
        upload.on_choking();
        assert_eq!(upload.on_cut_off(), [raw(1, 8192, 8192)]);
        assert!(upload.is_empty());
        for next in [raw(1, 8192, 8192), raw(1, 16384, 16384)] {
            let refused = Message::Refuse { blocks: vec![next], reason: RefuseReason::Choked };
            assert_eq!(ask(&mut upload, &[next], true), [refused]);
        }
        assert!(ask(&mut upload, &[raw(1, 8192, 8192)], false).is_empty(), "it is answered again");
        assert_eq!(upload.next_begins_anew(), None, "nothing is sent twice");
        upload.take_next();
        assert!(ask(&mut upload, &[raw(1, 16384, 16384)], true).is_empty(), "it is as before");
    }

    #[test]
    fn a_piece_that_was_begun_is_sent_to_its_end_despite_a_choke() {
        let mut upload = Upload::default();
        ask(&mut upload, &[raw(1, 0, 8192), raw(1, 8192, 8192), raw(2, 0, 4096)], false);
        upload.take_next();
        upload.on_choking();
        assert_eq!(upload.waiting().map(RawBlock::from).collect::<Vec<_>>(), [raw(1, 8192, 8192)]);
        assert!(ask(&mut upload, &[raw(1, 16384, 16384)], true).is_empty());
        for other in [raw(1, 0, 8192), raw(1, 16384, 16384), raw(3, 0, 10)] {
            let reason = RefuseReason::Choked;
            let refused = Message::Refuse { blocks: vec![other], reason };
            assert_eq!(ask(&mut upload, &[other], true), [refused]);
        }
    }
}
