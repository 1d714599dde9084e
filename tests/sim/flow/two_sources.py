"""An application's kernel, which gives one stream by two ways: what sk_msg redirects, and TCP's segments.

Far from it is what a sender talks to (far_end.py). Bytes are compared when they are sent, and in the end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sim.flow.far_end import WRAP, Run, Setup

from hooker.flow.face import Joined

RTO = 0.2
MOST_MESSAGE = 5000  # bytes that a test may write at a time


class Ways(NamedTuple):
    """How the two ways behave. Times are seconds, shares from 0 to 1."""

    blocking: float = 0.2  # share of the messages that TCP gets though there is credit
    older: float = 0.0  # and of a send() that began before the socket was adopted
    gathered: float = 0.01  # for how long redirected messages may be kept back
    cut: float = 0.2  # share of the frames that a recv() cuts
    segment_delay: float = 0.005
    mss: int = 500
    again: float = 0.1  # share of the segments that come twice
    refused: float = 0.0  # share of the segments for which there is no memory
    unkept: float = 0.0  # and of the frames
    credit: int = 3000
    end_at: float = 0.0  # somebody resets it, the framing is lost, the peer is gone; 0: nobody
    socket_gone: bool = False  # once FIN is taken: nothing is acknowledged to it


class Kernel:
    """The application's: sk_msg as in bpf/redirect.c, the redirect socket's queue, TCP's stream."""

    def __init__(self, base: int, before: int, credit: int) -> None:
        self.origin = (base - before) % WRAP
        self.stream = bytearray(before)
        self.frames: list[bytes] = []
        self.redirected = self.spill_at = self.consumed = self.spills = 0
        self.redirects = False
        self.resume = self.sent = before
        self.credit = credit
        self.acked = 0  # of the stream; FIN has its place
        self.edge = before + 1000
        self.closed = False

    def send(self, data: bytes, blocking: bool, older: bool) -> None:
        drained = len(self.stream) == self.resume
        if older and self.redirects:
            self.stream += data
        elif drained and self.redirected - self.consumed < self.credit and not blocking:
            self.redirects = True
            self.redirected += len(data)
            self.frames.append(data)
        else:
            if self.redirects:
                self.spill_at, self.redirects = self.redirected, False
                self.spills += 1
            self.stream += data

    @property
    def turns(self) -> tuple[int, bool, int]:
        return self.spill_at, self.redirects, self.redirected

    def segment(self, at: int, mss: int) -> tuple[int, bytes, bool] | None:
        """What goes into one from there on: its place, bytes, FIN."""
        end = min(at + mss, len(self.stream), self.edge)
        fin = self.closed and end == len(self.stream)
        if end <= at and not (fin and at == end):
            return None
        return at, bytes(self.stream[at:end]), fin


class TwoSources(Run):
    """A whole run."""

    sender: Joined

    def __init__(self, setup: Setup, ways: Ways, **config: float) -> None:
        self.ways = ways
        self.kernel = Kernel(setup.base, setup.before, ways.credit)
        limits = {
            "least_credit": ways.credit,
            "most_credit": 2 * ways.credit,
            "floor_credit": ways.credit // 4,
        }
        super().__init__(setup, **(limits | config))
        self.una = self.kernel.origin  # what the peer's kernel has acknowledged, as the machine knows it
        self.kept = self.early_fins = self.met_again = 0
        if ways.end_at:
            self.later(ways.end_at, ("end",))
        self.later(RTO, ("repeat",))

    def make_sender(self, *arguments: int, **config: float) -> Joined:
        return Joined(*arguments, **config)

    # ---- the application and its kernel

    def happens(self, what: tuple) -> None:
        kind = what[0]
        if kind == "write":
            self.kernel.send(what[1], self.chance(self.ways.blocking), self.chance(self.ways.older))
            self.later(self.rng.random() * self.ways.gathered, ("frames",))
            self.output()
        elif kind == "close":
            self.kernel.closed = self.setup.fin
            self.output()
        elif kind == "frames":
            self.collect()
        elif kind == "segment":
            self.hk0(*what[1:])
        elif kind == "repeat":
            self.repeat()
        elif kind == "end":
            self.end()
        else:
            super().happens(what)
        self.serve()

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def output(self) -> None:
        kernel = self.kernel
        while kernel.sent <= len(kernel.stream) and (piece := kernel.segment(kernel.sent, self.ways.mss)):
            kernel.sent = piece[0] + len(piece[1]) + piece[2]
            for _ in range(1 + self.chance(self.ways.again)):
                self.later(self.rng.random() * self.ways.segment_delay, ("segment", *piece))

    def repeat(self) -> None:
        """The retransmission timer of the application's TCP."""
        kernel = self.kernel
        if kernel.acked < kernel.sent and (piece := kernel.segment(kernel.acked, self.ways.mss)):
            self.later(0.0, ("segment", *piece))
        if not self.over:
            self.later(RTO, ("repeat",))

    # ---- the engine

    def collect(self) -> None:
        """What the redirect socket has, as far as it is read."""
        frames = self.kernel.frames
        for _ in range(self.rng.randint(0, len(frames))):
            data = frames.pop(0)
            at = self.rng.randrange(1, len(data)) if self.chance(self.ways.cut) and len(data) > 1 else 0
            for part in (data[:at], data[at:]) if at else (data,):
                self.sender.frame(part, memory=not self.chance(self.ways.unkept))
        if frames and not self.over:
            self.later(self.rng.random() * self.ways.gathered + 0.001, ("frames",))

    def hk0(self, at: int, data: bytes, fin: bool) -> None:
        place = (self.kernel.origin + at) % WRAP
        below = self.sender.below(place, len(data), self.una)
        if len(data) > below or fin:
            memory = not self.chance(self.ways.refused)
            known = self.sender.numbers["heard"]
            got = self.sender.segment(place, data, self.kernel.turns, fin=fin, memory=memory)
            assert got != "kept" or self.sender.numbers["heard"] != known
            self.kept += got == "kept"
            self.early_fins += fin and self.kernel.redirected != self.sender.numbers["received"]

    def serve(self) -> None:
        """The end of the engine's round."""
        kernel, sender = self.kernel, self.sender
        if sender.lost:
            self.end()
        if self.ended:
            return
        parts = sender.numbers["parts"]
        sender.settle(kernel.turns)
        self.met_again += sender.numbers["parts"] < parts
        numbers = sender.numbers
        kernel.resume = (numbers["taken"] - kernel.origin) % WRAP
        kernel.consumed, kernel.credit = max(numbers["consumed"], kernel.consumed), sender.credit
        acked = (sender.ack(self.una) - kernel.origin) % WRAP
        assert acked >= kernel.acked, "an acknowledgement was taken back"
        assert acked <= len(kernel.stream) + sender.done, "FIN was acknowledged before the peer's kernel has"
        assert acked <= (self.una - kernel.origin) % WRAP or acked >= self.setup.before
        if (self.una - kernel.origin) % WRAP < self.setup.before:
            assert acked == (self.una - kernel.origin) % WRAP, "it covers bytes that the peer has not"
        if not (self.ways.socket_gone and numbers["fin_taken"]):
            kernel.acked = acked
            room = max(sender.credit - (numbers["queued"]), 0)
            kernel.edge = max(kernel.edge, kernel.resume + room)
        self.output()

    def hears(self, serial: int, position: int, edge: int, duplicates: int, sack: list) -> None:
        before = self.sender.acknowledged
        self.sender.acked(position, edge, self.now, serial=serial % 65536)
        assert self.ended or before <= self.sender.acknowledged <= max(self.far.rcv_nxt, 0)
        below = (position - self.kernel.origin) % WRAP
        if below < WRAP // 2 and below > (self.una - self.kernel.origin) % WRAP:
            self.una = position

    def carry(self, what: tuple) -> None:
        if what[0] == "data":
            assert not self.ended, "bytes of a flow that is over"
            at = (what[1] - self.setup.base) % WRAP
            assert self.written[at : at + len(what[2])] == what[2], "not what the application wrote"
            if what[3]:
                assert at + len(what[2]) == len(self.written), "FIN before the last byte"
        super().carry(what)

    def end(self) -> None:
        self.sender.end()
        self.ended = self.ended or "ended"
        numbers = self.sender.numbers
        assert (self.sender.borrowed, self.sender.held, numbers["parts"]) == (0, 0, 0)
        assert self.sender.deadline is None

    # ---- what must hold

    @property
    def over(self) -> bool:
        return bool(self.ended) or self.finished()

    def check(self) -> None:
        sender, numbers = self.sender, self.sender.numbers
        kept = (numbers["heard"] - numbers["taken"]) % WRAP
        assert self.ended or sender.borrowed <= len(self.written) - sender.acknowledged
        assert self.ended or sender.held >= sender.borrowed - kept
        bound = 4 * self.ways.credit + 1000 + MOST_MESSAGE  # two credits, a window that was open, a message
        assert sender.borrowed <= bound, "more is kept than credit and window allow"

    def finish(self, most: int = 50000) -> TwoSources:
        if not self.ways.end_at and not self.ways.unkept:
            super().finish(most)
            return self
        for _ in range(most):
            if self.over and not self.agenda:
                break
            if not self.step():
                break
        assert self.over, f"never came to an end: {self.setup} {self.ways}"
        if self.ended:
            got = self.far.rcv_nxt if self.far.rcv_nxt > 0 else 0
            assert bytes(self.far.bytes[:got]) == self.written[:got]
        return self


def run(setup: Setup, ways: Ways, **config: Any) -> TwoSources:
    """A run to its end."""
    return TwoSources(setup, ways, **config).finish()
