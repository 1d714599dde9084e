"""Loads the kernel programs, tells them the policy, attaches them to a cgroup.

Everything here is held by file descriptors: when the process ends, however it ends, the kernel detaches
the programs and frees the maps.
"""

from __future__ import annotations

import contextlib
import ctypes
import ipaddress
import math
import mmap
import os
import re
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from hooker.control import bpf_calls, btf, compiled, mtu
from hooker.control.counted import counts
from hooker.control.loaded import Loaded
from hooker.control.policy import Policy
from hooker.errors import KernelError
from hooker.transports import Transport, bitmap, offer

SO_NETNS_COOKIE = 71
ALL_IPV4 = ipaddress.ip_network("0.0.0.0/0")
RING_SIZE = 1024 * 4096  # bytes: thousands of connections begin while the worker waits for a CPU
MAIN = {"segments": "segments.c", "messages": "messages.c"}  # by what an engine takes


def netns_cookie() -> int:
    """The kernel's name for this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        return int(struct.unpack("Q", s.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8))[0])


def can_walk(kernel: os.uname_result) -> bool:
    """Whether its iterator over TCP sockets may be read.

    Until "bpf: tcp: Use sock_gen_put instead of sock_put in bpf_iter_tcp" (commit 580031ff9952, in 6.3 and
    6.1.25) it took minisockets for sockets. A distribution may tell the number in its version only.
    """
    series = re.match(r"\d+\.\d+", kernel.release)
    if series is None:
        return False
    major, minor = map(int, series[0].split("."))
    patches = re.findall(rf"\b{re.escape(series[0])}\.(\d+)", f"{kernel.release} {kernel.version}")
    return (major, minor) >= (6, 3) or ((major, minor) == (6, 1) and max(map(int, patches), default=0) >= 25)


class KernelPrograms:
    """The programs and their maps; a context manager.

    ``intercept``: "segments" or "messages", what the engine takes of applications. Attributes: ``records``
    and ``attention`` (addresses of what is shared with the worker), descriptors of maps (``ring``, ``free``,
    ``avoid``, ``warm``) and of the program that guards the device (``entrance``); for messages, too,
    ``redirects`` (an address), ``sockets`` and the program the worker runs (``adopt``). Raises KernelError
    when the kernel refuses one.
    """

    def __init__(self, max_flows: int, intercept: str) -> None:
        self.max_flows = max_flows
        self._links: list[int] = []
        self._using = threading.Lock()
        self._counts: dict[str, int] = {}
        self._closed = False
        self._mapped: list[tuple[mmap.mmap, Any]] = []
        defines = {
            "HK_MAX_FLOWS": max_flows,
            "HK_EVENT_PAGES": RING_SIZE // mmap.PAGESIZE,
            **btf.macros(),
        }
        self._iter_tcp = defines.get("HK_ITER_TCP", 0)
        self._bpf = Loaded(compiled.module(MAIN[intercept], defines))
        try:
            self._load_all(intercept)
        except BaseException:
            self.close()
            raise

    def _load_all(self, intercept: str) -> None:
        load = self._bpf.program
        getsockopt = load("hk_getsockopt", bpf_calls.CGROUP_SOCKOPT, bpf_calls.CGROUP_GETSOCKOPT)
        setsockopt = load("hk_setsockopt", bpf_calls.CGROUP_SOCKOPT, bpf_calls.CGROUP_SETSOCKOPT)
        hooks = load("hk_intercept", bpf_calls.SOCK_OPS)
        self._programs = [  # sockets are changed by the last: what shows them is there before
            (getsockopt, bpf_calls.CGROUP_GETSOCKOPT),
            (setsockopt, bpf_calls.CGROUP_SETSOCKOPT),
            (hooks, bpf_calls.CGROUP_SOCK_OPS),
        ]
        self.ring = self._bpf.map("hk_events")
        self.free = self._bpf.map("hk_free")
        self.avoid = self._bpf.map("hk_avoid")
        self.records = self._memory("hk_flows", self.max_flows * 128)
        self.attention = self._memory("hk_attention", mmap.PAGESIZE)
        self.redirects = self._memory("hk_redirects", self.max_flows * 128) if intercept == "messages" else 0
        self._guard = load("hk_guard", bpf_calls.CGROUP_SKB)
        self.entrance = load("hk_entrance", bpf_calls.SOCKET_FILTER)
        self.warm = self._bpf.map("hk_warm")
        if intercept == "messages":
            self._load_redirect()

    def _load_redirect(self) -> None:
        """What takes messages."""
        self.adopt = self._bpf.program("hk_adopt", bpf_calls.SCHED_CLS)
        self.sockets = self._bpf.map("hk_sockets")
        redirect = self._bpf.program("hk_redirect", bpf_calls.SK_MSG)
        bpf_calls.attach_sk_msg(redirect, self.sockets)  # before the first socket goes in

    def _memory(self, name: str, size: int) -> int:
        """Address of an array map's values."""
        memory = mmap.mmap(self._bpf.map(name), size)
        first = ctypes.c_char.from_buffer(memory)
        self._mapped.append((memory, first))
        return ctypes.addressof(first)

    def configure(
        self,
        policy: Policy,
        *,
        mark: int,
        port: int,
        offers: Sequence[Sequence[Transport]],
        ipv6: bool = True,
        hold: float = 0.0,
        pinned: bool = False,
        device: int = 0,
        device_mtu: int = mtu.ROUTE,
    ) -> None:
        """Set what is a candidate, and what the option says. Before attach().

        ``offers``: for what no rule is for, and for each rule of the policy, the transports that are offered,
        in this order, and taken from those that a peer offers. ``hold`` (s) is how long an engine that runs
        may hold new flows, 0 that it holds none; ``pinned``: they do not outlive it (hk_config); ``device``
        is the lane's interface, ``device_mtu`` (bytes) its routes'.
        """
        c = self._bpf.value_type("hk_conf")()
        c.netns_cookie = netns_cookie()
        for key in (c.server_secret, c.client_secret):
            key[0], key[1] = struct.unpack("QQ", os.urandom(16))
        c.instance = 1 + secrets.randbelow(65535)
        c.mark, c.port = mark, port
        _set_offers(c, offers)
        sets = [policy, *policy.rules]
        c.rules_n = len(policy.rules)
        c.any_port = _bits(not one.ports for one in sets)
        c.any_prefix = _bits(not one.prefixes for one in sets)
        c.no_ipv6 = not ipv6
        c.hold, c.pinned = bool(hold), pinned
        c.device, c.device_mtu = device, device_mtu
        c.hold_ms = math.ceil(1000 * hold)
        self._bpf.write("hk_conf", 0, c)
        ports = self._bpf.map("hk_ports")
        for number in {number for one in sets for number in one.ports}:
            bits = _bits(number in one.ports for one in sets)
            bpf_calls.update(ports, struct.pack("H", number), struct.pack("H", bits))
        prefixes = self._bpf.map("hk_prefixes")
        for network in {network for one in sets for network in one.prefixes}:
            covering = {network.supernet(new_prefix=bits) for bits in range(network.prefixlen + 1)}
            whose = _bits(not covering.isdisjoint(one.prefixes) for one in sets)
            address = network.network_address.packed
            bits = network.prefixlen
            if network.version == 4:
                address, bits = bytes(10) + b"\xff\xff" + address, bits + 96
            bpf_calls.update(prefixes, struct.pack("I16s", bits, address), struct.pack("H", whose))
        if not any(network == ALL_IPV4 for one in sets for network in one.prefixes):
            # in this map IPv4 lies within IPv6, of which ::/0 and some others would be all
            bpf_calls.update(prefixes, struct.pack("I16s", 96, bytes(10) + b"\xff\xff"), bytes(2))

    def set_redirect_socket(self, descriptor: int) -> None:
        """The socket whose ingress queue gets the frames: the key without addresses."""
        bpf_calls.update(self.sockets, bytes(40), struct.pack("I", descriptor))

    def attach(self, cgroup: str | Path) -> None:
        """From here on the cgroup's new connections are seen."""
        self._link(cgroup, self._programs)

    def attach_guard(self, cgroup: str | Path) -> int:
        """What holds payload back; before attach(). The link's descriptor, which stays ours."""
        self._link(cgroup, [(self._guard, bpf_calls.CGROUP_INET_EGRESS)])
        return self._links[-1]

    def restorer(self) -> int | None:
        """What the janitor reads once this process is dead (bpf/restore.c): a descriptor, the caller's.

        None where sockets keep what we have set: the kernel has no iterator over them, or a faulty one.
        """
        if (link := self.releaser("hk_restore")) is None:
            return None
        try:
            return bpf_calls.iterator(link)
        finally:
            os.close(link)

    def releaser(self, name: str = "hk_release") -> int | None:
        """A link of what the janitor reads while this process is stopped; the rest as of restorer()."""
        if not can_walk(os.uname()) or not self._iter_tcp:
            return None
        kind = bpf_calls.TRACING, bpf_calls.TRACE_ITER
        with contextlib.suppress(KernelError):  # we may be without CAP_PERFMON
            return bpf_calls.link_iterator(self._bpf.program(name, *kind, of=self._iter_tcp))
        return None

    def _link(self, cgroup: str | Path, programs: list[tuple[int, int]]) -> None:
        """All of them, or none."""
        links: list[int] = []
        target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for program, kind in programs:
                links.append(bpf_calls.link_cgroup(program, target, kind))
        except BaseException:
            for link in links:
                os.close(link)
            raise
        finally:
            os.close(target)
        self._links += links

    def refuse_flows(self) -> None:
        """New connections are left to TCP; sockets of flows that exist are still looked after."""
        self._reconfigure(_close)

    def negotiate(self, offers: Sequence[Sequence[Transport]], failed: Sequence[bool]) -> None:
        """What new connections are offered, and taken for, from now on; as in configure().

        ``failed``: whether a rule has nothing because a class of the user's has failed.
        """
        self._reconfigure(lambda c: _set_offers(c, offers, failed))

    def _reconfigure(self, change: Callable[[Any], None]) -> None:
        """The programs may set `busy` meanwhile; nothing is lost if it is set before."""
        with self._using:
            if self._closed:
                return
            c = self._bpf.read("hk_conf", 0)
            c.busy = 1
            change(c)
            self._bpf.write("hk_conf", 0, c)

    def detach(self) -> None:
        """Nothing is seen any more. May be called twice."""
        while self._links:
            os.close(self._links.pop())

    def counters(self) -> dict[str, int]:
        """The programs' counters by name, summed over CPUs; after close() as they were last."""
        with self._using:
            if not self._closed:
                self._counts = counts(self._bpf, "hooker_kern_user.h", "HK_C_")
            return dict(self._counts)

    def close(self) -> None:
        """Let go of programs and maps; the worker has ended. May be called twice."""
        self.detach()
        self.counters()
        with self._using:
            if self._closed:
                return
            self._closed = True
        while self._mapped:
            memory, first = self._mapped.pop()
            del first  # a mapping cannot be closed while something points into it
            memory.close()
        self._bpf.close()

    def __enter__(self) -> KernelPrograms:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _set_offers(c: Any, offers: Sequence[Sequence[Transport]], failed: Sequence[bool] = ()) -> None:
    for rule, transports in enumerate(offers):
        c.rules[rule].offer, c.rules[rule].transports = offer(transports), bitmap(transports)
        c.rules[rule].failed = bool(failed) and failed[rule]


def _close(c: Any) -> None:
    c.closing = 1


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << at for at, flag in enumerate(flags) if flag)
