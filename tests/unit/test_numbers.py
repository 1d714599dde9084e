"""Numbers from users: what passes is finite and in range, all else is refused."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooker import ConfigurationError, Hooker, Policy, checks
from hooker.cli import commands as cli
from hooker.cli.launch import Launcher
from hooker.cli.session import Options
from hooker.lab import demo
from hooker.lab.link import RANGES, Link
from hooker.vtl.sansio import DEFAULTS, Endpoint

ODD = [
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "-0.1",
    "",
    " ",
    "1 ",
    "1_0",
    "٣",
    "１０",
    "0x10",
    "9" * 30,
    "1e5",
    ",",
    "-",
]
WORDS = st.one_of(
    st.sampled_from(ODD),
    st.text(max_size=12),
    st.floats().map(str),
    st.integers().map(str),
    st.integers(0, 65535).map(str),
)
VALUES = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.text(max_size=4),
    st.sampled_from(["0", "1", "64", "0.5"]),  # text is a number wherever it is taken for one
    st.integers(0, 1 << 17).map(str),
    st.floats(0, 1),
    st.integers(0, 1 << 17),
)


def numeric(command: str) -> list[tuple[str, cli.Number]]:
    return [
        (next(name for name in option.opts if name.startswith("--")), option.type)
        for option in cli.cli.commands[command].params
        if isinstance(option, click.Option) and isinstance(option.type, cli.Number)
    ]


CASES = [(command, *found) for command in cli.cli.commands for found in numeric(command)]


def test_every_number_of_the_command_line_takes_the_one_check() -> None:
    for command in cli.cli.commands.values():
        for option in command.params:
            assert not isinstance(option.type, click.types.IntParamType | click.types.FloatParamType), (
                option.name
            )
    assert {name for _, name, _ in CASES} == {
        "--listen-port",
        "--busy-poll",
        "--linger",
        "--ready-fd",
        "--pid",
        "--rule",
    }


@given(case=st.sampled_from(CASES), word=WORDS)
def test_an_option_is_a_number_in_its_range_or_refused(case: tuple[str, str, cli.Number], word: str) -> None:
    command, name, kind = case
    arguments = [f"{name}={word}", *(["true"] if command == "run" else [])]
    try:
        context = cli.cli.commands[command].make_context(command, arguments)
    except click.BadParameter:
        return
    value = context.params[name.removeprefix("--").replace("-", "_")]
    assert math.isfinite(value)
    assert kind.low <= value <= kind.high
    assert word.isascii()
    assert value == float(word)


@given(value=VALUES, low=st.floats(-1e6, 1e6), width=st.floats(0, 1e6))
def test_a_real_number_is_finite_and_in_range_or_refused(value: Any, low: float, width: float) -> None:
    try:
        passed = checks.real("x", value, low, low + width)
    except ConfigurationError:
        return
    assert math.isfinite(passed)
    assert low <= passed <= low + width
    assert not isinstance(value, bool)


@pytest.mark.parametrize("word", ODD)
def test_odd_words_are_no_numbers(word: str) -> None:
    with pytest.raises(ConfigurationError):
        checks.integer("x", word, 0, 1 << 16)


@pytest.mark.parametrize("value", [True, False, 1.0, math.nan, math.inf, None, b"1", [], 1 + 0j])
def test_what_is_no_whole_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError):
        checks.integer("x", value, 0, 1)


@pytest.mark.parametrize("value", [True, False, math.nan, math.inf, -math.inf, None, b"1", [], 1 + 0j])
def test_what_is_no_finite_number_is_refused(value: Any) -> None:
    with pytest.raises(ConfigurationError):
        checks.real("x", value, -1e308, 1e308)


API: list[tuple[str, Callable[[Any], object]]] = [
    ("hold_time", lambda value: Hooker(hold_time=value).hold_time),
    ("busy_poll", lambda value: Hooker(busy_poll=value).busy_poll),
    ("max_flows", lambda value: Hooker(max_flows=value).max_flows),
    ("listen_port", lambda value: Hooker(listen_port=value).listen_port),
    ("linger", lambda value: Launcher(Options(), ["true"], linger=value)._linger),
    ("options-port", lambda value: Options(listen_port=value).listen_port or 0),
    ("options-poll", lambda value: Options(busy_poll=value).busy_poll),
    ("policy", lambda value: next(iter(Policy(ports=frozenset({value})).ports))),
]


@pytest.mark.parametrize("make", [make for _, make in API], ids=[name for name, _ in API])
@given(value=VALUES)
def test_an_argument_is_finite_and_in_range_or_refused(make: Callable[[Any], Any], value: Any) -> None:
    try:
        taken = make(value)
    except ConfigurationError:
        return
    assert 0 <= taken <= 1 << 20


@given(name=st.sampled_from([field.name for field in dataclasses.fields(Link)]), value=VALUES)
def test_a_links_setting_is_finite_and_in_range_or_refused(name: str, value: Any) -> None:
    try:
        link = Link(**{"delay": 0.01, name: value})
    except ConfigurationError:
        return
    if name in RANGES:
        assert RANGES[name][0] <= getattr(link, name) <= RANGES[name][1]
    assert link.queue_bytes >= 0


SETTINGS = [name for name, value in DEFAULTS.items() if type(value) is int]


@given(name=st.sampled_from(SETTINGS), value=VALUES)
def test_a_setting_of_the_protocol_is_whole_and_in_range_or_refused(name: str, value: Any) -> None:
    try:
        endpoint = Endpoint(**{name: value})
    except ValueError:
        return
    endpoint.connect(("10.0.0.2", 6253), 0)
    assert endpoint.datagrams_to_send(1)


@given(word=WORDS)
def test_the_demos_size_is_a_number_of_bytes_or_refused(word: str) -> None:
    try:
        assert 0 <= demo.parse_size(word) <= demo.MAX_SIZE
    except ValueError:
        return
    assert word.isascii()
