"""Hooker moves the data of unmodified TCP applications onto other transport protocols, transparently.

``Hooker`` is the engine, ``Policy`` says which connections it takes, events and exceptions are in
``hooker.events`` and ``hooker.errors``. The engine needs root, and a kernel `hooker doctor` is content with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hooker.errors import (
    CarrierError,
    ConfigurationError,
    HookerError,
    KernelError,
    PeerError,
    UsageError,
)
from hooker.events import Event, Kind, Role, State
from hooker.policy import Policy

if TYPE_CHECKING:
    from hooker.engine import Hooker

__version__ = "0.1.0"
__all__ = [
    "CarrierError",
    "ConfigurationError",
    "Event",
    "Hooker",
    "HookerError",
    "KernelError",
    "Kind",
    "PeerError",
    "Policy",
    "Role",
    "State",
    "UsageError",
]


def __getattr__(name: str) -> Any:
    if name == "Hooker":  # the engine's extension modules are loaded when it is asked for
        from hooker.engine import Hooker

        return Hooker
    raise AttributeError(f"module 'hooker' has no attribute {name!r}")
