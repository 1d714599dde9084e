"""Two modelled TCPs, a twin before each, and a bad network between the twins' owners.

Whatever the network does, both TCPs are at any moment where a plain connection could be; so when the twins
vanish, they go on with each other.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from sim.tcp_kernel import MASK, MS, Kernel

from hooker.tcp.fields import Heard
from hooker.tcp.sansio import Twin

STEP = 5 * MS
SECONDS = 240  # of virtual time


class Owner:
    """What an engine does about one flow: messages to the other owner, segments to its own TCP."""

    def __init__(self, net: Network, kernel: Kernel, other: Kernel) -> None:
        self.net, self.kernel, self.twin = net, kernel, twin_of(kernel, other)
        self.peer: Owner
        self.kept: dict[int, tuple[bytes, bool]] = {}  # bytes for our TCP that it has not acknowledged
        self.asked = self.probing = False
        self.rests = 0
        self.promise = net.rng.choice([0, 30_000]) if net.keeps else 0  # of window beyond the other TCP's

    def hear(self, packet: bytes) -> None:
        """A segment of our TCP."""
        h = self.twin.hear(packet, self.net.now)
        assert "dropped" not in h.what
        if "data" in h.what and ("new" in h.what or self.net.rng.random() < 0.8):
            self.tell("data", h.position, h.data, "fin" in h.what)
        if h.what & {"ack", "edge"} or self.probing:
            self.probing = False
            self.tell("acked", h.ack, h.edge)
        if "probe" in h.what:
            self.asked = True
            self.tell("probe")
        if "stale" in h.what:
            self.write(self.twin.ack())
        if "reset" in h.what:
            self.tell("reset")
        if "challenge" in h.what:
            self.write(self.twin.reset())
        self.forget(h)
        if h.again:
            self.again(*h.again)

    def forget(self, h: Heard) -> None:
        for position, (data, fin) in list(self.kept.items()):
            if position + len(data) + fin <= h.ack:
                del self.kept[position]
        if "edge" in h.what:
            for position, (data, fin) in sorted(self.kept.items()):
                self.give(position, data, fin)

    def tell(self, *message: Any) -> None:
        self.net.send(self.peer.told, *message)

    def told(self, what: str, *args: Any) -> None:
        getattr(self, f"told_{what}")(*args)

    def told_data(self, position: int, data: bytes, fin: bool) -> None:
        if self.net.keeps and len(self.kept) < 50:
            self.kept[position] = (data, fin)
        if not self.give(position, data, fin):
            self.tell("acked", self.twin.numbers["down_acked"], self.twin.numbers["down_edge"])

    def told_acked(self, position: int, edge: int) -> None:
        if self.twin.acked(position, edge + self.promise) == "due" or self.asked:
            self.asked = False
            self.write(self.twin.ack())

    def told_probe(self) -> None:
        self.probing = True
        self.write(self.twin.probe())

    def told_reset(self) -> None:
        self.write(self.twin.reset())

    def give(self, position: int, data: bytes, fin: bool) -> bool:
        packets, _ = self.twin.deliver(position, data, self.net.now, fin=fin)
        for packet in packets:
            self.write(packet)
        return bool(packets)

    def again(self, start: int, end: int) -> None:
        for position, (data, fin) in sorted(self.kept.items()):
            if position < end and position + len(data) + fin > start:
                self.give(position, data, fin)

    def write(self, packet: bytes) -> None:
        """To the device, which drops one now and then."""
        if self.net.rng.random() >= self.net.device_loss:
            self.kernel.take(packet, self.net.now)

    def idle(self) -> None:
        if self.twin.wants_ack:
            self.write(self.twin.ack())
        again = self.twin.expired(self.net.now)
        if again:
            self.again(*again)
        if self.net.rests:
            rested = self.twin.rested(self.net.now)
            self.rests += rested is not None
            self.twin = rested or self.twin


@dataclass
class Network:
    """Delay, loss, duplicates and disorder between the owners; equal seeds give equal runs."""

    rng: random.Random
    loss: float
    device_loss: float
    keeps: bool  # owners keep bytes until they are acknowledged
    delay: int
    rests: bool = False  # twins that have nothing to say are given up, and begin again where they stood
    now: int = 1000 * MS
    queue: list[Any] = field(default_factory=list)
    _count: Any = field(default_factory=itertools.count)

    def send(self, where: Any, *message: Any) -> None:
        for _ in range(2 if self.rng.random() < 0.05 else 1):
            if self.rng.random() >= self.loss:
                at = self.now + self.delay + self.rng.randint(0, self.delay)
                heapq.heappush(self.queue, (at, next(self._count), where, message))

    def deliver(self) -> None:
        while self.queue and self.queue[0][0] <= self.now:
            _, _, where, message = heapq.heappop(self.queue)
            where(*message)


def twin_of(kernel: Kernel, other: Kernel) -> Twin:
    return Twin(
        kernel.me,
        kernel.other,
        local_isn=kernel.isn,
        remote_isn=kernel.other_isn,
        edge=kernel.snd_edge,
        window=kernel.rcv_edge - 1,
        mss=kernel.mss,
        local_wscale=kernel.wscale,
        remote_wscale=kernel.other_wscale,
        timestamps=(other.ts_recent, kernel.ts_recent),
    )


class World:
    """Everything at random from one number."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        size = rng.choice([4, 16])
        ends = [(rng.randbytes(size), rng.randrange(1, 65536)) for _ in range(2)]
        isns = [rng.choice([rng.randrange(1 << 32), MASK - rng.randrange(3000)]) for _ in range(2)]
        scales = [rng.choice([0, 2, 7]) for _ in range(2)]
        self.net = Network(
            rng,
            loss=rng.choice([0, 0.02, 0.2]),
            device_loss=rng.choice([0, 0, 0.05]),
            keeps=rng.random() < 0.5,
            delay=rng.choice([0, 10, 100]) * MS,
        )
        self.kernels = [
            Kernel(
                *(rng, ends[i], ends[1 - i], isns[i], isns[1 - i]),
                rng.randbytes(rng.choice([0, 1, 5000, 100_000])),
                *(scales[i], scales[1 - i]),
                room=rng.choice([2000, 20_000, 200_000]),
            )
            for i in range(2)
        ]
        a, b = self.kernels
        for kernel, other in ((a, b), (b, a)):  # the handshake
            kernel.rcv_edge = 1 + min(65535, kernel.room)
            other.snd_edge = kernel.rcv_edge
            kernel.ts_recent = other._ts_sent[0] if other._ts_sent else 0
            kernel._ts_sent.append(self.net.now // MS)
            other.ts_recent = kernel._ts_sent[0]
        self.owners = [Owner(self.net, a, b), Owner(self.net, b, a)]
        self.owners[0].peer, self.owners[1].peer = self.owners[1], self.owners[0]
        self.engaged = True

    def step(self) -> None:
        self.net.now += STEP
        self.net.deliver()
        self.check()
        for kernel, owner in zip(self.kernels, self.owners, strict=True):
            kernel.tick(self.net.now)
            self.carry(kernel, owner)
            if self.engaged:
                owner.idle()
                self.carry(kernel, owner)
            self.check()

    def carry(self, kernel: Kernel, owner: Owner) -> None:
        while kernel.out:
            packet = kernel.out.pop(0)
            if self.engaged:
                owner.hear(packet)
            else:
                owner.peer.kernel.take(packet, self.net.now)

    def check(self) -> None:
        """What makes a way back possible."""
        a, b = self.kernels
        for one, other in ((a, b), (b, a)):
            assert one.snd_una <= other.rcv_nxt <= one.snd_nxt
            assert bytes(other.received) == one.to_send[: len(other.received)]

    def leave(self) -> None:
        """Both engines are gone, with all that was under way."""
        self.engaged = False
        self.net.queue.clear()

    @property
    def done(self) -> bool:
        return all(kernel.done for kernel in self.kernels)

    def run(self, until: float = SECONDS) -> None:
        end = self.net.now + int(until * 1e9)
        while self.net.now < end and not self.done:
            self.step()


@pytest.mark.parametrize("seed", range(60))
def test_all_bytes_arrive_and_both_ends_close(seed: int) -> None:
    world = World(seed)
    world.run()
    assert world.done, [vars(k) | {"to_send": 0, "received": 0, "_ts_sent": 0} for k in world.kernels]
    assert all(kernel.paws_drops == 0 for kernel in world.kernels)


def test_twins_that_rest_in_between_change_nothing() -> None:
    rests = 0
    for seed in range(60):
        world = World(3000 + seed)
        world.net.rests = True
        for second in range(SECONDS):
            for kernel in world.kernels:
                kernel.silent = second < 20 and world.rng.random() < 0.7
            world.run(1)
        assert world.done, seed
        assert all(kernel.paws_drops == 0 for kernel in world.kernels)
        rests += sum(owner.rests for owner in world.owners)
    assert rests > 1000


@pytest.mark.parametrize("seed", range(60))
def test_when_the_twins_vanish_the_connection_goes_on_by_itself(seed: int) -> None:
    world = World(1000 + seed)
    world.run(world.rng.uniform(0, 2))
    world.leave()
    world.run()
    assert world.done


@pytest.mark.parametrize("seed", range(20))
def test_an_abort_reaches_the_other_application(seed: int) -> None:
    world = World(2000 + seed)
    a, b = world.kernels
    world.run(world.rng.uniform(0, 1))
    if world.done:
        return
    a.abort(world.net.now)
    world.net.loss = world.net.device_loss = 0  # RESET is repeated by the flow protocol, not by twins
    world.run(5)
    assert b.reset
    assert world.owners[0].twin.finished
