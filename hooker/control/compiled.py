"""The kernel programs in the form that the kernel takes, compiled by BCC once and kept (kept.py).

What comes of compiling depends on the sources, the flags, the headers and the compiler alone, and takes a
second of CPU time; an engine that finds it kept loads neither BCC nor its compiler. The first start, too,
goes through this form. Instructions name maps as the kernel wants it (BPF_PSEUDO_MAP_FD), by descriptors
that each start has of its own: where they stand is noted beside them.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import dataclasses
import hashlib
import importlib.util
import json
import re
import struct
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hooker.control import bpf_calls, headers, kept
from hooker.control.rundir import run_directory
from hooker.errors import ConfigurationError, KernelError

FORM = 1  # of what is kept
INSTRUCTION = struct.Struct("<BBhi")  # struct bpf_insn: code, registers, offset, immediate value
LD_IMM64, CALL = 0x18, 0x85
PSEUDO_MAP_FD = 1
QUIET = "-Wno-macro-redefined"
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


def import_bcc() -> Any:
    """The bcc module, with the UAPI header tree in place. Raises ConfigurationError when it is not there."""
    headers.activate()
    try:
        import bcc
    except ImportError as error:
        raise ConfigurationError(
            f"BCC's Python module cannot be imported: {error}",
            remedy="install python3-bpfcc and use a venv of /usr/bin/python3 with --system-site-packages",
        ) from None
    if not hasattr(bcc, "BPF"):
        raise ConfigurationError(
            "the module `bcc` is not the BPF Compiler Collection",
            remedy="remove the PyPI package of that name and install python3-bpfcc",
        )
    return bcc


def module(name: str, defines: Mapping[str, int] | None = None) -> Module:
    """The module of one source file, compiled with these macros; kept, or made now and kept.

    Raises KernelError when it does not compile, ConfigurationError without a compiler or headers.
    """
    text = source(name)
    flags = [*(f"-D{macro}={value}" for macro, value in (defines or {}).items()), QUIET]
    path = _path(text, flags)
    if path is not None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            return _decoded(kept.read(path, "kernel programs"))
    made = compiled(text, flags)
    if path is not None:
        with contextlib.suppress(OSError):  # no room: then the next start compiles again
            kept.write(path, _encoded(made))
    return made


def compiled(text: str, flags: list[str]) -> Module:
    """What BCC makes of a text. Raises KernelError, ConfigurationError."""
    bcc = import_bcc()
    try:
        with headers.compiling():
            bpf = bcc.BPF(text=text.encode(), cflags=flags)
    except Exception as error:
        raise KernelError(f"the kernel programs do not compile: {error}") from None
    try:
        return _taken_from(bpf.module, bcc.lib)
    finally:
        bpf.cleanup()


# ---- out of BCC --------------------------------------------------------------------------------------


def _taken_from(made: int, lib: Any) -> Module:
    """BCC has made the maps by now, and their descriptors stand in the instructions."""
    lib.bpf_num_tables.restype, lib.bpf_num_tables.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_name.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    names = [lib.bpf_table_name(made, number).decode() for number in range(lib.bpf_num_tables(made))]
    descriptors = {lib.bpf_table_fd(made, name.encode()): name for name in names}
    maps, btf = {}, b""
    for descriptor, name in sorted(descriptors.items(), key=lambda item: item[1]):
        info = bpf_calls.map_info(descriptor)
        maps[name] = MapSpec(
            info.kind, info.key_size, info.value_size, info.entries, info.flags,
            info.key_type, info.value_type, lib.bpf_table_leaf_desc(made, name.encode()).decode(),
        )  # fmt: skip
        if info.btf and not btf:
            btf = bpf_calls.btf_of(info.btf)
    programs = {}
    for number in range(lib.bpf_num_functions(made)):
        name = lib.bpf_function_name(made, number)
        code = ctypes.string_at(lib.bpf_function_start(made, name), lib.bpf_function_size(made, name))
        programs[name.decode()] = Program(code, tuple(_references(name.decode(), code, descriptors)))
    return Module(btf, lib.bpf_module_license(made).decode(), maps, programs)


def _references(name: str, code: bytes, descriptors: Mapping[int, str]) -> list[tuple[int, str]]:
    found = []
    for at, (operation, registers, _, value) in enumerate(INSTRUCTION.iter_unpack(code)):
        pseudo = registers >> 4
        if operation == LD_IMM64 and pseudo == PSEUDO_MAP_FD and value in descriptors:
            found.append((at, descriptors[value]))
        elif operation in (LD_IMM64, CALL) and pseudo:
            raise KernelError(f"instruction {at} of {name} refers to what is no map")
    return found


# ---- kept --------------------------------------------------------------------------------------------


def _path(text: str, flags: list[str]) -> Path | None:
    """Where it is kept; None: not at all, for with headers that the user names we cannot tell what it is."""
    tools, tree, directory = _compiler(), headers.activate(), run_directory()
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


def _encoded(made: Module) -> bytes:
    row = dataclasses.asdict(made)
    row["btf"] = base64.b64encode(made.btf).decode()
    for name, program in made.programs.items():
        row["programs"][name]["code"] = base64.b64encode(program.code).decode()
    return json.dumps(row).encode()


def _decoded(content: bytes) -> Module:
    """Raises ValueError, TypeError or KeyError for what _encoded() has not made."""
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
