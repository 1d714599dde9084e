"""Control sockets: reached by status, gone with their engine."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hooker.control import question
from hooker.control import status_socket as control
from hooker.control.status_socket import ControlServer, change, snapshots
from hooker.errors import ConfigurationError


@pytest.fixture(autouse=True)
def run_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    return tmp_path / "run"


def snapshot(**more: Any) -> dict[str, Any]:
    return {"engine": {"pid": os.getpid()}, **more}


def test_who_asks_makes_no_directory(run_dir: Path) -> None:
    assert snapshots() == []
    with pytest.raises(ConfigurationError, match="no engine with pid 1 answers"):
        change(1, {"fec": "off"})
    assert not run_dir.exists()


@pytest.mark.parametrize("named", ["/dev/null/run", "/tmp/" + "x" * 120, "relative"])
def test_who_asks_is_told_of_a_directory_that_cannot_be(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", named)
    with pytest.raises(ConfigurationError, match=r"run-time directory|cannot make|not an absolute"):
        snapshots()


def test_a_running_engine_is_found_and_a_closed_one_is_not(run_dir: Path) -> None:
    with ControlServer(lambda: snapshot(flows=[1, 2])) as server:
        assert server.path == run_dir / f"{os.getpid()}.sock"
        assert snapshots() == [snapshot(flows=[1, 2])]
        assert snapshots() == [snapshot(flows=[1, 2])]
    assert snapshots() == []
    assert list(run_dir.iterdir()) == []


def test_the_socket_is_its_users_alone(run_dir: Path) -> None:
    with ControlServer(snapshot) as server:
        assert server.path is not None
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o600


def test_two_engines_of_one_process_are_both_found() -> None:
    with ControlServer(lambda: snapshot(n=1)), ControlServer(lambda: snapshot(n=2)):
        assert sorted(s["n"] for s in snapshots()) == [1, 2]


def test_a_snapshot_of_many_flows_arrives_whole() -> None:
    flows = [{"flow_id": n, "state": "engaged" * 10} for n in range(20000)]
    with ControlServer(lambda: snapshot(flows=flows)):
        assert snapshots()[0]["flows"] == flows


def test_the_socket_of_a_killed_process_is_ignored_and_removed(run_dir: Path) -> None:
    program = (
        "import os, signal\nfrom hooker.control.status_socket import ControlServer\n"
        "ControlServer(lambda: {}).start()\nos.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program], check=False)
    assert len(list(run_dir.glob("*.sock"))) == 1
    assert snapshots() == []
    assert list(run_dir.glob("*.sock")) == []


def test_a_dead_socket_with_this_processs_pid_is_replaced(run_dir: Path) -> None:
    run_dir.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(run_dir / f"{os.getpid()}.sock"))
    with ControlServer(snapshot) as server:
        assert server.path == run_dir / f"{os.getpid()}.sock"
        assert snapshots() == [snapshot()]


def test_an_engine_that_cannot_answer_does_not_hide_the_others(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question, "STANDSTILL", 0.2)
    run_dir.mkdir()
    (run_dir / "notes.txt").touch()
    with socket.socket(socket.AF_UNIX) as mute, ControlServer(snapshot):
        mute.bind(str(run_dir / "1.sock"))
        mute.listen()
        assert snapshots() == [snapshot()]
        found, silent = control.answers()
        assert (found, list(silent)) == ([snapshot()], [1])
        assert "busy" in silent[1]


def test_engines_are_asked_at_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever one takes, it takes only once; who has all its askers waiting is named as well."""
    monkeypatch.setattr(question, "STANDSTILL", 0.5)
    run_dir.mkdir()
    with contextlib.ExitStack() as stack:
        for pid in range(1, 9):
            mute = stack.enter_context(socket.socket(socket.AF_UNIX))
            mute.bind(str(run_dir / f"{pid}.sock"))
            mute.listen(0 if pid == 1 else 8)
        stack.enter_context(socket.socket(socket.AF_UNIX)).connect(str(run_dir / "1.sock"))
        began = time.monotonic()
        found, silent = control.answers()
        assert time.monotonic() - began < 2
    assert (found, list(silent)) == ([], list(range(1, 9)))
    assert silent[1] == "it is busy: too many ask"


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_an_engine_that_is_slow_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(question, "STANDSTILL", 0.2)

    def slow() -> dict[str, Any]:
        burn(1.0)
        return snapshot()

    with ControlServer(slow):
        assert snapshots() == [snapshot()]


SILENT = """
import time
from hooker.control.status_socket import ControlServer
def never():
    while True: pass
with ControlServer(never):
    print(flush=True)
    time.sleep(60)
"""


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("how", "limit"), [("stopped", "STANDSTILL"), ("spins", "PATIENCE")])
def test_an_engine_that_never_answers_is_waited_for_that_long(
    how: str, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does nothing, and one that is at work."""
    monkeypatch.setattr(question, limit, 0.5)
    child = subprocess.Popen([sys.executable, "-c", SILENT], stdout=subprocess.PIPE)
    try:
        assert child.stdout
        child.stdout.readline()
        if how == "stopped":
            child.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        found, silent = control.answers()
        assert 0.5 <= time.monotonic() - began < 10
    finally:
        child.kill()
        child.wait()
    assert (found, list(silent)) == ([], [child.pid])
    assert silent[child.pid].startswith("it is busy, or stands still: no answer within")


def test_many_askers_are_all_answered() -> None:
    """More than wait at a time, of an engine that takes its time."""

    def slow() -> dict[str, Any]:
        time.sleep(0.01)
        return snapshot()

    with ControlServer(slow), ThreadPoolExecutor(40) as pool:
        assert list(pool.map(lambda _: snapshots(), range(40))) == [[snapshot()]] * 40


@pytest.mark.timeout(30)
def test_an_engine_that_answers_without_end_does_not_hide_the_others(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(question, "REPLY_TIMEOUT", 0.3)
    run_dir.mkdir(mode=0o700)
    ended = threading.Event()

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            while not ended.wait(0.05):
                connection.sendall(b" ")

    with socket.socket(socket.AF_UNIX) as endless, ControlServer(snapshot):
        endless.bind(str(run_dir / "1.sock"))
        endless.listen()
        thread = threading.Thread(target=drip, args=(endless,))
        thread.start()
        assert snapshots() == [snapshot()]
        ended.set()
        thread.join()


@pytest.mark.timeout(30)
def test_a_server_among_many_descriptors_answers(run_dir: Path) -> None:
    """select() knows those below 1024 only."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    with contextlib.ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(open(os.devnull))
        stack.enter_context(ControlServer(snapshot))
        assert snapshots() == [snapshot()]


def test_a_failing_snapshot_does_not_end_the_server() -> None:
    answers = iter([RuntimeError("closing"), snapshot()])

    def flaky() -> dict[str, Any]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with ControlServer(flaky):
        assert control.answers() == ([], {os.getpid(): "RuntimeError: closing"})
        assert control.answers() == ([snapshot()], {})


def test_a_client_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "SEND_TIMEOUT", 0.2)
    with (
        ControlServer(lambda: snapshot(flows=["x" * 1000] * 10000)) as server,
        socket.socket(socket.AF_UNIX) as lazy,
    ):
        lazy.connect(str(server.path))
        assert len(snapshots()) == 1


def said(server: ControlServer, *pieces: bytes, end: bool = False) -> dict[str, Any]:
    """What the engine answers to that."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(server.path))
        with contextlib.suppress(BrokenPipeError):
            for piece in pieces:
                client.sendall(piece)
        if end:
            client.shutdown(socket.SHUT_WR)
        answer = b""
        with contextlib.suppress(ConnectionResetError):  # it has not read all of this
            while more := client.recv(1 << 20):
                answer += more
    return dict(json.loads(answer)) if answer else {"error": "reset"}


def test_settings_are_changed_and_the_snapshot_comes_afterwards() -> None:
    seen: list[dict[str, Any]] = []

    def take(**settings: Any) -> None:
        seen.append(settings)

    with ControlServer(lambda: snapshot(changes=len(seen)), change=take):
        assert change(os.getpid(), {"transport": "vtl"}) == snapshot(changes=1)
    assert seen == [{"transport": "vtl"}]


def test_what_the_engine_refuses_is_said_with_its_remedy() -> None:
    def refuse(transport: str) -> None:
        raise ConfigurationError(f"no {transport}", remedy="another one")

    with ControlServer(snapshot, change=refuse):
        with pytest.raises(ConfigurationError, match="no owl") as caught:
            change(os.getpid(), {"transport": "owl"})
        assert caught.value.remedy == "another one"
        with pytest.raises(ConfigurationError, match="colour"):
            change(os.getpid(), {"colour": "red"})
        assert snapshots() == [snapshot()]
    with pytest.raises(ConfigurationError, match="no engine with pid"):
        change(os.getpid(), {"transport": "owl"})


@pytest.mark.parametrize(
    "line",
    [
        b"nonsense\n",
        b"[]\n",
        b'{"set": []}\n',
        b'{"set": {}, "more": 1}\n',
        b"7\n",
        b"\xff\xfe\n",
        b"[" * 4000 + b"\n",
    ],
)
def test_what_is_no_request_is_refused(line: bytes) -> None:
    with ControlServer(snapshot, change=lambda **_: pytest.fail("changed")) as server:
        assert "engine" not in said(server, line)
        assert snapshots() == [snapshot()]


def test_who_says_nothing_gets_the_snapshot() -> None:
    with ControlServer(snapshot, change=lambda **_: pytest.fail("changed")) as server:
        assert (
            said(server)
            == said(server, end=True)
            == said(server, b"\n")
            == said(server, b"{}\n")
            == snapshot()
        )


def test_a_request_without_an_end_is_bounded_in_size_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT", 0.3)
    with ControlServer(snapshot, change=lambda **_: pytest.fail("changed")) as server:
        assert "error" in said(server, b"{" * 100_000)
        assert "error" in said(server, b'{"set"')
        assert snapshots() == [snapshot()]


def test_a_server_may_be_closed_while_it_is_about_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has just answered, and is not in poll()."""
    write = os.eventfd_write

    def late(descriptor: int, value: int) -> None:
        assert server.path is not None
        assert said(server, b"{}\n") == snapshot()
        time.sleep(0.05)
        write(descriptor, value)

    server = ControlServer(snapshot)
    server.start()
    monkeypatch.setattr(control.os, "eventfd_write", late)
    server.close()


def test_closing_twice_is_harmless() -> None:
    server = ControlServer(snapshot)
    server.close()
    server.start()
    server.close()
    server.close()
