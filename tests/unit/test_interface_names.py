"""What may be said of interfaces (``--xdp``)."""

from __future__ import annotations

import pytest

from hooker import ConfigurationError
from hooker.control.interfaces import names


@pytest.mark.parametrize("wanted", ["eth0,eth1:native,eth2:auto", ["eth0", "eth1:native", "eth2:auto"]])
def test_names_may_have_modes(wanted: str | list[str]) -> None:
    assert names(wanted) == ("eth0", "eth1:native", "eth2:auto")


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("", "'' is no name of an interface"),
        ("eth 0", "'eth 0' is no name"),
        ("a" * 16, "is no name"),
        ("eth0:fast", "there is no mode 'fast'"),
        ("lo,eth0,lo:native", "names lo twice"),
        (",".join(f"eth{n}" for n in range(17)), "names 17 interfaces, 16 are the most"),
        (7, "is no list of interfaces"),
    ],
)
def test_what_cannot_be_is_named(wanted: str, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        names(wanted)
