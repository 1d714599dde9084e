"""What TCP promises its users holds over VTL: order, half-close, resets, who may speak first."""

from __future__ import annotations

import subprocess

import pytest
from support import EACH_FAMILY, Pair, address, any_address, peer, result, results, same

pytestmark = pytest.mark.timeout(90)
MB = 1 << 20


@pytest.mark.parametrize("family", EACH_FAMILY)
@pytest.mark.parametrize("size", [0, 1, 100, 65537, 5 * MB])
def test_bytes_arrive_once_and_in_order(pair: Pair, family: str, size: int) -> None:
    with pair.engaged(payload=size):
        server = peer(pair.b, "serve", any_address(family), 7000, "recv-all", "close")
        client = peer(pair.a, "connect", address(pair.b, family), 7000, f"send:{size}", "close")
        sent, received = result(client), result(server)
    same(sent, received)
    assert sent["sent"] == size
    assert received["error"] is None


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_more_bytes_than_32_bits_count(pair: Pair) -> None:
    size = (1 << 32) + 100 * MB
    with pair.engaged(payload=size):
        server = peer(pair.b, "serve", any_address("v4"), 7009, "recv-all", "close")
        client = peer(pair.a, "connect", pair.b.v4, 7009, f"send:{size}", "close")
        sent, received = result(client, 240), result(server, 60)
    same(sent, received)
    assert received["error"] is None


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_both_directions_at_once(pair: Pair, family: str) -> None:
    size = 3 * MB
    with pair.engaged(payload=2 * size):
        server = peer(pair.b, "serve", any_address(family), 7001, "echo-all", "close")
        client = peer(pair.a, "connect", address(pair.b, family), 7001, *_rounds(size))
        sent, echoed = result(client), result(server)
    same(sent, echoed)
    same(echoed, sent)


def _rounds(size: int) -> list[str]:
    block = 1 << 16
    return [step for _ in range(size // block) for step in (f"send:{block}", f"recv:{block}")]


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_client_closes_its_half_and_still_reads(pair: Pair, family: str) -> None:
    with pair.engaged():
        server = peer(
            pair.b, "serve", any_address(family), 7002, "recv-all", "sleep:0.2", "send:300000", "close"
        )
        client = peer(
            pair.a, "connect", address(pair.b, family), 7002, "send:200000", "fin", "recv-all", "close"
        )
        one, other = result(client), result(server)
    same(one, other)
    same(other, one)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_server_closes_its_half_and_still_reads(pair: Pair, family: str) -> None:
    with pair.engaged():
        server = peer(pair.b, "serve", any_address(family), 7003, "send:200000", "fin", "recv-all", "close")
        client = peer(
            pair.a, "connect", address(pair.b, family), 7003, "recv-all", "sleep:0.2", "send:300000", "close"
        )
        one, other = result(client), result(server)
    same(one, other)
    same(other, one)


def test_half_close_of_nc(pair: Pair) -> None:
    with pair.engaged():
        server = pair.b.popen(["nc", "-N", "-l", "7004"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        pair.b.wait_listening(7004)
        client = pair.a.popen(["nc", "-N", pair.b.v4, "7004"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        spoken = _feed(client, server, b"question\n", b"answer\n")
    assert spoken == (b"answer\n", b"question\n")


def _feed(
    client: subprocess.Popen[bytes], server: subprocess.Popen[bytes], question: bytes, answer: bytes
) -> tuple[bytes, bytes]:
    assert client.stdin
    client.stdin.write(question)
    client.stdin.close()
    client.stdin = None
    received, _ = server.communicate(answer, timeout=20)
    replied, _ = client.communicate(timeout=20)
    return replied, received


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_server_speaks_first(pair: Pair, family: str) -> None:
    with pair.engaged():
        server = peer(pair.b, "serve", any_address(family), 7005, "send:100", "recv:50", "send:100", "close")
        client = peer(
            pair.a, "connect", address(pair.b, family), 7005, "recv:100", "send:50", "recv-all", "close"
        )
        one, other = result(client), result(server)
    same(one, other)
    same(other, one)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_reset_by_the_client_reaches_the_server(pair: Pair, family: str) -> None:
    with pair.engaged():
        server = peer(pair.b, "serve", any_address(family), 7006, "recv:1000", "send:10", "wait-end")
        client = peer(
            pair.a, "connect", address(pair.b, family), 7006, "send:1000", "recv:10", "sleep:0.1", "rst"
        )
        assert result(client)["error"] is None
        assert result(server, 10)["error"] == "ECONNRESET"


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_reset_by_the_server_reaches_the_client(pair: Pair, family: str) -> None:
    with pair.engaged():
        server = peer(pair.b, "serve", any_address(family), 7007, "recv:1000", "send:10", "sleep:0.1", "rst")
        client = peer(pair.a, "connect", address(pair.b, family), 7007, "send:1000", "recv:10", "wait-end")
        assert result(server)["error"] is None
        assert result(client, 10)["error"] == "ECONNRESET"


@pytest.mark.parametrize("how", ["close", "exit"])
@pytest.mark.parametrize("size", [1, 300_000])
def test_a_client_that_is_gone_at_once_loses_nothing(pair: Pair, how: str, size: int) -> None:
    server = peer(pair.b, "serve", "0.0.0.0", 7008, "recv-all", "close")
    client = peer(pair.a, "connect", pair.b.v4, 7008, f"send:{size}", how)
    same(result(client), result(server))


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_blocking_reader_after_half_close(pair: Pair, family: str) -> None:
    with pair.engaged():
        server = peer(
            pair.b, "serve", any_address(family), 7010, "recv-all", "sleep:0.2", "send:300000", "close"
        )
        client = peer(
            pair.a, "connect", address(pair.b, family), 7010, "send:2000", "fin", "recv-all-blocking", "close"
        )
        one, other = result(client), result(server)
    assert one["error"] is None
    same(other, one)


def test_a_blocking_reader_that_is_reset(pair: Pair) -> None:
    server = peer(pair.b, "serve", "0.0.0.0", 7011, "recv:10", "sleep:0.2", "rst")
    client = peer(pair.a, "connect", pair.b.v4, 7011, "send:10", "recv-all-blocking")
    result(server)
    assert result(client)["error"] == "ECONNRESET"


def test_blocking_reader_and_writer_threads(pair: Pair) -> None:
    with pair.engaged():
        slow = ["sleep:0.5", "recv-all", "send:1000000", "close"]
        server = peer(pair.b, "serve", "0.0.0.0", 7012, *slow)
        client = peer(pair.a, "connect", pair.b.v4, 7012, f"duplex-blocking:{60 * MB}", "close")
        one, other = result(client), result(server)
    assert one["error"] is None
    same(one, other)
    same(other, one)


def test_a_refused_connection_is_refused(pair: Pair) -> None:
    client = peer(pair.a, "connect", pair.b.v4, 7999, "send:1")
    assert result(client)["error"] == "ECONNREFUSED"


def test_many_connections_at_once(pair: Pair) -> None:
    number = 50
    with pair.engaged(flows=number):
        server = peer(
            pair.b, "serve", "0.0.0.0", 7009, "echo-all", "close", options=("--connections", str(number))
        )
        actions = ("send:1000", "recv:1000", "send:20000", "recv:20000", "fin", "recv-all", "close")
        clients = [
            peer(pair.a, "connect", pair.b.v4, 7009, *actions, options=("--seed", str(n)))
            for n in range(number)
        ]
        done = [result(client) for client in clients]
        echoed = results(server)
    for one in done:
        same(one, {"received": one["received"], "received_sha256": one["received_sha256"]})
        assert one["error"] is None
    assert sorted(e["received_sha256"] for e in echoed) == sorted(d["sent_sha256"] for d in done)


def test_urgent_data_is_in_the_stream(pair: Pair) -> None:
    """As a receiver with SO_OOBINLINE sees it over TCP."""
    actions = ("recv:1", "inline", "recv-all", "close")
    script = (
        "send:1",
        "sleep:0.1",
        "send:50000",
        "send-urgent:10",
        "send:70000",
        "send-urgent:1",
        "send:5",
        "close",
    )
    with pair.engaged():
        server = peer(pair.b, "serve", any_address("v4"), 7020, *actions)
        sent, received = result(peer(pair.a, "connect", pair.b.v4, 7020, *script)), result(server)
    same(sent, received)
