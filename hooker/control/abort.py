"""Ends TCP sockets by their mark, with sock_diag (<linux/inet_diag.h>), as `ss --kill` does.

The janitor imports it, so it needs nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Iterator

NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY, SOCK_DESTROY = 20, 21
NLM_F_REQUEST, NLM_F_ROOT_MATCH = 1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
INET_DIAG_REQ_BYTECODE, INET_DIAG_BC_MARK_COND = 1, 10
TIME_WAIT, CLOSE, LISTEN = 6, 7, 10  # states that carry nothing
STATES = 0xFFE & ~(1 << TIME_WAIT | 1 << CLOSE | 1 << LISTEN)
HEADER, REQUEST, OPERATION, FOUND = struct.Struct("=IHHII"), struct.Struct("=BBBxI48s"), "=BBH", 4
RECEIVE = 1 << 16  # bytes
FIRST_PAUSE, LAST_PAUSE = 0.05, 2.0  # s between looks


def abort_marked(mark: int, bits: int = 0xFFFFFFFF) -> None:
    """Returns when no socket with that mark can send: orphans cannot be ended before Linux 6.11.

    In the network namespace of the calling thread. Applications get ECONNABORTED. While the kernel does not
    answer (no memory, no descriptors) nobody knows, and what keeps their payload back must stay: it is asked
    again.
    """
    pause = FIRST_PAUSE
    while True:
        with contextlib.suppress(OSError):
            if abort_once(mark, bits):
                return
        time.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


def abort_once(mark: int, bits: int = 0xFFFFFFFF) -> bool:
    """As abort_marked(), without waiting: whether no such socket was found. Raises OSError."""
    found = [
        (family, name) for family in (socket.AF_INET, socket.AF_INET6) for name in _find(family, mark, bits)
    ]
    for family, name in found:
        _destroy(family, name)
    return not found


def can_abort() -> bool:
    """Whether this kernel ends sockets on request (CONFIG_INET_DIAG_DESTROY). No socket is meant."""
    with _netlink() as netlink:
        _send_destroy(netlink, socket.AF_INET, bytes(48))
        answer = netlink.recv(RECEIVE)
    return -struct.unpack_from("=i", answer, HEADER.size)[0] != errno.EOPNOTSUPP


def _netlink() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    opened.settimeout(LAST_PAUSE)
    return opened


def _message(kind: int, flags: int, body: bytes) -> bytes:
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | flags, 1, 0) + body


def _condition(mark: int, bits: int) -> bytes:
    """One operation: go on behind it if the mark is ours, else beyond the end, which refuses."""
    code = struct.pack(OPERATION + "II", INET_DIAG_BC_MARK_COND, 12, 16, mark, bits)
    return struct.pack("=HH", 4 + len(code), INET_DIAG_REQ_BYTECODE) + code


def _find(family: int, mark: int, bits: int) -> Iterator[bytes]:
    """Their names: struct inet_diag_sockid."""
    request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, STATES, bytes(48)) + _condition(mark, bits)
    with _netlink() as netlink:
        netlink.send(_message(SOCK_DIAG_BY_FAMILY, NLM_F_ROOT_MATCH, request))
        while True:
            data = netlink.recv(RECEIVE)
            while data:
                length, kind, _, _, _ = HEADER.unpack_from(data)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", data, HEADER.size)[0]
                    raise OSError(code, "inet_diag")
                yield data[HEADER.size + FOUND : HEADER.size + FOUND + 48]
                data = data[(length + 3) & ~3 :]


def _destroy(family: int, name: bytes) -> None:
    with _netlink() as netlink:
        _send_destroy(netlink, family, name)


def _send_destroy(netlink: socket.socket, family: int, name: bytes) -> None:
    request = REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0xFFFFFFFF, name)
    netlink.send(_message(SOCK_DESTROY, 0, request))
