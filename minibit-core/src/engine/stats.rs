//! Snapshots of a share's progress for those who watch: the command line, tests, metrics.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::context::ShareContext;
use super::disk::DiskQueue;
use crate::trade::{Link, lock};
use crate::types::PeerId;

/// Where a share stands at one moment. Sums are since it was opened.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct ShareStats {
    /// Pieces of the selected files.
    pub pieces_total: u32,
    /// Of these, verified and written.
    pub pieces_have: u32,
    /// Bytes of the selected files.
    pub bytes_total: u64,
    /// Of these, verified and written.
    pub bytes_have: u64,
    /// Of these, what was here from an earlier run or given at the start.
    pub bytes_resumed: u64,
    /// Payload bytes received in blocks that were asked for.
    pub bytes_downloaded: u64,
    /// Payload bytes sent.
    pub bytes_uploaded: u64,
    /// Payload bytes received and thrown away.
    pub bytes_wasted: u64,
    /// Peers linked to at the moment.
    pub links: usize,
    /// Of these, with every piece.
    pub seeders: usize,
    /// Of these, with something that is wanted here and not here yet, as far as they have not let
    /// us down with it: saying that one holds it costs nothing.
    pub sources: usize,
    /// Where peers are that have something that is wanted here and not here yet, and let us down with it: they do
    /// not answer, or refuse.
    pub unanswering: Vec<SocketAddr>,
    /// For how long no bytes of blocks have come over any of the links that ever brought some; `None` if none did.
    pub silent: Option<Duration>,
    /// A link ended without a goodbye, and none was made since.
    pub lost_contact: bool,
    /// Connections made or accepted, lanes included.
    pub connections: u64,
    /// Messages sent to peers, BLOCO frames included.
    pub messages_sent: u64,
    /// BLOCO frames sent.
    pub blocks_sent: u64,
    /// Pieces fetched and verified.
    pub pieces_fetched: u64,
    /// Pieces fetched whose bytes were wrong.
    pub pieces_refused: u64,
    /// Pieces not here that peers had and withdrew, as they do when their file was changed.
    pub pieces_withdrawn: u64,
    /// Most buffers that ever waited for the disk at once.
    pub disk_queue_peak: usize,
    /// How many may wait; then sockets are not read.
    pub disk_queue_places: usize,
    /// Since the share was opened.
    pub elapsed: Duration,
    /// From opening to the last verified piece, once there.
    pub completed_after: Option<Duration>,
    /// Why nothing is asked for at the moment.
    pub paused: Option<String>,
    /// What the user should know, oldest first.
    pub warnings: Vec<String>,
    /// Every tracker it is announced to.
    pub trackers: Vec<TrackerStats>,
}

/// Where the dealings with one tracker stand.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TrackerStats {
    /// Where it is.
    pub addr: SocketAddr,
    /// Why it does not answer, if it does not.
    pub problem: Option<String>,
}

impl ShareStats {
    pub(super) fn of(context: &ShareContext) -> Self {
        let share = &context.share;
        let counters = &share.counters;
        let known: Vec<Arc<Link>> = share.links().values().cloned().collect();
        let (unanswering, sources): (Vec<&Link>, Vec<&Link>) = known
            .iter()
            .map(Arc::as_ref)
            .filter(|link| share.ledger.wants_any(&link.holdings))
            .partition(|link| link.lets_us_down());
        let (now, bytes_left) = (context.now(), share.bytes_left());
        Self {
            pieces_total: context.pieces_wanted,
            pieces_have: context.pieces_wanted.saturating_sub(share.ledger.wanted_left()),
            bytes_total: context.bytes_wanted,
            bytes_have: context.bytes_wanted.saturating_sub(bytes_left),
            bytes_resumed: context.bytes_resumed,
            bytes_downloaded: counters.downloaded.load(Relaxed),
            bytes_uploaded: counters.uploaded.load(Relaxed),
            bytes_wasted: counters.wasted.load(Relaxed),
            links: known.len(),
            seeders: known.iter().filter(|link| link.holdings.is_full()).count(),
            sources: sources.len(),
            unanswering: unanswering.iter().map(|link| link.addr).collect(),
            silent: known.iter().filter_map(|link| link.silent_since_it_gave(now)).min(),
            lost_contact: context.lost_contact.load(Relaxed),
            connections: counters.connections.load(Relaxed),
            messages_sent: counters.messages_sent.load(Relaxed),
            blocks_sent: counters.blocks_sent.load(Relaxed),
            pieces_fetched: counters.pieces_fetched.load(Relaxed),
            pieces_refused: counters.pieces_refused.load(Relaxed),
            pieces_withdrawn: counters.pieces_withdrawn.load(Relaxed),
            disk_queue_peak: context.disk.deepest(),
            disk_queue_places: DiskQueue::places(),
            elapsed: now.saturating_sub(context.opened),
            completed_after: context
                .completed_at()
                .map(|completed| completed.saturating_sub(context.opened)),
            paused: lock(&context.pause_reason).clone(),
            warnings: lock(&context.warnings).clone(),
            trackers: context
                .trackers
                .iter()
                .map(|known| TrackerStats { addr: known.addr, problem: known.problem() })
                .collect(),
        }
    }
}

/// Where one link stands at one moment. Sums are since it was made.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LinkStats {
    /// Who it is with.
    pub peer: PeerId,
    /// Where the peer is.
    pub addr: SocketAddr,
    /// Connections it has.
    pub lanes: u8,
    /// Pieces the peer holds.
    pub pieces: u32,
    /// Bytes of verified pieces from it.
    pub bytes_from: u64,
    /// Payload bytes sent to it.
    pub bytes_to: u64,
    /// Round trip of a request, 0 while unknown.
    pub round_trip: Duration,
    /// We do not answer it.
    pub choking: bool,
    /// It does not answer us.
    pub choked: bool,
}

impl LinkStats {
    pub(super) fn of(link: &Link) -> Self {
        Self {
            peer: link.agreed.peer,
            addr: link.addr,
            lanes: link.lane_count.load(Relaxed),
            pieces: link.holdings.len(),
            bytes_from: link.bytes_from(),
            bytes_to: link.bytes_to(),
            round_trip: link.round_trip(),
            choking: link.is_choking(),
            choked: link.is_choked(),
        }
    }
}
