"""Root, and another user of the machine who prepares what root will read, and the directory it stands in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hooker import ConfigurationError, trust
from hooker.control import kept, keyfile, probes, rundir
from hooker.control import status_socket as control

NOBODY = 65534
PROGRAMS = ("nsenter", "ip", "modprobe", "python3", "tar", "sh", "gcc", "ldconfig", "ld", "mount", "xz")


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HOOKER_RUN_DIR", str(tmp_path / "run"))
    return rundir.run_directory()


def key(path: Path) -> Path:
    path.write_text(keyfile.make())
    path.chmod(0o600)
    return path


def nothing(path: Path) -> None:
    pass


def give_away(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)


def open_up(path: Path) -> None:
    path.chmod(0o777)


def for_a_group(path: Path) -> None:
    path.chmod(0o770)


def sticky(path: Path) -> None:
    path.chmod(0o1777)


@pytest.mark.parametrize(
    ("change", "fine"),
    [(nothing, True), (sticky, True), (give_away, False), (open_up, False), (for_a_group, False)],
)
def test_what_lies_below_a_directory_of_others_is_not_believed(
    change: Callable[[Path], None], fine: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = tmp_path / "outer"
    (outer / "inner").mkdir(parents=True)
    file = key(outer / "inner" / "key")
    monkeypatch.setenv("HOOKER_RUN_DIR", str(outer / "inner" / "run"))
    change(outer)
    for read in (lambda: keyfile.read(file), rundir.run_directory):
        if fine:
            read()
            continue
        with pytest.raises(ConfigurationError, match="outer"):
            read()
    assert (outer / "inner" / "run").exists() == fine


@pytest.mark.parametrize("change", [give_away, open_up])
def test_a_key_file_of_others_is_refused(change: Callable[[Path], None], tmp_path: Path) -> None:
    file = key(tmp_path / "key")
    change(file)
    with pytest.raises(ConfigurationError, match="other user"):
        keyfile.read(file)


def test_links_are_followed_if_root_made_them(tmp_path: Path) -> None:
    key(tmp_path / "key")
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to(tmp_path / "directory" / ".." / "key")
    (tmp_path / "directory").symlink_to("real")
    (tmp_path / "real").mkdir()
    assert keyfile.read(tmp_path / "one")
    os.lchown(tmp_path / "two", NOBODY, NOBODY)
    with pytest.raises(ConfigurationError, match="another user"):
        keyfile.read(tmp_path / "one")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigurationError, match="links"):
        keyfile.read(tmp_path / "loop")


def test_a_pipe_in_place_of_a_file_is_no_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key", 0o600)
    with pytest.raises(ConfigurationError, match="regular file"):
        keyfile.read(tmp_path / "key")


@pytest.mark.parametrize("change", [give_away, open_up, for_a_group])
def test_a_run_directory_of_others_is_refused(change: Callable[[Path], None], run_dir: Path) -> None:
    change(run_dir)
    with pytest.raises(ConfigurationError, match="only this user"):
        rundir.run_directory()


def test_another_users_run_directory_is_refused_in_the_sticky_tmp(tmp_path: Path) -> None:
    """What /tmp/hooker-<uid> or $XDG_RUNTIME_DIR could be."""
    place = tmp_path / "tmp"
    place.mkdir()
    sticky(place)
    code = (
        "import sys; sys.path[:0] = [sys.argv[1]]\n"
        "from hooker.control import rundir; print(rundir.run_directory())"
    )
    for variable, taken in (("HOOKER_RUN_DIR", place / "taken"), ("XDG_RUNTIME_DIR", place / "hooker")):
        taken.mkdir()  # root's: another user's for whom runs this
        environment = {variable: str(taken if variable == "HOOKER_RUN_DIR" else place)}
        command = ["setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-I", "-c", code]
        tmp_path.chmod(0o755)
        package = str(Path(rundir.__file__).parents[2])
        done = subprocess.run(
            [*command, package], env=environment, capture_output=True, text=True, timeout=30
        )
        assert "only this user" in done.stderr or "Permission" in done.stderr, done


def test_a_relative_run_directory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOKER_RUN_DIR", "run")
    with pytest.raises(ConfigurationError, match="absolute"):
        rundir.run_directory()


def test_a_verdict_of_others_is_not_believed(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = [probes.ProbeResult(name, False, need, "seen") for name, _, need in probes.PROBES["segments"]]
    monkeypatch.setattr(probes, "run_all", lambda _: real)
    path = run_dir / f"probes-segments-{probes._machine('segments')}.json"
    rows = [
        {"name": name, "ok": True, "required": need, "detail": ""}
        for name, _, need in probes.PROBES["segments"]
    ]
    kept.write(path, json.dumps(rows).encode())
    assert all(result.ok for result in probes.verdicts("segments"))
    give_away(path)
    assert probes.verdicts("segments") == real
    path.unlink()
    for odd in (
        "[]",
        "nonsense",
        json.dumps([{**row, "ok": 7} for row in rows]),
        json.dumps(rows[1:]),
        "[1]",
    ):
        kept.write(path, odd.encode())
        assert probes.verdicts("segments") == real


def test_a_socket_of_others_is_not_asked(run_dir: Path) -> None:
    answer = {"engine": {"pid": 1}}
    server = control.ControlServer(lambda: answer)
    server.start()
    try:
        assert control.snapshots() == [answer]
        assert server.path is not None
        give_away(server.path)
        assert control.snapshots() == []
    finally:
        server.close()


def test_nothing_of_the_callers_directory_or_environment_is_run_by_the_probes(tmp_path: Path) -> None:
    """The doctor, which starts every kind of process an engine starts, in a directory of somebody else."""
    evil, proof = tmp_path / "evil", tmp_path / "proof"
    evil.mkdir()
    code = f"import os, sys\nopen({str(proof)!r}, 'a').write(f'{{__file__}} {{sys.argv}}\\n')\n"
    for package in ("hooker", "pyroute2"):
        (evil / package).mkdir()
        (evil / package / "__init__.py").write_text(code)
    for name in ("sitecustomize", "usercustomize", "bcc", "json", "numpy", "probes", "site"):
        (evil / f"{name}.py").write_text(code)
    for name in PROGRAMS:
        (evil / name).write_text(f"#!/bin/sh\necho $0 >>{proof}\n")
        (evil / name).chmod(0o755)
    (evil / "linux").mkdir()
    (evil / "linux" / "types.h").write_text("#error taken from the caller's directory\n")
    for path in (evil, *evil.rglob("*")):
        give_away(path)
    environment = {
        "HOOKER_RUN_DIR": str(tmp_path / "run"),
        "PATH": f"{evil}:{os.environ['PATH']}",
        "CPATH": f":{evil}",
        "C_INCLUDE_PATH": str(evil),
        "PYTHONPATH": str(evil),
        "PYTHONSTARTUP": str(evil / "json.py"),
        "LD_LIBRARY_PATH": str(evil),
        "BASH_ENV": str(evil / "sh"),
    }
    # root's own first process is root's choice: here it is isolated, and must hand none of this on
    command = [sys.executable, "-I", "-m", "hooker", "doctor", "--json"]
    done = subprocess.run(command, cwd=evil, env=environment, capture_output=True, text=True, timeout=110)
    failed = [check for check in json.loads(done.stdout.splitlines()[-1])["checks"] if not check["ok"]]
    assert not proof.exists(), proof.read_text()
    assert (done.returncode, [check for check in failed if check["required"]]) == (0, [])


def test_trust_is_for_root_and_the_caller() -> None:
    assert trust.trusted(0)
    assert trust.trusted(os.geteuid())
    assert not trust.trusted(NOBODY)
