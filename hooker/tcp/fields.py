"""What ``hooker.tcp.sansio`` takes and gives: segments, and what a twin heard in them."""

from __future__ import annotations

from typing import NamedTuple

FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << bit for bit in range(8))
REFUSALS = ("ok", "short", "malformed", "fragment", "not-tcp", "extension", "checksum")


class Refused(ValueError):
    """A packet that is no segment for a twin. ``reason`` is one of REFUSALS."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"no segment: {reason}")
        self.reason = reason


class Segment(NamedTuple):
    """A TCP segment. Addresses are packed: 4 or 16 bytes. None: the option is not there."""

    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    seq: int
    ack: int
    flags: int = ACK
    window: int = 0  # as it stands in the header
    data: bytes = b""
    urgent: int = 0
    mss: int | None = None
    wscale: int | None = None
    sack_permitted: bool = False
    timestamps: tuple[int, int] | None = None  # value, echo
    sacks: tuple[tuple[int, int], ...] = ()
    ecn: int = 0
    gso_size: int = 0  # bytes of data in one packet of a wire, where this is several; else 0


class Heard(NamedTuple):
    """What the local TCP said. Positions: 0 is the SYN, 1 the first byte."""

    what: frozenset[str]  # names of heard_what in twin.pxd, as in "data", "new", "probe"
    position: int
    data: bytes
    ack: int
    edge: int
    urgent: int
    again: tuple[int, int] | None
    sacks: tuple[tuple[int, int], ...]
    timestamps: tuple[int, int] | None  # value, echo
    flags: int
    ecn: int
