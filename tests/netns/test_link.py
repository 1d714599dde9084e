"""The emulated link does what it says, and flows cross bad links with every byte right.

The scenarios are those of the QUIC interop runner that a path alone can make, over real namespaces. Nothing
here asserts a time.
"""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Iterator

import pytest
from support import PLAIN, Pair, counts, eventually, peer, result, same, url

from hooker.errors import ConfigurationError
from hooker.lab import Lab
from hooker.lab.apps import HTTP_PORT, sha256, start_nginx, write_random
from hooker.lab.link import FULL_PACKET, Link

MB = 1 << 20
PORT = 7000

pytestmark = pytest.mark.timeout(120)


# ---- the emulator itself ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": -1},
        {"delay": -0.1},
        {"loss": 1.1},
        {"reorder": -0.1},
        {"burst": 0},
        {"jitter": 1},
        {"queue": 1},
    ],
)
def test_a_senseless_link_is_refused_by_name(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=f"a link's {name} "):
        Link(**wrong)  # type: ignore[arg-type]


def test_the_queue_is_one_bandwidth_delay_product_unless_told() -> None:
    assert Link(rate=100e6, delay=0.01).queue_bytes == 250_000
    assert Link(rate=100e6).queue_bytes == 16 * FULL_PACKET
    assert Link(rate=100e6, delay=0.01, queue=5000).queue_bytes == 5000


def datagrams(lab: Lab, number: int, size: int = 1000, gap: float = 0.0) -> list[int]:
    """Send numbered datagrams from a to b and return the numbers in their order of arrival."""
    received: list[int] = []
    with lab.b.socket(kind=socket.SOCK_DGRAM) as sink, lab.a.socket(kind=socket.SOCK_DGRAM) as source:
        sink.setsockopt(socket.SOL_SOCKET, 33, 64 * MB)  # SO_RCVBUFFORCE
        sink.bind((lab.b.v4, PORT))
        sink.settimeout(0.5)
        for i in range(number):
            source.sendto(i.to_bytes(4, "big") + bytes(size - 4), (lab.b.v4, PORT))
            time.sleep(gap)
        try:
            while len(received) < number:
                received.append(int.from_bytes(sink.recv(FULL_PACKET)[:4], "big"))
        except TimeoutError:
            pass
    return received


def losses(link: Link, number: int = 400) -> list[int]:
    with Lab(link=link) as lab:
        before, _ = lab.link.crossed()
        assert before.frames == before.overflowed == 0 or before.delivered
        arrived = datagrams(lab, number, gap=0.0002)
        after, _ = lab.link.crossed()
    assert arrived == sorted(arrived)
    assert after.lost >= number - len(arrived)
    assert after.queue_dropped == after.overflowed == 0
    return [i for i in range(number) if i not in set(arrived)]


def test_loss_hits_about_its_share_and_bursts_come_in_rows() -> None:
    alone, rows = losses(Link(loss=0.2)), losses(Link(loss=0.2, burst=8))
    assert 40 <= len(alone) <= 130
    assert 20 <= len(rows) <= 200

    def runs(lost: list[int]) -> float:
        return len(lost) / sum(1 for i in lost if i - 1 not in lost)

    assert runs(alone) < 2 < runs(rows)


def test_a_full_queue_drops_at_its_tail() -> None:
    with Lab(link=Link(rate=1e6, queue=10_000)) as lab:
        arrived = datagrams(lab, 50)
        crossed, _ = lab.link.crossed()
    assert arrived[:9] == list(range(9))  # 1028 bytes each
    assert len(arrived) < 30
    assert crossed.queue_dropped >= 50 - len(arrived)


def test_reordered_packets_arrive_later_and_all_of_them() -> None:
    with Lab(link=Link(delay=0.002, jitter=0.001, reorder=0.1, reorder_by=0.01)) as lab:
        arrived = datagrams(lab, 300, gap=0.0005)
        crossed, _ = lab.link.crossed()
    assert sorted(arrived) == list(range(300))
    overtaken = sum(b < a for a, b in itertools.pairwise(arrived))
    assert 0 < overtaken <= crossed.reordered


def test_nothing_larger_than_the_mtu_crosses_and_nothing_is_dropped_that_should_not_be() -> None:
    with Lab(link=Link(rate=200e6, delay=0.005)) as lab:
        www = start_nginx(lab.b, lab.tmp)
        digest = write_random(www / "file", 4 * MB)
        lab.a.run(["curl", "-sS", "-o", lab.tmp / "got", url(lab.b, "v6", "file", HTTP_PORT)])
        assert sha256(lab.tmp / "got") == digest
        crossed = lab.link.crossed()[1]
    assert crossed.delivered_bytes <= crossed.delivered * (FULL_PACKET + 14)
    assert crossed.delivered >= 4 * MB // FULL_PACKET
    assert crossed.lost == crossed.overflowed == 0


def test_the_relays_death_is_told() -> None:
    with Lab(link=Link()) as lab:
        lab.link.proc.kill()
        lab.link.proc.wait()
        with pytest.raises(RuntimeError, match="the link's relay has ended"):
            lab.link.crossed()


# ---- flows over bad links -----------------------------------------------------------------------------


@pytest.fixture
def over() -> Iterator[Pair]:
    """Hooked hosts, the web server, and a link that is good until the test spoils it."""
    with Lab(link=Link()) as lab, Pair.open(lab) as pair:
        start_nginx(lab.b, lab.tmp)
        yield pair


def fetch_and_put(pair: Pair, size: int) -> None:
    """One download and one upload by curl; both files equal to the byte."""
    www, got = pair.lab.tmp / "www", pair.lab.tmp / "got"
    digest = write_random(www / "file", size)
    pair.a.run(["curl", "-sS", "-o", got, url(pair.b, "v4", "file", HTTP_PORT)], timeout=100)
    assert sha256(got) == digest
    pair.a.run(["curl", "-sS", "-T", got, url(pair.b, "v4", "up/file", HTTP_PORT)], timeout=100)
    assert sha256(www / "up" / "file") == digest


def test_long_rtt(over: Pair) -> None:
    """750 ms: the peer's confirmation takes longer than a flow is held for; it works, by TCP or VTL."""
    over.lab.link.set(Link(rate=10e6, delay=0.375))
    fetch_and_put(over, MB // 8)


def test_long_rtt_of_a_warm_association(over: Pair) -> None:
    fetch_and_put(over, 1000)
    over.lab.link.set(Link(rate=10e6, delay=0.375))
    with over.engaged(flows=2, payload=MB // 4):
        fetch_and_put(over, MB // 8)


def test_handshake_loss(over: Pair) -> None:
    """30 %, in bursts: connections open, by TCP or VTL, and lose nothing."""
    over.lab.link.set(Link(delay=0.015, loss=0.3, burst=2))
    for number in range(2):
        server = peer(over.b, "serve", "0.0.0.0", PORT + number, "recv-all", "send:1000", "close")
        client = peer(over.a, "connect", over.b.v4, PORT + number, "send:1000", "fin", "recv-all", "close")
        one, other = result(client, 100), result(server, 100)
        assert one["error"] is None
        assert other["error"] is None
        same(one, other)
        same(other, one)


BAD = {
    "loss": Link(rate=50e6, delay=0.01, loss=0.02),
    "bursts": Link(rate=50e6, delay=0.01, loss=0.02, burst=5),
    "reordering": Link(rate=50e6, delay=0.01, jitter=0.005, reorder=0.05, reorder_by=0.008),
}


@pytest.mark.parametrize("kind", BAD)
def test_transfer(over: Pair, kind: str) -> None:
    """Engaged on a good link that then turns bad: all of it crosses over VTL, both ways."""
    go = over.lab.tmp / "go"
    with over.engaged(payload=8 * MB):
        server = peer(over.b, "serve", "0.0.0.0", PORT, "recv-all", f"send:{4 * MB}", "close")
        actions = ("send:1000", f"wait-file:{go}", f"send:{4 * MB}", "fin", "recv-all", "close")
        client = peer(over.a, "connect", over.b.v4, PORT, *actions)
        eventually(lambda: over.lab.meter.read().vtl.payload > 1000)
        over.lab.link.set(BAD[kind])
        go.touch()
        one, other = result(client, 100), result(server, 100)
    assert one["error"] is None
    assert one["sent"] == 4 * MB + 1000
    same(one, other)
    same(other, one)


def test_files_over_a_lossy_link(over: Pair) -> None:
    """2 % from the first packet on: a lost handshake may leave it to TCP; the files are equal either way."""
    over.lab.link.set(BAD["bursts"])
    fetch_and_put(over, MB)


def test_blackhole(over: Pair) -> None:
    """Nothing crosses for two seconds in the middle; then the transfer goes on over VTL."""
    link = over.lab.link
    fetch_and_put(over, 1000)
    link.set(Link(rate=20e6, delay=0.01))
    with over.engaged(payload=8 * MB):
        server = peer(over.b, "serve", "0.0.0.0", PORT, "recv-all", "close")
        client = peer(over.a, "connect", over.b.v4, PORT, f"send:{8 * MB}", "close")
        start = link.crossed()[0].delivered_bytes
        eventually(lambda: link.crossed()[0].delivered_bytes > start + MB)
        link.change(loss=1)
        time.sleep(2)
        link.change(loss=0)
        one, other = result(client), result(server)
    assert one["error"] is None
    assert one["sent"] == 8 * MB
    same(one, other)


@pytest.mark.skipif(PLAIN, reason="there are no engines")
@pytest.mark.parametrize("fec", [True, False])
def test_repairs_are_sent_where_packets_are_lost_unless_told_not_to(fec: bool) -> None:
    with Lab(link=Link()) as lab, Pair.open(lab, options=() if fec else ("--no-fec",)) as pair:
        go = lab.tmp / "go"
        server = peer(pair.b, "serve", "0.0.0.0", PORT, "echo-all", "close")
        rounds = ("send:20000", "recv:20000") * 60
        actions = ("send:1000", "recv:1000", f"wait-file:{go}", *rounds, "fin", "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, PORT, *actions)
        eventually(lambda: lab.meter.read().vtl.payload > 2000)
        lab.link.set(Link(rate=100e6, delay=0.005, loss=0.05))
        go.touch()
        same(one := result(client, 100), result(server, 100))
        assert one["sent_sha256"] == one["received_sha256"]
        for engine in pair.engines:
            status = engine.status()
            assert status["engine"]["fec"] is fec
            assert (counts(status)["vtl.repairs_sent"] > 0) is fec
