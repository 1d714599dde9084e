"""libxdp, in a process of its own: ``libxdp.py attach|detach INTERFACE NAME``, by number and name.

Its dispatcher calls several programs one after the other. Adding one makes a new dispatcher, which takes the
place of the old one at once; what it is made of is pinned in the BPF filesystem, and stays when everybody has
ended (https://github.com/xdp-project/xdp-tools, lib/libxdp/protocol.org). So detaching is the janitor's, too:
nothing here that imports more than the standard library.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hooker.control.elf import SECTION

PINNED = Path("/sys/fs/bpf/xdp")
UNSPECIFIED = 0  # enum xdp_attach_mode


class Refused(Exception):
    """In one line."""


def _library(name: str) -> Any:
    try:
        return ctypes.CDLL(name, use_errno=True)
    except OSError:
        raise Refused(f"{name} is not installed (apt install libxdp1)") from None


class _Libxdp:
    """What is used of it. Pointers are numbers; errors are in pointers, too (linux/err.h)."""

    def __init__(self) -> None:
        self._xdp, self._bpf = _library("libxdp.so.1"), _library("libbpf.so.1")
        self._xdp.xdp_program__name.restype = ctypes.c_char_p

    def pointer(self, name: str, *arguments: Any) -> int:
        """Raises Refused."""
        function = getattr(self._bpf if name.startswith("bpf_") else self._xdp, name)
        function.restype = ctypes.c_void_p
        found = function(*arguments)
        if not found or found > (1 << 64) - 4096:
            raise Refused(os.strerror((1 << 64) - found if found else ctypes.get_errno()))
        return int(found)

    def call(self, name: str, *arguments: Any) -> int:
        """Raises Refused."""
        status = int(getattr(self._xdp, name)(*arguments))
        if status < 0:
            raise Refused(os.strerror(-status))
        return status

    def name_of(self, program: int) -> str:
        return bytes(self._xdp.xdp_program__name(ctypes.c_void_p(program)) or b"").decode("utf-8", "replace")

    def programs(self, dispatcher: int) -> Iterator[int]:
        """That it calls."""
        function = self._xdp.xdp_multiprog__next_prog
        function.restype = ctypes.c_void_p
        found = None
        while found := function(ctypes.c_void_p(found), ctypes.c_void_p(dispatcher)):
            yield int(found)


def attach(interface: int, name: str, content: bytes) -> None:
    """An object file, behind what is there. Raises Refused: also where that is no dispatcher."""
    lib = _Libxdp()
    there = lib.pointer("xdp_multiprog__get_from_ifindex", interface)
    if lib.call("xdp_multiprog__is_legacy", ctypes.c_void_p(there)):
        raise Refused("it is no dispatcher of libxdp's")
    mode = lib.call("xdp_multiprog__attach_mode", ctypes.c_void_p(there))
    made = lib.pointer("bpf_object__open_mem", content, ctypes.c_size_t(len(content)), None)
    program = lib.pointer("xdp_program__from_bpf_obj", ctypes.c_void_p(made), SECTION.encode())
    if lib.name_of(program) != name:
        raise Refused(f"there is no program {name} in the object")
    lib.call("xdp_program__attach", ctypes.c_void_p(program), interface, mode, 0)


def detach(interface: int, name: str) -> None:
    """The program of that name, if it is there; and what is left of it where the interface is not."""
    lib = _Libxdp()
    try:
        there = lib.pointer("xdp_multiprog__get_from_ifindex", interface)
    except Refused:
        _unpin(lib, interface, name)
        return
    mode = lib.call("xdp_multiprog__attach_mode", ctypes.c_void_p(there))
    for program in lib.programs(there):
        if lib.name_of(program) == name:
            lib.call("xdp_program__detach", ctypes.c_void_p(program), interface, mode, 0)
            return
    _unpin(lib, interface, name)


def _unpin(lib: _Libxdp, interface: int, name: str) -> None:
    """A dispatcher that went with its interface: other namespaces' interfaces have the same numbers."""
    for pin in PINNED.glob(f"dispatch-{interface}-*/prog*-prog"):
        try:
            ours = lib.name_of(lib.pointer("xdp_program__from_pin", os.fsencode(pin))) == name
        except Refused:
            continue
        if ours:
            for part in pin.parent.iterdir():
                part.unlink(missing_ok=True)
            pin.parent.rmdir()


def main() -> int:
    """The object file comes by the standard input; JSON goes out: ``{"error": …}``, "" if there was none."""
    what, interface, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    try:
        if what == "attach":
            attach(interface, name, sys.stdin.buffer.read())
        else:
            detach(interface, name)
    except Refused as error:
        print(json.dumps({"error": str(error)}))
        return 1
    print(json.dumps({"error": ""}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
