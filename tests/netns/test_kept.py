"""The copy of a segment, for the wire: its TCP believes to be under way what the transport has lost."""

from __future__ import annotations

import socket
import struct
import time

import pytest
from hands import Hands, received
from support import counts, eventually
from ways import HOOKED, Paths, engaged, open_way

from hooker.lab import Lab
from hooker.lab.link import Link

ETH_P_ALL = 3
DELAY = 0.1  # s, each way
PORT = 7802


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_what_is_missing_first_is_repeated_first(family: str) -> None:
    """TCP has repeated it into the dead transport, and would not do so again before its next timeout.

    With the other one the silence would be 4.9 s instead of 2.7.
    """
    link = Link(rate=100e6, delay=DELAY, queue=1_000_000)
    with Lab(link=link) as lab, open_way(lab, HOOKED[0]) as pair, Paths(lab) as paths, Hands(lab) as hands:
        client, server = hands.connected(PORT, family, settle=1)
        eventually(lambda: engaged(pair) > 0)
        wire = lab.a.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        began = time.monotonic()

        def send(after: float, data: bytes) -> None:
            time.sleep(max(0, began + after * DELAY - time.monotonic()))
            server.sendall(data)

        send(0, b"1" * 100)  # it is copied; its acknowledgement comes after 2
        assert received(client, 100) == b"1" * 100
        paths.drop("vtl", to="a")
        send(1.4, b"2" * 100)
        send(2.6, b"3" * 100)  # now this is copied
        assert received(client, 200) == b"2" * 100 + b"3" * 100
        took = time.monotonic() - began
        assert pair.server
        assert counts(pair.server.status())["segments_repeated"] > 0
        print(f"{took:.2f} s")
        assert [data[:1] for data in payloads(wire) if data[:1] in b"23"][:2] == [b"2", b"3"]


def payloads(wire: socket.socket) -> list[bytes]:
    """What came by TCP from the server."""
    wire.setblocking(False)
    found = []
    while True:
        try:
            packet = wire.recv(1 << 16)
        except BlockingIOError:
            return found
        head, kind = (40, packet[6]) if packet[0] >> 4 == 6 else (20, packet[9])
        if kind != socket.IPPROTO_TCP or struct.unpack_from("!H", packet, head)[0] != PORT:
            continue
        if data := packet[head + (packet[head + 12] >> 4 << 2) :]:
            found.append(data)
