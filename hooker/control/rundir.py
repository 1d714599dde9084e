"""Hooker's run-time directory: the header cache, the probes' verdict, the control sockets of live engines."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from hooker import trust
from hooker.errors import ConfigurationError, KernelError, remedy_for

ENVIRONMENT = "HOOKER_RUN_DIR"
WHAT = "run-time directory"
OWN = f"set {ENVIRONMENT} to a directory of your own"
LONGEST = 107 - len("/4194304-999.sock")  # bytes: sun_path, with the name of a control socket


def run_directory() -> Path:
    """Make and return it: ``$HOOKER_RUN_DIR``, ``/run/hooker``, or a directory of the user's own.

    Raises ConfigurationError when it cannot be made or no file can be made in it, its path is too long for a
    socket, or somebody else could plant headers or sockets in it: it, or a directory on the way to it,
    belongs to another user or can be written by one. What has been made until then is removed again.
    """
    path = _short(location())
    missing = [place for place in (path, *path.parents) if not os.path.lexists(place)]
    try:
        return _made(path)
    except (ConfigurationError, OSError) as error:
        for place in missing:
            with contextlib.suppress(OSError):
                place.rmdir()
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"cannot make {path}: {error.strerror}", remedy=OWN) from None


def existing() -> Path | None:
    """Return it, or None where there is none: who only asks makes none. Raises as run_directory() does."""
    try:
        _short(location()).lstat()
    except FileNotFoundError:
        return None
    except OSError:
        pass  # told below, with what to do
    return run_directory()


def _short(path: Path) -> Path:
    if len(os.fsencode(os.path.realpath(path))) > LONGEST or len(os.fsencode(path)) > LONGEST:
        raise ConfigurationError(
            f"{WHAT}: its path is longer than the {LONGEST} bytes that leave room for a socket's name",
            remedy=OWN,
        )
    return path


def _made(path: Path) -> Path:
    real = trust.real_path(path, f"{WHAT} {path}", make=True)
    trust.check_directory(real, WHAT)
    if real.lstat().st_uid != os.geteuid():
        raise ConfigurationError(
            f"{WHAT} {path} is root's, not a directory that only this user can write", remedy=OWN
        )
    try:
        with tempfile.TemporaryFile(dir=real):
            pass
    except OSError as error:
        if remedy_for(error.errno or 0):  # not the directory's fault
            raise KernelError.from_os_error(f"make files in {path}", error) from None
        raise ConfigurationError(f"cannot make files in {path}: {error.strerror}", remedy=OWN) from None
    return real


def location() -> Path:
    """Where it is or would be. Raises ConfigurationError when the environment names no absolute path."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return _absolute(named, ENVIRONMENT)
    if os.geteuid() == 0:
        return Path("/run/hooker")
    base = os.environ.get("XDG_RUNTIME_DIR")
    return _absolute(base, "XDG_RUNTIME_DIR") / "hooker" if base else Path(f"/tmp/hooker-{os.geteuid()}")


def _absolute(path: str, name: str) -> Path:
    """Relative, it would be another one in each process."""
    if not Path(path).is_absolute():
        raise ConfigurationError(f"{name} is not an absolute path: {path!r}", remedy="begin it with /")
    return Path(path)
