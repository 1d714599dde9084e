"""Engines that take messages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from ktls_peer import MARKER
from support import eventually, peer, result, same
from transfers import transfer
from world import MB, SLOW, World, need, ports, traces

HERE = Path(__file__).resolve().parent
BROKEN = {"ECONNABORTED", "ECONNRESET", "EPIPE"}
MESSAGES = ("--intercept", "messages")


def start(world: World) -> str:
    """Two engines on the root of cgroup v2."""
    subprocess.run(["modprobe", "tun"], check=True)
    world.start(*MESSAGES)
    engines = [engine.status()["engine"] for engine in world.engines.values()]
    return f"cgroup {engines[0]['cgroup']}, redirect {engines[0]['redirect']}"


def writers(world: World) -> str:
    """Blocking, level-triggered and edge-triggered writers; the latter two may take the redirect socket."""
    seen = []
    for action in ("send", "send-async", "send-edge"):
        before = world.engines["a"].counters()["kernel.message-redirected"]
        transfer(world, action, 10 * MB)
        after = world.engines["a"].counters()["kernel.message-redirected"]
        seen.append(f"{action} {after - before}")
    return f"10 MiB each, equal; messages redirected: {', '.join(seen)}"


def ktls(world: World) -> str:
    """kTLS turned on in a hooked connection: nothing readable on the wire, nothing changed."""
    seen = []
    for name, options, may_refuse in (
        ("blocking", ["--blocking"], False),
        ("non-blocking, early", ["--lines", "1"], False),  # not in the SOCKHASH yet
        ("non-blocking, late", [], True),  # in the SOCKHASH; the kernel does not mix the two
    ):
        before = world.engines["a"].counters()
        with world.sniffed(MARKER):
            ends = ktls_ends(world, options)
        after = world.engines["a"].counters()
        refused = [end["refused"] for end in ends if "refused" in end]
        need(all(end["ok"] for end in ends) or (refused and may_refuse), f"{name}: {ends}")
        need(after["engaged"] > before["engaged"], "not engaged")
        names = ("kernel.message-redirected", "kernel.ktls", "adopted", "adopt_refused")
        moved = {key: after[key] - before[key] for key in names if after[key] > before[key]}
        seen.append(f"{name}: {f'refused ({refused})' if refused else '1 MiB equal'} {moved}")
    return f"never readable on the wire; {'; '.join(seen)}"


def ktls_ends(world: World, options: list[str]) -> list[dict[str, Any]]:
    port = str(next(ports))
    command = [sys.executable, HERE / "ktls_peer.py"]
    kwargs: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    server = world.lab.b.popen([*command, "serve", "0.0.0.0", port, *options], **kwargs)
    world.lab.b.wait_listening(int(port), SLOW)
    client = world.lab.a.popen([*command, "connect", world.lab.b.v4, port, *options], **kwargs)
    return [json.loads(proc.communicate(timeout=SLOW)[0]) for proc in (client, server)]


def killed(world: World) -> str:
    """kill -9 of one engine in the middle of a transfer; then of the other, and a new start."""
    for letter, host in (("a", world.lab.a), ("b", world.lab.b)):
        eventually(lambda: is_hooked(world), SLOW)  # the peer may be remembered as TCP, of a check before
        port, progress = next(ports), world.lab.tmp / f"progress-{letter}"
        server = peer(world.lab.b, "serve", "0.0.0.0", port, "recv-all", "close")
        options = ("--progress", str(progress))
        actions = (f"send:{4000 * MB}", "close")
        client = peer(world.lab.a, "connect", world.lab.b.v4, port, *actions, options=options)
        eventually(lambda p=progress: p.exists() and int(p.read_text() or 0) > MB, SLOW)
        engine = world.engines.pop(letter)
        engine.proc.kill()
        engine.proc.wait()
        one, other = result(client, SLOW), result(server, SLOW)
        need(one["error"] in BROKEN and other["error"] in BROKEN, f"{one} {other}")
        eventually(lambda host=host: not traces(host), 20)
        world.start_one(host)
    transfer(world, "send", MB)
    return "both applications have an error; device, rules and routes are gone; a new engine hooks again"


def is_hooked(world: World) -> bool:
    before, port = world.engines["a"].counters()["engaged"], next(ports)
    server = peer(world.lab.b, "serve", "0.0.0.0", port, "recv-all", "close")
    client = peer(world.lab.a, "connect", world.lab.b.v4, port, "send:1000", "close")
    same(result(client, SLOW), result(server, SLOW))
    return world.engines["a"].counters()["engaged"] > before


def stopped(world: World) -> str:
    """After the engines' ordinary end, TCP is TCP, and nothing is attached to the root."""
    world.stop()
    port = next(ports)
    world.lab.meter.start()
    server = peer(world.lab.b, "serve", "0.0.0.0", port, "recv-all", "close")
    client = peer(world.lab.a, "connect", world.lab.b.v4, port, "send:100000", "close")
    same(result(client, SLOW), result(server, SLOW))
    need(world.lab.meter.read().tcp.payload >= 100000, "TCP payload is missing on the wire")
    need(not traces(world.lab.a) and not traces(world.lab.b), "rules or routes are left")
    return "plain TCP again"


def never(world: World) -> str:
    """Without the redirect socket no socket is in the SOCKHASH."""
    world.start(*MESSAGES, "--redirect", "never")
    seen = f"{writers(world)}; kTLS: {ktls(world)}"
    world.stop()
    return seen
