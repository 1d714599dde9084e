"""The transports a flow can be moved onto, by name."""

from __future__ import annotations

from hooker.checks import shown
from hooker.errors import ConfigurationError
from hooker.transports import classes
from hooker.transports.registry import (
    Choice,
    Transport,
    bitmap,
    choose,
    get,
    installed,
    known,
    name_of,
    names,
    offer,
    register,
    segment_mtu,
)

__all__ = [
    "DEFAULT_PORT",
    "Choice",
    "Transport",
    "bitmap",
    "check_congestion",
    "choose",
    "get",
    "installed",
    "known",
    "name_of",
    "names",
    "offer",
    "register",
    "segment_mtu",
]

DEFAULT_PORT = 6253  # where engines listen: of UDP, and of each transport's own kind of ports


def check_congestion(name: str) -> str:
    """The name of a congestion controller, or of a user's class; ConfigurationError lists those there are."""
    try:
        from hooker.vtl.congestion import names as controllers
    except ImportError as error:
        raise ConfigurationError(f"the engine is not built: {error}", remedy="./dev build") from None
    if not isinstance(name, str):
        raise ConfigurationError(f"congestion {shown(name)} is no text", remedy='give a name, as "cubic"')
    if name not in controllers() and not classes.place_of("congestion", name):
        listed = ", ".join(sorted(controllers()))
        raise ConfigurationError(
            f"unknown congestion controller {shown(name)}",
            remedy=f"known: {listed}; or module:Class of your own",
        )
    return name
