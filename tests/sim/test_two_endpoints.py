"""Two endpoints as hypothesis pleases: what applications and network do, and what must hold."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sim.host import Host
from sim.network import A, B, Pair

from hooker.vtl import events as ev

WINDOW = 20_000
SIDES = st.sampled_from("ab")


class TwoEndpoints(RuleBasedStateMachine):
    """The model: what each side wrote to each flow, by nonce; what it must have got is a prefix of that."""

    @initialize(seed=st.integers(0, 1000), congestion=st.sampled_from(["cubic", "newreno"]))
    def begin(self, seed: int, congestion: str) -> None:
        self.pair = Pair(seed, congestion=congestion, stream_window=WINDOW, assoc_window=2 * WINDOW)
        self.pair.connect()
        self.pair.run_for(0.1)
        self.air: list[tuple[Host, bytes, tuple[str, int]]] = []
        self.wrote: dict[tuple[str, int], bytearray] = {}  # by writer and nonce
        self.handle: dict[tuple[str, int], int] = {}
        self.ended: set[object] = set()  # nonces of flows that were reset at either end
        self.finned: set[object] = set()  # writer and nonce
        self.unread: dict[tuple[str, int], int] = {}
        for host in (self.pair.a, self.pair.b):
            host.on_opened = lambda event, host=host: self.opened(host, event)
            host.on_data = lambda event, host=host: self.arrived(host, event)

    def host(self, side: str) -> Host:
        return self.pair.a if side == "a" else self.pair.b

    def opened(self, host: Host, event: ev.FlowOpened) -> None:
        if (host.name, event.locator) in self.handle:  # tried again after its association was lost
            assert host.flows[self.handle[host.name, event.locator]].closed
            host.endpoint.reject(event.flow, 1)
            return
        self.handle[host.name, event.locator] = event.flow
        host.endpoint.accept(event.flow)

    def arrived(self, host: Host, event: ev.DataReceived) -> None:
        key = (host.name, event.flow)
        self.unread[key] = self.unread.get(key, 0) + len(event.data)
        assert self.unread[key] <= WINDOW

    def live(self, side: str) -> list[tuple[int, int]]:
        """Nonces and handles of flows whose application may still write."""
        e = self.host(side).endpoint
        return [
            (nonce, flow)
            for (name, nonce), flow in self.handle.items()
            if name == side and flow in e.flows and not {(side, nonce), nonce} & (self.finned | self.ended)
        ]

    @rule(side=SIDES)
    def open(self, side: str) -> None:
        if len(self.handle) >= 12:
            return
        host = self.host(side)
        nonce = len(self.handle) + 1 + 100 * (side == "b")
        if (side, nonce) in self.handle:
            return
        assoc = host.endpoint.connect(B if side == "a" else A, self.pair.now)
        self.handle[side, nonce] = host.endpoint.open(assoc, self.pair.now, locator=nonce, committed=True)

    @rule(side=SIDES, pick=st.integers(0, 50), size=st.sampled_from([1, 100, 1500, 6000, 30_000]))
    def write(self, side: str, pick: int, size: int) -> None:
        if not self.live(side):
            self.open(side)
        if flows := self.live(side):
            nonce, flow = flows[pick % len(flows)]
            data = self.pair.rng.randbytes(size)
            self.host(side).endpoint.write(flow, data)
            self.wrote.setdefault((side, nonce), bytearray()).extend(data)

    @rule(side=SIDES, pick=st.integers(0, 50))
    def fin(self, side: str, pick: int) -> None:
        if flows := self.live(side):
            nonce, flow = flows[pick % len(flows)]
            self.finned.add((side, nonce))
            self.host(side).endpoint.fin(flow)

    @rule(side=SIDES, pick=st.integers(0, 50))
    def reset(self, side: str, pick: int) -> None:
        if (flows := self.live(side)) and pick > 40:
            nonce, flow = flows[pick % len(flows)]
            self.ended.add(nonce)
            self.host(side).endpoint.reset(flow, 9)

    @rule(side=SIDES, part=st.integers(1, WINDOW))
    def read(self, side: str, part: int) -> None:
        for (name, flow), n in self.unread.items():
            if name == side:
                self.host(side).endpoint.consumed(flow, min(n, part))
                self.unread[name, flow] = n - min(n, part)

    @rule(side=SIDES)
    def send(self, side: str) -> None:
        host, other = self.host(side), self.host("b" if side == "a" else "a")
        for data, _ in host.datagrams(self.pair.now):
            self.air.append((other, data, host.address))

    @precondition(lambda self: self.air)
    @rule(pick=st.integers(0, 100), twice=st.booleans())
    def deliver(self, pick: int, twice: bool) -> None:
        i = pick % len(self.air)
        to, data, source = self.air[i] if twice else self.air.pop(i)
        to.receive(data, source, self.pair.now)

    @rule()
    def deliver_all(self) -> None:
        for to, data, source in self.air:
            to.receive(data, source, self.pair.now)
        self.air.clear()

    @precondition(lambda self: self.air)
    @rule(pick=st.integers(0, 100))
    def lose(self, pick: int) -> None:
        self.air.pop(pick % len(self.air))

    @rule(times=st.integers(1, 4))
    def converse(self, times: int) -> None:
        for _ in range(times):
            for side in "ab":
                self.send(side)
                self.deliver_all()

    @rule()
    def wait(self) -> None:
        if (at := self.pair.next_time()) is not None:
            self.pair.now = max(self.pair.now, at)
            self.pair.deliver()

    @invariant()
    def what_came_is_what_was_written(self) -> None:
        if not hasattr(self, "pair"):
            return
        for host in (self.pair.a, self.pair.b):
            host.take_events()
            other = "b" if host.name == "a" else "a"
            for (name, nonce), flow in self.handle.items():
                if name != host.name:
                    continue
                seen, sent = host.flows[flow], self.wrote.get((other, nonce), bytearray())
                assert seen.received == sent[: len(seen.received)]
                assert seen.acked <= len(self.wrote.get((name, nonce), b""))
                if seen.fin:
                    assert seen.received == sent
                    assert (other, nonce) in self.finned

    def teardown(self) -> None:
        """A perfect network and readers that read: all that is left arrives, all flows close."""
        if not hasattr(self, "pair"):
            return
        pair = self.pair
        pair.run_for(0)
        for host in (pair.a, pair.b):
            host.on_data = None
        for side in "ab":
            self.read(side, WINDOW)

        def finish() -> bool:
            for side in "ab":
                for nonce, flow in self.live(side):
                    self.finned.add((side, nonce))
                    self.host(side).endpoint.fin(flow)
            return not (pair.a.endpoint.flows or pair.b.endpoint.flows)

        self.deliver_all()
        pair.run(finish, limit=120)
        self.what_came_is_what_was_written()
        assert pair.a.endpoint.borrowed == pair.b.endpoint.borrowed == 0


TestTwoEndpoints = TwoEndpoints.TestCase
TestTwoEndpoints.settings = settings(max_examples=100, stateful_step_count=80)
