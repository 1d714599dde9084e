"""What runs until it is interrupted waits here."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LOOK = 60.0  # s, at most, from one look to the next


class Stopped:
    """Made in the main thread, before what is to be undone. Says from then on whether a signal has come.

    The kernel gives a signal to any thread when all have been stopped (SIGSTOP), and Python runs its handler
    in the main one, which that does not wake. What Python writes to a descriptor then does.
    """

    def __init__(self) -> None:
        self._said = False
        self._heard, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, self._say)

    def _say(self, number: int, frame: FrameType | None) -> None:
        self._said = True

    def wait(self) -> None:
        """Return when one has come."""
        watch = select.poll()
        watch.register(self._heard, select.POLLIN)
        while not self._said:
            watch.poll(LOOK * 1000)
            with contextlib.suppress(BlockingIOError):
                os.read(self._heard, 4096)
