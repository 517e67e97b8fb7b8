//! One member's way out: its rate is shared equally by the blocks that are being sent.
//!
//! That is what TCP makes of connections that share one bottleneck, in the mean. Instead of
//! letting every block creep, the link counts how many bytes each of equal sharers would have
//! sent by now (`share`); a block is done when that has grown by the block's length.
//! Not here: the way in, distance, order on one connection (`pipe`).

use crate::types::BlockSpan;

/// How often senders' progress is told to receivers, in nanoseconds.
pub(super) const PROGRESS_NS: u64 = 500_000_000;

/// A block on its way out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    pub(super) lane: u32,
    pub(super) span: BlockSpan,
    /// `share` when it is done.
    ends: f64,
    /// Bytes of it that its receiver knows of.
    pub(super) credited: u32,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Uplink {
    /// Bytes per nanosecond; 0 = nothing is ever sent.
    rate: f64,
    share: f64,
    updated: u64,
    flows: Vec<Flow>,
    /// When receivers hear next how much of their blocks has come.
    tell_at: u64,
    /// What is done is being seen to, after which the next look is planned once.
    pub(super) in_turn: bool,
    /// Counts the changes after which an event that was planned is void.
    pub(super) generation: u32,
}

/// Bytes by which the shares' rounding may be off.
const ROUNDING: f64 = 0.01;

impl Uplink {
    /// A way out for so many bytes per second.
    pub(super) fn new(bytes_per_s: f64) -> Self {
        Self {
            rate: bytes_per_s / 1e9,
            share: 0.0,
            updated: 0,
            flows: Vec::new(),
            tell_at: 0,
            in_turn: false,
            generation: 0,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.rate > 0.0
    }

    fn advance(&mut self, now: u64) {
        if !self.flows.is_empty() {
            self.share += self.rate * (now - self.updated) as f64 / self.flows.len() as f64;
        }
        self.updated = now;
    }

    /// A block begins to be sent.
    pub(super) fn start(&mut self, now: u64, lane: u32, span: BlockSpan) {
        self.advance(now);
        if self.flows.is_empty() {
            self.tell_at = now + PROGRESS_NS;
        }
        let ends = self.share + f64::from(span.len());
        self.flows.push(Flow { lane, span, ends, credited: 0 });
    }

    /// What this lane sends is not sent any more.
    pub(super) fn stop(&mut self, now: u64, lane: u32) {
        self.advance(now);
        self.flows.retain(|flow| flow.lane != lane);
    }

    /// Takes out the blocks that are done.
    pub(super) fn take_done(&mut self, now: u64) -> Vec<Flow> {
        self.advance(now);
        let share = self.share + ROUNDING;
        self.flows.extract_if(.., |flow| flow.ends <= share).collect()
    }

    /// Bytes of each block that were sent since they were last told, if it is time to tell them:
    /// (lane, span, bytes).
    pub(super) fn take_progress(&mut self) -> Vec<(u32, BlockSpan, u32)> {
        if self.updated < self.tell_at {
            return Vec::new();
        }
        self.tell_at = self.updated + PROGRESS_NS;
        let share = self.share;
        let progress = self.flows.iter_mut().map(|flow| {
            let sent = f64::from(flow.span.len()) - (flow.ends - share);
            let fresh = (sent.max(0.0) as u32).saturating_sub(flow.credited);
            flow.credited += fresh;
            (flow.lane, flow.span, fresh)
        });
        progress.filter(|(_, _, fresh)| *fresh > 0).collect()
    }

    /// When to look again, if no other block begins before.
    pub(super) fn next_look(&self) -> Option<u64> {
        self.next_done().map(|done| done.min(self.tell_at))
    }

    /// Whose block is done next, if no other begins before.
    pub(super) fn next_lane(&self) -> Option<u32> {
        self.next_flow().map(|flow| flow.lane)
    }

    fn next_flow(&self) -> Option<&Flow> {
        self.flows.iter().min_by(|a, b| a.ends.total_cmp(&b.ends))
    }

    /// When the next block is done, if no other begins before.
    fn next_done(&self) -> Option<u64> {
        let rest =
            (self.next_flow()?.ends - self.share).max(0.0) * self.flows.len() as f64 / self.rate;
        Some(self.updated + rest.ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Geometry, PieceSize};

    fn block(geometry: &Geometry, piece: u64) -> BlockSpan {
        geometry.block(piece, 0, 16_384).expect("a block")
    }

    #[test]
    fn two_blocks_share_the_rate_and_the_later_one_ends_later() {
        let size = PieceSize::new(16_384).expect("a size");
        let geometry = Geometry::new(size, [10 * 16_384]).expect("a share");
        let mut link = Uplink::new(16_384.0);
        link.start(0, 1, block(&geometry, 0));
        assert_eq!(link.next_done(), Some(1_000_000_000));
        // Half of the first is out when the second begins; then each gets half the rate.
        link.start(500_000_000, 2, block(&geometry, 1));
        assert_eq!(link.next_done(), Some(1_500_000_000));
        assert_eq!(link.next_look(), Some(500_000_000));
        assert_eq!(link.take_done(1_500_000_000).len(), 1);
        assert_eq!(link.take_progress(), [(2, block(&geometry, 1), 8192)]);
        assert_eq!(link.take_progress(), []);
        assert_eq!(link.next_done(), Some(2_000_000_000));
        assert_eq!(link.take_done(2_000_000_000).first().map(|flow| flow.lane), Some(2));
    }
}
