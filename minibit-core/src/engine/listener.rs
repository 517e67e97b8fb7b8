//! Accepting connections: one frame from a stranger decides where a connection goes.
//!
//! Until its REGISTRO is here a stranger gets 4 KiB and five seconds. Handshakes are bounded
//! for each address and in all; when there are too many the oldest gives way, because an
//! honest one takes a round trip and only a hostile one grows old.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tracing::Instrument;

use super::context::Clock;
use super::dial::{HANDSHAKE_TIME, read_register};
use super::local::Replaced;
use super::node::NodeInner;
use super::quiet::{Line, Quiet};
use super::share::{Event, ShareHandle, join_lane};
use crate::trade::lock;
use crate::types::limits;
use crate::wire::{Destination, Register};

/// Pause after the system could not give us a connection (out of descriptors, say); it doubles
/// with each more in a row, up to the last.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// See [`ACCEPT_PAUSE`].
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Accepts until the node is gone.
pub(super) async fn run(listener: TcpListener, replaced: Replaced, node: Arc<NodeInner>) {
    let pending = Arc::new(Pending::default());
    let clock = Clock::start();
    let mut told = Quiet::new(1);
    let mut pause = ACCEPT_PAUSE;
    loop {
        match listener.accept().await {
            Ok((stream, addr)) => {
                pause = ACCEPT_PAUSE;
                replaced.settle(&stream);
                admit(stream, addr, &node, &pending);
            }
            Err(error) => {
                let Line { is_told, left_out } = told.line(clock.now());
                if is_told {
                    tracing::warn!(%error, left_out, "could not accept a connection");
                }
                sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

fn admit(stream: TcpStream, addr: SocketAddr, node: &Arc<NodeInner>, pending: &Arc<Pending>) {
    let ip = addr.ip().to_canonical();
    let number = pending.reserve(ip);
    let (node, place) = (Arc::clone(node), Place { pending: Arc::clone(pending), number });
    let shaking_hands = async move {
        let mut stream = stream;
        let mut inbound = BytesMut::new();
        let outcome = timeout(HANDSHAKE_TIME, read_register(&mut stream, &mut inbound)).await;
        match outcome {
            Ok(Ok(register)) => {
                let share = timeout(HANDSHAKE_TIME, node.share_when_open(&register.share));
                let share = share.await.unwrap_or_default();
                drop(place);
                route(&node, share, stream, inbound, register, addr).await;
            }
            Ok(Err(error)) => tracing::debug!(%addr, %error, "bad handshake"),
            Err(_) => tracing::debug!(%addr, "handshake took too long"),
        }
    };
    let task = tokio::spawn(shaking_hands.in_current_span());
    pending.started(number, task.abort_handle());
}

/// Hands a connection to whom its REGISTRO names.
async fn route(
    node: &NodeInner,
    share: Option<ShareHandle>,
    stream: TcpStream,
    inbound: BytesMut,
    register: Register,
    addr: SocketAddr,
) {
    let addr = SocketAddr::new(addr.ip().to_canonical(), addr.port());
    if register.destination == Destination::Tracker {
        node.serve_tracker(stream, inbound, register, addr).await;
        return;
    }
    let Some(share) = share else {
        tracing::debug!(%addr, share = %register.share, "wants a share that is not here");
        return;
    };
    let Some(key) = register.lane else {
        share.context.tell(Event::Accepted { stream, inbound, register, addr });
        return;
    };
    let link = share
        .context
        .share
        .links()
        .values()
        .find(|link| link.key == key && link.agreed.peer == register.id && !link.initiated)
        .cloned();
    match link {
        Some(link) => join_lane(&share.context, link, stream, inbound),
        None => tracing::debug!(%addr, "a lane of no link"),
    }
}

/// Handshakes that are going on, the oldest first.
#[derive(Default)]
struct Pending {
    queue: Mutex<(u64, VecDeque<Handshake>)>,
}

struct Handshake {
    number: u64,
    ip: IpAddr,
    task: Option<AbortHandle>,
}

/// A handshake's place among the pending ones; free once dropped.
struct Place {
    pending: Arc<Pending>,
    number: u64,
}

impl Pending {
    /// Makes room for one more, and takes it.
    fn reserve(&self, ip: IpAddr) -> u64 {
        let mut queue = lock(&self.queue);
        let (next, handshakes) = &mut *queue;
        let of_address = handshakes.iter().filter(|handshake| handshake.ip == ip).count();
        // Many peers on one machine is what `demo` is; whoever is here already needs no flood.
        let oldest = if of_address >= limits::PENDING_PER_ADDR_MAX && !ip.is_loopback() {
            handshakes.iter().position(|handshake| handshake.ip == ip)
        } else {
            (handshakes.len() >= limits::PENDING_MAX).then_some(0)
        };
        if let Some(oldest) = oldest.and_then(|at| handshakes.remove(at))
            && let Some(task) = oldest.task
        {
            task.abort();
        }
        *next += 1;
        handshakes.push_back(Handshake { number: *next, ip, task: None });
        *next
    }

    /// The reserved handshake runs as this task (unless it is over already).
    fn started(&self, number: u64, task: AbortHandle) {
        let mut queue = lock(&self.queue);
        if let Some(handshake) = queue.1.iter_mut().find(|known| known.number == number) {
            handshake.task = Some(task);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut queue = lock(&self.pending.queue);
        queue.1.retain(|handshake| handshake.number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    fn count(pending: &Pending) -> usize {
        lock(&pending.queue).1.len()
    }

    #[tokio::test]
    async fn the_ninth_handshake_of_an_address_ends_its_oldest_and_no_other() {
        let pending = Pending::default();
        let task = tokio::spawn(std::future::pending::<()>());
        let first = pending.reserve(ip(1));
        pending.started(first, task.abort_handle());
        let other = tokio::spawn(std::future::pending::<()>());
        let stranger = pending.reserve(ip(2));
        pending.started(stranger, other.abort_handle());
        for _ in 1..limits::PENDING_PER_ADDR_MAX {
            pending.reserve(ip(1));
        }
        assert!(!task.is_finished());
        pending.reserve(ip(1));
        assert!(task.await.unwrap_err().is_cancelled());
        assert!(!other.is_finished());
        assert_eq!(count(&pending), limits::PENDING_PER_ADDR_MAX + 1);
    }

    #[test]
    fn peers_on_this_machine_may_all_come_at_once() {
        let pending = Pending::default();
        for _ in 0..2 * limits::PENDING_PER_ADDR_MAX {
            pending.reserve(IpAddr::from([127, 0, 0, 1]));
        }
        assert_eq!(count(&pending), 2 * limits::PENDING_PER_ADDR_MAX);
    }

    #[test]
    fn handshakes_are_bounded_in_all_and_leave_their_place_when_over() {
        let pending = Arc::new(Pending::default());
        let mut last = 0;
        for number in 0..=u8::MAX {
            last = pending.reserve(ip(number));
        }
        assert_eq!(count(&pending), limits::PENDING_MAX);
        last = pending.reserve(IpAddr::from([198, 51, 100, 1])).max(last);
        assert_eq!(count(&pending), limits::PENDING_MAX);
        drop(Place { pending: Arc::clone(&pending), number: last });
        assert_eq!(count(&pending), limits::PENDING_MAX - 1);
    }
}
