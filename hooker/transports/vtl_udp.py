"""VTL over UDP: the default."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hooker.carriers import udp
from hooker.transports import vtl_over

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 1


def make(settings: Settings) -> Handle:
    """Raises ConfigurationError for an unknown congestion controller."""
    return vtl_over.make("vtl", WIRE_ID, udp.make(), settings)
