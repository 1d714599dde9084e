"""Other kinds of TCP, other settings, and links that lose packets: never worse than TCP, never different."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from support import EACH_FAMILY, FAMILIES, Pair, address, any_address, counts, peer, result, results, same

from hooker.lab import Host, Lab

pytestmark = pytest.mark.timeout(90)
MB = 1 << 20


def transfer(
    pair: Pair, size: int, family: str = "v4", port: int = 7900, options: tuple[str, ...] = ()
) -> dict[str, object]:
    """Send *size* bytes and an answer of 1000 back, check both, and return the client's result."""
    actions = ("recv-all", "send:1000", "close")
    server = peer(pair.b, "serve", any_address(family), port, *actions, options=options)
    actions = (f"send:{size}", "fin", "recv-all", "close")
    client = peer(pair.a, "connect", address(pair.b, family), port, *actions, options=options)
    one, other = result(client), result(server)
    same(one, other)
    same(other, one)
    assert one["error"] is None
    return one


@contextlib.contextmanager
def sysctl(hosts: tuple[Host, ...], name: str, value: int, normal: int) -> Iterator[None]:
    """Set a setting of the hosts' namespaces for a while."""
    for host in hosts:
        host.sysctl(name, str(value))
    try:
        yield
    finally:
        for host in hosts:
            host.sysctl(name, str(normal))


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_server_under_syn_cookies(pair: Pair, family: str) -> None:
    with sysctl((pair.b,), "net.ipv4.tcp_syncookies", 2, 1), pair.engaged(payload=MB):
        transfer(pair, MB, family)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_tcp_fast_open_stays_tcp(pair: Pair, family: str) -> None:
    with sysctl(pair.lab.hosts, "net.ipv4.tcp_fastopen", 3, 1):
        for _ in range(3):  # the first gets the cookie, the others send data in the SYN
            transfer(pair, 200_000, family, options=("--kind", "fastopen"))
    if pair.client:
        assert pair.client.status()["reasons"].get("tcp-fast-open", 0) > 0


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_mptcp_stays_mptcp(pair: Pair, family: str) -> None:
    before = counts(pair.client.status())["engaged"] if pair.client else 0
    transfer(pair, 200_000, family, options=("--kind", "mptcp"))
    if pair.client:
        status = pair.client.status()
        assert status["reasons"].get("mptcp", 0) > 0
        assert counts(status)["engaged"] == before


@pytest.mark.parametrize("setting", ["tcp_timestamps", "tcp_sack", "tcp_window_scaling"])
def test_without_a_tcp_option(pair: Pair, setting: str) -> None:
    with sysctl(pair.lab.hosts, f"net.ipv4.{setting}", 0, 1), pair.engaged(payload=4 * MB):
        transfer(pair, 4 * MB)


@pytest.mark.parametrize("timestamps", [0, 1])
def test_many_short_connections_to_one_port(pair: Pair, timestamps: int) -> None:
    number = 300
    many = ("--connections", str(number))
    with (
        sysctl(pair.lab.hosts, "net.ipv4.tcp_timestamps", timestamps, 1),
        pair.engaged(flows=number),
    ):
        server = peer(pair.b, "serve", "0.0.0.0", 7901, "recv:100", "send:100", "close", options=many)
        script = ("send:100", "recv:100", "close")
        sent = results(peer(pair.a, "connect", pair.b.v4, 7901, *script, options=many))
        received = results(server)
    assert len(received) == number
    wrong = [
        (c["error"], s["error"]) for c, s in zip(sent, received, strict=True) if c["error"] or s["error"]
    ]
    assert not wrong, [
        pair.client and pair.client.status()["reasons"],
        pair.server and pair.server.status()["reasons"],
    ]
    assert {r["sent_sha256"] for r in sent} == {r["received_sha256"] for r in received}


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_a_link_that_loses_vtl(hooked_pair: Pair, rate: float) -> None:
    hooked_pair.lab.meter.lose(vtl=rate)
    for family in FAMILIES:
        transfer(hooked_pair, 3 * MB, family)


def test_a_link_that_loses_everything_sometimes(hooked_pair: Pair) -> None:
    """Handshakes too: SYN, SYN-ACK, the ACK that repeats the option. Some flows may be released."""
    hooked_pair.lab.meter.lose(vtl=0.05, tcp=0.05)
    number = 40
    many = ("--connections", str(number))
    script = ("send:20000", "recv:20000", "fin", "recv-all", "close")
    server = peer(hooked_pair.b, "serve", "0.0.0.0", 7902, "echo-all", "close", options=many)
    clients = [peer(hooked_pair.a, "connect", hooked_pair.b.v4, 7902, *script) for _ in range(number)]
    done = [result(client) for client in clients]
    assert len(results(server)) == number
    for one in done:
        assert one["error"] is None
        assert one["received_sha256"] == one["sent_sha256"]


@pytest.mark.parametrize("mtu", [1280, 9000])
def test_other_mtus(mtu: int) -> None:
    with Lab(mtu=mtu) as lab, Pair.open(lab) as pair:
        for family in ("v4", "v6"):
            with pair.engaged():
                transfer(pair, 5 * MB, family)
