"""Every process that this package starts is listed here, and keeps the rules of ``hooker.start``."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hooker import ConfigurationError, start

ROOT = Path(__file__).parents[2]
MODULES = ("subprocess", "os", "pty", "posix", "multiprocessing", "asyncio")
STARTS = {
    "Popen", "run", "call", "check_call", "check_output", "getoutput", "getstatusoutput", "system", "popen",
    "startfile", "spawn", "Process", "create_subprocess_exec", "create_subprocess_shell", "fork_exec",
}  # fmt: skip
OWN = "ours: isolated or an absolute path, a chosen environment and directory"
USERS = "the user's: his command, his environment"
LAB = "a command of whoever uses the lab; it enters the host by absolute paths"
KNOWN = {
    ("hooker/control/compiled.py", "compiled", "subprocess.run"): OWN,
    ("hooker/control/dispatcher.py", "_libxdp", "subprocess.run"): OWN,
    ("hooker/control/janitor.py", "_spawn", "subprocess.Popen"): OWN,
    ("hooker/control/probes.py", "run_all", "subprocess.run"): OWN,
    ("hooker/transports/children.py", "begin", "subprocess.Popen"): OWN,
    ("hooker/lab/engine.py", "_start", "self._popen"): OWN,
    ("hooker/lab/link.py", "__init__", "popen"): OWN,
    ("hooker/lab/apps.py", "start_nginx", "host.popen"): OWN,
    ("hooker/lab/apps.py", "start_iperf3", "host.popen"): OWN,
    ("hooker/lab/apps.py", "start_redis", "host.popen"): OWN,
    ("hooker/lab/demo.py", "_fetch", "self.lab.a.run"): OWN,
    ("hooker/cli/launch.py", "_command_main", "os.execvpe"): USERS,
    ("hooker/lab/__init__.py", "popen", "subprocess.Popen"): LAB,
    ("hooker/lab/__init__.py", "run", "subprocess.run"): LAB,
}
NOT_A_START = {"runpy.run_module", "self._worker.run"}


def starts(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """(function, callee, call) of everything that looks like the start of a process."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
        callee = ast.unparse(call.func)
        owner, _, name = callee.rpartition(".")
        named = name in STARTS and (
            owner in MODULES or (owner.endswith(("host", "lab.a", "lab.b")) and name in ("popen", "run"))
        )
        named = named or callee in ("popen", "self._popen")  # a host's, handed over
        if named or (owner in MODULES and name.startswith(("exec", "spawn", "posix_spawn"))):
            inside = [f for f in functions if f.lineno <= call.lineno <= (f.end_lineno or 0)]
            yield (inside[-1].name if inside else "", callee, call)


def sources() -> list[Path]:
    return sorted((ROOT / "hooker").rglob("*.py"))


def test_every_start_is_known() -> None:
    found = {
        (str(path.relative_to(ROOT)), function, callee)
        for path in sources()
        for function, callee, _ in starts(ast.parse(path.read_text()))
    }
    assert found == set(KNOWN)


def test_every_start_of_ours_has_a_chosen_environment() -> None:
    for path in sources():
        for function, callee, call in starts(ast.parse(path.read_text())):
            if KNOWN[str(path.relative_to(ROOT)), function, callee] != OWN:
                continue
            body = (
                ast.unparse(call) + path.read_text().split(f"def {function}(", 1)[1].split("\n    def ", 1)[0]
            )
            assert "start.environment()" in body, (path.name, function)
            assert "start.module(" in body or "start.tool(" in body or "start.interpreter()" in body, (
                path.name
            )


def test_no_module_starts_a_bare_interpreter_or_a_shell() -> None:
    for path in sources():
        text = path.read_text()
        assert ("sys.executable" in text) == (path.name == "start.py"), path
        assert "shell=True" not in text, path
        if path.parent.name != "lab":  # which enters a cgroup and a namespace by /bin/sh, and has nginx -c
            assert '"-c"' not in text, path
        assert "find_library" not in text, path


@pytest.mark.parametrize("path", [ROOT / "dev", ROOT / ".ci" / "run"], ids=lambda p: p.name)
def test_the_scripts_run_modules_isolated(path: Path) -> None:
    for line in path.read_text().splitlines():
        if "PYTHON" in line and (" -m " in line or " -c " in line):
            tree = (
                "-P -m pytest" in line or "-m benchmarks" in line or "-m fuzz" in line
            )  # in the tree itself
            assert "ISOLATED" in line or " -I " in line or tree, line


def test_a_module_runs_isolated_and_is_of_the_same_package(tmp_path: Path) -> None:
    """Whatever stands in the caller's directory and variables."""
    for name in ("hooker", "rich"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    for name in ("sitecustomize", "usercustomize", "json", "click"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'proof')!r}, 'w')")
    evil = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSTARTUP": str(tmp_path / "json.py")}
    command = start.module("hooker", "--version")
    done = subprocess.run(command, cwd=tmp_path, env=evil, capture_output=True, text=True, timeout=30)
    assert done.stdout == "hooker 0.1.0\n"
    assert not (tmp_path / "proof").exists()


def test_only_named_variables_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "BASH_ENV", "CPATH", "HOME"):
        monkeypatch.setenv(name, "/evil")
    monkeypatch.setenv("PATH", "/evil:/usr/bin")
    monkeypatch.setenv("HOOKER_RUN_DIR", "/run/own")
    chosen = start.environment()
    assert "/evil" not in json.dumps(chosen)
    assert chosen["HOOKER_RUN_DIR"] == "/run/own"
    assert all(path.startswith(("/usr/", "/bin", "/sbin")) for path in chosen["PATH"].split(":"))


def test_tools_are_the_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nsenter").write_text("#!/bin/sh\n")
    (tmp_path / "nsenter").chmod(0o755)
    (tmp_path / "hk-no-such").symlink_to("nsenter")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert start.tool("nsenter").startswith("/usr/")
    with pytest.raises(ConfigurationError, match="hk-no-such"):
        start.tool("hk-no-such")


def test_an_interpreter_without_a_name_is_the_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("", "python3", None):
        monkeypatch.setattr(sys, "executable", name)
        assert start.interpreter() == "/usr/bin/python3"
