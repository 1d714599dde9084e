"""Transports over the kernel's byte streams: who connects is an attacker."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import statistics
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from lone_transport import HELLO, HOME, TOKEN, Pair, Stranger, data, lone, messages, pair_up, told, wait

from hooker.flow.messages import encode
from hooker.transports.face import Lone


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
    pair_up(tcp, "tcp")


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
    pair_up(tcp, "tcp")
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
    pair_up(tcp, "tcp")
    for one in some:
        one.sock.close()


def test_where_all_are_there_the_one_unused_for_longest_makes_room() -> None:
    """Else 24 addresses that have each said HELLO keep everybody out."""
    tcp = lone("tcp", dead_after=60.0)
    some: list[Stranger] = []

    def come(source: int) -> None:
        some.append(Stranger(tcp, source))
        some[-1].send(frame(HELLO))
        tcp.turn(0.001)
        tcp.turn()

    with descriptors(4096):
        for n in range(24 * 64):
            come(2 + n // 64)
        wait(tcp, lambda: len(told(tcp, "up")) == 24 * 64)
        ups = [int(one[1]) for one in told(tcp, "up")]
        channels = {up: tcp.channel(up) for up in ups[:64]}
        come(100)
        wait(tcp, lambda: len(told(tcp, "up")) == 24 * 64 + 1)
        assert [one[1:] for one in told(tcp, "down")] == [(ups[64], "closed")]
        assert tcp.counters()["tcp.evicted"] == 1
        ups += [int(told(tcp, "up")[-1][1])]
        channels |= {up: tcp.channel(up) for up in ups[65:]}
        come(101)
        assert some[-1].is_out()  # nothing can be spared
        assert (len(told(tcp, "down")), tcp.counters()["tcp.refused"]) == (1, 1)
        tcp.channel_close(channels[ups[3]])
        pair_up(tcp, "tcp")
        assert told(tcp, "down")[1][1] == ups[3]
    tcp.shut()
    for one in some:
        one.sock.close()


def test_many_at_once_do_not_empty_it(tcp: Lone) -> None:
    """Each costs a search, and somebody its association: so many in a second."""
    with descriptors(4096), contextlib.ExitStack() as stack:
        for n in range(24 * 64):
            one = stack.enter_context(Stranger(tcp, 2 + n // 64).sock)
            one.sendall(frame(HELLO))
            tcp.turn(0.001)
        wait(tcp, lambda: len(told(tcp, "up")) == 24 * 64)
        began = time.monotonic()
        for n in range(200):
            stack.enter_context(Stranger(tcp, 100 + n // 10).sock)
        for _ in range(20):
            tcp.turn()
        most = 32 + 1000 * (time.monotonic() - began)
        assert 32 <= tcp.counters()["tcp.evicted"] <= most


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
    pair_up(tcp, "tcp")
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
    pair_up(tcp, "tcp")
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


def test_what_a_silent_mptcp_peer_has_not_taken_ends_with_the_association() -> None:
    """TCP_USER_TIMEOUT, which bounds that for TCP, is unknown to MPTCP."""
    a = lone("mptcp", dead_after=0.5)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as there:
        there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        there.bind(("127.0.0.1", 0))
        there.listen()
        association = a.connect(HOME, there.getsockname()[1])
        wait(a, lambda: a.is_up(association))
        peer, (_, port) = there.accept()

        def is_in_kernel() -> bool:
            table = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
            return any(line.split()[1].endswith(f":{port:04X}") for line in table)

        with peer:
            channel = a.channel(association)
            for _ in range(64):
                a.send(channel, data(1, bytes(60000)))
                a.turn(0.001)
            assert is_in_kernel()
            wait(a, lambda: bool(told(a, "down")))
            assert told(a, "down") == [("down", association, "silent")]
            wait(a, lambda: not is_in_kernel(), 1.0)
    a.shut()


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
