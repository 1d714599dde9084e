"""QUIC as a transport: who it is believed of, and what strangers can do to it."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("hooker.transports.quic", reason="built without libngtcp2", exc_type=ImportError)

from hooker.flow.messages import decode, encode
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make
from hooker.transports.quic_lanes import BrokenError, feed

QUIC = 10
HOME = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
HELLO = encode("hello", epoch=1, position=65535, token=7, own_token=8)
KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
MIB = 1 << 20


def lone(**settings: Any) -> Lone:
    return Lone(make(QUIC, Settings(**settings)))


def data(position: int, payload: bytes, flags: int = 0) -> bytes:
    return encode("data", epoch=1, flags=flags, position=position, token=5, data=payload)


def told(who: Lone, kind: str) -> list[Any]:
    return [one for one in who.heard if one[0] == kind]


def run(*ends: Lone | From, until: Callable[[], bool], seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            return False
        for one in ends:
            one.turn(0.001)
    return True


def counts(who: Lone, name: str) -> int:
    return who.counters()[f"quic.{name}"]


@pytest.fixture
def server() -> Iterator[Lone]:
    made = lone()
    yield made
    made.shut()


def works(server: Lone, **settings: Any) -> None:
    """It does for others."""
    client = lone(**settings)
    there = client.connect(HOME, server.port)
    assert run(client, server, until=lambda: client.is_up(there))
    assert client.say(there, HELLO)
    before = len(told(server, "up"))
    assert run(client, server, until=lambda: len(told(server, "up")) > before)
    client.shut()


def outside(number: int = 1) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((f"127.0.{number >> 8}.{number & 255}", 0))
    made.settimeout(0.2)
    return made


def said_to(sock: socket.socket, who: Lone, datagram: bytes) -> bytes:
    """The answer; b"": there is none."""
    sock.sendto(datagram, ("127.0.0.1", who.port + 1))
    for _ in range(5):
        who.turn(0.01)
    try:
        return sock.recv(2000)
    except TimeoutError:
        return b""


def initials(n: int) -> list[bytes]:
    """First datagrams of so many clients, each another connection."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind(("127.0.0.1", 0))
        there.settimeout(1)
        for _ in range(n):
            client = lone()
            client.connect(HOME, there.getsockname()[1] - 1)
            client.turn()
            found.append(there.recv(2000))
            client.shut()
    return found


# ---- who is believed ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"), [((KEY,), (OTHER,)), ((KEY,), ()), ((), (KEY,)), ((OTHER, KEY), (KEY, OTHER))]
)
def test_both_need_the_same_key(ours: tuple[bytes, ...], theirs: tuple[bytes, ...]) -> None:
    a, b = lone(keys=ours), lone(keys=theirs)
    there = a.connect(HOME, b.port)
    same = bool(set(ours) & set(theirs))
    assert run(a, b, until=lambda: bool(told(a, "up") or told(a, "down")))
    assert bool(told(a, "up")) == same
    if not same:
        assert told(a, "down") == [("down", there, "key")]
        assert counts(a, "key_mismatches") == counts(b, "key_mismatches") == 1
    assert not told(b, "up")  # nothing was said
    a.shut()
    b.shut()


def test_with_a_key_a_restarted_engine_is_noticed_at_once() -> None:
    a, b = lone(keys=(KEY,)), lone(keys=(KEY,))
    port = b.port
    there = a.connect(HOME, port)
    assert run(a, b, until=lambda: a.is_up(there))
    assert a.say(there, HELLO)
    assert run(a, b, until=lambda: bool(told(b, "up")))
    run(a, b, until=lambda: False, seconds=0.1)
    b.shut()
    b = Lone(make(QUIC, Settings(keys=(KEY,))), port)
    assert a.say(there, HELLO)
    assert run(a, b, until=lambda: bool(told(a, "down")), seconds=2)
    assert told(a, "down") == [("down", there, "replaced")]
    a.shut()
    b.shut()


def test_a_newer_engine_at_an_address_replaces_the_one_before() -> None:
    b = lone()
    first = lone()
    port = first.port
    for client in (first, None):
        if client is None:
            first.shut()
            client = Lone(make(QUIC, Settings()), port)
        there = client.connect(HOME, b.port)
        assert run(client, b, until=lambda c=client, t=there: c.is_up(t))
        assert client.say(there, HELLO)
        before = len(told(b, "up"))
        assert run(client, b, until=lambda n=before: len(told(b, "up")) > n)
    b.turn()
    assert [one[2] for one in told(b, "down")] == ["replaced"]
    client.shut()
    b.shut()


# ---- what comes --------------------------------------------------------------------------------------


def test_bytes_of_a_batch_stay_also_of_one_that_is_larger_than_the_room_for_them(server: Lone) -> None:
    text, room = random.Random(1).randbytes(60000), 128 << 10
    clients = [lone() for _ in range(4)]
    channels = []
    for client in clients:
        there = client.connect(HOME, server.port)
        assert run(client, server, until=lambda c=client, t=there: c.is_up(t))
        assert client.say(there, HELLO)
        channels.append(client.channel(there))
    most = 0

    def was_larger() -> bool:
        nonlocal most
        for client, channel in zip(clients, channels, strict=True):
            while client.waiting(channel)[0] < MIB:
                assert client.send(channel, data(1, text))
            for _ in range(10):
                client.turn(0.001)
        stayed, settled = server.stayed, server.settled
        server.turn()
        server.heard.clear()
        if server.settled > settled + 1:
            most = max(most, server.stayed - stayed)
        return most > room

    assert run(until=was_larger, seconds=20)
    assert server.moved == 0
    for client in clients:
        client.shut()


# ---- strangers ---------------------------------------------------------------------------------------


def test_garbage_does_no_harm(server: Lone) -> None:
    noise = random.Random(1)
    with outside() as sock:
        for n in range(2000):
            size = noise.randrange(1, 1400)
            first = (0xC0, 0x40, 0xFF, noise.randrange(256))[n % 4]
            sock.sendto(
                bytes([first]) + noise.randbytes(size),
                ("127.0.0.1", server.port + 1),
            )
            if n % 50 == 0:
                server.turn()
    run(server, until=lambda: False, seconds=0.1)
    assert counts(server, "accepted") == 0
    assert not server.heard
    works(server)


def test_another_version_is_answered_with_ours_if_it_is_large_enough(server: Lone) -> None:
    def ask(size: int) -> bytes:
        head = b"\xc0" + struct.pack("!I", 0x1A2A3A4A) + b"\x08" + b"d" * 8 + b"\x08" + b"s" * 8
        return head + bytes(size - len(head))

    with outside() as sock:
        answer = said_to(sock, server, ask(1200))
        assert answer[1:5] == bytes(4)
        assert answer[5:23] == b"\x08" + b"s" * 8 + b"\x08" + b"d" * 8
        assert answer[23:] == b"\0\0\0\x01"
        assert said_to(sock, server, ask(1199)) == b""
    assert counts(server, "associations") == 0


def test_an_unknown_connection_is_answered_by_less_than_was_sent(server: Lone) -> None:
    with outside() as sock:
        for size, answered in ((200, True), (44, True), (43, False), (20, False)):
            answer = said_to(sock, server, b"\x40" + random.Random(size).randbytes(size - 1))
            assert bool(answer) == answered
            assert len(answer) < size
    assert counts(server, "resets") == 2


def test_answers_to_what_is_nobodys_are_so_many_in_a_second(server: Lone) -> None:
    """Else it reflects as much as comes with forged addresses."""
    noise = random.Random(2)
    began = time.monotonic()
    with outside() as sock:
        for n in range(3000):
            sock.sendto(b"\x40" + noise.randbytes(50), ("127.0.0.1", server.port + 1))
            if n % 64 == 63:
                server.turn()
        run(server, until=lambda: counts(server, "resets") + counts(server, "dropped") >= 3000, seconds=2)
        most = 100 + 200 * (time.monotonic() - began)
        assert 100 <= counts(server, "resets") <= most
        assert counts(server, "dropped") + counts(server, "resets") == 3000
        time.sleep(0.1)
        assert said_to(sock, server, b"\x40" + noise.randbytes(50))  # it is answered again


def test_a_reset_is_heard_while_others_send_what_is_nobodys() -> None:
    """What comes from addresses that have no association takes nothing from those that have."""
    a, b = lone(keys=(KEY,)), lone(keys=(KEY,))
    port, noise = b.port, random.Random(3)
    there = a.connect(HOME, port)
    assert run(a, b, until=lambda: a.is_up(there))
    assert a.say(there, HELLO)
    assert run(a, b, until=lambda: bool(told(b, "up")))
    run(a, b, until=lambda: False, seconds=0.1)
    b.shut()
    b = Lone(make(QUIC, Settings(keys=(KEY,))), port)
    with outside(0x501) as sock:
        for n in range(2000):
            sock.sendto(b"\x40" + noise.randbytes(50), ("127.0.0.1", a.port + 1))
            if n % 64 == 63:
                a.turn()
        assert a.say(there, HELLO)
        assert run(a, b, until=lambda: bool(told(a, "down")), seconds=1)
    assert told(a, "down") == [("down", there, "replaced")]
    a.shut()
    b.shut()


def test_a_flood_of_handshakes_that_never_end(server: Lone) -> None:
    """From some number on each has to show that it hears, and what is held has a bound."""
    firsts = initials(300)
    socks = [outside(n + 2) for n in range(300)]
    heard = dict.fromkeys(range(300), 0)
    for n, (sock, first) in enumerate(zip(socks, firsts, strict=True)):
        sock.sendto(first, ("127.0.0.1", server.port + 1))
        if n % 8 == 0:
            server.turn()
    for _ in range(20):
        server.turn(0.005)
    assert counts(server, "strangers_now") <= 33
    assert counts(server, "retries") > 200
    assert counts(server, "held") < 16 * MIB
    works(server)
    run(server, until=lambda: counts(server, "associations") <= 1, seconds=6)
    for n, sock in enumerate(socks):
        sock.setblocking(False)
        while True:
            try:
                heard[n] += len(sock.recv(2000))
            except BlockingIOError:
                break
        sock.close()
    assert max(heard.values()) <= 3 * 1200
    assert counts(server, "associations") <= 1  # the one of works(), whose end it was not told
    assert not [one for one in server.heard if one[0] == "down" and one[2] == "protocol"]


def test_one_source_has_few_of_them(server: Lone) -> None:
    firsts = initials(60)
    with outside(7) as sock:
        for n, first in enumerate(firsts):
            sock.sendto(first, ("127.0.0.1", server.port + 1))
            if n % 8 == 0:
                server.turn()
        for _ in range(20):
            server.turn(0.005)
        assert counts(server, "associations") <= 4
        assert counts(server, "retries") >= 50
    works(server)


def test_the_same_initial_again_makes_nothing_more(server: Lone) -> None:
    (first,) = initials(1)
    with outside() as sock:
        for _ in range(50):
            said_to(sock, server, first) if _ == 0 else sock.sendto(first, ("127.0.0.1", server.port + 1))
        for _ in range(10):
            server.turn(0.005)
    assert counts(server, "accepted") == 1
    works(server)


def test_a_token_of_another_address_is_worth_nothing(server: Lone) -> None:
    firsts = initials(6)
    with outside(9) as sock, outside(10) as thief:
        retry = b""
        for first in firsts:
            retry = said_to(sock, server, first) or retry
        assert counts(server, "retries") >= 1
        assert (retry[0] & 0xF0) == 0xF0  # a Retry is the last that has been said
        at = 5
        dcid_n = retry[at]
        at += 1 + dcid_n
        scid_n = retry[at]
        scid = retry[at + 1 : at + 1 + scid_n]
        token = retry[at + 1 + scid_n : -16]
        packet = b"\xc3" + struct.pack("!I", 1) + bytes([scid_n]) + scid + b"\x08" + b"s" * 8
        packet += struct.pack("!H", 0x4000 | len(token)) + token + struct.pack("!H", 0x4000 | 1000)
        before = counts(server, "accepted"), counts(server, "dropped")
        assert said_to(thief, server, packet + bytes(1400 - len(packet))) == b""
        assert (counts(server, "accepted"), counts(server, "dropped")) == (before[0], before[1] + 1)


class From:
    """A client that the server sees at an address of its own, by a relay."""

    def __init__(self, server: Lone, number: int) -> None:
        self.inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.inner.bind(("127.0.0.1", 0))
        self.outer = outside(number)
        self.outer.connect(("127.0.0.1", server.port + 1))
        for sock in (self.inner, self.outer):
            sock.setblocking(False)
        self.client, self.back = lone(), ("", 0)
        self.there = self.client.connect(HOME, self.inner.getsockname()[1] - 1)

    def turn(self, seconds: float = 0.0) -> None:
        self.client.turn(seconds)
        with contextlib.suppress(BlockingIOError):
            while True:
                text, self.back = self.inner.recvfrom(2000)
                self.outer.send(text)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.inner.sendto(self.outer.recv(2000), self.back)

    def comes(self, server: Lone, seconds: float) -> bool:
        """Whether it gets in, and has said HELLO."""
        before = len(told(server, "up"))
        if not run(self, server, until=lambda: self.client.is_up(self.there), seconds=seconds):
            return False
        assert self.client.say(self.there, HELLO)
        return run(self, server, until=lambda: len(told(server, "up")) > before)

    def close(self) -> None:
        self.client.shut()
        self.inner.close()
        self.outer.close()


def test_where_no_memory_is_left_the_one_unused_for_longest_makes_room() -> None:
    """For who shows that it hears us, and is at an address that has nothing: others have their share."""
    server = lone(budget=1 << 20)
    some: list[From] = []
    while counts(server, "evicted") == 0:
        assert len(some) < 20
        some.append(From(server, 0x301 + len(some)))
        assert some[-1].comes(server, 8.0)
    ups = [one[1] for one in told(server, "up")]
    assert {one[1:] for one in told(server, "down")} == {(up, "closed") for up in ups[:2]}
    assert run(some[0], server, until=lambda: bool(told(some[0].client, "down")))  # it was told
    while counts(server, "held") < MIB * 3 // 4:
        some.append(From(server, 0x301 + len(some)))
        assert some[-1].comes(server, 8.0)
    before, retries = counts(server, "evicted"), counts(server, "retries")
    with outside(0x401) as sock:  # who does not hear what it is asked
        for one in initials(20):
            sock.sendto(one, ("127.0.0.1", server.port + 1))
            server.turn(0.001)
    assert counts(server, "retries") > retries
    assert counts(server, "evicted") == before
    for client in some:
        client.close()
    server.shut()


# ---- what a peer sends on streams --------------------------------------------------------------------


def frame(message: bytes) -> bytes:
    return struct.pack("!I", len(message)) + message


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 19, 20, 21, 1000, 100000])
def test_frames_are_found_however_they_are_cut(cut: int) -> None:
    payload = random.Random(cut).randbytes(3000)
    text = frame(data(100, payload, 3)) + frame(data(9, b"", 1)) + frame(data(5000, b"x" * 50))
    found = [decode(one) for one in feed(False, [text[i : i + cut] for i in range(0, len(text), cut)])]
    first = [m for m in found if 100 <= m["position"] < 3100]
    assert b"".join(m["data"] for m in first) == payload
    at = 100
    for m in first:
        assert m["position"] == at
        at += len(m["data"])
        assert bool(m["flags"] & 3) == (at == 3100)
    assert [(m["position"], m["data"], m["flags"]) for m in found if m["position"] == 9] == [(9, b"", 1)]
    assert b"".join(m["data"] for m in found if m["position"] >= 5000) == b"x" * 50
    words = frame(HELLO) + frame(encode("ping", token=3))
    found = [decode(one) for one in feed(True, [words[i : i + cut] for i in range(0, len(words), cut)])]
    assert [m["kind"] for m in found] == ["hello", "ping"]


@pytest.mark.parametrize(
    ("control", "nonsense"),
    [
        (True, struct.pack("!I", 0)),
        (True, struct.pack("!I", 15) + bytes(15)),
        (True, struct.pack("!I", 97) + bytes(97)),
        (True, b"GET / HTTP/1.1\r\n\r\n"),
        (True, frame(data(1, b"x"))),
        (False, frame(HELLO)),
        (False, frame(encode("ping"))),
        (False, struct.pack("!I", 15) + data(1, b"")[:15] + bytes(9)),
        (False, struct.pack("!I", 0xFFFFFFFF) + data(1, b"")),
        (False, struct.pack("!I", 16 + 65536) + data(1, b"")),
    ],
)
def test_nonsense_on_a_stream_ends_the_connection(control: bool, nonsense: bytes) -> None:
    with pytest.raises(BrokenError):
        feed(control, [nonsense])
