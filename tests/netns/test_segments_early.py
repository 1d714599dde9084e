"""Connections to a warm service: engaged from their first byte, and like TCP's whatever else happens."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from segments_engine import EngineProcess, engines
from support import eventually, peer, result, same

from hooker.lab import INTERFACE, Lab, end_processes
from hooker.lab.link import Link

pytestmark = pytest.mark.timeout(180)
SHORT = Path(__file__).parents[1] / "apps" / "short.py"
both_families = pytest.mark.parametrize("family", ["v4", "v6"])
SMALL = (100, 1000)  # bytes of a request and an answer
ports = itertools.count(7300)


class Bed:
    """Two hosts with an engine each, and short connections between them."""

    def __init__(self, lab: Lab, both: list[EngineProcess]) -> None:
        self.lab, self.both = lab, both

    def serve(self, *options: str, family: str = "v4", port: int = 0) -> int:
        port = port or next(ports)
        where = "::" if family == "v6" else "0.0.0.0"
        command = [sys.executable, str(SHORT), "serve", where, str(port), *options]
        self.server = self.lab.b.popen(command, stdout=subprocess.PIPE, text=True)
        assert self.server.stdout
        assert self.server.stdout.readline() == "listening\n"
        return port

    def begin(
        self, port: int, count: int, sizes: tuple[int, int] = SMALL, *, threads: int = 1, family: str = "v4",
        hooked: bool = True,
    ) -> subprocess.Popen[str]:  # fmt: skip
        numbers = [str(n) for n in (port, count, *sizes, threads)]
        command = [sys.executable, str(SHORT), "get", str(getattr(self.lab.b, family)), *numbers]
        return self.lab.a.popen(command, hooked=hooked, stdout=subprocess.PIPE, text=True)

    @staticmethod
    def outcome(proc: subprocess.Popen[str]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(proc.communicate(timeout=120)[0])
        return found

    def get(self, port: int, count: int, *args: Any, **options: Any) -> dict[str, Any]:
        """All are right."""
        found = self.outcome(self.begin(port, count, *args, **options))
        assert (found["right"], found["errors"]) == (count, {}), found
        return found

    def warm(self, port: int, family: str = "v4") -> None:
        """One connection is engaged, so the service is known."""
        was = self.counts()[0]["engaged"]

        def engaged() -> bool:
            self.get(port, 1, (100, 30_000), family=family)
            return self.counts()[0]["engaged"] > was

        eventually(engaged, every=0.2)

    def counts(self) -> list[dict[str, int]]:
        return [engine.counters() for engine in self.both]

    @contextlib.contextmanager
    def counted(self) -> Iterator[list[dict[str, int]]]:
        """What each engine counts inside."""
        found: list[dict[str, int]] = []
        before = self.counts()
        yield found
        after = self.counts()
        found += [{k: b[k] - a[k] for k in a} for a, b in zip(before, after, strict=True)]


@pytest.fixture(scope="module")
def module_bed() -> Iterator[Bed]:
    with Lab() as lab, engines(lab.a, lab.b) as both:
        yield Bed(lab, both)


@pytest.fixture
def bed(module_bed: Bed) -> Iterator[Bed]:
    procs = module_bed.lab.processes
    mark = len(procs)
    try:
        yield module_bed
    finally:
        end_processes(procs[mark:])
        del procs[mark:]


@pytest.fixture
def own_bed() -> Iterator[Bed]:
    """Whose engines may be killed."""
    with Lab() as lab, engines(lab.a, lab.b) as both:
        yield Bed(lab, both)


@both_families
def test_only_the_handshake_is_on_the_wire(bed: Bed, family: str) -> None:
    count = 50
    port = bed.serve(family=family)
    bed.warm(port, family)
    time.sleep(0.2)
    bed.lab.meter.start()
    bed.get(port, count, family=family, hooked=False)
    tcp = bed.lab.meter.read().tcp.packets
    for _ in range(5):
        with bed.counted() as counts:
            bed.lab.meter.start()
            bed.get(port, count, family=family)
            time.sleep(0.2)
            wire = bed.lab.meter.read()
        client, server = counts
        # what is not acknowledged within 10 ms goes to the wire, too, and the service cools for a second
        late = client["early_on_wire"] + server["early_on_wire"]
        if not late:
            break
        time.sleep(1.5)
        bed.warm(port, family)
    assert client["early"] >= count - 1 - late, (client, server)
    assert wire.tcp.packets <= 3 * count + 12 * (late + count - client["early"])
    assert wire.tcp.payload_packets <= late + 4 * (count - client["early"])
    assert client["engaged"] == server["engaged"] == count
    assert client["segments_bridged"] + server["segments_bridged"] <= 4 * (late + count - client["early"])
    datagrams = client["datagrams_sent"] + server["datagrams_sent"]
    # the transport's own acknowledgements go alone when a machine is too busy to answer within 1 ms
    assert wire.tcp.packets + datagrams <= 1.5 * tcp, f"{wire.tcp.packets} + {datagrams} for {tcp}"


DROPPED = """
table inet f {
    chain in { type filter hook prerouting priority raw;
        meta l4proto tcp tcp flags & (syn | ack | fin | psh) == ack meta length { 68, 88 } drop
    }
}
"""  # a bare ACK with the option


@both_families
@pytest.mark.parametrize("request_size", [100, 20_000])
def test_a_lost_ack_does_not_leave_it_to_tcp(own_bed: Bed, family: str, request_size: int) -> None:
    """The first bytes end the handshake, also where the engine puts them on the wire."""
    bed = own_bed
    port = bed.serve(family=family)
    late = 0
    for _ in range(4):
        bed.warm(port, family)
        with bed.counted() as counts:
            bed.lab.b.run(["nft", DROPPED], hooked=False)
            bed.get(port, 1, (request_size, 30_000), family=family)
            bed.lab.b.run(["nft", "delete table inet f"], hooked=False)
        late += counts[0]["early_on_wire"]
        assert [count["opened"] for count in counts] == [1, 1]
        time.sleep(1.2)  # the service cools
    assert late


@pytest.mark.parametrize("request_size", [0, 1, 1400, 20_000, 100_000])
@pytest.mark.parametrize("answer_size", [0, 1, 1400, 300_000])
def test_every_byte_is_right(bed: Bed, request_size: int, answer_size: int) -> None:
    port = bed.serve()
    bed.warm(port)
    with bed.counted() as counts:
        bed.get(port, 12, (request_size, answer_size), threads=3)
    client, server = counts
    assert client["early"] >= 1
    assert client["engaged"] == server["engaged"]


@both_families
def test_a_server_that_speaks_first(bed: Bed, family: str) -> None:
    port = next(ports)
    where = "::" if family == "v6" else "0.0.0.0"
    with bed.counted() as counts:
        for _ in range(4):
            server = peer(
                bed.lab.b, "serve", where, port, "send:3000", "recv:700", "fin", "recv-all", "close"
            )
            client = peer(
                bed.lab.a, "connect", getattr(bed.lab.b, family), port, "recv:3000", "send:700", "fin",
                "recv-all", "close",
            )  # fmt: skip
            one, other = result(client), result(server)
            same(one, other)
            same(other, one)
            assert one["error"] is other["error"] is None
            time.sleep(0.2)
    assert counts[0]["early"] >= 1


def test_a_warm_service_saves_round_trips() -> None:
    """100 kB at 100 ms: what TCP needs more than four round trips for after connect()."""
    link = Link(delay=0.05)
    with Lab(link=link) as lab, engines(lab.a, lab.b) as both:
        bed = Bed(lab, both)
        port = bed.serve()
        plain = bed.get(port, 1, (100, 100_000), hooked=False)["times"][0][1] / link.rtt
        bed.warm(port)
        found = bed.get(port, 4, (100, 100_000))["times"]
        best = min(took for _, took in found) / link.rtt
        assert bed.counts()[0]["early"] >= 4
        assert plain > 3, f"plain TCP needed {plain:.1f} round trips"
        assert best < 2.5, f"{best:.2f} round trips"


@pytest.mark.parametrize("loss", [0.01, pytest.param(0.08, marks=pytest.mark.soak)])
def test_losses_are_repaired(loss: float) -> None:
    with Lab(link=Link(delay=0.002)) as lab, engines(lab.a, lab.b) as both:
        bed = Bed(lab, both)
        port = bed.serve()
        bed.warm(port)
        lab.link.change(loss=loss)
        with bed.counted() as counts:
            bed.get(port, 200, (300, 6000), threads=4)
        client = counts[0]
        assert client["early"] > 20 or (client["early"] and client["services_cooled"]), client


def test_a_service_that_defers_accepts_is_left_alone(bed: Bed) -> None:
    """Its host drops the handshake's last ACK, so what comes by the transport finds no connection."""
    port = bed.serve()
    bed.warm(port)
    end_processes([bed.server])
    bed.serve("defer", port=port)
    with bed.counted() as counts:
        found = bed.get(port, 40)
    client = counts[0]
    assert client["early"] <= 10, client
    assert client["services_cooled"] >= 1
    assert max(took for _, took in found["times"]) < 2


def test_a_full_backlog(bed: Bed) -> None:
    port = bed.serve()
    bed.warm(port)
    end_processes([bed.server])
    bed.serve("backlog=1", "slow=0.05", port=port)
    plain = bed.get(port, 24, threads=8, hooked=False)["times"]
    found = bed.get(port, 24, threads=8)["times"]
    slowest = max(sum(t) for t in plain)
    assert max(sum(t) for t in found) < 3 * slowest + 5


def test_a_service_that_is_bound_to_a_device(bed: Bed) -> None:
    """It was not: an injected segment would meet no socket, and its host would reset the connection."""
    port = bed.serve()
    bed.warm(port)
    end_processes([bed.server])
    bed.serve(f"device={INTERFACE}", port=port)
    with bed.counted() as counts:
        bed.get(port, 20)
    assert counts[0]["early"] == counts[0]["engaged"] == 0
    assert counts[1]["injected"] == 0


def test_another_engine_behind_the_same_service(own_bed: Bed) -> None:
    """The SYN-ACK says which run of which engine answers, and only the one we know counts."""
    bed = own_bed
    port = bed.serve()
    bed.warm(port)
    bed.both[1].kill9()
    before = bed.both[0].counters()["early"]
    bed.get(port, 20)
    assert bed.both[0].counters()["early"] == before
    bed.both[1] = EngineProcess(bed.lab.b)
    bed.both[1].wait_ready()
    bed.get(port, 5)
    bed.warm(port)

    def early() -> bool:
        with bed.counted() as counts:
            bed.get(port, 10)
        return counts[0]["early"] >= 8

    # what is not acknowledged within 10 ms, on a busy machine, lets the service cool for a second
    eventually(early, every=0.5)


@pytest.mark.parametrize(
    "victims",
    [pytest.param((0,), marks=pytest.mark.soak), pytest.param((1,), marks=pytest.mark.soak), (0, 1)],
    ids=["client's", "server's", "both"],
)
def test_engines_killed_among_many_short_connections(own_bed: Bed, victims: tuple[int, ...]) -> None:
    bed = own_bed
    port = bed.serve()
    bed.warm(port)
    client = bed.begin(port, 3000, (500, 5000), threads=6)
    eventually(lambda: bed.counts()[0]["early"] > 200)
    for victim in victims:
        bed.both[victim].kill9()
    found = bed.outcome(client)
    assert (found["right"], found["errors"]) == (3000, {})
    assert max(took for _, took in found["times"]) < 10
