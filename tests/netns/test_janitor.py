"""The janitor undoes what a killed owner has left. Everything happens in namespaces of the test's own."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hooker.control import janitor
from hooker.control.cgroup import Cgroup
from hooker.control.janitor import Janitor
from hooker.errors import KernelError

RULE = {"priority": 77, "table": 177, "fwmark": 0x77}
FAMILIES = {4: "-4", 6: "-6"}


def ip(space: str, *arguments: str) -> str:
    command = ["ip", "-n", space, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def space() -> Iterator[str]:
    name = f"hkj-{os.getpid()}-{secrets.token_hex(2)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    ip(name, "link", "set", "lo", "up")
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


def fill(space: str) -> None:
    for flag in FAMILIES.values():
        ip(space, flag, "rule", "add", "priority", "77", "fwmark", "0x77", "lookup", "177")
        ip(space, flag, "route", "add", "local", "default", "dev", "lo", "table", "177")


def traces(space: str) -> list[str]:
    """What of the above is still there."""
    found = []
    for flag in FAMILIES.values():
        found += [line for line in ip(space, flag, "rule").splitlines() if "0x77" in line]
        shown = subprocess.run(
            ["ip", "-n", space, flag, "route", "show", "table", "177"], capture_output=True, text=True
        )
        found += shown.stdout.splitlines()
    return found


def settle(gone: Any, timeout: float = 10.0) -> bool:
    """Whether ``gone()`` becomes true within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not gone():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def owner(program: str, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs ``program`` after making the janitor ``j``, says so and sleeps."""
    script = (
        "import sys, os, time, json\nfrom hooker.control import janitor\n"
        "from hooker.control.janitor import Janitor\n"
        "from hooker.control.cgroup import Cgroup\nj = Janitor()\n"
        f"{program}\nprint(j.pid, flush=True)\ntime.sleep(60)\n"
    )
    return subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, text=True)


def running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def kill_and_wait(process: subprocess.Popen[str]) -> None:
    """kill -9 the owner as soon as it has said that it is ready, and see the helper end."""
    assert process.stdout is not None
    helper = int(process.stdout.readline())
    process.kill()
    process.wait()
    process.stdout.close()
    assert settle(lambda: not running(helper))


def test_rules_and_routes_of_a_killed_owner_go(space: str) -> None:
    program = (
        "ns = '/run/netns/' + sys.argv[1]\n"
        "for family in (4, 6):\n"
        f"    j.register(janitor.rule(family, **{RULE}), netns=ns)\n"
        "    j.register(janitor.route_table(family, 177), netns=ns)\n"
    )
    fill(space)
    ip(space, "rule", "add", "priority", "78", "fwmark", "0x78", "lookup", "178")
    assert len(traces(space)) == 4
    kill_and_wait(owner(program, space))
    assert traces(space) == []
    assert "0x78" in ip(space, "rule")


def test_the_callers_namespace_is_the_default_and_needs_no_name(space: str) -> None:
    """The owner sits in a namespace without a name and puts a rule there; a second process looks."""
    program = (
        "import ctypes; assert ctypes.CDLL(None).unshare(0x40000000) == 0\n"
        "from pyroute2 import IPRoute\n"
        f"j.register(janitor.rule(4, **{RULE}))\n"
        f"IPRoute().rule('add', family=2, **{RULE})"
    )
    process = owner(program)
    assert process.stdout is not None
    helper = int(process.stdout.readline())
    held = os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY)
    try:
        show = ["nsenter", f"--net=/proc/self/fd/{held}", "ip", "rule"]

        def rules() -> str:
            return subprocess.run(show, pass_fds=[held], check=True, capture_output=True, text=True).stdout

        assert "0x77" in rules()
        process.kill()
        process.wait()
        assert settle(lambda: not running(helper))
        assert "0x77" not in rules()
    finally:
        os.close(held)
        process.stdout.close()


def test_files_and_cgroups_of_a_killed_owner_go_and_their_processes_live(tmp_path: Path) -> None:
    (tmp_path / "socket").touch()
    program = (
        "group = Cgroup.create(); j.register(janitor.cgroup(group.relative))\n"
        "j.register(janitor.file(sys.argv[1]))\n"
        "import subprocess; sleeper = subprocess.Popen(['sleep', '60'], stdout=2); group.add(sleeper.pid)\n"
        "print(json.dumps([group.relative, sleeper.pid]), flush=True)"
    )
    process = owner(program, str(tmp_path / "socket"))
    assert process.stdout is not None
    relative, sleeper = json.loads(process.stdout.readline())
    try:
        assert Cgroup(relative).pids() == [sleeper]
        kill_and_wait(process)
        assert not Cgroup(relative).path.exists()
        assert not (tmp_path / "socket").exists()
        assert running(sleeper)
    finally:
        os.kill(sleeper, signal.SIGKILL)


def test_a_cgroup_can_be_removed_with_its_processes() -> None:
    program = (
        "group = Cgroup.create(); j.register(janitor.cgroup(group.relative, kill=True))\n"
        "import subprocess; sleeper = subprocess.Popen(['sleep', '60'], stdout=2); group.add(sleeper.pid)\n"
        "print(json.dumps([group.relative, sleeper.pid]), flush=True)"
    )
    process = owner(program)
    assert process.stdout is not None
    relative, sleeper = json.loads(process.stdout.readline())
    kill_and_wait(process)
    assert not Cgroup(relative).path.exists()
    assert settle(lambda: not running(sleeper))


def test_a_named_namespace_of_a_killed_owner_goes(space: str) -> None:
    kill_and_wait(owner("j.register(janitor.netns(sys.argv[1]))", space))
    assert not Path("/run/netns", space).exists()


def test_what_is_done_is_not_undone_again(tmp_path: Path) -> None:
    kept, gone = tmp_path / "kept", tmp_path / "gone"
    with Janitor() as j:
        undo = j.register(janitor.file(kept))
        j.register(janitor.file(gone))
        kept.touch()
        gone.touch()
        undo.done()
        undo.done()
    assert kept.exists()
    assert not gone.exists()


def test_the_last_registered_is_undone_first_and_a_failure_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    order = []

    def undo(action: janitor.Action) -> None:
        order.append(action["n"])
        if action["n"] == 2:
            raise OSError("busy")

    monkeypatch.setitem(janitor._UNDO, "test", undo)
    janitor._perform({n: {"kind": "test", "n": n} for n in (1, 2, 3)})
    assert order == [3, 2, 1]
    assert "busy" in capsys.readouterr().err


def test_signals_of_a_terminal_do_not_end_it(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    with Janitor() as j:
        j.register(janitor.file(tmp_path / "f"))
        time.sleep(0.2)  # until it has set up its handlers
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            os.kill(j.pid, number)
        time.sleep(0.1)
        assert running(j.pid)
        assert os.getsid(j.pid) == j.pid
    assert not (tmp_path / "f").exists()


def test_a_fork_of_the_owner_neither_delays_nor_triggers_it(tmp_path: Path) -> None:
    """The forked child holds the socket open: the owner's death counts."""
    (tmp_path / "f").touch()
    program = (
        "j.register(janitor.file(sys.argv[1]))\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os.close(1); j.close(); time.sleep(60); os._exit(0)\n"
        "time.sleep(0.2)\n"
        "print(pid, os.path.exists(sys.argv[1]), flush=True)"
    )
    process = owner(program, str(tmp_path / "f"))
    assert process.stdout is not None
    child, exists = process.stdout.readline().split()
    try:
        assert exists == "True"
        kill_and_wait(process)
        assert not (tmp_path / "f").exists()
        assert running(int(child))
    finally:
        os.kill(int(child), signal.SIGKILL)


def test_a_namespace_or_route_table_of_the_system_is_refused() -> None:
    for table in (0, 253, 254, 255):
        with pytest.raises(ValueError, match=str(table)):
            janitor.route_table(4, table)
    for name in ("", "..", "a/b"):
        with pytest.raises(ValueError, match="bad name"):
            janitor.netns(name)


def test_a_helper_that_was_killed_is_replaced_and_knows_everything(space: str, tmp_path: Path) -> None:
    """At the next registration; the rule is undone in its namespace, which only a descriptor names."""
    fill(space)
    (tmp_path / "kept").touch()
    program = (
        "ns = os.open('/run/netns/' + sys.argv[1], os.O_RDONLY)\n"
        "for family in (4, 6):\n"
        f"    j.register(janitor.rule(family, **{RULE}), netns=ns)\n"
        "    j.register(janitor.route_table(family, 177), netns=ns)\n"
        "os.close(ns)\n"
        "undo = j.register(janitor.file(sys.argv[2]))\n"
        "first = j.pid; os.kill(first, 9); os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)\n"
        "undo.done(); assert j.pid != first"
    )
    kill_and_wait(owner(program, space, str(tmp_path / "kept")))
    assert traces(space) == []
    assert (tmp_path / "kept").exists()


def test_an_orderly_end_needs_no_living_helper(space: str, tmp_path: Path) -> None:
    """What the owner has undone is no error, and the helper that replaced the first may be killed, too."""
    fill(space)
    (tmp_path / "f").touch()
    with Janitor() as j:
        j.register(janitor.file(tmp_path / "f"))
        for family in FAMILIES:
            j.register(janitor.rule(family, **RULE), netns=f"/run/netns/{space}")
            j.register(janitor.route_table(family, 177), netns=f"/run/netns/{space}")
        undo = j.register(janitor.file(tmp_path / "kept"))
        kill(j)
        undo.done()
        kill(j)
    assert not (tmp_path / "f").exists()
    assert traces(space) == []


def test_a_fork_of_the_owner_keeps_nothing_alive(tmp_path: Path) -> None:
    """What is kept for the helper goes with the owner, not with a child that knows nothing of it."""
    reader, writer = os.pipe()
    with Janitor() as j:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        j.register(janitor.abort(0x12345, 0xFFFFFFFF), netns=namespace, keep=(writer,)).done()
        undo = j.register(janitor.abort(0x12345, 0xFFFFFFFF), netns=namespace, keep=(writer,))
        os.close(namespace)
        pid = os.fork()
        if pid == 0:
            os.close(writer)
            kept = sum(name == name_of(reader) for name in open_files())
            os._exit(kept)  # the reading end
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
        undo.done()
    os.close(writer)
    os.set_blocking(reader, False)
    assert settle(lambda: os.read(reader, 1) == b"")
    os.close(reader)


def test_a_fork_of_the_owner_does_not_delay_its_end(tmp_path: Path) -> None:
    """It has a copy of the socket whose end the helper waits for."""
    path = tmp_path / "file"
    path.touch()
    made = Janitor()
    made.register(janitor.file(path))
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        begin = time.monotonic()
        made.close()
        assert time.monotonic() - begin < janitor.CLOSE_TIMEOUT / 2
        assert not path.exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_when_there_can_be_no_helper_the_owner_hears_of_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Janitor() as j:
        kill(j)
        with monkeypatch.context() as patch:
            patch.setattr(janitor, "_spawn", refuse)
            with pytest.raises(KernelError, match="clean-up process"):
                j.register(janitor.file(tmp_path / "f"))


def refuse(theirs: Any) -> Any:
    raise OSError(errno.EAGAIN, "no process")


def kill(j: Janitor) -> None:
    os.kill(j.pid, signal.SIGKILL)
    assert settle(lambda: not running(j.pid))


def open_files() -> Iterator[str]:
    for entry in list(Path("/proc/self/fd").iterdir()):
        with contextlib.suppress(FileNotFoundError):  # the directory's own
            yield str(entry.readlink())


def name_of(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


def test_it_starts_without_making_the_owner_wait(tmp_path: Path) -> None:
    start = time.monotonic()
    with Janitor() as j:
        j.register(janitor.file(tmp_path / "f")).done()
        assert time.monotonic() - start < 0.5
