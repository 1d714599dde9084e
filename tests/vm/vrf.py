"""A host whose link is in a VRF (the kernel's networking/vrf.rst): its sockets are bound to a device."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from support import PEER, result, same
from world import MB, SLOW, World, need, ports

from hooker.lab import Host

SIZE = MB
LIMIT = 30.0  # s, on an emulated processor: far below what a lost answer costs
DEVICE = "red"
L3MDEV_ACCEPT = "net.ipv4.tcp_l3mdev_accept"
BOUND = ("ip", "vrf", "exec", DEVICE)


@contextmanager
def inside(host: Host, accept: str) -> Iterator[None]:
    """The link of *host* is in a VRF; with *accept* its listeners outside serve the VRF's clients too."""

    def ip(*words: object) -> None:
        host.run(["ip", *map(str, words)], hooked=False)

    host.sysctl("net.ipv6.conf.eth0.keep_addr_on_down", "1")  # a VRF takes and gives its links down and up
    ip("link", "add", DEVICE, "type", "vrf", "table", 100)
    ip("link", "set", DEVICE, "up")
    ip("link", "set", "eth0", "master", DEVICE)
    host.sysctl(L3MDEV_ACCEPT, accept)
    try:
        yield
    finally:
        host.sysctl(L3MDEV_ACCEPT, "0")
        ip("link", "del", DEVICE)


def moved(world: World, client: tuple[str, ...], server: tuple[str, ...]) -> float:
    """A transfer from a to b and an answer, each end started by these words; seconds from connect to end."""
    a, b, port = world.lab.a, world.lab.b, next(ports)
    python = (sys.executable, str(PEER))
    serve = [*server, *python, "serve", "0.0.0.0", str(port), "recv-all", "send:1000", "close"]
    send = [*client, *python, "connect", b.v4, str(port), f"send:{SIZE}", "fin", "recv-all", "close"]
    one = b.popen(serve, stdout=subprocess.PIPE, text=True)
    b.wait_listening(port, SLOW)
    began = time.monotonic()
    two = a.popen(send, stdout=subprocess.PIPE, text=True)
    sent, received = result(two, SLOW), result(one, SLOW)
    need(sent["error"] is None and received["error"] is None, f"{sent} {received}")
    need(sent["sent"] == SIZE, f"{sent['sent']} of {SIZE} bytes sent")
    same(sent, received)
    same(received, sent)
    return time.monotonic() - began


def vrf(world: World) -> str:
    """Connections from a VRF, to one, and to a listener for all: whole, in time, and counted where bound."""
    a, b = world.lab.hosts
    took = [f"no VRF {moved(world, (), ()):.1f} s"]
    for name, host, accept, client, server in (
        ("from one", a, "0", BOUND, ()),
        ("to one", b, "0", (), BOUND),
        ("to a listener for all", b, "1", (), ()),
    ):
        before = world.why()
        with inside(host, accept):
            seconds = moved(world, client, server)
        after = world.why()
        why = {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
        need(seconds < LIMIT, f"{name}: {seconds:.1f} s {why}")
        need(client == () or why.get("socket-bound-to-device"), f"{name}: {why}")
        took.append(f"{name} {seconds:.1f} s {why}")
    world.stop()  # these have learnt to avoid each other: their datagrams did not arrive
    world.start(*world.options)
    return "; ".join(took)
