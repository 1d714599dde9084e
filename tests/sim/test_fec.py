"""REPAIR frames: one lost packet of a group comes back without a round trip, and stays a loss."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from sim import wire
from sim.bulk import WINDOW, Bulk
from sim.link import Arrival
from sim.network import MS, Link, Pair
from sim.observer import Observer

KEY = bytes(range(32))
SIZE = 10_000  # bytes: 7 packets
RATE = 12.5e6  # bytes/s


@dataclass
class Picky(Link):
    """Loses the datagrams whose places in the sequence, from now on, are in `lose`."""

    lose: tuple[int, ...] = ()
    seen: int = 0

    def carry(self, data: bytes, now: int, rng: random.Random, ecn: int = 0) -> list[Arrival]:
        self.seen += 1
        if self.seen in self.lose:
            return []
        return super().carry(data, now, rng, ecn)


def lossy_pair(**config: object) -> tuple[Pair, int]:
    """An association that knows by experience that its path loses packets, which now stops to do so."""
    path = Picky(rate=RATE, delay=25 * MS, queue=625_000, loss=0.02)
    pair = Pair(
        1, link=path, back=Link(delay=25 * MS), congestion="bbr", max_ack_delay=MS,
        stream_window=WINDOW, assoc_window=WINDOW, **config,
    )  # fmt: skip
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(1)
    pair.a.endpoint.reset(bulk.flow, 1)
    pair.a.on_acked = pair.b.on_data = None
    pair.run_for(0.5)
    path.loss = 0
    send(pair, bulk.assoc)  # its repair is the first one that the receiver sees
    return pair, bulk.assoc


def send(pair: Pair, assoc: int, lose: tuple[int, ...] = ()) -> float:
    """ms until 10 kB have arrived, the OPEN with them; and then some quiet."""
    before = set(pair.b.flows)
    start = pair.now
    flow = pair.a.endpoint.open(assoc, pair.now, committed=True)
    pair.a.endpoint.write(flow, bytes(i % 251 for i in range(SIZE)))
    pair.a.endpoint.fin(flow)
    pair.forth.seen, pair.forth.lose = 0, lose  # type: ignore[attr-defined]
    pair.run(lambda: any(f.fin for h, f in pair.b.flows.items() if h not in before))
    took = (pair.now - start) / MS
    (got,) = (f for h, f in pair.b.flows.items() if h not in before)
    assert got.received == bytes(i % 251 for i in range(SIZE))
    pair.b.endpoint.fin(next(h for h in pair.b.flows if h not in before))
    pair.run_for(0.5)
    return took


@pytest.mark.parametrize("keys", [(), (KEY,)], ids=["plain", "encrypted"])
@pytest.mark.parametrize("place", range(1, 8))
def test_any_one_lost_packet_comes_back(place: int, keys: tuple[bytes, ...]) -> None:
    pair, assoc = lossy_pair(keys=keys)
    lost = pair.a.endpoint.stats(assoc)["packets_lost"]
    assert send(pair, assoc, (place,)) < 30
    (there,) = pair.b.endpoint.associations
    assert pair.b.endpoint.stats(there)["packets_repaired"] == 1
    assert pair.a.endpoint.stats(assoc)["packets_lost"] == lost + 1, "a loss stays one"


def test_two_losses_of_a_group_wait_for_the_retransmission() -> None:
    pair, assoc = lossy_pair()
    assert 70 < send(pair, assoc, (2, 5)) < 100
    assert pair.b.endpoint.counters()["packets_repaired"] == 0


def test_without_it_one_loss_costs_a_round_trip() -> None:
    pair, assoc = lossy_pair(fec=False)
    assert 70 < send(pair, assoc, (3,)) < 100
    assert pair.a.endpoint.counters()["repairs_sent"] == 0


def test_a_path_that_loses_nothing_is_sent_no_repairs() -> None:
    pair = Pair(1, link=Link(rate=RATE, delay=10 * MS, queue=1 << 20), congestion="bbr")
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(1)
    assert bulk.got > 5_000_000
    assert pair.a.endpoint.counters()["repairs_sent"] == 0


def test_repairs_are_few_beside_a_flow_without_end() -> None:
    path = Link(rate=RATE, delay=10 * MS, queue=250_000, loss=0.02)
    pair = Pair(1, link=path, congestion="bbr", stream_window=WINDOW, assoc_window=WINDOW)
    observer = Observer()
    for link in (pair.forth, pair.back):
        link.carry = lambda *what, carry=link.carry: observer.see(what[0]) or carry(*what)  # type: ignore[method-assign]
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(2)
    stats = pair.a.endpoint.stats(bulk.assoc)
    assert stats["repairs_sent"] < 0.01 * stats["packets_sent"]


def test_small_messages_are_repaired_within_the_budget() -> None:
    """Messages of one packet, each acknowledged before the next: a quarter of their bytes is sent again."""
    pair, assoc = lossy_pair()
    flow = pair.a.endpoint.open(assoc, pair.now, committed=True)
    before = pair.a.endpoint.stats(assoc)
    for _ in range(200):
        pair.a.endpoint.write(flow, bytes(1000))
        pair.run_for(0.1)
    after = pair.a.endpoint.stats(assoc)
    assert 40 <= after["repairs_sent"] - before["repairs_sent"] <= 60


@pytest.mark.parametrize(
    "repair",
    [
        wire.Repair(0, 1, (1 << 64) - 1, bytes(1400)),  # much is missing
        wire.Repair(0xFFFFFFFF, 1, 1, b""),
        wire.Repair(99, 0, 1, bytes(98)),
        wire.Repair(99, (1 << 64) - 1, 3, bytes(98)),
        wire.Repair(4, 1 << 40, 1, b"\x07\0\0\0"),  # a body that is cut short
        wire.Repair(24, 1 << 40, 1, wire.encode(wire.Repair(1, 1 << 41, 1, b""))),  # a REPAIR in a REPAIR
    ],
)
def test_a_repair_that_makes_no_sense_does_no_harm(repair: wire.Repair) -> None:
    pair = Pair(1)
    cids = []
    pair.forth.carry = lambda *what, carry=pair.forth.carry: (
        cids.append(wire.decode(what[0]).cid) or carry(*what)
    )  # type: ignore[method-assign]
    pair.open()
    for number in range(1000, 1003):  # the first one only makes the receiver keep packets
        packet = wire.data_packet(cids[-1], number, [repair])
        assert pair.b.receive(packet, pair.a.address, pair.now) == "ok"
    pair.b.receive(wire.data_packet(cids[-1], 2000, [repair])[:-1], pair.a.address, pair.now)
    assert pair.b.endpoint.associations
