"""Offsets of kernel structure fields, from the running kernel's own BTF (Documentation/bpf/btf.rst).

The kernel programs read a few fields of ``struct tcp_sock`` that no helper gives. Their offsets differ
between kernels, so they are looked up once a boot (kept.py) and given to the compiler; the verifier checks
each access.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from hooker.control import kept
from hooker.control.rundir import run_directory
from hooker.errors import KernelError

VMLINUX = Path("/sys/kernel/btf/vmlinux")
MAGIC = 0xEB9F
KIND_STRUCT, KIND_UNION, KIND_ENUM, KIND_FUNC = 4, 5, 6, 12
MODIFIERS = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag
# bytes that follow a type's header, by kind: fixed, and for each of its `vlen` members
TRAILERS = {
    1: (4, 0), 3: (12, 0), 4: (0, 12), 5: (0, 12), 6: (0, 8), 13: (0, 8),
    14: (4, 0), 15: (0, 12), 17: (4, 0), 19: (0, 12),
}  # fmt: skip
Type = tuple[int, int, int, int, int, int]  # kind, name, kind_flag, vlen, size or type, offset of members


class Btf:
    """Struct layouts of one BTF blob."""

    def __init__(self, blob: bytes) -> None:
        magic, _, _, header, types, types_len, strings, strings_len = struct.unpack_from("<HBBIIIII", blob)
        if magic != MAGIC:
            raise KernelError("the kernel's BTF has an unknown format")
        self._blob = blob
        self._strings = blob[header + strings : header + strings + strings_len]
        self._types = list(self._parse(header + types, header + types + types_len))

    def _parse(self, at: int, end: int) -> Iterator[Type]:
        yield (0, 0, 0, 0, 0, 0)
        while at < end:
            name, info, size = struct.unpack_from("<III", self._blob, at)
            kind, members = info >> 24 & 0x1F, info & 0xFFFF
            yield (kind, name, info >> 31, members, size, at + 12)
            fixed, each = TRAILERS.get(kind, (0, 0))
            at += 12 + fixed + each * members

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _find(self, name: str) -> Type:
        for kind in self._types:
            if kind[0] == KIND_STRUCT and self._name(kind[1]) == name:
                return kind
        raise KernelError(f"the kernel's BTF has no struct {name}")

    def _resolve(self, number: int) -> Type:
        found = self._types[number]
        while found[0] in MODIFIERS:
            found = self._types[found[4]]
        return found

    def _members(self, of: Type) -> Iterator[tuple[str, int, int, int]]:
        _, _, has_bits, count, _, at = of
        for i in range(count):
            name, number, offset = struct.unpack_from("<III", self._blob, at + 12 * i)
            bits = offset >> 24 if has_bits else 0
            yield self._name(name), offset & 0xFFFFFF if has_bits else offset, bits, number

    def field(self, struct_name: str, path: str) -> tuple[int, int]:
        """(offset, width) of ``path`` ("rx_opt.snd_wscale"), both in bits; width 0 for an ordinary field."""
        found = self._search(self._find(struct_name), path.split("."))
        if found is None:
            raise KernelError(f"the kernel's struct {struct_name} has no field {path}")
        return found

    def enumerator(self, enum_name: str, name: str) -> int:
        """The value of one name of an enum."""
        for kind, named, _, count, _, at in self._types:
            if kind == KIND_ENUM and self._name(named) == enum_name:
                for i in range(count):
                    offset, value = struct.unpack_from("<Ii", self._blob, at + 8 * i)
                    if self._name(offset) == name:
                        return int(value)
        raise KernelError(f"the kernel's enum {enum_name} has no {name}")

    def function(self, name: str) -> int:
        """The number of a function's type."""
        for number, kind in enumerate(self._types):
            if kind[0] == KIND_FUNC and self._name(kind[1]) == name:
                return number
        raise KernelError(f"the kernel's BTF has no function {name}")

    def _search(self, of: Type, path: list[str]) -> tuple[int, int] | None:
        for name, offset, bits, number in self._members(of):
            if name == path[0] and len(path) == 1:
                return offset, bits
            if name in (path[0], ""):  # an anonymous member's fields are the outer struct's
                inner = self._resolve(number)
                if inner[0] in (KIND_STRUCT, KIND_UNION):
                    found = self._search(inner, path[1:] if name else path)
                    if found:
                        return found[0] + offset, found[1]
        return None


def load(path: Path = VMLINUX) -> Btf:
    """The running kernel's BTF. Raises KernelError when it has none."""
    try:
        return Btf(path.read_bytes())
    except OSError as error:
        raise KernelError(
            f"cannot read the kernel's BTF at {path}: {error.strerror}",
            remedy="use a kernel built with CONFIG_DEBUG_INFO_BTF=y",
        ) from None


def macros() -> dict[str, int]:
    """tcp_macros() of the running kernel, kept as long as it runs. Raises KernelError when it has no BTF."""
    path = _kept_at()
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        found = {str(name): int(value) for name, value in json.loads(kept.read(path, "offsets")).items()}
        if found:
            return found
    found = tcp_macros(load())
    with contextlib.suppress(OSError):  # no room: then the next start looks again
        kept.write(path, json.dumps(found).encode())
    return found


def _kept_at() -> Path:
    """By boot, for a kernel of the same name may be another one then, and by what is looked for."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    known = boot + os.uname().release.encode() + Path(__file__).read_bytes()
    return run_directory() / f"offsets-{hashlib.sha256(known).hexdigest()[:32]}.json"


def tcp_macros(btf: Btf) -> dict[str, int]:
    """What the kernel programs are compiled with: byte offsets into tcp_sock, and bit masks.

    And ``HK_ITER_TCP``, the type that the iterator over TCP sockets has, where the kernel has it.
    """

    def byte(path: str) -> int:
        return btf.field("tcp_sock", path)[0] // 8

    def mask(path: str) -> int:
        offset, width = btf.field("tcp_sock", path)
        return ((1 << width) - 1) << offset % 8

    some = {}
    for name in ("md5sig_info", "ao_info"):  # CONFIG_TCP_MD5SIG, CONFIG_TCP_AO
        with contextlib.suppress(KernelError):
            some[f"HK_TCP_{name.upper()}"] = byte(name)
    with contextlib.suppress(KernelError):
        some["HK_ITER_TCP"] = btf.function("bpf_iter_tcp")
    with contextlib.suppress(KernelError):  # CONFIG_IPV6
        some |= {
            "HK_IPV6_OPT": btf.field("ipv6_pinfo", "opt")[0] // 8,
            "HK_IPV6_SRCRT": btf.field("ipv6_txoptions", "srcrt")[0] // 8,
            "HK_SOCK_PINET6": byte("inet_conn.icsk_inet.pinet6"),
        }
    return some | {
        "HK_TCP_REPAIR_BYTE": byte("repair"),
        "HK_TCP_REPAIR_MASK": mask("repair"),
        "HK_TCP_WRITE_SEQ": byte("write_seq"),
        "HK_SOCK_SOCKET": byte("inet_conn.icsk_inet.sk.sk_socket"),
        "HK_SOCK_ERR": byte("inet_conn.icsk_inet.sk.sk_err"),
        "HK_SOCK_DST": byte("inet_conn.icsk_inet.sk.sk_dst_cache"),
        "HK_DST_DEV": btf.field("dst_entry", "dev")[0] // 8,
        "HK_DEV_IFINDEX": btf.field("net_device", "ifindex")[0] // 8,
        "HK_SOCK_MARK": byte("inet_conn.icsk_inet.sk.sk_mark"),
        "HK_SOCK_FLAGS": byte("inet_conn.icsk_inet.sk.__sk_common.skc_flags"),
        "HK_SOCK_DONE": 1 << btf.enumerator("sock_flags", "SOCK_DONE"),
        "HK_SOCK_ZEROCOPY": 1 << btf.enumerator("sock_flags", "SOCK_ZEROCOPY"),
        "HK_SOCK_NET": byte("inet_conn.icsk_inet.sk.__sk_common.skc_net.net"),
        "HK_NET_TCP_RETRIES2": btf.field("net", "ipv4.sysctl_tcp_retries2")[0] // 8,
        "HK_SOCKET_FILE": btf.field("socket", "file")[0] // 8,
        "HK_FILE_FLAGS": btf.field("file", "f_flags")[0] // 8,
        "HK_TCP_ULP_OPS": byte("inet_conn.icsk_ulp_ops"),
        "HK_TCP_TS_RECENT": byte("rx_opt.ts_recent"),
        "HK_TCP_NUM_SACKS": byte("rx_opt.num_sacks"),
        "HK_TCP_PROBES_OUT": byte("inet_conn.icsk_probes_out"),
        "HK_TCP_SND_WND": byte("snd_wnd"),
        "HK_TCP_RCV_WND": byte("rcv_wnd"),
        "HK_TCP_RCV_WUP": byte("rcv_wup"),
        "HK_TCP_PMTU": byte("inet_conn.icsk_pmtu_cookie"),
        "HK_TCP_ADVMSS": byte("advmss"),
        "HK_TCP_DEFER_ACCEPT": byte("inet_conn.icsk_accept_queue.rskq_defer_accept"),
        "HK_TCP_SND_WSCALE": byte("rx_opt.snd_wscale"),
        "HK_TCP_SND_WSCALE_SHIFT": btf.field("tcp_sock", "rx_opt.snd_wscale")[0] % 8,
        "HK_TCP_RCV_WSCALE": byte("rx_opt.rcv_wscale"),
        "HK_TCP_RCV_WSCALE_SHIFT": btf.field("tcp_sock", "rx_opt.rcv_wscale")[0] % 8,
        "HK_TCP_SACK_OK_BYTE": byte("rx_opt.sack_ok"),
        "HK_TCP_SACK_OK_MASK": mask("rx_opt.sack_ok"),
        "HK_TCP_TSTAMP_OK_BYTE": byte("rx_opt.tstamp_ok"),
        "HK_TCP_TSTAMP_OK_MASK": mask("rx_opt.tstamp_ok"),
        "HK_TCP_WSCALE_OK_BYTE": byte("rx_opt.wscale_ok"),
        "HK_TCP_WSCALE_OK_MASK": mask("rx_opt.wscale_ok"),
    }
