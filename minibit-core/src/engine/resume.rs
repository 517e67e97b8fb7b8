//! Opening a download: what is there already, what must be looked at again, what is wanted.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::bootstrap::{self, Bootstrapped};
use super::context::ShareParts;
use super::dial::Established;
use super::node::{Checking, FirstPieces, GetError, GetOptions, Opened};
use crate::content::{HashBook, Manifest, PieceHasher, escape};
use crate::store::{PartOptions, PartStore, PieceStore, Present, Resumed, StoreError, present};
use crate::types::{PageId, PieceIndex, PieceSet, limits};

/// Opens the target of a download. The proofs of what is there already come over `link`,
/// and pieces that an unclean stop has left in doubt are hashed again.
pub(super) async fn open_download(
    bootstrapped: Bootstrapped,
    options: GetOptions,
) -> Result<(Opened, Option<Established>), GetError> {
    let Bootstrapped { manifest, bytes, mut link, .. } = bootstrapped;
    let selection = match &options.select {
        Some(select) => select(&manifest),
        None => vec![true; manifest.files().len()],
    };
    if !selection.contains(&true) {
        return Err(GetError::NothingSelected { has: first_files(&manifest) });
    }
    let GetOptions { dir, force, first_pieces, checking, .. } = options;
    let checking: Arc<Checking> = Arc::new(checking.unwrap_or_else(|| Box::new(|_, _| {})));
    let opening = manifest.clone();
    let told = Arc::clone(&checking);
    let opened = blocking(move || {
        // Like `cp`: done means verified and in place, not yet proof against a power cut.
        let part_options = PartOptions { force, sync: false, ..PartOptions::default() };
        match PartStore::open(&dir, &opening, &selection, part_options) {
            // What is in the way may be what is wanted: then there is nothing to do, and it can be served.
            Err(StoreError::TargetExists { path }) => {
                match present(&path, &opening, &selection, &*told) {
                    Some(found) => Ok(Place::Finished(path, Box::new(found))),
                    None => Err(StoreError::TargetExists { path }),
                }
            }
            Err(error) => Err(error),
            Ok((store, resumed)) => Ok(Place::Part(Box::new(store), resumed)),
        }
    })
    .await??;
    let (store, resumed) = match opened {
        Place::Part(store, resumed) => (store, resumed),
        Place::Finished(path, found) => {
            return Ok((Opened::finished(manifest, *found, path), Some(link)));
        }
    };
    for warning in &resumed.warnings {
        tracing::warn!(%warning, "taking up an earlier download");
    }
    let store: Arc<PartStore> = Arc::from(store);
    let hashes = Arc::new(HashBook::new(&manifest));
    let mut have = resumed.have;
    let mut doubtful = resumed.doubtful;
    if let Some(first) = first_pieces {
        let work = (manifest.clone(), Arc::clone(&store), have.clone());
        let copied = blocking(move || copy_first(&first, &work.0, &*work.1, &work.2)).await??;
        insert_all(&mut doubtful, &copied, &manifest);
    }
    let mut unproven = have.clone();
    insert_all(&mut unproven, &doubtful, &manifest);
    let pages = pages_of(&hashes, &unproven, &manifest);
    let proven = bootstrap::fetch_pages(&mut link, &hashes, &pages).await;
    if !doubtful.is_empty() {
        let work = (Arc::clone(&store), Arc::clone(&hashes), manifest.clone());
        let right =
            blocking(move || check_pieces(&*work.0, &work.1, &work.2, &doubtful, &checking))
                .await??;
        insert_all(&mut have, &right, &manifest);
    }
    let hashes = Arc::into_inner(hashes).ok_or(GetError::Stopped)?;
    let parts = ShareParts {
        manifest,
        manifest_bytes: bytes,
        hashes,
        wanted: store.wanted().clone(),
        store: Arc::clone(&store) as Arc<dyn PieceStore>,
        have,
    };
    Ok((Opened { parts, part: Some(store), done: None }, proven.then_some(link)))
}

/// Names a few files of a share, and how many more there are.
fn first_files(manifest: &Manifest) -> String {
    const SHOWN: usize = 5;
    let files = manifest.files();
    let shown = files.iter().take(SHOWN).map(|file| escape(&file.path.join("/")).to_string());
    let shown = shown.collect::<Vec<_>>().join(", ");
    match files.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// What is found where a download shall go.
enum Place {
    /// Nothing, or an earlier attempt.
    Part(Box<PartStore>, Resumed),
    /// All that is wanted, byte for byte, under its final name.
    Finished(PathBuf, Box<Present>),
}

/// Runs what waits for the disk on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GetError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| GetError::Stopped)
}

fn insert_all(set: &mut PieceSet, more: &PieceSet, manifest: &Manifest) {
    for piece in more.iter().filter_map(|number| manifest.geometry().piece(number)) {
        set.insert(piece);
    }
}

/// The pages that prove these pieces, in the order in which they can be proven.
fn pages_of(hashes: &HashBook, pieces: &PieceSet, manifest: &Manifest) -> Vec<PageId> {
    let mut seen = HashSet::new();
    let pieces = pieces.iter().filter_map(|number| manifest.geometry().piece(number));
    let pages = pieces.flat_map(|piece| hashes.pages_needed(piece));
    pages.filter(|page| seen.insert(*page)).collect()
}

/// Copies a peer's first pieces from a store on this machine. They count only after they were
/// verified like any other.
fn copy_first(
    first: &FirstPieces,
    manifest: &Manifest,
    store: &dyn PieceStore,
    have: &PieceSet,
) -> Result<PieceSet, StoreError> {
    let geometry = manifest.geometry();
    let pieces = (first.pieces)(manifest);
    let mut buf = vec![0; limits::BLOCK_LEN_MAX as usize];
    for piece in pieces.iter().filter_map(|number| geometry.piece(number)) {
        if have.contains(piece) {
            continue;
        }
        for span in geometry.blocks(piece, limits::BLOCK_LEN_MAX) {
            let bytes = &mut buf[..span.len() as usize];
            first.from.read(span, bytes)?;
            store.write(span, bytes)?;
        }
    }
    Ok(pieces)
}

/// Hashes pieces that may be there, on all cores, and puts those on record that are right.
fn check_pieces(
    store: &dyn PieceStore,
    hashes: &HashBook,
    manifest: &Manifest,
    doubtful: &PieceSet,
    checking: &Checking,
) -> Result<PieceSet, StoreError> {
    let geometry = manifest.geometry();
    let pieces: Vec<PieceIndex> =
        doubtful.iter().filter_map(|number| geometry.piece(number)).collect();
    let len = |piece: PieceIndex| u64::from(geometry.piece_len(piece));
    let total = pieces.iter().copied().map(len).sum();
    let (next, done) = (AtomicUsize::new(0), AtomicU64::new(0));
    checking(0, total);
    let work = || {
        let mut right = Vec::new();
        let mut buf = vec![0; limits::BLOCK_LEN_MAX as usize];
        while let Some(piece) = pieces.get(next.fetch_add(1, Relaxed)) {
            if is_right(store, hashes, manifest, *piece, &mut buf) {
                right.push(*piece);
            }
            checking(done.fetch_add(len(*piece), Relaxed) + len(*piece), total);
        }
        right
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let right: Vec<PieceIndex> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    });
    let mut set = PieceSet::empty(geometry.piece_count());
    for piece in right {
        store.complete(piece)?;
        set.insert(piece);
    }
    Ok(set)
}

/// Whether a piece is there and has its hash. What cannot be read or proven is not.
fn is_right(
    store: &dyn PieceStore,
    hashes: &HashBook,
    manifest: &Manifest,
    piece: PieceIndex,
    buf: &mut [u8],
) -> bool {
    let geometry = manifest.geometry();
    let Some(expected) = hashes.expected(piece) else { return false };
    let mut hasher = PieceHasher::new(geometry, piece);
    for span in geometry.blocks(piece, limits::BLOCK_LEN_MAX) {
        let bytes = &mut buf[..span.len() as usize];
        if store.read(span, bytes).is_err() {
            return false;
        }
        hasher.update(bytes);
    }
    hasher.finish() == expected
}
