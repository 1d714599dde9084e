"""Engines with key files: what crosses the wire, and what stays on TCP."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from support import PLAIN, Pair, counts, eventually, peer, result, same, start_engines

from hooker.control import keyfile
from hooker.lab import Lab

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="there is no key in TCP")]
MARKER = b"PLAINTEXT-MARKER-" * 60  # about 1 KB
KB = 1 << 10
ETH_P_ALL = 3


def write_key(path: Path, key: str) -> tuple[str, ...]:
    path.touch(0o600)
    path.write_text(key + "\n")
    return ("--key-file", str(path))


def open_pair(lab: Lab, ours: tuple[str, ...], theirs: tuple[str, ...]) -> Pair:
    engines = start_engines([lab.a], ours) | start_engines([lab.b], theirs)
    return Pair(lab, engines["a"], engines["b"])


def close_pair(pair: Pair) -> None:
    for engine in pair.engines:
        engine.stop()
        print(engine.tail())


class Sniffer:
    """Every frame that host b's interface sees, until it is asked."""

    def __init__(self, lab: Lab) -> None:
        self._socket = lab.b.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self._socket.bind(("eth0", 0))
        self._socket.setblocking(False)

    def frames(self) -> bytes:
        out = []
        with self._socket:
            while True:
                try:
                    out.append(self._socket.recv(1 << 17))
                except BlockingIOError:
                    return b"".join(out)


def transfer(pair: Pair, size: int, port: int) -> None:
    server = peer(pair.b, "serve", "0.0.0.0", port, "recv-all", f"send:{size}", "close")
    client = peer(pair.a, "connect", pair.b.v4, port, f"send:{size}", "fin", "recv-all", "close")
    one, other = result(client), result(server)
    same(one, other)
    same(other, one)


def send_marker(pair: Pair, port: int) -> None:
    """Both ways, by programs that know nothing."""
    server = pair.b.popen(["nc", "-N", "-l", str(port)], stdin=-1, stdout=-1)
    pair.b.wait_listening(port)
    client = pair.a.popen(["nc", "-N", pair.b.v4, str(port)], stdin=-1, stdout=-1)
    assert server.stdin
    server.stdin.write(MARKER)
    server.stdin.close()
    out, _ = client.communicate(MARKER, timeout=20)
    assert out == MARKER
    assert server.stdout
    assert server.stdout.read() == MARKER


@pytest.mark.parametrize("key", [True, False])
def test_with_a_key_nothing_readable_crosses_the_wire(lab: Lab, key: bool) -> None:
    """Without one, the same test sees the bytes: it can fail."""
    options = write_key(lab.tmp / "key", keyfile.make()) if key else ()
    pair = open_pair(lab, options, options)
    try:
        sniffer = Sniffer(lab)
        with pair.engaged(payload=2 * len(MARKER)):
            send_marker(pair, 7300)
        assert (MARKER[:64] in sniffer.frames()) is not key
        with pair.engaged(payload=2 * 3000 * KB, flows=1):
            transfer(pair, 3000 * KB, 7301)
        assert pair.client
        assert pair.client.status()["engine"]["encrypted"] is key
        assert counts(pair.client.status())["vtl.forged"] == 0
    finally:
        close_pair(pair)


@pytest.mark.parametrize("case", ["another key", "none at the server", "none at the client"])
def test_without_the_same_key_at_both_ends_it_is_tcp(lab: Lab, case: str) -> None:
    ours = () if case == "none at the client" else write_key(lab.tmp / "one", keyfile.make())
    theirs = () if case == "none at the server" else write_key(lab.tmp / "two", keyfile.make())
    pair = open_pair(lab, ours, theirs)
    try:
        with pair.over_tcp(payload=2 * 300 * KB):
            transfer(pair, 300 * KB, 7310)
        for engine in pair.engines:
            assert counts(engine.status())["engaged"] == 0
        assert pair.client
        client = pair.client
        eventually(lambda: client.status()["reasons"].get("key-mismatch", 0) == 1)
        assert sum(counts(e.status())["vtl.key_mismatches"] for e in pair.engines) > 0
    finally:
        close_pair(pair)


def test_keys_are_replaced_without_a_gap(lab: Lab) -> None:
    """The client's file has the new key first already, the server's has it second."""
    old, new = keyfile.make(), keyfile.make()
    pair = open_pair(
        lab, write_key(lab.tmp / "a", f"{new}\n{old}"), write_key(lab.tmp / "b", f"{old}\n{new}")
    )
    try:
        with pair.engaged(payload=200 * KB):
            transfer(pair, 100 * KB, 7320)
    finally:
        close_pair(pair)
