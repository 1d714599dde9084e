"""A program connects to thousands of addresses, of which none answers: what the engine holds is bounded."""

from __future__ import annotations

import sys

import pytest
from hands import Hands, received
from support import Pair, counts, eventually

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)
PORT, NUMBER = 7340, 6000
REACHED = 1024 + 4 * 256  # at once, and in some seconds
MEMORY = 64 << 20  # bytes; an association has 8 KiB, and what its transport keeps

CONNECTS = """
import ipaddress, resource, socket, sys, time
first, number = ipaddress.ip_address(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (number + 100, number + 100))
made = []
for n in range(number):
    made.append(socket.socket())
    made[-1].setblocking(False)
    made[-1].connect_ex((str(first + n), 443))
print("done", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", ["segments", "messages"])
def test_one_who_connects_to_everybody_harms_nobody_else(kind: str) -> None:
    with Lab() as lab, Pair.open(lab, "ab", ("--intercept", kind), kind=kind) as pair, Hands(lab) as hands:
        client, server = hands.connected(PORT)
        lab.a.run(["ip", "route", "add", "198.18.0.0/15", "via", lab.b.v4], hooked=False)
        before = pair.client.rss()
        scanner = lab.a.popen([sys.executable, "-I", "-c", CONNECTS, "198.18.0.1", str(NUMBER)], stdout=-1)
        assert scanner.stdout is not None
        assert scanner.stdout.readline() == b"done\n"
        eventually(lambda: counts(pair.client.status())["peers_not_reached"] > NUMBER - REACHED)
        assert pair.client.rss() - before < MEMORY
        for _ in range(100):
            client.sendall(b"?")
            assert received(server, 1) == b"?"
        engaged = counts(pair.client.status())["engaged"]
        hands.connected(PORT + 1)
        eventually(lambda: counts(pair.client.status())["engaged"] == engaged + 1)
