"""One direction of a path: what happens to a datagram between two hosts.

A datagram meets, in this order: the queue in front of the rate, a path that is down or too narrow for
it, loss, duplication, delay with jitter and reordering, corruption. Random numbers come from the
network's generator.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

MS = 1_000_000  # ns
SECOND = 1_000_000_000  # ns
CE = 3  # RFC 3168
HEADER = 28  # bytes of IPv4 and UDP per datagram
BURST_FORGETS = 20 * MS  # in a pause a burst ends as fast as if a datagram went by each 20 ms


class Arrival(NamedTuple):
    """A copy of a datagram that comes out at the other end."""

    at: int  # ns
    data: bytes
    ecn: int  # the two bits of the IP header


@dataclass
class Link:
    """Parameters may change at any time; the rest is state and counters."""

    delay: int = 5 * MS  # ns
    jitter: int = 0  # ns, added uniformly: reorders
    reorder: float = 0.0  # share of datagrams that are held back …
    reorder_by: int = 10 * MS  # … for so many ns more
    loss: float = 0.0  # share of datagrams
    burst: float = 1.0  # mean number of datagrams lost together; 1: each by itself
    duplicate: float = 0.0
    corrupt: float = 0.0  # share of datagrams with one bit flipped …
    checksum: bool = True  # … which the receiver's UDP notices and drops, or not
    rate: float = 0.0  # bytes/s; 0: infinite
    queue: int = 256 * 1024  # bytes that may wait for the rate
    mark: int = 0  # bytes waiting, above which a datagram with ECT gets CE; 0: never
    bleach: bool = False  # ECN bits are cleared
    mtu: int = 65535  # UDP payload bytes; larger datagrams vanish
    down: bool = False
    busy_until: int = 0
    in_burst: bool = False
    last_at: int = 0
    sent: int = 0
    dropped: int = 0
    corrupted: int = 0
    bytes: int = 0

    def carry(self, data: bytes, now: int, rng: random.Random, ecn: int = 0) -> list[Arrival]:
        """When copies of the datagram come out, and how they look."""
        self.sent += 1
        self.bytes += len(data)
        if ecn and self.mark and self.waiting(now) > self.mark:
            ecn = CE
        ecn = 0 if self.bleach else ecn
        leave = self.through_queue(len(data), now)
        if leave is None or self.down or len(data) > self.mtu or self._lost(now, rng):
            self.dropped += 1
            return []
        copies = 2 if self.duplicate and rng.random() < self.duplicate else 1
        return [a for _ in range(copies) if (a := self._copy(data, ecn, leave, rng)) is not None]

    def waiting(self, now: int) -> float:
        """Bytes in the queue."""
        return max(0, self.busy_until - now) * self.rate / SECOND

    def through_queue(self, size: int, now: int) -> int | None:
        """When a datagram that comes now has left the queue; None: it found it full."""
        if not self.rate:
            return now
        if self.waiting(now) > self.queue:
            return None
        self.busy_until = max(now, self.busy_until) + int((size + HEADER) * SECOND / self.rate)
        return self.busy_until

    def _lost(self, now: int, rng: random.Random) -> bool:
        """Gilbert's model: in a burst all is lost; bursts have `burst` datagrams in the mean."""
        if not self.loss:
            return False
        if self.burst <= 1:
            return rng.random() < self.loss
        stay = 1 - 1 / self.burst
        if self.in_burst:
            stay **= 1 + (now - self.last_at) / BURST_FORGETS
        self.last_at = now
        enter = self.loss / (1 - self.loss) / self.burst
        self.in_burst = rng.random() < (stay if self.in_burst else enter)
        return self.in_burst

    def _copy(self, data: bytes, ecn: int, leave: int, rng: random.Random) -> Arrival | None:
        at = leave + self.delay + (rng.randrange(self.jitter) if self.jitter else 0)
        if self.reorder and rng.random() < self.reorder:
            at += self.reorder_by
        if self.corrupt and data and rng.random() < self.corrupt:
            self.corrupted += 1
            if self.checksum:
                return None
            data = flip_a_bit(data, rng)
        return Arrival(at, data, ecn)


def flip_a_bit(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data) * 8)
    out = bytearray(data)
    out[i // 8] ^= 1 << (i % 8)
    return bytes(out)
