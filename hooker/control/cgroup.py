"""Control groups (version 2): where they are mounted, and child groups for hooked commands.

A group is named by its path relative to the hierarchy's root, since the path through a mount may be
different in another process: ``ip netns exec`` covers /sys, and with it the usual mount. Where no mount
is visible, a detached one is made, which is reached through its file descriptor and vanishes with it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hooker import checks
from hooker.errors import ConfigurationError, KernelError

CGROUP2_SUPER_MAGIC = 0x63677270  # linux/magic.h
NAME = re.compile(r"hooker-(\d+)-[0-9a-f]{8}")  # owner's pid, random
POLL_INTERVAL = 0.01  # s
SWEEP_AGE = 60.0  # s

# the same numbers on every architecture (they were added after the tables were unified)
_NR_FSOPEN, _NR_FSCONFIG, _NR_FSMOUNT = 430, 431, 432
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6

_libc = ctypes.CDLL(None, use_errno=True)


class _StatFs(ctypes.Structure):
    _fields_ = (("f_type", ctypes.c_long), ("rest", ctypes.c_long * 31))


def is_cgroup2(path: str | Path) -> bool:
    """Whether the path exists and lies in a cgroup v2 file system."""
    buffer = _StatFs()
    found = _libc.statfs(os.fsencode(path), ctypes.byref(buffer)) == 0
    return found and buffer.f_type == CGROUP2_SUPER_MAGIC


def mount_points(mounts: str) -> list[Path]:
    """Where cgroup v2 is mounted, from the text of /proc/mounts."""
    fields = (line.split(" ") for line in mounts.splitlines())
    return [Path(_unescape(f[1])) for f in fields if len(f) > 2 and f[2] == "cgroup2"]


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def root() -> Path:
    """A path to the root of the hierarchy, valid in this process as long as it lives.

    Raises ConfigurationError when the kernel has no cgroup v2 or it cannot be reached.
    """
    for path in mount_points(Path("/proc/self/mounts").read_text()):
        if is_cgroup2(path):
            return path
    return Path(f"/proc/self/fd/{_detached_mount()}")


def _is_visible() -> bool:
    return any(map(is_cgroup2, mount_points(Path("/proc/self/mounts").read_text())))


@functools.cache
def _detached_mount() -> int:
    """A file descriptor of a cgroup2 mount that is in no mount table."""
    context = _libc.syscall(_NR_FSOPEN, b"cgroup2", _FSOPEN_CLOEXEC)
    if context < 0:
        raise _no_cgroup2()
    try:
        if _libc.syscall(_NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
            raise _no_cgroup2()
        mount = _libc.syscall(_NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0)
        if mount < 0:
            raise _no_cgroup2()
        return int(mount)
    finally:
        os.close(context)


def forget_mount() -> None:
    """The detached mount's descriptor has been closed; make another when it is needed."""
    _detached_mount.cache_clear()


def _no_cgroup2() -> ConfigurationError:
    reason = os.strerror(ctypes.get_errno())
    return ConfigurationError(
        f"cgroup v2 is not mounted and cannot be: {reason}",
        remedy="run as root, or mount it: mount -t cgroup2 none /sys/fs/cgroup/unified",
    )


def check(path: str | Path) -> Path:
    """The path, if it names an existing cgroup v2 directory. Raises ConfigurationError otherwise."""
    checks.path("cgroup", path)
    if Path(path).exists() and not Path(path).is_dir():
        raise ConfigurationError(
            f"cgroup {str(path)!r} is not a directory", remedy="a cgroup is one: name that"
        )
    if not is_cgroup2(path) and not _is_visible():
        raise ConfigurationError(
            f"cgroup {str(path)!r} cannot be reached: no cgroup v2 file system is mounted here",
            remedy="`ip netns exec` covers it: use nsenter --net=/run/netns/NAME instead; or mount it",
        )
    if not Path(path).is_dir():
        raise ConfigurationError(f"cgroup {str(path)!r} does not exist", remedy=f"make it: mkdir {path}")
    if not is_cgroup2(path):
        raise ConfigurationError(
            f"{str(path)!r} is not in a cgroup v2 file system", remedy=f"name a directory below {root()}"
        )
    return Path(path)


def of_process(pid: int | str = "self") -> str:
    """The group of a process relative to the root, as in ``system.slice/ssh.service``; "" for the root.

    A process outside this cgroup namespace counts as being in the root.
    """
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        hierarchy, _, path = line.partition("::")
        if hierarchy == "0":
            relative = path.removesuffix(" (deleted)").strip("/")
            return "" if relative.startswith("..") else relative
    raise ConfigurationError("this kernel has no cgroup v2", remedy="boot with cgroup v2 enabled")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A child group. ``relative`` is its path below the hierarchy's root."""

    relative: str

    @classmethod
    def named(cls, parent: str | None = None) -> Cgroup:
        """``hooker-<pid>-<random>`` below ``parent`` (this process's own group by default), not made yet.

        Below the own group, so that resource limits go on applying. An owner that may be killed registers its
        removal with a janitor before ``make()``.
        """
        base = of_process() if parent is None else parent.strip("/")
        return cls(f"{base}/hooker-{os.getpid()}-{secrets.token_hex(4)}".lstrip("/"))

    @classmethod
    def create(cls, parent: str | None = None) -> Cgroup:
        """``named()`` and ``make()`` in one, for those that nobody kills."""
        return cls.named(parent).make()

    def make(self) -> Cgroup:
        """Make it, and remove what dead owners have left beside it. Raises ConfigurationError."""
        try:
            self.path.mkdir()
        except OSError as error:
            raise ConfigurationError(
                f"cannot make cgroup {self.path}: {error.strerror}",
                remedy="run as root, in a group that may have children",
            ) from None
        _sweep(self.path.parent)
        return self

    @property
    def path(self) -> Path:
        """A path to it, valid in this process."""
        return root() / self.relative

    @property
    def parent(self) -> Path:
        return self.path.parent

    def add(self, pid: int = 0) -> None:
        """Move a process into it; 0 is the caller. Raises KernelError."""
        try:
            _write(self.path / "cgroup.procs", str(pid))
        except OSError as error:
            raise KernelError.from_os_error(f"move process {pid} into {self.path}", error) from None

    def pids(self) -> list[int]:
        """The processes in it and below; empty when it is gone."""
        return [pid for directory in _tree(self.path) for pid in _pids(directory)]

    def remove(self, *, kill: bool = False, timeout: float = 2.0) -> bool:
        """Empty it and remove it, within ``timeout`` seconds; whether it is gone.

        Its processes are killed if ``kill`` says so; those that remain are moved to the parent.
        """
        deadline = time.monotonic() + timeout
        path = self.path
        if kill:
            _kill(path)
            while self.pids() and time.monotonic() < deadline - timeout / 2:
                time.sleep(POLL_INTERVAL)
        while path.exists():
            for directory in _tree(path):
                _empty(directory, path.parent)
                _rmdir(directory)
            if not path.exists():
                break
            if time.monotonic() >= deadline:
                return False
            time.sleep(POLL_INTERVAL)
        return True


def _sweep(parent: Path) -> None:
    """Remove empty groups of dead owners: of those whose janitor was killed, too.

    Not the young ones: their owner may live in another pid namespace and be about to fill them.
    """
    for directory in parent.glob("hooker-*"):
        try:
            match = NAME.fullmatch(directory.name)
            if match is None or Path(f"/proc/{match[1]}").exists():
                continue
            if time.time() - directory.stat().st_mtime > SWEEP_AGE and not any(map(_pids, _tree(directory))):
                for inner in _tree(directory):
                    _rmdir(inner)
        except OSError:
            pass  # gone already


def remove_stale(*, force: bool = False, below: Path | None = None) -> list[str]:
    """Remove groups of ours whose owner is dead, or those of them ``below``; the relative paths of what went.

    A group with processes in it is left alone unless ``force``: its owner may live in another pid
    namespace, where the number in the name means another process.
    """
    base = root()
    removed = []
    for directory in list(_tree(below or base)):
        match = NAME.fullmatch(directory.name)
        if match is None or Path(f"/proc/{match[1]}").exists():
            continue
        group = Cgroup(str(directory.relative_to(base)))
        if (force or not group.pids()) and group.remove():
            removed.append(group.relative)
    return removed


def _tree(path: Path) -> Iterator[Path]:
    """The directory and all below it, children first."""
    for directory, _, _ in os.walk(path, topdown=False):
        yield Path(directory)


def _pids(directory: Path) -> list[int]:
    try:
        return [int(pid) for pid in (directory / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _write(path: Path, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _kill(path: Path) -> None:
    try:
        _write(path / "cgroup.kill", "1")
    except OSError:
        pass  # gone already; what is left is moved


def _empty(directory: Path, parent: Path) -> None:
    for pid in _pids(directory):
        try:
            _write(parent / "cgroup.procs", str(pid))
        except OSError:
            pass  # it has exited


def _rmdir(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        pass  # still busy; the caller looks again
