"""Flows whose messages go through the redirect socket: their bytes are the engine's to bring.

The engine is their TCP (docs/flow.md, 8.7): the kernel has acknowledged to the application's socket what the
peer's kernel has not got yet.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import random
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from hands import Hands, ready, received, talk_until_adopted
from support import Pair, counts, eventually, peer, result, same

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)
MB = 1 << 20
ENDED = "Connection reset|caused connection abort|Broken pipe"
ports = itertools.count(7820)
POOL = random.Random(3).randbytes(4 * MB)


@pytest.fixture(scope="module")
def redirecting() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=("--redirect", "always"), kind="messages") as made:
        yield made


@pytest.fixture
def pair(redirecting: Pair) -> Iterator[Pair]:
    with redirecting.programs():
        yield redirecting


@pytest.fixture
def hands(pair: Pair) -> Iterator[Hands]:
    with Hands(pair.lab) as made:
        yield made


def grown(pair: Pair, name: str) -> list[int]:
    return [counts(engine.status())[name] for engine in pair.engines]


def adopted(hands: Hands, pair: Pair) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection whose messages are redirected, at rest."""
    before = grown(pair, "adopted")
    ends = hands.connected(next(ports))
    talk_until_adopted(ends)
    assert [now - then for now, then in zip(grown(pair, "adopted"), before, strict=True)] == [1, 1]
    return ends


def blocks(seed: int) -> Iterator[bytes]:
    """Messages of all sizes."""
    chance = random.Random(seed)
    while True:
        size = chance.choice((1, 17, 300, 4000, 65536, 200000))
        at = chance.randrange(len(POOL) - size)
        yield POOL[at : at + size]


def send_all(sock: socket.socket, size: int, seed: int = 1) -> str:
    """Send so many bytes, non-blocking; return their digest."""
    digest, source = hashlib.sha256(), blocks(seed)
    while size:
        view = memoryview(next(source))[:size]
        while view:
            try:
                n = sock.send(view)
            except BlockingIOError:
                assert ready(sock, select.POLLOUT, 60), "no room for a minute"
                continue
            digest.update(view[:n])
            view = view[n:]
            size -= n
    return digest.hexdigest()


def read_to_end(sock: socket.socket, pause: float = 0.0) -> tuple[int, str]:
    """Bytes and their digest; a pause now and then makes the writer use its credit up."""
    digest, size, rest = hashlib.sha256(), 0, 4 * MB
    while True:
        assert ready(sock, select.POLLIN, 60), f"nothing after {size} bytes"
        data = sock.recv(1 << 18)
        if not data:
            return size, digest.hexdigest()
        digest.update(data)
        size += len(data)
        if pause and size > rest:
            rest += 8 * MB
            time.sleep(pause)


def fill(sock: socket.socket, most: int = 64 * MB) -> bytes:
    """Send until there is no room for a moment; return what was taken."""
    taken = bytearray()
    for block in blocks(7):
        if len(taken) > most or not ready(sock, select.POLLOUT, 0.3):
            return bytes(taken)
        with contextlib.suppress(BlockingIOError):
            taken += block[: sock.send(block)]
    raise AssertionError


@contextlib.contextmanager
def stopped(pair: Pair, which: int) -> Iterator[None]:
    """An engine that does not run meanwhile."""
    process = pair.engines[which].proc
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def spills(pair: Pair) -> list[int]:
    return [counts(engine.status())["kernel.spilled"] for engine in pair.engines]


# ---- bytes -------------------------------------------------------------------------------------------------


def both_ways(ends: tuple[socket.socket, socket.socket], size: int, pause: float) -> None:
    sent: dict[int, str] = {}
    got: dict[int, tuple[int, str]] = {}

    def write(n: int) -> None:
        sent[n] = send_all(ends[n], size, seed=n + 1)
        ends[n].shutdown(socket.SHUT_WR)

    def read(n: int) -> None:
        got[n] = read_to_end(ends[n], pause)

    threads = [threading.Thread(target=what, args=(n,)) for what in (write, read) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(100)
    assert got == {0: (size, sent[1]), 1: (size, sent[0])}


def test_both_ways_at_once_with_credit_used_up(pair: Pair, hands: Hands) -> None:
    ends = adopted(hands, pair)
    before, refused = spills(pair), grown(pair, "passed_not_taken")
    pair.lab.meter.start()
    both_ways(ends, 48 * MB, pause=0.3)
    assert all(now > then for now, then in zip(spills(pair), before, strict=True))
    assert pair.lab.meter.read().tcp.payload == 0
    assert grown(pair, "passed_not_taken") == refused, "what comes early is kept: TCP takes the rest for lost"


@pytest.mark.soak
def test_a_gigabyte_each_way(pair: Pair, hands: Hands) -> None:
    both_ways(adopted(hands, pair), 1024 * MB, pause=0.0)


def test_a_file_that_changes_between_blocking_and_not(pair: Pair, hands: Hands) -> None:
    client, server = adopted(hands, pair)
    got: list[tuple[int, str]] = []
    reader = threading.Thread(target=lambda: got.append(read_to_end(server)))
    reader.start()
    digest, source = hashlib.sha256(), blocks(5)
    for n in range(400):
        client.setblocking(n % 3 == 0)
        view = memoryview(next(source))
        while view:
            try:
                sent = client.send(view)
            except BlockingIOError:
                assert ready(client, select.POLLOUT, 60)
                continue
            digest.update(view[:sent])
            view = view[sent:]
    client.shutdown(socket.SHUT_WR)
    reader.join(60)
    assert [found for _, found in got] == [digest.hexdigest()]
    assert counts(pair.engines[0].status())["kernel.turned-blocking"] > 0


# ---- ends --------------------------------------------------------------------------------------------------


def test_a_process_that_writes_and_exits_at_once(pair: Pair) -> None:
    port = next(ports)
    server = peer(pair.b, "serve", "0.0.0.0", port, *(["recv:200000", "sleep:0.1"] * 10), "recv-all", "close")
    client = peer(pair.a, "connect", pair.b.v4, port, f"send-edge:{10 * MB}", "exit")
    sent, got = result(client), result(server)
    same(sent, got)
    assert got["error"] is None


@pytest.mark.parametrize("how", ["shutdown", "close"])
def test_a_fin_does_not_overtake_what_is_in_the_redirect_socket(pair: Pair, hands: Hands, how: str) -> None:
    client, server = adopted(hands, pair)
    before = grown(pair, "frames")[0]
    with stopped(pair, 0):
        sent = b"".join(b"%d " % n for n in range(5000))
        assert client.send(sent) == len(sent)
        client.shutdown(socket.SHUT_WR) if how == "shutdown" else client.close()
        time.sleep(0.3)
    assert received(server, len(sent) + 1) == sent
    assert ready(server, select.POLLIN, 10)
    assert server.recv(1) == b""
    assert grown(pair, "frames")[0] > before


def test_bytes_of_both_sources_that_wait_for_the_engine_keep_their_order(pair: Pair, hands: Hands) -> None:
    """The engine finds frames in the redirect socket and segments in hk0: a write that blocks is TCP's."""
    client, server = adopted(hands, pair)
    with stopped(pair, 0):
        client.send(b"redirected, ")
        client.setblocking(True)
        client.send(b"passed, ")
        client.setblocking(False)
        client.send(b"and passed, as not all was taken.")
        time.sleep(0.3)
    wanted = b"redirected, passed, and passed, as not all was taken."
    assert received(server, len(wanted)) == wanted


def test_close_lingers_until_the_peers_kernel_has_it_all(pair: Pair, hands: Hands) -> None:
    """SO_LINGER: what the engine alone has does not count."""
    client, server = adopted(hands, pair)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 20))
    sent = POOL[: MB // 2]  # the engine takes it all, the peer's kernel does not
    assert client.send(sent) == len(sent)
    client.setblocking(True)  # a non-blocking close() does not linger
    reads: list[bytes] = []
    reader = threading.Timer(1.5, lambda: reads.append(received(server, len(sent) + 1)))
    reader.start()
    began = time.monotonic()
    client.close()
    took = time.monotonic() - began
    reader.join(30)
    assert reads == [sent]
    assert took > 1.0


def test_many_that_send_a_burst_and_close_lose_nothing(pair: Pair, hands: Hands) -> None:
    """The kernel gathers redirected messages: a FIN may be read before the last of them."""
    before = grown(pair, "given_up")
    for n in range(30):
        client, server = hands.connected(next(ports), settle=0.02)
        client.setblocking(False)
        for _ in range(6):
            client.send(b"?")
            assert received(server, 1) == b"?"
        digest = send_all(client, 600_000, seed=n)
        client.close()
        assert read_to_end(server) == (600_000, digest)
        server.close()
    assert grown(pair, "given_up") == before


def test_what_was_written_before_a_reset_ends_it(pair: Pair, hands: Hands) -> None:
    client, server = adopted(hands, pair)
    fill(client)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    assert ready(client, select.POLLIN, 5)
    with pytest.raises(OSError) as error:
        client.recv(1)
    assert error.value.errno == errno.ECONNRESET
    eventually(lambda: grown(pair, "flows")[0] == 0)


def test_half_closed_it_goes_on_to_send(pair: Pair, hands: Hands) -> None:
    client, server = adopted(hands, pair)
    client.shutdown(socket.SHUT_WR)
    assert ready(server, select.POLLIN, 5)
    assert server.recv(1) == b""
    before = grown(pair, "frames")[1]
    got: list[tuple[int, str]] = []
    reader = threading.Thread(target=lambda: got.append(read_to_end(client)))
    reader.start()
    digest = send_all(server, 20 * MB)
    server.close()
    reader.join(60)
    assert got == [(20 * MB, digest)]
    assert grown(pair, "frames")[1] > before


@pytest.mark.parametrize("seconds", [3, pytest.param(30, marks=pytest.mark.soak)])
def test_a_reader_that_stops_is_waited_for(pair: Pair, hands: Hands, seconds: int) -> None:
    client, server = adopted(hands, pair)
    sent = fill(client)
    time.sleep(seconds)
    assert not ready(client, select.POLLOUT | select.POLLIN, 0), "no room, no error"
    assert received(server, len(sent)) == sent
    client.send(b"and on")
    assert received(server, 6) == b"and on"


# ---- engines that die --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [0, 1])
@pytest.mark.parametrize("how", ["kill", "stop"])
def test_both_ends_have_an_error_when_an_engine_is_gone(who: int, how: str) -> None:
    with (
        Lab() as lab,
        Pair.open(lab, options=("--redirect", "always"), kind="messages") as made,
        Hands(lab) as hands,
    ):
        ends = adopted(hands, made)
        fill(ends[0])
        engine = made.engines[who]
        began = time.monotonic()
        if how == "kill":
            engine.kill9()
        else:
            threading.Thread(target=engine.stop).start()
        for sock in ends:
            with pytest.raises(OSError, match=ENDED):
                while True:
                    assert ready(sock, select.POLLIN, 10)
                    assert sock.recv(1 << 18), "an end of data would hide that bytes are missing"
        assert time.monotonic() - began < 2.0
