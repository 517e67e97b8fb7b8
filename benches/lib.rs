//! What the measuring programs share: a source file and a look at a process's memory.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// Bytes that do not compress or repeat: the output of BLAKE3 over a counter.
///
/// # Errors
/// Whatever writing the file ran into.
pub fn make_source(path: &Path, size: u64) -> io::Result<()> {
    let mut file = File::create(path)?;
    let mut output = blake3::Hasher::new().update(b"transfer").finalize_xof();
    let mut chunk = vec![0; 1 << 20];
    let mut left = size as usize;
    while left > 0 {
        let len = left.min(chunk.len());
        output.fill(&mut chunk[..len]);
        file.write_all(&chunk[..len])?;
        left -= len;
    }
    Ok(())
}

/// Anonymous memory of a process in KiB, as Linux counts it; 0 if it cannot be told.
pub fn anon_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
