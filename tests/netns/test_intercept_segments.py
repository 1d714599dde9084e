"""`hooker up --intercept segments`: the whole engine, started, asked, stopped and killed as people do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support import Pair, any_address, counts, eventually, peer, result, same

from hooker.lab import Lab

SEGMENTS = ("--intercept", "segments")
PORT = 8080
BULK = 60_000_000


@pytest.fixture
def pair() -> Iterator[Pair]:
    with Lab() as lab, Pair.open(lab, options=SEGMENTS) as made:
        yield made


def engaged(pair: Pair) -> bool:
    return all(counts(engine.status())["engaged"] for engine in pair.engines)


def test_a_transfer_moves_to_the_transport_and_arrives(pair: Pair) -> None:
    server = peer(pair.b, "serve", any_address("v4"), PORT, "recv-all")
    client = peer(pair.a, "connect", pair.b.v4, PORT, f"send:{BULK}", "fin", "wait-end")
    one, other = result(client), result(server)
    same(one, other)
    assert engaged(pair)
    for engine in pair.engines:
        status = engine.status()
        assert status["engine"]["intercept"] == "segments"
        assert status["engine"]["redirect"] == "segments are taken"
        assert not status["counters"]["kernel.held"]
    assert pair.lab.meter.read().vtl.payload > BULK / 2


@pytest.mark.parametrize("how", ["stop", "kill"])
@pytest.mark.parametrize("who", ["client", "server", "both"])
def test_without_engines_a_transfer_goes_on_over_tcp(pair: Pair, how: str, who: str) -> None:
    server = peer(pair.b, "serve", any_address("v4"), PORT, "recv-all")
    actions = (f"send:{BULK}", "sleep:3", f"send:{BULK}", "fin", "wait-end")
    client = peer(pair.a, "connect", pair.b.v4, PORT, *actions)
    eventually(lambda: engaged(pair))
    for engine, name in zip(pair.engines, ("client", "server"), strict=True):
        if who in (name, "both"):
            assert engine.stop() == 0 if how == "stop" else engine.kill9() is None
    one, other = result(client), result(server)
    same(one, other)
    assert one["sent"] == 2 * BULK


def ruled(pair: Pair) -> list[bool]:
    """Whether each host has a routing rule of an engine: it makes every route lookup dearer."""
    listed = (host.run(["ip", "rule"], hooked=False, text=True, stdout=-1).stdout for host in pair.lab.hosts)
    return ["0x484b" in text for text in listed]


def test_the_rule_comes_with_the_first_candidate(pair: Pair) -> None:
    server = peer(pair.b, "serve", any_address("v4"), PORT, "recv-all")
    assert ruled(pair) == [False, False]
    client = peer(pair.a, "connect", pair.b.v4, PORT, f"send:{BULK}", "fin", "wait-end")
    same(result(client), result(server))
    assert ruled(pair) == [True, True]
    assert engaged(pair)


def test_where_flows_are_held_the_rule_is_there_before() -> None:
    with Lab() as lab, Pair.open(lab, options=(*SEGMENTS, "--hold")) as pair:
        assert ruled(pair) == [True, True]


def test_several_engines_of_one_namespace(pair: Pair) -> None:
    """As with `hooker run` in several terminals: each has a device of its own."""
    again = pair.a.hooker(*SEGMENTS, port=7001)
    assert again.stop() == 0
