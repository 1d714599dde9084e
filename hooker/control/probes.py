"""What the engine relies on, tried on this kernel with real sockets before a user's bytes are trusted to it.

Each kind of engine has its probes (``PROBES``), and one that takes messages those of segments, too; what is
its own is here. Two hosts (``probe_bed.py``), one connection a probe, bytes compared. The control group is
removed by its janitor even if the process that tries is killed. The kernel's own history says what to ask:
push_data at a message's end (mended in 6.13), order across PASS and REDIRECT, FIN and poll faults before 6.4,
FIONREAD in a map.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hooker import start
from hooker.control import janitor, kept
from hooker.control.cgroup import Cgroup
from hooker.control.compiled import source
from hooker.control.janitor import Janitor
from hooker.control.kernel import MAIN
from hooker.control.probe_bed import TIMEOUT, Failed, Host, Pair, connect, exchange, hosts
from hooker.control.probe_segments import probe_moves, probe_returns
from hooker.control.rundir import run_directory
from hooker.errors import HookerError


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe's verdict; ``detail`` is what was seen, ``remedy`` what to do when it is not ``ok``."""

    name: str
    ok: bool
    required: bool
    detail: str
    remedy: str = ""


# ---- probes ----------------------------------------------------------------------------------------


def _probe_order(a: Host, b: Host) -> str:
    before = a.engine.counters()
    rng = random.Random(1)
    pair = connect(a, b)
    with contextlib.closing(pair):
        _adopted(a, pair)
        moved = exchange(
            pair.client, pair.server, [rng.choice((1, 100, 1448, 16384, 65536)) for _ in range(1500)]
        )
        moved += exchange(
            pair.client, pair.server, [rng.randrange(1, 200000) for _ in range(150)], pause=0.0005
        )
    after = a.engine.counters()
    redirected = after["kernel.message-redirected"] - before["kernel.message-redirected"]
    if not redirected:
        raise Failed("no message was redirected")
    spilled = after["kernel.spilled"] - before["kernel.spilled"]
    return f"{moved >> 20} MiB in order: {redirected} messages redirected, {spilled} changes to PASS"


def _adopted(a: Host, pair: Pair) -> None:
    """Some traffic, until the client's socket is in the map."""
    before = a.engine.counters()["adopted"]
    deadline = time.monotonic() + TIMEOUT
    while a.engine.counters()["adopted"] == before:
        if time.monotonic() > deadline:
            raise Failed("the socket was not put into the map")
        exchange(pair.client, pair.server, [100])


def _probe_push(a: Host, b: Host) -> str:
    pair = connect(a, b)
    with contextlib.closing(pair):
        _adopted(a, pair)
        for size in (65535, 65536, 131072, 1 << 20):
            exchange(pair.client, pair.server, [size])
            time.sleep(0.01)
    counters = a.engine.counters()
    failures = counters["kernel.push-failed"] + counters["kernel.pull-failed"]
    return f"full messages framed, {failures} left to TCP because push_data refused"


def _probe_readiness(a: Host, b: Host) -> str:
    pair = connect(a, b)
    with contextlib.closing(pair):
        _adopted(a, pair)
        poll = select.poll()
        poll.register(pair.client, select.POLLIN)
        if poll.poll(0):
            raise Failed("poll() says readable, and nothing was sent")
        pair.server.sendall(b"x" * 5000)
        deadline = time.monotonic() + 1
        waiting = 0
        while waiting < 5000 and time.monotonic() < deadline:
            poll.poll(100)
            waiting = struct.unpack("i", fcntl.ioctl(pair.client, termios.FIONREAD, bytes(4)))[0]
        if waiting != 5000:
            raise Failed(f"FIONREAD says {waiting} of 5000 bytes")
        reader, writer = os.pipe()
        try:
            moved = os.splice(pair.client.fileno(), writer, 5000) if hasattr(os, "splice") else 5000
            if moved != 5000:
                raise Failed(f"splice() moved {moved} of 5000 bytes")
        finally:
            os.close(reader)
            os.close(writer)
        pair.server.shutdown(socket.SHUT_WR)
        if not poll.poll(1000) or pair.client.recv(1) != b"":
            raise Failed("the end of data does not show")
    return "poll(), FIONREAD and splice() agree on a socket in the map, and see its end of data"


Probe = Callable[[Host, Host], str]
PROBES: dict[str, tuple[tuple[str, Probe, bool], ...]] = {  # by what an engine takes: name, probe, required
    "segments": (
        ("segments-ipv4", partial(probe_moves, family=socket.AF_INET), True),
        ("segments-ipv6", partial(probe_moves, family=socket.AF_INET6), False),
        ("segments-return", probe_returns, True),  # the last: it ends an engine
    ),
    "messages": (
        ("redirect-order", _probe_order, False),
        ("redirect-push", _probe_push, False),
        ("redirect-readiness", _probe_readiness, False),
    ),
}
BESIDE = {"messages": ("segments",)}  # whose probes count, too
PATIENT = 5.0  # s, a flow's hold: the kernel is tried, not how busy the machine is
OPTIONS: dict[str, dict[str, Any]] = {
    "segments": {},
    "messages": {"redirect": "always", "hold_time": PATIENT},
}
REMEDY = "use a newer kernel; hooking does not work on this one"
IPV6_REMEDY = "IPv6 connections stay on TCP; see why with python -m hooker.control.probes"
REDIRECT_REMEDY = "nothing to do: on this kernel all data comes as segments instead of by the redirect socket"


def _try(name: str, probe: Probe, required: bool, a: Host, b: Host) -> ProbeResult:
    try:
        return ProbeResult(name, True, required, probe(a, b))
    except (Failed, OSError) as error:
        if getattr(error, "errno", 0) == errno.EAFNOSUPPORT:
            remedy = "nothing to do, unless this host should have IPv6"
        elif name.endswith("-ipv6"):
            remedy = IPV6_REMEDY
        else:
            remedy = REDIRECT_REMEDY if name.startswith("redirect-") else REMEDY
        return ProbeResult(name, False, required, str(error), remedy)


def _all(intercept: str) -> list[ProbeResult]:
    """In this process, which is then in a namespace of its own."""
    with Janitor() as keeper:
        group = Cgroup.named()
        undo = keeper.register(janitor.cgroup(group.relative))
        try:
            group.make()
            group.add()
            with hosts(group, intercept=intercept, **OPTIONS[intercept]) as (a, b):
                return [_try(name, probe, required, a, b) for name, probe, required in PROBES[intercept]]
        except (HookerError, OSError) as error:
            return [_no_engine(getattr(error, "message", str(error)), getattr(error, "remedy", ""))]
        finally:
            if group.remove():
                undo.done()


def _no_engine(detail: str, remedy: str = "") -> ProbeResult:
    return ProbeResult("engine", False, True, detail, remedy)


def run_all(intercept: str, timeout: float = 300.0) -> list[ProbeResult]:
    """Every probe of an engine, in a process of its own. Root; takes seconds, minutes if emulated."""
    command = start.module("hooker.control.probes", intercept)
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run(
            command, env=start.environment(), cwd="/", timeout=timeout, check=False, **quiet
        )
    except subprocess.TimeoutExpired:
        return [_no_engine(f"the probes did not end within {timeout:.0f} s")]
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return [_no_engine(said[-1], f"run python -m hooker.control.probes {intercept} to see more")]
    return [ProbeResult(**row) for row in json.loads(lines[-1])]


def verdicts(intercept: str, *, fresh: bool = False) -> list[ProbeResult]:
    """As run_all(), but tried once only (unless ``fresh``) for a kernel, a boot and these programs.

    Who asks while they run waits for that verdict: engines are often started together.
    """
    beside = [result for other in BESIDE.get(intercept, ()) for result in own_verdicts(other, fresh=fresh)]
    return beside + own_verdicts(intercept, fresh=fresh)


def own_verdicts(intercept: str, *, fresh: bool) -> list[ProbeResult]:
    """As verdicts(), without those of another kind that count, too."""
    path = run_directory() / f"probes-{intercept}-{_machine(intercept)}.json"
    if not fresh and (known := _known(path, intercept)):
        return known
    with open(path.with_suffix(".lock"), "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed; run_all() ends in time
        if not fresh and (known := _known(path, intercept)):
            return known
        results = run_all(intercept)
        if all(result.ok for result in results if result.required):  # a failure may have been the moment's
            with contextlib.suppress(OSError):  # then the next start tries again
                kept.write(path, json.dumps([asdict(result) for result in results]).encode())
    return results


def _known(path: Path, intercept: str) -> list[ProbeResult]:
    """The verdict that is kept; nothing when there is none, or none to be believed."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return _read(path, intercept)
    return []


def _read(path: Path, intercept: str) -> list[ProbeResult]:
    """A verdict that is kept. Raises ConfigurationError (a ValueError) when it is not to be believed."""
    results = [ProbeResult(**row) for row in json.loads(kept.read(path, "verdict"))]
    expected = [(name, required) for name, _, required in PROBES[intercept]]
    if [(result.name, result.required) for result in results] != expected:
        raise ValueError("a verdict about other probes")
    if any(type(result.ok) is not bool for result in results):
        raise TypeError("a verdict that is neither yes nor no")
    return results


def _machine(intercept: str) -> str:
    with open("/proc/sys/kernel/random/boot_id") as boot:
        known = boot.read() + os.uname().release + os.uname().version + source(MAIN[intercept])
    return hashlib.blake2b(known.encode(), digest_size=8).hexdigest()


if __name__ == "__main__":
    print(json.dumps([asdict(result) for result in _all(*sys.argv[1:] or ["segments"])]))
