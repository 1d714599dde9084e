"""Verdicts about this machine: kept while they are used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hooker.control import probes
from hooker.control.probes import PROBES, ProbeResult, verdicts


def test_verdicts_of_other_builds_and_boots_go_but_for_the_last_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    asked: list[str] = []
    build = "0"
    monkeypatch.setattr(probes, "_machine", lambda intercept: build)

    def run_all(intercept: str) -> list[ProbeResult]:
        asked.append(build)
        return [ProbeResult(name, True, required, "") for name, _, required in PROBES[intercept]]

    monkeypatch.setattr(probes, "run_all", run_all)
    directory = tmp_path / "run"
    for number in range(20):
        build = f"{number:x}"
        assert verdicts("segments")
        for file in directory.glob("probes-*"):
            os.utime(file, (file.stat().st_mtime - 10,) * 2)  # time passes
        build = "0"
        verdicts("segments")  # which is in use
    assert asked.count("0") == 1
    kept = {file.name.partition(".")[0] for file in directory.iterdir()}
    assert kept == {f"probes-segments-{number:x}" for number in (0, *range(13, 20))}
