"""Work inside a network namespace without leaving one's own.

A namespace belongs to a thread, and so does ``setns(2)``: each call runs in a thread made for it,
which ends inside the namespace. Mounts are not touched (``ip netns exec`` would hide the cgroups).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

CLONE_NEWNET = 0x40000000  # linux/sched.h

T = TypeVar("T")


def path(name: str) -> str:
    """Return the file that names the namespace *name*."""
    return f"/run/netns/{name}"


def enter(name: str) -> None:
    """Move the calling thread into the namespace *name*, for good."""
    fd = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        _setns(fd, path(name))
    finally:
        os.close(fd)


def _setns(fd: int, what: str) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET):
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), what)


def unshare() -> None:
    """Move the calling thread into a new namespace, for good. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")


def own() -> int:
    """Return a file descriptor of the calling thread's namespace, for ``inside()``."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def call(name: str, fn: Callable[[], T]) -> T:
    """Return ``fn()``, run inside the namespace *name*; its exception, if any, is raised here.

    Sockets that *fn* opens stay in that namespace.
    """
    return _in_thread(lambda: enter(name), fn)


def inside(descriptor: int, fn: Callable[[], T]) -> T:
    """As ``call()``, with the namespace's descriptor; on the spot where that is the caller's own."""
    here, there = Path("/proc/thread-self/ns/net").stat(), os.fstat(descriptor)
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
        return fn()
    return _in_thread(lambda: _setns(descriptor, "the network namespace"), fn)


def _in_thread(go: Callable[[], None], fn: Callable[[], T]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            go()
            results.append(fn())
        except BaseException as exc:  # handed to the caller
            errors.append(exc)

    thread = threading.Thread(target=body, name="hooker-netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
