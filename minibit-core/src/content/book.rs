//! The piece hashes of a share, as far as they are proven.
//!
//! A ticket and the manifest give only the roots. The hashes below them come from peers in
//! pages, and each page is proven against the page above it or the root before it is kept,
//! so a wrong hash can blame only the page's sender, never a block's.
//!
//! Invariant: every hash that [`HashBook::expected`] gives follows from the manifest.
//! Readers on any thread take no lock, and an answer never changes once it is given.
//! Memory is spent on the pages that are known; files of one piece need none.
//! Not here: asking peers for pages (`swarm`), keeping them on disk (`store`).

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::hashing::{merge_pieces, merge_subtree};
use super::manifest::Manifest;
use crate::types::limits::HASH_PAGE_LEN;
use crate::types::{Digest, FileIndex, Geometry, PageId, PieceIndex};

/// Bytes of one hash in a page.
const HASH_LEN: usize = 32;
/// Bytes of a page that is full.
const PAGE_BYTES: usize = HASH_PAGE_LEN as usize * HASH_LEN;

/// Proven piece hashes of one share, for many threads at once.
#[derive(Debug)]
pub struct HashBook {
    geometry: Arc<Geometry>,
    /// Of every file.
    roots: Box<[Digest]>,
    /// Of the files with more than one piece.
    trees: Box<[Option<Box<Tree>>]>,
}

/// The pages of one file of at least two pieces, each in its form on the wire.
#[derive(Debug)]
struct Tree {
    /// Level 0: the piece hashes.
    pages: Box<[OnceLock<Bytes>]>,
    /// Level 1: the chaining values of the pages. There only with more than one page.
    top: OnceLock<Bytes>,
}

/// Why a page was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PageError {
    /// The share has no such page: whoever named it is at fault.
    #[error("the share has no {0}")]
    NoSuchPage(PageId),
    /// Not the length that this page has: its sender is at fault.
    #[error("{id} has {got} bytes where it needs {want}")]
    Length {
        /// The page.
        id: PageId,
        /// Bytes received.
        got: usize,
        /// Bytes it has.
        want: usize,
    },
    /// The page that proves it is not known yet: nobody is at fault.
    #[error("{0} cannot be proven before the page above it")]
    Unproven(PageId),
    /// Other hashes than the manifest stands for: its sender is at fault.
    #[error("{0} does not match the manifest")]
    Mismatch(PageId),
    /// The hashes given for a whole file are not that file's.
    #[error("the piece hashes of file {file} do not give its root")]
    Root {
        /// Number of the file.
        file: u32,
    },
}

impl HashBook {
    /// A book that knows only what the manifest says: the hashes of files of one piece.
    pub fn new(manifest: &Manifest) -> Self {
        let geometry = Arc::clone(manifest.geometry());
        let roots = manifest.files().iter().map(|file| file.root).collect();
        let trees = geometry.files().iter().map(|span| Tree::new(span.pieces)).collect();
        Self { geometry, roots, trees }
    }

    /// The hash that a piece must have, if it is known yet.
    pub fn expected(&self, piece: PieceIndex) -> Option<Digest> {
        let file = self.geometry.file_of(piece);
        let Some(tree) = &self.trees[file.index()] else {
            return Some(self.roots[file.index()]);
        };
        let within = piece.get() - self.geometry.span(file).first_piece;
        let page = tree.pages[(within / HASH_PAGE_LEN) as usize].get()?;
        Some(hash_at(page, (within % HASH_PAGE_LEN) as usize))
    }

    /// The pages still to be fetched before that piece's hash is known: at most two, in the
    /// order in which they can be proven.
    pub fn pages_needed(&self, piece: PieceIndex) -> impl Iterator<Item = PageId> + use<> {
        let file = self.geometry.file_of(piece);
        let within = piece.get() - self.geometry.span(file).first_piece;
        let leaf = PageId { file: file.get(), level: 0, page: within / HASH_PAGE_LEN };
        let needed = match &self.trees[file.index()] {
            Some(tree) if tree.pages[leaf.page as usize].get().is_none() => {
                let top = PageId { level: 1, page: 0, ..leaf };
                let needs_top = tree.has_top() && tree.top.get().is_none();
                [needs_top.then_some(top), Some(leaf)]
            }
            _ => [None, None],
        };
        needed.into_iter().flatten()
    }

    /// Every page of the share, known or not, in an order in which they can be proven.
    pub fn page_ids(&self) -> impl Iterator<Item = PageId> + '_ {
        self.trees.iter().zip(0u32..).flat_map(|(tree, file)| {
            let (pages, has_top) =
                tree.as_ref().map_or((0, false), |tree| (tree.pages.len() as u32, tree.has_top()));
            let top = has_top.then_some(PageId { file, level: 1, page: 0 });
            top.into_iter().chain((0..pages).map(move |page| PageId { file, level: 0, page }))
        })
    }

    /// Length in bytes of a page, if the share has it.
    pub fn page_len(&self, id: PageId) -> Option<usize> {
        let (tree, _) = self.slot(id)?;
        let hashes = if id.level == 1 {
            tree.pages.len()
        } else {
            let pieces = self.geometry.files()[id.file as usize].pieces;
            (pieces - id.page * HASH_PAGE_LEN).min(HASH_PAGE_LEN) as usize
        };
        Some(hashes * HASH_LEN)
    }

    /// A page in its form on the wire, if it is known.
    pub fn page(&self, id: PageId) -> Option<Bytes> {
        self.slot(id)?.1.get().cloned()
    }

    /// Proves a page from a peer and keeps it. A page that is known may come again.
    ///
    /// # Errors
    /// [`PageError`]; only with `Unproven` is the page's sender without fault.
    pub fn accept_page(&self, id: PageId, bytes: &[u8]) -> Result<(), PageError> {
        let no_page = PageError::NoSuchPage(id);
        let want = self.page_len(id).ok_or(no_page)?;
        let (tree, slot) = self.slot(id).ok_or(no_page)?;
        if bytes.len() != want {
            return Err(PageError::Length { id, got: bytes.len(), want });
        }
        if let Some(known) = slot.get() {
            return if known == bytes { Ok(()) } else { Err(PageError::Mismatch(id)) };
        }
        let hashes = hashes_of(bytes);
        let proven = if id.level == 0 && tree.has_top() {
            let top = tree.top.get().ok_or(PageError::Unproven(id))?;
            hash_at(top, id.page as usize) == merge_subtree(&hashes)
        } else {
            self.roots[id.file as usize] == merge_pieces(&hashes)
        };
        if !proven {
            return Err(PageError::Mismatch(id));
        }
        // Another thread may have been first; it proved the same bytes.
        slot.get_or_init(|| Bytes::copy_from_slice(bytes));
        Ok(())
    }

    /// Takes the hashes of all pieces of one file, in order: ours, after reading the file.
    ///
    /// # Errors
    /// [`PageError::Root`] if they are not as many as the file has pieces, or do not merge
    /// into its root.
    pub fn insert_file(&self, file: FileIndex, pieces: Vec<Digest>) -> Result<(), PageError> {
        let error = PageError::Root { file: file.get() };
        if pieces.len() != self.geometry.span(file).pieces as usize {
            return Err(error);
        }
        let tops: Vec<Digest> = pieces.chunks(HASH_PAGE_LEN as usize).map(merge_subtree).collect();
        let root = if tops.len() > 1 { merge_pieces(&tops) } else { merge_pieces(&pieces) };
        if root != self.roots[file.index()] {
            return Err(error);
        }
        if let Some(tree) = &self.trees[file.index()] {
            if tree.has_top() {
                tree.top.get_or_init(|| bytes_of(tops));
            }
            let all = bytes_of(pieces);
            for (slot, at) in tree.pages.iter().zip((0..).step_by(PAGE_BYTES)) {
                slot.get_or_init(|| all.slice(at..all.len().min(at + PAGE_BYTES)));
            }
        }
        Ok(())
    }

    /// Where a page is kept, and the tree it belongs to.
    fn slot(&self, id: PageId) -> Option<(&Tree, &OnceLock<Bytes>)> {
        let tree = self.trees.get(id.file as usize)?.as_deref()?;
        let slot = match id.level {
            0 => tree.pages.get(id.page as usize)?,
            1 if id.page == 0 && tree.has_top() => &tree.top,
            _ => return None,
        };
        Some((tree, slot))
    }
}

impl Tree {
    /// Room for the pages of a file of that many pieces, if it has any.
    fn new(pieces: u32) -> Option<Box<Self>> {
        let pages = pieces.div_ceil(HASH_PAGE_LEN);
        (pieces > 1).then(|| {
            let pages = std::iter::repeat_with(OnceLock::new).take(pages as usize).collect();
            Box::new(Self { pages, top: OnceLock::new() })
        })
    }

    fn has_top(&self) -> bool {
        self.pages.len() > 1
    }
}

fn hash_at(page: &[u8], number: usize) -> Digest {
    let mut hash = [0; HASH_LEN];
    hash.copy_from_slice(&page[number * HASH_LEN..(number + 1) * HASH_LEN]);
    Digest(hash)
}

fn hashes_of(page: &[u8]) -> Vec<Digest> {
    (0..page.len() / HASH_LEN).map(|number| hash_at(page, number)).collect()
}

/// Without a copy: the list's own memory is used on.
fn bytes_of(hashes: Vec<Digest>) -> Bytes {
    let hashes: Vec<[u8; HASH_LEN]> = hashes.into_iter().map(|hash| hash.0).collect();
    hashes.into_flattened().into()
}

#[cfg(test)]
mod tests {
    use super::super::FileEntry;
    use super::*;
    use crate::types::PieceSize;

    const PIECE: u64 = 16 * 1024;

    /// A share of files with that many pieces each, and all their piece hashes (made up,
    /// but for files of one piece, where it is the root).
    fn share(pieces: &[u32]) -> (Manifest, Vec<Vec<Digest>>) {
        let hashes: Vec<Vec<Digest>> = pieces
            .iter()
            .map(|count| (0..*count).map(|number| made_up(*count, number)).collect())
            .collect();
        let files = hashes.iter().enumerate().map(|(number, hashes)| FileEntry {
            path: vec![number.to_string()],
            len: hashes.len() as u64 * PIECE,
            root: merge_pieces(hashes),
        });
        let size = PieceSize::new(PIECE as u32).unwrap();
        (Manifest::new("n".to_owned(), false, size, files.collect()).unwrap(), hashes)
    }

    fn made_up(count: u32, number: u32) -> Digest {
        Digest(*blake3::hash(&[count.to_le_bytes(), number.to_le_bytes()].concat()).as_bytes())
    }

    fn full(manifest: &Manifest, hashes: &[Vec<Digest>]) -> HashBook {
        let book = HashBook::new(manifest);
        for (number, hashes) in hashes.iter().enumerate() {
            let file = manifest.geometry().file(number as u32).unwrap();
            book.insert_file(file, hashes.clone()).unwrap();
        }
        book
    }

    fn id(file: u32, level: u8, page: u32) -> PageId {
        PageId { file, level, page }
    }

    #[test]
    fn a_book_filled_page_by_page_knows_what_the_full_one_knows() {
        let (manifest, hashes) = share(&[1, 0, 2, 1023, 1024, 1025, 2048, 2049, 5000]);
        let (source, sink) = (full(&manifest, &hashes), HashBook::new(&manifest));
        for id in source.page_ids() {
            assert_eq!(sink.page(id), None);
            let page = source.page(id).unwrap();
            assert_eq!(sink.page_len(id), Some(page.len()));
            sink.accept_page(id, &page).unwrap();
            sink.accept_page(id, &page).unwrap();
            assert_eq!(sink.page(id), Some(page));
        }
        let all: Vec<Digest> = hashes.concat();
        for piece in manifest.geometry().pieces() {
            assert_eq!(sink.expected(piece), Some(all[piece.index()]));
            assert_eq!(sink.pages_needed(piece).count(), 0);
        }
    }

    #[test]
    fn a_file_of_one_piece_is_known_from_the_manifest_and_has_no_page() {
        let (manifest, hashes) = share(&[0, 1]);
        let book = HashBook::new(&manifest);
        let piece = manifest.geometry().piece(0).unwrap();
        assert_eq!(book.expected(piece), Some(hashes[1][0]));
        assert_eq!(book.pages_needed(piece).count(), 0);
        assert_eq!(book.page_ids().count(), 0);
        assert_eq!(book.page_len(id(1, 0, 0)), None);
    }

    #[test]
    fn pages_are_asked_for_in_the_order_in_which_they_can_be_proven() {
        let (manifest, hashes) = share(&[2, 1025]);
        let (source, sink) = (full(&manifest, &hashes), HashBook::new(&manifest));
        let needed = |piece| -> Vec<PageId> {
            sink.pages_needed(manifest.geometry().piece(piece).unwrap()).collect()
        };
        assert_eq!(needed(1), [id(0, 0, 0)]);
        assert_eq!(needed(2 + 1024), [id(1, 1, 0), id(1, 0, 1)]);
        let leaf = source.page(id(1, 0, 1)).unwrap();
        let unproven = sink.accept_page(id(1, 0, 1), &leaf);
        assert_eq!(unproven, Err(PageError::Unproven(id(1, 0, 1))));
        sink.accept_page(id(1, 1, 0), &source.page(id(1, 1, 0)).unwrap()).unwrap();
        assert_eq!(needed(2 + 1024), [id(1, 0, 1)]);
        sink.accept_page(id(1, 0, 1), &leaf).unwrap();
        assert!(needed(2 + 1024).is_empty());
        assert_eq!(needed(2), [id(1, 0, 0)]);
    }

    #[test]
    fn a_page_with_one_wrong_bit_is_refused_and_not_kept() {
        let (manifest, hashes) = share(&[3, 1026]);
        let source = full(&manifest, &hashes);
        let sink = HashBook::new(&manifest);
        for id in source.page_ids() {
            let right = source.page(id).unwrap();
            for at in [0, 33, right.len() - 1] {
                let mut wrong = right.to_vec();
                wrong[at] ^= 0x10;
                assert_eq!(sink.accept_page(id, &wrong), Err(PageError::Mismatch(id)));
                assert_eq!(sink.page(id), None);
            }
            sink.accept_page(id, &right).unwrap();
            let mut wrong = right.to_vec();
            wrong[0] ^= 1;
            assert_eq!(sink.accept_page(id, &wrong), Err(PageError::Mismatch(id)));
            assert_eq!(sink.page(id), Some(right));
        }
    }

    #[test]
    fn pages_that_do_not_exist_or_have_another_length_are_refused() {
        let (manifest, _) = share(&[3, 1026, 1]);
        let book = HashBook::new(&manifest);
        for absent in [
            id(0, 1, 0),
            id(0, 0, 1),
            id(0, 2, 0),
            id(1, 1, 1),
            id(1, 0, 2),
            id(2, 0, 0),
            id(3, 0, 0),
            id(u32::MAX, 0, 0),
            id(1, u8::MAX, 0),
            id(1, 0, u32::MAX),
        ] {
            assert_eq!(book.accept_page(absent, &[0; 32]), Err(PageError::NoSuchPage(absent)));
            assert_eq!(book.page(absent), None);
        }
        for (page, want) in [(id(0, 0, 0), 96), (id(1, 1, 0), 64), (id(1, 0, 1), 64)] {
            for got in [0, want - 32, want - 1, want + 1, want + 32] {
                let error = PageError::Length { id: page, got, want };
                assert_eq!(book.accept_page(page, &vec![0; got]), Err(error));
            }
        }
    }

    #[test]
    fn hashes_of_a_whole_file_are_taken_only_if_they_give_its_root() {
        let (manifest, hashes) = share(&[1025]);
        let file = manifest.geometry().file(0).unwrap();
        let book = HashBook::new(&manifest);
        let mut wrong = hashes[0].clone();
        wrong.swap(0, 1);
        for wrong in [wrong, hashes[0][1..].to_vec(), vec![]] {
            assert_eq!(book.insert_file(file, wrong), Err(PageError::Root { file: 0 }));
            assert_eq!(book.expected(manifest.geometry().piece(0).unwrap()), None);
        }
    }

    #[test]
    fn many_threads_may_read_and_fill_a_book_at_once() {
        let (manifest, hashes) = share(&[3000]);
        let (source, sink) = (full(&manifest, &hashes), HashBook::new(&manifest));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for id in source.page_ids() {
                        sink.accept_page(id, &source.page(id).unwrap()).unwrap();
                    }
                });
                scope.spawn(|| {
                    for piece in manifest.geometry().pieces() {
                        let known = sink.expected(piece);
                        assert!(known.is_none_or(|hash| hash == hashes[0][piece.index()]));
                    }
                });
            }
        });
        let last = manifest.geometry().piece(2999).unwrap();
        assert_eq!(sink.expected(last), Some(hashes[0][2999]));
    }
}
