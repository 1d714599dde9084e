"""What a peer can make an engine that takes segments hold, walk over, or wait for: its part, for a time."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from segments_engine import EngineProcess, engines
from support import eventually, peer, result, rules, same

from hooker.lab import Lab
from hooker.transports import DEFAULT_PORT
from hooker.vtl.sansio import Endpoint

pytestmark = pytest.mark.timeout(180)
PORT, MB = 7260, 1 << 20
STUCK = 40  # flows of the peer that is not heard any more
MANY = 1200
SENDER = """
import select, socket, sys
made = []
for _ in range(int(sys.argv[3])):
    made.append(s := socket.create_connection((sys.argv[1], int(sys.argv[2])), 20))
    s.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)        # SO_SNDBUFFORCE
    s.sendall(b"x")
    s.setblocking(False)
sys.stdin.readline()
while True:
    for s in select.select([], made, [])[1]:
        try:
            s.send(bytes(1 << 20))
        except BlockingIOError:
            pass
"""
RESTING = textwrap.dedent("""
    import json, resource, socket, sys
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    made = []
    for _ in range(int(sys.argv[3])):
        made.append(s := socket.create_connection((sys.argv[1], int(sys.argv[2])), 20))
        s.sendall(b"x")
        s.recv(1)
    print(json.dumps("resting"), flush=True)
    for _ in sys.stdin:
        print(json.dumps(sorted({s.getsockopt(socket.SOL_SOCKET, 36) for s in made})), flush=True)  # SO_MARK
""")


def deaf(lab: Lab) -> None:
    """From now on nothing of b's engine arrives by IPv4: it acknowledges nothing."""
    rules(lab.a, "add table ip deaf")
    rules(lab.a, "add chain ip deaf in { type filter hook input priority 0; }")
    rules(lab.a, f"add rule ip deaf in ip saddr {lab.b.v4} udp sport {DEFAULT_PORT} drop")


def hearing(lab: Lab) -> None:
    rules(lab.a, "delete table ip deaf")


def test_a_peer_that_acknowledges_nothing_leaves_room_for_others(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without shares, what its flows have sent is all the memory, and what others send is refused."""
    monkeypatch.setenv("HOOKER_TEST_SLABS", "32")
    lab.b.sysctl("net.ipv4.tcp_rmem", f"4096 {8 * MB} {16 * MB}")  # so much each of its flows may have sent
    with engines(lab.a, lab.b) as (client, _):
        many = ("--connections", str(STUCK))
        peer(lab.b, "serve", "0.0.0.0", PORT, "recv-all", "close", options=many)
        server = peer(lab.b, "serve", "::", PORT + 1, "recv-all", "close")
        command = [sys.executable, "-c", SENDER, lab.b.v4, str(PORT), str(STUCK)]
        sender = lab.a.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        eventually(lambda: client.counters()["engaged"] >= STUCK, 60)
        honest = peer(lab.a, "connect", lab.b.v6, PORT + 1, "send:1", "sleep:2", f"send:{30 * MB}", "close")
        eventually(lambda: client.counters()["engaged"] > STUCK, 20)
        print(file=sender.stdin, flush=True)
        time.sleep(0.3)
        deaf(lab)
        time.sleep(3)
        counters = client.counters()
        hearing(lab)
        same(result(honest, 90), result(server, 90))
        names = ("slabs", "slabs_exhausted", "over_share", "data_not_taken", "left")
        print({name: counters[name] for name in names})
        assert counters["over_share"] > 0, "the peer did not get as far as its share"
        assert counters["slabs_exhausted"] == 0
        sender.kill()


def at_rest(lab: Lab) -> subprocess.Popen[str]:
    """MANY connections of a's to b, that have said a byte each way."""
    options = ("--connections", str(MANY))
    peer(lab.b, "serve", "::", PORT, "recv:1", "send:1", "recv-all", "close", options=options)
    command = [sys.executable, "-c", RESTING, lab.b.v6, str(PORT), str(MANY)]
    resting = lab.a.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert resting.stdout
    assert json.loads(resting.stdout.readline()) == "resting"
    return resting


def test_the_end_of_an_association_with_many_flows_is_no_single_step(lab: Lab) -> None:
    """Each of its flows hears of it, those that end meanwhile not."""
    with engines(lab.a, lab.b) as (client, there):
        resting = at_rest(lab)
        eventually(lambda: client.counters()["engaged"] >= MANY, 60)
        there.stop()
        eventually(lambda: client.counters()["left"] == client.counters()["engaged"], 30)
        before = client.counters()["turns"]
        resting.kill()
        eventually(lambda: client.counters()["flows"] == 0, 30)
        assert before >= MANY // 256 - 1


def test_an_engine_that_stops_tells_its_flows_some_at_a_time(lab: Lab) -> None:
    with engines(lab.a, lab.b) as (client, there):
        resting = at_rest(lab)
        eventually(lambda: there.counters()["engaged"] >= MANY, 60)
        client.stop()
        eventually(lambda: there.counters()["left"] == there.counters()["engaged"], 30)
        assert resting.stdin
        assert resting.stdout
        print(file=resting.stdin, flush=True)
        assert json.loads(resting.stdout.readline()) == [0]  # no mark is left
        resting.kill()


@contextlib.contextmanager
def one_that_does_not_greet(lab: Lab) -> Iterator[Any]:
    """A peer whose associations come up, and which says nothing in them."""
    endpoint, end = Endpoint(seed=7), threading.Event()
    sock = lab.b.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((lab.b.v4, DEFAULT_PORT))

    def serve() -> None:
        while not end.is_set():
            now = time.monotonic_ns()
            if select.select([sock], [], [], 0.01)[0]:
                data, address = sock.recvfrom(65536)
                endpoint.receive_datagram(data, address, now)
            if (endpoint.get_timer() or now + 1) <= now:
                endpoint.handle_timer(now)
            for datagram, address in endpoint.datagrams_to_send(now):
                sock.sendto(datagram, address)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield endpoint
    finally:
        end.set()
        thread.join()
        sock.close()


def test_a_peer_that_does_not_greet_is_not_waited_for_for_ever(lab: Lab) -> None:
    def reason(engine: EngineProcess) -> int:
        found: int = engine.ask("snapshot")["reasons"].get("no-answer", 0)
        return found

    with one_that_does_not_greet(lab), engines(lab.a) as (client,):
        server = peer(lab.b, "serve", "0.0.0.0", PORT, "recv-all", "close", hooked=False)
        asking = peer(lab.a, "connect", lab.b.v4, PORT, "sleep:12", "send:1000", "close")
        eventually(lambda: reason(client) == 1, 11)
        assert client.ask("snapshot")["peers"], "the association is not up"
        same(result(asking), result(server))
