"""What VTL's packets meet first: the program of ``bpf/ingress/`` and its maps (docs/ingress.md).

On which interfaces it is: ``interfaces.py``.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from hooker.control import bpf_calls, compiled
from hooker.control.counted import counts
from hooker.control.dispatcher import Beside
from hooker.control.janitor import Janitor
from hooker.control.loaded import Loaded

WAYS = ("udp", "ip")  # in the order of HK_INGRESS_UDP, HK_INGRESS_IP
KINDS = ("init", "proven", "unknown")  # in that of HK_RATE_*
POLYNOMIAL = 0x82F63B78  # CRC32C, bits reversed (RFC 3720, B.4)
SECOND = 1_000_000_000
PROGRAM = "hk_ingress"
QUEUES = 64  # HK_INGRESS_QUEUES


@dataclass(frozen=True, slots=True)
class Rate:
    """Packets a second, and how many may come at once."""

    second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Way:
    """VTL over one carrier: its endpoint's secret for cookies (16 bytes), and the versions that it speaks.

    ``port``: of UDP, 0 over IP. ``keyed``: its answers are signed, so it gives them itself.
    """

    secret: bytes
    versions: tuple[int, ...]
    port: int = 0
    keyed: bool = False


# of what goes on to the engine, whose own limit is 500 associations a second and source
EACH = {"init": Rate(1_000, 1_000), "proven": Rate(2_000, 4_000), "unknown": Rate(1_000, 1_000)}
ALL = {"init": Rate(20_000, 20_000), "proven": Rate(20_000, 20_000), "unknown": Rate(20_000, 20_000)}


class Ingress:
    """The program and its maps; a context manager. Nobody is told anything before `tell()`: then all passes.

    Attribute ``program``: its descriptor. Raises KernelError when the kernel refuses it.
    """

    def __init__(self) -> None:
        self._led: dict[tuple[int, int], int] = {}  # places in hk_xsk, by interface and queue
        self._bpf = Loaded(compiled.module("ingress/ingress.c"))
        try:
            self._id_secret = struct.unpack("QQ", os.urandom(16))
            self._bpf.write("hk_crc32c", 0, self._table())
            self.program = self._bpf.program(
                PROGRAM, bpf_calls.XDP, bpf_calls.XDP_ATTACH, bpf_calls.F_XDP_HAS_FRAGS
            )
        except BaseException:
            self.close()
            raise

    def _table(self) -> ctypes.Structure:
        table = self._bpf.value_type("hk_crc32c")()
        table.of[:] = crc_table()
        return table

    def beside(self, keeper: Janitor, interface: int) -> Beside:
        """It is called on that interface, too, by the dispatcher that is there. Raises KernelError."""
        return Beside(keeper, interface, self._bpf, PROGRAM)

    def tell(
        self,
        ways: Mapping[str, Way],
        *,
        generic: bool = False,
        each: Mapping[str, Rate] = EACH,
        all: Mapping[str, Rate] = ALL,
    ) -> None:
        """What it shall do from now on; ways that are not named pass.

        ``generic``: some interface has the program in generic mode.
        """
        s = self._bpf.value_type("hk_settings")()
        for at, name in enumerate(WAYS):
            way = ways.get(name)
            if way is None:
                continue
            w = s.ways[at]
            w.secret[0], w.secret[1] = struct.unpack("QQ", way.secret)
            for number, version in enumerate(way.versions):
                w.versions[number] = _swapped(version, "I")
            w.versions_n, w.port = len(way.versions), _swapped(way.port, "H")
            w.on, w.keyed = 1, way.keyed
        s.id_secret[0], s.id_secret[1] = self._id_secret
        s.generic = generic
        for at, kind in enumerate(KINDS):
            for slot, rate in ((s.each[at], each.get(kind)), (s.all[at], all.get(kind))):
                if rate is not None:
                    slot.interval = int(SECOND / rate.second)
                    slot.burst = slot.interval * (rate.burst - 1)
        self._bpf.write("hk_settings", 0, s)

    def know(self, connection_id: int) -> None:
        """One of our own. Raises KernelError: there is no room."""
        bpf_calls.update(self.known, connection_id.to_bytes(8, "big"), b"\1")

    def forget(self, connection_id: int) -> None:
        """May be called of what was never known."""
        bpf_calls.delete(self.known, connection_id.to_bytes(8, "big"))

    @property
    def known(self) -> int:
        """The descriptor of the map of our connection ids: eight bytes as on the wire, and one."""
        return self._bpf.map("hk_known")

    def lead(self, interface: int, queue: int, descriptor: int) -> None:
        """DATA over IP from there goes to that AF_XDP socket, bound to it. KernelError: there is no room."""
        slot = next(number for number in range(QUEUES + 1) if number not in self._led.values())
        bpf_calls.update(self._bpf.map("hk_xsk"), struct.pack("I", slot), struct.pack("I", descriptor))
        bpf_calls.update(
            self._bpf.map("hk_queues"), struct.pack("II", interface, queue), struct.pack("I", slot)
        )
        self._led[interface, queue] = slot

    def lead_no_more(self, interface: int) -> None:
        """What comes from there passes."""
        for at in [one for one in self._led if one[0] == interface]:
            bpf_calls.delete(self._bpf.map("hk_queues"), struct.pack("II", *at))
            bpf_calls.delete(self._bpf.map("hk_xsk"), struct.pack("I", self._led.pop(at)))

    @property
    def states(self) -> int:
        """That of the map that each way's worker keeps: `struct hk_way_state`."""
        return self._bpf.map("hk_states")

    def set_address(self, address: str, interface: int) -> None:
        """One of this host's, and the number of the interface that has it."""
        bpf_calls.update(self._bpf.map("hk_addresses"), _packed(address), struct.pack("I", interface))

    def set_link(self, interface: int, address: bytes) -> None:
        """Of an interface that has the program, six bytes: frames to others pass. KernelError: no room."""
        bpf_calls.update(self._bpf.map("hk_links"), struct.pack("I", interface), address + bytes(2))

    def drop_link(self, interface: int) -> None:
        """May be called of what was never told."""
        bpf_calls.delete(self._bpf.map("hk_links"), struct.pack("I", interface))

    def drop_address(self, address: str) -> None:
        """It is not this host's any more."""
        bpf_calls.delete(self._bpf.map("hk_addresses"), _packed(address))

    def counters(self) -> dict[str, int]:
        """By verdict and reason, summed over CPUs."""
        return counts(self._bpf, "ingress/layout.h", "HK_I_")

    def close(self) -> None:
        """Let go of all; may be called twice."""
        self._bpf.close()

    def __enter__(self) -> Ingress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def crc_table() -> list[int]:
    """Of CRC32C, four bytes at a time: 256 numbers for each."""
    table = list(range(256))
    for _ in range(8):
        table = [crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0) for crc in table]
    for at in range(3 * 256):
        table.append(table[table[at] & 255] ^ table[at] >> 8)
    return table


def _packed(address: str) -> bytes:
    ip = ipaddress.ip_address(address)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


def _swapped(number: int, size: str) -> int:
    """A number whose bytes in memory are those of the wire."""
    return int(struct.unpack(f"={size}", struct.pack(f"!{size}", number))[0])
