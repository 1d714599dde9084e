"""After a kill a TCP measures round trips, and not how long its connection was engaged.

Bytes that had arrived are repeated, when their acknowledgement is lost with the engines. The answer is a
duplicate ACK with the newest timestamp that the far TCP was given, and Linux takes that for the round trip
of what it has repeated: its timer is as long from then on, and so is what the next loss costs.
"""

from __future__ import annotations

import socket
import struct
import time

import pytest
from hands import Hands, received
from support import SLOWNESS, Pair
from ways import Paths

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = pytest.mark.timeout(120)
PORT = 7330
RTO = 8  # where struct tcp_info has tcpi_rto, us
SIZE = 2100  # bytes: two segments; the repeat of one alone is known by its end


@pytest.mark.parametrize("rests", [False, True])
@pytest.mark.parametrize("victims", ["a", "ab"])
def test_a_repeat_measures_no_time_before_it(victims: str, rests: bool) -> None:
    age = 16.0 if rests else 5.0 * SLOWNESS  # s; 16: for longer than the sweep over all flows takes
    with Lab(link=Link(delay=0.005)) as lab, Pair.open(lab, "ab") as pair, Hands(lab) as hands:
        client, server = hands.connected(PORT)
        until = time.monotonic() + age
        while not rests and time.monotonic() < until:
            for one, other in ((client, server), (server, client)):
                one.sendall(b"x" * 100)
                received(other, 100)
            time.sleep(0.02)
        time.sleep(age if rests else 0.2)
        with Paths(lab) as paths:
            paths.drop("vtl", to="a")  # what is acknowledged is not known there
            client.sendall(b"y" * SIZE)
            time.sleep(0.1)
            for engine, letter in zip(pair.engines, "ab", strict=True):
                if letter in victims:
                    engine.kill9()
        assert received(server, SIZE) == b"y" * SIZE
        time.sleep(2)
        rto = struct.unpack_from("=I", client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 240), RTO)[0]
        assert rto < age * 0.3e6
