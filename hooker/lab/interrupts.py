"""Ctrl-C and SIGTERM as exceptions that arrive, also where Python drops one.

A signal's exception is raised wherever the main thread is. In a weak reference's callback or a ``__del__``
the interpreter reports it and goes on, and the callbacks of the import system run with every import: the
program never learns that it was asked to end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

AGAIN = 0.01  # s after which a signal whose exception was dropped is sent once more


class Interrupts:
    """From install() to restore(): SIGINT is KeyboardInterrupt, SIGTERM SystemExit(143).

    For the main thread, which alone may set handlers; a signal that has another handler keeps it.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._hook: Any = None  # what sys.unraisablehook was

    def install(self) -> None:
        """Take the signals that nobody else handles."""
        if self._before or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                self._before[number] = signal.signal(number, _raise)
        if self._before:
            self._hook, sys.unraisablehook = sys.unraisablehook, self._dropped

    def restore(self) -> None:
        """Give back what install() took."""
        if sys.unraisablehook == self._dropped:  # else somebody's who came later, as pytest's
            sys.unraisablehook = self._hook
        while self._before:
            signal.signal(*self._before.popitem())

    def _dropped(self, unraisable: Any) -> None:
        number = _number(unraisable.exc_value)
        if number not in self._before:
            self._hook(unraisable)
            return
        # Raised in here it would be dropped again.
        timer = threading.Timer(AGAIN, os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()


def _raise(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _number(exc: BaseException | None) -> int:
    """Return the signal that raised *exc*, 0 if none did."""
    if isinstance(exc, KeyboardInterrupt):
        return signal.SIGINT
    if isinstance(exc, SystemExit) and exc.code == 128 + signal.SIGTERM:
        return signal.SIGTERM
    return 0
