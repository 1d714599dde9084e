"""VTL in the process of a user's class, without an engine."""

from __future__ import annotations

import random
import re
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
from hooker.vtl.reliability.base import Reliability

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKER_PATH", f"{ROOT / 'examples'}:{ROOT / 'tests' / 'classes'}")


def lone(reliability: str = "selective-repeat", **settings: Any) -> Lone:
    return Lone(make(1, Settings(functions=(functions.parse(reliability),), **settings)))


def named(function: str) -> bytes:
    """HELLO's option."""
    return bytes([1, len(function)]) + function.encode() if function else b""


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
    hello = encode("hello", epoch=1, token=7, own_token=8, data=named(one.get("reliability", "")))
    until(lambda: told(b, "up") or a.say(there, hello), a, b)
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


@pytest.mark.parametrize("other", ["go_back:GoBack", "go_back:Other", ""])
def test_who_has_our_number_but_another_name_is_not_spoken_to(other: str) -> None:
    """One of 128 has: each end would take the other's for its own."""
    a, b = lone("go_back:GoBack"), lone("go_back:GoBack")
    there = a.connect(HOME, b.port)
    until(lambda: a.is_up(there), a, b)
    a.say(there, encode("hello", epoch=1, token=7, own_token=8, data=named(other)))
    fits = other == "go_back:GoBack"
    until(lambda: messages(b, "hello") if fits else told(b, "down"), a, b)
    assert [one[2] for one in told(b, "down")] == ([] if fits else ["name"])
    a.shut()
    b.shut()


@pytest.mark.parametrize(
    ("cls", "why"),
    [
        ("reliability", "broken_vtl:Greedy: Greedy cannot be made: Greedy(): "),
        ("reliability", "broken_vtl:Late: ValueError: on purpose (broken_vtl.py:"),
        ("congestion", "broken_vtl:Text: Text.cwnd is 'wide', which is no number of bytes"),
        ("congestion", "broken_vtl:NotANumber: NotANumber.cwnd is nan, which is no number of bytes"),
    ],
)
def test_what_cannot_be_made_is_found_at_the_start(cls: str, why: str) -> None:
    name = ":".join(why.split(":")[:2])
    with pytest.raises(PrototypeError, match=re.escape(why)):
        lone(**{cls: name})


def test_what_both_ends_must_agree_on_is_in_the_number() -> None:
    from hooker.prototype.vtl import _code

    class Gives(Reliability):
        def gives_up(self, repeats: int, age: float) -> bool:
            return True

    class Orders(Reliability):
        def order(self, number: int) -> int:
            return number

    codes = {_code("mine:Mine", one) for one in (Reliability, Gives, Orders)}
    assert len(codes) == 3
    assert codes <= set(range(128, 256))


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
