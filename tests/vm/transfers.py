"""Transfers of every kind, as they must go with both kinds of engine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from support import peer, result, same, url
from world import HOOKER, MB, SLOW, need, ports

from hooker.lab.apps import HTTP_PORT, sha256, write_random

if TYPE_CHECKING:
    from world import World


def http(world: World) -> str:
    """An unmodified curl, an unmodified nginx, IPv4 and IPv6, both ways."""
    lab, size = world.lab, 5 * MB
    digest = write_random(lab.tmp / "upload", size)
    world.publish(lab.tmp / "upload")
    for family in ("v4", "v6"):
        with world.hooked(flows=2, payload=2 * size):
            got = lab.tmp / "got"
            lab.a.run(["curl", "-sS", "-o", got, url(lab.b, family, "upload", HTTP_PORT)], timeout=SLOW)
            need(sha256(got) == digest, f"{family}: the download differs")
            put = url(lab.b, family, "up/file", HTTP_PORT)
            lab.a.run(["curl", "-sS", "-T", lab.tmp / "upload", put], timeout=SLOW)
            need(sha256(world.www / "up" / "file") == digest, f"{family}: the upload differs")
    return f"4 x {size >> 20} MiB, equal, over VTL"


def transfer(world: World, action: str, size: int, *, payload: bool = True, port: int = 0) -> None:
    port = port or next(ports)
    with world.hooked(payload=size if payload else 0):
        server = peer(world.lab.b, "serve", "0.0.0.0", port, "recv-all", "close")
        client = peer(world.lab.a, "connect", world.lab.b.v4, port, f"{action}:{size}", "close")
        one, other = result(client, SLOW), result(server, SLOW)
    need(one["error"] is None and other["error"] is None, f"{one} {other}")
    need(one["sent"] == size, f"{one['sent']} of {size} bytes sent")
    same(one, other)


def servers_first(world: World) -> str:
    """The server speaks first, and half-closes."""
    port = next(ports)
    with world.hooked():
        server = peer(world.lab.b, "serve", "0.0.0.0", port, "send:100000", "fin", "recv-all", "close")
        client = peer(world.lab.a, "connect", world.lab.b.v4, port, "recv-all", "send:200000", "close")
        one, other = result(client, SLOW), result(server, SLOW)
    same(one, other)
    same(other, one)
    return "100 kB, FIN, then 200 kB the other way"


NETEM = {
    "delay and loss": "delay 10ms loss 1%",
    "bursts of loss": "delay 10ms loss gemodel 1% 30%",
    "reordering": "delay 20ms 5ms reorder 25% 50%",
    "duplicates": "delay 5ms duplicate 5%",
    "corruption": "delay 5ms corrupt 0.5%",
    "rate": "delay 5ms rate 50mbit limit 100",
}


def netem(world: World) -> str:
    """The kernel's own emulator, the same both ways."""
    took = []
    for name, link in NETEM.items():
        port = next(ports)
        # a service that has answered once gets a second SYN with the option when the first is lost
        transfer(world, "send", 1000, port=port, payload=False)
        rule = ["tc", "qdisc", "replace", "dev", "eth0", "root", "netem", *link.split()]
        for host in world.lab.hosts:
            host.run(rule, hooked=False)
        try:
            start = time.monotonic()
            transfer(world, "send", 4 * MB, port=port)
            took.append(f"{name} {time.monotonic() - start:.1f} s")
        finally:
            for host in world.lab.hosts:
                host.run(["tc", "qdisc", "del", "dev", "eth0", "root"], hooked=False)
    return f"4 MiB equal each: {', '.join(took)}"


def nested(world: World) -> str:
    """`hooker run` inside the namespace of an engine that has the root: one of them takes the connection."""
    lab, size = world.lab, 2 * MB
    digest = write_random(lab.tmp / "nested", size)
    world.publish(lab.tmp / "nested")
    command = [*HOOKER, "run", "-v", *world.options, "--", "curl", "-sS", "-m", "60", "-o", lab.tmp / "got"]
    done = lab.a.run(
        [*command, url(lab.b, "v4", "nested", HTTP_PORT)], hooked=False, timeout=SLOW, check=False
    )
    need(done.returncode == 0, f"exit status {done.returncode}: {done.stderr.decode()[-1500:]}")
    need(sha256(lab.tmp / "got") == digest, "the download differs")
    return " | ".join(line for line in done.stderr.decode().splitlines() if "flow" in line)
