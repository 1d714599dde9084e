"""What is checked inside the virtual machine, in one boot: ``guest.py [CHECK…]``

Two namespaces are two hosts, each with an engine for the DEFAULT cgroup, the root of cgroup v2: both see
every connection of the machine, and each takes only those of its own namespace. Nothing else may run this:
on a machine that people use, the root is not ours. One line per check, one JSON object as the last line.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from ktls_peer import MARKER  # noqa: E402
from support import eventually, peer, result, same, url  # noqa: E402

from hooker.control import netns  # noqa: E402
from hooker.control import status_socket as control  # noqa: E402
from hooker.lab import Host, Lab  # noqa: E402
from hooker.lab import leftovers as lab_leftovers  # noqa: E402
from hooker.lab.apps import HTTP_PORT, sha256, start_nginx, write_random  # noqa: E402

SLOW = 180.0  # s: what anything may take on an emulated processor
MB = 1 << 20
HOOKER = [sys.executable, "-m", "hooker"]
BROKEN = {"ECONNRESET", "EPIPE"}
ports = itertools.count(7100)


class Engine:
    """``hooker up`` without --cgroup."""

    def __init__(self, host: Host, *options: str) -> None:
        self.host = host
        self.log = host.lab.tmp / f"engine-{host.letter}-{time.monotonic_ns()}.log"
        reader, writer = os.pipe()
        command = [*HOOKER, "up", "--ready-fd", str(writer), *options]
        with self.log.open("wb") as log:
            self.proc = host.popen(command, hooked=False, stdout=log, stderr=log, pass_fds=(writer,))
        os.close(writer)
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            ready, _, _ = select.select([pipe], [], [], SLOW * 2)
            if not ready or not pipe.read(1):
                raise RuntimeError(f"engine {host.letter} did not start: {self.log.read_text()[-2000:]}")

    def status(self) -> dict[str, Any]:
        (found,) = (s for s in control.snapshots() if s["engine"]["pid"] == self.proc.pid)
        return found

    def counters(self) -> dict[str, int]:
        return dict(self.status()["counters"])

    def stop(self) -> int:
        self.proc.terminate()
        return self.proc.wait(SLOW)


@dataclass
class World:
    """The hosts, their engines, and what has been found."""

    lab: Lab
    engines: dict[str, Engine] = field(default_factory=dict)
    kernel: dict[str, Any] = field(default_factory=dict)

    def start(self, *options: str) -> None:
        """Start both engines, the server's first: the client's is then the later program on every socket."""
        for host in (self.lab.b, self.lab.a):
            self.engines[host.letter] = Engine(host, *options)

    def stop(self) -> None:
        while self.engines:
            _, engine = self.engines.popitem()
            engine.stop()

    @contextlib.contextmanager
    def hooked(self, *, flows: int = 1, payload: int = 0) -> Iterator[None]:
        """What happens inside goes over VTL, and TCP is silent."""
        before = self.engines["a"].counters()["engaged"]
        self.lab.meter.start()
        yield
        time.sleep(0.3)
        wire = self.lab.meter.read()
        engaged = self.engines["a"].counters()["engaged"] - before
        need(engaged >= flows, f"{engaged} of {flows} flows engaged: {self.engines['a'].status()['reasons']}")
        need(wire.tcp.payload == 0, f"{wire.tcp.payload} bytes of TCP payload on the wire")
        need(wire.vtl.payload >= payload, f"{wire.vtl.payload} bytes of VTL on the wire, {payload} expected")

    @contextlib.contextmanager
    def sniffed(self, needle: bytes) -> Iterator[None]:
        """No packet between the hosts may have *needle* in it."""
        tap = netns.call(
            self.lab.b.netns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        )
        found: list[bytes] = []
        over = threading.Event()

        def look() -> None:
            tap.settimeout(0.2)
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    packet = tap.recv(1 << 17)
                    if needle in packet:
                        found.append(packet)

        tap.setsockopt(socket.SOL_SOCKET, 33, 64 * MB)  # SO_RCVBUFFORCE
        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
            time.sleep(0.5)
        finally:
            over.set()
            thread.join()
            tap.close()
        need(not found, f"{len(found)} packets with plaintext on the wire")


def need(condition: object, text: str) -> None:
    if not condition:
        raise AssertionError(text)


# ---- checks: each returns what it saw, or raises ------------------------------------------------------


def doctor(world: World) -> str:
    """All that is required is there; the start-up probes are tried and remembered for the engines."""
    done = subprocess.run([*HOOKER, "doctor", "--json"], capture_output=True, text=True, timeout=SLOW * 3)
    need(done.stdout, f"doctor says nothing: {done.stderr[-2000:]}")
    checks = json.loads(done.stdout.splitlines()[-1])["checks"]
    world.kernel = {c["name"]: c["detail"] if c["ok"] else f"NO: {c['detail']}" for c in checks}
    bad = [f"{c['name']}: {c['detail']}" for c in checks if c["required"] and not c["ok"]]
    need(not bad and done.returncode == 0, "; ".join(bad) or f"exit status {done.returncode}")
    optional = [f"{c['name']}: {c['detail']}" for c in checks if not c["ok"]]
    return f"{len(checks)} checks; missing: {optional or 'nothing'}"


def start(world: World) -> str:
    """Two engines on the root of cgroup v2, with the default settings."""
    world.start()
    engines = [engine.status()["engine"] for engine in world.engines.values()]
    return f"cgroup {engines[0]['cgroup']}, redirect {engines[0]['redirect']}"


def http(world: World) -> str:
    """An unmodified curl, an unmodified nginx, IPv4 and IPv6, both ways."""
    lab, size = world.lab, 5 * MB
    digest = write_random(lab.tmp / "upload", size)
    www = start_nginx(lab.b, lab.tmp)
    (www / "file").write_bytes((lab.tmp / "upload").read_bytes())
    for family in ("v4", "v6"):
        with world.hooked(flows=2, payload=2 * size):
            got = lab.tmp / "got"
            lab.a.run(["curl", "-sS", "-o", got, url(lab.b, family, "file", HTTP_PORT)], timeout=SLOW)
            need(sha256(got) == digest, f"{family}: the download differs")
            put = url(lab.b, family, "up/file", HTTP_PORT)
            lab.a.run(["curl", "-sS", "-T", lab.tmp / "upload", put], timeout=SLOW)
            need(sha256(www / "up" / "file") == digest, f"{family}: the upload differs")
    return f"4 x {size >> 20} MiB, equal, TCP silent"


def transfer(world: World, action: str, size: int, *, payload: bool = True, port: int = 0) -> None:
    port = port or next(ports)
    with world.hooked(payload=size if payload else 0):
        server = peer(world.lab.b, "serve", "0.0.0.0", port, "recv-all", "close")
        client = peer(world.lab.a, "connect", world.lab.b.v4, port, f"{action}:{size}", "close")
        one, other = result(client, SLOW), result(server, SLOW)
    need(one["error"] is None and other["error"] is None, f"{one} {other}")
    need(one["sent"] == size, f"{one['sent']} of {size} bytes sent")
    same(one, other)


def writers(world: World) -> str:
    """Blocking, level-triggered and edge-triggered writers; the latter two may take the redirect socket."""
    seen = []
    for action in ("send", "send-async", "send-edge"):
        before = world.engines["a"].counters()["kernel.message-redirected"]
        transfer(world, action, 10 * MB)
        after = world.engines["a"].counters()["kernel.message-redirected"]
        seen.append(f"{action} {after - before}")
    return f"10 MiB each, equal; messages redirected: {', '.join(seen)}"


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


def nested(world: World) -> str:
    """`hooker run` inside the namespace of an engine that has the root: one of them takes the connection."""
    lab, size = world.lab, 2 * MB
    digest = write_random(lab.tmp / "nested", size)
    www = lab.tmp / "www"
    if not (www / "file").exists():
        start_nginx(lab.b, lab.tmp)
    (www / "nested").write_bytes((lab.tmp / "nested").read_bytes())
    command = [*HOOKER, "run", "-v", "--", "curl", "-sS", "-m", "60", "-o", lab.tmp / "got"]
    done = lab.a.run(
        [*command, url(lab.b, "v4", "nested", HTTP_PORT)], hooked=False, timeout=SLOW, check=False
    )
    need(done.returncode == 0, f"exit status {done.returncode}: {done.stderr.decode()[-1500:]}")
    need(sha256(lab.tmp / "got") == digest, "the download differs")
    return " | ".join(line for line in done.stderr.decode().splitlines() if "flow" in line)


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
        transfer(world, "send", 1000, port=port)
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


def killed(world: World) -> str:
    """kill -9 of one engine in the middle of a transfer; then of the other, and a new start."""
    for letter, host in (("a", world.lab.a), ("b", world.lab.b)):
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
        world.engines[letter] = Engine(host)
    transfer(world, "send", MB)
    return "both applications see the reset; rules and routes are gone; a new engine hooks again"


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
    world.start("--redirect", "never")
    seen = f"{writers(world)}; kTLS: {ktls(world)}"
    world.stop()
    return seen


def traces(host: Host) -> list[str]:
    """Rules and routing tables of ours in the namespace of *host*."""

    def look() -> list[str]:
        found = []
        for family in ("-4", "-6"):
            for what in (["rule"], ["route", "show", "table", "all"]):
                done = subprocess.run(["ip", family, *what], capture_output=True, text=True, check=True)
                found += [line for line in done.stdout.splitlines() if "fwmark" in line or "4737" in line]
        return found

    return netns.call(host.netns, look)


CHECKS: tuple[Callable[[World], str], ...] = (
    doctor, start, http, writers, servers_first, nested, ktls, netem, killed, stopped, never,
)  # fmt: skip


def main() -> int:
    if not os.environ.get("HOOKER_VM"):
        print("this runs in the virtual machine only: ./dev vm", file=sys.stderr)
        return 2
    wanted = set(sys.argv[1:])
    rows: list[dict[str, Any]] = []
    before = lab_leftovers.snapshot()
    with Lab() as lab:
        world = World(lab)
        for check in CHECKS:
            if wanted and check.__name__ not in wanted:
                continue
            rows.append(attempt(check, world))
            if not rows[-1]["ok"] and check in (doctor, start):
                break
        world.stop()
    left = lab_leftovers.left(before, 20)
    rows.append({"name": "nothing left", "ok": not left, "detail": ", ".join(left), "seconds": 0})
    print(json.dumps({"release": os.uname().release, "kernel": world.kernel, "checks": rows}))
    return 0 if all(row["ok"] for row in rows) else 1


def attempt(check: Callable[[World], str], world: World) -> dict[str, Any]:
    began = time.monotonic()
    try:
        ok, detail = True, check(world)
    except Exception as error:
        logs = "".join(
            f"\n--- engine {e.host.letter}: {e.log.read_text()[-1500:]}" for e in world.engines.values()
        )
        ok, detail = False, f"{type(error).__name__}: {error}{logs}"
    took = time.monotonic() - began
    print(f"{'✓' if ok else '✗'} {check.__name__} ({took:.0f} s): {detail}", flush=True)
    return {"name": check.__name__, "ok": ok, "detail": detail, "seconds": round(took, 1)}


if __name__ == "__main__":
    sys.exit(main())
