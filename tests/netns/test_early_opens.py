"""OPENs that come before their flow are kept for a moment, within a bound: of one peer, and in all."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Iterator

import pytest
from by_hand import MESSAGES, SEGMENTS, Engine, Wire
from support import INTERCEPT, PLAIN, Pair, counts

from hooker.flow.messages import encode
from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="plain TCP opens no flows")]
ALL, SHARE = 4096, 1024
MOMENT = 0.25  # s


@pytest.fixture(scope="module")
def target() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, hosts="b") as pair:
        yield pair


@pytest.fixture
def wire(target: Pair) -> Iterator[Wire]:
    made = Wire(target.lab, SEGMENTS if INTERCEPT == "segments" else MESSAGES)
    with made.socket:
        yield made


def opening() -> bytes:
    """Of a flow that nobody knows. Its proof is looked at when the flow is there."""
    return encode("open", epoch=1, token=random.getrandbits(64), own_token=random.getrandbits(64))


def fill(engine: Engine, number: int) -> float:
    """Say so many, as fast as they are taken; seconds."""
    began = time.monotonic()
    while number:
        while number and engine.endpoint.say(engine.assoc, opening()):
            number -= 1
        engine.step()
    return time.monotonic() - began


def kept(pair: Pair) -> int:
    assert pair.server
    return counts(pair.server.status())["early_opens"]


@contextlib.contextmanager
def stopped(pair: Pair) -> Iterator[None]:
    """What comes meanwhile comes within one moment."""
    assert pair.server
    pair.server.proc.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        pair.server.proc.send_signal(signal.SIGCONT)


def test_one_peer_has_a_quarter_of_the_room_for_early_opens(target: Pair, wire: Wire) -> None:
    flood = Engine(wire, wire.address(70))
    for _ in range(20):
        before = kept(target)
        took = fill(flood, 3 * SHARE)
        grown = kept(target) - before
        assert grown <= SHARE * (1 + took // MOMENT), f"{grown} in {took} s"
        if took < 2 * MOMENT:
            assert grown >= SHARE
            return
        time.sleep(2 * MOMENT)
    raise AssertionError("too slow to tell")


def test_all_early_opens_together_have_no_more_room_than_there_is(target: Pair, wire: Wire) -> None:
    """Who comes first has it: what is kept is not displaced by what others say."""
    peers = [Engine(wire, wire.address(80 + n)) for n in range(20)]
    time.sleep(2 * MOMENT)
    before = kept(target)
    with stopped(target):
        for one in peers:
            while one.endpoint.say(one.assoc, opening()):
                pass
            for data, _ in one.endpoint.datagrams_to_send(one.now()):
                one.datagram(data)
    grown = kept(target) - before
    assert ALL * 3 // 4 < grown <= ALL
