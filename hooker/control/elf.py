"""An XDP program as an object file, for loaders that take nothing else: its instructions, and the type of its
function (ELF-64, the kernel's Documentation/bpf/btf.rst)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SECTION = "xdp.frags"  # libbpf: packets of several buffers, too
MACHINE_BPF, RELOCATABLE = 247, 1
PROGBITS, SYMTAB, STRTAB = 1, 2, 3
ALLOC, EXECUTABLE = 2, 4
GLOBAL_FUNCTION, GLOBAL_OBJECT = 0x12, 0x11
HEADER, SECTION_HEADER, SYMBOL = 64, 64, 24  # bytes
INT, POINTER, STRUCT, FUNCTION, PROTOTYPE = 1, 2, 4, 12, 13  # BTF_KIND_*
BTF_MAGIC, BTF_HEADER, EXT_HEADER = 0xEB9F, 24, 24
SIGNED_32 = 1 << 24 | 32  # BTF_INT_SIGNED, 32 bits
XDP_MD = 24  # bytes of struct xdp_md
GLOBAL = 1  # BTF_FUNC_GLOBAL


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    kind: int
    content: bytes
    flags: int = 0
    link: int = 0
    info: int = 0
    align: int = 8
    entry: int = 0


class _Strings:
    """As ELF and BTF have them: each ends with a zero, the empty one comes first."""

    def __init__(self) -> None:
        self.content = bytearray(1)

    def add(self, text: str) -> int:
        """Where it stands."""
        at = len(self.content)
        self.content += text.encode() + b"\0"
        return at


def object_file(name: str, instructions: bytes, licence: str) -> bytes:
    """``int name(struct xdp_md *ctx)``. The descriptors of its maps stand in the instructions already."""
    types, function_info = _btf(name)
    symbols = _Strings()
    table = bytes(SYMBOL)
    table += struct.pack("IBBHQQ", symbols.add(name), GLOBAL_FUNCTION, 0, 1, 0, len(instructions))
    text = licence.encode() + b"\0"
    table += struct.pack("IBBHQQ", symbols.add("_license"), GLOBAL_OBJECT, 0, 2, 0, len(text))
    sections = [
        _Section(SECTION, PROGBITS, instructions, ALLOC | EXECUTABLE),
        _Section("license", PROGBITS, text, ALLOC, align=1),
        _Section(".BTF", PROGBITS, types),
        _Section(".BTF.ext", PROGBITS, function_info),
        _Section(".symtab", SYMTAB, table, link=6, info=1, entry=SYMBOL),
        _Section(".strtab", STRTAB, bytes(symbols.content), align=1),
    ]
    return _file(sections)


def _btf(name: str) -> tuple[bytes, bytes]:
    """.BTF and .BTF.ext: which type the function at the section's begin has."""
    strings = _Strings()
    types = b"".join(
        (
            struct.pack("IIII", strings.add("int"), INT << 24, 4, SIGNED_32),  # 1
            struct.pack("III", strings.add("xdp_md"), STRUCT << 24, XDP_MD),  # 2: the name is all that counts
            struct.pack("III", 0, POINTER << 24, 2),  # 3
            struct.pack("IIIII", 0, PROTOTYPE << 24 | 1, 1, strings.add("ctx"), 3),  # 4
            struct.pack("III", strings.add(name), FUNCTION << 24 | GLOBAL, 4),  # 5
        )
    )
    section = strings.add(SECTION)
    lengths = 0, len(types), len(types), len(strings.content)
    head = struct.pack("HBBIIIII", BTF_MAGIC, 1, 0, BTF_HEADER, *lengths)
    functions = struct.pack("IIIII", 8, section, 1, 0, 5)  # 8 bytes each; one; at 0, type 5
    ext = struct.pack("HBBIIIII", BTF_MAGIC, 1, 0, EXT_HEADER, 0, len(functions), len(functions), 0)
    return head + types + bytes(strings.content), ext + functions


def _file(sections: list[_Section]) -> bytes:
    names = _Strings()
    heads, body = [bytes(SECTION_HEADER)], bytearray(HEADER)
    own = names.add(".shstrtab")
    offsets = [names.add(one.name) for one in sections]
    for one, called in zip(
        [*sections, _Section("", STRTAB, bytes(names.content), align=1)], [*offsets, own], strict=True
    ):
        body += bytes(-len(body) % 8)
        place = 0, len(body), len(one.content)
        heads.append(
            struct.pack(
                "IIQQQQIIQQ", called, one.kind, one.flags, *place, one.link, one.info, one.align, one.entry
            )
        )
        body += one.content
    body += bytes(-len(body) % 8)
    at = len(body)
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little-endian, version 1
    table = at, 0, HEADER, 0, 0, SECTION_HEADER, len(heads), len(heads) - 1
    body[:HEADER] = ident + struct.pack("HHIQQQIHHHHHH", RELOCATABLE, MACHINE_BPF, 1, 0, 0, *table)
    return bytes(body) + b"".join(heads)
