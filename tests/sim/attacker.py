"""A bare initiator, after docs/vtl.md alone: it sends what no endpoint of ours would."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count

from hooker.vtl.sansio import Endpoint

HEADER = struct.Struct("!B3xQQ")
SHORT = struct.Struct("!BQI")
INIT, COOKIE = 1, 2
PING = b"\x01"
_ids = count(1)


def _init(number: int, cookie: tuple[int, int, int] = (0, 0, 0), function: int = 0) -> bytes:
    body = struct.pack("!BB2xIQQQQQI", 1, function, 1000, 1 << 24, 1 << 22, *cookie, 1)
    return (HEADER.pack(0x20 | INIT, 0, number) + body).ljust(128, b"\0")


class Attacker:
    """One association with *target*, from *address*; it reads nothing but what the handshake needs."""

    def __init__(
        self,
        target: Endpoint,
        address: tuple[str, int],
        now: int = 0,
        likes: Callable[[int], bool] = lambda cid: True,
        local: str | None = None,
        function: int = 0,
    ) -> None:
        """It asks for cookies until it *likes* the connection id that one is for.

        *local*: the address of the target's that it sends to; *function*: of reliability.
        """
        self.target, self.address, self.local = target, address, local
        self.number = next(_ids) << 20 | 1
        self._packets = count(1)
        self.cid = 0
        while not self.cid or not likes(self.cid):
            self._give(_init(self.number), now)
            answers = (d for d, _ in target.datagrams_to_send(now))
            (cookie,) = (d for d in answers if HEADER.unpack_from(d)[:2] == (0x20 | COOKIE, self.number))
            self.cid = HEADER.unpack_from(cookie)[2]
        self.second = _init(self.number, (self.cid, *struct.unpack_from("!QQ", cookie, 24)), function)
        self.answer = self._give(self.second, now)

    def _give(self, datagram: bytes, now: int) -> str:
        return self.target.receive_datagram(datagram, self.address, now, local=self.local)

    def send(self, frames: bytes, now: int = 0) -> str:
        """Return what became of one packet of these frames."""
        datagram = SHORT.pack(0x28, self.cid, next(self._packets)) + frames
        return self._give(datagram, now)

    def acknowledge_all(self, now: int = 0) -> None:
        """Take what the target sends and acknowledge it, until there is nothing more."""
        while datagrams := self.target.datagrams_to_send(now):
            numbers = [SHORT.unpack_from(d)[2] for d, to in datagrams if to == self.address and d[0] == 0x28]
            if numbers:
                self.send(struct.pack("!BBHIQI", 2, 0, 0, 0, max(numbers), max(numbers) - min(numbers)), now)

    def send_all(self, frames: Iterable[bytes], now: int = 0) -> dict[str, int]:
        """Send them, packed into datagrams; return how many became what."""
        return dict(Counter(self.send(packet, now) for packet in packed(frames)))


def packed(frames: Iterable[bytes]) -> Iterator[bytes]:
    """Yield as many frames together as fit into a datagram."""
    packet = b""
    for frame in [*frames, b""]:
        if packet and (not frame or len(packet) + len(frame) > 1400):
            yield packet
            packet = b""
        packet += frame


def stream(flow: int, offset: int, data: bytes) -> bytes:
    """Return a STREAM frame."""
    return struct.pack("!BIIH", 0x1A, flow << 1, offset, len(data)) + data


def opening(flow: int, *, committed: bool = True) -> bytes:
    """Return an OPEN frame."""
    return struct.pack("!BBHIQQ", 0x11, committed, 0, flow << 1, flow + 1, 0)


def reset(flow: int, final_size: int = 0) -> bytes:
    """Return a RESET_STREAM frame."""
    return struct.pack("!BBHIIQ", 0x16, 0, 0, flow << 1, 0, final_size)
