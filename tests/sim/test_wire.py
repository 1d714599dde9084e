"""Framing: every packet and frame against a second reading of the specification."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim import wire
from sim.network import A, Link, Pair
from sim.wire import (
    TYPES,
    Ack,
    AnyFrame,
    Block,
    Frame,
    Hole,
    Message,
    Order,
    Stream,
    data_packet,
    decode,
    encode,
)

from hooker.vtl.sansio import Endpoint

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
U8 = st.integers(0, 255)
FIELDS = {"Q": U64, "I": U32}
WINDOW = 100_000
LAWFUL = ["PING", "PADDING", "MAX_DATA", "OPEN", "STREAM", "MAX_STREAM_DATA", "BLOCK", "MESSAGE", "END"]
KNOWN = {
    0,
    1,
    2,
    6,
    7,
    8,
    9,
    11,
    *range(0x18, 0x1C),
    *range(0x80, 0x100),
    *(kind for kind, _ in TYPES.values()),
}


@st.composite
def acks(draw: st.DrawFn, top: int = 2**62) -> Ack:
    high = draw(st.integers(0, top))
    ranges = []
    steps = st.tuples(st.integers(0, 50), st.integers(0, 50))
    for gap, length in draw(st.lists(steps, min_size=1, max_size=9)):
        low = high - length
        if low < 0:
            break
        ranges.append((low, high))
        high = low - gap - 2
        if high < 0:
            break
    ecn = draw(st.none() | st.tuples(U64, U64, U64))
    return Ack(draw(U32), tuple(ranges) or ((0, high),), ecn)


def fixed(name: str) -> st.SearchStrategy[Frame]:
    fields = [FIELDS[c] for c in TYPES[name][1]]
    return st.builds(Frame, st.just(name), U32, st.tuples(*fields), st.integers(0, 255))


STREAMS = st.builds(Stream, U32, U32, st.binary(max_size=300), st.booleans())
BLOCKS = st.builds(Block, U32, U32, U8, st.integers(0, 63), st.binary(max_size=300))
MESSAGES = st.builds(Message, st.binary(min_size=1, max_size=96))
HOLES = st.builds(Hole, U32, U32, U8, st.integers(0, 63), st.integers(0, 65535))
ORDERS = st.builds(Order, U32)
FRAMES = st.one_of(
    acks(),
    STREAMS,
    BLOCKS,
    MESSAGES,
    HOLES,
    ORDERS,
    st.just(Frame("PING")),
    st.just(Frame("PADDING")),
    *map(fixed, TYPES),
)


@given(st.lists(FRAMES, min_size=1, max_size=8))
def test_frames_read_as_written(frames: list[AnyFrame]) -> None:
    packet = decode(data_packet(7, 9, frames))
    assert (packet.cid, packet.number, packet.frames) == (7, 9, frames)


class Victim:
    """An endpoint with an association up, whose peer is the test."""

    def __init__(self) -> None:
        pair = Pair(1, link=Link(delay=0), stream_window=WINDOW, assoc_window=4 * WINDOW)
        sent: list[bytes] = []
        carry = pair.forth.carry
        pair.forth.carry = lambda *what: sent.append(what[0]) or carry(*what)
        pair.connect()
        pair.run_for(1)
        self.now = pair.now
        self.endpoint = pair.b.endpoint
        last = decode(sent[-1])
        self.cid, self.number = last.cid, last.number

    def receive(self, body: bytes) -> str:
        self.number += 1
        packet = data_packet(self.cid, self.number, []) + body
        return self.endpoint.receive_datagram(packet, A, self.now)


@st.composite
def lawful(draw: st.DrawFn) -> list[AnyFrame]:
    """Frames that fit any state: streams of the peer's, inside all windows, no final size twice."""
    out: list[AnyFrame] = []
    ended: set[int] = set()
    for _ in range(draw(st.integers(1, 10))):
        stream = draw(st.sampled_from([0, 2, 4]))
        kind = draw(st.sampled_from(LAWFUL))
        if kind in ("PING", "PADDING"):
            out.append(Frame(kind))
        elif kind == "MAX_DATA":
            out.append(Frame(kind, 0, (draw(U64),)))
        elif kind == "OPEN":
            out.append(Frame(kind, stream, (draw(U64), draw(U64)), draw(st.integers(0, 1))))
        elif kind == "MAX_STREAM_DATA":
            out.append(Frame(kind, stream, (draw(U64),)))
        elif kind in ("BLOCK", "MESSAGE"):
            out.append(draw(BLOCKS if kind == "BLOCK" else MESSAGES))
        elif stream not in ended and kind == "STREAM":
            data = draw(st.binary(max_size=200))
            out.append(Stream(stream, draw(st.integers(0, WINDOW - 200)), data, False))
        elif stream not in ended:
            ended.add(stream)
            out.append(Frame("RESET_STREAM", stream, (draw(U32), WINDOW)))
    return out


@given(lawful())
def test_lawful_frames_are_accepted(frames: list[AnyFrame]) -> None:
    victim = Victim()
    assert victim.receive(b"".join(map(encode, frames or [Frame("PING")]))) == "ok"


@given(FRAMES.filter(lambda f: len(encode(f)) > 1), st.data())
def test_a_cut_frame_is_dropped_and_not_acknowledged(frame: AnyFrame, data: st.DataObject) -> None:
    whole = encode(frame)
    cut = whole[: data.draw(st.integers(1, len(whole) - 1))]
    victim = Victim()
    assert victim.receive(cut) in ("short", "protocol")
    with pytest.raises(wire.WireError):
        wire.decode_frames(cut)


@given(st.sampled_from(sorted(set(range(256)) - KNOWN)))
def test_unknown_frames_are_dropped(kind: int) -> None:
    assert Victim().receive(bytes([kind]) + bytes(30)) == "type"


@given(st.integers(0, 300), st.lists(U32, max_size=8), U64, U64, U32)
def test_any_init_of_128_bytes_is_answered_with_a_cookie_no_larger(
    padding: int, versions: list[int], max_data: int, max_stream_data: int, delay: int
) -> None:
    server = Endpoint(seed=1)
    init = struct.pack("!B3xQQ", 0x21, 0, 77)
    init += struct.pack("!B3xIQQ24x", len(versions), delay, max_data, max_stream_data)
    init += b"".join(struct.pack("!I", v) for v in versions) + bytes(padding)
    answer = server.receive_datagram(init, A, 0)
    assert answer == ("ok" if len(init) >= 128 else "short")
    out = server.datagrams_to_send(0)
    assert server.associations == ()
    if answer == "ok":
        ((cookie, to),) = out
        assert to == A
        assert len(cookie) <= len(init)
        packet = decode(cookie)
        assert (packet.kind, packet.cid) == (2, 77)
        assert packet.body[0] * 4 + 20 == len(packet.body)
