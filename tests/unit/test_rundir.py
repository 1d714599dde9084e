"""The run-time directory is ours alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hooker.control.rundir import LONGEST, run_directory
from hooker.errors import ConfigurationError


def test_it_is_made_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "a" / "b"))
    assert run_directory() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    assert run_directory() == tmp_path / "a" / "b"


def test_a_directory_others_can_write_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "open"))
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(ConfigurationError, match="only this user"):
        run_directory()


def test_a_link_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "link"))
    with pytest.raises(ConfigurationError, match="only this user"):
        run_directory()


def test_a_place_that_cannot_be_made_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "file" / "x"))
    with pytest.raises(ConfigurationError, match="cannot make"):
        run_directory()


def test_a_working_directory_that_was_removed_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    program = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1])\n"
        "from hooker.control.rundir import run_directory; print(run_directory())"
    )
    environment = {**os.environ, "HOOKER_RUN_DIR": str(tmp_path / "run")}
    command = [sys.executable, "-c", program, str(tmp_path / "gone")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=30)
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'run'}\n", "")


@pytest.mark.parametrize("where", ["/proc", "/proc/hooker", "/sys/kernel"])
def test_where_no_file_can_be_made_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", where)
    with pytest.raises(ConfigurationError, match=f"cannot make .*{where}.*set HOOKER_RUN_DIR|only this user"):
        run_directory()


def test_a_path_too_long_for_a_socket_is_refused_and_not_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    at_most = tmp_path / ("x" * (LONGEST - len(str(tmp_path)) - 1))
    monkeypatch.setenv("HOOKER_RUN_DIR", f"{at_most}x")
    with pytest.raises(ConfigurationError, match="set HOOKER_RUN_DIR"):
        run_directory()
    (tmp_path / "s").symlink_to(tmp_path / ("y" * (LONGEST - len(str(tmp_path)) - 3)))
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "s" / "abc"))
    with pytest.raises(ConfigurationError, match="set HOOKER_RUN_DIR"):
        run_directory()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    monkeypatch.setenv("HOOKER_RUN_DIR", str(at_most))
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(run_directory() / "4194304-999.sock"))


def test_what_was_made_in_vain_goes_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**settings: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "a" / "b"))
    with pytest.raises(ConfigurationError, match="Read-only file system"):
        run_directory()
    assert list(tmp_path.iterdir()) == []
