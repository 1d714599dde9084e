"""VTL over UDP-Lite: how many bytes of a datagram the kernel's checksum covers can be set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hooker.carriers import udplite
from hooker.transports import vtl_over

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 2
COVERAGE = 20  # bytes: VTL's header


def make(settings: Settings) -> Handle:
    """Parameter ``coverage``: see ``udplite.make``.

    Raises ConfigurationError for an unknown congestion controller.
    """
    coverage = settings.given(WIRE_ID).get("coverage", COVERAGE)
    return vtl_over.make("vtl+udplite", WIRE_ID, udplite.make(coverage), settings)
