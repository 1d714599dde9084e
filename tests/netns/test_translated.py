"""Where this host's own rules keep marked segments from the twin, connections are TCP, soon, counted."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support import KIND, KINDS, PLAIN, SEGMENTS, Pair, counts, peer, result, rules, same

from hooker.lab import INTERFACE, Host, Lab

pytestmark = pytest.mark.timeout(90)
PORT = 7980
SERVICE = "10.9.9.9"
SERVER = """
import contextlib, socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
while True:
    s, _ = listener.accept()
    with s, contextlib.suppress(OSError):
        while data := s.recv(65536):
            s.sendall(data)
"""
CLIENT = """
import os, socket, sys, time
start = time.monotonic()
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
data, got = os.urandom(50000), b""
s.sendall(data)
while len(got) < len(data):
    part = s.recv(65536)
    assert part
    got += part
assert got == data
print(time.monotonic() - start)
"""


def echo(pair: Pair, target: str) -> float:
    done = pair.a.run([sys.executable, "-c", CLIENT, target, str(PORT)], timeout=40)
    return float(done.stdout)


def serve(host: Host) -> subprocess.Popen[bytes]:
    process = host.popen([sys.executable, "-c", SERVER, str(PORT)])
    host.wait_listening(PORT)
    return process


def stays_on_tcp(pair: Pair, target: str, who: str) -> None:
    serve(pair.b)
    with pair.over_tcp(payload=300_000):
        took = [echo(pair, target) for _ in range(3)]
    assert max(took) < 10, took
    if not pair.client or not pair.server:
        return
    cut = pair.client if who == "a" else pair.server
    if SEGMENTS:
        assert counts(cut.status())["engaged"] == 0
    elif who == "a":
        reasons = cut.status()["reasons"]
        here, remembered = reasons["local-path-blocked"], reasons.get("peer-remembered-as-tcp", 0)
        assert here >= 1, "its handshake's last ACK has not come through hk0"
        assert here + remembered == 3, "by the lane's own look or not, the service is remembered"
    else:
        reasons = cut.status()["reasons"]
        assert reasons["hold-timeout"] + reasons.get("local-path-blocked", 0) == 3


def test_a_service_address_that_the_client_translates(lab: Lab) -> None:
    """As kube-proxy does, for TCP and UDP."""
    lab.a.run(["ip", "route", "add", SERVICE, "dev", INTERFACE], hooked=False)
    rules(
        lab.a,
        "add table ip n; add chain ip n o { type nat hook output priority -100; };"
        f"add rule ip n o ip daddr {SERVICE} dnat to {lab.b.v4}",
    )
    with Pair.open(lab) as pair:
        stays_on_tcp(pair, SERVICE, "a")
        if pair.client and SEGMENTS:
            assert counts(pair.client.status())["services_translated"] == 1, "it waited for silence"


FIREWALL = (
    "add table inet f; add chain inet f o { type filter hook output priority 0; policy drop; };"
    f'add rule inet f o oifname "{INTERFACE}" accept'
)


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_firewall_that_lets_out_by_one_interface_only(lab: Lab, who: str) -> None:
    with Pair.open(lab) as pair:
        rules(lab.a if who == "a" else lab.b, FIREWALL)
        stays_on_tcp(pair, pair.b.v4, who)


@pytest.mark.skipif(PLAIN, reason="needs engines")
def test_an_engine_behind_such_a_firewall_says_so_and_does_not_start(lab: Lab) -> None:
    rules(lab.a, FIREWALL)
    with pytest.raises(RuntimeError, match="dropped"):
        lab.a.hooker(*KIND)


@pytest.mark.skipif(PLAIN, reason="TCP holds nothing")
def test_a_held_flow_behind_such_a_firewall_is_counted_as_what_it_is(lab: Lab) -> None:
    """Its server has been asked, and would have answered through hk0: that nobody is in time is not why."""
    with Pair.open(lab, kind="messages") as pair:
        assert pair.server
        serve(pair.b)
        echo(pair, pair.b.v4)  # the engines know each other from now on
        rules(pair.b, FIREWALL)
        echo(pair, pair.b.v4)
        told = pair.server.status()["reasons"]
        assert told["local-path-blocked"] == 1
        assert "hold-timeout" not in told


GREETS = """
import socket, sys
listener = socket.create_server(("0.0.0.0", int(sys.argv[1])))
s, _ = listener.accept()
s.sendall(b"220 ready")
s.recv(1)
"""
HEARS = """
import socket, sys, time
start = time.monotonic()
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
assert s.recv(9) == b"220 ready"
print(time.monotonic() - start)
"""


def test_a_server_that_speaks_first_is_not_kept_waiting_by_what_was_lost(lab: Lab) -> None:
    """Where flows are held, the handshake's last ACK: its TCP would send the SYN-ACK again after a second."""
    with Pair.open(lab) as pair:
        rules(lab.a, FIREWALL)
        pair.b.popen([sys.executable, "-c", GREETS, str(PORT)])
        pair.b.wait_listening(PORT)
        done = pair.a.run([sys.executable, "-c", HEARS, pair.b.v4, str(PORT)], timeout=40)
        assert float(done.stdout) < 0.9


STUBBORN = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
s.sendall(b"1")
assert s.recv(1) == b"1"
print("engaged", flush=True)
sys.stdin.readline()
try:
    s.sendall(b"2")
    print(s.recv(1))
except OSError as error:
    print(type(error).__name__)
"""


TAKES_THE_MARK = (
    "add table ip t; add chain ip t o { type route hook output priority mangle; };"
    f"add rule ip t o tcp dport {PORT} meta mark set 5"
)


def speaks_again(pair: Pair) -> subprocess.Popen[str]:
    """A client that has spoken, and waits."""
    client = pair.a.popen(
        [sys.executable, "-c", STUBBORN, pair.b.v4, str(PORT)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout
    assert client.stdout.readline() == "engaged\n"
    return client


@pytest.mark.skipif(PLAIN, reason="TCP has no marks of ours")
@pytest.mark.parametrize("kind", KINDS)
def test_a_rule_that_takes_the_mark_in_mid_flow(lab: Lab, kind: str) -> None:
    """Segments go by TCP. Pinned flows wait, as behind a firewall that drops: nothing is on the wire."""
    with Pair.open(lab, kind=kind) as pair:
        assert pair.client
        serve(pair.b)
        client = speaks_again(pair)
        rules(pair.a, TAKES_THE_MARK)
        before = pair.client.cpu_seconds()
        lab.meter.start()
        if kind == "messages":
            with pytest.raises(subprocess.TimeoutExpired):
                client.communicate("go\n", timeout=3)
            assert lab.meter.read().tcp.payload == 0
            assert counts(pair.client.status())["kernel.segment-held-back"] > 0
            assert pair.client.cpu_seconds() - before < 0.5
            rules(pair.a, "delete table ip t")
        out, _ = client.communicate("go\n" if kind == "segments" else None, timeout=30)
        assert out == "b'2'\n"
        assert pair.client.cpu_seconds() - before < 1
        assert (lab.meter.read().tcp.payload == 0) == (kind == "messages")


@pytest.mark.skipif(PLAIN, reason="TCP has no engine that looks")
def test_a_flow_whose_application_has_nothing_to_say_is_left_in_peace(hooked_pair: Pair) -> None:
    """It is looked at, and nobody knocks: a knock is a segment of its own."""
    pair = hooked_pair
    server = peer(pair.b, "serve", "0.0.0.0", PORT, "sleep:4", "recv-all", "close")
    client = peer(pair.a, "connect", pair.b.v4, PORT, "sleep:4", "send:1000", "close")
    same(result(client), result(server))
    for engine in pair.engines:
        assert "local-path-blocked" not in engine.status()["reasons"]
