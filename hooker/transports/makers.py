"""Which module makes which transport, and what it is told.

A module has ``make(settings)``, which returns a ``Handle`` (``contract.pyx``). It is loaded when wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, cast

from hooker.errors import ConfigurationError
from hooker.transports.functions import Function

if TYPE_CHECKING:
    from hooker.transports.contract import Handle

__all__ = ["Function", "Settings", "make"]

_MODULES = {  # by the transport's number in the TCP option
    1: "hooker.transports.vtl_udp",
    2: "hooker.transports.vtl_udplite",
    4: "hooker.transports.vtl_ip",
    5: "hooker.transports.bare_udp",
    6: "hooker.transports.bare_udplite",
    8: "hooker.transports.bare_ip",
    11: "hooker.transports.mptcp",
    12: "hooker.transports.tcp",
}

BUDGET = 192 << 20  # bytes that peers may make an engine hold


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine wants of its transports; each takes what concerns it.

    ``dead_after``: seconds of silence after which a peer is given up. ``datagrams``: bytes of the first and
    of the largest datagram on IPv4. ``congestion``: name of a controller. ``keys``: of 32 bytes each.
    ``fec``: repairs are sent. ``parameters``: by the transport's number, those that a user has given.
    ``reliability``: of associations that this engine begins; ``unrepaired``: peers may begin such as leave
    losses to the applications' TCPs. ``budget``: bytes that peers may make each transport hold, at most.
    """

    dead_after: float = 5.0
    datagrams: tuple[int, int] = (1472, 1472)
    congestion: str = "auto"
    keys: tuple[bytes, ...] = ()
    fec: bool = True
    parameters: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    reliability: Function = field(default_factory=Function)
    unrepaired: bool = True
    budget: int = BUDGET

    def given(self, wire_id: int) -> Mapping[str, int]:
        return self.parameters.get(wire_id, {})


def make(wire_id: int, settings: Settings) -> Handle:
    """Raises ConfigurationError: there is none with this number, or it cannot be as ``settings`` wants it."""
    if wire_id not in _MODULES:
        raise ConfigurationError(f"this engine has no transport with the number {wire_id}")
    return cast("Handle", import_module(_MODULES[wire_id]).make(settings))
