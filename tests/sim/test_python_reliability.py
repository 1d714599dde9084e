"""Reliability functions written in Python: they keep what all do, and what they raise or say is no harm."""

from __future__ import annotations

import gc
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sim.channels import Writer, arrived, finish, payload
from sim.network import MS, Link, Pair

from hooker import Reliability
from hooker.vtl.reliability import python

NAME, CODE = "in-python", 200
PATHS = {
    "clean": Link(delay=MS),
    "loss": Link(loss=0.1, delay=20 * MS),
    "reordering": Link(jitter=10 * MS, delay=MS),
}


def example() -> type[Reliability]:
    path = Path(__file__).parents[2] / "examples" / "go_back.py"
    spec = importlib.util.spec_from_file_location("go_back", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: type[Reliability] = module.GoBack
    return found


@pytest.fixture
def registered() -> Iterator[Any]:
    yield lambda function: python.register(NAME, CODE, function)
    python.unregister(NAME)


def run(seed: int, path: str, size: int = 30_000) -> Pair:
    pair = Pair(seed, link=Link(**vars(PATHS[path])), reliability=NAME)
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    assert pair.a.endpoint.reliability(assoc) == NAME
    writer = Writer(pair, assoc, 1, payload(size, seed))
    finish(pair, [writer])
    assert arrived(pair.b, 1) == payload(size, seed)
    for host in (pair.a, pair.b):
        host.datagrams(pair.now)
        assert host.endpoint.borrowed == 0
    return pair


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("seed", range(3))
def test_the_example_brings_every_byte(registered: Any, path: str, seed: int) -> None:
    registered(example())
    run(seed, path)


def test_what_it_does_not_have_is_as_with_selective_repeat(registered: Any) -> None:
    seen: list[int] = []

    class Few(Reliability):
        def may_send(self, outstanding: int) -> bool:
            seen.append(outstanding)
            return outstanding < 3

    registered(Few)
    run(1, "loss")
    assert max(seen) <= 5  # with two probes


def test_an_association_has_one_and_gives_it_back(registered: Any) -> None:
    alive: list[int] = [0]

    class Counted(Reliability):
        def __init__(self) -> None:
            alive[0] += 1

        def __del__(self) -> None:
            alive[0] -= 1

        def may_send(self, outstanding: int) -> bool:
            return True

    registered(Counted)
    pair = run(1, "clean")
    assert alive[0] >= 1  # who only receives is never asked
    del pair
    gc.collect()
    assert alive[0] == 0


def test_what_it_raises_is_told(registered: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Wrong(Reliability):
        def may_send(self, outstanding: int) -> bool:
            raise ValueError("on purpose")

    registered(Wrong)
    pair = Pair(1, reliability=NAME)
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    writer = Writer(pair, assoc, 1, payload(1000))
    writer.fill()
    pair.run_for(0.1)
    assert {str(one.exc_value) for one in told} == {"on purpose"}


@pytest.mark.parametrize("said", [None, (5, 2), (1 << 40, 1 << 40), (1, 1 << 40)])
def test_an_answer_that_cannot_be_is_not_believed(registered: Any, said: tuple[int, int] | None) -> None:
    class Odd(example()):  # type: ignore[misc]
        def on_answer(self, one: int, two: int, three: int, following: int) -> tuple[int, int] | None:
            return said

    registered(Odd)
    pair = Pair(1, link=Link(loss=0.1, delay=MS), reliability=NAME)
    assoc = pair.connect()
    pair.run(lambda: bool(pair.b.endpoint.associations))
    Writer(pair, assoc, 1, payload(30_000)).fill()
    pair.run_for(1.0)  # whatever becomes of the bytes


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"order": lambda self, number: 0}, r"no method accepts\(\)"),
        ({"ack_every": 0}, "ack_every is no number"),
        ({"ack_every": "2"}, "ack_every is no number"),
    ],
)
def test_what_does_not_go_together_is_refused(body: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        python.register(NAME, CODE, type("Odd", (Reliability,), body))
    with pytest.raises(KeyError):
        python.unregister(NAME)
