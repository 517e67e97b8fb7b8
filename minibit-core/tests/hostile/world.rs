//! What the tests share: a share on disk and in memory, nodes, bounded waiting.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use minibit_core::content::{HashBook, Manifest, Ticket};
use minibit_core::engine::{GetOptions, Node, NodeConfig, ShareHandle};
use minibit_core::store::{PrepareOptions, PreparedShare, prepare};
use minibit_core::types::{Geometry, PeerId, PieceSize, ShareId};
use minibit_core::wire::RawBlock;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

/// Longest that anything in these tests may take: far more than it needs on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of a piece, and so of a block, unless a test needs several blocks in a piece.
pub(crate) const PIECE: u32 = 16 * 1024;

/// Everything there is to know of a share: what an honest seeder has.
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) manifest: Manifest,
    pub(crate) hashes: HashBook,
}

impl Content {
    pub(crate) fn share(&self) -> ShareId {
        self.manifest.share_id()
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        self.manifest.geometry()
    }

    pub(crate) fn pieces(&self) -> u32 {
        self.geometry().piece_count()
    }

    /// The true bytes of a block. No file but the last ends within a piece, so pieces lie end
    /// to end.
    pub(crate) fn block(&self, block: RawBlock) -> Bytes {
        let size = u64::from(self.manifest.piece_size().bytes());
        let from = (block.piece * size + block.offset) as usize;
        Bytes::copy_from_slice(&self.bytes[from..from + block.len as usize])
    }
}

/// A share, and room for downloads of it.
pub(crate) struct World {
    dir: TempDir,
    pub(crate) source: PathBuf,
    pub(crate) content: Arc<Content>,
    piece: PieceSize,
}

impl World {
    /// A file of that many pieces of [`PIECE`] bytes, the last one short.
    pub(crate) fn new(pieces: u32) -> Self {
        Self::with_pieces_of(PIECE, pieces)
    }

    /// The same with pieces of another size. Every world's bytes are its own, or nodes of two
    /// tests would be peers of one share.
    pub(crate) fn with_pieces_of(piece: u32, pieces: u32) -> Self {
        Self::seeded(next_seed(), piece, pieces)
    }

    /// A folder of the files `a` and `b`, of that many whole pieces of [`PIECE`] bytes.
    pub(crate) fn folder(a: u32, b: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let source = dir.path().join("series");
        let mut bytes = vec![0; (PIECE * (a + b)) as usize];
        fastrand::Rng::with_seed(next_seed()).fill(&mut bytes);
        let (first, second) = bytes.split_at((PIECE * a) as usize);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("a"), first).unwrap();
        fs::write(source.join("b"), second).unwrap();
        Self::of(dir, source, bytes, PieceSize::new(PIECE).unwrap())
    }

    /// The same with bytes that another process can make, too. Seeds from 2^32 on are free.
    pub(crate) fn seeded(seed: u64, piece: u32, pieces: u32) -> Self {
        let dir = TempDir::new().unwrap();
        let source = dir.path().join("film.mp4");
        let mut bytes = vec![0; (piece * pieces - 7) as usize];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        fs::write(&source, &bytes).unwrap();
        Self::of(dir, source, bytes, PieceSize::new(piece).unwrap())
    }

    fn of(dir: TempDir, source: PathBuf, bytes: Vec<u8>, piece: PieceSize) -> Self {
        let PreparedShare { manifest, hashes, .. } = prepared(&source, piece);
        let content = Arc::new(Content { bytes, manifest, hashes });
        Self { dir, source, content, piece }
    }

    /// The user's own share of the file.
    pub(crate) fn prepared(&self) -> PreparedShare {
        prepared(&self.source, self.piece)
    }

    /// A fresh directory.
    pub(crate) fn out(&self) -> PathBuf {
        tempfile::tempdir_in(self.dir.path()).unwrap().keep()
    }

    /// A node that shares the file.
    pub(crate) async fn seeder(&self) -> (Node, ShareHandle) {
        let node = node().await;
        let share = node.share(self.prepared(), &[]).await.unwrap();
        (node, share)
    }

    pub(crate) fn ticket(&self, peers: &[SocketAddr]) -> Ticket {
        Ticket::new(self.content.share(), vec![], peers.to_vec()).unwrap()
    }

    pub(crate) fn ticket_by(&self, trackers: &[SocketAddr]) -> Ticket {
        Ticket::new(self.content.share(), trackers.to_vec(), vec![]).unwrap()
    }

    /// Starts a download into a fresh directory.
    pub(crate) async fn start(&self, node: &Node, ticket: &Ticket) -> ShareHandle {
        timeout(PATIENCE, node.get(ticket, into(&self.out()))).await.unwrap().unwrap()
    }

    /// Waits for a download, and compares every byte.
    pub(crate) async fn check(&self, share: &ShareHandle) {
        let done = timeout(PATIENCE, share.completed()).await;
        let path = done.unwrap_or_else(|_| panic!("stuck: {:?}", share.stats())).unwrap();
        assert!(fs::read(path).unwrap() == self.content.bytes, "the bytes differ");
    }

    /// An honest download from that address, by a node of its own.
    pub(crate) async fn honest_get(&self, from: SocketAddr) {
        let node = node().await;
        let share = self.start(&node, &self.ticket(&[from])).await;
        self.check(&share).await;
        node.shutdown().await;
    }
}

fn next_seed() -> u64 {
    static WORLDS: AtomicU64 = AtomicU64::new(0);
    WORLDS.fetch_add(1, Relaxed)
}

fn prepared(source: &Path, piece: PieceSize) -> PreparedShare {
    let options = PrepareOptions { piece_size: Some(piece), ..PrepareOptions::default() };
    prepare(&[source.to_owned()], &options, &|_| {}, &AtomicBool::new(false)).unwrap()
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn config() -> NodeConfig {
    NodeConfig { listen: vec![loopback()], ..NodeConfig::default() }
}

pub(crate) async fn node() -> Node {
    Node::start(config()).await.unwrap()
}

pub(crate) fn addr(node: &Node) -> SocketAddr {
    node.local_addrs()[0]
}

pub(crate) fn into(dir: &Path) -> GetOptions {
    GetOptions {
        dir: dir.to_owned(),
        select: None,
        force: false,
        patience: PATIENCE,
        first_pieces: None,
        checking: None,
    }
}

/// Waits for a condition that has no event to wait for; fails after [`PATIENCE`].
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let polled = async {
        while !condition() {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, polled).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Whether the share says that it has banned this peer.
pub(crate) fn names_as_banned(share: &ShareHandle, id: PeerId) -> bool {
    share.stats().warnings.iter().any(|line| tells_of_ban(line, id))
}

fn tells_of_ban(line: &str, id: PeerId) -> bool {
    // The whole name: that of another may have a port behind it in which this number is found.
    line.split(' ').any(|word| word == id.short()) && line.contains("banned")
}

#[test]
fn a_number_within_a_port_names_nobody() {
    let line = "peer 1002 at 127.0.0.1:41013 was banned: it broke a rule";
    assert!(tells_of_ban(line, PeerId::numbered(1002)));
    assert!(!tells_of_ban(line, PeerId::numbered(1013)));
}
