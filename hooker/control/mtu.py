"""How large the transport's datagrams may be, as far as this host's interfaces tell."""

from __future__ import annotations

from pathlib import Path

MTU_ETHERNET, MTU_LEAST, MTU_JUMBO = 1500, 1280, 9000  # bytes; RFC 894, RFC 8200 5, what switches carry
NO_WIRE = 65535  # bytes, of an engine's own device (hooker.tun)
ROUTE = 65520  # bytes, the most of its routes: what Linux makes of more in a metric of IPv4
HEADERS = 28  # bytes: IPv4 and UDP


def has_timestamps() -> bool:
    """Whether TCP asks for them in this network namespace."""
    return Path("/proc/sys/net/ipv4/tcp_timestamps").read_text().strip() != "0"


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
