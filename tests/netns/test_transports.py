"""Unmodified applications over each transport but VTL, which all other tests use.

The bytes arrive, and what fails goes back to TCP.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import FAMILIES, PLAIN, SLOWNESS, Pair, counts, eventually, peer, result, same, url

from hooker.lab import Lab
from hooker.lab.apps import sha256, start_nginx, write_random

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(PLAIN, reason="needs engines")]
MB = 1 << 20
KIND = "segments"
NAMES = ["tcp", "quic"]
SLOWLY = ("recv:1000000", f"sleep:{0.1 * SLOWNESS:g}")  # is not over before it is engaged
LONG_RUNS = ["mptcp", "vtl+ip", "vtl+udplite", "udp", "udplite", "ip"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Over all that every kernel has, or over the one that ``--transport`` names."""
    if "name" in metafunc.fixturenames:
        asked = metafunc.config.getoption("transport")
        usual = [*NAMES, *(pytest.param(name, marks=pytest.mark.soak) for name in LONG_RUNS)]
        metafunc.parametrize("name", [asked] if asked else usual, scope="module")


@pytest.fixture(scope="module")
def pair(name: str) -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=("--transport", name), kind=KIND) as made:
        yield made


def transfer(pair: Pair, port: int, *steps: str, size: int) -> tuple[Any, Any]:
    server = peer(pair.b, "serve", "0.0.0.0", port, *steps, "recv-all", "close")
    return server, peer(pair.a, "connect", pair.b.v4, port, f"send:{size}", "close")


def engaged(pair: Pair) -> list[int]:
    return [counts(engine.status())["engaged"] for engine in pair.engines]


def test_a_transfer_is_engaged_and_arrives(pair: Pair, name: str) -> None:
    before, go = engaged(pair), pair.lab.tmp / "go"
    go.unlink(missing_ok=True)
    server = peer(pair.b, "serve", "0.0.0.0", 7400, "recv:100", "send:100", "recv-all", "close")
    script = ("send:100", "recv:100", f"wait-file:{go}", f"send:{30 * MB}", "close")
    client = peer(pair.a, "connect", pair.b.v4, 7400, *script)
    eventually(lambda: all(after > b for after, b in zip(engaged(pair), before, strict=True)))
    go.touch()
    sent, received = result(client), result(server)
    same(sent, received)
    assert received["received"] == 30 * MB + 100
    for engine in pair.engines:
        status = engine.status()
        assert {row["transport"] for row in status["peers"]} == {name}
        assert sum(row["bytes_received"] for row in status["peers"]) > 0
        assert counts(status)["bad_messages"] == 0
    assert pair.client
    status = pair.client.status()
    assert sum(row["bytes_sent"] for row in status["peers"]) > 20 * MB, (status["ended"], status["reasons"])


def test_curl_and_nginx(pair: Pair) -> None:
    size = 3 * MB
    digest = write_random(pair.lab.tmp / "file", size)
    with pair.programs():
        www = start_nginx(pair.b, pair.lab.tmp)
        (www / "file").write_bytes((pair.lab.tmp / "file").read_bytes())
        for family in FAMILIES[:2]:
            before, got = engaged(pair), pair.lab.tmp / f"got-{family}"
            up = url(pair.b, family, f"up/{family}")
            for words in (("-o", got, url(pair.b, family, "file")), ("-T", pair.lab.tmp / "file", up)):
                pair.a.run(["curl", "-sS", *words], timeout=30 * SLOWNESS)
            assert (sha256(got), sha256(www / "up" / family)) == (digest, digest)
            assert engaged(pair)[0] > before[0]


@pytest.mark.soak
def test_many_small_connections(pair: Pair) -> None:
    """One connection carries them all; each is its own flow."""
    for port in range(7500, 7510):
        server, client = transfer(pair, port, size=10_000)
        same(result(client), result(server))
    assert pair.client
    there = [row["address"] for row in pair.client.status()["peers"]]  # IPv6's may be there still
    assert there.count(pair.b.v4) == 1


@pytest.mark.soak
def test_both_directions_at_once(pair: Pair) -> None:
    server = peer(pair.b, "serve", "0.0.0.0", 7600, f"duplex-blocking:{5 * MB}", "close")
    client = peer(pair.a, "connect", pair.b.v4, 7600, f"duplex-blocking:{5 * MB}", "close")
    one, other = result(client), result(server)
    same(one, other)
    same(other, one)


@pytest.mark.parametrize("who", ["client", pytest.param("server", marks=pytest.mark.soak)])
def test_an_engine_is_killed_and_tcp_goes_on(name: str, who: str) -> None:
    with Lab() as lab, Pair.open(lab, options=("--transport", name), kind=KIND) as pair:
        server, client = transfer(pair, 7400, *SLOWLY * 20, size=40 * MB)
        eventually(lambda: all(engaged(pair)), tell=lambda: [one.status()["reasons"] for one in pair.engines])
        time.sleep(0.5)
        engine = pair.client if who == "client" else pair.server
        assert engine
        engine.kill9()
        sent, received = result(client, 45), result(server, 45)
        assert (sent["error"], received["error"]) == (None, None)
        same(sent, received)
        other = pair.server if who == "client" else pair.client
        assert other
        eventually(lambda: not other.status()["peers"])


@pytest.mark.soak
def test_the_first_of_two_that_both_have_is_taken() -> None:
    with Lab() as lab:
        a = lab.a.hooker("--intercept", KIND, "--transport", "tcp,vtl")
        b = lab.b.hooker("--intercept", KIND, "--transport", "vtl")
        try:
            pair = Pair(lab, a, b, KIND)
            server, client = transfer(pair, 7400, *SLOWLY * 3, size=8 * MB)
            same(result(client), result(server))
            assert all(engaged(pair))
            assert [row["transport"] for row in a.status()["peers"]] == ["vtl"]
        finally:
            for engine in (a, b):
                try:
                    engine.stop()
                except subprocess.TimeoutExpired:
                    engine.kill9()
