"""The way back: an engine killed or stopped in mid-transfer, its peer's, both; and forward again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from segments_engine import EngineProcess, engines
from support import eventually, peer, result, same

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)
MB = 1 << 20
SIZE = 300 * MB


class Transfer:
    """From client to server, in its middle."""

    def __init__(self, lab: Lab, both: list[EngineProcess], *after: str, size: int = SIZE) -> None:
        self.lab, self.both = lab, both
        self.progress = lab.tmp / f"progress-{time.monotonic_ns()}"
        lab.meter.start()
        self.server = peer(lab.b, "serve", "0.0.0.0", 7200, "recv-all", "send:1000", "fin", "close")
        script = [f"send:{size}", *after, "fin", "recv-all", "close"]
        self.client = peer(
            lab.a, "connect", lab.b.v4, 7200, *script, options=("--progress", str(self.progress))
        )
        eventually(lambda: self.sent() > size // 10)
        self.carried = lab.meter.read().vtl.payload
        assert self.carried > size // 20, "it was not engaged"

    def sent(self) -> int:
        return int(self.progress.read_text() or 0) if self.progress.exists() else 0

    def ends_well(self) -> float:
        """All has arrived, both ways, without an error. Returns the longest silence on the wire, seconds."""
        longest, seen, since = 0.0, 0, time.monotonic()
        while self.client.poll() is None:
            time.sleep(0.01)
            wire = self.lab.meter.read()
            if wire.tcp.payload + wire.vtl.payload != seen:
                longest = max(longest, time.monotonic() - since)
                seen, since = wire.tcp.payload + wire.vtl.payload, time.monotonic()
        one, other = result(self.client), result(self.server)
        same(one, other)
        same(other, one)
        assert one["error"] is other["error"] is None
        return longest


@pytest.fixture
def both() -> Iterator[tuple[Lab, list[EngineProcess]]]:
    with Lab() as lab, engines(lab.a, lab.b) as made:
        yield lab, made


@pytest.mark.parametrize("victims", [(0,), (1,), (0, 1)], ids=["client's", "server's", "both"])
def test_a_killed_engine_is_not_noticed(
    both: tuple[Lab, list[EngineProcess]], victims: tuple[int, ...]
) -> None:
    lab, made = both
    transfer = Transfer(lab, made)
    for victim in victims:
        made[victim].kill9()
    assert transfer.ends_well() < 2
    assert lab.meter.read().tcp.payload > SIZE // 20
    for engine in made:
        if engine.proc.poll() is None:
            left = engine.ask("snapshot")["ended"]
            assert {"peer-silent", "wire-ack", "transport-down"} & left.keys(), left


@pytest.mark.parametrize("one", [0, 1], ids=["client's", "server's"])
def test_an_engine_that_stops_leaves_its_flows_to_tcp(
    both: tuple[Lab, list[EngineProcess]], one: int
) -> None:
    lab, made = both
    transfer = Transfer(lab, made)
    made[one].stop()
    assert transfer.ends_well() < 1
    assert lab.meter.read().tcp.payload > SIZE // 20
    left = made[1 - one].ask("snapshot")["ended"]
    assert {"peer-left", "wire-ack"} & left.keys(), left  # its word, or the first segment by the wire


def test_an_engine_that_is_back_gets_new_connections(both: tuple[Lab, list[EngineProcess]]) -> None:
    lab, made = both
    transfer = Transfer(lab, made)
    made[1].kill9()
    made[1] = EngineProcess(lab.b)
    made[1].wait_ready()
    transfer.ends_well()
    Transfer(lab, made).ends_well()


def test_more_bytes_than_32_bits_count(both: tuple[Lab, list[EngineProcess]]) -> None:
    lab, made = both
    size = (1 << 32) + 100 * MB
    transfer = Transfer(lab, made, size=size)
    transfer.ends_well()
    counts: list[dict[str, Any]] = [engine.counters() for engine in made]
    assert [count["engaged"] for count in counts] == [1, 1]
    assert lab.meter.read().vtl.payload > size * 0.98


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("far", [(3 << 30) // MB, (9 << 29) // MB], ids=["3 GiB", "4.5 GiB"])
def test_a_killed_engine_is_not_noticed_after_gigabytes(
    both: tuple[Lab, list[EngineProcess]], far: int
) -> None:
    """Positions have 32 bits, and wrap."""
    lab, made = both
    transfer = Transfer(lab, made, size=(far + 300) * MB)
    eventually(lambda: transfer.sent() > far * MB, 400)
    assert lab.meter.read().vtl.payload > far * MB * 0.98
    lab.meter.drop(to_a=("vtl",), to_b=("vtl",))  # no ICMP tells it, either
    made[0].kill9()
    assert transfer.ends_well() < 2
    assert lab.meter.read().tcp.payload > 100 * MB
    left = made[1].ask("snapshot")["ended"]
    assert sum(left.values()) == 1, left
    assert {"peer-silent", "wire-ack"} & left.keys(), left
