//! The table at the end of the demo: what each peer did, in columns.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use super::json::{Demo, DemoPeer};
use super::units::{Bytes, Time};

/// The demo's table and the line under it.
pub(crate) fn demo(demo: &Demo, peers: &[DemoPeer]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header([
        "peer",
        "time",
        "messages",
        "blocks",
        "connections",
        "down",
        "up",
        "complete",
    ]);
    for peer in peers {
        table.add_row([
            peer.peer.to_string(),
            time(peer.seconds),
            peer.messages_sent.to_string(),
            peer.blocks_sent.to_string(),
            peer.connections.to_string(),
            Bytes(peer.downloaded).to_string(),
            Bytes(peer.uploaded).to_string(),
            if peer.success { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n{}", summary(demo))
}

/// `10 peers, 100 pieces of 16.0 KiB, start seed: 100 % complete in 87 ms; ...`
fn summary(demo: &Demo) -> String {
    format!(
        "{} peers, {} pieces of {}, start {}: {:.0} % complete in {}, \
         {:.1} messages sent per peer, {} connections, slowest peer {}",
        demo.peers,
        demo.pieces,
        Bytes(demo.piece_size),
        demo.start,
        // Down: 100 % is all of them.
        (demo.success_rate * 100.0).floor(),
        time(demo.seconds),
        demo.messages_per_peer,
        demo.connections,
        demo.slowest_peer,
    )
}

fn time(seconds: f64) -> String {
    Time(Duration::try_from_secs_f64(seconds).unwrap_or_default()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_each_peer_and_tells_who_failed() {
        let peer = |peer, success| DemoPeer {
            peer,
            success,
            seconds: 0.087,
            messages_sent: 61,
            blocks_sent: 50,
            connections: 9,
            downloaded: 1 << 20,
            uploaded: 2 << 20,
            pieces_refused: 0,
        };
        let peers = [peer(0, true), peer(1, false)];
        let whole = Demo {
            peers: 2,
            start: "seed".into(),
            bytes: 1 << 20,
            pieces: 64,
            piece_size: 16384,
            seconds: 0.087,
            success_rate: 0.5,
            messages_per_peer: 61.0,
            connections: 9,
            slowest_peer: 1,
        };
        let text = demo(&whole, &peers);
        assert_eq!(text.matches("87 ms").count(), 3, "{text}");
        assert!(
            text.contains("yes") && text.contains("NO") && text.contains("50 % complete"),
            "{text}"
        );
    }
}
