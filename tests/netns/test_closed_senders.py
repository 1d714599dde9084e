"""Redirected bytes of an application that has closed, whose socket is gone: still the engine's to bring."""

from __future__ import annotations

import errno
import itertools
import select
import socket
import time
from collections.abc import Iterator

import pytest
from hands import Hands, ready, received, talk_until_adopted
from support import Pair, counts, eventually

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)
SIZE = 600_000  # bytes: more than the peer's kernel takes unread, less than may be redirected
LAST_WORDS = 3  # s for which any closed flow keeps its channel
ports = itertools.count(7860)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """The kernel of host a gives a closed connection up after a second; by default, after some minutes."""
    with Lab() as lab, Pair.open(lab, options=("--redirect", "always"), kind="messages") as made:
        lab.a.sysctl("net.ipv4.tcp_orphan_retries", "1")
        yield made


@pytest.fixture
def hands(pair: Pair) -> Iterator[Hands]:
    with Hands(pair.lab) as made:
        yield made


def sent_and_gone(pair: Pair, hands: Hands) -> tuple[socket.socket, bytes]:
    """The server's end, which has not read yet, and what was sent; the client's socket is gone."""
    client, server = hands.connected(next(ports))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    talk_until_adopted((client, server))
    assert counts(pair.engines[0].status())["adopted"] == 1
    sent = bytes(range(256)) * (SIZE // 256)
    assert client.send(sent) == len(sent)
    client.close()
    eventually(lambda: counts(pair.engines[0].status())["flows"] == 0)
    assert counts(pair.engines[0].status())["closed_flows"] == 1
    return server, sent


def test_they_arrive_at_a_peer_that_reads_late(pair: Pair, hands: Hands) -> None:
    server, sent = sent_and_gone(pair, hands)
    time.sleep(LAST_WORDS + 1.5)
    assert received(server, len(sent) + 1) == sent
    assert ready(server, select.POLLIN, 10)
    assert server.recv(1) == b"", "and the end, in order"
    assert counts(pair.engines[0].status())["undelivered_bytes"] == 0
    assert pair.lab.meter.read().tcp.payload == 0


@pytest.mark.parametrize("who", [0, 1])
def test_an_engine_that_dies_takes_them_along_and_nobody_takes_that_for_the_end(
    pair: Pair, hands: Hands, who: int
) -> None:
    server, _ = sent_and_gone(pair, hands)
    pair.engines[who].kill9()
    began = time.monotonic()
    with pytest.raises(OSError) as failed:
        while True:
            assert ready(server, select.POLLIN, 10)
            assert server.recv(1 << 16), "an end of data would hide that bytes are missing"
    assert failed.value.errno in (errno.ECONNRESET, errno.ECONNABORTED)
    assert time.monotonic() - began < 2.0
    if who == 1:
        eventually(lambda: counts(pair.engines[0].status())["undelivered_bytes"] > SIZE // 2)
