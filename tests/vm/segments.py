"""Engines that take segments: as the others, but what happens to an engine is not noticed by applications."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import eventually, peer, result, same
from world import HOOKER, MB, SLOW, World, need, ports, traces

SEGMENTS = ("--intercept", "segments")
SIZE = 60 * MB


def no_device(world: World) -> str:
    """Without TUN devices such an engine does not start, and says what to do. Then the module is loaded."""
    need(not Path("/dev/net/tun").exists(), "the module is there already")
    command = [*HOOKER, "up", *SEGMENTS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SLOW)
    need(done.returncode == 1 and "modprobe tun" in done.stderr, f"{done.returncode}: {done.stderr}")
    subprocess.run(["modprobe", "tun"], check=True)
    return done.stderr.strip()


def start(world: World) -> str:
    """Two engines on the root of cgroup v2."""
    subprocess.run(["modprobe", "tun"], check=True)
    world.start(*SEGMENTS)
    engines = [engine.status()["engine"] for engine in world.engines.values()]
    need(all(engine["intercept"] == "segments" for engine in engines), f"{engines}")
    return f"cgroup {engines[0]['cgroup']}"


@contextmanager
def transferring(world: World) -> Iterator[None]:
    """In the middle of a transfer, which must then end as if nothing had happened."""
    port, progress = next(ports), world.lab.tmp / f"progress-{next(ports)}"
    world.lab.meter.start()
    server = peer(world.lab.b, "serve", "0.0.0.0", port, "recv-all", "send:1000", "close")
    actions = (f"send:{SIZE}", "fin", "recv-all", "close")
    client = peer(
        world.lab.a, "connect", world.lab.b.v4, port, *actions, options=("--progress", str(progress))
    )
    eventually(lambda: progress.exists() and int(progress.read_text() or 0) > SIZE // 10, SLOW)
    eventually(lambda: world.lab.meter.read().vtl.payload > SIZE // 20, SLOW)
    need(client.poll() is None, "it is over already")
    yield
    one, other = result(client, SLOW), result(server, SLOW)
    need(one["error"] is None and other["error"] is None, f"{one} {other}")
    need(one["sent"] == SIZE, f"{one['sent']} of {SIZE} bytes sent")
    same(one, other)
    same(other, one)


def killed(world: World) -> str:
    """kill -9 of one engine in the middle of a transfer, then of the other, then of both."""
    for letters in ("a", "b", "ab"):
        with transferring(world):
            for letter in letters:
                engine = world.engines.pop(letter)
                engine.proc.kill()
                engine.proc.wait()
        for host in world.lab.hosts:
            if host.letter in letters:
                eventually(lambda host=host: not traces(host), 20)
                world.start_one(host)
    with transferring(world):
        pass
    return f"{SIZE >> 20} MiB equal each time; device, rule and routes are gone; a new engine carries again"


def stopped(world: World) -> str:
    """The engines' ordinary end in the middle of a transfer: TCP goes on, and nothing is left."""
    with transferring(world):
        world.stop()
    need(not traces(world.lab.a) and not traces(world.lab.b), "device, rules or routes are left")
    return f"{SIZE >> 20} MiB equal; plain TCP from there"
