"""A random scenario from one number: a path, its troubles, flows in all their ways of ending.

What must hold: every byte arrives once and in order; nothing comes after a FIN; all flows close at both
ends; what was borrowed is given back; bytes in flight stay below the congestion window and bytes not
consumed below the receive windows; and after some quiet no association, timer or datagram is left.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from sim.network import MS, SECOND, Host, Link, Pair
from sim.observer import Observer

from hooker.vtl import events as ev
from hooker.vtl.congestion import names
from hooker.vtl.sansio import ENCRYPTED_VERSIONS

KEY = bytes(range(32))
FUNCTIONS = ("go-back-n", "stop-and-wait", "none", "partial")  # streams are complete with each
PROBES = 3  # datagrams that may exceed the congestion window
CLOSED = 7  # our reason of a CLOSE
VANISHED = 0x10003  # a silent host that moved, with nothing to say
QUIET_ENDS = {0x10001, 0x10005}  # idle, or the peer that was idle has forgotten us


def random_link(rng: random.Random) -> Link:
    return Link(
        delay=rng.choice([0, 100_000, 1 * MS, 20 * MS, 150 * MS]),
        jitter=rng.choice([0, 0, 1, 100_000, 5 * MS, 30 * MS]),
        reorder=rng.choice([0, 0, 0, 0.02, 0.2]),
        reorder_by=rng.choice([100_000, 10 * MS, 100 * MS]),
        loss=rng.choice([0, 0, 0.01, 0.05, 0.2]),
        burst=rng.choice([1, 1, 2, 3]),
        duplicate=rng.choice([0, 0, 0.02, 0.3]),
        corrupt=rng.choice([0, 0, 0.02]),
        rate=rng.choice([0, 0, 2.5e5, 1.25e6, 1.25e7]),
        queue=rng.choice([20_000, 100_000, 1_000_000]),
        mark=rng.choice([0, 5_000, 50_000]),
        bleach=rng.random() < 0.2,
        mtu=rng.choice([65535, 65535, 1472, 1300]),
    )


@dataclass
class End:
    """One end of a flow: what it is to send and to get, and how its application reads."""

    host: Host
    sends: bytes
    gets: bytes = b""
    reads: str = "at once"  # or "slowly", "after a pause"
    handle: int = 0  # 0: not there (yet)
    assoc: int = 0
    unread: int = 0


@dataclass
class Plan:
    """One flow; the nonce ties its two ends together."""

    nonce: int
    opener: End
    acceptor: End
    committed: bool
    ending: str  # "fin", "reset" (either end), "cancel", "reject"
    start: int  # ns
    ends: tuple[End, End] = field(init=False)

    def __post_init__(self) -> None:
        self.ends = (self.opener, self.acceptor)
        self.opener.gets, self.acceptor.gets = self.acceptor.sends, self.opener.sends


class Watched(Pair):
    """Checks each flight by the congestion window, and each datagram by the specification."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.observer = Observer()
        for link in () if "keys" in kwargs else (self.forth, self.back):
            link.carry = lambda *what, carry=link.carry: self.observer.see(what[0]) or carry(*what)

    def send(self, host: Host) -> None:
        before = self._in_flight(host)
        super().send(host)
        for assoc in host.endpoint.associations:
            stats = host.endpoint.stats(assoc)
            room = max(stats["cwnd"], before.get(assoc, 0) + PROBES * 1472)
            assert stats["bytes_in_flight"] <= room, f"{stats['bytes_in_flight']} in flight, allowed {room}"

    def _in_flight(self, host: Host) -> dict[int, int]:
        return {a: host.endpoint.stats(a)["bytes_in_flight"] for a in host.endpoint.associations}


class Scenario:
    """Both applications: they open, write in pieces, read, end, and check what comes."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = rng = random.Random(seed)
        self.stream_window = rng.choice([8192, 65536, 1 << 20])
        self.assoc_window = self.stream_window * rng.choice([1, 4])
        grows = rng.choice([1, 1, 8])
        self.closes = rng.random() < 0.05
        self.pair = Watched(
            seed,
            link=random_link(rng),
            back=random_link(rng),
            stream_window=self.stream_window,
            assoc_window=self.assoc_window,
            stream_window_max=self.stream_window * grows,
            assoc_window_max=self.assoc_window * grows,
            window_budget=1 << 20,
            **self._keys(),
            congestion=rng.choice(names()),
            reliability=FUNCTIONS[seed % 16] if seed % 16 < len(FUNCTIONS) else "selective-repeat",
            handshake_timeout=60 * SECOND,
            keepalive=SECOND,  # a host that only receives says by it where it is now
            dead_after=40 * SECOND,
            idle_after=rng.choice([56, 90]) * SECOND,  # longer, or who missed our last ACK loses its flow
        )
        self.moves = rng.random() < 0.3  # a gets new addresses; nobody can call it, then
        self.stream_window *= grows
        self.assoc_window *= grows
        self.plans = {n: self._plan(n) for n in range(1, rng.choice([2, 2, 4, 12]))}
        self.by_flow: dict[tuple[Host, int], tuple[Plan, End]] = {}
        for host in (self.pair.a, self.pair.b):
            host.on_opened = lambda event, host=host: self._opened(host, event)
            host.on_accepted = lambda event, host=host: self._accepted(host, event)
            host.on_data = lambda event, host=host: self._data(host, event)

    def _keys(self) -> dict[str, object]:
        """A key in a quarter of all scenarios, changed often in some of those."""
        if self.rng.random() >= 0.25:
            return {}
        version = self.rng.choice(ENCRYPTED_VERSIONS)
        return {"keys": (KEY,), "versions": (version,), "key_update_after": self.rng.choice([0, 20])}

    # --- what will happen

    def _plan(self, nonce: int) -> Plan:
        rng = self.rng
        hosts = [self.pair.a, self.pair.b]
        if rng.random() < 0.3 and not self.moves:
            hosts.reverse()
        size = rng.choice([0, 1, 1000, 20_000, 60_000] * 4 + [300_000])
        ends = [
            End(host, rng.randbytes(n), reads=rng.choice(["at once", "at once", "slowly", "after a pause"]))
            for host, n in zip(hosts, (size, size // 2), strict=True)
        ]
        ending = rng.choice(["fin"] * 6 + ["reset", "reset", "cancel", "reject"])
        committed = ending != "cancel" and rng.random() < 0.5
        return Plan(nonce, *ends, committed, ending, rng.choice([0, 0, 10 * MS, 300 * MS, 57 * SECOND]))

    def _troubles(self) -> list[Callable[[], object]]:
        rng, pair = self.rng, self.pair
        host = rng.choice([pair.a, pair.b])
        link = host.uplink
        return [
            lambda: pair.blackhole(rng.uniform(0.1, 5)),
            lambda: pair.sleep(host, rng.choice([0.5, 2, 5])),
            lambda: setattr(link, "delay", rng.choice([0, 5 * MS, 200 * MS])),
            lambda: setattr(link, "loss", rng.choice([0, 0.1, 0.2])),
            lambda: setattr(link, "rate", rng.choice([2.5e5, 1.25e7])),
            lambda: setattr(link, "queue", 10_000),
            lambda: setattr(link, "bleach", True),
            lambda: setattr(link, "mtu", rng.choice([1200, 1252, 1399, 65535])),
            *[self._rebind] * (6 if self.moves else 0),
        ]

    def _rebind(self) -> None:
        address, port = self.pair.a.address
        other = f"10.0.1.{self.rng.randrange(1, 250)}" if self.rng.random() < 0.5 else address
        self.pair.a.address = (other, port + 1)

    # --- the applications

    def _open(self, plan: Plan) -> None:
        end = plan.opener
        host, now = end.host, self.pair.now + end.host.ahead
        assoc = host.endpoint.connect(plan.acceptor.host.address, now)
        end.handle = host.endpoint.open(assoc, now, locator=plan.nonce, committed=plan.committed)
        self.by_flow[host, end.handle] = (plan, end)
        if plan.committed:
            self._write(end)
        if plan.ending == "reset" and self.rng.random() < 0.5:
            self._reset_later(end)
        if plan.ending == "cancel" and self.rng.random() < 0.5:
            self._later(lambda: self._alive(end) and host.endpoint.cancel(end.handle))

    def _opened(self, host: Host, event: ev.FlowOpened) -> None:
        plan = self.plans[event.locator]
        end = plan.acceptor
        assert end.host is host
        if end.handle:  # its answer was lost, and then the association was closed: the opener tries again
            assert self.closes, f"flow {plan.nonce} opened twice"
            assert host.flows[end.handle].closed
            host.endpoint.reject(event.flow, 1)
            return
        assert event.committed == plan.committed
        end.handle = event.flow
        self.by_flow[host, event.flow] = (plan, end)
        if self.rng.random() < 0.3:
            self._later(lambda: self._alive(end) and self._answer(plan, end))
        else:
            self._answer(plan, end)

    def _answer(self, plan: Plan, end: End) -> None:
        if plan.ending == "reject":
            end.host.endpoint.reject(end.handle, 3)
            return
        end.host.endpoint.accept(end.handle)
        self._write(end)
        if plan.ending == "reset":
            self._reset_later(end)

    def _accepted(self, host: Host, event: ev.FlowAccepted) -> None:
        plan, end = self.by_flow[host, event.flow]
        if plan.ending == "cancel":
            host.endpoint.cancel(event.flow)
        elif not plan.committed:
            host.endpoint.confirm(event.flow)
            self._write(end)

    def _write(self, end: End) -> None:
        """The whole of it, in pieces, some of them later."""
        at, endpoint = 0, end.host.endpoint
        while at < len(end.sends):
            n = self.rng.choice([1, 100, 1436, 5000, 100_000])
            endpoint.write(end.handle, end.sends[at : at + n])
            at += n
            if self.rng.random() < 0.05:
                rest = end.sends[at:]
                self._later(lambda rest=rest: self._alive(end) and self._rest(end, rest))
                return
        endpoint.fin(end.handle)

    def _rest(self, end: End, rest: bytes) -> None:
        if rest:
            end.host.endpoint.write(end.handle, rest)
        end.host.endpoint.fin(end.handle)

    def _data(self, host: Host, event: ev.DataReceived) -> None:
        _, end = self.by_flow[host, event.flow]
        n = len(event.data)
        end.unread += n
        end.assoc = event.assoc
        mine = [e for e in self._all_ends() if (e.host, e.assoc) == (host, event.assoc) and self._alive(e)]
        assert end.unread <= self.stream_window, f"{end.unread} bytes beyond the stream's window"
        assert sum(e.unread for e in mine) <= self.assoc_window, "more than the association's window"
        if end.reads == "at once":
            self._read(end, n)
        elif end.reads == "slowly":
            self._later(lambda: self._read(end, n))
        elif end.unread == n:
            self._later(lambda: self._read(end, end.unread), 3.0)

    def _all_ends(self) -> Iterator[End]:
        for plan in self.plans.values():
            yield from plan.ends

    def _read(self, end: End, n: int) -> None:
        end.unread -= n
        end.host.endpoint.consumed(end.handle, n)

    def _alive(self, end: End) -> bool:
        return end.handle in end.host.endpoint.flows

    def _later(self, action: Callable[[], object], most: float = 0.3) -> None:
        self.pair.after(self.rng.uniform(0, most), action)

    def _reset_later(self, end: End) -> None:
        self._later(lambda: self._alive(end) and end.host.endpoint.reset(end.handle, 9), 1.0)

    def _close(self) -> None:
        host = self.rng.choice([self.pair.a, self.pair.b])
        for assoc in host.endpoint.associations:
            host.endpoint.close(assoc, CLOSED, self.pair.now + host.ahead)

    # --- the run

    def go(self) -> None:
        """Raises AssertionError with a note that says how to replay it."""
        try:
            self._go()
        except Exception as exc:
            exc.add_note(f"replay: HOOKER_SIM_SEED={self.seed} ./dev test tests/sim/test_seeds.py")
            raise

    def _go(self) -> None:
        pair = self.pair
        for plan in self.plans.values():
            pair.at(plan.start, lambda plan=plan: self._open(plan))
        for _ in range(self.rng.choice([0, 0, 1, 3])):
            pair.after(self.rng.uniform(0, 3), self.rng.choice(self._troubles()))
        if self.closes:
            pair.after(self.rng.uniform(0, 3), self._close)
        pair.run(lambda: all(map(self._over, self.plans.values())), limit=600)
        pair.run(lambda: not (pair.a.endpoint.flows or pair.b.endpoint.flows), limit=200)
        for plan in self.plans.values():
            self._check(plan)
        self._check_quiet()

    def _over(self, plan: Plan) -> bool:
        closed = [e.handle != 0 and e.host.flows[e.handle].closed for e in plan.ends]
        may_be_absent = plan.ending in ("reset", "cancel") or self.closes
        return closed[0] and (closed[1] or (may_be_absent and plan.acceptor.handle == 0))

    def _check(self, plan: Plan) -> None:
        for end in plan.ends:
            if end.handle == 0:
                continue
            seen = end.host.flows[end.handle]
            what = f"flow {plan.nonce} ({plan.ending}) at {end.host.name}"
            got = bytes(seen.received)
            assert got == end.gets[: len(got)], f"{what}: other bytes"
            assert got == end.gets or not seen.fin, f"{what}: FIN after {len(got)} of {len(end.gets)} bytes"
            if plan.ending == "reject" or (plan.ending == "cancel" and end is plan.acceptor):
                assert not got, f"{what}: bytes of a flow that never was"
            if plan.ending == "fin" and not self.closes:
                assert seen.fin, f"{what}: no FIN"
                # who moves away after its last ACK was lost cannot be asked for another
                gone = self.moves and end.host is self.pair.b and seen.resets == [VANISHED]
                assert gone or not seen.resets, f"{what}: reset"
                assert gone or seen.acked == len(end.sends), f"{what}: {seen.acked} acknowledged"
        if plan.ending == "reject" and not self.closes:
            assert plan.opener.host.flows[plan.opener.handle].log == ["FlowRejected", "FlowClosed"]

    def _check_quiet(self) -> None:
        pair = self.pair
        pair.run_for(200)
        allowed = QUIET_ENDS | ({CLOSED} if self.closes else set()) | ({VANISHED} if self.moves else set())
        for host in (pair.a, pair.b):
            assert host.endpoint.borrowed == 0, f"{host.name} holds borrowed bytes"
            assert host.endpoint.flows == ()
            assert host.endpoint.associations == (), f"{host.name} holds an association"
            assert host.endpoint.get_timer() is None
            assert set(host.down_reasons()) <= allowed, f"{host.name}: {host.down_reasons()}"
