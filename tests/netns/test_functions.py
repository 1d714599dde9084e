"""Unmodified applications over VTL's reliability functions, on a path that loses packets."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from support import PLAIN, Pair, counts, eventually, peer, result, same

from hooker.lab import Host, Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="needs engines")]
MB = 1 << 20
PORT = 7400
PATH = Link(rate=50e6, delay=0.005, loss=0.01)


PATTERN = bytes(range(1, 252))  # without a zero
SEND = f"""
import socket, sys
s = socket.create_connection((sys.argv[1], {PORT}))
s.sendall((bytes(range(1, 252)) * (int(sys.argv[2]) // 251 + 1))[:int(sys.argv[2])])
"""
RECEIVE = f"""
import socket, sys
s = socket.create_server(("0.0.0.0", {PORT}))
c, _ = s.accept()
with open(sys.argv[1], "wb") as out:
    while some := c.recv(1 << 16):
        out.write(some)
"""


@contextmanager
def hooked(
    client: str, server: str | None = None, link: Link = PATH, more: tuple[str, ...] = ()
) -> Iterator[Pair]:
    """The path loses nothing while they start."""
    named = {"a": client, "b": client if server is None else server}
    with Lab(link=Link()) as lab:
        with ThreadPoolExecutor() as pool:
            started = pool.map(
                lambda host: host.hooker("--reliability", named[host.letter], *more), (lab.a, lab.b)
            )
            a, b = started
        try:
            lab.link.set(link)
            yield Pair(lab, a, b, "segments")
        finally:
            for engine in (a, b):
                engine.stop()
                print(f"--- engine (exit {engine.proc.returncode})\n{engine.tail()}")


def transfer(source: Host, sink: Host, size: int, port: int = PORT) -> None:
    server = peer(sink, "serve", "0.0.0.0", port, "recv-all", "close")
    client = peer(source, "connect", sink.v4, port, f"send:{size}", "close")
    sent, received = result(client, 80), result(server, 80)
    assert (sent["error"], received["error"], received["received"]) == (None, None, size)
    same(sent, received)


@pytest.mark.soak
def test_each_engine_takes_the_function_of_its_clients_engine() -> None:
    """Over a path that loses packets every byte arrives, and over the transport."""
    with hooked("go-back-n:window=64", "stop-and-wait", more=("--hold",)) as pair:
        transfer(pair.a, pair.b, 2 * MB)
        transfer(pair.b, pair.a, MB // 16, port=PORT + 1)
        for engine, said in zip(pair.engines, ("go-back-n:window=64", "stop-and-wait"), strict=True):
            status = engine.status()
            assert status["engine"]["reliability"] == said
            assert {row["reliability"] for row in status["peers"]} == {"go-back-n", "stop-and-wait"}
            assert counts(status)["engaged"] == 2
            assert set(status["ended"]) <= {"closed"}  # none has left for TCP


def test_with_none_tcp_repairs_and_goes_on_when_an_engine_is_killed() -> None:
    with hooked("none") as pair:
        transfer(pair.a, pair.b, 2 * MB)
        assert pair.client
        assert pair.server
        status = pair.server.status()
        assert [row["reliability"] for row in status["peers"]] == ["none"]
        assert set(status["ended"]) <= {"closed"}
        assert counts(status)["holes_told"]
        before = counts(status)["injected_bytes"]
        server = peer(pair.b, "serve", "0.0.0.0", PORT + 1, "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, PORT + 1, f"send:{4 * MB}", "close")
        eventually(lambda: counts(pair.server.status())["injected_bytes"] > before + MB)
        pair.client.kill9()
        sent, received = result(client, 45), result(server, 45)
        assert (sent["error"], received["error"]) == (None, None)
        same(sent, received)


@pytest.mark.soak
def test_what_partial_gives_up_is_zeros_where_the_events_say() -> None:
    size = 3 * MB
    with hooked("partial:repeats=0", more=("-v",)) as pair:
        assert pair.server
        file = pair.lab.tmp / "received"
        server = pair.b.popen([sys.executable, "-c", RECEIVE, str(file)])
        pair.b.wait_listening(PORT)
        client = pair.a.popen([sys.executable, "-c", SEND, pair.b.v4, str(size)])
        assert (client.wait(60), server.wait(60)) == (0, 0)
        data = file.read_bytes()
        count = counts(pair.server.status())
        assert [row["reliability"] for row in pair.server.status()["peers"]] == ["partial"]
        eventually(lambda: pair.server.log.read_text().count("\nhooker: hole ") == count["holes_filled"])
        told = re.findall(r"hole .*, (\d+) B are zeros behind (\d+) B", pair.server.log.read_text())
    holes = [(int(at), int(at) + int(n)) for n, at in told]
    assert holes
    assert sum(end - start for start, end in holes) == count["bytes_zeroed"]
    assert len(data) == size
    right = bytearray((PATTERN * (size // len(PATTERN) + 1))[:size])
    zeros = 0
    for start, end in holes:
        zeros += data[start:end].count(0)
        assert all(got in (0, sent) for got, sent in zip(data[start:end], right[start:end], strict=True))
        right[start:end] = data[start:end]
    assert zeros
    assert data == right  # so outside of them there is none
