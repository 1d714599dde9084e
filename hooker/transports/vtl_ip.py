"""VTL over IP itself: no ports, and a checksum of the carrier's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hooker.carriers import ip
from hooker.transports import vtl_over

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 4


def make(settings: Settings) -> Handle:
    """Raises ConfigurationError for an unknown congestion controller."""
    return vtl_over.make("vtl+ip", WIRE_ID, ip.make(), settings)
