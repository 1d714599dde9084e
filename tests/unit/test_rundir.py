"""The run-time directory is ours alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooker.control.rundir import run_directory
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
