//! `demo`: a tracker, a seeder and leechers in this process, as full nodes over loopback TCP.
//!
//! Every peer has its own identity, listening socket and files; nothing is shared between them
//! but the process. What they hold at the start is an experiment's choice ([`Start`]): one
//! holds all, each holds a random part besides, or the pieces are dealt out so that nobody
//! holds more than its turn. In the last case no peer knows enough to tell another what the
//! share is, so an origin without any upload slot hands out the manifest and leaves.
//!
//! Each copy ends as `DIR/name_peerN.ext`; on the way there it lies in a directory of its own.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use minibit_core::content::{Manifest, Ticket, escape};
use minibit_core::engine::{FirstPieces, GetOptions, Node, NodeConfig, ShareHandle};
use minibit_core::store::{PartOptions, PieceStore, PreparedShare};
use minibit_core::swarm::{Caps, Slots};
use minibit_core::tracker::{Mode, Rules};
use minibit_core::types::limits::LANES_MAX;
use minibit_core::types::{Geometry, PeerId, PieceIndex, PieceSet};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::watch::{self, Notices};
use super::{Session, failures, node, work};
use crate::cli::{Demo, Source};
use crate::descriptors;
use crate::exit::{Exit, Failure};
use crate::output::json::{self, DemoPeer, Event};
use crate::output::progress::{Progress, Standing, TICK, Work};
use crate::output::{table, units::Bytes};
use crate::values::Start;

/// What is moved if no file is named.
const SAMPLE: &str = "files/film.mp4";
/// Where copies go if no directory is named.
const DOWNLOADS: &str = "files/downloads";
/// A swarm in which nobody got anything for so long has failed.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Runs the command.
pub(super) async fn run(flags: &Demo, session: &Session) -> Result<(), Failure> {
    let file = flags.file.clone().map_or_else(sample, Ok)?;
    let source = Source { name: None, piece_size: flags.piece_size, no_cache: false };
    let prepared = work::prepare(std::slice::from_ref(&file), &source, &[], session).await?;
    let place = Place::make(flags.dir.clone().unwrap_or_else(|| DOWNLOADS.into()))?;
    let manifest = prepared.manifest.clone();
    let files = manifest.files().len();
    let budget = Budget::of(descriptors::limit(), flags.peers.into(), files)?;
    let geometry = manifest.geometry();
    session.output.say(format_args!(
        "{}: {}, {} pieces of {}; {} peers, start {}",
        escape(manifest.name()),
        Bytes(geometry.total_len()),
        geometry.piece_count(),
        Bytes(geometry.piece_size().bytes().into()),
        flags.peers,
        flags.start,
    ));
    let copies = match flags.start {
        Start::Seed => None,
        // A second store over the same files; the hashes are known by now.
        _ => Some(work::prepare(std::slice::from_ref(&file), &source, &[], session).await?),
    };
    let swarm = Swarm::start(flags, budget, prepared, copies, &place).await?;
    let outcomes = swarm.finish(session).await?;
    let peers: Vec<DemoPeer> = outcomes.iter().map(Outcome::report).collect();
    let ended = stop(outcomes).await;
    for (number, copy) in &ended.copies {
        place.keep(&manifest, *number, copy)?;
    }
    let whole = summary(flags, &manifest, &peers);
    for peer in &peers {
        session.output.event(&Event::DemoPeer(peer.clone()));
    }
    session.output.event(&Event::Demo(whole.clone()));
    session.output.result(table::demo(&whole, &peers));
    session.output.say(format_args!("copies are in {}", place.dir.display()));
    ended.failure.map_or(Ok(()), Err)
}

/// The sample film, from the directory we are in or from the sources we were built of.
fn sample() -> Result<PathBuf, Failure> {
    let built_of = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(SAMPLE);
    [PathBuf::from(SAMPLE), built_of].into_iter().find(|path| path.is_file()).ok_or_else(|| {
        Failure::usage(format!("there is no {SAMPLE} here")).hint("name a file: minibit demo FILE")
    })
}

/// The nodes of a demo, all running.
struct Swarm {
    tracker: Node,
    /// Peer 0 with its share, unless the start gives everybody a part.
    seeder: Option<(Node, ShareHandle)>,
    /// Hands out the manifest where no peer could.
    origin: Option<Node>,
    leechers: JoinSet<Outcome>,
    started: Instant,
    /// What every leecher has so far, by its number.
    shares: mpsc::UnboundedReceiver<ShareHandle>,
    /// What all leechers are to get, before any of them has begun.
    whole: Whole,
}

/// How one peer ended. It still runs: others may need it.
struct Outcome {
    number: u64,
    node: Node,
    /// Its share, if it came so far as to open it.
    share: Option<ShareHandle>,
    /// Where its copy is, and when it was complete, counted from the start of the swarm.
    /// Nowhere for the seeder.
    result: Result<(Option<PathBuf>, Duration), Failure>,
}

impl Swarm {
    async fn start(
        flags: &Demo,
        budget: Budget,
        prepared: PreparedShare,
        copies: Option<PreparedShare>,
        place: &Place,
    ) -> Result<Self, Failure> {
        let share = prepared.manifest.share_id();
        let geometry = Arc::clone(prepared.manifest.geometry());
        let tracker = Node::start(tracker(flags)).await?;
        let trackers = tracker.local_addrs().to_vec();
        let full = flags.start != Start::RoundRobin;
        let holder =
            Node::start(if full { config(flags, budget, 0) } else { origin(flags) }).await?;
        let handle = holder.share(prepared, &trackers).await?;
        let ticket = Ticket::new(share, trackers, holder.local_addrs().to_vec())
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        let (seeder, origin) =
            if full { (Some((holder, handle)), None) } else { (None, Some(holder)) };
        let from = copies.map(|copies| Arc::new(copies.store) as Arc<dyn PieceStore>);
        let (told, shares) = mpsc::unbounded_channel();
        let mut leechers = JoinSet::new();
        let started = Instant::now();
        for number in u64::from(full)..flags.peers.into() {
            let pieces = first_pieces(flags, number, &geometry);
            let first_pieces = from.clone().map(|from| FirstPieces {
                pieces: Box::new(move |_: &Manifest| pieces.clone()),
                from,
            });
            let options = GetOptions {
                dir: place.of_peer(number),
                select: None,
                force: true,
                patience: STALLED_AFTER,
                first_pieces,
                checking: None,
            };
            let node = Node::start(config(flags, budget, number)).await?;
            let leecher = Leecher { number, node, started, told: told.clone() };
            leechers.spawn(leecher.run(ticket.clone(), options));
        }
        let whole = Whole::of(leechers.len() as u64, &geometry);
        Ok(Self { tracker, seeder, origin, leechers, started, shares, whole })
    }

    /// Waits for every leecher, with progress; then stops everything.
    async fn finish(mut self, session: &Session) -> Result<Vec<Outcome>, Failure> {
        let mut progress = Progress::new(&session.output, Work::Fetching);
        let mut notices = Notices::default();
        let mut stall = Stall::default();
        let mut shares: Vec<ShareHandle> = Vec::new();
        let mut outcomes = Vec::new();
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                () = session.interrupt.requested() => return Err(failures::interrupted()),
                Some(share) = self.shares.recv() => {
                    shares.push(share);
                    // Everybody knows what the share is: from here on they are on their own.
                    if shares.len() as u64 == self.whole.count && let Some(origin) = self.origin.take() {
                        origin.shutdown().await;
                    }
                }
                ended = self.leechers.join_next() => match ended {
                    Some(outcome) => outcomes
                        .push(outcome.map_err(|error| Failure::new(Exit::Failed, error))?),
                    None => break,
                },
                _ = ticks.tick() => {
                    let (at, now) = (self.started.elapsed(), self.whole.standing(&shares));
                    progress.update(at, &now);
                    for share in &shares {
                        notices.show(share.id(), &share.stats(), &session.output);
                    }
                    if stall.noticed(at, now.bytes) {
                        for share in &shares {
                            share.stop().await;
                        }
                    }
                }
            }
        }
        // Not every swarm lasts until a second tick.
        progress.update(self.started.elapsed(), &self.whole.standing(&shares));
        drop(progress);
        if let Some((node, share)) = self.seeder {
            let result = Ok((None, Duration::ZERO));
            outcomes.push(Outcome { number: 0, node, share: Some(share), result });
        }
        outcomes.sort_by_key(|outcome| outcome.number);
        self.tracker.shutdown().await;
        Ok(outcomes)
    }
}

/// What one peer may have of the files and connections that this process may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    connections: usize,
    /// Lanes of each link, if there are not enough connections for as many as a link would like.
    lanes: Option<u8>,
}

impl Budget {
    /// Files of the process itself.
    const PROCESS: usize = 64;
    /// A peer's own beside its copies: its journal, the lock on its place, its listening socket
    /// and both ends of its connection to the tracker.
    const PEER: usize = 5;
    /// With fewer connections a peer finds nobody who has room.
    const CONNECTIONS_MIN: usize = 6;

    /// Each peer's part if the process may have `limit` files open, and a share has `files`.
    fn of(limit: usize, peers: usize, files: usize) -> Result<Self, Failure> {
        let opened = files.min(PartOptions::default().open_files);
        let (process, each) = (Self::PROCESS + opened, Self::PEER + opened);
        let rest = limit.saturating_sub(process);
        let connections = (rest / peers).saturating_sub(each);
        if connections < Self::CONNECTIONS_MIN {
            let least = each + Self::CONNECTIONS_MIN;
            return Err(Self::too_small(limit, peers, process + least * peers, rest / least));
        }
        let links = Caps::default().within(connections).links_max.min(peers);
        let lanes = (links * usize::from(LANES_MAX) > connections).then_some(1);
        Ok(Self { connections, lanes })
    }

    fn too_small(limit: usize, peers: usize, needed: usize, fit: usize) -> Failure {
        let hint = match fit {
            0..2 => format!("raise it: ulimit -n {needed}"),
            _ => format!("raise it (ulimit -n {needed}), or take --peers {fit}"),
        };
        Failure::usage(format!(
            "{peers} peers in one process need {needed} open files, and {limit} is the limit here"
        ))
        .hint(hint)
    }
}

/// What all leechers together are to get.
#[derive(Clone, Copy, Debug)]
struct Whole {
    /// How many leechers there are.
    count: u64,
    bytes: u64,
    pieces: u64,
}

impl Whole {
    fn of(count: u64, geometry: &Geometry) -> Self {
        let (len, pieces) = (geometry.total_len(), u64::from(geometry.piece_count()));
        Self { count, bytes: count * len, pieces: count * pieces }
    }

    fn standing(self, shares: &[ShareHandle]) -> Standing {
        self.sum(shares.iter().map(|share| watch::standing(&share.stats())))
    }

    /// Of the leechers that have opened their share so far; the others have nothing. `peers`
    /// counts those that are not done.
    fn sum(self, opened: impl Iterator<Item = Standing>) -> Standing {
        let mut sum = Standing {
            bytes_total: self.bytes,
            pieces_total: self.pieces,
            peers: self.count,
            ..Standing::default()
        };
        for one in opened {
            sum.bytes += one.bytes;
            sum.pieces += one.pieces;
            sum.uploaded += one.uploaded;
            sum.peers -= u64::from(one.pieces == one.pieces_total);
        }
        sum
    }
}

/// One peer that fetches.
struct Leecher {
    number: u64,
    node: Node,
    started: Instant,
    /// To be told of its share once it is open.
    told: mpsc::UnboundedSender<ShareHandle>,
}

impl Leecher {
    async fn run(self, ticket: Ticket, options: GetOptions) -> Outcome {
        let Self { number, node, started, told } = self;
        let share = match node.get(&ticket, options).await {
            Ok(share) => share,
            Err(error) => return Outcome { number, node, share: None, result: Err(error.into()) },
        };
        // Nobody listens any more if the demo is being ended.
        _ = told.send(share.clone());
        let result = match share.completed().await {
            Ok(path) => Ok((Some(path), started.elapsed())),
            Err(error) => Err(error.into()),
        };
        Outcome { number, node, share: Some(share), result }
    }
}

impl Outcome {
    fn report(&self) -> DemoPeer {
        let stats = self.share.as_ref().map(ShareHandle::stats).unwrap_or_default();
        let seconds = self.result.as_ref().map_or(0.0, |(_, at)| at.as_secs_f64());
        DemoPeer {
            peer: self.number,
            success: self.result.is_ok(),
            seconds,
            messages_sent: stats.messages_sent,
            blocks_sent: stats.blocks_sent,
            connections: stats.connections,
            downloaded: stats.bytes_downloaded,
            uploaded: stats.bytes_uploaded,
            pieces_refused: stats.pieces_refused,
        }
    }
}

/// What is left of a demo once its nodes have stopped.
#[derive(Default)]
struct Ended {
    /// Peers' numbers, and where their copies are.
    copies: Vec<(u64, PathBuf)>,
    /// The first peer's that failed.
    failure: Option<Failure>,
}

/// Stops all peers at once: each says goodbye, which takes a moment.
async fn stop(outcomes: Vec<Outcome>) -> Ended {
    let mut ended = Ended::default();
    let mut stopping = JoinSet::new();
    for Outcome { number, node, result, .. } in outcomes {
        stopping.spawn(node.shutdown());
        match result {
            Ok((Some(path), _)) => ended.copies.push((number, path)),
            Ok((None, _)) => {}
            Err(failure) => _ = ended.failure.get_or_insert(failure),
        }
    }
    stopping.join_all().await;
    ended
}

/// Notices when no peer has got anything for too long.
#[derive(Debug, Default)]
struct Stall {
    bytes: u64,
    since: Duration,
}

impl Stall {
    fn noticed(&mut self, now: Duration, bytes: u64) -> bool {
        if bytes != self.bytes {
            *self = Self { bytes, since: now };
        }
        now.saturating_sub(self.since) > STALLED_AFTER
    }
}

fn tracker(flags: &Demo) -> NodeConfig {
    let usual = Rules::default();
    let mode = if flags.classic { Mode::Classic } else { usual.mode };
    let rules = Rules { mode, ..usual };
    NodeConfig { tracker: Some(rules), seed: Some(flags.random_seed), ..loopback() }
}

fn config(flags: &Demo, budget: Budget, number: u64) -> NodeConfig {
    let links = if flags.classic { Caps::classic() } else { Caps::default() };
    NodeConfig {
        peer_id: Some(PeerId::numbered(number)),
        // Each its own choices, and the same ones when the demo is run again.
        seed: Some(flags.random_seed.wrapping_add(number)),
        slots: if flags.classic { node::CLASSIC_SLOTS } else { Slots::Auto },
        links: links.within(budget.connections),
        lanes: budget.lanes,
        policy: node::policy(flags.policy),
        ..loopback()
    }
}

/// Holds everything and answers nobody: good for the manifest alone.
fn origin(flags: &Demo) -> NodeConfig {
    let slots = Slots::Fixed { regular: 0, optimistic: 0 };
    NodeConfig { slots, seed: Some(flags.random_seed), ..loopback() }
}

fn loopback() -> NodeConfig {
    let listen = vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0)];
    NodeConfig { listen, ..NodeConfig::default() }
}

/// What a peer holds at the start; nothing of its own with [`Start::Seed`].
fn first_pieces(flags: &Demo, number: u64, geometry: &Geometry) -> PieceSet {
    let mut set = PieceSet::empty(geometry.piece_count());
    match flags.start {
        Start::Seed => {}
        Start::Random { part } => {
            let seed = flags.random_seed.wrapping_mul(1 << 32).wrapping_add(number);
            let mut pieces: Vec<_> = geometry.pieces().collect();
            fastrand::Rng::with_seed(seed).shuffle(&mut pieces);
            let count = (pieces.len() as f64 * part).round() as usize;
            for piece in &pieces[..count] {
                set.insert(*piece);
            }
        }
        Start::RoundRobin => {
            let turn =
                |piece: &PieceIndex| u64::from(piece.get()) % u64::from(flags.peers) == number;
            for piece in geometry.pieces().filter(turn) {
                set.insert(piece);
            }
        }
    }
    set
}

fn summary(flags: &Demo, manifest: &Manifest, peers: &[DemoPeer]) -> json::Demo {
    let geometry = manifest.geometry();
    let succeeded = peers.iter().filter(|peer| peer.success).count();
    let slowest = peers.iter().max_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let count = peers.len() as f64;
    json::Demo {
        peers: peers.len() as u64,
        start: flags.start.to_string(),
        bytes: geometry.total_len(),
        pieces: geometry.piece_count().into(),
        piece_size: geometry.piece_size().bytes().into(),
        seconds: slowest.map_or(0.0, |peer| peer.seconds),
        success_rate: succeeded as f64 / count,
        messages_per_peer: peers.iter().map(|peer| peer.messages_sent as f64).sum::<f64>() / count,
        connections: peers.iter().map(|peer| peer.connections).sum(),
        slowest_peer: slowest.map_or(0, |peer| peer.peer),
    }
}

/// Where the copies go.
struct Place {
    dir: PathBuf,
    /// Where they are made; gone with this value.
    work: PathBuf,
}

#[derive(Debug, thiserror::Error)]
#[error("could not {action} {}", path.display())]
struct PlaceError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl Place {
    fn make(dir: PathBuf) -> Result<Self, Failure> {
        let work = dir.join(format!(".demo-{}", std::process::id()));
        fs::create_dir_all(&work).map_err(failed("make", &work))?;
        Ok(Self { dir, work })
    }

    /// Where a peer downloads to.
    fn of_peer(&self, number: u64) -> PathBuf {
        self.work.join(number.to_string())
    }

    /// Gives a copy its name. One of an earlier demo gives way.
    fn keep(&self, manifest: &Manifest, number: u64, copy: &Path) -> Result<(), Failure> {
        let kept = self.dir.join(copy_name(manifest, number));
        if kept.is_dir() {
            fs::remove_dir_all(&kept).map_err(failed("replace", &kept))?;
        }
        fs::rename(copy, &kept).map_err(failed("make", &kept))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is in nobody's way: it is named after this process.
        _ = fs::remove_dir_all(&self.work);
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::new(Exit::Disk, PlaceError { action, path: path.to_owned(), source })
}

/// `film.mp4` of peer 3 is `film_peer3.mp4`.
fn copy_name(manifest: &Manifest, number: u64) -> String {
    let name = manifest.name();
    match name.rsplit_once('.').filter(|(stem, _)| manifest.is_single() && !stem.is_empty()) {
        Some((stem, extension)) => format!("{stem}_peer{number}.{extension}"),
        None => format!("{name}_peer{number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use minibit_core::content::FileEntry;
    use minibit_core::swarm::ChokePolicy;
    use minibit_core::types::{Digest, PieceSize};

    fn demo(args: &[&str]) -> Demo {
        let cli = crate::cli::Cli::parse_from(["minibit", "demo"].iter().chain(args));
        let crate::cli::Command::Demo(flags) = cli.command else { panic!("another command") };
        flags
    }

    fn manifest(name: &str, len: u64, single: bool) -> Manifest {
        let files = vec![FileEntry { path: vec![name.into()], len, root: Digest([1; 32]) }];
        Manifest::new(name.into(), single, PieceSize::new(16384).unwrap(), files).unwrap()
    }

    const AMPLE: Budget = Budget { connections: 10_000, lanes: None };

    #[test]
    fn where_there_is_room_peers_are_as_they_are_elsewhere() {
        assert_eq!(Budget::of(1 << 20, 10, 1).unwrap().lanes, None);
        assert_eq!(
            config(&demo(&[]), Budget::of(1 << 20, 10, 1).unwrap(), 1).links,
            Caps::default()
        );
    }

    #[test]
    fn peers_of_one_process_have_no_more_open_together_than_it_may() {
        for (limit, peers, files) in [(4096, 200, 1), (1024, 40, 1), (20_000, 200, 30), (256, 8, 1)]
        {
            let budget = Budget::of(limit, peers, files).unwrap();
            let caps = config(&demo(&[]), budget, 1).links;
            assert_eq!(budget.lanes, Some(1));
            let each = caps.links_max + caps.dials_max + files + Budget::PEER;
            assert!(each * peers + Budget::PROCESS <= limit, "{limit} {peers}: {caps:?}");
            assert!(caps.links_aim < caps.links_max, "others find room: {caps:?}");
        }
    }

    #[test]
    fn a_limit_that_is_too_low_is_told_with_what_would_do() {
        let failure = Budget::of(1000, 200, 1).unwrap_err();
        let needed = 65 + 200 * 12;
        assert!(failure.to_string().contains(&format!("need {needed} open files, and 1000")));
        assert!(Budget::of(needed, 200, 1).is_ok() && Budget::of(needed - 1, 200, 1).is_err());
        let fit = (1000 - 65) / 12;
        assert!(Budget::of(1000, fit, 1).is_ok() && Budget::of(1000, fit + 1, 1).is_err());
    }

    #[test]
    fn a_round_robin_deals_out_every_piece_exactly_once() {
        let flags = demo(&["--peers", "7", "--start", "round-robin"]);
        let manifest = manifest("x", 100 * 16384 + 1, true);
        let geometry = manifest.geometry();
        let hands: Vec<PieceSet> =
            (0..7).map(|number| first_pieces(&flags, number, geometry)).collect();
        for piece in geometry.pieces() {
            let holders: Vec<usize> =
                (0..7).filter(|number| hands[*number].contains(piece)).collect();
            assert_eq!(holders, [piece.index() % 7]);
        }
    }

    #[test]
    fn a_random_tenth_is_a_tenth_another_for_each_peer_and_the_same_again() {
        let flags = demo(&["--start", "random:10%"]);
        let manifest = manifest("x", 200 * 16384, true);
        let hand = |number| first_pieces(&flags, number, manifest.geometry());
        assert_eq!(hand(1).len(), 20);
        assert_eq!(hand(1), hand(1));
        assert_ne!(hand(1), hand(2));
    }

    #[test]
    fn the_classic_setting_reaches_the_tracker_and_every_peer() {
        let (usual, classic) = (demo(&[]), demo(&["--classic"]));
        let mode = |flags: &Demo| tracker(flags).tracker.expect("a tracker").mode;
        assert_eq!(mode(&usual), Rules::default().mode);
        assert_eq!(mode(&classic), Mode::Classic);
        for number in [0, 1, 9] {
            let (usual, classic) = (config(&usual, AMPLE, number), config(&classic, AMPLE, number));
            assert_eq!((usual.slots, usual.links), (Slots::Auto, Caps::default()));
            assert_eq!(classic.slots, Slots::Fixed { regular: 4, optimistic: 1 });
            assert_eq!(classic.links, Caps::classic());
        }
    }

    #[test]
    fn each_policy_reaches_every_peer() {
        for (args, policy) in [
            (&[][..], ChokePolicy::Contribution),
            (&["--policy", "contribution"], ChokePolicy::Contribution),
            (&["--policy", "rarity"], ChokePolicy::Rarity),
            (&["--policy", "seeder"], ChokePolicy::Seeder),
        ] {
            assert_eq!(config(&demo(args), AMPLE, 3).policy, policy, "{args:?}");
        }
    }

    #[test]
    fn every_peer_has_its_number_its_own_chance_and_a_port_on_loopback() {
        let flags = demo(&["--random-seed", "7"]);
        for number in [0, 3] {
            let config = config(&flags, AMPLE, number);
            assert_eq!(config.peer_id, Some(PeerId::numbered(number)));
            assert_eq!(config.seed, Some(7 + number));
            assert_eq!(config.listen, ["127.0.0.1:0".parse().unwrap()]);
        }
        assert_eq!(tracker(&flags).seed, Some(7));
        assert_eq!(origin(&flags).slots, Slots::Fixed { regular: 0, optimistic: 0 });
    }

    #[test]
    fn progress_counts_all_leechers_from_the_start() {
        let whole = Whole::of(3, manifest("x", 10 * 16384, true).geometry());
        let start = whole.sum(std::iter::empty());
        assert_eq!((start.bytes, start.bytes_total), (0, 30 * 16384));
        assert_eq!((start.pieces, start.pieces_total, start.peers), (0, 30, 3));

        let one = |pieces| Standing {
            bytes: pieces * 16384,
            bytes_total: 10 * 16384,
            pieces,
            pieces_total: 10,
            uploaded: 5,
            ..Standing::default()
        };
        // One has not opened its share.
        let later = whole.sum([one(10), one(4)].into_iter());
        assert_eq!((later.bytes, later.bytes_total), (14 * 16384, 30 * 16384));
        assert_eq!((later.pieces, later.pieces_total), (14, 30));
        assert_eq!((later.peers, later.uploaded), (2, 10));
    }

    #[test]
    fn a_copy_is_named_after_its_peer() {
        assert_eq!(copy_name(&manifest("film.mp4", 1, true), 3), "film_peer3.mp4");
        assert_eq!(copy_name(&manifest("a.tar.gz", 1, true), 3), "a.tar_peer3.gz");
        assert_eq!(copy_name(&manifest("noext", 1, true), 3), "noext_peer3");
        assert_eq!(copy_name(&manifest(".hidden", 1, true), 3), ".hidden_peer3");
        assert_eq!(copy_name(&manifest("v1.2", 1, false), 3), "v1.2_peer3");
    }

    #[test]
    fn a_swarm_that_gets_nothing_for_long_is_noticed() {
        let mut stall = Stall::default();
        assert!(!stall.noticed(STALLED_AFTER, 0));
        assert!(!stall.noticed(STALLED_AFTER * 3, 1));
        assert!(!stall.noticed(STALLED_AFTER * 4, 1));
        assert!(stall.noticed(STALLED_AFTER * 5, 1));
    }
}
