"""TCP as a transport: one warm connection for a pair of hosts. The baseline that others are compared with."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from hooker.transports import stream

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 12


def make(settings: Settings) -> Handle:
    """Raises ConfigurationError when there is a key."""
    return stream.make("tcp", WIRE_ID, socket.IPPROTO_TCP, settings)
