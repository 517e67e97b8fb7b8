//! From a ticket to a manifest: the first peer that answers gives it, and stays as a link.
//!
//! A ticket names the share by the hash of its manifest, so a manifest from any stranger is
//! proven by the ticket alone. All addresses are tried at once, those that trackers name as
//! they come, and again with growing pauses until the caller's patience ends.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::dial::{self, DialError, Established};
use super::frames::read_frame;
use super::tracker_client::Found;
use crate::content::{HashBook, Manifest, ManifestError, PageError};
use crate::peer::Introduction;
use crate::swarm::{Source, may_name};
use crate::types::{PageId, PeerId, limits};
use crate::wire::{
    Frame, FrameCodec, FrameLimits, Message, MetadataHeader, MetadataItem, PeerAddr,
};

/// Addresses tried at once.
const AT_ONCE_MAX: usize = 16;
/// Addresses kept of one source.
const KNOWN_MAX: usize = 256;
/// By how much later each further address is tried for the first time. One answer is enough;
/// whoever else was asked would have a link for nothing.
const STAGGER: Duration = Duration::from_millis(50);
/// First pause before an address is tried again; it doubles up to the last.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(4);
/// A peer that answers nothing for so long while we wait for metadata is given up.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// One peer has so long to give the whole manifest, however it drips.
const ATTEMPT_TIME: Duration = Duration::from_secs(60);
/// One peer has so long to prove what an earlier run has left.
const PROOFS_TIME: Duration = Duration::from_secs(60);
/// Lists of trackers kept for the swarm while the manifest is on its way.
const HEARD_MAX: usize = 64;
/// Bytes of other messages kept for the link while the manifest is on its way.
const KEPT_MAX: usize = 512 * 1024;

/// Why no manifest could be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BootstrapError {
    /// No address of the ticket or of its trackers answered in time.
    #[error("nobody in this ticket could be reached within {} s: {tried}", patience.as_secs())]
    Unreachable {
        /// How long it was tried.
        patience: Duration,
        /// What became of each address.
        tried: Tried,
    },
    /// Whoever answered gave a manifest that is not the ticket's.
    #[error("{addr} sent a manifest that does not belong to this ticket")]
    Manifest {
        /// Who.
        addr: SocketAddr,
        /// What is wrong with it.
        source: ManifestError,
    },
}

/// What the last attempt at each address ran into, as far as there is room. It prints a few.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tried {
    ends: Vec<(SocketAddr, String)>,
    /// Addresses beyond those.
    more: HashSet<SocketAddr>,
}

impl Tried {
    /// Addresses that are printed.
    const SHOWN: usize = 5;

    fn begins(&mut self, addr: SocketAddr) {
        if self.ends.iter().all(|(known, _)| *known != addr) {
            if self.ends.len() < Self::SHOWN {
                self.ends.push((addr, "no answer yet".to_owned()));
            } else {
                self.more.insert(addr);
            }
        }
    }

    fn ended(&mut self, addr: SocketAddr, how: String) {
        if let Some((_, end)) = self.ends.iter_mut().find(|(known, _)| *known == addr) {
            *end = how;
        }
    }

    /// Takes in what a tracker ran into, unless the same address was tried as a peer's.
    pub(super) fn tracker(&mut self, addr: SocketAddr, problem: &str) {
        self.begins(addr);
        if let Some((_, end)) = self.ends.iter_mut().find(|(known, _)| *known == addr)
            && end == "no answer yet"
        {
            *end = format!("as a tracker: {problem}");
        }
    }
}

impl std::fmt::Display for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.ends.is_empty() {
            return f.write_str("its trackers named nobody");
        }
        let ends: Vec<String> =
            self.ends.iter().map(|(addr, end)| format!("{addr} {end}")).collect();
        f.write_str(&ends.join("; "))?;
        match self.more.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("bad manifest")]
    Manifest {
        /// Who sent it.
        peer: PeerId,
        source: ManifestError,
    },
    #[error("it does not have the manifest")]
    NotHeld,
    #[error("it broke off while sending the manifest")]
    BrokeOff,
}

/// A manifest, and the link over which it came.
pub(super) struct Bootstrapped {
    pub(super) manifest: Manifest,
    pub(super) bytes: Bytes,
    pub(super) link: Established,
    /// What trackers have named meanwhile, for the swarm.
    pub(super) heard: Vec<Found>,
    /// Who sent another one: they are to be banned.
    pub(super) refuted: Vec<(PeerId, SocketAddr)>,
}

/// Fetches the manifest from whoever answers first. So many are tried `at_once`, if that is not more
/// than is good.
pub(super) async fn fetch(
    introduction: &Introduction,
    addrs: &[SocketAddr],
    found: &mut mpsc::Receiver<Found>,
    patience: Duration,
    at_once: usize,
) -> Result<Bootstrapped, BootstrapError> {
    let at_once = at_once.min(AT_ONCE_MAX);
    let deadline = Instant::now() + patience;
    let mut addresses = Addresses::default();
    addresses.learn(Source::Ticket, addrs.iter().copied());
    let mut attempts = JoinSet::new();
    let mut tried = Tried::default();
    let mut wrong = None;
    let mut refuted = Vec::new();
    let mut heard = Vec::new();
    loop {
        while attempts.len() < at_once
            && let Some(turn) = addresses.next()
        {
            tried.begins(turn.addr);
            attempts.spawn(take_turn(turn, introduction.clone()));
        }
        tokio::select! {
            Some(outcome) = attempts.join_next() => match outcome {
                Ok((_, Ok((manifest, bytes, link)))) => {
                    return Ok(Bootstrapped { manifest, bytes, link, refuted, heard });
                }
                Ok((Turn { addr, .. }, Err(AttemptError::Manifest { peer, source }))) => {
                    let is_the_tickets = !matches!(source, ManifestError::OtherShare { .. });
                    let error = BootstrapError::Manifest { addr, source };
                    if is_the_tickets {
                        // Everybody has the same: nobody can help.
                        return Err(error);
                    }
                    // It will not get better; the others go on.
                    refuted.push((peer, addr));
                    wrong = Some(error);
                }
                Ok((turn, Err(error))) => {
                    tried.ended(turn.addr, error.to_string());
                    addresses.again(&turn);
                }
                Err(error) => tracing::error!(%error, "an attempt ended by a fault of ours"),
            },
            Some(found) = found.recv() => {
                let others = found.peers.iter().filter(|peer| peer.id != introduction.id);
                addresses.learn(found.source, others.map(PeerAddr::socket_addr));
                if heard.len() < HEARD_MAX {
                    heard.push(found);
                }
            }
            () = sleep_until(deadline) => {
                return Err(wrong.unwrap_or(BootstrapError::Unreachable { patience, tried }));
            }
        }
    }
}

/// Whom to try: the sources in turn, and of each source whoever has waited longest. So however
/// many dead addresses one tracker names, the living one that another names is tried soon.
#[derive(Default)]
struct Addresses {
    known: HashSet<SocketAddr>,
    sources: Vec<Named>,
    /// Whose turn it is.
    next: usize,
}

/// The addresses of one source that are not being tried.
struct Named {
    source: Source,
    count: usize,
    /// With the pause before the attempt.
    queue: VecDeque<(SocketAddr, Duration)>,
}

/// One attempt: who, named by whom, after what pause.
struct Turn {
    addr: SocketAddr,
    named: usize,
    pause: Duration,
}

impl Addresses {
    /// Takes in what a source names, as far as it may.
    fn learn(&mut self, source: Source, addrs: impl IntoIterator<Item = SocketAddr>) {
        let at = self.sources.iter().position(|named| named.source == source);
        let at = at.unwrap_or_else(|| {
            self.sources.push(Named { source, count: 0, queue: VecDeque::new() });
            self.sources.len() - 1
        });
        let named = &mut self.sources[at];
        for addr in addrs {
            if named.count < KNOWN_MAX && may_name(source, addr) && self.known.insert(addr) {
                named.count += 1;
                let before = (self.known.len() - 1).min(AT_ONCE_MAX) as u32;
                named.queue.push_back((addr, STAGGER * before));
            }
        }
    }

    fn next(&mut self) -> Option<Turn> {
        for step in 0..self.sources.len() {
            let at = (self.next + step) % self.sources.len();
            if let Some((addr, pause)) = self.sources[at].queue.pop_front() {
                self.next = at + 1;
                return Some(Turn { addr, named: at, pause });
            }
        }
        None
    }

    /// It came to nothing: again, after all others and a longer pause.
    fn again(&mut self, turn: &Turn) {
        let pause = (turn.pause * 2).clamp(RETRY_FIRST, RETRY_LAST);
        self.sources[turn.named].queue.push_back((turn.addr, pause));
    }
}

type Got = (Manifest, Bytes, Established);

async fn take_turn(turn: Turn, introduction: Introduction) -> (Turn, Result<Got, AttemptError>) {
    sleep(turn.pause).await;
    let attempt = timeout(ATTEMPT_TIME, attempt(turn.addr, &introduction));
    let outcome = attempt.await.unwrap_or(Err(DialError::Timeout.into()));
    (turn, outcome)
}

async fn attempt(addr: SocketAddr, introduction: &Introduction) -> Result<Got, AttemptError> {
    let asking = Message::RequestMetadata { manifest: true, pages: Vec::new() };
    let mut link = dial::dial(addr, introduction, true, Some(&asking)).await?;
    let mut metadata = MetadataReader::new(&mut link);
    let (header, bytes) = metadata.next().await?;
    if header.item != MetadataItem::Manifest {
        return Err(AttemptError::BrokeOff);
    }
    metadata.end();
    if header.total == 0 {
        return Err(AttemptError::NotHeld);
    }
    let manifest = Manifest::decode_for(&introduction.share, &bytes)
        .map_err(|source| AttemptError::Manifest { peer: link.agreed.peer, source })?;
    Ok((manifest, bytes, link))
}

async fn ask(link: &mut Established, message: &Message) -> Result<(), DialError> {
    let mut out = BytesMut::new();
    message.encode(&mut out);
    link.stream.write_all(&out).await.map_err(|_| DialError::Closed)
}

/// Fetches hash pages over a link that is not yet part of the swarm. Pages that are not held
/// there are left out: what they would have proven is fetched again. False if the peer broke
/// off, lied or took too long; then the link is of no more use.
pub(super) async fn fetch_pages(
    link: &mut Established,
    hashes: &HashBook,
    pages: &[PageId],
) -> bool {
    timeout(PROOFS_TIME, fetch_all_pages(link, hashes, pages)).await.unwrap_or(false)
}

async fn fetch_all_pages(link: &mut Established, hashes: &HashBook, pages: &[PageId]) -> bool {
    for batch in pages.chunks(256) {
        let request = Message::RequestMetadata { manifest: false, pages: batch.to_vec() };
        if ask(link, &request).await.is_err() {
            return false;
        }
        let mut metadata = MetadataReader::new(link);
        for _ in batch {
            let Ok((header, bytes)) = metadata.next().await else { return false };
            if header.total == 0 {
                continue;
            }
            match hashes.accept_page(header.page_id(), &bytes) {
                Ok(()) | Err(PageError::Unproven(_)) => {}
                Err(_) => return false,
            }
        }
        metadata.end();
    }
    true
}

/// Reads whole metadata items; other messages that come between are kept for the link.
struct MetadataReader<'a> {
    link: &'a mut Established,
    codec: FrameCodec,
    kept: BytesMut,
}

impl<'a> MetadataReader<'a> {
    fn new(link: &'a mut Established) -> Self {
        // The share's size is not known yet, so the largest bitmap must pass.
        let limits = FrameLimits::established(limits::PIECES_MAX, link.agreed.block_len);
        Self { link, codec: FrameCodec::new(limits), kept: BytesMut::new() }
    }

    /// The next item, put together from its chunks. Grows as bytes come, up to the cap.
    async fn next(&mut self) -> Result<(MetadataHeader, Bytes), AttemptError> {
        let mut item: Option<(MetadataHeader, BytesMut)> = None;
        loop {
            let read = read_frame(&mut self.link.stream, &mut self.link.inbound, &mut self.codec);
            let frame = timeout(ANSWER_TIME, read).await.map_err(|_| DialError::Timeout)?;
            let frame = frame.map_err(DialError::Wire)?.ok_or(DialError::Closed)?;
            match frame {
                Frame::Metadata { header, payload } => {
                    let (first, bytes) = item.get_or_insert_with(|| (header, BytesMut::new()));
                    let fits = header.total as usize <= limits::MANIFEST_LEN_MAX
                        && header.total == first.total
                        && header.offset as usize == bytes.len()
                        && bytes.len() + payload.len() <= header.total as usize;
                    if !fits || (payload.is_empty() && header.total > 0) {
                        return Err(AttemptError::BrokeOff);
                    }
                    bytes.extend_from_slice(&payload);
                    if bytes.len() == header.total as usize
                        && let Some((first, bytes)) = item.take()
                    {
                        return Ok((first, bytes.freeze()));
                    }
                }
                Frame::Control(message) if self.kept.len() < KEPT_MAX => {
                    message.encode(&mut self.kept);
                }
                _ => return Err(AttemptError::BrokeOff),
            }
        }
    }

    /// Puts back what was kept, ahead of what has not been looked at.
    fn end(self) {
        let Self { link, mut kept, .. } = self;
        kept.extend_from_slice(&link.inbound);
        link.inbound = kept;
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::types::ShareId;

    #[test]
    fn every_address_is_listed_with_its_end_and_of_many_a_few() {
        let addr = |port: u16| SocketAddr::from(([192, 0, 2, 7], port));
        let mut tried = Tried::default();
        assert_eq!(tried.to_string(), "its trackers named nobody");
        tried.begins(addr(1));
        tried.begins(addr(2));
        tried.ended(addr(1), "refused".to_owned());
        tried.begins(addr(1));
        tried.tracker(addr(1), "refused as well");
        tried.tracker(addr(3), "timed out");
        let words = "192.0.2.7:1 refused; 192.0.2.7:2 no answer yet; \
                     192.0.2.7:3 as a tracker: timed out";
        assert_eq!(tried.to_string(), words);
        (4..20).for_each(|port| tried.begins(addr(port)));
        (4..20).for_each(|port| tried.begins(addr(port)));
        assert!(tried.to_string().ends_with("; and 14 more"), "{tried}");
    }

    #[tokio::test]
    async fn the_manifest_is_asked_for_before_the_peer_has_answered_anything() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let id = PeerId::random(&mut fastrand::Rng::with_seed(1));
        let introduction = Introduction { id, share: ShareId([7; 32]), port: 1, complete: false };
        let asking = tokio::spawn(async move { attempt(addr, &introduction).await.err() });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut inbound = BytesMut::new();
        dial::read_register(&mut stream, &mut inbound).await.unwrap();
        let limits = FrameLimits::established(limits::PIECES_MAX, limits::BLOCK_LEN_MAX);
        let mut codec = FrameCodec::new(limits);
        let next = read_frame(&mut stream, &mut inbound, &mut codec).await.unwrap();
        let asked = Message::RequestMetadata { manifest: true, pages: Vec::new() };
        assert_eq!(next, Some(Frame::Control(asked)));
        drop(stream);
        assert!(asking.await.unwrap().is_some(), "nobody answered");
    }
}
