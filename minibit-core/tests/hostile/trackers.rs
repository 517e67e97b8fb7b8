//! Trackers that lie, stall and break off; and peers that do so to an honest tracker.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use minibit_core::content::Ticket;
use minibit_core::engine::{Node, NodeConfig};
use minibit_core::tracker::Rules;
use minibit_core::types::{PeerId, limits};
use minibit_core::wire::{Destination, Message, PeerAddr, Register};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::scripted::{Wire, frame, text};
use super::world::{World, addr, config, loopback, node, until};

/// A tracker that answers every REGISTRO with these bytes, and then closes or says no more.
struct Tracker {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn tracker(says: Bytes, closes: bool) -> Tracker {
    tracker_at(TcpListener::bind(loopback()).await.unwrap(), says, closes)
}

fn tracker_at(listener: TcpListener, says: Bytes, closes: bool) -> Tracker {
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (says, counted) = (says.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut wire = Wire::new(stream);
                if wire.registered().await.is_some() {
                    wire.write(&says).await;
                    counted.fetch_add(1, Relaxed);
                    if !closes {
                        wire.ended_by_them().await;
                    }
                }
            });
        }
    });
    Tracker { addr, asked, task }
}

/// A stranger that never asked for anything: counts who connects, and closes.
async fn victim() -> Tracker {
    let listener = TcpListener::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Relaxed);
            drop(stream);
        }
    });
    Tracker { addr, asked, task }
}

fn peer_addr(number: u64, addr: SocketAddr) -> PeerAddr {
    PeerAddr { id: PeerId::numbered(number), ip: addr.ip(), port: addr.port() }
}

fn list(peers: Vec<PeerAddr>) -> Bytes {
    frame(&Message::PeerList { peers, interval: 1 })
}

/// Every address of a list is on this machine and nobody listens there, except the last.
fn invented(count: u64, last: SocketAddr) -> Vec<PeerAddr> {
    let dead = |n: u64| SocketAddr::from(([127, 1, (n >> 8) as u8, n as u8], 1));
    let mut peers: Vec<_> = (1..count).map(|n| peer_addr(n, dead(n))).collect();
    peers.push(peer_addr(count, last));
    peers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_victim_that_a_tracker_names_a_thousand_times_is_dialled_a_few_times() {
    let world = World::new(12);
    let (seeder, _sharing) = world.seeder().await;
    let victim = victim().await;
    let mut says = list((1..1000).map(|n| peer_addr(n, victim.addr)).collect()).to_vec();
    for number in 2000..3000 {
        says.extend_from_slice(&frame(&Message::NewPeer(peer_addr(number, victim.addr))));
    }
    says.extend_from_slice(&list(vec![peer_addr(1, addr(&seeder))]));
    let hostile = tracker(says.into(), false).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket_by(&[hostile.addr])).await;
    world.check(&share).await;
    let dials = victim.asked.load(Relaxed);
    assert!(dials <= 8, "{dials} dials");
    receiver.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invented_peers_do_not_hide_the_real_one() {
    let world = World::new(12);
    let (seeder, _sharing) = world.seeder().await;
    // One tracker knows nobody real; when it has named them, an honest one answers.
    let nobody = SocketAddr::from(([127, 2, 0, 1], 1));
    let lies = tracker(list(invented(1000, nobody)), false).await;
    let slow = TcpListener::bind(loopback()).await.unwrap();
    let receiver = node().await;
    let ticket = world.ticket_by(&[lies.addr, slow.local_addr().unwrap()]);
    let honest = async {
        until("the liar was asked", || lies.asked.load(Relaxed) > 0).await;
        tracker_at(slow, list(vec![peer_addr(1, addr(&seeder))]), false)
    };
    let (share, _honest) = tokio::join!(world.start(&receiver, &ticket), honest);
    world.check(&share).await;
    receiver.shutdown().await;
    // And behind invented ones in the same list.
    let mixed = tracker(list(invented(100, addr(&seeder))), false).await;
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket_by(&[mixed.addr])).await;
    world.check(&share).await;
    receiver.shutdown().await;
    seeder.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trackers_that_stall_break_off_or_send_garbage_stop_no_transfer() {
    let world = World::new(40);
    let (seeder, _sharing) = world.seeder().await;
    let goodbye = Message::Goodbye { id: PeerId([0; 16]), reason: Some("no".into()) };
    let hostile = [
        tracker(Bytes::new(), false).await,
        tracker(Bytes::new(), true).await,
        tracker(Bytes::from_static(&[0xff; 4096]), false).await,
        tracker(Bytes::from_static(b"HTTP/1.1 400 Bad Request\r\n\r\n"), true).await,
        tracker(text(r#"{"tipo":"LISTA_PEERS","peers":[{}]}"#), false).await,
        tracker(text(r#"{"tipo":"DANÇA"}"#).repeat(1000).into(), false).await,
        tracker(frame(&Message::Interested), false).await,
        tracker(frame(&goodbye), true).await,
    ];
    let trackers: Vec<_> = hostile.iter().map(|tracker| tracker.addr).collect();
    let ticket = Ticket::new(world.content.share(), trackers, vec![addr(&seeder)]).unwrap();
    let receiver = node().await;
    let share = world.start(&receiver, &ticket).await;
    world.check(&share).await;
    until("all were asked", || hostile.iter().all(|t| t.asked.load(Relaxed) > 0)).await;
    receiver.shutdown().await;
    seeder.shutdown().await;
}

/// A connection to a tracker that has registered somebody.
async fn registered(world: &World, tracker: SocketAddr, number: u64, port: u16) -> Wire {
    let mut wire = Wire::connect(tracker).await;
    let id = PeerId::numbered(number);
    let register =
        Register { port, ..Register::new(id, world.content.share(), Destination::Tracker) };
    wire.say(&Message::Register(register)).await;
    wire
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_send_garbage_stall_or_break_off_cost_a_trackers_others_nothing() {
    let world = World::new(12);
    let rules = Some(Rules::default());
    let tracker = Node::start(NodeConfig { tracker: rules, ..config() }).await.unwrap();
    let at = addr(&tracker);
    let mut stalling = Vec::new();
    for number in 0..40 {
        // Nothing listens there.
        stalling.push(registered(&world, at, 100 + number, 1).await);
        stalling.push(Wire::connect(at).await);
    }
    let garbage = [
        Bytes::from_static(&[0xff; 64]),
        Bytes::from_static(&[0; 64]),
        text(r#"{"tipo":"#),
        text(&format!("{{\"tipo\":\"{}\"}}", "A".repeat(limits::FRAME_BEFORE_HANDSHAKE_MAX))),
        frame(&Message::Interested),
        frame(&Message::Announce { id: PeerId::numbered(9), complete: true }),
    ];
    for (number, bytes) in (200..).zip(garbage) {
        let mut wire = registered(&world, at, number, 1).await;
        wire.write(&bytes).await;
        wire.ended().await;
    }
    for number in 300..320 {
        let wire = registered(&world, at, number, 1).await;
        drop(wire);
    }
    let seeder = node().await;
    let _sharing = seeder.share(world.prepared(), &[at]).await.unwrap();
    let receiver = node().await;
    let share = world.start(&receiver, &world.ticket_by(&[at])).await;
    world.check(&share).await;
    receiver.shutdown().await;
    seeder.shutdown().await;
    drop(stalling);
    until("nobody is left at the tracker", || {
        tracker.tracker_summary().is_some_and(|summary| summary.peers == 0)
    })
    .await;
    tracker.shutdown().await;
}
