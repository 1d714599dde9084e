"""A host's own ways with packets: strict filters, NAT of what it sends itself, link-local addresses."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support import PLAIN, Pair, counts, rules

from hooker.lab import INTERFACE, Host, Lab

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="needs engines")]
PORT = 7970
OTHER = 7971  # of the service that a test makes unreachable by hk0
SERVER = """
import socket, sys, threading
def serve(s, address):
    try:
        s.sendall(address[0].split("%")[0].removeprefix("::ffff:").encode() + b"\\n")
        while data := s.recv(65536):
            s.sendall(data)
    except OSError:
        pass
port = int(sys.argv[1])
listener = socket.create_server(("", port), backlog=100, family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    threading.Thread(target=serve, args=listener.accept(), daemon=True).start()
"""
# prints whom the server has seen, and the longest time that one of the echoes has taken
CLIENT = """
import os, socket, sys, time
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
reader = s.makefile("rb")
seen = reader.readline().decode().strip()
longest = 0
for _ in range(20):
    began = time.monotonic()
    data = os.urandom(3000)
    s.sendall(data)
    assert reader.read(len(data)) == data
    longest = max(longest, time.monotonic() - began)
    time.sleep(0.02)
print(seen, longest)
"""
BYTES = 2 * 20 * 3000  # of one client, both ways


@pytest.fixture(scope="module")
def bed() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, kind="segments") as pair:
        for port in (PORT, OTHER):
            pair.b.popen([sys.executable, "-c", SERVER, str(port)])
            pair.b.wait_listening(port)
        yield pair


def talk(pair: Pair, target: str, port: int = PORT) -> tuple[str, float]:
    done = pair.a.run([sys.executable, "-c", CLIENT, target, str(port)], text=True, timeout=40)
    seen, longest = done.stdout.split()
    return seen, float(longest)


def is_engaged(pair: Pair, target: str) -> None:
    """Two flows in a row: the first one of a service begins on TCP, the second may not."""
    assert pair.client
    before = [engine.status() for engine in pair.engines]
    pair.lab.meter.start()
    for _ in range(2):
        _, longest = talk(pair, target)
        assert longest < 1, "nothing waits until it is missed"
    assert pair.lab.meter.read().tcp.payload < BYTES / 2, "the better part by the transport"
    after = [engine.status() for engine in pair.engines]
    assert counts(after[0])["engaged"] == counts(before[0])["engaged"] + 2
    for one, other in zip(before, after, strict=True):
        assert blocked(one) == blocked(other)
        assert not other["engine"]["blocked"]


def blocked(status: dict[str, Any]) -> int:
    return int(status["reasons"].get("local-path-blocked", 0))


def test_strict_reverse_path_filters_on_both_hosts(bed: Pair) -> None:
    """Nobody's address is routed to hk0, so a strict filter would drop all that the engine says."""
    for host in bed.lab.hosts:
        host.sysctl("net.ipv4.conf.all.rp_filter", "1")
    try:
        is_engaged(bed, bed.b.v4)
    finally:
        for host in bed.lab.hosts:
            host.sysctl("net.ipv4.conf.all.rp_filter", "0")


def nat(host: Host, family: str, rule: str) -> None:
    rules(
        host,
        f"add table {family} n; add chain {family} n p {{ type nat hook postrouting priority 100; }};"
        f"add rule {family} n p {rule}",
    )


@pytest.mark.parametrize("family", ["ip", "ip6"])
@pytest.mark.parametrize("which", ["", f"oifname {INTERFACE} "])
@pytest.mark.parametrize("who", ["a", "b"])
def test_a_host_that_masquerades_what_it_sends_itself(bed: Pair, who: str, which: str, family: str) -> None:
    """As a container host does: by one interface, or whatever it sends, by hk0 too."""
    host = bed.a if who == "a" else bed.b
    nat(host, family, which + "masquerade")
    try:
        is_engaged(bed, bed.b.v4 if family == "ip" else bed.b.v6)
    finally:
        rules(host, f"delete table {family} n")


def test_a_host_that_sends_from_another_address_than_its_sockets_have(bed: Pair) -> None:
    """One flow finds out, and waits for it; the service is then left to TCP from the beginning."""
    assert bed.client
    other = f"10.77.{bed.lab.subnet}.50"
    bed.a.run(["ip", "address", "add", f"{other}/24", "dev", INTERFACE], hooked=False)
    nat(bed.a, "ip", f"tcp dport {OTHER} snat to {other}")
    try:
        bed.lab.meter.start()
        talks = [talk(bed, bed.b.v4, OTHER) for _ in range(6)]
        assert bed.lab.meter.read().tcp.payload >= 6 * BYTES
    finally:
        rules(bed.a, "delete table ip n")
        bed.a.run(["ip", "address", "del", f"{other}/24", "dev", INTERFACE], hooked=False)
    assert {seen for seen, _ in talks} == {other}
    took = [longest for _, longest in talks]
    assert sum(one > 0.5 for one in took) <= 1, took
    assert max(took) < 3
    assert blocked(bed.client.status()) >= 5
    assert not bed.client.status()["engine"]["blocked"], "other services go on"


def link_local(host: Host) -> str:
    done = host.run(["ip", "-6", "-j", "address", "show", "dev", INTERFACE], hooked=False, text=True)
    (found,) = (a["local"] for a in json.loads(done.stdout)[0]["addr_info"] if a["scope"] == "link")
    return str(found)


def test_a_link_local_address_is_left_to_tcp_at_once(bed: Pair) -> None:
    """Its scope binds the socket to the link's device, which the mark would lead it past."""
    assert bed.client
    before = bed.client.status()
    bed.lab.meter.start()
    talks = [talk(bed, f"{link_local(bed.b)}%{INTERFACE}") for _ in range(3)]
    assert bed.lab.meter.read().tcp.payload >= 3 * BYTES
    assert {seen for seen, _ in talks} == {link_local(bed.a)}
    assert max(longest for _, longest in talks) < 0.5, "nobody is asked, and nothing waits"
    after = bed.client.status()
    assert counts(after)["engaged"] == counts(before)["engaged"]
    told = [status["reasons"].get("socket-bound-to-device", 0) for status in (before, after)]
    assert told[1] - told[0] == 3
