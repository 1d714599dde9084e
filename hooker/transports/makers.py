"""Which module makes which transport, and what it is told.

A module has ``make(settings)``, which returns a ``Handle`` (``contract.pyx``). It is loaded when wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from hooker.errors import ConfigurationError
from hooker.transports import classes
from hooker.transports.children import Plan, PrototypeError
from hooker.transports.functions import Function, code, is_complete
from hooker.transports.registry import PROTOTYPE

if TYPE_CHECKING:
    from hooker.transports.contract import Handle

__all__ = ["Function", "PrototypeError", "Settings", "code", "is_complete", "make"]

_MODULES = {  # by the transport's number in the TCP option
    1: "hooker.transports.vtl_udp",
    2: "hooker.transports.vtl_udplite",
    4: "hooker.transports.vtl_ip",
    5: "hooker.transports.bare_udp",
    6: "hooker.transports.bare_udplite",
    8: "hooker.transports.bare_ip",
    9: "hooker.transports.sctp",
    10: "hooker.transports.quic",
    11: "hooker.transports.mptcp",
    12: "hooker.transports.tcp",
}

_VTL = {1: "vtl", 2: "vtl+udplite", 4: "vtl+ip"}

_SETTING = {"congestion": "congestion", "reliability": "functions"}  # that a class stands for
BUDGET = 192 << 20  # bytes that peers may make an engine hold


@dataclass(frozen=True, slots=True)
class Settings:
    """What an engine wants of its transports; each takes what concerns it.

    ``dead_after``: seconds of silence after which a peer is given up. ``datagrams``: bytes of the first and
    of the largest datagram on IPv4. ``congestion``: name of a controller. ``keys``: of 32 bytes each.
    ``fec``: repairs are sent. ``parameters``: by the transport's number, those that a user has given.
    ``functions``: of associations that this engine begins, its own first; ``unrepaired``: peers may
    begin such as leave losses to the applications' TCPs. ``budget``: bytes that peers may make
    each transport hold, at most.
    ``prototype``: name and place of a user's class that is a transport.
    """

    dead_after: float = 5.0
    datagrams: tuple[int, int] = (1472, 1472)
    congestion: str = "auto"
    keys: tuple[bytes, ...] = ()
    fec: bool = True
    parameters: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    functions: tuple[Function, ...] = (Function(),)
    unrepaired: bool = True
    budget: int = BUDGET
    prototype: tuple[str, str] = ("", "")

    def given(self, wire_id: int) -> Mapping[str, int]:
        return self.parameters.get(wire_id, {})


def make(wire_id: int, settings: Settings) -> Handle:
    """Raises ConfigurationError: there is none with this number, or it cannot be as ``settings`` wants it."""
    if wire_id == PROTOTYPE and settings.prototype[0]:
        return _prototype(settings)
    if wire_id not in _MODULES:
        raise ConfigurationError(f"this engine has no transport with the number {wire_id}")
    if wire_id in _VTL and (deciding := _deciding(settings)):
        return _relay(wire_id, settings, deciding)
    return cast("Handle", import_module(_MODULES[wire_id]).make(settings))


def _prototype(settings: Settings) -> Handle:
    """Raises PrototypeError: the class cannot be had."""
    from hooker.transports import named

    name, place = settings.prototype
    plan = Plan(name, {"transport": place, "directories": classes.directories()})
    return named.make(name, PROTOTYPE, plan, settings)


def _deciding(settings: Settings) -> dict[str, tuple[str, str]]:
    """Users' classes that VTL asks, by what they decide: name and place."""
    from hooker.vtl.congestion import names
    from hooker.vtl.reliability import names as functions

    found = {}
    if settings.congestion not in names() and (place := classes.place_of("congestion", settings.congestion)):
        found["congestion"] = (settings.congestion, place)
    own = settings.functions[0].name
    if own not in functions() and (place := classes.place_of("reliability", own)):
        found["reliability"] = (own, place)
    return found


def _relay(wire_id: int, settings: Settings, deciding: dict[str, tuple[str, str]]) -> Handle:
    """VTL in a process with them. Raises PrototypeError: a class cannot be had."""
    from hooker.transports import named

    given: dict[str, Any] = asdict(settings)
    del given["keys"], given["prototype"]
    for kind in deciding:
        del given[_SETTING[kind]]
    job = {
        "vtl": wire_id,
        "settings": given,
        "directories": classes.directories(),
        **{kind: list(named) for kind, named in deciding.items()},
    }
    names = ", ".join(name for name, _ in deciding.values())
    return named.make(_VTL[wire_id], wire_id, Plan(names, job), settings, relays=True)
