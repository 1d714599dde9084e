"""The link to the engine, at its other end: packets, and the frames in them (hooker/transports/child.pxd)."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Iterator
from functools import lru_cache

OPEN, SEND, CONNECT, CLOSE = 1, 2, 3, 4  # from the engine
READY, OPENED, FRAMES, UP, DOWN, BEAT, FAILED, HOLE = 16, 17, 18, 19, 20, 21, 22, 23  # to it
HEAD = struct.Struct("!BxH16s")
LENGTH = struct.Struct("!I")
PACKET = 256 << 10  # bytes of one, at most
BATCH = 96 << 10  # bytes of frames that are gathered before they leave
TEXT = 250  # bytes

Peer = tuple[str, int]


class Closed(Exception):
    """The engine has gone, or wants this process no more."""


@lru_cache(1024)
def unpacked(ip: bytes) -> str:
    """16 bytes as IPv6 is written; IPv4 is ::ffff:a.b.c.d."""
    return socket.inet_ntop(socket.AF_INET6, ip)


@lru_cache(1024)
def packed(address: str) -> bytes:
    """An address of either family as 16 bytes. Raises ValueError."""
    ip = ipaddress.ip_address(address)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


class Link:
    """One end of the socket pair. Waits when the engine has no time; any thread may tell."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)
        self._lock = threading.Lock()
        self._peer: Peer = ("::", 0)
        self._parts: list[bytes] = []
        self._size = 0

    def fileno(self) -> int:
        return self._socket.fileno()

    def tell(self, what: int, body: bytes = b"", peer: Peer = ("::", 0)) -> None:
        """One packet, behind the frames that are gathered. Raises Closed."""
        with self._lock:
            self._flush()
            self._send(what, body, peer)

    def frame(self, peer: Peer, message: bytes) -> bool:
        """One message that has come from a peer. Whether it is the first that waits for ``flush()``."""
        with self._lock:
            if self._parts and (peer != self._peer or self._size + len(message) > BATCH):
                self._flush()
            first = not self._parts
            self._peer = peer
            self._parts += (LENGTH.pack(len(message)), message)
            self._size += len(message) + LENGTH.size
        return first

    def flush(self) -> None:
        """Raises Closed."""
        with self._lock:
            self._flush()

    def fail(self, text: str) -> None:
        """The last that is told, instead of what is gathered: one of those frames may be what is wrong."""
        with self._lock:
            self._parts, self._size = [], 0
            said = text.replace("\0", " ").encode("utf-8", "replace")[:TEXT]
            self._send(FAILED, said, ("::", 0))

    def hear(self) -> tuple[int, Peer, bytes] | None:
        """The next packet; None: there is none now. Raises Closed."""
        try:
            packet = self._socket.recv(PACKET, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            packet = b""
        if len(packet) < HEAD.size:
            raise Closed
        what, port, ip = HEAD.unpack_from(packet)
        return what, (unpacked(ip), port), packet[HEAD.size :]

    def _flush(self) -> None:
        if self._parts:
            body, self._parts, self._size = b"".join(self._parts), [], 0
            self._send(FRAMES, body, self._peer)

    def _send(self, what: int, body: bytes, peer: Peer) -> None:
        try:
            self._socket.send(HEAD.pack(what, peer[1], packed(peer[0])) + body, socket.MSG_NOSIGNAL)
        except OSError:
            raise Closed from None


def frames(body: bytes) -> Iterator[bytes]:
    """The messages in a packet from the engine."""
    at = 0
    while at < len(body):
        (size,) = LENGTH.unpack_from(body, at)
        at += LENGTH.size + size
        yield body[at - size : at]
