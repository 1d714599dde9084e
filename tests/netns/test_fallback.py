"""When VTL cannot be had, the connection is TCP: every byte arrives, once, and soon."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from support import EACH_FAMILY, Pair, address, any_address, counts, eventually, peer, result, same, thinned

from hooker.control import keyfile
from hooker.lab import Lab
from hooker.lab.apps import start_nginx, write_random

pytestmark = pytest.mark.timeout(90)
KB = 1 << 10
RESENT = 3000  # bytes that TCP may send again, as it does anywhere
SOON = 2.0  # s from connect() to the last byte; the hold time is far below


def transfer(pair: Pair, family: str, size: int, how: str = "close", port: int = 7200) -> float:
    """Send *size* bytes, check them, and return the seconds until the last one was there."""
    server = peer(pair.b, "serve", any_address(family), port, "recv-all", "close")
    client = peer(pair.a, "connect", address(pair.b, family), port, f"send:{size}", how)
    sent, received = result(client, 30), result(server, 30)
    same(sent, received)
    assert received["error"] is None
    return float(received["last_byte"] - sent["started"])


def exactly_once(pair: Pair, size: int) -> None:
    """Assert that the wire has seen *size* bytes of TCP payload, but for a segment or two sent again."""
    payload = pair.lab.meter.read().to_b["tcp"].payload
    assert size <= payload <= size + RESENT


@pytest.mark.parametrize(("family", "hosts"), thinned(["v4", "v6", "mapped"], ["a", "b"]))
def test_a_peer_without_hooker(lab: Lab, family: str, hosts: str) -> None:
    with Pair.open(lab, hosts) as pair:
        lab.meter.start()
        assert transfer(pair, family, 300 * KB) < SOON
        exactly_once(pair, 300 * KB)
        for engine in pair.engines:
            assert counts(engine.status())["engaged"] == 0


@pytest.mark.parametrize(
    ("size", "how", "direction"),
    thinned([1, 300 * KB], ["close", "exit"], ["to_a", "to_b", "both"]),
)
def test_a_path_that_blocks_udp(hooked_pair: Pair, size: int, how: str, direction: str) -> None:
    lost = ("vtl",)
    hooked_pair.lab.meter.drop(
        to_a=lost if direction != "to_b" else (), to_b=lost if direction != "to_a" else ()
    )
    hooked_pair.lab.meter.start()
    first = transfer(hooked_pair, "v4", size, how)
    exactly_once(hooked_pair, size)
    second = transfer(hooked_pair, "v4", size, how, port=7201)
    print(f"first {first * 1e3:.0f} ms, second {second * 1e3:.0f} ms")
    assert first < SOON
    assert second < 0.2, "the peer should have been remembered as not reachable over VTL"
    if hooked_pair.client:
        assert counts(hooked_pair.client.status())["engaged"] == 0


@pytest.mark.parametrize("why", ["hold", "key"])
def test_who_is_held_waits_for_a_path_that_blocks_udp_once(lab: Lab, tmp_path: Path, why: str) -> None:
    options: tuple[str, ...] = ("--hold",)
    if why == "key":
        path = tmp_path / "key"
        path.touch(0o600)
        path.write_text(keyfile.make() + "\n")
        options = ("--key-file", str(path))
    with Pair.open(lab, options=options, kind="segments") as pair:
        lab.meter.drop(to_a=("vtl",), to_b=("vtl",))
        assert transfer(pair, "v4", 300 * KB) < SOON
        assert transfer(pair, "v4", 300 * KB, port=7201) < 0.2, "its host should have been remembered"


@pytest.mark.parametrize("family", ["v6", "mapped"])
def test_a_path_that_blocks_udp_in_other_families(hooked_pair: Pair, family: str) -> None:
    hooked_pair.lab.meter.drop(to_a=("vtl",), to_b=("vtl",))
    hooked_pair.lab.meter.start()
    assert transfer(hooked_pair, family, 300 * KB) < SOON
    exactly_once(hooked_pair, 300 * KB)


def test_a_server_that_speaks_first_over_a_path_that_blocks_udp(hooked_pair: Pair) -> None:
    pair = hooked_pair
    pair.lab.meter.drop(to_a=("vtl",), to_b=("vtl",))
    server = peer(pair.b, "serve", "0.0.0.0", 7202, "send:5000", "recv-all", "close")
    client = peer(pair.a, "connect", pair.b.v4, 7202, "recv:5000", "send:200000", "close")
    sent, received = result(client, 20), result(server, 20)
    same(sent, received)
    same(received, sent)


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_path_that_loses_a_syn_with_an_unknown_option(hooked_pair: Pair, family: str) -> None:
    hooked_pair.lab.meter.drop(to_b=("syn-option",))
    first = transfer(hooked_pair, family, 100 * KB)
    second = transfer(hooked_pair, family, 100 * KB)
    print(f"first {first:.2f} s (one SYN lost), second {second:.2f} s")
    assert first < 4  # one retransmission of the SYN, a second later
    assert second < 0.5, "the service should have been remembered"


def _remembered(pair: Pair) -> int:
    """Connections that were left to TCP because of what earlier ones met."""
    assert pair.client
    return int(pair.client.status()["reasons"].get("peer-remembered-as-tcp", 0))


def test_a_known_peer_gets_the_option_once_more_and_then_a_syn_without(hooked_pair: Pair) -> None:
    """Three in a row, and its path has changed."""
    with hooked_pair.engaged(payload=100 * KB):
        transfer(hooked_pair, "v4", 100 * KB)
    hooked_pair.lab.meter.drop(to_b=("syn-option",))
    took = [transfer(hooked_pair, "v4", 100 * KB) for _ in range(3)]
    assert all(1.5 < seconds < 6 for seconds in took), took  # two SYNs lost: 1 s, then 2 s (RFC 6298 5.5)
    assert _remembered(hooked_pair) == 0
    assert transfer(hooked_pair, "v4", 100 * KB) < 0.5, "the service should have been remembered"
    assert _remembered(hooked_pair) == 1


def test_syns_that_are_lost_now_and_then_do_not_leave_a_known_peer_to_tcp(hooked_pair: Pair) -> None:
    pair = hooked_pair
    transfer(pair, "v4", 10 * KB)
    for _ in range(4):
        pair.lab.meter.drop(to_b=("syn-option",))
        assert transfer(pair, "v4", 10 * KB) > 1.5
        pair.lab.meter.drop()
        with pair.engaged(payload=10 * KB):
            transfer(pair, "v4", 10 * KB)
    assert _remembered(pair) == 0


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_lost_answer_to_a_syn_does_not_leave_the_connection_to_tcp(hooked_pair: Pair, family: str) -> None:
    """The kernel has no SYN any more when it sends its SYN-ACK again, so that is without an answer."""
    pair = hooked_pair
    transfer(pair, family, 10 * KB)
    pair.lab.meter.drop(to_a=("syn-option",))
    before = [counts(engine.status())["engaged"] for engine in pair.engines]
    server = peer(pair.b, "serve", any_address(family), 7201, "recv-all", "close")
    client = peer(pair.a, "connect", address(pair.b, family), 7201, *("send:1000", "sleep:0.2") * 4, "close")
    sent, received = result(client, 30), result(server, 30)
    same(sent, received)
    assert 0.9 < received["first_byte"] - sent["started"] < 3
    assert [counts(engine.status())["engaged"] for engine in pair.engines] == [n + 1 for n in before]


def test_connections_of_one_moment_say_one_thing_of_the_path(hooked_pair: Pair) -> None:
    pair = hooked_pair
    (directory := pair.lab.tmp / "nginx").mkdir()
    www = start_nginx(pair.b, directory, 7250)
    write_random(www / "file", 10 * KB)
    curl = [
        "curl",
        "-sS",
        "-Z",
        "--parallel-max",
        "6",
        "-o",
        "/dev/null",
        f"http://{pair.b.v4}:7250/file?[1-6]",
    ]
    pair.a.run(curl)
    pair.lab.meter.drop(to_b=("syn-option",))
    pair.a.run(curl)
    pair.lab.meter.drop()
    with pair.engaged(payload=10 * KB):
        pair.a.run(curl)
    assert _remembered(pair) == 0


@pytest.mark.soak
def test_a_host_whose_first_syn_was_lost_is_asked_again_soon(hooked_pair: Pair) -> None:
    hooked_pair.lab.meter.drop(to_b=("syn-option",))
    transfer(hooked_pair, "v4", 10 * KB)
    hooked_pair.lab.meter.drop()
    transfer(hooked_pair, "v4", 10 * KB)
    assert _remembered(hooked_pair) == 1
    time.sleep(31)
    with hooked_pair.engaged(payload=10 * KB):
        transfer(hooked_pair, "v4", 10 * KB)
    assert _remembered(hooked_pair) == 1


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_a_listener_that_was_there_before_the_engine(lab: Lab, family: str) -> None:
    server = peer(lab.b, "serve", any_address(family), 7220, "recv-all", "send:1000", "close")
    with Pair.open(lab) as pair, pair.engaged(payload=300 * KB):
        client = peer(
            pair.a, "connect", address(pair.b, family), 7220, f"send:{300 * KB}", "fin", "recv-all", "close"
        )
        sent, received = result(client), result(server)
        same(sent, received)
        same(received, sent)


def test_a_first_choice_that_is_not_there_says_nothing_of_the_host(lab: Lab) -> None:
    """Of a listener older than its engine nobody hears which transports there are."""
    old = peer(lab.b, "serve", "0.0.0.0", 7210, "recv-all", "close")
    asked = ("--transport", "tcp,vtl")
    with contextlib.ExitStack() as stack:
        a, b = (host.hooker(*options) for host, options in ((lab.a, asked), (lab.b, ())))
        stack.callback(b.stop)
        stack.callback(a.stop)

        def moved() -> int:
            before = counts(a.status())["engaged"]
            server = peer(lab.b, "serve", "0.0.0.0", 7211, "recv-all", "close")
            client = peer(lab.a, "connect", lab.b.v4, 7211, *("send:1000", "sleep:0.1") * 5, "close")
            same(result(client), result(server))
            return counts(a.status())["engaged"] - before

        assert moved() == 1
        client = peer(lab.a, "connect", lab.b.v4, 7210, *("send:1000", "sleep:0.1") * 40, "close")
        eventually(lambda: a.status()["reasons"].get("no-answer"))
        assert [moved() for _ in range(3)] == [1] * 3
        same(result(client), result(old))


def test_connections_older_than_the_engines_are_left_alone(lab: Lab) -> None:
    steps = [lab.tmp / "up", lab.tmp / "down"]
    server = peer(lab.b, "serve", "0.0.0.0", 7230, "echo-all", "close")
    actions = ["send:1000", "recv:1000"]
    for step in steps:
        actions += [f"wait-file:{step}", "send:30000", "recv:30000"]
    client = peer(lab.a, "connect", lab.b.v4, 7230, *actions, "fin", "recv-all", "close")
    time.sleep(0.3)
    with Pair.open(lab):
        steps[0].touch()
        time.sleep(0.5)
    steps[1].touch()
    sent, echoed = result(client), result(server)
    same(sent, echoed)
    same(echoed, sent)
    assert sent["error"] is None


def test_new_connections_are_tcp_once_the_engines_have_ended(lab: Lab) -> None:
    with Pair.open(lab) as pair:
        transfer(pair, "v4", 1000, port=7240)
    lab.meter.start()
    assert transfer(pair, "v4", 100 * KB, port=7241) < 0.5
    wire = lab.meter.read()
    assert wire.vtl.packets == 0
    exactly_once(pair, 100 * KB)
