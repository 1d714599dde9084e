"""Windows with less than a segment of room.

What is sent beyond them waits at the receiver's engine, and is sent only where the receiver never has more.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

import pytest
from by_hand import SEGMENTS, Connection, Engine, Wire, proof_of
from hands import Hands
from support import PLAIN, Pair

from hooker.flow.messages import encode
from hooker.lab import Lab
from hooker.vtl import events as ev

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="plain TCP opens no flows")]
PORT, CLIENT_PORT = 7823, 41002
FINAL, KNOWN = 1, 2  # flags of ENGAGED
SMALL = 16384  # SO_RCVBUF
PIECE = 400  # bytes of a block
WIDE, TWO, NARROW = 60000, 3000, 700  # bytes: of many segments, of two, of less than one
PATIENCE = 1.0  # s: several persist timers of a TCP that waits for a window
LASTS = 0.5  # s
SEGMENT = 1500  # bytes, or less


class Client(Engine):
    """The engine of the client, which is made by hand, too."""

    serial = 0

    def engage(self, made: Connection) -> None:
        assert self.accepted(self.signed(proof_of(made)))
        self.token = self.heard("accept")[0]["own_token"]
        self.run(lambda: self.heard("engaged"))
        self.say(encode("engaged", epoch=1, token=self.token, flags=FINAL | KNOWN, position=1))
        self.run(lambda: any(said["flags"] & FINAL for said in self.heard("engaged")))
        self.channel = self.endpoint.channel_open(self.assoc)

    def send(self, position: int, data: bytes) -> None:
        assert self.endpoint.channel_send(
            self.channel, self.token & 0xFFFFFFFF, position, data, epoch=1, flags=0
        )
        self.step()

    def acked(self, position: int, window: int) -> None:
        self.serial += 1
        edge = position + window
        self.say(encode("acked", epoch=1, token=self.token, position=position, edge=edge, serial=self.serial))

    def told(self, what: str) -> int:
        """The highest that the server's kernel has said: what it has acknowledged, or its window's edge."""
        return max((said[what] for said in self.heard("acked")), default=1)

    def arrived(self) -> int:
        """Behind the last byte that the server's TCP has sent."""
        blocks = [event for event in self.events if isinstance(event, ev.BlockReceived)]
        return max((block.position + len(block.data) for block in blocks), default=1)


@contextlib.contextmanager
def engaged(lab: Lab, buffer: int = 0, window: int = WIDE) -> Iterator[tuple[Client, socket.socket]]:
    """The client's engine, whose TCP has that window, and the server's socket, with that SO_RCVBUF."""
    with Pair.open(lab, hosts="b", kind="segments"), Hands(lab) as hands:
        wire = Wire(lab, SEGMENTS)
        with wire.socket, contextlib.closing(hands.listening(PORT)) as listener:
            if buffer:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            made = Connection(wire, wire.address(78), CLIENT_PORT, PORT, window=window)
            engine = Client(wire, made.address)
            made.ask()
            made.establish()
            server = hands.accepted(listener)
            engine.engage(made)
            yield engine, server


def test_what_is_beyond_the_window_is_kept(lab: Lab) -> None:
    """As a segment that was cut on its way; the sender's TCP would repeat it after its timeout only."""
    with engaged(lab, buffer=SMALL) as (engine, server):
        at, stands = 1, 0.0

        def send() -> None:
            nonlocal at, stands
            engine.send(at, bytes([at % 251]) * PIECE)
            at, stands = at + PIECE, time.monotonic() + PATIENCE

        def taken() -> bool:
            return engine.told("position") == at or time.monotonic() > stands

        while engine.told("position") == at or at == 1:
            send()
            engine.run(taken)
        full = at - PIECE
        for _ in range(2):
            send()
        for again in range(full, at, PIECE):  # as TCP repeats it
            engine.send(again, bytes([again % 251]) * PIECE)
        engine.run(taken)
        assert engine.told("position") <= full + PIECE
        end = at
        server.setblocking(False)
        read = b""

        def all_read() -> bool:
            nonlocal read
            with contextlib.suppress(BlockingIOError):
                read += server.recv(65536)
            return len(read) == end - 1

        engine.run(all_read, timeout=5)
        pieces = [read[cut : cut + PIECE] for cut in range(0, len(read), PIECE)]
        assert all(piece == piece[:1] * PIECE for piece in pieces)
        assert [piece[0] for piece in pieces[-3:]] == [(full + cut * PIECE) % 251 for cut in range(3)]


@pytest.mark.parametrize("before", [WIDE, TWO])
def test_beyond_a_window_only_where_it_is_never_wide(lab: Lab, before: int) -> None:
    """Who has sent beyond a closing window repeats it, with a timer that doubles until the reader goes on."""
    with engaged(lab, window=before) as (engine, server):
        server.setblocking(False)
        position, edge, beyond = 1, 1, False

        def goes_on(until: float, at_least: int = 1) -> bool:
            with contextlib.suppress(BlockingIOError):
                server.send(bytes(65536))
            return engine.arrived() >= position + at_least or time.monotonic() > until

        def let_go_on(window: int, lasts: float) -> None:
            nonlocal position, edge, beyond
            until = time.monotonic() + lasts
            while time.monotonic() < until:
                beyond = beyond or engine.arrived() > edge
                position = engine.arrived()
                edge = max(edge, position + window)
                engine.acked(position, window)
                engine.run(lambda: goes_on(until))

        let_go_on(before, LASTS)
        engine.run(lambda: goes_on(time.monotonic() + 1, edge - position - SEGMENT))
        beyond = False
        let_go_on(NARROW, PATIENCE)
        assert beyond == (before == TWO)
