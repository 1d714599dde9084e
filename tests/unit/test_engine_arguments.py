"""Arguments of Hooker that will not do are refused at once, by name."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from hooker import ConfigurationError, Hooker


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"busy_poll": -1e-6}, "busy_poll"),
        ({"busy_poll": 1.0}, "busy_poll"),
        ({"hold_time": 0.0}, "hold time"),
        ({"max_flows": 1000}, "max_flows"),
        ({"listen_port": 70000}, "port 70000"),
        ({"redirect": "perhaps"}, "perhaps"),
        ({"intercept": "packets"}, "packets"),
        ({"intercept": "segments", "redirect": "always"}, "redirect does not go with segments"),
        ({"trail": "sometimes"}, "sometimes"),
        ({"intercept": "messages", "trail": "always"}, "trail does not go with messages"),
        ({"intercept": "segments", "tap": print}, "tap does not go with segments"),
        ({"transport": "pigeon"}, "pigeon"),
        ({"transport": "quic", "listen_port": 65535}, r"port 65535 is out of range \(give 0 to 65534"),
        ({"reliability": "carrier-pigeon"}, "carrier-pigeon"),
        (
            {"transport": "tcp", "reliability": "nosuch:X"},
            "nosuch:X is a class for VTL, which is in none",
        ),
        ({"transport": "quic,tcp", "congestion": "nosuch:X"}, "nosuch:X is a class for VTL"),
        ({"intercept": "messages", "reliability": "none"}, "'none' does not go with messages"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Hooker(**arguments)


class Unspeakable:
    """What a message cannot show."""

    def __repr__(self) -> str:
        raise RuntimeError


ODD: dict[str, Any] = {
    "float": -5.5,
    "bytes": b"x",
    "object": object(),
    "list": [None],
    "dict": {"a": 1},
    "empty": "",
    "null": "/no/such\0file",
    "surrogate": "\ud800",
    "whole": 10**5000,
    "digits": "9" * 100_000,
    "nan": float("nan"),
    "unspeakable": Unspeakable(),
}
SAID = {"listen_port": "port", "hold_time": "hold time", "key_file": "key file"}


@pytest.mark.parametrize("name", inspect.signature(Hooker).parameters)
@pytest.mark.parametrize("odd", ODD)
def test_a_value_of_no_sense_is_refused_in_one_line(name: str, odd: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Hooker(**{name: ODD[odd]})
    said = str(refused.value)
    assert SAID.get(name, name) in said
    assert len(said) < 400
    assert said.isprintable()
