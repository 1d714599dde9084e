"""Unmodified programs over transports that repair what is lost, on paths that lose packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import PLAIN, Pair, counts, peer, result, same, transfer

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="needs engines")]
MB = 1 << 20
PATH = Link(rate=50e6, delay=0.005, loss=0.01)
SLOW = Link(rate=50e6, delay=0.02, loss=0.04)  # to a congestion control that takes losses for congestion
FLOWS = 8
NAMES = ["tcp", "mptcp", "quic", "vtl+udplite", "vtl+ip"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Over those that every kernel has, in the long runs, or over the one that ``--transport`` names."""
    asked = metafunc.config.getoption("transport")
    if "pair" in metafunc.fixturenames:
        usual = [pytest.param(name, marks=pytest.mark.soak) for name in NAMES]
        metafunc.parametrize("name", [asked] if asked else usual, scope="module")
    else:
        metafunc.parametrize("name", [asked or "tcp"])


@pytest.fixture(scope="module")
def pair(name: str) -> Iterator[Pair]:
    """The path loses nothing while they start."""
    with Lab(link=Link()) as lab, Pair.open(lab, options=("--transport", name), kind="segments") as made:
        lab.link.set(PATH)
        yield made


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


def test_flows_that_wait_for_a_slow_path_stay(name: str) -> None:
    """What the kernel has yet to send takes longer than its round trips: the peer is not silent for that."""
    with Lab(link=Link()) as lab, Pair.open(lab, options=("--transport", name), kind="segments") as pair:
        for host in lab.hosts:
            host.sysctl("net.ipv4.tcp_congestion_control", "reno")
        lab.link.set(SLOW)
        ports = range(7410, 7410 + FLOWS)
        servers = [peer(pair.b, "serve", "0.0.0.0", port, "recv-all", "close") for port in ports]
        clients = [peer(pair.a, "connect", pair.b.v4, port, f"send:{MB // 4}", "close") for port in ports]
        for client, server in zip(clients, servers, strict=True):
            sent, received = result(client, 80), result(server, 80)
            assert (sent["error"], received["error"], received["received"]) == (None, None, MB // 4)
            same(sent, received)
        for engine in pair.engines:  # three losses in a row do happen
            assert engine.status()["ended"].get("peer-silent", 0) <= FLOWS // 4
