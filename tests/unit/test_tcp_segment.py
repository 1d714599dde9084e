"""Segments: what is made is read again, what is cut or damaged is refused; a plain second reading agrees."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooker.tcp.fields import ACK, CWR, FIN, PSH, SYN, URG, Refused, Segment
from hooker.tcp.sansio import build, cut, parse

VNET, V4, V6 = 10, 20, 40
U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
PAIR = st.tuples(U32, U32)


@st.composite
def segments(draw: st.DrawFn) -> Segment:
    size = draw(st.sampled_from([4, 16]))
    address = st.binary(min_size=size, max_size=size)
    syn = draw(st.booleans())
    timestamps = draw(st.none() | PAIR)
    room = 4 if timestamps is None else 3
    data = draw(st.binary(max_size=40) | st.binary(min_size=2000, max_size=2100))
    return Segment(
        draw(address),
        draw(address),
        draw(U16),
        draw(U16),
        draw(U32),
        draw(U32),
        draw(st.integers(0, 255)),
        draw(U16),
        data,
        draw(U16),
        mss=draw(U16) if syn else None,
        wscale=draw(st.integers(0, 14)) if syn else None,
        sack_permitted=syn and draw(st.booleans()),
        timestamps=timestamps,
        sacks=() if syn else tuple(draw(st.lists(PAIR, max_size=room))),
        ecn=draw(st.integers(0, 3)),
        gso_size=1448 if len(data) > 1448 and draw(st.booleans()) else 0,
    )


def total(data: bytes) -> int:
    """RFC 1071, as one would write it down."""
    data += b"\0" * (len(data) % 2)
    n = sum(struct.unpack(f">{len(data) // 2}H", data))
    while n >> 16:
        n = (n & 0xFFFF) + (n >> 16)
    return n


def pseudo(packet: bytes) -> bytes:
    if packet[0] >> 4 == 4:
        return packet[12:20] + struct.pack(">HH", 6, len(packet) - V4)
    return packet[8:40] + struct.pack(">II", len(packet) - V6, 6)


def tcp_at(packet: bytes) -> int:
    return V4 if packet[0] >> 4 == 4 else V6


@given(segments(), st.booleans())
def test_what_is_made_is_read_again(segment: Segment, partial: bool) -> None:
    assert parse(build(segment, partial=partial)) == segment


@given(segments())
def test_checksums_are_those_of_rfc_1071(segment: Segment) -> None:
    packet = build(segment)[VNET:]
    at = tcp_at(packet)
    assert total(pseudo(packet) + packet[at:]) == 0xFFFF
    if at == V4:
        assert total(packet[:V4]) == 0xFFFF
    partial = build(segment, partial=True)[VNET:]
    assert struct.unpack_from(">H", partial, at + 16)[0] == total(pseudo(partial))  # Linux's CHECKSUM_PARTIAL


@given(segments())
def test_the_kernel_is_told_where_to_sum_and_cut(segment: Segment) -> None:
    made = build(segment, partial=True)
    flags, gso, header, size, start, offset = struct.unpack_from("=BBHHHH", made)
    assert (flags, start, offset) == (1, tcp_at(made[VNET:]), 16)
    if segment.gso_size:
        assert (gso, size) == (1 if len(segment.src) == 4 else 4, 1448)
        assert header == len(made) - VNET - len(segment.data)
    else:
        assert (gso, size, header) == (0, 0, 0)


@given(segments())
def test_a_packet_cut_anywhere_is_refused(segment: Segment) -> None:
    packet = build(segment._replace(data=segment.data[:9], gso_size=0))
    for n in range(len(packet)):
        with pytest.raises(Refused, match=r"short|malformed"):
            parse(packet[:n])


@given(segments(), st.binary(min_size=1, max_size=30))
def test_what_follows_the_packet_is_not_data(segment: Segment, tail: bytes) -> None:
    assert parse(build(segment) + tail) == segment


@given(segments(), st.data())
def test_a_flipped_bit_is_found_by_the_checksum_or_changes_nothing_it_covers(
    segment: Segment, data: st.DataObject
) -> None:
    packet = bytearray(build(segment._replace(gso_size=0)))
    at = tcp_at(packet[VNET:])
    bit = data.draw(st.integers(0, (len(packet) - VNET - at) * 8 - 1))
    packet[VNET + at + bit // 8] ^= 1 << bit % 8
    with pytest.raises(Refused, match=r"checksum|short|malformed"):
        parse(bytes(packet))


@given(segments(), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6))
def test_arbitrary_damage_is_refused_or_read_within_the_packet(
    segment: Segment, damage: list[tuple[int, int]]
) -> None:
    packet = bytearray(build(segment, partial=True))
    for at, value in damage:
        packet[at % len(packet)] = value
    try:
        read = parse(bytes(packet))
    except Refused:
        return
    assert read.data in bytes(packet)


def options(raw: bytes, src: bytes = bytes(4)) -> Segment:
    """A segment with these option bytes, as somebody else might write them."""
    raw += b"\0" * (-len(raw) % 4)
    packet = bytearray(build(Segment(src, src, 1, 2, 3, 4, SYN), partial=True))
    at = VNET + tcp_at(packet[VNET:])
    packet[at + 12] = (20 + len(raw)) // 4 << 4
    packet += raw
    if len(src) == 4:
        struct.pack_into(">H", packet, VNET + 2, len(packet) - VNET)
        struct.pack_into(">H", packet, VNET + 10, 0)
        struct.pack_into(">H", packet, VNET + 10, 0xFFFF ^ total(bytes(packet[VNET : VNET + V4])))
    else:
        struct.pack_into(">H", packet, VNET + 4, len(packet) - VNET - V6)
    return parse(bytes(packet))


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b"\1\1\2\4\5\xb4", {"mss": 1460}),
        (b"\xfd\4\0\0\2\4\5\xb4", {"mss": 1460}),  # one that nobody knows
        (b"\2\3\5\3\3\7", {"wscale": 7}),  # a known one of a wrong size
        (b"\3\3\xff", {"wscale": 14}),  # RFC 7323 2.3
        (b"\2\4\5\xb4\x03\x01\x07", {"mss": 1460}),  # a length that cannot be ends the list
        (b"\2\4\5\xb4\x08\x0a\x00", {"mss": 1460}),  # so does one beyond the header
        (b"\0\2\4\5\xb4", {}),
        (b"\5\x0b" + bytes(9), {}),  # SACK with a block and a bit
        (b"\5\2", {}),
    ],
)
def test_options_of_others_are_read_as_linux_does(raw: bytes, want: dict[str, int]) -> None:
    read = options(raw)
    assert {k: v for k in ("mss", "wscale", "timestamps") if (v := getattr(read, k)) is not None} == want
    assert read.sacks == ()


def patched(packet: bytes, at: int, *values: int) -> bytes:
    changed = bytearray(packet)
    changed[at : at + len(values)] = bytes(values)
    if changed[VNET] >> 4 == 4:  # with a right header checksum, so that it is not what refuses
        n = (changed[VNET] & 15) * 4
        struct.pack_into(">H", changed, VNET + 10, 0)
        struct.pack_into(">H", changed, VNET + 10, 0xFFFF ^ total(bytes(changed[VNET : VNET + n])))
    return bytes(changed)


FOUR = build(Segment(bytes(4), bytes(4), 1, 2, 3, 4, data=b"x" * 30), partial=True)
SIX = build(Segment(bytes(16), bytes(16), 1, 2, 3, 4, data=b"x" * 30), partial=True)


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (patched(FOUR, VNET, 0x55), "malformed"),  # version 5
        (patched(FOUR, VNET, 0x44), "malformed"),  # a header of 16 bytes
        (patched(FOUR, VNET + 6, 0x20), "fragment"),
        (patched(FOUR, VNET + 7, 1), "fragment"),
        (patched(FOUR, VNET + 9, 17), "not-tcp"),
        (patched(FOUR, VNET + V4 + 12, 0x40), "malformed"),
        (patched(FOUR, VNET + V4 + 12, 0xF0), "short"),
        (FOUR[: VNET + 10] + b"\0\0" + FOUR[VNET + 12 :], "checksum"),
        (patched(FOUR, 6, 19, 0), "malformed"),  # csum_start elsewhere
        (patched(FOUR, 8, 6, 0), "malformed"),  # as for UDP
        (patched(FOUR, 1, 4), "malformed"),  # TSO of the other family
        (patched(FOUR, 1, 3), "malformed"),  # UFO
        (patched(FOUR, 1, 1), "malformed"),  # TSO of size 0
        (patched(SIX, VNET + 4, 0, 0), "malformed"),  # a jumbogram
        (patched(SIX, VNET + 6, 44), "fragment"),
        (patched(SIX, VNET + 6, 17), "not-tcp"),
        (patched(SIX, VNET + 6, 50), "not-tcp"),  # ESP
        (patched(SIX, VNET + 6, 0), "short"),  # hop-by-hop, whose length is a port's first byte
    ],
)
def test_what_is_no_segment_for_us_is_refused_by_name(packet: bytes, reason: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(packet)
    assert caught.value.reason in (reason, "short") if reason == "short" else caught.value.reason == reason


def extended(*headers: tuple[int, bytes]) -> bytes:
    """An IPv6 segment with extension headers: (its own number, its 8·n bytes but the first)."""
    plain = build(Segment(bytes(16), bytes(16), 1, 2, 3, 4, PSH | ACK, data=b"hello"), partial=True)
    numbers = [kind for kind, _ in headers] + [6]
    chain = b"".join(bytes([numbers[i + 1]]) + body for i, (_, body) in enumerate(headers))
    packet = bytearray(plain[: VNET + V6] + chain + plain[VNET + V6 :])
    packet[VNET + 6] = numbers[0]
    struct.pack_into(">H", packet, VNET + 4, len(packet) - VNET - V6)
    struct.pack_into("=H", packet, 6, V6 + len(chain))
    return bytes(packet)


def test_extension_headers_are_passed_over() -> None:
    hop, routing, destination = (0, bytes(7)), (43, bytes(7)), (60, b"\1" + bytes(14))
    assert parse(extended(hop, routing, destination)).data == b"hello"


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (((43, b"\0\0\1" + bytes(4)),), "extension"),  # a segment is left: the destination is not the last
        (((0, bytes(7)), (51, bytes(7))), "extension"),  # authentication
        (((60, bytes(7)),) * 9, "extension"),
        (((0, b"\xff" + bytes(6)),), "short"),
    ],
)
def test_other_extension_headers_are_refused(headers: tuple[tuple[int, bytes], ...], reason: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(extended(*headers))
    assert caught.value.reason == reason


def test_eight_extension_headers_are_the_most() -> None:
    assert parse(extended(*[(60, bytes(7))] * 8)).data == b"hello"


def test_a_whole_tso_segment_goes_in_and_out() -> None:
    for size in (4, 16):
        whole = Segment(bytes(size), bytes(size), 1, 2, 3, 4, data=bytes(range(256)) * 255, gso_size=1448)
        assert parse(build(whole, partial=True)) == whole
        assert parse(build(whole)) == whole


@given(segments(), st.integers(0, 3000), st.booleans())
def test_packets_for_a_wire_are_the_segment_cut(segment: Segment, size: int, partial: bool) -> None:
    packet = build(segment, partial=partial)
    headers = len(packet) - VNET - len(segment.data)
    mss = max(1, size - headers)
    packets = cut(packet, size)
    assert all(len(p) <= max(size, headers + 1) for p in packets)
    pieces = [parse(bytes(VNET) + p) for p in packets]  # all checksums are there
    assert b"".join(p.data for p in pieces) == segment.data
    assert len(pieces) == max(1, -(-len(segment.data) // mss))
    at = 0
    for piece in pieces:
        first, last = at == 0, at + len(piece.data) == len(segment.data)
        kept = (
            0xFF
            & ~(0 if first else CWR)
            & ~(0 if last else FIN | PSH)
            & ~(URG if segment.urgent <= at else 0)
        )
        assert piece.flags == segment.flags & kept
        assert piece.urgent == (segment.urgent - at if piece.flags & URG else 0)
        assert piece.seq == (segment.seq + at) & 0xFFFFFFFF
        same = {"seq": segment.seq, "flags": segment.flags, "data": segment.data, "urgent": segment.urgent}
        assert piece._replace(**same, gso_size=segment.gso_size) == segment
        at += len(piece.data)


def test_headers_that_are_unknown_to_us_go_along_to_the_wire() -> None:
    packet = extended((60, bytes(7)))
    (made,) = cut(packet, 100)
    assert made[: V6 + 8] == packet[VNET : VNET + V6 + 8]
    assert parse(bytes(VNET) + made).data == b"hello"


def test_more_sacks_than_there_is_room_for_are_left_out() -> None:
    blocks = tuple((i, i + 1) for i in range(4))
    made = Segment(bytes(4), bytes(4), 1, 2, 3, 4, timestamps=(1, 2), sacks=blocks)
    assert parse(build(made)).sacks == blocks[:3]
