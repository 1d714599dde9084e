"""Rules and routes of engines that are dead, and whose janitors have been killed as well."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from hooker.control import marks
from hooker.control.abort import abort_once
from hooker.tun.way import BY_KERNEL, FAMILIES, GONE, LAST, NO_FAMILY, alias, code

RTN_BLACKHOLE = 6  # linux/rtnetlink.h


def sweep(priority: int, base: int) -> None:
    """Remove them from the network namespace of the calling thread.

    ``priority`` is that of engines' rules, ``base`` + number the table of engine ``number``. A living
    engine's device says whose it is, up or down, and the kernel takes it away with its engine. Sockets that
    are pinned to a device that is gone are ended (ECONNABORTED); while one cannot be, its rule and blackhole
    stay.
    """
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        for family, _ in FAMILIES.values():
            with _if_there():
                for rule in list(_rules(netlink, family, priority, base)):
                    _remove(netlink, family, rule)


def _rules(netlink: Any, family: int, priority: int, base: int) -> Iterator[dict[str, int]]:
    """Those that an engine has made: all of it must be as engines make it."""
    for found in netlink.get_rules(family=family):
        rule = {
            "priority": found.get_attr("FRA_PRIORITY"),
            "table": found.get_attr("FRA_TABLE") or 0,
            "fwmark": found.get_attr("FRA_FWMARK"),
            "fwmask": found.get_attr("FRA_FWMASK"),
            "protocol": found.get_attr("FRA_PROTOCOL"),
        }
        number = rule["table"] - base
        expected = (
            (priority, marks.mark(number), marks.BITS, BY_KERNEL) if 0 < number < marks.NUMBERS else None
        )
        if tuple(rule[name] for name in ("priority", "fwmark", "fwmask", "protocol")) == expected:
            yield rule


def _remove(netlink: Any, family: int, rule: dict[str, int]) -> None:
    if alias(rule["table"]) in (link.get_attr("IFLA_IFALIAS") for link in netlink.get_links()):
        return  # its engine lives
    routes = list(netlink.route("dump", family=family, table=rule["table"]))
    if not all(_is_blackhole(route) for route in routes):
        return  # somebody else uses the table
    if routes and not _ended(rule):
        return
    with _if_there():
        netlink.rule("del", family=family, **rule)
    if routes:
        netlink.flush_routes(family=family, table=rule["table"])


def _is_blackhole(route: Any) -> bool:
    return bool(route["type"] == RTN_BLACKHOLE and route.get_attr("RTA_PRIORITY") == LAST)


def _ended(rule: dict[str, int]) -> bool:
    """Whether no socket with the mark is left; the first call finds those that it ends."""
    with contextlib.suppress(OSError):  # nobody knows: the blackhole stays
        return abort_once(rule["fwmark"], rule["fwmask"]) or abort_once(rule["fwmark"], rule["fwmask"])
    return False


@contextlib.contextmanager
def _if_there() -> Iterator[None]:
    """A host without IPv6; or the janitor, or another engine, was faster."""
    try:
        yield
    except Exception as error:  # netlink's errors are no OSErrors
        if code(error) not in (*GONE, *NO_FAMILY):
            raise
