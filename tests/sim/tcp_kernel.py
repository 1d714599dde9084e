"""A modelled TCP, as far as a twin meets one: windows, repeats, probes, out-of-order bytes, timestamps, FIN.

It speaks packets like a TUN device's. What a twin must never say fails an assertion at once.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hooker.tcp.fields import ACK, FIN, PSH, RST, Segment
from hooker.tcp.sansio import build, parse

MS = 1_000_000  # ns
MASK = 0xFFFFFFFF
RTO, PERSIST, DELAYED = 200 * MS, 200 * MS, 40 * MS


@dataclass
class Kernel:
    """One end of an established connection; positions: 0 is the SYN, 1 the first byte."""

    rng: random.Random
    me: tuple[bytes, int]
    other: tuple[bytes, int]
    isn: int
    other_isn: int
    to_send: bytes
    wscale: int
    other_wscale: int
    room: int  # bytes of receive buffer
    mss: int = 1000
    snd_una: int = 1
    snd_nxt: int = 1
    snd_edge: int = 0
    rcv_nxt: int = 1
    rcv_edge: int = 0
    received: bytearray = field(default_factory=bytearray)
    read: int = 0  # by the application
    reset: bool = False
    fin_in: int | None = None
    ts_recent: int = 0
    out: list[bytes] = field(default_factory=list)
    paws_drops: int = 0
    repeats: int = 0  # retransmissions
    silent: bool = False  # its application has nothing to send for now
    _early: dict[int, bytes] = field(default_factory=dict)
    _early_fin: int | None = None
    _timer: int | None = None
    _backoff: int = 0
    _ack_at: int | None = None
    _ts_sent: list[int] = field(default_factory=list)

    @property
    def fin_at(self) -> int:
        return 1 + len(self.to_send)

    @property
    def done(self) -> bool:
        """All is sent and acknowledged, and all of the other's is here."""
        return self.snd_una == self.fin_at + 1 and self.fin_in is not None and self.rcv_nxt > self.fin_in

    # -- sending

    def _say(self, seq: int, data: bytes, flags: int, now: int) -> None:
        free = self.room - (len(self.received) - self.read) - sum(map(len, self._early.values()))
        edge = self.rcv_nxt + (max(0, free) >> self.wscale << self.wscale)
        step = min(self.room // 2, 2 * self.mss)  # no silly windows
        if edge - self.rcv_edge >= step or edge <= self.rcv_edge:
            self.rcv_edge = max(self.rcv_edge, edge)
        window = min(65535, -(-(self.rcv_edge - self.rcv_nxt) >> self.wscale))  # rounded up, as Linux does
        self.rcv_edge = max(self.rcv_edge, self.rcv_nxt + (window << self.wscale))
        ts = now // MS & MASK
        self._ts_sent.append(ts)
        sacks = () if not self._early else (self._first_block(),)
        self.out.append(
            build(
                Segment(
                    *(self.me[0], self.other[0], self.me[1], self.other[1]),
                    seq=(self.isn + seq) & MASK,
                    ack=(self.other_isn + self.rcv_nxt) & MASK,
                    flags=flags | ACK,
                    window=window,
                    data=data,
                    timestamps=(ts, self.ts_recent),
                    sacks=sacks,
                    gso_size=self.mss if len(data) > self.mss else 0,
                ),
                partial=True,
            )
        )
        self._ack_at = None

    def _first_block(self) -> tuple[int, int]:
        start = min(self._early)
        end = start + len(self._early[start])
        return (self.other_isn + start) & MASK, (self.other_isn + end) & MASK

    def _segment(self, seq: int, limit: int, now: int) -> int:
        """Say what begins at `seq`, and return where it ends."""
        n = max(0, min(limit - seq, self.fin_at - seq))
        fin = seq + n == self.fin_at and limit > seq + n
        self._say(seq, self.to_send[seq - 1 : seq - 1 + n], (FIN if fin else 0) | (PSH if n else 0), now)
        return seq + n + fin

    def push(self, now: int) -> None:
        """Send what the window allows."""
        while self.snd_nxt <= self.fin_at and not self.silent:
            limit = min(self.snd_edge, self.snd_nxt + self.mss * self.rng.randint(1, 6))
            if limit <= self.snd_nxt:
                break
            self.snd_nxt = self._segment(self.snd_nxt, limit, now)
        if self._timer is None and (self.snd_una < self.snd_nxt or self.snd_nxt <= self.fin_at):
            self._timer = now + RTO

    def tick(self, now: int) -> None:
        """Timers, and an application that reads."""
        if self.reset:
            return
        if self.rng.random() < 0.3:
            self.read += self.rng.randint(0, len(self.received) - self.read)
            if self.rcv_edge - self.rcv_nxt < self.mss <= self.room - len(self.received) + self.read:
                self._say(self.snd_nxt, b"", 0, now)
        self.push(now)
        if self._ack_at is not None and now >= self._ack_at:
            self._say(self.snd_nxt, b"", 0, now)
        if self._timer is not None and now >= self._timer:
            self._backoff = min(self._backoff + 1, 5)
            self._timer = now + (RTO << self._backoff)
            if self.snd_una < self.snd_nxt:
                self.repeats += 1
                self._segment(self.snd_una, min(self.snd_una + self.mss, self.snd_nxt), now)
            else:
                self._say(self.snd_una - 1, b"", 0, now)  # zero-window probe

    def abort(self, now: int) -> None:
        """As close() with zero linger."""
        self.reset = True
        self._say(self.snd_nxt, b"", RST, now)

    # -- receiving

    def take(self, packet: bytes, now: int) -> None:
        """A segment from the network, or from a twin."""
        s = parse(packet)
        seq = 1 + self._ahead(s.seq - self.other_isn - 1, self.rcv_nxt - 1)
        ack = 1 + self._ahead(s.ack - self.isn - 1, self.snd_una - 1)
        if self.reset:
            return
        if s.timestamps is None:
            assert seq < self.rcv_nxt, "only a probe has no timestamp"
            assert not s.data
            self._say(self.snd_nxt, b"", 0, now)
            return
        if (s.timestamps[0] - self.ts_recent) & MASK > 1 << 31:
            self.paws_drops += 1
            self._say(self.snd_nxt, b"", 0, now)
            return
        fin = bool(s.flags & FIN)
        end = seq + len(s.data) + fin
        assert end <= self.rcv_edge or not (s.data or fin), "bytes beyond the window"
        if end < self.rcv_nxt or seq > self.rcv_edge:
            self._say(self.snd_nxt, b"", 0, now)
            return
        if s.flags & RST:
            self.reset = seq == self.rcv_nxt
            if not self.reset:
                self._say(self.snd_nxt, b"", 0, now)  # challenge
            return
        if seq <= self.rcv_nxt:
            self.ts_recent = s.timestamps[0]
        self._acknowledged(ack, ack + (s.window << self.other_wscale), s.timestamps[1], now)
        if s.data or fin:
            self._bytes(seq, s.data, fin, now)

    def _ahead(self, n: int, near: int) -> int:
        delta = (n - near) & MASK
        return near + (delta - (1 << 32) if delta > 1 << 31 else delta)

    def _acknowledged(self, ack: int, edge: int, echo: int, now: int) -> None:
        assert ack <= self.snd_nxt, "an acknowledgement of what was never sent"
        assert echo in (0, *self._ts_sent), "an echo of a timestamp that was never sent"
        if ack >= self.snd_una:
            if ack > self.snd_una:
                self._backoff, self._timer = 0, None
            self.snd_una = ack
            self.snd_edge = max(self.snd_edge, edge)

    def _bytes(self, seq: int, data: bytes, fin: bool, now: int) -> None:
        if fin:
            self._early_fin = seq + len(data)
        if seq + len(data) > self.rcv_nxt and len(data) > len(self._early.get(seq, b"")):
            self._early[seq] = data
        in_order = seq <= self.rcv_nxt
        for start in sorted(self._early):
            if start <= self.rcv_nxt:
                piece = self._early.pop(start)[self.rcv_nxt - start :]
                self.received += piece
                self.rcv_nxt += len(piece)
        if self._early_fin == self.rcv_nxt:
            self.fin_in = self.rcv_nxt
            self.rcv_nxt += 1
        if not in_order or fin or self._ack_at is not None:
            self._say(self.snd_nxt, b"", 0, now)
        else:
            self._ack_at = now + DELAYED
