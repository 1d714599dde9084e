"""What only TCP has, and an application wants in mid-flow: signed segments, a connection that moves.

A flow that can goes back to TCP for it, at once. A pinned one cannot: the option fails, and the flow goes on.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator

import pytest
from owned import hooked_socket
from support import KINDS, PLAIN, Pair, counts, eventually, rules

from hooker.lab import Host, Lab

pytestmark = pytest.mark.timeout(120)
SERVICE = 7204
TCP_MD5SIG = 14
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ, TCP_REPAIR_OPTIONS = 19, 20, 21, 22
TCP_TIMESTAMP, TCP_REPAIR_WINDOW = 24, 29
RECEIVED, SENT = 1, 2  # TCP_RECV_QUEUE, TCP_SEND_QUEUE
Ends = tuple[socket.socket, socket.socket]

both_families = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, kind=request.param) as made:
        yield made


@contextlib.contextmanager
def connected(pair: Pair, family: int, key_for: str = "") -> Iterator[Ends]:
    where = {4: pair.b.v4, 6: pair.b.v6}[family]
    with hooked_socket(pair.b, family) as listener, hooked_socket(pair.a, family) as client:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((where, SERVICE))
        listener.listen()
        client.settimeout(10)
        if key_for:
            sign(client, key_for)
        client.connect((where, SERVICE))
        server, _ = listener.accept()
        with server:
            server.settimeout(10)
            yield client, server


@contextlib.contextmanager
def engaged(pair: Pair, family: int) -> Iterator[Ends]:
    """Both ends are, or over TCP nobody."""
    with connected(pair, family) as ends:
        exchange(ends)
        for engine in pair.engines:
            eventually(lambda e=engine: any(f["state"] == "engaged" for f in e.status()["flows"]))  # type: ignore[misc]
        exchange(ends)
        yield ends


def exchange(ends: Ends, size: int = 100_000) -> None:
    for one, other in (ends, ends[::-1]):
        one.sendall(bytes(size))
        got = 0
        while got < size:
            piece = other.recv(size - got)
            assert piece, "end of data"
            got += len(piece)


def sign(s: socket.socket, peer: str) -> int:
    """Segments to and from that host are signed from now on (TCP-MD5, RFC 2385). The errno."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    inside = bytes(4) if family == socket.AF_INET6 else b""
    address = struct.pack("HH", family, 0) + inside + socket.inet_pton(family, peer)
    key = address.ljust(128, b"\0") + struct.pack("BBHI", 0, 0, 5, 0) + b"abcde".ljust(80, b"\0")
    return errno_of(s, TCP_MD5SIG, key)


def errno_of(s: socket.socket, name: int, value: bytes | int) -> int:
    try:
        s.setsockopt(socket.IPPROTO_TCP, name, value)
    except OSError as error:
        return error.errno or -1
    return 0


def reasons(pair: Pair, name: str) -> list[int]:
    return [engine.status()["reasons"].get(name, 0) for engine in pair.engines]


def counted(pair: Pair, name: str) -> list[int]:
    return [counts(engine.status())[f"kernel.{name}"] for engine in pair.engines]


def is_free(pair: Pair) -> bool:
    return PLAIN or pair.kind == "segments"


@both_families
def test_segments_that_are_signed_from_now_on(pair: Pair, family: int) -> None:
    before, refused = reasons(pair, "tcp-signed"), counted(pair, "tcp-signing-refused")
    with engaged(pair, family) as ends:
        errors = [sign(one, other.getsockname()[0]) for one, other in (ends, ends[::-1])]
        exchange(ends)
        exchange(ends)
    assert errors == [0 if is_free(pair) else errno.ENOPROTOOPT] * 2
    assert PLAIN or any(reasons(pair, "tcp-signed")) == (is_free(pair) or any(before))
    assert counted(pair, "tcp-signing-refused") == [n + (not is_free(pair)) for n in refused]


def test_what_is_not_signed_does_not_arrive(pair: Pair) -> None:
    """The other end has a key, this one has none."""
    if not is_free(pair):
        pytest.skip("has no key")
    with engaged(pair, 4) as (client, server):
        assert sign(server, client.getsockname()[0]) == 0
        client.sendall(b"unsigned")
        server.settimeout(1)
        with pytest.raises(TimeoutError):
            server.recv(1)


def test_a_socket_with_a_key_for_anybody_is_left_to_tcp(pair: Pair) -> None:
    before = counted(pair, "tcp-signed")[:1]
    with pair.over_tcp(200_000), connected(pair, 4, key_for="192.0.2.9") as ends:
        exchange(ends)
    assert counted(pair, "tcp-signed")[:1] == [n + 1 for n in before]


class Moved:
    """A connection's state in another socket, as it is moved to another process or host (TCP_REPAIR)."""

    def __init__(self, of: socket.socket) -> None:
        self.here, self.there = of.getsockname(), of.getpeername()
        self.numbers = {}
        for queue in (SENT, RECEIVED):
            of.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
            self.numbers[queue] = of.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ, 4)
        self.scales = of.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 8)[6]
        self.clock = of.getsockopt(socket.IPPROTO_TCP, TCP_TIMESTAMP, 4)
        self.window = of.getsockopt(socket.IPPROTO_TCP, TCP_REPAIR_WINDOW, 20)

    def into(self, s: socket.socket) -> None:
        def put(name: int, value: bytes | int) -> None:
            s.setsockopt(socket.IPPROTO_TCP, name, value)

        put(TCP_REPAIR, 1)
        s.bind(self.here)
        for queue, number in self.numbers.items():
            put(TCP_REPAIR_QUEUE, queue)
            put(TCP_QUEUE_SEQ, number)
        s.connect(self.there)
        scales = self.scales & 0xF | (self.scales >> 4) << 16
        options = ((2, 1460), (3, scales), (4, 0), (8, 0))  # RFC 9293's MSS, RFC 7323's and 2018's
        put(TCP_REPAIR_OPTIONS, b"".join(struct.pack("II", *option) for option in options))
        put(TCP_TIMESTAMP, self.clock)
        put(TCP_REPAIR_WINDOW, self.window)
        put(TCP_REPAIR, 0)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # which that takes away
        s.settimeout(10)


@contextlib.contextmanager
def locked(host: Host) -> Iterator[None]:
    """No segment reaches a host where the socket is missing for a moment, as who moves them sees to."""
    drops = "".join(
        f"add chain inet lock {way} {{ type filter hook {way} priority 0; }}\n"
        f"add rule inet lock {way} tcp {port} {SERVICE} drop\n"
        for way, port in (("input", "dport"), ("input", "sport"), ("output", "dport"), ("output", "sport"))
    )
    rules(host, f"add table inet lock\n{drops}")
    try:
        yield
    finally:
        rules(host, "delete table inet lock")


@both_families
@pytest.mark.parametrize("end", [0, 1], ids=["client", "server"])
def test_a_connection_that_moves_to_another_socket(pair: Pair, family: int, end: int) -> None:
    """close() of the old one says nothing to anybody."""
    before, refused = reasons(pair, "tcp-repair"), counted(pair, "tcp-repair-refused")
    host = (pair.a, pair.b)[end]
    with engaged(pair, family) as ends:
        one, other = ends[end], ends[1 - end]
        if not is_free(pair):
            assert errno_of(one, TCP_REPAIR, 1) == errno.EPERM
            exchange(ends)
            assert counted(pair, "tcp-repair-refused")[end] == refused[end] + 1
            return
        with locked(host):
            assert errno_of(one, TCP_REPAIR, 1) == 0
            moved = Moved(one)
            one.close()
            new = hooked_socket(host, family)
            moved.into(new)
        with new:
            exchange((new, other))
            exchange((other, new))
    assert PLAIN or reasons(pair, "tcp-repair")[end] == before[end] + 1


def test_one_that_was_looked_at_goes_on(pair: Pair) -> None:
    if not is_free(pair):
        pytest.skip("is not looked at")
    with engaged(pair, 4) as ends:
        assert errno_of(ends[0], TCP_REPAIR, 1) == 0
        Moved(ends[0])
        assert errno_of(ends[0], TCP_REPAIR, 0) == 0
        ends[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        exchange(ends)
