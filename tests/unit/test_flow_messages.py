"""Messages of the flow protocol: to the bit, of their size, and nothing else is one."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooker.flow.messages import TYPES, MessageError, checksum, checksum_in_software, decode, encode

U8, U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
PREFIX = {"epoch": U8, "flags": st.integers(0, 0x7F), "position": U32, "token": U64}
BODY: dict[str, dict[str, st.SearchStrategy[object]]] = {
    "open": {"own_token": U64, "proof": st.binary(min_size=16, max_size=16)},
    "accept": {"own_token": U64, "proof": st.binary(min_size=16, max_size=16)},
    "engaged": {"tsval": U32},
    "data": {"data": st.binary(max_size=3000)},
    "acked": {
        "edge": U32,
        "serial": U16,
        "duplicates": U8,
        "sack": st.lists(st.tuples(U32, U32), max_size=4).map(tuple),
    },
    "hello": {
        "own_token": U64,
        "edge": U32,
        "data": st.sampled_from([b"", b"\x01\x03vtl", b"\x02\x00\x03\x01x"]),
    },
}
STAMPS = {"tsval": U32, "tsecr": U32}


@st.composite
def messages(draw: st.DrawFn) -> dict[str, object]:
    kind = draw(st.sampled_from(sorted(TYPES)))
    fields: dict[str, object] = {"kind": kind}
    for name, values in {**PREFIX, **BODY.get(kind, {})}.items():
        fields[name] = draw(values)
    if kind in ("data", "acked") and draw(st.booleans()):
        fields |= {name: draw(values) for name, values in STAMPS.items()}
        fields["flags"] = int(fields["flags"]) | 0x80  # type: ignore[call-overload]
    return fields


@given(messages(), st.booleans())
def test_what_is_written_is_read(fields: dict[str, object], checked: bool) -> None:
    wire = encode(**fields, checked=checked)  # type: ignore[arg-type]
    read = decode(wire, checked=checked)
    assert {name: read[name] for name in fields} == fields
    assert not any(value for name, value in read.items() if name not in fields and name != "proof")
    if fields["kind"] != "data":
        assert len(wire) <= 96


@given(messages(), st.data())
def test_a_message_cut_or_lengthened_is_none(fields: dict[str, object], data: st.DataObject) -> None:
    wire = encode(**fields)  # type: ignore[arg-type]
    if fields["kind"] == "data":  # its length is the transport's word
        wire = wire[: 24 if int(fields["flags"]) & 0x80 else 16]  # type: ignore[call-overload]
    else:
        with pytest.raises(MessageError, match="behind its end"):
            decode(wire + b"x")
    with pytest.raises(MessageError):
        decode(wire[: data.draw(st.integers(0, len(wire) - 1))])


@given(messages(), st.data())
def test_with_a_checksum_no_damage_of_up_to_three_bits_passes(
    fields: dict[str, object], data: st.DataObject
) -> None:
    wire = bytearray(encode(**fields, checked=True))  # type: ignore[arg-type]
    for bit in data.draw(st.sets(st.integers(0, 8 * len(wire) - 1), min_size=1, max_size=3)):
        wire[bit // 8] ^= 1 << bit % 8
    with pytest.raises(MessageError, match="wrong checksum"):
        decode(bytes(wire), checked=True)


@given(st.binary(max_size=120), st.booleans())
def test_arbitrary_bytes_are_a_message_or_an_error(wire: bytes, checked: bool) -> None:
    try:
        fields = decode(wire, checked=checked)
    except MessageError:
        return
    again = decode(encode(**fields, checked=checked), checked=checked)
    assert again == fields


def test_every_type_has_the_bytes_of_the_specification() -> None:
    def prefix(kind: int, flags: int = 0, count: int = 0, position: int = 7, token: int = 9) -> bytes:
        return struct.pack(">BBBBIQ", kind, flags, 3, count, position, token)

    common = {"epoch": 3, "position": 7, "token": 9}
    for kind in ("ping", "pong", "reject", "probe", "refused", "reset", "leave"):
        assert encode(kind, **common) == prefix(TYPES[kind])
    proof = bytes(range(16))
    assert encode("open", **common, own_token=11, proof=proof) == prefix(0x10) + struct.pack(">Q", 11) + proof
    assert (
        encode("accept", **common, own_token=11, proof=proof) == prefix(0x11) + struct.pack(">Q", 11) + proof
    )
    assert encode("engaged", **common, flags=1, tsval=5) == prefix(0x13, 1) + struct.pack(">I", 5)
    assert encode("data", **common, flags=1, data=b"abc") == prefix(0x14, 1) + b"abc"
    stamped = encode("data", **common, flags=0x82, tsval=5, tsecr=6, data=b"abc")
    assert stamped == prefix(0x14, 0x82) + struct.pack(">II", 5, 6) + b"abc"
    assert encode(
        "acked",
        **common,
        flags=0x82,
        edge=20,
        serial=4,
        duplicates=2,
        tsval=5,
        tsecr=6,
        sack=((8, 9), (11, 13)),
    ) == prefix(0x15, 0x82, 2) + struct.pack(">IHBB", 20, 4, 2, 0) + struct.pack(">6I", 5, 6, 8, 9, 11, 13)
    assert encode("hello", **common, own_token=11, edge=5, data=b"\x01\x03vtl") == (
        prefix(0x01, 0, 5) + struct.pack(">QII", 11, 5, 0) + b"\x01\x03vtl"
    )


def test_the_largest_control_messages_are_within_96_bytes() -> None:
    options = b"\x01\x3a" + bytes(58)
    assert len(encode("hello", data=options, checked=True)) == 96
    blocks = ((1, 2), (3, 4), (5, 6), (7, 8))
    assert len(encode("acked", flags=0x80, sack=blocks, checked=True)) == 68


def test_the_checksum_is_crc32c() -> None:
    for data, value in (
        (bytes(32), 0x8A9136AA),  # RFC 3720 B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ):
        assert checksum(data) == checksum_in_software(data) == value
        assert checksum(data + b"\x00") != value


@given(st.binary(max_size=300))
def test_both_ways_to_the_checksum_agree(data: bytes) -> None:
    assert checksum(data) == checksum_in_software(data)


def test_what_does_not_fit_is_refused_and_named() -> None:
    with pytest.raises(MessageError, match="no message is called 'opne'; there are hello, ping"):
        encode("opne")
    with pytest.raises(MessageError, match="open: a value does not fit"):
        encode("open", epoch=256)
    with pytest.raises(MessageError, match="at most 4 SACK blocks"):
        encode("acked", sack=((1, 2),) * 5)
    with pytest.raises(MessageError, match="60 bytes of options"):
        encode("hello", data=b"\x01\x3b" + bytes(59))
    with pytest.raises(MessageError, match="malformed options"):
        decode(encode("hello", data=b"\x01\x04abc"))
    with pytest.raises(MessageError, match="unknown type"):
        decode(bytes([0x1A]) + bytes(15))
    with pytest.raises(MessageError, match="shorter"):
        decode(bytes(3), checked=True)
