"""A deterministic network in virtual time: hosts, links, an agenda. One seed decides everything."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import replace

from sim.host import Address, Flow, Host
from sim.link import HEADER, MS, SECOND, Link

from hooker.vtl.sansio import Endpoint

__all__ = ["HEADER", "IPV6", "MS", "SECOND", "A", "Address", "B", "Flow", "Host", "Link", "Network", "Pair"]

A = ("10.0.0.1", 4000)
B = ("10.0.0.2", 4000)
IPV6 = (("fd00::1", 4000), ("fd00::2", 4000))


class Network:
    """Hosts that reach each other by address, and the world's clock."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.hosts: list[Host] = []
        self.now = 0
        self.steps = 0
        self._agenda: list[tuple[int, int, Callable[[], object]]] = []
        self._counter = 0

    def add(self, name: str, address: Address, uplink: Link, endpoint: Endpoint) -> Host:
        """A host; hosts that share a link share its queue."""
        host = Host(name, address, endpoint, uplink)
        self.hosts.append(host)
        return host

    # --- what happens when

    def at(self, when: int, action: Callable[[], object]) -> None:
        """Runs the action at that time (ns)."""
        self._counter += 1
        heapq.heappush(self._agenda, (when, self._counter, action))

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Runs the action in so many seconds from now."""
        self.at(self.now + int(seconds * SECOND), action)

    def blackhole(self, seconds: float) -> None:
        """Nothing passes, in any direction, for that long."""
        for host in self.hosts:
            host.uplink.down = True
            self.after(seconds, lambda link=host.uplink: setattr(link, "down", False))

    def sleep(self, host: Host, seconds: float) -> None:
        """The host's clock jumps ahead, as if it had been suspended while the world stood still."""
        host.ahead += int(seconds * SECOND)

    # --- datagrams

    def send(self, host: Host) -> None:
        """Puts everything a host may send now onto its link."""
        for data, address, ecn in host.flight(self.now):
            for at, copy, bits in host.uplink.carry(data, self.now, self.rng, ecn):
                to = self._host_at(address)
                if to is not None:
                    self.inject(to, copy, host.address, at, bits)

    def inject(self, to: Host, data: bytes, source: Address, at: int | None = None, ecn: int = 0) -> None:
        """A datagram that arrives at `to`, at a time or now. Should the host move meanwhile, it is lost."""
        address = to.address

        def arrive() -> None:
            if to.address == address:
                to.receive(data, source, self.now, ecn)

        self.at(self.now if at is None else at, arrive)

    def _host_at(self, address: Address) -> Host | None:
        return next((h for h in self.hosts if h.address == address), None)

    # --- time

    def next_time(self) -> int | None:
        times = [t for h in self.hosts if (t := h.timer()) is not None]
        if self._agenda:
            times.append(self._agenda[0][0])
        return min(times) if times else None

    def settle(self) -> None:
        """Lets all hosts act on what happened, and send."""
        for host in self.hosts:
            host.take_events()
            self.send(host)
            host.take_events()
            self.send(host)

    def step(self) -> bool:
        """Advances to the next event; False when nothing can happen any more."""
        self.settle()
        at = self.next_time()
        if at is None:
            return False
        self.steps += 1
        self.now = max(self.now, at)
        self.deliver()
        self.settle()
        return True

    def deliver(self) -> None:
        """Runs what is due: arrivals, actions, timers."""
        while self._agenda and self._agenda[0][0] <= self.now:
            heapq.heappop(self._agenda)[2]()
        for host in self.hosts:
            timer = host.timer()
            if timer is not None and timer <= self.now:
                host.on_timer(self.now)

    def run(self, until: Callable[[], bool], *, limit: float = 60.0, steps: int = 400_000) -> None:
        """Steps until the predicate holds; fails, naming the seed, after `limit` virtual seconds."""
        end = self.now + int(limit * SECOND)
        while not until():
            if not self.step() or self.now > end or self.steps > steps:
                raise AssertionError(
                    f"not reached at {self.now / SECOND:.3f} s, step {self.steps}; seed {self.seed}; "
                    + " ".join(f"{h.name} {h.kinds()[-8:]}" for h in self.hosts)
                )

    def run_for(self, seconds: float) -> None:
        """Steps for a span of virtual time."""
        end = self.now + int(seconds * SECOND)
        while (at := self._peek()) is not None and at <= end:
            self.step()
        self.now = end

    def _peek(self) -> int | None:
        self.settle()
        return self.next_time()


class Pair(Network):
    """Two hosts and the links between them."""

    def __init__(
        self,
        seed: int = 0,
        *,
        link: Link | None = None,
        back: Link | None = None,
        addresses: tuple[Address, Address] = (A, B),
        **config: object,
    ) -> None:
        super().__init__(seed)
        link = link or Link()
        self.forth = link
        self.back = back or replace(link)
        self.a = self.add("a", addresses[0], self.forth, Endpoint(seed=seed * 2 + 1, **config))
        self.b = self.add("b", addresses[1], self.back, Endpoint(seed=seed * 2 + 2, **config))

    def connect(self) -> int:
        """An association from a to b, up."""
        assoc = self.a.connect(self.b.address, self.now)
        self.run(lambda: "AssociationUp" in self.a.kinds())
        return assoc

    def open(self, assoc: int | None = None, **info: int) -> tuple[int, int]:
        """A flow from a to b, confirmed; the handles at both ends."""
        if assoc is None:
            assoc = self.a.connect(self.b.address, self.now)
        before = set(self.b.flows)
        flow = self.a.endpoint.open(assoc, self.now + self.a.ahead, **info)
        self.run(lambda: any("FlowConfirmed" in f.log for h, f in self.b.flows.items() if h not in before))
        return flow, next(h for h in self.b.flows if h not in before)
