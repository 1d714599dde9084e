"""Unmodified programs over transports that repair what is lost, on a path that loses packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import PLAIN, Pair, counts, peer, result, same

from hooker.lab import Host, Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="needs engines")]
MB = 1 << 20
PATH = Link(rate=50e6, delay=0.005, loss=0.01)
NAMES = ["tcp", "mptcp", "quic", "vtl+udplite", "vtl+ip"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Over those that every kernel has, in the long runs, or over the one that ``--transport`` names."""
    asked = metafunc.config.getoption("transport")
    usual = [pytest.param(name, marks=pytest.mark.soak) for name in NAMES]
    metafunc.parametrize("name", [asked] if asked else usual, scope="module")


@pytest.fixture(scope="module")
def pair(name: str) -> Iterator[Pair]:
    """The path loses nothing while they start."""
    with Lab(link=Link()) as lab, Pair.open(lab, options=("--transport", name), kind="segments") as made:
        lab.link.set(PATH)
        yield made


def transfer(source: Host, sink: Host, size: int, port: int) -> None:
    server = peer(sink, "serve", "0.0.0.0", port, "recv-all", "close")
    client = peer(source, "connect", sink.v4, port, f"send:{size}", "close")
    sent, received = result(client, 80), result(server, 80)
    assert (sent["error"], received["error"], received["received"]) == (None, None, size)
    same(sent, received)


def test_bulk_arrives_both_ways_and_over_the_transport(pair: Pair, name: str) -> None:
    transfer(pair.a, pair.b, 5 * MB, 7400)
    transfer(pair.b, pair.a, 5 * MB, 7401)
    assert all(way.lost > 10 for way in pair.lab.link.crossed())
    for engine in pair.engines:
        status = engine.status()
        count = counts(status)
        assert {row["transport"] for row in status["peers"]} == {name.partition(":")[0]}
        assert sum(row["bytes_sent"] for row in status["peers"]) > 3 * MB
        assert count["engaged"] == 2
        assert set(status["ended"]) <= {"closed"}  # none has left for TCP
        assert count["bad_messages"] == 0
