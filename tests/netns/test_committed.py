"""A client that has committed itself has no way back: what keeps its server waiting must not cost a byte."""

from __future__ import annotations

import resource
import time

import pytest
from support import Pair, any_address, peer, result, results, same

pytestmark = pytest.mark.timeout(120)
SCRIPT = ("send:3000", "recv:2000", "close")
ANSWER = ("recv:3000", "send:2000", "close")


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


def test_a_server_whose_engine_has_no_descriptor_left_for_a_while(hooked_pair: Pair) -> None:
    pair = hooked_pair
    warm_up(pair, 7952)
    if pair.server is None:
        pytest.skip("plain TCP has no engine")
    before = pair.server.status()["counters"]["twins_retried"]
    limits = resource.prlimit(pair.server.pid, resource.RLIMIT_NOFILE)
    with pair.engaged():
        server = peer(pair.b, "serve", any_address("v4"), 7952, *ANSWER)
        resource.prlimit(pair.server.pid, resource.RLIMIT_NOFILE, (1, limits[1]))
        try:
            client = peer(pair.a, "connect", pair.b.v4, 7952, *SCRIPT)
            time.sleep(3.5)
        finally:
            resource.prlimit(pair.server.pid, resource.RLIMIT_NOFILE, limits)
        one, other = result(client), result(server)
    assert (one["error"], other["error"]) == (None, None)
    same(one, other)
    same(other, one)
    assert pair.server.status()["counters"]["twins_retried"] > before
