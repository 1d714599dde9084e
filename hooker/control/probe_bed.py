"""What the start-up probes are tried on: two nameless network namespaces, an engine in each.

The namespaces end with the process that tries.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from hooker.control import netns
from hooker.control.cgroup import Cgroup
from hooker.control.policy import Policy

PORT = 5001
TIMEOUT = 10.0  # s, of any one socket operation
ADDRESSES = {"a": ("10.255.77.1", "fd77:ffff::1"), "b": ("10.255.77.2", "fd77:ffff::2")}
T = TypeVar("T")


class Failed(Exception):
    """A probe saw something else than it must."""


class Host:
    """A network namespace without a name, and an engine in it."""

    def __init__(self, letter: str) -> None:
        self.v4, self.v6 = ADDRESSES[letter]
        self.descriptor = -1
        self.engine: Any = None

    def call(self, work: Callable[[], T]) -> T:
        """``work()`` inside the namespace, in a thread of its own."""
        return netns.inside(self.descriptor, work)


def _new_namespace() -> int:
    netns.unshare()
    return netns.own()


def _join(a: Host, b: Host) -> None:
    """A veth pair between them; the calling thread is in b's namespace."""
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link(
            "add", ifname="hkprobe0", kind="veth", peer={"ifname": "hkprobe0", "net_ns_fd": a.descriptor}
        )
    for host in (a, b):
        host.call(partial(_address, host))


def _address(host: Host) -> None:
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


def _start_engine(group: Cgroup, options: dict[str, Any]) -> Any:
    from hooker.hooker import Hooker

    policy = Policy(ports=frozenset({PORT}))
    engine = Hooker(cgroup=group.path, policy=policy, max_flows=1024, control=False, probe=False, **options)
    return engine.start()


@contextlib.contextmanager
def hosts(group: Cgroup, **options: Any) -> Iterator[tuple[Host, Host]]:
    """Two of them, joined, with an engine each for *group*, made with *options* of :class:`hooker.Hooker`."""
    a, b = Host("a"), Host("b")
    a.descriptor = _new_namespace()
    b.descriptor = _new_namespace()
    _join(a, b)
    with contextlib.ExitStack() as stack:
        for host in (a, b):
            host.engine = host.call(partial(_start_engine, group, options))
            stack.callback(host.call, host.engine.close)
        yield a, b


@dataclass(slots=True)
class Pair:
    """One hooked connection: the client's socket and the server's."""

    client: socket.socket
    server: socket.socket

    def close(self) -> None:
        self.client.close()
        self.server.close()


def connect(a: Host, b: Host, family: int = socket.AF_INET) -> Pair:
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
    return Pair(client, server)


def exchange(sender: socket.socket, receiver: socket.socket, sizes: list[int], pause: float = 0.0) -> int:
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


def engaged(a: Host) -> int:
    return int(a.engine.counters()["engaged"])
