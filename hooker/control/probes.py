"""What the engine relies on, tried on this kernel with real sockets before a user's bytes are trusted to it.

Two nameless network namespaces, an engine in each, one connection a probe, bytes compared. The namespaces
end with the process that tries; the control group is removed by its janitor even if that is killed. The
kernel's own history says what to ask: push_data at a message's end (mended in 6.13), order across PASS and
REDIRECT, FIN and poll faults before 6.4, FIONREAD of a socket in a map.
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
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from hooker import start
from hooker.control import janitor, trust
from hooker.control.cgroup import Cgroup
from hooker.control.janitor import Janitor
from hooker.control.kernel import source
from hooker.control.policy import Policy
from hooker.control.rundir import run_directory
from hooker.errors import HookerError

CLONE_NEWNET = 0x40000000
MAX_VERDICT = 1 << 20  # bytes
PORT = 5001
TIMEOUT = 10.0  # s, of any one socket operation
PROMPT = 0.15  # s: less than any timer of TCP's
ADDRESSES = {"a": ("10.255.77.1", "fd77:ffff::1"), "b": ("10.255.77.2", "fd77:ffff::2")}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One probe's verdict; ``detail`` is what was seen, ``remedy`` what to do when it is not ``ok``."""

    name: str
    ok: bool
    required: bool
    detail: str
    remedy: str = ""


class Failed(Exception):
    """A probe saw something else than it must."""


# ---- two hosts -------------------------------------------------------------------------------------


class _Host:
    """A network namespace without a name, and an engine in it."""

    def __init__(self, letter: str) -> None:
        self.v4, self.v6 = ADDRESSES[letter]
        self.descriptor = -1
        self.engine: Any = None

    def call(self, work: Callable[[], T]) -> T:
        """``work()`` inside the namespace, in a thread of its own."""
        results: list[T] = []
        errors: list[BaseException] = []

        def body() -> None:
            try:
                _setns(self.descriptor)
                results.append(work())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=body)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]


def _setns(descriptor: int) -> None:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _new_namespace() -> int:
    import ctypes

    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _join(a: _Host, b: _Host) -> None:
    """A veth pair between them; the calling thread is in b's namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link(
            "add", ifname="hkprobe0", kind="veth", peer={"ifname": "hkprobe0", "net_ns_fd": a.descriptor}
        )
    for host in (a, b):
        host.call(partial(_address, host))


def _address(host: _Host) -> None:
    from pyroute2 import IPRoute

    with contextlib.suppress(OSError), open("/proc/sys/net/ipv6/conf/all/accept_dad", "w") as dad:
        dad.write("0")
    with IPRoute() as netlink:
        for name in ("lo", "hkprobe0"):
            index = netlink.link_lookup(ifname=name)[0]
            netlink.link("set", index=index, state="up")
        netlink.addr("add", index=index, address=host.v4, prefixlen=24)
        with contextlib.suppress(Exception):  # a host without IPv6
            netlink.addr("add", index=index, address=host.v6, prefixlen=64, flags=0x02)  # IFA_F_NODAD


def _start_engine(group: Cgroup) -> Any:
    from hooker.hooker import Hooker

    policy = Policy(ports=frozenset({PORT}))
    engine = Hooker(
        cgroup=group.path, policy=policy, max_flows=1024, control=False, probe=False, redirect="always"
    )
    return engine.start()


@contextlib.contextmanager
def _hosts(group: Cgroup) -> Iterator[tuple[_Host, _Host]]:
    a, b = _Host("a"), _Host("b")
    a.descriptor = _new_namespace()
    b.descriptor = _new_namespace()
    _join(a, b)
    with contextlib.ExitStack() as stack:
        for host in (a, b):
            host.engine = host.call(partial(_start_engine, group))
            stack.callback(host.call, host.engine.close)
        yield a, b


@dataclass(slots=True)
class _Pair:
    """One hooked connection: the client's socket and the server's."""

    client: socket.socket
    server: socket.socket

    def close(self) -> None:
        self.client.close()
        self.server.close()


def _connect(a: _Host, b: _Host, family: int = socket.AF_INET) -> _Pair:
    def listen() -> socket.socket:
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", PORT))
        listener.listen(8)
        return listener

    with b.call(listen) as listener:
        client = a.call(lambda: socket.socket(family))
        client.settimeout(TIMEOUT)
        client.connect((b.v4 if family == socket.AF_INET else b.v6, PORT))
        server, _ = listener.accept()
        server.settimeout(TIMEOUT)
    return _Pair(client, server)


# ---- probes ----------------------------------------------------------------------------------------


def _exchange(sender: socket.socket, receiver: socket.socket, sizes: list[int], pause: float = 0.0) -> int:
    """Send messages of these sizes and compare what arrives; bytes moved."""
    seen, sent = hashlib.blake2b(), hashlib.blake2b()
    data = random.Random(7).randbytes(max(sizes))
    total = sum(sizes)

    def write() -> None:
        for size in sizes:
            part = memoryview(data)[:size]
            sent.update(part)
            sender.sendall(part)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    got = 0
    while got < total:
        part = receiver.recv(1 << 18)
        if not part:
            raise Failed(f"the data ended after {got} of {total} bytes")
        seen.update(part)
        got += len(part)
        if pause:
            time.sleep(pause)
    writer.join(TIMEOUT)
    if seen.digest() != sent.digest():
        raise Failed(f"{total} bytes arrived changed or out of order")
    return total


def _engaged(a: _Host) -> int:
    return int(a.engine.counters()["engaged"])


def _probe_engage(a: _Host, b: _Host, family: int) -> str:
    before = _engaged(a)
    pair = _connect(a, b, family)
    with contextlib.closing(pair):
        _exchange(pair.client, pair.server, [1, 1000, 100])
        _exchange(pair.server, pair.client, [1, 1000, 100])
    if _engaged(a) != before + 1:
        raise Failed(f"the connection stayed on TCP: {a.engine.reasons()}")
    return "option, twin and mark work; bytes equal both ways"


def _probe_order(a: _Host, b: _Host) -> str:
    before = a.engine.counters()
    rng = random.Random(1)
    pair = _connect(a, b)
    with contextlib.closing(pair):
        _adopted(a, pair)
        moved = _exchange(
            pair.client, pair.server, [rng.choice((1, 100, 1448, 16384, 65536)) for _ in range(1500)]
        )
        moved += _exchange(
            pair.client, pair.server, [rng.randrange(1, 200000) for _ in range(150)], pause=0.0005
        )
    after = a.engine.counters()
    redirected = after["kernel.message-redirected"] - before["kernel.message-redirected"]
    if not redirected:
        raise Failed("no message was redirected")
    spilled = after["kernel.spilled"] - before["kernel.spilled"]
    return f"{moved >> 20} MiB in order: {redirected} messages redirected, {spilled} changes to PASS"


def _adopted(a: _Host, pair: _Pair) -> None:
    """Some traffic, until the client's socket is in the map."""
    before = a.engine.counters()["adopted"]
    deadline = time.monotonic() + TIMEOUT
    while a.engine.counters()["adopted"] == before:
        if time.monotonic() > deadline:
            raise Failed("the socket was not put into the map")
        _exchange(pair.client, pair.server, [100])


def _probe_push(a: _Host, b: _Host) -> str:
    pair = _connect(a, b)
    with contextlib.closing(pair):
        _adopted(a, pair)
        for size in (65535, 65536, 131072, 1 << 20):
            _exchange(pair.client, pair.server, [size])
            time.sleep(0.01)
    counters = a.engine.counters()
    failures = counters["kernel.push-failed"] + counters["kernel.pull-failed"]
    return f"full messages framed, {failures} left to TCP because push_data refused"


def _probe_nudge(a: _Host, b: _Host) -> str:
    pair = _connect(a, b)
    with contextlib.closing(pair):
        start = time.monotonic()
        pair.client.sendall(bytes(40000))
        pair.client.shutdown(socket.SHUT_WR)
        got = 0
        while part := pair.server.recv(65536):
            got += len(part)
        took = time.monotonic() - start
        pair.server.sendall(b"after the half-close")
        if got != 40000 or pair.client.recv(100) != b"after the half-close":
            raise Failed("data or half-close went wrong")
    if took > PROMPT:
        raise Failed(f"40 kB sent at once took {took * 1000:.0f} ms: a timer of TCP's was waited for")
    return f"40 kB and a FIN sent at once arrived after {took * 1000:.1f} ms"


def _probe_readiness(a: _Host, b: _Host) -> str:
    pair = _connect(a, b)
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


def _probe_reset(a: _Host, b: _Host) -> str:
    pair = _connect(a, b)
    with contextlib.closing(pair):
        _exchange(pair.client, pair.server, [100] * 20)
        pair.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        pair.client.close()
        try:
            if pair.server.recv(1) == b"":
                raise Failed("a reset arrived as an end of data")
        except ConnectionResetError:
            return "a reset arrives as a reset"
    raise Failed("a reset did not arrive")


PROBES: tuple[tuple[str, Callable[[_Host, _Host], str], bool], ...] = (
    ("flow-ipv4", lambda a, b: _probe_engage(a, b, socket.AF_INET), True),
    ("flow-ipv6", lambda a, b: _probe_engage(a, b, socket.AF_INET6), False),
    ("nudge", _probe_nudge, True),
    ("reset", _probe_reset, True),
    ("redirect-order", _probe_order, False),
    ("redirect-push", _probe_push, False),
    ("redirect-readiness", _probe_readiness, False),
)
REMEDY = "use a newer kernel; hooking does not work on this one"
IPV6_REMEDY = "IPv6 connections stay on TCP; see why with python -m hooker.control.probes"
REDIRECT_REMEDY = (
    "nothing to do: on this kernel all data goes through the twins instead of the redirect socket"
)


def _try(name: str, probe: Callable[[_Host, _Host], str], required: bool, a: _Host, b: _Host) -> ProbeResult:
    try:
        return ProbeResult(name, True, required, probe(a, b))
    except (Failed, OSError) as error:
        if getattr(error, "errno", 0) == errno.EAFNOSUPPORT:
            remedy = "nothing to do, unless this host should have IPv6"
        elif name == "flow-ipv6":
            remedy = IPV6_REMEDY
        else:
            remedy = REDIRECT_REMEDY if name.startswith("redirect-") else REMEDY
        return ProbeResult(name, False, required, str(error), remedy)


def _all() -> list[ProbeResult]:
    """In this process, which is then in a namespace of its own."""
    with Janitor() as keeper:
        group = Cgroup.named()
        undo = keeper.register(janitor.cgroup(group.relative))
        try:
            group.make()
            group.add()
            with _hosts(group) as (a, b):
                return [_try(name, probe, required, a, b) for name, probe, required in PROBES]
        except (HookerError, OSError) as error:
            return [ProbeResult("engine", False, True, str(error), getattr(error, "remedy", ""))]
        finally:
            if group.remove():
                undo.done()


def run_all(timeout: float = 300.0) -> list[ProbeResult]:
    """Every probe, in a process of its own. Needs root; takes seconds; minutes on an emulated processor."""
    command = start.module("hooker.control.probes")
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
    try:
        done = subprocess.run(
            command, env=start.environment(), cwd="/", timeout=timeout, check=False, **quiet
        )
    except subprocess.TimeoutExpired:
        return [ProbeResult("engine", False, True, f"the probes did not end within {timeout:.0f} s")]
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return [
            ProbeResult("engine", False, True, said[-1], "run python -m hooker.control.probes to see more")
        ]
    return [ProbeResult(**row) for row in json.loads(lines[-1])]


def verdicts(*, fresh: bool = False) -> list[ProbeResult]:
    """As run_all(), but tried once only (unless ``fresh``) for a kernel, a boot and these programs."""
    path = run_directory() / f"probes-{_machine()}.json"
    if not fresh:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # no verdict, or not ours
            return _read(path)
    results = run_all()
    if all(result.ok for result in results if result.required):  # a failure may have been the moment's
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.unlink(missing_ok=True)  # of a process that was killed and had the same pid
        with temporary.open("x") as file:
            file.write(json.dumps([asdict(result) for result in results]))
        temporary.replace(path)
    return results


def _read(path: Path) -> list[ProbeResult]:
    """A verdict that is kept. Raises ConfigurationError (a ValueError) when it is not to be believed."""
    with open(trust.open_file(path, f"verdict {path}"), "rb") as file:
        rows = json.loads(file.read(MAX_VERDICT))
    results = [ProbeResult(**row) for row in rows]
    if [(result.name, result.required) for result in results] != [(name, need) for name, _, need in PROBES]:
        raise ValueError("a verdict about other probes")
    if any(type(result.ok) is not bool for result in results):
        raise TypeError("a verdict that is neither yes nor no")
    return results


def _machine() -> str:
    with open("/proc/sys/kernel/random/boot_id") as boot:
        known = boot.read() + os.uname().release + os.uname().version + source()
    return hashlib.blake2b(known.encode(), digest_size=8).hexdigest()


if __name__ == "__main__":
    print(json.dumps([asdict(result) for result in _all()]))
