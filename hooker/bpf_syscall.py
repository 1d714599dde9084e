"""The few bpf(2) commands that BCC's Python side has no call for."""

from __future__ import annotations

import ctypes
import os
import struct

from hooker.errors import KernelError

_NR_BPF = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine, 280)  # 280: every newer architecture
_CMD_MAP_CREATE, _CMD_LINK_CREATE = 0, 28  # enum bpf_cmd

MAP_TYPES = {"array": 2, "lpm_trie": 11, "sockhash": 18, "sk_storage": 24, "ringbuf": 27}  # enum bpf_map_type
BPF_F_NO_PREALLOC, BPF_F_MMAPABLE = 1, 1024
CGROUP_INET_EGRESS, CGROUP_SOCK_OPS = 1, 3  # enum bpf_attach_type

_libc = ctypes.CDLL(None, use_errno=True)


def _bpf(command: int, attributes: bytes, action: str) -> int:
    buffer = ctypes.create_string_buffer(attributes, 128)
    result = _libc.syscall(_NR_BPF, command, buffer, ctypes.sizeof(buffer))
    if result < 0:
        number = ctypes.get_errno()
        raise KernelError.from_os_error(action, OSError(number, os.strerror(number)))
    return int(result)


def create_map(kind: str, *, key: int, value: int, entries: int, flags: int = 0) -> int:
    """A map's file descriptor; sizes in bytes. Raises KernelError."""
    attributes = struct.pack("=5I", MAP_TYPES[kind], key, value, entries, flags)
    return _bpf(_CMD_MAP_CREATE, attributes, f"make a {kind} map")


def create_link(program: int, target: int, attach_type: int) -> int:
    """Attach a program to a cgroup; the returned descriptor's end, or the process's, detaches it.

    Raises KernelError.
    """
    attributes = struct.pack("=4I", program, target, attach_type, 0)
    return _bpf(_CMD_LINK_CREATE, attributes, "attach a program to a cgroup by a link")
