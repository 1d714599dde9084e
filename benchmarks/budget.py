"""Where a request's and a gigabyte's work goes: system calls and wake-ups of each process, by stage.

``perf trace`` counts system calls, the kernel's own counters give the wake-ups (voluntary context switches).
The figures are counts, so other work on the machine hardly matters.
"""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.bed import Bed, Way, bed, installed, iperf3, redis_get, serve_iperf3, serve_redis
from benchmarks.measure import Effort, process_cpu, say

SECTION = re.compile(r"^ .+ \((\d+)\), \d+ events")
CALL = re.compile(r"^   (\w+) +(\d+) ")
SHOWN = 0.05  # calls per unit: rarer ones are left out


def budget(effort: Effort) -> list[dict[str, Any]]:
    """Return rows of (work, way, stage, wake-ups, page faults, CPU µs, calls), per request or per MB."""
    if not installed("perf"):
        say("no budget: perf is missing (apt install linux-perf)")
        return []
    requests = 1000 if effort.quick else 5000
    rows: list[dict[str, Any]] = []
    with bed() as on:
        serve_redis(on)
        servers = {False: on.lab.processes[-1].pid, True: on.lab.processes[-2].pid}
        for way in on.ways()[-2:]:
            rows += _watch(on, way, servers, "redis GET", lambda w: _redis(on, w, requests))
        serve_iperf3(on)
        servers = {False: on.lab.processes[-1].pid, True: on.lab.processes[-2].pid}
        for way in on.ways()[-2:]:
            rows += _watch(on, way, servers, "bulk MB", lambda w: iperf3(on, w, 1)["bytes"] / 1e6)
    return rows


def _redis(on: Bed, way: Way, requests: int) -> float:
    redis_get(on, way, 1, requests)
    return requests


def _watch(
    on: Bed, way: Way, servers: dict[bool, int], work: str, run: Callable[[Way], float]
) -> Iterator[dict[str, Any]]:
    """Run once under observation; the server and, if hooked, both engines are looked at."""
    say(f"budget: {work}, {way.name}")
    stages = {"server": servers[way.hooked]}
    if way.hooked:
        stages |= {f"engine {e.host}": e.pid for e in on.engines}
    before = {name: _counts(pid) for name, pid in stages.items()}
    units = run(way)
    after = {name: _counts(pid) for name, pid in stages.items()}
    calls, traced = _traced(on, lambda: run(way))
    for name, pid in stages.items():
        threads = [int(p.name) for p in Path(f"/proc/{pid}/task").iterdir()]
        total = sum((calls.get(t, Counter()) for t in threads), Counter())
        yield {
            "work": work,
            "way": way.name,
            "stage": name,
            **{key: round((after[name][key] - before[name][key]) / units, 2) for key in after[name]},
            "calls": {c: round(n / traced, 2) for c, n in total.most_common() if n / traced >= SHOWN},
        }


def _traced(on: Bed, run: Callable[[], float]) -> tuple[dict[int, Counter[str]], float]:
    """Run once more, traced: calls by thread and name, and the units of work. Tracing costs time."""
    trace = on.lab.tmp / "trace"
    perf = subprocess.Popen(["perf", "trace", "-s", "-a", "-m", "2048", "-o", trace], stderr=-3)
    try:
        time.sleep(1)
        units = run()
    finally:
        perf.send_signal(signal.SIGINT)
        perf.wait(60)
    return _calls(trace), units


def _counts(pid: int) -> dict[str, float]:
    """Wake-ups, page faults and CPU µs of process *pid* so far."""
    faults = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[7])
    return {"wake_ups": _wake_ups(pid), "faults": faults, "cpu_us": 1e6 * sum(process_cpu(pid))}


def _wake_ups(pid: int) -> int:
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        match = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status.read_text(), re.MULTILINE)
        total += int(match[1]) if match else 0
    return total


def _calls(trace: Path) -> dict[int, Counter[str]]:
    """System calls by thread and name, from what ``perf trace -s`` wrote."""
    found: dict[int, Counter[str]] = {}
    thread = 0
    for line in trace.read_text(errors="replace").splitlines():
        if match := SECTION.match(line):
            thread = int(match[1])
        elif match := CALL.match(line):
            found.setdefault(thread, Counter())[match[1]] += int(match[2])
    return found
