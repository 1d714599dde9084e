"""Many flows over a slow link: what an engine lets them queue is no long round trip for all of them."""

from __future__ import annotations

import re
import statistics
import sys
import time

import pytest
from support import PLAIN, Pair, counts

from hooker.lab import Lab, Link

pytestmark = pytest.mark.timeout(90)
PORT, FLOWS, SIZE = 8411, 100, 1 << 20
LINK = Link(rate=200e6, delay=0.01, queue=1_000_000)  # bytes, 40 ms
SERVER = """
import socket, sys, threading
listener = socket.create_server(
    ("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1000)
def serve(s):
    with s:
        s.recv(1)
        s.sendall(bytes(int(sys.argv[2])))
while True:
    threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""
CLIENT = """
import selectors, socket, sys
watch, got = selectors.DefaultSelector(), {}
for _ in range(int(sys.argv[3])):
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 30)
    got[s] = 0
    watch.register(s, selectors.EVENT_READ)
for s in got:
    s.sendall(b"?")
print("asked", flush=True)
ended = 0
while ended < len(got):
    for key, _ in watch.select(60):
        data = key.fileobj.recv(1 << 16)
        got[key.fileobj] += len(data)
        if not data:
            watch.unregister(key.fileobj)
            ended += 1
print(*set(got.values()))
"""


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_crowd_has_short_round_trips(family: str) -> None:
    """Else all of them repeat after a second and more when an engine dies (RFC 6298: by round trips)."""
    with Lab(link=LINK) as lab, Pair.open(lab) as pair:
        pair.b.popen([sys.executable, "-c", SERVER, str(PORT), str(SIZE)])
        pair.b.wait_listening(PORT)
        to = pair.b.v4 if family == "v4" else pair.b.v6
        pair.a.run([sys.executable, "-c", CLIENT, to, str(PORT), "1"], timeout=60)  # is the service warm?
        client = pair.a.popen([sys.executable, "-c", CLIENT, to, str(PORT), str(FLOWS)], stdout=-1, text=True)
        assert client.stdout
        assert client.stdout.readline() == "asked\n"
        time.sleep(2)
        seen = pair.b.run(["ss", "-tinH", "sport", f"= :{PORT}"], hooked=False, text=True).stdout
        rounds = [float(one) for one in re.findall(r" rtt:([\d.]+)/.* unacked:", seen)]  # ms
        assert client.communicate(timeout=60)[0].split() == [str(SIZE)]
        assert len(rounds) > FLOWS // 2, "they had ended"
        assert statistics.median(rounds) < 250, "60 ms are the path's with its queue full"
        if not PLAIN:
            assert pair.client
            assert counts(pair.client.status())["engaged"] > FLOWS
