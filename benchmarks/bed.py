"""The bed everything is measured on: two hosts, an engine each, and one way of running for each variant."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import ALSO, HOOKED, Effort
from hooker.lab import INTERFACE, Host, Lab
from hooker.lab.apps import start_iperf3, start_nginx, start_redis
from hooker.lab.engine import EngineProcess
from hooker.lab.link import Link

CONGESTION = ("cubic", "bbr")  # of direct TCP: the better one counts
IPERF3, REDIS, HTTP = 5201, 6379, 8080
LEFT_TO_TCP = 0.01  # of a hooked run's connections, at most: it would be measured as ours


class NotHooked(RuntimeError):
    """It ran well, but by TCP."""


@dataclass(frozen=True)
class Way:
    """How a variant runs its programs: hooked or not, with which congestion control, behind which command."""

    name: str
    hooked: bool = False
    congestion: str | None = None
    prefix: tuple[str, ...] = ()


@dataclass
class Bed:
    """Two hosts with engines; servers of both kinds run on host b."""

    lab: Lab
    engines: tuple[EngineProcess, ...]
    _congestion: str | None = None

    @property
    def a(self) -> Host:
        """The client's host."""
        return self.lab.a

    @property
    def b(self) -> Host:
        """The server's host."""
        return self.lab.b

    def ways(self) -> list[Way]:
        """Direct TCP with each congestion control this kernel has, and hooked."""
        known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
        direct = [Way(f"tcp {name}", congestion=name) for name in CONGESTION if name in known]
        return [*direct, Way(HOOKED, hooked=True)]

    def run(self, way: Way, command: Sequence[str], timeout: float = 90) -> str:
        """Run *command* on host a in the given way and return its output.

        Raises:
            RuntimeError: it failed; the text has its last words.
            NotHooked: it should have been hooked, and was not.
        """
        self.congestion(way.congestion)
        engaged, released = self._verdicts()
        done = self.a.run([*way.prefix, *command], hooked=way.hooked, timeout=timeout, check=False, text=True)
        if done.returncode:
            words = (done.stderr or done.stdout).strip()[-300:]
            raise RuntimeError(f"{command[0]} ({way.name}) ended with status {done.returncode}: {words}")
        if way.hooked:
            engaged, released = (
                now - before for now, before in zip(self._verdicts(), (engaged, released), strict=True)
            )
            if engaged == 0 or released > engaged * LEFT_TO_TCP:
                raise NotHooked(f"{command[0]}: {released} connections were left to TCP, {engaged} hooked")
        return str(done.stdout)

    def _verdicts(self) -> tuple[int, int]:
        """Connections of host a that were engaged and released until now.

        An engine that takes segments releases none for good; a short connection may end before it is engaged.
        """
        if not self.engines:
            return 0, 0
        counters = self.engines[0].status()["counters"]
        return counters["engaged"], counters.get("released", 0)

    def congestion(self, name: str | None) -> None:
        """Set TCP's congestion control on both hosts' routes to each other; None: the machine's default.

        Not by the sysctl, which a namespace may set to the default only.
        """
        if name == self._congestion:
            return
        self._congestion = name
        for host in self.lab.hosts:
            subnet = ipaddress.ip_interface(f"{host.v4}/24").network
            route = [
                "ip",
                "route",
                "replace",
                str(subnet),
                "dev",
                INTERFACE,
                "src",
                host.v4,
                "proto",
                "kernel",
            ]
            host.run([*route, "scope", "link", *(["congctl", name] if name else [])], hooked=False)


@contextlib.contextmanager
def bed(link: Link | None = None, engines: bool = True, options: tuple[str, ...] = ()) -> Iterator[Bed]:
    """Make a bed; without *engines* there is no Hooker anywhere near it."""
    with Lab(link=link) as lab:
        for host in lab.hosts:
            host.sysctl("net.ipv4.tcp_no_metrics_save", "1")  # a connection learns nothing from the last
        started: list[EngineProcess] = []
        try:
            if engines:
                with ThreadPoolExecutor() as pool:
                    started = list(pool.map(lambda h: h.hooker(*options), lab.hosts))
            yield Bed(lab, tuple(started))
        finally:
            for engine in started:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    engine.stop()


@contextlib.contextmanager
def compared(effort: Effort, *serve: Callable[[Bed], None]) -> Iterator[dict[str, tuple[Bed, Way]]]:
    """The ways by the names of their columns, each with its bed: a pair of hosts for each kind of engine."""
    both = {HOOKED: "segments", ALSO: "messages"}
    kinds = both if effort.intercept == "both" else {HOOKED: effort.intercept}
    with contextlib.ExitStack() as stack:
        beds = {name: stack.enter_context(bed(options=("--intercept", kind))) for name, kind in kinds.items()}
        for on in beds.values():
            for start in serve:
                start(on)
        direct = {way.name: (beds[HOOKED], way) for way in beds[HOOKED].ways() if not way.hooked}
        yield direct | {name: (on, Way(name, hooked=True)) for name, on in beds.items()}


# ---- programs, and the figures in what they print ----------------------------------------------------


def serve_iperf3(bed: Bed) -> None:
    """Start iperf3 servers in the engine's scope and out of it."""
    for hooked in (True, False):
        start_iperf3(bed.b, port_of(IPERF3, hooked), hooked)


def serve_redis(bed: Bed) -> None:
    """Start redis servers in the engine's scope and out of it."""
    for hooked in (True, False):
        start_redis(bed.b, port_of(REDIS, hooked), hooked)


def serve_http(bed: Bed) -> None:
    """Start nginx in the engine's scope and out of it, with a page of 1 KB."""
    for hooked in (True, False):
        directory = bed.lab.tmp / f"nginx-{hooked}"
        directory.mkdir()
        www = start_nginx(bed.b, directory, port_of(HTTP, hooked), hooked=hooked)
        (www / "small").write_bytes(bytes(1000))


def port_of(base: int, hooked: bool) -> int:
    """The port of the server in the engine's scope, or of the one that no engine sees."""
    return base if hooked else base + 1


def iperf3(
    bed: Bed, way: Way, seconds: float, *options: str, port: int | None = None, host: str | None = None
) -> dict[str, float]:
    """One bulk transfer: Gbit/s that arrived, and bytes."""
    where = ["-c", host or bed.b.v4, "-p", str(port or port_of(IPERF3, way.hooked))]
    out = bed.run(way, ["iperf3", "-J", *where, "-t", f"{seconds:g}", *options])
    report = json.loads(out)["end"]
    if way.congestion and report["sender_tcp_congestion"] != way.congestion:
        raise RuntimeError(f"{way.name} ran with {report['sender_tcp_congestion']}")
    end = report["sum_received"]
    return {"rate": end["bits_per_second"] / 1e9, "bytes": end["bytes"]}


def redis_get(bed: Bed, way: Way, clients: int, requests: int) -> dict[str, float]:
    """GET from *clients* connections: requests per second, p50 and p99 in ms."""
    where = ["-h", bed.b.v4, "-p", str(port_of(REDIS, way.hooked))]
    out = bed.run(
        way, ["redis-benchmark", *where, "-t", "get", "-n", str(requests), "-c", str(clients), "--csv"]
    )
    row = [float(x.strip('"')) for x in out.strip().splitlines()[-1].split(",")[1:]]
    return {"rate": row[0], "p50": row[3], "p99": row[5]}


def wrk(bed: Bed, way: Way, header: str, seconds: float) -> dict[str, float]:
    """HTTP requests per second over 16 connections; *header* is of ``Connection:``."""
    target = f"http://{bed.b.v4}:{port_of(HTTP, way.hooked)}/small"
    command = ["wrk", "-t1", "-c16", f"-d{max(1, round(seconds))}s", "-H", f"Connection: {header}", target]
    out = bed.run(way, command)
    match = re.search(r"Requests/sec:\s+([\d.]+)", out)
    if not match:
        raise RuntimeError(f"wrk says no rate: {out[-300:]}")
    return {"rate": float(match[1])}


def installed(program: str) -> bool:
    """Whether *program* can be run here."""
    return shutil.which(program) is not None
