//! Open files of one share, so that a folder of 100,000 files needs few descriptors.
//!
//! A share with no more files than the bound keeps each open once it was used, behind a
//! `OnceLock`: no lock on the path of the one big film. A larger share keeps the most recently
//! used ones.
//!
//! Invariant: a handle that somebody holds stays usable after it left the table.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::types::FileIndex;

/// Files kept open at once, unless a store is told otherwise.
pub(super) const DEFAULT_BOUND: usize = 128;

/// A bounded table of open files.
#[derive(Debug)]
pub(super) enum Handles<F> {
    All(Box<[OnceLock<Arc<F>>]>),
    Recent { bound: usize, table: Mutex<Recent<F>> },
}

#[derive(Debug)]
pub(super) struct Recent<F> {
    /// Each open file with the time of its last use.
    open: HashMap<u32, (Arc<F>, u64)>,
    /// Counts uses; no clock.
    now: u64,
}

impl<F> Handles<F> {
    /// A table for `files` files that keeps at most `bound` (at least 1) of them open.
    pub(super) fn new(files: usize, bound: usize) -> Self {
        if files <= bound {
            return Self::All((0..files).map(|_| OnceLock::new()).collect());
        }
        let table = Mutex::new(Recent { open: HashMap::new(), now: 0 });
        Self::Recent { bound: bound.max(1), table }
    }

    /// The handle of a file, opened by `open` if the table has none. Opening happens outside
    /// any lock, so two threads may both open a file; the first to enter it is kept.
    pub(super) fn get_or_open<E>(
        &self,
        file: FileIndex,
        open: impl FnOnce() -> Result<F, E>,
    ) -> Result<Arc<F>, E> {
        match self {
            Self::All(slots) => {
                let slot = &slots[file.index()];
                if let Some(handle) = slot.get() {
                    return Ok(Arc::clone(handle));
                }
                let fresh = Arc::new(open()?);
                Ok(Arc::clone(slot.get_or_init(|| fresh)))
            }
            Self::Recent { bound, table } => {
                if let Some(handle) = lock(table).get(file) {
                    return Ok(handle);
                }
                let fresh = Arc::new(open()?);
                // The displaced file is closed after the lock is gone.
                let (handle, _displaced) = lock(table).insert(file, fresh, *bound);
                Ok(handle)
            }
        }
    }
}

impl<F> Recent<F> {
    fn get(&mut self, file: FileIndex) -> Option<Arc<F>> {
        self.now += 1;
        let (handle, used) = self.open.get_mut(&file.get())?;
        *used = self.now;
        Some(Arc::clone(handle))
    }

    /// Enters a handle unless another thread was faster; returns the one to use and the one
    /// that had to go.
    fn insert(&mut self, file: FileIndex, fresh: Arc<F>, bound: usize) -> (Arc<F>, Option<Arc<F>>) {
        if let Some(handle) = self.get(file) {
            return (handle, Some(fresh));
        }
        let mut displaced = None;
        if self.open.len() >= bound {
            // A scan of the bound's 128 entries is nothing beside the open that led here.
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(number) = oldest.map(|(number, _)| *number) {
                displaced = self.open.remove(&number).map(|(handle, _)| handle);
            }
        }
        self.open.insert(file.get(), (Arc::clone(&fresh), self.now));
        (fresh, displaced)
    }
}

/// The table is whole after every statement, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use crate::types::{Geometry, PieceSize};

    fn opened_by(bound: usize, uses: &[u32]) -> Vec<u32> {
        let geometry = Geometry::new(PieceSize::new(16384).unwrap(), [1; 4]).unwrap();
        let handles = Handles::new(4, bound);
        let opened = RefCell::new(Vec::new());
        for &number in uses {
            let handle = handles.get_or_open(geometry.file(number).unwrap(), || {
                opened.borrow_mut().push(number);
                Ok::<_, ()>(number)
            });
            assert_eq!(*handle.unwrap(), number);
        }
        opened.into_inner()
    }

    #[test]
    fn within_the_bound_every_file_is_opened_once() {
        assert_eq!(opened_by(4, &[0, 1, 2, 3, 0, 1, 2, 3]), [0, 1, 2, 3]);
    }

    #[test]
    fn beyond_the_bound_the_least_recently_used_file_is_closed() {
        assert_eq!(opened_by(2, &[0, 1, 0, 2, 0, 1]), [0, 1, 2, 1]);
        assert_eq!(opened_by(0, &[0, 0, 1, 0]), [0, 1, 0]);
    }
}
