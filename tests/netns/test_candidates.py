"""Which connections are hooked: ports, prefixes, loopback, processes outside the cgroup."""

from __future__ import annotations

import pytest
from support import PLAIN, SEGMENTS, Pair, address, any_address, counts, peer, result, same

from hooker.lab import Lab

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(PLAIN, reason="needs engines"),
]


def engaged_by(pair: Pair, target: str, family: str, port: int, **client: bool) -> int:
    """Move some bytes to *target* and return how many flows the client's engine has engaged for it.

    Where they begin on TCP, how many it has taken: they may have ended before they move.
    """
    counter = "kernel.flow" if SEGMENTS else "engaged"
    assert pair.client
    before = counts(pair.client.status())[counter]
    host = pair.a if target in ("127.0.0.1", "::1", pair.a.v4) else pair.b
    server = peer(host, "serve", any_address(family), port, "recv-all", "send:1000", "close")
    sender = peer(pair.a, "connect", target, port, "send:50000", "fin", "recv-all", "close", **client)
    one, other = result(sender, 20), result(server, 20)
    same(one, other)
    same(other, one)
    return counts(pair.client.status())[counter] - before


def test_ports(lab: Lab) -> None:
    with Pair.open(lab, options=("--port", "8000,9000-9010")) as pair:
        for port, hooked in ((8000, 1), (9005, 1), (8001, 0), (9011, 0)):
            assert engaged_by(pair, pair.b.v4, "v4", port) == hooked
            assert engaged_by(pair, pair.b.v6, "v6", port) == hooked


def test_prefixes(lab: Lab) -> None:
    with Pair.open(lab, options=("--to", f"{lab.b.v4}/32,{lab.a.v4}/32,fd00:1::/32")) as pair:
        assert engaged_by(pair, pair.b.v4, "v4", 8000) == 1
        assert engaged_by(pair, address(pair.b, "mapped"), "mapped", 8001) == 1
        assert engaged_by(pair, pair.b.v6, "v6", 8002) == 0


@pytest.mark.parametrize("target", ["127.0.0.1", "::1", "own"])
def test_connections_to_the_own_host_are_left_alone(pair: Pair, target: str) -> None:
    name = pair.a.v4 if target == "own" else target
    assert engaged_by(pair, name, "v6" if ":" in name else "v4", 8003) == 0
    assert pair.client
    assert pair.client.status()["reasons"].get("loopback", 0) > 0


def test_processes_outside_the_cgroup_are_left_alone(pair: Pair) -> None:
    assert engaged_by(pair, pair.b.v4, "v4", 8004, hooked=False) == 0
    assert engaged_by(pair, pair.b.v4, "v4", 8005, hooked=True) == 1
