"""The TCP option's layout: bpf/option.h, compiled for user space, against the text of the header file."""

from __future__ import annotations

import struct

from fuzz.option import loaded, nonces, stored
from hypothesis import given
from hypothesis import strategies as st

from hooker.vtl._parts import siphash

KIND, LENGTH, EXID, VERSION, TRANSPORT = 253, 16, 0x484B, 3, 1
ROLES, PORTS, NONCES = st.integers(1, 3), st.integers(0, 2**16 - 1), st.integers(0, 2**64 - 1)
OTHERS = [b"\x01", b"\x02\x04\x05\xb4", b"\x04\x02", b"\x03\x03\x07", b"\x08\x0a" + bytes(8)]


def option(role: int, port: int, nonce: int, *, version: int = VERSION) -> bytes:
    head = struct.pack("!BBHBBH", KIND, LENGTH, EXID, version << 4 | role, TRANSPORT, port)
    return head + struct.pack("=Q", nonce)  # opaque: as it lies in memory


@given(ROLES, PORTS, NONCES)
def test_the_option_has_its_sixteen_bytes(role: int, port: int, nonce: int) -> None:
    assert stored(b"", role, port, nonce) == option(role, port, nonce)


@given(st.lists(st.sampled_from(OTHERS), max_size=4), ROLES, PORTS, NONCES)
def test_the_option_is_found_among_others(others: list[bytes], role: int, port: int, nonce: int) -> None:
    whole = b"".join(o for i, o in enumerate(others) if len(b"".join(others[: i + 1])) <= 24)
    assert loaded(whole + option(role, port, nonce)) == (role, TRANSPORT, port, nonce)
    assert stored(whole, role, port, nonce) == whole + option(role, port, nonce)


def test_a_header_without_room_is_left_alone() -> None:
    assert stored(b"\x01" * 25, 1, 1, 1) is None


@given(ROLES, PORTS, NONCES, st.data())
def test_another_version_length_or_exid_is_not_ours(
    role: int, port: int, nonce: int, data: st.DataObject
) -> None:
    whole = option(role, port, nonce)
    assert loaded(option(role, port, nonce, version=data.draw(st.sampled_from([0, 1, 2, 15])))) is None
    assert loaded(whole[: data.draw(st.integers(0, 15))]) is None
    at = data.draw(st.sampled_from([0, 1, 2, 3]))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert loaded(bytes(changed)) is None


@given(st.binary(max_size=40))
def test_any_options_are_read_without_harm(options: bytes) -> None:
    found = loaded(options)
    assert found is None or option(found[0], found[2], found[3])[:5] in options


@given(
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=40, max_size=40),
    NONCES,
    NONCES,
)
def test_nonces_are_keyed_hashes_of_both_addresses_and_ports(
    servers: bytes, clients: bytes, key: bytes, first: int, second: int
) -> None:
    """`key` is a hk_key; siphash() is the engine's, and tested against others'. The server's first two octets
    are the number of its engine's run, here 0."""
    words = struct.pack("=QQ", first, second)
    assert nonces(servers, clients, key, first, second) == (
        siphash(servers, key + words[:8]) & ~0xFFFF,
        siphash(clients, key + words) | 1,
    )
