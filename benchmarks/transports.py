"""Every transport with every reliability function that it has, over lossy paths, beside plain TCP.

All variants run in turn in one run, each transport with a pair of hosts and of engines of its own. What one
engine moves in several ways it moves by rules: each function has its own ports.
"""

from __future__ import annotations

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bed import CONGESTION, Bed, NotHooked, Way, bed
from benchmarks.measure import (
    HOOKED,
    Cell,
    Effort,
    Measure,
    Quantity,
    attempt,
    foreign_cpu,
    in_turn,
    machine,
    machine_cpu,
)
from hooker.errors import ConfigurationError
from hooker.lab import INTERFACE
from hooker.lab.apps import sha256, start_nginx, start_redis, write_random
from hooker.lab.link import Link
from hooker.transports import Transport, known

RATE = 100e6  # bit/s, with a queue of one BDP
RTTS, LOSSES = (20, 100), (0, 1, 2, 5)  # ms, %
FUNCTIONS = ("selective-repeat", "go-back-n", "stop-and-wait", "none", "partial:repeats=1")
KB, MB = 1000, 1_000_000
SIZES = {"10KB": 10 * KB, "100KB": 100 * KB, "10MB": 10 * MB}
OBJECTS, CONNECTIONS = 20, 6  # of a page, as browsers load one over HTTP/1.1
OBJECT = 20 * KB
KEPT = ("unit", "more_is_better", "medians", "failed", "others_cores", "values")
PATIENCE = 60  # s for one transfer
TRIES = 3
LEAST, ENOUGH = 3, 20  # downloads of one size, and s after which there are no more of them
HTTP, REDIS = 8100, 8200  # and so many more as the variant's number says
RESULTS = Path(__file__).with_name("results") / "transports.json"
QUANTITIES = (
    Quantity("10KB", "ms", more=False),
    Quantity("10KB_p95", "ms", more=False),
    Quantity("100KB", "ms", more=False),
    Quantity("100KB_p95", "ms", more=False),
    Quantity("page", "ms", more=False),
    Quantity("redis", "ms", more=False),
    Quantity("redis_p95", "ms", more=False),
    Quantity("10MB", "Mbit/s"),
    Quantity("sent", "bytes a byte", more=False),
    Quantity("cpu", "CPU s/GB", more=False),
)


@dataclass(frozen=True)
class Variant:
    """One column: a way over a bed, with ports of its own."""

    name: str
    on: Bed
    way: Way
    number: int

    @property
    def page(self) -> str:
        return f"http://{self.on.b.v4}:{HTTP + self.number}"


def wanted(names: Sequence[str]) -> list[Transport]:
    """Those that this machine has, or the named ones. Raises ConfigurationError for what it has not."""
    there = [transport for transport in known() if transport.available()[0]]
    if not names:
        return there
    found = {transport.name: transport for transport in there}
    for name in names:
        if name not in found:
            raise ConfigurationError(f"no transport {name!r} here", remedy=f"there are {', '.join(found)}")
    return [found[name] for name in names]


def functions_of(transport: Transport, chosen: Sequence[str] = FUNCTIONS) -> tuple[str, ...]:
    """VTL's, where it has the choice."""
    return tuple(chosen) if transport.reliability == FUNCTIONS[0] else ("",)


def compare(
    transports: Sequence[Transport],
    paths: Sequence[tuple[int, float]],
    effort: Effort,
    functions: Sequence[str] = FUNCTIONS,
    rate: float = RATE,
) -> dict[str, Any]:
    """Cells by path, RTT in ms and loss in %; saved as they come. ``functions``: VTL's; ``rate``: bit/s."""
    found: dict[str, Any] = {"machine": machine(), "rounds": effort.rounds, "rate": rate, "paths": {}}
    with contextlib.ExitStack() as stack:
        variants = _variants(transports, functions, stack)
        for rtt, loss in paths:
            link = Link(rate=rate, delay=rtt / 2000, loss=loss / 100)
            for on in {id(v.on): v.on for v in variants}.values():
                assert on.lab.link
                on.lab.link.set(link)
            name = f"{rtt}ms_{loss:g}"
            ways: dict[str, Measure] = {
                v.name: lambda v=v, rtt=rtt: _measure(v, rtt, effort) for v in variants
            }
            # what is measured waits for the path: other work hardly changes it, and is said
            cells = in_turn(f"{rtt} ms, {loss:g} %", QUANTITIES, ways, effort, quiet=math.inf)
            found["paths"][name] = {cell.quantity.name: _record(cell) for cell in cells}
            _save(found)
    return found


def _record(cell: Cell) -> dict[str, Any]:
    record = cell.record()
    return {key: record[key] for key in KEPT}


def _save(found: dict[str, Any]) -> None:
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")


# ---- beds --------------------------------------------------------------------------------------------


def _variants(
    transports: Sequence[Transport], functions: Sequence[str], stack: contextlib.ExitStack
) -> list[Variant]:
    options = [_options(functions_of(one, functions), one.name) for one in transports]
    with ThreadPoolExecutor(2) as pool:
        beds = list(pool.map(lambda given: stack.enter_context(bed(Link(), options=given)), options))
    known_here = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    direct = [Way(f"tcp {name}", congestion=name) for name in CONGESTION if name in known_here]
    variants = [Variant(f"direct {way.congestion}", beds[0], way, 50 + n) for n, way in enumerate(direct)]
    for transport, on in zip(transports, beds, strict=True):
        for number, function in enumerate(functions_of(transport, functions)):
            name = f"{transport.name} {function.partition(':')[0]}".strip()
            variants.append(Variant(name, on, Way(f"{HOOKED} {name}", hooked=True), number))
    for variant in variants:
        _serve(variant)
    return variants


def _options(functions: Sequence[str], transport: str) -> tuple[str, ...]:
    options = ["--transport", transport]
    for number, function in enumerate(functions):
        if function:
            options += ["--rule", f"port={HTTP + number},{REDIS + number} reliability={function}"]
    return tuple(options)


def _serve(variant: Variant) -> None:
    directory = variant.on.lab.tmp / f"nginx-{variant.number}"
    directory.mkdir()
    host, hooked = variant.on.b, variant.way.hooked
    www = start_nginx(host, directory, HTTP + variant.number, hooked=hooked)
    for name, size in SIZES.items():
        write_random(www / name, size)
    for number in range(OBJECTS):
        write_random(www / f"object{number}", OBJECT)
    start_redis(host, REDIS + variant.number, hooked)


# ---- one variant -------------------------------------------------------------------------------------


def _measure(v: Variant, rtt: int, effort: Effort) -> dict[str, float]:
    """The long transfer comes last: it teaches the association what the path is. What fails is left out."""
    times = LEAST if effort.quick else 15
    found: dict[str, float] = {}
    _warm(v)
    for name in ("10KB", "100KB"):
        found |= attempt(v.name, lambda name=name: _downloads(v, name, times))
    found |= attempt(v.name, lambda: _hooked(lambda: {"page": _page(v)}))
    found |= attempt(v.name, lambda: _hooked(lambda: _redis(v, 20 if effort.quick else max(50, 4000 // rtt))))
    if found.get("100KB", 0) / 1000 * SIZES["10MB"] / SIZES["100KB"] > 2 * PATIENCE:
        return found  # a packet a round trip
    return found | attempt(v.name, lambda: _hooked(lambda: _bulk(v)))


def _hooked(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Again, if it was not: of a connection that lost its first SYNs there is nothing to measure."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(NotHooked):
            return measure()
    return measure()


def _warm(v: Variant) -> None:
    """Until connections of its kind are engaged from their beginning."""
    end = time.monotonic() + PATIENCE
    while v.way.hooked and time.monotonic() < end:
        with contextlib.suppress(RuntimeError):
            _curl(v, "10KB", 1)
            return


def _downloads(v: Variant, name: str, times: int) -> dict[str, float]:
    took = _curl(v, name, times)
    return {name: statistics.median(took), f"{name}_p95": _p95(took)}


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def _curl(v: Variant, name: str, times: int) -> list[float]:
    """ms that each of so many downloads took, on a connection of its own; fewer where that takes long."""
    one = f"curl -sS -m {PATIENCE} -o /dev/null -w '%{{size_download}} %{{time_total}}\\n' {v.page}/{name}"
    more = f"[ $i -le {LEAST} ] || [ $SECONDS -lt {ENOUGH} ] || break"
    loop = f"for i in $(seq {times}); do {more}; {one} || exit 1; done"
    out = v.on.run(v.way, ["bash", "-c", loop], LEAST * PATIENCE)
    rows = [line.split() for line in out.splitlines()]
    if [int(size) for size, _ in rows] != [SIZES[name]] * len(rows):
        raise RuntimeError(f"{v.name}: {name} has other sizes: {out[:200]}")
    return [float(seconds) * 1000 for _, seconds in rows]


def _page(v: Variant) -> float:
    """ms for all of its objects."""
    urls = f"{v.page}/object[0-{OBJECTS - 1}]"
    load = f"curl -sS -m {PATIENCE} -Z --parallel-max {CONNECTIONS} -o /dev/null '{urls}'"
    script = f"a=$(date +%s%N); {load} || exit 1; b=$(date +%s%N); echo $((b - a))"
    return int(v.on.run(v.way, ["sh", "-c", script], 2 * PATIENCE).splitlines()[-1]) / 1e6


def _redis(v: Variant, requests: int) -> dict[str, float]:
    """ms of a GET, from one client."""
    where = ["-h", v.on.b.v4, "-p", str(REDIS + v.number)]
    options = ["-t", "get", "-n", str(requests), "-c", "1", "--csv"]
    out = v.on.run(v.way, ["redis-benchmark", *where, *options], 2 * PATIENCE)
    row = [float(x.strip('"')) for x in out.strip().splitlines()[-1].split(",")[1:]]
    return {"redis": row[3], "redis_p95": row[4]}


def _bulk(v: Variant) -> dict[str, float]:
    """Goodput, what the server's host sent for each byte of it (headers, repetitions), CPU time.

    What arrives is what was sent, but for bytes that ``partial`` gives up.
    """
    size, file = SIZES["10MB"], v.on.lab.tmp / "arrived"
    sent, used = _sent(v.on), machine_cpu() - foreign_cpu()
    one = f"curl -sS -m {PATIENCE} -o {file} -w '%{{time_total}}\\n' {v.page}/10MB"
    seconds = float(v.on.run(v.way, ["sh", "-c", one], 2 * PATIENCE).split()[-1])
    used = machine_cpu() - foreign_cpu() - used
    right = v.on.lab.tmp / f"nginx-{v.number}" / "www" / "10MB"
    if file.stat().st_size != size or ("partial" not in v.name and sha256(file) != sha256(right)):
        raise RuntimeError(f"{v.name}: what arrived is not what was sent")
    return {"10MB": 8 * size / seconds / 1e6, "sent": (_sent(v.on) - sent) / size, "cpu": used / (size / 1e9)}


def _sent(on: Bed) -> int:
    """Bytes that host b has given its link."""
    text = str(on.b.run(["cat", "/proc/net/dev"], hooked=False, text=True).stdout)
    line = next(line for line in text.splitlines() if line.strip().startswith(f"{INTERFACE}:"))
    return int(line.partition(":")[2].split()[8])


# ---- for people --------------------------------------------------------------------------------------


def tables(found: dict[str, Any]) -> Iterator[Any]:
    """One table a path."""
    from rich.table import Table

    for path, cells in found["paths"].items():
        table = Table(title=path.replace("ms_", " ms, ") + " %", title_justify="left")
        for column in ("", *(f"{name}\n{cell['unit']}" for name, cell in cells.items())):
            table.add_column(column, justify="right" if column else "left")
        for variant in next(iter(cells.values()))["medians"]:
            table.add_row(variant, *(_figure(cell["medians"].get(variant)) for cell in cells.values()))
        yield table


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
