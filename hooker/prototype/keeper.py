"""What ends the process that runs a user's class, whatever that does: a process of its own.

It has the same end of the link, and sees there when the engine has gone or closed its own end. The kernel
kills the user's process when the keeper is killed. What that process has started is the keeper's, too, and
ends with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from pathlib import Path

from hooker.prototype.link import Closed, Link

LAST_WORDS = 0.2  # s, for what the engine has said before it closed its end
SWEEP = 2.0  # s, for what the class has started
PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_CHILD_SUBREAPER = 36
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def die_with(keeper: int) -> None:
    """In the child: it is killed when its keeper has ended, which has one thread, the parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(1)


def keep(child: int, descriptor: int) -> int:
    """Until the child has ended, by itself or because nobody wants it any more, and what it has started."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    process = os.pidfd_open(child)
    watch = select.poll()
    watch.register(process, select.POLLIN)
    watch.register(descriptor, 0)  # its end only
    ready = dict(watch.poll())
    if process not in ready:
        watch.unregister(descriptor)
        watch.poll(LAST_WORDS * 1000)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if process in ready:
        with contextlib.suppress(Closed):
            Link(descriptor).fail(how(status))
    _sweep()
    return 0


def _sweep() -> None:
    """Kill what the class has started and left: it has become ours, and may have the engine's port."""
    end = time.monotonic() + SWEEP
    while time.monotonic() < end:
        for process in _children():
            os.kill(process, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _children() -> list[int]:
    """Our own, from what /proc says of each process (proc(5): the fourth word of stat is its parent)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            if int(entry.read_text("latin-1").rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry.parent.name))
    return found


def how(status: int) -> str:
    """A process has ended, for people."""
    if os.WIFSIGNALED(status):
        return f"its process was killed by signal {os.WTERMSIG(status)}"
    return f"its process has ended (exit status {os.waitstatus_to_exitcode(status)})"
