"""What a sender talks to: a transport as bad as it may be, an engine, its kernel's receive buffer, a reader.

Virtual time, one random generator: equal seeds give equal runs. Bytes are compared in the end.
"""

from __future__ import annotations

import heapq
import random
from typing import NamedTuple

from hooker.flow.face import Sender

FIN, WRAP = 1, 1 << 32
LEAST_DELAY = 0.001


class Setup(NamedTuple):
    """Of one run. Times are seconds, shares from 0 to 1."""

    writes: tuple[int, ...] = (1000,)  # bytes of each
    spread: float = 0.0  # over what time
    fin: bool = True
    base: int = 1
    before: int = 0  # bytes of the kernel's own that are under way when the sender begins
    capacity: int = 4000  # of the receive buffer
    reads: int = 2000  # bytes at a time
    pause: float = 0.01  # between two reads
    stopped: float = 0.0  # the reader does nothing until then
    shrinks: bool = False  # the window is sometimes taken back
    loss: float = 0.0  # of messages in both directions
    doubled: float = 0.0
    jitter: float = 0.0  # of the delay, so it reorders
    full: float = 0.0  # share of messages for which the transport has no room
    repairs: bool = False
    promise: int = 0  # bytes beyond the window, in capacities
    forgets: float = 1.0  # share of the messages within the promise that are not kept
    segment: int = 700
    delay: float = 0.02
    delayed_ack: float = 0.0
    seed: int = 0


class FarEnd:
    """A kernel's receive buffer and the engine before it."""

    def __init__(self, setup: Setup, total: int) -> None:
        self.setup = setup
        self.total = total
        self.bytes = bytearray(total)
        self.mask = bytearray(total)
        self.rcv_nxt = self.consumed = -setup.before  # offsets from the sender's first byte
        self.edge = self.consumed + setup.capacity
        self.moved_at = 0.0  # when it last grew
        self.fin_at: int | None = None
        self.ended = False
        self.kept: list[tuple[int, bytes, bool]] = []
        self.serial = self.duplicates = self.refusals = self.most_ahead = 0

    def data(self, at: int, payload: bytes, fin: bool, forgets: bool = True) -> tuple[bool, int | None]:
        """Whether the kernel says something, and from where the bytes are refused."""
        end = at + len(payload)
        if end + fin <= self.rcv_nxt + self.ended:
            return True, None
        if at >= self.edge and not (payload == b"" and at == self.edge):
            if at < self.edge + self.setup.promise * self.setup.capacity:
                if forgets:
                    return False, at
                self.kept.append((at, payload, fin))
                return False, None
            return True, None  # its probe tells what there is
        cut = min(end, self.edge)
        refused = cut if cut < end else None
        before = self.rcv_nxt
        self.bytes[at:cut] = payload[: cut - at]
        self.mask[at:cut] = b"\1" * (cut - at)
        if fin and refused is None:
            self.fin_at = end
        self._advance()
        self.duplicates = 0 if self.rcv_nxt > before else min(self.duplicates + 1, 255)
        return True, refused

    def _advance(self) -> None:
        if self.rcv_nxt >= 0:
            hole = self.mask.find(0, self.rcv_nxt)
            self.rcv_nxt = self.total if hole < 0 else hole
        if self.fin_at is not None and self.rcv_nxt == self.fin_at:
            self.ended = True

    def unkeep(self) -> None:
        """What is in the window now goes to the kernel."""
        kept, self.kept = self.kept, []
        for at, payload, fin in kept:
            self.data(at, payload, fin, forgets=False)

    def before(self) -> None:
        """The kernel's own bytes have come."""
        self.rcv_nxt = max(self.rcv_nxt, 0)
        self._advance()

    def read(self, rng: random.Random, now: float) -> bool:
        """Whether the window has moved enough to be told (RFC 9293 3.8.6.2.2)."""
        self.consumed = min(self.consumed + self.setup.reads, self.rcv_nxt)
        edge = self.consumed + self.setup.capacity
        if self.setup.shrinks and rng.random() < 0.2:
            edge = max(self.rcv_nxt, edge - self.setup.capacity // 2)
            self.edge = edge
            return True
        if (
            edge - self.edge >= min(self.setup.capacity // 2, self.setup.segment)
            or self.edge <= self.rcv_nxt < edge
        ):
            if edge > self.edge:
                self.edge, self.moved_at = edge, now
            return True
        return False

    def blocks(self) -> list[tuple[int, int]]:
        found, at = [], max(self.rcv_nxt, 0)
        while len(found) < 4 and (start := self.mask.find(1, at)) >= 0:
            end = self.mask.find(0, start)
            at = end if end >= 0 else self.total
            found.append((start, at))
        return found[::-1]


class Run:
    """A sender, and everything to the reader at the far end."""

    def __init__(self, setup: Setup, **config: float) -> None:
        self.setup = setup
        self.rng = random.Random(setup.seed)
        self.now = 0.0
        self.written = b"".join(self.rng.randbytes(n) for n in setup.writes)
        self.far = FarEnd(setup, len(self.written))
        common = {"rtt": 2 * setup.delay, "segment": setup.segment, "repairs": setup.repairs}
        self.sender = self.make_sender(setup.base, self.place(self.far.edge), **common, **config)
        self.agenda: list[tuple[float, int, tuple]] = []
        self.steps = self.sent = self.sent_again = self.probes = self.serial = self.blocked = 0
        self.taken = False
        self.ended: str | None = None
        at = 0
        for n in setup.writes:
            self.later(self.rng.random() * setup.spread, ("write", self.written[at : at + n]))
            at += n
        self.order = [piece for _, _, (_, piece) in sorted(self.agenda)]
        self.written = b"".join(self.order)
        self.later(setup.spread + 0.01, ("close",))
        self.later(setup.stopped, ("read",))
        if setup.before:
            self.later(0.3, ("before",))

    def make_sender(self, *arguments: int, **config: float) -> Sender:
        return Sender(*arguments, **config)

    def place(self, offset: int) -> int:
        return (self.setup.base + offset) % WRAP

    def offset(self, position: int) -> int:
        away = (position - self.setup.base - self.far.rcv_nxt) % WRAP
        return self.far.rcv_nxt + (away - WRAP if away >= WRAP // 2 else away)

    def later(self, wait: float, what: tuple) -> None:
        self.steps += 1
        heapq.heappush(self.agenda, (self.now + wait, self.steps, what))

    def carry(self, what: tuple) -> None:
        """The transport."""
        setup, rng = self.setup, self.rng
        copies = 1 + (rng.random() < setup.doubled)
        for _ in range(copies):
            if not setup.repairs and rng.random() < setup.loss:
                continue
            wait = max(setup.delay * (1 + setup.jitter * rng.random()), LEAST_DELAY)
            if setup.repairs and rng.random() < setup.loss:
                wait += 3 * setup.delay  # it has come with the repair
            self.later(wait, what)

    def send(self) -> None:
        while True:
            taken = self.rng.random() >= self.setup.full
            piece = self.sender.next(self.now, taken=taken)
            if piece is None:
                return
            if not taken:
                self.blocked += 1
                self.later(0.005, ("writable",))
                return
            position, data, flags, again = piece
            assert data or flags & FIN
            assert len(data) <= self.setup.segment
            self.sent += len(data)
            self.sent_again += len(data) * again
            self.carry(("data", position, data, bool(flags & FIN)))

    def say_acked(self) -> None:
        far = self.far
        far.serial += 1
        position = self.place(far.rcv_nxt + far.ended)
        edge = max(far.edge, far.rcv_nxt)
        if self.setup.promise and far.edge > far.rcv_nxt and self.now - far.moved_at < 2 * self.setup.delay:
            edge += self.setup.promise * self.setup.capacity
        sack = [(self.place(a), self.place(b)) for a, b in far.blocks()]
        message = ("acked", far.serial, position, self.place(edge), far.duplicates, sack)
        self.carry(message)

    def happens(self, what: tuple) -> None:
        kind = what[0]
        if kind == "write":
            self.sender.write(what[1])
        elif kind == "close" and self.setup.fin:
            self.sender.fin()
        elif kind == "before":
            self.far.before()
            self.say_acked()
        elif kind == "read":
            if not self.finished():
                self.later(
                    self.setup.pause if self.far.rcv_nxt > self.far.consumed else 5 * self.setup.pause,
                    ("read",),
                )
            if self.far.read(self.rng, self.now):
                self.far.unkeep()
                self.say_acked()
        elif kind == "data":
            self.arrives(*what[1:])
        elif kind == "ack":
            self.say_acked()
        elif kind == "refused":
            self.sender.refused(what[1], self.now)
        elif kind == "probe":
            self.say_acked()
        elif kind == "acked":
            self.hears(*what[1:])

    def arrives(self, position: int, data: bytes, fin: bool) -> None:
        says, refused = self.far.data(
            self.offset(position), data, fin, self.rng.random() < self.setup.forgets
        )
        if refused is not None:
            self.far.refusals += 1
            self.carry(("refused", self.place(refused)))
        if says:
            if self.setup.delayed_ack and not self.far.blocks():
                self.later(self.rng.random() * self.setup.delayed_ack, ("ack",))
            else:
                self.say_acked()

    def hears(self, serial: int, position: int, edge: int, duplicates: int, sack: list) -> None:
        if serial <= self.serial:
            return  # docs/flow.md, 4.2; a position that is higher comes again
        self.serial = serial
        before = self.sender.acknowledged
        self.sender.acked(position, edge, self.now, duplicates=duplicates, sack=sack)
        assert before <= self.sender.acknowledged <= max(self.far.rcv_nxt, 0)

    def finished(self) -> bool:
        if self.setup.fin:
            return self.sender.done
        return self.sender.acknowledged == len(self.written)

    def check(self) -> None:
        sender = self.sender
        assert sender.borrowed <= len(self.written) - sender.acknowledged
        assert sender.held >= sender.borrowed
        assert self.sender.deadline is None or self.sender.deadline >= 0

    def step(self) -> bool:
        """The next thing that happens; False: nothing will."""
        deadline = self.sender.deadline
        if deadline is not None and (not self.agenda or deadline <= self.agenda[0][0]):
            self.now = max(self.now, deadline)
            due = self.sender.timer(self.now)
            if due == "probe":
                self.probes += 1
                self.carry(("probe",))
            elif due == "end":
                self.ended = due
                return False
        elif self.agenda:
            self.now, _, what = heapq.heappop(self.agenda)
            self.happens(what)
        else:
            return False
        self.send()
        self.check()
        return True

    def finish(self, most: int = 50000) -> Run:
        """Until all is acknowledged. Raises AssertionError when it does not come to that."""
        for _ in range(most):
            if self.finished():
                break
            assert self.step(), f"nothing happens any more, {self.ended}: {self.setup}"
        assert self.finished(), f"never finished: {self.setup}"
        assert bytes(self.far.bytes) == self.written
        assert self.sender.borrowed == self.sender.held == 0
        assert self.sender.deadline is None
        return self
