"""What one service does is not held against its host, and no connection to it waits longer than over TCP."""

from __future__ import annotations

import socket
import sys
import time

import pytest
from support import PLAIN, SEGMENTS, Pair, any_address, counts, peer, result, same

pytestmark = pytest.mark.timeout(120)
SCRIPT = ("send:3000", "recv:2000", "close")
ANSWER = ("recv:3000", "send:2000", "close")
NEVER_ACCEPTS = """
import socket, sys, time
s = socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=0)
time.sleep(600)
"""
KNOCKS = """
import socket, sys, time
kept = []
for _ in range(5):
    s = socket.socket(); s.setblocking(False); s.connect_ex((sys.argv[1], int(sys.argv[2]))); kept.append(s)
time.sleep(float(sys.argv[3]))
"""


def exchange(pair: Pair, port: int, kind: str = "tcp") -> float:
    """One connection to a service of its own; the seconds it took."""
    server = peer(pair.b, "serve", any_address("v4"), port, *ANSWER, options=("--kind", kind))
    client = peer(pair.a, "connect", pair.b.v4, port, *SCRIPT)
    one, other = result(client), result(server)
    assert (one["error"], other["error"]) == (None, None)
    same(one, other)
    same(other, one)
    return float(one["ended"] - one["started"])


def test_a_full_backlog_leaves_nothing_but_its_own_connections_to_tcp(pair: Pair) -> None:
    with pair.engaged(flows=2):
        exchange(pair, 7970)
        exchange(pair, 7970)
    full = pair.b.popen([sys.executable, "-c", NEVER_ACCEPTS, "7971"])
    pair.b.wait_listening(7971)
    pair.a.run([sys.executable, "-c", KNOCKS, pair.b.v4, "7971", "5"], timeout=30)  # SYNs at 0, 1 and 3 s
    full.kill()
    full.wait()
    with pair.engaged(flows=3):
        exchange(pair, 7970)
        exchange(pair, 7972)
        exchange(pair, 7971)


def left_to_tcp(pair: Pair) -> tuple[int, int]:
    """(connections held at the client, those left to TCP because the peer said so)."""
    if PLAIN:
        return 0, 0
    assert pair.client
    status = pair.client.status()
    return counts(status)["kernel.held"], status["reasons"].get("peer-declines-service", 0)


@pytest.mark.parametrize("kind", ["deferred", "deferred-late"])
def test_a_service_that_defers_its_accept_is_left_to_tcp_without_a_hold(pair: Pair, kind: str) -> None:
    held, left = left_to_tcp(pair)
    for _ in range(3):
        exchange(pair, 7973, kind)
    assert left_to_tcp(pair) == (held, left if PLAIN or SEGMENTS else left + 3)


@pytest.mark.parametrize("kind", ["deferred", "deferred-late"])
def test_a_service_that_begins_to_defer_its_accept_and_one_that_ends(pair: Pair, kind: str) -> None:
    with pair.engaged(flows=2, tcp_payload=None):
        exchange(pair, 7974)
        assert exchange(pair, 7974, kind) < 5  # 15 to 60 s for a client that had committed itself
        exchange(pair, 7974)


def test_a_listener_that_stops_to_defer_is_hooked(pair: Pair) -> None:
    code = (
        "import socket,sys\nl=socket.create_server(('0.0.0.0',7975))\n"
        "for n in (5,0):l.setsockopt(6,9,n)\n"
        "s,_=l.accept();s.recv(9);s.sendall(b'ok')"
    )
    server = pair.b.popen([sys.executable, "-c", code])
    pair.b.wait_listening(7975)
    time.sleep(0.3)
    with pair.engaged():
        result(peer(pair.a, "connect", pair.b.v4, 7975, "send:5", "recv:2", "close"))
        assert server.wait(20) == 0


def test_other_socket_options_pass_as_they_are(pair: Pair) -> None:
    code = (
        "import socket\ns=socket.socket()\n"
        "s.setsockopt(1,9,1);assert s.getsockopt(1,9)==1\n"
        "s.setsockopt(6,9,3);assert s.getsockopt(6,9)==3\n"
        "s.setsockopt(1,25,b'lo\\0');assert s.getsockopt(1,25,16).rstrip(b'\\0')==b'lo'\n"
        "s.setsockopt(1,25,b'\\0'*5000)"
    )
    assert socket.SO_KEEPALIVE == 9
    assert pair.a.run([sys.executable, "-c", code]).returncode == 0
