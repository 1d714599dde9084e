"""The main job, shown: unmodified curl and nginx, over TCP, hooked, and falling back.

``python -m hooker.lab.demo [--json] [--size 100M]`` makes two hosts, serves a file of random bytes
from one, fetches it from the other three times, and says what crossed the wire between them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hooker import start
from hooker.errors import HookerError
from hooker.lab import Host, Lab
from hooker.lab.apps import HTTP_PORT, sha256, start_nginx, write_random
from hooker.lab.engine import EngineProcess
from hooker.transports.classes import DIRECTORIES

MAX_SIZE = 16 << 30  # bytes
QUIET_TCP = 1024  # bytes of TCP payload that a hooked fetch may show on the wire
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
CHOICES = ("transport", "reliability", "congestion")
EXPECTED = {"tcp": "tcp", "hooked": "engaged", "fallback": "released"}


@dataclass(frozen=True)
class Case:
    """What one fetch did; the two byte counts are from the wire, between the hosts."""

    name: str
    bytes: int
    sha256_ok: bool
    seconds: float
    tcp_payload_bytes: int
    vtl_bytes: int
    verdict: str
    reason: str

    def problem(self) -> str | None:
        """Return what is wrong with this case, or None."""
        if not self.sha256_ok:
            return "the file arrived changed"
        if self.verdict != EXPECTED[self.name]:
            return f"verdict {self.verdict}, expected {EXPECTED[self.name]}"
        if self.name == "hooked" and self.tcp_payload_bytes > QUIET_TCP:
            return f"{self.tcp_payload_bytes} bytes of TCP payload on the wire"
        if self.name != "hooked" and self.tcp_payload_bytes < self.bytes:
            return "the bytes did not cross as TCP"
        return None


def parse_size(text: str) -> int:
    """Return the bytes that *text* means: ``1500``, ``100M``, ``1Gi``.

    Raises:
        ValueError: not a size, or beyond what the demo can hold.
    """
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?I?)B?", text.strip().upper())
    if not match or match[2] not in UNITS:
        raise ValueError(f"not a size: {text!r} (examples: 1500, 100M, 1Gi)")
    size = int(match[1]) * UNITS[match[2]]
    if size > MAX_SIZE:
        raise ValueError(f"too large: {text!r} (at most {MAX_SIZE >> 30}Gi)")
    return size


def outcome(engine: EngineProcess | None, port: int) -> tuple[str, str]:
    """Return verdict and reason of the last flow to *port*, as the client's engine tells them."""
    if engine is None:
        return "tcp", "no engine"
    status = engine.status()
    flows = [f for f in (*status["recent"], *status["flows"]) if f["remote"].endswith(f":{port}")]
    if not flows:
        return "tcp", "the engine saw no such connection"
    state, reason = flows[-1]["state"], flows[-1]["reason"]
    if state in ("released", "held"):
        return str(state), reason
    return "engaged", "confirmed by the peer" if reason in ("", "closed") else reason


class Demo:
    """The three fetches, in one lab."""

    def __init__(self, lab: Lab, directory: Path, size: int, options: Sequence[str] = ()) -> None:
        self.lab = lab
        self.options = options
        self.directory = directory
        self.size = size
        (directory / "www").mkdir(parents=True)
        self.digest = write_random(directory / "www" / "file", size)

    def cases(self) -> Iterator[Case]:
        """Run the cases in turn and yield what each did."""
        start_nginx(self.lab.b, self.directory)
        yield self._fetch("tcp", None)
        with self._engines(self.lab.a, self.lab.b) as (client, _):
            yield self._fetch("hooked", client)
        with self._engines(self.lab.a) as (client,):
            yield self._fetch("fallback", client)

    @contextlib.contextmanager
    def _engines(self, *hosts: Host) -> Iterator[list[EngineProcess]]:
        engines = [host.hooker("--hold", *self.options) for host in hosts]  # no payload at all on TCP
        try:
            yield engines
        finally:
            for engine in engines:
                engine.stop()

    def _fetch(self, name: str, client: EngineProcess | None) -> Case:
        target = self.directory / f"got-{name}"
        target.touch()  # curl makes no file for an empty body
        url = f"http://{self.lab.b.v4}:{HTTP_PORT}/file"
        self.lab.meter.start()
        begin = time.monotonic()
        curl = [start.tool("curl"), "-q", "-sS", "--max-time", "60", "-o", str(target), url]
        done = self.lab.a.run(curl, timeout=70, check=False, text=True, env=start.environment())
        seconds = time.monotonic() - begin
        time.sleep(0.05)  # the last acknowledgements
        wire = self.lab.meter.read()
        what, reason = outcome(client, HTTP_PORT)
        if done.returncode:
            reason = f"curl: {done.stderr.strip()}"
        got, same = target.stat().st_size, sha256(target) == self.digest and not done.returncode
        target.unlink()
        return Case(name, got, same, round(seconds, 3), wire.tcp.payload, wire.vtl.payload, what, reason)


def show(cases: Sequence[Case]) -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="curl ← nginx, one file, two hosts")
    for column in ("case", "bytes", "SHA-256", "seconds", "TCP on the wire", "VTL on the wire"):
        table.add_column(column, justify="left" if column in ("case", "SHA-256") else "right")
    table.add_column("verdict")
    table.add_column("reason")
    for case in cases:
        colour = "red" if case.problem() else "green"
        table.add_row(
            case.name,
            f"{case.bytes:,}",
            "equal" if case.sha256_ok else "[red]DIFFERENT[/red]",
            f"{case.seconds:.2f}",
            f"{case.tcp_payload_bytes:,}",
            f"{case.vtl_bytes:,}",
            f"[{colour}]{case.verdict}[/{colour}]",
            case.reason,
        )
    Console(width=None if sys.stdout.isatty() else 132).print(table)


def run(size: int, options: Sequence[str] = ()) -> list[Case]:
    """Run the demo, its engines with these options, and return its cases."""
    with Lab() as lab:
        return list(Demo(lab, lab.tmp / "demo", size, options).cases())


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m hooker.lab.demo``."""
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="100M", help="of the file (default: 100M)")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")
    for name in CHOICES:
        parser.add_argument(f"--{name}", help="of the engines; classes of yours are looked for where you are")
    args = parser.parse_args(argv)
    os.environ.setdefault(DIRECTORIES, str(Path.cwd()))
    options = [word for name in CHOICES if vars(args)[name] for word in (f"--{name}", vars(args)[name])]
    try:
        size = parse_size(args.size)
    except ValueError as exc:
        print(f"demo: --size: {exc}", file=sys.stderr)
        return 2
    if os.geteuid():
        print("demo: needs root (network namespaces and BPF)", file=sys.stderr)
        return 2
    try:
        cases = run(size, options)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except (HookerError, RuntimeError, OSError, subprocess.SubprocessError) as exc:
        print(f"demo: {exc}", file=sys.stderr)
        return 1
    show(cases)
    problems = [f"demo: {case.name}: {text}" for case in cases if (text := case.problem())]
    for problem in problems:
        print(problem, file=sys.stderr)
    if args.json:
        print(json.dumps({"cases": [asdict(case) for case in cases]}))
    return 1 if problems else 0


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is a lab, nothing is to be undone
    sys.exit(main())
