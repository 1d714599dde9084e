"""Connections that say nothing: they are engaged all the same, and keep nothing when the engine leaves.

What is said to a peer that is gone goes to the wire at once.
"""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest
from segments_engine import EngineProcess, engines
from support import eventually, peer

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = pytest.mark.timeout(60)
PORT, MANY = 7210, 8

CLIENTS = textwrap.dedent("""
    import json, socket, sys
    made = []
    for _ in range(int(sys.argv[3])):       # the first is silent before the engines know each other
        s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 8)
        made.append(s)
        s.sendall(b"x")
        s.recv(1)
    print(json.dumps("resting"), flush=True)
    for _ in sys.stdin:
        print(json.dumps([s.getsockopt(socket.SOL_SOCKET, 36) for s in made]), flush=True)    # SO_MARK
""")


class Resting:
    """Connections that have said a byte each way, and nothing since."""

    def __init__(self, lab: Lab) -> None:
        server = ("recv:1", "send:1", "recv-all", "close")
        self.server = peer(lab.b, "serve", "::", PORT, *server, options=("--connections", str(MANY)))
        command = [sys.executable, "-c", CLIENTS, lab.b.v6, str(PORT), str(MANY)]
        self.client = lab.a.popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.answer() == "resting"

    def answer(self) -> Any:
        assert self.client.stdout
        return json.loads(self.client.stdout.readline())

    def marks(self) -> set[int]:
        assert self.client.stdin
        self.client.stdin.write(b"\n")
        self.client.stdin.flush()
        return set(self.answer())


@pytest.fixture
def both() -> Iterator[tuple[Lab, list[EngineProcess]]]:
    """On a link with a delay: what was said after the handshake has another timestamp."""
    with Lab(link=Link(delay=0.005)) as lab, engines(lab.a, lab.b) as made:
        yield lab, made


def test_they_are_engaged(both: tuple[Lab, list[EngineProcess]]) -> None:
    lab, made = both
    Resting(lab)
    eventually(lambda: all(engine.counters()["engaged"] == MANY for engine in made), 2)
    assert not made[0].ask("snapshot")["reasons"].get("not-through-hk0")


def test_they_are_unmarked_when_the_engine_stops(both: tuple[Lab, list[EngineProcess]]) -> None:
    """Also those that have answered a probe just now."""
    lab, made = both
    resting = Resting(lab)
    eventually(lambda: made[0].counters()["engaged"] == MANY, 5, every=0.01)
    made[0].stop()
    assert resting.marks() == {0}


def test_they_have_no_channel_and_speak_again(both: tuple[Lab, list[EngineProcess]]) -> None:
    """And their association lives: it is not closed under them."""
    lab, made = both
    resting = Resting(lab)
    eventually(lambda: all(engine.counters()["channels_rested"] >= MANY for engine in made), 15)
    resting.client.kill()  # their FINs
    resting.server.wait()
    for engine in made:
        eventually(lambda engine=engine: engine.counters()["flows"] == 0)
        assert set(engine.ask("snapshot")["reasons"]) <= {"closed"}


TALKER = textwrap.dedent("""
    import select, socket, sys, time
    s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 8)
    s.sendall(b"x")
    while s.recv(100):
        pass
    time.sleep(0.3)
    start = time.monotonic()
    s.send(b"y")
    told = select.poll()
    told.register(s, 0)                     # errors only
    told.poll(5000)
    print(time.monotonic() - start, s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
""")


def test_who_writes_to_a_socket_that_is_gone_is_told_at_once(both: tuple[Lab, list[EngineProcess]]) -> None:
    """What answers in the socket's place says RST, and the transport takes that there: one round trip."""
    lab, made = both
    server = peer(lab.b, "serve", "::", PORT, "recv:1", "sleep:1", "send:1", "close")
    talker = [sys.executable, "-c", TALKER, lab.b.v6, str(PORT)]
    waited, error = lab.a.run(talker, text=True, timeout=20).stdout.split()
    server.wait()
    assert (int(error), float(waited) < 0.15) == (errno.EPIPE, True), waited
    assert made[0].counters()["engaged"] == 1
    assert made[0].counters()["segments_repeated"] == 0  # nothing of it was on the wire
