"""The transports a flow can be moved onto, by name."""

from __future__ import annotations

from dataclasses import dataclass

from hooker import checks
from hooker.errors import ConfigurationError

DEFAULT_PORT = 6253  # UDP, where engines listen


@dataclass(frozen=True, slots=True)
class Transport:
    """``wire_id`` is the 8-bit number that stands for it in the TCP option."""

    name: str
    wire_id: int
    summary: str


_registry: dict[str, Transport] = {}


def register(transport: Transport) -> Transport:
    """Raises ConfigurationError when the name or the number is taken or does not fit."""
    checks.integer(f"transport {transport.name!r}: wire id", transport.wire_id, 1, 255)
    for known in _registry.values():
        if known.name == transport.name or known.wire_id == transport.wire_id:
            raise ConfigurationError(f"transport {transport.name!r} collides with {known.name!r}")
    _registry[transport.name] = transport
    return transport


def get(name: str) -> Transport:
    """Raises ConfigurationError, which lists the known names."""
    try:
        return _registry[name]
    except KeyError:
        raise ConfigurationError(
            f"unknown transport {name!r}", remedy=f"known transports: {', '.join(names())}"
        ) from None


def names() -> list[str]:
    return sorted(_registry)


VTL = register(Transport("vtl", 1, "Hooker's own: streams, selective repeat, congestion control, over UDP"))


def check_congestion(name: str) -> str:
    """The name of a congestion controller, if there is one; ConfigurationError lists those there are."""
    try:
        from hooker.vtl.congestion import names
    except ImportError as error:
        raise ConfigurationError(f"the engine is not built: {error}", remedy="./dev build") from None
    if name not in names():
        known = ", ".join(sorted(names()))
        raise ConfigurationError(f"unknown congestion controller {name!r}", remedy=f"known: {known}")
    return name
