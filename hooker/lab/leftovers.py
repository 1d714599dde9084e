"""What the lab, an engine or a test could leave behind, and whether it did.

A :class:`Snapshot` before, one after: :func:`left` names what is new. Kernel objects that a living
process of somebody else holds are not ours; ours must be gone, or held by this very process.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hooker.lab import CGROUP_PREFIX, NETNS_PREFIX, cgroup_root, janitor

SESSION_VARIABLE = "HOOKER_LAB_SESSION"
SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}[os.uname().machine]
NEXT_ID = {"prog": 11, "map": 12, "link": 31}  # commands of bpf(2)
FDINFO = {"prog_id": "prog", "map_id": "map", "link_id": "link"}
SETTLE = 10.0  # s: sockets, programs and namespaces are freed by the kernel in the background

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Snapshot:
    """The things of the machine that we could leave behind, as texts."""

    things: frozenset[str]
    bpf: frozenset[str]
    processes: frozenset[str]


def snapshot() -> Snapshot:
    """Look at the machine now."""
    things = {*_cgroups(), *_namespaces(), *_temporary(), *_routing()}
    return Snapshot(frozenset(things), frozenset(_bpf_objects()), frozenset(_processes()))


def left(before: Snapshot, settle: float = SETTLE) -> list[str]:
    """Return what is there now and was not *before*; waits up to *settle* seconds for it to go.

    What appears only while this waits is somebody else's.
    """
    deadline = time.monotonic() + settle
    stuck = _new(before)
    while stuck and time.monotonic() < deadline:
        time.sleep(0.05)
        stuck &= _new(before)
    return sorted(stuck)


def _new(before: Snapshot) -> set[str]:
    now = snapshot()
    new = (now.things - before.things) | (now.processes - before.processes)
    return set(new) | _orphans(now.bpf - before.bpf)


def _mine(name: str, prefix: str) -> bool:
    return name.startswith(f"{prefix}{os.getpid()}-")


def _cgroups() -> Iterator[str]:
    for path in cgroup_root().glob("hooker*"):
        if path.name.startswith(CGROUP_PREFIX):
            ours = _mine(path.name, CGROUP_PREFIX)
        else:
            ours = not _of_others(path.name.partition("-")[2].partition("-")[0])
        if ours and path.is_dir():
            yield f"cgroup {path.name}"


def _of_others(pid: str) -> bool:
    """Whether *pid* lives and has nothing to do with this session."""
    try:
        environ = Path(f"/proc/{int(pid)}/environ").read_bytes()
    except (OSError, ValueError):
        return False
    return _marker() not in environ


def _marker() -> bytes:
    return f"{SESSION_VARIABLE}={os.environ.get(SESSION_VARIABLE)}".encode()


def _namespaces() -> Iterator[str]:
    for path in Path("/run/netns").glob(f"{NETNS_PREFIX}{os.getpid()}-*"):
        yield f"netns {path.name}"


def _temporary() -> Iterator[str]:
    for path in Path("/tmp").glob(f"{CGROUP_PREFIX}{os.getpid()}-*"):
        yield f"directory {path}"


def _routing() -> Iterator[str]:
    """Rules and routes of the root namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        for family in (2, 10):
            for rule in ipr.get_rules(family=family):
                keys = ("FRA_PRIORITY", "FRA_TABLE", "FRA_FWMARK", "FRA_PROTOCOL")
                yield f"rule {family} {[rule.get_attr(k) for k in keys]}"
            for route in ipr.get_routes(family=family):
                keys = ("RTA_TABLE", "RTA_DST", "RTA_OIF", "RTA_GATEWAY")
                yield f"route {family} {[route.get_attr(k) for k in keys]}"


def _bpf_objects() -> Iterator[str]:
    for kind, command in NEXT_ID.items():
        last = 0
        while True:
            attr = ctypes.create_string_buffer(struct.pack("III", last, 0, 0), 128)
            if _libc.syscall(SYS_BPF, command, attr, 128) < 0:
                break
            last = struct.unpack_from("III", attr.raw)[1]
            yield f"{kind} {last}"


def _orphans(objects: frozenset[str]) -> set[str]:
    """Return those of *objects* that no living process holds."""
    return set(objects) - set(_held()) if objects else set()


def _descriptors() -> Iterator[Path]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield from list((process / "fd").iterdir())
        except OSError:
            pass  # it has ended


def _held() -> Iterator[str]:
    for fd in _descriptors():
        try:
            if "bpf" not in str(fd.readlink()):
                continue
            info = (fd.parent.parent / "fdinfo" / fd.name).read_text()
        except OSError:
            continue
        for line in info.splitlines():
            key, _, value = line.partition(":")
            if key in FDINFO:
                yield f"{FDINFO[key]} {value.strip()}"


def _processes() -> Iterator[str]:
    """Processes that carry this session's environment variable, but for this one and its janitor."""
    if SESSION_VARIABLE not in os.environ:
        return
    known, wanted = (os.getpid(), janitor().pid), _marker()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        pid = environ.parent.name
        try:
            if int(pid) in known or wanted not in environ.read_bytes():
                continue
            name = (environ.parent / "comm").read_text().strip()
            state = (environ.parent / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if state != "Z":
            yield f"process {pid} {name}"
