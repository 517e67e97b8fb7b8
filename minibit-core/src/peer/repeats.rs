//! What was sent over a link already, and how much of it is sent again.
//!
//! Who asks for the same over and over takes what others wait for, and an honest peer hardly ever has
//! reason to: it lost the beginning of a piece that it gave up, or its disk failed. So some is sent
//! again: a piece, and a part of what was sent once, and beyond that a piece a minute or as much as would be all of the
//! share in five, whichever is more: after a break of the network all that was under way has to come again.
//!
//! Invariant: each piece counts as sent once with the first block of it. What begins anew, anywhere in a
//! piece, is charged with all of it: blocks that follow on what was sent are not looked at, and of one
//! that does not begin nothing else should go.
//! Not here: what is queued (`upload`). One value for all lanes of a link.

use std::time::Duration;

use crate::types::{BlockSpan, Geometry, PieceSet};

/// Of what was sent once, one part in so many may be sent again.
const REPEATED_PART: u64 = 20;
/// And besides a piece in such a time,
const PIECE_EVERY: Duration = Duration::from_secs(60);
/// or the share in such a time.
const SHARE_EVERY: Duration = Duration::from_secs(300);

/// See the module's header.
#[derive(Debug, Default)]
pub struct Repeats {
    /// Pieces of which something was sent; none before the first.
    sent: Option<PieceSet>,
    /// Bytes of those.
    once: u64,
    /// Bytes charged as sent again that are not forgotten by now.
    again: u64,
    /// When time was last taken into account.
    looked: Duration,
}

impl Repeats {
    /// Whether a block may be sent that does not follow on what was sent before it.
    pub fn allows(&mut self, span: BlockSpan, geometry: &Geometry, now: Duration) -> bool {
        if !self.was_sent(span) {
            return true;
        }
        let piece = u64::from(geometry.piece_size().bytes());
        self.forget(geometry, now);
        self.again + len_of(span, geometry) <= piece + self.once / REPEATED_PART
    }

    /// Such a block is sent.
    pub fn on_sending(&mut self, span: BlockSpan, geometry: &Geometry) {
        if self.was_sent(span) {
            self.again += len_of(span, geometry);
            return;
        }
        let sent = self.sent.get_or_insert_with(|| PieceSet::empty(geometry.piece_count()));
        sent.insert(span.piece());
        self.once += len_of(span, geometry);
    }

    fn was_sent(&self, span: BlockSpan) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.contains(span.piece()))
    }

    /// What was sent again long ago counts no more.
    fn forget(&mut self, geometry: &Geometry, now: Duration) {
        let passed = now.saturating_sub(self.looked).as_micros();
        let in_time = |bytes: u64, every: Duration| u128::from(bytes) * passed / every.as_micros();
        let forgotten = in_time(geometry.piece_size().bytes().into(), PIECE_EVERY)
            .max(in_time(geometry.total_len(), SHARE_EVERY));
        if forgotten > 0 {
            self.again = self.again.saturating_sub(u64::try_from(forgotten).unwrap_or(u64::MAX));
            self.looked = now;
        }
    }
}

/// Bytes of a block's piece.
fn len_of(span: BlockSpan, geometry: &Geometry) -> u64 {
    geometry.piece_len(span.piece()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PieceSize;

    const PIECE: u32 = 32768;
    const NOW: Duration = Duration::from_secs(1000);

    fn geometry() -> Geometry {
        of_pieces(200)
    }

    fn of_pieces(pieces: u64) -> Geometry {
        Geometry::new(PieceSize::new(PIECE).unwrap(), [pieces * u64::from(PIECE)]).unwrap()
    }

    /// Asks for a block; true if it is sent.
    fn ask(repeats: &mut Repeats, piece: u64, offset: u64, now: Duration) -> bool {
        let geometry = geometry();
        let span = geometry.block(piece, offset, 16384).unwrap();
        let allowed = repeats.allows(span, &geometry, now);
        if allowed {
            repeats.on_sending(span, &geometry);
        }
        allowed
    }

    fn having_sent(pieces: u64) -> Repeats {
        let mut repeats = Repeats::default();
        assert!((0..pieces).all(|piece| ask(&mut repeats, piece, 0, NOW)));
        repeats
    }

    #[test]
    fn every_piece_is_sent_once_and_of_all_that_was_sent_a_twentieth_and_one_piece_again() {
        let mut repeats = having_sent(100);
        let again = (0..100).filter(|piece| ask(&mut repeats, *piece, 0, NOW)).count();
        assert_eq!(again, 6);
        assert!(ask(&mut repeats, 150, 0, NOW), "what was not sent yet is");
    }

    #[test]
    fn a_part_of_a_piece_is_no_cheaper_to_have_again_than_all_of_it() {
        let mut repeats = having_sent(2);
        assert!(ask(&mut repeats, 0, 16384, NOW));
        assert!(!ask(&mut repeats, 1, 16384, NOW));
    }

    #[test]
    fn a_piece_that_is_asked_for_again_and_again_comes_once_a_minute() {
        let geometry = of_pieces(3);
        let span = geometry.block(0, 0, 16384).unwrap();
        let mut repeats = Repeats::default();
        repeats.on_sending(span, &geometry);
        let sent = (0..600)
            .filter(|second| {
                let allowed = repeats.allows(span, &geometry, NOW + Duration::from_secs(*second));
                if allowed {
                    repeats.on_sending(span, &geometry);
                }
                allowed
            })
            .count();
        assert!((10..=11).contains(&sent), "{sent} times in ten minutes");
    }

    #[test]
    fn what_was_lost_with_the_network_comes_again_within_five_minutes() {
        let mut repeats = having_sent(200);
        let mut lost: Vec<u64> = (0..200).collect();
        for second in 0..300 {
            lost.retain(|piece| !ask(&mut repeats, *piece, 0, NOW + Duration::from_secs(second)));
        }
        assert!(lost.is_empty(), "{} pieces still to come", lost.len());
    }
}
