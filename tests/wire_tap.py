"""The TCP segments that a host sends by the wire, as they leave it."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from hooker.lab import INTERFACE, Host

OLD = 1000  # ms: most of the time that an engine stood still
ACK = 16
SO_TIMESTAMPNS = 35
ANY = 3  # ETH_P_ALL
ONLY_TCP = [  # of IPv4 and IPv6, without other headers
    (0x28, 0, 0, 12),  # ldh [12]
    (0x15, 0, 3, 0x800),
    (0x30, 0, 0, 23),  # ldb [23]
    (0x15, 4, 0, 6),
    (0x06, 0, 0, 0),
    (0x15, 0, 3, 0x86DD),
    (0x30, 0, 0, 20),  # ldb [20]
    (0x15, 0, 1, 6),
    (0x06, 0, 0, 200),
    (0x06, 0, 0, 0),
]


@dataclass
class Segment:
    at: float  # s
    ports: tuple[int, int]
    seq: int
    length: int
    flags: int
    tsval: int


@dataclass
class WireTap:
    """The TCP segments that leave a host by the wire."""

    segments: list[Segment] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def on(cls, host: Host) -> Iterator[WireTap]:
        tap, over = cls(), threading.Event()
        with host.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
            wire.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            program = b"".join(struct.pack("HBBI", *line) for line in ONLY_TCP)
            lines = ctypes.create_string_buffer(program)
            filters = struct.pack("HL", len(ONLY_TCP), ctypes.addressof(lines))
            wire.setsockopt(socket.SOL_SOCKET, 26, filters)  # SO_ATTACH_FILTER
            wire.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            wire.bind((INTERFACE, ANY))
            wire.settimeout(0.1)
            reader = threading.Thread(target=tap._read, args=(wire, over))
            reader.start()
            try:
                yield tap
            finally:
                time.sleep(0.2)
                over.set()
                reader.join()

    def _read(self, wire: socket.socket, over: threading.Event) -> None:
        """By the kernel's clock: a reader that is late would take what has left before for late."""
        behind = time.time() - time.monotonic()
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                frame, said, _, where = wire.recvmsg(200, 64)
                if where[2] == socket.PACKET_OUTGOING:
                    seconds, nanoseconds = struct.unpack("qq", said[0][2])
                    self._note(seconds + nanoseconds / 1e9 - behind, frame)

    def _note(self, at: float, frame: bytes) -> None:
        six = frame[12:14] == b"\x86\xdd"
        start = 14 + (40 if six else 20)
        size = struct.unpack_from("!H", frame, 18 if six else 16)[0] - (0 if six else 20)
        ports = struct.unpack_from("!HH", frame, start)
        seq = struct.unpack_from("!I", frame, start + 4)[0]
        header = (frame[start + 12] >> 4) * 4
        options = frame[start + 20 : start + header]
        clock = options.find(b"\x08\x0a")
        tsval = struct.unpack_from("!I", options, clock + 2)[0] if clock >= 0 else 0
        flags = frame[start + 13]
        self.segments.append(Segment(at, ports, seq, size - header, flags, tsval))

    def waited(self, until: float) -> Iterator[Segment]:
        """Those that were made before *until*, and left after it."""
        clocks: dict[tuple[int, int], float] = {}  # ms: each flow has its own
        for one in self.segments:
            clocks[one.ports] = max(clocks.get(one.ports, 0), one.tsval - 1000 * one.at)
        for one in self.segments:
            if one.at > until > (one.tsval - clocks[one.ports]) / 1000 + 0.2:
                yield one

    def overtaken(self, until: float) -> int:
        """How many of these, with data, say a time long before one that the wire was told already."""
        newest: dict[tuple[int, int], int] = {}
        late = {id(one) for one in self.waited(until)}
        number = 0
        for one in (one for one in self.segments if one.length):
            number += id(one) in late and newest.get(one.ports, 0) - one.tsval > OLD
            newest[one.ports] = max(newest.get(one.ports, 0), one.tsval)
        return number

    def outdated(self, until: float) -> int:
        """How many of these are bare ACKs."""
        return sum(not one.length and one.flags == ACK for one in self.waited(until))
