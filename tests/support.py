"""What the tests with real programs share: hooked pairs, address families, scripted peers."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hooker.lab import Host, Lab, end_processes
from hooker.lab.engine import EngineProcess

PEER = Path(__file__).resolve().parent / "apps" / "peer.py"
FAMILIES = ("v4", "v6", "mapped")
EACH_FAMILY = ("v4", "v6", pytest.param("mapped", marks=pytest.mark.soak))  # IPv4 by an IPv6 socket
PLAIN = os.environ.get("HOOKER_TEST_PLAIN") == "1"  # the same tests over TCP: they must hold there too
INTERCEPT = os.environ.get("HOOKER_TEST_INTERCEPT", "segments")  # the same with such engines
KIND = ("--intercept", INTERCEPT)
KINDS = (
    (INTERCEPT,)
    if PLAIN or "HOOKER_TEST_INTERCEPT" in os.environ
    else ("segments", pytest.param("messages", marks=pytest.mark.soak))
)


def _slowness() -> int:
    """How many times as long as on a usual machine some Python takes, from 1 to 8; the best of five goes."""
    took = []
    for _ in range(5):
        began = time.perf_counter()
        sum(number for number in range(200_000))
        took.append(time.perf_counter() - began)
    return max(1, min(8, round(min(took) / 0.015)))


SLOWNESS = int(os.environ.get("HOOKER_TEST_SLOWNESS", "0")) or _slowness()  # how much longer to wait, at most
SEGMENTS = INTERCEPT == "segments"  # which hold nothing, leave everything to TCP, and send what TCP sends


def thinned(*dimensions: Sequence[Any]) -> list[Any]:
    """All combinations: in every run as few as have each value of each, the others in the long runs."""
    count = max(len(one) for one in dimensions)
    always = {tuple(one[row % len(one)] for one in dimensions) for row in range(count)}
    rows = itertools.product(*dimensions)
    return [row if row in always else pytest.param(*row, marks=pytest.mark.soak) for row in rows]


def address(host: Host, family: str) -> str:
    """Return how a client names *host* in the given family."""
    return {"v4": host.v4, "v6": host.v6, "mapped": f"::ffff:{host.v4}"}[family]


def url(host: Host, family: str, path: str, port: int = 8080) -> str:
    """Return the http address of *path* on *host*."""
    name = address(host, family)
    return f"http://{f'[{name}]' if ':' in name else name}:{port}/{path}"


def any_address(family: str) -> str:
    """Return the address a server binds to serve *family*."""
    return "0.0.0.0" if family == "v4" else "::"


@dataclass
class Pair:
    """A lab whose hosts have engines (None: plain TCP at that host)."""

    lab: Lab
    client: EngineProcess | None = None
    server: EngineProcess | None = None
    kind: str = INTERCEPT  # of its engines
    _mark: int = field(default=0)

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, lab: Lab, hosts: str = "ab", options: tuple[str, ...] = (), kind: str = INTERCEPT
    ) -> Iterator[Pair]:
        """Start engines of a *kind* on the named *hosts*; stop them, and show their logs, at the end."""
        engines: dict[str, EngineProcess] = {}
        try:
            if not PLAIN:
                engines = start_engines([h for h in lab.hosts if h.letter in hosts], options, kind)
            yield cls(lab, engines.get("a"), engines.get("b"), kind)
        finally:
            for letter, engine in engines.items():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    engine.stop(10 * SLOWNESS)
                print(f"--- engine {letter} (exit {engine.proc.returncode})\n{engine.tail()}")

    @property
    def a(self) -> Host:
        """The client's host."""
        return self.lab.a

    @property
    def b(self) -> Host:
        """The server's host."""
        return self.lab.b

    @property
    def engines(self) -> list[EngineProcess]:
        """The engines that run."""
        return [e for e in (self.client, self.server) if e]

    @contextlib.contextmanager
    def engaged(self, payload: int = 0, flows: int = 1, tcp_payload: int | None = 0) -> Iterator[None]:
        """What happens inside goes over VTL: no TCP payload on the wire, flows engaged.

        Args:
            payload: bytes that must have crossed as VTL, at least.
            flows: that must have been engaged at the client, at least.
            tcp_payload: bytes that may have crossed as TCP, at most; None: any number.
        """
        if PLAIN or self.kind == "segments":  # a connection begins on TCP, and may have ended before it moves
            yield
            return
        assert self.client
        before = counts(self.client.status())
        self.lab.meter.start()
        yield
        time.sleep(0.02)
        wire = self.lab.meter.read()
        after = counts(self.client.status())
        if tcp_payload is not None:
            assert wire.tcp.payload <= tcp_payload, f"TCP payload on the wire: {wire.tcp}; engine: {after}"
        assert wire.vtl.payload >= payload
        engaged = after["engaged"] - before["engaged"]
        assert engaged >= flows, f"{engaged} flows engaged, {flows} expected: {after}"

    @contextlib.contextmanager
    def over_tcp(self, payload: int = 0) -> Iterator[None]:
        """What happens inside stays on TCP, every byte of it once."""
        self.lab.meter.start()
        yield
        time.sleep(0.02)
        assert self.lab.meter.read().tcp.payload >= payload

    @contextlib.contextmanager
    def programs(self) -> Iterator[None]:
        """End the programs that were started inside."""
        procs = self.lab.processes
        mark = len(procs)
        try:
            yield
        finally:
            end_processes(procs[mark:])
            del procs[mark:]


def start_engines(
    hosts: list[Host], options: tuple[str, ...] = (), kind: str = INTERCEPT
) -> dict[str, EngineProcess]:
    """Start an engine on each of *hosts*, together: each takes seconds to compile its programs."""
    options = ("--intercept", kind, *options)
    with ThreadPoolExecutor() as pool:
        return dict(
            zip((h.letter for h in hosts), pool.map(lambda h: h.hooker(*options), hosts), strict=True)
        )


def counts(status: dict[str, Any]) -> dict[str, int]:
    """Return an engine's counters."""
    counters: dict[str, int] = status["counters"]
    return counters


def peer(
    host: Host,
    role: str,
    where: str,
    port: int,
    *actions: str,
    hooked: bool = True,
    options: tuple[str, ...] = (),
) -> subprocess.Popen[str]:
    """Start a scripted peer on *host*; a server is listening when this returns."""
    cmd = [sys.executable, str(PEER), *options, role, where, str(port), *actions]
    proc = host.popen(cmd, hooked=hooked, stdout=subprocess.PIPE, text=True)
    if role == "serve":
        host.wait_listening(port, 30 * SLOWNESS)
    return proc


def results(proc: subprocess.Popen[str], timeout: float = 60) -> list[dict[str, Any]]:
    """Wait for a peer to end and return one result per connection."""
    out, _ = proc.communicate(timeout=timeout * SLOWNESS)
    return [json.loads(line) for line in out.splitlines()]


def result(proc: subprocess.Popen[str], timeout: float = 60) -> dict[str, Any]:
    """Wait for a peer to end and return the result of its one connection."""
    (only,) = results(proc, timeout)
    return only


def same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Assert that what one peer sent is what the other received, to the byte."""
    assert (one["sent"], one["sent_sha256"]) == (other["received"], other["received_sha256"])


def transfer(source: Host, sink: Host, size: int, port: int, timeout: float = 80) -> None:
    """So many bytes from one host's program to the other's, equal to the byte."""
    server = peer(sink, "serve", "0.0.0.0", port, "recv-all", "close")
    client = peer(source, "connect", sink.v4, port, f"send:{size}", "close")
    sent, received = result(client, timeout), result(server, timeout)
    assert (sent["error"], received["error"], received["received"]) == (None, None, size)
    same(sent, received)


def rules(host: Host, text: str) -> None:
    """Give nftables of *host* these commands; skips the test where there is no nftables."""
    try:
        done = host.run(["nft", text], check=False, hooked=False)
    except FileNotFoundError:
        pytest.skip("no nft here")
    if done.returncode:
        pytest.skip(f"no nftables here: {done.stderr!r}")


def eventually(condition: Any, timeout: float = 10, every: float = 0.02, tell: Any = None) -> None:
    """Wait until *condition()* holds.

    Raises:
        AssertionError: it did not within *timeout* seconds; *tell()* says what there was instead.
    """
    deadline = time.monotonic() + timeout * SLOWNESS
    while not condition():
        assert time.monotonic() < deadline, f"did not come true in time: {tell() if tell else ''}"
        time.sleep(every)
