"""What leads marked sockets to an engine: a device, a mark that nobody had lately, and the way between."""

from __future__ import annotations

import os
import threading
from types import TracebackType

from hooker.control import janitor, marks, netns
from hooker.control.janitor import Janitor
from hooker.control.mtu import ROUTE
from hooker.errors import KernelError
from hooker.tun import leftovers
from hooker.tun.device import MTU, Device
from hooker.tun.way import Way

NAMES = "hk%d"
TABLE_BASE = 0x484B0000  # routing tables TABLE_BASE + number
PRIORITY = 63  # of the rule: after the local table, before the main one
TRIES = 16  # numbers whose table somebody else may have


class Lane:
    """In the network namespace of the thread that enters it; a context manager.

    ``pinned``: what marked sockets send is discarded when the device is gone, and the janitor ends them.
    ``entrance``: the program that lets only marked sockets' packets in; any local user may send to a device.
    ``mtu``: bytes of a packet with one segment; 0: the device's.

    It belongs to the process that made it: a forked child calls ``forget()``.

    Raises:
        KernelError: no TUN devices here, or the kernel refuses the routes.
        ConfigurationError: no permission, or no run-time directory.
    """

    def __init__(self, keeper: Janitor, *, entrance: int, pinned: bool = False, mtu: int = 0) -> None:
        self._keeper, self._pinned, self._entrance = keeper, pinned, entrance
        self.mtu = min(mtu or MTU, ROUTE)
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._left = False
        self.mark = 0

    @property
    def descriptor(self) -> int:
        """Of the device: segments are read from and written to it."""
        return self.device.descriptors[0]

    @property
    def queue_length(self) -> int:
        """Packets that wait for the engine to read them, at most."""
        return self.device.queue_length

    def __enter__(self) -> Lane:
        self._namespace = netns.own()
        try:
            leftovers.sweep(PRIORITY, TABLE_BASE)
            self.device = Device(NAMES)
            try:
                self.device.admit(self._entrance)
                self._way = self._claim()
            except BaseException:
                self.device.close()
                raise
        except BaseException:
            os.close(self._namespace)
            raise
        return self

    def _claim(self) -> Way:
        for last in reversed(range(TRIES)):
            number = marks.next_number()
            self.mark = marks.mark(number)
            table = TABLE_BASE + number
            way = Way(
                self._keeper,
                self.device,
                mark=self.mark,
                table=table,
                priority=PRIORITY,
                mtu=self.mtu,  # always: a device that goes leaves one of 68 bytes in its sockets' routes
                pinned=self._pinned,
            )
            try:
                way.claim()
                return way
            except KernelError:  # the table is somebody's
                if not last:
                    raise
        raise AssertionError

    def install(self, *versions: int) -> None:
        """Add the rules (of all IP versions), from any thread. After a failure it may be tried again."""
        with self._lock:
            if not self._left:
                netns.inside(self._namespace, lambda: self._way.install(*versions))

    def restore(self, version: int) -> bool:
        """Put back what others have taken away, from any thread; whether anything was missing.

        Raises KernelError where it cannot be, as when the device has been set down.
        """
        with self._lock:
            if self._left:
                return False
            return netns.inside(self._namespace, lambda: self._way.restore(version))

    def withdraw(self) -> None:
        """Remove the rules, until ``install()``."""
        with self._lock:
            if not self._left:
                netns.inside(self._namespace, self._way.withdraw)

    def guard(self, link: int) -> None:
        """Pinned: when this process is gone, the janitor ends the sockets, and holds the program so long."""
        self._keeper.register(janitor.abort(self.mark, marks.BITS), netns=self._namespace, keep=(link,))

    def forget(self) -> None:
        """In a forked child: the device must not outlive its engine."""
        self.device.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._owner:
            return
        with self._lock:
            self._left = True
            try:
                netns.inside(self._namespace, self._way.lift)
            finally:
                self.device.close()
                os.close(self._namespace)
