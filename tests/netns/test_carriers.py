"""What every carrier gives (docs/transports.md, 2), between two hosts and without an engine."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import PLAIN

from hooker.carriers import Settings, ip, udp, udplite
from hooker.carriers.face import Lone
from hooker.control import netns
from hooker.lab import INTERFACE, Lab
from hooker.lab import Host as LabHost

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="needs no applications")]
ECN, TRAINS, CHECKED, COVERAGE, PORTS = (1 << n for n in range(5))
MAKERS: dict[str, Callable[[Settings], Any]] = {"udp": udp.make, "udplite": udplite.make, "ip": ip.make}
WITH_HEADERS = Settings(20)  # bytes, VTL's
MTU = 1500
EVERY = [*MAKERS]
UNPROTECTED = ["udplite", "ip"]
NUMBERS = {"udp": 17, "udplite": 136, "ip": 253}


def packed(address: str) -> bytes:
    one = ipaddress.ip_address(address)
    return one.packed if one.version == 6 else bytes(10) + b"\xff\xff" + one.packed


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


@pytest.fixture(params=EVERY)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["v4", "v6"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def opened(host: LabHost, name: str, port: int = 0, settings: Settings = WITH_HEADERS) -> Lone:
    return netns.call(host.netns, lambda: Lone(MAKERS[name](settings), port))


class Pair:
    def __init__(self, lab: Lab, name: str, family: str, settings: Settings = WITH_HEADERS) -> None:
        self.a, self.b = (opened(host, name, settings=settings) for host in (lab.a, lab.b))
        self.from_, self.to = packed(getattr(lab.a, family)), packed(getattr(lab.b, family))
        self.port = self.b.port if self.b.properties & PORTS else 0

    def datagram(self, data: bytes) -> tuple[bytes, int, bytes]:
        return self.to, self.port, data

    def send(self, sent: list[bytes], **how: int) -> None:
        """All of it, and again what the socket does not take at once."""
        end = time.monotonic() + 10
        while sent:
            assert time.monotonic() < end
            sent = sent[self.a.send([self.datagram(one) for one in sent[:512]], **how) :]

    def close(self) -> None:
        self.a.close()
        self.b.close()


@pytest.fixture
def pair(lab: Lab, name: str, family: str) -> Iterator[Pair]:
    made = Pair(lab, name, family)
    yield made
    made.close()


def heard(who: Lone, n: int, seconds: float = 3.0) -> list[tuple[bytes, bytes, int, int, bytes]]:
    """What has come, when it is so many, or when that time is over."""
    end = time.monotonic() + seconds
    got = who.receive()
    while len(got) < n and time.monotonic() < end:
        time.sleep(0.002)
        got += who.receive()
    return got


def largest(who: Lone, family: str) -> int:
    return MTU - who.overhead - (20 if family == "v6" else 0)


# ---- datagrams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 3, 7])
def test_a_batch_arrives_whole_and_in_order(pair: Pair, family: str, parts: int) -> None:
    some = random.Random(parts)
    sent = [some.randbytes(some.choice([1, 20, 700, largest(pair.a, family)])) for _ in range(500)]
    pair.send(sent, parts=parts)
    got = heard(pair.b, 500)
    assert [data for *_, data in got] == sent
    assert pair.b.counters()["received"] == pair.a.counters()["sent"] == 500


def test_trains_of_one_size_arrive_as_single_datagrams(pair: Pair, family: str) -> None:
    sent = [bytes([n & 255]) * largest(pair.a, family) for n in range(300)] + [b"short"]
    pair.send(sent)
    assert [data for *_, data in heard(pair.b, 301)] == sent


def test_it_says_who_has_sent_and_where_to(pair: Pair) -> None:
    pair.send([b"hello"])
    ((source, local, port, _, data),) = heard(pair.b, 1)
    assert (source, local, data) == (pair.from_, pair.to, b"hello")
    assert port == (pair.a.port if pair.a.properties & PORTS else 0)
    assert pair.b.send([(source, port, b"answer")]) == 1
    ((source, local, port, _, data),) = heard(pair.a, 1)
    assert (source, local, port, data) == (pair.to, pair.from_, pair.port, b"answer")


@pytest.mark.parametrize("ecn", [0, 1, 2, 3])
def test_ecn_bits_arrive(pair: Pair, ecn: int) -> None:
    assert pair.a.properties & ECN
    pair.send([b"marked"] * 3, ecn=ecn)
    assert [bits for *_, bits, _ in heard(pair.b, 3)] == [ecn] * 3


def test_sizes_up_to_the_links_and_no_larger(pair: Pair, family: str) -> None:
    """The overhead is what it says it is; what is too large is lost by itself, and nothing waits for it."""
    most = largest(pair.a, family)
    assert pair.a.send([pair.datagram(bytes(n)) for n in (most, most + 1, most, 1)]) == 4
    got = heard(pair.b, 3, 0.5)
    assert [len(data) for *_, data in got] == [most, most, 1]
    assert pair.a.counters()["send_errors"] >= 1


def test_a_full_socket_takes_what_is_left_later(pair: Pair) -> None:
    """The link takes nothing for a while: not all of it goes, and nothing is lost or sent twice."""
    for fd in pair.a.descriptors()[:2]:
        with socket.socket(fileno=fd) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            one.detach()
    sent = [struct.pack("!I", n) * 250 for n in range(400)]
    got: list[Any] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            got.extend(pair.b.receive())
            time.sleep(0.001)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        pair.send(sent)
        end = time.monotonic() + 5
        while len(got) < len(sent) and time.monotonic() < end:
            time.sleep(0.01)
    finally:
        stop.set()
        reader.join(5)
    assert [data for *_, data in got] == sent


# ---- errors ------------------------------------------------------------------------------------------


def test_where_nobody_listens_an_error_comes_and_quotes(pair: Pair, lab: Lab) -> None:
    """No port, or no engine at all: protocol unreachable, unrecognized next header."""
    pair.b.close()
    quoted = bytes(range(64))
    pair.send([quoted * 2])
    end = time.monotonic() + 3
    found = pair.a.errors()
    while not found and time.monotonic() < end:
        time.sleep(0.01)
        found = pair.a.errors()
    ((err, address, port, text),) = found
    assert err
    assert (address, port) == (pair.to, pair.port)
    assert text == quoted
    pair.send([b"on it goes"])  # the error stops nothing


def test_a_port_belongs_to_one(lab: Lab, name: str) -> None:
    """Of ip, which has none, a whole host does."""
    first = opened(lab.a, name)
    with pytest.raises(OSError, match="in use"):
        opened(lab.a, name, first.port)
    other = opened(lab.b, name, first.port)
    assert other.port == first.port
    first.close()
    opened(lab.a, name, first.port).close()
    other.close()


def test_nobody_without_rights_keeps_a_host_from_protocol_253(lab: Lab) -> None:
    """A name in the abstract namespace of UNIX sockets, which was the lock, anybody can have."""
    squatter = netns.call(lab.a.netns, lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    squatter.bind(b"\0hooker-proto253")
    first = opened(lab.a, "ip")
    with pytest.raises(OSError, match="in use"):
        opened(lab.a, "ip")
    first.close()
    squatter.close()

    def as_nobody() -> str:
        code = "import os, socket; os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        code += "socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        return done.stderr.splitlines()[-1]

    assert "PermissionError" in netns.call(lab.a.netns, as_nobody)


def test_a_killed_engine_leaves_protocol_253_to_the_next(lab: Lab) -> None:
    code = (
        "import os, time; from hooker.carriers import Settings, ip; from hooker.carriers.face import Lone\n"
    )
    code += "one = Lone(ip.make(Settings(20)), 0); print(one.port, flush=True); time.sleep(60)"
    with netns.call(
        lab.a.netns,
        lambda: subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True),
    ) as other:
        assert other.stdout
        assert other.stdout.readline()
        with pytest.raises(OSError, match="in use"):
            opened(lab.a, "ip")
        opened(lab.b, "ip").close()
        other.kill()
        other.wait()
        opened(lab.a, "ip").close()


def test_its_sockets_are_marked_as_ours(lab: Lab, name: str) -> None:
    made = opened(lab.a, name)
    for fd in made.descriptors()[:2]:
        with socket.socket(fileno=fd) as one:
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
            one.detach()
    made.close()
    assert made.descriptors() == [-1, -1, -1]


def test_one_that_was_never_opened_is_freed(name: str) -> None:
    for _ in range(100):
        assert MAKERS[name](WITH_HEADERS).name == name
    with pytest.raises(ValueError, match="goes to one"):
        handle = MAKERS[name](WITH_HEADERS)
        Lone(handle).close()
        Lone(handle)


# ---- damage ------------------------------------------------------------------------------------------


def sent_by_hand(lab: Lab, packet: bytes) -> None:
    """An IPv4 packet of ours, with its header, from one host to the other."""
    with netns.call(
        lab.a.netns, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ) as raw:
        raw.sendto(packet, (lab.b.v4, 0))


def captured(lab: Lab, name: str, data: bytes, settings: Settings = WITH_HEADERS) -> bytes:
    """The IPv4 packet that carries a datagram."""
    made = Pair(lab, name, "v4", settings)
    tap = netns.call(
        lab.b.netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    )
    tap.bind((INTERFACE, 0x0800))
    tap.settimeout(3)
    made.send([data])
    packet = tap.recv(2000)
    while packet[9] != NUMBERS[name]:
        packet = tap.recv(2000)
    tap.close()
    made.close()
    return packet


@pytest.mark.parametrize("name", UNPROTECTED)
def test_no_damaged_byte_comes_through(lab: Lab, name: str) -> None:
    """Each byte behind the IP header, damaged once: what the kernel lets pass the carrier drops."""
    data = random.Random(1).randbytes(300)
    packet = captured(lab, name, data)
    port = struct.unpack("!H", packet[22:24])[0] if name == "udplite" else 0
    b = opened(lab.b, name, port)
    sent_by_hand(lab, packet)
    assert [got for *_, got in heard(b, 1)] == [data]
    for at in range(20, len(packet)):
        sent_by_hand(lab, packet[:at] + bytes([packet[at] ^ 1 << at % 8]) + packet[at + 1 :])
    assert heard(b, 1, 0.3) == []
    counts = b.counters()
    assert counts["received"] == 1
    assert counts["damaged"] >= (len(packet) - 20 - (28 if name == "udplite" else 0))
    for cut in (20, 21, 23, 24, 100):
        sent_by_hand(lab, packet[:cut])
    sent_by_hand(lab, packet)
    assert [got for *_, got in heard(b, 1)] == [data]
    b.close()


@pytest.mark.parametrize(("coverage", "damaged"), [(0, 300), (20, 280), (200, 100), (1200, 0)])
def test_the_kernel_drops_what_is_damaged_within_the_coverage(lab: Lab, coverage: int, damaged: int) -> None:
    data = random.Random(2).randbytes(300)
    settings = Settings(20, {"coverage": coverage})
    packet = captured(lab, "udplite", data, settings)
    b = opened(lab.b, "udplite", struct.unpack("!H", packet[22:24])[0], settings)
    for at in range(28, 328):
        sent_by_hand(lab, packet[:at] + bytes([packet[at] ^ 0x10]) + packet[at + 1 :])
    assert heard(b, 1, 0.3) == []
    assert b.counters()["damaged"] == damaged
    b.close()
