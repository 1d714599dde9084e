"""Which connections are hooked: ports, prefixes, loopback, processes outside the cgroup."""

from __future__ import annotations

import pytest
from support import KIND, PLAIN, SEGMENTS, Pair, address, any_address, counts, peer, result, same

from hooker.lab import INTERFACE, Lab

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


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_so_are_those_between_two_addresses_of_a_host(pair: Pair, family: str) -> None:
    """By address alone they could be another host's."""
    other = {"v4": pair.a.v4.rsplit(".", 1)[0] + ".77", "v6": pair.a.v6 + "77"}[family]
    bits = {"v4": "24", "v6": "64"}[family]
    nodad = ["nodad"] * (family == "v6")
    pair.a.run(["ip", "addr", "add", f"{other}/{bits}", "dev", INTERFACE, *nodad], hooked=False)
    assert pair.client
    before = counts(pair.client.status())["kernel.candidate"]
    server = peer(pair.a, "serve", any_address(family), 8006, "recv-all", "send:1000", "close")
    sender = peer(pair.a, "connect", other, 8006, "send:50000", "fin", "recv-all", "close")
    result(sender, 20)
    result(server, 20)
    assert pair.client.status()["reasons"].get("loopback", 0) > 0
    assert counts(pair.client.status())["kernel.candidate"] == before


def test_all_of_ipv6_is_nothing_of_ipv4(lab: Lab) -> None:
    """In the kernel program's map IPv4 lies within IPv6."""
    with Pair.open(lab, options=("--to", "::/0")) as pair:
        assert engaged_by(pair, pair.b.v6, "v6", 8000) == 1
        assert engaged_by(pair, pair.b.v4, "v4", 8001) == 0
        assert engaged_by(pair, address(pair.b, "mapped"), "mapped", 8002) == 0
    with Pair.open(lab, options=("--to", f"::/0,{lab.a.v4}/32,{lab.b.v4}/32")) as pair:
        assert engaged_by(pair, pair.b.v4, "v4", 8003) == 1
    with Pair.open(lab, options=("--to", "::/0,0.0.0.0/0")) as pair:
        assert engaged_by(pair, pair.b.v4, "v4", 8004) == 1


def test_a_server_declines_a_host_that_is_not_in_its_policy(lab: Lab) -> None:
    """A client that holds would wait for it otherwise."""
    lab.b.hooker(*KIND, "--to", "192.0.2.0/24")
    client = lab.a.hooker(*KIND)
    server = peer(lab.b, "serve", "0.0.0.0", 8000, "recv-all", "send:1000", "close")
    sender = peer(lab.a, "connect", lab.b.v4, 8000, "send:50000", "fin", "recv-all", "close")
    same(result(sender, 20), result(server, 20))
    assert counts(client.status())["kernel.peer-declines-service"] == 1
