#!/usr/bin/env python3
"""What a BitTorrent client needs around it to be measured: a metainfo file and a tracker.

    swarm.py torrent FILE PIECE_BYTES TRACKER_PORT OUT    writes OUT, prints nothing
    swarm.py tracker PORT                                 prints READY, and "SEED" for each
                                                          complete peer that announces

The tracker keeps no limits and no state on disk; it introduces whoever announces to all others, and
asks for an announce every two seconds, so that peers which start at once find each other at once.
It is not part of what is weighed.
"""
import hashlib
import http.server
import os
import socket
import struct
import sys
import urllib.parse


def bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    entries = sorted(value.items())
    return b"d" + b"".join(bencode(key) + bencode(entry) for key, entry in entries) + b"e"


def torrent(path, piece_len, port, out):
    hashes = []
    with open(path, "rb") as file:
        while piece := file.read(piece_len):
            hashes.append(hashlib.sha1(piece).digest())
    info = {
        "name": os.path.basename(path),
        "length": os.path.getsize(path),
        "piece length": piece_len,
        "pieces": b"".join(hashes),
        "private": 1,
    }
    with open(out, "wb") as file:
        file.write(bencode({"announce": f"http://127.0.0.1:{port}/announce", "info": info}))


class Tracker(http.server.BaseHTTPRequestHandler):
    peers = {}

    def do_GET(self):
        # Ids and hashes are bytes: Latin-1 keeps each of them as it is.
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query, encoding="latin-1")
        swarm = self.peers.setdefault(query["info_hash"][0], {})
        me = (self.client_address[0], int(query["port"][0]))
        if query.get("event") == ["stopped"]:
            swarm.pop(me, None)
        else:
            swarm[me] = True
        if query["left"][0] == "0":
            print("SEED", flush=True)
        others = [socket.inet_aton(ip) + struct.pack(">H", port) for ip, port in swarm if (ip, port) != me]
        body = bencode({"interval": 2, "min interval": 1, "peers": b"".join(others)})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if sys.argv[1] == "torrent":
        torrent(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
    else:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Tracker)
        print("READY", flush=True)
        server.serve_forever()
