"""Thousands of connections that begin in one moment are engaged in their order, some at a time."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from hands import Hands, received
from support import PLAIN, Pair, counts, eventually
from ways import Paths, flows, outcome

from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(120), pytest.mark.skipif(PLAIN, reason="TCP starts nothing")]
MOST = 2000  # between OPEN and ENGAGED
MANY = 3000
FIRST, PORT = 7955, 7956


def test_so_many_and_no_more_are_on_their_way_at_once(lab: Lab) -> None:
    """All would be, for the peer's engine is not heard; the others are on TCP meanwhile, and follow later."""
    go, first = lab.tmp / "go", lab.tmp / "first"
    with Pair.open(lab, kind="segments") as pair:
        assert pair.client
        flows(pair.b, "echo", "0.0.0.0", FIRST, "1")
        flows(pair.b, "echo", "0.0.0.0", PORT, str(MANY))
        one = flows(pair.a, "ask", pair.b.v4, FIRST, "1", "--idle", str(first))
        eventually(lambda: counts(pair.client.status())["engaged"] == 1)  # the engines know each other
        with Paths(lab) as paths:
            paths.drop("vtl")
            pair.client.proc.send_signal(signal.SIGSTOP)  # so that it hears of all at once
            many = flows(pair.a, "ask", pair.b.v4, PORT, str(MANY), "--idle", str(go))
            eventually(Path(f"{go}.resting").exists, 40)
            pair.client.proc.send_signal(signal.SIGCONT)
            eventually(lambda: counts(pair.client.status())["starts_waited"] >= MANY - MOST, 20)
            seen = [counts(pair.client.status())["starting"] for _ in range(20)]
        assert max(seen) <= MOST, seen
        eventually(lambda: pair.client.status()["states"].get("engaged") == MANY + 1, 60, every=0.2)
        eventually(lambda: counts(pair.client.status())["starting"] == 0, 20)
        first.touch()
        go.touch()
        done = outcome(many)
        assert outcome(one)["errors"] == {}
    assert (done["errors"], done["wrong"], done["answers"]) == ({}, 0, 2 * MANY)


def test_one_that_began_marked_without_an_association_is_engaged_later(lab: Lab) -> None:
    """Its service is warm: its first segment comes through hk0, where the engine knows no peer yet. It goes
    back to TCP before the association is up, and is not forgotten for that."""
    with Pair.open(lab, kind="segments") as pair, Hands(lab) as hands:
        assert pair.client
        hands.connected(PORT)
        eventually(lambda: counts(pair.client.status())["engaged"] == 1)
        with Paths(lab) as paths:
            paths.drop("vtl")
            eventually(lambda: not pair.client.status()["peers"], 20)
        listener, client = hands.listening(PORT), hands.socket(pair.a)
        pair.client.proc.send_signal(signal.SIGSTOP)  # both its events and its segment wait
        client.connect((pair.b.v4, PORT))
        client.sendall(b"?")
        time.sleep(0.05)
        pair.client.proc.send_signal(signal.SIGCONT)
        server = hands.accepted(listener)
        assert received(server, 1) == b"?"
        assert counts(pair.client.status())["kernel.service-warm"] == 1
        eventually(lambda: pair.client.status()["states"].get("engaged") == 2, 20)
        server.sendall(b"!")
        assert received(client, 1) == b"!"
