"""Multipath TCP (RFC 8684) as a transport: one connection for a pair of hosts, over all paths that the kernel
has been told of (``ip mptcp``).

Where the peer or the path knows none it is TCP, which is counted.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from hooker.transports import stream

if TYPE_CHECKING:
    from hooker.transports.contract import Handle
    from hooker.transports.makers import Settings

WIRE_ID = 11


def make(settings: Settings) -> Handle:
    """Raises ConfigurationError when there is a key."""
    return stream.make("mptcp", WIRE_ID, socket.IPPROTO_MPTCP, settings)
