"""A flow costs its engine no descriptor, no socket, no port, and little memory."""

from __future__ import annotations

import resource
import socket
import time
from pathlib import Path

import pytest
from hands import Hands
from support import SLOWNESS, any_address, eventually
from ways import HOOKED, engaged, flows, open_way, outcome

from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(300), pytest.mark.soak]

DESCRIPTORS = 256
PER_FLOW = 1500  # bytes of an engine's memory, with what Python and the allocator add to 512
SLACK = 8 << 20  # bytes of an engine that do not depend on flows
RESTED = 15 * SLOWNESS  # s until all is given back
PROGRAM = 12_500  # flows of one program: a hard limit of descriptors is 20,000 in places
PORT = 7950


@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize(
    "number", [5000, *(pytest.param(n, marks=pytest.mark.soak) for n in (20_000, 50_000))]
)
def test_idle_flows_need_no_descriptors(lab: Lab, way: str, number: int) -> None:
    go = lab.tmp / "go"
    for host in lab.hosts:
        host.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
    with open_way(lab, way) as pair:
        for engine in pair.engines:
            resource.prlimit(engine.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        before = [(engine.rss(), descriptors(engine.pid)) for engine in pair.engines]
        services = -(-number // PROGRAM)
        shares = [number // services] * services
        for n, share in enumerate(shares):
            flows(pair.b, "echo", "0.0.0.0", PORT + n, str(share))
        asking = [
            flows(pair.a, "ask", pair.b.v4, PORT + n, str(share), "--idle", f"{go}{n}")
            for n, share in enumerate(shares)
        ]
        for n in range(services):
            eventually(Path(f"{go}{n}.resting").exists, 240, every=0.1)
        eventually(lambda: engaged(pair) >= number, 60, every=0.25)
        time.sleep(RESTED)  # and nobody asks: the answer's thousand flows are held for some time, as JSON
        after = [engine.rss() for engine in pair.engines]
        for engine, now, (memory, open_before) in zip(pair.engines, after, before, strict=True):
            grown = now - memory
            print(f"engine {engine.host}: {grown / number:.0f} bytes of memory a flow")
            assert descriptors(engine.pid) - open_before < 10
            assert grown < number * PER_FLOW + SLACK
            assert rested(engine) >= number
        for n in range(services):
            Path(f"{go}{n}").touch()
        done = [outcome(one, 240) for one in asking]
        print(done)
        eventually(lambda: not alive(pair.client), 60, every=0.25)
    assert [one["errors"] for one in done] == [{}] * services
    assert [one["wrong"] for one in done] == [0] * services
    assert sum(one["answers"] for one in done) == 2 * number


@pytest.mark.parametrize("way", HOOKED)
def test_the_services_port_number_is_free_on_the_clients_host(lab: Lab, way: str) -> None:
    """Also for a listener that does not know SO_REUSEADDR, while a flow to that number is engaged."""
    with open_way(lab, way) as pair, Hands(lab) as hands:
        client, server = hands.connected(PORT)
        eventually(lambda: engaged(pair) == 1)
        for family in ("v4", "v6"):
            listener = hands.socket(pair.a, family)
            if family == "v6":
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((any_address(family), PORT))
            listener.listen()
        client.sendall(b"x")
        assert server.recv(1) == b"x"


def rested(engine: object) -> int:
    """How many flows have given back what only those that move need."""
    return int(engine.status()["counters"]["twins_rested"])  # type: ignore[attr-defined]


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def alive(engine: object) -> bool:
    """Whether an engine has flows that are not over."""
    states = engine.status()["states"]  # type: ignore[attr-defined]
    return any(state not in ("closed", "tcp") for state in states)
