"""Segments in packets of IP itself, protocol 253; the applications' TCPs repeat what is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hooker.carriers import ip
from hooker.transports import bare

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 8


def make(settings: Settings) -> Handle:
    """Raises ConfigurationError when there is a key, or what is lost has to be repaired."""
    return bare.make("ip", WIRE_ID, ip.make(), settings)
