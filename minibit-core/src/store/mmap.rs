//! A read-only mapping of a served file, for the kernel's eyes only: the only `unsafe`.
//!
//! Invariant: user space never reads the mapped bytes. They are only handed, as the payload of
//! one vectored write, to the kernel, which copies them to a socket. So a file that is cut
//! short or edited under the mapping can neither kill us with SIGBUS (the kernel's own access
//! fails with `EFAULT` instead) nor change a value some code has already looked at.
//!
//! Not here: any way to read the bytes, any mapping that can be written.

#![expect(
    unsafe_code,
    reason = "mapping a file is unsafe; the invariant above is the reason it is sound here"
)]

use std::fs::File;
use std::io::{self, IoSlice};

use memmap2::{Mmap, MmapOptions};

/// A mapping of the first `len` bytes of a file, whether or not the file has them (yet).
#[derive(Debug)]
pub(super) struct Mapping(Mmap);

impl Mapping {
    /// Maps `len` bytes, at least 1.
    ///
    /// # Errors
    /// What mmap says; `len` may also be more than the machine can address.
    pub(super) fn new(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        // SAFETY: the mapped memory may change or vanish when the file does, which would be
        // undefined for bytes that Rust code reads. None does: `Mmap` stays private to this
        // module, and `payload` lends the bytes as an `IoSlice` that `send` below passes to
        // the kernel. Pages beyond the file's end are never touched by us for the same reason.
        unsafe { MmapOptions::new().len(len).map(file) }.map(Self)
    }

    /// Gives the mapped range to `write` as the slice of a vectored write; `None` if it does
    /// not lie inside the mapping.
    pub(super) fn lend<T>(
        &self,
        offset: u64,
        len: usize,
        write: impl FnOnce(IoSlice<'_>) -> T,
    ) -> Option<T> {
        let start = usize::try_from(offset).ok()?;
        let payload = self.0.get(start..start.checked_add(len)?)?;
        Some(write(IoSlice::new(payload)))
    }
}
