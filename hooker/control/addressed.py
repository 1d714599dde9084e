"""Connections by their server's port and their remote address: what a user writes, and whom it means.

An empty set means "all". Connections of this host to itself are never meant: nothing crosses a network
there, and the twin of one end would need the addresses of the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_interface,
    ip_network,
)

from hooker import checks
from hooker.errors import ConfigurationError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_PORT = 65535
MAPPED_BITS = 96  # ::ffff:0:0/96, RFC 4291 2.5.5.2
_PORT_ITEM = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Addressed:
    """Immutable. ``ports``: the server's TCP port. ``prefixes``: the remote host, v4 and v6 mixed."""

    ports: frozenset[int] = frozenset()
    prefixes: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        ports = checks.items("ports", self.ports, remedy="give a set, as in {80, 443}")
        prefixes = checks.items("prefixes", self.prefixes, remedy="give a list of networks")
        object.__setattr__(self, "ports", frozenset(map(_check_port, ports)))
        object.__setattr__(self, "prefixes", prefixes)
        for prefix in prefixes:
            if not isinstance(prefix, IPv4Network | IPv6Network):
                raise ConfigurationError(
                    f"prefix {checks.shown(prefix)} is not a network",
                    remedy="make it with ipaddress.ip_network(), or Policy.parse()",
                )

    def matches(self, address: Address | str, port: int) -> bool:
        """The decision the kernel programs make, in Python, for tests and explanations."""
        host = _unmap(ip_address(address) if isinstance(address, str) else address)
        if host.is_loopback:
            return False
        if self.ports and port not in self.ports:
            return False
        return not self.prefixes or any(host in p for p in self.prefixes if p.version == host.version)

    def __str__(self) -> str:
        ports = format_ports(self.ports) if self.ports else "all ports"
        prefixes = ",".join(map(str, self.prefixes)) if self.prefixes else "all hosts"
        return f"{prefixes}, {ports}"


def parse_ports(text: str) -> frozenset[int]:
    """``"80,443,8000-8010"`` to a set. Raises ConfigurationError."""
    ports: set[int] = set()
    for item in _items(text, "port", "80,443,8000-8010"):
        match = _PORT_ITEM.fullmatch(item)
        if match is None:
            raise ConfigurationError(
                f"port {checks.shown(item)} is not a number or a range", remedy="write 80,443,8000-8010"
            )
        low = _check_port(match[1])
        high = low if match[2] is None else _check_port(match[2])
        if high < low:
            raise ConfigurationError(
                f"port range {checks.shown(item)} runs backwards", remedy=f"write {high}-{low}"
            )
        ports.update(range(low, high + 1))
    return frozenset(ports)


def format_ports(ports: Iterable[int]) -> str:
    """The inverse of parse_ports: sorted, runs of three or more as ranges."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    parts = []
    for low, high in runs:
        parts += [f"{low}-{high}"] if high - low > 1 else [str(p) for p in range(low, high + 1)]
    return ",".join(parts)


def parse_prefixes(text: str) -> tuple[Network, ...]:
    """``"10.0.0.0/8,fd00::/8"`` to networks without duplicates or overlaps. Raises ConfigurationError."""
    networks = [_parse_prefix(item) for item in _items(text, "prefix", "10.0.0.0/8,fd00::/8")]
    v4 = collapse_addresses(n for n in networks if isinstance(n, IPv4Network))
    v6 = collapse_addresses(n for n in networks if isinstance(n, IPv6Network))
    return (*v4, *v6)


def _items(text: str, what: str, example: str) -> list[str]:
    items = [item.strip() for item in text.split(",")]
    if "" in items:
        problem = f"no {what} given" if items == [""] else f"empty {what} in {checks.shown(text)}"
        raise ConfigurationError(problem, remedy=f"write {example}")
    return items


def _check_port(port: int | str) -> int:
    return checks.integer("port", port, 1, MAX_PORT, remedy=f"use 1 to {MAX_PORT}")


def _parse_prefix(item: str) -> Network:
    if "%" in item:  # ip_network() would forget it
        raise ConfigurationError(
            f"prefix {checks.shown(item)} names an interface, which a policy does not look at",
            remedy=f"write {item.partition('%')[0]}",
        )
    try:
        network = ip_network(item)
    except ValueError:
        raise _prefix_error(item) from None
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - MAPPED_BITS))
    return network


def _prefix_error(item: str) -> ConfigurationError:
    try:
        meant = ip_interface(item).network
    except ValueError:
        return ConfigurationError(
            f"prefix {checks.shown(item)} is not an address or a network",
            remedy="write an address or address/length, as in 10.0.0.0/8 or fd00::/8",
        )
    return ConfigurationError(
        f"prefix {checks.shown(item)} has bits set beyond its length", remedy=f"write {meant}"
    )


def _unmap(address: Address) -> Address:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return address if mapped is None else mapped
