"""The key file: one pre-shared key a line, two at most.

::

    vtl-psk-1:0f3a…            64 hexadecimal digits, or 44 characters of base64

Blank lines and lines that begin with ``#`` do not count. The first key is the one this engine begins
associations with; both are accepted. So a key is replaced without a gap: append the new one everywhere,
swap the lines everywhere, drop the old one everywhere.
"""

from __future__ import annotations

import base64
import binascii
import secrets
from pathlib import Path

from hooker import checks, trust
from hooker.errors import ConfigurationError

PREFIX = "vtl-psk-1:"
KEY_SIZE = 32  # bytes
MAX_KEYS = 2
MAX_FILE = 4096  # bytes


def make() -> str:
    """A new key, as a line of a key file without its end."""
    return PREFIX + secrets.token_hex(KEY_SIZE)


def read(path: str | Path) -> tuple[bytes, ...]:
    """The keys of a file, 32 bytes each; at least one.

    Raises ConfigurationError: the file is missing, unreadable, open to others or another user's, or has
    anything else in it.
    """
    checks.path("key file", path)
    keys = [_parse(path, number, line) for number, line in enumerate(_lines(path), 1) if _counts(line)]
    if not keys:
        raise ConfigurationError(f"key file {path} has no key", remedy=f"hooker key > {path}")
    if len(keys) > MAX_KEYS:
        raise ConfigurationError(
            f"key file {path} has {len(keys)} keys", remedy=f"leave {MAX_KEYS} at most, the one to use first"
        )
    if len(set(keys)) < len(keys):
        raise ConfigurationError(f"key file {path} has the same key twice", remedy="remove one")
    return tuple(keys)


def _lines(path: str | Path) -> list[str]:
    try:
        with open(trust.open_file(path, f"key file {path}", deny=0o077), "rb") as file:
            text = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        raise ConfigurationError(f"there is no key file {path}", remedy=f"hooker key > {path}") from None
    except OSError as error:
        raise ConfigurationError(
            f"key file {path} cannot be read: {error.strerror}", remedy="name a file you may read"
        ) from None
    if len(text) > MAX_FILE:
        raise ConfigurationError(f"key file {path} is too long", remedy="it has one key a line, two at most")
    return text.decode("ascii", "replace").splitlines()


def _counts(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _parse(path: str | Path, number: int, line: str) -> bytes:
    """The key itself is never in the message."""
    where, remedy = (
        f"key file {path}, line {number}",
        f"write {PREFIX} and 64 hexadecimal digits, or: hooker key",
    )
    text = line.strip()
    if not text.startswith(PREFIX):
        raise ConfigurationError(f"{where}: no {PREFIX} at its beginning", remedy=remedy)
    key = _decode(text.removeprefix(PREFIX))
    if key is None:
        raise ConfigurationError(f"{where}: neither hexadecimal nor base64", remedy=remedy)
    if len(key) != KEY_SIZE:
        raise ConfigurationError(f"{where}: a key of {len(key)} bytes, not {KEY_SIZE}", remedy=remedy)
    if len(set(key)) < 8:
        raise ConfigurationError(f"{where}: not a random key", remedy="make one: hooker key")
    return key


def _decode(text: str) -> bytes | None:
    try:
        return bytes.fromhex(text) if len(text) != 44 else base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        pass
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
