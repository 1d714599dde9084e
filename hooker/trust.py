"""Files and directories that are believed: only root or the caller can have put there what is read.

An engine is root, so what it reads by name may have been prepared by another user of the machine: in a
directory that this user owns or may write, or behind a link of his. A path is walked from the file system's
root down, each directory and link checked before what is in it: then nobody else can change the rest.
"""

from __future__ import annotations

import contextlib
import os
import stat
from importlib.machinery import ModuleSpec
from pathlib import Path

from hooker.errors import ConfigurationError

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
MAX_LINKS = 40  # as the kernel's own limit


def trusted(uid: int) -> bool:
    """Whether a user is root or the caller."""
    return uid in (0, os.geteuid())


def real_path(path: str | Path, what: str, *, make: bool = False, follow: bool = False) -> Path:
    """``path`` without links in its directories.

    :param what: names the thing in messages, as in "key file /etc/key".
    :param make: make directories that are missing, the last one too.
    :param follow: follow a link at the end; otherwise it is left to the caller.

    Raises ConfigurationError: a directory or link on the way could be changed by other users. OSError: it is
    not there.
    """
    here = Path("/")
    _check(here, here.lstat(), what)
    ahead = [*reversed(_absolute(Path(path)).parts[1:])]
    links = 0
    while ahead:
        part = ahead.pop()
        if part == "..":
            here = here.parent
            continue
        entry = here / part
        info = _look(entry, make)
        link = stat.S_ISLNK(info.st_mode)
        if not ahead and not (link and follow):
            return entry
        _check(entry, info, what)
        if not link:
            here = entry
            continue
        links += 1
        if links > MAX_LINKS:
            raise ConfigurationError(f"{what}: too many links on the way", remedy="name it by its own path")
        target = entry.readlink()
        here = Path("/") if target.is_absolute() else here
        ahead += [name for name in reversed(target.parts) if name != "/"]
    return here


def check_directory(path: Path, what: str) -> None:
    """Raises ConfigurationError unless it is a directory, no link, that only a trusted owner can write."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or not trusted(info.st_uid) or info.st_mode & OTHERS_WRITE:
        raise ConfigurationError(
            f"{what} {path} is not a directory that only this user can write",
            remedy="name a directory of your own, or make it one: chown, chmod go-w",
        )


def open_file(path: str | Path, what: str, *, deny: int = OTHERS_WRITE) -> int:
    """A descriptor of a regular file to read: nobody else owns it, none of the permissions ``deny`` is given.

    Raises ConfigurationError, or OSError: it is not there or cannot be opened.
    """
    real = real_path(path, what, follow=True)
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # not to wait for the writer of a pipe
    descriptor = os.open(real, flags)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise ConfigurationError(f"{what} is not a regular file", remedy="name a file")
        _check_owner(path, info, what)
        if info.st_mode & deny:
            mode = stat.S_IMODE(info.st_mode)
            raise ConfigurationError(
                f"{what} is open to other users (mode {mode:04o})", remedy=f"chmod {mode & ~deny:o} {path}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_module(name: str, spec: ModuleSpec) -> None:
    """Raises ConfigurationError when another user, who is not root, could have written what is imported."""
    what = f"module {name}"
    if spec.has_location and spec.origin:
        os.close(open_file(spec.origin, what))
        check_directory(Path(spec.origin).resolve().parent, f"{what}:")
        _check_compiled(spec, what)
    for directory in spec.submodule_search_locations or ():
        check_searched(directory, what)


def _check_compiled(spec: ModuleSpec, what: str) -> None:
    """What Python has compiled of it is run in its place, if it says that it is of the same date and size."""
    if spec.cached is None or not Path(spec.cached).parent.exists():
        return
    check_directory(Path(spec.cached).parent, f"compiled files of {what}:")
    with contextlib.suppress(FileNotFoundError):
        os.close(open_file(spec.cached, f"compiled {what}"))


def check_searched(directory: str | Path, what: str) -> None:
    """The same of a directory in which modules are looked for. Raises OSError, too."""
    check_directory(real_path(directory, what, follow=True), what)


def _absolute(path: Path) -> Path:
    """The working directory may have been removed; only who is in need of it must mind."""
    return path if path.is_absolute() else Path.cwd() / path


def _look(entry: Path, make: bool) -> os.stat_result:
    try:
        return entry.lstat()
    except FileNotFoundError:
        if not make:
            raise
    try:
        entry.mkdir(mode=0o755)
    except FileExistsError:
        pass  # by another process of ours; or by somebody else, which is seen now
    return entry.lstat()


def _check(entry: Path, info: os.stat_result, what: str) -> None:
    _check_owner(entry, info, what)
    if not stat.S_ISDIR(info.st_mode):
        return
    if info.st_mode & OTHERS_WRITE and not info.st_mode & stat.S_ISVTX:
        raise ConfigurationError(
            f"{what}: other users can write the directory {entry}", remedy=f"chmod go-w {entry}, or move it"
        )


def _check_owner(entry: str | Path, info: os.stat_result, what: str) -> None:
    if not trusted(info.st_uid):
        raise ConfigurationError(
            f"{what}: {entry} belongs to another user (uid {info.st_uid})",
            remedy=f"chown it to the user who runs hooker (uid {os.geteuid()}), or move it",
        )
