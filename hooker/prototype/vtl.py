"""VTL in the process of a user's class, which decides something in it; the peer's engine need not know.

It runs through the transports' own face (``hooker.transports.face.Lone``), so every message costs Python some
microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, cast

from hooker.checks import shown
from hooker.flow.messages import TYPES, checksum
from hooker.prototype import link
from hooker.prototype.link import Link, Peer
from hooker.prototype.load import Unfit, load
from hooker.transports.face import REASONS, Lone
from hooker.transports.functions import Function
from hooker.transports.makers import Settings, make
from hooker.vtl import congestion
from hooker.vtl.reliability.base import Reliability
from hooker.vtl.reliability.python import register

DATA, ACKED, HAS_BLOCKS = TYPES["data"], TYPES["acked"], 3  # the byte that counts them
NAME = "prototype"  # of the class, for VTL
FIRST_CODE, CODES = 128, 128  # in VTL's handshake, of reliability functions of one's own
AGREED = ("repairs", "gives_up", "order")  # of a function
FULL, ROOM = 8 << 20, 4 << 20  # bytes of DATA that wait for acknowledgement
CHANNELS = 512  # beyond so many, those at rest are given back
DATAGRAM = 1200  # bytes, to try a controller with
LARGEST = 32 << 10
NAME_MOST = 56  # bytes of a name that the engine is told


class Relay:
    """Between the engine and a VTL endpoint."""

    max_message = LARGEST

    def __init__(
        self,
        job: Mapping[str, Any],
        connection: Link,
        loop: asyncio.AbstractEventLoop,
        listen: Callable[[], None],
    ) -> None:
        self._link, self._loop, self._listen = connection, loop, listen
        self._settings, self._wire_id = _settings(job), int(job["vtl"])
        self._own_function = str(job.get("reliability", ("",))[0])
        self._numbers: dict[Peer, int] = {}
        self._peers: dict[int, Peer] = {}
        self._channels: dict[tuple[int, bytes], int] = {}
        self._keys: dict[int, tuple[int, bytes]] = {}
        self._waiting = 0
        self._full = self._soon = False
        self._timer: asyncio.TimerHandle | None = None
        self._made = make(self._wire_id, self._settings)

    # ---- what the engine wants ----

    def open(self, port: int) -> int:
        self._lone = Lone(self._made, port)
        self._loop.add_reader(self._lone.fileno(), self._turn)
        self._turn()
        return self._lone.port

    def connect(self, peer: Peer) -> None:
        number = self._lone.connect(link.packed(peer[0]), peer[1])
        self._know(number, peer)
        if self._lone.is_up(number):
            self._tell_up(number)
        self._turn_soon()

    def close(self, peer: Peer) -> None:
        number = self._numbers.get(peer)
        if number is not None:
            self._lone.close(number)
            self._turn_soon()

    def send(self, peer: Peer, body: bytes) -> None:
        number = self._numbers.get(peer)
        if number is not None:
            for message in link.frames(body):
                self._send(number, message)
            self._turn_soon()

    def is_full(self) -> bool:
        self._full = self._full or self._waiting > FULL
        return self._full

    def _send(self, number: int, message: bytes) -> None:
        """What VTL does not take is lost: timers and TCP repeat it."""
        if message[0] not in (DATA, ACKED):
            self._lone.say(number, message)
            return
        channel = self._channel(number, message[8:16])
        if not channel:
            return
        if message[0] == ACKED and not message[HAS_BLOCKS]:
            self._lone.reports[channel] = message
            self._lone.report(channel)
        elif self._lone.send(channel, message) and message[0] == DATA:
            self._waiting += len(message)

    def _channel(self, number: int, token: bytes) -> int:
        """0: there is none."""
        key = (number, token)
        channel = self._channels.get(key, 0)
        if channel:
            return channel
        if len(self._channels) >= CHANNELS:
            for old in [c for c in self._channels.values() if self._lone.at_rest(c)]:
                self._lone.channel_close(old)
                self._forget(old)
        channel = self._lone.channel(number)
        if channel:
            self._channels[key], self._keys[channel] = channel, key
        return channel

    def _forget(self, channel: int) -> None:
        self._channels.pop(self._keys.pop(channel), None)
        self._lone.reports.pop(channel, None)

    # ---- what VTL says ----

    def _turn_soon(self) -> None:
        if not self._soon:
            self._soon = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._soon = False
        self._lone.turn()
        heard, self._lone.heard = self._lone.heard, []
        for kind, *what in heard:
            getattr(self, f"_on_{kind}")(*what)
        self._link.flush()
        if self._timer is not None:
            self._timer.cancel()
        due = self._lone.deadline()
        self._timer = None if due is None else self._loop.call_later(due, self._turn)

    def _on_up(self, number: int) -> None:
        self._know(number, self._peer_of(number))
        self._lone.hold(number)  # the engine says when it is idle
        self._tell_up(number)

    def _tell_up(self, number: int) -> None:
        function = str(self._lone.stats(number)["reliability"])
        name = self._own_function if function == NAME else function
        body = bytes([self._lone.repairs(number)]) + name.encode()[:NAME_MOST]
        self._link.tell(link.UP, body, self._peers[number])

    def _on_down(self, number: int, why: str) -> None:
        peer = self._peers.pop(number, None)
        if peer is not None:
            self._numbers.pop(peer, None)
            self._link.tell(link.DOWN, bytes([REASONS.index(why)]), peer)

    def _on_message(self, number: int, message: bytes) -> None:
        self._link.frame(self._peers.get(number) or self._peer_of(number), message)

    def _on_hole(self, number: int, head: bytes, size: int) -> None:
        self._link.tell(link.HOLE, size.to_bytes(4, "big") + head, self._peers[number])

    def _on_release(self, loan: int, _: int) -> None:
        message, left = self._lone.lent.get(loan, (b"", 1))  # gone with a release before it in the same turn
        if left == 0:
            del self._lone.lent[loan]
            self._waiting -= len(cast(bytes, message))
        if self._full and self._waiting < ROOM:
            self._full = False
            self._listen()

    def _on_channel_down(self, channel: int) -> None:
        self._lone.channel_close(channel)
        self._forget(channel)

    def _know(self, number: int, peer: Peer) -> None:
        self._numbers[peer], self._peers[number] = number, peer

    def _peer_of(self, number: int) -> Peer:
        ip, port = self._lone.peer(number)
        return link.unpacked(ip), port


def _settings(job: Mapping[str, Any]) -> Settings:
    """With the users' classes in the place of names."""
    given = dict(job["settings"])
    given["datagrams"], given["named"] = tuple(given["datagrams"]), tuple(given["named"])
    given["parameters"] = {int(number): values for number, values in given["parameters"].items()}
    directories = job["directories"]
    if "reliability" in job:
        name, place = job["reliability"]
        found = load(place, directories, Reliability, ())
        _try_function(found)
        try:
            register(NAME, _code(name, found), found)
        except ValueError as error:
            raise Unfit(str(error)) from None
        given["functions"] = (Function(NAME),)
    else:
        given["functions"] = tuple(Function(**one) for one in given["functions"])
    if "congestion" in job:
        controller = load(job["congestion"][1], directories, object, ())
        _try(controller)
        congestion.register(NAME, controller)
        given["congestion"] = NAME
    return Settings(**given)


def _code(name: str, function: type[Reliability]) -> int:
    """In VTL's handshake. What both ends must agree on is in it: one may give up what the other waits for."""
    agreed = [one for one in AGREED if getattr(function, one) is not getattr(Reliability, one)]
    return FIRST_CODE + checksum("\0".join([name, *agreed]).encode()) % CODES


def _try_function(function: type[Reliability]) -> None:
    """Raises Unfit when it cannot be made, and whatever its own code raises."""
    try:
        function()
    except TypeError as error:
        if _is_of_its_own(error):
            raise
        raise Unfit(f"{function.__name__} cannot be made: {function.__name__}(): {error}") from None


def _is_of_its_own(error: TypeError) -> bool:
    """Its own code has raised it, not the call."""
    return error.__traceback__ is None or error.__traceback__.tb_next is not None


def _try(controller: type) -> None:
    """Raises Unfit when it is no congestion controller, and whatever its own code raises."""
    try:
        made = controller(DATAGRAM)
    except TypeError as error:
        if _is_of_its_own(error):
            raise
        name = controller.__name__
        raise Unfit(
            f"{name} is no congestion controller: {name}({DATAGRAM}), bytes of a datagram: {error}"
        ) from None
    if not hasattr(made, "cwnd"):
        raise Unfit(f"{controller.__name__} has no attribute cwnd")
    if not isinstance(made.cwnd, Real) or not 0 <= float(made.cwnd) < 1 << 64:
        raise Unfit(f"{controller.__name__}.cwnd is {shown(made.cwnd)}, which is no number of bytes")
