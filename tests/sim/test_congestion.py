"""What congestion controllers make of a path: 100 Mbit/s, a queue of one bandwidth-delay product, loss."""

from __future__ import annotations

import pytest
from sim.bulk import RATE, WINDOW, Buffered, Bulk, link
from sim.network import MS, SECOND, Link, Network, Pair

from hooker.vtl.sansio import Endpoint

CONFIG = {"stream_window": WINDOW, "assoc_window": 2 * WINDOW, "max_datagram": 1452}


def bulk_over(path: Link, name: str, *, seconds: float, seed: int = 1) -> tuple[Bulk, Pair]:
    pair = Pair(seed, link=path, congestion=name, **CONFIG)
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(seconds)
    return bulk, pair


def mbit(bulk: Bulk, seconds: float) -> float:
    return bulk.got * 8 / seconds / 1e6


@pytest.mark.parametrize("name", ["bbr", "auto"])
@pytest.mark.parametrize(
    ("rtt", "loss", "least"), [(20, 0, 92), (20, 0.01, 90), (20, 0.05, 84), (100, 0.02, 68)]
)
def test_bbr_fills_a_path_that_loses_packets(rtt: int, loss: float, least: float, name: str) -> None:
    """Cubic gets 7 Mbit/s where 1 % is lost."""
    bulk, _ = bulk_over(link(rtt, loss), name, seconds=5)
    assert mbit(bulk, 5) > least


@pytest.mark.parametrize("seed", [20, 26, 77])
def test_many_losses_by_chance_do_not_end_startup(seed: int) -> None:
    """In these runs a round of about 25 packets loses more than a fifth of them."""
    bulk, _ = bulk_over(link(20, 0.1), "bbr", seconds=1, seed=seed)
    assert mbit(bulk, 1) > 40


def test_bbr_keeps_the_queue_short() -> None:
    bulk, pair = bulk_over(link(20, 0, queue=20), "bbr", seconds=4)
    assert mbit(bulk, 4) > 90
    waited = []
    for _ in range(100):
        pair.run_for(0.02)
        waited.append(pair.a.endpoint.stats(bulk.assoc)["srtt_ns"] / MS - 20)
    assert sum(waited) / len(waited) < 5


def test_bbr_follows_a_path_that_gets_slower_and_faster() -> None:
    bulk, pair = bulk_over(link(20, 0), "bbr", seconds=2)
    rates = []
    for rate in (2.5e6, 12.5e6):
        pair.forth.rate = rate
        pair.run_for(12)
        before = bulk.got
        pair.run_for(2)
        rates.append((bulk.got - before) / 2 / rate)
    assert all(0.8 < r < 1 for r in rates), rates


def test_bbr_gives_way_when_more_is_lost_than_the_path_loses_by_itself() -> None:
    """A policer: no queue, and all above the rate is dropped. Not much is sent for nothing."""
    bulk, pair = bulk_over(link(20, 0, queue=0.05), "bbr", seconds=5)
    stats = pair.a.endpoint.stats(bulk.assoc)
    assert mbit(bulk, 5) > 50
    assert stats["packets_lost"] < 0.1 * stats["packets_sent"]


@pytest.mark.parametrize(("name", "least", "most"), [("bbr", 0.25, 0.75), ("cubic", 0.3, 0.7)])
def test_neither_starves_beside_cubic(name: str, least: float, most: float) -> None:
    net = Network(7)
    there, back = link(20, 0), Link(delay=10 * MS)
    flows = []
    for i, congestion in enumerate((name, "cubic")):
        a = net.add(f"a{i}", (f"10.0.{i}.1", 4000), there, Endpoint(seed=i, congestion=congestion, **CONFIG))
        b = net.add(f"b{i}", (f"10.0.{i}.2", 4000), back, Endpoint(seed=i, **CONFIG))
        flows.append(Bulk(net, a, b))
        net.run_for(1)
    net.run_for(5)
    before = [f.got for f in flows]
    net.run_for(10)
    one, two = (f.got - b for f, b in zip(flows, before, strict=True))
    assert least < one / (one + two) < most
    assert (one + two) * 8 / 10 / 1e6 > 90


def test_auto_is_cubic_where_the_round_trip_is_short() -> None:
    """BBR would keep the queue of this link short; cubic fills it."""
    waits = {}
    for name in ("auto", "bbr"):
        path = Link(rate=12.5e6, delay=MS // 4, queue=1 << 20)
        bulk, pair = bulk_over(path, name, seconds=2)
        assert mbit(bulk, 2) > 90
        waits[name] = pair.a.endpoint.stats(bulk.assoc)["srtt_ns"]
    assert waits["auto"] > 20 * MS
    assert waits["bbr"] < 5 * MS


def test_a_pause_does_not_make_the_path_forgotten() -> None:
    """What a warm association knows is used at once by the next flow."""
    bulk, pair = bulk_over(link(100, 0), "bbr", seconds=3)
    pair.a.endpoint.reset(bulk.flow, 1)
    pair.run_for(1)
    start = pair.now
    again = Bulk(pair, pair.a, pair.b)
    pair.run(lambda: again.got > 3_000_000)
    assert (pair.now - start) / SECOND < 0.3 + 3 / 10


# ---- senders that something else stops -----------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_buffer_of_two_products_is_enough_on_a_path_that_loses(seed: int) -> None:
    """One lost twice would stop it for half a round trip. Nor does a queue double the first ones."""
    pair = Pair(seed, link=link(100, 0.02), back=link(100, 0.02))
    flow = Buffered(pair, pair.connect(), 2_860_000)
    flow.run_for(1)
    assert flow.run_for(2) > 0.86 * RATE
    assert flow.run_for(6) > 0.85 * RATE


def test_a_trickle_on_a_path_that_varies_ends_no_startup() -> None:
    """Its packets take longer at times, but would have, too, if there had been fewer of them."""
    pair = Pair(1, link=link(100, 0), back=link(100, 0))
    flow = Buffered(pair, pair.connect(), 8_000_000)
    for second in range(12):
        pair.forth.delay = (50 if second % 2 else 90) * MS
        flow.run_for(1, most=RATE / 50)
    pair.forth.delay = 50 * MS
    flow.run_for(1)
    assert flow.run_for(1) > 0.8 * RATE
