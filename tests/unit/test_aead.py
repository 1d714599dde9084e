"""VTL's encryption against another implementation: the `cryptography` package."""

from __future__ import annotations

import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from hooker.vtl._parts import Aead, hkdf_expand, hkdf_extract

CIPHERS = [(1, 16, AESGCM), (2, 32, AESGCM), (3, 32, ChaCha20Poly1305)]


def nonce(iv: bytes, number: int) -> bytes:
    return (int.from_bytes(iv, "big") ^ number).to_bytes(12, "big")


@pytest.mark.parametrize(("cipher", "key_size", "reference"), CIPHERS)
@pytest.mark.parametrize("sizes", [[0], [1], [15, 1], [16], [17, 1436], [24, 16, 300, 7, 1000], [65000]])
def test_sealing_is_that_of_the_reference(
    cipher: int, key_size: int, reference: type, sizes: list[int]
) -> None:
    rng = random.Random(sum(sizes))
    sealer = opener = None
    for number in (0, 1, 2**32, 2**62 - 1):
        key, iv, header = rng.randbytes(key_size), rng.randbytes(12), rng.randbytes(20)
        parts = [rng.randbytes(n) for n in sizes]
        if sealer is None or opener is None:
            sealer, opener = Aead(cipher, key, iv, seals=True), Aead(cipher, key, iv, seals=False)
        else:  # the contexts are used again, as by a key update
            sealer.set_key(key, iv)
            opener.set_key(key, iv)
        sealed = sealer.seal(number, header, parts)
        assert sealed == reference(key).encrypt(nonce(iv, number), b"".join(parts), header)
        assert opener.open(number, header, sealed) == b"".join(parts)


@pytest.mark.parametrize(("cipher", "key_size", "reference"), CIPHERS)
def test_nothing_that_was_changed_is_opened(cipher: int, key_size: int, reference: type) -> None:
    key, iv, header, text = bytes(range(key_size)), bytes(12), b"header", b"some text" * 9
    sealed = reference(key).encrypt(nonce(iv, 7), text, header)
    opener = Aead(cipher, key, iv, seals=False)
    for i in range(len(sealed)):
        assert opener.open(7, header, sealed[:i] + bytes([sealed[i] ^ 1]) + sealed[i + 1 :]) is None
    assert opener.open(8, header, sealed) is None
    assert opener.open(7, b"Header", sealed) is None
    for n in range(len(sealed)):
        assert opener.open(7, header, sealed[:n]) is None
    assert opener.open(7, header, sealed) == text


def test_hkdf_is_that_of_rfc_5869() -> None:
    """Appendix A.1, with what 32 bytes of its output are."""
    prk = hkdf_extract(bytes(range(13)), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"
    okm = hkdf_expand(prk, bytes(range(0xF0, 0xFA)), 32)
    assert okm.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


@pytest.mark.parametrize("size", [12, 16, 32])
def test_hkdf_is_that_of_the_reference(size: int) -> None:
    rng = random.Random(size)
    for _ in range(20):
        salt, key, info = rng.randbytes(9), rng.randbytes(32), rng.randbytes(rng.randrange(60))
        mac = HMAC(salt, SHA256())
        mac.update(key)
        secret = mac.finalize()
        assert hkdf_extract(salt, key) == secret
        assert hkdf_expand(secret, info, size) == HKDFExpand(SHA256(), size, info).derive(secret)
