"""The command line: bad input is one line and status 2, and costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hooker
from hooker import cli

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
        (["run", "--transport", "quic", "--", "true"], "vtl"),
        (["run", "--nonsense", "--", "true"], "--nonsense"),
        (["run", "--linger", "-1", "--", "true"], "--linger"),
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


@pytest.mark.parametrize("arguments", [["run", "--", "true"], ["up"]])
def test_without_root_it_says_so(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert "needs root" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert not caught.value.code
    assert capsys.readouterr().out == f"hooker {hooker.__version__}\n"


def test_status_without_engines_says_so_and_succeeds(tmp_path: Path) -> None:
    done = call("status", run_dir=tmp_path / "run")
    assert (done.returncode, done.stdout, done.stderr) == (0, "no engine is running\n", "")
    done = call("status", "--json", run_dir=tmp_path / "run")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[-1]) == {"engines": []}


def test_output_that_cannot_be_written_is_no_traceback() -> None:
    script = '"$1" "$2" status --json | true; "$1" "$2" --help 2>&1 >/dev/full'
    command = ["bash", "-c", script, "-", sys.executable, str(FAKE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stdout + done.stderr


def test_commands_that_hook_nothing_load_neither_bcc_nor_numpy() -> None:
    program = "import hooker.cli, sys; print([m for m in ('bcc', 'numpy', 'pyroute2') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
