"""One datagram lost again and again: what comes behind it goes on, as far as memory allows."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from sim import wire
from sim.bulk import Bulk
from sim.link import Arrival
from sim.network import MS, Link, Pair

MB = 1 << 20
RATE = 12.5e6  # bytes/s


@dataclass
class Hole(Link):
    """Loses every datagram with the byte at `offset`."""

    offset: int = -1

    def carry(self, data: bytes, now: int, rng: random.Random, ecn: int = 0) -> list[Arrival]:
        packet = wire.decode(data)
        frames = [f for f in packet.frames if isinstance(f, wire.Stream)]
        if any(f.offset <= self.offset < f.offset + len(f.data) for f in frames):
            self.through_queue(len(data), now)
            return []
        return super().carry(data, now, rng, ecn)


def bulk_with_hole(seconds: float, **config: int) -> tuple[Bulk, Pair, int]:
    """A flow that fills 100 Mbit/s over 50 ms, then misses a byte for some seconds; bytes sent meanwhile."""
    path = Hole(rate=RATE, delay=25 * MS, queue=625_000)
    pair = Pair(1, link=path, back=Link(delay=25 * MS), congestion="bbr", max_ack_delay=MS, **config)
    bulk = Bulk(pair, pair.a, pair.b)
    pair.run_for(2)
    path.offset = bulk.got + 2 * MB
    pair.run(lambda: bulk.got > path.offset - 1500)
    before = path.bytes
    pair.run_for(seconds)
    return bulk, pair, path.bytes - before


def test_the_send_buffer_makes_room_for_what_waits_behind_a_hole() -> None:
    _, _, sent = bulk_with_hole(0.4, stream_window=16 * MB, assoc_window=16 * MB)
    assert sent > 0.9 * 0.4 * RATE


@pytest.mark.parametrize(("most", "share"), [(32 * MB, 0.9), (0, 0)])
def test_windows_make_room_for_what_waits_behind_a_hole(most: int, share: float) -> None:
    """The path holds 625 kB; 2 MB are enough for it as long as nothing is lost."""
    bulk, pair, sent = bulk_with_hole(
        0.4, stream_window=2 * MB, assoc_window=2 * MB,
        stream_window_max=most, assoc_window_max=most, window_budget=64 * MB,
    )  # fmt: skip
    endpoint = pair.b.endpoint
    window = endpoint.stats(endpoint.associations[0])["receive_window"]
    waiting = sent if most else 0
    assert max(2 * MB, 2 * waiting) <= window <= max(2 * MB, 16 * waiting)
    assert sent > share * 0.4 * RATE
    pair.forth.offset = -1  # type: ignore[attr-defined]
    before = bulk.got
    pair.run_for(1)
    assert bulk.got - before > 0.8 * RATE


def test_a_receiver_asks_for_an_answer_until_it_knows_the_round_trip_time() -> None:
    """Without one its probe timeout is a second, and a lost window update takes as long."""
    pair = Pair(1, link=Link(rate=RATE, delay=10 * MS, queue=250_000), congestion="bbr")
    assoc = pair.connect()
    flow = pair.a.endpoint.open(assoc, pair.now, committed=True)
    pair.back.down = True  # OPEN_ACK is lost
    pair.run(lambda: pair.b.flows)
    pair.run_for(0.001)
    pair.back.down = False
    pair.a.endpoint.write(flow, bytes(400_000))  # no window update follows from that
    pair.run_for(0.2)
    there = pair.b.endpoint.stats(pair.b.endpoint.associations[0])
    assert there["srtt_ns"] < 60 * MS
    assert there["pto_count"] == 0
