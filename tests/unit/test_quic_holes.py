"""QUIC over a path that becomes narrower: libngtcp2 looks for its size at the beginning only."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("hooker.transports.quic", reason="built without libngtcp2", exc_type=ImportError)

from unit.test_quic import HELLO, HOME, data, lone, run, told

from hooker.flow.messages import decode
from hooker.transports.face import Lone

PIECE = 20_000  # bytes of a message
WAITING = 20  # messages at once


class Path:
    """Between two transports on loopback. Datagrams of more than *most* bytes are swallowed."""

    def __init__(self, there: Lone) -> None:
        self.front, self.back = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        for one in (self.front, self.back):
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
        self.there = ("127.0.0.1", there.port + 1)
        self.here: Any = None
        self.most = 65_535
        self.swallowed = 0

    @property
    def port(self) -> int:
        return int(self.front.getsockname()[1]) - 1

    def turn(self, _seconds: float) -> None:
        for taken, given, forth in ((self.front, self.back, True), (self.back, self.front, False)):
            for _ in range(200):
                try:
                    datagram, sender = taken.recvfrom(70_000)
                except BlockingIOError:
                    break
                if forth:
                    self.here = sender
                if len(datagram) > self.most:
                    self.swallowed += 1
                else:
                    given.sendto(datagram, self.there if forth else self.here)

    def shut(self) -> None:
        self.front.close()
        self.back.close()


def arrived(who: Lone) -> int:
    messages = (decode(one[2]) for one in told(who, "message"))
    return sum(len(one["data"]) for one in messages if one["kind"] == "data")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("most", [1300, 1200])
def test_a_path_that_has_become_narrower_carries_on(most: int) -> None:
    a, b = lone(), lone()
    path = Path(b)
    ends: tuple[Any, ...] = (a, path, b)
    try:
        there = a.connect(HOME, path.port)
        assert run(*ends, until=lambda: a.is_up(there))
        a.say(there, HELLO)
        assert run(*ends, until=lambda: bool(told(b, "up")))
        b.say(b.heard[0][1], HELLO)
        channel = a.channel(there)
        sent = 0

        def send(until: Callable[[], bool], seconds: float) -> bool:
            """As much as goes, until that holds."""
            nonlocal sent

            def more() -> bool:
                nonlocal sent
                if sent - arrived(b) < WAITING * PIECE:
                    a.send(channel, data(sent, bytes(PIECE)))
                    sent += PIECE
                return until()

            return run(*ends, until=more, seconds=seconds)

        assert send(lambda: arrived(b) > 50 * PIECE, 10)
        path.most, before = most, arrived(b)
        assert send(lambda: arrived(b) > before + 100 * PIECE, 20)
        assert path.swallowed
        assert not told(a, "down")
    finally:
        for one in ends:
            one.shut()
