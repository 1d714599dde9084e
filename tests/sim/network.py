"""A deterministic network of two hosts in virtual time.

A :class:`Link` is one direction: rate, queue, delay, jitter, loss, duplication, corruption. A
:class:`Pair` joins two VTL endpoints by two links and plays the application on both sides. One seed
decides everything.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint

MS = 1_000_000  # ns
SECOND = 1_000_000_000  # ns
A = ("10.0.0.1", 4000)
B = ("10.0.0.2", 4000)
HEADER = 28  # bytes of IPv4 and UDP per datagram

Address = tuple[str, int]


@dataclass
class Link:
    """One direction of the path."""

    delay: int = 5 * MS  # ns
    jitter: int = 0  # ns, added uniformly: reorders
    loss: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0
    rate: float = 0.0  # bytes/s; 0: infinite
    queue: int = 256 * 1024  # bytes that may wait for the rate
    mtu: int = 65535  # UDP payload bytes; larger datagrams vanish
    down: bool = False
    busy_until: int = 0
    sent: int = 0
    dropped: int = 0
    bytes: int = 0

    def arrivals(self, data: bytes, now: int, rng: random.Random) -> list[tuple[int, bytes]]:
        """When copies of the datagram come out, and how they look."""
        self.sent += 1
        self.bytes += len(data)
        leave = self._through_queue(len(data), now)
        if leave is None or self.down or len(data) > self.mtu or rng.random() < self.loss:
            self.dropped += 1
            return []
        out = []
        for _ in range(2 if rng.random() < self.duplicate else 1):
            at = leave + self.delay + (rng.randrange(self.jitter) if self.jitter else 0)
            out.append((at, flip_a_bit(data, rng) if rng.random() < self.corrupt else data))
        return out

    def _through_queue(self, size: int, now: int) -> int | None:
        if not self.rate:
            return now
        start = max(now, self.busy_until)
        if (start - now) * self.rate / SECOND > self.queue:
            return None
        self.busy_until = start + int((size + HEADER) * SECOND / self.rate)
        return self.busy_until


def flip_a_bit(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data) * 8)
    out = bytearray(data)
    out[i // 8] ^= 1 << (i % 8)
    return bytes(out)


@dataclass
class Flow:
    """What one side saw of a flow."""

    received: bytearray = field(default_factory=bytearray)
    acked: int = 0
    fin: bool = False
    resets: list[int] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    closed: bool = False


class Host:
    """An endpoint and the application on it."""

    def __init__(self, name: str, address: Address, endpoint: Endpoint) -> None:
        self.name = name
        self.address = address
        self.endpoint = endpoint
        self.flows: defaultdict[int, Flow] = defaultdict(Flow)
        self.events: list[ev.Event] = []
        self.auto_accept = True
        self.auto_confirm = True
        self.auto_consume = True
        self.on_accepted: Callable[[ev.FlowAccepted], None] | None = None
        self.on_opened: Callable[[ev.FlowOpened], None] | None = None

    def take_events(self) -> None:
        while (event := self.endpoint.next_event()) is not None:
            if not isinstance(event, ev.DataReceived):
                self.events.append(event)
            if isinstance(event, ev.FlowEvent):
                self._flow_event(event, self.flows[event.flow])

    def _flow_event(self, event: ev.FlowEvent, flow: Flow) -> None:
        assert not flow.closed, f"{self.name}: {event} after FlowClosed"
        if not isinstance(event, ev.DataReceived | ev.DataAcked):
            flow.log.append(type(event).__name__)
        match event:
            case ev.FlowOpened() | ev.FlowAccepted():
                self._answer(event)
            case ev.DataReceived():
                assert not flow.fin, "bytes after FIN"
                flow.received += event.data
                if self.auto_consume:
                    self.endpoint.consumed(event.flow, len(event.data))
            case ev.DataAcked():
                flow.acked += event.size
            case ev.FinReceived():
                assert not flow.fin, "two FINs"
                flow.fin = True
            case ev.FlowReset():
                flow.resets.append(event.code)
            case ev.FlowClosed():
                flow.closed = True

    def _answer(self, event: ev.FlowEvent) -> None:
        if event.flow not in self.endpoint.flows:
            return
        if isinstance(event, ev.FlowAccepted):
            if self.on_accepted is not None:
                self.on_accepted(event)
            elif self.auto_confirm:
                self.endpoint.confirm(event.flow)
        elif self.on_opened is not None:
            self.on_opened(event)
        elif self.auto_accept:
            self.endpoint.accept(event.flow)

    def kinds(self) -> list[str]:
        """Names of the events but bytes and their acknowledgments."""
        return [type(e).__name__ for e in self.events if not isinstance(e, ev.DataAcked)]


class Pair:
    """Two hosts, the links between them, and the clock."""

    def __init__(
        self, seed: int = 0, *, link: Link | None = None, back: Link | None = None, **config: object
    ) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        link = link or Link()
        self.forth = link
        self.back = back or replace(link)
        self.a = Host("a", A, Endpoint(seed=seed * 2 + 1, **config))
        self.b = Host("b", B, Endpoint(seed=seed * 2 + 2, **config))
        self.now = 0
        self.transit: list[tuple[int, int, Host, bytes, Address]] = []
        self._counter = 0
        self.steps = 0

    def send(self, host: Host) -> None:
        """Puts everything a host may send now onto its link."""
        link, to = (self.forth, self.b) if host is self.a else (self.back, self.a)
        for data, address in host.endpoint.datagrams_to_send(self.now):
            if address != to.address:
                continue
            for at, copy in link.arrivals(data, self.now, self.rng):
                self.inject(to, copy, host.address, at)

    def inject(self, to: Host, data: bytes, source: Address, at: int | None = None) -> None:
        """A datagram that arrives at `to`, at a time or now."""
        self._counter += 1
        heapq.heappush(self.transit, (self.now if at is None else at, self._counter, to, data, source))

    def next_time(self) -> int | None:
        times = [t for h in (self.a, self.b) if (t := h.endpoint.get_timer()) is not None]
        if self.transit:
            times.append(self.transit[0][0])
        return min(times) if times else None

    def settle(self) -> None:
        """Lets both hosts act on what happened, and send."""
        for host in (self.a, self.b):
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
        """Hands over the datagrams and timers that are due."""
        while self.transit and self.transit[0][0] <= self.now:
            _, _, to, data, source = heapq.heappop(self.transit)
            to.endpoint.receive_datagram(data, source, self.now)
        for host in (self.a, self.b):
            timer = host.endpoint.get_timer()
            if timer is not None and timer <= self.now:
                host.endpoint.handle_timer(self.now)

    def run(self, until: Callable[[], bool], *, limit: float = 60.0, steps: int = 400_000) -> None:
        """Steps until the predicate holds; fails, naming the seed, after `limit` virtual seconds."""
        end = self.now + int(limit * SECOND)
        while not until():
            if not self.step() or self.now > end or self.steps > steps:
                raise AssertionError(
                    f"not reached at {self.now / SECOND:.3f} s, step {self.steps}; seed {self.seed}; "
                    f"a {self.a.kinds()[-8:]} b {self.b.kinds()[-8:]}"
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

    def connect(self) -> int:
        """An association from a to b, up."""
        assoc = self.a.endpoint.connect(B, self.now)
        self.run(lambda: "AssociationUp" in self.a.kinds())
        return assoc

    def open(self, assoc: int | None = None, **info: int) -> tuple[int, int]:
        """A flow from a to b, confirmed; the handles at both ends."""
        if assoc is None:
            assoc = self.a.endpoint.connect(B, self.now)
        before = set(self.b.flows)
        flow = self.a.endpoint.open(assoc, self.now, **info)
        self.run(lambda: any("FlowConfirmed" in f.log for h, f in self.b.flows.items() if h not in before))
        return flow, next(h for h in self.b.flows if h not in before)
