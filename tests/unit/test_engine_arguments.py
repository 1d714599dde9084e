"""Arguments of Hooker that will not do are refused at once, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hooker import ConfigurationError, Hooker
from hooker.control import keyfile


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
        ({"intercept": "segments", "tap": print}, "tap does not go with segments"),
        ({"transport": "pigeon"}, "pigeon"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Hooker(**arguments)


def test_connections_that_begin_on_tcp_are_not_encrypted_and_nobody_says_so(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(keyfile.make())
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="key_file does not go with segments"):
        Hooker(intercept="segments", key_file=path)
