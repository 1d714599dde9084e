"""Bare transports: their datagrams, spoken by hand (docs/transports.md), and a path that loses some."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hooker.errors import ConfigurationError
from hooker.flow.messages import decode, encode
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make

UDP, UDPLITE, IP = 5, 6, 8
HOME = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
TOKEN = 0x1122334455667788
HELLO = encode("hello", epoch=1, position=65535, token=7, own_token=8)
ASK, COOKIE, WELCOME, UNKNOWN = 1, 2, 3, 4
REACH, REACHED, END = 0x70, 0x71, 0x72
SHAKE = struct.Struct("!Q4sB3xQQI4xQ")
BASE = 1280 - 28  # bytes of a datagram that each path has to carry
MAGIC = b"HkB\x01"


def shake(
    kind: int, token: int, instance: int = 5, time_: int = 0, cookie: int = 0, magic: bytes = MAGIC
) -> bytes:
    """What makes an association is as large as what each path has to carry."""
    return SHAKE.pack(0, magic, kind, token, instance, time_, cookie).ljust(BASE if cookie else 0, b"\0")


def told(who: Lone, kind: str) -> list[Any]:
    return [one for one in who.heard if one[0] == kind]


def data(position: int, payload: bytes) -> bytes:
    return encode("data", epoch=1, position=position, token=TOKEN, data=payload)


def payloads(who: Lone) -> dict[int, bytes]:
    found = [decode(one[2]) for one in told(who, "message")]
    return {m["position"]: m["data"] for m in found if m["kind"] == "data"}


class Hand:
    """A peer's socket."""

    def __init__(self, who: Lone, source: str = "127.0.0.1") -> None:
        self.who = who
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((source, 0))
        self.sock.connect(("127.0.0.1", who.port))
        self.token = random.getrandbits(64) | 1
        self.theirs = 0

    def ask(self, datagram: bytes) -> list[bytes]:
        """What comes back at once."""
        self.sock.send(datagram)
        return self.answers()

    def answers(self, rounds: int = 2) -> list[bytes]:
        for _ in range(rounds):
            self.who.turn()
        found = []
        with contextlib.suppress(OSError):
            while True:
                found.append(self.sock.recv(65536, socket.MSG_DONTWAIT))
        return found

    def cookie(self, instance: int = 5) -> tuple[int, int]:
        (answer,) = self.ask(shake(ASK, self.token, instance))
        _, magic, kind, token, _, when, cookie = SHAKE.unpack(answer)
        assert (magic, kind, token) == (MAGIC, COOKIE, self.token)
        return when, cookie

    def begin(self, instance: int = 5) -> list[bytes]:
        """An association, if it is given one."""
        got = self.ask(shake(ASK, self.token, instance, *self.cookie(instance)))
        for one in got:
            if one[12:13] == bytes([WELCOME]) and one[:8] == bytes(8):
                self.theirs = SHAKE.unpack_from(one)[6]
        return got

    def say(self, *messages: bytes) -> list[bytes]:
        return self.ask(struct.pack("!Q", self.theirs) + b"".join(messages))


@pytest.fixture
def udp() -> Iterator[Lone]:
    made = Lone(make(UDP, Settings(dead_after=1.0)))
    yield made
    made.shut()


# ---- a stranger --------------------------------------------------------------------------------------


def test_nothing_is_kept_of_who_has_not_proven_that_it_hears_us(udp: Lone) -> None:
    hand = Hand(udp)
    question = shake(ASK, hand.token)
    (answer,) = hand.ask(question)
    assert len(answer) <= len(question)
    assert udp.counters()["udp.associations"] == 0
    assert not told(udp, "up")


def test_a_cookie_makes_one_association_however_often_it_comes(udp: Lone) -> None:
    hand = Hand(udp)
    when, cookie = hand.cookie()
    tokens = set()
    for _ in range(20):
        for one in hand.ask(shake(ASK, hand.token, 5, when, cookie)):
            if one[:8] == bytes(8):
                tokens.add(SHAKE.unpack_from(one)[6])
    assert len(tokens) == 1
    assert udp.counters()["udp.associations"] == len(told(udp, "up")) == 1


@pytest.mark.parametrize("wrong", ["cookie", "time", "token", "instance", "address"])
def test_a_cookie_is_good_for_what_it_was_given_for(udp: Lone, wrong: str) -> None:
    hand = Hand(udp)
    when, cookie = hand.cookie()
    token, instance = hand.token, 5
    if wrong == "cookie":
        cookie ^= 1
    elif wrong == "time":
        when -= 1
    elif wrong == "token":
        token ^= 1
    elif wrong == "instance":
        instance = 6
    else:
        hand = Hand(udp)
    (answer,) = hand.ask(shake(ASK, token, instance, when, cookie))
    assert SHAKE.unpack(answer)[2] == COOKIE
    assert udp.counters()["udp.associations"] == 0


@pytest.mark.soak
def test_an_old_cookie_is_none(udp: Lone) -> None:
    """One of nine seconds ago is made by the same key: only its time is too old."""
    hand = Hand(udp)
    when, cookie = hand.cookie()
    deadline = time.monotonic() + 12
    while time.monotonic() < deadline and (time.monotonic_ns() >> 30) - when <= 8:
        time.sleep(0.1)
    (answer,) = hand.ask(shake(ASK, hand.token, 5, when, cookie))
    assert SHAKE.unpack(answer)[2] == COOKIE


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"?",
        bytes(8),
        bytes(23),
        bytes(24),
        bytes(48),
        bytes(1472),
        shake(ASK, 1)[:47],
        shake(ASK, 1) + b"x",
        shake(ASK, 0),
        shake(ASK, 1, magic=b"HkB\x02"),
        shake(0, 1),
        shake(5, 1),
        shake(COOKIE, 1, cookie=1),
        shake(WELCOME, 1, cookie=1),
        shake(UNKNOWN, 1),
        shake(UNKNOWN, 1)[:24],
        struct.pack("!Q", 5) + bytes(15),
    ],
)
def test_nonsense_has_no_answer(udp: Lone, nonsense: bytes) -> None:
    assert Hand(udp).ask(nonsense) == []
    assert udp.counters()["udp.associations"] == 0


def test_a_token_that_nobody_has_chosen_is_answered_and_the_answer_is_not_larger(udp: Lone) -> None:
    hand = Hand(udp)
    (answer,) = hand.ask(struct.pack("!Q", 5) + bytes(16))
    assert answer == shake(UNKNOWN, 5)[:24]
    assert hand.ask(answer) == []


def test_answers_of_one_round_are_so_many(udp: Lone) -> None:
    hands = [Hand(udp) for _ in range(8)]
    for n in range(4000):
        hands[n % 8].sock.send(shake(ASK, n + 1) if n % 2 else struct.pack("!Q", n + 1) + bytes(40))
    for _ in range(300):
        udp.turn()
    counts = udp.counters()
    assert counts["udp.datagrams_sent"] <= 4000
    assert counts["udp.associations"] == 0


def test_one_source_has_so_many_associations_and_others_have_theirs(udp: Lone) -> None:
    hands = [Hand(udp, "127.0.2.1") for _ in range(80)]
    for hand in hands:
        hand.begin()
    assert udp.counters()["udp.associations"] == 64
    assert udp.counters()["udp.refused"] == 16
    other = Hand(udp, "127.0.2.2")
    other.begin()
    assert other.theirs


def test_associations_of_many_sources_have_a_bound_and_unused_ones_make_room() -> None:
    udp = Lone(make(UDP, Settings(dead_after=60.0)))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    hands = [Hand(udp, f"127.0.3.{1 + n // 64}") for n in range(25 * 64)]
    try:
        for hand in hands:
            hand.begin()
        counts = udp.counters()
        assert 1400 < counts["udp.associations"] <= 1536
        assert counts["udp.evicted"] > 0
        last = Hand(udp, "127.0.4.1")
        last.begin()
        assert last.theirs
    finally:
        udp.shut()
        for hand in hands:
            hand.sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_random_datagrams_do_no_harm(udp: Lone) -> None:
    hand = Hand(udp)
    hand.begin()
    some = random.Random(1)
    for _ in range(3000):
        kind = some.choice([b"", some.choice([b"\x10", b"\x14", b"\x15", b"\x01", b"\x70", b"\x71"])])
        junk = kind + some.randbytes(some.randrange(200))
        hand.sock.send(some.choice([struct.pack("!Q", hand.theirs), bytes(8) + MAGIC, b""]) + junk)
        udp.turn()
    hand.answers(300)
    other = Hand(udp)
    other.begin()
    other.say(data(77, b"still here"))
    assert payloads(udp)[77] == b"still here"


# ---- an association ----------------------------------------------------------------------------------


def test_who_speaks_for_a_peer_needs_its_token_and_its_address(udp: Lone) -> None:
    peer, other = Hand(udp), Hand(udp)
    peer.begin()
    other.theirs = peer.theirs
    other.say(data(1, b"from elsewhere"), struct.pack("!BBHI", END, 0, 0, 0))
    peer.theirs ^= 1
    peer.say(data(2, b"wrong token"))
    peer.theirs ^= 1
    peer.say(data(3, b"right"))
    assert payloads(udp) == {3: b"right"}
    assert udp.counters()["udp.elsewhere"] == 1
    assert not told(udp, "down")


def too_large(port: int, quoted: bytes) -> bytes:
    """ICMP "fragmentation needed" (RFC 1191) of a host between, which has seen a datagram from that port."""
    size = 8 + 1200
    udp = struct.pack("!HHHH", port, 9999, size, 0) + quoted
    home = socket.inet_aton("127.0.0.1")
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + size, 1, 0x4000, 64, socket.IPPROTO_UDP, 0, home, home
    )
    message = struct.pack("!BBHHH", 3, 4, 0, 0, 500) + header + udp
    return message[:2] + struct.pack("!H", checksum(message)) + message[4:]


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    return ~(total + (total >> 16)) & 0xFFFF


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a raw socket")
@pytest.mark.parametrize("quoted", [b"", b"\1" * 24], ids=["nothing", "no token"])
def test_who_says_that_the_path_is_narrow_must_have_seen_a_datagram(udp: Lone, quoted: bytes) -> None:
    """Nothing quoted is not what our own link says."""
    peer = Hand(udp)
    peer.begin()
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.sendto(too_large(udp.port, quoted), ("127.0.0.1", 0))
    peer.answers(5)
    assert udp.counters()["udp.unproven_errors"] == 1
    assert not told(udp, "down")


def test_the_answer_to_a_stray_datagram_is_believed_with_the_right_token_only(udp: Lone) -> None:
    peer, other = Hand(udp), Hand(udp)
    peer.begin()
    other.ask(shake(UNKNOWN, peer.token)[:24])
    peer.ask(shake(UNKNOWN, peer.token ^ 1)[:24])
    assert not told(udp, "down")
    peer.ask(shake(UNKNOWN, peer.token)[:24])
    assert [one[2] for one in told(udp, "down")] == ["replaced"]


def test_another_instance_at_the_same_address_ends_what_was_before(udp: Lone) -> None:
    peer = Hand(udp)
    peer.begin(instance=5)
    peer.token += 2
    peer.begin(instance=6)
    assert [one[2] for one in told(udp, "down")] == ["replaced"]
    assert len(told(udp, "up")) == 2
    assert udp.counters()["udp.associations"] == 1


def test_a_bad_message_is_counted_and_what_is_before_it_taken(udp: Lone) -> None:
    peer = Hand(udp)
    peer.begin()
    for bad in (b"\x7f" + bytes(20), encode("acked")[:-1], encode("open")[:20], b"\x15\0\0\xff" + bytes(60)):
        peer.say(encode("leave", token=TOKEN), bad)
    assert len([m for m in told(udp, "message") if decode(m[2])["kind"] == "leave"]) == 4
    assert udp.counters()["bad_messages"] == 4


def test_many_questions_have_few_answers(udp: Lone) -> None:
    peer = Hand(udp)
    peer.begin()
    answers = peer.say(*(struct.pack("!BBHI", REACH, 0, 0, n) for n in range(150)))
    assert sum(one.count(bytes([REACHED, 0])) for one in answers) <= 5
    assert sum(map(len, answers)) < 400


def test_a_quiet_peer_is_asked_and_one_that_does_not_answer_is_down(udp: Lone) -> None:
    peer = Hand(udp)
    peer.begin()
    udp.hold(told(udp, "up")[0][1])
    began = time.monotonic()
    asked = 0
    while not told(udp, "down") and time.monotonic() < began + 6:
        udp.turn(0.01)
        asked += len(peer.answers(0))
    assert [one[2] for one in told(udp, "down")] == ["silent"]
    assert 0.9 < time.monotonic() - began < 4
    assert asked < 40


# ---- a path ------------------------------------------------------------------------------------------


class Path:
    """Between two of them, which know each other by its address; it loses what `loses` says."""

    def __init__(self, number: int = UDP, **settings: Any) -> None:
        self.a, self.b = (Lone(make(number, Settings(**settings))) for _ in range(2))
        self.left, self.right = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for one in (self.left, self.right):
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        self.loses: Callable[[bytes, bool], bool] = lambda datagram, back: False
        self.lost = 0
        self.there = self.a.connect(HOME, self.left.getsockname()[1])

    def carry(self) -> None:
        for source, sink, end, back in (
            (self.left, self.right, self.b, False),
            (self.right, self.left, self.a, True),
        ):
            while True:
                try:
                    datagram = source.recv(65536)
                except BlockingIOError:
                    break
                if self.loses(datagram, back):
                    self.lost += 1
                else:
                    sink.sendto(datagram, ("127.0.0.1", end.port))

    def turn(self) -> None:
        self.a.turn(0.001)
        self.carry()
        self.b.turn(0.001)
        self.carry()

    def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, (self.a.heard[-5:], self.b.heard[-5:], self.a.counters())
            self.turn()

    def greet(self) -> None:
        """As engines do."""
        self.until(lambda: self.a.is_up(self.there) and bool(told(self.b, "up")))
        self.here = told(self.b, "up")[-1][1]
        assert self.a.say(self.there, HELLO)
        assert self.b.say(self.here, HELLO)

    def greeted(self) -> bool:
        return all(
            any(decode(m[2])["kind"] == "hello" for m in told(end, "message")) for end in (self.a, self.b)
        )

    def shut(self) -> None:
        for one in (self.a, self.b):
            one.shut()
        for sock in (self.left, self.right):
            sock.close()


@pytest.fixture
def path() -> Iterator[Path]:
    made = Path()
    yield made
    made.shut()


@pytest.mark.parametrize("seed", range(3))
def test_a_handshake_gets_through_where_a_third_of_all_is_lost(path: Path, seed: int) -> None:
    """What only the transport knows of is repeated; what comes to nothing begins again, by the engine."""
    some = random.Random(seed)
    path.loses = lambda datagram, back: some.random() < 0.33

    def up() -> bool:
        if not path.a.is_up(path.there):
            path.there = path.a.connect(HOME, path.left.getsockname()[1])
        return path.a.is_up(path.there) and bool(told(path.b, "up"))

    path.until(up, 20)
    path.greet()
    path.until(path.greeted, 20)
    assert path.lost


def test_what_is_lost_is_not_sent_again(path: Path) -> None:
    path.greet()
    path.until(path.greeted)
    channel = path.a.channel(path.there)
    path.loses = lambda datagram, back: b"lost" in datagram
    loans = [path.a.send(channel, data(n, b"lost" if n % 3 == 0 else b"good")) for n in range(1, 31)]
    path.until(lambda: len(payloads(path.b)) >= 20 and path.a.waiting(channel)[2] == 0)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        path.turn()
    assert sorted(payloads(path.b)) == [n for n in range(1, 31) if n % 3]
    assert [path.a.lent[loan][1] for loan in loans] == [0] * 30
    assert path.lost == 10


def test_a_segment_of_ethernets_size_is_one_datagram(path: Path) -> None:
    path.greet()
    path.until(lambda: path.a.stats(path.there)["datagram"] == 1472)
    channel = path.a.channel(path.there)
    sizes: list[int] = []
    path.loses = lambda datagram, back: not back and bool(sizes.append(len(datagram)))
    assert path.a.send(channel, data(1, bytes(5 * 1448)))
    path.until(lambda: len(payloads(path.b)) == 5)
    assert [size for size in sizes if size > 500] == [8 + 16 + 1448] * 5


@pytest.mark.parametrize(
    ("segment", "cut"),
    [
        (1436, [1436] * 5 + [500]),
        (600, [1200] * 6 + [480]),
        (1448, [1448] * 5 + [440]),
        (1460, [1448, 12] * 4 + [1448, 452]),
        (3000, [1448, 1448, 104, 1448, 1448, 111]),
        (0, [1448] * 5 + [440]),
    ],
)
def test_datagrams_end_where_segments_do(path: Path, segment: int, cut: list[int]) -> None:
    """Else the TCP that sent them could not match what SACK says; larger ones have datagrams of their own."""
    path.greet()
    path.until(lambda: path.a.stats(path.there)["datagram"] == 1472)
    channel = path.a.channel(path.there)
    assert path.a.send(channel, data(1, bytes(sum(cut))), segment)
    path.until(lambda: sum(map(len, payloads(path.b).values())) == sum(cut))
    assert [len(payload) for _, payload in sorted(payloads(path.b).items())] == cut


def test_what_the_path_does_not_carry_is_not_sent(path: Path) -> None:
    path.loses = lambda datagram, back: len(datagram) > 1300
    path.greet()
    path.until(path.greeted)
    channel = path.a.channel(path.there)
    payload = random.Random(1).randbytes(20_000)
    assert path.a.send(channel, data(0, payload))
    path.until(lambda: sum(map(len, payloads(path.b).values())) == 20_000)
    got = payloads(path.b)
    assert b"".join(got[at] for at in sorted(got)) == payload
    assert path.a.stats(path.there)["datagram"] == 1252


def test_a_size_that_the_path_no_longer_carries_is_given_up(path: Path) -> None:
    path.greet()
    path.until(lambda: path.a.stats(path.there)["datagram"] == 1472)
    path.loses = lambda datagram, back: len(datagram) > 1300
    channel = path.a.channel(path.there)
    began = time.monotonic()

    def smaller() -> bool:
        if path.a.waiting(channel)[2] == 0:
            path.a.send(channel, data(1, bytes(1448)))
        time.sleep(0.01)
        return path.a.stats(path.there)["datagram"] == 1252

    path.until(smaller, 12)
    assert time.monotonic() - began > 1
    assert path.a.stats(path.there)["mtu_holes"] == 1
    assert path.a.send(channel, data(5000, bytes(1448)))
    path.until(lambda: 5000 in payloads(path.b))


def test_nothing_begins_where_the_path_does_not_carry_what_each_has_to(path: Path) -> None:
    path.loses = lambda datagram, back: len(datagram) > 1100
    path.until(lambda: bool(told(path.a, "down")), 6)
    assert [one[2] for one in told(path.a, "down")] == ["unreachable"]
    assert not told(path.b, "up")


@pytest.mark.parametrize("one_way", [True, False])
def test_it_ends_where_the_path_no_longer_carries_what_each_has_to(path: Path, one_way: bool) -> None:
    """Also while small datagrams pass, both ways."""
    path.greet()
    path.until(lambda: path.a.stats(path.there)["datagram"] == 1472)
    path.loses = lambda datagram, back: len(datagram) > 1100 and not (back and one_way)
    channel = path.a.channel(path.there)

    def ended() -> bool:
        if not told(path.a, "down") and path.a.waiting(channel)[2] == 0:
            path.a.send(channel, data(1, bytes(1448)))
            path.a.send(channel, data(2, b"small"))
        time.sleep(0.01)
        return bool(told(path.a, "down") and told(path.b, "down"))

    path.until(ended, 12)
    assert [one[2] for one in told(path.a, "down")] == ["unreachable"]
    assert [one[2] for one in told(path.b, "down")] == ["closed"]


def test_an_outage_is_none_of_these() -> None:
    path = Path(dead_after=30.0)
    path.greet()
    path.until(lambda: path.a.stats(path.there)["datagram"] == 1472)
    channel = path.a.channel(path.there)
    path.loses = lambda datagram, back: True
    end = time.monotonic() + 4
    while time.monotonic() < end:
        if path.a.waiting(channel)[2] == 0:
            path.a.send(channel, data(1, bytes(1448)))
        time.sleep(0.01)
        path.turn()
    path.loses = lambda datagram, back: False
    assert path.a.send(channel, data(5000, bytes(1448)))
    path.until(lambda: {5000} & set(payloads(path.b)) != set())
    path.until(lambda: path.a.stats(path.there)["datagram"] == 1472, 15)
    assert not told(path.a, "down")
    assert not told(path.b, "down")
    path.shut()


def test_a_peer_that_restarts_is_noticed_at_once() -> None:
    child = """
import sys
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make
lone = Lone(make(5, Settings()), int(sys.argv[1]))
print(lone.port, flush=True)
while True:
    lone.turn(0.1)
"""

    def start(port: int) -> tuple[subprocess.Popen[str], int]:
        proc = subprocess.Popen([sys.executable, "-c", child, str(port)], stdout=subprocess.PIPE, text=True)
        assert proc.stdout
        return proc, int(proc.stdout.readline())

    a = Lone(make(UDP, Settings()))
    proc, port = start(0)
    try:
        there = a.connect(HOME, port)
        end = time.monotonic() + 10
        while not a.is_up(there) and time.monotonic() < end:
            a.turn(0.01)
        channel = a.channel(there)
        proc.kill()
        proc.wait()
        proc.stdout.close() if proc.stdout else None
        proc, port = start(port)
        assert a.send(channel, data(1, b"x"))
        end = time.monotonic() + 2
        while not told(a, "down") and time.monotonic() < end:
            a.turn(0.01)
        assert told(a, "down") == [("down", there, "replaced")]
    finally:
        proc.kill()
        proc.wait()
        proc.stdout.close() if proc.stdout else None
        a.shut()


# ---- what it does not go with ------------------------------------------------------------------------


@pytest.mark.parametrize("number", [UDP, UDPLITE, IP])
def test_without_a_key_and_with_tcps_that_repeat_only(number: int) -> None:
    with pytest.raises(ConfigurationError, match="does not encrypt"):
        make(number, Settings(keys=(bytes(32),)))
    with pytest.raises(ConfigurationError, match="repairs nothing"):
        make(number, Settings(unrepaired=False))


def test_how_far_udplites_checksum_reaches_can_be_said() -> None:
    assert make(UDPLITE, Settings(parameters={UDPLITE: {"coverage": 40}})).name == "udplite"
