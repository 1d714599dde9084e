"""Connections of which nothing is under way: what their twins knew is given back, and nobody notices.

All that can happen to such a connection happens to one of some that rest together.
"""

from __future__ import annotations

import errno
import random
import select
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from hands import Hands, Socket, ready, received
from segments_engine import EngineProcess, engines
from support import eventually

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = pytest.mark.timeout(90)
PORT = 7310
LINK = Link(delay=0.005)
SIZE = 1_000_000  # bytes
SWEPT = 20  # s in which each flow is looked at
TOTAL_RETRANS, SND_WND = 100, 228  # where struct tcp_info has them
Ends = tuple[Socket, Socket]  # client, server


@pytest.fixture
def both() -> Iterator[tuple[Hands, list[EngineProcess]]]:
    """On a link with a delay: a connection knows how far its peer is, and its timestamps go on."""
    with Lab(link=LINK) as lab, engines(lab.a, lab.b) as made, Hands(lab) as hands:
        yield hands, made


def connections(hands: Hands, made: list[EngineProcess], n: int) -> list[Ends]:
    """Half of them over IPv6, at rest."""
    found = [hands.connected(PORT + i, "v6" if i % 2 else "v4", settle=0) for i in range(n)]
    rest(made, [n] * len(made))
    return found


def rests(made: list[EngineProcess], more: int = 0) -> list[int]:
    """How many each engine has counted, and so many *more*."""
    return [engine.counters()["twins_rested"] + more for engine in made]


def rest(made: list[EngineProcess], until: list[int]) -> None:
    """*until*: from before they fell silent, for one may rest while another speaks."""
    eventually(lambda: all(now >= then for now, then in zip(rests(made), until, strict=True)), SWEPT)


def say(one: Socket, other: Socket, seed: int) -> None:
    """And it arrives."""
    data = random.Random(seed).randbytes(SIZE)
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(one.sendall, data)
        assert received(other, SIZE) == data
        sent.result()


def info(sock: Socket, at: int) -> int:
    return int(struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 240), at)[0])


def test_they_speak_again(both: tuple[Hands, list[EngineProcess]]) -> None:
    """Either end first, and after a second rest; nothing is sent twice."""
    hands, made = both
    found = connections(hands, made, 4)
    until = rests(made, len(found))
    for n, (client, server) in enumerate(found):
        first, second = (client, server) if n < 2 else (server, client)
        say(first, second, n)
        say(second, first, 10 + n)
    rest(made, until)
    for n, (client, server) in enumerate(found):
        window = info(client, SND_WND)
        server.sendall(b"!")
        assert received(client, 1) == b"!"
        assert info(client, SND_WND) == window
        say(server, client, 20 + n)
        say(client, server, 30 + n)
        assert info(client, TOTAL_RETRANS) == info(server, TOTAL_RETRANS) == 0
    for engine in made:
        assert engine.counters()["left"] == 0


@pytest.mark.parametrize("victims", ["a", "b", "ab", "stop"])
def test_they_go_on_without_an_engine(both: tuple[Hands, list[EngineProcess]], victims: str) -> None:
    hands, made = both
    found = connections(hands, made, 4)
    if victims == "stop":
        made[0].stop()
    for letter, engine in zip("ab", made, strict=True):
        if letter in victims and victims != "stop":
            engine.kill9()
    for n, (client, server) in enumerate(found):
        first, second = (client, server) if n < 2 else (server, client)
        say(first, second, n)
        say(second, first, 10 + n)


def test_they_end_as_tcp_does(both: tuple[Hands, list[EngineProcess]]) -> None:
    """By FIN, half and whole, by RST of either end, and what came with them."""
    hands, made = both
    (half, half_peer), (fin, fin_peer), (reset, reset_peer), (told, told_peer) = connections(hands, made, 4)
    half.shutdown(socket.SHUT_WR)
    assert received(half_peer, 1) == b""
    say(half_peer, half, 1)
    half_peer.close()
    assert received(half, 1) == b""
    half.close()
    fin.sendall(b"last")
    fin.close()
    assert received(fin_peer, 9) == b"last"
    fin_peer.close()
    for one, other in ((reset, reset_peer), (told_peer, told)):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        assert ready(other, select.POLLIN, 5) & select.POLLERR
        assert other.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNRESET
        other.close()
    for engine in made:
        eventually(lambda engine=engine: engine.counters()["flows"] == 0)
        assert set(engine.ask("snapshot")["reasons"]) <= {"closed", "reset-by-peer", "reset-by-application"}


def test_a_window_that_is_closed_opens_again(both: tuple[Hands, list[EngineProcess]]) -> None:
    """All that was sent is acknowledged, so it is a rest, too, between two probes of the window."""
    hands, made = both
    ((client, server),) = connections(hands, made, 1)
    client.setblocking(False)
    data = random.Random(5).randbytes(SIZE) * 32
    sent = 0
    while ready(client, select.POLLOUT, 1):
        sent += client.send(data[sent : sent + SIZE])
    rest(made, rests(made, 1))
    assert not ready(client, select.POLLOUT, 1)
    until = rests(made, 1)
    assert received(server, sent) == data[:sent]
    rest(made, until)
    client.setblocking(True)
    say(client, server, 6)


def test_a_killed_engine_does_not_cost_the_only_keepalive(both: tuple[Hands, list[EngineProcess]]) -> None:
    """It is asked once. What the peer's engine has not answered the own one asks by the wire."""
    hands, made = both
    clients = [hands.connected(PORT + i, settle=0)[0] for i in range(10)]
    for client in clients:
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            client.setsockopt(socket.IPPROTO_TCP, option, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        time.sleep(0.1)  # each at another moment
    time.sleep(1)
    made[1].kill9()
    time.sleep(3)
    assert [client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for client in clients] == [0] * 10


def test_keepalives_are_answered_from_end_to_end(both: tuple[Hands, list[EngineProcess]]) -> None:
    hands, made = both
    ((client, _server),) = connections(hands, made, 1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        client.setsockopt(socket.IPPROTO_TCP, option, 1)
    assert not ready(client, 0, 5)  # no error
    hands.lab.link.set(replace(LINK, loss=1.0))
    assert ready(client, 0, 10) & select.POLLERR
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ETIMEDOUT
