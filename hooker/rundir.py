"""Hooker's run-time directory: the header cache and the control sockets of live engines."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hooker.errors import ConfigurationError

ENVIRONMENT = "HOOKER_RUN_DIR"


def run_directory() -> Path:
    """Make and return it: ``$HOOKER_RUN_DIR``, ``/run/hooker``, or a directory of the user's own.

    Raises ConfigurationError when it cannot be made, or belongs to somebody else, who could then plant
    headers or sockets in it.
    """
    path = _location()
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise ConfigurationError(
            f"cannot make {path}: {error.strerror}", remedy=f"set {ENVIRONMENT} to a directory of your own"
        ) from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
        raise ConfigurationError(
            f"{path} is not a directory that only this user can write",
            remedy=f"remove it, or set {ENVIRONMENT} to a directory of your own",
        )
    return path


def _location() -> Path:
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/run/hooker")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "hooker" if base else Path(f"/tmp/hooker-{os.geteuid()}")
