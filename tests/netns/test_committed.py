"""A client that has committed itself has no way back: what keeps its server waiting must not cost a byte."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import KIND, PLAIN, SEGMENTS, Pair, any_address, counts, peer, result, results, same

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)
SCRIPT = ("send:3000", "recv:2000", "close")
ANSWER = ("recv:3000", "send:2000", "close")
needs_engines = pytest.mark.skipif(PLAIN, reason="plain TCP has no engine")
messages_only = pytest.mark.skipif(PLAIN or SEGMENTS, reason="a twin of segments is no descriptor")


def warm_up(pair: Pair, port: int) -> None:
    """One connection, after which the next ones commit themselves."""
    server = peer(pair.b, "serve", any_address("v4"), port, *ANSWER)
    same(result(peer(pair.a, "connect", pair.b.v4, port, *SCRIPT)), result(server))


def test_a_listener_that_defers_its_accept_until_data_comes(hooked_pair: Pair) -> None:
    """TCP_DEFER_ACCEPT, as httpd and "deferred" of nginx use it: TCP drops the handshake's bare ACK."""
    pair, number = hooked_pair, 4
    warm_up(pair, 7950)
    options = ("--kind", "deferred", "--connections", str(number))
    server = peer(pair.b, "serve", any_address("v4"), 7951, *ANSWER, options=options)
    done = [result(peer(pair.a, "connect", pair.b.v4, 7951, *SCRIPT)) for _ in range(number)]
    got = results(server)
    assert [one["error"] for one in (*done, *got)] == [None] * (2 * number)
    for one, other in zip(done, got, strict=True):
        assert (one["sent"], other["received"], one["received"]) == (3000, 3000, 2000)
    assert {one["sent_sha256"] for one in done} == {one["received_sha256"] for one in got}


@contextlib.contextmanager
def descriptors(pair: Pair, number: int) -> Iterator[None]:
    """The server's engine may have so many."""
    assert pair.server
    limits = resource.prlimit(pair.server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pair.server.pid, resource.RLIMIT_NOFILE, (number, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(pair.server.pid, resource.RLIMIT_NOFILE, limits)


def retried(pair: Pair) -> int:
    assert pair.server
    return counts(pair.server.status())["twins_retried"]


@needs_engines
def test_a_server_whose_engine_has_no_descriptor_left_for_a_while(hooked_pair: Pair) -> None:
    pair = hooked_pair
    assert pair.server
    for port in range(7952, 7957):  # on a busy machine a client may find no moment to commit itself
        warm_up(pair, port)
        server = peer(pair.b, "serve", any_address("v4"), port, *ANSWER)
        with descriptors(pair, 1):
            client = peer(pair.a, "connect", pair.b.v4, port, *SCRIPT)
            time.sleep(1.5)
        one, other = result(client), result(server)
        assert (one["error"], other["error"]) == (None, None)
        same(one, other)
        same(other, one)
        if SEGMENTS or retried(pair):
            return
    raise AssertionError("no client committed itself")


@messages_only
def test_a_server_whose_engine_never_gets_a_descriptor_again(hooked_pair: Pair) -> None:
    """Who has committed himself is reset in seconds, at both ends; all others are on TCP at once."""
    pair = hooked_pair
    assert pair.client
    for port in range(7961, 7966):
        warm_up(pair, port)
        server = peer(pair.b, "serve", any_address("v4"), port, *ANSWER)
        committed = counts(pair.client.status())["committed"]
        with descriptors(pair, 1):
            client = peer(pair.a, "connect", pair.b.v4, port, *SCRIPT)
            time.sleep(0.5)
            if counts(pair.client.status())["committed"] == committed:
                result(client), result(server)
                continue
            started = time.monotonic()
            warm_up(pair, 7960)
            assert time.monotonic() - started < 4, "not declined"
            one, other = result(client), result(server)
        assert one["error"] == other["error"] == "ECONNRESET"
        assert one["ended"] - one["started"] < 20
        assert pair.client.status()["reasons"]["peer-declines-service"]
        with pair.engaged(flows=1):
            warm_up(pair, 7960)
        return
    raise AssertionError("no client committed itself")


@messages_only
def test_a_few_descriptors_are_left_for_those_that_are_on_their_way(hooked_pair: Pair) -> None:
    pair = hooked_pair
    assert pair.client
    assert pair.server
    warm_up(pair, 7966)
    used = {int(one.name) for one in Path(f"/proc/{pair.server.pid}/fd").iterdir()}
    free = min(set(range(10_000)) - used)
    with descriptors(pair, free + 20):
        for _ in range(3):
            warm_up(pair, 7966)
    assert pair.client.status()["reasons"]["peer-declines-service"] == 2
    assert "twin-failed" not in pair.server.status()["reasons"]


@needs_engines
def test_an_engine_that_is_killed_and_started_again_between_two_connections(hooked_pair: Pair) -> None:
    """Its peer has not heard of it, and its service is the one that accepted before."""
    pair = hooked_pair
    assert pair.client
    assert pair.server
    warm_up(pair, 7967)
    warm_up(pair, 7967)
    before = counts(pair.client.status()).get("committed")  # segments: nobody commits himself
    pair.server.kill9()
    pair.server = pair.b.hooker(*KIND)
    try:
        warm_up(pair, 7967)
        assert counts(pair.client.status()).get("committed") == before
    finally:
        pair.server.stop()


def translate(lab: Lab, other: Lab, port: int) -> None:
    """From now on TCP to *port* of host b gets to host b of the *other* lab; UDP does not."""
    b, c = lab.b, other.b
    for command in (
        f"ip link add to-c type veth peer name to-b netns {c.netns}",
        "ip address add 10.78.0.1/24 dev to-c",
        "ip link set to-c up",
        "sysctl -qw net.ipv4.ip_forward=1",
        "nft add table ip t",
        "nft add chain ip t before { type nat hook prerouting priority dstnat ; }",
        f"nft add rule ip t before ip daddr {b.v4} tcp dport {port} dnat to 10.78.0.2",
    ):
        b.run(command.split(), hooked=False)
    for command in (
        "ip address add 10.78.0.2/24 dev to-b",
        "ip link set to-b up",
        f"ip route add {lab.a.v4} via 10.78.0.1",
    ):
        c.run(command.split(), hooked=False)


@needs_engines
def test_two_backends_behind_one_address_that_tcp_and_udp_reach_differently(hooked_pair: Pair) -> None:
    pair = hooked_pair
    warm_up(pair, 7968)
    with Lab() as other:
        engine = other.b.hooker(*KIND)
        try:
            translate(pair.lab, other, 7968)
            for _ in range(3):
                server = peer(other.b, "serve", any_address("v4"), 7968, *ANSWER)
                one = result(peer(pair.a, "connect", pair.b.v4, 7968, *SCRIPT))
                got = result(server)
                assert (one["error"], got["error"]) == (None, None)
                same(one, got)
                same(got, one)
                assert one["ended"] - one["started"] < 10
        finally:
            engine.stop()
