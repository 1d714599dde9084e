"""Rules for how connections are moved: what users write, and what it comes to."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hooker import ConfigurationError, Policy, Rule
from hooker.control.rules import MOST_RULES, all_skipped, change, find_ways, opened, without
from hooker.transports.functions import Function, limits_of


def ways(transport: str, *rules: str, reliability: str = "selective-repeat") -> Sequence[tuple[str, str]]:
    found = find_ways(transport, reliability, [Rule.read(rule) for rule in rules])
    return [(str(way.choice), str(way.function)) for way in found]


def test_a_rule_is_read_and_shown() -> None:
    rule = Rule.read(" port=80,8000-8002  to=10.0.0.0/8 transport=tcp,vtl reliability=go-back-n:window=9 ")
    assert rule.ports == {80, 8000, 8001, 8002}
    assert rule.matches("10.1.1.1", 80)
    assert not rule.matches("11.1.1.1", 80)
    assert not rule.matches("10.1.1.1", 81)
    assert str(rule) == "10.0.0.0/8, 80,8000-8002, transport tcp,vtl, reliability go-back-n:window=9"
    assert Policy.parse(port="80", rules=["transport=tcp"]).rules == (Rule(transport="tcp"),)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "says nothing about how"),
        ("port=80", "says nothing about how"),
        ("port=x", "is not a number"),
        ("port=80 transport", "'transport' is no part"),
        ("colour=red transport=vtl", "'colour=red' is no part"),
        ("port=80 port=81 transport=vtl", "port is given twice"),
        ("port=0 transport=vtl", "out of range"),
        ("port= transport=vtl", "port has no value"),
        ("transport=", "transport has no value"),
        ("transport=vtl reliability=", "reliability has no value"),
        ("to=10.0.0.1/8 transport=vtl", "beyond its length"),
        ("to=nowhere transport=vtl", "not an address"),
    ],
)
def test_a_rule_that_cannot_be_read_is_refused(text: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        Rule.read(text)


@pytest.mark.parametrize("wrong", [None, 7, b"transport=vtl"])
def test_what_is_no_text_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="is no text"):
        Rule.read(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="is none"):
        Policy(rules=(wrong,))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 7, b"vtl", ["vtl"]])
def test_a_rule_made_in_code_is_checked_too(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match=r"transport .* of a rule is no text"):
        Rule(transport=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"reliability .* of a rule is no text"):
        Rule(reliability=wrong)  # type: ignore[arg-type]


def test_a_list_of_rules_is_no_text() -> None:
    with pytest.raises(ConfigurationError, match="no list"):
        Policy.parse(rules="transport=vtl")


def test_what_a_rule_leaves_open_is_the_engines() -> None:
    assert ways("vtl,tcp", "port=1 transport=tcp", "port=2 reliability=none", reliability="go-back-n") == [
        ("vtl,tcp", "go-back-n"),
        ("tcp", "go-back-n"),
        ("vtl,tcp", "none"),
    ]


def test_the_engine_opens_what_any_rule_names() -> None:
    found = find_ways("vtl", "none", [Rule(transport="tcp"), Rule(transport="vtl,vtl+ip")])
    assert [transport.name for transport in opened(found)] == ["vtl", "tcp", "vtl+ip"]


def test_a_transport_that_cannot_be_had_is_skipped_in_each_rule() -> None:
    found = find_ways("vtl", "none", [Rule(transport="tcp"), Rule(transport="tcp,vtl")])
    left = without(found, {12: "its port is taken"})
    assert [str(way.choice) for way in left] == ["vtl", "", "vtl"]
    assert [way.first for way in left] == [1, 0, 1]
    assert all_skipped(left) == {"tcp": "its port is taken"}


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (["transport=nonsense"], "rule 1: unknown transport 'nonsense'"),
        (["transport=tcp", "reliability=nonsense"], "rule 2: unknown reliability function"),
        (["reliability=partial"], "rule 1: .*needs a limit"),
        (["transport=vtl,vtl"], "rule 1: .*named twice"),
        (["reliability=go-back-n:window=3", "reliability=go-back-n:window=4"], "given as go-back-n:window=3"),
        (["transport=tcp", "transport=mptcp"], "rule 2: .*has the TCP port"),
        (
            ["transport=vtl+udplite:coverage=20", "transport=vtl+udplite:coverage=40"],
            "rule 2: .*started with vtl.udplite:coverage=20",
        ),
        (["transport=tcp"] * (MOST_RULES + 1), "16 rules are given, 15 are the most"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rules: list[str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named):
        ways("vtl", *rules)


def test_one_function_has_one_set_of_limits() -> None:
    functions = [Function("none"), Function("go-back-n", window=9), Function("partial", deadline=0.2)]
    assert limits_of(functions) == Function("none", window=9, deadline=0.2)


def test_a_change_of_the_engines_own_is_one_of_the_rules_that_leave_it_open() -> None:
    rules = [Rule(transport="tcp"), Rule(reliability="none")]
    found = find_ways("vtl,tcp", "selective-repeat", rules)
    new = change(found, rules, opened(found), transport="tcp", reliability="go-back-n")
    assert [(str(way.choice), str(way.function)) for way in new] == [
        ("tcp", "go-back-n"),
        ("tcp", "go-back-n"),
        ("tcp", "none"),
    ]
    new = change(found, rules, opened(found), transport="vtl", rule=1)
    assert [str(way.choice) for way in new] == ["vtl,tcp", "vtl", "vtl,tcp"]


def test_what_has_failed_is_not_chosen_again() -> None:
    found = find_ways("vtl,tcp", "none", [])
    chosen = change(found, [], opened(found), transport="vtl,tcp", failed={1: "its class has failed"})
    assert [(str(way.choice), way.choice.skipped) for way in chosen] == [
        ("tcp", (("vtl", "its class has failed"),))
    ]
    with pytest.raises(ConfigurationError, match="'vtl' has failed: its class has failed"):
        change(found, [], opened(found), transport="vtl", failed={1: "its class has failed"})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"transport": "mptcp"}, "started without it"),
        ({"transport": "tcp", "rule": 2}, "rule"),
        ({"transport": "tcp", "rule": -1}, "rule"),
        ({"transport": "tcp", "rule": "one"}, "rule"),
        ({"transport": 7}, "no list"),
        ({"reliability": 7}, "no text"),
        ({"reliability": "partial:repeats=1"}, "started without"),
        ({"reliability": "go-back-n:window=5"}, "started with reliability go-back-n:window=4"),
        ({"reliability": "stop-and-wait:window=5"}, "no limit"),
    ],
)
def test_a_change_that_the_engine_was_not_started_for_is_refused(
    settings: dict[str, object], named: str
) -> None:
    rules = [Rule(transport="tcp", reliability="go-back-n:window=4")]
    found = find_ways("vtl", "selective-repeat", rules)
    with pytest.raises(ConfigurationError, match=named):
        change(found, rules, opened(found), **settings)  # type: ignore[arg-type]
