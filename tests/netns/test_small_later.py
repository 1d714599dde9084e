"""SO_RCVBUF made small on a connected socket: what the sender has under way finds no room.

The local TCP drops it, also what lay behind a hole and it had said that it has. Over a path that reorders or
loses packets the far TCP then depends on its timer, and each of its repetitions must arrive.
"""

from __future__ import annotations

import random
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hands import Hands, Socket, ready
from support import SLOWNESS, eventually
from ways import WAYS, engaged, open_way

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(120), pytest.mark.alone]
NUMBER, SIZE, PORT = 40, 50_000, 7300
LONGEST = 5.0 * SLOWNESS  # s; one segment for each timeout would be 10 to 20, TCP needs up to 1.3
REORDERS = Link(delay=0.005, jitter=0.002, reorder=0.01)
LOSES = Link(delay=0.005, loss=0.01)


@pytest.mark.parametrize(("link", "size"), [(REORDERS, 4000), (LOSES, 2000)], ids=["reorders", "loses"])
@pytest.mark.parametrize("way", WAYS)
def test_what_finds_no_room_arrives_soon(way: str, link: Link, size: int) -> None:
    with Lab(link=link) as lab, open_way(lab, way) as pair, Hands(lab) as hands:
        pairs = [hands.connected(PORT + at, settle=0) for at in range(NUMBER)]
        if way != "plain":
            eventually(lambda: engaged(pair) == NUMBER, 10)
        for client, server in pairs:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
            client.setblocking(False)
        with ThreadPoolExecutor(NUMBER) as pool:
            times = list(pool.map(lambda at: moved(*pairs[at], at), range(NUMBER)))
    assert max(times) < LONGEST


def moved(client: Socket, server: Socket, seed: int) -> float:
    """Seconds until all has arrived."""
    data, got, sent = random.Random(seed).randbytes(SIZE), b"", 0
    start = time.monotonic()
    while len(got) < SIZE and time.monotonic() - start < 2 * LONGEST:
        try:
            sent += client.send(data[sent:]) if sent < SIZE else 0
        except BlockingIOError:
            pass
        if ready(server, select.POLLIN, 0.01):
            got += server.recv(65536)
    assert got == data, f"{len(got)} bytes"
    return time.monotonic() - start
