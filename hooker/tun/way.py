"""Policy routing: segments of marked sockets go to the device.

When the engine is killed the device goes, and its routes with it: the mark's table is empty, the rule finds
nothing, and the sockets are on the wire again at their next segment. Only the rule is left to the janitor.

Other programs take such things away (`ip rule flush`; setting the device down): ``restore()`` puts them back.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

from hooker.control import janitor, marks
from hooker.control.janitor import Janitor, Undo
from hooker.errors import KernelError
from hooker.tun.device import SCOPE_LINK, Device

FAMILIES = {4: (socket.AF_INET, "0.0.0.0/0"), 6: (socket.AF_INET6, "::/0")}
BY_KERNEL = 2  # RTPROT_KERNEL: systemd-networkd removes rules and routes of others
LAST = 4096  # metric of what is found when the device is gone
NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a host without IPv6
GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
IFF_UP = 1  # linux/if.h


class Way:
    """Rule and routes of one mark, in the network namespace of the calling thread.

    Args:
        keeper: undoes the rule when this process is killed.
        device: where marked segments go.
        mark: of the sockets (SO_MARK).
        table, priority: of the rule; the table is the engine's own.
        mtu: bytes of a packet with one segment; 0: the device's.
        pinned: such flows never go to the wire: without the device their segments are discarded.

    Raises:
        KernelError: the table is in use, or the kernel refuses.
    """

    def __init__(
        self,
        keeper: Janitor,
        device: Device,
        *,
        mark: int,
        table: int,
        priority: int,
        mtu: int = 0,
        pinned: bool = False,
    ) -> None:
        self._keeper, self._device = keeper, device
        self.mark, self.table, self.priority = mark, table, priority
        self._mtu, self._pinned = mtu, pinned
        self._undos: list[Undo] = []
        self._families: list[int] = []
        self._promised: set[int] = set()  # families whose rule the janitor knows
        self._ruled: set[int] = set()  # families that have one

    def __enter__(self) -> Way:
        self.claim()
        try:
            self.install()
        except BaseException:
            self.lift()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.lift()

    def claim(self) -> None:
        """The table, with its routes. Before the rule: a marked socket never finds half of them."""
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            netlink.link("set", index=self._device.index, ifalias=alias(self.table))
            try:
                for family in FAMILIES:
                    self._claim_one(netlink, family)
            except BaseException:
                self._remove(netlink)
                raise

    def _claim_one(self, netlink: Any, family: int) -> None:
        try:
            self._claim(netlink, family)
        except Exception as error:  # netlink's errors are no OSErrors
            if family != 6 or code(error) not in NO_FAMILY:
                raise
        else:
            self._families.append(family)

    def install(self, *versions: int) -> None:
        """The rule, of these IP versions or all: from here on every route lookup is a little slower.

        After a failure it may be tried again. A namespace is not as fast as before when the rule is gone.
        """
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            for family in self._families:
                if versions and family not in versions:
                    continue
                if family not in self._promised:
                    rule = janitor.rule(
                        family,
                        priority=self.priority,
                        table=self.table,
                        fwmark=self.mark,
                        fwmask=marks.BITS,
                    )
                    self._undos.append(self._keeper.register(rule, netns="/proc/thread-self/ns/net"))
                    self._promised.add(family)
                _add(netlink.rule, **self._rule(family))  # may be there from the time before
                self._ruled.add(family)

    def restore(self, version: int) -> bool:
        """Put back what others have taken away of that IP version; whether anything was missing.

        In the order in which it was made: a marked socket never finds half of it. A device that was set
        down stays so, and the kernel keeps no routes to it: KernelError then.
        """
        from pyroute2 import IPRoute

        if version not in self._families:
            return False
        with IPRoute() as netlink:
            self._require_up(netlink)
            back = [version == 4 and _done(self._device.add_address, netlink, self._device.index)]
            back += [_add(netlink.route, **route) for route in self._routes(version)]
            if version in self._ruled:
                back.append(_add(netlink.rule, **self._rule(version)))
        return any(back)

    def _require_up(self, netlink: Any) -> None:
        (link,) = netlink.get_links(self._device.index)
        if not link["flags"] & IFF_UP:
            name = self._device.name
            raise KernelError(f"{name} has been set down", remedy=f"ip link set {name} up")

    def withdraw(self) -> None:
        """Remove the rule; the routes stay. The janitor removes it, too, if need be."""
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            for family in self._families:
                try:
                    netlink.rule("del", **self._rule(family))
                except Exception as error:  # netlink's errors are no OSErrors
                    if code(error) not in GONE:
                        raise
                self._ruled.discard(family)

    def lift(self) -> None:
        """Remove rule and routes. May be called twice."""
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            self._remove(netlink)

    def _claim(self, netlink: Any, family: int) -> None:
        routes = janitor.route_table(family, self.table)  # also refuses the system's own tables
        if any(netlink.route("dump", family=FAMILIES[family][0], table=self.table)):
            remedy = f"ip route show table {self.table}"
            raise KernelError(f"routing table {self.table} is in use", remedy=remedy)
        self._undos.append(self._keeper.register(routes, netns="/proc/thread-self/ns/net"))
        for route in self._routes(family):
            netlink.route("add", **route)

    def _routes(self, family: int) -> Iterator[dict[str, Any]]:
        number, everywhere = FAMILIES[family]
        common: dict[str, Any] = {"family": number, "dst": everywhere, "table": self.table}
        common["proto"] = BY_KERNEL
        if self._pinned:
            yield {"type": "blackhole", "priority": LAST, **common}
        if family == 4:
            common["scope"] = SCOPE_LINK
        if self._mtu:
            common["metrics"] = {"mtu": self._mtu}
        yield {"oif": self._device.index, **common}

    def _rule(self, family: int) -> dict[str, Any]:
        return {
            "family": FAMILIES[family][0],
            "priority": self.priority,
            "fwmark": self.mark,
            "fwmask": marks.BITS,
            "table": self.table,
            "protocol": BY_KERNEL,
        }

    def _remove(self, netlink: Any) -> None:
        for family, (number, _) in FAMILIES.items() if self._undos else ():
            for action in (
                lambda f=family: netlink.rule("del", **self._rule(f)),
                lambda n=number: netlink.flush_routes(family=n, table=self.table),
            ):
                try:
                    action()
                except Exception as error:
                    if code(error) not in (*GONE, *NO_FAMILY):
                        raise
        self._families.clear()
        self._promised.clear()
        self._ruled.clear()
        while self._undos:
            self._undos.pop().done()


def alias(table: int) -> str:
    """What the device of that table's engine is called besides its name: by that others know that it lives.

    The routes do not tell: when the device is set down, the kernel takes them away.
    """
    return f"hooker {table:#x}"


def _add(call: Callable[..., object], **what: Any) -> bool:
    """Whether it was missing."""
    return _done(call, "add", **what)


def _done(call: Callable[..., object], *arguments: Any, **what: Any) -> bool:
    """False: what it would make is there."""
    try:
        call(*arguments, **what)
    except Exception as error:  # netlink's errors are no OSErrors
        if code(error) != errno.EEXIST:
            raise
        return False
    return True


def code(error: BaseException) -> int:
    """The errno of an error of netlink's, or an OSError; else 0."""
    return int(getattr(error, "code", None) or getattr(error, "errno", None) or 0)
