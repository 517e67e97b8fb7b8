//! Which pieces were written a moment ago, and so are in the page cache all but for certain: before any other is sent
//! the kernel is asked twice whether it is, which is a twentieth of what a receiver does that passes on
//! pieces as they come.
//!
//! A guess that errs to one side: who is forgotten is asked about. Not here: what is asked (`store::served`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::types::PieceIndex;

/// What has yet to be written to the disk cannot be dropped, and the kernel lets it wait for seconds unless
/// memory is short (`vm.dirty_writeback_centisecs`, 5 s unless changed).
const MOMENT: Duration = Duration::from_secs(2);
/// Pieces remembered: what comes in a moment, as far as it matters.
const PLACES: usize = 1024;

/// See the module's header.
#[derive(Debug)]
pub(super) struct JustWritten {
    /// The number of a piece, and below it the millisecond of the clock, of 32 bits each. The empty place
    /// names a piece that no share has.
    places: Box<[AtomicU64]>,
}

impl Default for JustWritten {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| AtomicU64::new(u64::MAX)).collect() }
    }
}

impl JustWritten {
    fn place(&self, piece: PieceIndex) -> &AtomicU64 {
        &self.places[piece.get() as usize % PLACES]
    }

    /// A piece was written whole.
    pub(super) fn note(&self, piece: PieceIndex, now: Duration) {
        let entry = u64::from(piece.get()) << 32 | u64::from(millis(now));
        self.place(piece).store(entry, Relaxed);
    }

    /// Whether a piece was written a moment ago.
    pub(super) fn has(&self, piece: PieceIndex, now: Duration) -> bool {
        let entry = self.place(piece).load(Relaxed);
        let age = millis(now).wrapping_sub(entry as u32);
        entry >> 32 == u64::from(piece.get()) && u128::from(age) < MOMENT.as_millis()
    }
}

/// Milliseconds that begin anew after seven weeks.
fn millis(time: Duration) -> u32 {
    time.as_millis() as u32
}

#[cfg(not(loom))]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Geometry, PieceSize};

    #[test]
    fn a_piece_is_just_written_for_a_moment_and_others_are_not() {
        let size = PieceSize::new(16384).unwrap();
        let len = 4096 * u64::from(size.bytes());
        let geometry = Geometry::new(size, [len]).unwrap();
        let piece = |number| geometry.piece(number).unwrap();
        let written = JustWritten::default();
        let at = Duration::from_secs(60);
        assert!(!written.has(piece(0), Duration::ZERO), "nothing was written");
        written.note(piece(5), at);
        assert!(written.has(piece(5), at + MOMENT / 2));
        assert!(!written.has(piece(5), at + MOMENT));
        assert!(!written.has(piece(6), at));
        // In the same place.
        assert!(!written.has(piece(5 + PLACES as u32), at));
        written.note(piece(5 + PLACES as u32), at);
        assert!(!written.has(piece(5), at));
    }
}
