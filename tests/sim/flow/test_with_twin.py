"""Machine and twin together: two modelled TCPs, an engine before each, the wire, and a bad transport.

Flows engage in mid-flow, leave, engage again, and lose an engine at any moment; all arrives, both ends close.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from sim.tcp_kernel import MASK, MS, Kernel
from sim.test_tcp_twin import Network

from hooker.flow.face import Machine
from hooker.flow.machine import load
from hooker.flow.messages import TYPES, decode
from hooker.flow.states import RULES, Action, Event, Role, State
from hooker.tcp.fields import FIN, RST, Segment
from hooker.tcp.sansio import Twin, parse

STEP = 5 * MS
SECONDS = 400  # of virtual time
SENDS = [(Action["SEND_" + n.upper()], n) for n in TYPES if "SEND_" + n.upper() in Action.__members__]


class Engine:
    def __init__(self, world: Pair, way: int) -> None:
        self.world, self.way, self.kernel = world, way, world.kernels[way]
        rng = world.rng
        self.machine = Machine(
            Role(way),
            token=way + 1,
            repairs=world.net.loss == 0,
            early=rng.random() < 0.3,
            rtt=2 * world.net.delay / 1e9,
            # One of the two: after a return both TCPs would answer each other's ACKs from beyond the
            # window, which Linux limits in rate (tcp_invalid_ratelimit) and this TCP does not.
            promise=rng.choice([0, 30_000]) if way else 0,
        )
        self.twin: Twin | None = None
        self.marked = self.wanted = False
        self.stamps = (0, 0)
        self.tried = 0  # the window's end when what is kept was tried last
        self.kept: list[dict[str, Any]] = []

    @property
    def now(self) -> float:
        return self.world.net.now / 1e9

    def do_mark(self) -> None:
        self.marked = self.wanted
        if self.marked:
            self.machine.marked(self.kernel.snd_una, self.kernel.snd_nxt, self.kernel.rcv_nxt)
        else:
            self.act(self.machine.local(Event.UNMARKED, self.now))

    def hear(self, packet: bytes) -> None:
        """A segment of our TCP, out of hk0."""
        s = parse(packet)
        k = self.kernel
        position, ack = (s.seq - k.isn) & MASK, (s.ack - k.other_isn) & MASK
        length, window = len(s.data) + bool(s.flags & FIN), s.window << k.wscale
        actions = self.machine.segment(position, length, ack, window, self.now, rst=bool(s.flags & RST))
        self.follow(packet, s)
        self.act(actions, packet=packet, segment=s, position=position)

    def follow(self, packet: bytes, s: Segment) -> None:
        """The twin begins when the flow is engaged, with the machine's numbers and this segment's stamps."""
        assert s.timestamps is not None
        self.stamps = s.timestamps
        if self.machine.state is not State.ENGAGED:
            self.twin = None
            return
        if self.twin is not None:
            self.twin.hear(packet, self.world.net.now)
        else:
            self.begin()

    def begin(self) -> None:
        n, k = self.machine.numbers, self.kernel
        self.twin = Twin(
            k.me,
            k.other,
            local_isn=k.isn,
            remote_isn=k.other_isn,
            sent=n["snd_nxt"],
            acked=n["snd_una"],
            edge=max(n["peer_edge"], n["snd_nxt"]),
            received=n["rcv_ack"],
            window=n["rcv_edge"] - n["rcv_ack"],
            mss=k.mss,
            local_wscale=k.wscale,
            remote_wscale=k.other_wscale,
            timestamps=self.stamps,
        )

    def told(self, data: bytes) -> None:
        self.act(self.machine.message(data, self.now), message=decode(data))

    def act(self, actions: int, **what: Any) -> None:
        if actions & (Action.MARK | Action.UNMARK):
            self.wanted = bool(actions & Action.MARK)
        if self.machine.state is State.ENGAGED and self.twin is None:
            self.begin()
        for bit, kind in SENDS:
            if actions & bit and kind != "data":
                self.say(self.machine.compose(kind, self.now))
        if "segment" in what:
            self.pass_on(actions, **what)
        if self.twin is not None and self.machine.state is State.ENGAGED:
            self.inject(self.twin, actions, what.get("message"))

    def pass_on(self, actions: int, packet: bytes, segment: Segment, position: int) -> None:
        if actions & Action.BRIDGE:
            self.world.to_wire(self.way, packet)
        if actions & Action.SEND_DATA:
            flags = int(bool(segment.flags & FIN))
            self.say(
                self.machine.compose("data", self.now, position=position, flags=flags, data=segment.data)
            )

    def inject(self, twin: Twin, actions: int, message: dict[str, Any] | None) -> None:
        n = self.machine.numbers
        if message is not None and actions & (Action.INJECT | Action.KEEP):
            self.kept.append(message)
        if actions & Action.INJECT_ACK:
            twin.acked(n["snd_una"], n["peer_edge"])
            self.write(twin.ack())
        if actions & Action.INJECT_PROBE:
            self.write(twin.probe())
        if n["rcv_edge"] != self.tried or message is not None:
            self.tried = n["rcv_edge"]
            kept, self.kept = self.kept, []
            for data in kept:
                self.give(twin, data)

    def give(self, twin: Twin, data: dict[str, Any]) -> None:
        """As far as the window reaches; the rest waits for it to move."""
        fin = bool(data["flags"] & 1)
        end = data["position"] + len(data["data"]) + fin
        packets, _ = twin.deliver(data["position"], data["data"], self.world.net.now, fin=fin)
        for packet in packets:
            self.write(packet)
        if packets:
            self.machine.injected(min(end, self.machine.numbers["rcv_edge"]), self.now)
        if end > self.machine.numbers["rcv_edge"] and len(self.kept) < 50:
            self.kept.append(data)

    def write(self, packet: bytes) -> None:
        self.kernel.take(packet, self.world.net.now)

    def say(self, message: bytes) -> None:
        self.world.net.send(self.world.arrive, 1 - self.way, message)

    def idle(self) -> None:
        if self.wanted != self.marked:
            self.do_mark()
        while self.machine.deadline is not None and self.machine.deadline <= self.now:
            self.act(self.machine.timer(self.now))


class Pair:
    """Everything at random from one number."""

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        loss, delay = rng.choice([0, 0, 0.02, 0.1]), rng.choice([0, 5, 50]) * MS
        self.net = Network(rng, loss=loss, device_loss=0, keeps=True, delay=delay)
        self.kernels = self.handshake()
        self.engines: list[Engine | None] = [Engine(self, way) for way in range(2)]
        self.engaged = 0

    def handshake(self) -> list[Kernel]:
        rng = self.rng
        ends = [(rng.randbytes(4), rng.randrange(1, 65536)) for _ in range(2)]
        isns = [rng.choice([rng.randrange(1 << 32), MASK - rng.randrange(3000)]) for _ in range(2)]
        scales = [rng.choice([0, 2, 7]) for _ in range(2)]
        made = [
            Kernel(
                *(rng, ends[i], ends[1 - i], isns[i], isns[1 - i]),
                rng.randbytes(rng.choice([0, 1, 5000, 60_000])),
                *(scales[i], scales[1 - i]),
                room=rng.choice([4000, 20_000, 200_000]),
            )
            for i in range(2)
        ]
        for kernel, other in ((made[0], made[1]), (made[1], made[0])):
            kernel.rcv_edge = 1 + min(65535, kernel.room)
            other.snd_edge = kernel.rcv_edge
            kernel._ts_sent.append(self.net.now // MS)
            kernel.ts_recent = self.net.now // MS
        return made

    def to_wire(self, way: int, packet: bytes) -> None:
        self.net.send(self.from_wire, 1 - way, packet)

    def from_wire(self, way: int, packet: bytes) -> None:
        self.kernels[way].take(packet, self.net.now)
        self.carry(way)

    def arrive(self, way: int, message: bytes) -> None:
        if (engine := self.engines[way]) is not None:
            engine.told(message)
        self.carry(way)

    def carry(self, way: int) -> None:
        kernel = self.kernels[way]
        while kernel.out:
            packet, engine = kernel.out.pop(0), self.engines[way]
            if engine is not None and engine.marked:
                engine.hear(packet)
            else:
                self.to_wire(way, packet)

    def step(self) -> None:
        self.net.now += STEP
        self.net.deliver()
        for way, kernel in enumerate(self.kernels):
            kernel.tick(self.net.now)
            self.carry(way)
            if (engine := self.engines[way]) is not None:
                engine.idle()
                self.carry(way)
        self.check()

    def check(self) -> None:
        a, b = self.kernels
        for one, other in ((a, b), (b, a)):
            assert one.snd_una <= other.rcv_nxt <= one.snd_nxt
            assert bytes(other.received) == one.to_send[: len(other.received)]
        states = [engine.machine.state for engine in self.engines if engine is not None]
        self.engaged += states == [State.ENGAGED, State.ENGAGED]

    def accident(self) -> None:
        dice, way = self.rng.random(), self.rng.randrange(2)
        client, engine = self.engines[0], self.engines[way]
        if client is not None and client.machine.state is State.TCP and dice < 0.05:
            client.act(client.machine.local(Event.START, client.now))
        elif engine is not None and dice > 0.997:
            engine.act(engine.machine.local(Event.STOP, engine.now))
        elif dice > 0.994:
            self.engines[way] = None

    @property
    def done(self) -> bool:
        return all(kernel.done for kernel in self.kernels)

    def run(self) -> None:
        end = self.net.now + int(SECONDS * 1e9)
        while self.net.now < end and not self.done:
            self.accident()
            self.step()


@pytest.mark.parametrize("hundred", range(10))
def test_a_thousand_seeds_end_well(hundred: int) -> None:
    engaged = 0
    for seed in range(100 * hundred, 100 * hundred + 100):
        pair = Pair(seed)
        try:
            pair.run()
            assert pair.done, [engine and engine.machine.state for engine in pair.engines]
        except AssertionError as exc:
            raise AssertionError(f"seed {seed}: {exc}") from exc
        engaged += pair.engaged
    assert engaged > 500, "hardly anything was engaged"


def killed_while_engaged(seed: int) -> Pair | None:
    """Runs until both are engaged, kills one engine, and goes on; None: it had ended before."""
    pair = Pair(seed)
    for _ in range(2000):
        if pair.engaged or pair.done:
            break
        client = pair.engines[0]
        if client is not None and client.machine.state is State.TCP:
            client.act(client.machine.local(Event.START, client.now))
        pair.step()
    if pair.done or not pair.engaged:
        return None
    pair.engines[seed % 2] = None
    for _ in range(4000):
        if not pair.done:
            pair.step()
    return pair


def test_a_kill_of_an_engaged_flows_engine_is_survived() -> None:
    runs = [pair for pair in map(killed_while_engaged, range(60)) if pair is not None]
    assert len(runs) > 20
    assert all(pair.done for pair in runs)


def test_a_machine_that_waits_for_a_dead_peer_is_found() -> None:
    broken = {(State.ENGAGED, Event.EXHAUSTED), (State.ENGAGED, Event.EVIDENCE)}
    load([rule for rule in RULES if (rule.state, rule.event) not in broken])
    try:
        runs = [pair for pair in map(killed_while_engaged, range(20)) if pair is not None]
    finally:
        load(RULES)
    assert not all(pair.done for pair in runs)
