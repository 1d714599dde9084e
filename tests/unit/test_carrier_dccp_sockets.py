"""The carrier of DCCP, where the kernel has it: what every carrier gives, and what strangers can do to it.

Over loopback, for the kernels that have it run in an emulation, where the laboratory takes minutes.
"""

from __future__ import annotations

import contextlib
import random
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest
from support import SLOWNESS

from hooker import transports
from hooker.carriers import Settings, dccp
from hooker.carriers.face import Lone
from hooker.transports.sockets import IPPROTO_DCCP, SOCK_DCCP

THERE, WHY = transports.get("vtl+dccp").available()
pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(not THERE, reason=WHY),
]
SOL_DCCP, SERVICE = 269, 2
OF_SOURCE, INCOMING, CONNECTIONS = 16, 384, 512
EVICTABLE = 10.0  # s of silence
LARGEST = 65535 - 84  # of the loopback device
HOMES = {"v4": "127.0.0.1", "v6": "::1"}

Datagram = tuple[bytes, bytes, int, int, bytes]


def packed(address: str) -> bytes:
    if ":" in address:
        return socket.inet_pton(socket.AF_INET6, address)
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)


def opened(port: int = 0, **given: int) -> Lone:
    return Lone(dccp.make(Settings(20, given)), port)


class Pair:
    """Two that know each other already: the first datagram has arrived."""

    def __init__(self, family: str = "v4", ccids: tuple[int, int] = (2, 2)) -> None:
        self.a, self.b = opened(ccid=ccids[0]), opened(ccid=ccids[1])
        self.to = packed(HOMES[family])
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
def test_datagrams_arrive_whole_and_in_order(family: str, ccids: tuple[int, int]) -> None:
    pair = Pair(family, ccids)
    some = random.Random(1)
    most = 1400
    sent = [some.randbytes(some.choice([1, 20, 700, most])) for _ in range(200)]
    pair.send(sent)
    pair.until(lambda: len(pair.got) >= len(sent), 20)
    assert [data for *_, data in pair.got] == sent
    assert pair.a.counters()["send_errors"] == 0
    pair.close()


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_it_says_who_has_sent_and_answers_go_back_on_that_connection(family: str) -> None:
    pair = Pair(family)
    assert (pair.source, pair.local, pair.first) == (packed(HOMES[family]), pair.to, b"hello")
    assert pair.b.send([(pair.source, pair.port, b"answer")]) == 1
    back: list[Datagram] = []

    def here() -> bool:
        back.extend(pair.a.receive())
        return bool(back)

    pair.until(here)
    assert back == [(pair.to, pair.source, pair.b.port, 0, b"answer")]
    pair.close()


def test_what_is_too_large_is_lost_by_itself() -> None:
    pair = Pair()
    pair.send([bytes(LARGEST), bytes(65536), bytes(LARGEST), b"1"])
    pair.until(lambda: len(pair.got) >= 3)
    assert [len(data) for *_, data in pair.got] == [LARGEST, LARGEST, 1]
    assert pair.a.counters()["send_errors"] == 1
    pair.close()


def test_one_peer_that_takes_nothing_does_not_hold_up_others() -> None:
    """The kernel's queue is full: what is more is lost, and the next peer has its own."""
    pair, other = Pair(), opened()
    pair.b.close()
    idle = Stranger.listening()
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


def test_where_nobody_listens_an_error_comes_and_quotes() -> None:
    a = opened()
    to = packed(HOMES["v4"])
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


def test_a_port_belongs_to_one_and_nothing_is_left() -> None:
    first = opened()
    with pytest.raises(OSError, match="in use"):
        opened(first.port)
    first.close()
    assert set(first.descriptors()) == {-1}
    opened(first.port).close()


def test_a_connection_that_has_ended_is_made_again() -> None:
    pair = Pair()
    port = pair.b.port
    pair.b.close()
    pair.b = opened(port)
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

    def __init__(self, source: str = "127.0.1.1") -> None:
        self.sock = socket.socket(socket.AF_INET, SOCK_DCCP, IPPROTO_DCCP)
        self.sock.bind((source, 0))
        self.sock.setsockopt(SOL_DCCP, SERVICE, b"VTLH")
        self.sock.setblocking(False)
        self.connection: socket.socket | None = None
        self.port = 0

    @classmethod
    def listening(cls, address: str = "127.0.0.1", backlog: int = 1) -> Stranger:
        made = cls(address)
        made.sock.listen(backlog)
        made.port = made.sock.getsockname()[1]
        return made

    def accepted(self) -> bool:
        try:
            self.connection, _ = self.sock.accept()
        except BlockingIOError:
            return False
        return True

    def send(self, data: bytes) -> int:
        return self.sock.send(data)

    def connect(self, port: int) -> None:
        with contextlib.suppress(BlockingIOError):
            self.sock.connect(("127.0.0.1", port))

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


def test_a_source_has_so_many_connections_and_the_others_get_in() -> None:
    b = opened()
    many = [Stranger() for _ in range(OF_SOURCE + 8)]
    for one in many:
        one.connect(b.port)
    end = time.monotonic() + 5 * SLOWNESS
    while b.counters()["refused"] < 8 and time.monotonic() < end:
        b.receive()
        for one in many:
            one.say(b"x")
        time.sleep(0.01)
    assert b.counters()["refused"] == 8
    assert sum(one.is_out() for one in many) == 8
    own = opened()  # from another address
    got: list[Datagram] = []
    while not got and time.monotonic() < end:
        own.send([(packed(HOMES["v4"]), b.port, b"hello")])
        own.receive()
        got += [one for one in b.receive() if one[4] == b"hello"]
    assert got
    for one in [*many, own, b]:
        one.close()


def test_who_says_nothing_is_closed() -> None:
    b = opened()
    silent = Stranger()
    silent.connect(b.port)
    begun = time.monotonic()
    while not silent.is_out():
        assert time.monotonic() < begun + 10 * SLOWNESS
        b.receive()
        other = Stranger()
        other.connect(b.port)
        time.sleep(0.3)
        other.close()
    assert time.monotonic() >= begun + 3
    silent.close()
    b.close()


def test_no_descriptor_for_one_more_is_no_busy_loop() -> None:
    """Who connects waits a moment, and so does the epoll."""
    b, stranger = opened(), Stranger()
    (epoll, *_) = [one for one in b.descriptors() if one >= 0]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with open("/dev/null") as newest:
        resource.setrlimit(resource.RLIMIT_NOFILE, (newest.fileno(), hard))
    try:
        stranger.connect(b.port)
        assert select.select([epoll], [], [], 5)[0]
        b.receive()
        assert not select.select([epoll], [], [], 0.05)[0]
        assert select.select([epoll], [], [], 5)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    got: list[Datagram] = []
    end = time.monotonic() + 5 * SLOWNESS
    while not got:
        assert time.monotonic() < end
        stranger.say(b"x")
        got += b.receive()
        time.sleep(0.01)
    stranger.close()
    b.close()


def test_an_answer_to_who_is_gone_makes_no_connection() -> None:
    """He could begin as many of ours as he likes, and let them hang."""
    b, gone = opened(), Stranger.listening()
    b.send([(packed(HOMES["v4"]), gone.port, b"answer")], unproven=True)
    assert b.counters()["send_errors"] == 1
    assert not gone.accepted()
    b.send([(packed(HOMES["v4"]), gone.port, b"of our own")])
    assert b.counters()["send_errors"] == 1
    end = time.monotonic() + 5 * SLOWNESS
    while not gone.accepted():
        assert time.monotonic() < end
    gone.close()
    b.close()


# ---- all of them together ----------------------------------------------------------------------------


class Crowd:
    """Strangers from many sources, and those to whom we have connected: they speak all the time."""

    def __init__(self, who: Lone) -> None:
        self.who = who
        self.strangers: list[Stranger] = []
        self.there = Stranger.listening("0.0.0.0", CONNECTIONS)
        self.ends: list[socket.socket] = []
        self.heard: set[tuple[bytes, int]] = set()

    def come(self, source: str) -> Stranger:
        made = Stranger(source)
        made.connect(self.who.port)
        self.strangers.append(made)
        return made

    def fill(self) -> None:
        """As many as peers may begin."""
        for number in range(INCOMING):
            self.come(f"127.0.{1 + number // OF_SOURCE}.1")
            if number % OF_SOURCE == OF_SOURCE - 1:
                self.all_speak()
        assert self.who.counters()["refused"] == 0

    def connect(self, number: int) -> None:
        """We do, to another of its addresses."""
        self.who.send([(packed(f"127.1.0.{1 + number}"), self.there.port, b"hello")])

    def all_speak(self) -> None:
        self.heard.clear()
        self.until(lambda: len(self.heard) == len(self.strangers) + len(self.ends))

    def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds * SLOWNESS
        while not done():
            assert time.monotonic() < end, (len(self.heard), len(self.strangers), len(self.ends))
            for one in (*self.strangers, *self.ends):
                with contextlib.suppress(OSError):
                    one.send(b"x")
            while got := self.who.receive():
                self.heard.update((source, port) for source, _, port, _, _ in got)
            while self.there.accepted():
                assert self.there.connection
                self.there.connection.setblocking(False)
                self.ends.append(self.there.connection)

    def close(self) -> None:
        for one in (self.there, *self.strangers, *self.ends, self.who):
            one.close()


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    """Both ends of all its connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = Crowd(opened())
    yield made
    made.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_of_all_sources_so_many_get_in_and_the_one_silent_for_longest_makes_room(crowd: Crowd) -> None:
    crowd.fill()
    late = Stranger("127.0.200.1")
    late.connect(crowd.who.port)
    crowd.until(late.is_out)  # they have all been heard just now
    assert crowd.who.counters()["refused"] == 1
    silent = crowd.strangers.pop(100)
    time.sleep(EVICTABLE)
    crowd.all_speak()
    crowd.come("127.0.200.1")
    crowd.all_speak()
    assert silent.is_out()
    assert crowd.who.counters()["refused"] == 1
    late.close()
    silent.close()


def test_strangers_leave_room_for_connections_of_our_own(crowd: Crowd) -> None:
    own = CONNECTIONS - INCOMING
    crowd.fill()
    for number in range(own):
        crowd.connect(number)
        crowd.until(lambda number=number: len(crowd.ends) > number)
    crowd.all_speak()
    before = crowd.who.counters()["send_errors"]
    crowd.connect(own)  # each of the others has been heard just now
    assert crowd.who.counters()["send_errors"] == before + 1
    assert not crowd.there.accepted()  # and nobody has been asked for one
    crowd.heard.clear()
    crowd.until(lambda: len(crowd.heard) == CONNECTIONS)
