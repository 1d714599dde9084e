"""What is left in sockets of a killed engine's device, which went with it."""

from __future__ import annotations

import socket
import struct

import pytest
from hands import Hands, received
from support import KIND, PLAIN, Pair, counts, eventually

from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="needs engines")]
PORT, SIZE = 7440, 20_000
DATA_SEGS_IN = 152  # where struct tcp_info has it


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_segments_have_their_size_when_their_device_is_gone(family: str) -> None:
    """A route without an MTU of its own has its device's, and the kernel puts one of 68 bytes in the place of
    a device that goes: until a socket has looked for a route again, its segments would have 36 bytes."""
    with Lab() as lab, Pair.open(lab, options=KIND) as pair, Hands(lab) as hands:
        client, server = hands.connected(PORT, family)
        eventually(lambda: all(counts(engine.status())["engaged"] for engine in pair.engines))
        client.sendall(b"over")
        assert received(server, 4) == b"over"
        before = segments(server)
        for engine in pair.engines:
            engine.kill9()
        client.sendall(bytes(SIZE))
        assert received(server, SIZE) == bytes(SIZE)
        assert segments(server) - before <= SIZE // 1000  # 14, and 18 on Linux 6.1; else 23 or 24


def segments(sock: socket.socket) -> int:
    """Segments with bytes that have come, each of a super-packet."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    count: int = struct.unpack_from("I", info, DATA_SEGS_IN)[0]
    return count
