"""A compiled module in the kernel: its maps, made at once, and its programs, loaded one by one.

All is held by file descriptors, and goes with them.
"""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path
from typing import Any

from hooker.control import bpf_calls
from hooker.control.compiled import INSTRUCTION, Module
from hooker.errors import KernelError

_POSSIBLE = Path("/sys/devices/system/cpu/possible")
_TYPES: dict[str, Any] = {
    "char": ctypes.c_char,
    "unsigned char": ctypes.c_uint8,
    "unsigned short": ctypes.c_uint16,
    "int": ctypes.c_int32,
    "unsigned int": ctypes.c_uint32,
    "unsigned long": ctypes.c_ulong,
    "long long": ctypes.c_int64,
    "unsigned long long": ctypes.c_uint64,
}


class Loaded:
    """Maps and programs by name; a context manager. Raises KernelError when the kernel refuses a map."""

    def __init__(self, module: Module) -> None:
        self._module = module
        self._maps: dict[str, int] = {}
        self._programs: dict[str, int] = {}
        self._values: dict[str, Any] = {}
        try:
            self._make_maps(module)
        except BaseException:
            self.close()
            raise

    def _make_maps(self, module: Module) -> None:
        btf = bpf_calls.load_btf(module.btf) if module.btf else -1
        try:
            for name, spec in module.maps.items():
                self._maps[name] = bpf_calls.make_map(
                    name,
                    bpf_calls.MapInfo(
                        spec.kind, spec.key_size, spec.value_size, spec.entries, spec.flags,
                        btf if spec.value_type else 0, spec.key_type, spec.value_type,
                    ),
                )  # fmt: skip
        finally:
            if btf >= 0:
                os.close(btf)

    def map(self, name: str) -> int:
        """A map's descriptor, which stays ours. KeyError: there is none of that name."""
        return self._maps[name]

    def program(self, name: str, kind: int, attach_type: int = 0, flags: int = 0, of: int = 0) -> int:
        """A program's descriptor, which stays ours; ``enum bpf_prog_type``, ``bpf_attach_type``, ``BPF_F_*``,
        and for TRACING the type of what it is ``of``.

        Raises KernelError when the verifier refuses it, with the end of what it said.
        """
        if name not in self._programs:
            self._programs[name] = bpf_calls.load_program(
                name, kind, self.code(name), self.licence, attach_type, flags, of
            )
        return self._programs[name]

    def code(self, name: str) -> bytes:
        """Its instructions, with the maps' descriptors in them. Raises KernelError: there is none."""
        wanted = self._module.programs.get(name)
        if wanted is None:
            raise KernelError(f"there is no program {name}")
        code = bytearray(wanted.code)
        for at, used in wanted.maps:
            operation, registers, offset, _ = INSTRUCTION.unpack_from(code, at * INSTRUCTION.size)
            INSTRUCTION.pack_into(code, at * INSTRUCTION.size, operation, registers, offset, self._maps[used])
        return bytes(code)

    @property
    def licence(self) -> str:
        return self._module.licence

    def descriptors(self) -> tuple[int, ...]:
        """Of all maps; they stay ours."""
        return tuple(self._maps.values())

    # ---- values, as ctypes -----------------------------------------------------------------------------

    def value_type(self, name: str) -> Any:
        """The ctypes class of a map's values."""
        if name not in self._values:
            self._values[name] = ctype(json.loads(self._module.maps[name].value))
        return self._values[name]

    def read(self, name: str, index: int) -> Any:
        """An element of an array: a value, or for one with values of each CPU a list of them."""
        spec, kind = self._module.maps[name], self.value_type(name)
        each = -(-spec.value_size // 8) * 8
        size = each * possible_cpus() if spec.kind == bpf_calls.PERCPU_ARRAY else spec.value_size
        content = bpf_calls.lookup(self._maps[name], index.to_bytes(4, "little"), size)
        if spec.kind != bpf_calls.PERCPU_ARRAY:
            return kind.from_buffer_copy(content)
        return [kind.from_buffer_copy(content, at) for at in range(0, size, each)]

    def write(self, name: str, index: int, value: Any) -> None:
        """Set an element of an array, whose values are not each CPU's."""
        bpf_calls.update(self._maps[name], index.to_bytes(4, "little"), bytes(value))

    def close(self) -> None:
        """Let go of all; may be called twice."""
        for held in (self._programs, self._maps):
            while held:
                os.close(held.popitem()[1])

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def possible_cpus() -> int:
    """So many values has an element of a per-CPU map."""
    return int(_POSSIBLE.read_text().strip().replace(",", "-").rpartition("-")[2]) + 1


def ctype(described: Any) -> Any:
    """A ctypes class for BCC's description of a C type. KernelError: we know none."""
    if isinstance(described, str):
        if described not in _TYPES:
            raise KernelError(f"no type known for {described!r}")
        return _TYPES[described]
    name, members, *rest = described
    if rest and rest[0] not in ("struct", "struct_packed"):
        raise KernelError(f"no type known for {rest[0]} {name}")
    fields = []
    for member, of, *count in members:
        if count and not isinstance(count[0], list):
            raise KernelError(f"no type known for {member} in {name}")
        kind = ctype(of)
        for size in reversed(count[0] if count else []):
            kind = kind * size
        fields.append((member, kind))
    layout = {"_fields_": fields, **({"_pack_": 1} if rest and rest[0] == "struct_packed" else {})}
    return type(name, (ctypes.Structure,), layout)
