"""What runs until it is told to end hears that in whichever thread the signal comes.

The kernel gives one that comes with SIGCONT, as shells and systemd send them, to any thread of a process that
was stopped (SIGSTOP); Python runs its handler in the main one.
"""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import SLOWNESS, eventually

from hooker.lab import Lab

TOGETHER = [(signal.SIGTERM, signal.SIGCONT), (signal.SIGCONT, signal.SIGTERM)]
ENDS = 5  # s


def threads(process: subprocess.Popen[str]) -> list[Path]:
    return list(Path(f"/proc/{process.pid}/task").iterdir())


def is_stopped(thread: Path) -> bool:
    return thread.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"


def tell_another_thread(process: subprocess.Popen[str], number: int) -> None:
    """Not the main one."""
    other = max(int(thread.name) for thread in threads(process) if thread.name != str(process.pid))
    assert ctypes.CDLL(None).tgkill(process.pid, other, number) == 0


@pytest.mark.parametrize("together", TOGETHER, ids=["term-cont", "cont-term"])
def test_an_engine_that_was_stopped(lab: Lab, together: tuple[int, int]) -> None:
    process = lab.a.hooker().proc
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: all(is_stopped(thread) for thread in threads(process)))
    for number in together:
        process.send_signal(number)
    assert process.wait(ENDS * SLOWNESS) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_engine(lab: Lab, number: int) -> None:
    process = lab.a.hooker().proc
    tell_another_thread(process, number)
    assert process.wait(ENDS * SLOWNESS) == 0


def test_metrics(lab: Lab) -> None:
    command = [sys.executable, "-P", "-m", "hooker", "metrics", "--listen", "127.0.0.1:9753"]
    process = lab.a.popen(command, hooked=False, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "metrics at" in process.stdout.readline()
    tell_another_thread(process, signal.SIGTERM)
    assert process.wait(ENDS * SLOWNESS) == 0
