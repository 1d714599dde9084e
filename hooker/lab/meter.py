"""The wire meter: what really crosses the veth between the lab's two hosts.

A BPF program (``bpf/meter.c``) at one end of the veth counts per direction and per class: TCP,
VTL (UDP to or from the VTL port), and the rest. It counts super-packets whole, so nothing is lost
at any speed. On request it loses packets of a class, to stand for a path that blocks them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from hooker.control import bpf_calls, compiled, netns
from hooker.control.loaded import Loaded

INGRESS, EGRESS = 0xFFFFFFF2, 0xFFFFFFF3  # TC_H_CLSACT | TC_H_MIN_INGRESS, TC_H_MIN_EGRESS
CLASSES = ("tcp", "vtl", "other")
DROPPABLE = (*CLASSES, "syn-option")  # a SYN with an experimental TCP option


@dataclass(frozen=True)
class Count:
    """Counters of one class of packets."""

    packets: int = 0
    payload: int = 0  # bytes
    payload_packets: int = 0
    dropped: int = 0  # packets
    fin: int = 0
    rst: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Count) -> Count:
        return Count(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Reading:
    """What has crossed the wire: ``to_b`` and ``to_a`` name the receiving host."""

    to_b: dict[str, Count]
    to_a: dict[str, Count]

    @property
    def tcp(self) -> Count:
        """TCP, both directions."""
        return self.to_b["tcp"] + self.to_a["tcp"]

    @property
    def vtl(self) -> Count:
        """VTL datagrams, both directions."""
        return self.to_b["vtl"] + self.to_a["vtl"]

    def __sub__(self, before: Reading) -> Reading:
        return Reading(
            {c: self.to_b[c] - before.to_b[c] for c in CLASSES},
            {c: self.to_a[c] - before.to_a[c] for c in CLASSES},
        )


class WireMeter:
    """Counts packets at *interface* of the namespace *name*; the far end is host A."""

    def __init__(self, name: str, interface: str, vtl_port: int) -> None:
        self._bpf = Loaded(compiled.module("meter.c"))
        self._vtl_port = vtl_port
        self._start: Reading | None = None
        self.drop()
        programs = {
            INGRESS: self._bpf.program("hk_meter_in", bpf_calls.SCHED_CLS),
            EGRESS: self._bpf.program("hk_meter_out", bpf_calls.SCHED_CLS),
        }
        netns.call(name, lambda: _attach(interface, programs))

    def drop(self, to_b: tuple[str, ...] = (), to_a: tuple[str, ...] = ()) -> None:
        """Lose every packet of the named classes from now on: ``tcp``, ``vtl``, ``other``, ``syn-option``."""
        for direction, names in enumerate((to_b, to_a)):
            self._configure(direction, drop=sum(1 << DROPPABLE.index(name) for name in names))

    def lose(self, **rates: float) -> None:
        """Lose packets of the named classes at random in both directions; a rate is a part of 1."""
        for direction in range(2):
            self._configure(direction, lose=[round(1000 * rates.get(name, 0)) for name in CLASSES])

    def _configure(self, direction: int, drop: int = 0, lose: Sequence[int] = (0, 0, 0)) -> None:
        leaf = self._bpf.value_type("hk_conf")()
        leaf.vtl_port = self._vtl_port
        leaf.drop = drop
        for index, rate in enumerate(lose):
            leaf.lose[index] = rate
        self._bpf.write("hk_conf", direction, leaf)

    def total(self) -> Reading:
        """Return everything counted since the meter was made."""
        sides = [
            {name: self._count(d * len(CLASSES) + i) for i, name in enumerate(CLASSES)} for d in range(2)
        ]
        return Reading(*sides)

    def start(self) -> None:
        """Begin a measurement; :meth:`read` counts from here."""
        self._start = self.total()

    def read(self) -> Reading:
        """Return what was counted since :meth:`start`, or since the meter was made."""
        now = self.total()
        return now - self._start if self._start else now

    def close(self) -> None:
        """Let go of programs and maps; the filters vanish with their namespace."""
        self._bpf.close()

    def _count(self, key: int) -> Count:
        per_cpu = self._bpf.read("hk_counts", key)
        return Count(*(sum(getattr(leaf, f.name) for leaf in per_cpu) for f in fields(Count)))


def _attach(interface: str, programs: dict[int, int]) -> None:
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        index = ipr.link_lookup(ifname=interface)[0]
        ipr.tc("add", "clsact", index)
        for parent, fd in programs.items():
            ipr.tc(
                "add-filter",
                "bpf",
                index,
                parent=parent,
                fd=fd,
                name="hk_meter",
                direct_action=True,
                classid=1,
            )
