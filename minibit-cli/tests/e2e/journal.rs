//! What a download has on record as verified, read as `docs/on-disk.md` describes it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A journal as it was at one moment, of a download that has not been taken up yet: all it
/// knows is in its records.
pub(crate) struct Journal {
    /// Pieces that are verified and written.
    pub(crate) pieces: BTreeSet<u32>,
    /// How many records there are, those about the disk left out.
    pub(crate) records: u32,
    /// The data behind so many records is on the disk for good.
    pub(crate) on_disk: u32,
}

impl Journal {
    /// Nothing if there is no journal (any more).
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let bytes = fs::read(path).ok()?;
        let number = |at: usize| -> Option<u32> {
            Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
        };
        let bitmap = |bits: u32| bits.div_ceil(8) as usize;
        let header = 65 + bitmap(number(60)?) + 3 * bitmap(number(56)?) + 32;
        let mut journal = Self { pieces: BTreeSet::new(), records: 0, on_disk: 0 };
        // One that is being written may end anywhere.
        for at in (header..bytes.len().checked_sub(7)?).step_by(8) {
            let value = number(at)?;
            match (value >> 28, value & 0x0fff_ffff) {
                (0, piece) => {
                    journal.pieces.insert(piece);
                    journal.records += 1;
                }
                (1, count) => journal.on_disk = count,
                _ => {}
            }
        }
        Some(journal)
    }
}
