"""The carrier of DCCP, where the kernel has it: what every carrier gives, and what strangers can do to it."""

from __future__ import annotations

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from support import PLAIN, SLOWNESS

from hooker import transports
from hooker.carriers import Settings, dccp
from hooker.carriers.face import Lone
from hooker.control import netns
from hooker.lab import Host as LabHost
from hooker.lab import Lab
from hooker.transports.sockets import IPPROTO_DCCP, SOCK_DCCP

THERE, WHY = transports.get("vtl+dccp").available()
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(PLAIN, reason="needs no applications"),
    pytest.mark.skipif(not THERE, reason=WHY),
]
SOL_DCCP, SERVICE, CUR_MPS, TX_CCID = 269, 2, 5, 14
OF_SOURCE, LARGEST = 16, 1500 - 84

Datagram = tuple[bytes, bytes, int, int, bytes]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def packed(address: str) -> bytes:
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


def opened(host: LabHost, port: int = 0, **given: int) -> Lone:
    return netns.call(host.netns, lambda: Lone(dccp.make(Settings(20, given)), port))


class Pair:
    """Two that know each other already: the first datagram has arrived."""

    def __init__(self, lab: Lab, family: str = "v4", ccids: tuple[int, int] = (2, 2)) -> None:
        self.a, self.b = opened(lab.a, ccid=ccids[0]), opened(lab.b, ccid=ccids[1])
        self.to = packed(getattr(lab.b, family))
        self.got: list[Datagram] = []
        self.send([b"hello"])
        self.until(lambda: bool(self.got))
        self.source, self.local, self.port, _, self.first = self.got.pop()

    def send(self, sent: list[bytes]) -> None:
        assert self.a.send([(self.to, self.b.port, one) for one in sent]) == len(sent)

    def until(self, done: Callable[[], bool], seconds: float = 5.0) -> None:
        end = time.monotonic() + seconds * SLOWNESS
        while not done():
            assert time.monotonic() < end, len(self.got)
            self.a.receive()
            self.got += self.b.receive()

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.mark.parametrize("family", ["v4", "v6"])
@pytest.mark.parametrize("ccids", [(2, 2), (3, 3), (3, 2)])
def test_datagrams_arrive_whole_and_in_order(lab: Lab, family: str, ccids: tuple[int, int]) -> None:
    pair = Pair(lab, family, ccids)
    some = random.Random(1)
    most = LARGEST - (20 if family == "v6" else 0)
    sent = [some.randbytes(some.choice([1, 20, 700, most])) for _ in range(200)]
    pair.send(sent)
    pair.until(lambda: len(pair.got) >= len(sent), 20)
    assert [data for *_, data in pair.got] == sent
    assert pair.a.counters()["send_errors"] == 0
    pair.close()


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_it_says_who_has_sent_and_answers_go_back_on_that_connection(lab: Lab, family: str) -> None:
    pair = Pair(lab, family)
    assert (pair.source, pair.local, pair.first) == (packed(getattr(lab.a, family)), pair.to, b"hello")
    assert pair.b.send([(pair.source, pair.port, b"answer")]) == 1
    back: list[Datagram] = []

    def here() -> bool:
        back.extend(pair.a.receive())
        return bool(back)

    pair.until(here)
    assert back == [(pair.to, pair.source, pair.b.port, 0, b"answer")]
    pair.close()


def test_what_is_too_large_is_lost_by_itself(lab: Lab) -> None:
    pair = Pair(lab)
    pair.send([bytes(LARGEST), bytes(1500), bytes(LARGEST), b"1"])
    pair.until(lambda: len(pair.got) >= 3)
    assert [len(data) for *_, data in pair.got] == [LARGEST, LARGEST, 1]
    assert pair.a.counters()["send_errors"] == 1
    pair.close()


def test_one_peer_that_takes_nothing_does_not_hold_up_others(lab: Lab) -> None:
    """The kernel's queue is full: what is more is lost, and the next peer has its own."""
    pair, other = Pair(lab), opened(lab.b)
    pair.b.close()
    idle = Stranger.listening(lab.b)
    pair.a.send([(pair.to, idle.port, b"hello")])
    pair.until(idle.accepted)
    for _ in range(8):
        pair.a.send([(pair.to, idle.port, bytes(1000)) for _ in range(500)])
    pair.a.send([(pair.to, other.port, b"hello")])
    got: list[Datagram] = []
    pair.until(lambda: bool(got.extend(other.receive()) or got))
    assert got[0][4] == b"hello"
    idle.close()
    other.close()
    pair.close()


def test_where_nobody_listens_an_error_comes_and_quotes(lab: Lab) -> None:
    a = opened(lab.a)
    to = packed(lab.b.v4)
    quoted = bytes(range(64))
    a.send([(to, 9, quoted * 2)])
    found: list[tuple[int, bytes, int, bytes]] = []
    end = time.monotonic() + 5 * SLOWNESS
    while not found and time.monotonic() < end:
        a.receive()
        found = a.errors()
    ((err, address, port, text),) = found
    assert err
    assert (address, port, text) == (to, 9, quoted)
    a.close()


def test_a_port_belongs_to_one_and_nothing_is_left(lab: Lab) -> None:
    first = opened(lab.a)
    with pytest.raises(OSError, match="in use"):
        opened(lab.a, first.port)
    first.close()
    assert first.descriptors() == [-1, -1]
    opened(lab.a, first.port).close()


def test_a_connection_that_has_ended_is_made_again(lab: Lab) -> None:
    pair = Pair(lab)
    port = pair.b.port
    pair.b.close()
    pair.b = opened(lab.b, port)
    end = time.monotonic() + 5 * SLOWNESS
    while not pair.got and time.monotonic() < end:
        pair.send([b"again"])
        pair.a.receive()
        pair.got += pair.b.receive()
        time.sleep(0.05)
    assert pair.got[0][4] == b"again"
    pair.close()


# ---- strangers ---------------------------------------------------------------------------------------


class Stranger:
    """A DCCP socket of somebody's."""

    def __init__(self, host: LabHost) -> None:
        self.sock = netns.call(host.netns, lambda: socket.socket(socket.AF_INET, SOCK_DCCP, IPPROTO_DCCP))
        self.sock.setsockopt(SOL_DCCP, SERVICE, b"VTLH")
        self.sock.setblocking(False)
        self.connection: socket.socket | None = None
        self.port = 0

    @classmethod
    def listening(cls, host: LabHost) -> Stranger:
        made = cls(host)
        made.sock.bind(("0.0.0.0", 0))
        made.sock.listen(1)
        made.port = made.sock.getsockname()[1]
        return made

    def accepted(self) -> bool:
        try:
            self.connection, _ = self.sock.accept()
        except BlockingIOError:
            return False
        return True

    def connect(self, host: LabHost, port: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self.sock.connect((host.v4, port))

    def say(self, data: bytes) -> bool:
        """Whether it is connected, and has sent that."""
        try:
            return self.sock.send(data) == len(data)
        except OSError:
            return False

    def is_out(self) -> bool:
        try:
            return self.sock.recv(100) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    def close(self) -> None:
        self.sock.close()
        if self.connection:
            self.connection.close()


def test_a_source_has_so_many_connections_and_the_others_get_in(lab: Lab) -> None:
    b = opened(lab.b)
    many = [Stranger(lab.a) for _ in range(OF_SOURCE + 8)]
    for one in many:
        one.connect(lab.b, b.port)
    end = time.monotonic() + 5 * SLOWNESS
    while b.counters()["refused"] < 8 and time.monotonic() < end:
        b.receive()
        for one in many:
            one.say(b"x")
        time.sleep(0.01)
    assert b.counters()["refused"] == 8
    assert sum(one.is_out() for one in many) == 8
    own = opened(lab.b)  # from another address
    got: list[Datagram] = []
    while not got and time.monotonic() < end:
        own.send([(packed(lab.b.v4), b.port, b"hello")])
        own.receive()
        got += [one for one in b.receive() if one[4] == b"hello"]
    assert got
    for one in [*many, own, b]:
        one.close()


def test_who_says_nothing_is_closed(lab: Lab) -> None:
    b = opened(lab.b)
    silent = Stranger(lab.a)
    silent.connect(lab.b, b.port)
    begun = time.monotonic()
    while not silent.is_out():
        assert time.monotonic() < begun + 10 * SLOWNESS
        b.receive()
        other = Stranger(lab.a)
        other.connect(lab.b, b.port)
        time.sleep(0.3)
        other.close()
    assert time.monotonic() >= begun + 3
    silent.close()
    b.close()
