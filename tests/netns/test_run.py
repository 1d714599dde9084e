"""``hooker run`` and ``hooker up`` around a stand-in for the engine: whose exit status, signals, streams
and terminal the command has, and that nothing stays behind.
"""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hooker.control import cgroup

FAKE = str(Path(__file__).parent.parent / "fake_engine.py")
RUN = [sys.executable, FAKE, "run"]
SAY_SIGNALS = (
    "import signal, sys, time, os\n"
    "def say(n, f): os.write(1, (signal.Signals(n).name + chr(10)).encode())\n"  # print() is not reentrant
    "for n in (1, 2, 3, 10, 12, 15, 18, 28): signal.signal(n, say)\n"
    "os.write(1, b'%d\\n' % os.getpid())\n"
    "time.sleep(30)\n"
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A run-time directory and an engine log of the test's own; afterwards no cgroup is left."""
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("FAKE_LOG", str(tmp_path / "log"))
    yield tmp_path
    assert settle(lambda: not groups(tmp_path)), groups(tmp_path)
    assert list((tmp_path / "run").glob("*.sock")) == []


def groups(directory: Path) -> list[str]:
    """The cgroups of this test's engines."""
    log_file = directory / "log"
    pids = {line.split()[1] for line in log_file.read_text().splitlines()} if log_file.exists() else set()
    found = (cgroup.root() / cgroup.of_process()).glob("hooker-*")
    return [path.name for path in found if path.name.split("-")[1] in pids]


def settle(reached: Callable[[], bool], timeout: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout
    while not reached():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def log(directory: Path) -> list[str]:
    path = directory / "log"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def run(*command: str, options: tuple[str, ...] = (), **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RUN, *options, "--", *command], capture_output=True, text=True, timeout=60, **settings
    )


def start(*command: str, options: tuple[str, ...] = (), **settings: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([*RUN, *options, "--", *command], stdout=subprocess.PIPE, text=True, **settings)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- exit status ----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 1, 7, 255])
def test_the_exit_status_is_the_commands(status: int, environment: Path) -> None:
    done = run("sh", "-c", f"exit {status}")
    assert (done.returncode, done.stdout, done.stderr) == (status, "", "")
    assert log(environment) == ["start", "close"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV", "SIGINT", "SIGPIPE", "SIGUSR1"])
def test_a_command_killed_by_a_signal_ends_the_launcher_the_same_way(name: str, tmp_path: Path) -> None:
    done = run("sh", "-c", f"kill -{name.removeprefix('SIG')} $$", cwd=tmp_path)
    assert done.returncode == -signal.Signals[name]
    assert done.stderr == ""


def test_a_command_that_is_not_there_is_127_and_starts_no_engine(environment: Path) -> None:
    for name in ("no-such-command", "/no/such/file", "./nothing"):
        done = run(name)
        assert done.returncode == 127
        assert done.stderr == f"hooker: {name}: command not found\n"
    assert log(environment) == []


def test_a_command_that_cannot_be_executed_is_126(environment: Path) -> None:
    (environment / "data").write_text("data")
    assert run(str(environment / "data")).returncode == 126
    assert run(str(environment)).returncode == 126
    (environment / "bad").write_text("#!/no/such/interpreter\n")
    (environment / "bad").chmod(0o755)
    assert run(str(environment / "bad")).returncode in (126, 127)
    (environment / "nonsense").write_bytes(b"\0\1\2\3")
    (environment / "nonsense").chmod(0o755)
    assert run(str(environment / "nonsense")).returncode == 126


def test_an_engine_that_cannot_start_is_one_line_and_the_command_does_not_run(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAIL", "the kernel lacks a piece")
    done = run("touch", str(environment / "ran"))
    assert done.returncode == 1
    assert done.stderr == "hooker: the kernel lacks a piece (try a newer one)\n"
    assert not (environment / "ran").exists()


def test_an_engine_that_misses_a_file_says_which(
    environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    monkeypatch.setenv("FAKE_MISSING", str(missing))
    done = run("true")
    assert done.returncode == 1
    assert done.stderr == f"hooker: {missing}: No such file or directory (hooker doctor)\n"


# ---- streams, environment, cgroup -----------------------------------------------------------


def test_streams_are_the_commands_own() -> None:
    done = run("sh", "-c", "cat; echo out; echo err >&2", input="in\n")
    assert (done.stdout, done.stderr) == ("in\nout\n", "err\n")


def test_a_pipe_ends_when_the_command_closes_its_end() -> None:
    """Neither the launcher nor the engine may hold the streams open."""
    process = start("sh", "-c", "exec >&- <&-; exec sleep 30", stdin=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 10)[0]
        assert process.stdout.read() == ""
        assert process.stdin is not None
        with pytest.raises(BrokenPipeError):
            for _ in range(100):
                os.write(process.stdin.fileno(), b"x")
                time.sleep(0.01)
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_closed_for_the_command_too(closed: str, environment: Path) -> None:
    """And what we open meanwhile does not take their place."""
    look = 'for n in 0 1 2; do [ -e /proc/$$/fd/$n ]; echo $?; done >"$1"'
    for name, prefix in (("plain", []), ("hooked", [*RUN, "--"])):
        command = ["bash", "-c", f'exec "$@" {closed}', "-", *prefix, "sh", "-c", look, "-"]
        done = subprocess.run([*command, str(environment / name)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (environment / "hooked").read_text() == (environment / "plain").read_text()
    assert log(environment) == ["start", "close"]


def test_inherited_descriptors_reach_the_command() -> None:
    reader, writer = os.pipe()
    try:
        done = run("bash", "-c", f"echo through >&{writer}", pass_fds=[writer])
        assert done.returncode == 0
        assert os.read(reader, 100) == b"through\n"
    finally:
        os.close(reader)
        os.close(writer)


def test_the_environment_and_ignored_signals_are_the_callers() -> None:
    clean = {"PATH": os.environ["PATH"], "HOOKER_RUN_DIR": os.environ["HOOKER_RUN_DIR"], "ODD": "a=b\udcff"}
    done = run("env", "-0", env=clean, errors="surrogateescape")
    assert dict(entry.split("=", 1) for entry in done.stdout.split("\0") if entry) == clean
    ignoring = "trap '' HUP; exec \"$@\""
    command = ["sh", "-c", ignoring, "-", *RUN, "--", "sh", "-c", "kill -HUP $$; kill -USR1 $$"]
    assert subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGUSR1
    status = run("grep", "-E", "SigBlk|SigIgn", "/proc/self/status").stdout
    own = subprocess.run(["grep", "-E", "SigBlk|SigIgn", "/proc/self/status"], capture_output=True, text=True)
    assert status == own.stdout


def test_options_after_the_command_are_the_commands() -> None:
    done = subprocess.run(
        [*RUN, "--port", "80", "echo", "--port", "x"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "--port x\n"


def test_the_engine_has_no_huge_pages_and_the_command_may(environment: Path) -> None:
    """khugepaged would give back to it what it has given back to the system."""
    with subprocess.Popen([*RUN, "--", "sleep", "30"], stdout=subprocess.DEVNULL) as launcher:
        try:
            assert settle(lambda: len(children(launcher.pid)) == 2)
            assert settle(lambda: sorted(map(allowed, children(launcher.pid))) == ["0", "1"])
        finally:
            launcher.terminate()


def allowed(pid: int) -> str:
    """Huge pages, as proc(5) says it."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("THP_enabled:"))


def test_the_command_and_its_children_are_in_a_cgroup_of_their_own() -> None:
    inside = run("sh", "-c", "grep ^0:: /proc/self/cgroup").stdout.strip()
    assert cgroup.NAME.search(inside)


def test_children_that_outlive_the_command_are_moved_out() -> None:
    done = run("sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!")
    pid = int(done.stdout)
    try:
        assert alive(pid)
        assert "hooker-" not in Path(f"/proc/{pid}/cgroup").read_text()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_the_engine_waits_for_open_flows_but_not_for_ever(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows = environment / "flows"
    monkeypatch.setenv("FAKE_FLOWS", str(flows))
    flows.write_text("1")
    process = start("true")
    time.sleep(2)
    assert process.poll() is None
    flows.write_text("0")
    assert process.wait(5) == 0
    flows.write_text("1")
    begun = time.monotonic()
    assert run("true", options=("--linger", "0.5")).returncode == 0
    assert time.monotonic() - begun < 5


def test_a_signal_cuts_the_lingering_short(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_FLOWS", str(environment / "flows"))
    (environment / "flows").write_text("1")
    process = start("sh", "-c", "echo go; exit 3")
    first_line(process)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 3


def test_verbose_tells_events_on_standard_error() -> None:
    assert run("true", options=("-v",)).stderr == "hooker: peer up [fd00::2]:6253\n"


# ---- signals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGCONT"]
)
def test_a_signal_to_the_launcher_reaches_the_command_once(name: str) -> None:
    process = start(sys.executable, "-c", SAY_SIGNALS)
    try:
        command = int(first_line(process))
        process.send_signal(signal.Signals[name])
        assert first_line(process) == name
        assert process.poll() is None
        os.kill(command, signal.SIGKILL)
        assert process.wait(20) == -signal.SIGKILL
        assert process.stdout is not None
        assert process.stdout.read() == ""
    finally:
        process.kill()


def test_an_interrupted_start_ends_by_the_signal_without_running_the_command(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_SLOW", "2")
    process = start("touch", str(environment / "ran"))
    assert settle(lambda: log(environment) == ["starting"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM
    assert not (environment / "ran").exists()


def test_killing_the_launcher_kills_the_command_and_leaves_nothing(environment: Path) -> None:
    process = start(sys.executable, "-c", SAY_SIGNALS)
    command = int(first_line(process))
    process.kill()
    process.wait()
    assert settle(lambda: not alive(command))
    assert settle(lambda: log(environment) == ["start", "close"])


def test_killing_the_engine_leaves_the_command_running_and_nothing_behind(environment: Path) -> None:
    process = start(sys.executable, "-c", SAY_SIGNALS, stderr=subprocess.PIPE)
    command = int(first_line(process))
    engine = int((environment / "log").read_text().split()[1])
    os.kill(engine, signal.SIGKILL)
    assert settle(lambda: "hooker-" not in Path(f"/proc/{command}/cgroup").read_text())
    process.send_signal(signal.SIGTERM)
    assert first_line(process) == "SIGTERM"
    os.kill(command, signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    assert process.stderr is not None
    assert "the engine has ended; hooked connections go on over TCP" in process.stderr.read()


# ---- the terminal ---------------------------------------------------------------------------


class Terminal:
    """An interactive bash on a terminal of its own."""

    def __init__(self) -> None:
        pid, self.fd = pty.fork()
        if pid == 0:
            os.execvpe("bash", ["bash", "--norc", "-i"], {**os.environ, "PS1": "ready> ", "HISTFILE": ""})
        self.pid = pid
        self.text = ""

    def type(self, text: str) -> None:
        self.text = ""
        os.write(self.fd, text.encode())

    def see(self, wanted: str, timeout: float = 15.0) -> None:
        deadline = time.monotonic() + timeout
        while wanted not in self.text:
            left = deadline - time.monotonic()
            assert left > 0, f"{wanted!r} did not come: {self.text!r}"
            if select.select([self.fd], [], [], left)[0]:
                self.text += os.read(self.fd, 4096).decode(errors="replace").replace("\r", "")

    def close(self) -> None:
        os.close(self.fd)
        os.kill(self.pid, signal.SIGHUP)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    made = Terminal()
    try:
        made.see("ready> ")
        yield made
    finally:
        made.close()


def test_control_c_reaches_the_command_once_and_not_the_engine(terminal: Terminal, environment: Path) -> None:
    program = environment / "say.py"
    program.write_text(SAY_SIGNALS + "time.sleep(1)\nprint('over')\n")
    terminal.type(f"{' '.join(RUN)} -- {sys.executable} {program}\n")
    assert settle(lambda: log(environment) == ["start"])
    time.sleep(1)
    terminal.type("\x03")
    terminal.see("SIGINT")
    time.sleep(0.3)
    terminal.type("\x1c")
    terminal.see("SIGQUIT")
    assert log(environment) == ["start"]
    assert "SIGINT" not in terminal.text
    pid = next(pid for pid in children(terminal.pid))
    os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_control_z_stops_the_job_and_fg_continues_it(terminal: Terminal, environment: Path) -> None:
    terminal.type(f"{' '.join(RUN)} -- cat; echo st''atus=$?\n")
    assert settle(lambda: log(environment) == ["start"])
    time.sleep(1)
    terminal.type("hello\n")
    terminal.see("hello\nhello\n")
    terminal.type("\x1a")
    terminal.see("Stopped")
    assert log(environment) == ["start"]
    engine = int((environment / "log").read_text().split()[1])
    assert Path(f"/proc/{engine}/stat").read_text().rpartition(")")[2].split()[0] != "T"
    terminal.type("fg\n")
    time.sleep(0.5)
    terminal.type("again\n")
    terminal.see("again\nagain\n")
    terminal.type("\x04")
    terminal.see("ready> ")
    terminal.type("echo st''atus=$?\n")
    terminal.see("status=0")
    assert settle(lambda: log(environment) == ["start", "close"])


def test_a_background_job_that_reads_the_terminal_stops_until_fg(
    terminal: Terminal, environment: Path
) -> None:
    terminal.type(f"{' '.join(RUN)} -- cat &\n")
    assert settle(lambda: log(environment) == ["start"])
    time.sleep(1)
    terminal.type("\n")
    terminal.see("Stopped")
    terminal.type("fg\n")
    time.sleep(0.5)
    terminal.type("hello\n")
    terminal.see("hello\nhello\n")
    terminal.type("\x04")
    assert settle(lambda: log(environment) == ["start", "close"])


# ---- hooker up ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_up_says_when_it_is_ready_and_ends_when_told(name: str, environment: Path) -> None:
    outer = cgroup.Cgroup.create()
    reader, writer = os.pipe()
    try:
        options = ["--cgroup", str(outer.path), "--port", "80,443", "--ready-fd", str(writer)]
        command = [sys.executable, FAKE, "up", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[writer])
        os.close(writer)
        assert os.read(reader, 100) == b"ready\n"
        assert first_line(process) == f"hooker: ready, vtl on port 6253, cgroup {outer.path}"
        status = subprocess.run(
            [sys.executable, FAKE, "status", "--json"], capture_output=True, text=True, check=True
        )
        (engine,) = json.loads(status.stdout.splitlines()[-1])["engines"]
        assert engine["engine"]["pid"] == process.pid
        assert engine["engine"]["cgroup"] == str(outer.path)
        assert engine["policy"] == "all hosts, 80,443"
        process.send_signal(signal.Signals[name])
        assert process.wait(10) == 0
        assert log(environment) == ["start", "close"]
    finally:
        os.close(reader)
        outer.remove()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_up_ends_at_once_while_the_kernel_is_tried(
    name: str, environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_PROBE", "60")
    outer = cgroup.Cgroup.create()
    try:
        process = subprocess.Popen([sys.executable, FAKE, "up", "--cgroup", str(outer.path)])
        assert settle(lambda: log(environment) == ["probing"])
        process.send_signal(signal.Signals[name])
        assert process.wait(10) == -signal.Signals[name]
        assert log(environment) == ["probing"]
    finally:
        outer.remove()


def test_up_goes_on_when_nobody_reads_what_it_says(environment: Path) -> None:
    outer = cgroup.Cgroup.create()
    try:
        for closed in (">&-", "<&- >&- 2>&-", "> >(true)"):
            command = ["bash", "-c", f'exec "$@" {closed}', "-", sys.executable, FAKE, "up", "-v"]
            process = subprocess.Popen([*command, "--cgroup", str(outer.path)])
            assert settle(lambda: log(environment)[-1:] == ["start"])
            time.sleep(0.3)
            assert process.poll() is None
            process.terminate()
            assert process.wait(10) == 0
            assert log(environment)[-1:] == ["close"]
    finally:
        outer.remove()


def test_up_killed_leaves_no_socket(environment: Path) -> None:
    outer = cgroup.Cgroup.create()
    try:
        process = subprocess.Popen(
            [sys.executable, FAKE, "up", "--cgroup", str(outer.path)], stdout=subprocess.PIPE, text=True
        )
        first_line(process)
        assert len(list((environment / "run").glob("*.sock"))) == 1
        process.kill()
        process.wait()
        assert settle(lambda: not list((environment / "run").glob("*.sock")))
    finally:
        outer.remove()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--cgroup", "/no/such"], "does not exist"),
        (["--cgroup", "/tmp"], "cgroup v2"),
        (["--ready-fd", "99"], "99"),
        (["--ready-fd", "0"], "for writing"),
    ],
)
def test_up_refuses_what_is_not_there(options: list[str], said: str, environment: Path) -> None:
    done = subprocess.run(
        [sys.executable, FAKE, "up", *options],
        input="",  # a pipe, only to be read
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert log(environment) == []
