"""Two hosts' own TCPs, joined by twins: real sockets, a real handshake, bytes from device to device.

The relay (twin_relay.py) may be killed at any moment: then the wire has the connection back, with every byte.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import eventually, thinned

from hooker.lab import Lab

MARK = 0x484B7002
RELAY = Path(__file__).with_name("twin_relay.py")
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
KB, MB = 1 << 10, 1 << 20
LITTLE = (
    20_000  # bytes of TCP payload on the wire that engaging may cost: what was said before both were through
)
SIOCATMARK, TCP_INFO_RTT = 0x8905, 68  # offset in struct tcp_info

both_families = pytest.mark.parametrize("family", [4, 6])


@dataclass
class Bed:
    """A lab with a relay, and what makes marked connections in it."""

    lab: Lab
    relay: subprocess.Popen[Any]

    def kill(self) -> None:
        os.kill(self.relay.pid, signal.SIGKILL)
        self.relay.wait()

    @contextlib.contextmanager
    def connection(
        self, family: int = 4, room: int = 0, marked: bool = True
    ) -> Iterator[tuple[socket.socket, socket.socket]]:
        """A client at a and its server's end at b, marked before they say a word; `room`: of the server's."""
        a, b = self.lab.a, self.lab.b
        with b.socket(FAMILY[family]) as listener, a.socket(FAMILY[family]) as client:
            if room:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            listener.bind(({4: b.v4, 6: b.v6}[family], 0))
            listener.listen()
            client.connect(listener.getsockname()[:2])
            server, _ = listener.accept()
            with server:
                for s in (client, server):
                    if marked:
                        mark(s)
                    s.settimeout(60)
                yield client, server


@contextlib.contextmanager
def bed(delay: float = 0, loss: float = 0) -> Iterator[Bed]:
    with Lab() as lab:
        command = [sys.executable, RELAY, lab.a.netns, lab.b.netns, MARK, delay, loss]
        relay = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)
        try:
            assert relay.stdout
            assert relay.stdout.readline() == "ready\n"
            yield Bed(lab, relay)
        finally:
            relay.kill()
            relay.wait()
            relay.stdout.close() if relay.stdout else None


@pytest.fixture(scope="module")
def shared() -> Iterator[Bed]:
    """For tests that leave the relay as it was."""
    with bed() as made:
        yield made


class Sender(threading.Thread):
    """Sends random bytes, in pieces of any size, then says that this was all."""

    def __init__(self, s: socket.socket, size: int, end: bool = True) -> None:
        super().__init__(daemon=True)
        self.s, self.size, self.end = s, size, end
        self.sha, self.sent = hashlib.sha256(), 0
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        rng = random.Random(self.size)
        block = rng.randbytes(MB)
        try:
            while self.sent < self.size:
                at, n = rng.randrange(MB), rng.randint(1, 300 * KB)
                piece = (block[at:] + block[:at])[: min(n, self.size - self.sent)]
                self.s.sendall(piece)
                self.sha.update(piece)
                self.sent += len(piece)
            if self.end:
                self.s.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.error = error

    def digest(self, timeout: float = 60) -> str:
        self.join(timeout)
        assert not self.is_alive(), f"{self.sent} of {self.size} bytes sent"
        assert self.error is None, self.error
        return self.sha.hexdigest()


class Receiver(threading.Thread):
    """Reads until the end; `pause()` is called before each read."""

    def __init__(self, s: socket.socket, pause: Callable[[], None] = lambda: None, most: int = MB) -> None:
        super().__init__(daemon=True)
        self.s, self.pause, self.most = s, pause, most
        self.sha, self.received, self.silence = hashlib.sha256(), 0, 0.0
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        last = time.monotonic()
        try:
            while True:
                self.pause()
                piece = self.s.recv(self.most)
                if not piece:
                    return
                now = time.monotonic()
                self.silence, last = max(self.silence, now - last), now
                self.sha.update(piece)
                self.received += len(piece)
        except OSError as error:
            self.error = error

    def digest(self, timeout: float = 60) -> str:
        self.join(timeout)
        assert not self.is_alive(), f"{self.received} bytes received"
        assert self.error is None, self.error
        return self.sha.hexdigest()


def exchange(client: socket.socket, server: socket.socket, up: int, down: int) -> tuple[Receiver, Receiver]:
    """Both ways at once, to the end; who received."""
    receivers = Receiver(server), Receiver(client)
    senders = Sender(client, up), Sender(server, down)
    for sender, receiver in zip(senders, receivers, strict=True):
        assert receiver.digest() == sender.digest()
        assert receiver.received == sender.size
    return receivers


def engage(client: socket.socket, server: socket.socket) -> None:
    """Both ends' segments come through their devices: a word each way."""
    for one, other in ((client, server), (server, client)):
        one.sendall(b"?")
        assert other.recv(1) == b"?"


# ---- while it is engaged ------------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize(("up", "down"), [(40 * MB, 0), (0, 40 * MB), (20 * MB, 20 * MB)])
def test_bytes_cross_from_device_to_device_and_the_wire_is_silent(
    shared: Bed, family: int, up: int, down: int
) -> None:
    with shared.connection(family) as (client, server):
        shared.lab.meter.start()
        engage(client, server)
        exchange(client, server, up, down)
        assert shared.lab.meter.read().tcp.payload < LITTLE


@both_families
def test_a_slow_and_lossy_transport_loses_nothing(family: int) -> None:
    with bed(delay=0.005, loss=0.01) as made, made.connection(family) as (client, server):
        engage(client, server)
        exchange(client, server, 2 * MB, 2 * MB)


def test_many_connections_at_once(shared: Bed) -> None:
    with contextlib.ExitStack() as stack:
        pairs = [stack.enter_context(shared.connection(4 + 2 * (i % 2))) for i in range(20)]
        ends = [(Receiver(server), Sender(client, 300 * KB + i)) for i, (client, server) in enumerate(pairs)]
        assert [r.digest() for r, _ in ends] == [s.digest() for _, s in ends]


def test_the_round_trip_that_tcp_measures_is_the_transports() -> None:
    with bed(delay=0.05) as made, made.connection() as (client, server):
        for _ in range(10):
            engage(client, server)
        info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        rtt = struct.unpack_from("=I", info, TCP_INFO_RTT)[0] / 1e6
        assert 0.05 < rtt < 1


@both_families
def test_one_direction_goes_on_after_the_other_has_ended(shared: Bed, family: int) -> None:
    with shared.connection(family) as (client, server):
        up = Sender(client, 100 * KB)
        got = Receiver(server)
        assert got.digest() == up.digest()
        down, read = Sender(server, MB), Receiver(client)
        assert read.digest() == down.digest()


def test_both_ends_close_at_once(shared: Bed) -> None:
    with shared.connection() as (client, server):
        engage(client, server)
        client.shutdown(socket.SHUT_WR)
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == server.recv(1) == b""


@both_families
def test_a_reset_is_a_reset(shared: Bed, family: int) -> None:
    with shared.connection(family) as (client, server):
        engage(client, server)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        with pytest.raises(ConnectionResetError):
            server.recv(1)


def test_a_close_with_unread_bytes_is_a_reset(shared: Bed) -> None:
    with shared.connection() as (client, server):
        engage(client, server)
        client.sendall(b"unread")
        eventually(lambda: select.select([server], [], [], 0)[0])
        server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_write_after_the_other_has_closed_breaks_the_pipe(shared: Bed) -> None:
    with shared.connection() as (client, server):
        engage(client, server)
        server.close()
        assert client.recv(1) == b""

        def broken() -> bool:
            try:
                client.send(b"x")
            except (BrokenPipeError, ConnectionResetError):
                return True
            return False

        eventually(broken)


@both_families
def test_urgent_data_keeps_its_place(shared: Bed, family: int) -> None:
    with shared.connection(family) as (client, server):
        engage(client, server)
        client.sendall(b"before")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"after")
        client.shutdown(socket.SHUT_WR)
        eventually(lambda: select.select([], [], [server], 0)[2])
        assert server.recv(1, socket.MSG_OOB) == b"!"
        assert server.recv(100) == b"before"  # a read stops at the mark
        rest = b""
        while piece := server.recv(100):
            rest += piece
        assert rest == b"after"


@both_families
def test_a_reader_that_stops_closes_the_window_and_opens_it_again(shared: Bed, family: int) -> None:
    gate = threading.Event()
    with shared.connection(family, room=64 * KB) as (client, server):
        engage(client, server)
        sender, receiver = Sender(client, 8 * MB), Receiver(server, pause=gate.wait)
        eventually(lambda: sender.sent > 0)
        time.sleep(2)  # zero-window probes, answered from the far end
        assert sender.is_alive()
        assert sender.sent < 8 * MB
        gate.set()
        assert receiver.digest() == sender.digest()


def test_a_small_receive_buffer_and_a_trickling_reader(shared: Bed) -> None:
    with shared.connection(room=2304) as (client, server):
        engage(client, server)
        sender = Sender(client, 150 * KB)
        receiver = Receiver(server, pause=lambda: time.sleep(0.001), most=700)
        assert receiver.digest() == sender.digest()


def keep_alive(s: socket.socket) -> None:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
        s.setsockopt(socket.IPPROTO_TCP, name, 1)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def test_keepalive_is_answered_by_the_far_end_and_by_nobody_else() -> None:
    with bed() as made, made.connection() as (client, server):
        engage(client, server)
        keep_alive(client)
        client.settimeout(6)
        with pytest.raises(TimeoutError) as idle:
            client.recv(1)
        assert idle.value.errno is None  # the socket's own patience, not TCP's
        os.kill(made.relay.pid, signal.SIGUSR1)
        client.settimeout(30)
        with pytest.raises(OSError) as dead:
            client.recv(1)
        assert dead.value.errno == errno.ETIMEDOUT


def mark(s: socket.socket, value: int = MARK) -> None:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, value)


@pytest.mark.parametrize(("gap", "family"), thinned([-1.0, -0.2, 0.0, 0.2, 1.0], [4, 6]))
def test_a_connection_engages_in_mid_flow(family: int, gap: float) -> None:
    """The client is marked `gap` seconds before the server; meanwhile its segments go on to the wire."""
    with bed() as made, made.connection(family, marked=False) as (client, server):
        receivers = Receiver(server), Receiver(client)
        senders = Sender(client, 1 << 40, end=False), Sender(server, 1 << 40, end=False)
        eventually(lambda: all(r.received > MB for r in receivers))
        first, second = (client, server) if gap >= 0 else (server, client)
        mark(first)
        time.sleep(abs(gap) / 2)
        between = [r.received for r in receivers]
        time.sleep(abs(gap) / 2)
        if abs(gap) == 1:
            assert all(r.received > before for r, before in zip(receivers, between, strict=True))
        mark(second)
        eventually(lambda: wire_is_silent(made))
        before = [r.received for r in receivers]
        eventually(lambda: all(r.received > b + MB for r, b in zip(receivers, before, strict=True)))
        for sender in senders:
            sender.size = 0
        for sender, receiver, s in zip(senders, receivers, (client, server), strict=True):
            sender.join(30)
            s.shutdown(socket.SHUT_WR)
            assert receiver.digest() == sender.digest()
            assert receiver.received == sender.sent


@pytest.mark.parametrize(("gap", "family"), thinned([-0.5, 0.0, 0.5], [4, 6]))
def test_a_connection_leaves_in_mid_flow(family: int, gap: float) -> None:
    """The engines have left; the client loses its mark `gap` seconds before the server."""
    with bed() as made, made.connection(family) as (client, server):
        engage(client, server)
        receivers = Receiver(server), Receiver(client)
        senders = Sender(client, 1 << 40, end=False), Sender(server, 1 << 40, end=False)
        eventually(lambda: all(r.received > 8 * MB for r in receivers))
        os.kill(made.relay.pid, signal.SIGUSR2)
        first, second = (client, server) if gap >= 0 else (server, client)
        for s in (first, second):
            before = [r.received for r in receivers]
            eventually(lambda b=before: all(r.received > n + MB for r, n in zip(receivers, b, strict=True)))
            mark(s, 0)
            time.sleep(abs(gap))
        for sender in senders:
            sender.size = 0
        for sender, receiver, s in zip(senders, receivers, (client, server), strict=True):
            sender.join(30)
            s.shutdown(socket.SHUT_WR)
            assert receiver.digest() == sender.digest()
            assert receiver.received == sender.sent


def wire_is_silent(made: Bed) -> bool:
    made.lab.meter.start()
    time.sleep(0.2)
    return bool(made.lab.meter.read().tcp.payload < LITTLE)


# ---- the way back -------------------------------------------------------------------------------------


@both_families
@pytest.mark.parametrize(("up", "down"), [(96 * MB, 0), (0, 96 * MB), (48 * MB, 48 * MB)])
def test_a_kill_in_mid_transfer_loses_nothing(family: int, up: int, down: int) -> None:
    with bed() as made, made.connection(family) as (client, server):
        engage(client, server)
        made.lab.meter.start()
        receivers = Receiver(server), Receiver(client)
        senders = Sender(client, up), Sender(server, down)
        eventually(lambda: receivers[0].received + receivers[1].received > 16 * MB, timeout=30)
        assert made.lab.meter.read().tcp.payload < LITTLE
        made.kill()
        for sender, receiver in zip(senders, receivers, strict=True):
            assert receiver.digest() == sender.digest()
            assert receiver.received == sender.size
            assert receiver.silence < 10
        assert made.lab.meter.read().tcp.payload > MB


def test_a_kill_with_a_slow_lossy_transport_loses_nothing() -> None:
    with bed(delay=0.02, loss=0.01) as made, made.connection() as (client, server):
        engage(client, server)
        receivers = Receiver(server), Receiver(client)
        senders = Sender(client, 4 * MB), Sender(server, 4 * MB)
        time.sleep(1)
        made.kill()
        for sender, receiver in zip(senders, receivers, strict=True):
            assert receiver.digest() == sender.digest()


def test_a_kill_while_idle_is_not_noticed() -> None:
    with bed() as made, made.connection() as (client, server):
        engage(client, server)
        made.kill()
        for _ in range(3):
            engage(client, server)
        exchange(client, server, MB, MB)


def test_a_kill_while_the_window_is_closed_is_not_noticed() -> None:
    gate = threading.Event()
    with bed() as made, made.connection(room=64 * KB) as (client, server):
        engage(client, server)
        sender, receiver = Sender(client, 8 * MB), Receiver(server, pause=gate.wait)
        time.sleep(1)
        made.kill()
        time.sleep(0.5)
        gate.set()
        assert receiver.digest() == sender.digest()


def test_a_kill_between_the_two_ends_is_not_noticed() -> None:
    with bed() as made, made.connection() as (client, server):
        up, got = Sender(client, 100 * KB), Receiver(server)
        assert got.digest() == up.digest()
        made.kill()
        down, read = Sender(server, MB), Receiver(client)
        assert read.digest() == down.digest()


@pytest.mark.parametrize("seed", range(6))
def test_kills_at_random_moments_are_not_noticed(seed: int) -> None:
    rng = random.Random(seed)
    with bed() as made, made.connection(rng.choice([4, 6])) as (client, server):
        receivers = Receiver(server), Receiver(client)
        senders = Sender(client, 8 * MB), Sender(server, 8 * MB)
        time.sleep(rng.uniform(0, 0.3))
        made.kill()
        for sender, receiver in zip(senders, receivers, strict=True):
            assert receiver.digest() == sender.digest()
