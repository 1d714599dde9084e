"""Segments in datagrams of UDP-Lite, whose checksum covers as much of them as is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hooker.carriers import udplite
from hooker.transports import bare

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 6
COVERAGE = 24  # bytes: a datagram's token, and the header of a message


def make(settings: Settings) -> Handle:
    """Parameter ``coverage``: see ``udplite.make``.

    Raises ConfigurationError when there is a key, or what is lost has to be repaired.
    """
    coverage = settings.given(WIRE_ID).get("coverage", COVERAGE)
    return bare.make("udplite", WIRE_ID, udplite.make(coverage), settings)
