"""A signal ends the program also where the interpreter drops the exception."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

DROPPED = """
import os, signal, time, weakref
from hooker.lab.interrupts import Interrupts
class Thing: pass
mine = Interrupts()
mine.install()
thing = Thing()
drop = weakref.ref(thing, lambda _: (os.kill(os.getpid(), {number}), time.sleep(0)))
try:
    del thing
    time.sleep(10)
    print("went on")
finally:
    mine.restore()
    print(signal.getsignal({number}) in (signal.SIG_DFL, signal.default_int_handler))
"""
OTHERS = """
import signal, sys
from hooker.lab.interrupts import Interrupts
signal.signal(signal.SIGTERM, lambda *_: print("theirs"))
before = sys.unraisablehook
mine = Interrupts()
mine.install()
assert sys.unraisablehook != before
sys.unraisablehook = before
signal.raise_signal(signal.SIGTERM)
mine.restore()
assert sys.unraisablehook is before
signal.raise_signal(signal.SIGTERM)
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)]
)
def test_an_exception_that_was_dropped_comes_again(number: signal.Signals, status: int) -> None:
    done = _python(DROPPED.format(number=int(number)))
    assert done.stdout == "True\n", done.stderr
    assert done.returncode == status
    assert "ignored" not in done.stderr


def test_what_others_drop_is_reported_as_ever() -> None:
    program = DROPPED.replace("os.kill(os.getpid(), {number})", "1 / 0").replace("sleep(10)", "sleep(0)")
    done = _python(program.format(number=15))
    assert done.stdout == "went on\nTrue\n"
    assert "ZeroDivisionError" in done.stderr


def test_handlers_of_others_stay() -> None:
    done = _python(OTHERS)
    assert (done.stdout, done.stderr) == ("theirs\ntheirs\n", "")


def _python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False
    )
