"""BCC's compiler, in a process of its own: a text and flags come in, what the kernel takes goes out.

It is clang inside the process: not for two threads at a time, at home in one working directory and one
environment, and 100 MB that stay. So it is not for an application's process. What is made here (maps, too)
goes with the process.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Mapping
from typing import Any

from hooker.control import bpf_calls, compiled, headers
from hooker.control.compiled import INSTRUCTION, MapSpec, Module, Program
from hooker.errors import ConfigurationError, HookerError, KernelError

LD_IMM64, CALL = 0x18, 0x85
PSEUDO_MAP_FD = 1


def import_bcc() -> Any:
    """The bcc module, with the UAPI header tree in place. Raises ConfigurationError when it is not there."""
    headers.activate()
    try:
        import bcc
    except ImportError as error:
        raise ConfigurationError(
            f"BCC's Python module cannot be imported: {error}", remedy=compiled.NO_BCC
        ) from None
    if not hasattr(bcc, "BPF"):
        raise ConfigurationError(
            "the module `bcc` is not the BPF Compiler Collection",
            remedy="remove the PyPI package of that name and install python3-bpfcc",
        )
    return bcc


def compile_here(text: str, flags: list[str]) -> Module:
    """In this process, started in ``/`` and in a chosen environment: BCC looks for files in both.

    Raises KernelError, ConfigurationError.
    """
    bcc = import_bcc()
    try:
        bpf = bcc.BPF(text=text.encode(), cflags=flags)
    except Exception as error:
        raise KernelError(str(error)) from None
    return _taken_from(bpf.module, bcc.lib)


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


def main() -> int:
    """JSON in: ``[text, [flag, …]]``; out: a Module (compiled.encoded()), or the error's row."""
    text, flags = json.load(sys.stdin)
    try:
        out, status = compiled.encoded(compile_here(text, flags)), 0
    except HookerError as error:
        row = {"kind": type(error).__name__, "message": error.message, "remedy": error.remedy}
        out, status = json.dumps(row).encode(), compiled.REFUSED
    sys.stdout.buffer.write(out)
    return status


if __name__ == "__main__":
    sys.exit(main())
