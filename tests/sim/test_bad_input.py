"""Whatever arrives is processed, or dropped and counted; it never crashes, hangs, or costs others a byte."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from sim.network import MS, SECOND, A, B, Host, Link, Pair
from sim.wire import SHORT_HEADER, is_data

from hooker.vtl import events as ev
from hooker.vtl.sansio import Endpoint

EDGES = [0, 1, 2, 3, 15, 16, 255, 1435, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1]


def established(seed: int, **config: int) -> tuple[Pair, int, int, bytes]:
    """A pair with one flow, and the header bytes that reach b."""
    pair = Pair(seed, **config)
    flow, peer = pair.open()
    pair.run_for(0.1)
    pair.a.endpoint.write(flow, b"x")
    ((datagram, _),) = pair.a.endpoint.datagrams_to_send(pair.now)
    pair.inject(pair.b, datagram, A)
    pair.run_for(0.1)
    return pair, flow, peer, datagram[:SHORT_HEADER]


def still_works(pair: Pair, flow: int, peer: int) -> None:
    before = len(pair.b.flows[peer].received)
    pair.a.endpoint.write(flow, bytes(range(256)) * 40)
    pair.run(lambda: len(pair.b.flows[peer].received) == before + 10240, limit=10)
    assert pair.b.flows[peer].received[before:] == bytes(range(256)) * 40


@pytest.mark.parametrize("seed", range(5))
def test_garbage_is_dropped_and_counted(seed: int) -> None:
    pair, flow, peer, _ = established(seed)
    rng = random.Random(seed)
    start = pair.b.endpoint.drops()
    n = 0
    for _ in range(2000):
        data = bytearray(rng.randbytes(rng.choice([0, 1, 5, 19, 20, 21, 40, 80, 200, 1472])))
        if data and rng.random() < 0.9:
            data[0] = 0x20 | rng.randrange(12)
        n += pair.b.endpoint.receive_datagram(bytes(data), A, pair.now) != "ok"
        pair.b.endpoint.datagrams_to_send(pair.now)
    drops = pair.b.endpoint.drops()
    assert sum(drops.values()) - sum(start.values()) == n
    assert n > 1500
    still_works(pair, flow, peer)


@pytest.mark.parametrize(
    "reason", ["short", "version", "type", "no_assoc", "cookie", "duplicate", "protocol"]
)
def test_each_kind_of_bad_datagram_has_its_counter(reason: str) -> None:
    pair, flow, peer, header = established(1)
    fresh = header[:9] + struct.pack("!I", 10**6)
    init = b"\x21" + bytes(11) + b"\1" * 8 + b"\1" + bytes(31) + b"\2" * 16 + bytes(80)
    bad = {
        "short": fresh + b"\x1a\0\0\x10",
        "version": b"\x78" + fresh[1:],
        "type": fresh + b"\x6e",
        "no_assoc": b"\x28" + bytes(19),
        "cookie": init,
        "duplicate": header + b"\x01",
        "protocol": fresh + struct.pack("!BBHIQI", 2, 0, 0, 0, 2**40, 0),
    }[reason]
    before = pair.b.endpoint.drops()
    assert pair.b.endpoint.receive_datagram(bad, A, pair.now) == reason
    after = pair.b.endpoint.drops()
    assert {k for k in after if after[k] != before[k]} == {reason}
    still_works(pair, flow, peer)


def stream_frame(stream: int, offset: int, n: int) -> bytes:
    return struct.pack("!BIIH", 0x1A, stream, offset, n) + bytes(n)


def test_a_peer_that_ignores_its_credit_is_refused() -> None:
    """Per stream, per association, and through the final size of a reset stream."""
    pair, _, _, header = established(1, stream_window=10_000, assoc_window=15_000)
    pair.b.auto_consume = False
    numbers = iter(range(1000, 2000))

    def send(frames: bytes) -> str:
        packet = header[:9] + struct.pack("!I", next(numbers)) + frames
        return pair.b.endpoint.receive_datagram(packet, A, pair.now)

    def opening(stream: int) -> bytes:
        return struct.pack("!BBHIQQ", 0x11, 1, 0, stream, 0, 0)

    assert send(opening(2) + stream_frame(2, 9_500, 500)) == "ok"
    assert send(stream_frame(2, 9_501, 500)) == "protocol"
    assert send(opening(4) + struct.pack("!BBHIIQ", 0x16, 0, 0, 4, 0, 4_500)) == "ok"
    assert send(opening(6) + stream_frame(6, 0, 400)) == "ok"
    assert send(stream_frame(6, 400, 200)) == "protocol"
    assert send(struct.pack("!BBHIIQ", 0x16, 0, 0, 6, 0, 601)) == "protocol"
    assert send(stream_frame(2, 2**32 - 100, 200)) == "protocol"


@pytest.mark.parametrize(
    "ack",
    [
        struct.pack("!BBHIQI", 2, 0, 0, 0, 1, 2),
        struct.pack("!BBHIQIII", 2, 1, 0, 0, 2, 0, 2**32 - 1, 0),
        struct.pack("!BBHIQIII", 2, 1, 0, 0, 2, 0, 0, 2**32 - 1),
        struct.pack("!BBHIQI", 2, 0, 0, 0, 2**63, 0),
    ],
)
def test_an_ack_of_what_was_never_sent_is_refused(ack: bytes) -> None:
    pair, flow, peer, header = established(1)
    packet = header[:9] + struct.pack("!I", 5000) + ack
    assert pair.b.endpoint.receive_datagram(packet, A, pair.now) == "protocol"
    still_works(pair, flow, peer)


@pytest.mark.parametrize("source", [("10.6.6.6", 4000), (A[0], 4001)])
def test_a_datagram_from_another_address_needs_connection_id_and_a_plausible_new_number(
    source: tuple[str, int],
) -> None:
    pair, flow, peer, header = established(1)
    old, far = (header[:9] + struct.pack("!I", n) + b"\x01" for n in (1, 1 << 30))
    unknown = bytes([header[0]]) + bytes(8) + struct.pack("!I", 999) + b"\x01"
    for packet in (old, far):
        assert pair.b.endpoint.receive_datagram(packet, source, pair.now) == "no_assoc"
        assert pair.b.endpoint.datagrams_to_send(pair.now) == []
    assert pair.b.endpoint.receive_datagram(unknown, source, pair.now) == "no_assoc"
    still_works(pair, flow, peer)


@pytest.mark.parametrize("seed", range(3))
def test_truncated_datagrams_do_no_harm(seed: int) -> None:
    pair = Pair(seed)
    rng = random.Random(seed)
    deliver = pair.inject

    def inject(to: Host, data: bytes, source: tuple[str, int], at: int | None = None, ecn: int = 0) -> None:
        cut = [data[: rng.randrange(len(data))] for _ in range(3)]
        # Cut between two frames, DATA is a valid packet; so there the whole one comes first.
        for copy in [data, *cut] if is_data(data) else [*cut, data]:
            deliver(to, copy, source, at)

    pair.inject = inject  # type: ignore[method-assign]
    flow, peer = pair.open()
    data = rng.randbytes(50_000)
    pair.a.endpoint.write(flow, data)
    pair.a.endpoint.fin(flow)
    pair.run(lambda: pair.b.flows[peer].fin)
    assert pair.b.flows[peer].received == data


def number(rng: random.Random, bits: int) -> int:
    value = rng.choice(EDGES) if rng.random() < 0.5 else rng.randrange(2**16)
    return value % 2**bits


def random_frame(rng: random.Random) -> bytes:
    """A well-formed frame with ill-meant values, mostly about streams that exist."""
    kind = rng.choice([0, 1, 2, 3, *range(0x11, 0x19)])
    stream = rng.randrange(6) if rng.random() < 0.8 else number(rng, 32)
    prefix = struct.pack("!BBHI", kind, rng.randrange(2), 0, stream)
    if kind <= 1:
        return bytes([kind])
    if kind == 2:
        n = rng.randrange(5)
        ranges = b"".join(struct.pack("!II", rng.randrange(3), rng.randrange(3)) for _ in range(n))
        return struct.pack("!BBHIQI", 2, n, 0, number(rng, 32), rng.randrange(60), rng.randrange(9)) + ranges
    if kind == 0x18:
        body = rng.randbytes(rng.choice([0, 1, 100, 1000]))
        offset = rng.randrange(3000) if rng.random() < 0.7 else number(rng, 32)
        return struct.pack("!BIIH", 0x1A | rng.randrange(2), stream, offset, len(body)) + body
    size = {0x03: 8, 0x11: 16, 0x12: 0, 0x13: 4, 0x14: 0, 0x15: 8, 0x16: 12, 0x17: 8}[kind]
    fields = struct.pack("!QQ", number(rng, 64), number(rng, 64))
    return prefix + fields[:size] if rng.random() < 0.5 else prefix + bytes(16)[:size]


class Chaos:
    """An application that does anything at any time."""

    def __init__(self, endpoint: Endpoint, rng: random.Random) -> None:
        self.endpoint = e = endpoint
        self.rng = rng
        self.choices = [
            e.accept, e.confirm, e.cancel, e.fin,
            lambda flow: e.reject(flow, 3),
            lambda flow: e.reset(flow, 4),
            *[lambda flow: e.write(flow, rng.randbytes(rng.choice([1, 100, 3000])))] * 5,
            *[lambda flow: e.consumed(flow, rng.randrange(2000))] * 5,
            *[lambda flow: None] * 24,
        ]  # fmt: skip

    def act(self, now: int) -> None:
        e, rng = self.endpoint, self.rng
        while (event := e.next_event()) is not None:
            if isinstance(event, ev.DataReceived) and rng.random() < 0.7:
                e.consumed(event.flow, len(event.data))
        for assoc in e.associations:
            if rng.random() < 0.05:
                with contextlib.suppress(ConnectionError):
                    e.open(assoc, now, committed=rng.random() < 0.5)
            elif rng.random() < 0.002:
                e.close(assoc, 5, now)
        for flow in e.flows:
            rng.choice(self.choices)(flow)


@pytest.mark.parametrize("seed", range(25))
def test_hostile_frames_on_a_known_connection_id_break_nothing(seed: int) -> None:
    """The worst peer: it knows the connection id and sends frames that fit no state."""
    pair, _, _, header = established(seed)
    rng = random.Random(seed)
    chaos = Chaos(pair.b.endpoint, rng)
    cid = header[1:9]
    pn = 1000
    for _ in range(400):
        pn += rng.choice([1, 1, 1, 2, 50])
        packet = b"\x28" + cid + struct.pack("!I", pn)
        packet += b"".join(random_frame(rng) for _ in range(rng.randrange(1, 6)))
        pair.b.endpoint.receive_datagram(packet, A, pair.now)
        chaos.act(pair.now)
        pair.b.endpoint.datagrams_to_send(pair.now)
        pair.now += rng.randrange(20 * MS)
        if (at := pair.b.endpoint.get_timer()) is not None and at <= pair.now:
            pair.b.endpoint.handle_timer(pair.now)
    for assoc in pair.b.endpoint.associations:
        pair.b.endpoint.close(assoc, 0, pair.now)
    pair.b.endpoint.datagrams_to_send(pair.now)
    assert pair.b.endpoint.flows == ()
    assert pair.b.endpoint.borrowed == 0


@pytest.mark.parametrize("seed", range(25))
def test_two_careless_applications_over_a_bad_path_leave_nothing_behind(seed: int) -> None:
    link = Link(loss=0.1, jitter=10 * MS, duplicate=0.05, corrupt=0.02 * (seed % 2))
    pair = Pair(seed, link=link, dead_after=2 * SECOND, stream_window=8192, assoc_window=32768)
    rng = random.Random(seed)
    sides = [(pair.a, B, Chaos(pair.a.endpoint, rng)), (pair.b, A, Chaos(pair.b.endpoint, rng))]
    for _ in range(600):
        for host, peer, chaos in sides:
            if rng.random() < 0.02:
                host.endpoint.connect(peer, pair.now)
            chaos.act(pair.now)
            pair.send(host)
        at = pair.next_time()
        pair.now = min(max(pair.now, at or 0), pair.now + 50 * MS)
        pair.deliver()
    for host, _, _ in sides:
        host.endpoint.datagrams_to_send(pair.now)  # one that fell just now may begin again
        for assoc in host.endpoint.associations:
            host.endpoint.close(assoc, 0, pair.now)
        host.endpoint.datagrams_to_send(pair.now)
        assert host.endpoint.flows == ()
        assert host.endpoint.borrowed == 0
