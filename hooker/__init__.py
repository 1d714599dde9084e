"""Hooker: moves the data of unmodified TCP applications onto other transports.

The engine and what it needs are loaded when they are first asked for, so that the commands that do
not hook anything start fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hooker.errors import (
    CarrierError,
    ConfigurationError,
    HookerError,
    KernelError,
    PeerError,
    UsageError,
)
from hooker.policy import Policy

if TYPE_CHECKING:
    from hooker.engine import Event, Hooker

__version__ = "0.1.0"
__all__ = [
    "CarrierError",
    "ConfigurationError",
    "Event",
    "Hooker",
    "HookerError",
    "KernelError",
    "PeerError",
    "Policy",
    "UsageError",
    "__version__",
]

_LAZY = {"Event": "hooker.engine", "Hooker": "hooker.engine"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value
