//! A manifest from a stranger.
//!
//! Laws: no panic; what is accepted has exactly this one encoding, and hashes to its id; the
//! table of its piece hashes can be made.

#![no_main]

use libfuzzer_sys::fuzz_target;
use minibit_core::content::{HashBook, Manifest};

fuzz_target!(|data: &[u8]| {
    let Ok(manifest) = Manifest::decode(data) else { return };
    assert_eq!(manifest.encode(), data);
    assert_eq!(Manifest::decode_for(&manifest.share_id(), data).as_ref(), Ok(&manifest));
    let pieces: u32 = manifest.geometry().files().iter().map(|file| file.pieces).sum();
    assert_eq!(pieces, manifest.geometry().piece_count());
    let book = HashBook::new(&manifest);
    for id in book.page_ids().take(100) {
        assert!(book.page(id).is_none(), "a page that nobody has given");
    }
});
