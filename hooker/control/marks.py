"""Numbers of engines: a new one has a number that none had lately.

A socket that an engine has marked may live longer than the engine. Its mark must then mean nothing: numbers
are counted on, in a file of the run-time directory, and begin again after ``NUMBERS``.
"""

from __future__ import annotations

import fcntl
import os
import secrets

from hooker.control.rundir import run_directory
from hooker.engine.layout import MARK_BASE, MARK_OTHER

NUMBERS = 1 << 14
FILE = "mark-number"
LOW = MARK_OTHER - 1  # bits below the one that has another meaning
BITS = 0xFFFFFFFF & ~MARK_OTHER  # of a mark that tell whose it is


def next_number() -> int:
    """1 to NUMBERS - 1; another one with each call, of any process.

    Raises ConfigurationError when there is no directory for the file.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(run_directory() / FILE, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # until it is closed
        text = os.pread(descriptor, 16, 0).strip()
        last = int(text) if text.isdigit() else secrets.randbelow(NUMBERS)
        number = last % (NUMBERS - 1) + 1
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, b"%d" % number, 0)
    finally:
        os.close(descriptor)
    return number


def mark(number: int) -> int:
    """The mark of engine ``number``: without MARK_OTHER, and never, with or without it, the engines' own."""
    return MARK_BASE | (number & ~LOW) << 1 | number & LOW
