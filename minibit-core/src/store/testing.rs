//! Shares in memory, and their downloads, for the tests of this module.

use std::fs;

use tempfile::TempDir;

use super::{PartOptions, PartStore, PieceStore, Resumed, StoreError};
use crate::content::{FileEntry, Manifest, PieceHasher, merge_pieces};
use crate::types::{BlockSpan, Digest, Geometry, PieceSize};

/// A share in memory: its manifest and the bytes of its files.
pub(super) struct Share {
    pub(super) manifest: Manifest,
    pub(super) contents: Vec<Vec<u8>>,
}

fn root(contents: &[u8]) -> Digest {
    let geometry = Geometry::new(PieceSize::new(16384).unwrap(), [contents.len() as u64]).unwrap();
    let pieces: Vec<Digest> = geometry
        .pieces()
        .map(|piece| {
            let start = geometry.locate(piece).1 as usize;
            let mut hasher = PieceHasher::new(&geometry, piece);
            hasher.update(&contents[start..][..geometry.piece_len(piece) as usize]);
            hasher.finish()
        })
        .collect();
    merge_pieces(&pieces)
}

impl Share {
    pub(super) fn new(name: &str, files: &[(&[&str], usize)]) -> Self {
        let mut rng = fastrand::Rng::with_seed(files.len() as u64);
        let contents: Vec<Vec<u8>> =
            files.iter().map(|(_, len)| (0..*len).map(|_| rng.u8(..)).collect()).collect();
        let entries = files
            .iter()
            .zip(&contents)
            .map(|((path, len), bytes)| FileEntry {
                path: path.iter().map(ToString::to_string).collect(),
                len: *len as u64,
                root: root(bytes),
            })
            .collect();
        let single = files.len() == 1 && files[0].0 == [name];
        let size = PieceSize::new(16384).unwrap();
        let manifest = Manifest::new(name.into(), single, size, entries).unwrap();
        Self { manifest, contents }
    }

    pub(super) fn film() -> Self {
        Self::new("film", &[(&["film"], 100_000)])
    }

    pub(super) fn folder() -> Self {
        let files: [(&[&str], usize); 5] = [
            (&["a", "b", "deep"], 40_000),
            (&["a", "small"], 1),
            (&["empty"], 0),
            (&["other"], 16_384),
            (&["z", "empty"], 0),
        ];
        Self::new("folder", &files)
    }

    pub(super) fn geometry(&self) -> &Geometry {
        self.manifest.geometry()
    }

    pub(super) fn everything(&self) -> Vec<bool> {
        vec![true; self.contents.len()]
    }

    pub(super) fn open(&self, dir: &TempDir) -> Result<(PartStore, Resumed), StoreError> {
        self.open_with(dir, PartOptions::default())
    }

    pub(super) fn open_with(
        &self,
        dir: &TempDir,
        options: PartOptions,
    ) -> Result<(PartStore, Resumed), StoreError> {
        PartStore::open(dir.path(), &self.manifest, &self.everything(), options)
    }

    pub(super) fn bytes(&self, span: BlockSpan) -> &[u8] {
        let (file, start) = self.geometry().locate(span.piece());
        let start = start as usize + span.offset() as usize;
        &self.contents[file.index()][start..][..span.len() as usize]
    }

    pub(super) fn fetch(&self, store: &PartStore, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let piece = self.geometry().piece(number).unwrap();
            for block in self.geometry().blocks(piece, 5_000) {
                store.write(block, self.bytes(block)).unwrap();
            }
            store.complete(piece).unwrap();
        }
    }

    pub(super) fn all(&self) -> std::ops::Range<u32> {
        0..self.geometry().piece_count()
    }

    pub(super) fn assert_in_place(&self, dir: &TempDir) {
        for (entry, contents) in self.manifest.files().iter().zip(&self.contents) {
            let mut path = dir.path().to_owned();
            if !self.manifest.is_single() {
                path.push(self.manifest.name());
            }
            path.extend(&entry.path);
            assert!(fs::read(&path).unwrap() == *contents, "{}", path.display());
        }
    }
}
