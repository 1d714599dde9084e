"""The bpf(2) calls that BCC's Python does not offer."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from dataclasses import dataclass

from hooker.errors import KernelError

SYS_BPF = {"x86_64": 321, "aarch64": 280}
MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_DELETE_ELEM, PROG_LOAD = 0, 1, 2, 3, 5  # enum bpf_cmd
PROG_TEST_RUN = 10
PROG_ATTACH, OBJ_GET_INFO_BY_FD, BTF_LOAD, BTF_GET_FD_BY_ID, LINK_CREATE = 8, 15, 18, 19, 28
PROG_GET_FD_BY_ID = 13
ITER_CREATE = 33
PERCPU_ARRAY = 6  # enum bpf_map_type
SOCKET_FILTER, SCHED_CLS, CGROUP_SKB, SOCK_OPS, SK_MSG, CGROUP_SOCKOPT = (
    1,
    3,
    8,
    13,
    16,
    25,
)  # enum bpf_prog_type
MAP_TYPES = {"hash": 1, "array": 2, "lpm_trie": 11, "sockhash": 18, "ringbuf": 27}  # enum bpf_map_type
F_NO_PREALLOC, F_MMAPABLE = 1, 1024
CGROUP_INET_EGRESS, CGROUP_SOCK_OPS, SK_MSG_VERDICT = 1, 3, 7  # enum bpf_attach_type
CGROUP_GETSOCKOPT, CGROUP_SETSOCKOPT = 21, 22
XDP, XDP_ATTACH, F_XDP_HAS_FRAGS = 6, 37, 1 << 5  # program type, attach type, flag of a program
TRACING, TRACE_ITER = 26, 28  # program type, attach type
XDP_LIVE_FRAMES, FRAMES_BATCH = 1 << 1, 64  # BPF_F_TEST_XDP_LIVE_FRAMES
XDP_GENERIC, XDP_NATIVE = 1 << 1, 1 << 2  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
INSTRUCTION_SIZE = 8  # bytes, of struct bpf_insn
LOG_SIZE = 1 << 20  # bytes of what the verifier says
PROGRAM_INFO, PROGRAM_NAME = 80, 64  # of struct bpf_prog_info so many bytes, and where `name` is

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
        ("inner_map_fd", ctypes.c_uint32),
        ("numa_node", ctypes.c_uint32),
        ("map_name", ctypes.c_char * 16),
        ("map_ifindex", ctypes.c_uint32),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 68),
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


class _Load(ctypes.Structure):
    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
        ("types", ctypes.c_uint8 * 36),  # the program's own
        ("attach_btf_id", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 16),
    ]


class _IterCreate(ctypes.Structure):
    _fields_ = [("link_fd", ctypes.c_uint32), ("flags", ctypes.c_uint32), ("rest", ctypes.c_uint8 * 120)]


class _TestRun(ctypes.Structure):
    _fields_ = [
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_uint64),
        ("ctx_out", ctypes.c_uint64),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 40),
    ]


class _LoadBtf(ctypes.Structure):
    _fields_ = [
        ("btf", ctypes.c_uint64),
        ("btf_log_buf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 108),
    ]


class _GetInfo(ctypes.Structure):
    _fields_ = [
        ("bpf_fd", ctypes.c_uint32),
        ("info_len", ctypes.c_uint32),
        ("info", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 112),
    ]


class _ById(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32), ("rest", ctypes.c_uint8 * 124)]


class _MapInfo(ctypes.Structure):  # struct bpf_map_info
    _fields_ = [
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
        ("ifindex", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("netns_dev", ctypes.c_uint64),
        ("netns_ino", ctypes.c_uint64),
        ("btf_id", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
    ]


class _BtfInfo(ctypes.Structure):  # struct bpf_btf_info
    _fields_ = [
        ("btf", ctypes.c_uint64),
        ("btf_size", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("name", ctypes.c_uint64),
        ("name_len", ctypes.c_uint32),
        ("kernel_btf", ctypes.c_uint32),
    ]


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What a map is made of: ``enum bpf_map_type``, sizes in bytes, ``BPF_F_*``, types by number in a BTF.

    ``btf`` is the BTF's id where a map is asked, its descriptor where one is made; 0: none.
    """

    kind: int
    key_size: int
    value_size: int
    entries: int
    flags: int
    btf: int
    key_type: int
    value_type: int


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


def link_xdp(program: int, interface: int, flags: int) -> int:
    """As link_cgroup(), to an interface by its number; ``XDP_FLAGS_*``."""
    return _bpf(
        LINK_CREATE, _LinkCreate(program, interface, XDP_ATTACH, flags), "cannot attach to the interface"
    )


def link_iterator(program: int) -> int:
    """A link of which iterators are made."""
    return _bpf(LINK_CREATE, _LinkCreate(program, 0, TRACE_ITER, 0), "cannot attach an iterator")


def iterator(link: int) -> int:
    """A descriptor. Read to its end, it has run the program on each object of this network namespace."""
    return _bpf(ITER_CREATE, _IterCreate(link), "cannot make an iterator")


def attach_sk_msg(program: int, sockhash: int) -> None:
    """Sockets inserted from now on get the program; it stays as long as the map."""
    _bpf(PROG_ATTACH, _Attach(sockhash, program, SK_MSG_VERDICT, 0), "cannot attach to the SOCKHASH")


def update(map_fd: int, key: bytes, value: bytes) -> None:
    """Set one element; key and value are their bytes."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(value, len(value))
    element = _Element(map_fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0)
    _bpf(MAP_UPDATE_ELEM, element, "cannot write to a map")


def lookup(map_fd: int, key: bytes, size: int) -> bytes:
    """The value of one element, ``size`` bytes. Raises KernelError: there is none."""
    k, v = ctypes.create_string_buffer(key, len(key)), ctypes.create_string_buffer(size)
    element = _Element(map_fd, 0, ctypes.addressof(k), ctypes.addressof(v), 0)
    _bpf(MAP_LOOKUP_ELEM, element, "cannot read a map")
    return v.raw


def delete(map_fd: int, key: bytes) -> None:
    """Remove one element, if it is there."""
    k = ctypes.create_string_buffer(key, len(key))
    try:
        _bpf(MAP_DELETE_ELEM, _Element(map_fd, 0, ctypes.addressof(k)), "cannot delete from a map")
    except KernelError as error:
        if error.errno != errno.ENOENT:
            raise


def try_packet(program: int, packet: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
    """Run a program on a frame (BPF_PROG_TEST_RUN): its verdict, the frame afterwards, ns a run."""
    data, out = ctypes.create_string_buffer(packet, len(packet)), ctypes.create_string_buffer(len(packet))
    run = _TestRun(program, 0, len(packet), len(out), ctypes.addressof(data), ctypes.addressof(out), repeat)
    _bpf(PROG_TEST_RUN, run, "cannot try a program")
    return run.retval, out.raw[: run.data_size_out], run.duration


def send_frames(program: int, frame: bytes, interface: int, number: int) -> None:
    """The same so often, as if the interface had received it: what it transmits or redirects leaves."""
    data = ctypes.create_string_buffer(frame, len(frame))
    about = struct.pack("6I", 0, len(frame), 0, interface, 0, 0)  # struct xdp_md
    context = ctypes.create_string_buffer(about, len(about))
    run = _TestRun(program, 0, len(frame), 0, ctypes.addressof(data), repeat=number, batch_size=FRAMES_BATCH)
    run.ctx_size_in, run.ctx_in, run.flags = len(about), ctypes.addressof(context), XDP_LIVE_FRAMES
    _bpf(PROG_TEST_RUN, run, "cannot send frames")


def make_map(name: str, of: MapInfo) -> int:
    """A map's file descriptor."""
    wanted = _MapCreate(of.kind, of.key_size, of.value_size, of.entries, of.flags)
    wanted.map_name = name.encode()[:15]
    wanted.btf_fd, wanted.btf_key_type_id, wanted.btf_value_type_id = of.btf, of.key_type, of.value_type
    return _bpf(MAP_CREATE, wanted, f"cannot make the map {name}")


def load_program(
    name: str, kind: int, code: bytes, licence: str, attach_type: int = 0, flags: int = 0, of: int = 0
) -> int:
    """A program's file descriptor; ``of`` is a type of the kernel's BTF, for TRACING.

    Raises KernelError, with the last thing that the verifier said.
    """
    instructions = ctypes.create_string_buffer(code, len(code))
    terms = ctypes.create_string_buffer(licence.encode())
    wanted = _Load(
        kind, len(code) // INSTRUCTION_SIZE, ctypes.addressof(instructions), ctypes.addressof(terms)
    )
    wanted.prog_name, wanted.expected_attach_type = name.encode()[:15], attach_type
    wanted.prog_flags, wanted.attach_btf_id = flags, of
    try:
        return _bpf(PROG_LOAD, wanted, f"the kernel refused program {name}")
    except KernelError as error:
        said = ctypes.create_string_buffer(LOG_SIZE)
        wanted.log_level, wanted.log_size, wanted.log_buf = 1, LOG_SIZE, ctypes.addressof(said)
        try:
            return _bpf(PROG_LOAD, wanted, f"the kernel refused program {name}")
        except KernelError:
            lines = [line for line in said.value.decode(errors="replace").splitlines() if line.strip()]
            reason = next((line for line in reversed(lines) if not line.startswith("processed ")), "")
            raise KernelError(
                f"{error.message}{': ' * bool(reason)}{reason}",
                errno=error.errno,
                remedy="run `hooker doctor`",
            ) from None


def load_btf(blob: bytes) -> int:
    """A descriptor of type information."""
    content = ctypes.create_string_buffer(blob, len(blob))
    return _bpf(BTF_LOAD, _LoadBtf(ctypes.addressof(content), 0, len(blob)), "the kernel refused the BTF")


def map_info(map_fd: int) -> MapInfo:
    """What a map was made of."""
    found = _MapInfo()
    _bpf(
        OBJ_GET_INFO_BY_FD,
        _GetInfo(map_fd, ctypes.sizeof(found), ctypes.addressof(found)),
        "cannot ask about a map",
    )
    return MapInfo(
        found.type, found.key_size, found.value_size, found.max_entries, found.map_flags,
        found.btf_id, found.btf_key_type_id, found.btf_value_type_id,
    )  # fmt: skip


def program_name(number: int) -> str:
    """Of a program, by its id."""
    descriptor = _bpf(PROG_GET_FD_BY_ID, _ById(number), "cannot open a program")
    try:
        found = (ctypes.c_uint8 * PROGRAM_INFO)()
        wanted = _GetInfo(descriptor, ctypes.sizeof(found), ctypes.addressof(found))
        _bpf(OBJ_GET_INFO_BY_FD, wanted, "cannot ask about a program")
        return bytes(found)[PROGRAM_NAME:].partition(b"\0")[0].decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def btf_of(number: int) -> bytes:
    """Type information by its id."""
    descriptor = _bpf(BTF_GET_FD_BY_ID, _ById(number), "cannot open a BTF")
    try:
        found = _BtfInfo()
        wanted = _GetInfo(descriptor, ctypes.sizeof(found), ctypes.addressof(found))
        _bpf(OBJ_GET_INFO_BY_FD, wanted, "cannot ask about a BTF")
        content = ctypes.create_string_buffer(found.btf_size)
        found = _BtfInfo(ctypes.addressof(content), found.btf_size)
        wanted = _GetInfo(descriptor, ctypes.sizeof(found), ctypes.addressof(found))
        _bpf(OBJ_GET_INFO_BY_FD, wanted, "cannot read a BTF")
        return content.raw
    finally:
        os.close(descriptor)
