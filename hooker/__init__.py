"""Hooker moves the data of unmodified TCP applications onto other transport protocols, transparently.

``Hooker`` is the engine, ``Policy`` says which connections it takes, ``Rule`` how it moves
some of them, events and exceptions are in ``hooker.events`` and ``hooker.errors``.
The engine needs root, and a kernel `hooker doctor` is content with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hooker.control.policy import Policy
    from hooker.control.rules import Rule
    from hooker.errors import (
        CarrierError,
        ConfigurationError,
        HookerError,
        KernelError,
        UsageError,
    )
    from hooker.events import Event, Kind, Role, State
    from hooker.hooker import Hooker
    from hooker.prototype.transport import Transport
    from hooker.vtl.reliability.base import Reliability

__version__ = "0.1.0"
__all__ = [
    "CarrierError",
    "ConfigurationError",
    "Event",
    "Hooker",
    "HookerError",
    "KernelError",
    "Kind",
    "Policy",
    "Reliability",
    "Role",
    "Rule",
    "State",
    "Transport",
    "UsageError",
]

_HOME = {
    "Hooker": "hooker",
    "Policy": "control.policy",
    "Rule": "control.rules",
    "Event": "events",
    "Kind": "events",
    "Reliability": "vtl.reliability.base",
    "Role": "events",
    "State": "events",
    "Transport": "prototype.transport",
}
_MODULES = ("errors", "events")


def __getattr__(name: str) -> Any:
    """Everything is loaded when it is asked for: the command must be quick to begin."""
    import importlib

    if name in __all__:
        return getattr(importlib.import_module(f"hooker.{_HOME.get(name, 'errors')}"), name)
    if name in _MODULES:
        return importlib.import_module(f"hooker.{name}")
    raise AttributeError(f"module 'hooker' has no attribute {name!r}")
