"""The command line: bad input is one line and status 2, and costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import hooker
from hooker import HookerError, Policy
from hooker.cli import commands as cli

FAKE = Path(__file__).parent.parent / "fake_engine.py"


def call(*arguments: str, run_dir: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **({"HOOKER_RUN_DIR": str(run_dir)} if run_dir else {})}
    command = [sys.executable, str(FAKE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bogus"], "bogus"),
        (["run"], "COMMAND"),
        (["run", "--port", "http", "--", "true"], "'http'"),
        (["run", "--port", "80,70000", "--", "true"], "'70000'"),
        (["run", "--to", "10.0.0.1/8", "--", "true"], "10.0.0.0/8"),
        (["run", "--transport", "dccp", "--", "true"], "vtl"),
        (["run", "--nonsense", "--", "true"], "--nonsense"),
        (["run", "--linger", "-1", "--", "true"], "--linger"),
        (["run", "--linger", "nan", "--", "true"], "--linger"),
        (["run", "--busy-poll", "１０", "--", "true"], "--busy-poll"),
        (["run", "--port", "80", "--port", "", "--", "true"], "empty port"),
        (["up", "--ready-fd", "-1"], "--ready-fd"),
        (["up", "--listen-port", "-1"], "--listen-port"),
        (["up", "--listen-port", "65536"], "--listen-port"),
        (["up", "--transport", ""], "vtl"),
        (["up", "unexpected"], "unexpected"),
        (["status", "--jsn"], "--jsn"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("hooker: ")
    assert said in output.err


def test_without_arguments_the_usage_is_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    output = capsys.readouterr()
    assert (caught.value.code, output.out) == (2, "")
    assert "Usage: hooker" in output.err


def test_an_unknown_verb_of_dev_is_bad_input() -> None:
    dev = Path(hooker.__file__).parents[1] / "dev"
    done = subprocess.run([str(dev), "bogus"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (2, "")
    assert "'bogus'" in done.stderr


def test_a_key_is_not_written_where_others_could_read_it(tmp_path: Path) -> None:
    """As an ordinary user, into a file of root's that everybody may write."""
    if os.geteuid():
        pytest.skip("needs root to be somebody else")
    tmp_path.chmod(0o755)
    path = tmp_path / "key"
    program = (
        "import os, sys; from hooker.cli.commands import main, key; from hooker.control import keyfile\n"
        "os.setgid(65534); os.setuid(65534); main(['key'])"
    )
    with path.open("w") as file:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=file, stderr=subprocess.PIPE, text=True, timeout=30
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "hooker key > FILE" in done.stderr
    assert path.read_text() == ""


@pytest.mark.parametrize(
    "arguments",
    [["run", "--", "true"], ["up"], ["status"], ["status", "--json"], ["set", "--transport", "vtl"]],
)
def test_without_root_it_says_so(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr("hooker.control.status_socket.answers", lambda: ([], {}))
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "needs root" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert not caught.value.code
    assert capsys.readouterr().out == f"hooker {hooker.__version__}\n"


def engines(monkeypatch: pytest.MonkeyPatch, *pids: int) -> list[tuple[int, dict[str, Any]]]:
    """Engines that take every setting; which, comes back."""
    taken: list[tuple[int, dict[str, Any]]] = []

    def change(pid: int, settings: dict[str, Any]) -> dict[str, Any]:
        taken.append((pid, settings))
        way = {
            "transport": settings.get("transport", "vtl"),
            "reliability": settings.get("reliability", "none"),
        }
        return {
            "engine": {
                "pid": pid,
                **way,
                "rules": [way | {"transport": "ip"}],
                "skipped": {"owl": "it sleeps"},
            }
        }

    found = [{"engine": {"pid": pid}} for pid in pids]
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("hooker.control.status_socket.answers", lambda: (found, {}))
    monkeypatch.setattr("hooker.control.status_socket.change", change)
    return taken


def test_settings_go_to_the_only_engine_or_to_the_one_that_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = engines(monkeypatch, 7)
    with pytest.raises(SystemExit) as caught:
        cli.main(["set", "--transport", "tcp,vtl"])
    assert not caught.value.code
    assert capsys.readouterr().out == "engine 7: tcp,vtl, none, from now on\nskipped owl: it sleeps\n"
    with pytest.raises(SystemExit):
        cli.main(["set", "--transport", "vtl", "--pid", "8"])
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["set", "--reliability", "go-back-n", "--rule", "1"])
    assert capsys.readouterr().out.startswith("engine 7: ip, go-back-n, from now on\n")
    assert taken == [
        (7, {"transport": "tcp,vtl"}),
        (8, {"transport": "vtl"}),
        (7, {"reliability": "go-back-n", "rule": 1}),
    ]


@pytest.mark.parametrize(
    ("pids", "arguments", "says"),
    [
        ((), ["--transport", "vtl"], "no engine is running"),
        ((7, 9), ["--transport", "vtl"], "--pid 7 or 9"),
        ((7,), [], "nothing is to be set"),
        ((7,), ["--pid", "0", "--transport", "vtl"], "--pid"),
    ],
)
def test_what_cannot_be_set_is_bad_input(
    pids: tuple[int, ...],
    arguments: list[str],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    taken = engines(monkeypatch, *pids)
    with pytest.raises(SystemExit) as caught:
        cli.main(["set", *arguments])
    said = capsys.readouterr().err
    assert (caught.value.code, taken, said.count("\n")) == (2, [], 1)
    assert says in said


def test_status_without_engines_says_so_and_succeeds(tmp_path: Path) -> None:
    done = call("status", run_dir=tmp_path / "run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no engine is running\n", "")
    done = call("status", "--json", run_dir=tmp_path / "run")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"engines": [], "silent": {}}


def test_output_that_cannot_be_written_is_no_traceback() -> None:
    script = '"$1" "$2" status --json | true; "$1" "$2" --help 2>&1 >/dev/full'
    command = ["bash", "-c", script, "-", sys.executable, str(FAKE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stdout + done.stderr


INTERRUPTED = """
import os, signal, sys
where = sys.argv.pop(1)
class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == where:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored when we were started in the background
sys.meta_path.insert(0, Interrupt())
from hooker.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "where",
    [
        "hooker.cli.commands",
        "click",
        "hooker.control.policy",
        "hooker.control.status_socket",
        "hooker.cli.status",
        "rich.table",
    ],
)
def test_control_c_ends_by_the_signal_without_a_traceback(where: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", INTERRUPTED, where, "status"]
    environment = {**os.environ, "HOOKER_RUN_DIR": str(tmp_path / "run")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (-signal.SIGINT, "", "")


def test_control_c_while_the_interpreter_starts_waits_for_the_command(tmp_path: Path) -> None:
    """It is blocked from outside, as ./dev does it; else there is a traceback of the interpreter's."""
    block = ["env", "--block-signal=INT", "HOOKER_INTERRUPT_BLOCKED=1"]
    command = [*block, sys.executable, "-I", "-m", "hooker", "status"]
    environment = {**os.environ, "HOOKER_RUN_DIR": str(tmp_path / "run")}
    for delay in (0.005, 0.01, 0.015, 0.02, 0.03):
        process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environment)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=30)
        assert (process.returncode, output) == (-signal.SIGINT, ("", ""))
    text = (Path(hooker.__file__).parents[1] / "dev").read_text()
    assert " ".join(block) in text.replace("$env", "env")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_traceback(closed: str, tmp_path: Path) -> None:
    """What cannot be written is a failure, for standard output; nothing else suffers."""
    script = f'"$@" {closed}'
    environment = {**os.environ, "HOOKER_RUN_DIR": str(tmp_path / "run")}
    for arguments in (
        ["status"],
        ["status", "--json"],
        ["--version"],
        ["key"],
        [],
        ["--help"],
        ["run", "--port", "x", "true"],
    ):
        command = ["bash", "-c", script, "-", sys.executable, str(FAKE), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
        lost = " >&-" in f" {closed}"
        bad_input = arguments[:1] in ([], ["run"])
        expected = 2 if bad_input else 1 if lost else 0
        assert done.returncode == expected, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        if lost and "2>&-" not in closed and not bad_input:
            assert done.stderr == "hooker: standard output is closed\n"


@pytest.mark.parametrize("command", ["run", "up"])
def test_ports_and_hosts_given_more_than_once_add_up(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(cli, "require_root", lambda what: (_ for _ in ()).throw(HookerError(what)))
    monkeypatch.setattr(cli, "Options", lambda **settings: seen.append(settings["policy"]))
    arguments = ["--port", "80", "--to", "10.0.0.0/8", "--port=443,8000-8010", "--to", "fd00::/8,192.0.2.1"]
    with pytest.raises(SystemExit):
        cli.main([command, *arguments, *(["true"] if command == "run" else [])])
    assert seen == [Policy.parse(port="80,443,8000-8010", to="10.0.0.0/8,fd00::/8,192.0.2.1")]


def test_commands_that_hook_nothing_load_neither_bcc_nor_numpy() -> None:
    loaded = "[m for m in ('bcc', 'numpy', 'pyroute2') if m in sys.modules]"
    program = f"import hooker.cli.commands, sys; print({loaded})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
