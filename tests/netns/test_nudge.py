"""A segment that was kept back is sent as soon as it may: the nudge has numbers that TCP accepts then."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import PLAIN, SEGMENTS, Pair, rules

from hooker.lab import Lab

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(SEGMENTS, reason="of messages: segments are not held unless that is asked for"),
]
PORT = 7985
TRIES = 4
SERVER = f"""
import socket
listener = socket.create_server(("0.0.0.0", {PORT}))
s, _ = listener.accept()
while s.recv(1):
    s.sendall(bytes(20000))
"""
CLIENT = f"""
import socket, sys, time
s = socket.create_connection((sys.argv[1], {PORT}), 20)
def ask():
    start, got = time.monotonic(), 0
    s.sendall(b"?")
    while got < 20000:
        got += len(s.recv(65536))
    return time.monotonic() - start
ask()
for _ in range({TRIES}):
    print("ready", flush=True)
    sys.stdin.readline()
    print(ask(), flush=True)
"""


@pytest.mark.skipif(PLAIN, reason="TCP is not nudged")
def test_a_segment_without_the_mark_goes_again_at_once_after_bytes_have_come(lab: Lab) -> None:
    """TCP itself would try again after 200 ms, its least retransmission timeout."""
    with Pair.open(lab) as pair:
        assert pair.client
        pair.b.popen([sys.executable, "-c", SERVER])
        pair.b.wait_listening(PORT)
        client = pair.a.popen(
            [sys.executable, "-c", CLIENT, pair.b.v4],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert client.stdin
        assert client.stdout
        took = []
        rules(pair.a, "add table ip t; add chain ip t o { type route hook output priority mangle; }")
        for _ in range(TRIES):
            assert client.stdout.readline() == "ready\n"
            before = pair.client.status()["counters"]
            rules(pair.a, "flush chain ip t o")
            rules(pair.a, f"add rule ip t o tcp dport {PORT} numgen inc mod 1000000 == 0 meta mark set 5")
            client.stdin.write("go\n")
            client.stdin.flush()
            took.append(float(client.stdout.readline()))
            after = pair.client.status()["counters"]
            assert after["kernel.stray-segment-dropped"] == before["kernel.stray-segment-dropped"] + 1
        client.communicate(timeout=20)
    assert min(took) < 0.15, took
