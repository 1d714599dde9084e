"""Over a transport that repairs nothing the applications' TCP does what it does on the wire: it keeps its own
congestion control, and measures the path as it is, also by what it has repeated."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hands import received
from owned import hooked_socket, used
from support import PLAIN, Pair, counts, eventually

from hooker.lab import Lab
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="needs engines")]
SERVICE = 7420
SIZE = 4 << 20  # bytes
PATH = Link(rate=50e6, delay=0.01)
LOSSY = replace(PATH, loss=0.02)
THRESHOLD, TOTAL_RETRANS, MIN_RTT = 76, 100, 148  # where struct tcp_info has them; the last in us
NO_THRESHOLD = 0x7FFFFFFF
OUTAGE = replace(PATH, loss=1.0)
REPAIR_NOTHING = [("--transport", "udp"), ("--reliability", "none")]
REPAIR = [("--transport", "vtl"), ("--transport", "tcp")]
KNOW_THEIR_PATH = [("--transport", "vtl"), ("--transport", "quic")]


@pytest.fixture(autouse=True)
def _bbr() -> None:
    if "bbr" not in Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split():
        pytest.skip("this kernel has no bbr")


@pytest.fixture
def pair(options: tuple[str, ...]) -> Iterator[Pair]:
    with Lab(link=PATH) as lab:
        for host in lab.hosts:
            host.sysctl("net.ipv4.tcp_congestion_control", "bbr")
        with Pair.open(lab, options=options, kind="segments") as made:
            yield made


class Ends:
    """One connection: what it reads is hashed."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        with hooked_socket(pair.b, 4) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((pair.b.v4, SERVICE))
            listener.listen()
            self.client = hooked_socket(pair.a, 4)
            self.client.connect((pair.b.v4, SERVICE))
            self.server, _ = listener.accept()
        for sock in (self.client, self.server):
            sock.settimeout(30)

    def __enter__(self) -> Ends:
        return self

    def __exit__(self, *error: object) -> None:
        self.client.close()
        self.server.close()

    def ask(self) -> None:
        for one, other in ((self.client, self.server), (self.server, self.client)):
            one.sendall(b"x" * 1000)
            assert len(received(other, 1000)) == 1000

    def controls(self) -> list[str]:
        """The kernel's word, not what the sockets are shown: the client's and the server's."""
        return [used(host, SERVICE) for host in self.pair.lab.hosts]

    def becomes(self, control: str) -> None:
        def there() -> bool:
            self.ask()
            return self.controls() == [control] * 2

        eventually(there, 20, every=0.1)

    def download(self) -> None:
        """From the server, and equal."""
        sent = os.urandom(SIZE)
        sender = threading.Thread(target=self.server.sendall, args=(sent,), daemon=True)
        sender.start()
        got = received(self.client, SIZE)
        sender.join(10)
        assert hashlib.sha256(got).digest() == hashlib.sha256(sent).digest()


def told(sock: socket.socket, at: int) -> int:
    """Of struct tcp_info."""
    found: int = struct.unpack_from("=I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), at)[0]
    return found


def engaged(pair: Pair) -> list[int]:
    return [counts(engine.status())["engaged"] for engine in pair.engines]


@pytest.mark.parametrize("options", REPAIR_NOTHING, ids=" ".join)
def test_a_socket_keeps_its_own_where_nothing_is_repaired(pair: Pair) -> None:
    """The second one's client is marked before its engine has heard of it."""
    for number in (1, 2):
        with Ends(pair) as ends:
            ends.ask()
            eventually(lambda number=number: engaged(pair) == [number] * 2)  # type: ignore[misc]
            ends.becomes("bbr")
            ends.ask()
            assert ends.controls() == ["bbr"] * 2
    assert counts(pair.engines[0].status())["kernel.service-warm"] == 1


@pytest.mark.parametrize("options", REPAIR_NOTHING, ids=" ".join)
def test_it_has_it_on_the_way_back_too(pair: Pair) -> None:
    with Ends(pair) as ends:
        ends.ask()
        eventually(lambda: engaged(pair) == [1, 1])
        ends.becomes("bbr")
        pair.lab.meter.drop(to_a=("vtl",), to_b=("vtl",))

        def left() -> bool:
            ends.ask()
            return "peer-silent" in pair.engines[0].status()["ended"]

        eventually(left, tell=lambda: pair.engines[0].status()["ended"])
        assert ends.controls() == ["bbr"] * 2


@pytest.mark.parametrize("options", REPAIR, ids=" ".join)
def test_it_is_put_aside_where_the_transport_repairs(pair: Pair) -> None:
    with Ends(pair) as ends:
        ends.ask()
        eventually(lambda: engaged(pair) == [1, 1])
        ends.ask()
        assert ends.controls() == ["reno"] * 2


@pytest.mark.parametrize("options", KNOW_THEIR_PATH, ids=" ".join)
def test_what_the_wire_has_lost_limits_no_engaged_socket(pair: Pair) -> None:
    """Else it begins again at two segments, and reno adds one for each round trip."""
    with Ends(pair) as ends:
        pair.lab.link.set(OUTAGE)
        ends.server.sendall(bytes(30_000))
        eventually(lambda: told(ends.server, TOTAL_RETRANS) > 0)
        assert told(ends.server, THRESHOLD) < NO_THRESHOLD
        assert engaged(pair) == [0, 0]
        pair.lab.link.set(PATH)
        assert received(ends.client, 30_000) == bytes(30_000)
        eventually(lambda: engaged(pair) == [1, 1])
        ends.download()
        assert told(ends.server, THRESHOLD) == NO_THRESHOLD


@pytest.mark.parametrize("options", REPAIR_NOTHING, ids=" ".join)
def test_what_is_repeated_tells_of_no_round_trip_shorter_than_the_path(pair: Pair) -> None:
    """bbr believes the least that TCP has measured, and sends accordingly little."""
    with Ends(pair) as ends:
        ends.ask()
        eventually(lambda: engaged(pair) == [1, 1])
        pair.lab.link.set(LOSSY)
        ends.download()
        assert engaged(pair) == [1, 1]
        assert told(ends.server, TOTAL_RETRANS) > 10
        assert told(ends.server, MIN_RTT) / 1e6 > 2 * PATH.delay - 0.002
