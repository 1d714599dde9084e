"""A receiver far away opens its window as far as on plain TCP: it measures the same round trip."""

from __future__ import annotations

import sys

import pytest
from support import PLAIN, Pair, counts

from hooker.lab import Lab, Link

pytestmark = pytest.mark.timeout(90)
PORT, ROUND_TRIP, SIZE = 8410, 0.2, 3 << 20
SERVER = """
import socket, sys
listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    s, _ = listener.accept()
    with s:
        s.recv(1)
        s.sendall(bytes(int(sys.argv[2])))
"""
CLIENT = """
import socket, struct, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)
s.sendall(b"?")
got = 0
while data := s.recv(1 << 20):
    got += len(data)
    info = s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
print(got, struct.unpack_from("I", info, 92)[0])  # tcpi_rcv_rtt, microseconds
"""


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_the_round_trip_that_a_receiver_measures(family: str) -> None:
    """By what is read in that time Linux sizes the buffer (tcp_rcv_space_adjust)."""
    with Lab(link=Link(rate=100e6, delay=ROUND_TRIP / 2)) as lab, Pair.open(lab) as pair:
        pair.b.popen([sys.executable, "-c", SERVER, str(PORT), str(SIZE)])
        pair.b.wait_listening(PORT)
        to = pair.b.v4 if family == "v4" else pair.b.v6
        for _ in range(2):  # the first begins on TCP
            got, measured = map(
                int,
                pair.a.run(
                    [sys.executable, "-c", CLIENT, to, str(PORT)], timeout=60, text=True
                ).stdout.split(),
            )
            assert got == SIZE
        assert measured >= 0.8 * ROUND_TRIP * 1e6
        if not PLAIN:
            assert pair.client
            assert counts(pair.client.status())["engaged"] == 2
