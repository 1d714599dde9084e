"""VTL in the process of a user's class, without an engine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from lone import HOME, TOKEN, messages, told, until

from hooker.errors import ConfigurationError
from hooker.flow.messages import encode
from hooker.transports import check_congestion, functions
from hooker.transports.children import PrototypeError
from hooker.transports.face import Lone
from hooker.transports.makers import Settings, make

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKER_PATH", f"{ROOT / 'examples'}:{ROOT / 'tests' / 'classes'}")


def lone(reliability: str = "selective-repeat", **settings: Any) -> Lone:
    return Lone(make(1, Settings(functions=(functions.parse(reliability),), **settings)))


def arrived(end: Lone) -> bytes:
    """DATA from the first byte on, as far as there is no gap: what was repeated may be cut in another way."""
    got = b""
    for position, data in sorted((m["position"], m["data"]) for m in messages(end, "data")):
        if position > len(got):
            break
        got = got[:position] + data + got[position + len(data) :]
    return got


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"congestion": "gentle:Gentle"}, {}),
        ({}, {"congestion": "gentle:Gentle"}),
        ({"reliability": "go_back:GoBack"}, {"reliability": "go_back:GoBack", "congestion": "gentle:Gentle"}),
        ({"reliability": "go_back:GoBack"}, {}),
    ],
)
def test_messages_and_data_in_both_directions(one: dict[str, Any], other: dict[str, Any]) -> None:
    a, b = lone(**one), lone(**other)
    there = a.connect(HOME, b.port)
    until(lambda: told(b, "up") or a.say(there, encode("hello", epoch=1, token=7, own_token=8)), a, b)
    until(lambda: a.is_up(there) and told(b, "up"), a, b)
    here = told(b, "up")[0][1]
    both = {one.get("reliability"), other.get("reliability")}
    function = both.pop() if len(both) == 1 and None not in both else "selective-repeat"
    assert (a.stats(there)["reliability"], b.stats(here)["reliability"]) == (function, function)
    payload = random.Random(1).randbytes(400_000)
    for end, number in ((a, there), (b, here)):
        channel = end.channel(number)
        for at in range(0, len(payload), 20_000):
            block = payload[at : at + 20_000]
            assert end.send(channel, encode("data", epoch=1, position=at, token=TOKEN, data=block))
    for end in (a, b):
        until(lambda end=end: len(arrived(end)) >= len(payload), a, b, seconds=20)
        assert arrived(end) == payload
    until(lambda: sum(loan[2] for loan in told(a, "release")) == len(payload), a, b)
    a.close(there)
    until(lambda: told(a, "down") and told(b, "down"), a, b)
    a.shut()
    b.shut()


@pytest.mark.parametrize(
    "what", [{"congestion": "broken_vtl:Raises"}, {"reliability": "broken_vtl:RaisesToo"}]
)
def test_one_that_raises_has_failed(what: dict[str, Any]) -> None:
    a, b = lone(**what), lone(**(what if "reliability" in what else {}))
    there = a.connect(HOME, b.port)
    until(lambda: a.is_up(there) or told(a, "failed"), a, b)
    if not told(a, "failed"):
        a.send(a.channel(there), encode("data", epoch=1, position=1, token=TOKEN, data=bytes(100_000)))
    until(lambda: told(a, "down") and told(a, "failed"), a, b)
    assert told(a, "down")[0] == ("down", there, "prototype")
    ((_, why),) = told(a, "failed")
    (name,) = what.values()
    assert why.startswith(f"{name}: ValueError: on purpose (broken_vtl.py:")
    a.shut()
    b.shut()


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"congestion": "broken_vtl:Wide"}, "TypeError: Wide.cwnd is 'wide', which is no number of bytes"),
        (
            {"reliability": "broken_vtl:WrongOrder"},
            "TypeError: WrongOrder.order() has given 'first', which is no",
        ),
        ({"reliability": "broken_vtl:NoOrder"}, "TypeError: NoOrder.order() has given -1, which is no"),
    ],
)
def test_what_a_method_gives_is_looked_at(what: dict[str, Any], why: str) -> None:
    """And it is told which one's it was."""
    a, b = lone(**what), lone(**(what if "reliability" in what else {}))
    there = a.connect(HOME, b.port)
    until(lambda: a.is_up(there) or told(a, "failed"), a, b)
    if not told(a, "failed"):
        a.send(a.channel(there), encode("data", epoch=1, position=1, token=TOKEN, data=bytes(100_000)))
    until(lambda: told(a, "failed"), a, b)
    ((_, said),) = told(a, "failed")
    (name,) = what.values()
    assert said.startswith(f"{name}: {why}")
    assert ".pyx" not in said
    a.shut()
    b.shut()


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"congestion": "nosuch:Mine"}, "there is no module nosuch"),
        ({"congestion": "broken_vtl:Bare"}, "Bare has no attribute cwnd"),
        ({"congestion": "broken_vtl:number"}, "number is no class"),
        ({"congestion": "collections:OrderedDict"}, "OrderedDict is no congestion controller"),
        ({"congestion": "hooker:Hooker"}, "Hooker is no congestion controller"),
        ({"reliability": "broken_vtl:Bare"}, "Bare is no subclass of hooker.Reliability"),
        (
            {"reliability": "broken_vtl:Half"},
            "Half has no method accepts(), which goes with the others",
        ),
    ],
)
def test_what_is_wrong_with_a_class_is_one_line(
    what: dict[str, Any], why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(PrototypeError) as error:
        lone(**what)
    assert "Traceback" not in capfd.readouterr().err
    assert str(error.value).startswith(f"{next(iter(what.values()))}: {why}")


def test_names_of_classes_are_no_names_of_ours() -> None:
    assert check_congestion("gentle:Gentle") == "gentle:Gentle"
    assert str(functions.parse("a.b:C")) == "a.b:C"
    assert not functions.repairs(functions.parse("a.b:C"))
    for wrong in ("none:Mine", "go-back-n:Mine", "a:", "a.b:C:window=3"):
        with pytest.raises(ConfigurationError):
            functions.parse(wrong)
    with pytest.raises(ConfigurationError):
        check_congestion("a:b:c")


def test_a_key_does_not_go_with_it() -> None:
    with pytest.raises(ConfigurationError, match="a key does not go with it"):
        lone(congestion="gentle:Gentle", keys=(bytes(32),))
