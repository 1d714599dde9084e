"""Receive windows grow to the bandwidth-delay product, within limits and a budget, and only when used."""

from __future__ import annotations

import pytest
from sim.bulk import Bulk
from sim.network import MS, Link, Network, Pair

from hooker.vtl.sansio import Endpoint

KB, MB = 1 << 10, 1 << 20


def path() -> Link:
    return Link(rate=12.5e6, delay=50 * MS, queue=1_250_000)


def window_of(pair: Pair) -> int:
    endpoint = pair.b.endpoint
    return endpoint.stats(endpoint.associations[0])["receive_window"]


@pytest.mark.parametrize(
    ("most", "budget", "expected", "rate"),
    [(16 * MB, 64 * MB, 16 * MB, 80), (256 * KB, 64 * MB, 256 * KB, 0), (16 * MB, 300 * KB, 256 * KB, 0)],
)
def test_windows_grow_to_the_path_within_limits(most: int, budget: int, expected: int, rate: float) -> None:
    """The path holds 1.25 MB; 4 times that, and a power of two, is 8 MB; a burst may show more."""
    pair = Pair(1, link=path(), stream_window=128 * KB, assoc_window=128 * KB, congestion="bbr",
                stream_window_max=most, assoc_window_max=most, window_budget=budget)  # fmt: skip
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(4)
    before = bulk.got
    pair.run_for(2)
    assert (bulk.got - before) * 8 / 2 / 1e6 > rate
    assert expected // 2 <= window_of(pair) <= expected


def test_a_window_whose_application_reads_slowly_stays_small() -> None:
    pair = Pair(1, link=path(), stream_window=128 * KB, assoc_window=128 * KB, congestion="bbr",
                stream_window_max=16 * MB, assoc_window_max=16 * MB, window_budget=64 * MB)  # fmt: skip
    pair.b.auto_consume = False
    flow, peer = pair.open()
    pair.a.endpoint.write(flow, bytes(4 * MB))
    taken = 0
    for _ in range(60):
        pair.run_for(0.1)
        n = min(len(pair.b.flows[peer].received) - taken, 2000)
        pair.b.endpoint.consumed(peer, n)
        taken += n
    assert window_of(pair) == 128 * KB
    assert len(pair.b.flows[peer].received) - taken <= 128 * KB


def test_a_closed_association_gives_its_share_of_the_budget_back() -> None:
    net = Network(3)
    config = {"stream_window": 128 * KB, "assoc_window": 128 * KB, "stream_window_max": 256 * KB,
              "assoc_window_max": 256 * KB, "window_budget": 128 * KB}  # fmt: skip
    there, back = Link(delay=5 * MS), Link(delay=5 * MS)
    b = net.add("b", ("10.0.0.2", 4000), back, Endpoint(seed=2, **config))
    for i in range(3):
        a = net.add(f"a{i}", (f"10.0.1.{i}", 4000), there, Endpoint(seed=10 + i, **config))
        bulk = Bulk(net, a, b)
        net.run_for(0.5)
        (assoc,) = b.endpoint.associations
        assert b.endpoint.stats(assoc)["receive_window"] == 256 * KB
        a.endpoint.close(bulk.assoc, 1, net.now)
        net.run_for(0.1)
