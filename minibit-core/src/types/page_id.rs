//! The name of one page of a share's hashes.

/// Which page of hashes is meant: raw numbers, not yet checked against a share.
///
/// Level 0 is piece hashes, level 1 the chaining values of whole level-0 pages; `docs/protocol.md`
/// section 5 says how they hang together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageId {
    /// Number of the file in the manifest's order.
    pub file: u32,
    /// Level in that file's hash tree.
    pub level: u8,
    /// Number of the page within the level.
    pub page: u32,
}

impl std::fmt::Display for PageId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {} at level {} of file {}", self.page, self.level, self.file)
    }
}
