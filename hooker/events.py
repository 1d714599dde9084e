"""What the engine tells: events of flows and peers, as immutable records."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

Address = IPv4Address | IPv6Address


class Kind(enum.Enum):
    """``released`` is final: the flow stays on TCP. ``engaged`` is, too: it ends with ``closed``.

    ``transport skipped``: one that was wanted cannot be had here, and another one remains.
    ``transport failed``: the class of a user's that makes it has, and ``reason`` says how; it carries nothing
    any more.
    ``lane blocked``: this host keeps marked segments from the engine, so connections of that IP version stay
    on TCP, until ``lane open``. ``lane restored``: another program had taken away what leads them there, and
    it was put back. ``hole``: bytes that the peer has given up are zeros now (``partial``); at most 100 in a
    second are told, all are counted (``holes_filled``, ``bytes_zeroed``).
    """

    FLOW_OPENED = 1
    FLOW_ENGAGED = 2
    FLOW_RELEASED = 3
    FLOW_CLOSED = 4
    PEER_UP = 5
    PEER_DOWN = 6
    LANE_BLOCKED = 7
    LANE_OPEN = 8
    TRANSPORT_SKIPPED = 9
    LANE_RESTORED = 10
    HOLE = 11
    TRANSPORT_FAILED = 12


OF_LANES = (Kind.LANE_BLOCKED, Kind.LANE_OPEN, Kind.LANE_RESTORED)


class State(enum.Enum):
    HELD = 1
    ENGAGED = 2
    RELEASED = 3


class Role(enum.Enum):
    CLIENT = 1
    SERVER = 2


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """Where a connection or a peer's engine ends: ``str()`` is as people write it."""

    address: Address
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.address.version == 6 else f"{self.address}:{self.port}"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. For peers and lanes only ``kind``, ``remote``, ``reason`` and ``time`` mean something; the
    lane of IPv4 is 0.0.0.0, that of IPv6 ``::``. Of a transport that is skipped or has failed only
    ``reason``, which names it, and ``time`` do.

    ``reason`` says why, or is empty; ``time`` is on the monotonic clock, seconds;
    ``held`` is how long the flow was held, seconds; bytes are the application's, out and in. Of a hole
    ``position`` says how many bytes of the stream are before it (modulo 2^32 if more had come when the flow
    was engaged), ``length`` how many it has.
    """

    kind: Kind
    time: float
    remote: SocketAddress
    local: SocketAddress | None = None
    flow_id: int = 0
    role: Role | None = None
    reason: str = ""
    held: float = 0.0
    bytes_sent: int = 0
    bytes_received: int = 0
    position: int = 0
    length: int = 0


def address(packed: bytes) -> Address:
    """From 16 bytes, IPv4 as ::ffff:a.b.c.d."""
    six = IPv6Address(packed)
    return six.ipv4_mapped or six
