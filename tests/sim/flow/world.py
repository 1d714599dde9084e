"""Two hosts, each a kernel and an engine with the real machine, the wire and the transport between them.

Nothing happens by itself: `do()` lets one thing happen. A search does everything that could, a random
run some; `heal()` lets the network behave from here on, and everything has to end well. Properties are
checked where they can break, and after every move by `check()`; what breaks is an AssertionError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from sim.flow.kernel import Kernel, Segment

from hooker.flow.face import Machine, answer_to_unknown
from hooker.flow.messages import TYPES, decode
from hooker.flow.states import Action, Event, Role, State

A, B = 0, 1
SENDS = [(Action["SEND_" + n.upper()], n) for n in TYPES if "SEND_" + n.upper() in Action.__members__]
SENDS = [(bit, name) for bit, name in SENDS if name != "data"]
NEVER = 2**64 - 1
THEN = 1000  # seconds: the one moment of a search
NEVER_LATE = 1e6  # s: steps are in any order, so a timer that comes late says nothing of its engine
SILENCE = 0.1  # s, of FlowConfig


class Setup(NamedTuple):
    """What a world begins with."""

    size: tuple[int, int] = (2, 0)  # bytes that each application writes
    fin: tuple[bool, bool] = (False, False)
    capacity: tuple[int, int] = (4, 4)  # receive buffers
    reading: tuple[bool, bool] = (True, True)
    pinned: bool = False
    early: bool = False
    warm: bool = False  # the client begins marked, and early
    repairs: bool = False
    promise: int = 0
    rtt: float = 0.0
    bound: tuple[bool, bool] = (False, False)  # sockets bound to a device: their segments never come to hk0
    sticks: bool = False  # marks cannot be taken away, as from a TIME_WAIT


class Host:
    __slots__ = (
        "bound",
        "closed",
        "engine",
        "heard",
        "keep",
        "kept_edge",
        "kernel",
        "machine",
        "mark",
        "wanted",
        "way",
    )

    def __init__(self, way: int, setup: Setup) -> None:
        self.way = way
        self.kernel = Kernel(
            way,
            size=setup.size[way],
            fin=setup.fin[way],
            capacity=setup.capacity[way],
            peer_capacity=setup.capacity[1 - way],
        )
        self.kernel.reading = setup.reading[way]
        self.machine: Machine | None = Machine(
            Role(way),
            token=way + 1,
            pinned=setup.pinned,
            early=setup.early,
            repairs=setup.repairs,
            promise=setup.promise,
            rtt=setup.rtt,
        )
        self.machine.configure(late=NEVER_LATE, silence=SILENCE)
        self.engine = True  # whether one runs at all, perhaps another one
        self.mark = self.wanted = False
        self.bound = setup.bound[way]
        self.closed = False  # the machine was told
        self.heard = False  # a segment has come through hk0
        self.keep: dict[int, bytes] = {}  # DATA beyond the kernel's window, as it came
        self.kept_edge = 0  # the window's end when that was tried last

    def copy(self) -> Host:
        new = Host.__new__(Host)
        for name in Host.__slots__:
            setattr(new, name, getattr(self, name))
        new.kernel = self.kernel.copy()
        new.keep = dict(self.keep)
        if self.machine is not None:
            new.machine = clone(self.machine)
        return new

    def key(self) -> tuple[object, ...]:
        machine = None if self.machine is None else self.machine.freeze()
        return (
            self.kernel.key(),
            machine,
            self.engine,
            self.closed,
            self.mark,
            self.wanted,
            tuple(sorted(self.keep.values())),
            self.kept_edge,
        )


def clone(machine: Machine) -> Machine:
    new = Machine(Role.CLIENT)
    new.thaw(machine.freeze())
    new.configure(repairs=machine.repairs, late=NEVER_LATE, silence=SILENCE)
    return new


class World:
    """`alter(host, actions)`, for tests of the tests: what a broken engine would do instead."""

    def __init__(self, setup: Setup, *, alter: Callable[[Host, int], int] | None = None) -> None:
        self.setup = setup
        self.now = float(THEN)
        self.hosts = (Host(A, setup), Host(B, setup))
        self.wire: tuple[list[Segment], list[Segment]] = ([], [])  # to A, to B
        self.air: tuple[list[bytes], list[bytes]] = ([], [])
        self.down = False
        self.alter = alter or (lambda host, actions: actions)
        self.expected_end = setup.pinned  # whether a connection may end with an error
        if setup.pinned:
            self._established()
        elif setup.warm:
            self._local(A, Event.START_EARLY)
            self._mark(A)

    def copy(self) -> World:
        new = World.__new__(World)
        new.setup, new.now, new.down, new.alter = self.setup, self.now, self.down, self.alter
        new.expected_end = self.expected_end
        new.hosts = (self.hosts[A].copy(), self.hosts[B].copy())
        new.wire = (list(self.wire[A]), list(self.wire[B]))
        new.air = (list(self.air[A]), list(self.air[B]))
        return new

    def _established(self) -> None:
        """Pinned sockets have the mark before they can send anything."""
        for way in (A, B):
            self._start(way)
            self._mark(way)

    def engage(self) -> World:
        """Both are engaged, and neither application has written yet."""
        ends = [(h.kernel, h.kernel.end, h.kernel.fin) for h in self.hosts]
        for kernel, _, _ in ends:
            kernel.end, kernel.fin = 1, False
        self._start(A)
        while self._next(False, self.now + 0.1):
            self.check()
        for kernel, end, fin in ends:
            kernel.end, kernel.fin = end, fin
        assert {h.machine.state for h in self.hosts if h.machine} == {State.ENGAGED}
        return self

    # ---- what may happen ----

    def do(self, move: tuple[Any, ...]) -> None:
        getattr(self, "_" + move[0])(*move[1:])
        self.check()

    def _start(self, way: int) -> None:
        if (machine := self.hosts[way].machine) is not None:
            self._act(self.hosts[way], machine.local(Event.START, self.now))

    def _send(self, way: int) -> None:
        self._emit(self.hosts[way], [self.hosts[way].kernel.send(self.now)])

    def _timeout(self, way: int) -> None:
        if (segment := self.hosts[way].kernel.timeout(self.now)) is not None:
            self._emit(self.hosts[way], [segment])

    def _read(self, way: int) -> None:
        self._emit(self.hosts[way], self.hosts[way].kernel.read())

    def _wire(self, to: int, i: int = 0, keep: bool = False) -> None:
        segment = self.wire[to][i] if keep else self.wire[to].pop(i)
        host = self.hosts[to]
        self._emit(host, host.kernel.receive(segment, self.now))

    def _lose_wire(self, to: int, i: int) -> None:
        self.wire[to].pop(i)

    def _message(self, to: int, i: int = 0, keep: bool = False) -> None:
        data = self.air[to][i] if keep else self.air[to].pop(i)
        host = self.hosts[to]
        if host.machine is not None:
            self._act(host, host.machine.message(data, self.now), data=data)
        elif host.engine and (answer := answer_to_unknown(data)) is not None:
            self._say(host, answer)

    def _lose(self, to: int, i: int) -> None:
        self.air[to].pop(i)

    def lose_all(self) -> None:
        for channel in (*self.wire, *self.air):
            channel.clear()

    def _timer(self, way: int) -> None:
        machine = self.hosts[way].machine
        if machine is not None and machine.deadline is not None:
            self.now = max(self.now, machine.deadline)
            self._act(self.hosts[way], machine.timer(self.now))

    def can_close(self, host: Host) -> bool:
        """Both directions have ended: TIME_WAIT, or nothing. (The model answers as a TIME_WAIT does.)"""
        kernel = host.kernel
        done = kernel.fin and kernel.finished and kernel.fin_in is not None
        return done and not host.closed and host.machine is not None

    def _close(self, way: int) -> None:
        self.hosts[way].closed = True
        self._local(way, Event.CLOSE)

    def can_mark(self, host: Host) -> bool:
        return host.wanted != host.mark and host.machine is not None and not (host.mark and self.setup.sticks)

    def _mark(self, way: int) -> None:
        """The kernel program does what it was asked for."""
        host = self.hosts[way]
        host.mark = host.wanted
        if host.machine is None:
            return
        if host.mark:
            host.machine.marked(host.kernel.snd_una, host.kernel.snd_nxt, host.kernel.rcv_nxt)
        else:
            self._act(host, host.machine.local(Event.UNMARKED, self.now))

    def _kill(self, way: int) -> None:
        """kill -9: hk0 and its route are gone, the mark means nothing."""
        host = self.hosts[way]
        host.machine, host.engine, host.mark, host.wanted = None, False, False, False
        host.keep = {}
        if self.setup.pinned:
            host.kernel.dead = "aborted"  # by the janitor

    def _engine(self, way: int) -> None:
        """Another engine begins, with a mark of its own."""
        self.hosts[way].engine = True

    def _local(self, way: int, event: Event) -> None:
        host = self.hosts[way]
        if host.machine is not None:
            self._act(host, host.machine.local(event, self.now))

    def _break(self) -> None:
        """The transport carries nothing any more; both engines hear of it, now or never."""
        self.down = True
        self.air[A].clear()
        self.air[B].clear()

    def _reset(self, way: int) -> None:
        """The application closes with zero linger."""
        kernel = self.hosts[way].kernel
        segment = Segment(kernel.snd_nxt, b"", kernel.rcv_nxt, 0, rst=True)
        kernel.dead = "reset"
        self.expected_end = True
        self._emit(self.hosts[way], [segment])
        self._local(way, Event.CLOSE)

    # ---- what the engine and the kernel do ----

    def _emit(self, host: Host, segments: list[Segment]) -> None:
        """The kernel sends, by its own route."""
        for s in segments:
            if host.mark and not host.bound and host.machine is not None:
                host.heard = True
                actions = host.machine.segment(s.position, s.length, s.ack, s.window, self.now, rst=s.rst)
                self._act(host, actions, segment=s)
            else:
                self._put_on_wire(host, s)

    def _put_on_wire(self, host: Host, s: Segment) -> None:
        assert not (self.setup.pinned and s.payload), "plaintext on the wire"
        self.wire[1 - host.way].append(s)

    def _say(self, host: Host, message: bytes) -> None:
        if not self.down:
            self.air[1 - host.way].append(message)

    def _act(
        self, host: Host, actions: int, segment: Segment | None = None, data: bytes | None = None
    ) -> None:
        machine = host.machine
        assert machine is not None
        actions = self.alter(host, actions)
        if actions & (Action.MARK | Action.UNMARK):
            host.wanted = bool(actions & Action.MARK)
        for bit, kind in SENDS:
            if actions & bit:
                self._say(host, machine.compose(kind, self.now))
        if segment is not None:
            self._pass_on(host, segment, actions)
        if actions & Action.WIRE_ACK:
            n = machine.numbers
            self._put_on_wire(host, Segment(n["snd_nxt"], b"", n["rcv_ack"], n["rcv_edge"] - n["rcv_ack"]))
        if actions & Action.WIRE_RST:
            self._put_on_wire(host, Segment(machine.numbers["snd_nxt"], b"", 0, 0, rst=True))
        self._inject(host, machine, actions, data)
        if actions & Action.ABORT:
            host.kernel.dead = host.kernel.dead or "aborted"
        if actions & Action.FORGET:
            host.machine = None

    def _pass_on(self, host: Host, s: Segment, actions: int) -> None:
        if actions & Action.BRIDGE:
            pinned = self.setup.pinned and s.payload
            self._put_on_wire(host, s._replace(payload=b"", fin=False) if pinned else s)
        if actions & Action.SEND_DATA:
            assert host.machine is not None
            flags = 1 if s.fin else 0
            self._say(
                host,
                host.machine.compose("data", self.now, position=s.position, flags=flags, data=s.payload),
            )

    def _inject(self, host: Host, machine: Machine, actions: int, data: bytes | None) -> None:
        n = machine.numbers
        window = max(0, n["peer_edge"] - n["snd_una"])
        if actions & Action.KEEP and data is not None:
            host.keep[max(host.keep, default=0) + 1] = data
            host.kept_edge = 0
        if actions & Action.INJECT and data is not None:
            self._inject_data(host, data, n["snd_una"], window)
        if actions & Action.INJECT_ACK:
            newest = min(max(n["rcv_ack"], n["injected"]), n["rcv_edge"])
            # not at rcv_ack: the kernel takes windows from the newest number only (SND.WL1); nor beyond its
            # own window: it would answer, and two kernels would answer each other
            self._give(host, Segment(newest, b"", n["snd_una"], window))
        if actions & Action.INJECT_PROBE:
            # acknowledges less than there is: says nothing, and is answered
            self._give(host, Segment(n["rcv_ack"] - 1, b"", n["snd_una"] - 1, 0), unheard=True)
        if actions & Action.INJECT_RST:  # which nobody answers
            self._give(host, Segment(n["rcv_ack"], b"", n["snd_una"], 0, rst=True), unheard=True)
        if host.keep and machine.state is State.ENGAGED:
            self._inject_kept(host, machine)

    def _inject_kept(self, host: Host, machine: Machine) -> None:
        """What was kept, as far as the window reaches now; again when it has moved."""
        n = machine.numbers
        if n["rcv_edge"] == host.kept_edge:
            return
        host.kept_edge = n["rcv_edge"]
        for i, data in list(host.keep.items()):
            fields = decode(data)
            end = fields["position"] + len(fields["data"]) + (fields["flags"] & 1)
            if i not in host.keep or fields["position"] >= n["rcv_edge"]:
                continue
            if end <= n["rcv_edge"]:
                del host.keep[i]
            if end > n["rcv_ack"]:
                machine.injected(min(end, n["rcv_edge"]), self.now)
                self._inject_data(host, data, n["snd_una"], max(0, n["peer_edge"] - n["snd_una"]))

    def _inject_data(self, host: Host, data: bytes, ack: int, window: int) -> None:
        fields = decode(data)
        segment = Segment(fields["position"], fields["data"], ack, window, bool(fields["flags"] & 1))
        self._give(host, segment)

    def _give(self, host: Host, segment: Segment, *, unheard: bool = False) -> None:
        assert unheard or host.heard, "injected towards a socket that was not seen at hk0"
        peer = self.hosts[1 - host.way].kernel
        assert segment.ack <= peer.rcv_nxt, "acknowledged what the peer's kernel has not acknowledged"
        was = host.kernel.dead
        self._emit(host, host.kernel.receive(segment, self.now))
        if host.kernel.dead and not was and host.machine is not None:
            self._act(host, host.machine.local(Event.CLOSE, self.now))

    # ---- what must hold ----

    def check(self) -> None:
        for way in (A, B):
            here, there = self.hosts[way].kernel, self.hosts[1 - way].kernel
            assert here.snd_una <= there.rcv_nxt <= here.snd_nxt, "one sequence space"
            assert here.dead != "timeout" or self.expected_end, "a writer was timed out"
            if not self.expected_end:
                assert not here.dead, f"a connection ended: {here.dead}"

    # ---- from here on the network behaves ----

    def heal(self, *, limit: int = 600, seconds: float = 150.0, read: bool = True) -> None:
        """Nothing is lost any more, time passes. Every byte arrives, or the connection ends as it may."""
        until = self.now + seconds
        for way in (A, B):
            if self.setup.pinned and not self.hosts[1 - way].engine:
                self._local(
                    way, Event.PEER_DEAD
                )  # the transport's word; a pinned flow waits for nothing less
        for _ in range(limit):
            if read:
                for host in self.hosts:
                    host.kernel.reading = True
            if not self._next(read, until):
                break
            self.check()
        self.finished(read)

    def _next(self, read: bool, until: float) -> bool:
        for way in (A, B):
            host = self.hosts[way]
            if self.can_mark(host):
                self._mark(way)
                return True
            if self.can_close(host):
                self._close(way)
                return True
            if self.air[way]:
                self._message(way)
                return True
            if self.wire[way]:
                self._wire(way)
                return True
            if host.kernel.can_send():
                self._send(way)
                return True
            if read and host.kernel.unread and not host.kernel.dead:
                self._read(way)
                return True
        return self._next_timer(until)

    def _next_timer(self, until: float) -> bool:
        due: list[tuple[float, int, str]] = []
        for way in (A, B):
            host = self.hosts[way]
            if host.kernel.waits():
                if host.kernel.rto_at is None:
                    host.kernel.arm(self.now)
                due.append((host.kernel.rto_at or 0.0, way, "timeout"))
            if host.machine is not None and host.machine.deadline is not None:
                due.append((host.machine.deadline, way, "timer"))
        if not due or min(due)[0] > until:
            return False
        at, way, what = min(due)
        self.now = max(self.now, at)
        getattr(self, "_" + what)(way)
        return True

    def finished(self, read: bool = True) -> None:
        a, b = self.hosts[A].kernel, self.hosts[B].kernel
        if a.dead or b.dead:
            assert self.expected_end, "a connection ended"
            return
        for here, there in ((a, b), (b, a)):
            if read or (here.finished and there.window):
                assert here.finished, f"stream {here.way} stands at {here.snd_una} of {here.last}"
                assert there.rcv_nxt == here.last, "bytes are missing"
            elif there.window == 0 and not here.finished:
                assert here.snd_edge <= here.snd_una, "a writer retransmits to a stopped reader"

    # ---- one state of a search ----

    def key(self) -> tuple[object, ...]:
        """The same for states that differ in time and in ACKED's numbers only."""
        self._forget_time()
        return (
            self.hosts[A].key(),
            self.hosts[B].key(),
            tuple(sorted(self.wire[A])),
            tuple(sorted(self.wire[B])),
            tuple(sorted(self.air[A])),
            tuple(sorted(self.air[B])),
            self.down,
        )

    def _forget_time(self) -> None:
        frozen: list[bytearray | None] = []
        for host in self.hosts:
            state = None if host.machine is None else bytearray(host.machine.freeze())
            if state is not None:
                (wait,) = struct.unpack_from("=Q", state, 16)
                struct.pack_into("=QQQ", state, 16, wait if wait == NEVER else THEN * 10**9, THEN * 10**9, 0)
                struct.pack_into("=I", state, 120, THEN * 10**3)
            frozen.append(state)
        for way in (A, B):
            self._rank_serials(frozen[way], frozen[1 - way], self.air[1 - way])
        for host, state in zip(self.hosts, frozen, strict=True):
            if state is not None and host.machine is not None:
                host.machine.thaw(bytes(state))
        self.now = float(THEN)

    @staticmethod
    def _rank_serials(sender: bytearray | None, receiver: bytearray | None, air: list[bytes]) -> None:
        numbers = {struct.unpack_from("=H", sender, 100)[0]} if sender else set()
        if receiver:
            numbers.add(struct.unpack_from("=H", receiver, 102)[0])
        acked = [i for i, data in enumerate(air) if data[0] == TYPES["acked"]]
        numbers |= {int.from_bytes(air[i][20:22], "big") for i in acked}
        rank = {number: i for i, number in enumerate(sorted(numbers))}
        if sender:
            struct.pack_into("=H", sender, 100, rank[struct.unpack_from("=H", sender, 100)[0]])
        if receiver:
            struct.pack_into("=H", receiver, 102, rank[struct.unpack_from("=H", receiver, 102)[0]])
        for i in acked:
            number = rank[int.from_bytes(air[i][20:22], "big")]
            air[i] = air[i][:20] + number.to_bytes(2, "big") + air[i][22:]
