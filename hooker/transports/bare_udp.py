"""Segments in datagrams of UDP; the applications' TCPs repeat what is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hooker.carriers import udp
from hooker.transports import bare

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 5


def make(settings: Settings) -> Handle:
    """Raises ConfigurationError when there is a key, or what is lost has to be repaired."""
    return bare.make("udp", WIRE_ID, udp.make(), settings)
