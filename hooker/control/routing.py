"""Policy routing: packets of hooked application sockets, known by their mark, go to this host itself.

Each engine has a number, which gives it a mark, a routing table and a rule of its own; the number is
claimed by adding the table's route, which the kernel does once only. No engine had it lately: who was killed
has left its mark on sockets, and this rule must not lead those here. The rule comes with the first candidate:
a namespace with rules of its own looks up every route more slowly, for everybody.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from hooker.control import janitor, marks, netns
from hooker.control.janitor import Janitor, Undo
from hooker.errors import KernelError

TABLE_BASE = 0x484B00  # routing tables TABLE_BASE + number
PRIORITY = 64  # of the rule: before the main table, after the local one
TRIES = 16  # numbers whose table somebody else may have
MTU_ETHERNET, MTU_LEAST, MTU_JUMBO = 1500, 1280, 9000  # bytes; RFC 894, RFC 8200 5, what switches carry
NO_WIRE = 65535  # bytes, of an engine's own device (hooker.tun)
HEADERS = 28  # bytes: IPv4 and UDP
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a host without IPv6


class LocalRoute:
    """Route and, once installed, rule of one engine, in the current network namespace; a context manager.

    It belongs to the process that made it: a forked child leaves the context without effect.
    """

    def __init__(self, keeper: Janitor) -> None:
        self._keeper = keeper
        self._owner = os.getpid()
        self._undos: list[Undo] = []
        self._promised: set[int] = set()  # families whose rule the janitor knows
        self._families: tuple[int, ...] = (4,)
        self._left = False
        self.number = 0

    @property
    def mark(self) -> int:
        return marks.mark(self.number, segments=False)

    def __enter__(self) -> LocalRoute:
        self._namespace = netns.own()
        try:
            self._set_up()
        except BaseException:
            os.close(self._namespace)
            raise
        return self

    def _set_up(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            self._loopback = netlink.link_lookup(ifname="lo")[0]
            netlink.link("set", index=self._loopback, state="up") if not self._is_up(netlink) else None
            try:
                self._claim(netlink)
            except BaseException:
                self._remove(netlink)
                raise

    def install(self) -> None:
        """Add the rules, from any thread. After a failure it may be tried again."""
        netns.inside(self._namespace, self._install)

    def _install(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            for family in self._families:
                if self._left:
                    return
                self._register_rule(family)
                try:
                    netlink.rule("add", **self._rule(family))
                except Exception as error:
                    if _code(error) != errno.EEXIST:  # from the time before
                        raise

    def forget(self) -> None:
        """In a forked child: rules and routes are the parent's."""

    def __exit__(self, *_: object) -> None:
        if os.getpid() != self._owner:
            return
        self._left = True
        try:
            netns.inside(self._namespace, self._take_back)
        finally:
            os.close(self._namespace)

    def _take_back(self) -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            self._remove(netlink)

    def _is_up(self, netlink: Any) -> bool:
        return bool(netlink.get_links(self._loopback)[0]["flags"] & 1)

    def _claim(self, netlink: Any) -> None:
        for _ in range(TRIES):
            self.number = marks.next_number()
            if self._add_route(netlink, 4):
                break
        else:
            raise KernelError(
                f"{TRIES} routing tables in a row are somebody's: the last was {TABLE_BASE + self.number}",
                remedy="remove stale routes: ip route show table all",
            )
        self._register_table(4)
        try:
            self._register_table(6)
            self._add_route(netlink, 6)
            self._families = (4, 6)
        except Exception as error:  # netlink's errors are no OSErrors
            if _code(error) not in NO_FAMILY:
                raise

    def _rule(self, family: int) -> dict[str, Any]:
        return {
            "family": FAMILIES[family],
            "priority": PRIORITY,
            "fwmark": self.mark,
            "fwmask": marks.BITS,
            "table": TABLE_BASE + self.number,
        }

    def _register_rule(self, family: int) -> None:
        if family in self._promised:
            return
        rule = janitor.rule(
            family,
            priority=PRIORITY,
            table=TABLE_BASE + self.number,
            fwmark=self.mark,
            fwmask=marks.BITS,
        )
        self._undos.append(self._keeper.register(rule, netns="/proc/thread-self/ns/net"))
        self._promised.add(family)

    def _register_table(self, family: int) -> None:
        routes = janitor.route_table(family, TABLE_BASE + self.number)
        self._undos.append(self._keeper.register(routes, netns="/proc/thread-self/ns/net"))

    def _add_route(self, netlink: Any, family: int) -> bool:
        """False: another engine has it."""
        try:
            netlink.route(
                "add",
                family=FAMILIES[family],
                dst="0.0.0.0/0" if family == 4 else "::/0",
                type="local",
                scope=254 if family == 4 else 0,  # host
                oif=self._loopback,
                table=TABLE_BASE + self.number,
            )
        except Exception as error:
            if _code(error) == errno.EEXIST:
                return False
            raise
        return True

    def _remove(self, netlink: Any) -> None:
        for family in FAMILIES if self._undos else ():
            for action in (
                lambda f=family: netlink.rule("del", **self._rule(f)),
                lambda f=family: netlink.flush_routes(family=FAMILIES[f], table=TABLE_BASE + self.number),
            ):
                try:
                    action()
                except Exception as error:
                    if _code(error) not in (errno.ENOENT, errno.ESRCH, *NO_FAMILY):
                        raise
        while self._undos:
            self._undos.pop().done()


def datagram_sizes() -> tuple[int, int]:
    """UDP payload over IPv4 in bytes: what fits all interfaces and Ethernet, and what fits at least one.

    The first is what handshakes try, the second what the search for the path's size may reach.
    """
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        mtus = [
            link.get_attr("IFLA_MTU")
            for link in netlink.get_links()
            if link["flags"] & 1 and not link["flags"] & 8 and link.get_attr("IFLA_MTU") < NO_WIRE
        ]  # up, and neither loopback nor an engine's
    first = max(MTU_LEAST, min([MTU_ETHERNET, *mtus]))
    most = max(first, min(MTU_JUMBO, max([MTU_LEAST, *mtus])))
    return first - HEADERS, most - HEADERS


def _code(error: BaseException) -> int:
    return int(getattr(error, "code", None) or getattr(error, "errno", None) or 0)
