"""Transports by number: what makes each, and what it is told.

VTL, and segments as they are, go over a carrier: ``hooker.carriers.NAME``, or another package's. All others
have a module of their own, ``hooker.transports.NAME``. Each has ``make(settings)``; it is loaded when wanted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from hooker import carriers
from hooker.errors import ConfigurationError
from hooker.transports import classes
from hooker.transports.children import Plan, PrototypeError
from hooker.transports.functions import Function, code, is_complete
from hooker.transports.registry import BY_TCP, NAMED, OWN, SEGMENT_HEADERS, VTL_OVER, Transport, numbered

if TYPE_CHECKING:
    from hooker.carriers.contract import CarrierHandle
    from hooker.transports.contract import Handle

__all__ = ["Function", "PrototypeError", "Settings", "code", "is_complete", "make", "why_not_open"]

_SETTING = {"congestion": "congestion", "reliability": "functions"}  # that a class stands for
VTL_HEADER = 20  # bytes
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
    ``named``: name and place of the transport that has no number of its own: ``module:Class`` of a
    user's, or a module that makes a carrier for VTL.
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
    named: tuple[str, str] = ("", "")

    def given(self, wire_id: int) -> Mapping[str, int]:
        return self.parameters.get(wire_id, {})


def make(wire_id: int, settings: Settings) -> Handle:
    """Raises ConfigurationError: there is none with this number, or it cannot be as ``settings`` wants it;
    PrototypeError: what a user has named cannot be had."""
    name, place = settings.named
    if wire_id == NAMED and ":" in place:
        return _prototype(name, place, settings)
    if wire_id == NAMED and place:
        return _vtl(name, wire_id, lambda: _anothers(name, place, settings), settings)
    transport = numbered(wire_id)
    if transport is None or not transport.built:
        raise ConfigurationError(f"this engine has no transport with the number {wire_id}")
    if transport.reliability == OWN:
        return cast("Handle", import_module(f"hooker.transports.{transport.name}").make(settings))
    if transport.reliability != BY_TCP:
        return _vtl(transport.name, wire_id, lambda: _ours(transport, VTL_HEADER, settings), settings)
    from hooker.transports import bare

    return bare.make(transport.name, wire_id, _ours(transport, SEGMENT_HEADERS, settings), settings)


def _vtl(name: str, wire_id: int, carrier: Callable[[], CarrierHandle], settings: Settings) -> Handle:
    """VTL over it; in the process of the users' classes that it asks, if there are any."""
    if deciding := _deciding(settings):
        return _relay(name, wire_id, settings, deciding)
    from hooker.transports import vtl_over

    return vtl_over.make(name, wire_id, carrier(), settings)


def _ours(transport: Transport, headers: int, settings: Settings) -> CarrierHandle:
    bounded = transport.reliability != BY_TCP
    wanted = carriers.Settings(headers, settings.given(transport.wire_id), bounded)
    return cast("CarrierHandle", import_module(f"hooker.carriers.{transport.carrier}").make(wanted))


def _anothers(name: str, module: str, settings: Settings) -> CarrierHandle:
    """Raises PrototypeError, or ConfigurationError as its make() does."""
    from hooker.carriers import installed

    wanted = carriers.Settings(VTL_HEADER, settings.given(NAMED))
    try:
        return installed.make(name.removeprefix(VTL_OVER), module, wanted)
    except installed.Unfit as error:
        raise PrototypeError(error.message, remedy=error.remedy) from None


def _prototype(name: str, place: str, settings: Settings) -> Handle:
    """Raises PrototypeError: the class cannot be had."""
    from hooker.transports import named

    plan = Plan(name, {"transport": place, "directories": classes.directories()})
    return named.make(name, NAMED, plan, settings)


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


def _relay(name: str, wire_id: int, settings: Settings, deciding: dict[str, tuple[str, str]]) -> Handle:
    """VTL in a process with them. Raises PrototypeError: a class cannot be had."""
    from hooker.transports import named

    given: dict[str, Any] = asdict(settings)
    del given["keys"]
    for kind in deciding:
        del given[_SETTING[kind]]
    job = {
        "vtl": wire_id,
        "settings": given,
        "directories": classes.directories(),
        **{kind: list(named) for kind, named in deciding.items()},
    }
    names = ", ".join(name for name, _ in deciding.values())
    return named.make(name, wire_id, Plan(names, job), settings, relays=True)


def why_not_open(wire_id: int, port: int, error: int) -> str:
    """What to tell about one that could not be opened."""
    known = numbered(wire_id)
    if error == errno.EADDRINUSE and known is not None and known.space and "port" not in known.space:
        return f"another engine in this network namespace has {known.space}: end that one"
    return f"cannot open port {port}: {os.strerror(error)}"
