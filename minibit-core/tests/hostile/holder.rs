//! A scripted peer that holds the share and answers as its script says.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use minibit_core::types::{PageId, PeerId};
use minibit_core::wire::{Frame, Message, MetadataHeader, RawBlock, Register};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::scripted::{Wire, block_frame, metadata_frame, register};
use super::world::{Content, loopback};

/// What a holder does about something it was asked for.
pub(crate) enum Answer {
    /// What an honest peer would.
    Right,
    /// The same after so long, as of a peer with a rate.
    RightAfter(Duration),
    /// These bytes instead.
    Bytes(Bytes),
    /// Nothing at all.
    Silence,
    /// The right bytes, one at a time with pauses.
    Drip,
}

pub(crate) type OnRegister = dyn Fn(&mut Register) + Send + Sync;
type OnBlock = dyn Fn(&Content, RawBlock) -> Answer + Send + Sync;
type OnPage = dyn Fn(&Content, PageId) -> Answer + Send + Sync;
type OnManifest = dyn Fn(&Content) -> Answer + Send + Sync;

/// How a holder behaves; honest unless something is changed.
pub(crate) struct Script {
    pub(crate) id: PeerId,
    pub(crate) register: Box<OnRegister>,
    pub(crate) block: Box<OnBlock>,
    pub(crate) page: Box<OnPage>,
    pub(crate) manifest: Box<OnManifest>,
}

impl Script {
    pub(crate) fn honest(id: PeerId) -> Self {
        Self {
            id,
            register: Box::new(|_| {}),
            block: Box::new(|_, _| Answer::Right),
            page: Box::new(|_, _| Answer::Right),
            manifest: Box::new(|_| Answer::Right),
        }
    }

    /// A peer that has the manifest and not a single piece.
    pub(crate) fn with_nothing(id: PeerId) -> Self {
        let register = |mine: &mut Register| (mine.complete, mine.unchoked) = (false, false);
        Self { register: Box::new(register), ..Self::honest(id) }
    }

    pub(crate) fn on_block(
        id: PeerId,
        block: impl Fn(&Content, RawBlock) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self { block: Box::new(block), ..Self::honest(id) }
    }
}

/// What has happened to a holder so far.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    pub(crate) links: AtomicUsize,
    pub(crate) manifests: AtomicUsize,
    pub(crate) blocks: AtomicUsize,
    pub(crate) cancels: AtomicUsize,
    pub(crate) not_interested: AtomicUsize,
}

/// A listening holder; it stops with the value.
pub(crate) struct Holder {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holder {
    pub(crate) async fn start(content: &Arc<Content>, script: Script) -> Self {
        let listener = TcpListener::bind(loopback()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (content, script, seen) = (Arc::clone(content), Arc::new(script), Arc::default());
        let serving = Serving { content, script, seen: Arc::clone(&seen), port: addr.port() };
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                serving.seen.connections.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    let mut wire = Wire::new(stream);
                    if wire.registered().await.is_some() && serving.introduce(&mut wire).await {
                        serving.serve(&mut wire).await;
                    }
                });
            }
        });
        Self { addr, seen, task }
    }
}

/// An honest holder that connects to a node, and helps until the connection ends.
pub(crate) fn help(content: &Arc<Content>, node: SocketAddr, id: PeerId) -> JoinHandle<()> {
    let (content, seen) = (Arc::clone(content), Arc::default());
    let serving = Serving { content, script: Arc::new(Script::honest(id)), seen, port: 0 };
    tokio::spawn(async move {
        let mut wire = Wire::connect(node).await;
        if serving.introduce(&mut wire).await && wire.registered().await.is_some() {
            serving.serve(&mut wire).await;
        }
    })
}

#[derive(Clone)]
struct Serving {
    content: Arc<Content>,
    script: Arc<Script>,
    seen: Arc<Seen>,
    port: u16,
}

impl Serving {
    async fn introduce(&self, wire: &mut Wire) -> bool {
        let mut mine = Register {
            port: self.port,
            complete: true,
            unchoked: true,
            lanes_max: 1,
            key: Some(minibit_core::wire::LaneKey([9; 16])),
            ..register(&self.content, self.script.id)
        };
        (self.script.register)(&mut mine);
        self.seen.links.fetch_add(1, Relaxed);
        wire.say(&Message::Register(mine)).await
    }

    async fn serve(&self, wire: &mut Wire) {
        while let Some(frame) = wire.next().await {
            let Frame::Control(message) = frame else { continue };
            let goes_on = match message {
                Message::Request(blocks) => self.on_request(wire, &blocks).await,
                Message::RequestMetadata { manifest, pages } => {
                    self.on_metadata(wire, manifest, &pages).await
                }
                Message::Cancel(_) => {
                    self.seen.cancels.fetch_add(1, Relaxed);
                    true
                }
                Message::NotInterested => {
                    self.seen.not_interested.fetch_add(1, Relaxed);
                    true
                }
                _ => true,
            };
            if !goes_on {
                return;
            }
        }
    }

    async fn on_request(&self, wire: &mut Wire, blocks: &[RawBlock]) -> bool {
        for block in blocks {
            self.seen.blocks.fetch_add(1, Relaxed);
            let bytes = self.content.block(*block);
            let right = block_frame(block.piece as u32, block.offset as u32, &bytes);
            if !answer(wire, (self.script.block)(&self.content, *block), &right).await {
                return false;
            }
        }
        true
    }

    async fn on_metadata(&self, wire: &mut Wire, manifest: bool, pages: &[PageId]) -> bool {
        if manifest {
            let bytes = self.content.manifest.encode();
            let right = metadata_frame(MetadataHeader::manifest(bytes.len() as u32), &bytes);
            let answered = answer(wire, (self.script.manifest)(&self.content), &right).await;
            self.seen.manifests.fetch_add(1, Relaxed);
            if !answered {
                return false;
            }
        }
        for page in pages {
            let bytes = self.content.hashes.page(*page).unwrap_or_default();
            let right = metadata_frame(MetadataHeader::page(*page, bytes.len() as u32), &bytes);
            if !answer(wire, (self.script.page)(&self.content, *page), &right).await {
                return false;
            }
        }
        true
    }
}

/// Carries an answer out; false once the other side is gone.
async fn answer(wire: &mut Wire, answer: Answer, right: &Bytes) -> bool {
    match answer {
        Answer::Right => wire.write(right).await,
        Answer::RightAfter(pause) => {
            sleep(pause).await;
            wire.write(right).await
        }
        Answer::Bytes(bytes) => wire.write(&bytes).await,
        Answer::Silence => true,
        Answer::Drip => {
            for byte in right {
                if !wire.write(&[*byte]).await {
                    return false;
                }
                // The attack itself, not a wait for something.
                sleep(Duration::from_millis(50)).await;
            }
            true
        }
    }
}
