"""Small files in the run-time directory that spare a later start its work, the last used of each kind.

Each has in its name the hash of all it depends on. It is written under another name first, so that a reader
never sees half of one, and believed only from a trusted owner (hooker/trust.py), and if it is as it was
written: a machine that loses its power may keep a name with nothing behind it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from hooker import trust

MOST = 1 << 20  # bytes of one
KEPT = 8  # of a kind: several builds may be in use by turns
DIGEST = hashlib.sha256().digest_size  # bytes, before the content


def read(path: Path, what: str) -> bytes:
    """What is kept there, which is in use then.

    Raises OSError: there is none. ValueError (ConfigurationError is one): it is not to be believed.
    """
    with open(trust.open_file(path, f"{what} {path}"), "rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise ValueError(f"{what} {path} is longer than {MOST} bytes")
    digest, content = content[:DIGEST], content[DIGEST:]
    if digest != hashlib.sha256(content).digest():
        raise ValueError(f"{what} {path} is not as it was written")
    with contextlib.suppress(OSError):
        os.utime(path)
    return content


def write(path: Path, content: bytes) -> None:
    """Keep it. The name up to the first dash is its kind: of that, what was used longest ago goes.

    Raises OSError.
    """
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.unlink(missing_ok=True)  # of a process that was killed and had the same pid
    try:
        with temporary.open("xb") as file:
            file.write(hashlib.sha256(content).digest() + content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sweep(path.parent, path.name.partition("-")[0])


def _sweep(directory: Path, kind: str) -> None:
    """Remove what is no more used, and what belongs to it (locks, halves of killed processes)."""
    used: dict[str, float] = {}
    files = list(directory.glob(f"{kind}-*"))
    for file in files:
        with contextlib.suppress(OSError):
            name = file.name.partition(".")[0]
            used[name] = max(used.get(name, 0), file.lstat().st_mtime)
    for name in sorted(used, key=lambda name: used[name], reverse=True)[KEPT:]:
        for file in files:
            if file.name.partition(".")[0] == name:
                with contextlib.suppress(OSError):  # somebody else was faster
                    file.unlink()
