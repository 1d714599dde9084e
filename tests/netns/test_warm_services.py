"""Connections to a service that was engaged before: what has changed there since must not cost a byte."""

from __future__ import annotations

import pytest
from support import KIND, PLAIN, Pair, any_address, peer, result, results, same

from hooker.lab import Lab

pytestmark = pytest.mark.timeout(120)
SCRIPT = ("send:3000", "recv:2000", "close")
ANSWER = ("recv:3000", "send:2000", "close")
needs_engines = pytest.mark.skipif(PLAIN, reason="plain TCP has no engine")


def warm_up(pair: Pair, port: int) -> None:
    """One connection, after which the service is known to be engaged."""
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


@needs_engines
def test_an_engine_that_is_killed_and_started_again_between_two_connections(hooked_pair: Pair) -> None:
    """Its peer has not heard of it, and its service is the one that accepted before."""
    pair = hooked_pair
    assert pair.server
    warm_up(pair, 7967)
    warm_up(pair, 7967)
    pair.server.kill9()
    pair.server = pair.b.hooker(*KIND)
    try:
        warm_up(pair, 7967)
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
