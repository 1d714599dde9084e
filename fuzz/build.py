"""Builds the fuzzers: the core's generated C once more, by clang, with coverage and sanitizers.

Everything goes to ``build/fuzz``: ``lib/`` has the modules as a package tree of its own, ``fuzz`` is
libFuzzer with Python inside. What is newer than its object file is compiled again.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "build" / "fuzz"
LIB = OUT / "lib"
PROGRAM = OUT / "fuzz"
SANITIZERS = "address,undefined"
CORE = ("flow", "tcp", "vtl")
PLAIN = (  # that the core imports
    "checks.py",
    "errors.py",
    "flow/states.py",
    "vtl/congestion.py",
    "vtl/reliability/__init__.py",
    "vtl/reliability/base.py",
)
FACES = ("sansio", "_loopback", "_parts", "face")  # for Python
DIRECTIVES = {"language_level": "3", "wraparound": False, "cdivision": True, "boundscheck": False}
FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-fno-sanitize-recover=undefined"]


class BuildError(Exception):
    """What is missing, or what the compiler said."""


def sources() -> list[Path]:
    """The core and the targets, as far as they need no more than each other."""
    core = [p for d in CORE for p in (ROOT / "hooker" / d).rglob("*.pyx") if p.stem not in FACES]
    return sorted([*core, ROOT / "hooker" / "engine" / "frames.pyx", *(ROOT / "fuzz").glob("*.pyx")])


def build() -> Path:
    """Returns the fuzzer."""
    if shutil.which("clang") is None:
        raise BuildError("no clang here; install clang and libclang-rt-dev (./dev fuzz does, as root)")
    modules = _translate()
    for directory in {d for _, module in modules for d in module.parents if LIB in d.parents}:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "__init__.py").touch()
    copy_plain(LIB)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda m: _compile(*m), modules))
    _link()
    return PROGRAM


def copy_plain(lib: Path) -> None:
    """What the modules in *lib* import beside each other."""
    for plain in PLAIN:
        shutil.copy(ROOT / "hooker" / plain, lib / "hooker" / plain)


def _translate() -> list[tuple[Path, Path]]:
    """Cython's C, and the module each becomes."""
    from Cython.Build import cythonize
    from setuptools import Extension

    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    names = {".".join(p.relative_to(ROOT).with_suffix("").parts): p for p in sources()}
    made = cythonize(
        [Extension(name, [str(p.relative_to(ROOT))]) for name, p in names.items()],
        build_dir=str(OUT / "cython"),
        compiler_directives=DIRECTIVES,
        quiet=True,
    )
    return [(Path(e.sources[0]), LIB / (e.name.replace(".", "/") + suffix)) for e in made]


def _compile(source: Path, module: Path) -> None:
    headers = max(p.stat().st_mtime for d in ("bpf", "fuzz") for p in (ROOT / d).glob("*.h"))
    if module.exists() and module.stat().st_mtime > max(source.stat().st_mtime, headers):
        return
    includes = [ROOT, ROOT / "bpf", ROOT / "hooker" / "includes", sysconfig.get_path("include")]
    kind = [f"-fsanitize=fuzzer-no-link,{SANITIZERS}", "-D_GNU_SOURCE", "-w", "-shared", "-fPIC"]
    _run(
        [
            "clang",
            *FLAGS,
            *kind,
            *(f"-I{path}" for path in includes),
            str(source),
            "-o",
            str(module),
            "-lcrypto",
        ]
    )


def _link() -> None:
    driver = ROOT / "fuzz" / "driver.c"
    if PROGRAM.exists() and PROGRAM.stat().st_mtime > driver.stat().st_mtime:
        return
    libdir, version = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDVERSION")
    kind = [f"-fsanitize=fuzzer,{SANITIZERS}", "-rdynamic", f"-I{sysconfig.get_path('include')}"]
    _run(["clang", *FLAGS, *kind, str(driver), f"-L{libdir}", f"-lpython{version}", "-o", str(PROGRAM)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{done.stderr}")
