"""What every transport gives (docs/transports.md, 1), each over loopback and without an engine."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import resource
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hooker.errors import ConfigurationError
from hooker.flow.messages import decode, encode
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make

IDS = {"vtl": 1, "vtl+udplite": 2, "udp": 5, "udplite": 6, "mptcp": 11, "tcp": 12}
STREAMS = ["mptcp", "tcp"]
UNENCRYPTED = ["udp", "udplite", *STREAMS]
HOME = bytes(10) + b"\xff\xff\x7f\x00\x00\x01"
TOKEN = 0x1122334455667788
HELLO = encode("hello", epoch=1, position=65535, token=7, own_token=8)


def has_mptcp() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP).close()
    except OSError:
        return False
    return True


def lone(name: str, **settings: Any) -> Lone:
    if name == "mptcp" and not has_mptcp():
        pytest.skip("this kernel has no MPTCP")
    return Lone(make(IDS[name], Settings(**settings)))


class Pair:
    """Two of them, and one association that `a` has begun."""

    def __init__(self, name: str, **settings: Any) -> None:
        self.a, self.b = lone(name, **settings), lone(name, **settings)
        self.there = self.a.connect(HOME, self.b.port)
        self.until(lambda: self.a.is_up(self.there))
        assert self.a.say(self.there, HELLO)
        self.until(lambda: bool(told(self.b, "message")))
        self.here = int(told(self.b, "up")[0][1])

    def turn(self) -> None:
        self.a.turn(0.001)
        self.b.turn(0.001)

    def until(self, done: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, (self.a.heard[-5:], self.b.heard[-5:])
            self.turn()

    def rest(self, seconds: float = 0.1) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()


def told(who: Lone, kind: str) -> list[Any]:
    return [one for one in who.heard if one[0] == kind]


def messages(who: Lone, kind: str) -> list[dict[str, Any]]:
    found = [decode(one[2]) for one in told(who, "message")]
    return [m for m in found if m["kind"] == kind]


def data(position: int, payload: bytes, flags: int = 0) -> bytes:
    return encode("data", epoch=1, flags=flags, position=position, token=TOKEN, data=payload)


@pytest.fixture(params=list(IDS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(name: str) -> Iterator[Pair]:
    made = Pair(name)
    yield made
    made.a.shut()
    made.b.shut()


# ---- messages ----------------------------------------------------------------------------------------


def test_control_messages_arrive_whole_in_both_directions(pair: Pair) -> None:
    words = [encode("open", epoch=1, token=5, own_token=n) for n in range(1, 9)]
    for word in words:
        assert pair.a.say(pair.there, word)
        assert pair.b.say(pair.here, word)
    pair.until(lambda: len(messages(pair.a, "open")) >= 8 and len(messages(pair.b, "open")) >= 8)
    for end in (pair.a, pair.b):
        assert {m["own_token"] for m in messages(end, "open")} == set(range(1, 9))


@pytest.mark.parametrize("size", [0, 1, 1000, 32768, 32769, 64000])
def test_data_arrives_whole_with_its_flags_at_the_end(pair: Pair, size: int) -> None:
    payload = random.Random(size).randbytes(size)
    channel = pair.a.channel(pair.there)
    assert pair.a.send(channel, data(100, payload, flags=0x03))
    got: dict[int, tuple[bytes, int]] = {}

    def here() -> bool:
        got.update({m["position"] - 100: (m["data"], m["flags"]) for m in messages(pair.b, "data")})
        return any(flags & 1 for _, flags in got.values()) and sum(len(d) for d, _ in got.values()) >= size

    pair.until(here)
    assert b"".join(got[at][0] for at in sorted(got)) == payload
    assert [at + len(d) for at, (d, flags) in got.items() if flags & 3] == [size]


def test_every_loan_is_released_once_and_as_a_whole(pair: Pair) -> None:
    channel = pair.a.channel(pair.there)
    loans = [pair.a.send(channel, data(1 + 5000 * n, bytes(5000))) for n in range(200)]
    assert all(loans)
    pair.until(lambda: len(messages(pair.b, "data")) >= 200 and pair.a.waiting(channel)[2] == 0)
    pair.rest()
    assert [pair.a.lent[loan][1] for loan in loans] == [0] * 200
    assert pair.a.at_rest(channel)
    assert pair.a.newest(channel) is None


def test_a_closed_channel_gives_its_bytes_back_and_says_what_it_had_to(pair: Pair) -> None:
    channel = pair.a.channel(pair.there)
    loans = [pair.a.send(channel, data(1 + 60000 * n, bytes(60000))) for n in range(50)]
    assert pair.a.send(channel, encode("leave", epoch=1, token=TOKEN))
    pair.a.channel_close(channel)
    pair.until(lambda: bool(messages(pair.b, "leave")))
    pair.until(lambda: all(pair.a.lent[loan][1] == 0 for loan in loans))


def test_a_report_is_composed_when_it_leaves(pair: Pair) -> None:
    channel = pair.a.channel(pair.there)
    for edge in (100, 200):
        pair.a.reports[channel] = encode("acked", epoch=1, token=TOKEN, position=1, edge=edge, serial=edge)
        pair.a.report(channel)
    pair.until(lambda: bool(messages(pair.b, "acked")))
    pair.rest()
    assert {m["edge"] for m in messages(pair.b, "acked")} == {200}


def test_channels_take_turns_and_control_overtakes_data(pair: Pair) -> None:
    first, second = pair.a.channel(pair.there), pair.a.channel(pair.there)
    for n in range(100):
        assert pair.a.send(first, data(1 + 60000 * n, bytes(60000)))
    assert pair.a.send(second, data(0x10000000, b"short"))
    assert pair.a.send(second, encode("ping", epoch=1, token=TOKEN))
    pair.until(
        lambda: (
            bool(messages(pair.b, "ping")) and any(m["data"] == b"short" for m in messages(pair.b, "data"))
        )
    )
    arrived = sum(len(m["data"]) for m in messages(pair.b, "data"))
    assert arrived < 100 * 60000


def test_a_full_channel_refuses_and_is_writable_again(pair: Pair) -> None:
    channel = pair.a.channel(pair.there)
    loans = []
    for n in range(1000):
        loan = pair.a.send(channel, data(1 + 60000 * n, bytes(60000)))
        if not loan:
            break
        loans.append(loan)
    assert 60 < len(loans) < 1000
    waiting, of_all, unacked = pair.a.waiting(channel)
    assert waiting == of_all == unacked == 60000 * len(loans)
    assert pair.a.newest(channel) == (1 + 60000 * (len(loans) - 1), 60000)
    assert pair.a.send(channel, encode("ping", epoch=1, token=TOKEN))
    pair.until(lambda: pair.a.waiting(channel)[2] < unacked // 2, 30)
    assert pair.a.send(channel, data(1, b"more"))


def test_what_is_held_for_a_peer_counts_for_its_source(pair: Pair) -> None:
    assert pair.a.patience(pair.there) >= 0
    assert pair.a.stats(pair.there)["up"] == 1
    assert pair.a.counters()["bad_messages"] == 0


# ---- the end -----------------------------------------------------------------------------------------


def test_a_closed_association_is_down_on_both_sides_once(pair: Pair) -> None:
    channel = pair.a.channel(pair.there)
    assert pair.a.say(pair.there, encode("leave", epoch=1, token=TOKEN))
    pair.turn()
    pair.a.close(pair.there)
    pair.until(lambda: bool(told(pair.a, "down")) and bool(told(pair.b, "down")))
    pair.rest()
    assert told(pair.a, "down") == [("down", pair.there, "closed")]
    assert told(pair.b, "down") == [("down", pair.here, "closed")]
    assert told(pair.a, "channel_down") == [("channel_down", channel)]
    assert messages(pair.b, "leave")
    assert not pair.a.send(channel, data(1, b"x"))
    assert pair.a.channel_close(channel) is None


def test_loans_come_back_when_an_association_ends(pair: Pair) -> None:
    channel = pair.a.channel(pair.there)
    loans = [pair.a.send(channel, data(1 + 60000 * n, bytes(60000))) for n in range(100)]
    pair.a.turn()
    pair.a.close(pair.there)
    pair.until(lambda: bool(told(pair.a, "down")))
    pair.rest()
    assert [pair.a.lent[loan][1] for loan in loans] == [0] * 100


def test_nobody_there(name: str) -> None:
    a = lone(name)
    probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM if name in STREAMS else socket.SOCK_DGRAM)
    probe.bind(("127.0.0.1", 0))  # not listening
    port = probe.getsockname()[1]
    if name not in STREAMS:
        probe.close()
    there = a.connect(HOME, port)
    end = time.monotonic() + 6
    while not told(a, "down") and time.monotonic() < end:
        a.turn(0.01)
    assert told(a, "down") == [("down", there, "unreachable")]
    assert not told(a, "up")
    a.shut()


CHILD = """
import sys
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make
lone = Lone(make(int(sys.argv[1]), Settings(dead_after=1.0)))
print(lone.port, flush=True)
while True:
    lone.turn(0.1)
"""


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_peer_that_vanishes_is_noticed(name: str, how: str) -> None:
    """Killed, its kernel says so, or nobody does; stopped, its kernel goes on to acknowledge."""
    a = lone(name, dead_after=1.0)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(IDS[name])], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout
        there = a.connect(HOME, int(child.stdout.readline()))
        end = time.monotonic() + 20
        while not a.is_up(there):
            assert time.monotonic() < end
            a.turn(0.01)
        assert a.say(there, HELLO)
        channel = a.channel(there)
        for _ in range(20):
            a.turn(0.01)
        child.send_signal(9 if how == "killed" else 19)
        a.send(channel, data(1, bytes(1000)))
        end = time.monotonic() + 10
        while not told(a, "down"):
            assert time.monotonic() < end
            a.turn(0.01)
        assert told(a, "channel_down") == [("channel_down", channel)]
        assert told(a, "down")[0][2] in ("closed", "silent", "unreachable")
    finally:
        child.kill()
        child.wait()
        child.stdout.close() if child.stdout else None
        a.shut()


def test_one_that_was_never_opened_is_freed(name: str) -> None:
    if name == "mptcp" and not has_mptcp():
        pytest.skip("this kernel has no MPTCP")
    for _ in range(100):
        assert make(IDS[name], Settings()).name == name
    gc.collect()


def test_an_unknown_number_and_a_key_where_none_goes(name: str) -> None:
    with pytest.raises(ConfigurationError, match="number 99"):
        make(99, Settings())
    if name not in UNENCRYPTED:
        assert make(IDS[name], Settings(keys=(bytes(32),))).name == name
    else:
        with pytest.raises(ConfigurationError, match="does not encrypt"):
            make(IDS[name], Settings(keys=(bytes(32),)))


# ---- streams: who connects is an attacker ------------------------------------------------------------


class Stranger:
    """A socket that has connected to one, and what it does to it."""

    def __init__(self, who: Lone, source: int = 1) -> None:
        self.who = who
        self.sock = socket.create_connection(("127.0.0.1", who.port), 5, (f"127.0.1.{source}", 0))
        self.sock.settimeout(0.01)

    def send(self, text: bytes) -> None:
        self.sock.sendall(text)

    def is_out(self, seconds: float = 5.0) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.who.turn(0.01)
            try:
                if self.sock.recv(65536) == b"":
                    return True
            except TimeoutError:
                continue
            except OSError:
                return True
        return False


def frame(message: bytes) -> bytes:
    return struct.pack("!I", len(message)) + message


@pytest.fixture
def tcp() -> Iterator[Lone]:
    made = lone("tcp", dead_after=1.0)
    yield made
    made.shut()


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("!I", 0),
        struct.pack("!I", 15) + bytes(15),
        struct.pack("!I", 0xFFFFFFFF),
        struct.pack("!I", 65536 + 24),
        frame(encode("ping")),
        frame(b"\x7f" + bytes(15)),
        frame(HELLO) + struct.pack("!I", 1 << 31),
    ],
)
def test_nonsense_ends_the_connection_at_once(tcp: Lone, nonsense: bytes) -> None:
    stranger = Stranger(tcp)
    stranger.send(nonsense)
    assert stranger.is_out(2.0)
    known = nonsense.startswith(frame(HELLO))
    assert len(told(tcp, "up")) == known
    assert [one[2] for one in told(tcp, "down")] == ["protocol"] * known
    assert tcp.counters()["tcp.broken"] == 1


def test_random_bytes_do_no_harm(tcp: Lone) -> None:
    for seed in range(50):
        stranger = Stranger(tcp)
        noise = random.Random(seed).randbytes(3000)
        stranger.send((frame(HELLO) if seed % 2 else b"") + noise[: seed * 60])
        tcp.turn(0.01)
        stranger.sock.close()
        tcp.turn(0.01)
    pair_up(tcp)


def pair_up(tcp: Lone) -> None:
    """It works for others."""
    other = lone("tcp")
    there = other.connect(HOME, tcp.port)
    end = time.monotonic() + 5
    while not other.is_up(there) and time.monotonic() < end:
        other.turn(0.01)
    assert other.say(there, HELLO)
    before = len(told(tcp, "up"))
    while len(told(tcp, "up")) == before and time.monotonic() < end:
        other.turn(0.01)
        tcp.turn(0.01)
    assert len(told(tcp, "up")) == before + 1
    other.shut()


def test_a_trickle_is_put_together(tcp: Lone) -> None:
    stranger = Stranger(tcp)
    for byte in frame(HELLO) + frame(data(1, b"abc")):
        stranger.send(bytes([byte]))
        tcp.turn(0.001)
    end = time.monotonic() + 5
    while not messages(tcp, "data") and time.monotonic() < end:
        tcp.turn(0.01)
    assert [m["data"] for m in messages(tcp, "data")] == [b"abc"]
    assert tcp.counters()["tcp.held"] == 0
    stranger.sock.close()


def test_a_bad_message_in_a_good_frame_is_counted_and_dropped(tcp: Lone) -> None:
    stranger = Stranger(tcp)
    stranger.send(
        frame(HELLO) + frame(b"\x7f" + bytes(15)) + frame(encode("ping") + b"x") + frame(data(1, b"y"))
    )
    end = time.monotonic() + 5
    while not messages(tcp, "data") and time.monotonic() < end:
        tcp.turn(0.01)
    assert messages(tcp, "data")
    assert tcp.counters()["bad_messages"] == 2
    stranger.sock.close()


def test_a_stranger_that_says_nothing_is_let_go(tcp: Lone) -> None:
    stranger = Stranger(tcp)
    began = time.monotonic()
    assert stranger.is_out(6.0)
    assert 2.0 < time.monotonic() - began < 5.0
    assert tcp.counters()["tcp.associations"] == 0


def test_strangers_of_one_source_are_few(tcp: Lone) -> None:
    some = [Stranger(tcp) for _ in range(60)]
    for _ in range(20):
        tcp.turn(0.005)
    counts = tcp.counters()
    assert counts["tcp.associations"] <= 16
    assert counts["tcp.refused"] >= 40
    for one in some:
        one.sock.close()


def test_half_frames_are_bounded_by_the_budget(tcp: Lone) -> None:
    """Each connection may have one frame that is not whole, and no more of it than has come."""
    some = [Stranger(tcp) for _ in range(10)]
    for one in some:
        one.send(frame(HELLO) + struct.pack("!I", 65535) + bytes(1000))
    for _ in range(50):
        tcp.turn(0.005)
    counts = tcp.counters()
    assert counts["tcp.associations"] == 10
    assert counts["tcp.held"] == 10 * 1004
    for one in some:
        one.sock.close()
    for _ in range(50):
        tcp.turn(0.005)
    assert tcp.counters()["tcp.held"] == 0


def test_a_peer_that_asks_and_reads_nothing_costs_little(tcp: Lone) -> None:
    """Its answers wait for it; what is beyond is not said."""
    stranger = Stranger(tcp)
    stranger.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    stranger.send(frame(HELLO))
    asked = 0
    end = time.monotonic() + 2
    stranger.sock.setblocking(False)
    while time.monotonic() < end:
        try:
            asked += stranger.sock.send(frame(encode("ping")) * 1000) // 20
        except OSError:
            pass
        tcp.turn(0.001)
    counts = tcp.counters()
    assert asked > 10000
    assert counts["tcp.held"] < 256 * 256
    stranger.sock.close()


@contextlib.contextmanager
def descriptors(many: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(many, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_long_frame_by_single_bytes_costs_no_more_than_a_short_one(tcp: Lone) -> None:
    """What has come of it is not copied with each byte: that is about half of a turn's time more."""
    payload = random.Random(1).randbytes(65000)
    whole = frame(HELLO) + frame(data(1, payload))
    ends = {at: Stranger(tcp) for at in (1000, len(whole) - 3000)}
    for at, end in ends.items():
        end.send(whole[:at])
    for _ in range(20):
        tcp.turn(0.01)
    took: dict[int, list[int]] = {at: [] for at in ends}
    for n in range(2000):
        for at, end in ends.items():
            end.send(whole[at + n : at + n + 1])
            began = time.thread_time_ns()
            tcp.turn()
            took[at].append(time.thread_time_ns() - began)
    assert not messages(tcp, "data")
    for at, end in ends.items():
        end.send(whole[at + 2000 :])
    until = time.monotonic() + 5
    while len(messages(tcp, "data")) < 2 and time.monotonic() < until:
        tcp.turn(0.01)
    assert [m["data"] for m in messages(tcp, "data")] == [payload] * 2
    assert tcp.counters()["tcp.held"] == 0
    short, long = (statistics.median(took[at]) for at in ends)
    assert long < 1.25 * short, (short, long)
    for end in ends.values():
        end.sock.close()


def test_strangers_of_many_sources_make_room_for_each_other(tcp: Lone) -> None:
    some = []
    for n in range(400):
        some.append(Stranger(tcp, 1 + n // 15))
        tcp.turn()
    counts = tcp.counters()
    assert counts["tcp.associations"] <= 256
    assert counts["tcp.evicted"] >= 400 - 256
    pair_up(tcp)
    for one in some:
        one.sock.close()


def test_one_source_has_so_many_associations_and_others_have_theirs(tcp: Lone) -> None:
    some = []
    for _ in range(80):
        some.append(Stranger(tcp))
        with contextlib.suppress(OSError):
            some[-1].send(frame(HELLO))
        tcp.turn(0.005)
        tcp.turn(0.005)
    assert tcp.counters()["tcp.associations"] == 64
    assert tcp.counters()["tcp.refused"] == 16
    pair_up(tcp)
    for one in some:
        one.sock.close()


def test_a_smaller_budget_holds_less() -> None:
    half = frame(HELLO) + struct.pack("!I", 65535) + bytes(65000)
    tcp = lone("tcp", budget=1 << 20)
    with contextlib.ExitStack() as stack:
        stack.callback(tcp.shut)
        for n in range(64):
            one = Stranger(tcp, 2 + n // 8)
            stack.enter_context(one.sock)
            with contextlib.suppress(OSError):
                one.send(half)
            tcp.turn(0.001)
        for _ in range(30):
            tcp.turn(0.001)
        counts = tcp.counters()
        assert counts["tcp.over_budget"] > 0
        assert 0 < counts["tcp.held"] < 1 << 20


def test_half_frames_of_many_sources_leave_something_for_others(tcp: Lone) -> None:
    """1,088 connections want 70 MB."""
    half = frame(HELLO) + struct.pack("!I", 65535) + bytes(65000)
    with descriptors(4096), contextlib.ExitStack() as stack:
        for n in range(17 * 64):
            one = Stranger(tcp, 2 + n // 64)
            stack.enter_context(one.sock)
            with contextlib.suppress(OSError):
                one.send(half)
            tcp.turn(0.001)
        for _ in range(30):
            tcp.turn(0.001)
        counts = tcp.counters()
        assert counts["tcp.over_budget"] > 0
        assert 40 << 20 < counts["tcp.held"] < 64 << 20
        assert {one[2] for one in told(tcp, "down")} == {"memory"}
        stranger = Stranger(tcp)
        stranger.send(frame(HELLO) + frame(data(1, bytes(60000)))[:-1])
        for _ in range(20):
            tcp.turn(0.001)
        stranger.send(b"\0")
        end = time.monotonic() + 5
        while not messages(tcp, "data") and time.monotonic() < end:
            tcp.turn(0.01)
        assert messages(tcp, "data")
        stranger.sock.close()
    end = time.monotonic() + 5
    while tcp.counters()["tcp.held"] and time.monotonic() < end:
        tcp.turn(0.001)
    assert tcp.counters()["tcp.held"] == 0


def test_ten_thousand_connections_leave_nothing(tcp: Lone) -> None:
    before, rss = (
        len(list(Path("/proc/self/fd").iterdir())),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    )
    pending: list[Stranger] = []
    for n in range(10_000):
        pending.append(Stranger(tcp, 1 + n % 250))
        if n % 3 == 0:
            pending[-1].send(frame(HELLO)[: n % 40])
        tcp.turn()
        if len(pending) > 300:
            pending.pop(0).sock.close()
    assert tcp.counters()["tcp.associations"] <= 256 + 64
    pair_up(tcp)
    for one in pending:
        one.sock.close()
    end = time.monotonic() + 5
    while tcp.counters()["tcp.associations"] and time.monotonic() < end:
        tcp.turn(0.01)
    assert tcp.counters()["tcp.associations"] == 0
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rss < 20_000  # KB


def test_a_peer_that_never_reads_holds_up_nobody_else(tcp: Lone) -> None:
    stranger = Stranger(tcp)
    stranger.send(frame(HELLO))
    end = time.monotonic() + 5
    while not told(tcp, "up") and time.monotonic() < end:
        tcp.turn(0.01)
    channel = tcp.channel(told(tcp, "up")[0][1])
    taken = 0
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        taken += bool(tcp.send(channel, data(1, bytes(60000))))
        tcp.turn(0.001)
    assert 60 < taken < 1000
    said = sum(bool(tcp.send(channel, encode("leave", epoch=1, token=TOKEN))) for _ in range(100))
    assert said <= 32
    pair_up(tcp)
    tcp.channel_close(channel)
    stranger.sock.close()


def test_one_that_is_quiet_and_there_stays(tcp: Lone) -> None:
    """It is asked, and answers."""
    pair = Pair("tcp", dead_after=1.0)
    pair.a.channel(pair.there)
    pair.rest(3.5)
    assert not told(pair.a, "down")
    assert not told(pair.b, "down")
    pair.a.shut()
    pair.b.shut()


def test_where_nobody_answers_the_next_try_waits() -> None:
    a = lone("tcp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))  # and does not listen
        took = []
        for _ in range(5):
            began = time.monotonic()
            there = a.connect(HOME, probe.getsockname()[1])
            while ("down", there, "unreachable") not in a.heard:
                assert time.monotonic() < began + 5
                a.turn(0.01)
            took.append(time.monotonic() - began)
    assert took[0] < 0.09
    assert took[1] > 0.05
    assert took[4] > 0.5
    assert a.counters()["tcp.connects_failed"] == 5
    a.shut()


def test_no_descriptor_for_one_more(tcp: Lone) -> None:
    """It goes on, and listens again in a moment."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    clients = [socket.socket() for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(one.fileno() for one in clients) + 1, hard))
    try:
        full = []
        while True:
            try:
                full.append(os.dup(0))
            except OSError:
                break
        for one in clients:
            one.connect(("127.0.0.1", tcp.port))
        rounds = 0
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            tcp.turn(0.05)
            rounds += 1
        assert rounds < 50  # it does not spin
        for fd in full:
            os.close(fd)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    for one in clients:
        one.sendall(frame(HELLO))
    end = time.monotonic() + 3
    while len(told(tcp, "up")) < 3 and time.monotonic() < end:
        tcp.turn(0.05)
    assert len(told(tcp, "up")) == 3
    for one in clients:
        one.close()


def test_two_mptcp_ends_speak_mptcp() -> None:
    pair = Pair("mptcp")
    assert pair.a.stats(pair.there)["fallback"] == 0
    assert pair.a.counters()["mptcp.fallbacks"] == 0
    pair.a.shut()
    pair.b.shut()


def test_a_fallback_to_plain_tcp_is_counted() -> None:
    plain = lone("tcp")
    a = lone("mptcp")
    there = a.connect(HOME, plain.port)
    end = time.monotonic() + 5
    while not a.is_up(there) and time.monotonic() < end:
        a.turn(0.01)
    assert a.stats(there)["fallback"] == 1
    assert a.counters()["mptcp.fallbacks"] == 1
    a.shut()
    plain.shut()
