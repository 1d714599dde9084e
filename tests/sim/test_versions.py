"""Which version two hosts speak, and that nobody between them can make them speak a lesser one."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from sim.exchange import exchange
from sim.network import MS, SECOND, B, Link, Pair

from hooker.vtl.sansio import Endpoint

INIT, COOKIE, INIT_ACK = 1, 2, 3
FIXED = {INIT: 20 + 48, COOKIE: 20 + 20, INIT_ACK: 20 + 28}  # bytes before the list of versions
NUMBER = {INIT: 20, COOKIE: 20, INIT_ACK: 20 + 24}  # where the length of the list is


def versions(packet: bytes) -> list[int]:
    kind = packet[0] & 15
    n = packet[NUMBER[kind]]
    return list(struct.unpack_from(f"!{n}I", packet, FIXED[kind]))


def strip(packet: bytes, version: int) -> bytes:
    """The packet without that version, as long as before."""
    kind = packet[0] & 15
    left = [v for v in versions(packet) if v != version]
    end = FIXED[kind] + 4 * packet[NUMBER[kind]]
    out = bytearray(packet)
    out[NUMBER[kind]] = len(left)
    out[FIXED[kind] : end] = struct.pack(f"!{len(left)}I", *left).ljust(end - FIXED[kind], b"\0")
    return bytes(out)


def pair_of(one: tuple[int, ...], other: tuple[int, ...]) -> Pair:
    pair = Pair(1, link=Link(delay=5 * MS))
    pair.a.endpoint = Endpoint(seed=5, versions=one)
    pair.b.endpoint = Endpoint(seed=6, versions=other)
    return pair


def in_between(pair: Pair, change: Callable[[bytes], bytes]) -> None:
    """All handshake packets pass through `change`."""
    for host in (pair.a, pair.b):
        plain = host.flight

        def flight(now: int, plain=plain) -> list[tuple[bytes, tuple[str, int], int]]:
            return [(change(d) if d[0] & 15 in FIXED else d, to, ecn) for d, to, ecn in plain(now)]

        host.flight = flight  # type: ignore[method-assign]


def agreed(pair: Pair) -> int:
    return pair.a.endpoint.stats(pair.a.endpoint.associations[0])["version"]


@pytest.mark.parametrize(
    ("one", "other", "agreed_on"),
    [((1,), (1,), 1), ((2, 1), (1,), 1), ((1,), (2, 1), 1), ((3, 2, 1), (1, 2), 2), ((1, 2), (2, 1), 1)],
)
def test_versionnegotiation_takes_the_first_of_the_initiator_that_both_speak(
    one: tuple[int, ...], other: tuple[int, ...], agreed_on: int
) -> None:
    pair = pair_of(one, other)
    exchange(pair, 1000)
    assert agreed(pair) == agreed_on
    assert pair.b.endpoint.stats(pair.b.endpoint.associations[0])["version"] == agreed_on


def test_versions_that_no_peer_speaks_end_the_handshake_with_the_reason() -> None:
    pair = pair_of((7, 8), (1, 2))
    flow = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    pair.run(lambda: pair.a.flows[flow].closed)
    assert pair.a.down_reasons() == [0x10006]
    assert pair.a.flows[flow].resets == [0x10006]
    assert pair.now == 10 * MS
    assert pair.b.endpoint.associations == ()


@pytest.mark.parametrize("kinds", [{INIT}, {INIT, COOKIE}, {INIT_ACK}, {COOKIE, INIT_ACK}])
def test_a_version_taken_away_on_the_way_is_noticed(kinds: set[int]) -> None:
    """RFC 9368, 4: what was offered and what was chosen must fit together at the end."""
    pair = pair_of((2, 1), (2, 1))
    in_between(pair, lambda d: strip(d, 2) if d[0] & 15 in kinds else d)
    flow = pair.a.endpoint.open(pair.a.endpoint.connect(B, 0), 0)
    pair.run(lambda: pair.a.flows[flow].closed, limit=2)
    assert pair.a.down_reasons() == [0x10006]
    assert pair.a.endpoint.drops()["version"] == 2
    assert pair.a.flows[flow].log == ["FlowReset", "FlowClosed"]


def test_a_version_taken_away_from_every_cookie_changes_nothing() -> None:
    pair = pair_of((2, 1), (2, 1))
    in_between(pair, lambda d: strip(d, 2) if d[0] & 15 == COOKIE else d)
    exchange(pair, 1000)
    assert agreed(pair) == 2


@pytest.mark.parametrize("kind", [COOKIE, INIT_ACK])
def test_a_version_taken_away_once_costs_a_round_trip_only(kind: int) -> None:
    pair = pair_of((2, 1), (2, 1))
    done: list[bytes] = []

    def once(d: bytes) -> bytes:
        if d[0] & 15 == kind and not done:
            done.append(d)
            return strip(d, 2)
        return d

    in_between(pair, once)
    exchange(pair, 1000)
    assert agreed(pair) == 2


def test_amplificationlimit_of_every_answer_to_an_unproven_address() -> None:
    server = Endpoint(seed=1, versions=tuple(range(1, 9)))
    client = Endpoint(seed=2)
    client.connect(B, 0)
    ((init, _),) = client.datagrams_to_send(0)
    data = bytes([0x28]) + (7).to_bytes(8, "big") + (1).to_bytes(4, "big")
    for packet in (init[:128], init, data, data + bytes(100)):
        before = server.counters()
        server.receive_datagram(packet, ("10.3.3.3", 1), SECOND)
        ((answer, _),) = server.datagrams_to_send(SECOND)
        after = server.counters()
        assert len(answer) <= len(packet)
        assert after["unproven_received"] - before["unproven_received"] == len(packet)
        assert after["unproven_sent"] - before["unproven_sent"] == len(answer)
    assert server.receive_datagram(init[:127], ("10.3.3.3", 1), 0) == "short"
    assert server.datagrams_to_send(SECOND) == []
