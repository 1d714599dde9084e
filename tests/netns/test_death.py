"""Engines and applications that die in the middle: nothing stays.

When an engine ends, an application gets an error in bounded time; of engines that take segments it
notices nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from typing import Any

import pytest
from apps.peer import stream
from support import INTERCEPT, KIND, PLAIN, SEGMENTS, Pair, eventually, peer, result, same

from hooker.control import netns
from hooker.lab import Host, Lab

pytestmark = pytest.mark.timeout(120)
MB = 1 << 20
BOUND = 45  # s until the applications must know; the association's own limit is below
BROKEN = {"ECONNRESET", "EPIPE", "ETIMEDOUT"} | ({"ECONNABORTED"} if INTERCEPT == "messages" else set())
SIZE, PAUSES = (60 * MB, 10) if SEGMENTS else (2000 * MB, 100)  # the former comes to its end


@pytest.fixture
def running(hooked_pair: Pair) -> tuple[Pair, Any, Any]:
    """A transfer in the middle: the server reads slowly what the client sends without end."""
    if PLAIN:
        pytest.skip("needs engines")
    pair, progress = hooked_pair, hooked_pair.lab.tmp / "progress"
    steps = ["recv:1000000", "sleep:0.3"] * PAUSES
    server = peer(pair.b, "serve", "0.0.0.0", 7400, *steps, "recv-all", "close")
    client = peer(
        pair.a,
        "connect",
        pair.b.v4,
        7400,
        f"send:{SIZE}",
        "close",
        options=("--progress", str(progress)),
    )
    eventually(lambda: progress.exists() and int(progress.read_text() or 0) > 3 * MB)
    time.sleep(0.3)
    return pair, client, server


@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_an_engine_is_killed(running: tuple[Pair, Any, Any], who: str) -> None:
    pair, client, server = running
    for engine in (pair.client, pair.server):
        if engine and who in ("both", "client" if engine is pair.client else "server"):
            engine.kill9()
    ended(client, server)
    for host in pair.lab.hosts:
        if who == "both" or host is (pair.a if who == "client" else pair.b):
            eventually(lambda host=host: not rules(host))
    tcp_works(pair)


def test_an_engine_is_stopped(running: tuple[Pair, Any, Any]) -> None:
    pair, client, server = running
    assert pair.client
    assert pair.client.stop() == 0
    ended(client, server)
    assert not rules(pair.a)
    tcp_works(pair)


def test_the_writing_application_is_killed(running: tuple[Pair, Any, Any]) -> None:
    _, client, server = running
    client.kill()
    received = result(server, BOUND)
    assert received["error"] in {None, *BROKEN}  # TCP sends a FIN for a process that has read all
    assert_prefix(received)


def test_the_reading_application_is_killed(running: tuple[Pair, Any, Any]) -> None:
    _, client, server = running
    server.kill()
    assert result(client, BOUND)["error"] in BROKEN


def test_engine_and_application_are_killed(running: tuple[Pair, Any, Any]) -> None:
    pair, client, server = running
    assert pair.client
    client.kill()
    pair.client.kill9()
    received = result(server, BOUND)
    assert received["error"] in ({None, *BROKEN} if SEGMENTS else BROKEN)
    assert_prefix(received)
    tcp_works(pair)


def test_an_engine_starts_again_after_a_kill(lab: Lab) -> None:
    if PLAIN:
        pytest.skip("needs engines")
    with Pair.open(lab) as pair:
        assert pair.server
        pair.server.kill9()
        eventually(lambda: not rules(pair.b))
        again = pair.b.hooker(*KIND)
        try:
            time.sleep(0.2)
            tcp_works(pair)
        finally:
            again.stop()


def ended(client: Any, server: Any) -> None:
    """Assert that both got an error, or with segments, that neither did and all has arrived."""
    sent, received = result(client, BOUND), result(server, BOUND)
    if SEGMENTS:
        assert (sent["error"], received["error"]) == (None, None)
        same(sent, received)
        assert received["received"] == SIZE
        return
    assert sent["error"] in BROKEN, sent
    assert received["error"] in BROKEN, received  # an end of file would hide that bytes are missing
    assert_prefix(received)


def tcp_works(pair: Pair) -> None:
    """Assert that new connections carry bytes, whatever engines are left."""
    server = peer(pair.b, "serve", "0.0.0.0", 7401, "recv-all", "close")
    client = peer(pair.a, "connect", pair.b.v4, 7401, "send:100000", "close")
    same(result(client, 20), result(server, 20))


def assert_prefix(received: dict[str, Any], seed: int = 1) -> None:
    """Assert that what arrived is the beginning of what was sent."""
    blocks, left, digest = stream(seed), int(received["received"]), hashlib.sha256()
    while left > 0:
        block = next(blocks)[:left]
        digest.update(block)
        left -= len(block)
    assert digest.hexdigest() == received["received_sha256"]


def rules(host: Host) -> list[str]:
    """Return the policy-routing rules of *host* that are not the kernel's own."""

    def look() -> list[str]:
        lines: list[str] = []
        for family in ("-4", "-6"):
            done = subprocess.run(
                ["ip", family, "rule"], capture_output=True, text=True, check=True, timeout=5
            )
            lines += [line for line in done.stdout.splitlines() if "fwmark" in line]
        return lines

    return netns.call(host.netns, look)
