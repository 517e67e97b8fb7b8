//! Reused receive buffers.
//!
//! Touching fresh memory costs more than hashing it, and an idle link should hold no buffer.
//! A lane takes one when a block starts and returns it when the block has ended; the last one
//! returned, still in cache, is handed out first. Large buffers are few: when they are all in
//! use a lane gets a small one, and takes its block in more steps. So what a drip-feeding
//! peer can pin is small, and the sum is bounded.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use crate::types::limits;

/// Large buffers of one pool: 6 MiB in all, more than the queue of a slow disk can hold.
const LARGE_COUNT: usize = 24;
const LARGE: usize = limits::BLOCK_LEN_MAX as usize;
const SMALL: usize = limits::PIECE_LEN_MIN as usize;

/// The buffers of one node.
#[derive(Debug, Clone, Default)]
pub(super) struct BufferPool {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug, Default)]
struct Shared {
    large: Vec<Box<[u8]>>,
    small: Vec<Box<[u8]>>,
    large_made: usize,
}

/// A buffer that goes back to its pool when dropped.
#[derive(Debug)]
pub(super) struct PooledBuf {
    bytes: Box<[u8]>,
    pool: Arc<Mutex<Shared>>,
}

impl BufferPool {
    /// A buffer for a block of `len` bytes: large enough for all of it unless every large
    /// buffer is in use.
    pub(super) fn take(&self, len: usize) -> PooledBuf {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let large = len > SMALL;
        let bytes = if large && let Some(bytes) = shared.large.pop() {
            bytes
        } else if large && shared.large_made < LARGE_COUNT {
            shared.large_made += 1;
            vec![0; LARGE].into()
        } else {
            shared.small.pop().unwrap_or_else(|| vec![0; SMALL].into())
        };
        PooledBuf { bytes, pool: Arc::clone(&self.shared) }
    }
}

impl Deref for PooledBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for PooledBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for PooledBuf {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut shared = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() == LARGE {
            shared.large.push(bytes);
        } else if shared.small.len() < LARGE_COUNT {
            shared.small.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_returned_buffer_is_handed_out_again() {
        let pool = BufferPool::default();
        let first = pool.take(LARGE);
        let address = first.as_ptr();
        drop(first);
        assert_eq!(pool.take(LARGE).as_ptr(), address);
    }

    #[test]
    fn when_every_large_buffer_is_in_use_small_ones_serve() {
        let pool = BufferPool::default();
        let held: Vec<_> = (0..LARGE_COUNT).map(|_| pool.take(LARGE)).collect();
        assert_eq!(pool.take(LARGE).len(), SMALL);
        drop(held);
        assert_eq!(pool.take(LARGE).len(), LARGE);
        assert_eq!(pool.take(100).len(), SMALL, "a small block needs no large buffer");
    }
}
