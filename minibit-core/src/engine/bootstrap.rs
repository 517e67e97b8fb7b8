//! From a ticket to a manifest: the first peer that answers gives it, and stays as a link.
//!
//! A ticket names the share by the hash of its manifest, so a manifest from any stranger is
//! proven by the ticket alone. Addresses are tried side by side, a few at a time and each a moment after
//! the one before, those that trackers name as they come, and again with growing pauses until the caller's patience ends
//! (see `addresses`).
//!
//! What a stranger sends is not proven before all of it is here, so large manifests come two at a
//! time, and only what begins like one is kept at all. Whoever has waited longest for its turn has the
//! next. Nobody's time runs while it waits, and nobody loses its turn who is half done by the end of it;
//! whoever loses it has twice as long the next time, so a slow peer gets there however many others drip.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, Semaphore, SemaphorePermit, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::addresses::{AT_ONCE_MAX, Addresses, Turn};
use super::dial::{self, DialError, Established};
use super::frames::read_frame;
use super::tracker_client::Found;
use crate::content::{HashBook, Manifest, ManifestError, PageError};
use crate::peer::Introduction;
use crate::swarm::Source;
use crate::types::{PageId, PeerId, limits};
use crate::wire::{
    Frame, FrameCodec, FrameLimits, Message, MetadataHeader, MetadataItem, PeerAddr,
};

/// A manifest of more bytes waits for its turn to be received.
const LARGE: usize = 1024 * 1024;
/// Large manifests that are received at once.
const LARGE_AT_ONCE: usize = 2;
/// Whoever takes longer over a large manifest gives way to another that waits for its turn, or after as long
/// again if it was half done by then. Each time that this happened to it doubles it, so many times.
const LARGE_TURN: Duration = Duration::from_secs(20);
/// See [`LARGE_TURN`].
const LARGE_TURN_DOUBLED_MAX: u32 = 4;
/// We say that we are here as often, or peers take us for gone while they send or we wait for our turn.
const ALIVE: Duration = Duration::from_secs(5);
/// A peer that answers nothing for so long while we wait for metadata is given up. To say that it is there is no
/// answer.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How often it is looked at, while nothing comes, whether others wait for somebody's turn to be over.
const TURN_LOOK: Duration = Duration::from_secs(1);
/// One peer has so long to give the whole manifest, however it drips: to begin with it, and from its turn on.
/// No less than twice its turn, once that was doubled.
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
    #[error("nobody in this ticket could be reached within {} s: {tried}", patience.as_secs_f64())]
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
    #[error("it was slow to send the manifest, and others waited")]
    GaveWay,
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
    mut rng: fastrand::Rng,
) -> Result<Bootstrapped, BootstrapError> {
    let at_once = at_once.min(AT_ONCE_MAX);
    let deadline = Instant::now() + patience;
    let mut addresses = Addresses::default();
    addresses.learn(Source::Ticket, addrs.iter().copied());
    let turns = Arc::new(Turns::default());
    let mut attempts = JoinSet::new();
    let mut tried = Tried::default();
    let mut wrong = None;
    let mut refuted = Vec::new();
    let mut heard = Vec::new();
    loop {
        // Who only waits for its turn keeps nobody from being tried.
        while attempts.len() < at_once + turns.waiting().min(at_once)
            && let Some(turn) = addresses.next(Instant::now())
        {
            tried.begins(turn.addr);
            attempts.spawn(take_turn(turn, introduction.clone(), Arc::clone(&turns)));
        }
        let has_room = attempts.len() < at_once + turns.waiting().min(at_once);
        let next = addresses.next_ready().filter(|_| has_room);
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
                Ok((mut turn, Err(error))) => {
                    turn.lost_turns += u32::from(matches!(error, AttemptError::GaveWay));
                    tried.ended(turn.addr, error.to_string());
                    if matches!(error, AttemptError::Dial(DialError::Full)) {
                        addresses.again_when_there_is_room(Instant::now(), &turn, &mut rng);
                    } else {
                        addresses.again(Instant::now(), &turn);
                    }
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
            () = turns.one_waits.notified() => {}
            () = sleep_until(next.unwrap_or(deadline)), if next.is_some() => {}
            () = sleep_until(deadline) => {
                return Err(wrong.unwrap_or(BootstrapError::Unreachable { patience, tried }));
            }
        }
    }
}

/// Turns at receiving a large manifest.
struct Turns {
    /// In the order in which they came.
    places: Semaphore,
    waiting: AtomicUsize,
    one_waits: Notify,
}

impl Default for Turns {
    fn default() -> Self {
        let (places, waiting) = (Semaphore::new(LARGE_AT_ONCE), AtomicUsize::new(0));
        Self { places, waiting, one_waits: Notify::new() }
    }
}

impl Turns {
    async fn take(&self) -> Option<SemaphorePermit<'_>> {
        /// However the wait ends.
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }
        self.waiting.fetch_add(1, Relaxed);
        self.one_waits.notify_one();
        let _waiting = Waiting(&self.waiting);
        self.places.acquire().await.ok()
    }

    fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Whether who has had its turn of this length since then is to give way.
    fn are_over(&self, turn: Duration, since: Instant, now: Instant, is_half_done: bool) -> bool {
        let turn = if is_half_done { turn * 2 } else { turn };
        self.waiting() > 0 && now.saturating_duration_since(since) > turn
    }
}

type Got = (Manifest, Bytes, Established);

async fn take_turn(
    turn: Turn,
    introduction: Introduction,
    turns: Arc<Turns>,
) -> (Turn, Result<Got, AttemptError>) {
    sleep(turn.wait).await;
    let its_turn = LARGE_TURN * (1 << turn.lost_turns.min(LARGE_TURN_DOUBLED_MAX));
    let outcome = attempt(turn.addr, &introduction, &turns, its_turn).await;
    (turn, outcome)
}

async fn attempt(
    addr: SocketAddr,
    introduction: &Introduction,
    turns: &Turns,
    its_turn: Duration,
) -> Result<Got, AttemptError> {
    let asking = Message::RequestMetadata { manifest: true, pages: Vec::new() };
    let mut link = dial::dial(addr, introduction, true, Some(&asking)).await?;
    let peer = link.agreed.peer;
    let mut metadata = MetadataReader::new(&mut link);
    let (header, bytes) = metadata.manifest(turns, its_turn).await?.ok_or_else(|| {
        let source = ManifestError::OtherShare { share: introduction.share };
        AttemptError::Manifest { peer, source }
    })?;
    metadata.end();
    if header.total == 0 {
        return Err(AttemptError::NotHeld);
    }
    let manifest = Manifest::decode_for(&introduction.share, &bytes)
        .map_err(|source| AttemptError::Manifest { peer, source })?;
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

/// A metadata item of which some has come.
struct Item {
    first: MetadataHeader,
    bytes: BytesMut,
}

impl Item {
    fn begin(first: MetadataHeader, chunk: &[u8]) -> Result<Self, AttemptError> {
        let mut item = Self { first, bytes: BytesMut::new() };
        item.add(first, chunk)?;
        Ok(item)
    }

    fn is_whole(&self) -> bool {
        self.bytes.len() == self.first.total as usize
    }

    fn is_half(&self) -> bool {
        2 * self.bytes.len() >= self.first.total as usize
    }

    fn add(&mut self, header: MetadataHeader, chunk: &[u8]) -> Result<(), AttemptError> {
        let total = header.total as usize;
        let fits = total <= limits::MANIFEST_LEN_MAX
            && header.total == self.first.total
            && header.offset as usize == self.bytes.len()
            && self.bytes.len() + chunk.len() <= total;
        if !fits || (chunk.is_empty() && total > 0) {
            return Err(AttemptError::BrokeOff);
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }
}

/// Reads whole metadata items; other messages that come between are kept for the link.
struct MetadataReader<'a> {
    link: &'a mut Established,
    codec: FrameCodec,
    kept: BytesMut,
    spoke: Instant,
    /// When it was asked, or said anything but that it is there.
    heard: Instant,
}

impl<'a> MetadataReader<'a> {
    fn new(link: &'a mut Established) -> Self {
        // The share's size is not known yet, so the largest bitmap must pass.
        let limits = FrameLimits::established(limits::PIECES_MAX, link.agreed.block_len);
        let (codec, kept, now) = (FrameCodec::new(limits), BytesMut::new(), Instant::now());
        Self { link, codec, kept, spoke: now, heard: now }
    }

    /// The manifest, once it is this one's turn; `None` if what comes is none.
    async fn manifest(
        &mut self,
        turns: &Turns,
        its_turn: Duration,
    ) -> Result<Option<(MetadataHeader, Bytes)>, AttemptError> {
        let began = timeout(ATTEMPT_TIME, self.chunk()).await;
        let (header, first) = began.map_err(|_| DialError::Timeout)??;
        if header.item != MetadataItem::Manifest {
            return Err(AttemptError::BrokeOff);
        }
        if !Manifest::may_begin_with(&first) {
            return Ok(None);
        }
        let mut item = Item::begin(header, &first)?;
        let is_large = item.first.total as usize > LARGE;
        let turn = if is_large { self.wait_for(turns).await? } else { None };
        let since = Instant::now();
        self.heard = since;
        let last = since + ATTEMPT_TIME.max(its_turn * 2);
        while !item.is_whole() {
            if turn.is_some() && turns.are_over(its_turn, since, Instant::now(), item.is_half()) {
                return Err(AttemptError::GaveWay);
            }
            let look = (since + its_turn).max(Instant::now() + TURN_LOOK);
            match timeout_at(look.min(last), self.chunk()).await {
                Ok(came) => {
                    let (header, more) = came?;
                    item.add(header, &more)?;
                }
                Err(_) if Instant::now() >= last => return Err(DialError::Timeout.into()),
                Err(_) => {}
            }
        }
        Ok(Some((item.first, item.bytes.freeze())))
    }

    async fn wait_for<'t>(
        &mut self,
        turns: &'t Turns,
    ) -> Result<Option<SemaphorePermit<'t>>, AttemptError> {
        let mut mine = pin!(turns.take());
        loop {
            match timeout(ALIVE, &mut mine).await {
                Ok(turn) => return Ok(turn),
                Err(_) => self.stay_alive().await?,
            }
        }
    }

    /// Says that we are here, if we have said nothing for so long.
    async fn stay_alive(&mut self) -> Result<(), AttemptError> {
        if self.spoke.elapsed() >= ALIVE {
            let mut out = BytesMut::new();
            Message::KeepAlive.encode(&mut out);
            self.link.stream.write_all(&out).await.map_err(|_| DialError::Closed)?;
            self.spoke = Instant::now();
        }
        Ok(())
    }

    /// The next item, put together from its chunks. Grows as bytes come, up to the cap.
    async fn next(&mut self) -> Result<(MetadataHeader, Bytes), AttemptError> {
        let (header, first) = self.chunk().await?;
        let mut item = Item::begin(header, &first)?;
        while !item.is_whole() {
            let (header, more) = self.chunk().await?;
            item.add(header, &more)?;
        }
        Ok((item.first, item.bytes.freeze()))
    }

    async fn chunk(&mut self) -> Result<(MetadataHeader, Bytes), AttemptError> {
        loop {
            self.stay_alive().await?;
            let read = read_frame(&mut self.link.stream, &mut self.link.inbound, &mut self.codec);
            let answer = timeout_at(self.heard + ANSWER_TIME, read);
            let frame = answer.await.map_err(|_| DialError::Timeout)?;
            let frame = frame.map_err(DialError::from)?.ok_or(DialError::Closed)?;
            if frame == Frame::Control(Message::KeepAlive) {
                continue;
            }
            self.heard = Instant::now();
            match frame {
                Frame::Metadata { header, payload } => return Ok((header, payload)),
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
        let asking = tokio::spawn(async move {
            attempt(addr, &introduction, &Turns::default(), LARGE_TURN).await.err()
        });
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

    #[tokio::test(start_paused = true)]
    async fn large_manifests_come_two_at_a_time_and_a_slow_one_gives_way() {
        let turns = Turns::default();
        let began = Instant::now();
        let held = (turns.take().await, turns.take().await);
        let over =
            |times, half| turns.are_over(LARGE_TURN, began, began + times * LARGE_TURN, half);
        assert!(!over(3, false), "nobody waits");
        let waiting = async {
            assert!(timeout(LARGE_TURN, turns.take()).await.is_err(), "both are taken");
        };
        let giving_way = async {
            tokio::task::yield_now().await;
            assert!(!over(1, false) && over(2, false));
            assert!(!over(2, true) && over(3, true), "who is half done may end");
        };
        tokio::join!(waiting, giving_way);
        drop(held);
        assert!(turns.take().await.is_some());
        assert!(!over(3, false), "who gave up waits no more");
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_had_in_the_order_in_which_they_were_waited_for() {
        let turns = Arc::new(Turns::default());
        let held = (turns.take().await, turns.take().await);
        let (served, mut order) = mpsc::unbounded_channel();
        for number in 0..4 {
            let (turns, served) = (Arc::clone(&turns), served.clone());
            tokio::spawn(async move {
                let turn = turns.take().await;
                let _ = served.send(number);
                sleep(LARGE_TURN).await;
                drop(turn);
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(turns.waiting(), 4);
        drop(held);
        for number in 0..4 {
            assert_eq!(order.recv().await, Some(number));
        }
    }

    /// Of one who lacks everything, and of one who holds it.
    fn introduction(complete: bool) -> Introduction {
        let id = PeerId::numbered(1 + u64::from(complete));
        Introduction { id, share: ShareId([7; 32]), port: 1, complete }
    }

    #[tokio::test]
    async fn the_time_that_a_peer_waits_for_its_turn_is_not_its_own() {
        const LEN: usize = LARGE + 1;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let [ours, theirs] = [false, true].map(introduction);
        let turns = Arc::new(Turns::default());
        let held = (turns.take().await, turns.take().await);
        let getting = {
            let turns = Arc::clone(&turns);
            tokio::spawn(async move { attempt(addr, &ours, &turns, LARGE_TURN).await.err() })
        };
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut out = BytesMut::new();
        Message::Register(theirs.register(true)).encode(&mut out);
        let manifest = [&b"MBM1"[..], &[0; LEN - 4]].concat();
        for chunk in manifest.chunks(limits::METADATA_CHUNK_MAX as usize) {
            let mut header = MetadataHeader::manifest(LEN as u32);
            header.len = chunk.len() as u32;
            header.offset = (chunk.as_ptr() as usize - manifest.as_ptr() as usize) as u32;
            out.extend_from_slice(&header.encode_frame_head());
            out.extend_from_slice(chunk);
        }
        let sending = tokio::spawn(async move {
            stream.write_all(&out).await.unwrap();
            stream
        });
        while turns.waiting() == 0 {
            sleep(Duration::from_millis(1)).await;
        }
        tokio::time::pause();
        tokio::time::advance(2 * ATTEMPT_TIME).await;
        tokio::time::resume();
        drop(held);
        let outcome = getting.await.unwrap();
        let is_whole = matches!(outcome, Some(AttemptError::Manifest { .. }));
        assert!(is_whole, "all of it came, and was no manifest: {outcome:?}");
        drop(sending.await.unwrap());
    }

    #[tokio::test]
    async fn who_waits_for_its_turn_says_that_it_is_there() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let [ours, theirs] = [false, true].map(introduction);
        tokio::spawn(async move {
            let turns = Turns::default();
            let _taken = (turns.take().await, turns.take().await);
            attempt(addr, &ours, &turns, LARGE_TURN).await.err()
        });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut out = BytesMut::new();
        Message::Register(theirs.register(true)).encode(&mut out);
        let mut header = MetadataHeader::manifest(2 * LARGE as u32);
        header.len = 4;
        out.extend_from_slice(&header.encode_frame_head());
        out.extend_from_slice(b"MBM1");
        stream.write_all(&out).await.unwrap();
        let mut inbound = BytesMut::new();
        dial::read_register(&mut stream, &mut inbound).await.unwrap();
        let limits = FrameLimits::established(limits::PIECES_MAX, limits::BLOCK_LEN_MAX);
        let mut codec = FrameCodec::new(limits);
        let mut heard = Vec::new();
        while heard.len() < 2 {
            heard.extend(read_frame(&mut stream, &mut inbound, &mut codec).await.unwrap());
        }
        assert_eq!(heard[1], Frame::Control(Message::KeepAlive));
    }

    /// Asks a peer for a manifest that says REGISTRO, then `first`, and then this every five seconds; how that
    /// ends, and after how long.
    async fn asked_of(
        first: Vec<u8>,
        then: Message,
        turns: &Turns,
    ) -> (Option<AttemptError>, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let [ours, theirs] = [false, true].map(introduction);
        let peer = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut out = BytesMut::new();
            Message::Register(theirs.register(true)).encode(&mut out);
            out.extend_from_slice(&first);
            while stream.write_all(&out).await.is_ok() {
                out.clear();
                then.encode(&mut out);
                sleep(ALIVE).await;
            }
        });
        let began = Instant::now();
        let end = attempt(addr, &ours, turns, LARGE_TURN).await.err();
        let after = began.elapsed();
        peer.await.unwrap();
        (end, after)
    }

    #[tokio::test(start_paused = true)]
    async fn who_only_says_that_it_is_there_has_not_answered() {
        let (end, after) = asked_of(Vec::new(), Message::KeepAlive, &Turns::default()).await;
        assert!(matches!(end, Some(AttemptError::Dial(DialError::Timeout))), "{end:?}");
        assert!(after <= ANSWER_TIME + Duration::from_secs(1), "{after:?}");
    }

    #[tokio::test]
    async fn whose_turn_is_over_gives_way_though_nothing_comes_of_its_manifest() {
        let mut header = MetadataHeader::manifest(2 * LARGE as u32);
        header.len = 4;
        let first = [&header.encode_frame_head()[..], b"MBM1"].concat();
        let turns = Turns::default();
        let _other = turns.take().await;
        let waiting = async {
            // Only once the peer has the last place.
            while turns.places.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            tokio::time::pause();
            let _ = turns.take().await;
        };
        let (_, (end, after)) = tokio::join!(waiting, asked_of(first, Message::Interested, &turns));
        assert!(matches!(end, Some(AttemptError::GaveWay)), "{end:?}");
        assert!(after <= LARGE_TURN + 2 * TURN_LOOK, "{after:?}");
    }

    #[test]
    fn what_does_not_begin_like_a_manifest_is_none() {
        for (bytes, may) in [(&b"MBM1\x04"[..], true), (b"MB", true), (b"", true), (&[0; 9], false)]
        {
            assert_eq!(Manifest::may_begin_with(bytes), may, "{bytes:?}");
        }
    }
}
