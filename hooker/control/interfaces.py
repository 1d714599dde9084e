"""Where hk_ingress is: on the interfaces that a user has named, and told of the addresses of this host.

Attached by a bpf_link each, which is held by a descriptor: when the process ends, however it ends, nothing
stays. Where libxdp's dispatcher is, by that (dispatcher.py). Native where the driver can, else generic,
unless the user has said which; or generic, as long as the engine is flooded. Of an interface that goes away
the name is kept: when it is back, so is the program.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from hooker.checks import shown
from hooker.control import bpf_calls, dispatcher
from hooker.control.dispatcher import Beside
from hooker.control.flooded import Flooded
from hooker.control.ingress import QUEUES, Ingress, Way
from hooker.control.janitor import Janitor
from hooker.control.threads import Ending
from hooker.errors import ConfigurationError, KernelError

if TYPE_CHECKING:
    from hooker._fastpath import Worker

MOST = 16  # interfaces
NAME = 15  # bytes: IFNAMSIZ, less its end
RETRY = 1.0  # s until an interface that is not there is looked for again
AGAIN = 30.0  # s until a dispatcher that has refused is asked again
STOP_TIMEOUT = 10.0  # s
CHANGES = 1 << 0 | 1 << 4 | 1 << 8  # RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR
RTM_DELLINK = 17
SIOCGIFHWADDR, ARPHRD_ETHER, ARPHRD_LOOPBACK = 0x8927, 1, 772
TAKEN = (errno.EBUSY, errno.EEXIST)  # another program is there, or one in another mode
AUTO = "auto"  # while the engine is flooded
MODES = ("native", "generic", AUTO)
QUIET = "waits for a flood"
BESIDE = "by libxdp's dispatcher"
COOKIE_MOST = 72  # bytes of the answer to an INIT
COUNTED = {
    "udp": ("vtl", ""),
    "ip": ("vtl+ip", "vtl+ip."),
}  # a worker's names for what VTL counts, by carrier


def names(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Of interfaces, as a user gives them: with commas, or a list; a mode may stand behind a colon.

    Raises ConfigurationError.
    """
    found = wanted.split(",") if isinstance(wanted, str) else wanted
    if not isinstance(found, Sequence):
        raise ConfigurationError(f"xdp {shown(wanted)} is no list of interfaces", remedy="give names")
    for one in found:
        name, colon, mode = one.partition(":") if isinstance(one, str) else ("", "", "")
        if not (name.isprintable() and 0 < len(name.encode()) <= NAME) or set(name) & set("/ "):
            raise ConfigurationError(
                f"xdp {shown(one)} is no name of an interface",
                remedy="give names as in `ip link`, with commas",
            )
        if colon and mode not in MODES:
            raise ConfigurationError(
                f"xdp {one!r}: there is no mode {mode!r}", remedy=f"there are {', '.join(MODES)}"
            )
    given = [one.partition(":")[0] for one in found]
    if twice := next((name for name in given if given.count(name) > 1), ""):
        raise ConfigurationError(f"xdp names {twice} twice", remedy="name each interface once")
    if len(found) > MOST:
        raise ConfigurationError(
            f"xdp names {len(found)} interfaces, {MOST} are the most", remedy="leave some out"
        )
    return tuple(found)


@dataclass
class Interface:
    """One of them. ``mode``: "native", "generic", or "": it is not there; ``why``: that, or not native.

    ``wanted``: "native" or "generic"; "": the first of them that there is; "auto": generic in a flood.
    """

    name: str
    wanted: str = ""
    mode: str = ""
    why: str = ""
    queues: int = 0  # from which packets come by AF_XDP sockets
    switched: int = 0  # how often a flood has brought the program here
    number: int = 0
    address: bytes = b""  # on its link
    link: int = -1
    beside: Beside | None = None  # of others, instead of a link
    again: float = 0.0  # not before (monotonic), where that was refused

    @property
    def is_on(self) -> bool:
        return self.link >= 0 or self.beside is not None

    def row(self) -> dict[str, Any]:
        row = {"name": self.name, "mode": self.mode, "queues": self.queues, "why": self.why}
        return row | ({"switched": self.switched} if self.wanted == AUTO else {})

    def leave(self, why: str = "") -> None:
        """May be called twice."""
        if self.beside is not None:
            self.beside.leave()
        self.forget()
        self.mode, self.why, self.queues, self.number, self.address = "", why, 0, 0, b""

    def forget(self) -> None:
        """In a forked child nothing is taken off: it is the parent's."""
        if self.link >= 0:
            os.close(self.link)
        self.link, self.beside = -1, None


class Interfaces:
    """The program on all of them, and the thread that follows their changes; a context manager.

    Raises ConfigurationError for an interface that does not exist, that cannot take XDP or that has another
    program, and if the worker has no VTL that the program knows; KernelError when the kernel refuses it.
    """

    def __init__(self, wanted: Sequence[str], worker: Worker, keeper: Janitor) -> None:
        self._all = [Interface(name, mode) for name, _, mode in (one.partition(":") for one in wanted)]
        self._worker, self._keeper = worker, keeper
        self._addresses: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._using = threading.Lock()  # while libxdp works, for seconds
        self._reading = threading.Lock()  # of counters, which wait for none of that
        self._closed = False
        self._thread: _Thread | None = None
        self._flooded = Flooded()
        self._ingress = Ingress()
        try:
            rows = worker.ingress(self._ingress.known, self._ingress.states)
            self._ways = _ways(rows, worker.port)
            self._over_ip = next((row["wire_id"] for row in rows if row["carrier"] == "ip"), None)
            self._tell()
            self._thread = _Thread(self)  # it hears of what changes from here on
            self._follow_addresses()
            for one in self._all:
                self._attach(one)
            self._thread.start()
        except BaseException:
            self.close()
            raise

    def _tell(self, generic: bool = False) -> None:
        generic = generic or any(one.mode == "generic" for one in self._all)
        self._ingress.tell(self._ways, generic=generic)

    def _lead(self, one: Interface) -> None:
        """By AF_XDP sockets, where VTL runs over IP and the kernel has them; else by the raw ones."""
        if self._over_ip is None or one.wanted == AUTO:  # those of the flood's time would have to go with it
            return
        try:
            for queue in range(QUEUES):
                descriptor = self._worker.attach(self._over_ip, one.number, queue)
                self._ingress.lead(one.number, queue, descriptor)
                one.queues = queue + 1
        except (OSError, KernelError) as error:
            if one.queues and error.errno == errno.EINVAL:  # beyond the last one
                return
            none = "no more" if one.queues else "no"
            one.why = "; ".join(filter(None, (one.why, f"{none} AF_XDP: {os.strerror(error.errno or 0)}")))

    # ---- the links -------------------------------------------------------------------------------------

    def _attach(self, one: Interface) -> None:
        """Raises ConfigurationError, and then it is not there. One that waits for a flood is only tried."""
        try:
            one.number = socket.if_nametoindex(one.name)
        except OSError:
            raise ConfigurationError(
                _none(one.name), remedy="`ip link` lists them; leave it out of xdp"
            ) from None
        self._follow_link(one)  # before the first packet
        flooded = "flooded" if one.wanted == AUTO else ""
        if mode := dispatcher.is_on(one.number):
            self._attach_beside(one, mode, flooded)
        elif one.wanted in (AUTO, "generic"):
            self._attach_generic(one, flooded)
        else:
            self._attach_native(one)
        if one.wanted != AUTO:
            return
        if self._flooded.on:
            one.switched += 1
        else:
            self._let_go(one, QUIET)

    def _attach_native(self, one: Interface) -> None:
        """Or generic, where any mode will do."""
        try:
            one.link = bpf_calls.link_xdp(self._ingress.program, one.number, bpf_calls.XDP_NATIVE)
        except KernelError as error:
            why = _unless_taken(one.name, error)
            if one.wanted == "native":
                raise _refused(one.name, "native XDP", why) from None
            self._attach_generic(one, f"native: {why}")
            return
        one.mode, one.why = "native", ""
        self._lead(one)

    def _attach_generic(self, one: Interface, why: str = "") -> None:
        self._tell(generic=True)  # before the first packet
        try:
            one.link = bpf_calls.link_xdp(self._ingress.program, one.number, bpf_calls.XDP_GENERIC)
        except KernelError as error:
            raise _refused(one.name, "XDP", _unless_taken(one.name, error)) from None
        one.mode, one.why = "generic", why
        self._lead(one)

    def _attach_beside(self, one: Interface, mode: str, why: str) -> None:
        """In the dispatcher's mode."""
        if one.wanted in ("native", "generic") and one.wanted != mode:
            raise ConfigurationError(
                f"interface {one.name} has libxdp's dispatcher in {mode} mode",
                remedy=f"name {one.name}:{mode}",
            )
        self._tell(generic=mode == "generic")  # before the first packet
        try:
            one.beside = self._ingress.beside(self._keeper, one.number)
        except KernelError as error:
            one.again = time.monotonic() + AGAIN
            raise ConfigurationError(
                f"interface {one.name} has other XDP programs: {error.message}",
                remedy="take those off, or leave the interface out of xdp",
            ) from None
        one.mode, one.why = mode, "; ".join(filter(None, (why, BESIDE)))
        self._lead(one)

    def follow(self, gone: Collection[int] = (), unsure: bool = False) -> None:
        """Interfaces that are gone, or back; and what addresses there are.

        ``gone``: numbers of those that were deleted or moved elsewhere since the last time; there may be one
        of that number again. ``unsure``: it may have been any.
        """
        with self._using:
            if self._closed:
                return
            self._hear()
            for one in self._all:
                there = _number(one.name)
                if one.is_on and (unsure or one.number in gone or there != one.number):
                    self._leave(one, _none(one.name))
                if one.beside is not None and not dispatcher.is_on(one.number):
                    self._leave(one, "its dispatcher was taken off")
                if not one.is_on and one.why == QUIET and not there:
                    self._let_go(one, _none(one.name))
                if one.is_on:
                    self._follow_link(one)
                elif one.why != QUIET or self._flooded.on:
                    self._attach_again(one)
            self._follow_addresses()

    def _leave(self, one: Interface, why: str) -> None:
        """Its AF_XDP sockets, too: those of a device that was gone for a moment hear nothing more."""
        self._ingress.lead_no_more(one.number)
        if self._over_ip is not None:
            self._worker.detach(self._over_ip, one.number)
        self._let_go(one, why)

    def _let_go(self, one: Interface, why: str) -> None:
        self._ingress.drop_link(one.number)
        one.leave(why)

    def _hear(self) -> None:
        """A flood's end takes the program off the interfaces that wait for one."""
        waiting = [one for one in self._all if one.wanted == AUTO]
        if not waiting:
            return
        if not self._flooded.hear(self._refused(), time.monotonic()):
            for one in waiting:
                if one.is_on:
                    self._let_go(one, QUIET)

    def _refused(self) -> int:
        """Datagrams of no use so far: what the program has dropped and answered, and what has got past it."""
        met = sum(
            n
            for name, n in self._ingress.counters().items()
            if name.startswith("drop-") or name == "tx-cookie"
        )
        worker = self._worker.counters()
        for carrier in self._ways:
            name, own = COUNTED[carrier]
            met += worker.get(f"{own}datagrams_dropped", 0)
            met += worker.get(f"{name}.unproven_sent", 0) // COOKIE_MOST
        return met

    def _attach_again(self, one: Interface) -> None:
        if time.monotonic() < one.again:
            return
        try:
            self._attach(one)
        except ConfigurationError as error:
            self._let_go(one, error.message)

    def _follow_link(self, one: Interface) -> None:
        """The address that frames to this host have there. Where there is none, any frame is to it."""
        if (address := _link_address(one.name)) == one.address:
            return
        one.address = address
        if address:
            self._ingress.set_link(one.number, address)
        else:
            self._ingress.drop_link(one.number)

    def _follow_addresses(self) -> None:
        """What there is no room for is nobody's to the program, and passes."""
        now = _addresses()
        for address in self._addresses.keys() - now.keys():
            self._ingress.drop_address(address)
            del self._addresses[address]
        for address, interface in now.items():
            if self._addresses.get(address) != interface:
                with contextlib.suppress(KernelError):
                    self._ingress.set_address(address, interface)
                    self._addresses[address] = interface

    # ---- what is going on ------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, Any]]:
        """Name, mode, queues and why of each."""
        return [one.row() for one in self._all]

    def counters(self) -> dict[str, int]:
        """By verdict and reason; after close() as they were last."""
        with self._reading:
            if not self._closed:
                self._counts = self._ingress.counters()
            return dict(self._counts)

    def close(self) -> None:
        """Nothing meets the program any more. May be called twice."""
        if self._thread is not None:
            self._thread.stop()
        self.counters()
        with self._using, self._reading:
            for one in self._all:
                one.leave()
            self.forget()

    def forget(self) -> None:
        """Let go of descriptors: a forked child's would keep alive what ends with its parent."""
        self._closed = True
        for one in self._all:
            one.forget()
        self._ingress.close()

    def __enter__(self) -> Interfaces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Thread(threading.Thread):
    """Runs no user's code, and nothing waits for it: what it is late with passes."""

    def __init__(self, interfaces: Interfaces) -> None:
        super().__init__(name="hooker-interfaces", daemon=True)
        self._interfaces = interfaces
        self._ending = Ending()
        self._changes = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        self._changes.bind((0, CHANGES))
        self._watch = self._ending.watch(self._changes.fileno())

    def run(self) -> None:
        gone, unsure = set[int](), False
        while not self._ending.wait(self._watch, RETRY):
            more, lost = self._hear()
            gone, unsure = gone | more, unsure or lost
            with contextlib.suppress(Exception):  # netlink's errors are no OSErrors; tried again in a second
                self._interfaces.follow(gone, unsure)
                gone, unsure = set(), False

    def _hear(self) -> tuple[set[int], bool]:
        """Numbers of interfaces that have gone; whether some may have been missed."""
        gone: set[int] = set()
        try:
            while messages := self._changes.recv(1 << 16):
                gone.update(_deleted(messages))
        except BlockingIOError:
            return gone, False
        except OSError:
            pass
        return gone, True

    def stop(self) -> None:
        """May be called twice, and by one that never ran."""
        if self._ending.said:
            return
        self._ending.say()
        if self.ident is not None:
            self.join(STOP_TIMEOUT)
        self._watch.close()
        self._changes.close()
        self._ending.close()


def _ways(rows: Sequence[Mapping[str, Any]], port: int) -> dict[str, Way]:
    """Raises ConfigurationError: there is none."""
    if not rows:
        raise ConfigurationError(
            "xdp is for VTL over UDP or IP in the engine's own process, which this engine does not have",
            remedy="leave xdp out, or name the transport vtl or vtl+ip",
        )
    return {
        row["carrier"]: Way(
            row["secret"], row["versions"], port if row["carrier"] == "udp" else 0, row["keyed"]
        )
        for row in rows
    }


def _unless_taken(name: str, error: KernelError) -> str:
    """The reason. Raises ConfigurationError for that of another program's."""
    if error.errno in TAKEN:
        raise ConfigurationError(
            f"interface {name} has another XDP program",
            remedy="take that off (`ip link set dev IFACE xdp off`), or leave the interface out of xdp",
        ) from None
    return os.strerror(error.errno) if error.errno else error.message


def _refused(name: str, what: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"interface {name} cannot take {what}: {why}", remedy="leave it out of xdp")


def _none(name: str) -> str:
    return f"there is no interface {name}"


def _deleted(messages: bytes) -> Iterator[int]:
    """Numbers of the interfaces that rtnetlink(7) says are gone, here; a bridge says so of its ports, too."""
    at = 0
    while at + 32 <= len(messages):
        size, kind = struct.unpack_from("=IH", messages, at)
        family, number = struct.unpack_from("=B3xi", messages, at + 16)
        if kind == RTM_DELLINK and family == socket.AF_UNSPEC:
            yield number
        at += max(16, size + 3 & ~3)


def _number(name: str) -> int:
    """0: there is none."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _link_address(name: str) -> bytes:
    """Six bytes; b"": the interface has another kind of address, or is not there (netdevice(7))."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_:
        said = fcntl.ioctl(any_, SIOCGIFHWADDR, struct.pack("40s", name.encode()))
        kind, address = struct.unpack_from("=H6s", said, 16)
        if kind in (ARPHRD_ETHER, ARPHRD_LOOPBACK):
            return bytes(address)
    return b""


def _addresses() -> dict[str, int]:
    """This host's, and the number of the interface that has each; of several the last."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        rows = [
            (row.get_attr("IFA_LOCAL") or row.get_attr("IFA_ADDRESS"), row["index"])
            for row in netlink.get_addr()
        ]
    return {address: index for address, index in rows if address}
