"""Transports without an engine, for the tests that hold each to the contract (docs/transports.md, 1)."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from support import SLOWNESS

from hooker import transports
from hooker.flow.messages import decode, encode
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make

IDS = {
    "vtl": 1,
    "vtl+udplite": 2,
    "vtl+dccp": 3,
    "udp": 5,
    "udplite": 6,
    "dccp": 7,
    "sctp": 9,
    "quic": 10,
    "mptcp": 11,
    "tcp": 12,
}
STREAMS = ["mptcp", "tcp"]
UNENCRYPTED = ["udp", "udplite", "dccp", "sctp", *STREAMS]
HOME = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
TOKEN = 0x1122334455667788
HELLO = encode("hello", epoch=1, position=65535, token=7, own_token=8)


def lone(name: str, **settings: Any) -> Lone:
    """One of that name; skips where the kernel has none."""
    there, why = transports.get(name).available()
    if not there:
        pytest.skip(why)
    return Lone(make(IDS[name], Settings(**settings)))


class Pair:
    """Two of them, and one association that `a` has begun."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.a, self.b = lone(name, **settings), lone(name, **settings)
        self.there = self.a.connect(HOME, self.b.port)
        self.until(lambda: self.a.is_up(self.there))
        assert self.a.say(self.there, HELLO)
        self.until(lambda: bool(told(self.b, "message")))
        self.here = int(told(self.b, "up")[0][1])

    def turn(self) -> None:
        self.a.turn(0.001)
        self.b.turn(0.001)

    def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds * SLOWNESS
        while not done():
            assert time.monotonic() < end, (self.a.heard[-5:], self.b.heard[-5:])
            self.turn()

    def rest(self, seconds: float = 0.1) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()


def told(who: Lone, kind: str) -> list[Any]:
    return [one for one in who.heard if one[0] == kind]


def messages(who: Lone, kind: str) -> list[dict[str, Any]]:
    found = [decode(one[2]) for one in told(who, "message")]
    return [m for m in found if m["kind"] == kind]


def data(position: int, payload: bytes, flags: int = 0) -> bytes:
    return encode("data", epoch=1, flags=flags, position=position, token=TOKEN, data=payload)


def wait(who: Lone, done: Callable[[], bool], seconds: float = 5.0) -> None:
    """Run it alone until that is so."""
    end = time.monotonic() + seconds * SLOWNESS
    while not done():
        assert time.monotonic() < end, who.heard[-5:]
        who.turn(0.01)


def pair_up(who: Lone, name: str) -> None:
    """It works for others."""
    other = lone(name)
    there = other.connect(HOME, who.port)
    wait(other, lambda: other.is_up(there))
    assert other.say(there, HELLO)
    before = len(told(who, "up"))
    end = time.monotonic() + 5 * SLOWNESS
    while len(told(who, "up")) == before and time.monotonic() < end:
        other.turn(0.01)
        who.turn(0.01)
    assert len(told(who, "up")) == before + 1
    other.shut()


class Stranger:
    """A socket that has connected to one, and what it does to it."""

    def __init__(self, who: Lone, source: int = 1, protocol: int = socket.IPPROTO_TCP) -> None:
        self.who = who
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
        self.sock.settimeout(5)
        self.sock.bind((f"127.0.1.{source}", 0))
        self.sock.connect(("127.0.0.1", who.port))
        self.sock.settimeout(0.01)

    def send(self, text: bytes) -> None:
        self.sock.sendall(text)

    def is_out(self, seconds: float = 5.0) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.who.turn(0.01)
            try:
                if self.sock.recv(65536) == b"":
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False
