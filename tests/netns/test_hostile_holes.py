"""A peer that says what it has given up, of flows that it has not and of ranges that there cannot be."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from by_hand import SEGMENTS, Connection, Engine, Wire, proof_of
from support import PLAIN, counts, eventually, peer, result

from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="plain TCP has none")]
PORT = 7700
HOLE = struct.Struct("!BBHIIB3x")  # docs/vtl.md, 4.10
SHORT = struct.Struct("!BQI")
ENDS = (0, 1, 2, 100_000, 0x7FFFFFFF, 0x80000000, 0xFFFF0000, 0xFFFFFFFF)


def holes(ids: list[int]) -> list[bytes]:
    return [
        HOLE.pack(0x0B, flags, size, id_, position, epoch)
        for id_ in ids
        for position in ENDS
        for size in (0, 1, 0xFFFF)
        for epoch in (0, 1, 255)
        for flags in (0, 0x3F)
    ]


def throw(engine: Engine, frames: list[bytes]) -> None:
    """In packets of its association, some in each."""
    kind, cid, number = SHORT.unpack_from(next(one for one in reversed(engine.sent) if one[0] == 0x28))
    for n in range(0, len(frames), 50):
        number += 1000
        engine.datagram(SHORT.pack(kind, cid, number) + b"".join(frames[n : n + 50]))
    engine.step()


@pytest.mark.parametrize("function", ["selective-repeat", pytest.param("partial", marks=pytest.mark.soak)])
def test_absurd_holes_change_nothing(function: str) -> None:
    """Not of the peer's own flow, which has sent nothing, nor of flows that there are not."""
    with Lab() as lab:
        host = lab.b.hooker("--reliability", "partial:repeats=0" if function == "partial" else function)
        try:
            server = peer(lab.b, "serve", "0.0.0.0", PORT, "recv-all", "close")
            wire = Wire(lab, SEGMENTS)
            address = wire.address(66)
            made = Connection(wire, address, 40_000, PORT)
            made.ask()
            made.establish()
            engine = Engine(wire, address, reliability=function, repeats=0)
            assert [row["reliability"] for row in host.status()["peers"]] == [function]
            assert engine.accepted(engine.signed(proof_of(made)))
            token = engine.heard("accept")[0]["own_token"]
            before = host.status()
            throw(engine, holes([token & 0xFFFFFFFF, 0, 1, 0xFFFFFFFF, random.getrandbits(32)]))
            eventually(lambda: counts(host.status())["datagrams_received"] - received(before) > 10)
            after = host.status()
            for name in ("holes_filled", "bytes_zeroed", "injected", "injected_bytes"):
                assert counts(after)[name] == counts(before)[name], name
            missing = sum(row["bytes_missing"] for row in after["peers"])
            assert (missing > 0) == (function == "partial"), "what was thrown was not looked at"
            made.reset()
            assert result(server)["received"] == 0
        finally:
            assert host.proc.poll() is None
            host.stop()


def received(status: dict[str, Any]) -> int:
    return counts(status)["datagrams_received"]
