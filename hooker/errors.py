"""Exceptions. Each class says whose fault it is, each instance what to do about it.

``HookerError`` is the base. ``fault`` is one of ``configuration``, ``local``, ``carrier`` and ``kernel``;
``remedy`` is one sentence for a person, or empty when there is nothing to be done.
"""

from __future__ import annotations

import errno as _errno
import os
import resource
from pathlib import Path
from typing import ClassVar, Literal

FILES = 256  # open files are enough for an engine and its first carriers
FREE_FILES = 64  # that it opens until it is there, and some

Fault = Literal["configuration", "local", "carrier", "kernel"]


class HookerError(Exception):
    """Base of every error Hooker raises on purpose."""

    fault: ClassVar[Fault] = "local"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class ConfigurationError(HookerError, ValueError):
    """A setting, an argument or the machine's set-up is wrong. Nothing has been changed yet."""

    fault = "configuration"


class UsageError(HookerError, RuntimeError):
    """The caller used the interface in a way it does not allow (a closed object, a wrong order)."""

    fault = "local"


class CarrierError(HookerError, ConnectionError):
    """What VTL rides on failed: no route, port in use, datagrams blocked."""

    fault = "carrier"


class KernelError(HookerError, RuntimeError):
    """The kernel refused something Hooker needs, or lacks it. ``errno`` is 0 when there was none."""

    fault = "kernel"

    def __init__(self, message: str, *, remedy: str = "", errno: int = 0) -> None:
        super().__init__(message, remedy=remedy or remedy_for(errno))
        self.errno = errno

    @classmethod
    def from_os_error(cls, action: str, error: OSError, *, remedy: str = "") -> KernelError:
        """``action`` is what was tried, as in "attach sock_ops to /sys/fs/cgroup"."""
        number = error.errno or 0
        name = _errno.errorcode.get(number, str(number))
        reason = os.strerror(number) if number else str(error)
        return cls(f"cannot {action}: {reason} [{name}]", remedy=remedy, errno=number)


def remedy_for(number: int) -> str:
    """What to do about an errno, where that is the same whatever was tried; empty otherwise."""
    if number == _errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"the limit is {limit} open files: ulimit -n {max(FILES, limit * 4)}"
    return ""


def require_files(what: str) -> None:
    """Raise KernelError (EMFILE) unless the process may open as many files as an engine needs to start.

    Asked for at the beginning: whoever meets the limit later may be somebody else's code, or an import.
    """
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if (
        limit != resource.RLIM_INFINITY
        and limit - sum(1 for _ in Path("/proc/self/fd").iterdir()) < FREE_FILES
    ):
        raise KernelError.from_os_error(what, OSError(_errno.EMFILE, os.strerror(_errno.EMFILE)))


def describe_os_error(error: OSError) -> str:
    """What the kernel said, and of which file if it was about one."""
    why = error.strerror or str(error)
    return f"{error.filename}: {why}" if isinstance(error.filename, str) else why


def require_root(what: str) -> None:
    """Raise ConfigurationError unless the process has root's effective user id."""
    if os.geteuid() != 0:
        raise ConfigurationError(f"{what} needs root", remedy="run it with sudo")
