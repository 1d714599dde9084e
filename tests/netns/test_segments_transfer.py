"""Engines that take segments, with real sockets: bytes, half-close, ends, and how little the wire sees."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import pytest
from segments_engine import EngineProcess, engines
from support import eventually, peer, result, results, rules, same

from hooker.lab import INTERFACE, Lab, end_processes

pytestmark = pytest.mark.timeout(120)
KB, MB = 1 << 10, 1 << 20
REST = "sleep:1.5"  # an idle connection is engaged within this time

both_families = pytest.mark.parametrize("family", ["v4", "v6"])


class Bed:
    """Two hosts with an engine each."""

    def __init__(self, lab: Lab, client: EngineProcess, server: EngineProcess) -> None:
        self.lab, self.client, self.server = lab, client, server

    def address(self, family: str) -> str:
        return str(getattr(self.lab.b, family))

    def counts(self) -> list[dict[str, int]]:
        return [engine.counters() for engine in (self.client, self.server)]

    @contextlib.contextmanager
    def engaged(self, payload: int, tcp: int, flows: int = 1) -> Iterator[None]:
        """What happens inside goes by VTL, but for `tcp` bytes of payload; each engine engages `flows`."""
        before = self.counts()
        self.lab.meter.start()
        yield
        time.sleep(0.05)
        wire = self.lab.meter.read()
        assert wire.tcp.payload <= tcp, f"{wire}, {self.counts()}"
        assert wire.vtl.payload >= payload - tcp
        for one, other in zip(before, self.counts(), strict=True):
            assert other["engaged"] - one["engaged"] == flows

    def run(
        self, family: str, port: int, server: list[str], client: list[str]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """What client and server report."""
        one = peer(self.lab.b, "serve", "::" if family == "v6" else "0.0.0.0", port, *server)
        other = peer(self.lab.a, "connect", self.address(family), port, *client)
        return result(other), result(one)


@pytest.fixture(scope="module")
def module_bed() -> Iterator[Bed]:
    with Lab() as lab, engines(lab.a, lab.b) as (client, server):
        yield Bed(lab, client, server)


@pytest.fixture
def bed(module_bed: Bed) -> Iterator[Bed]:
    procs = module_bed.lab.processes
    mark = len(procs)
    try:
        yield module_bed
    finally:
        end_processes(procs[mark:])
        del procs[mark:]


@both_families
def test_bulk_both_ways_engages_in_mid_flow(bed: Bed, family: str) -> None:
    size = 100 * MB
    with bed.engaged(payload=2 * size, tcp=size // 4):
        client, server = bed.run(
            family,
            7100,
            ["recv-all", f"send:{size}", "fin", "close"],
            [f"send:{size}", "fin", "recv-all", "close"],
        )
    same(client, server)
    same(server, client)
    assert client["error"] is server["error"] is None


@both_families
@pytest.mark.parametrize("size", [1, 100, 65537, 5 * MB])
def test_what_is_sent_after_a_rest_does_not_touch_the_wire(bed: Bed, family: str, size: int) -> None:
    with bed.engaged(payload=2 * size, tcp=0):
        client, server = bed.run(
            family, 7101, ["recv-all", f"send:{size}", "fin", "close"],
            [REST, f"send:{size}", "fin", "recv-all", "close"],
        )  # fmt: skip
    same(client, server)
    same(server, client)
    assert client["error"] is server["error"] is None


@both_families
def test_both_directions_at_once(bed: Bed, family: str) -> None:
    rounds = [step for _ in range(48) for step in ("send:65536", "recv:65536")]
    with bed.engaged(payload=6 * MB, tcp=6 * MB):
        client, server = bed.run(
            family, 7102, ["echo-all", "close"], [REST, *rounds, "fin", "recv-all", "close"]
        )
    same(client, server)
    same(server, client)


@both_families
def test_a_half_closed_connection_still_carries_the_other_half(bed: Bed, family: str) -> None:
    with bed.engaged(payload=500_000, tcp=0):
        client, server = bed.run(
            family, 7103, ["recv-all", "sleep:0.3", "send:300000", "close"],
            [REST, "send:200000", "fin", "recv-all", "close"],
        )  # fmt: skip
    same(client, server)
    same(server, client)
    with bed.engaged(payload=500_000, tcp=0):
        client, server = bed.run(
            family, 7104, [REST, "send:200000", "fin", "recv-all", "close"],
            ["recv-all", "sleep:0.3", "send:300000", "close"],
        )  # fmt: skip
    same(client, server)
    same(server, client)


@both_families
def test_a_reset_arrives_as_one(bed: Bed, family: str) -> None:
    with bed.engaged(payload=50_000, tcp=100):
        client, server = bed.run(
            family, 7105, ["recv:50000", "recv-all", "close"], [REST, "send:50000", "sleep:0.3", "rst"]
        )
    assert client["error"] is None
    assert (server["error"], server["received"]) == ("ECONNRESET", 50000)


def test_urgent_data_stays_urgent(bed: Bed) -> None:
    with bed.engaged(payload=0, tcp=0):
        client, server = bed.run(
            "v4",
            7106,
            ["inline", "recv-all", "close"],
            [REST, "send:1000", "send-urgent:1", "send:1000", "fin", "recv-all", "close"],
        )
    same(client, server)


def test_many_connections_at_once(bed: Bed) -> None:
    size, many = 2 * MB, 16
    with bed.engaged(payload=2 * many * size, tcp=0, flows=many):
        back = ["recv-all", f"send:{size}", "fin", "close"]
        server = peer(bed.lab.b, "serve", "0.0.0.0", 7107, *back, options=("--connections", str(many)))
        script = ["sleep:3", f"send:{size}", "fin", "recv-all", "close"]
        clients = [
            peer(bed.lab.a, "connect", bed.lab.b.v4, 7107, *script, options=("--seed", str(n)))
            for n in range(many)
        ]
        ones, others = [result(client) for client in clients], results(server)
    assert {row["error"] for row in ones + others} == {None}
    assert sorted(row["sent_sha256"] for row in ones) == sorted(row["received_sha256"] for row in others)
    assert sorted(row["sent_sha256"] for row in others) == sorted(row["received_sha256"] for row in ones)


def test_flows_that_have_ended_leave_no_slot_behind(bed: Bed) -> None:
    eventually(lambda: [count["flows"] for count in bed.counts()] == [0, 0])


@both_families
def test_a_reader_that_pauses_stops_its_writer_and_nobody_else(bed: Bed, family: str) -> None:
    size = 60 * MB
    slow = peer(
        bed.lab.b, "serve", "::" if family == "v6" else "0.0.0.0", 7108, "sleep:6", "recv-all", "close"
    )
    writer = peer(bed.lab.a, "connect", bed.address(family), 7108, REST, f"send:{size}", "close")
    time.sleep(2.5)
    client, server = bed.run(family, 7109, ["recv-all", "close"], [f"send:{2 * size}", "close"])
    assert client["ended"] - client["started"] < 3
    same(client, server)
    held = [engine.ask("snapshot")["counters"]["slabs"] for engine in (bed.client, bed.server)]
    assert max(held) * 524288 < 64 * MB
    one, other = result(writer), result(slow)
    same(one, other)
    assert one["error"] is other["error"] is None


LARGE = 600  # bytes of a packet
SOON = 4.0  # s; one segment for each of TCP's timeouts, as it was once, took 7


@both_families
def test_what_was_lost_before_the_transport_had_it_comes_again_soon(bed: Bed, family: str) -> None:
    """TCP's first window is lost on a path that drops large packets; then the flow is engaged."""
    port = 7190 + (family == "v6")
    rules(
        bed.lab.b,
        "add table inet n; add chain inet n i { type filter hook prerouting priority 0; };"
        f"add rule inet n i iifname {INTERFACE} tcp dport {port} meta length > {LARGE} drop",
    )
    with bed.engaged(payload=MB, tcp=64 * KB):
        client, server = bed.run(family, port, ["recv-all", "close"], [f"send:{MB}", "close"])
    same(client, server)
    assert (client["error"], server["error"]) == (None, None)
    assert server["last_byte"] - client["started"] < SOON
