//! The roots we print are plain BLAKE3 hashes, and a share's bytes have one identity.

use minibit_core::content::{
    FileEntry, HashBook, Manifest, PageError, PieceHasher, empty_root, merge_pieces,
};
use minibit_core::types::{BlockSpan, Digest, FileIndex, Geometry, PieceSize};

/// The bytes that BLAKE3's own test vectors hash.
fn vector(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

/// All piece hashes of a file, as a receiver computes them: block by block.
fn piece_hashes(geometry: &Geometry, file: FileIndex, bytes: &[u8]) -> Vec<Digest> {
    let hash = |piece| {
        let (_, start) = geometry.locate(piece);
        let mut hasher = PieceHasher::new(geometry, piece);
        for block in geometry.blocks(piece, 16384) {
            let at = |offset: u32| start as usize + offset as usize;
            hasher.update(&bytes[at(block.offset())..at(BlockSpan::end(block))]);
        }
        hasher.finish()
    };
    geometry.pieces_of(file).map(hash).collect()
}

fn root_at(piece_size: u32, bytes: &[u8]) -> Digest {
    let size = PieceSize::new(piece_size).expect("a valid size");
    let geometry = Geometry::new(size, [bytes.len() as u64]).expect("one file");
    let file = geometry.file(0).expect("the file");
    merge_pieces(&piece_hashes(&geometry, file, bytes))
}

#[test]
fn roots_are_the_hashes_of_the_published_test_vectors() {
    for (len, want) in [
        (0, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"),
        (1, "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
        (1023, "10108970eeda3eb932baac1428c7a2163b0e924c9a9e25b35bba72b28f70bd11"),
        (102_400, "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085"),
    ] {
        assert_eq!(root_at(16384, &vector(len)).to_string(), want, "{len} bytes");
    }
}

#[test]
fn the_root_does_not_depend_on_the_piece_size() {
    for len in [1 << 20, (1 << 20) + 1, (1 << 20) - 1, 3_000_000, 5 * 65536 + 7] {
        let bytes = vector(len);
        let want = Digest(*blake3::hash(&bytes).as_bytes());
        for shift in 14..=24 {
            assert_eq!(root_at(1 << shift, &bytes), want, "{len} bytes in pieces of 2^{shift}");
        }
    }
}

#[test]
fn a_receiver_with_the_manifest_alone_gets_every_hash_proven() {
    // Over 1,024 pieces, so with a page above the pages; an empty, a small and a short-tailed
    // file around it.
    let contents = [vector(0), vector(1025 * 16384 + 1), vector(7), vector(3 * 16384)];
    let size = PieceSize::new(16384).unwrap();
    let cut = Geometry::new(size, contents.iter().map(|bytes| bytes.len() as u64)).unwrap();
    let hashes: Vec<Vec<Digest>> = (0..)
        .zip(&contents)
        .map(|(number, bytes)| piece_hashes(&cut, cut.file(number).unwrap(), bytes))
        .collect();
    let entry = |(number, (hashes, bytes)): (usize, (&Vec<Digest>, &Vec<u8>))| FileEntry {
        path: vec![format!("{number}.bin")],
        len: bytes.len() as u64,
        root: merge_pieces(hashes),
    };
    let files: Vec<_> = hashes.iter().zip(&contents).enumerate().map(entry).collect();
    for (file, bytes) in files.iter().zip(&contents) {
        assert_eq!(file.root.0, *blake3::hash(bytes).as_bytes());
    }
    let manifest = Manifest::new("share".into(), false, size, files).unwrap();

    let source = HashBook::new(&manifest);
    for (number, hashes) in (0..).zip(&hashes) {
        source.insert_file(cut.file(number).unwrap(), hashes.clone()).unwrap();
    }

    let received = Manifest::decode_for(&manifest.share_id(), &manifest.encode()).unwrap();
    let sink = HashBook::new(&received);
    for (piece, want) in received.geometry().pieces().zip(hashes.concat()) {
        for id in sink.pages_needed(piece) {
            let page = source.page(id).unwrap();
            let mut wrong = page.to_vec();
            wrong[7] ^= 1;
            assert_eq!(sink.accept_page(id, &wrong), Err(PageError::Mismatch(id)));
            sink.accept_page(id, &page).unwrap();
        }
        assert_eq!(sink.expected(piece), Some(want));
    }
}

#[test]
fn a_million_pieces_and_a_hundred_thousand_files_are_both_cheap() {
    let size = PieceSize::new(16384).unwrap();
    let share = |files: Vec<FileEntry>| Manifest::new("big".into(), false, size, files).unwrap();

    let hashes: Vec<Digest> = (0..1_000_000u32)
        .map(|number| {
            let mut hash = [0; 32];
            hash[..4].copy_from_slice(&number.to_le_bytes());
            Digest(hash)
        })
        .collect();
    let whole = FileEntry {
        path: vec!["whole".into()],
        len: hashes.len() as u64 * 16384,
        root: merge_pieces(&hashes),
    };
    let manifest = share(vec![whole]);
    let (source, sink) = (HashBook::new(&manifest), HashBook::new(&manifest));
    source.insert_file(manifest.geometry().file(0).unwrap(), hashes.clone()).unwrap();
    let last = manifest.geometry().piece(999_999).unwrap();
    let needed: Vec<_> = sink.pages_needed(last).collect();
    assert_eq!(needed.len(), 2);
    for id in needed {
        sink.accept_page(id, &source.page(id).unwrap()).unwrap();
    }
    assert_eq!(sink.expected(last), Some(hashes[999_999]));
    assert_eq!(source.page_ids().count(), 1 + 977);

    let small = |number: usize| FileEntry {
        path: vec![number.to_string()],
        len: (number % 2) as u64,
        root: if number.is_multiple_of(2) { empty_root() } else { hashes[number] },
    };
    let manifest = share((0..100_000).map(small).collect());
    let book = HashBook::new(&manifest);
    assert_eq!(book.page_ids().count(), 0);
    for piece in manifest.geometry().pieces() {
        assert_eq!(book.expected(piece), Some(hashes[2 * piece.index() + 1]));
    }
}
