"""What users do with the Python object: ask it from anywhere, close it anywhere, fork."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import PORT, engines, rules, serving, started, transfer, until
from lone_worker import LoneWorker

from hooker import Event, Hooker, Kind, UsageError
from hooker.control import netns, threads
from hooker.lab import Lab
from hooker.vtl import congestion

pytestmark = pytest.mark.timeout(60)

QUESTIONS: dict[str, Callable[[Hooker], object]] = {
    "snapshot": Hooker.snapshot,
    "flows": Hooker.flows,
    "peers": Hooker.peers,
    "counters": Hooker.counters,
    "set": lambda engine: engine.set(transport="vtl"),
    "close": Hooker.close,
}


class Asker:
    """Asks each question once, from wherever it is called; what it got."""

    def __init__(self) -> None:
        self.engine: Hooker | None = None
        self.errors: dict[str, BaseException | None] = {}

    def __call__(self, *_: object) -> None:
        for name, question in QUESTIONS.items():
            if self.engine is not None and name not in self.errors:
                self.errors[name] = None
                try:
                    question(self.engine)
                except Exception as error:
                    self.errors[name] = error

    def was_refused(self) -> bool:
        return [type(error) for error in self.errors.values()] == [UsageError] * len(QUESTIONS)


@pytest.fixture
def asking_controller() -> Iterator[Asker]:
    asker = Asker()

    class Controller:
        def __init__(self, mss: int) -> None:
            self.cwnd = 100 * mss

        def on_ack(self, ack: congestion.Ack) -> None:
            asker()

    congestion.register("asker", Controller)
    yield asker
    congestion.unregister("asker")


def test_a_tap_that_asks_the_engine_is_refused_and_the_data_goes_on(lab: Lab) -> None:
    asker = Asker()
    with engines(lab, b={"tap": asker}) as (_, b):
        asker.engine = b
        assert transfer(lab) == "300000"
    assert asker.was_refused(), asker.errors


def test_what_a_tap_raises_is_told_once_and_the_data_goes_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "excepthook", lambda kind, error, trace: told.append(str(error)))

    def tap(*_: object) -> None:
        raise RuntimeError("mine")

    with engines(lab, at_a={"tap": tap}) as (a, _):
        assert transfer(lab) == "300000"
        assert a.counters()["tap_errors"] > 1
    assert told == ["mine"]


def test_a_controller_that_asks_the_engine_is_refused_and_the_data_goes_on(
    lab: Lab, asking_controller: Asker
) -> None:
    with engines(lab, b={"congestion": "asker"}) as (_, b):
        asking_controller.engine = b
        assert transfer(lab) == "300000"
    assert asking_controller.was_refused(), asking_controller.errors


def test_on_event_may_ask_and_close(lab: Lab) -> None:
    asker = Asker()
    with engines(lab, b={"on_event": asker}) as (_, b):
        asker.engine = b
        transfer(lab, check=False)  # the engine is closed while the flow is there
        until(lambda: len(asker.errors) == len(QUESTIONS), "nothing was asked")
        b.close()
        assert asker.errors == dict.fromkeys(QUESTIONS)
        assert rules(lab.b) == 0


def test_an_engine_is_closed_from_another_namespace_all_the_same(lab: Lab) -> None:
    with engines(lab) as (a, _):
        assert transfer(lab) == "300000"
        assert rules(lab.a) == 1
        a.close()
        assert rules(lab.a) == 0


def test_nothing_is_freed_while_a_tap_does_not_return(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "STOP_TIMEOUT", 0.5)
    inside, leave = threading.Event(), threading.Event()

    def tap(*_: object) -> None:
        inside.set()
        leave.wait(40)

    with engines(lab, b={"tap": tap}) as (_, b):
        client = threading.Thread(target=lambda: transfer(lab, check=False))
        client.start()
        try:
            assert inside.wait(20)
            with pytest.raises(UsageError, match="does not return"):
                b.close()
        finally:
            leave.set()
        b.close()
        b.close()
        client.join()


def test_an_on_event_that_does_not_return_does_not_keep_close(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "STOP_TIMEOUT", 0.5)
    leave = threading.Event()

    def on_event(event: Event) -> None:
        leave.wait(40)

    with engines(lab, b={"on_event": on_event}) as (_, b):
        try:
            assert transfer(lab) == "300000"
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                with pytest.raises(RuntimeWarning, match="on_event has not returned"):
                    b.close()
            assert rules(lab.b) == 0, "it is said when all else has gone"
        finally:
            leave.set()
    until(lambda: not [t for t in threading.enumerate() if t.name == "hooker-events"], "a thread is left")


def test_close_waits_for_the_call_of_on_event_that_it_is_in_and_not_for_all_that_are_due(lab: Lab) -> None:
    begun: list[Event] = []

    def on_event(event: Event) -> None:
        begun.append(event)
        time.sleep(2)

    with engines(lab, b={"on_event": on_event}) as (_, b):
        for _ in range(4):
            assert transfer(lab) == "300000"
        until(lambda: begun, "nothing was told")
        start = time.monotonic()
        b.close()
        assert time.monotonic() - start < 5
        told = len(begun)
        assert told <= 4
        assert b.counters()["notices_lost"] >= 6, "what was not told is counted"


HOLDING = f"""
import socket, sys
held = [socket.create_connection((sys.argv[1], {PORT}), timeout=20) for _ in range(5)]
print("held", flush=True); sys.stdin.read()
"""


def test_an_on_event_that_is_quick_hears_all_to_the_last(lab: Lab) -> None:
    seen: list[Event] = []

    def on_event(event: Event) -> None:
        time.sleep(0.02)
        seen.append(event)

    with engines(lab, b={"on_event": on_event}) as (_, b):
        client = lab.a.popen([sys.executable, "-c", HOLDING, lab.b.v4], stdin=-1, stdout=-1)
        assert client.stdout
        assert client.stdout.readline() == b"held\n"
        until(lambda: b.counters()["engaged"] == 5, "not all are engaged")
        b.close()
    assert [event.kind for event in seen].count(Kind.FLOW_CLOSED) == 5


def test_what_a_forked_child_does_is_its_own_affair(lab: Lab) -> None:
    told: list[Event] = []
    with engines(lab, b={"on_event": told.append, "control": True}) as (_, b):
        assert transfer(lab) == "300000"
        child = os.fork()
        if child == 0:
            try:
                b.close()
                with contextlib.suppress(UsageError):
                    b.snapshot()
                    os._exit(3)
                os._exit(0)
            finally:
                os._exit(4)
        assert os.waitpid(child, 0)[1] == 0, "a child reads what its parent's worker is changing"
        assert rules(lab.b) == 1
        assert answers(Path("/run/hooker") / f"{os.getpid()}.sock")
        before = len(told)
        assert transfer(lab) == "300000"
        assert b.counters()["engaged"] == 2
        until(lambda: len(told) >= before + 3, "no more events")


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        return bool(client.recv(1))


KILLED = """
import os, sys, time
from pathlib import Path
from hooker import Hooker, Policy
from hooker.control import netns
name, group, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
policy = Policy(ports=frozenset({port}))
engine = netns.call(name, lambda: Hooker(
    cgroup=group, policy=policy, intercept="messages", control=False).start())
print("up", flush=True); sys.stdin.readline()
child = os.fork()
if child == 0:
    time.sleep(60); os._exit(0)
print(child, flush=True); time.sleep(60)
"""


def test_a_child_does_not_keep_alive_what_ends_with_a_killed_engine(lab: Lab) -> None:
    program = [sys.executable, "-c", KILLED, lab.b.netns, str(lab.b.cgroup), str(PORT)]
    with contextlib.closing(started(lab.a)):
        engine = lab.b.popen(program, hooked=False, stdin=-1, stdout=-1, cwd=Path(__file__).parents[2])
        assert engine.stdin is not None
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"up\n"
        serving(lab)
        wait = (
            f"import socket, sys; s = socket.create_connection(({lab.b.v4!r}, {PORT}), 20); s.sendall(b'x');"
        )
        wait += (
            " print('up', flush=True); s.settimeout(30)\ntry: s.recv(1)\nexcept OSError as e: print(e.errno)"
        )
        client = lab.a.popen([sys.executable, "-c", wait], stdout=-1)
        assert client.stdout is not None
        assert client.stdout.readline() == b"up\n"
        time.sleep(0.3)
        engine.stdin.write(b"\n")
        engine.stdin.flush()
        child = int(engine.stdout.readline())
        try:
            time.sleep(0.3)
            engine.kill()
            engine.wait()
            sockets = netns.call(lab.b.netns, lambda: Path("/proc/thread-self/net/udp").read_text())
            assert f":{6253:04X} " not in sockets  # the port is free for the next engine
            assert client.wait(25) == 0  # reset, not left to wait
        finally:
            os.kill(child, 9)


def test_a_worker_that_runs_is_not_closed(lone: LoneWorker) -> None:
    until(lambda: lone.flows() == 0 and lone.worker.counters()["loops"] > 0, "it does not run")
    with pytest.raises(UsageError, match="still runs"):
        lone.worker.close()
    with pytest.raises(UsageError, match="runs already"):
        lone.worker.run()


def test_asking_while_it_is_closed_is_harmless() -> None:
    for _ in range(5):
        with contextlib.ExitStack() as stack:
            lone = LoneWorker(stack)
            ended = threading.Event()

            def ask(worker: Any = lone.worker, ended: threading.Event = ended) -> None:
                while not ended.is_set():
                    worker.flows(), worker.peers(), worker.counters(), worker.events()

            threads_ = [threading.Thread(target=ask) for _ in range(3)]
            stack.callback(lambda threads_=threads_: [thread.join() for thread in threads_])
            stack.callback(ended.set)
            for thread in threads_:
                thread.start()
            lone.take_slot()
            time.sleep(0.05)
            lone.worker.stop()
            until(lambda worker=lone.worker: closed(worker), "it does not end")
            assert lone.worker.flows() == []


def closed(worker: Any) -> bool:
    try:
        worker.close()
    except UsageError:
        return False
    return True


def test_an_engine_that_was_closed_keeps_no_descriptor(lab: Lab) -> None:
    descriptors = Path("/proc/self/fd")
    started(lab.a, control=True).close()  # what the first one loads for good
    before = len(list(descriptors.iterdir()))
    kept = started(lab.a, control=True)
    kept.close()
    assert len(list(descriptors.iterdir())) == before
