"""Bulk goodput, request latency and connection rate, hooked and direct, and where the CPU time goes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support import Pair

from benchmarks.comparison import CONGESTION, ROUNDS, Report
from hooker.lab_apps import start_iperf3, start_nginx, start_redis

pytestmark = pytest.mark.timeout(300)

SECONDS = 2  # of one bulk measurement
REDIS_REQUESTS = 5000
FLOOR = 0.2  # hooked bulk goodput, as a part of direct TCP's


def iperf3(pair: Pair, hooked: bool, *options: str) -> dict[str, Any]:
    """Run one bulk transfer and return iperf3's report."""
    cmd = ["iperf3", "-J", "-c", pair.b.v4, "-t", str(SECONDS), *options]
    if not hooked:
        cmd += ["-C", CONGESTION]
    report: dict[str, Any] = json.loads(pair.a.run(cmd, hooked=hooked, timeout=60, text=True).stdout)
    return report


@pytest.mark.parametrize(("name", "options"), [("upload", []), ("download", ["-R"])])
def test_bulk_goodput(pair: Pair, report: Report, benchmark: Any, name: str, options: list[str]) -> None:
    def measure(hooked: bool) -> dict[str, float]:
        done = iperf3(pair, hooked, *options)
        return {f"bulk {name}, one flow": done["end"]["sum_received"]["bits_per_second"] / 1e9}

    with pair.programs(), pair.engaged(flows=ROUNDS, tcp_payload=None):
        start_iperf3(pair.b)
        found = benchmark.pedantic(
            report.compare, args=({f"bulk {name}, one flow": "Gbit/s"}, measure), rounds=1
        )
    (only,) = found.values()
    benchmark.extra_info["ratio"] = only.ratio
    if name == "upload":
        assert only.ratio >= FLOOR


@pytest.mark.parametrize("clients", [1, 50])
def test_redis(pair: Pair, report: Report, benchmark: Any, clients: int) -> None:
    quantities = {"p50": "ms", "p99": "ms", "requests": "1/s"}
    names = {key: f"redis GET c={clients} {key}" for key in quantities}

    def measure(hooked: bool) -> dict[str, float]:
        options = ["-h", pair.b.v4, "-t", "get", "-n", str(REDIS_REQUESTS), "-c", str(clients), "--csv"]
        out = pair.a.run(["redis-benchmark", *options], hooked=hooked, timeout=60, text=True).stdout
        row = [float(x.strip('"')) for x in out.strip().splitlines()[-1].split(",")[1:]]
        return {names["requests"]: row[0], names["p50"]: row[3], names["p99"]: row[5]}

    with pair.programs():
        start_redis(pair.b)
        units = {names[key]: unit for key, unit in quantities.items()}
        found = benchmark.pedantic(report.compare, args=(units, measure), rounds=1)
    benchmark.extra_info["ratios"] = {name: c.ratio for name, c in found.items()}


@pytest.mark.parametrize("header", ["keep-alive", "close"])
def test_http(pair: Pair, report: Report, benchmark: Any, header: str) -> None:
    name = "connections" if header == "close" else "HTTP requests, 1 KB, c=16"

    def measure(hooked: bool) -> dict[str, float]:
        options = ["-t1", "-c16", "-d2s", "-H", f"Connection: {header}"]
        out = pair.a.run(
            ["wrk", *options, f"http://{pair.b.v4}:8080/small"], hooked=hooked, timeout=60, text=True
        ).stdout
        match = re.search(r"Requests/sec:\s+([\d.]+)", out)
        assert match, out
        return {name: float(match[1])}

    with pair.programs():
        directory = pair.lab.tmp / f"nginx-{header}"
        directory.mkdir()
        (start_nginx(pair.b, directory) / "small").write_bytes(bytes(1000))
        found = benchmark.pedantic(report.compare, args=({name: "1/s"}, measure), rounds=1)
    benchmark.extra_info["ratio"] = found[name].ratio


@pytest.mark.parametrize("hooked", [False, True])
def test_cpu_per_gigabyte(pair: Pair, report: Report, benchmark: Any, hooked: bool) -> None:
    with pair.programs():
        start_iperf3(pair.b)
        server = pair.lab.processes[-1].pid
        before, client_before = stages(pair, server), children()
        done = benchmark.pedantic(iperf3, args=(pair, hooked), rounds=1)
        after, client_after = stages(pair, server), children()
    gigabytes = done["end"]["sum_received"]["bytes"] / 1e9
    used = {name: (after[name] - before[name]) / gigabytes for name in after}
    used["application, sender"] = (client_after - client_before) / gigabytes
    report.stages.append(("hooked" if hooked else "direct TCP", used))
    benchmark.extra_info["cpu_seconds_per_gb"] = used


def stages(pair: Pair, server: int) -> dict[str, float]:
    """Return the CPU seconds used so far, by stage."""
    found = {"application, receiver": process_cpu(server)}
    for side, engine in (("sender", pair.client), ("receiver", pair.server)):
        if engine:
            user, system = engine_cpu(engine.pid)
            found[f"engine, {side}, user"] = user
            found[f"engine, {side}, system"] = system
    fields = [int(x) / 100 for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    found["softirq, whole machine"] = fields[6]
    found["everything, whole machine"] = sum(fields[i] for i in (0, 1, 2, 5, 6))
    return found


def process_cpu(pid: int) -> float:
    """Return the CPU seconds of process *pid*."""
    return sum(engine_cpu(pid))


def engine_cpu(pid: int) -> tuple[float, float]:
    """Return user and system CPU seconds of process *pid*."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) / 100, int(fields[12]) / 100


def children() -> float:
    """Return the CPU seconds of this process's children that have ended."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[13]) + int(fields[14])) / 100
