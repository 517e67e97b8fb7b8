#!/usr/bin/env python3
"""One libtorrent peer, tuned for a fast and near network.

    libtorrent_peer.py TORRENT DIRECTORY ADDRESS:PORT

Prints COMPLETE once every byte has passed its check and has left the library for the file, and
UPLOADED and a number when told to end (SIGTERM). What is in the directory is checked at the start, so a seed
does its hashing before it announces.
"""
import signal
import sys

import libtorrent as lt

SETTINGS = {
    # Nothing but the tracker and TCP.
    "enable_dht": False, "enable_lsd": False, "enable_upnp": False, "enable_natpmp": False,
    "enable_outgoing_utp": False, "enable_incoming_utp": False,
    # Peers share an address here; no ciphers; no limits on whom to serve or how fast to connect.
    "allow_multiple_connections_per_ip": True,
    "out_enc_policy": 2, "in_enc_policy": 2,
    "unchoke_slots_limit": -1, "connection_speed": 500, "mixed_mode_algorithm": 0,
    # Deep queues everywhere.
    "max_out_request_queue": 1500, "max_allowed_in_request_queue": 2000,
    "send_buffer_watermark": 3 << 20, "send_buffer_low_watermark": 1 << 20, "send_buffer_watermark_factor": 150,
    "max_queued_disk_bytes": 64 << 20, "aio_threads": 4, "hashing_threads": 2,
    "max_peer_recv_buffer_size": 5 << 20,
    "alert_queue_size": 10000, "suggest_mode": 0,
}


def main(torrent, directory, address):
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(True))
    categories = lt.alert.category_t.status_notification | lt.alert.category_t.storage_notification
    session = lt.session({
        **SETTINGS,
        "listen_interfaces": address,
        "outgoing_interfaces": address.split(":")[0],
        "alert_mask": int(categories | lt.alert.category_t.error_notification),
    })
    params = lt.add_torrent_params()
    params.ti, params.save_path = lt.torrent_info(torrent), directory
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    handle = session.add_torrent(params)
    # Since 2.1 blocks may wait in the library after "finished" and have to be asked for.
    holds_back = tuple(int(part) for part in lt.__version__.split(".")[:2]) >= (2, 1)
    while not ended:
        session.wait_for_alert(200)
        for alert in session.pop_alerts():
            kind = type(alert).__name__
            if kind == "torrent_finished_alert":
                if holds_back:
                    handle.flush_cache()
                else:
                    print("COMPLETE", flush=True)
            elif kind == "cache_flushed_alert" and handle.status().is_seeding:
                print("COMPLETE", flush=True)
            elif "error" in kind or "failed" in kind:
                print(alert.message(), file=sys.stderr, flush=True)
    print("UPLOADED", handle.status().total_payload_upload, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:4])
