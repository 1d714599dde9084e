"""Frames of the redirect socket, parsed in place, whatever the buffers' borders."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooker.engine.frames import FrameError, FrameParser, frame_dtype

MAGIC = 0x4B4F4F48


def frame(flow: int, payload: bytes) -> bytes:
    return struct.pack("<QII", flow, len(payload), MAGIC) + payload


def collect(parser: FrameParser, pieces: list[bytes]) -> list[tuple[int, bytes]]:
    messages: list[tuple[int, bytes]] = []
    for piece in pieces:
        for row in parser.parse(piece):
            part = piece[int(row["offset"]) : int(row["offset"]) + int(row["length"])]
            if row["flags"] & 1:
                messages.append((int(row["flow_id"]), part))
            else:
                flow, head = messages[-1]
                assert flow == row["flow_id"]
                messages[-1] = (flow, head + part)
    return messages


def test_one_buffer_with_many_frames_gives_one_row_each_over_the_same_bytes() -> None:
    data = frame(1, b"one") + frame(2, b"second") + frame(1, b"3")
    rows = FrameParser().parse(data)
    assert rows.dtype == frame_dtype()
    assert rows["flow_id"].tolist() == [1, 2, 1]
    assert rows["offset"].tolist() == [16, 35, 57]
    assert rows["flags"].tolist() == [3, 3, 3]
    assert np.frombuffer(data, np.uint8)[16:19].tobytes() == b"one"


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.integers(1, 2**64 - 1), st.binary(min_size=1, max_size=300)), max_size=20),
    st.lists(st.integers(1, 60), min_size=1, max_size=30),
)
def test_frames_survive_any_cut_of_the_byte_stream(
    messages: list[tuple[int, bytes]], cuts: list[int]
) -> None:
    stream = b"".join(frame(flow, payload) for flow, payload in messages)
    pieces, at, i = [], 0, 0
    while at < len(stream):
        pieces.append(stream[at : at + cuts[i % len(cuts)]])
        at += cuts[i % len(cuts)]
        i += 1
    assert collect(FrameParser(), pieces) == messages


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack("<QII", 1, 5, 0) + b"12345",
        struct.pack("<QII", 1, 0, MAGIC),
        struct.pack("<QII", 1, 1 << 25, MAGIC),
    ],
    ids=["wrong magic", "empty", "oversized"],
)
def test_what_is_no_frame_is_an_error_and_stays_one(garbage: bytes) -> None:
    parser = FrameParser()
    assert collect(parser, [frame(1, b"good")]) == [(1, b"good")]
    with pytest.raises(FrameError, match="lost framing"):
        parser.parse(garbage)
    with pytest.raises(FrameError):
        parser.parse(frame(1, b"good"))


def test_a_truncated_frame_waits_for_the_rest() -> None:
    parser = FrameParser()
    data = frame(9, b"abcdef")
    assert len(parser.parse(data[:10])) == 0
    assert parser.parse(data[10:18])["flags"].tolist() == [1]
    assert parser.parse(data[18:])["flags"].tolist() == [2]
