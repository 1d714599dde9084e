"""The bpf(2) calls that BCC's Python does not offer."""

from __future__ import annotations

import ctypes
import os
import platform

from hooker.errors import KernelError

SYS_BPF = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, MAP_UPDATE_ELEM = 0, 2  # enum bpf_cmd
PROG_ATTACH, LINK_CREATE = 8, 28
MAP_TYPES = {"array": 2, "lpm_trie": 11, "sockhash": 18, "ringbuf": 27}  # enum bpf_map_type
F_NO_PREALLOC, F_MMAPABLE = 1, 1024
CGROUP_INET_EGRESS, CGROUP_SOCK_OPS, SK_MSG_VERDICT = 1, 3, 7  # enum bpf_attach_type
CGROUP_GETSOCKOPT, CGROUP_SETSOCKOPT = 21, 22

_libc = ctypes.CDLL(None, use_errno=True)


class _LinkCreate(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 112),
    ]


class _Attach(ctypes.Structure):
    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("prog_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 112),
    ]


class _MapCreate(ctypes.Structure):
    _fields_ = [
        ("map_type", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 108),
    ]


class _Element(ctypes.Structure):
    _fields_ = [
        ("map_fd", ctypes.c_uint32),
        ("pad", ctypes.c_uint32),
        ("key", ctypes.c_uint64),
        ("value", ctypes.c_uint64),
        ("flags", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 96),
    ]


def _bpf(command: int, attributes: ctypes.Structure, what: str) -> int:
    number = SYS_BPF.get(platform.machine())
    if number is None:
        raise KernelError(f"no bpf(2) number known for {platform.machine()}")
    result = _libc.syscall(number, command, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if result < 0:
        code = ctypes.get_errno()
        raise KernelError(f"{what}: {os.strerror(code)}", errno=code)
    return int(result)


def create_map(kind: str, *, key: int, value: int, entries: int, flags: int = 0) -> int:
    """A map's file descriptor; sizes in bytes."""
    return _bpf(
        MAP_CREATE, _MapCreate(MAP_TYPES[kind], key, value, entries, flags), f"cannot make a {kind} map"
    )


def link_cgroup(program: int, cgroup: int, attach_type: int) -> int:
    """Attach by a bpf_link: the file descriptor returned holds it, and the kernel detaches when it closes."""
    return _bpf(LINK_CREATE, _LinkCreate(program, cgroup, attach_type, 0), "cannot attach to the cgroup")


def attach_sk_msg(program: int, sockhash: int) -> None:
    """Sockets inserted from now on get the program; it stays as long as the map."""
    _bpf(PROG_ATTACH, _Attach(sockhash, program, SK_MSG_VERDICT, 0), "cannot attach to the SOCKHASH")


def update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set one element; key and value are their bytes."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    element = _Element(map_fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0)
    _bpf(MAP_UPDATE_ELEM, element, "cannot write to a map")
