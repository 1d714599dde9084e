"""Unmodified programs over transports that repair nothing, on a path that loses packets: their TCPs do."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from apps.servers import need
from support import PLAIN, Pair, counts, eventually, peer, result, same, transfer, url

from hooker.lab import Host, Lab
from hooker.lab.apps import sha256, start_nginx, start_redis, write_random
from hooker.lab.link import Link

pytestmark = [pytest.mark.timeout(90), pytest.mark.skipif(PLAIN, reason="needs engines")]
MB = 1 << 20
SEGMENT_HEADERS = 24  # bytes of a datagram beside the segment's payload
UNDER = {"udp": 8, "udplite": 12, "ip": 4, "dccp": 64}  # bytes of the carrier's headers above IP's, at most
PATH = Link(rate=50e6, delay=0.005, loss=0.01)


@contextmanager
def hooked(name: str) -> Iterator[Pair]:
    """The path loses nothing while they start."""
    with Lab(link=Link()) as lab:
        with ThreadPoolExecutor() as pool:
            a, b = pool.map(lambda host: host.hooker("--transport", name), (lab.a, lab.b))
        try:
            lab.link.set(PATH)
            yield Pair(lab, a, b, "segments")
        finally:
            for engine in (a, b):
                engine.stop()
                print(f"--- engine (exit {engine.proc.returncode})\n{engine.tail()}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Over one that every kernel has, or over the one that ``--transport`` names."""
    asked = metafunc.config.getoption("transport")
    longer = [] if asked else [pytest.param(name, marks=pytest.mark.soak) for name in ("udplite", "ip")]
    if "pair" in metafunc.fixturenames:
        metafunc.parametrize("pair", [asked or "udp", *longer], scope="module", indirect=True)
    elif "bare" in metafunc.fixturenames:
        metafunc.parametrize("bare", [asked] if asked else ["udp", "udplite", "ip"])
    elif "name" in metafunc.fixturenames:
        metafunc.parametrize("name", [asked or "udp"])


@pytest.fixture(scope="module")
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with hooked(str(request.param)) as made:
        yield made


def test_bulk_arrives_both_ways_and_over_the_transport(pair: Pair) -> None:
    assert pair.client
    assert pair.server
    transfer(pair.a, pair.b, 3 * MB, 7400)
    transfer(pair.b, pair.a, 2 * MB, 7401)
    for engine in pair.engines:
        status = engine.status()
        count = counts(status)
        name = status["engine"]["transport"]
        assert {row["transport"] for row in status["peers"]} == {name}
        assert count["engaged"] == 2, (status["reasons"], status["ended"], status["flows"])
        assert set(status["ended"]) <= {"closed"}  # none has left for TCP
        assert count["holes_told"]
        assert count["bad_messages"] == 0
    assert sum(row["bytes_sent"] for row in pair.client.status()["peers"]) > 2 * MB


def test_http_and_a_database(pair: Pair, tmp_path: Path) -> None:
    need("redis-server", "redis-cli")
    www = start_nginx(pair.b, tmp_path)
    digest = write_random(www / "file", 2 * MB)
    for n in range(3):
        pair.a.run(["curl", "-sf", "-o", tmp_path / f"got{n}", url(pair.b, "v4", "file")], timeout=30)
        assert sha256(tmp_path / f"got{n}") == digest
    start_redis(pair.b)
    big = os.urandom(150_000).hex()
    host = ["-h", pair.b.v4]
    pair.a.run(["redis-cli", *host, "-x", "set", "big"], input=big, text=True, timeout=30)
    assert pair.a.run(["redis-cli", *host, "get", "big"], text=True, timeout=30).stdout.strip() == big
    assert pair.server
    assert set(pair.server.status()["ended"]) <= {"closed"}


@pytest.mark.soak
def test_ipv6_too(pair: Pair, tmp_path: Path) -> None:
    www = start_nginx(pair.b, tmp_path, port=8090)
    digest = write_random(www / "file", 2 * MB)
    pair.a.run(["curl", "-sf", "-o", tmp_path / "got", url(pair.b, "v6", "file", 8090)], timeout=30)
    assert sha256(tmp_path / "got") == digest
    assert pair.client
    assert any(":" in row["address"] for row in pair.client.status()["peers"])


def segment_size(host: Host, port: int) -> int:
    """Of the connection to this port, in bytes, as its kernel cuts it."""
    shown = host.run(
        ["ss", "-tinH", "state", "established", "dport", "=", f":{port}"], hooked=False, text=True
    )
    return int([*re.findall(r"\bmss:(\d+)", shown.stdout), 0][0])


@pytest.mark.parametrize("version", ["v4", "v6"])
def test_a_full_segment_is_one_datagram(bare: str, version: str) -> None:
    """Else what SACK says of it does not fit what its kernel has sent."""
    headers = {"v4": 20, "v6": 40}[version]
    room = 1500 - headers - UNDER[bare] - SEGMENT_HEADERS
    with hooked(bare) as pair:
        at = getattr(pair.b, version)
        server = peer(pair.b, "serve", at, 7410, "recv-all", "close")
        client = peer(pair.a, "connect", at, 7410, f"send:{MB}", "recv:1", "close")
        eventually(lambda: room - 40 < segment_size(pair.a, 7410) <= room)
        client.kill()
        client.wait()
        result(server)


def test_an_engine_is_killed_and_tcp_goes_on(name: str) -> None:
    with hooked(name) as pair:
        assert pair.client
        assert pair.server
        server = peer(pair.b, "serve", "0.0.0.0", 7402, "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, 7402, f"send:{6 * MB}", "close")
        eventually(lambda: counts(pair.server.status())["injected_bytes"] > MB)
        pair.client.kill9()
        began = time.monotonic()
        sent, received = result(client, 60), result(server, 60)
        print(f"{time.monotonic() - began:.1f} s after the kill")
        assert (sent["error"], received["error"]) == (None, None)
        same(sent, received)
