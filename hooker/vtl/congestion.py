"""Congestion controllers, for users: which there are, and how a program adds one of its own.

Importing this module registers those that come with VTL.
"""

from hooker.vtl.controllers import (  # type: ignore[attr-defined]
    auto,  # noqa: F401  each registers itself
    bbr,  # noqa: F401
    cubic,  # noqa: F401
    fixed,  # noqa: F401
    newreno,  # noqa: F401
)
from hooker.vtl.controllers.interface import names
from hooker.vtl.controllers.python import Ack, Loss, register, unregister

__all__ = ["Ack", "Loss", "names", "register", "unregister"]
