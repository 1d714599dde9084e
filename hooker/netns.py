"""Work inside a network namespace without leaving one's own.

A namespace belongs to a thread, and so does ``setns(2)``: each call runs in a thread made for it,
which ends inside the namespace. Mounts are not touched (``ip netns exec`` would hide the cgroups).
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import TypeVar

CLONE_NEWNET = 0x40000000

T = TypeVar("T")


def path(name: str) -> str:
    """Return the file that names the namespace *name*."""
    return f"/run/netns/{name}"


def enter(name: str) -> None:
    """Move the calling thread into the namespace *name*, for good."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            errno = ctypes.get_errno()
            raise OSError(errno, os.strerror(errno), path(name))
    finally:
        os.close(fd)


def call(name: str, fn: Callable[[], T]) -> T:
    """Return ``fn()``, run inside the namespace *name*; its exception, if any, is raised here.

    Sockets that *fn* opens stay in that namespace.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            enter(name)
            results.append(fn())
        except BaseException as exc:  # handed to the caller
            errors.append(exc)

    thread = threading.Thread(target=body, name=f"netns-{name}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
