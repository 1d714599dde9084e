"""Ports and prefixes as people write them on the command line."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooker.control.addressed import format_ports, parse_ports, parse_prefixes
from hooker.control.policy import Policy
from hooker.control.rules import Rule
from hooker.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", {80}),
        ("80,443", {80, 443}),
        (" 80 , 443 ", {80, 443}),
        ("8000-8003", {8000, 8001, 8002, 8003}),
        ("1-65535", set(range(1, 65536))),
        ("443,443,440-443", {440, 441, 442, 443}),
    ],
)
def test_ports_and_ranges_are_read(text: str, ports: set[int]) -> None:
    assert parse_ports(text) == ports


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no port"),
        ("80,,443", "80,,443"),
        ("http", "'http'"),
        ("80,99999", "'99999'"),
        ("0", "'0'"),
        ("-1", "'-1'"),
        ("80-", "'80-'"),
        ("443-80", "'443-80'"),
        ("80.5", "'80.5'"),
        ("٨٠", "'٨٠'"),
        ("1-99999999999999", "'99999999999999' is out of range"),
        ("9" * 100_000, "is out of range"),
        (f"2-{'0' * 100_000}1", "runs backwards"),
    ],
)
def test_a_bad_port_is_named_with_a_remedy(text: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_ports(text)
    assert named in caught.value.message
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.frozensets(st.integers(1, 65535), min_size=1, max_size=50))
def test_formatted_ports_read_back_the_same(ports: frozenset[int]) -> None:
    assert parse_ports(format_ports(ports)) == ports


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        ("10.0.0.0/8,fd00::/8", ["10.0.0.0/8", "fd00::/8"]),
        ("192.0.2.1", ["192.0.2.1/32"]),
        ("2001:db8::1", ["2001:db8::1/128"]),
        ("0.0.0.0/0", ["0.0.0.0/0"]),
        ("10.0.0.0/255.0.0.0", ["10.0.0.0/8"]),
        ("10.1.0.0/16,10.0.0.0/8", ["10.0.0.0/8"]),
        ("::ffff:10.0.0.0/104", ["10.0.0.0/8"]),
        ("::/0", ["::/0"]),
    ],
)
def test_prefixes_are_read(text: str, networks: list[str]) -> None:
    assert parse_prefixes(text) == tuple(ip_network(n) for n in networks)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "no prefix"),
        ("10.0.0.0/33", "'10.0.0.0/33'"),
        ("300.0.0.1", "'300.0.0.1'"),
        ("example.org", "'example.org'"),
        ("10.0.0.0/8,", "10.0.0.0/8,"),
        ("fd00::/129", "'fd00::/129'"),
    ],
)
def test_a_bad_prefix_is_named_with_a_remedy(text: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_prefixes(text)
    assert named in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::%1/64", "10.0.0.0/8,fe80::1%eth0"])
def test_a_prefix_with_an_interface_is_refused(text: str) -> None:
    """ip_network() takes it, and forgets the interface."""
    with pytest.raises(ConfigurationError, match="names an interface"):
        parse_prefixes(text)


def test_host_bits_in_a_prefix_are_answered_with_what_was_meant() -> None:
    with pytest.raises(ConfigurationError, match=r"write 10\.0\.0\.0/8"):
        parse_prefixes("10.1.2.3/8")


def test_the_empty_policy_takes_everything_but_loopback() -> None:
    policy = Policy()
    assert policy.matches("192.0.2.1", 80)
    assert policy.matches("2001:db8::1", 22)
    assert not policy.matches("127.0.0.1", 80)
    assert not policy.matches("::1", 80)
    assert not policy.matches("::ffff:127.0.0.1", 80)


def test_ports_and_prefixes_must_both_match() -> None:
    policy = Policy.parse(port="80", to="10.0.0.0/8,fd00::/8")
    assert policy.matches("10.1.1.1", 80)
    assert policy.matches("::ffff:10.1.1.1", 80)
    assert policy.matches("fd12::1", 80)
    assert not policy.matches("10.1.1.1", 81)
    assert not policy.matches("11.1.1.1", 80)
    assert not policy.matches("fe80::1", 80)


def test_a_policy_made_in_code_is_checked_too() -> None:
    with pytest.raises(ConfigurationError, match="70000"):
        Policy(ports=frozenset({70000}))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"ports": 5}, "ports=5 is no list"),
        ({"ports": "80"}, "ports='80' is no list"),
        ({"ports": None}, "ports=None is no list"),
        ({"prefixes": 5}, "prefixes=5 is no list"),
        ({"prefixes": "10.0.0.0/8"}, "is no list"),
        ({"prefixes": ["10.0.0.0/8"]}, "is not a network"),
        ({"rules": None}, "rules=None is no list"),
        ({"rules": "transport=tcp"}, "is no list"),
        ({"rules": ["transport=tcp"]}, "rule 'transport=tcp' is none"),
    ],
)
def test_what_is_no_policy_is_refused_in_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        Policy(**fields)


def test_any_list_makes_a_policy() -> None:
    fields: dict[str, Any] = {
        "ports": [80, 81],
        "prefixes": [IPv4Network("10.0.0.0/8")],
        "rules": [Rule(transport="tcp")],
    }
    assert Policy(**fields) == Policy.parse(port="80,81", to="10.0.0.0/8", rules=["transport=tcp"])


def test_a_policy_prints_as_a_person_would_say_it() -> None:
    assert str(Policy()) == "all hosts, all ports"
    assert str(Policy.parse(port="443,80,8000-8010", to="10.0.0.0/8")) == "10.0.0.0/8, 80,443,8000-8010"
