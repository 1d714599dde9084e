"""An IPv6 routing header, which any user may ask for: such a connection is TCP's, and no other one is for it.

The engine would refuse its segments, and take their absence for a service that this host cuts off.
"""

from __future__ import annotations

import errno
import socket
import time
from pathlib import Path

import pytest
from hands import Hands, Socket, received
from support import Pair, counts, eventually

from hooker.control import keyfile
from hooker.lab import Lab

pytestmark = pytest.mark.timeout(90)
IPV6_RTHDR = 57
PORT = 7360


def takes_a_way(client: Socket, hop: str) -> None:
    """By way of *hop* (RFC 8754, segment routing), which is nobody."""
    address = socket.inet_pton(socket.AF_INET6, hop)
    client.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, bytes([0, 4, 4, 1, 1, 0, 0, 0]) + address * 2)


def served_as_before(pair: Pair, hands: Hands, port: int) -> None:
    before = counts(pair.client.status())["engaged"]
    client, server = hands.connected(port, "v6", settle=0.5)
    client.sendall(b"?")
    assert received(server, 1) == b"?"
    eventually(lambda: counts(pair.client.status())["engaged"] == before + 1)
    assert counts(pair.client.status())["services_cut"] == 0


@pytest.mark.parametrize("when", ["before connect", "early", "engaged"])
def test_a_way_of_its_own_cuts_nobody_else_off(lab: Lab, when: str) -> None:
    hop = lab.b.v6.rsplit(":", 1)[0] + ":99"
    with Pair.open(lab, options=("--intercept", "segments")) as pair, Hands(lab) as hands:
        served_as_before(pair, hands, PORT)
        for at in range(3):
            client, listener = hands.socket(lab.a, "v6"), hands.listening(PORT, "v6")
            if when == "before connect":
                client.setblocking(False)
                takes_a_way(client, hop)
            with listener:
                client.connect_ex((lab.b.v6, PORT))
                if when != "before connect":
                    time.sleep(at if when == "engaged" else 0)
                    takes_a_way(client, hop)
                time.sleep(1)
                client.close()
        served_as_before(pair, hands, PORT)


def test_with_a_key_it_is_refused_once_the_flow_is_pinned(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_text(keyfile.make() + "\n")
    options = ("--intercept", "segments", "--key-file", str(path))
    with Pair.open(lab, options=options) as pair, Hands(lab) as hands:
        client, server = hands.connected(PORT, "v6")
        eventually(lambda: counts(pair.client.status())["engaged"] == 1)
        with pytest.raises(PermissionError) as refused:
            takes_a_way(client, lab.b.v6)
        assert refused.value.errno == errno.EPERM
        client.sendall(b"?")
        assert received(server, 1) == b"?"
