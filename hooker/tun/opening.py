"""Before an engine hooks anything: is its lane open? Else each connection would find out by itself.

A connection of the engine's own, with its mark, must come out of the device, and the answer must reach it
(``hooker/engine/lane.pyx``). With IPv4 its socket is bound to the device first, and only where that
comes to nothing the routing rule is asked: a kernel that has ever had one looks up every route more slowly,
which all connections of the host pay. A bound socket needs a route by the device where IPv6 is looked up, so
that has its rule at once. If nothing comes, a packet like its first, without the mark and with a wrong
checksum, tells whether this host lets any such packet out: a firewall that knows addresses may have nothing
against the lane.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

from hooker.control.policy import Policy
from hooker.errors import ConfigurationError
from hooker.tun.way import FAMILIES

if TYPE_CHECKING:
    from hooker._fastpath import Worker
    from hooker.tun.lane import Lane

LIMIT = 1.0  # s for all families together
LOOK = 0.002  # s
DOCUMENTATION = {4: "192.0.2.1", 6: "2001:db8::1"}  # RFC 5737, 3849: nobody's
HTTPS = 443
UNICAST = 1  # RTN_UNICAST
SYN = 2
HOPS = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
UNIVERSE = 0  # RT_SCOPE_UNIVERSE
SYSTEM_RULES = 3  # local, main, default
REMEDY = "nft list ruleset; iptables-save; ip rule"

Address = IPv4Address | IPv6Address


def require_open(worker: Worker, lane: Lane, policy: Policy, *, ruled: bool) -> None:
    """Returns when the lane is known; in the network namespace of the caller.

    ``ruled``: the rules are there. Else some may be there afterwards.

    A family that alone is blocked, IPv6 on a host where IPv4 passes, is left to TCP as long as it is. Where
    the host has no way out, before its network is up, what comes from elsewhere is dropped (rp_filter): that
    says nothing, and is found out later.

    Raises ConfigurationError when the lane is blocked.
    """
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        port = min(policy.ports, default=HTTPS)
        ends = {version: _end(netlink, policy, version) for version in _families(netlink)}
        bound = {4} & set(ends) if not ruled and _only_system_rules(netlink) else set()
        if not ruled and bound != set(ends):
            lane.install(*(set(ends) - bound))
        for version, end in ends.items():
            worker.watch(version, end.packed, port, lane.device.index if version in bound else 0)
        blocked = _blocked(worker, list(ends))
        if bound and not worker.lanes()[4].open:
            lane.install(4)
            worker.watch(4, ends[4].packed, port)
            blocked = _blocked(worker, list(ends))
        found = {}
        for version in blocked:
            if _leads_out(netlink, ends[version]) and _passes_unmarked(version, ends[version], port):
                found[version] = _explained(netlink, worker, lane, ends[version])
            else:
                worker.unwatch(version)
    if found and (4 in found or len(found) == len(ends)):
        version = min(found)
        raise ConfigurationError(f"IPv{version}: {found[version]}", remedy=REMEDY)


def _only_system_rules(netlink: Any) -> bool:
    """No rule stands before ours, and the kernel has perhaps never had one, for IPv4."""
    return len(list(netlink.get_rules(family=FAMILIES[4][0]))) <= SYSTEM_RULES


def _families(netlink: Any) -> Iterator[int]:
    """Those in which this host has an address that others may know."""
    for version, (family, _) in FAMILIES.items():
        with contextlib.suppress(Exception):  # netlink's errors are no OSErrors; no IPv6
            if any(a["scope"] == UNIVERSE for a in netlink.get_addr(family=family)):
                yield version


def _end(netlink: Any, policy: Policy, version: int) -> Address:
    """Towards which the connection goes: to where this host has a way also without our mark, if anywhere."""
    named = [p.network_address for p in policy.prefixes if p.version == version]
    candidates = [*named, ip_address(DOCUMENTATION[version]), *_on_link(netlink, version)]
    for address in candidates:
        if _leads_out(netlink, address):
            return address
    return ip_address(DOCUMENTATION[version])


def _on_link(netlink: Any, version: int) -> Iterator[Address]:
    """The last address but one of each network that this host is in."""
    for found in netlink.get_addr(family=FAMILIES[version][0]):
        if found["scope"] == UNIVERSE:
            network = ip_network((found.get_attr("IFA_ADDRESS"), found["prefixlen"]), strict=False)
            if network.num_addresses > 4:
                yield network[-2]


def _route(netlink: Any, address: Address, **options: int) -> Any:
    """What the kernel would do with a packet to there; None: nothing."""
    try:
        family = FAMILIES[address.version][0]
        (route,) = netlink.route("get", dst=str(address), family=family, **options)
    except Exception:  # netlink's errors are no OSErrors
        return None
    return route


def _leads_out(netlink: Any, address: Address) -> bool:
    route = _route(netlink, address)
    return route is not None and route["type"] == UNICAST


def _blocked(worker: Worker, versions: list[int]) -> list[int]:
    deadline = time.monotonic() + LIMIT
    while True:
        lanes = worker.lanes()
        waiting = [v for v in versions if not (lanes[v].open or lanes[v].blocked or lanes[v].pause)]
        if not waiting or time.monotonic() > deadline:
            return [v for v in versions if lanes[v].blocked]  # the rest is found out while it runs
        time.sleep(LOOK)


def _passes_unmarked(version: int, end: Address, port: int) -> bool:
    """Whether the firewall lets out what the marked connection would have sent; if that can be tried.

    Nobody answers it: its checksum is wrong, and it may make one hop only.
    """
    packet = struct.pack("!HHIIBBHHH", 0xFFFE, port, 1, 0, 5 << 4, SYN, 65535, 1, 0)
    with socket.socket(FAMILIES[version][0], socket.SOCK_RAW, socket.IPPROTO_TCP) as probe:
        probe.setsockopt(*HOPS[version], 1)
        probe.setblocking(False)
        try:
            probe.sendto(packet, (str(end), 0))
        except OSError as error:
            return error.errno != errno.EPERM
    return True


def _explained(netlink: Any, worker: Worker, lane: Lane, end: Address) -> str:
    if worker.lanes()[end.version].heard:
        return (
            f"what {lane.device.name} gives to a socket with our mark does not reach it:"
            " it is dropped by a firewall's PREROUTING or INPUT chain"
        )
    reached = f"a packet with our mark did not reach {lane.device.name}"
    route = _route(netlink, end, mark=lane.mark)
    if route is None or route.get_attr("RTA_OIF") != lane.device.index:
        return f"{reached}: a routing rule before ours leads it elsewhere, or nowhere"
    return f"{reached}: it is dropped by a firewall's OUTPUT or POSTROUTING chain, or loses its mark there"
