"""What was stopped (SIGSTOP) hears a signal that came with the one that continues it, as shells and systemd
send them. The kernel gives it to any thread then."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import SLOWNESS, eventually

from hooker.lab import Lab

TOGETHER = [(signal.SIGTERM, signal.SIGCONT), (signal.SIGCONT, signal.SIGTERM)]
ENDS = 5  # s


def stop(process: subprocess.Popen[str]) -> None:
    """All of its threads are, when this returns."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task")
    eventually(lambda: all(is_stopped(one) for one in tasks.iterdir()))


def is_stopped(task: Path) -> bool:
    return task.joinpath("stat").read_bytes().rpartition(b")")[2].split()[0] == b"T"


@pytest.mark.parametrize("together", TOGETHER, ids=["term-cont", "cont-term"])
def test_an_engine_ends(lab: Lab, together: tuple[int, int]) -> None:
    engine = lab.a.hooker()
    stop(engine.proc)
    for number in together:
        engine.proc.send_signal(number)
    assert engine.proc.wait(ENDS * SLOWNESS) == 0


@pytest.mark.parametrize("together", TOGETHER, ids=["term-cont", "cont-term"])
def test_metrics_end(lab: Lab, together: tuple[int, int]) -> None:
    command = [sys.executable, "-P", "-m", "hooker", "metrics", "--listen", "127.0.0.1:9753"]
    process = lab.a.popen(command, hooked=False, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert "metrics at" in process.stdout.readline()
    stop(process)
    for number in together:
        process.send_signal(number)
    assert process.wait(ENDS * SLOWNESS) == 0
