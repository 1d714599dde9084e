"""What ends the process that runs a user's class, whatever that does: a process of its own.

It has the same end of the link, and sees there when the engine has gone or closed its own end. The kernel
kills the user's process when the keeper is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal

from hooker.prototype.link import Closed, Link

LAST_WORDS = 0.2  # s, for what the engine has said before it closed its end
PR_SET_PDEATHSIG = 1  # linux/prctl.h
IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


def die_with(keeper: int) -> None:
    """In the child: it is killed when its keeper has ended, which has one thread, the parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(1)


def keep(child: int, descriptor: int) -> int:
    """Until the child has ended, by itself or because nobody wants it any more."""
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
    return 0


def how(status: int) -> str:
    """A process has ended, for people."""
    if os.WIFSIGNALED(status):
        return f"its process was killed by signal {os.WTERMSIG(status)}"
    return f"its process has ended (exit status {os.waitstatus_to_exitcode(status)})"
