"""What is distributed: the source package is whole, and what is built from it hooks, freshly installed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW = 900  # s: the engine is compiled once more
SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
OUTSIDE = {"bcc"}  # belongs to the distribution's interpreter, there is no package of it


def sources(*suffixes: str) -> set[str]:
    """The tree's files below hooker/ and bpf/, as git knows them where there is git."""
    files = [p for name in ("hooker", "bpf") for p in (ROOT / name).rglob("*") if p.suffix in suffixes]
    generated = {p.with_suffix(".c") for p in ROOT.glob("hooker/**/*.pyx")}
    return {str(p.relative_to(ROOT)) for p in files if p not in generated}


def copy(target: Path) -> Path:
    """The tree without what was built in it."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "*.egg-info", "*.html")
    for name in ("hooker", "bpf", "docs"):
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "setup.py", "MANIFEST.in"):
        shutil.copy(ROOT / name, target / name)
    return target


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = copy(tmp_path_factory.mktemp("tree"))
    command = [sys.executable, "-I", "-c", SDIST, str(tree / "dist")]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=120)
    (made,) = (tree / "dist").glob("*.tar.gz")
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Built from the source package; offline, with the build's dependencies of this environment."""
    environment = {**os.environ, "CCACHE_NOHASHDIR": "1"}
    if shutil.which("ccache"):
        environment.setdefault("CC", "ccache gcc")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "-q", "--disable-pip-version-check"]
    command = [sys.executable, "-I", "-m", "pip", "wheel", *options, "-w", str(sdist.parent), str(sdist)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SLOW, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = sdist.parent.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and its dependencies from this one."""
    where = tmp_path_factory.mktemp("environment")
    venv = ["-m", "venv", "--system-site-packages", "--without-pip", str(where)]
    subprocess.run(["/usr/bin/python3", "-I", *venv], check=True, timeout=60)
    python = where / "bin" / "python"
    pip = ["-m", "pip", "--python", str(python), "install", "-q", "--disable-pip-version-check"]
    command = [sys.executable, "-I", *pip, "--no-index", "--no-deps", "--ignore-installed", str(wheel)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    (site,) = where.glob("lib/python3*/site-packages")
    # a plain path: its own .pth files, thus the tree's editable installation, are not read
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_source_package_has_every_source(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert sources(".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".typed") - names == set()
    assert {"README.md", "LICENSE", "CHANGELOG.md", "docs/cli.md", "setup.py", "pyproject.toml"} <= names
    assert not [
        name for name in names if name.startswith(("build/", "tests/", "fuzz/")) or name.endswith(".so")
    ]


@pytest.mark.soak
@pytest.mark.timeout(SLOW)
def test_the_wheel_has_every_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {name.replace("bpf/", "hooker/bpf/", 1) if name.startswith("bpf/") else name for name in sources(
        ".py", ".pxd", ".pyi", ".c", ".h", ".typed")}  # fmt: skip
    assert wanted - names == set()
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert {name.replace(".pyx", suffix) for name in sources(".pyx")} - names == set()


@pytest.mark.parametrize("lost", ["hooker/engine/hk0.pyx", "hooker/vtl/controllers/auto.pyx"])
def test_without_a_source_nothing_is_built(lost: str, tmp_path: Path) -> None:
    tree = copy(tmp_path)
    (tree / lost).unlink()
    for command in ("egg_info", "bdist_wheel"):
        run = [sys.executable, "-I", "setup.py", "-q", command]
        done = subprocess.run(run, cwd=tree, capture_output=True, text=True, timeout=60)
        assert done.returncode != 0
        assert f"{lost} is missing" in done.stderr
    assert not list(tmp_path.rglob("*.whl"))


def test_a_source_that_is_not_listed_is_named(tmp_path: Path) -> None:
    tree = copy(tmp_path)
    (tree / "hooker" / "vtl" / "newer.pyx").touch()
    run = [sys.executable, "-I", "setup.py", "-q", "egg_info"]
    done = subprocess.run(run, cwd=tree, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "newer.pyx is new" in done.stderr


def test_every_directory_of_sources_is_a_package() -> None:
    for path in (ROOT / "hooker").rglob("*"):
        if path.suffix in (".py", ".pyx", ".pxd"):
            assert (path.parent / "__init__.py").exists(), f"{path.parent} is no package"


def test_every_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {text.partition(">")[0] for text in project["dependencies"]} | {"hooker"} | OUTSIDE
    metrics = {
        text.partition(">")[0].replace("-", "_") for text in project["optional-dependencies"]["metrics"]
    }
    for path in (ROOT / "hooker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {name.partition(".")[0] for name in names if name}
            here = declared | (metrics if "metrics" in (path.stem, path.parent.name) else set())
            assert roots - here - set(sys.stdlib_module_names) == set(), path


@pytest.mark.soak
@pytest.mark.timeout(SLOW)
def test_what_is_installed_hooks(fresh: Path, tmp_path: Path) -> None:
    """The doctor, with its start-up probes, then the demo: real programs, from the installed package."""
    environment = {"PATH": os.environ["PATH"], "HOOKER_RUN_DIR": str(tmp_path / "run")}

    def run(*arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
        command = [str(fresh), "-I", *arguments]
        return subprocess.run(
            command, cwd="/", env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )

    where = run("-c", "import hooker, hooker._fastpath as f; print(hooker.__file__, f.__file__)", timeout=30)
    assert all(path.startswith(str(fresh.parents[1])) for path in where.stdout.split()), where
    assert len(where.stdout.split()) == 2, where
    doctor = run(str(fresh.parent / "hooker"), "doctor", "--json", timeout=180)
    failed = [
        c for c in json.loads(doctor.stdout.splitlines()[-1])["checks"] if c["required"] and not c["ok"]
    ]
    assert (doctor.returncode, failed) == (0, [])
    demo = run("-m", "hooker.lab.demo", "--size", "1M", "--json", timeout=240)
    assert demo.returncode == 0, demo.stderr
    cases = {case["name"]: case for case in json.loads(demo.stdout.splitlines()[-1])["cases"]}
    assert cases["hooked"]["verdict"] == "engaged"
    assert cases["hooked"]["sha256_ok"]
