"""Paths that die for a while, and engines that stand still: what TCP survives, the flow survives.

Some flows ask all the time, one moves bytes in bulk. Then the path of the transport is dead, or the wire, or
both, one way or both ways, or an engine is stopped. Nothing ends with an error, all bytes are right, nobody
waits longer than would be natural over TCP.
"""

from __future__ import annotations

import signal
import socket
import time

import pytest
from hands import Hands, received
from support import SLOWNESS, Pair, eventually, peer, result, same
from ways import HOOKED, WAYS, Paths, engaged, flows, open_way, outcome

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(120), pytest.mark.soak]

LINK = Link(rate=100e6, delay=0.002, queue=400_000)
ASKERS = 20
AWAY = 1.5 * SLOWNESS  # s: the transport is dead, and the flow is back on TCP
KEEPALIVE = {socket.TCP_KEEPIDLE: 1, socket.TCP_KEEPINTVL: 1, socket.TCP_KEEPCNT: 3}  # s, s, times
soak = pytest.mark.soak


def backed_off(seconds: float) -> float:
    """How long TCP is silent whose path was dead for so long: its timeout doubles each time (RFC 6298)."""
    return 2 * seconds + AWAY


class Traffic:
    """Flows that ask, and one that is to move bytes both ways, at a bounded rate; all are engaged."""

    BULK = 6_000_000  # bytes

    def __init__(self, pair: Pair) -> None:
        self._until, self._go = pair.lab.tmp / "until", pair.lab.tmp / "go"
        flows(pair.b, "echo", "0.0.0.0", 7800, str(ASKERS))
        options = (str(ASKERS), "--until", str(self._until), "--every", "0.1")
        self._asking = flows(pair.a, "ask", pair.b.v4, 7800, *options)
        slowly = ("send:100", "recv:100", "sleep:0.05") * 20
        script = (*slowly, f"wait-file:{self._go}", f"duplex-blocking:{self.BULK}", "close")
        self._server = peer(pair.b, "serve", "::", 7801, "echo-all", "close")
        progress = pair.lab.tmp / "progress"
        seen = ("--progress", str(progress))
        self._client = peer(pair.a, "connect", pair.b.v6, 7801, *script, options=seen)
        if pair.client:
            eventually(lambda: engaged(pair) > ASKERS, 15)
        self._go.touch()
        eventually(lambda: progress.exists() and int(progress.read_text()) > self.BULK / 5, 15)

    def end(self) -> float:
        """Let all end; assert that nobody has noticed; return the longest that somebody has waited, s."""
        client, server = result(self._client), result(self._server)
        self._until.touch()
        asked = outcome(self._asking)
        print(asked, client, server, sep="\n")
        assert (client["error"], server["error"]) == (None, None)
        same(client, server)
        same(server, client)
        assert not asked["errors"]
        assert asked["wrong"] == 0
        return max(float(client["silence"]), float(asked["slowest"]))


def died(way: str, *steps: tuple[tuple[str, ...], str, float]) -> float:
    """Let these classes of packets be dropped towards these hosts for so long, one step after the other."""
    with Lab(link=LINK) as lab, open_way(lab, way) as pair, Paths(lab) as paths:
        traffic = Traffic(pair)
        for classes, to, seconds in steps:
            paths.drop(*classes, to=to)
            time.sleep(seconds)
        if steps[-1][2]:  # else it is for ever
            paths.drop()
        return traffic.end()


TRANSPORT, WIRE, BOTH = ("vtl",), ("tcp",), ("tcp", "vtl")
EVER = 0


@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize(
    ("to", "seconds"),
    [
        pytest.param("ab", 1, id="both ways, 1 s"),
        pytest.param("a", EVER, id="to the client, for ever"),
        pytest.param("b", EVER, id="to the server, for ever"),
        pytest.param("ab", EVER, id="both ways, for ever", marks=soak),
        pytest.param("a", 1, id="to the client, 1 s", marks=soak),
        pytest.param("b", 1, id="to the server, 1 s", marks=soak),
        pytest.param("ab", 10, id="both ways, 10 s", marks=soak),
        pytest.param("a", 10, id="to the client, 10 s", marks=soak),
        pytest.param("b", 10, id="to the server, 10 s", marks=soak),
    ],
)
def test_the_transport_is_dead(way: str, to: str, seconds: float) -> None:
    assert died(way, (TRANSPORT, to, seconds)) < AWAY


@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=soak)])
def test_the_wire_is_dead_and_the_transport_is_not(way: str, seconds: float) -> None:
    assert died(way, (WIRE, "ab", seconds)) < AWAY


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seconds", [4, pytest.param(20, marks=soak)])
def test_both_are_dead(way: str, seconds: float) -> None:
    assert died(way, (BOTH, "ab", seconds)) < backed_off(seconds)


@soak
@pytest.mark.parametrize("way", HOOKED)
def test_one_after_the_other_is_dead(way: str) -> None:
    """Flows that have left do not need the transport, and those that have come back do not need the wire."""
    silence = died(way, (TRANSPORT, "ab", 10), (WIRE, "ab", 8), (BOTH, "ab", 20))
    assert silence < backed_off(38)


@pytest.mark.parametrize("way", HOOKED)
@pytest.mark.parametrize(
    ("whose", "seconds"),
    [("client", 5), ("server", 5), *(pytest.param(whose, 10, marks=soak) for whose in ("client", "server"))],
)
def test_an_engine_stands_still(way: str, whose: str, seconds: float) -> None:
    with Lab(link=LINK) as lab, open_way(lab, way) as pair:
        traffic = Traffic(pair)
        engine = getattr(pair, whose)
        engine.proc.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            engine.proc.send_signal(signal.SIGCONT)
        assert traffic.end() < backed_off(seconds)


@pytest.mark.parametrize("whose", ["a", "b"])
def test_an_idle_connection_that_soon_gives_up_survives_an_engine_that_stands_still(whose: str) -> None:
    """Both ends ask three times, once a second (tcp(7), SO_KEEPALIVE), and have been answered for a while."""
    with Lab(link=LINK) as lab, open_way(lab, "segments") as pair, Hands(lab) as hands:
        ends = [end for port in range(7810, 7813) for end in hands.connected(port)]
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (
                (socket.TCP_KEEPIDLE, 1),
                (socket.TCP_KEEPINTVL, 1),
                (socket.TCP_KEEPCNT, 3),
            ):
                end.setsockopt(socket.IPPROTO_TCP, option, value)
        eventually(lambda: engaged(pair) == 3, 15)
        time.sleep(2.2)
        engine = pair.engines["ab".index(whose)]
        engine.proc.send_signal(signal.SIGSTOP)
        try:
            time.sleep(6)
        finally:
            engine.proc.send_signal(signal.SIGCONT)
        assert [end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for end in ends] == [0] * 6
        for client, server in zip(ends[::2], ends[1::2], strict=True):
            client.sendall(b"still there?")
            assert received(server, 12) == b"still there?"
