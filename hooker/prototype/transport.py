"""The base class of transports that are written in Python."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import ClassVar

from hooker.engine.layout import MARK_OWN
from hooker.prototype.link import Link, Peer, packed

__all__ = ["Peer", "Transport"]

MOST = 65_600  # bytes of a message, whoever sends it


class Transport:
    """Carries messages between two engines, in a process of its own. A subclass has ``open`` and ``send``.

    It may lose messages, repeat them, reorder them, and damage them: the engines notice, and the
    applications' TCPs repair. What it raises ends it, and its flows go back to TCP.

    A *peer* is an address and a port, as sockets of AF_INET6 take it: ``("::ffff:10.0.0.2", 6253)``. The port
    is the one on which the peer's engine listens, in whatever ports this transport has.
    """

    max_message: ClassVar[int] = 1400
    """Bytes of the largest message that is sent, 1,200 to 65,000."""

    loop: asyncio.AbstractEventLoop
    """In which all of it runs: ``add_reader``, ``call_later``, ``create_task``. What stands still in it
    for three seconds has failed."""

    _link: Link

    def open(self, port: int) -> int:
        """Listen on that port; 0: on any. The port that it is. May raise OSError: it cannot be had."""
        raise NotImplementedError

    def send(self, peer: Peer, message: bytes) -> None:
        """A message for a peer; who cannot take it now may drop it. It must not wait."""
        raise NotImplementedError

    # ---- what it is given ----

    def deliver(self, peer: Peer, message: bytes) -> None:
        """A message has come, whole, from a peer that can be sent to by the same name. From any thread.

        It is copied if it is not ``bytes``. Raises ValueError: it is larger than any message, or the peer has
        no address or port; TypeError: it is no bytes.
        """
        if len(message) > MOST:
            raise ValueError(f"a message of {len(message)} bytes; {MOST} are the most")
        address, port = peer[0], peer[1]
        packed(address)
        if not isinstance(port, int) or not 0 < port < 1 << 16:
            raise ValueError(f"a peer with the port {port!r:.80}")
        if type(message) is not bytes:
            message = bytes(memoryview(message))
        if self._link.frame((address, port), message):
            self.loop.call_soon_threadsafe(self._link.flush)

    def socket(
        self, kind: int = socket.SOCK_DGRAM, protocol: int = 0, family: int = socket.AF_INET6
    ) -> socket.socket:
        """A new one, non-blocking, which the engine does not hook; of AF_INET6 it takes IPv4, too."""
        made = socket.socket(family, kind | socket.SOCK_NONBLOCK, protocol)
        with contextlib.suppress(PermissionError):  # who is not root hooks nothing
            made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK_OWN)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        return made
