"""The TCP option's layout: bpf/option.h, compiled for user space, against the text of the header file."""

from __future__ import annotations

import struct

import pytest
from fuzz.option import answered, asked, is_offered, loaded, nonces, selected
from hypothesis import given
from hypothesis import strategies as st

from hooker.vtl._parts import siphash

KIND, LENGTH, EXID, VERSION = 253, 16, 0x484B, 5
CLIENT, SERVER = 1, 2
ROLES, NONCES = st.integers(1, 3), st.integers(0, 2**64 - 1)
OFFERS = st.integers(0, 2**24 - 1)  # lists of a client; or a server's transport and port
BITMAPS = st.integers(0, 2**16 - 1)
OTHERS = [b"\x01", b"\x02\x04\x05\xb4", b"\x04\x02", b"\x03\x03\x07", b"\x08\x0a" + bytes(8)]


def option(role: int, offer: int, nonce: int, *, version: int = VERSION) -> bytes:
    head = struct.pack("!BBHB", KIND, LENGTH, EXID, version << 4 | role) + offer.to_bytes(3, "big")
    return head + struct.pack("=Q", nonce)  # opaque: as it lies in memory


def listed(*ids: int) -> int:
    """The list of an option that offers those."""
    return sum(number << 20 - 4 * at for at, number in enumerate(ids))


@given(OFFERS, NONCES)
def test_the_option_has_its_sixteen_bytes(offer: int, nonce: int) -> None:
    assert asked(b"", offer, nonce) == option(CLIENT, offer, nonce)
    assert answered(b"", offer >> 16, offer & 0xFFFF, nonce) == option(SERVER, offer, nonce)


@given(st.lists(st.sampled_from(OTHERS), max_size=4), ROLES, OFFERS, NONCES)
def test_the_option_is_found_among_others(others: list[bytes], role: int, offer: int, nonce: int) -> None:
    whole = b"".join(o for i, o in enumerate(others) if len(b"".join(others[: i + 1])) <= 24)
    assert loaded(whole + option(role, offer, nonce)) == (role, offer, nonce)
    assert asked(whole, offer, nonce) == whole + option(CLIENT, offer, nonce)


def test_a_header_without_room_is_left_alone() -> None:
    assert asked(b"\x01" * 25, 1, 1) is None
    assert answered(b"\x01" * 25, 1, 1, 1) is None


@pytest.mark.parametrize(
    ("ids", "takes", "selects"),
    [
        ((1,), {1}, 1),
        ((12, 1), {1}, 1),
        ((12, 1), {1, 12}, 12),  # the client's order, not the server's
        ((12, 11, 10, 9, 8, 1), {1}, 1),  # all six are looked at
        ((2, 2, 2, 2, 2, 2), {2}, 2),  # twice the same does no harm
        ((2, 2, 1), {1}, 1),
        ((15, 14, 1), {1}, 1),  # nobody has those
        ((15, 14), {1, 2, 3, 13}, 0),
        ((0, 1), {1}, 0),  # 0 ends it
        ((), {1}, 0),
        ((1,), {0}, 0),  # 0 is no transport, whatever bit is set
        ((12,), {1}, 0),
    ],
)
def test_the_server_selects_the_first_that_it_takes(
    ids: tuple[int, ...], takes: set[int], selects: int
) -> None:
    assert selected(listed(*ids), sum(1 << number for number in takes)) == selects


@given(OFFERS, BITMAPS)
def test_nothing_is_selected_that_was_not_offered_and_is_taken(offer: int, takes: int) -> None:
    found = selected(offer, takes)
    assert found == 0 or (is_offered(offer, found) and takes >> found & 1)


@given(OFFERS, st.integers(0, 255))
def test_no_answer_counts_that_is_not_in_the_list(offer: int, answer: int) -> None:
    ids = [offer >> 20 - 4 * at & 15 for at in range(6)]
    ids = ids[: ids.index(0)] if 0 in ids else ids
    assert is_offered(offer, answer) == (answer in ids)


@given(ROLES, OFFERS, NONCES, st.data())
def test_another_version_length_or_exid_is_not_ours(
    role: int, offer: int, nonce: int, data: st.DataObject
) -> None:
    whole = option(role, offer, nonce)
    others = st.sampled_from([n for n in range(16) if n != VERSION])
    assert loaded(option(role, offer, nonce, version=data.draw(others))) is None
    assert loaded(whole[: data.draw(st.integers(0, 15))]) is None
    at = data.draw(st.sampled_from([0, 1, 2, 3]))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    assert loaded(bytes(changed)) is None


@given(st.binary(max_size=40))
def test_any_options_are_read_without_harm(options: bytes) -> None:
    found = loaded(options)
    assert found is None or option(*found) in options


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
