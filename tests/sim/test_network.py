"""The simulator itself: its links do what they say, and a failure says how to see it again."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from sim.exchange import Exchange, exchange, finish
from sim.link import CE
from sim.network import MS, SECOND, A, B, Link, Pair


def arrived(link: Link, n: int, *, gap: int = 0, size: int = 1000) -> list[bool]:
    rng = random.Random(1)
    return [bool(link.carry(bytes(size), i * gap, rng)) for i in range(n)]


@pytest.mark.parametrize("loss", [0.02, 0.3])
@pytest.mark.parametrize("burst", [1, 3, 10])
def test_loss_and_bursts_are_as_asked_for(loss: float, burst: float) -> None:
    got = arrived(Link(loss=loss, burst=burst), 400_000)
    lost = got.count(False)
    bursts = sum(not got[i] and got[i - 1] for i in range(1, len(got)))
    assert 0.8 * loss < lost / len(got) < 1.2 * loss
    if burst > 1:
        assert 0.8 * burst < lost / bursts < 1.2 * burst


def test_a_burst_ends_while_nobody_sends() -> None:
    lost = [not x for x in arrived(Link(loss=0.3, burst=50), 2000, gap=10 * SECOND)]
    assert not any(x and y for x, y in itertools.pairwise(lost))


def test_the_queue_takes_what_fits_and_the_rate_spaces_it() -> None:
    link = Link(rate=1_000_000, queue=5_000, delay=0)
    rng = random.Random(1)
    times = [a.at for _ in range(20) for a in link.carry(bytes(972), 0, rng)]
    assert times == [(i + 1) * MS for i in range(6)]
    assert link.dropped == 14


def test_flipped_bits_meet_the_checksum_unless_there_is_none() -> None:
    rng = random.Random(1)
    data = bytes(100)
    assert Link(corrupt=1.0).carry(data, 0, rng) == []
    ((_, flipped, _),) = Link(corrupt=1.0, checksum=False).carry(data, 0, rng)
    assert sum(bin(x).count("1") for x in flipped) == 1


def test_a_long_queue_marks_what_may_be_marked() -> None:
    link, rng = Link(rate=1_000_000, mark=2_000, delay=0), random.Random(1)
    bits = [a.ecn for ecn in (2, 0) for _ in range(6) for a in link.carry(bytes(972), 0, rng, ecn)]
    assert bits == [2, 2, 2, CE, CE, CE] + [0] * 6
    assert Link(bleach=True).carry(b"x", 0, rng, 2)[0].ecn == 0


def test_held_back_datagrams_are_overtaken() -> None:
    link = Link(reorder=0.5, reorder_by=30 * MS, delay=MS)
    rng = random.Random(1)
    assert {link.carry(b"x", 0, rng)[0].at for _ in range(50)} == {MS, 31 * MS}


def test_the_links_may_differ() -> None:
    pair = Pair(1, link=Link(delay=100 * MS, rate=1.25e5), back=Link(delay=MS, loss=0.1))
    exchange(pair, 30_000)
    assert pair.forth.dropped == 0
    assert pair.back.dropped > 0


def test_hosts_that_share_a_link_share_its_queue() -> None:
    alone = Pair(1, link=Link(rate=1.25e6))
    exchange(alone, 500_000)
    shared = Pair(1, link=Link(rate=1.25e6))
    shared.back = shared.b.uplink = shared.forth
    exchange(shared, 500_000)
    assert shared.now > 1.5 * alone.now


def test_a_failure_names_the_seed() -> None:
    with pytest.raises(AssertionError, match="seed 77"):
        Pair(77, link=Link(down=True)).run(lambda: False, limit=20)


@pytest.mark.parametrize("seconds", [1, 4, 20, 3600])
def test_a_clock_that_jumps_ahead_ends_nothing(seconds: int) -> None:
    """A suspended host: what its clock skipped is no proof that the peer is gone."""
    pair = Pair(seconds, link=Link(delay=20 * MS, loss=0.02))
    for host, other in ((pair.a, pair.b), (pair.b, pair.a)):
        e = Exchange(pair, 300_000, 300_000)
        pair.after(0.1, lambda host=host: pair.sleep(host, seconds))
        pair.after(0.2, lambda other=other: pair.sleep(other, seconds))
        finish(pair, [e], limit=20)
    assert pair.a.down_reasons() == pair.b.down_reasons() == []


def test_a_clock_that_jumps_during_the_handshake_ends_nothing() -> None:
    pair = Pair(1)
    assoc = pair.a.connect(B, 0)
    flow = pair.a.endpoint.open(assoc, 0)
    pair.run_for(0.002)
    pair.sleep(pair.a, 60)
    pair.run(lambda: "FlowAccepted" in pair.a.flows[flow].log, limit=2)
    assert pair.a.down_reasons() == []


def test_moving_loses_what_was_on_its_way() -> None:
    pair = Pair(1)
    pair.inject(pair.a, b"x", B, 5)
    pair.inject(pair.b, b"x", A, 5)
    pair.a.address = ("10.0.0.7", 1)
    pair.now = 5
    pair.deliver()
    assert sum(pair.a.endpoint.drops().values()) == 0
    assert sum(pair.b.endpoint.drops().values()) == 1


def test_a_copy_of_a_link_has_its_own_queue() -> None:
    link = Link(rate=1000)
    link.carry(bytes(100), 0, random.Random(1))
    assert replace(link, busy_until=0).through_queue(100, 0) == link.busy_until
