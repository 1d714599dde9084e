"""What a process that runs a user's class may not do: take all memory, or what only root needs.

It stays root's, but keeps three capabilities only: ports below 1024, raw sockets, and the mark that keeps the
engine from hooking them. It gains no others.
"""

from __future__ import annotations

import ctypes
import os
import resource

ADDRESS_SPACE = 1 << 30  # bytes
DESCRIPTORS = 1024
KEPT = (10, 12, 13)  # CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW: linux/capability.h
LAST = 63
PR_CAPBSET_DROP = 24  # linux/prctl.h
PR_SET_NO_NEW_PRIVS = 38
VERSION_3 = 0x20080522


def set_limits() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    most = min(DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _drop_capabilities()


def _drop_capabilities() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() != 0:
        return
    for number in range(LAST + 1):
        if number not in KEPT:
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)  # fails for those that this kernel has not
    bits = sum(1 << number for number in KEPT)
    head = (ctypes.c_uint32 * 2)(VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)(
        bits, bits, 0, 0, 0, 0
    )  # effective, permitted, inheritable; then the upper halves
    if libc.capset(head, data):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), "capset")
