"""The thread that installs the routing rule, and puts back what others take away."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hooker.control.threads import Ending, RouteThread


class Worker:
    """What the thread knows of one."""

    def __init__(self) -> None:
        self.wanted, self.missed = os.eventfd(0), os.eventfd(0, os.EFD_NONBLOCK)
        self.installed: list[bool] = []
        self.restored: list[int] = []

    def route_fileno(self) -> int:
        return self.wanted

    def missed_fileno(self) -> int:
        return self.missed

    def route_installed(self, ok: bool) -> None:
        self.installed.append(ok)

    def route_restored(self, version: int) -> None:
        self.restored.append(version)


class Bed:
    """The thread with its worker; ``missing`` are IP versions, ``refused`` what the kernel says of some."""

    def __init__(self) -> None:
        self.worker, self.ending = Worker(), Ending()
        self.missing: set[int] = set()
        self.refused: dict[int, str] = {}
        self.looks: list[int] = []
        worker: Any = self.worker
        self.thread = RouteThread(worker, self.ending, lambda: None, self._restore)

    def _restore(self, version: int) -> bool:
        self.looks.append(version)
        if version in self.refused:
            raise OSError(self.refused[version])
        was = version in self.missing
        self.missing.discard(version)
        return was

    def look(self) -> None:
        """A look at the lane has come to nothing."""
        before = len(self.looks)
        os.eventfd_write(self.worker.missed, 1)
        until(lambda: len(self.looks) == before + 2)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture
def bed() -> Iterator[Bed]:
    made = Bed()
    made.thread.start()
    yield made
    made.ending.say()
    made.thread.join(10)
    assert not made.thread.is_alive()
    made.ending.close()
    for descriptor in (made.worker.wanted, made.worker.missed):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def test_nothing_is_looked_after_before_the_rule_is_wanted(bed: Bed) -> None:
    os.eventfd_write(bed.worker.missed, 1)
    time.sleep(0.1)
    assert bed.looks == []
    os.eventfd_write(bed.worker.wanted, 1)
    until(lambda: bed.looks == [4, 6])
    assert bed.worker.installed == [True]


def test_only_what_was_missing_is_told(bed: Bed) -> None:
    os.eventfd_write(bed.worker.wanted, 1)
    bed.look()
    assert bed.worker.restored == []
    bed.missing = {6}
    bed.look()
    bed.look()
    assert bed.worker.restored == [6]  # by the look before the last, at the latest


def test_one_version_that_cannot_be_put_back_is_no_other_s_harm(bed: Bed) -> None:
    os.eventfd_write(bed.worker.wanted, 1)
    bed.refused, bed.missing = {4: "the device is down"}, {6}
    bed.look()
    until(lambda: bed.worker.restored == [6])
    until(lambda: bed.thread.error == "the device is down")
    bed.refused = {4: "the device is down", 6: "and so is this"}
    bed.look()
    until(lambda: bed.thread.error == "the device is down; and so is this")
    bed.refused = {4: "it is down", 6: "it is down"}
    bed.look()
    until(lambda: bed.thread.error == "it is down")
    bed.refused = {}
    bed.look()
    until(lambda: bed.thread.error == "")
