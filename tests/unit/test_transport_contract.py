"""What every transport gives (docs/transports.md, 1), each over loopback and without an engine."""

from __future__ import annotations

import gc
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from lone_transport import (
    HELLO,
    HOME,
    IDS,
    STREAMS,
    TOKEN,
    UNENCRYPTED,
    Pair,
    data,
    lone,
    messages,
    told,
    wait,
)
from support import SLOWNESS

from hooker.errors import ConfigurationError
from hooker.flow.messages import encode
from hooker.transports.makers import Settings, make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "name" in metafunc.fixturenames:
        asked = metafunc.config.getoption("transport")
        metafunc.parametrize("name", [asked] if asked else list(IDS))


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


def test_bytes_that_are_to_stay_do_until_their_batch_is_settled(pair: Pair) -> None:
    channel, size, rng = pair.a.channel(pair.there), 60000, random.Random(1)
    for n in range(40):
        assert pair.a.send(channel, data(1 + size * n, rng.randbytes(size)))
    pair.until(lambda: pair.a.waiting(channel)[2] == 0)
    pair.rest()
    assert pair.b.moved == 0


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
    end = time.monotonic() + 6 * SLOWNESS
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
        end = time.monotonic() + 20 * SLOWNESS
        while not a.is_up(there):
            assert time.monotonic() < end
            a.turn(0.01)
        assert a.say(there, HELLO)
        channel = a.channel(there)
        for _ in range(20):
            a.turn(0.01)
        child.send_signal(9 if how == "killed" else 19)
        a.send(channel, data(1, bytes(1000)))
        end = time.monotonic() + 10 * SLOWNESS
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


@pytest.mark.parametrize("which", ["quic", "tcp"])
def test_who_was_asked_is_noticed_to_be_gone_also_when_nobody_needs_it_any_more(which: str) -> None:
    pair = Pair(which, dead_after=1.0)
    channel = pair.a.channel(pair.there)
    end = time.monotonic() + 1.5  # the other one stands still; after 1 s it is asked
    while time.monotonic() < end:
        pair.a.turn(0.01)
    pair.a.channel_close(channel)
    wait(pair.a, lambda: told(pair.a, "down") == [("down", pair.there, "silent")])
    pair.a.shut()
    pair.b.shut()


def test_one_that_was_never_opened_is_freed(name: str) -> None:
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
