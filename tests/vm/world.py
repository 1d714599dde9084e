"""What the checks in the virtual machine share: hosts, engines on the root cgroup, what is seen of them."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hooker.control import netns
from hooker.control import status_socket as control
from hooker.lab import Host, Lab
from hooker.lab.apps import start_nginx

SLOW = 180.0  # s: what anything may take on an emulated processor
MB = 1 << 20
HOOKER = [sys.executable, "-m", "hooker"]
TABLES = "12128"  # what the numbers of the routing tables of engines begin with (hooker/tun/lane.py)
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
    options: tuple[str, ...] = ()  # of the engines

    def start(self, *options: str) -> None:
        """Start both engines, the server's first: the client's is then the later program on every socket."""
        self.options = options
        for host in (self.lab.b, self.lab.a):
            self.start_one(host)

    def start_one(self, host: Host) -> None:
        self.engines[host.letter] = Engine(host, *self.options)

    def stop(self) -> None:
        while self.engines:
            _, engine = self.engines.popitem()
            engine.stop()

    def publish(self, file: Path) -> None:
        """A copy of it is what nginx on b serves by its name."""
        if not hasattr(self, "www"):
            self.www = start_nginx(self.lab.b, self.lab.tmp)
        (self.www / file.name).write_bytes(file.read_bytes())

    @contextlib.contextmanager
    def hooked(self, *, flows: int = 1, payload: int = 0) -> Iterator[None]:
        """What happens inside goes over VTL, and TCP is silent; where segments are taken, most of it."""
        before = self.engines["a"].counters()["engaged"]
        self.lab.meter.start()
        yield
        time.sleep(0.3)
        wire = self.lab.meter.read()
        if "segments" in self.options:  # a connection begins on TCP, and may have ended before it moves
            need(
                wire.vtl.payload >= payload // 2,
                f"{wire.vtl.payload} bytes of VTL of {payload}: {self.why()}",
            )
            return
        engaged = self.engines["a"].counters()["engaged"] - before
        need(engaged >= flows, f"{engaged} of {flows} flows engaged: {self.why()}")
        need(wire.tcp.payload == 0, f"{wire.tcp.payload} bytes of TCP payload on the wire")
        need(wire.vtl.payload >= payload, f"{wire.vtl.payload} bytes of VTL on the wire, {payload} expected")

    def why(self) -> dict[str, int]:
        """Why connections of a's are or were on TCP."""
        return dict(self.engines["a"].status()["reasons"])

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


def traces(host: Host) -> list[str]:
    """Rules, routing tables and devices of ours in the namespace of *host*."""

    def look() -> list[str]:
        found = [name for _, name in socket.if_nameindex() if name.startswith("hk")]
        for family in ("-4", "-6"):
            for what in (["rule"], ["route", "show", "table", "all"]):
                done = subprocess.run(["ip", family, *what], capture_output=True, text=True, check=True)
                lines = done.stdout.splitlines()
                found += [line for line in lines if any(word in line for word in ("fwmark", TABLES, " hk"))]
        return found

    return netns.call(host.netns, look)
