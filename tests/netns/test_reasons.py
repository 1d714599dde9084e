"""Every connection that does not run over the transport has a counted reason, however early it ends."""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

import pytest
from hands import Hands
from support import KINDS, PLAIN, Pair, eventually

from hooker import Hooker, Policy
from hooker.control import netns
from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="TCP has no reasons")]
PORT = 8500
ENDED = "ended-before-engaged"
SO_LINGER = struct.pack("ii", 1, 0)
TIMES = 5


def counted(engine: Any, opened: int) -> bool:
    """Whether so many flows were opened, and each has its one reason."""
    status = engine.status()
    return (
        status["counters"]["opened"] == opened
        and not status["counters"]["flows"]
        and sum(status["reasons"].values()) == opened
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["closed", "aborted", "closed by the server", "aborted by the server"])
def test_a_connection_that_ends_before_both_engines_agree(lab: Lab, kind: str, how: str) -> None:
    """Nothing of VTL passes, so they cannot."""
    with Pair.open(lab, kind=kind) as pair, Hands(lab) as hands:
        lab.meter.drop(to_a=("vtl",), to_b=("vtl",))
        listener = hands.listening(PORT)
        for _ in range(TIMES):
            client = hands.socket(pair.a)
            client.connect((pair.b.v4, PORT))
            server = hands.accepted(listener)
            first, last = (server, client) if "server" in how else (client, server)
            if "aborted" in how:
                first.setsockopt(1, 13, SO_LINGER)
            first.close()
            last.close()
        for engine in pair.engines:
            eventually(lambda engine=engine: counted(engine, TIMES), timeout=20)
            reasons = engine.status()["reasons"]
            if kind == "segments" or "aborted" in how:  # else its FIN is held, as long as it may be
                assert reasons[ENDED] >= 1, reasons
            assert engine.status()["ended"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_that_does_not_ask_is_counted_at_the_server(lab: Lab, kind: str) -> None:
    with Pair.open(lab, hosts="b", kind=kind) as pair, Hands(lab) as hands:
        assert pair.server
        hands.connected(PORT)
        eventually(lambda: pair.server.status()["reasons"] == {"peer-did-not-ask": 1})  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KINDS)
def test_who_was_about_to_ask_when_the_engine_stops_is_counted(lab: Lab, kind: str) -> None:
    policy = Policy.parse(port=str(PORT))
    with Hands(lab) as hands, lab.b.socket(kind=socket.SOCK_DGRAM) as silent:
        silent.bind(("", lab.vtl_port))

        def run() -> dict[str, int]:
            with Hooker(cgroup=lab.a.cgroup, policy=policy, intercept=kind, control=False) as engine:
                client = hands.socket(lab.a)
                listener = hands.listening(PORT)
                client.connect((lab.b.v4, PORT))
                time.sleep(0.05)
            listener.close()
            return engine.reasons()

        reasons = netns.call(lab.a.netns, run)
    assert sum(reasons.values()) == 1, reasons
    assert set(reasons) == {"engine-stopped"}, reasons
