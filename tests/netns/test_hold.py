"""What is held stays off the wire, whatever headers are before TCP's."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest
from support import PLAIN, Pair, counts

from hooker.lab import Lab

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(PLAIN, reason="TCP holds nothing"),
]
PORT = 7990
IPV6_HOPOPTS, IPV6_DSTOPTS = 54, 59
MARK_OF_DATA = 0xF0  # where TCP's data offset would be, were there no extension header: 60 bytes of header

TALK = textwrap.dedent("""
    import socket, sys
    who, host, port, option = *sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4])
    s = socket.socket(socket.AF_INET6)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if option:
        s.setsockopt(socket.IPPROTO_IPV6, option, bytes.fromhex(sys.argv[5]))
    if who == "server":
        s.bind((host, port))
        s.listen(9)
        s, _ = s.accept()
    else:
        s.connect((host, port))
    s.sendall(b"12345678")
    got = b""
    while len(got) < 8:
        got += s.recv(8)
    s.shutdown(socket.SHUT_WR)
    assert got == b"12345678" and s.recv(1) == b""
""")


def options(length: int) -> str:
    """An extension header of so many bytes, with one option that is skipped where unknown (RFC 8200 4.2)."""
    body = bytearray(length - 4)
    body[8] = MARK_OF_DATA
    return (bytes([0, length // 8 - 1, 0x1E, length - 4]) + bytes(body)).hex()


@pytest.mark.parametrize(
    ("name", "value"),
    [(IPV6_DSTOPTS, options(16)), (IPV6_DSTOPTS, options(64)), (IPV6_HOPOPTS, options(16)), (0, "")],
    ids=["destination", "long", "hop-by-hop", "none"],
)
def test_nothing_held_leaks_behind_extension_headers(lab: Lab, name: int, value: str) -> None:
    """Both sides write at once. Without timestamps, the headers are as short as they can be."""
    for host in lab.hosts:
        host.sysctl("net.ipv4.tcp_timestamps", "0")
    with Pair.open(lab, kind="messages") as pair:

        def talk(who: str, address: str) -> subprocess.Popen[bytes]:
            host = pair.b if who == "server" else pair.a
            return host.popen([sys.executable, "-c", TALK, who, address, str(PORT), str(name), value])

        server = talk("server", "::")
        pair.b.wait_listening(PORT)
        with pair.engaged():
            assert talk("client", pair.b.v6).wait(40) == 0
            assert server.wait(20) == 0
        assert sum(counts(engine.status())["kernel.segment-held-back"] for engine in pair.engines) > 0
