"""The routing rule: flows are on TCP until it is there, and no code of the user's stands in its way."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
import time
from typing import Any

import pytest
from in_process import PORT, engines, make_known, rules, serving, started, transfer, until
from lone_worker import LoneWorker

from hooker import Event
from hooker.lab import Lab
from hooker.tun import Lane

pytestmark = pytest.mark.timeout(90)

REAL_INSTALL = Lane.install
SEGMENTS: dict[str, Any] = {
    "intercept": "segments"
}  # where the rule comes with the first candidate; others begin with it


def test_what_on_event_raises_stops_no_connection_and_is_told_once(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda failed: told.append(str(failed.exc_value)))

    def on_event(event: Event) -> None:
        raise RuntimeError(f"mine: {event.kind.name}")

    with engines(lab, b={"on_event": on_event}) as (_, b):
        make_known(lab)
        assert told == ["mine: PEER_UP"]
        for _ in range(2):
            assert transfer(lab) == "300000"
        assert b.counters()["engaged"] == 2
        assert b.counters()["event_errors"] > 4
        assert len(told) == 1


def test_an_on_event_that_never_returns_stops_no_connection(lab: Lab) -> None:
    leave = threading.Event()
    with engines(lab, b={"on_event": lambda event: leave.wait(60)}) as (_, b):
        make_known(lab)
        try:
            assert transfer(lab) == "300000"
            assert b.counters()["engaged"] == 1
        finally:
            leave.set()


def test_a_verbose_engine_whose_standard_error_nobody_reads_goes_on(lab: Lab) -> None:
    reader, writer = os.pipe()
    with contextlib.closing(started(lab.a)), contextlib.ExitStack() as stack:
        command = [sys.executable, "-m", "hooker", "up", "-v", "--cgroup", str(lab.b.cgroup)]
        command += ["--port", str(PORT)]
        up = lab.b.popen(command, hooked=False, stdout=-1, stderr=writer)
        os.close(writer)
        os.close(reader)
        stack.callback(up.wait, 20)
        stack.callback(up.terminate)
        serving(lab)
        assert up.stdout is not None
        assert b"ready" in up.stdout.readline()
        make_known(lab)
        assert transfer(lab) == "300000"
        up.terminate()
        assert up.wait(20) == 0


def test_the_wish_for_a_route_is_nobody_elses_news(lone: LoneWorker) -> None:
    """Who reads the events, as `hooker status` does, does not take it away."""
    identity = lone.take_slot()
    lone.emit(type=2, slot=identity & 0xFFFFFFFF, flow_id=identity, client_nonce=1, role=2)
    until(lambda: lone.flows() == 1, "no flow")
    lone.worker.events()
    assert select.select([lone.worker.route_fileno()], [], [], 10)[0]


def test_reading_the_status_stops_no_connection(lab: Lab) -> None:
    with engines(lab) as (_, b):
        ended = threading.Event()

        def look() -> None:
            while not ended.is_set():
                b.snapshot()

        readers = [threading.Thread(target=look) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            assert transfer(lab) == "300000"
            assert b.counters()["engaged"] == 1
        finally:
            ended.set()
            for reader in readers:
                reader.join()


@pytest.mark.parametrize("letter", ["a", "b"])
def test_without_the_rule_flows_stay_on_tcp_and_it_is_tried_again(lab: Lab, letter: str) -> None:
    tried: list[float] = []

    def install(self: Lane, *versions: int) -> None:
        if not versions:  # else it is for the look at the lane
            tried.append(time.monotonic())
            if len(tried) <= 3:
                raise OSError(12, "no rule today")
        REAL_INSTALL(self, *versions)

    with engines(lab, b=SEGMENTS, at_a=SEGMENTS, install=install, at=letter) as made:
        one = made["ab".index(letter)]
        lab.meter.start()
        begin = time.monotonic()
        assert transfer(lab) == "300000"
        assert time.monotonic() - begin < 10
        assert lab.meter.read().tcp.payload >= 300000
        until(
            lambda: one.snapshot()["engine"]["route_error"] == "" and len(tried) > 3, "it was not tried again"
        )
        assert len(tried) == 4
        assert tried[3] - tried[2] > 0.3  # the pauses grow
        assert rules(lab.a if letter == "a" else lab.b) >= 1


def test_a_rule_that_takes_its_time_is_not_waited_for(lab: Lab) -> None:
    """Netlink may hang behind somebody's lock."""
    leave = threading.Event()
    wanted = threading.Event()

    def install(self: Lane, *versions: int) -> None:
        if not versions:  # else it is for the look at the lane
            wanted.set()
            leave.wait(60)
        REAL_INSTALL(self, *versions)

    with engines(lab, b=SEGMENTS, at_a=SEGMENTS, install=install):
        lab.meter.start()
        try:
            assert transfer(lab) == "300000"
            assert lab.meter.read().tcp.payload >= 300000
            assert wanted.is_set()
        finally:
            leave.set()
