"""Arguments of Hooker that will not do are refused at once, by name."""

from __future__ import annotations

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
        ({"reliability": "carrier-pigeon"}, "carrier-pigeon"),
        ({"intercept": "messages", "reliability": "none"}, "'none' does not go with messages"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Hooker(**arguments)
