"""Who may speak to the engine by its device: sockets that it has marked, and no other user of the host."""

from __future__ import annotations

import subprocess
import sys

import pytest
from segments_engine import engines
from support import eventually, peer, result

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(60)
PORT, SENT = 7230, 200

NOBODY = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
to = sys.argv[1]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, 25, b"hk0")         # SO_BINDTODEVICE: no privilege is needed
    for i in range(int(sys.argv[2])):
        s.sendto(bytes(40), (to, 9 + i % 5))
with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as s:
    s.setsockopt(socket.SOL_SOCKET, 25, b"hk0")
    s.settimeout(0.2)
    print(s.connect_ex((to, 80)))
"""


def test_a_local_user_without_privileges_does_not_reach_the_engine(lab: Lab) -> None:
    """By IPv4. The device has no IPv6 address, so nobody finds a route for that."""
    with engines(lab.a) as (engine,):
        before = engine.counters()
        command = [sys.executable, "-c", NOBODY, lab.b.v4, str(SENT)]
        sent = lab.a.popen(command, hooked=False, stdout=subprocess.PIPE)
        assert sent.wait(20) == 0
        eventually(lambda: engine.counters()["kernel.stranger-at-device"] > SENT)
        after = engine.counters()
        assert after["segments"] == before["segments"]
        assert after["segments_refused"] == after["segments_unknown"] == 0


def test_marked_sockets_still_reach_it(lab: Lab) -> None:
    """Those whose connection ends in TIME_WAIT, too: that has the mark, but no socket."""
    with engines(lab.a, lab.b) as (client, _):
        for _ in range(3):
            server = peer(lab.b, "serve", "0.0.0.0", PORT, "recv-all", "close")
            sender = peer(lab.a, "connect", lab.b.v4, PORT, "send:200000", "close")
            assert result(sender, 20)["sent"] == result(server, 20)["received"]
        counters = client.counters()
        assert counters["engaged"] > 0
        assert counters["kernel.stranger-at-device"] == 0
