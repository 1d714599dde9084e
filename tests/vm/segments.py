"""Engines that take segments: as the others, but what happens to an engine is not noticed by applications."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support import FAMILIES, address, any_address, eventually, peer, result, same
from ways import Paths, flows, outcome
from world import HOOKER, MB, SLOW, World, need, ports, traces

SEGMENTS = ("--intercept", "segments")
SIZE = 40 * MB
ASKING, RESTING = 5, 5  # flows of each family: a busy crowd takes all of an emulated processor


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


def engaged(world: World) -> int:
    """How many flows a's engine has engaged."""
    return world.engines["a"].counters()["engaged"]


@contextmanager
def crowd(world: World) -> Iterator[list[str]]:
    """Flows of both families that ask all the time, and others that rest until the end; all is right.

    What is said of them is in the list when it is over.
    """
    lab, port, name = world.lab, next(ports), next(ports)
    until, said = lab.tmp / f"until-{name}", []
    server, before = flows(lab.b, "echo", "::", port), engaged(world)
    asking = [
        flows(lab.a, "ask", where, port, str(number), what, str(until), "--every", "1")
        for where in (lab.b.v4, lab.b.v6)
        for number, what in ((ASKING, "--until"), (RESTING, "--idle"))
    ]
    eventually(lambda: engaged(world) - before >= 2 * (ASKING + RESTING), SLOW)
    yield said
    until.touch()
    found = [outcome(one, SLOW) for one in asking]
    server.terminate()
    server.wait(SLOW)
    need(all(not one["errors"] and not one["wrong"] and one["answers"] for one in found), f"{found}")
    answers, slowest = sum(one["answers"] for one in found), max(one["slowest"] for one in found)
    said.append(f"{answers} answers, the slowest after {slowest:.1f} s")


@contextmanager
def transferring(world: World, family: str = "v4", size: int = SIZE) -> Iterator[list[str]]:
    """In the middle of a transfer, which must then end as if nothing had happened.

    Its longest silence is in the list when it is over.
    """
    port, progress, said = next(ports), world.lab.tmp / f"progress-{next(ports)}", []
    world.lab.meter.start()
    server = peer(world.lab.b, "serve", any_address(family), port, "recv-all", "send:1000", "close")
    actions, seen = (f"send:{size}", "fin", "recv-all", "close"), ("--progress", str(progress))
    client = peer(world.lab.a, "connect", address(world.lab.b, family), port, *actions, options=seen)
    eventually(lambda: progress.exists() and int(progress.read_text() or 0) > size // 10, SLOW)
    eventually(lambda: world.lab.meter.read().vtl.payload > size // 20, SLOW)
    need(client.poll() is None, "it is over already")
    yield said
    one, other = result(client, SLOW), result(server, SLOW)
    need(one["error"] is None and other["error"] is None, f"{one} {other}")
    need(one["sent"] == size, f"{one['sent']} of {size} bytes sent")
    same(one, other)
    same(other, one)
    said.append(f"{other['silence']:.1f} s")


def kill(world: World, letters: str) -> None:
    """All of them first, then wait for them."""
    engines = [world.engines.pop(letter) for letter in letters]
    for engine in engines:
        engine.proc.kill()
    for engine in engines:
        engine.proc.wait()


def start_again(world: World, letters: str) -> None:
    """What the last engines left is gone, and new ones run."""
    hosts = [host for host in world.lab.hosts if host.letter in letters]
    for host in hosts:
        eventually(lambda host=host: not traces(host), 20)
    with ThreadPoolExecutor() as pool:
        list(pool.map(world.start_one, hosts))


def killed(world: World) -> str:
    """kill -9 of one engine in the middle of a transfer, then of the other, then of both; new ones start.

    Flows that ask, and flows at rest, live through all of it.
    """
    silences = []
    with crowd(world) as answers:
        for letters, family in zip(("a", "b", "ab"), FAMILIES, strict=True):
            with transferring(world, family) as silence:
                kill(world, letters)
            start_again(world, letters)
            silences.append(f"{letters} {silence[0]}")
    with transferring(world):
        pass
    return (
        f"{SIZE >> 20} MiB equal each time, silent for {', '.join(silences)}; {answers[0]};"
        " device, rule and routes are gone; a new engine carries again"
    )


def upgraded(world: World) -> str:
    """Both engines end in order and new ones start, under flows that ask, rest and transfer."""
    with crowd(world) as answers:
        with transferring(world, "v6") as silence:
            world.stop()
        start_again(world, "ab")
        with transferring(world):
            pass
    return f"{SIZE >> 20} MiB equal, silent for {silence[0]}; {answers[0]}; the new engines carry"


TRANSPORT, WIRE = ("vtl",), ("tcp",)
BACK = 5.0  # s that an emulated processor may add to what TCP waits: twice the pause


def paths(world: World) -> str:
    """The wire dead, then both paths, then an engine that stands still, then the transport dead for ever."""
    found = []
    with crowd(world) as answers, Paths(world.lab) as dead:
        for name, classes, family, seconds in (
            ("wire", WIRE, "v4", 3.0), ("both", TRANSPORT + WIRE, "v6", 3.0), ("engine", (), "v4", 5.0),
            ("transport", TRANSPORT, "v6", 0.0),
        ):  # fmt: skip
            with transferring(world, family) as silence:
                dead.drop(*classes)
                if not classes:
                    world.engines["a"].proc.send_signal(signal.SIGSTOP)
                try:
                    time.sleep(seconds)
                finally:
                    if not classes:
                        world.engines["a"].proc.send_signal(signal.SIGCONT)
                if seconds:
                    dead.drop()
            waited = float(silence[0].split()[0])
            need(waited < 2 * seconds + BACK, f"{name} dead for {seconds} s: silent for {waited} s")
            found.append(f"{name} {silence[0]}")
    return f"{SIZE >> 20} MiB equal each time, silent for {', '.join(found)}; {answers[0]}"


def stopped(world: World) -> str:
    """The engines' ordinary end in the middle of a transfer: TCP goes on, and nothing is left."""
    with transferring(world):
        world.stop()
    need(not traces(world.lab.a) and not traces(world.lab.b), "device, rules or routes are left")
    return f"{SIZE >> 20} MiB equal; plain TCP from there"
