"""A transport without an engine (``hooker.transports.face``), for tests: what it says, and its turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from hooker.flow.messages import decode
from hooker.transports.face import Lone

HOME = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
TOKEN = 0x1122334455667788


def told(who: Lone, kind: str) -> list[Any]:
    return [one for one in who.heard if one[0] == kind]


def messages(who: Lone, kind: str) -> list[dict[str, Any]]:
    return [m for m in (decode(one[2]) for one in told(who, "message")) if m["kind"] == kind]


def until(done: Callable[[], Any], *who: Lone, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, [one.heard[-5:] for one in who]
        for one in who:
            one.turn(0.001)
