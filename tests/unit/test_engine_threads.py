"""An engine's threads: all of them run, or none."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from hooker.control.threads import EngineThreads, WorkerThread
from hooker.errors import KernelError


class Worker:
    """What the threads know of one before it runs."""

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0)

    def fileno(self) -> int:
        return self.descriptor

    route_fileno = missed_fileno = fileno


def test_those_that_have_started_end_when_another_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(WorkerThread, "start", start)
    before = set(threading.enumerate())
    worker: Any = Worker()
    with pytest.raises(KernelError, match="can't start new thread") as refused:
        EngineThreads(worker, install=lambda: None, restore=lambda _: False, take=lambda: (), deliver=None)
    assert "pids.max" in refused.value.remedy
    assert set(threading.enumerate()) == before
