"""The kernel programs in the form that the kernel takes, compiled by BCC once and kept (kept.py).

What comes of compiling depends on the sources, the flags, the headers and the compiler alone, and takes a
second of CPU time. The compiler runs in a process of its own (compiler.py), and only where nothing is kept:
what an application has for memory, working directory and environment is never BCC's. Instructions name maps
as the kernel wants it (BPF_PSEUDO_MAP_FD), by descriptors that each start has of its own: where they stand
is noted beside them.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import re
import struct
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from hooker import start
from hooker.control import headers, kept
from hooker.control.rundir import run_directory
from hooker.errors import ConfigurationError, KernelError

FORM = 2  # of what is kept
INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn: code, registers, offset, immediate value
QUIET = "-Wno-macro-redefined"
PATIENCE = 300.0  # s, for an emulated machine
REFUSED = 3  # the compiler's exit status, with the error in its output
NO_BCC = "install python3-bpfcc and use a venv of /usr/bin/python3 with --system-site-packages"
_INCLUDE = re.compile(r'#include "([\w./]+)"')


@dataclass(frozen=True, slots=True)
class MapSpec:
    """What a map is made of: ``enum bpf_map_type``, sizes in bytes, ``BPF_F_*``.

    ``key_type`` and ``value_type`` are numbers in the module's BTF, 0 without; ``value`` is BCC's description
    of the values' C type (JSON).
    """

    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int
    key_type: int
    value_type: int
    value: str


@dataclass(frozen=True, slots=True)
class Program:
    """Instructions, and which of them (from 0) refer to which map."""

    code: bytes
    maps: tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class Module:
    """What one source file comes to: BTF, maps and programs by name, the licence they are under."""

    btf: bytes
    licence: str
    maps: dict[str, MapSpec]
    programs: dict[str, Program]


def source(name: str) -> str:
    """A program file with its local includes in place: BCC rewrites the main file only."""
    lines = []
    text = resources.files("hooker.bpf").joinpath(name).read_text()
    for number, line in enumerate(text.splitlines(), 1):
        match = _INCLUDE.match(line)
        if match:
            lines += [f'#line 1 "{match[1]}"', source(match[1]), f'#line {number + 1} "{name}"']
        else:
            lines.append(line)
    return "\n".join(lines)


def module(name: str, defines: Mapping[str, int] | None = None) -> Module:
    """The module of one source file, compiled with these macros; kept, or made now and kept.

    Raises KernelError when it does not compile, ConfigurationError without a compiler or headers.
    """
    text = source(name)
    flags = [*(f"-D{macro}={value}" for macro, value in (defines or {}).items()), QUIET]
    path = _path(text, flags)
    if path is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            return decoded(kept.read(path, "kernel programs"))
    made = compiled(text, flags)
    if path is not None:
        with contextlib.suppress(OSError):  # no room: then the next start compiles again
            kept.write(path, encoded(made))
    return made


def compiled(text: str, flags: list[str]) -> Module:
    """What BCC makes of a text, in a process of its own: any number at a time, from any thread.

    Raises KernelError where it does not compile, ConfigurationError without a compiler or headers.
    """
    if importlib.util.find_spec("bcc") is None:
        raise ConfigurationError("BCC's Python module is not installed", remedy=NO_BCC)
    try:
        done = subprocess.run(
            start.module("hooker.control.compiler"), input=json.dumps([text, flags]).encode(),
            capture_output=True, env=start.environment(), cwd="/", timeout=PATIENCE, check=False,
        )  # fmt: skip
    except OSError as error:
        raise KernelError(f"cannot start BCC's compiler: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise KernelError(f"BCC's compiler has not ended within {PATIENCE:.0f} s") from None
    try:
        if done.returncode != REFUSED:
            return decoded(done.stdout)
        row = json.loads(done.stdout)
    except (ValueError, TypeError, KeyError, AttributeError):  # it was killed, or has failed itself
        said = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise KernelError(f"BCC's compiler has ended with {done.returncode}: {said or 'no word'}") from None
    if row["kind"] == ConfigurationError.__name__:
        raise ConfigurationError(row["message"], remedy=row["remedy"])
    raise _refused(row["message"], done.stderr.decode(errors="replace"))


def _refused(message: str, said: str) -> KernelError:
    """With what clang has printed: in the message its first error, in a note all of it."""
    why = next((line for line in said.splitlines() if "error:" in line), message)
    error = KernelError(f"the kernel programs do not compile: {why}")
    error.add_note(said)
    return error


# ---- kept --------------------------------------------------------------------------------------------


def _path(text: str, flags: list[str]) -> Path | None:
    """Where it is kept; None: not at all, for with headers that the user names we cannot tell what it is."""
    tools, tree, directory = _compiler(), headers.in_use(), run_directory()
    if tools is None or tree.parent != directory or not tree.name.startswith(headers.PREFIX):
        return None
    known = "\0".join([str(FORM), text, *flags, tree.name, *tools])
    return directory / f"programs-{hashlib.sha256(known.encode()).hexdigest()[:32]}.json"


def _compiler() -> list[str] | None:
    """The files that BCC is, and their dates."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or not spec.origin:
        return None
    libraries = Path("/usr/lib", sysconfig.get_config_var("MULTIARCH") or "").glob("libbcc.so*")
    files = [Path(spec.origin).with_name("version.py"), Path(spec.origin), *sorted(libraries)]
    return [f"{file} {file.stat().st_mtime_ns} {file.stat().st_size}" for file in files if file.exists()]


def encoded(made: Module) -> bytes:
    row = dataclasses.asdict(made)
    row["btf"] = base64.b64encode(made.btf).decode()
    for name, program in made.programs.items():
        row["programs"][name]["code"] = base64.b64encode(program.code).decode()
    return json.dumps(row).encode()


def decoded(content: bytes) -> Module:
    """Raises ValueError, TypeError or KeyError for what encoded() has not made."""
    row = json.loads(content)
    maps = {str(name): MapSpec(**spec) for name, spec in row["maps"].items()}
    programs = {}
    for name, program in row["programs"].items():
        code = base64.b64decode(program["code"], validate=True)
        where = tuple((int(at), str(used)) for at, used in program["maps"])
        if not all(0 <= at < len(code) // INSTRUCTION.size and used in maps for at, used in where):
            raise ValueError(f"program {name} refers to maps that are not there")
        programs[str(name)] = Program(code, where)
    return Module(base64.b64decode(row["btf"], validate=True), str(row["licence"]), maps, programs)
