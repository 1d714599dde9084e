"""Connects as fast as it can, or accepts what comes: ``connect_peer.py serve|connect ADDRESS PORT``

The client waits for a line with a number of seconds, connects and closes for that long, and answers with
their number and the seconds. It closes with a reset, so no TIME_WAIT piles up.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

LINGER = struct.pack("ii", 1, 0)


def serve(address: str, port: int) -> None:
    """Accept and close for ever."""
    with socket.create_server((address, port), backlog=4096) as listener:
        while True:
            listener.accept()[0].close()


def connect(address: str, port: int) -> None:
    """Answer each line on standard input with a rate."""
    for line in sys.stdin:
        start, count = time.perf_counter(), 0
        until = start + float(line)
        while time.perf_counter() < until:
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
                sock.connect((address, port))
            count += 1
        print(count, time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        {"serve": serve, "connect": connect}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
