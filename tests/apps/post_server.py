"""An HTTP server that answers a POST with the SHA-256 of its body: ``post_server.py ADDRESS PORT``.

The answer's ``Longest-Silence`` is the longest time (s) between two pieces of the body.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Hashes bodies as they come."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        digest = hashlib.sha256()
        silence, last = 0.0, time.monotonic()
        while left:
            data = self.rfile.read1(min(left, 1 << 20))  # type: ignore[attr-defined]
            if not data:
                return
            now = time.monotonic()
            silence, last = max(silence, now - last), now
            digest.update(data)
            left -= len(data)
        body = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Longest-Silence", f"{silence:.3f}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Listens on IPv4 and IPv6 alike."""

    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


if __name__ == "__main__":
    Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
