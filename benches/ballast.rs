//! Memory that a run may take without waiting for the machine's host.
//!
//! A virtual machine gives freed memory back to its host within moments, and the first touch of a
//! page then costs up to ten times what writing it does. Whoever fills fresh page cache pays for
//! that or not by what ran before and by how long it takes: a copy that is done in half a second finds
//! pages that were freed a moment ago, a slower one does not and becomes slower for it. So memory
//! is touched and held before a run, and let go bit by bit as the run takes memory, so that all
//! find the same. On a machine of one's own it changes nothing.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use memmap2::{Advice, MmapMut};

use crate::Outcome;

/// Held, and let go, at a time.
const CHUNK: u64 = 64 << 20;
/// Let go before a run needs it.
const AHEAD: u64 = 4 * CHUNK;
/// How often is looked: what is let go ahead lasts for longer on any machine.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Touched memory that becomes free while others take memory. Dropped, all of it is.
#[derive(Debug)]
pub struct Ballast {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ballast {
    /// Touches so many bytes, but no more than half of what is available, and begins to let go of
    /// them as free memory gets less.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn hold(bytes: u64) -> Outcome<Self> {
        let chunks = bytes.min(meminfo("MemAvailable") / 2).div_ceil(CHUNK);
        let mut held = (0..chunks).map(|_| touched()).collect::<Outcome<Vec<_>>>()?;
        let free_at_first = meminfo("MemFree");
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = thread::spawn(move || {
            while !held.is_empty() && !is_over.load(Ordering::Relaxed) {
                let missing = (free_at_first + AHEAD).saturating_sub(meminfo("MemFree"));
                let left = held.len().saturating_sub((missing / CHUNK) as usize);
                held.truncate(left);
                thread::sleep(LOOK_EVERY);
            }
        });
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// In huge pages, which are freed at no cost.
fn touched() -> Outcome<MmapMut> {
    let mut chunk = MmapMut::map_anon(CHUNK as usize)?;
    chunk.advise(Advice::HugePage)?;
    chunk.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    Ok(chunk)
}

/// A line of `/proc/meminfo`, in bytes.
fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
