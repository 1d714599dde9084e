"""A second reading of docs/vtl.md: datagrams into values and back, written from the text alone."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

INIT, COOKIE, INIT_ACK, CLOSE, DATA, STATELESS_RESET = 1, 2, 3, 6, 8, 10
SHORT_HEADER = 13  # bytes


class Ack(NamedTuple):
    delay_us: int
    ranges: tuple[tuple[int, int], ...]  # descending, both ends included
    ecn: tuple[int, int, int] | None = None  # ECT(0), ECT(1), CE


class Stream(NamedTuple):
    id: int
    offset: int
    data: bytes
    fin: bool


class Block(NamedTuple):
    id: int
    position: int
    epoch: int
    flags: int
    data: bytes


class Message(NamedTuple):
    data: bytes


class Repair(NamedTuple):
    lengths: int
    first: int
    covered: int
    parity: bytes


class Hole(NamedTuple):
    id: int
    position: int
    epoch: int
    flags: int
    size: int


class Order(NamedTuple):
    back: int  # packet numbers to the ordered packet before; 0: a run begins


class Frame(NamedTuple):
    """Any other frame: its name, its stream id, and its fields."""

    name: str
    id: int = 0
    fields: tuple[int, ...] = ()
    flags: int = 0


FIXED = {  # type: name, what stands behind the prefix
    0x03: ("MAX_DATA", "Q"),
    0x04: ("PATH_CHALLENGE", "Q"),
    0x05: ("PATH_RESPONSE", "Q"),
    0x0A: ("GO_BACK", "QQQ"),
    0x11: ("OPEN", "QQ"),
    0x12: ("OPEN_ACK", "Q"),
    0x13: ("OPEN_REJECT", "I"),
    0x14: ("CONFIRM", ""),
    0x15: ("CANCEL", "Q"),
    0x16: ("RESET_STREAM", "IQ"),
    0x17: ("MAX_STREAM_DATA", "Q"),
}
TYPES = {name: (kind, layout) for kind, (name, layout) in FIXED.items()}
SHORT = {0: "PADDING", 1: "PING"}

AnyFrame = Ack | Stream | Block | Message | Repair | Hole | Order | Frame


@dataclass
class Packet:
    kind: int
    cid: int
    number: int
    body: bytes
    frames: list[AnyFrame]


class WireError(Exception):
    """The datagram is not what the text allows."""


def decode(datagram: bytes) -> Packet:
    size = SHORT_HEADER if datagram and datagram[0] & 8 else 20
    if len(datagram) < size:
        raise WireError("too short")
    first, cid, number = struct.unpack_from("!BQI" if size == SHORT_HEADER else "!B3xQQ", datagram)
    if first >> 4 != 2:
        raise WireError("another layout")
    packet = Packet(DATA if is_data(datagram) else first & 15, cid, number, datagram[size:], [])
    if packet.kind == DATA:
        packet.frames = decode_frames(packet.body)
    elif packet.kind not in (INIT, COOKIE, INIT_ACK, STATELESS_RESET, CLOSE):
        raise WireError(f"packet type {packet.kind}")
    return packet


def is_data(datagram: bytes) -> bool:
    return datagram[0] & 0x0E == DATA


def decode_frames(body: bytes) -> list[AnyFrame]:
    frames: list[AnyFrame] = []
    at = 0
    try:
        while at < len(body):
            frame, at = _decode_frame(body, at)
            frames.append(frame)
    except struct.error as exc:
        raise WireError(f"truncated: {exc}") from None
    if not frames:
        raise WireError("an empty packet")
    return frames


def _decode_frame(body: bytes, at: int) -> tuple[AnyFrame, int]:
    if body[at] in SHORT:
        return Frame(SHORT[body[at]]), at + 1
    if body[at] & ~3 == 0x18:
        return _decode_stream(body, at)
    if body[at] & 0x80:
        return _decode_block(body, at)
    if body[at] == 0x08:
        n = struct.unpack_from("!B", body, at + 1)[0]
        if not 0 < n <= 96 or at + 2 + n > len(body):
            raise WireError("a wrong MESSAGE")
        return Message(body[at + 2 : at + 2 + n]), at + 2 + n
    if body[at] == 0x09:
        return Order(struct.unpack_from("!I", body, at + 1)[0]), at + 5
    kind, flags, small, id_ = struct.unpack_from("!BBHI", body, at)
    at += 8
    if kind in (0x02, 0x06):
        return _decode_ack(body, at, flags, id_, counted=kind == 0x06)
    if kind == 0x07:
        first, covered = struct.unpack_from("!QQ", body, at)
        parity = body[at + 16 : at + 16 + small]
        if len(parity) != small:
            raise WireError("truncated REPAIR")
        return Repair(id_, first, covered, parity), at + 16 + small
    if kind == 0x0B:
        position, epoch = struct.unpack_from("!IB3x", body, at)
        return Hole(id_, position, epoch, flags & 0x3F, small), at + 8
    if kind not in FIXED:
        raise WireError(f"frame type {kind}")
    name, layout = FIXED[kind]
    return Frame(name, id_, struct.unpack_from("!" + layout, body, at), flags), at + struct.calcsize(
        "!" + layout
    )


def _decode_stream(body: bytes, at: int) -> tuple[Stream, int]:
    kind, id_, offset = struct.unpack_from("!BII", body, at)
    at += 9
    length = len(body) - at
    if kind & 2:
        (length,) = struct.unpack_from("!H", body, at)
        at += 2
    data = body[at : at + length]
    if len(data) != length:
        raise WireError("truncated STREAM")
    return Stream(id_, offset, data, bool(kind & 1)), at + length


def _decode_block(body: bytes, at: int) -> tuple[Block, int]:
    kind, id_, position, epoch = struct.unpack_from("!BIIB", body, at)
    at += 10
    length = len(body) - at
    if kind & 0x40:
        (length,) = struct.unpack_from("!H", body, at)
        at += 2
    data = body[at : at + length]
    if len(data) != length:
        raise WireError("truncated BLOCK")
    return Block(id_, position, epoch, kind & 0x3F, data), at + length


def _decode_ack(body: bytes, at: int, n: int, delay: int, *, counted: bool) -> tuple[Ack, int]:
    largest, first = struct.unpack_from("!QI", body, at)
    at += 12
    counts = None
    if counted:
        counts = struct.unpack_from("!QQQ", body, at)
        at += 24
    ranges = [(largest - first, largest)]
    for _ in range(n):
        gap, length = struct.unpack_from("!II", body, at)
        at += 8
        high = ranges[-1][0] - gap - 2
        ranges.append((high - length, high))
    if ranges[-1][0] < 0:
        raise WireError("an ACK of negative numbers")
    return Ack(delay, tuple(ranges), counts), at


def encode(frame: AnyFrame) -> bytes:
    if isinstance(frame, Stream):
        head = struct.pack("!BII", 0x1A | frame.fin, frame.id, frame.offset & 0xFFFFFFFF)
        return head + struct.pack("!H", len(frame.data)) + frame.data
    if isinstance(frame, Block):
        head = struct.pack("!BIIB", 0xC0 | frame.flags, frame.id, frame.position, frame.epoch)
        return head + struct.pack("!H", len(frame.data)) + frame.data
    if isinstance(frame, Message):
        return struct.pack("!BB", 0x08, len(frame.data)) + frame.data
    if isinstance(frame, Hole):
        head = struct.pack("!BBHI", 0x0B, frame.flags, frame.size, frame.id)
        return head + struct.pack("!IB3x", frame.position, frame.epoch)
    if isinstance(frame, Order):
        return struct.pack("!BI", 0x09, frame.back)
    if isinstance(frame, Ack):
        return _encode_ack(frame)
    if isinstance(frame, Repair):
        head = struct.pack("!BBHIQQ", 0x07, 0, len(frame.parity), frame.lengths, frame.first, frame.covered)
        return head + frame.parity
    if frame.name in SHORT.values():
        return bytes([next(k for k, name in SHORT.items() if name == frame.name)])
    kind, layout = TYPES[frame.name]
    return struct.pack("!BBHI" + layout, kind, frame.flags, 0, frame.id, *frame.fields)


def _encode_ack(ack: Ack) -> bytes:
    (low, high), *rest = ack.ranges
    kind = 0x02 if ack.ecn is None else 0x06
    out = struct.pack("!BBHIQI", kind, len(rest), 0, ack.delay_us, high, high - low)
    out += struct.pack("!QQQ", *ack.ecn) if ack.ecn is not None else b""
    for down, up in rest:
        out += struct.pack("!II", low - up - 2, up - down)
        low = down
    return out


def data_packet(cid: int, number: int, frames: list[AnyFrame]) -> bytes:
    return struct.pack("!BQI", 0x20 | DATA, cid, number & 0xFFFFFFFF) + b"".join(map(encode, frames))
