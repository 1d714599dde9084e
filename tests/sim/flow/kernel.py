"""A kernel's TCP connection, as far as the flow protocol can see it.

Positions are those of the protocol: the first byte is 1. FIN takes the position behind the last byte.
The rules are RFC 9293's; where Linux is stricter (which windows it takes), Linux's
(tcp_may_update_window of 6.1).
"""

from __future__ import annotations

from typing import NamedTuple

MSS = 4
FIRST_RTO = 0.2  # seconds, doubling; Linux's least
PATIENCE = 6  # retransmissions without an answer until ETIMEDOUT, as tcp_retries2 says


class Segment(NamedTuple):
    position: int
    payload: bytes  # what is at these positions; b"F" with fin is FIN's own
    ack: int
    window: int
    fin: bool = False
    rst: bool = False

    @property
    def length(self) -> int:
        return len(self.payload) + self.fin

    @property
    def end(self) -> int:
        return self.position + self.length


def content(direction: int, position: int) -> int:
    """The byte at a position of A's (0) or B's (1) stream: neighbours and directions differ."""
    return (position * 7 + direction * 128 + 33) % 256


class Kernel:
    """One end; `way` says which stream it writes. What goes wrong is an AssertionError."""

    __slots__ = (
        "backoff",
        "capacity",
        "dead",
        "end",
        "fin",
        "fin_in",
        "ooo",
        "probes",
        "rcv_nxt",
        "reading",
        "retries",
        "rto_at",
        "snd_edge",
        "snd_nxt",
        "snd_una",
        "unread",
        "way",
        "wl1",
    )

    def __init__(self, way: int, *, size: int, fin: bool, capacity: int, peer_capacity: int) -> None:
        self.way = way
        self.snd_una = self.snd_nxt = self.rcv_nxt = 1
        self.end = 1 + size  # behind the last byte written
        self.fin = fin
        self.fin_in: int | None = None  # where the peer's stream ends
        self.snd_edge = 1 + peer_capacity
        self.wl1 = 0
        self.capacity, self.unread = capacity, 0
        self.reading = True
        self.ooo: frozenset[tuple[int, bool]] = frozenset()  # positions beyond a hole; whether FIN
        self.retries = self.probes = self.backoff = 0
        self.rto_at: float | None = None
        self.dead = ""

    def copy(self) -> Kernel:
        new = Kernel.__new__(Kernel)
        for name in Kernel.__slots__:
            setattr(new, name, getattr(self, name))
        return new

    def key(self) -> tuple[object, ...]:
        return (
            self.snd_una,
            self.snd_nxt,
            self.rcv_nxt,
            self.end,
            self.fin,
            self.snd_edge,
            self.wl1,
            self.unread,
            self.reading,
            self.ooo,
            self.retries,
            self.probes,
            self.dead,
            self.fin_in,
        )

    # ---- sending ----

    @property
    def last(self) -> int:
        """Behind the last position there is to send."""
        return self.end + self.fin

    @property
    def window(self) -> int:
        return self.capacity - self.unread

    @property
    def finished(self) -> bool:
        return self.snd_una == self.last

    def segment(self, position: int, limit: int) -> Segment:
        stop = min(limit, position + MSS, self.end)
        payload = bytes(content(self.way, p) for p in range(position, max(position, stop)))
        fin = self.fin and position + len(payload) == self.end and limit > self.end
        return Segment(position, payload, self.rcv_nxt, self.window, fin)

    def bare(self) -> Segment:
        """An ACK; beyond a window that was shrunk its number is the window's end (tcp_acceptable_seq)."""
        position = min(self.snd_nxt, max(self.snd_edge, self.snd_una))
        return Segment(position, b"", self.rcv_nxt, self.window)

    def can_send(self) -> bool:
        return not self.dead and self.snd_nxt < min(self.last, self.snd_edge)

    def send(self, now: float) -> Segment:
        made = self.segment(self.snd_nxt, min(self.last, self.snd_edge))
        self.snd_nxt = made.end
        self.arm(now)
        return made

    def arm(self, now: float) -> None:
        self.rto_at = now + FIRST_RTO * 2 ** min(self.backoff, 8)

    def waits(self) -> bool:
        """Whether the retransmission or the persist timer runs."""
        return not self.dead and (
            self.snd_una < self.snd_nxt or (self.snd_nxt < self.last and not self.can_send())
        )

    def timeout(self, now: float) -> Segment | None:
        """Retransmits, or probes a closed window; gives up where Linux does."""
        if self.snd_edge <= self.snd_una:
            self.probes += 1
        else:
            self.retries += 1
        self.backoff += 1
        if max(self.retries, self.probes) > PATIENCE:
            self.dead = "timeout"
            return None
        self.arm(now)
        if self.snd_una < self.snd_nxt:
            return self.segment(self.snd_una, self.snd_nxt)
        return Segment(self.snd_una - 1, b"", self.rcv_nxt, self.window)

    # ---- receiving ----

    def receive(self, s: Segment, now: float) -> list[Segment]:
        """What it answers."""
        if self.dead:
            return [] if s.rst else [Segment(s.ack, b"", s.end, 0, rst=True)]
        if s.rst:
            if s.position == self.rcv_nxt:
                self.dead = "reset"
                return []
            return [self.bare()] if self.rcv_nxt < s.position <= self.rcv_nxt + self.window else []
        self._acknowledged(s, now)
        if s.position > self.rcv_nxt + self.window or s.end < self.rcv_nxt:
            return [self.bare()]
        return self._data(s)

    def _acknowledged(self, s: Segment, now: float) -> None:
        assert s.ack <= self.snd_nxt, f"acknowledged beyond what was sent: {s.ack} > {self.snd_nxt}"
        if s.ack < self.snd_una:
            return
        nearer = s.ack > self.snd_una or s.position > self.wl1
        if nearer or (s.position == self.wl1 and s.ack + s.window > self.snd_edge):
            self.wl1, self.snd_edge = s.position, s.ack + s.window
        self.probes = 0
        if s.ack > self.snd_una:
            self.snd_una = s.ack
            self.retries = self.backoff = 0
            self.arm(now)

    def _data(self, s: Segment) -> list[Segment]:
        edge = self.rcv_nxt + self.window
        got = {(s.position + i, False) for i in range(len(s.payload))}
        for position, _ in got:
            byte, right = s.payload[position - s.position], content(1 - self.way, position)
            assert byte == right, f"wrong byte at {position} of stream {1 - self.way}"
        if s.fin:
            got.add((s.end - 1, True))
        self.ooo |= {(p, fin) for p, fin in got if p >= self.rcv_nxt and (p < edge or fin)}
        while True:
            here = {x for x in self.ooo if x[0] == self.rcv_nxt}
            if not here:
                break
            (_, fin) = here.pop()
            self.ooo = frozenset(x for x in self.ooo if x[0] > self.rcv_nxt)
            self.rcv_nxt += 1
            if fin:
                self.fin_in = self.rcv_nxt
            else:
                self.unread += 1
        if self.reading:
            self.unread = 0
        return [self.bare()] if s.length or s.position < self.rcv_nxt else []

    def read(self) -> list[Segment]:
        """The application reads all; a window that was closed is opened aloud."""
        was, self.unread = self.unread, 0
        return [self.bare()] if was and not self.dead else []
