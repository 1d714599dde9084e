"""What this kernel lacks of the sockets that transports are made of: found out by making one.

Each function returns if it is there, and raises HookerError with a remedy if not. It costs one system call;
the first SCTP or DCCP socket of a boot makes the kernel load a module.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from hooker.errors import ConfigurationError, KernelError

SOCK_DCCP = 6
IPPROTO_DCCP = 33
IPPROTO_UDPLITE = 136
IPPROTO_VTL = 253  # for experiments and testing (RFC 3692)
IPPROTO_MPTCP = 262
MPTCP_ENABLED = Path("/proc/sys/net/mptcp/enabled")

Probe = Callable[[], None]


def _make(what: str, kind: int, protocol: int, remedy: str) -> None:
    try:
        socket.socket(socket.AF_INET, kind, protocol).close()
    except PermissionError:
        raise KernelError(f"{what} sockets need root", remedy="run it with sudo", errno=errno.EPERM) from None
    except OSError as error:
        raise KernelError(
            f"this kernel has no {what} sockets: {os.strerror(error.errno or 0)}",
            remedy=remedy,
            errno=error.errno or 0,
        ) from None


def udp() -> None:
    _make("UDP", socket.SOCK_DGRAM, socket.IPPROTO_UDP, "use a kernel with CONFIG_INET")


def quic() -> None:
    """Its library, too: without that this version was built without it."""
    udp()
    try:
        import_module("hooker.transports.quic")
    except ImportError as error:
        raise ConfigurationError(
            f"it is built without libngtcp2 0.12: {error}",
            remedy="apt-get install libngtcp2-crypto-gnutls-dev libngtcp2-dev libgnutls28-dev; ./dev build",
        ) from None


def udplite() -> None:
    _make("UDP-Lite", socket.SOCK_DGRAM, IPPROTO_UDPLITE, "use a kernel that still has it")


def dccp() -> None:
    _make("DCCP", SOCK_DCCP, IPPROTO_DCCP, "modprobe dccp_ipv4 dccp_ipv6; Linux 6.16 and later have none")


def raw() -> None:
    _make("raw IP", socket.SOCK_RAW, IPPROTO_VTL, "use a kernel with CONFIG_INET")


def sctp() -> None:
    _make("SCTP", socket.SOCK_STREAM, socket.IPPROTO_SCTP, "modprobe sctp; or a kernel with CONFIG_IP_SCTP")


def tcp() -> None:
    _make("TCP", socket.SOCK_STREAM, socket.IPPROTO_TCP, "use a kernel with CONFIG_INET")


def mptcp() -> None:
    off = MPTCP_ENABLED.exists() and MPTCP_ENABLED.read_text().strip() == "0"
    remedy = "sysctl net.mptcp.enabled=1" if off else "use a kernel with CONFIG_MPTCP"
    _make("MPTCP", socket.SOCK_STREAM, IPPROTO_MPTCP, remedy)
