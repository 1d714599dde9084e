"""Proof of the handshake: only one who has seen it, for this association, this epoch, these fields."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any

import pytest

from hooker.flow.messages import MessageError, decode, encode
from hooker.flow.proof import HandshakeProof

SEEN: dict[str, int] = {"client_nonce": 1, "server_nonce": 2, "client_isn": 3, "server_isn": 4}
FIELDS: dict[str, Any] = {"epoch": 5, "token": (6 << 60) + 1, "own_token": (7 << 60) + 1}
BINDING = b"association of A and B"


def test_the_other_end_finds_the_proof_right() -> None:
    for kind in ("open", "accept"):
        message = HandshakeProof(**SEEN).sign(kind, **FIELDS, binding=BINDING)
        assert HandshakeProof(**SEEN).check(message, BINDING)
        fields = decode(message)
        assert {name: fields[name] for name in FIELDS} == FIELDS


def test_the_bytes_are_those_of_the_specification() -> None:
    for server_nonce, key in (
        (2, b"\x01\x10" + struct.pack(">QQ", 1, 2)),
        (0, b"\x02\x10" + struct.pack(">QII", 1, 3, 4)),
    ):
        proof = HandshakeProof(**{**SEEN, "server_nonce": server_nonce})
        assert proof.locator == int.from_bytes(hmac.digest(key, b"flow locator", hashlib.sha256)[:8], "big")
        wire = encode("open", **FIELDS)[:24]
        text = b"F\x01" + bytes([len(BINDING)]) + BINDING + wire
        signed = proof.sign("open", **FIELDS, binding=BINDING)
        assert signed == wire + hmac.digest(key, text, hashlib.sha256)[:16]


@pytest.mark.parametrize("name", SEEN)
def test_who_has_not_seen_the_handshake_has_no_proof(name: str) -> None:
    for without in (False, True):
        seen = {**SEEN, "server_nonce": 0} if without else SEEN
        if without == name.endswith("isn"):
            guess = {**seen, name: seen[name] + 1}
            message = HandshakeProof(**guess).sign("open", **FIELDS, binding=BINDING)
            assert not HandshakeProof(**seen).check(message, BINDING)
            assert HandshakeProof(**guess).locator != HandshakeProof(**seen).locator


def test_both_nonces_are_never_one_nonce_and_two_sequence_numbers() -> None:
    two = HandshakeProof(client_nonce=1, server_nonce=(3 << 32) + 4, client_isn=0, server_isn=0)
    assert two.locator != HandshakeProof(client_nonce=1, server_nonce=0, client_isn=3, server_isn=4).locator


def test_a_proof_is_good_for_its_association_role_and_fields_only() -> None:
    proof = HandshakeProof(**SEEN)
    message = proof.sign("open", **FIELDS, binding=BINDING)
    assert not proof.check(message, b"another association")
    assert not proof.check(b"\x11" + message[1:], BINDING)  # sent back as an ACCEPT
    for at in range(len(message)):
        if at in (0, 3):  # type; a byte that OPEN does not have
            continue
        changed = bytearray(message)
        changed[at] ^= 1
        assert not proof.check(bytes(changed), BINDING), at


def test_what_has_no_proof_cannot_be_signed_or_checked() -> None:
    proof = HandshakeProof(**SEEN)
    with pytest.raises(MessageError, match="only open and accept"):
        proof.sign("leave", **FIELDS, binding=BINDING)
    with pytest.raises(MessageError, match="at most 64 bytes"):
        proof.sign("open", **FIELDS, binding=bytes(65))
    assert not proof.check(encode("leave"), BINDING)
    assert not proof.check(proof.sign("open", **FIELDS, binding=BINDING), bytes(65))
