"""The registry of transports."""

from __future__ import annotations

import pytest

from hooker import transports
from hooker.errors import ConfigurationError
from hooker.transports import Transport


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_registry", dict(transports._registry))


def test_vtl_is_known() -> None:
    assert transports.get("vtl").name == "vtl"
    assert "vtl" in transports.names()


def test_an_unknown_name_raises_and_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match="unknown transport 'quic'") as caught:
        transports.get("quic")
    assert "vtl" in caught.value.remedy


def test_a_registered_transport_is_found_and_listed() -> None:
    mine = transports.register(Transport("mine", 77, "forty lines"))
    assert transports.get("mine") is mine
    assert transports.names() == ["mine", "vtl"]


@pytest.mark.parametrize(
    "again", [Transport("vtl", 9, ""), Transport("other", 1, ""), Transport("big", 256, "")]
)
def test_a_name_or_number_cannot_be_taken_twice(again: Transport) -> None:
    with pytest.raises(ConfigurationError):
        transports.register(again)


def test_an_unknown_congestion_controller_raises_and_lists_the_known_ones() -> None:
    assert transports.check_congestion("bbr") == "bbr"
    with pytest.raises(ConfigurationError, match="unknown congestion controller 'vegas'") as caught:
        transports.check_congestion("vegas")
    assert {"auto", "bbr", "cubic"} <= set(caught.value.remedy.removeprefix("known: ").split(", "))
